# SPDX-License-Identifier: Apache-2.0
"""Result files: video, point cloud and tracks table, each whole or not there."""

from __future__ import annotations

import contextlib
import csv
import fractions
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from dvps_ros.errors import InputError
from dvps_ros.files import whole_file
from dvps_ros.labels import LabelSpace
from dvps_ros.types import CLOUD_DTYPE, FrameResult


class VideoFile(Protocol):
    """An open video; frames are uint8 [H,W,3] RGB of one even size."""

    def write(self, image: np.ndarray) -> None: ...

    def finish(self) -> None:
        """Write what is still under way; not after a write that failed, where PyAV would crash."""
        ...

    def close(self) -> None: ...


class _PyAvVideo:
    """H.264, which every browser plays."""

    def __init__(self, path: Path, width: int, height: int, rate_hz: float) -> None:
        import av

        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        rate = fractions.Fraction(rate_hz).limit_denominator(1000)
        self._stream: Any = self._container.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "23", "preset": "superfast"}
        self._frame_of = av.VideoFrame.from_ndarray

    def write(self, image: np.ndarray) -> None:
        self._container.mux(self._stream.encode(self._frame_of(np.ascontiguousarray(image), format="rgb24")))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))

    def close(self) -> None:
        self._container.close()


class _OpenCvVideo:
    """MPEG-4, the codec that every OpenCV build has; players show it, browsers may not."""

    def __init__(self, path: Path, width: int, height: int, rate_hz: float) -> None:
        self._path, self._frames = path, 0
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, (width, height))
        if not self._writer.isOpened():
            raise OSError(f"OpenCV cannot write the video {path}")

    def write(self, image: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def finish(self) -> None:
        self._writer.release()
        # OpenCV tells nobody that a write failed.
        capture = cv2.VideoCapture(str(self._path))
        there = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
        if there != self._frames:
            raise OSError(f"only {there} of {self._frames} frames were written; is there room on the disk?")

    def close(self) -> None:
        self._writer.release()


def _open_video(path: Path, width: int, height: int, rate_hz: float) -> VideoFile:
    try:
        import av

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError):
        return _OpenCvVideo(path, width, height, rate_hz)
    return _PyAvVideo(path, width, height, rate_hz)


@contextlib.contextmanager
def video_file(path: Path, width: int, height: int, rate_hz: float) -> Iterator[VideoFile]:
    """An MP4 being written: H.264 where PyAV is installed, else MPEG-4.

    Raises:
        InputError: a side is odd.
        OutputError: the file cannot be written.
    """
    if width % 2 or height % 2:
        raise InputError(f"video {path.name}: expected an even size, got {width}x{height}")
    with whole_file(path, suffix=path.suffix) as unfinished:
        video = _open_video(unfinished, width, height, rate_hz)
        try:
            yield video
            video.finish()
        finally:
            video.close()


def write_ply(path: Path, cloud: np.ndarray) -> int:
    """Binary PLY of the valid points of a CLOUD_DTYPE array: x, y, z (m, optical), colour, label, instance.

    Returns:
        The number of points.

    Raises:
        OutputError: the file cannot be written.
    """
    points = cloud.reshape(-1)
    points = points[np.isfinite(points["z"])]
    vertex = np.empty(
        len(points),
        [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
        + [("label", "<u4"), ("instance", "<u4")],
    )
    for name in CLOUD_DTYPE.names or ():
        if name != "rgb":
            vertex[name] = points[name]
    for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
        vertex[name] = (points["rgb"] >> shift) & 255
    kinds = {"f4": "float", "u1": "uchar", "u4": "uint"}
    properties = [f"property {kinds[vertex.dtype[name].str[1:]]} {name}" for name in vertex.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", "comment camera optical frame, metres"]
    header += [f"element vertex {len(vertex)}", *properties, "end_header", ""]
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        file.write("\n".join(header).encode())
        file.write(vertex.tobytes())
    return len(vertex)


TRACK_COLUMNS = (
    "stamp_s track_id class score state motion box_x_px box_y_px box_width_px box_height_px area_px "
    "x_m y_m z_m extent_x_m extent_y_m extent_z_m vx_mps vy_mps vz_mps age_s unseen_s"
).split()


def track_rows(result: FrameResult, label_space: LabelSpace) -> Iterator[list[object]]:
    """One row of :data:`TRACK_COLUMNS` for each instance of a frame."""
    for t in result.instances:
        numbers = (*t.box_px, t.area_px, *t.centroid_m, *t.extent_m, *t.velocity_mps, t.age_s, t.unseen_s)
        yield [
            f"{result.stamp_ns // 10**9}.{result.stamp_ns % 10**9:09d}",
            t.track_id,
            label_space.names[t.class_id],
            f"{t.score:.4g}",
            t.state.name.lower(),
            t.motion.name.lower(),
            *(f"{float(v):.6g}" for v in numbers),
        ]


@contextlib.contextmanager
def tracks_file(path: Path) -> Iterator[Any]:
    """A csv writer of :data:`TRACK_COLUMNS`, the header written.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_file(path) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TRACK_COLUMNS)
        yield writer
