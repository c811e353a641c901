# SPDX-License-Identifier: Apache-2.0
"""How good the maps of a clip are, by whatever truth its source has."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

from dvps_ros.errors import InputError
from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.metrics.class_iou import ClassIou
from dvps_ros.metrics.counts import Classes, PairCounts, count_pairs, id_of
from dvps_ros.metrics.depth import DepthErrors, DepthProtocol
from dvps_ros.metrics.flicker import DepthFlicker
from dvps_ros.metrics.pq import PanopticQuality
from dvps_ros.metrics.stq import SegmentationTrackingQuality
from dvps_ros.metrics.tracks import IdentityStability, match_objects
from dvps_ros.metrics.vpq import VideoPanopticQuality
from dvps_ros.types import PanopticDepth, Sample

DISTANCES_M = ((0, 10), (10, 20), (20, 40), (40, 80))
LAMBDAS = (0.5, 0.25, 0.1)
WINDOWS = (1, 2, 3, 4)
MIN_OBJECT_PX = 200
"""Smaller objects in dense truth are not asked for: about 14 x 14 pixels."""
MIN_OBJECT_POINTS = 20
"""The same for objects that are known by their LiDAR points only."""
SIZES_PX = (0, 8, 16, 32, 64)
"""Least sides of squares of an object's visible area, for the share found of each size."""
NEAR_M = 30.0
"""Objects up to this (median of their true depths, in that frame) are scored once more by themselves."""


class ClipQuality:
    """Scores frames one after the other; keeps counts, no maps.

    Dense truth (classes and ids of every pixel) gives PQ, DVPQ, STQ and objects; sparse truth (depth and ids
    where LiDAR points fell) gives depth errors and objects, scored on these points only. Classes, fine or
    merged as a data set merges them, give their IoU.
    """

    def __init__(self, label_space: LabelSpace) -> None:
        self._label_space = label_space
        self._classes = Classes.of(label_space)
        self._iou: ClassIou | None = None
        self._a_thing = label_space.thing_ids[0]
        self._pq = PanopticQuality(self._classes)
        self._dvpq = VideoPanopticQuality(self._classes, WINDOWS, lambdas=LAMBDAS)
        self._stq = SegmentationTrackingQuality(self._classes)
        self._objects: IdentityStability | None = None
        self._near_objects: IdentityStability | None = None
        self._sighted, self._found = (np.zeros(len(SIZES_PX), np.int64) for _ in range(2))
        """Of each of SIZES_PX."""
        self._all_depth = DepthErrors([DepthProtocol(cap_m=80.0)])
        self._depth_at = {d: DepthErrors([DepthProtocol(cap_m=80.0)]) for d in DISTANCES_M}
        self._flicker = DepthFlicker()
        self._known_px = self._answered_px = 0
        self._dense = False
        self.frames = 0
        self.timelines: dict[int, list[tuple[int, int]]] = {}
        """True object id -> (frame stamp, track id; 0 not found) for each frame in which it is to be seen."""

    def update(self, truth: Sample, maps: PanopticDepth, stamp_ns: int, sequence: Hashable = 0) -> None:
        """Score one frame against the truth of that frame (a clip of one)."""
        self.frames += 1
        if truth.depth_m is not None:
            self._add_depth(truth.depth_m[0], maps.depth_m)
            if truth.moving is not None and truth.world_from_camera is not None:
                pose, static = truth.world_from_camera[0], truth.moving[0] == 0
                self._flicker.update(
                    maps.depth_m, truth.depth_m[0], static, truth.intrinsics[0], pose, sequence
                )
        self._add_classes(truth, maps.class_map)
        if truth.instance_map is None:
            return
        dense = truth.class_map is not None
        instance = truth.instance_map[0]
        if truth.class_map is not None:
            # Things whose identity nobody knows are scored as nothing.
            classes = np.where(instance < 0, np.uint8(VOID), truth.class_map[0])
            instance = np.maximum(instance, 0)
        else:
            # Sparse truth says where objects are, not which class: any thing class will do, the rest is void.
            classes = np.where(instance > 0, np.uint8(self._a_thing), np.uint8(VOID))
        depth_m = truth.depth_m[0] if dense and truth.depth_m is not None else None
        with_depth = depth_m is not None
        pairs = count_pairs(
            classes,
            instance,
            maps.class_map,
            maps.track_map,
            gt_depth=depth_m,
            pr_depth=maps.depth_m if with_depth else None,
            lambdas=LAMBDAS if with_depth else (),
        )
        if dense:
            self._dense = True
            self._add_sizes(pairs)
            self._pq.update(pairs)
            self._stq.update(pairs, sequence)
            if with_depth:
                self._dvpq.update(pairs, sequence)
        least = MIN_OBJECT_PX if dense else MIN_OBJECT_POINTS
        self._add_objects(pairs, least, stamp_ns, sequence)
        if truth.depth_m is not None:
            if self._near_objects is None:
                self._near_objects = IdentityStability(self._classes, min_area_px=least)
            far = np.isin(id_of(pairs.gt), _far_objects(instance, truth.depth_m[0]))
            # What is far is as if nobody knew what is there: a near object's mask may reach over it.
            near = PairCounts(pairs.gt[~far], pairs.pr[~far], pairs.total[~far, None])
            self._near_objects.update(near, sequence)

    def _add_depth(self, truth: np.ndarray, depth_m: np.ndarray) -> None:
        known = (truth > 0) & (truth < 80.0)
        answered = known & np.isfinite(depth_m)
        self._known_px += int(known.sum())
        self._answered_px += int(answered.sum())
        # A pixel without an answer counts in the coverage, not as an error of its whole distance.
        scored = np.where(answered, truth, 0.0)
        self._all_depth.update(scored, depth_m)
        for (near, far), errors in self._depth_at.items():
            errors.update(np.where((scored >= near) & (scored < far), scored, 0.0), depth_m)

    def _add_classes(self, truth: Sample, class_map: np.ndarray) -> None:
        if truth.class_map is not None:
            names, true_map = self._label_space.names, truth.class_map[0]
        elif truth.coarse_map is not None:
            names = tuple("/".join(self._label_space.names[i] for i in g) for g in truth.coarse_groups)
            true_map = truth.coarse_map[0]
            coarse_of = np.full(256, VOID, np.uint8)
            for group, members in enumerate(truth.coarse_groups):
                coarse_of[list(members)] = group
            class_map = coarse_of[class_map]
        else:
            return
        if self._iou is None:
            self._iou = ClassIou(names)
        if self._iou.names != tuple(names):
            raise InputError(f"{truth.source}: expected classes {self._iou.names}, got {tuple(names)}")
        self._iou.update(true_map, class_map)

    def _add_objects(self, pairs: PairCounts, least: int, stamp_ns: int, sequence: Hashable) -> None:
        if self._objects is None:
            self._objects = IdentityStability(self._classes, min_area_px=least)
        matches = match_objects(pairs, self._classes, void="masked", min_area_px=least)
        self._objects.add(matches, sequence)
        for true_object, track in zip(matches.gt, matches.found_by, strict=True):
            line = self.timelines.setdefault(int(id_of(true_object)), [])
            line.append((stamp_ns, max(0, int(track))))

    def _add_sizes(self, pairs: PairCounts) -> None:
        matches = match_objects(pairs, self._classes, void="masked")
        size = np.searchsorted(np.square(SIZES_PX), matches.gt_area, side="right") - 1
        np.add.at(self._sighted, size, 1)
        np.add.at(self._found, size, matches.found_by >= 0)

    def compute(self) -> dict[str, Any]:
        """Plain data for report.json; only the parts that the truth allows.

        ``depth``: abs_rel, rmse (m), delta1 (means over frames, of pixels with an answer and true depth
        under 80 m), coverage (share of such pixels with an answer), flicker (see
        :mod:`dvps_ros.metrics.flicker`; None without true motion), by_distance. ``pq`` {all, things, stuff},
        ``miou`` and ``iou`` {name: IoU}, ``per_class`` {name: pq, tp, fp, fn}, ``dvpq`` {k: {lambda: all}},
        ``stq``. ``objects``: how many there are, found (share of their sightings under a track of whatever
        class), found_in_class (share under a track of the true class; None where the truth has no classes),
        ids_kept (share of the found sightings under the object's most frequent track id), id_switches,
        min_area_px. ``objects_near``: the same of objects within ``within_m``, where depths are known.
        ``objects_by_size`` (dense truth): sightings and found of all objects, however small, by the side of a
        square of their visible area.
        """
        result: dict[str, Any] = {"frames": self.frames}
        if self._known_px:
            result["depth"] = {
                **_short(self._all_depth),
                "coverage": self._answered_px / self._known_px,
                "flicker": self._flicker.compute(),
                "by_distance": {
                    f"{near}-{far} m": _short(errors) for (near, far), errors in self._depth_at.items()
                },
            }
        if self._iou is not None:
            result["miou"], result["iou"] = self._iou.mean(), self._iou.iou()
        if self._dense:
            result["pq"] = {key: self._pq.compute()[key] for key in ("all", "things", "stuff")}
            result["per_class"] = self._per_class()
            result["stq"] = self._stq.compute()
            result["dvpq"] = self._dvpq_table()
            names = [f"{low}-{high} px" for low, high in pairwise(SIZES_PX)] + [f"{SIZES_PX[-1]} px and more"]
            counts = zip(names, self._sighted.tolist(), self._found.tolist(), strict=True)
            result["objects_by_size"] = {
                name: {"sightings": sighted, "found": found / sighted if sighted else None}
                for name, sighted, found in counts
            }
        if self._objects is not None:
            result["objects"] = _object_summary(self._objects, self._dense)
        if self._near_objects is not None:
            result["objects_near"] = {"within_m": NEAR_M, **_object_summary(self._near_objects, self._dense)}
        return result

    def _per_class(self) -> dict[str, dict[str, Any]]:
        rows = self._pq.per_class()
        return {
            name: {key: rows[key][c] for key in ("pq", "tp", "fp", "fn")}
            for c, name in enumerate(self._classes.names)
            if rows["pq"][c] is not None
        }

    def _dvpq_table(self) -> dict[str, Any]:
        return {
            str(k): {str(limit): row["all"] for limit, row in table.items()}
            for k, table in self._dvpq.compute().items()
        }


def _far_objects(instance: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """int64 [n]: ids of the objects in ``instance`` [H,W] that are not known to be near.

    Their median depth is above NEAR_M, or no depth of theirs is known.
    """
    shown = instance > 0
    ids = np.unique(instance[shown])
    shown &= depth_m > 0
    depths = ndimage.median(depth_m, np.where(shown, instance, 0), ids) if len(ids) else np.empty(0)
    near = np.isin(ids, instance[shown]) & (depths <= NEAR_M)
    return ids[~near].astype(np.int64)


def _object_summary(objects: IdentityStability, classes_known: bool) -> dict[str, Any]:
    rows = objects.objects()
    sightings, found = sum(r.frames for r in rows), sum(r.found for r in rows)
    return {
        "objects": len(rows),
        "objects_found": sum(r.found > 0 for r in rows),
        "sightings": sightings,
        "found": found / sightings if sightings else None,
        "found_in_class": sum(r.right_class for r in rows) / sightings
        if sightings and classes_known
        else None,
        "ids_kept": sum(r.kept for r in rows) / found if found else None,
        "id_switches": sum(r.switches for r in rows),
        "min_area_px": objects.min_area_px,
    }


def _short(errors: DepthErrors) -> dict[str, Any]:
    values = errors.compute()["none"]["none"]
    return {key: values[key] for key in ("abs_rel", "rmse", "delta1", "pixels")}
