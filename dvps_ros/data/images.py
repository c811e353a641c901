# SPDX-License-Identifier: Apache-2.0
"""Image files as a sequence of camera frames."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dvps_ros.data.pixels import compressed_to_rgb
from dvps_ros.errors import InputError
from dvps_ros.files import read_bytes
from dvps_ros.types import CameraModel, Frame, Sample

log = logging.getLogger(__name__)

FILE_LIMIT = 1 << 28
"""Bytes of an image file; larger ones are refused."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
DEFAULT_RATE_HZ = 10.0
"""Of inputs that carry no time."""
FIRST_STAMP_NS = 1_000_000_000
"""Of inputs that carry no time: a stamp of zero means "no stamp" in ROS."""


def even_stamps(count: int, rate_hz: float) -> list[int]:
    """Stamps of frames at an even rate, from :data:`FIRST_STAMP_NS`."""
    return [FIRST_STAMP_NS + round(i * 1e9 / rate_hz) for i in range(count)]


class ImageSequence:
    """Image files with a stamp each; those that cannot be read or have another size are left out, counted.

    Args:
        truth: reads what is known about the frame of an image file.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        stamps_ns: Sequence[int],
        camera: CameraModel,
        *,
        frame_id: str = "camera_optical",
        truth: Callable[[Path], Sample | None] | None = None,
    ) -> None:
        self.name = name
        self.frames = len(paths)
        self.camera = camera
        self.unreadable = 0
        self.problems: list[str] = []
        self.stamps_ns = tuple(stamps_ns)
        self.path_of = dict(zip(stamps_ns, paths, strict=True))
        self._frame_id = frame_id
        self._truth = truth
        seconds = (stamps_ns[-1] - stamps_ns[0]) * 1e-9
        self.rate_hz = (len(paths) - 1) / seconds if seconds > 0 else DEFAULT_RATE_HZ

    def __iter__(self) -> Iterator[Frame]:
        self.unreadable, self.problems = 0, []
        for stamp_ns, path in self.path_of.items():
            try:
                yield Frame(read_sized(path, self.camera), stamp_ns, self.camera, self._frame_id)
            except InputError as error:
                self.unreadable += 1
                self.problems.append(str(error))
                log.warning("%s: left out %s", self.name, error)

    def truth(self, stamp_ns: int) -> Sample | None:
        path = self.path_of.get(stamp_ns)
        return self._truth(path) if self._truth is not None and path is not None else None


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 [H,W,3] RGB, turned as its EXIF data say.

    Raises:
        InputError: naming the file: it cannot be opened, is cut off or is not an image.
    """
    try:
        return compressed_to_rgb(read_bytes(path, limit=FILE_LIMIT), upright=True)
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_sized(path: Path, camera: CameraModel) -> np.ndarray:
    """:func:`read_image` of a file that must have the size of its camera.

    Raises:
        InputError: naming the file: as :func:`read_image`, or it has another size.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if (height, width) != (camera.height, camera.width):
        raise InputError(f"{path}: expected {camera.height}x{camera.width} pixels, got {height}x{width}")
    return image


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which ``frame10`` comes after ``frame9``."""
    return [
        (0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name) if part
    ]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; if it holds none, those of its only sub-folder with images.

    Raises:
        InputError: there is no such folder, there are none, or several sub-folders have images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images")
    inside = _images_in(folder)
    if inside:
        return inside
    below = {d.name: files for d in sorted(visible(folder)) if d.is_dir() and (files := _images_in(d))}
    if len(below) > 1:
        raise InputError(
            f"folder {folder} holds several folders of images: {', '.join(below)}; give one of them"
        )
    if not below:
        raise InputError(f"folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return next(iter(below.values()))


def _images_in(folder: Path) -> list[Path]:
    return sorted((p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_order)


def visible(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """What lies in a folder (or below it, by the pattern), without hidden files: systems leave ``._`` files
    beside pictures that are none."""
    return (p for p in folder.glob(pattern) if not p.name.startswith("."))


def first_readable(paths: Sequence[Path]) -> np.ndarray:
    """The first image that can be decoded, uint8 [H,W,3] RGB.

    Raises:
        InputError: none can.
    """
    reasons = []
    for path in paths:
        try:
            return read_image(path)
        except InputError as error:
            reasons.append(str(error))
    raise InputError(
        f"none of the {len(paths)} images in {paths[0].parent} can be read; of the first: {reasons[0]}"
    )
