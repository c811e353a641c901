# SPDX-License-Identifier: Apache-2.0
"""Video files as a sequence of camera frames, at the times that the file gives them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data.calibration import camera_for
from dvps_ros.data.images import DEFAULT_RATE_HZ, FIRST_STAMP_NS
from dvps_ros.data.pixels import check_pixels
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Frame

log = logging.getLogger(__name__)

TIMED_PACKETS = 60
"""From the times of so many the rate is measured: what a header says is often that of its clock."""


class VideoSource:
    """A video file. Stamps are the frames' times of presentation, counted from one second.

    Frames are counted as they come, not as the header says. What cannot be decoded is left out and told;
    after damage that is all up to the next key frame, whose time is right all the same.

    Args:
        camera: the calibration.
        fov_deg: or the horizontal field of view, degrees.

    Raises:
        InputError: the file cannot be read, holds no frame that can be decoded, or its camera is not known.
    """

    def __init__(self, path: Path, *, camera: CameraModel | None, fov_deg: float | None) -> None:
        self._path = path
        self.name = path.name
        self.unreadable = 0
        self.problems: list[str] = []
        with closing(self._open()) as container:
            stream = container.streams.video[0]
            self.frames = stream.frames or None
            times = sorted(_times(islice(_packets(container), TIMED_PACKETS)))
            written = float(stream.average_rate or stream.base_rate or DEFAULT_RATE_HZ)
        self._timed = len(times) > 1 and times[-1] > times[0]
        self.rate_hz = (len(times) - 1) / (times[-1] - times[0]) if self._timed else written
        first = next(self._decoded(), None)
        if first is None:
            raise InputError(f"cannot read video {path}: it holds no frame that can be decoded")
        height, width = first[1].shape[:2]
        self.camera = camera_for(self.name, width, height, camera=camera, fov_deg=fov_deg)

    def _open(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise InputError("reading a video needs av: pip install 'dvps_ros[tools]'") from error
        try:
            container = av.open(str(self._path))
        except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read video {self._path}: it is damaged, or of an unknown format"
            ) from error
        if not container.streams.video:
            container.close()
            raise InputError(f"cannot read video {self._path}: it holds no pictures")
        return container

    def _decoded(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Time in seconds, where there is one, and RGB image of each frame; counts what is lost.

        Raises:
            InputError: images of an impossible size.
        """
        import av

        self.unreadable, self.problems = 0, []
        with closing(self._open()) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            # Without it broken parts are painted over by guesses, and nobody is told.
            stream.codec_context.options = {"err_detect": "explode"}
            check_pixels(stream.codec_context.width, stream.codec_context.height)
            damage_s: float | None = None
            packets = _packets(container, flush=True)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except av.FFmpegError as error:
                    self._tell(f"{self.name} cannot be read further: {_words(error)}")
                    break
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    self.unreadable += 1
                    if damage_s is None:
                        damage_s = float(packet.pts * packet.time_base) if packet.pts is not None else 0.0
                        self._tell(f"{self.name} is damaged at {damage_s:.3f} s: {_words(error)}")
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        self.unreadable += 1
                        if damage_s is None:
                            damage_s = frame.time or 0.0
                            self._tell(f"{self.name} is damaged at {damage_s:.3f} s: a frame is corrupt")
                        continue
                    damage_s = None
                    image = frame.to_ndarray(format="rgb24")
                    yield frame.time, np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))

    def __iter__(self) -> Iterator[Frame]:
        start_s: float | None = None
        last_ns = 0
        for index, (time_s, image) in enumerate(self._decoded()):
            if not self._timed or time_s is None:
                stamp_ns = FIRST_STAMP_NS + round(index * 1e9 / self.rate_hz)
            else:
                start_s = time_s if start_s is None else start_s
                stamp_ns = FIRST_STAMP_NS + round((time_s - start_s) * 1e9)
            if stamp_ns <= last_ns or image.shape[:2] != (self.camera.height, self.camera.width):
                self.unreadable += 1
                what = "another size" if stamp_ns > last_ns else "a time before that of the last one"
                self._tell(f"{self.name}: left out frame {index}, which has {what}")
                continue
            last_ns = stamp_ns
            yield Frame(image, stamp_ns, self.camera)
        if not self._timed:
            self._tell(f"{self.name} carries no times: {self.rate_hz:g} Hz are assumed")

    def _tell(self, problem: str) -> None:
        self.problems.append(problem)
        log.warning(problem)

    def truth(self, stamp_ns: int) -> None:
        return None


def _packets(container: Any, *, flush: bool = False) -> Iterator[Any]:
    """Of the first video stream; the last one, empty, makes the decoder give what it holds back."""
    stream = container.streams.video[0]
    return (p for p in container.demux(stream) if p.size or flush)


def _times(packets: Iterator[Any]) -> Iterator[float]:
    """Presentation times, seconds, up to where the file cannot be read."""
    import av

    with suppress(av.FFmpegError):  # who decodes it tells
        for packet in packets:
            if packet.pts is not None:
                yield float(packet.pts * packet.time_base)


def _words(error: Exception) -> str:
    """What FFmpeg says, without number and file."""
    return str(getattr(error, "strerror", None) or error)
