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

from dvps_ros.data.bag_recovery import WAL, pending_wal
from dvps_ros.data.calibration import camera_for, doubts
from dvps_ros.data.camera_infos import CameraInfos
from dvps_ros.data.images import natural_order
from dvps_ros.data.mcap_bags import MAX_CHUNK, McapBag
from dvps_ros.data.pixels import compressed_to_rgb, raw_to_rgb
from dvps_ros.data.stamps import Timeline, stamp_to_ns
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
            width, height = self._first_size(reader)
            given = camera is not None or fov_deg is not None
            self._info_topic = None if given else info_topic
            if self._info_topic is not None:
                camera = self._first_camera(reader, self._info_topic, width, height)
        self.rate_hz = (self.frames - 1) / seconds if seconds > 0 and self.frames > 1 else 10.0
        self.camera = camera_for(f"bag {self.name}", width, height, camera=camera, fov_deg=fov_deg)
        unlikely = doubts(self.camera)
        if unlikely:
            log.warning("bag %s: %s", self.name, unlikely)

    def _open(self) -> closing[Any]:
        return closing(open_bag(self._path))

    @cached_property
    def _truth_reader(self) -> Any:
        """Open as long as this source is: truth is asked for frame by frame, in any order."""
        reader = open_bag(self._path)
        weakref.finalize(self, reader.close)
        return reader

    def _first_size(self, reader: Any) -> tuple[int, int]:
        for _, message, _ in self._messages(reader, self.topic):
            try:
                height, width = self._decode(message).shape[:2]
            except InputError as error:
                log.debug("%s", error)
            else:
                return width, height
        raise InputError(f"bag {self._path}: no image on {self.topic} can be decoded")

    def _infos(self) -> CameraInfos:
        return CameraInfos(rectified="image_rect" in self.topic)

    def _first_camera(self, reader: Any, topic: str, width: int, height: int) -> CameraModel:
        """The first usable one of the images' size: others may be there, of before a driver changed it."""
        problem = f"{topic} is empty"
        for _, message, _ in self._messages(reader, topic):
            try:
                camera = self._infos().add(message)
            except InputError as error:
                problem = f"{topic}: {error}"
            else:
                if (camera.width, camera.height) == (width, height):
                    return camera
                size = f"{camera.width}x{camera.height}"
                problem = f"{topic}: it is for {size} pixels, the images have {width}x{height}"
        advice = "or pass --camera (CAMERA=), or --fov (FOV=) of a pinhole"
        raise InputError(f"bag {self._path}: {problem}; {advice}")

    def _messages(self, reader: Any, *topics: str) -> Iterator[tuple[str, Any, int]]:
        wanted = [c for c in reader.connections if c.topic in topics]
        try:
            for connection, time_ns, raw in reader.messages(connections=wanted):
                yield connection.topic, reader.deserialize(raw, connection.msgtype), time_ns
        except Exception as error:
            more = ""
            if "CDR encapsulation" in str(error) and self._path.is_file():
                more = "; if its messages are compressed, give the folder that holds its metadata.yaml"
            raise InputError(f"cannot read bag {self._path} further: {error}{more}") from error

    def _decode(self, message: Any) -> np.ndarray:
        if self._kind == COMPRESSED:
            return compressed_to_rgb(message.data, message.format)
        return raw_to_rgb(message.data, message.encoding, message.height, message.width, message.step)

    def __iter__(self) -> Iterator[Frame]:
        """As the node takes the messages: each image with the CameraInfo of its stamp, else the newest."""
        self.unreadable = read = 0
        self.problems = []
        timeline, infos = Timeline(), self._infos()
        with self._open() as reader:
            try:
                for message, time_ns in self._images(reader, infos):
                    read += 1
                    try:
                        frame = self._frame(message, time_ns, timeline, infos)
                    except InputError as error:
                        self.unreadable += 1
                        self._tell(f"{self.name}: left out the image at {time_ns * 1e-9:.3f} s: {error}")
                    else:
                        yield frame
            except InputError as error:
                self._tell(f"{self.name} ends early, after {read} of {self.frames} images: {error}")
        if timeline.unstamped:
            self._tell(f"{self.name}: the images have no stamps; the times of recording are taken")
        self.unreadable += self.frames - read

    def _images(self, reader: Any, infos: CameraInfos) -> Iterator[tuple[Any, int]]:
        """Each image when the next one comes: the CameraInfo of its stamp may be recorded after it."""
        topics = [t for t in (self.topic, self._info_topic) if t is not None]
        waiting: tuple[Any, int] | None = None
        damage: InputError | None = None
        messages = self._messages(reader, *topics)
        while True:
            try:
                topic, message, time_ns = next(messages)
            except StopIteration:
                break
            except InputError as error:
                damage = error
                break
            if topic == self._info_topic:
                self._take_info(infos, message)
                continue
            if waiting is not None:
                yield waiting
            waiting = message, time_ns
        if waiting is not None:
            yield waiting
        if damage is not None:
            raise damage

    def _take_info(self, infos: CameraInfos, message: Any) -> None:
        before = infos.newest
        try:
            camera = infos.add(message)
        except InputError as error:
            if not isinstance(before, InputError):
                self._tell(f"{self.name}: {self._info_topic}: {error}")
            return
        if isinstance(before, CameraModel) and camera != before:
            follows = doubts(camera) or "the images that follow are taken with it"
            self._tell(
                f"{self.name}: {self._info_topic} changes to fx = {camera.fx:.1f}, fy = {camera.fy:.1f}, "
                f"{camera.width}x{camera.height}; {follows}"
            )

    def _frame(self, message: Any, time_ns: int, timeline: Timeline, infos: CameraInfos) -> Frame:
        """Raises: InputError, see the parts."""
        stamp_ns = stamp_to_ns(message.header.stamp)
        placed_ns = timeline.place(stamp_ns, time_ns)
        image = self._decode(message)
        height, width = image.shape[:2]
        camera = self.camera
        if self._info_topic is not None and not infos.missing:
            camera = infos.camera_of(stamp_ns, width, height)
        return Frame(image, placed_ns, camera, message.header.frame_id or "camera_optical")

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


def open_bag(path: Path) -> Any:
    """An open reader of a bag (rosbags' ``AnyReader`` or :class:`McapBag`), to be closed.

    Raises:
        InputError: it cannot be read, or lacks what its recorder had not finished.
    """
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise InputError("reading a bag needs rosbags: pip install 'dvps_ros[tools]'") from error
    for file in [path] if path.is_file() else path.glob("*.db3"):
        if file.suffix == ".db3" and pending_wal(file):
            raise InputError(
                f"bag {file} lacks what lies beside it in {file.name}{WAL}: its recorder did not end; "
                f"dvps bag recover {file} makes a whole one"
            )
    try:
        paths = bag_files(path)
        # Bags of Humble and older carry no type definitions; the sensor messages have not changed since.
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
        part: Any
        for part in reader.readers:
            if getattr(part, "compression_mode", None) == "message":
                for file in part.storage.storages:  # of a folder: a file alone does not tell its compression
                    _limit_messages(file)
    except Exception as error:
        if path.is_file() and path.suffix == ".mcap":
            return McapBag(path)  # of ROS 1, or with topics of other kinds
        raise InputError(f"cannot read bag {path}: {error}") from error
    return reader


def _limit_messages(storage: Any) -> None:
    """Make a storage whose messages are compressed one by one refuse those that unpack to too much: rosbags
    unpacks whatever it gets."""
    from rosbags.rosbag2.reader import zstd

    packed = storage.messages

    def messages(*args: Any, **options: Any) -> Iterator[tuple[Any, int, bytes]]:
        for connection, time_ns, data in packed(*args, **options):
            size = zstd.get_frame_info(data).decompressed_size
            if size is None or size > MAX_CHUNK:
                raise InputError(
                    f"a message of {connection.topic} unpacks to {size or 'an untold number of'} bytes, "
                    f"more than {MAX_CHUNK} are not read; record the bag again without that topic"
                )
            yield connection, time_ns, data

    storage.messages = messages


def bag_files(path: Path) -> list[Path]:
    """What a reader of bags opens: a folder with its metadata, else the files in it, else the file itself."""
    if path.is_file() or (path / "metadata.yaml").is_file():
        return [path]
    return sorted((p for p in path.iterdir() if p.suffix in (".mcap", ".db3")), key=natural_order)


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
        others = ", ".join(f"{name} ({info.msgtype})" for name, info in topics.items()) or "none"
        raise InputError(f"bag {path} holds no images of ROS; its topics are {others}")
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
