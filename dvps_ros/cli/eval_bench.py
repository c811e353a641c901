# SPDX-License-Identifier: Apache-2.0
"""``dvps bench eval``: time and memory of scoring, on generated frames of full size."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import json_option, measurement

LEAST_FRAMES = 6
"""One sequence, as in Cityscapes-DVPS."""


@click.command("eval")
@click.option("--frames", type=click.IntRange(LEAST_FRAMES), default=300, show_default=True)
@click.option("--height", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--width", type=click.IntRange(128), default=2048, show_default=True)
@click.option("--metrics", default="DVPQ", show_default=True, help="As dvps eval takes them, or all.")
@click.option("--jobs", type=click.IntRange(1), help="Processes to work in  [default: one a core]")
@json_option
def eval_command(
    frames: int, height: int, width: int, metrics: str, jobs: int | None, json_path: Path | None
) -> None:
    """Time and memory of dvps eval on files in the layout of Cityscapes-DVPS.

    Truth and prediction are made first, in a temporary folder. Timed is all of the rest: starting the
    processes, reading the files, counting, the table over k and lambda.

    \b
    dvps bench eval                                   # 300 frames of 1024x2048, the DVPQ table
    dvps bench eval --frames 60 --metrics all
    """
    from dvps_ros.bench.facts import write_report
    from dvps_ros.bench.scoring_costs import scoring_costs
    from dvps_ros.metrics.evaluation import METRICS

    wanted = METRICS if metrics == "all" else tuple(metrics.split(","))
    report = measurement() | scoring_costs(frames, height, width, wanted, jobs)
    seconds, memory_mib = report["seconds"], report["memory_mib"]
    click.echo(
        f"{frames} frames of {height}x{width}, {', '.join(wanted)}: {seconds:.1f} s, "
        f"{1000 * seconds / frames:.0f} ms a frame\n"
        f"memory of all processes: {memory_mib['after_a_quarter']:.0f} MiB after a quarter of the frames, "
        f"{memory_mib['at_the_end']:.0f} MiB at the end"
    )
    if json_path is not None:
        write_report(json_path, report)
