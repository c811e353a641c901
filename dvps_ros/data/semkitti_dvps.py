# SPDX-License-Identifier: Apache-2.0
"""SemKITTI-DVPS (Qiao et al., CVPR 2021): KITTI odometry with SemanticKITTI's points projected to the camera.

``video_sequence/{split}/{seq:06d}_{frame:06d}_{kind}.png`` with kinds ``leftImg8bit``, ``gtFine_class``,
``gtFine_instance`` and ``depth_{focal length in pixels}``. Predictions end in ``cat.png``, ``ins.png`` and
``depth*.png``. Labels are sparse: most pixels are void. Classes are SemanticKITTI's in their own order,
things first; a thing of instance 0 is crowd.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dvps_ros.data.layout import (
    FrameFiles,
    Layout,
    check_classes,
    check_size,
    files_by_frame,
    read_png,
    split_folder,
    write_depth,
    write_png,
)
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES, VOID, LabelClass, LabelSpace

_NAME = re.compile(
    r"(\d{6})_(\d{6})_(?:.*_)?(leftImg8bit|gtFine_class|cat|gtFine_instance|ins|depth(?:_([0-9]+(?:\.[0-9]+)?))?)\.png"
)
_CLASS_NAMES = ("gtFine_class", "cat")
_INSTANCE_NAMES = ("gtFine_instance", "ins")
_ROWS = (
    ("car", (100, 150, 245), True, "car"),
    ("bicycle", (100, 230, 245), True, "bicycle"),
    ("motorcycle", (30, 60, 150), True, "motorcycle"),
    ("truck", (80, 30, 180), True, "truck"),
    ("other-vehicle", (100, 80, 250), True, None),
    ("person", (255, 30, 30), True, "person"),
    ("bicyclist", (255, 40, 200), True, "rider"),
    ("motorcyclist", (150, 30, 90), True, "rider"),
    ("road", (255, 0, 255), False, "road"),
    ("parking", (255, 150, 255), False, None),
    ("sidewalk", (75, 0, 75), False, "sidewalk"),
    ("other-ground", (175, 0, 75), False, None),
    ("building", (255, 200, 0), False, "building"),
    ("fence", (255, 120, 50), False, "fence"),
    ("vegetation", (0, 175, 0), False, "vegetation"),
    ("trunk", (135, 60, 0), False, "vegetation"),
    ("terrain", (150, 240, 80), False, "terrain"),
    ("pole", (255, 240, 150), False, "pole"),
    ("traffic-sign", (255, 0, 0), False, "traffic sign"),
)
"""Name, colour, thing, and the class of the project that it is read as in clips (None: void)."""

SEMANTIC_KITTI = LabelSpace(
    "semantic-kitti",
    tuple(LabelClass(i, name, color, thing) for i, (name, color, thing, _) in enumerate(_ROWS)),
)
_TO_PROJECT = np.full(256, VOID, np.uint8)
_TO_PROJECT[: len(_ROWS)] = [VOID if ours is None else CITYSCAPES.id_of(ours) for *_, ours in _ROWS]


def _kind(written: str) -> str:
    if written in _CLASS_NAMES:
        return "class"
    return "instance" if written in _INSTANCE_NAMES else written.partition("_")[0]


class SemkittiDvps(Layout):
    """Nineteen classes in SemanticKITTI's order, the first eight of them things."""

    name = "semkitti-dvps"
    example = "000008_000000_gtFine_class.png (predictions: 000008_000000_cat.png)"
    space = SEMANTIC_KITTI
    things = SEMANTIC_KITTI.thing_ids

    def frames(self, root: Path, split: str) -> list[FrameFiles]:
        folder = split_folder(root, f"video_sequence/{split}", split)
        return [
            FrameFiles(sequence, frame, _labels(files), files.get("depth"), files.get("leftImg8bit"))
            for sequence, frame, files in files_by_frame(folder, _NAME, _kind)
        ]

    def read_labels(self, files: FrameFiles) -> tuple[np.ndarray, np.ndarray]:
        class_path, instance_path = files.labels
        maps = []
        for path in files.labels:
            values = read_png(path)
            if values.ndim != 2:
                raise InputError(f"{path}: expected one channel, got {values.shape[2]}")
            maps.append(values)
        classes, instances = maps
        check_size(instance_path, instances.shape, classes.shape)
        check_classes(class_path, classes, len(self.space))
        class_map = classes.astype(np.uint8)
        return class_map, np.where(self.classes.is_thing[class_map], instances, 0).astype(np.int32)

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
        focal_px: float = 718.856,
    ) -> FrameFiles:
        """Instance ids up to 65535; ``focal_px`` becomes part of the depth file's name."""
        stem = Path(root) / "video_sequence" / split / f"{sequence}_{frame:06d}"
        of_class, of_instance = (names[predicted] for names in (_CLASS_NAMES, _INSTANCE_NAMES))
        labels = (Path(f"{stem}_{of_class}.png"), Path(f"{stem}_{of_instance}.png"))
        check_classes(labels[0], class_map, len(self.space))
        if int(instance_map.max()) >= 2**16:
            raise InputError(f"{labels[1]}: expected instance ids up to 65535, got {int(instance_map.max())}")
        write_png(labels[0], class_map.astype(np.uint8))
        write_png(labels[1], instance_map.astype(np.uint16))
        depth = picture = None
        if depth_m is not None:
            depth = Path(f"{stem}_depth.png" if predicted else f"{stem}_depth_{focal_px}.png")
            write_depth(depth, depth_m)
        if image is not None:
            write_png(picture := Path(f"{stem}_leftImg8bit.png"), image)
        return FrameFiles(sequence, frame, labels, depth, picture)

    def intrinsics(self, files: FrameFiles, height: int, width: int) -> np.ndarray:
        """Focal length from the depth file's name, principal point at the image's centre."""
        match = None if files.depth is None else _NAME.fullmatch(files.depth.name)
        focal = float(match[4]) if match and match[4] else 718.856
        return np.array([focal, focal, (width - 1) / 2, (height - 1) / 2], np.float32)

    def to_project(self, class_map: np.ndarray) -> np.ndarray:
        return _TO_PROJECT[class_map]


def _labels(files: dict[str, Path]) -> tuple[Path, ...]:
    """Class and instance file of a frame, also where one of them is missing; nothing where both are."""
    if "class" not in files and "instance" not in files:
        return ()
    return (
        files.get("class") or _sibling(files["instance"], _CLASS_NAMES),
        files.get("instance") or _sibling(files["class"], _INSTANCE_NAMES),
    )


def _sibling(path: Path, names: tuple[str, str]) -> Path:
    """Where the other label file of a frame is expected: truth beside truth, prediction beside prediction."""
    other = names[0] if "gtFine" in path.name else names[1]
    return path.with_name(re.sub(r"(gtFine_class|gtFine_instance|cat|ins)\.png$", f"{other}.png", path.name))
