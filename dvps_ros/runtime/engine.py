# SPDX-License-Identifier: Apache-2.0
"""A model folder opened on a backend: camera bytes in, network output out, memory kept between frames."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.contract import OPTIONAL_OUTPUTS, OUTPUTS, REQUIRED_OUTPUTS
from dvps_ros.errors import DeviceError, EngineError, InputError, ModelFileError
from dvps_ros.geometry.camera import Fit
from dvps_ros.labels import LabelSpace
from dvps_ros.runtime import machine, verify
from dvps_ros.runtime.backends import BACKENDS, Backend, Progress, installed
from dvps_ros.runtime.backends.protocol import CAMERA
from dvps_ros.runtime.builder import Builder, quiet
from dvps_ros.runtime.manifest import GraphFile, Manifest, find_model, load_manifest
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.types import CameraModel, NetworkOutput, check_array

log = logging.getLogger(__name__)
K = TypeVar("K")
Spec = tuple[np.dtype, tuple[int, ...]]

ENGINES = "engines"
"""Folder of the plans, in the cache."""
RETRY_S = 2.0
"""Between two attempts to load an engine whose device was lost."""
MEASURE_ROUNDS = 5
MEASURE_LIMIT_S = 2.0


class Runner(Protocol):
    """What the pipeline needs of an engine; see :class:`Engine`."""

    height: int
    width: int
    stride: int
    description: str
    camera_shape: tuple[int, int, int] | None

    @property
    def label_space(self) -> LabelSpace: ...

    @property
    def sky_class(self) -> int | None: ...

    def run(
        self, image: np.ndarray, intrinsics: np.ndarray, wanted: frozenset[str] | None = None
    ) -> NetworkOutput: ...

    def suits(self, camera: CameraModel, size: str) -> bool: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class Engine:
    """One graph of a model on one backend. Not thread-safe: one thread at a time.

    :meth:`run` returns views of two sets of buffers that swap: valid until the run after next.

    Attributes:
        differences: what the golden frames gave when the engine was loaded; empty where they did not run.
        kept: whether its plan lies in the cache, so that the next start need not build it.
        camera_shape: (H, W, 3) of the camera's images that the engine resizes itself; None where it does not.
    """

    def __init__(self, manifest: Manifest, graph: GraphFile, backend: Backend) -> None:
        self.manifest, self.graph = manifest, graph
        self.height, self.width = graph.height, graph.width
        self.stride = manifest.stride
        self.description = f"{manifest.name} {manifest.version} at {graph.size} on {backend.description}"
        self.differences: list[verify.Difference] = []
        self.kept = False
        self.camera_shape: tuple[int, int, int] | None = None
        _check_interface(manifest, graph, backend)
        self._backend: Backend | None = backend
        self._again: Callable[[], Backend] | None = None
        """Loads the backend once more, verified, after its device was lost."""
        self.output_names = frozenset(backend.outputs)
        self._maps = frozenset(n for n in backend.outputs if not n.startswith("next_"))
        self._fetched: Collection[str] = ()
        self._retry_at_s = 0.0
        self._results = [
            {name: np.zeros(shape, dtype) for name, (dtype, shape) in backend.outputs.items()}
            for _ in range(2)
        ]

    @classmethod
    def open(
        cls,
        model: str | Path,
        config: EngineConfig,
        *,
        camera_size: tuple[int, int] | None = None,
        cache_dir: Path | None = None,
        progress: Progress = quiet,
    ) -> Engine:
        """Load a model, prove its files and its values, and choose size, backend and precision.

        Args:
            model: a name or folder, see :func:`~dvps_ros.runtime.manifest.find_model`.
            camera_size: (width, height) that size "auto" fits; None takes the model's first graph.
            cache_dir: for engines and measured choices; by default machine.cache_dir().
            progress: told what is being done, often; may raise to stop it.

        Raises:
            EngineError: the model or the backend cannot be used, or the engine's values are wrong.
        """
        if config.target:
            raise EngineError(
                f"engine.target: {config.target} is for building; leave it empty where the engine runs"
            )
        model_dir = find_model(model)
        manifest = load_manifest(model_dir)
        graph = choose_graph(manifest, config.size, camera_size)
        engine = _Opener(
            model_dir, manifest, graph, config, cache_dir or machine.cache_dir(), progress, camera_size
        ).open()
        log.info("engine: %s; %s", engine.description, verify.summary(engine.differences))
        return engine

    def run(
        self, image: np.ndarray, intrinsics: np.ndarray, wanted: frozenset[str] | None = None
    ) -> NetworkOutput:
        """One frame.

        Args:
            image: uint8 [H,W,3] RGB at the network's size; or of :attr:`camera_shape`, resized here.
            intrinsics: float32 [4] fx, fy, cx, cy at the network's size.
            wanted: of ``output_names``, those to fetch beside the required ones; the others stay where the
                engine computes. By default all but the states.

        Returns:
            Views of buffers that hold through the next run; the one after it overwrites them.

        Raises:
            InputError: another shape or dtype, or intrinsics that are not finite; the memory is untouched.
            EngineError: the backend failed, or its device was lost; then the next run begins with a new
                engine and an empty memory.
        """
        resize = image.shape == self.camera_shape
        if not resize:
            check_array("network image", image, np.uint8, (self.height, self.width, 3))
        check_array("network intrinsics", intrinsics, np.float32, (4,))
        if not np.isfinite(intrinsics).all():
            raise InputError(f"network intrinsics: expected finite numbers, got {intrinsics.tolist()}")
        names: Collection[str] = (
            self._maps if wanted is None else (wanted | set(REQUIRED_OUTPUTS)) & self.output_names
        )
        self._results.reverse()
        now = self._results[0]
        feeds = {CAMERA if resize else "image": image, "intrinsics": intrinsics}
        feeds = {name: np.ascontiguousarray(array)[None] for name, array in feeds.items()}
        if self._backend is None:
            self._backend = self._load_again()
        try:
            self._backend.run(feeds, {name: now[name] for name in names})
        except DeviceError as error:
            self._backend.close()
            self._backend = None
            raise EngineError(
                f"{self.description}: {error}; the next frame begins with a new engine"
            ) from error
        self._fetched = names
        return NetworkOutput(**{n: now[n][0] for n in OUTPUTS if n in names})

    def _load_again(self) -> Backend:
        if self._again is None:
            raise EngineError(f"{self.description}: its device was lost; start the process again")
        wait_s = self._retry_at_s - time.monotonic()
        if wait_s > 0:
            raise EngineError(f"{self.description}: its device was lost; next attempt in {wait_s:.1f} s")
        self._retry_at_s = time.monotonic() + RETRY_S
        log.warning("%s: loading it again", self.description)
        return self._again()

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space

    @property
    def sky_class(self) -> int | None:
        """Class whose depth is +inf."""
        return self.manifest.sky_class

    def suits(self, camera: CameraModel, size: str) -> bool:
        """Whether images of this camera fill no other graph of the model better than the one that is open.

        Args:
            size: the option ``engine.size``.
        """
        best = choose_graph(self.manifest, size, (camera.width, camera.height))
        return best.size == self.graph.size

    def outputs(self) -> dict[str, np.ndarray]:
        """The outputs that the last run fetched, as the graph has them, leading axes included."""
        return {name: self._results[0][name] for name in self._fetched}

    def reset(self) -> None:
        """Forget the past: the next frame has no previous one."""
        if self._backend is not None:
            self._backend.reset()

    def release(self) -> Backend:
        """Hand the backend over; this object is closed."""
        assert self._backend is not None, "the engine is closed"
        backend, self._backend, self._again = self._backend, None, None
        return backend

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._again = self._backend = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_all(config: EngineConfig, *, cache_dir: Path | None = None, progress: Progress = quiet) -> Engine:
    """Open the engine of every size (or of the one that is given) once, so that later starts find them built.

    Returns:
        The last one.

    Raises:
        EngineError: see :meth:`Engine.open`; or one could not be kept.
    """
    manifest = load_manifest(find_model(config.model))
    sizes = [g.size for g in manifest.graphs] if config.size == "auto" else [config.size]
    for size in sizes:
        one = replace(config, size=size)
        engine = Engine.open(config.model, one, cache_dir=cache_dir, progress=progress)
        if not engine.kept:
            engine.close()
            raise EngineError(f"{engine.description} works but was not kept; the warning before says why")
        if size != sizes[-1]:
            engine.close()
    return engine


def choose_graph(manifest: Manifest, size: str, camera_size: tuple[int, int] | None) -> GraphFile:
    """The graph of a size ``HxW``, or for "auto" the one whose input a camera image fills best.

    Of graphs that fit equally well the one that the manifest lists first wins.

    Raises:
        EngineError: the model ships no such size.
    """
    if size != "auto":
        return manifest.graph_of(size)
    if camera_size is None:
        return manifest.graphs[0]
    camera_aspect = camera_size[0] / camera_size[1]

    def filled(graph: GraphFile) -> float:
        aspects = camera_aspect, graph.width / graph.height
        return min(aspects) / max(aspects)

    return max(manifest.graphs, key=filled)


def _check_interface(manifest: Manifest, graph: GraphFile, backend: Backend) -> None:
    """Refuse a graph whose tensors are not those that contract and manifest promise."""
    u8, f32 = np.dtype(np.uint8), np.dtype(np.float32)
    state: dict[str, Spec] = {s.name: (f32, s.sizes(graph.height, graph.width)) for s in manifest.state}
    inputs: dict[str, Spec] = {
        "image": (u8, (1, graph.height, graph.width, 3)),
        "intrinsics": (f32, (1, 4)),
        **state,
    }
    letters = manifest.letters(graph)
    outputs: dict[str, Spec] = {
        **{o.name: (np.dtype(o.dtype), o.sizes(letters)) for o in OUTPUTS.values()},
        **{f"next_{name}": spec for name, spec in state.items()},
    }
    absent = {n for n in OPTIONAL_OUTPUTS if n not in backend.outputs}
    for kind, expected, found in (
        ("input", inputs, backend.inputs),
        ("output", {n: spec for n, spec in outputs.items() if n not in absent}, backend.outputs),
    ):
        for name in sorted(expected.keys() | found.keys()):
            want, got = expected.get(name), found.get(name)
            if want != got:
                raise EngineError(
                    f"{graph.file}, {kind} {name}: the manifest promises {_spec(want)}, the graph has "
                    f"{_spec(got)}; graph and manifest are not of one export"
                )


def _spec(spec: Spec | None) -> str:
    return "nothing" if spec is None else f"{spec[0]} {list(spec[1])}"


def candidates(config: EngineConfig, manifest: Manifest) -> list[tuple[str, str]]:
    """(backend, precision) pairs that the configuration allows and this machine has for a model.

    Raises:
        EngineError: there is none; says what is missing.
    """
    if config.target and config.backend != "tensorrt_rtx":
        raise EngineError(
            f"engine.target: only tensorrt_rtx builds for another GPU, not {config.backend}; "
            "name --backend tensorrt_rtx, or build on the GPU itself"
        )
    if config.backend == "auto":
        backends = installed()
        if not any(backend.choices(config) for backend in backends.values()):
            raise EngineError("no inference engine is installed; pip install onnxruntime or openvino")
    else:
        backends = {config.backend: BACKENDS[config.backend]}
        backends[config.backend].version()
    if config.precision == "auto":
        ranges = bool(manifest.ranges)
        fits = [(name, p) for name, b in backends.items() for p in b.choices(config, ranges=ranges)]
        if not fits and config.backend != "auto":  # one that "auto" never takes
            fits = [(config.backend, backends[config.backend].precisions(config)[0])]
    else:
        have = [(name, p) for name, backend in backends.items() for p in backend.precisions(config)]
        fits = [pair for pair in have if pair[1] == config.precision]
        if not fits:
            there = ", ".join(f"{name} {precision}" for name, precision in have)
            raise EngineError(
                f"no engine computes in {config.precision} here; take one of {there}, or precision auto"
            )
    return fits


class _Opener:
    """Chooses backend and precision, and lets no engine out whose golden frames fail."""

    def __init__(
        self,
        model_dir: Path,
        manifest: Manifest,
        graph: GraphFile,
        config: EngineConfig,
        cache_dir: Path,
        progress: Progress,
        camera_size: tuple[int, int] | None,
    ) -> None:
        self.config, self.progress = config, progress
        self.fit = None
        if config.resize_on_device and camera_size is not None:
            self.fit = Fit.letterbox(*camera_size, graph.width, graph.height)
        self.builder = Builder(model_dir, manifest, graph, PlanStore(cache_dir / ENGINES))
        self.golden = verify.load_golden(model_dir / graph.golden)
        self.manifest, self.graph = manifest, graph
        self.threads = config.threads or machine.cpu_count()
        self.memory = cache_dir / "engine_choices.json"

    def open(self) -> Engine:
        pairs = candidates(self.config, self.manifest)
        if len(pairs) == 1:
            return self._load(*pairs[0])
        choices = _read_choices(self.memory)
        key = self._key(pairs)
        remembered = choices.get(key, {})
        choice = (remembered.get("backend"), remembered.get("precision"))
        if choice in pairs:
            try:
                return self._load(*choice)
            except EngineError as error:
                log.warning("the remembered engine %s %s cannot be used, measuring again: %s", *choice, error)
        engine, choices[key] = self._measure(pairs)
        machine.keep(self.memory, (json.dumps(choices, indent=1) + "\n").encode())
        return engine

    def _key(self, pairs: list[tuple[str, str]]) -> str:
        kinds = [(name, BACKENDS[name], p) for name, p in pairs]
        versions = ", ".join(f"{name} {kind.version()} {p} on {kind.device()}" for name, kind, p in kinds)
        where = f"cpu {machine.cpu_fingerprint()}, {self.threads} threads"
        files = f"{self.graph.sha256[:16]}-{self.manifest.weights.sha256[:16]}"
        return f"{self.manifest.name} {self.graph.size} {files}; {where}; {versions}"

    def _load(self, backend: str, precision: str) -> Engine:
        config = replace(self.config, backend=backend, precision=precision, threads=self.threads)
        engine = self._verified(config)
        engine._again = lambda: self._verified(config).release()
        return engine

    def _verified(self, config: EngineConfig) -> Engine:
        opened = self.builder.open(config, self.progress)
        try:
            engine = Engine(self.manifest, self.graph, opened)
            engine.kept = self.builder.is_kept(config)
            if self.config.verify:
                self.progress("verifying")
                try:
                    arithmetic = BACKENDS[config.backend].arithmetic(config.precision)
                    engine.differences = verify.check(engine, self.golden, arithmetic)
                except verify.WrongValues as error:
                    self.builder.note(config, passed=False, differences=error.differences)
                    raise
                self.builder.note(config, passed=True, differences=engine.differences)
            if self.fit is not None:
                self._put_resize_before(engine, opened, config, self.fit)
        except BaseException:
            opened.close()
            raise
        return engine

    def _put_resize_before(self, engine: Engine, opened: Backend, config: EngineConfig, fit: Fit) -> None:
        plan = self.builder.resizer(config, fit, self.progress)
        put_before = BACKENDS[config.backend].put_before
        assert put_before is not None, "the builder refuses such backends"
        put_before(opened, plan, self.builder.path, replace(config, precision="fp32"))
        engine.camera_shape = (fit.camera_height, fit.camera_width, 3)

    def _measure(self, pairs: list[tuple[str, str]]) -> tuple[Engine, dict]:
        """The fastest of the engines that load and verify, timed in turns on the golden frame."""
        engines: dict[tuple[str, str], Engine] = {}
        refused: list[EngineError] = []
        for backend, precision in pairs:
            self.progress(f"trying {backend} {precision}")
            try:
                engines[backend, precision] = self._load(backend, precision)
            except ModelFileError:  # of which no backend makes anything better
                for engine in engines.values():
                    engine.close()
                raise
            except EngineError as error:
                log.warning("engine %s %s is left out: %s", backend, precision, error)
                refused.append(error)
        if not engines:
            raise refused[0]
        times_ms = times_in_turns(engines, self.golden, rounds=MEASURE_ROUNDS, limit_s=MEASURE_LIMIT_S)
        median_ms = {choice: statistics.median(times) for choice, times in times_ms.items()}
        best = min(engines, key=median_ms.__getitem__)
        for choice, engine in engines.items():
            if choice != best:
                engine.close()
        engines[best].reset()
        shown = {f"{name} {precision}": round(ms, 2) for (name, precision), ms in median_ms.items()}
        log.info("engines measured: %s", ", ".join(f"{name} {ms} ms" for name, ms in shown.items()))
        return engines[best], {"backend": best[0], "precision": best[1], "median_ms": shown}


def times_in_turns(
    engines: Mapping[K, Engine], golden: verify.Golden, *, rounds: int, limit_s: float
) -> dict[K, list[float]]:
    """Milliseconds of each run of each engine on the golden frame.

    They run in turns, so that other load hits all alike; a first round, which warms up, does not count.

    Args:
        limit_s: no further round (after one) begins later than this.
    """
    times_ms: dict[K, list[float]] = {key: [] for key in engines}
    deadline = time.perf_counter() + limit_s
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() > deadline:
            break
        for key, engine in engines.items():
            start = time.perf_counter()
            engine.run(golden.images[1], golden.intrinsics)
            if turn > 0:
                times_ms[key].append((time.perf_counter() - start) * 1e3)
    return times_ms


def _read_choices(path: Path) -> dict[str, dict]:
    try:
        choices = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("cannot read remembered engines %s, measuring again: %s", path, error)
        return {}
    if not isinstance(choices, dict) or not all(isinstance(v, dict) for v in choices.values()):
        log.warning("remembered engines %s is not what this package writes, measuring again", path)
        return {}
    return choices
