# SPDX-License-Identifier: Apache-2.0
"""Truth of networks that predict a mask for each segment: a record of tensors, and the function that makes it
from samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.losses.targets import TRACK_BITS, cells_of, dense_segments, nearest_known
from dvps_ros.types import Sample


@dataclass(frozen=True)
class SegmentTargets:
    """Truth of one frame of a batch at stride 4: up to G segments in each of B samples, padded to one G.

    A stuff class is one segment, each thing with an id another. Missing truth is masked, not zero.
    """

    rows: Tensor
    """int64 [B,h,w]: segment of each cell, a row of ``classes``; -1 unknown: void, things without an id, only
    a coarse label."""
    classes: Tensor
    """int64 [B,G]: -1 padding, which comes last. G is at least 1."""
    track_ids: Tensor
    """int64 [B,G]: id of a thing, constant over the clip; 0 stuff, -1 padding."""
    is_thing: Tensor
    """bool [B,G]."""
    segments: Tensor
    """int64 [B,h,w]: as ``DenseTargets.segments``, coarse labels included; -1 unknown."""
    depth_m: Tensor
    """float32 [B,h,w]: z-depth, 0 = no truth."""

    @property
    def masks(self) -> Tensor:
        """bool [B,G,h,w]: cells of each segment; not stored, for it takes G times the memory of the rest."""
        index = torch.arange(self.classes.shape[1], device=self.rows.device)
        return self.rows[:, None] == index[:, None, None]

    @property
    def count(self) -> Tensor:
        """int64 [B]: segments of each sample."""
        return (self.classes >= 0).sum(1)

    @property
    def known(self) -> Tensor:
        """bool [B,h,w]: the cell belongs to one of the segments."""
        return self.rows >= 0

    @property
    def has_panoptic(self) -> Tensor:
        """bool [B]: some cell is known. In the other samples a query without a segment is not "no object"."""
        return self.known.flatten(1).any(1)

    @property
    def has_depth(self) -> Tensor:
        """bool [B]: some cell has a depth."""
        return (self.depth_m > 0).flatten(1).any(1)


def segment_targets(samples: Sequence[Sample], t: int, labels: LabelSpace) -> SegmentTargets:
    """Truth of one time step of a batch. A sample without classes or without ids has no panoptic truth."""
    frames = [_frame_segments(sample, t, labels) for sample in samples]
    table = np.full((len(samples), max(1, *(len(keys) for keys, _, _ in frames))), -1, np.int64)
    for b, (keys, _, _) in enumerate(frames):
        table[b, : len(keys)] = keys
    used = table >= 0
    classes = np.where(used, table >> TRACK_BITS, -1)
    arrays = {
        "rows": np.stack([rows for _, rows, _ in frames]),
        "classes": classes,
        "track_ids": np.where(used, table & ((1 << TRACK_BITS) - 1), -1),
        "is_thing": labels.is_thing[np.where(used, classes, VOID)],
        "segments": np.stack([segments for _, _, segments in frames]),
        "depth_m": np.stack([cells_of(s.depth_m, t, _shape(s), np.float32, 0) for s in samples]),
    }
    return SegmentTargets(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _frame_segments(sample: Sample, t: int, labels: LabelSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one frame: keys of the segments int64 [G], rising; row of each cell in them int64 [h,w], -1 unknown;
    ``segments`` int64 [h,w]."""
    cells = _segment_keys(sample, t, labels)
    keys = np.unique(cells[cells >= 0])
    rows = np.where(cells >= 0, np.searchsorted(keys, cells), -1)
    return keys, rows, np.where(cells >= 0, cells, _coarse_segments(sample, t, labels))


def _segment_keys(sample: Sample, t: int, labels: LabelSpace) -> np.ndarray:
    """int64 [h,w]: class << 32 | track id, 0 for stuff; -1 where either is unknown."""
    if sample.class_map is None or sample.instance_map is None:
        return np.full(_shape(sample), -1, np.int64)
    class_map, instance = sample.class_map[t], sample.instance_map[t]
    # The same pixel must give both: the class of one with the id of another would make up a segment.
    unknown = (class_map == VOID) | (labels.is_thing[class_map] & (instance <= 0))
    class_cells = nearest_known(class_map, unknown)
    track = np.where(labels.is_thing[class_cells], nearest_known(instance, unknown), 0).astype(np.int64)
    return np.where(nearest_known(unknown, unknown), -1, (class_cells.astype(np.int64) << TRACK_BITS) + track)


def _coarse_segments(sample: Sample, t: int, labels: LabelSpace) -> np.ndarray:
    """int64 [h,w]: ``DenseTargets.segments`` by the coarse labels alone."""
    shape = _shape(sample)
    if sample.coarse_map is None:
        return np.full(shape, -1, np.int64)
    return dense_segments(
        np.full(shape, VOID, np.uint8),
        cells_of(sample.coarse_map, t, shape, np.uint8, VOID),
        cells_of(sample.instance_map, t, shape, np.int32, -1),
        sample.coarse_groups,
        labels,
    )


def _shape(sample: Sample) -> tuple[int, int]:
    h, w = (n // OUTPUT_STRIDE for n in sample.images.shape[1:3])
    return h, w
