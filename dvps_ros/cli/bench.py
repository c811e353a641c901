# SPDX-License-Identifier: Apache-2.0
"""``dvps bench``: what each stage and each engine costs on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.designs_bench import designs_command
from dvps_ros.cli.eval_bench import eval_command
from dvps_ros.cli.graph_bench import graph_command
from dvps_ros.cli.labels_bench import labels_command
from dvps_ros.cli.options import (
    ImageSize,
    SizeType,
    json_option,
    measurement,
    pipeline_config,
    pipeline_options,
)
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
    from dvps_ros.bench.facts import write_report
    from dvps_ros.bench.stages import engine_times, stage_times, table

    config = pipeline_config(model, backend, camera_height_m)
    report = measurement("times will be too long") | {"stages_ms": {}, "engines_ms": {}}
    for size in cameras:
        name = f"{size.width}x{size.height}"
        report["stages_ms"][name] = times = stage_times(config, size.width, size.height, frames)
        click.echo(f"\ncamera {name}, {times['engine_name']}\n{table(times)}")
    if engines:
        report["engines_ms"] = engine_times(model, config.engine.threads, frames, click.echo)
        for graph, times in report["engines_ms"].items():
            click.echo(f"\nengines at {graph}\n{table(times)}")
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
