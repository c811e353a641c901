# SPDX-License-Identifier: Apache-2.0
"""Camera frames from ROS 1 and ROS 2 bags, read without ROS."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data.calibration import camera_for, camera_from_info
from dvps_ros.data.pixels import compressed_to_rgb, raw_to_rgb
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Frame, Sample

log = logging.getLogger(__name__)

RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
TRUTH = "/truth/output"
"""Below it lies the truth that ``dvps world --layout mcap`` records (docs/world.md)."""
_TRUTH_MAPS: dict[str, tuple[str, Any, int]] = {
    "class_map": ("semantic", np.uint8, 1),
    "instance_map": ("instance", np.uint16, 1),
    "depth_m": ("depth", np.float32, 1),
    "flow_px": ("flow", np.float32, 2),
    "scene_flow_m": ("scene_flow", np.float32, 3),
    "moving": ("moving", np.uint8, 1),
}
"""Field of Sample -> topic, pixel type and channels."""


class BagSource:
    """One camera of a bag: raw or compressed images with their CameraInfo.

    Args:
        topic: the image topic; None takes the only camera, or the only one with a CameraInfo beside it.

    Raises:
        InputError: the bag cannot be read, holds no such camera or several, or its camera is not known.
    """

    def __init__(
        self,
        path: Path,
        topic: str | None = None,
        *,
        camera: CameraModel | None = None,
        fov_deg: float | None = None,
    ) -> None:
        self._path = path
        self.name = path.resolve().stem
        self.unreadable = 0
        self.problems: list[str] = []
        with self._open() as reader:
            kinds = {name: info.msgtype for name, info in reader.topics.items()}
            self.topic = _choose_topic(path, reader.topics, topic)
            self._kind = kinds[self.topic]
            info_topic = _info_topic(self.topic, kinds)
            self.frames = reader.topics[self.topic].msgcount
            self._has_truth = all(f"{TRUTH}/{name}" in kinds for name, _, _ in _TRUTH_MAPS.values())
            seconds = reader.duration * 1e-9
            image = self._first_image(reader)
            if camera is None and fov_deg is None and info_topic is not None:
                camera = self._camera(reader, info_topic)
        self.rate_hz = (self.frames - 1) / seconds if seconds > 0 and self.frames > 1 else 10.0
        height, width = image.shape[:2]
        self.camera = camera_for(f"bag {self.name}", width, height, camera=camera, fov_deg=fov_deg)

    def _open(self) -> closing[Any]:
        return closing(self._reader())

    def _reader(self) -> Any:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise InputError("reading a bag needs rosbags: pip install 'dvps_ros[tools]'") from error
        # Bags of Humble and older carry no type definitions; the sensor messages have not changed since.
        reader = AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        try:
            reader.open()
        except Exception as error:
            raise InputError(f"cannot read bag {self._path}: {error}") from error
        return reader

    @cached_property
    def _truth_reader(self) -> Any:
        """Open as long as this source is: truth is asked for frame by frame, in any order."""
        reader = self._reader()
        weakref.finalize(self, reader.close)
        return reader

    def _first_image(self, reader: Any) -> np.ndarray:
        for message, _ in self._messages(reader, self.topic):
            try:
                return self._decode(message)
            except InputError as error:
                log.debug("%s", error)
        raise InputError(f"bag {self._path}: no image on {self.topic} can be decoded")

    def _camera(self, reader: Any, info_topic: str) -> CameraModel:
        for message, _ in self._messages(reader, info_topic):
            try:
                return camera_from_info(message, rectified="image_rect" in self.topic)
            except InputError as error:
                raise InputError(
                    f"bag {self._path}: {info_topic}: {error}; or pass --fov (FOV=) or --camera (CAMERA=)"
                ) from error
        raise InputError(f"bag {self._path}: {info_topic} is empty; pass --fov (FOV=) or --camera (CAMERA=)")

    def _messages(self, reader: Any, topic: str) -> Iterator[tuple[Any, int]]:
        wanted = [c for c in reader.connections if c.topic == topic]
        try:
            for connection, time_ns, raw in reader.messages(connections=wanted):
                yield reader.deserialize(raw, connection.msgtype), time_ns
        except Exception as error:
            raise InputError(f"cannot read bag {self._path} further: {error}") from error

    def _decode(self, message: Any) -> np.ndarray:
        if self._kind == COMPRESSED:
            return compressed_to_rgb(message.data)
        return raw_to_rgb(message.data, message.encoding, message.height, message.width, message.step)

    def __iter__(self) -> Iterator[Frame]:
        self.unreadable = read = 0
        self.problems = []
        with self._open() as reader:
            try:
                for message, time_ns in self._messages(reader, self.topic):
                    read += 1
                    stamp = message.header.stamp
                    # A driver that sets no stamp leaves zeros; then the recording time is the best there is.
                    stamp_ns = (stamp.sec * 10**9 + stamp.nanosec) or time_ns
                    frame_id = message.header.frame_id or "camera_optical"
                    try:
                        frame = Frame(self._decode(message), stamp_ns, self.camera, frame_id)
                    except InputError as error:
                        self.unreadable += 1
                        self._tell(f"{self.name}: left out the image at {stamp_ns * 1e-9:.3f} s: {error}")
                    else:
                        yield frame
            except InputError as error:
                self._tell(f"{self.name} ends early, after {read} of {self.frames} images: {error}")
        self.unreadable += self.frames - read

    def _tell(self, problem: str) -> None:
        self.problems.append(problem)
        log.warning(problem)

    def truth(self, stamp_ns: int) -> Sample | None:
        """What a bag of ``dvps world`` holds about the image that was recorded at its own stamp."""
        if not self._has_truth:
            return None
        topics = {f"{TRUTH}/{name}": field for field, (name, _, _) in _TRUTH_MAPS.items()}
        messages: dict[str, Any] = {}
        reader = self._truth_reader
        wanted = [c for c in reader.connections if c.topic in topics or c.topic == self.topic]
        for connection, _, raw in reader.messages(wanted, start=stamp_ns, stop=stamp_ns + 1):
            messages[connection.topic] = reader.deserialize(raw, connection.msgtype)
        if set(messages) != {*topics, self.topic}:
            return None
        maps: dict[str, Any] = {
            field: _pixels(messages[f"{TRUTH}/{name}"], dtype, channels)[None]
            for field, (name, dtype, channels) in _TRUTH_MAPS.items()
        }
        maps["instance_map"] = maps["instance_map"].astype(np.int32)
        maps["depth_m"] = np.where(np.isfinite(maps["depth_m"]), maps["depth_m"], np.float32(0))
        return Sample(
            images=self._decode(messages[self.topic])[None],
            intrinsics=self.camera.vector[None],
            source=f"{self.name} at {stamp_ns * 1e-9:.3f} s",
            **maps,
        )


def _pixels(message: Any, dtype: Any, channels: int) -> np.ndarray:
    shape = (message.height, message.width) if channels == 1 else (message.height, message.width, channels)
    order = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    try:
        return message.data.view(order).reshape(shape).astype(dtype)
    except ValueError as error:
        raise InputError(
            f"truth image: expected {message.height}x{message.width} pixels of {channels} {np.dtype(dtype)}, "
            f"got {len(message.data)} bytes of {message.encoding}"
        ) from error


def _base(topic: str) -> str:
    """The image topic without the name of its transport."""
    return topic.removesuffix("/compressed")


def _info_topic(topic: str, kinds: dict[str, str | None]) -> str | None:
    beside = f"{_base(topic).rpartition('/')[0]}/camera_info"
    if kinds.get(beside) == INFO:
        return beside
    infos = [name for name, kind in kinds.items() if kind == INFO]
    return infos[0] if len(infos) == 1 else None


def _choose_topic(path: Path, topics: dict[str, Any], wanted: str | None) -> str:
    images = {
        name: info.msgcount
        for name, info in topics.items()
        if info.msgtype in (RAW, COMPRESSED) and info.msgcount > 0 and not name.endswith("/compressedDepth")
    }
    listing = ", ".join(f"{name} ({count} images)" for name, count in images.items()) or "none"
    if wanted is not None:
        if wanted not in images:
            raise InputError(f"bag {path} has no image topic {wanted}; it has {listing}")
        return wanted
    if not images:
        raise InputError(f"bag {path} holds no images; its topics are {', '.join(topics) or 'none'}")
    # The same camera may be there raw and compressed: raw is exact.
    cameras = sorted({_base(n) if _base(n) in images else n for n in images})
    # Results may have been recorded beside the camera: that has a CameraInfo, and is called image_...
    if len(cameras) > 1:
        kinds = {name: info.msgtype for name, info in topics.items()}
        cameras = [n for n in cameras if kinds.get(f"{_base(n).rpartition('/')[0]}/camera_info") == INFO]
    if len(cameras) > 1:
        cameras = [n for n in cameras if _base(n).rpartition("/")[2].startswith("image")] or cameras
    if len(cameras) != 1:
        raise InputError(f"bag {path} holds several cameras: {listing}; choose one as {path}:/topic")
    return cameras[0]
