# SPDX-License-Identifier: Apache-2.0
"""Every data set by name: its clips as :class:`Sample`, and what is wrong with its files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data import camvid, idd_lite
from dvps_ros.data.coarse import CoarseLabels, coarse_problems
from dvps_ros.data.kitti_raw import KittiRaw
from dvps_ros.data.layout import Layout, find_problems
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.sources import FrameSource, open_source
from dvps_ros.data.steering_log import log_problems, open_steering_log
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample


@dataclass(frozen=True)
class Reading:
    """How a data set is read.

    Args:
        split: of data sets that have splits.
        frames: frames of a clip; clips start at every frame that has enough after it in its sequence.
        camera, fov_deg: calibration of a video, bag, folder or log that brings none.
    """

    split: str = "val"
    frames: int = 1
    camera: CameraModel | None = None
    fov_deg: float | None = None


@dataclass(frozen=True)
class Reader:
    """One kind of data set. ``place`` is its folder or file; both functions raise or yield as they go, so a
    long recording is never in memory.

    Args:
        holds: what the place must be.
        truth: what its samples know besides the images.
        samples: the clips in order; raises InputError at the first file that is missing or damaged.
        problems: after each frame None, or a sentence naming a file that is broken, missing or inconsistent.
    """

    holds: str
    truth: str
    samples: Callable[[str, Reading], Iterator[Sample]]
    problems: Callable[[str, Reading], Iterator[str | None]]


def _layout(layout: Layout, holds: str, truth: str) -> Reader:
    return Reader(
        holds,
        truth,
        lambda place, how: layout.samples(Path(place), how.split, how.frames),
        lambda place, how: find_problems(layout, Path(place), None, how.split),
    )


def _stills(
    read: Callable[[Path, str], Iterator[Sample]],
    files: Callable[[Path, str], list[tuple[Path, Path]]],
    labels: CoarseLabels,
    holds: str,
) -> Reader:
    def samples(place: str, how: Reading) -> Iterator[Sample]:
        if how.frames != 1:
            raise InputError(f"{place}: single images, not clips of {how.frames} frames")
        yield from read(Path(place), how.split)

    def problems(place: str, how: Reading) -> Iterator[str | None]:
        try:
            yield from coarse_problems(files(Path(place), how.split), labels)
        except InputError as error:
            yield str(error)

    return Reader(holds, "coarse classes, some objects", samples, problems)


def _clips_of(recording: Any, how: Reading) -> Iterator[Sample]:
    """All clips of something with a length and ``clip(first, frames)``."""
    for first in range(len(recording) - how.frames + 1):
        yield recording.clip(first, how.frames)


def _stream(holds: str, truth: str = "none, but times") -> Reader:
    def samples(place: str, how: Reading) -> Iterator[Sample]:
        yield from source_samples(open_source(place, camera=how.camera, fov_deg=how.fov_deg), how.frames)

    def problems(place: str, how: Reading) -> Iterator[str | None]:
        try:
            source = open_source(place, camera=how.camera, fov_deg=how.fov_deg)
        except InputError as error:
            yield str(error)
            return
        last_ns = None
        for frame in source:
            if last_ns is not None and frame.stamp_ns <= last_ns:
                yield f"{source.name}: time does not increase: {frame.stamp_ns} ns comes after {last_ns} ns"
            last_ns = frame.stamp_ns
            yield None
        yield from source.problems

    return Reader(holds, truth, samples, problems)


def source_samples(source: FrameSource, frames: int = 1) -> Iterator[Sample]:
    """Clips of a video, bag or other stream with the truth it knows; what cannot be read is left out."""
    recent: deque[Sample] = deque(maxlen=frames)
    for frame in source:
        stamps_ns = np.array([frame.stamp_ns], np.int64)
        truth = source.truth(frame.stamp_ns)
        if truth is None:
            name = f"{source.name} at {frame.stamp_ns * 1e-9:.3f} s"
            sample = Sample(frame.image[None], frame.camera.vector[None], name, stamps_ns=stamps_ns)
        else:
            sample = replace(truth, stamps_ns=stamps_ns)
        recent.append(sample)
        if len(recent) == frames:
            yield stack_clips(recent)


def stack_clips(clips: Sequence[Sample] | deque[Sample]) -> Sample:
    """One clip of the frames of several, with the truth that all of them have."""
    if len(clips) == 1:
        return clips[0]
    values: dict[str, Any] = {
        f.name: np.concatenate(parts) if all(isinstance(p, np.ndarray) for p in parts) else None
        for f in fields(Sample)
        if f.name not in ("source", "coarse_groups")
        for parts in [[getattr(c, f.name) for c in clips]]
    }
    return replace(clips[0], **values)


def _kitti_problems(place: str, how: Reading) -> Iterator[str | None]:
    try:
        drive = KittiRaw(Path(place))
    except InputError as error:
        yield str(error)
        return
    yield from drive.problems()


READERS: dict[str, Reader] = {
    "cityscapes-dvps": _layout(
        LAYOUTS["cityscapes-dvps"], "folder with video_sequence/<split>", "classes, ids, depth"
    ),
    "semkitti-dvps": _layout(
        LAYOUTS["semkitti-dvps"], "folder with video_sequence/<split>", "classes, ids, depth (sparse)"
    ),
    "kitti-step": _layout(
        LAYOUTS["kitti-step"], "folder with images/<split> and panoptic_maps/<split>", "classes, ids"
    ),
    "kitti-raw": Reader(
        "drive folder with image_02",
        "depth, ids, classes, flow (on LiDAR points), poses, steering",
        lambda place, how: _clips_of(KittiRaw(Path(place)), how),
        _kitti_problems,
    ),
    "camvid": _stills(
        camvid.read_camvid, camvid.camvid_files, camvid.LABELS, "folder with <split> and <split>annot"
    ),
    "idd-lite": _stills(
        idd_lite.read_idd_lite,
        idd_lite.idd_lite_files,
        idd_lite.LABELS,
        "folder with leftImg8bit/train and gtFine/train",
    ),
    "steering-log": Reader(
        "steering.csv, its folder, or a comma2k19 segment",
        "steering, speed, times",
        lambda place, how: _clips_of(open_steering_log(Path(place), camera=how.camera), how),
        lambda place, how: log_problems(Path(place)),
    ),
    "video": _stream("video file"),
    "images": _stream("folder of images"),
    "bag": _stream("ROS 1 bag, rosbag2 folder, .mcap or .db3, then :/image/topic if it holds several"),
    "world": _stream("world:SEED or world:SEED:FRAMES", "everything"),
}
"""Data set -> how it is read."""
