# SPDX-License-Identifier: Apache-2.0
"""``dvps bench quality``: how good the deployed pipeline is on synthetic drives that no training saw."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import (
    ImageSize,
    engine_choice_options,
    image_size_option,
    json_option,
    measurement,
    pipeline_config,
    pipeline_options,
)


@click.command("quality")
@pipeline_options
@engine_choice_options
@click.option("--worlds", type=click.IntRange(1), default=8, show_default=True, help="Drives scored.")
@click.option(
    "--frames", type=click.IntRange(4), default=40, show_default=True, help="Frames of each, at 10 Hz."
)
@image_size_option("384x768", "Camera images, HEIGHTxWIDTH.")
@json_option
def quality_command(
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    network_size: str,
    worlds: int,
    frames: int,
    image_size: ImageSize,
    json_path: Path | None,
) -> None:
    """Panoptic, tracking and depth quality of the whole pipeline on unseen worlds through unseen cameras.

    Every drive has a street, weather, traffic and camera (45 to 105 degrees wide, its own height and tilt) of
    its own; all are scored together, as one data set of so many sequences.

    \b
    dvps bench quality                                  # lite
    dvps bench quality --model lite_research --json quality.json
    """
    from dvps_ros.bench.facts import write_report
    from dvps_ros.bench.held_out import score_drives, table

    made = measurement()
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    report = made | score_drives(config, worlds, frames, image_size)
    click.echo(table(report["quality"], worlds, frames))
    if json_path is not None:
        write_report(json_path, report)
