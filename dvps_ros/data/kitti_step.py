# SPDX-License-Identifier: Apache-2.0
"""KITTI-STEP (Weber et al., NeurIPS D&B 2021): KITTI tracking with every frame labelled, 10 Hz, no depth.

``images/{split}/{seq:04d}/{frame:06d}.png`` and ``panoptic_maps/{split}/{seq:04d}/{frame:06d}.png``;
channels R = class, G = id // 256, B = id % 256. Cityscapes' nineteen classes, of which **only person and
car are things**; class 255 is void, a thing of id 0 is crowd.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dvps_ros.data.images import visible
from dvps_ros.data.layout import FrameFiles, Layout, check_classes, read_png, split_folder, write_png
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES


class KittiStep(Layout):
    """Nineteen classes, two of them things."""

    name = "kitti-step"
    has_depth = False
    example = "0002/000000.png"
    space = CITYSCAPES
    things = (CITYSCAPES.id_of("person"), CITYSCAPES.id_of("car"))

    def frames(self, root: Path, split: str) -> list[FrameFiles]:
        labels = _numbered(split_folder(root, f"panoptic_maps/{split}", split))
        images = _numbered(root / "images" / split)
        return [
            FrameFiles(sequence, frame, (labels[key],) if key in labels else (), image=images.get(key))
            for key in sorted(labels | images)
            for sequence, frame in [key]
        ]

    def read_labels(self, files: FrameFiles) -> tuple[np.ndarray, np.ndarray]:
        path = files.labels[0]
        values = read_png(path)
        if values.ndim != 3 or values.dtype != np.uint8:
            channels = 1 if values.ndim == 2 else values.shape[2]
            raise InputError(
                f"{path}: expected three channels of 8 bits (class, id // 256, id % 256), "
                f"got {channels} of {values.dtype}"
            )
        class_map = np.ascontiguousarray(values[..., 0])
        check_classes(path, class_map, len(self.space))
        ids = values[..., 1].astype(np.int32) * 256 + values[..., 2]
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
        """Instance ids up to 65535, kept for person and car only."""
        labels = Path(root) / "panoptic_maps" / split / sequence / f"{frame:06d}.png"
        if depth_m is not None:
            raise InputError(f"{labels}: this layout holds no depth")
        check_classes(labels, class_map, len(self.space))
        ids = np.where(self.classes.is_thing[class_map], instance_map, 0)
        if int(ids.max()) >= 2**16:
            raise InputError(f"{labels}: expected instance ids up to 65535, got {int(ids.max())}")
        write_png(labels, np.stack([class_map, ids // 256, ids % 256], -1).astype(np.uint8))
        picture = None
        if image is not None:
            picture = Path(root) / "images" / split / sequence / f"{frame:06d}.png"
            write_png(picture, image)
        return FrameFiles(sequence, frame, (labels,), image=picture)

    def intrinsics(self, files: FrameFiles, height: int, width: int) -> np.ndarray:
        """KITTI's usual calibration at 375x1242, moved to the image's centre; the data set ships none."""
        return np.array([721.5377, 721.5377, (width - 1) / 2 - 10.9, (height - 1) / 2 - 14.1], np.float32)


def _numbered(folder: Path) -> dict[tuple[str, int], Path]:
    """(sequence, frame) -> file of ``{seq}/{frame}.png`` below a folder."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(visible(folder, "*/*.png")):
        if path.stem.isdecimal():
            first = found.setdefault((path.parent.name, int(path.stem)), path)
            if first != path:
                raise InputError(f"{path}: the same frame is there as {first.name} too")
    return found
