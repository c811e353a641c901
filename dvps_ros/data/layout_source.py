# SPDX-License-Identifier: Apache-2.0
"""The images of a data set as one input, sequence after sequence, with their truth."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dvps_ros.data.images import FIRST_STAMP_NS
from dvps_ros.data.layout import FrameFiles, Layout, read_rgb
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Frame, Sample

log = logging.getLogger(__name__)

SEQUENCE_GAP_NS = 60 * 10**9
"""Between two sequences: long enough that no object is the same."""
SPLITS = ("val", "train", "test")


def data_set_at(root: Path) -> tuple[Layout, str] | None:
    """Layout and split of the images below a data set's root; None where there are none."""
    without_labels = None
    for layout in LAYOUTS.values():
        for split in SPLITS:
            try:
                frames = [f for f in layout.frames(root, split) if f.image is not None]
            except InputError:
                continue
            if any(f.labels for f in frames):  # their names tell layouts apart, those of images may not
                return layout, split
            if frames:
                without_labels = without_labels or (layout, split)
    return without_labels


class LayoutSource:
    """All images of a split, each with its own camera; sequences are a minute apart, so that nothing is kept.

    Args:
        camera: goes before the data set's own; then images of other sizes are left out.

    Raises:
        InputError: the first image cannot be read.
    """

    def __init__(self, root: Path, layout: Layout, split: str, *, camera: CameraModel | None = None) -> None:
        self._layout = layout
        files = [f for f in layout.frames(root, split) if f.image is not None]
        self._files: dict[int, FrameFiles] = {}
        start_ns, sequence, last_ns = FIRST_STAMP_NS, files[0].sequence, FIRST_STAMP_NS
        for f in files:
            if f.sequence != sequence:
                start_ns, sequence = last_ns + SEQUENCE_GAP_NS, f.sequence
            last_ns = start_ns + round(f.frame * 1e9 / layout.rate_hz)
            self._files[last_ns] = f
        self.name = f"{layout.name} {split}"
        self.rate_hz = layout.rate_hz
        self.frames = len(files)
        self.unreadable = 0
        self.problems: list[str] = []
        assert files[0].image is not None
        self._given = camera
        self.camera = self._camera_of(files[0], read_rgb(files[0].image))
        """Of the first image."""

    def _camera_of(self, files: FrameFiles, image: np.ndarray) -> CameraModel:
        if self._given is not None:
            return self._given
        height, width = image.shape[:2]
        return CameraModel.from_vector(width, height, self._layout.intrinsics(files, height, width))

    def __iter__(self) -> Iterator[Frame]:
        self.unreadable, self.problems = 0, []
        for stamp_ns, files in self._files.items():
            assert files.image is not None
            try:
                image = read_rgb(files.image)
                frame = Frame(image, stamp_ns, self._camera_of(files, image))
            except InputError as error:
                self.unreadable += 1
                self.problems.append(f"{files.image}: {error}")
                log.warning("%s: left out %s", self.name, error)
            else:
                yield frame

    def truth(self, stamp_ns: int) -> Sample | None:
        """What the data set has of the frame of this stamp; None of an image without labels."""
        files = self._files.get(stamp_ns)
        return self._layout.sample([files]) if files is not None and files.labels else None
