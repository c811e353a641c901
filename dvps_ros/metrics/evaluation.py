# SPDX-License-Identifier: Apache-2.0
"""All metrics over one set of frames, and the JSON that ``dvps eval`` writes (docs/metrics.md).

:meth:`Evaluation.count` looks at the pixels of one frame and depends on no other: it may run anywhere.
:meth:`Evaluation.add` takes the counts, frame after frame, in the order of the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dvps_ros.errors import ConfigError, InputError
from dvps_ros.metrics.counts import Classes, PairCounts, count_pairs
from dvps_ros.metrics.depth import (
    Crop,
    DepthByDistance,
    DepthErrors,
    DepthInliers,
    DepthProtocol,
    ImageErrors,
    Scaling,
    depth_aware_stq,
    distance_sums,
    image_errors,
    inliers,
)
from dvps_ros.metrics.pq import Crowd, PanopticQuality
from dvps_ros.metrics.stq import PredictedVoid, SegmentationTrackingQuality, VoidInTracks
from dvps_ros.metrics.tracks import IdentityStability, PredictedIds, QualityRule, TrackingQuality, VoidInMasks
from dvps_ros.metrics.vpq import VideoPanopticQuality

LABEL_METRICS = ("PQ", "VPQ", "STQ", "PAT", "ids")
DEPTH_METRICS = ("DPQ", "DVPQ", "DSTQ", "depth")
"""These need true and predicted depth."""
METRICS = ("PQ", "DPQ", "VPQ", "DVPQ", "STQ", "DSTQ", "PAT", "depth", "ids")


@dataclass(frozen=True)
class FramePair:
    """Truth and prediction of one frame: integer maps [H,W] as :func:`count_pairs` takes them, depth in
    metres [H,W] (0 = no truth), or None."""

    sequence: str
    name: str
    gt_sem: np.ndarray
    gt_ins: np.ndarray
    pr_sem: np.ndarray
    pr_ins: np.ndarray
    gt_depth: np.ndarray | None = None
    pr_depth: np.ndarray | None = None
    file: str = ""
    """Of the truth, to name in messages; empty where there is none."""


@dataclass(frozen=True)
class Rules:
    """Every choice that changes a number; the defaults are the official evaluators' (docs/metrics.md)."""

    windows: tuple[int, ...] = (1, 2, 3, 4)
    """k of VPQ and DVPQ, frames."""
    lambdas: tuple[float, ...] = (0.5, 0.25, 0.1)
    """Relative depth errors of DPQ and DVPQ."""
    crowd: Crowd = "ignored"
    """True things of instance 0 in PQ and VPQ."""
    depth_crowd: Crowd = "segment"
    """True things of instance 0 in DPQ and DVPQ, whose script knows no crowd."""
    stq_void: VoidInTracks = "kept"
    sq_void: PredictedVoid = "class"
    pat_ids: PredictedIds = "track"
    pat_void: VoidInMasks = "masked"
    pat_pq: QualityRule = "standard"
    min_area_px: int = 0
    """Masks below it do not exist for PAT and ids."""
    crops: tuple[Crop, ...] = ("none", "garg", "eigen", "cityscapes")
    scalings: tuple[Scaling, ...] = ("none", "median")
    depth_cap_m: float | str | None = "default"
    """``default``: 80 m on crops, none without; None: nowhere."""
    inlier_ratios: tuple[float, ...] = (1.25, 1.1)
    """Of DSTQ."""

    @property
    def protocols(self) -> list[DepthProtocol]:
        cap: Any = self.depth_cap_m
        return [DepthProtocol(crop, scaling, cap) for crop in self.crops for scaling in self.scalings]

    def describe(self) -> dict[str, Any]:
        """The rules as JSON, with the fixed ones in words."""
        return asdict(self) | {
            "match": "same class and IoU > 0.5 (strict), true void left out of the union",
            "false_positive_exempt": "more than half of it on true void or crowd of its class",
            "depth_criterion": "|pred - gt| / gt <= lambda keeps a pixel, in double precision; one without "
            "true depth keeps its label; one with a prediction that is not finite does not",
            "mean": "over classes with any TP, FP or FN; 'declared' over all classes, absent ones 0",
            "depth_caps_m": {p.crop: p.cap_m for p in self.protocols},
            "depth_mean": "per image, then over images",
        }


@dataclass(frozen=True)
class FrameCounts:
    """What one frame contributes to all metrics."""

    sequence: str
    name: str
    file: str
    shape: tuple[int, int]
    pairs: PairCounts
    errors: list[ImageErrors]
    distances: np.ndarray | None
    inliers: np.ndarray | None


class Evaluation:
    """All wanted metrics over one set of frames.

    Args:
        wanted: names of :data:`METRICS`.

    Raises:
        ConfigError: an unknown metric, or a rule that cannot be kept.
    """

    def __init__(
        self, classes: Classes, wanted: tuple[str, ...] = METRICS, rules: Rules | None = None
    ) -> None:
        unknown = sorted(set(wanted) - set(METRICS))
        if unknown or not wanted:
            raise ConfigError(
                f"metrics: expected some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}"
            )
        rules = rules or Rules()
        if not rules.crops or not rules.scalings:
            raise ConfigError("depth protocols: expected one crop and one scaling or more, got none")
        if min(rules.windows, default=0) < 1:
            raise ConfigError(f"window lengths k: expected 1 or more, got {list(rules.windows)}")
        if not rules.lambdas or not all(0 < value < np.inf for value in rules.lambdas):
            raise ConfigError(f"depth criteria lambda: expected positive numbers, got {list(rules.lambdas)}")
        self.classes = classes
        self.rules = rules
        self.wanted = tuple(name for name in METRICS if name in wanted)
        self.frames = 0
        self.sequences: dict[str, int] = {}
        self._shape: tuple[str, tuple[int, int]] | None = None

        things = self.wanted
        # DPQ is DVPQ of single frames: one table serves both.
        depth_windows = {*(rules.windows if "DVPQ" in things else ()), *((1,) if "DPQ" in things else ())}
        self._pq = PanopticQuality(classes, crowd=rules.crowd) if "PQ" in things else None
        self._vpq = (
            VideoPanopticQuality(classes, rules.windows, crowd=rules.crowd) if "VPQ" in things else None
        )
        self._dvpq = (
            VideoPanopticQuality(classes, depth_windows, lambdas=rules.lambdas, crowd=rules.depth_crowd)
            if depth_windows
            else None
        )
        stq = {"STQ", "DSTQ"} & set(things)
        self._stq = (
            SegmentationTrackingQuality(classes, void=rules.stq_void, predicted_void=rules.sq_void)
            if stq
            else None
        )
        self._inliers = DepthInliers(rules.inlier_ratios) if "DSTQ" in things else None
        self._pat = (
            TrackingQuality(
                classes,
                ids=rules.pat_ids,
                void=rules.pat_void,
                min_area_px=rules.min_area_px,
                quality=rules.pat_pq,
            )
            if "PAT" in things
            else None
        )
        self._depth = DepthErrors(rules.protocols) if "depth" in things else None
        self._distances = DepthByDistance() if "depth" in things else None
        self.ids = IdentityStability(classes, min_area_px=rules.min_area_px) if "ids" in things else None

    @property
    def _parts(self) -> list[Any]:
        return [
            self._pq,
            self._vpq,
            self._dvpq,
            self._stq,
            self._inliers,
            self._pat,
            self._depth,
            self._distances,
            self.ids,
        ]

    def count(self, pair: FramePair) -> FrameCounts:
        """Look at the pixels of one frame; changes nothing here.

        Raises:
            InputError: naming the frame: shapes, types, unknown classes, or missing depth.
        """
        needs_depth = [name for name in self.wanted if name in DEPTH_METRICS]
        gt, pr = pair.gt_depth, pair.pr_depth
        try:
            if needs_depth and (gt is None or pr is None):
                raise InputError(f"{', '.join(needs_depth)} need true and predicted depth")
            pairs = count_pairs(
                pair.gt_sem,
                pair.gt_ins,
                pair.pr_sem,
                pair.pr_ins,
                gt_depth=gt,
                pr_depth=pr,
                lambdas=self.rules.lambdas if self._dvpq else (),
            )
            pairs.check(self.classes)
            errors, distances, hits = [], None, None
            if gt is not None and pr is not None:
                if self._depth:
                    errors = image_errors(gt, pr, self._depth.protocols)
                    distances = distance_sums(gt, pr)
                if self._inliers:
                    hits = inliers(gt, pr, self._inliers.thresholds)
        except InputError as error:
            raise InputError(f"{pair.file or 'frame ' + pair.name}: {error}") from error
        return FrameCounts(
            pair.sequence, pair.name, pair.file, pair.gt_sem.shape, pairs, errors, distances, hits
        )

    def add(self, counts: FrameCounts) -> None:
        """Add the next frame of its sequence.

        Raises:
            InputError: frames of another sequence came in between, or the size changed within a sequence.
        """
        if self._shape and self._shape[0] == counts.sequence and self._shape[1] != counts.shape:
            (height, width), (got_height, got_width) = self._shape[1], counts.shape
            raise InputError(
                f"{counts.file or 'frame ' + counts.name}: expected {height}x{width} pixels as before in its "
                f"sequence, got {got_height}x{got_width}"
            )
        self._shape = counts.sequence, counts.shape
        self.frames += 1
        self.sequences[counts.sequence] = self.sequences.get(counts.sequence, 0) + 1
        if self._pq:
            self._pq.update(counts.pairs)
        for metric in (self._vpq, self._dvpq, self._stq, self._pat, self.ids):
            if metric:
                metric.update(counts.pairs, counts.sequence)
        if self._depth and self._distances and counts.distances is not None:
            self._depth.add(counts.errors)
            self._distances.add(counts.distances)
        if self._inliers and counts.inliers is not None:
            self._inliers.add(counts.inliers)

    def merge(self, other: Evaluation) -> None:
        """Add another shard of whole sequences under equal rules."""
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            if mine:
                mine.merge(theirs)
        self.frames += other.frames
        self.sequences |= other.sequences
        self._shape = None

    def result(self) -> dict[str, Any]:
        """The results as JSON data: fractions, None where undefined (and then said why in ``undefined``)."""
        rules = self.rules
        out: dict[str, Any] = {
            "frames": self.frames,
            "sequences": len(self.sequences),
            "classes": {
                "count": self.classes.count,
                "things": list(self.classes.things),
                "names": list(self.classes.names),
            },
        }
        per_class: dict[str, Any] = {}
        means: dict[str, Any] = {}
        if self._pq:
            out["PQ"] = self._pq.compute()
            per_class["PQ"] = self._pq.per_class()
        if self._vpq:
            out["VPQ"] = _keyed(self._vpq.compute())
            per_class["VPQ"] = _keyed(self._vpq.per_class())
            means["VPQ"] = _mean(list(out["VPQ"].values()))
        if self._dvpq:
            table, counts = _keyed(self._dvpq.compute()), _keyed(self._dvpq.per_class())
            if "DPQ" in self.wanted:
                out["DPQ"] = table["1"]
                per_class["DPQ"] = counts["1"]
                means["DPQ"] = _mean(list(table["1"].values()))
            if "DVPQ" in self.wanted:
                ks = [str(k) for k in sorted(set(rules.windows))]
                out["DVPQ"] = table = {k: table[k] for k in ks}
                per_class["DVPQ"] = {k: counts[k] for k in ks}
                means["DVPQ"] = _mean([cell for columns in table.values() for cell in columns.values()])
                means["DVPQ_k"] = {k: _mean(list(columns.values())) for k, columns in table.items()}
                means["DVPQ_lambda"] = {
                    value: _mean([columns[value] for columns in table.values()]) for value in table[ks[0]]
                }
        stq = self._stq.compute() if self._stq else {}
        if "STQ" in self.wanted and self._stq:
            out["STQ"] = stq
            per_class["STQ"] = self._stq.per_class()
        if self._inliers:
            dq, shares = self._inliers.compute()
            out["DSTQ"] = {
                "DSTQ": depth_aware_stq(stq["STQ"], dq),
                "STQ": stq["STQ"],
                "DQ": dq,
                "inliers": _keyed(shares),
            }
        if self._pat:
            out["PAT"] = self._pat.compute()
        if self._depth and self._distances:
            out["depth"] = self._depth.compute()
            out["depth_by_distance"] = self._distances.compute()
        if self.ids:
            out["ids"] = self.ids.compute()
        if means:
            out["means"] = means
        if per_class:
            out["per_class"] = per_class
        out["undefined"] = self._undefined(out)
        out["warnings"] = []
        if self._pat and rules.pat_ids == "track" and self._pat.ambiguous_frames:
            out["warnings"].append(
                f"PAT and ids: in {self._pat.ambiguous_frames} frames a predicted id occurs under several "
                "classes and counts as one object; for ids numbered per class choose --pat-ids class"
            )
        out["rules"] = rules.describe()
        return out

    def _undefined(self, out: dict[str, Any]) -> list[str]:
        """Why values are None, in sentences."""
        reasons = []
        tracks = [
            out.get(name, {}).get(key, 0) for name, key in (("STQ", "AQ"), ("DSTQ", "STQ"), ("PAT", "TQ"))
        ]
        longest = max(self.sequences.values(), default=0)
        counted = {name: out[name] for name in ("PQ", "VPQ", "DPQ", "DVPQ") if name in out}
        for name in ("VPQ", "DVPQ"):
            short = [int(k) for k in out.get(name, {}) if int(k) > longest]
            if short:
                counted[name] = {k: v for k, v in out[name].items() if int(k) <= longest}
                reasons.append(
                    f"{name} for k = {', '.join(map(str, short))}, and means over it: "
                    f"the longest sequence has {longest} frames"
                )
        if not self.classes.things:
            reasons.append("'things', AQ, STQ, DSTQ, TQ and PAT: no class is a thing")
        elif None in tracks:
            reasons.append("AQ, STQ, DSTQ, TQ and PAT: the truth holds no thing with an instance id")
        if len(self.classes.things) == self.classes.count:
            reasons.append("'stuff': every class is a thing")
        empty = [name for name, table in counted.items() if any(None in c.values() for c in _cells(table))]
        if empty:
            reasons.append(f"{', '.join(empty)} means over groups of classes of which none occurs")
        if out.get("DSTQ", {}).get("DQ", 0) is None:
            reasons.append("DQ and DSTQ: no pixel has true depth")
        if "depth" in out and any(v["images"] == 0 for by in out["depth"].values() for v in by.values()):
            reasons.append("depth errors: no image has true depth inside the crop and under the cap")
        return reasons


def _keyed(table: dict[Any, Any]) -> dict[str, Any]:
    """Number keys as JSON strings (``0.5``, ``4``), nested."""
    return {_key(k): _keyed(v) if isinstance(v, dict) and _numeric(v) else v for k, v in table.items()}


def _key(number: float) -> str:
    """All digits of a number that can be typed: different ones never share a key."""
    return f"{number:.15g}"


def _numeric(table: dict[Any, Any]) -> bool:
    return all(isinstance(key, (int, float)) for key in table)


def _cells(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The summaries of a table over k and lambda, or of a part of one."""
    if "declared" in table:
        yield table
    else:
        for part in table.values():
            yield from _cells(part)


def _mean(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of summaries, group by group; None where a cell is None, as a mean of less would not compare."""
    result: dict[str, Any] = {}
    for group in cells[0]:
        values = [cell[group] for cell in cells]
        if isinstance(values[0], dict):
            result[group] = _mean(values)
        else:
            result[group] = None if None in values else float(np.mean(values))
    return result
