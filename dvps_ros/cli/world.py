# SPDX-License-Identifier: Apache-2.0
"""``dvps world``: render synthetic driving sequences with exact truth."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dvps_ros.cli.options import ImageSize, SizeType, out_option

LAYOUT_NAMES = ("cityscapes-dvps", "semkitti-dvps", "kitti-step", "mcap")
WORLD_SIZE = SizeType(16, 8192)


@click.command(
    epilog="Examples:  dvps world --seed 7 --frames 120 --size 512x1024 --out out/world   |   "
    "dvps world --layout kitti-step --size 375x1242 --sequences 4 --style residential   |   "
    "dvps world --layout mcap --seed 3 --images jpeg"
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first sequence."
)
@click.option(
    "--frames", type=click.IntRange(min=1), default=60, show_default=True, help="Frames a sequence."
)
@click.option("--sequences", type=click.IntRange(min=1), default=1, show_default=True, help="One seed each.")
@click.option(
    "--size", type=WORLD_SIZE, default="512x1024", show_default=True, help="Image size, HEIGHTxWIDTH."
)
@click.option(
    "--camera-height",
    "camera_height_m",
    type=click.FloatRange(0.0, 5.0),
    default=0.0,
    show_default=True,
    help="Of the camera over the road, metres; 0 draws it from the seed.",
)
@click.option(
    "--fov", "fov_deg", type=float, default=80.0, show_default=True, help="Horizontal view, degrees."
)
@click.option(
    "--rate", "rate_hz", type=click.FloatRange(0.1, 240), default=10.0, show_default=True, help="Hz."
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUT_NAMES),
    default="cityscapes-dvps",
    show_default=True,
    help="Names and encodings of the files; mcap: one ROS 2 bag a sequence, with the truth as topics.",
)
@out_option("out/world", "Folder for the sequences; those in it are kept, and not written over.")
@click.option("--split", default="val", show_default=True, help="Split that the sequences become (not mcap).")
@click.option(
    "--images",
    type=click.Choice(["raw", "jpeg", "png"]),
    default="raw",
    show_default=True,
    help="mcap: Image messages, or CompressedImage messages of this kind.",
)
@click.option(
    "--style", default="auto", show_default=True, help="auto, residential, city, avenue, highway, rural."
)
@click.option(
    "--weather",
    default="auto",
    show_default=True,
    help="auto, clear, haze, overcast, rain, fog, low_sun, dusk, night.",
)
@click.option(
    "--streets",
    type=click.Choice(["plain", "rich"]),
    default="plain",
    show_default=True,
    help="rich: more kinds of things on them, and more of each.",
)
@click.option("--textures", default="", metavar="FOLDER", help="Photographs of surfaces (docs/world.md).")
@click.option("--skies", default="", metavar="FOLDER", help="Panoramas of the sky (docs/world.md).")
@click.option("--clean", is_flag=True, help="No noise, blur or colour cast.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Sequences rendered at a time, each in a process.  [default: one a processor]",
)
def command(
    seed: int,
    frames: int,
    sequences: int,
    size: ImageSize,
    camera_height_m: float,
    fov_deg: float,
    rate_hz: float,
    layout: str,
    out: Path,
    split: str,
    images: str,
    style: str,
    weather: str,
    streets: str,
    textures: str,
    skies: str,
    clean: bool,
    jobs: int | None,
) -> None:
    """Render street scenes with the truth of every pixel: classes, ids, depth, flow, motion, poses, steering.

    The same options give the same files. What the layout has no place for lies in truth/ (docs/world.md).
    """
    import time

    from tqdm import tqdm

    from dvps_ros.bench.facts import require
    from dvps_ros.data.world import World, WorldConfig
    from dvps_ros.ros.world_sequences import Sequence, write_all
    from dvps_ros.types import CameraModel

    if layout == "mcap":
        require("rosbags")
    camera = CameraModel.from_fov(size.width, size.height, fov_deg)
    configs = [
        WorldConfig(
            seed=seed + k,
            style=style,
            weather=weather,
            camera_height_m=camera_height_m,
            effects=not clean,
            streets=streets,
            textures=textures,
            skies=skies,
        )
        for k in range(sequences)
    ]
    World(configs[0])  # a wrong style or weather is said before any process is started
    cores = len(os.sched_getaffinity(0))
    jobs = min(sequences, jobs or cores)
    threads = max(1, cores // jobs)
    todo = [Sequence(c, camera, frames, rate_hz, layout, out, split, images, threads) for c in configs]
    for sequence in todo:
        sequence.refuse_existing()
    start = time.monotonic()
    with tqdm(total=frames * sequences, unit="frame", desc="rendering") as bar:
        write_all(todo, jobs, bar.update)
    rate = frames * sequences / (time.monotonic() - start)
    click.echo(
        f"{sequences} sequence(s) of {frames} frames in {out} at {rate:.1f} frames/s, written as {layout}"
    )
