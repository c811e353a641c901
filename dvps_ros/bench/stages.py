# SPDX-License-Identifier: Apache-2.0
"""What each stage of a frame and each engine costs on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from dvps_ros.bench.moving import moving_frames
from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import installed
from dvps_ros.runtime.engine import Engine, times_in_turns
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.runtime.verify import load_golden
from dvps_ros.types import CameraModel

WARM_UP = 5
"""Frames that are not counted."""


def stage_times(config: PipelineConfig, width: int, height: int, frames: int) -> dict[str, Any]:
    """``engine_name``, and the :func:`_spread` of each stage's milliseconds, "host" and "total" at the end.

    Args:
        width, height: of the camera.
    """
    camera = CameraModel.from_fov(width, height, 80.0)
    times: dict[str, list[float]] = {}
    with DvpsPipeline.open(config, camera) as pipeline:
        pictures = moving_frames(pipeline, config, camera)
        for i in tqdm(range(frames + WARM_UP), desc=f"{width}x{height}", leave=False):
            stages = pipeline.process(next(pictures)).stages_ms
            total = sum(stages.values())
            if i >= WARM_UP:
                for name, ms in {**stages, "host": total - stages["engine"], "total": total}.items():
                    times.setdefault(name, []).append(ms)
        description = pipeline.engine.description
    return {"engine_name": description, **{name: _spread(values) for name, values in times.items()}}


def engine_times(
    model: str, threads: int, rounds: int, tell: Callable[[str], object]
) -> dict[str, dict[str, Any]]:
    """:func:`_spread` of each run's milliseconds, by graph size and engine.

    Args:
        tell: takes a sentence on each engine that cannot be used.
    """
    model_dir = find_model(model)
    manifest, results = load_manifest(model_dir), {}
    for graph in manifest.graphs:
        opened: dict[str, Engine] = {}
        try:
            for name, kind in installed().items():
                for precision in kind.choices(EngineConfig(), ranges=bool(manifest.ranges)):
                    config = EngineConfig(size=graph.size, backend=name, precision=precision, threads=threads)
                    try:
                        opened[f"{name} {precision}"] = Engine.open(model_dir, config)
                    except EngineError as error:
                        tell(f"{name} {precision} at {graph.size} is left out: {error}")
            golden = load_golden(model_dir / graph.golden)
            times = times_in_turns(opened, golden, rounds=rounds, limit_s=30.0)
            results[graph.size] = {name: _spread(values) for name, values in times.items()}
        finally:
            for engine in opened.values():
                engine.close()
    return results


def _spread(times_ms: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times_ms, n=4) if len(times_ms) > 1 else times_ms * 3
    return {"median": median, "quartile_1": low, "quartile_3": high, "max": max(times_ms)}


def table(spreads: dict[str, Any]) -> str:
    """The spreads as lines of text."""
    lines = [f"  {'':<20}{'median':>9}{'quartiles':>18}{'max':>9}  ms"]
    for name, s in spreads.items():
        if isinstance(s, dict):
            quartiles = f"{s['quartile_1']:.2f} - {s['quartile_3']:.2f}"
            lines.append(f"  {name:<20}{s['median']:>9.2f}{quartiles:>18}{s['max']:>9.2f}")
    return "\n".join(lines)
