# SPDX-License-Identifier: Apache-2.0
"""Metrics on object level: does a true object keep one predicted identity from frame to frame?

In each frame every true object is matched to at most one predicted object, whatever its class, by mask
IoU > 0.5 (strict). On these matches stand PAT's tracking quality TQ and :class:`IdentityStability`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dvps_ros.labels import NO_INSTANCE, VOID
from dvps_ros.metrics.counts import Classes, PairCounts, class_of, id_of
from dvps_ros.metrics.pq import PanopticQuality
from dvps_ros.metrics.sequences import SequenceWalk

PredictedIds = Literal["track", "class"]
"""What identifies a prediction. ``track``: its id alone, pixels without id are no object (class-agnostic, as
MAPT says). ``class``: class and id together, so that a change of class is a change of identity and stuff
segments can match too (as the nuScenes evaluator does)."""

VoidInMasks = Literal["kept", "masked"]
"""Whether pixels of true void count in the size of predicted masks or leave them first."""


QualityRule = Literal["standard", "nuscenes"]
"""Which PQ goes into PAT. ``standard``: panopticapi's, over classes that occur (as MAPT says). ``nuscenes``:
pixels of true void are deleted first, and classes that do not occur count as 0."""


@dataclass(frozen=True)
class FrameMatches:
    """Objects of one frame and who found whom."""

    gt: np.ndarray
    """int64 [G]: keys of the true things with an id, ascending."""
    gt_area: np.ndarray
    """int64 [G]: pixels."""
    found_by: np.ndarray
    """int64 [G]: predicted id (or key) with IoU > 0.5, -1 none."""
    right_class: np.ndarray
    """bool [G]: found, and the prediction has the true class on most of its pixels (of a tie: the lower)."""
    pr: np.ndarray
    """int64 [P]: predicted ids (or keys) that exist."""


def match_objects(
    pairs: PairCounts,
    classes: Classes,
    *,
    ids: PredictedIds = "track",
    void: VoidInMasks = "masked",
    min_area_px: int = 0,
) -> FrameMatches:
    """Match the true and predicted objects of one frame; smaller ones than ``min_area_px`` do not exist."""
    if void == "masked":
        pairs = _without_void(pairs)
    total = pairs.total
    gt_class = class_of(pairs.gt)
    gt_object = classes.is_thing[gt_class] & (id_of(pairs.gt) != NO_INSTANCE)
    pr_object = class_of(pairs.pr) != VOID
    if ids == "track":
        pr_object &= id_of(pairs.pr) != NO_INSTANCE
    pr_key = id_of(pairs.pr) if ids == "track" else pairs.pr

    gt, gt_area = _areas(pairs.gt[gt_object], total[gt_object], min_area_px)
    pr, pr_area = _areas(pr_key[pr_object], total[pr_object], min_area_px)
    found_by = np.full(len(gt), -1, np.int64)
    both = gt_object & pr_object & np.isin(pairs.gt, gt) & np.isin(pr_key, pr)
    g = np.searchsorted(gt, pairs.gt[both])
    p = np.searchsorted(pr, pr_key[both])
    # One predicted track may appear under several classes: its rows are summed first.
    shared, row = np.unique(g * max(len(pr), 1) + p, return_inverse=True)
    inter = np.zeros(len(shared), np.int64)
    np.add.at(inter, row, total[both])
    g, p = np.divmod(shared, max(len(pr), 1))
    hit = 2 * inter > gt_area[g] + pr_area[p] - inter
    found_by[g[hit]] = pr[p[hit]]
    names = _majority_class(pr_key[pr_object], class_of(pairs.pr[pr_object]), total[pr_object])
    both_ways = zip(gt.tolist(), found_by.tolist(), strict=True)
    right_class = np.array([by >= 0 and names[by] == class_of(g) for g, by in both_ways], bool)
    return FrameMatches(gt, gt_area, found_by, right_class, pr)


def _majority_class(keys: np.ndarray, classes: np.ndarray, pixels: np.ndarray) -> dict[int, int]:
    """The class with the most pixels of each predicted id (or key)."""
    votes: dict[int, Counter[int]] = {}
    for key, class_id, n in zip(keys.tolist(), classes.tolist(), pixels.tolist(), strict=True):
        votes.setdefault(key, Counter())[class_id] += n
    return {key: min(count, key=lambda c: (-count[c], c)) for key, count in votes.items()}


def _without_void(pairs: PairCounts) -> PairCounts:
    """The pairs of pixels whose true class is known."""
    known = class_of(pairs.gt) != VOID
    return PairCounts(pairs.gt[known], pairs.pr[known], pairs.total[known, None])


def _areas(keys: np.ndarray, pixels: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(keys, return_inverse=True)
    area = np.zeros(len(unique), np.int64)
    np.add.at(area, inverse, pixels)
    return unique[area >= least], area[area >= least]


@dataclass
class TrackRecord:
    """One true object through its sequence."""

    frames: int = 0
    """In which it exists."""
    found: Counter[int] = field(default_factory=Counter)
    """Frames in which each predicted id matched it."""
    right_class: int = 0
    """Of these, frames in which the prediction had its class."""
    breaks: int = 0
    """Consecutive frame pairs with another match, or with none in the earlier frame (PAT's IDS)."""
    switches: int = 0
    """Changes of the matched id, frames without a match skipped."""
    _last: int = -1
    _last_found: int = -1

    def add(self, found_by: int, right_class: bool) -> None:
        if self.frames and (found_by != self._last or self._last < 0):
            self.breaks += 1
        self.frames += 1
        self._last = found_by
        if found_by >= 0:
            self.found[found_by] += 1
            self.right_class += right_class
            if self._last_found >= 0 and found_by != self._last_found:
                self.switches += 1
            self._last_found = found_by

    @property
    def kept(self) -> int:
        """Frames that carry the id which found it most often."""
        return max(self.found.values(), default=0)


class SequenceTracks:
    """The true objects of one sequence, and how long each predicted id lives."""

    def __init__(self) -> None:
        self.records: dict[int, TrackRecord] = {}
        self.lifetime: Counter[int] = Counter()

    def add(self, matches: FrameMatches) -> None:
        self.lifetime.update(matches.pr.tolist())
        rows = zip(matches.gt.tolist(), matches.found_by.tolist(), matches.right_class.tolist(), strict=True)
        for g, found_by, right_class in rows:
            self.records.setdefault(g, TrackRecord()).add(found_by, right_class)


def tracking_quality(record: TrackRecord, lifetime: Counter[int]) -> float:
    """TQ(g) of MAPT and the nuScenes panoptic tracking evaluator, in [0, 1].

    TQ(g) = sqrt((1 - IDS/(|g|-1)) AS(g)), AS(g) = 1/|g| sum_p TPA TPA / (|g| + FPA), FPA = frames of p
    beyond TPA; the first factor is 1 for an object of one frame.
    """
    score = sum(tpa * tpa / (record.frames + lifetime[p] - tpa) for p, tpa in record.found.items())
    steady = 1 - record.breaks / (record.frames - 1) if record.frames > 1 else 1.0
    return float((steady * score / record.frames) ** 0.5)


class TrackingQuality:
    """PAT = 2 PQ TQ / (PQ + TQ), with TQ the mean over all true thing tracks."""

    def __init__(
        self,
        classes: Classes,
        *,
        ids: PredictedIds = "track",
        void: VoidInMasks = "masked",
        min_area_px: int = 0,
        quality: QualityRule = "standard",
    ) -> None:
        self.classes = classes
        self.ids: PredictedIds = ids
        self.void: VoidInMasks = void
        self.quality: QualityRule = quality
        self.min_area_px = min_area_px
        self.panoptic = PanopticQuality(classes)
        self.ambiguous_frames = 0
        """Frames in which one predicted id occurs under several thing classes: ids numbered per class?"""
        self._walk = SequenceWalk()
        self._open = SequenceTracks()
        self._sum = 0.0
        self._tracks = 0

    def update(self, pairs: PairCounts, sequence: Hashable = 0) -> None:
        """Add the next frame of ``sequence``."""
        if self._walk.enter(sequence):
            self._close()
        self.panoptic.update(_without_void(pairs) if self.quality == "nuscenes" else pairs)
        segments = np.unique(pairs.pr[self.classes.is_thing[class_of(pairs.pr)] & (id_of(pairs.pr) > 0)])
        self.ambiguous_frames += len(np.unique(id_of(segments))) < len(segments)
        self._open.add(
            match_objects(pairs, self.classes, ids=self.ids, void=self.void, min_area_px=self.min_area_px)
        )

    def merge(self, other: TrackingQuality) -> None:
        """Add the sequences of another shard."""
        self._walk.merge(other._walk)
        self._close()
        total, tracks = other._quality()
        self._sum += total
        self._tracks += tracks
        self.panoptic.merge(other.panoptic)
        self.ambiguous_frames += other.ambiguous_frames

    def compute(self) -> dict[str, float | None]:
        """{PAT, PQ, TQ} as fractions; TQ is None without true tracks, and PAT where a part is undefined."""
        total, tracks = self._quality()
        tq = total / tracks if tracks else None
        means = self.panoptic.compute()
        pq = means["declared"]["all"] if self.quality == "nuscenes" else means["all"]
        pat = None
        if pq is not None and tq is not None:
            pat = 2 * pq * tq / (pq + tq) if pq + tq > 0 else 0.0
        return {"PAT": pat, "PQ": pq, "TQ": tq}

    def _quality(self) -> tuple[float, int]:
        now = self._open
        return (
            self._sum + sum(tracking_quality(r, now.lifetime) for r in now.records.values()),
            self._tracks + len(now.records),
        )

    def _close(self) -> None:
        self._sum, self._tracks = self._quality()
        self._open = SequenceTracks()


@dataclass(frozen=True)
class ObjectStability:
    """One true object: was it found, and under how many names?"""

    sequence: Hashable
    class_id: int
    instance_id: int
    frames: int
    """In which it exists with at least the minimum area."""
    found: int
    """Of these, frames with a match, whatever its class."""
    right_class: int
    """Of the found, frames in which the match had the true class."""
    kept: int
    """Of these, frames under the id that found it most often."""
    switches: int


class IdentityStability:
    """Id switches, and the share of an object's frames that keep its dominant id.

    Plain figures for a person to read; keeps one small record a true object.

    Args:
        min_area_px: true and predicted masks below it are ignored, in that frame.
        void: by default pixels without truth do not count against a predicted mask.
    """

    def __init__(self, classes: Classes, *, min_area_px: int = 0, void: VoidInMasks = "masked") -> None:
        self.classes = classes
        self.min_area_px = min_area_px
        self.void: VoidInMasks = void
        self._walk = SequenceWalk()
        self._sequences: dict[Hashable, SequenceTracks] = {}

    def update(self, pairs: PairCounts, sequence: Hashable = 0) -> None:
        """Add the next frame of ``sequence``."""
        self.add(match_objects(pairs, self.classes, void=self.void, min_area_px=self.min_area_px), sequence)

    def add(self, matches: FrameMatches, sequence: Hashable = 0) -> None:
        """Add the next frame of ``sequence``, of which the objects are matched already."""
        if self._walk.enter(sequence):
            self._sequences[sequence] = SequenceTracks()
        self._sequences[sequence].add(matches)

    def merge(self, other: IdentityStability) -> None:
        """Add the sequences of another shard."""
        self._walk.merge(other._walk)
        self._sequences |= other._sequences

    def objects(self) -> list[ObjectStability]:
        """One row a true object."""
        return [
            ObjectStability(
                sequence=name,
                class_id=class_of(g),
                instance_id=id_of(g),
                frames=record.frames,
                found=record.found.total(),
                right_class=record.right_class,
                kept=record.kept,
                switches=record.switches,
            )
            for name, tracks in self._sequences.items()
            for g, record in tracks.records.items()
        ]

    def compute(self) -> dict[str, Any]:
        """{objects, frames, found, kept, switches, switches_per_object}: ``found`` and ``kept`` are shares of
        all object-frames; None without true objects."""
        rows = self.objects()
        frames = sum(r.frames for r in rows)
        switches = sum(r.switches for r in rows)
        return {
            "objects": len(rows),
            "frames": frames,
            "found": sum(r.found for r in rows) / frames if frames else None,
            "kept": sum(r.kept for r in rows) / frames if frames else None,
            "switches": switches,
            "switches_per_object": switches / len(rows) if rows else None,
        }
