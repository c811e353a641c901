# SPDX-License-Identifier: Apache-2.0
"""``dvps bench topics``: what each output of the perception node costs: bytes, building, serialising."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from dvps_ros.cli.graph_bench import played_options, read_frames
from dvps_ros.cli.options import ImageSize, given_camera, json_option, pipeline_config
from dvps_ros.errors import InputError


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
    from dvps_ros.cli.results import measurement, require, write_report
    from dvps_ros.runtime.pipeline import DvpsPipeline

    require("rclpy")
    from dvps_ros.ros.costs import WARM_UP, topic_costs

    report = measurement()
    source, _ = read_frames(input_spec, size, given_camera(camera_file), fov_deg, frames + WARM_UP)
    if len(source) <= WARM_UP:
        raise InputError(f"{input_spec}: expected more than {WARM_UP} frames, got {len(source)}")
    config = pipeline_config(model, backend, camera_height_m, precision, str(size))
    with DvpsPipeline.open(config, source[0].camera) as pipeline:
        costs = topic_costs(map(pipeline.process, source), pipeline.label_space)
        engine = pipeline.engine.description
    report |= {"engine": engine, "frames": frames, "topics": costs}
    click.echo(f"{engine}\n\n{table(costs)}")
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"\nwritten to {json_path}")


def table(costs: Mapping[str, Mapping[str, float]]) -> str:
    """The costs as Markdown, with their sums."""
    sums = {name: sum(row[name] for row in costs.values()) for name in ("bytes", "build_ms", "serialise_ms")}
    lines = ["| topic | kB | build, ms | serialise, ms |", "|---|---|---|---|"]
    for topic, row in {**costs, "all": sums}.items():
        size, build_ms, serialise_ms = row["bytes"], row["build_ms"], row["serialise_ms"]
        lines.append(f"| {topic} | {size / 1e3:.1f} | {build_ms:.2f} | {serialise_ms:.2f} |")
    return "\n".join(lines)
