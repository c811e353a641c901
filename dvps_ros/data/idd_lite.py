# SPDX-License-Identifier: Apache-2.0
"""IDD-lite (Varma et al. 2019): Indian streets, 320x227, the seven level-1 classes.

Layout: ``<root>/leftImg8bit/train/<sequence>/<id>_image.jpg`` and
``<root>/gtFine/train/<sequence>/<id>_label.png`` with ids 0..6, 255 ignored. The calibration is not part of
it: a nominal field of view is assumed, and there is no depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dvps_ros.data.coarse import CoarseLabels, read_coarse
from dvps_ros.data.images import visible
from dvps_ros.errors import InputError
from dvps_ros.types import Sample

LABELS = CoarseLabels(
    groups=(
        ("road",),
        ("sidewalk", "terrain"),
        ("person", "rider"),
        ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
        ("wall", "fence", "pole", "traffic light", "traffic sign"),
        ("building", "vegetation"),
        ("sky",),
    ),
    solidity={2: 0.75, 3: 0.86},
    horizontal_fov_deg=70.0,
)
HELD_OUT_EVERY = 10
"""Every tenth sequence is for validation (the public release has no labelled test set)."""


def idd_lite_files(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, label) pairs; ``split`` "val" is every tenth sequence, "train" the others. A label without an
    image is listed too.

    Raises:
        InputError: the folder is missing or holds no image.
    """
    images, labels = root / "leftImg8bit" / "train", root / "gtFine" / "train"
    chosen = [
        name
        for i, name in enumerate(sorted(p.name for p in visible(images) if p.is_dir()))
        if (i % HELD_OUT_EVERY == 0) == (split == "val")
    ]
    files = []
    for name in chosen:
        numbers = {p.name.removesuffix("_image.jpg") for p in visible(images / name, "*_image.jpg")}
        numbers |= {p.name.removesuffix("_label.png") for p in visible(labels / name, "*_label.png")}
        files += [
            (images / name / f"{number}_image.jpg", labels / name / f"{number}_label.png")
            for number in sorted(numbers)
        ]
    if not files:
        raise InputError(f"IDD-lite: expected images in {images}/<sequence>, found none")
    return files


def read_idd_lite(root: Path, split: str) -> Iterator[Sample]:
    """Samples of one frame; ``split`` as :func:`idd_lite_files`.

    Raises:
        InputError: the folder is missing or holds no image, or a file is missing or damaged.
    """
    for sample in read_coarse(idd_lite_files(root, split), LABELS):
        yield replace(sample, source=f"idd_lite {sample.source}")
