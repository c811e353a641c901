# SPDX-License-Identifier: Apache-2.0
"""CamVid (Brostow et al. 2009) in the split and the eleven classes of SegNet, 480x360.

Layout: ``<root>/{train,val}/<name>.jpg`` (or ``.png``) and ``<root>/{train,val}annot/<name>.png`` with
ids 0..10, 11 unlabelled. The camera's calibration is not part of it: a nominal field of view is assumed,
and there is no depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvps_ros.data.coarse import CoarseLabels, read_coarse
from dvps_ros.data.images import visible
from dvps_ros.errors import InputError
from dvps_ros.labels import VOID
from dvps_ros.types import Sample

UNLABELLED = 11
LABELS = CoarseLabels(
    groups=(
        ("sky",),
        ("building", "wall"),
        ("pole",),
        ("road",),
        ("sidewalk",),
        ("vegetation", "terrain"),
        ("traffic sign", "traffic light"),
        ("fence",),
        ("car", "truck", "bus", "train"),
        ("person",),
        ("rider", "bicycle", "motorcycle"),
        (),
    ),
    solidity={8: 0.85, 9: 0.68, 10: 0.72},
    horizontal_fov_deg=60.0,
)


def camvid_files(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, label) of a split ("train" or "val"); a label without an image is listed too.

    Raises:
        InputError: the folder is missing or holds no image.
    """
    images = {p.stem: p for p in sorted(visible(root / split)) if p.suffix in {".jpg", ".png"}}
    if not images:
        raise InputError(f"CamVid: expected images in {root / split}, found none")
    labels = {p.stem: p for p in visible(root / f"{split}annot", "*.png")}
    return [
        (images.get(name, root / split / f"{name}.png"), root / f"{split}annot" / f"{name}.png")
        for name in sorted(images | labels)
    ]


def read_camvid(root: Path, split: str) -> Iterator[Sample]:
    """Samples of one frame of a split ("train" or "val").

    Raises:
        InputError: the folder is missing or holds no image, or a file is missing or damaged.
    """
    for sample in read_coarse(camvid_files(root, split), LABELS):
        assert sample.coarse_map is not None and sample.instance_map is not None
        void = sample.coarse_map == UNLABELLED
        yield replace(
            sample,
            source=f"camvid {sample.source}",
            coarse_map=np.where(void, np.uint8(VOID), sample.coarse_map),
            coarse_groups=sample.coarse_groups[:UNLABELLED],
            instance_map=np.where(void, np.int32(-1), sample.instance_map),
        )
