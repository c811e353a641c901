# SPDX-License-Identifier: Apache-2.0
"""``dvps bench topics``: what each output of the perception node costs: bytes, building, serialising."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import (
    ImageSize,
    given_camera,
    json_option,
    measurement,
    pipeline_config,
    played_options,
)


@click.command("topics")
@played_options(size="384x768")
@click.option("--frames", type=click.IntRange(5), default=20, show_default=True, help="Frames timed.")
@json_option
def topics_command(
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    fov_deg: float | None,
    camera_file: Path | None,
    input_spec: str,
    size: ImageSize,
    frames: int,
    json_path: Path | None,
) -> None:
    """What each output topic of the perception node costs.

    Building the message and serialising it, which is most of publishing it: medians in milliseconds of
    processor time, which other work on the machine disturbs less than the clock. What the middleware takes
    to carry the bytes to a listener is not in it: dvps bench graph --topics.

    \b
    dvps bench topics
    dvps bench topics --size 512x1024 --json topics.json
    """
    from dvps_ros.bench.facts import require, write_report
    from dvps_ros.bench.ros_graph import read_frames

    require("rclpy")
    from dvps_ros.bench.topics import WARM_UP, measure, table

    made = measurement()
    source, _ = read_frames(input_spec, size, given_camera(camera_file), fov_deg, frames + WARM_UP)
    config = pipeline_config(model, backend, camera_height_m, precision, str(size))
    report = made | {"frames": frames} | measure(config, source, input_spec)
    click.echo(f"{report['engine']}\n\n{table(report['topics'])}")
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"\nwritten to {json_path}")
