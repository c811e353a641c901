# SPDX-License-Identifier: Apache-2.0
"""One way to read any driving input: ``open_source(spec)`` gives stamped frames and, where known, truth."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from dvps_ros.data.bags import BagSource, bag_files
from dvps_ros.data.calibration import camera_for, load_camera
from dvps_ros.data.images import (
    DEFAULT_RATE_HZ,
    FIRST_STAMP_NS,
    IMAGE_SUFFIXES,
    ImageSequence,
    even_stamps,
    first_readable,
    image_files,
    visible,
)
from dvps_ros.data.kitti_drive import kitti_drive
from dvps_ros.data.layout_source import LayoutSource, data_set_at
from dvps_ros.data.scene_files import open_scene
from dvps_ros.data.videos import VideoSource
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Frame, Sample

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".hevc", ".h264"}
BAG_SUFFIXES = {".bag", ".mcap", ".db3"}
DEMO_FRAMES = 120
WORLD_SIZE = (768, 384)
WORLD_FOV_DEG = 82.0
WORLD_CAMERA_HEIGHT_M = 1.65


class FrameSource(Protocol):
    """A finite sequence of camera frames of one size, in order of time. May be iterated more than once."""

    name: str
    """Short, for people."""
    rate_hz: float
    camera: CameraModel
    unreadable: int
    """Frames of the last iteration that were left out because they could not be read."""
    problems: list[str]
    """Of the last iteration, sentences on what could not be read."""

    @property
    def frames(self) -> int | None:
        """How many frames, None when it cannot be known beforehand; a damaged input may end earlier."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def truth(self, stamp_ns: int) -> Sample | None:
        """What is known about the frame of this stamp (a clip of one frame), or None."""
        ...


def open_source(spec: str, *, camera: CameraModel | None = None, fov_deg: float | None = None) -> FrameSource:
    """Open an input.

    Args:
        spec: a video file; a folder of images (calibrated by a ``camera*.json`` or ``.yaml`` in it, or
            not); a ROS 1 bag, rosbag2 folder, ``.mcap`` or ``.db3`` file, optionally followed by
            ``:/image/topic``; a KITTI raw drive folder; a rendered scene folder; the root of a data set in
            the layout of Cityscapes-DVPS, SemKITTI-DVPS or KITTI-STEP; ``world:SEED`` or
            ``world:SEED:FRAMES`` for the synthetic world, whose camera is 1.65 m over the road; ``demo`` for
            the one of the demo.
        camera: calibration that goes before the input's own.
        fov_deg: horizontal field of view of an input without calibration, degrees.

    Raises:
        InputError: there is no such input, it cannot be read, or its camera is not known.
    """
    if spec == "demo" or spec.startswith("world:"):
        return WorldSource(spec, camera=camera, fov_deg=fov_deg)
    path, _, topic = spec.partition(":/")
    place = Path(path).expanduser()
    suffix = place.suffix.lower()
    if not place.exists():
        raise InputError(f"there is no input {path}: expected a video, folder of images, bag or world:SEED")
    if suffix in (".zstd", ".zst") and Path(place.stem).suffix in BAG_SUFFIXES:
        raise InputError(
            f"{path} is one compressed file of a bag: give the folder that holds its metadata.yaml, "
            f"or unpack it (zstd -d {place.name})"
        )
    if suffix in BAG_SUFFIXES or _is_bag(place):
        return BagSource(place, f"/{topic}" if topic else None, camera=camera, fov_deg=fov_deg)
    if topic:
        raise InputError(f"{spec}: a topic can only be given for a bag, and {path} is none")
    if place.is_dir():
        if (place / "image_02").is_dir():
            return kitti_drive(place, camera=camera)
        if (place / "scene.json").is_file():
            return open_scene(place)
        if not any(p.suffix.lower() in IMAGE_SUFFIXES for p in visible(place)):
            data_set = data_set_at(place)
            if data_set is not None:
                return LayoutSource(place, *data_set, camera=camera)
        return image_folder(place, camera=camera, fov_deg=fov_deg)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(place, camera=camera, fov_deg=fov_deg)
    raise InputError(
        f"cannot tell what {path} is: expected a video ({', '.join(sorted(VIDEO_SUFFIXES))}), "
        f"a bag ({', '.join(sorted(BAG_SUFFIXES))}, or a rosbag2 folder) or a folder of images"
    )


def _is_bag(place: Path) -> bool:
    if (place / "metadata.yaml").is_file():
        return True
    # One that was copied without its metadata, or whose recorder did not end.
    return place.is_dir() and bool(bag_files(place))


def spaced(source: FrameSource, count: int) -> Iterator[Frame]:
    """So many frames of a source, from all of it; neighbours stay neighbours where it is short."""
    step = max(1, (source.frames or 0) // count)
    return itertools.islice((frame for i, frame in enumerate(source) if i % step == 0), count)


def image_folder(folder: Path, *, camera: CameraModel | None, fov_deg: float | None) -> ImageSequence:
    """Images in natural order at 10 Hz; the only ``camera*.json`` or ``.yaml`` there calibrates them."""
    paths = image_files(folder)
    if camera is None and fov_deg is None:
        own = [p for p in visible(folder, "camera*") if p.suffix in (".json", ".yaml", ".yml")]
        camera = load_camera(own[0]) if len(own) == 1 else None
    height, width = first_readable(paths).shape[:2]
    name = folder.resolve().name
    stamps_ns = even_stamps(len(paths), DEFAULT_RATE_HZ)
    return ImageSequence(
        name, paths, stamps_ns, camera_for(name, width, height, camera=camera, fov_deg=fov_deg)
    )


class WorldSource:
    """The synthetic street world, rendered while it is read: the same specification gives the same frames."""

    def __init__(self, spec: str, *, camera: CameraModel | None, fov_deg: float | None) -> None:
        from dvps_ros.data.world import DEMO, WorldConfig

        numbers = spec.split(":")[1:]
        if spec != "demo" and (not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers)):
            raise InputError(f"synthetic world: expected world:SEED, world:SEED:FRAMES or demo, got {spec}")
        if len(numbers) == 2 and int(numbers[1]) < 1:
            raise InputError(f"synthetic world: expected at least one frame, got {spec}")
        self.name = spec
        self.frames = DEMO_FRAMES if spec == "demo" else int(numbers[1]) if len(numbers) == 2 else 150
        self.rate_hz = DEFAULT_RATE_HZ
        self.camera = camera or CameraModel.from_fov(*WORLD_SIZE, fov_deg or WORLD_FOV_DEG)
        self.unreadable = 0
        self.problems: list[str] = []
        self._config = (
            DEMO
            if spec == "demo"
            else WorldConfig(seed=int(numbers[0]), camera_height_m=WORLD_CAMERA_HEIGHT_M, camera_yaw_deg=0.0)
        )
        self.camera_height_m = self._config.camera_height_m
        """Over the road, metres."""
        self._last: tuple[int, Sample] | None = None

    def clips(self) -> Iterator[Sample]:
        """The truth of each frame, in order."""
        from dvps_ros.data.world import World

        world = World(self._config)
        yield from itertools.islice(world.frames(self.camera, rate_hz=self.rate_hz), self.frames)

    def __iter__(self) -> Iterator[Frame]:
        for index, clip in enumerate(self.clips()):
            stamp_ns = FIRST_STAMP_NS + round(index * 1e9 / self.rate_hz)
            self._last = stamp_ns, clip
            yield Frame(clip.images[0], stamp_ns, self.camera, "camera_optical")

    def truth(self, stamp_ns: int) -> Sample | None:
        """Only of the frame that was yielded last: the world keeps no past."""
        return self._last[1] if self._last is not None and self._last[0] == stamp_ns else None
