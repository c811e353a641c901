# SPDX-License-Identifier: Apache-2.0
"""Cityscapes-DVPS (Qiao et al., CVPR 2021): every fifth frame of Cityscapes' clips, with ids and depth.

``video_sequence/{split}/{seq:06d}_{frame:06d}_{city}_{citySeq:06d}_{cityFrame:06d}_{kind}.png`` with kinds
``leftImg8bit``, ``gtFine_instanceTrainIds`` and ``depth``. Predictions have the same names, or the kind
``panoptic``; only sequence and frame are compared.

Both panoptic encodings in circulation are read, pixel by pixel: a value below 1000 is a bare class (255
void), any other is class * 1000 + number (class 32 is void). An image of three 8-bit channels holds class
and number in the first two. **Number 0 is a real object here**; ids become class * 1000 + number + 1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from dvps_ros.data.layout import (
    FrameFiles,
    Layout,
    check_classes,
    files_by_frame,
    read_png,
    split_folder,
    write_depth,
    write_png,
)
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES, VOID

DIVISOR = 1000
PACKED_VOID = 32
"""Class of void in packed values."""
_UNKNOWN = 254
_NAME = re.compile(r"(\d{6})_(\d{6})_(?:.*_)?(leftImg8bit|gtFine_instanceTrainIds|panoptic|depth)\.png")


def _kind(written: str) -> str:
    return "labels" if written in ("gtFine_instanceTrainIds", "panoptic") else written


class CityscapesDvps(Layout):
    """Nineteen classes, eight of them things."""

    name = "cityscapes-dvps"
    rate_hz = 17 / 5
    example = "000000_000000_frankfurt_000000_000294_gtFine_instanceTrainIds.png"
    space = CITYSCAPES
    things = CITYSCAPES.thing_ids

    def frames(self, root: Path, split: str) -> list[FrameFiles]:
        folder = split_folder(root, f"video_sequence/{split}", split)
        return [
            FrameFiles(
                sequence, frame, (f["labels"],) if "labels" in f else (), f.get("depth"), f.get("leftImg8bit")
            )
            for sequence, frame, f in files_by_frame(folder, _NAME, _kind)
        ]

    def read_labels(self, files: FrameFiles) -> tuple[np.ndarray, np.ndarray]:
        path = files.labels[0]
        values = read_png(path)
        if values.ndim == 3:
            return self._read_channels(path, values)
        sem_of, ins_of = _tables()
        class_map = sem_of[values]
        if (class_map == _UNKNOWN).any():
            stray = np.unique(values[class_map == _UNKNOWN])[:5].tolist()
            raise InputError(
                f"{path}: values {stray} hold no known class; expected class 0 to 18 or 255, "
                f"or class * {DIVISOR} + number with class 0 to 18 or {PACKED_VOID}"
            )
        return class_map, ins_of[values]

    def _read_channels(self, path: Path, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class in the first channel (32 or 255 void), number in the second."""
        if values.dtype != np.uint8:
            raise InputError(f"{path}: expected 8 bits a channel in an image of class and number")
        class_map = np.where(values[..., 0] == PACKED_VOID, np.uint8(VOID), values[..., 0])
        check_classes(path, class_map, len(self.space))
        ids = class_map.astype(np.int32) * DIVISOR + values[..., 1] + 1
        return class_map, np.where(self.classes.is_thing[class_map], ids, 0).astype(np.int32)

    def write(
        self,
        root: Path,
        split: str,
        sequence: str,
        frame: int,
        *,
        class_map: np.ndarray,
        instance_map: np.ndarray,
        depth_m: np.ndarray | None = None,
        image: np.ndarray | None = None,
        predicted: bool = False,
    ) -> FrameFiles:
        """Ids 1..1000 become numbers 0..999; things without an id become void, as there is no crowd."""
        stem = f"{sequence}_{frame:06d}_dvps_{sequence}_{frame:06d}"
        folder = Path(root) / "video_sequence" / split
        kind = "panoptic" if predicted else "gtFine_instanceTrainIds"
        labels = folder / f"{stem}_{kind}.png"
        check_classes(labels, class_map, len(self.space))
        thing = self.classes.is_thing[class_map]
        if thing.any() and int(instance_map[thing].max()) > DIVISOR:
            raise InputError(
                f"{labels}: expected instance ids up to the divisor {DIVISOR}, "
                f"got {int(instance_map[thing].max())}"
            )
        values = class_map.astype(np.uint16) * np.uint16(DIVISOR)
        values[thing] += (instance_map[thing] - 1).astype(np.uint16)
        values[(class_map == VOID) | (thing & (instance_map == 0))] = PACKED_VOID * DIVISOR
        write_png(labels, values)
        depth = picture = None
        if depth_m is not None:
            write_depth(depth := folder / f"{stem}_depth.png", depth_m)
        if image is not None:
            write_png(picture := folder / f"{stem}_leftImg8bit.png", image)
        return FrameFiles(sequence, frame, (labels,), depth, picture)

    def packed_ids(self, class_map: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return numbers  # the encoding holds the class beside them

    def intrinsics(self, files: FrameFiles, height: int, width: int) -> np.ndarray:
        """Cityscapes' usual calibration at 1024x2048, scaled; the data set ships none of its own."""
        x, y = width / 2048, height / 1024
        return np.array([2262.52 * x, 2265.30 * y, 1096.98 * x, 513.14 * y], np.float32)


@lru_cache(1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Class uint8 and instance int32 of each 16-bit value."""
    value = np.arange(2**16)
    bare = value < DIVISOR
    classes = np.where(bare, value, value // DIVISOR)
    classes[np.where(bare, value == VOID, classes == PACKED_VOID)] = VOID
    known = classes < len(CITYSCAPES)
    classes[~known & (classes != VOID)] = _UNKNOWN
    sem = classes.astype(np.uint8)
    instance = np.where(~bare & CITYSCAPES.is_thing[sem], value + 1, 0)
    return sem, instance.astype(np.int32)
