# SPDX-License-Identifier: Apache-2.0
"""Single images with coarse semantic labels (CamVid, IDD-lite) as samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dvps_ros.data.images import read_image
from dvps_ros.data.layout import check_classes, check_size, read_png
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import CameraModel, Sample

MIN_BLOB_PX = 150
"""Smaller regions of a thing class are not taken for an object."""


@dataclass(frozen=True)
class CoarseLabels:
    """The classes of a data set: which classes of the project each stands for.

    Args:
        groups: names of the merged classes, by the data set's id. No class may be in two of them: the set
            loss would be content with that class for the pixels of both.
        solidity: data set id of countable classes -> least share of its convex hull that a region must
            fill to be taken for one object; two objects side by side fill less.
        horizontal_fov_deg: nominal field of view, for cameras whose calibration is not published.
    """

    groups: tuple[tuple[str, ...], ...]
    solidity: dict[int, float]
    horizontal_fov_deg: float

    def __post_init__(self) -> None:
        names = [name for group in self.groups for name in group]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"coarse labels: {', '.join(twice)} in more than one group; keep it in one")

    @property
    def group_ids(self) -> tuple[tuple[int, ...], ...]:
        """``Sample.coarse_groups``."""
        return tuple(tuple(CITYSCAPES.id_of(name) for name in names) for names in self.groups)


def read_coarse(files: Iterable[tuple[Path, Path]], labels: CoarseLabels) -> Iterator[Sample]:
    """One sample an (image, label) pair of files, without depth.

    Raises:
        InputError: naming the file: missing or damaged, sizes differ, or a label id is unknown.
    """
    for image_path, label_path in files:
        image, coarse = read_image(image_path), read_label(label_path, labels)
        check_size(label_path, coarse.shape, image.shape[:2])
        h, w = coarse.shape
        yield Sample(
            images=image[None],
            intrinsics=CameraModel.from_fov(w, h, labels.horizontal_fov_deg).vector[None],
            source=f"{image_path.parent.name}/{image_path.stem}",
            coarse_map=coarse[None],
            coarse_groups=labels.group_ids,
            instance_map=blob_instances(coarse, labels)[None],
        )


def read_label(path: Path, labels: CoarseLabels) -> np.ndarray:
    """uint8 [H,W] ids of the data set.

    Raises:
        InputError: naming the file: missing, damaged, not one channel of 8 bits, or an id is unknown.
    """
    coarse = read_png(path)
    if coarse.ndim != 2 or coarse.dtype != np.uint8:
        channels = 1 if coarse.ndim == 2 else coarse.shape[2]
        raise InputError(f"{path}: expected one channel of 8 bits, got {channels} of {coarse.dtype}")
    check_classes(path, coarse, len(labels.groups))
    return coarse


def coarse_problems(files: Iterable[tuple[Path, Path]], labels: CoarseLabels) -> Iterator[str | None]:
    """Look at every image and label.

    Yields:
        After each pair None, or a sentence naming the file that is broken, missing or inconsistent.
    """
    for image_path, label_path in files:
        sizes = []
        for path, read in (
            (image_path, lambda path: read_image(path)),
            (label_path, lambda path: read_label(path, labels)),
        ):
            try:
                sizes.append(read(path).shape[:2])
                check_size(path, sizes[-1], sizes[0])
            except InputError as error:
                yield str(error)
        yield None


def blob_instances(coarse: np.ndarray, labels: CoarseLabels) -> np.ndarray:
    """int32 [H,W]: connected regions of countable classes that look like one object get an id.

    The data sets label no instances. A region that fills its convex hull well is one object; others
    (several objects, or one cut by a pole) are unknown (-1), and so is void; stuff is 0.
    """
    things = CITYSCAPES.is_thing
    countable = np.zeros(256, bool)
    for i, members in enumerate(labels.group_ids):
        countable[i] = things[list(members)].any()
    countable[VOID] = True
    ids = np.where(countable[coarse], -1, 0).astype(np.int32)
    found = 0
    for coarse_id, solidity in labels.solidity.items():
        count, regions, stats, _ = cv2.connectedComponentsWithStats((coarse == coarse_id).astype(np.uint8))
        for region in range(1, count):
            x, y, w, h, area = stats[region]
            if area < MIN_BLOB_PX:
                continue
            mask = (regions[y : y + h, x : x + w] == region).astype(np.uint8)
            outline = np.concatenate(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])
            if area >= solidity * max(cv2.contourArea(cv2.convexHull(outline)), 1):
                found += 1
                ids[y : y + h, x : x + w][mask > 0] = found
    return ids
