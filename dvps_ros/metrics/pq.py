# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality (Kirillov et al., CVPR 2019), as counted by panopticapi.

A true and a predicted segment of one class match when IoU > 0.5 (strict), with pixels of true void left
out of the union. PQ_c = sum of matched IoU / (TP + FP/2 + FN/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dvps_ros.labels import NO_INSTANCE, VOID
from dvps_ros.metrics.counts import Classes, PairCounts, class_of, id_of

Crowd = Literal["ignored", "segment"]
"""What a true thing segment of instance 0 is. ``ignored`` (panopticapi): never matched, never missed, and
predictions of its class on it are forgiven. ``segment`` (the depth-aware scripts): like any other."""


@dataclass
class QualityCounts:
    """What PQ is made of, per class; leading dimensions are free (one row a depth criterion)."""

    iou: np.ndarray
    """float64 [..., C]: sum of IoU over matched pairs."""
    tp: np.ndarray
    """int64 [..., C]"""
    fp: np.ndarray
    """int64 [..., C]"""
    fn: np.ndarray
    """int64 [..., C]"""

    @classmethod
    def zeros(cls, *shape: int) -> QualityCounts:
        return cls(np.zeros(shape), *(np.zeros(shape, np.int64) for _ in range(3)))

    def __iadd__(self, other: QualityCounts) -> QualityCounts:
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self

    def __getitem__(self, index: int) -> QualityCounts:
        return QualityCounts(self.iou[index], self.tp[index], self.fp[index], self.fn[index])

    @property
    def present(self) -> np.ndarray:
        """bool [..., C]: classes with anything to count."""
        return (self.tp + self.fp + self.fn) > 0

    @property
    def pq(self) -> np.ndarray:
        """float64 [..., C]; NaN for classes that are not present."""
        return _ratio(self.iou, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    def per_class(self) -> dict[str, list[Any]]:
        """Counts of one row as lists over classes, with pq, sq and rq (None where undefined)."""
        weight = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return {
            "iou": self.iou.tolist(),
            "tp": self.tp.tolist(),
            "fp": self.fp.tolist(),
            "fn": self.fn.tolist(),
            "pq": _nullable(self.pq),
            "sq": _nullable(_ratio(self.iou, self.tp)),
            "rq": _nullable(_ratio(self.tp, weight)),
        }

    def summary(self, classes: Classes) -> dict[str, Any]:
        """PQ of one row as a fraction: ``all``, ``things``, ``stuff`` are means over present classes (None
        without any); ``declared`` holds the means over all classes, absent ones as 0 (as some scripts do)."""
        pq = self.pq
        thing = classes.is_thing[: classes.count]
        groups = {"all": np.ones_like(thing), "things": thing, "stuff": ~thing}
        result: dict[str, Any] = {name: _mean(pq[group & self.present]) for name, group in groups.items()}
        seen = bool(self.present.any())
        result["declared"] = {
            name: _mean(np.nan_to_num(pq[group])) if seen else None for name, group in groups.items()
        }
        return result


def quality_counts(
    pairs: PairCounts, classes: Classes, *, crowd: Crowd = "ignored", lambdas: tuple[float, ...] | None = None
) -> QualityCounts:
    """Match segments (or tubes, when ``pairs`` spans several frames) and count.

    With ``lambdas``, predicted pixels whose depth error exceeds lambda become void first: they leave the
    predicted segment while the truth is unchanged (ViP-DeepLab). An unmatched prediction is no false positive
    when more than half of its (remaining) pixels lie on true void, or on crowd of its own class.

    Returns:
        Counts [L, C]: one row a lambda, in the order given; [1, C] for None.
    """
    inter = pairs.kept(lambdas)
    gt, g = np.unique(pairs.gt, return_inverse=True)
    pr, p = np.unique(pairs.pr, return_inverse=True)
    gt_class, pr_class = class_of(gt), class_of(pr)

    gt_area = np.zeros((len(gt), 1), np.int64)
    np.add.at(gt_area, g, pairs.total[:, None])
    pr_area = np.zeros((len(pr), inter.shape[1]), np.int64)
    np.add.at(pr_area, p, inter)

    gt_void = gt_class == VOID
    gt_crowd = classes.is_thing[gt_class] & (id_of(gt) == NO_INSTANCE) & (crowd == "ignored")
    on_void = np.zeros_like(pr_area)
    rows = gt_void[g]
    np.add.at(on_void, p[rows], inter[rows])
    forgiven = on_void.copy()
    rows = gt_crowd[g] & (gt_class[g] == pr_class[p])
    np.add.at(forgiven, p[rows], inter[rows])

    counts = QualityCounts.zeros(inter.shape[1], classes.count)
    rows = np.flatnonzero((gt_class[g] == pr_class[p]) & ~gt_void[g] & ~gt_crowd[g])
    g, p, inter = g[rows], p[rows], inter[rows]
    union = gt_area[g] + pr_area[p] - inter - on_void[p]
    row, column = np.nonzero(2 * inter > union)
    np.add.at(counts.iou, (column, gt_class[g[row]]), inter[row, column] / union[row, column])
    np.add.at(counts.tp, (column, gt_class[g[row]]), 1)
    gt_free = np.ones((len(gt), counts.iou.shape[0]), bool)
    gt_free[g[row], column] = False
    gt_free[gt_void | gt_crowd] = False
    pr_free = (pr_area > 0) & ~(2 * forgiven > pr_area)
    pr_free[p[row], column] = False
    pr_free[pr_class == VOID] = False

    row, column = np.nonzero(gt_free)
    np.add.at(counts.fn, (column, gt_class[row]), 1)
    row, column = np.nonzero(pr_free)
    np.add.at(counts.fp, (column, pr_class[row]), 1)
    return counts


class PanopticQuality:
    """PQ over images. ``update`` with the pairs of each frame, in any order."""

    def __init__(self, classes: Classes, *, crowd: Crowd = "ignored") -> None:
        self.classes = classes
        self.crowd: Crowd = crowd
        self.counts = QualityCounts.zeros(1, classes.count)

    def update(self, pairs: PairCounts) -> None:
        self.counts += quality_counts(pairs, self.classes, crowd=self.crowd)

    def merge(self, other: PanopticQuality) -> None:
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """{all, things, stuff, declared}: see :meth:`QualityCounts.summary`."""
        return self.counts[0].summary(self.classes)

    def per_class(self) -> dict[str, list[Any]]:
        return self.counts[0].per_class()


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _nullable(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
