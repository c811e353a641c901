# SPDX-License-Identifier: Apache-2.0
"""``dvps engine``: build, list, verify, profile and remove the engines of this machine."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dvps_ros.cli.options import calibration_options, given_camera, measurement, out_option
from dvps_ros.config import EngineConfig, options

if TYPE_CHECKING:
    from dvps_ros.runtime.builder import Builder
    from dvps_ros.runtime.plans import Record
    from dvps_ros.runtime.profile import EngineProfile, Peak

_OPTIONS = {o.key: o for o in options(EngineConfig) if o.key not in ("size", "verify", "resize_on_device")}


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of an engine, with the words and defaults of the configuration."""
    for option in reversed(_OPTIONS.values()):
        flag = f"--{option.key.replace('_', '-')}"
        kind = click.Choice(option.choices) if option.choices else option.type
        command = click.option(
            f"{flag}/--no-{flag[2:]}" if option.type is bool else flag,
            option.key,
            type=kind,
            default=option.default,
            show_default=option.default != "",
            help=option.description,
        )(command)
    return click.option(
        "--size", "sizes", multiple=True, metavar="HxW", help="Only this size; may be repeated. Default: all."
    )(command)


@click.group()
def command() -> None:
    """Build, list, verify, profile and remove the engines of this machine.

    \b
    dvps engine build                                  # what "auto" may choose here, all sizes
    dvps engine build --backend openvino --precision bf16 --size 384x768
    dvps engine build --backend tensorrt --precision fp16        # on a machine with an NVIDIA GPU
    dvps engine build --backend tensorrt_rtx --precision fp16 --target sm_89   # for one, on any machine
    dvps engine list
    dvps engine verify
    dvps engine profile --backend openvino --precision bf16 --size 384x768
    dvps engine clean                                  # what this machine cannot use any more
    """


@command.command()
@engine_options
@click.option("--force", is_flag=True, help="Build also what is there already.")
@calibration_options(
    "For int8 and fp8: a video, bag, drive or folder of images of the camera, as dvps run takes it.",
    frames=64,
)
def build(
    force: bool,
    calibration: str | None,
    frames: int,
    fov_deg: float | None,
    camera_file: Path | None,
    sizes: tuple[str, ...],
    **values: Any,
) -> None:
    """Build engines, prove each by the model's golden frames, and keep them for every later start."""
    from dvps_ros.data.sources import open_source, spaced
    from dvps_ros.errors import ConfigError, EngineError
    from dvps_ros.runtime.builder import CALIBRATED

    if calibration is not None and values["precision"] not in CALIBRATED:
        raise ConfigError(f"--calibration is for --precision {' or '.join(CALIBRATED)}")
    source = None
    if calibration is not None:
        source = open_source(calibration, camera=given_camera(camera_file), fov_deg=fov_deg)
    failed = 0
    for builder, config in _jobs(sizes, values):
        label = builder.label(config)
        with _Console() as progress:
            start = time.monotonic()
            try:
                if source is not None:
                    builder.calibrate(config, spaced(source, frames), frames, source.name, progress)
                there = not force and builder.kept(config) is not None
                if not there:
                    builder.store.remove(builder.store.plan_path(label, builder.made_of(config)))
                if config.target:
                    if not there:
                        builder.build(config, progress)
                    text = f"not verified here: it is for {config.target}; every start there verifies it"
                else:
                    text = _verify(config, progress)
            except EngineError as error:
                failed += 1
                progress.done(f"{label}: {error}")
                continue
        what = "was there" if there else f"built in {time.monotonic() - start:.1f} s"
        if not builder.is_kept(config):
            failed += 1
            what += ", but not kept (the warning says why)"
        progress.done(f"{label}: {what}\n{text}")
    if failed:
        raise click.exceptions.Exit(1)


@command.command(name="list")
def list_() -> None:
    """The engines that are kept, and whether this machine still uses them."""
    store = _store()
    records = store.records()
    for path, record in records.items():
        verified = record.notes.get("verified", {}).get("passed")
        verdict = {None: "not verified", True: "verified", False: "REFUSED"}[verified]
        if "quantised" in record.made_of:
            verdict = f"calibrated on {record.notes.get('frames')} frames of {record.notes.get('source')}"
        if "resize" in record.made_of:
            verdict = "proved at each load"
        state = _stale(record) or "current"
        size = f"{record.size / (1 << 20):.1f} MiB"
        click.echo(f"{record.label:<44}{size:>10}  {record.built}  {verdict}, {state}\n  {path}")
    for path in store.leftovers():
        click.echo(f"left over: {path}")
    click.echo(f"{len(records)} engines in {store.folder}")


@command.command()
@engine_options
def verify(sizes: tuple[str, ...], **values: Any) -> None:
    """Load engines (building what is missing) and compare their golden frames, value by value."""
    from dvps_ros.errors import EngineError

    failed = 0
    for builder, config in _jobs(sizes, values):
        with _Console() as progress:
            try:
                progress.done(f"{builder.label(config)}: passed\n{_verify(config, progress)}")
            except EngineError as error:
                failed += 1
                progress.done(f"{builder.label(config)}: REFUSED: {error}")
    if failed:
        raise click.exceptions.Exit(1)


LONGEST = 25
"""Layers that are printed; all are in the JSON."""
_PROFILE_ROW = "{:<44}{:<32}{:>9}{:>7}{:>10}{:>8}{:>8}{:>8}"


@command.command()
@engine_options
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Runs that are timed.")
@click.option("--peak-gflops", type=float, help="Peak of the machine, 1e9 operations/s; default: measured.")
@click.option("--peak-gbps", type=float, help="Peak of its memory, 1e9 bytes/s; default: measured.")
@out_option("out/profile", "Folder for a JSON and a PNG of each engine.")
def profile(
    runs: int,
    peak_gflops: float | None,
    peak_gbps: float | None,
    out: Path,
    sizes: tuple[str, ...],
    **values: Any,
) -> None:
    """Time every layer of engines, and place them under the machine's roofline."""
    from dvps_ros.bench.facts import write_report
    from dvps_ros.runtime import profile as profiling

    made = measurement("times and peaks will be wrong")
    out.mkdir(parents=True, exist_ok=True)
    for builder, config in _jobs(sizes, values):
        label = builder.label(config)
        peak = profiling.Peak((peak_gflops or 0) * 1e9, (peak_gbps or 0) * 1e9)
        if not (peak_gflops and peak_gbps):
            measured = profiling.measured_peak(config)
            peak = profiling.Peak(peak.flop_s or measured.flop_s, peak.bytes_s or measured.bytes_s)
        with _Console() as progress:
            found = profiling.profile_engine(builder, config, runs, progress)
        click.echo(f"{label}\n{_profile_table(found, peak)}")
        file = out / f"{label.replace(' ', '-')}.png"
        _draw_profile(file, label, found, peak)
        pairs = zip(found.layers, found.work, strict=True)
        report = made | {
            "engine": label,
            "latency_ms": found.latency_ms,
            "flop": found.cost.flop,
            "bytes": found.cost.bytes,
            "peak_flop_s": peak.flop_s,
            "peak_bytes_s": peak.bytes_s,
            "layers": [{**vars(layer), **vars(work.cost), "weights": work.weights} for layer, work in pairs],
        }
        write_report(file.with_suffix(".json"), report)
        click.echo(f"written to {file} and .json")


def _profile_table(found: EngineProfile, peak: Peak) -> str:
    """The longest layers, and the whole against the machine's peaks."""
    total_ms = sum(layer.ms for layer in found.layers)
    lines = [_PROFILE_ROW.format("layer", "kind", "ms", "share", "GFLOP/s", "of peak", "GB/s", "of peak")]
    for layer, work in zip(found.layers[:LONGEST], found.work, strict=False):
        cells = [
            (work.weights or layer.name)[-42:],
            layer.kind[:30],
            f"{layer.ms:.3f}",
            f"{layer.ms / total_ms:.1%}",
        ]
        for amount, top in ((work.cost.flop, peak.flop_s), (work.cost.bytes, peak.bytes_s)):
            rate = amount / layer.ms * 1e3 if layer.ms else 0.0
            cells += [f"{rate / 1e9:.1f}", f"{rate / top:.0%}"] if amount else ["", ""]
        lines.append(_PROFILE_ROW.format(*cells))
    flop_s, bytes_s = (amount / found.latency_ms * 1e3 for amount in (found.cost.flop, found.cost.bytes))
    roof = min(peak.flop_s, found.cost.flop / found.cost.bytes * peak.bytes_s)
    lines.append(
        f"{len(found.layers)} layers, {total_ms:.2f} ms; without profiling {found.latency_ms:.2f} ms"
    )
    lines.append(
        f"{flop_s / 1e9:.0f} of {peak.flop_s / 1e9:.0f} GFLOP/s ({flop_s / peak.flop_s:.0%}), "
        f"{bytes_s / 1e9:.1f} of {peak.bytes_s / 1e9:.1f} GB/s ({bytes_s / peak.bytes_s:.0%}), "
        f"{flop_s / roof:.0%} of the roof"
    )
    return "\n".join(lines)


def _draw_profile(file: Path, label: str, found: EngineProfile, peak: Peak) -> None:
    from dvps_ros.viz.roofline import draw_profile

    total_ms = sum(layer.ms for layer in found.layers)
    pairs = list(zip(found.layers, found.work, strict=True))
    bars = [(work.weights or layer.name, layer.ms) for layer, work in pairs]
    dots = [
        (work.cost.flop / work.cost.bytes, work.cost.flop / layer.ms * 1e3, layer.ms / total_ms)
        for layer, work in pairs
        if work.cost.flop and layer.ms
    ]
    whole = (found.cost.flop / found.cost.bytes, found.cost.flop / found.latency_ms * 1e3)
    draw_profile(file, label, bars, dots, whole, peak.flop_s, peak.bytes_s)


@command.command()
@click.option("--all", "everything", is_flag=True, help="Remove every engine, not only unusable ones.")
def clean(everything: bool) -> None:
    """Remove engines of another library version or device, and what killed processes left."""
    store = _store()
    gone = [p for p, r in store.records().items() if everything or _stale(r)]
    freed = sum(store.remove(path) for path in (*gone, *store.leftovers()))
    click.echo(f"{len(gone)} engines removed, {freed / (1 << 20):.1f} MiB freed")


def _store():
    from dvps_ros.runtime.engine import ENGINES
    from dvps_ros.runtime.machine import cache_dir
    from dvps_ros.runtime.plans import PlanStore

    return PlanStore(cache_dir() / ENGINES)


def _jobs(sizes: tuple[str, ...], values: dict[str, Any]) -> Iterator[tuple[Builder, EngineConfig]]:
    """Every engine that the options stand for, backend, precision, threads and size resolved.

    Raises:
        EngineError: no such model, size, backend or precision.
    """
    from dvps_ros.runtime import machine
    from dvps_ros.runtime.builder import Builder
    from dvps_ros.runtime.engine import candidates
    from dvps_ros.runtime.manifest import find_model, load_manifest

    config = EngineConfig(**values)
    model_dir = find_model(config.model)
    manifest = load_manifest(model_dir)
    graphs = [manifest.graph_of(s) for s in sizes] or manifest.graphs
    pairs = candidates(config, manifest)
    for graph in graphs:
        builder = Builder(model_dir, manifest, graph, _store())
        for backend, precision in pairs:
            yield (
                builder,
                replace(
                    config,
                    model=str(model_dir),
                    backend=backend,
                    precision=precision,
                    size=graph.size,
                    threads=config.threads or machine.cpu_count(),
                ),
            )


def _verify(config: EngineConfig, progress: _Console) -> str:
    """Open the engine, golden frames included; gives back their table."""
    from dvps_ros.runtime.engine import Engine
    from dvps_ros.runtime.verify import table

    with Engine.open(config.model, replace(config, verify=True), progress=progress) as engine:
        return table(engine.differences)


DEVICE_FACTS = ("processor", "gpu")
"""Facts of a plan that this machine must share; the others are options, of which each has its own plan."""


def _stale(record: Record) -> str:
    """Why this machine does not use a plan; empty if it does."""
    from dvps_ros.errors import EngineError
    from dvps_ros.runtime.backends import BACKENDS
    from dvps_ros.runtime.builder import RECIPE
    from dvps_ros.runtime.manifest import load_manifest

    made_of = record.made_of
    name = made_of.get("backend", "")
    if made_of.get("recipe") != RECIPE or (name not in BACKENDS and "quantised" not in made_of):
        return "stale: of another dvps_ros"
    try:
        here = _here(made_of) if name else {}
        manifest = load_manifest(record.notes.get("model", ""))
    except EngineError as error:
        return f"not usable: {error}"
    for key in ("version", *DEVICE_FACTS):
        if name and made_of.get(key) != here.get(key):
            return f"stale: of {key} {made_of.get(key)}, here is {here.get(key)}"
    if "resize" in made_of:
        return ""
    graphs = {(g.sha256, manifest.weights.sha256) for g in manifest.graphs}
    if (made_of["graph"], made_of["weights"]) not in graphs:
        return "stale: the model was exported again"
    return ""


def _here(made_of: dict[str, str]) -> dict[str, str]:
    """What such a plan would be made of on this machine."""
    from dvps_ros.runtime.backends import BACKENDS

    config = EngineConfig(
        backend=made_of["backend"],
        precision=made_of["precision"],
        threads=1,
        version_compatible="version_compatible=True" in made_of.get("options", ""),
        hardware_compatible="hardware_compatible=True" in made_of.get("options", ""),
    )
    kind = BACKENDS[config.backend]
    return {"version": kind.version(), **kind.facts(config)}


class _Console:
    """A :data:`~dvps_ros.runtime.backends.Progress` with the time so far, which ctrl-C cancels cleanly."""

    def __init__(self) -> None:
        self._start, self._last, self._shown = time.monotonic(), 0.0, 0
        self._cancelled = threading.Event()

    def __enter__(self) -> _Console:
        # Libraries call back from their own code, where an interrupt must not be raised.
        self._before = None
        with contextlib.suppress(ValueError):  # not the main thread
            self._before = signal.signal(signal.SIGINT, lambda *_: self._cancelled.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self._cancelled.is_set():
            raise click.Abort

    def __call__(self, what: str) -> None:
        if self._cancelled.is_set():
            raise click.Abort
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._last > 0.1:
            self._last = now
            self._show(f"{now - self._start:5.1f} s  {what}")

    def done(self, text: str) -> None:
        """Print the outcome in place of the progress."""
        self._show("")
        click.echo(text)

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            text = text[:100]
            sys.stderr.write("\r" + text.ljust(self._shown) + ("" if text else "\r"))
            sys.stderr.flush()
            self._shown = len(text)
