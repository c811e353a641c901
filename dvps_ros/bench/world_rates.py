# SPDX-License-Identifier: Apache-2.0
"""Frames a second of the synthetic world, streamed and written."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from dvps_ros.data.world import WorldConfig, demo_world
from dvps_ros.ros.world_sequences import Sequence, write_all
from dvps_ros.types import CameraModel

WARM_UP = 10
"""Frames that are not timed: the street grows, numba compiles."""


def streamed_hz(size: tuple[int, int], frames: int, threads: int) -> float:
    """Of the demo scene as an endless drive with all truth; ``size`` is height and width."""
    drive = demo_world().frames(
        CameraModel.from_fov(size[1], size[0], 80.0), scene_flow=True, threads=threads
    )
    for _ in itertools.islice(drive, WARM_UP):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(drive, frames):
        pass
    return frames / (time.perf_counter() - start)


def written_hz(size: tuple[int, int], frames: int, layout: str, jobs: int) -> float:
    """Of two sequences, ``jobs`` at a time, into a temporary folder."""
    camera = CameraModel.from_fov(size[1], size[0], 80.0)
    with tempfile.TemporaryDirectory() as folder:
        todo = [
            Sequence(WorldConfig(seed=k), camera, frames, 10.0, layout, Path(folder), "train", "raw")
            for k in range(2)
        ]
        written: list[tuple[float, int]] = []
        write_all(todo, jobs, lambda count: written.append((time.perf_counter(), count)))
        # Starting the processes is not counted, nor what they had written when they were first heard of.
        return sum(count for _, count in written[1:]) / (time.perf_counter() - written[0][0])
