# SPDX-License-Identifier: Apache-2.0
"""``dvps bench world``: frames a second of the synthetic world, streamed and written."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path

import click

from dvps_ros.cli.options import ImageSize, json_option
from dvps_ros.cli.world import LAYOUT_NAMES, WORLD_SIZE, Sequence, write_all

WARM_UP = 10
"""Frames that are not timed: the street grows, numba compiles."""


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
    from dvps_ros.cli.results import measurement, write_report

    cores = len(os.sched_getaffinity(0))
    report = measurement("rates will be too low") | {
        "size": str(size),
        "frames": frames,
        "streamed_fps": {},
        "written_fps": {},
    }
    click.echo(f"frames/s at {size}")
    for threads in dict.fromkeys((1, cores)):
        report["streamed_fps"][f"{threads} thread(s)"] = rate = _streamed(size, frames, threads)
        click.echo(f"  streamed, {threads} thread(s)  {rate:6.1f}")
    for layout in LAYOUT_NAMES:
        report["written_fps"][layout] = rate = _written(size, frames, layout, min(cores, 2))
        click.echo(f"  written as {layout:<17}{rate:6.1f}")
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"written to {json_path}")


def _streamed(size: ImageSize, frames: int, threads: int) -> float:
    from dvps_ros.data.world import demo_world
    from dvps_ros.types import CameraModel

    drive = demo_world().frames(
        CameraModel.from_fov(size.width, size.height, 80.0), scene_flow=True, threads=threads
    )
    for _ in itertools.islice(drive, WARM_UP):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(drive, frames):
        pass
    return frames / (time.perf_counter() - start)


def _written(size: ImageSize, frames: int, layout: str, jobs: int) -> float:
    from dvps_ros.data.world import WorldConfig
    from dvps_ros.types import CameraModel

    camera = CameraModel.from_fov(size.width, size.height, 80.0)
    with tempfile.TemporaryDirectory() as folder:
        todo = [
            Sequence(WorldConfig(seed=k), camera, frames, 10.0, layout, Path(folder), "train", "raw")
            for k in range(2)
        ]
        written: list[tuple[float, int]] = []
        write_all(todo, jobs, lambda count: written.append((time.perf_counter(), count)))
        # Starting the processes is not counted, nor what they had written when they were first heard of.
        return sum(count for _, count in written[1:]) / (time.perf_counter() - written[0][0])
