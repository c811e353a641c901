# SPDX-License-Identifier: Apache-2.0
"""``dvps data``: list, check and look at data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dvps_ros.cli.options import camera_options, given_camera
from dvps_ros.errors import ConfigError, InputError


@click.group()
def command() -> None:
    """List, check and look at data sets.

    \b
    dvps data list
    dvps data check cityscapes-dvps DATA/cityscapes-dvps --split train
    dvps data check bag drive.mcap
    dvps data show kitti-raw 2011_09_26/2011_09_26_drive_0005_sync --index 40 --out frame.png
    """


def _place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The data set, where it is, and how to read it."""
    for option in (
        camera_options,
        click.option("--split", default="val", show_default=True, help="Of data sets that have splits."),
        click.argument("place"),
        click.argument("dataset"),
    ):
        function = option(function)
    return function


def _reader(dataset: str) -> Any:
    from dvps_ros.data.readers import READERS

    if dataset not in READERS:
        raise ConfigError(f"data set: expected one of {', '.join(READERS)}, got {dataset}")
    return READERS[dataset]


@command.command("list")
def list_readers() -> None:
    """Name every data set that can be read, what its place must be, and what is known in it."""
    from dvps_ros.data.readers import READERS

    for name, reader in READERS.items():
        click.echo(f"{name:<18}{reader.holds}\n{'':<18}  known: {reader.truth}")


@command.command()
@_place_options
def check(dataset: str, place: str, split: str, fov_deg: float | None, camera_file: Path | None) -> None:
    """Look at every file; name each that is broken, missing or inconsistent; exit with 1 then."""
    from dvps_ros.data.readers import Reading

    how = Reading(split, 1, given_camera(camera_file), fov_deg)
    tell_problems(_reader(dataset).problems(place, how))


def tell_problems(problems: Any) -> None:
    """Print the sentences of an iterator that yields None after each frame.

    Raises:
        InputError: there was one, or not a single frame.
    """
    from tqdm import tqdm

    found = 0
    with tqdm(unit=" frames", desc="checking") as bar:
        for problem in problems:
            if problem is None:
                bar.update()
            else:
                found += 1
                tqdm.write(problem)
        frames = bar.n
    if found or not frames:
        raise InputError(f"{found} problem{'s' * (found != 1)} in {frames} frames")
    click.echo(f"{frames} frames are whole and consistent")


@command.command()
@_place_options
@click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="Which clip.")
@click.option("--frames", type=click.IntRange(1), default=1, show_default=True, help="Frames of a clip.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Picture to write, .png."
)
def show(
    dataset: str,
    place: str,
    split: str,
    fov_deg: float | None,
    camera_file: Path | None,
    index: int,
    frames: int,
    out: Path,
) -> None:
    """Draw one clip with all that is known about it: a row a frame."""
    from itertools import islice

    from dvps_ros.data.layout import write_png
    from dvps_ros.data.readers import Reading
    from dvps_ros.viz.sample import sample_picture

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out: expected a name that ends in .png, got {out}")
    how = Reading(split, frames, given_camera(camera_file), fov_deg)
    sample = next(islice(_reader(dataset).samples(place, how), index, None), None)
    if sample is None:
        raise InputError(f"{place}: holds no clip number {index} of {frames} frames")
    write_png(out, sample_picture(sample))
    click.echo(f"{sample.source}: {out}")
