# SPDX-License-Identifier: Apache-2.0
"""Segmentation and tracking quality (Weber et al., NeurIPS D&B 2021): STQ = sqrt(AQ SQ).

SQ is the mean class IoU of a confusion matrix over all sequences. AQ follows each true thing track g over
its whole sequence, in pixels: AQ = 1/N sum_g 1/|g| sum_p TPA(p,g) TPA / (TPA + FPA + FNA).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np

from dvps_ros.labels import NO_INSTANCE, VOID
from dvps_ros.metrics.counts import VOID_SEGMENT, Classes, PairCounts, class_of, id_of, merge_pairs
from dvps_ros.metrics.sequences import SequenceWalk

VoidInTracks = Literal["kept", "masked"]
"""Whether pixels of true void count in the size of predicted tracks (``kept``, as deeplab2's STQ does) or
leave them (``masked``, as the depth-aware STQ script does)."""
PredictedVoid = Literal["class", "miss"]
"""What predicted void on pixels of a true class is in SQ: a miss of that class and one more class, of IoU 0,
in the mean (``class``, as deeplab2's STQ does), or the miss alone."""

_OTHER = np.int64(VOID_SEGMENT - 1)
"""Key that stands for every segment which is no track."""
_COMPACT_ROWS = 1 << 14


def confusion(pairs: PairCounts, classes: Classes) -> np.ndarray:
    """int64 [C, C+1]: pixels by true class (rows) and predicted class (columns, void last); no true void."""
    known = class_of(pairs.gt) != VOID
    rows = class_of(pairs.gt[known])
    columns = np.minimum(class_of(pairs.pr[known]), classes.count)
    matrix = np.zeros((classes.count, classes.count + 1), np.int64)
    np.add.at(matrix, (rows, columns), pairs.total[known])
    return matrix


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """float64 [C]: intersection over union of each class of a :func:`confusion` matrix, NaN where empty."""
    hit = np.diagonal(matrix)
    union = matrix.sum(1) + matrix[:, :-1].sum(0) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def track_pairs(pairs: PairCounts, classes: Classes, void: VoidInTracks = "kept") -> PairCounts:
    """The pairs that association looks at: tracks are (class, id) of thing classes, the rest is one key.

    Pixels of true crowd (a thing without id) are removed, and true void too if ``void`` is ``"masked"``.
    A predicted thing of id 0 is a track like any other.
    """
    thing = classes.is_thing
    gt_class, pr_class = class_of(pairs.gt), class_of(pairs.pr)
    gt_thing = thing[gt_class]
    use = ~(gt_thing & (id_of(pairs.gt) == NO_INSTANCE))
    if void == "masked":
        use &= gt_class != VOID
    gt = np.where(gt_thing, pairs.gt, _OTHER)
    pr = np.where(thing[pr_class], pairs.pr, _OTHER)
    use &= (gt != _OTHER) | (pr != _OTHER)
    return PairCounts(gt[use], pr[use], pairs.total[use, None])


def association(pairs: PairCounts) -> np.ndarray:
    """float64 [tracks]: 1/|g| sum_p TPA TPA/(TPA+FPA+FNA) of every true track of one whole sequence."""
    gt, g = np.unique(pairs.gt, return_inverse=True)
    pr, p = np.unique(pairs.pr, return_inverse=True)
    tpa = pairs.pixels[:, 0]
    gt_size = np.zeros(len(gt), np.int64)
    pr_size = np.zeros(len(pr), np.int64)
    np.add.at(gt_size, g, tpa)
    np.add.at(pr_size, p, tpa)
    both = (pairs.gt != _OTHER) & (pairs.pr != _OTHER)
    g, p, tpa = g[both], p[both], tpa[both]
    quality = np.zeros(len(gt))
    np.add.at(quality, g, tpa * (tpa / (gt_size[g] + pr_size[p] - tpa)))
    return (quality / gt_size)[gt != _OTHER]


class SegmentationTrackingQuality:
    """STQ, AQ and SQ. Holds one table of track pairs of the sequence that is open."""

    def __init__(
        self,
        classes: Classes,
        *,
        void: VoidInTracks = "kept",
        predicted_void: PredictedVoid = "class",
    ) -> None:
        self.classes = classes
        self.void: VoidInTracks = void
        self.predicted_void: PredictedVoid = predicted_void
        self.confusion = np.zeros((classes.count, classes.count + 1), np.int64)
        self._walk = SequenceWalk()
        self._open: list[PairCounts] = []
        self._rows = 0
        self._quality = 0.0
        self._tracks = 0

    def update(self, pairs: PairCounts, sequence: Hashable = 0) -> None:
        """Add the next frame of ``sequence``."""
        if self._walk.enter(sequence):
            self._close()
        self.confusion += confusion(pairs, self.classes)
        tracks = track_pairs(pairs, self.classes, self.void)
        self._open.append(tracks)
        self._rows += len(tracks.gt)
        if self._rows > _COMPACT_ROWS:
            self._open = [merge_pairs(self._open)]
            # Half of the budget stays free, so that a table of many pairs is not merged at every frame.
            self._rows = min(len(self._open[0].gt), _COMPACT_ROWS // 2)

    def merge(self, other: SegmentationTrackingQuality) -> None:
        """Add the sequences of another shard."""
        self._walk.merge(other._walk)
        self._close()
        quality, tracks = other._association()
        self._quality += quality
        self._tracks += tracks
        self.confusion += other.confusion

    def compute(self) -> dict[str, float | None]:
        """{STQ, AQ, SQ} as fractions; AQ is None without true tracks, SQ without labelled pixels."""
        quality, tracks = self._association()
        iou = class_iou(self.confusion)
        if self.predicted_void == "class" and self.confusion[:, -1].any():
            iou = np.append(iou, 0.0)
        aq = quality / tracks if tracks else None
        sq = float(np.nanmean(iou)) if not np.isnan(iou).all() else None
        stq = math.sqrt(aq * sq) if aq is not None and sq is not None else None
        return {"STQ": stq, "AQ": aq, "SQ": sq}

    def per_class(self) -> dict[str, list[Any]]:
        """{iou}: intersection over union of each class, None where it does not occur."""
        return {"iou": [None if np.isnan(v) else float(v) for v in class_iou(self.confusion)]}

    def _association(self) -> tuple[float, int]:
        """Sum of association over all true tracks, and their number, the open sequence included."""
        if not self._open:
            return self._quality, self._tracks
        current = association(merge_pairs(self._open))
        return self._quality + float(current.sum()), self._tracks + len(current)

    def _close(self) -> None:
        self._quality, self._tracks = self._association()
        self._open, self._rows = [], 0
