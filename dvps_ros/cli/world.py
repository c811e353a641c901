# SPDX-License-Identifier: Apache-2.0
"""``dvps world``: render synthetic driving sequences with exact truth."""

from __future__ import annotations

from pathlib import Path

import click


def _size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    height, x, width = value.lower().partition("x")
    if not x or not height.isdigit() or not width.isdigit() or not int(height) or not int(width):
        raise click.BadParameter(f"expected HEIGHTxWIDTH such as 512x1024, got {value}")
    return int(height), int(width)


@click.command(
    epilog="Examples:  dvps world --seed 7 --frames 120 --size 512x1024 --out out/world   |   "
    "dvps world --layout kitti-step --size 375x1242 --sequences 4 --style residential"
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first sequence."
)
@click.option(
    "--frames", type=click.IntRange(min=1), default=60, show_default=True, help="Frames a sequence."
)
@click.option("--sequences", type=click.IntRange(min=1), default=1, show_default=True, help="One seed each.")
@click.option(
    "--size", callback=_size, default="512x1024", show_default=True, help="Image size, HEIGHTxWIDTH."
)
@click.option(
    "--fov", "fov_deg", type=float, default=80.0, show_default=True, help="Horizontal view, degrees."
)
@click.option(
    "--rate", "rate_hz", type=click.FloatRange(0.1, 240), default=10.0, show_default=True, help="Hz."
)
@click.option(
    "--layout",
    type=click.Choice(["cityscapes-dvps", "semkitti-dvps", "kitti-step"]),
    default="cityscapes-dvps",
    show_default=True,
    help="Names and encodings of the files.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/world"),
    show_default=True,
    help="Folder for the sequences.",
)
@click.option("--split", default="train", show_default=True, help="Split that the sequences become.")
@click.option(
    "--style", default="auto", show_default=True, help="auto, residential, city, avenue, highway, rural."
)
@click.option(
    "--weather", default="auto", show_default=True, help="auto, clear, haze, overcast, rain, fog, ..."
)
@click.option("--clean", is_flag=True, help="No noise, blur or colour cast.")
def command(
    seed: int,
    frames: int,
    sequences: int,
    size: tuple[int, int],
    fov_deg: float,
    rate_hz: float,
    layout: str,
    out: Path,
    split: str,
    style: str,
    weather: str,
    clean: bool,
) -> None:
    """Render street scenes with the truth of every pixel: classes, ids, depth, flow, motion, poses, steering.

    The same options give the same files. What the layout has no place for lies in truth/ (docs/world.md).
    """
    import itertools
    import time

    from tqdm import tqdm

    from dvps_ros.data.layouts import LAYOUTS
    from dvps_ros.data.world import World, WorldConfig
    from dvps_ros.data.world.files import write_sequence
    from dvps_ros.types import CameraModel

    camera = CameraModel.from_fov(size[1], size[0], fov_deg)
    worlds = [
        World(WorldConfig(seed=seed + k, style=style, weather=weather, effects=not clean))
        for k in range(sequences)
    ]
    start = time.monotonic()
    with tqdm(total=frames * sequences, unit="frame", desc="rendering") as bar:
        for k, world in enumerate(worlds):
            drive = itertools.islice(world.frames(camera, rate_hz=rate_hz, scene_flow=True), frames)

            def shown(drive=drive):
                for sample in drive:
                    yield sample
                    bar.update()

            write_sequence(
                shown(),
                LAYOUTS[layout],
                out,
                split=split,
                sequence=f"{seed + k:06d}",
                rate_hz=rate_hz,
                base_from_camera=world.base_from_camera,
            )
    rate = frames * sequences / (time.monotonic() - start)
    click.echo(
        f"{sequences} sequence(s) of {frames} frames in {out} at {rate:.1f} frames/s, written as {layout}"
    )
