# SPDX-License-Identifier: Apache-2.0
"""Synthetic drives with their truth, written as data sets or bags by several processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.files import ahead, truth_folder, write_sequence
from dvps_ros.errors import ConfigError
from dvps_ros.installation import share_file
from dvps_ros.ros.world_bag import write_bag
from dvps_ros.types import CameraModel

AHEAD = 2
"""Frames that are rendered while an earlier one is still being written."""


@dataclass(frozen=True)
class Sequence:
    """One drive to render, with all that a worker process needs to know."""

    world: WorldConfig
    camera: CameraModel
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
        world = World(self.world)
        drive = world.frames(self.camera, rate_hz=self.rate_hz, scene_flow=True, threads=self.threads)
        mount = world.base_from_camera
        with ahead(itertools.islice(drive, self.frames), AHEAD) as rendered:
            shown = _each(rendered, on_frame)
            if self.layout == "mcap":
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
