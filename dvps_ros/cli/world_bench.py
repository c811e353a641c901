# SPDX-License-Identifier: Apache-2.0
"""``dvps bench world``: frames a second of the synthetic world, streamed and written."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dvps_ros.cli.options import ImageSize, json_option, measurement
from dvps_ros.cli.world import LAYOUT_NAMES, WORLD_SIZE


@click.command("world")
@click.option(
    "--size", type=WORLD_SIZE, default="512x1024", show_default=True, help="Image size, HEIGHTxWIDTH."
)
@click.option("--frames", type=click.IntRange(20), default=60, show_default=True, help="Frames timed.")
@json_option
def world_command(size: ImageSize, frames: int, json_path: Path | None) -> None:
    """Frames a second of the synthetic world: as an endless drive, and as dvps world writes it.

    Streamed: the demo scene with all truth, wall-clock time after the first frames. Written: seeds 0 and 1 as
    two sequences at a time, from their first frames to the last file, in a temporary folder.

    \b
    dvps bench world
    dvps bench world --size 320x640 --json world.json
    """
    from dvps_ros.bench.facts import write_report
    from dvps_ros.bench.world_rates import streamed_hz, written_hz

    cores = len(os.sched_getaffinity(0))
    report = measurement("rates will be too low") | {
        "size": str(size),
        "frames": frames,
        "streamed_fps": {},
        "written_fps": {},
    }
    click.echo(f"frames/s at {size}")
    for threads in dict.fromkeys((1, cores)):
        report["streamed_fps"][f"{threads} thread(s)"] = rate = streamed_hz(size, frames, threads)
        click.echo(f"  streamed, {threads} thread(s)  {rate:6.1f}")
    for layout in LAYOUT_NAMES:
        report["written_fps"][layout] = rate = written_hz(size, frames, layout, min(cores, 2))
        click.echo(f"  written as {layout:<17}{rate:6.1f}")
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"written to {json_path}")
