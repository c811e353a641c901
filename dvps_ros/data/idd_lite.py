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


def read_idd_lite(root: Path, split: str) -> Iterator[Sample]:
    """Samples of one frame; ``split`` "val" is every tenth sequence, "train" the others.

    Raises:
        InputError: the folder is missing or holds no image, or a file is damaged.
    """
    sequences = sorted(
        (p for p in (root / "leftImg8bit" / "train").glob("*") if p.is_dir()), key=lambda p: p.name
    )
    chosen = [s for i, s in enumerate(sequences) if (i % HELD_OUT_EVERY == 0) == (split == "val")]
    files = [
        (image, root / "gtFine" / "train" / folder.name / image.name.replace("_image.jpg", "_label.png"))
        for folder in chosen
        for image in sorted(folder.glob("*_image.jpg"))
    ]
    if not files:
        raise InputError(
            f"IDD-lite: expected images in {root / 'leftImg8bit' / 'train'}/<sequence>, found none"
        )
    for sample in read_coarse(files, LABELS):
        yield replace(sample, source=f"idd_lite {sample.source}")
