# SPDX-License-Identifier: Apache-2.0
"""``dvps doctor``: is everything here that is needed, and what to do where it is not."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvps_ros.errors import EngineError, sentence
from dvps_ros.installation import share_folders

if TYPE_CHECKING:
    from dvps_ros.runtime.backends import BackendType
    from dvps_ros.runtime.manifest import Manifest

MIB = 1 << 20
LIBRARIES = (
    "numpy", "scipy", "numba", "opencv-python-headless", "PyYAML", "click", "tqdm", "psutil", "simplejpeg",
)  # fmt: skip
SHARED_MEMORY_MIB = 256
"""Four processes with the segment of config/fastdds/large_messages.xml."""
NODE_MIB = 1200
"""Memory that the perception node takes at most (docs/benchmarks, 512x1024 in bf16)."""
LARGEST_DOMAIN = 232
"""The ports of DDS end there; above 101 they can collide with those that Linux gives to programs."""
RECEIVE_BUFFER = 4 * MIB
"""Of the kernel, for images from other machines."""
BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty where all is well; ``broken`` ends the command non-zero."""

    what: str
    remedy: str = ""
    broken: bool = False


@click.command()
@click.option("--model", help="Check only this model, a name under models/ or a folder; else all found.")
@click.option(
    "--listen",
    "listen_s",
    type=click.FloatRange(min=0.0, max=600.0),
    default=6.0,
    show_default=True,
    help="How long to look at the running ROS graph, seconds; 0 does not.",
)
def command(model: str | None, listen_s: float) -> None:
    """Check this machine, installation and the running ROS graph (ROS_DOMAIN_ID), and say what to do.

    Of the graph it tells the cameras (types, quality of service, rates, stamps), the states of this package's
    nodes, what they listen to, and what their /diagnostics say.

    Ends with status 1 only if something is broken that every use needs.

    \b
    dvps doctor
    dvps doctor --model my_models/lite_2
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_ros,
        check_middleware,
        lambda: check_graph(listen_s),
        check_machine,
        check_engines,
        lambda: check_models(model),
    )
    logging.getLogger("dvps_ros").setLevel(logging.ERROR)  # the findings say it
    broken = hints = 0
    for check in checks:
        for finding in check():
            broken += finding.broken
            hints += bool(finding.remedy) and not finding.broken
            mark = "BROKEN" if finding.broken else "note" if finding.remedy else "ok"
            click.echo(f"{mark:<7}{finding.what}")
            if finding.remedy:
                click.echo(f"{'':<7}-> {finding.remedy}")
    click.echo(f"{broken} broken, {hints} notes")
    if broken:
        raise click.exceptions.Exit(1)


def check_python() -> Iterator[Finding]:
    """The interpreter and the libraries that every part needs."""
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 10)
    yield Finding(f"Python {version}", "use Python 3.10 or newer" if old else "", old)
    found: list[str] = []
    missing: list[str] = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            # Distributions of Linux ship OpenCV under other names.
            (found if name.startswith("opencv") and _imports("cv2") else missing).append(name)
    yield Finding(f"libraries: {', '.join(found)}")
    if missing:
        yield Finding(f"libraries missing: {', '.join(missing)}", f"pip install {' '.join(missing)}", True)
    if "numba" not in missing:
        from dvps_ros import jit

        problem = jit.cache_problem()
        if problem:
            yield Finding(f"compiled code cannot be kept: {problem}", jit.ADVICE)


def check_ros() -> Iterator[Finding]:
    """rclpy and the messages of this package; in another process, as a broken one may end it."""
    distro = os.environ.get("ROS_DISTRO", "")
    if not _imports("rclpy"):
        remedy = "for the nodes: source a ROS 2, or pip install 'dvps_ros[ros]'; dvps run works without"
        yield Finding("no ROS 2 in this environment", remedy)
        return
    show = "from rclpy.utilities import get_rmw_implementation_identifier as name; print(name())"
    middleware = _python(show)
    yield Finding(f"ROS 2 {distro}".strip() + f" with {middleware or 'no middleware that loads'}")
    if not middleware:
        yield Finding(
            "rclpy cannot load a middleware", "install rmw_fastrtps_cpp, or set RMW_IMPLEMENTATION", True
        )
    # A missing type support shows only when the message is used.
    use = "from dvps_ros.msg import TrackedInstanceArray as M; from rclpy.serialization import *; "
    if _python(use + "print(len(serialize_message(M())))"):
        yield Finding("messages dvps_ros/msg are built")
    else:
        remedy = "build them: pip install . (wheels) or colcon build (ROS 2 workspace), then source it"
        yield Finding("messages dvps_ros/msg are not built for this ROS 2", remedy, True)


def check_middleware() -> Iterator[Finding]:
    """What large images need to arrive."""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or os.environ.get(
        "FASTRTPS_DEFAULT_PROFILES_FILE"
    )
    if middleware != "rmw_fastrtps_cpp":
        yield Finding(f"middleware {middleware}: check its own advice on large messages")
    elif not profile:
        shipped = _shipped_profile()
        yield Finding(
            "no Fast DDS profile is set: a camera driver started like this loses large best-effort images",
            f"where the driver starts: export FASTDDS_DEFAULT_PROFILES_FILE={shipped}",
        )
    elif not Path(profile).is_file():
        remedy = f"export FASTDDS_DEFAULT_PROFILES_FILE={_shipped_profile()}"
        yield Finding(f"the Fast DDS profile {profile} does not exist", remedy)
    else:
        yield Finding(f"Fast DDS profile {profile}")
    try:
        memory = shutil.disk_usage("/dev/shm")
    except OSError:
        yield Finding("no /dev/shm: messages go through UDP", "mount a tmpfs of 1 GiB on /dev/shm")
    else:
        size = f"/dev/shm has {memory.total // MIB} MiB, {memory.free // MIB} MiB of it free"
        small = memory.total < SHARED_MEMORY_MIB * MIB
        remedy = "in a container: docker run --shm-size=1g, or --ipc=host" if small else ""
        if not small and memory.free < SHARED_MEMORY_MIB * MIB:
            remedy = "remove what killed nodes left there: fastdds shm clean"
        yield Finding(size, remedy)
    try:
        buffer = int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return
    remedy = f"for images between machines: sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
    yield Finding(f"net.core.rmem_max is {buffer}", remedy if buffer < RECEIVE_BUFFER else "")


def check_graph(seconds: float) -> Iterator[Finding]:
    """The nodes and cameras that run now."""
    if not seconds or not _imports("rclpy"):
        return
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (domain.isdigit() and int(domain) <= LARGEST_DOMAIN):
        remedy = f"set ROS_DOMAIN_ID to a number from 0 to {LARGEST_DOMAIN}"
        yield Finding(f"graph: there is no ROS domain {domain!r}", remedy)
        return
    try:
        from dvps_ros.ros.probes.survey import Survey

        with Survey(domain=int(domain)) as survey:
            for seen in survey.look(seconds):
                yield Finding(f"graph: {seen.what}", seen.advice)
    except (ImportError, RuntimeError) as error:  # rclpy's own are RuntimeErrors
        yield Finding(f"graph: cannot be looked at: {sentence(error)}", "see the findings on ROS 2 above")


def check_machine() -> Iterator[Finding]:
    """Processor, memory and the folder that is kept between starts."""
    import psutil

    from dvps_ros.runtime.machine import cache_dir, cpu_count, cpu_info

    info = cpu_info()
    flags = info.get("flags", "").split()
    bf16 = " and ".join(name for flag, name in BF16_FLAGS.items() if flag in flags) or "none"
    cores = cpu_count()
    name = info.get("model name", "processor")
    remedy = "expect half the frame rate: two or more are meant" if cores < 2 else ""
    yield Finding(f"{name}, {cores} cores, bf16 in hardware: {bf16}", remedy)
    free = psutil.virtual_memory().available // MIB
    remedy = f"the node needs up to {NODE_MIB} MiB" if free < NODE_MIB else ""
    yield Finding(f"{free} MiB of memory are free", remedy)
    folder = cache_dir()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(existing, os.W_OK)
    remedy = "" if writable else "set XDG_CACHE_HOME to a folder that can be written; each start is slow"
    yield Finding(f"compiled models are kept in {folder}", remedy)


def check_engines() -> Iterator[Finding]:
    """The inference libraries."""
    from dvps_ros.config import EngineConfig
    from dvps_ros.runtime.backends import BACKENDS, installed

    found = installed()
    for name, backend in found.items():
        yield Finding(
            f"{name} {backend.version()}, computes in {' and '.join(backend.precisions(EngineConfig()))}"
        )
    for name in BACKENDS.keys() - found.keys():
        yield Finding(f"{name} cannot be used here", _remedy(BACKENDS[name]), not found)


def _remedy(kind: BackendType) -> str:
    """What a backend says that it lacks."""
    try:
        kind.version()
        kind.device()
    except EngineError as error:
        return str(error)
    raise AssertionError("it lacks nothing")


def check_models(only: str | None) -> Iterator[Finding]:
    """Files and golden frames of each model, on each engine."""
    from dvps_ros.runtime.manifest import find_model, list_models, load_manifest, model_kind, model_places
    from dvps_ros.runtime.steering import KIND

    if only is None:
        models = list(list_models(None).values())
        if not models:
            places = ", ".join(map(str, model_places()))
            yield Finding(f"no model in {places}", "write one there: dvps export", True)
    else:
        try:
            models = [find_model(only)]
        except EngineError as error:
            yield Finding(str(error), broken=True)
            return
    for folder in models:
        try:
            if model_kind(folder) == KIND:
                yield _check_head(folder)
                continue
            manifest = load_manifest(folder)
        except EngineError as error:
            yield Finding(str(error), "copy or export the model again", True)
            continue
        for graph in manifest.graphs:
            yield from _check_graph(folder, manifest, graph.size)


def _check_head(folder: Path) -> Finding:
    """A steering head and the perception model that it belongs to.

    Raises:
        EngineError: the head cannot be used.
    """
    from dvps_ros.config import SteeringConfig
    from dvps_ros.runtime.manifest import find_model, load_manifest
    from dvps_ros.runtime.steering import SteeringEngine

    engine = SteeringEngine.open(SteeringConfig(model=str(folder)))
    engine.close()
    made_for = engine.manifest.perception
    try:
        found = load_manifest(find_model(made_for.name)).weights.sha256
    except EngineError as error:
        return Finding(
            f"steering head {engine.manifest.name}: its perception model: {error}", "copy that model"
        )
    if found != made_for.weights_sha256:
        return Finding(
            f"steering head {engine.manifest.name} was trained on other weights of {made_for.name}",
            f"dvps train config/train/steering.yaml on {made_for.name}, then dvps export steering",
        )
    return Finding(f"steering head {engine.manifest.name}: golden window fits on {engine.description}")


def _check_graph(folder: Path, manifest: Manifest, size: str) -> Iterator[Finding]:
    """Broken only if no engine can run it: one that can is enough."""
    from dvps_ros.config import EngineConfig
    from dvps_ros.runtime.backends import installed
    from dvps_ros.runtime.engine import Engine

    remedy = "copy or export the model again, or use another engine"
    failed: list[str] = []
    passed: list[str] = []
    for backend, kind in installed().items():
        for precision in kind.choices(EngineConfig(), ranges=bool(manifest.ranges)):
            config = EngineConfig(size=size, backend=backend, precision=precision)
            try:
                Engine.open(folder, config).close()
            except EngineError as error:
                failed.append(f"model {manifest.name} {size} on {backend} {precision}: {error}")
            else:
                passed.append(f"{backend} {precision}")
    if passed:
        yield Finding(f"model {manifest.name} {size}: golden frames fit on {', '.join(passed)}")
    for what in failed:
        yield Finding(what, remedy, broken=not passed)


def _shipped_profile() -> Path:
    relative = Path("config") / "fastdds" / "large_messages.xml"
    places = share_folders()
    return next((p / relative for p in places if (p / relative).is_file()), places[-1] / relative)


def _imports(module: str) -> bool:
    return bool(_python(f"import {module}; print(1)"))


def _python(code: str) -> str:
    """What a fresh interpreter prints; empty if it fails."""
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
