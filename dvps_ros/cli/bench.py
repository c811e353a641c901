# SPDX-License-Identifier: Apache-2.0
"""``dvps bench``: what each stage and each engine costs on this machine."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

from dvps_ros.cli.designs_bench import designs_command
from dvps_ros.cli.eval_bench import eval_command
from dvps_ros.cli.graph_bench import graph_command
from dvps_ros.cli.labels_bench import labels_command
from dvps_ros.cli.options import ImageSize, SizeType, json_option, pipeline_config, pipeline_options
from dvps_ros.cli.peers_bench import peers_command
from dvps_ros.cli.quality_bench import quality_command
from dvps_ros.cli.topics_bench import topics_command
from dvps_ros.cli.world_bench import world_command


@click.group(invoke_without_command=True)
@click.pass_context
@pipeline_options
@click.option(
    "--camera",
    "cameras",
    type=SizeType(high=99_999, width_first=True),
    metavar="WIDTHXHEIGHT",
    multiple=True,
    default=("1242x375", "2048x1024"),
    show_default=True,
    help="Camera image size; may be given several times.",
)
@click.option("--frames", type=click.IntRange(5), default=60, show_default=True, help="Frames timed.")
@click.option("--engines/--no-engines", default=True, help="Compare all installed engines as well.")
@json_option
def command(
    ctx: click.Context,
    model: str,
    backend: str,
    camera_height_m: float,
    cameras: tuple[ImageSize, ...],
    frames: int,
    engines: bool,
    json_path: Path | None,
) -> None:
    """Measure stages and engines on this machine.

    The picture is the model's golden frame, moving sideways; the first frames are not counted. "host" is
    everything of a frame but the engine. On one processor: taskset -c 0 dvps bench

    \b
    dvps bench
    dvps bench --camera 640x480 --camera 1920x1080 --json bench.json
    dvps bench --model lite --backend openvino --no-engines
    dvps bench designs lite
    dvps bench eval
    dvps bench peers
    dvps bench graph
    dvps bench topics
    dvps bench world
    dvps bench quality
    """
    if ctx.invoked_subcommand is not None:
        return
    from dvps_ros.cli.results import measurement, write_report

    config = pipeline_config(model, backend, camera_height_m)
    report = measurement("times will be too long") | {"stages_ms": {}, "engines_ms": {}}
    for size in cameras:
        name = f"{size.width}x{size.height}"
        description, times = _stages(config, size, frames)
        report["stages_ms"][name] = {"engine_name": description, **{k: _spread(v) for k, v in times.items()}}
        click.echo(f"\ncamera {name}, {description}\n{_table(report['stages_ms'][name])}")
    if engines:
        for graph, times in _engines(model, config.engine.threads, frames).items():
            report["engines_ms"][graph] = {k: _spread(v) for k, v in times.items()}
            click.echo(f"\nengines at {graph}\n{_table(report['engines_ms'][graph])}")
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"\nwritten to {json_path}")


command.add_command(designs_command)
command.add_command(eval_command)
command.add_command(peers_command)
command.add_command(graph_command)
command.add_command(topics_command)
command.add_command(world_command)
command.add_command(quality_command)
command.add_command(labels_command)


def _spread(times_ms: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times_ms, n=4) if len(times_ms) > 1 else times_ms * 3
    return {"median": median, "quartile_1": low, "quartile_3": high, "max": max(times_ms)}


def _table(spreads: dict[str, Any]) -> str:
    lines = [f"  {'':<20}{'median':>9}{'quartiles':>18}{'max':>9}  ms"]
    for name, s in spreads.items():
        if isinstance(s, dict):
            quartiles = f"{s['quartile_1']:.2f} - {s['quartile_3']:.2f}"
            lines.append(f"  {name:<20}{s['median']:>9.2f}{quartiles:>18}{s['max']:>9.2f}")
    return "\n".join(lines)


def _stages(config: Any, size: ImageSize, frames: int) -> tuple[str, dict[str, list[float]]]:
    """Engine description and the milliseconds of each stage of each frame, "host" and "total" at the end."""
    from tqdm import tqdm

    from dvps_ros.cli.moving import moving_frames
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.types import CameraModel

    camera = CameraModel.from_fov(size.width, size.height, 80.0)
    times: dict[str, list[float]] = {}
    with DvpsPipeline.open(config, camera) as pipeline:
        pictures = moving_frames(pipeline, config, camera)
        warm_up = 5
        for i in tqdm(range(frames + warm_up), desc=f"{size.width}x{size.height}", leave=False):
            stages = pipeline.process(next(pictures)).stages_ms
            total = sum(stages.values())
            if i >= warm_up:
                for name, ms in {**stages, "host": total - stages["engine"], "total": total}.items():
                    times.setdefault(name, []).append(ms)
        return pipeline.engine.description, times


def _engines(model: str, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each run, by graph size and engine; what cannot be used is told and left out."""
    from dvps_ros.config import EngineConfig
    from dvps_ros.errors import EngineError
    from dvps_ros.runtime.backends import installed
    from dvps_ros.runtime.engine import Engine, times_in_turns
    from dvps_ros.runtime.manifest import find_model, load_manifest
    from dvps_ros.runtime.verify import load_golden

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
                        click.echo(f"{name} {precision} at {graph.size} is left out: {error}")
            golden = load_golden(model_dir / graph.golden)
            results[graph.size] = times_in_turns(opened, golden, rounds=rounds, limit_s=30.0)
        finally:
            for engine in opened.values():
                engine.close()
    return results
