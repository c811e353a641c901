# SPDX-License-Identifier: Apache-2.0
"""``dvps demo``: the real ROS 2 graph on a scene whose truth is known, and a verdict on what it published."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import camera_options, given_camera, out_option, pipeline_options
from dvps_ros.errors import InputError


@click.command(
    epilog="Examples:  dvps demo   |   dvps demo --input drive.mp4 --fov 70   |   "
    "dvps demo --input bag.mcap --rate -1"
)
@click.option(
    "--input", "input_spec", default="demo", help="Video, image folder, bag, KITTI raw drive or world:SEED."
)
@out_option("out/demo", "Folder for the results.")
@click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=-1.0),
    default=0.0,
    show_default=True,
    help="Images a second; 0: each when the one before is done, with the times of the input, none dropped; "
    "-1: at the times of the input, as a camera would, where a slow machine drops some.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Play only so many frames.")
@pipeline_options
@camera_options
def command(
    input_spec: str,
    out: Path,
    rate_hz: float,
    max_frames: int | None,
    model: str,
    backend: str,
    camera_height_m: float,
    fov_deg: float | None,
    camera_file: Path | None,
) -> None:
    """Run the ROS 2 graph (player, perception node, recorder) on a rendered scene or on --input.

    Leaves a video, a labelled cloud, a table of tracks, the recorded bag, report.json and report.html.
    Ends with status 0 only if the thresholds are met: on the rendered scene those of the quality against its
    truth, on an input of yours only that its images were processed.
    """
    from dvps_ros.bench.clip_results import console_summary
    from dvps_ros.bench.demonstration import SCENE, VerdictFailed, Wanted, demonstrate, replacing
    from dvps_ros.bench.facts import require
    from dvps_ros.data.sources import open_source
    from dvps_ros.runtime.manifest import find_model, load_manifest

    if not (rate_hz == -1 or rate_hz >= 0):
        raise InputError(f"--rate: expected -1, 0 or images a second, got {rate_hz:g}")
    # What is missing is said at once, not after a scene is rendered and played.
    require("jinja2", "matplotlib", "rosbags", "rclpy")
    load_manifest(find_model(model))
    if input_spec == SCENE and (fov_deg is not None or camera_file is not None):
        raise InputError(
            "--fov and --camera are of an input of yours, and none is given; add --input (with make: INPUT=)"
        )
    source = open_source(input_spec, camera=given_camera(camera_file), fov_deg=fov_deg)
    out.mkdir(parents=True, exist_ok=True)
    wanted = Wanted(input_spec, rate_hz, max_frames, model, backend, camera_height_m, fov_deg, camera_file)
    with replacing(out):
        report, checks, note = demonstrate(source, wanted, out)
    click.echo(console_summary(report, out))
    failed = [str(check) for check in checks if not check.holds]
    if failed:
        raise VerdictFailed("missed: " + "; ".join(failed))
    click.echo(f"passed: {'; '.join(map(str, checks))}\n{note}")
