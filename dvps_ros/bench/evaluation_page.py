# SPDX-License-Identifier: Apache-2.0
"""Collects, while frames are scored, what the page of ``dvps eval --report`` shows."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dvps_ros.labels import VOID, LabelClass, LabelSpace
from dvps_ros.metrics.counts import Classes, class_of, count_pairs, id_of
from dvps_ros.metrics.evaluation import FrameCounts, FramePair
from dvps_ros.metrics.pq import quality_counts
from dvps_ros.metrics.tracks import TrackRecord, match_objects
from dvps_ros.viz.overlay import overlay
from dvps_ros.viz.palette import depth_color, palette_ids
from dvps_ros.viz.score_page import FramePanels, ObjectLine, write_score_page

WORST_FRAMES = 6
NEAR_FRAMES = 10
"""Of so many frames of a sequence only the worst is shown: neighbours look alike."""
WORST_OBJECTS = 40
PANEL_WIDTH_PX = 900
MIN_OBJECT_PX = 100
"""Smaller true objects are not shown in the timelines."""
WRONG_CLASS, WRONG_OBJECT, MISSING = (235, 52, 39), (253, 184, 67), (64, 132, 236)
FULL_ERROR = 0.5
"""Relative depth error at the red end of the error map."""


def score_space(classes: Classes, space: LabelSpace | None) -> LabelSpace:
    """Colours of the scored classes; hues around the circle where there is no label space."""
    if space is not None:
        return space
    hues = np.zeros((classes.count, 1, 3), np.uint8)
    hues[:, 0, 0] = np.arange(classes.count) * 180 // classes.count
    hues[:, 0, 1:] = 150, 220
    colors = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[:, 0].tolist()
    thing = classes.is_thing
    return LabelSpace(
        "scored",
        tuple(LabelClass(c, name, tuple(colors[c]), bool(thing[c])) for c, name in enumerate(classes.names)),
    )


class ReportCollector:
    """Remembers the worst frames by PQ and the least stable objects; pictures are made at the end."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._worst: list[tuple[float, int, str]] = []
        self._worst_near: tuple[float, int, str] | None = None
        self._sequence: str | None = None
        self._frame = 0
        self._lines: dict[int, tuple[TrackRecord, list[tuple[int, int]]]] = {}
        self._unstable: list[tuple[tuple[int, bool, int], int, ObjectLine]] = []
        self._order = itertools.count()

    def add(self, index: int, counts: FrameCounts) -> None:
        """Look at the next frame of its sequence; ``index`` is its place in the source."""
        if counts.sequence != self._sequence:
            self._close()
            self._sequence, self._frame = counts.sequence, 0
        if self._frame % NEAR_FRAMES == 0:
            self._close_near()
        pq = quality_counts(counts.pairs, self._classes)[0].summary(self._classes)["all"]
        if pq is not None and (self._worst_near is None or -pq > self._worst_near[0]):
            self._worst_near = -pq, -index, counts.name
        matches = match_objects(counts.pairs, self._classes, void="masked", min_area_px=MIN_OBJECT_PX)
        rows = zip(matches.gt.tolist(), matches.found_by.tolist(), matches.right_class.tolist(), strict=True)
        for g, found_by, right_class in rows:
            record, line = self._lines.setdefault(g, (TrackRecord(), []))
            record.add(found_by, right_class)
            line.append((self._frame, found_by))
        self._frame += 1

    def _close_near(self) -> None:
        """Keep the worst of the neighbouring frames that end."""
        if self._worst_near is not None:
            heapq.heappush(self._worst, self._worst_near)
            if len(self._worst) > WORST_FRAMES:
                heapq.heappop(self._worst)
        self._worst_near = None

    def _close(self) -> None:
        """Keep the least stable objects of the sequence that ends: by changes of the id, then by frames that
        do not carry the main one; those that were never found come last."""
        self._close_near()
        for g, (record, line) in self._lines.items():
            lost = record.frames - record.kept
            if lost:
                kind = self._classes.names[class_of(g)]
                name = f"{self._sequence}: {kind} {id_of(g)}"
                rank = record.switches, bool(record.found), lost
                heapq.heappush(self._unstable, (rank, -next(self._order), ObjectLine(name, line)))
                if len(self._unstable) > WORST_OBJECTS:
                    heapq.heappop(self._unstable)
        self._lines = {}

    def write(
        self, folder: Path, result: Mapping[str, Any], source: Any, space: LabelSpace | None, title: str
    ) -> Path:
        """Write ``index.html``, reading the worst frames of ``source`` once more.

        Raises:
            InputError: a frame cannot be read, or the page cannot be written.
        """
        self._close()
        space = score_space(self._classes, space)
        frames = []
        for minus_pq, minus_index, name in sorted(self._worst, reverse=True):
            pair = source.load(-minus_index)
            panels = frame_panels(pair, source.image(-minus_index), self._classes, space)
            frames.append(FramePanels(f"{name}: PQ {-100 * minus_pq:.1f} %", panels))
        lines = [line for *_, line in sorted(self._unstable, key=lambda entry: entry[:2], reverse=True)]
        path = folder / "index.html"
        key = [
            ("wrong class", WRONG_CLASS),
            ("right class, wrong object", WRONG_OBJECT),
            ("predicted void", MISSING),
        ]
        write_score_page(path, result, title=title, space=space, frames=frames, key=key, lines=lines)
        return path


def frame_panels(
    pair: FramePair, image: np.ndarray | None, classes: Classes, space: LabelSpace
) -> dict[str, np.ndarray]:
    """Truth and prediction over the image, where labels are wrong, and how wrong depth is."""
    if image is None:
        image = np.full((*pair.gt_sem.shape, 3), 60, np.uint8)
    panels = {
        "truth": overlay(image, _bytes(pair.gt_sem), palette_ids(pair.gt_ins), space),
        "prediction": overlay(image, _bytes(pair.pr_sem), palette_ids(pair.pr_ins), space),
        "label errors": label_errors(pair, image, classes),
    }
    if pair.gt_depth is not None and pair.pr_depth is not None:
        for name, depth_m in (("true depth", pair.gt_depth), ("predicted depth", pair.pr_depth)):
            panels[name] = depth_color(np.ascontiguousarray(depth_m, np.float32))
        panels[f"relative depth error, 0 (blue) to {FULL_ERROR:g} (red)"] = depth_errors(
            pair.gt_depth, pair.pr_depth
        )
    return {name: _shrink(panel) for name, panel in panels.items()}


def label_errors(pair: FramePair, image: np.ndarray, classes: Classes) -> np.ndarray:
    """uint8 [H,W,3]: what is wrong where, over the grey image; black is true void."""
    pairs = count_pairs(pair.gt_sem, pair.gt_ins, pair.pr_sem, pair.pr_ins)
    matches = match_objects(pairs, classes, void="masked")
    known = pair.gt_sem != VOID
    right = known & (pair.gt_sem == pair.pr_sem)
    out = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] // 2, 3, 2)
    out[~known] = 0
    out[known & ~right] = WRONG_CLASS
    thing = right & classes.is_thing[pair.gt_sem] & (pair.gt_ins > 0)
    expected = dict(zip(matches.gt.tolist(), matches.found_by.tolist(), strict=True))
    segment, which = np.unique(
        pair.gt_sem[thing].astype(np.int64) << 32 | pair.gt_ins[thing].astype(np.int64), return_inverse=True
    )
    found_by = np.array([expected.get(int(s), -1) for s in segment], np.int64)
    wrong = np.zeros_like(thing)
    if found_by.size:
        wrong[thing] = found_by[which] != pair.pr_ins[thing]
    out[wrong] = WRONG_OBJECT
    out[known & (pair.pr_sem == VOID)] = MISSING
    return out


def depth_errors(gt: np.ndarray, pr: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3]: relative depth error in turbo colours, black without truth."""
    known = (gt > 0) & np.isfinite(gt)
    error = np.abs(np.where(np.isfinite(pr), pr, 0) - gt) / np.where(known, gt, 1)
    level = np.clip(error / FULL_ERROR * 255, 0, 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.where(known[..., None], colors, np.uint8(0))


def _bytes(class_map: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(class_map, np.uint8)


def _shrink(panel: np.ndarray) -> np.ndarray:
    height, width = panel.shape[:2]
    if width <= PANEL_WIDTH_PX:
        return panel
    size = PANEL_WIDTH_PX, round(height * PANEL_WIDTH_PX / width)
    return cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
