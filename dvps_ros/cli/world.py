# SPDX-License-Identifier: Apache-2.0
"""``dvps world``: render synthetic driving sequences with exact truth."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dvps_ros.cli.options import ImageSize, SizeType, out_option

LAYOUT_NAMES = ("cityscapes-dvps", "semkitti-dvps", "kitti-step", "mcap")
WORLD_SIZE = SizeType(16, 8192)
AHEAD = 2
"""Frames that are rendered while an earlier one is still being written."""


@dataclass(frozen=True)
class Sequence:
    """One drive to render, with all that a worker process needs to know."""

    world: Any
    """WorldConfig."""
    camera: Any
    """CameraModel."""
    frames: int
    rate_hz: float
    layout: str
    out: Path
    split: str
    images: str
    threads: int = 1

    def refuse_existing(self) -> None:
        """Before anything is rendered.

        Raises:
            ConfigError: it is there already.
        """
        from dvps_ros.data.world.files import truth_folder
        from dvps_ros.errors import ConfigError

        place = (
            self.out / self.name if self.layout == "mcap" else truth_folder(self.out, self.split, self.name)
        )
        if place.exists():
            raise ConfigError(f"{place} exists already: remove it, or choose another --out or --seed")

    @property
    def name(self) -> str:
        return f"{self.world.seed:06d}"

    def write(self, on_frame: Callable[[], object]) -> None:
        """Render and write it; writing goes on in this thread while another one renders.

        Raises:
            ConfigError: what is to be written is there already.
            InputError: the folder cannot be written, or there are more objects than the layout can number.
        """
        from dvps_ros.data.layouts import LAYOUTS
        from dvps_ros.data.world import World
        from dvps_ros.data.world.files import ahead, write_sequence

        world = World(self.world)
        drive = world.frames(self.camera, rate_hz=self.rate_hz, scene_flow=True, threads=self.threads)
        mount = world.base_from_camera
        with ahead(itertools.islice(drive, self.frames), AHEAD) as rendered:
            shown = _each(rendered, on_frame)
            if self.layout == "mcap":
                from dvps_ros.installation import share_file
                from dvps_ros.ros.world_bag import write_bag

                write_bag(
                    shown,
                    self.out / self.name,
                    self.camera,
                    rate_hz=self.rate_hz,
                    base_from_camera=mount,
                    messages=share_file("msg/LabelSpace.msg").parent,
                    images=self.images,
                )
            else:
                write_sequence(
                    shown,
                    LAYOUTS[self.layout],
                    self.out,
                    split=self.split,
                    sequence=self.name,
                    rate_hz=self.rate_hz,
                    base_from_camera=mount,
                )


def _each(samples: Iterable[Any], on_frame: Callable[[], object]) -> Iterator[Any]:
    for sample in samples:
        yield sample
        on_frame()


_done: Any = None
"""In a worker process: the count of frames that all workers have written."""
_stopped: Any = None
"""In a worker process: the event that nobody waits for the frames any more."""


def _begin(done: Any, stopped: Any) -> None:
    global _done, _stopped
    _done, _stopped = done, stopped


def _count() -> None:
    with _done.get_lock():
        _done.value += 1
    if _stopped.is_set():
        raise KeyboardInterrupt


def _work(sequence: Sequence) -> None:
    if not _stopped.is_set():  # an executor goes on with what it has handed out already
        sequence.write(_count)


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
    help="auto, clear, haze, overcast, rain, fog, low_sun, dusk.",
)
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
    clean: bool,
    jobs: int | None,
) -> None:
    """Render street scenes with the truth of every pixel: classes, ids, depth, flow, motion, poses, steering.

    The same options give the same files. What the layout has no place for lies in truth/ (docs/world.md).
    """
    import time

    from tqdm import tqdm

    from dvps_ros.cli.results import require
    from dvps_ros.data.world import World, WorldConfig
    from dvps_ros.types import CameraModel

    if layout == "mcap":
        require("rosbags")
    camera = CameraModel.from_fov(size.width, size.height, fov_deg)
    configs = [
        WorldConfig(
            seed=seed + k, style=style, weather=weather, camera_height_m=camera_height_m, effects=not clean
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


def write_all(todo: list[Sequence], jobs: int, on_frames: Callable[[int], object]) -> None:
    """Write sequences, ``jobs`` at a time; ``on_frames`` is told how many frames more have been written.

    Raises:
        ConfigError: what is to be written is there already.
        InputError: the folder cannot be written, or there are more objects than the layout can number.
        DiskFull: there is no room for a bag.
    """
    if jobs == 1:
        for sequence in todo:
            sequence.write(lambda: on_frames(1))
        return
    # Started afresh: a fork would take over threads and locks of this process.
    context = multiprocessing.get_context("spawn")
    done, stopped = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(done, stopped)) as pool:
        shown = 0
        pending = {pool.submit(_work, sequence) for sequence in todo}
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
                if (count := done.value) > shown:
                    on_frames(count - shown)
                    shown = count
                for future in finished:
                    future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
