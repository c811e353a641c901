# SPDX-License-Identifier: Apache-2.0
"""Results of the pipeline in a data set's official format, for its evaluator or challenge server."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dvps_ros.data.layout import NUMBERS_A_CLASS, FrameFiles, Layout
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import PanopticDepth

FARTHEST_M = 255.99
"""Largest depth of a 16-bit file, for what is farther; 0 would be no prediction at all."""


class PredictionWriter:
    """Writes the frames of one sequence after another.

    Track ids become numbers that the format can hold: of each class its own, from 1, constant over a
    sequence. An object whose class changes is another one from there on, as official evaluators have it.

    Args:
        root: folder that becomes what ``dvps eval --pred`` takes.
    """

    def __init__(self, layout: Layout, root: Path, split: str) -> None:
        self._layout, self._root, self._split = layout, root, split
        self._sequence = ""
        self._numbers: dict[int, dict[int, int]] = {}
        self._class_of = _from_project(layout)
        self.lost: set[tuple[str, int]] = set()
        """(Sequence, class and track) of objects beyond :data:`NUMBERS_A_CLASS` of their class, whose pixels
        were written as void."""

    def add(self, files: FrameFiles, maps: PanopticDepth) -> FrameFiles:
        """Write a frame.

        Raises:
            OutputError: a file cannot be written.
        """
        if files.sequence != self._sequence:
            self._sequence, self._numbers = files.sequence, {}
        class_map = self._class_of[maps.class_map]
        instance_map = np.zeros(class_map.shape, np.int32)
        things = self._layout.classes.is_thing
        packed = class_map.astype(np.int64) << 16 | maps.track_map
        for value in np.unique(packed[things[class_map] & (maps.track_map > 0)]).tolist():
            numbers = self._numbers.setdefault(value >> 16, {})
            track = value & 0xFFFF
            if track not in numbers and len(numbers) == NUMBERS_A_CLASS:
                self.lost.add((files.sequence, value))
                class_map[packed == value] = VOID
                continue
            instance_map[packed == value] = numbers.setdefault(track, len(numbers) + 1)
        # A thing that no object claims is no thing: official formats would make one object of all of them.
        class_map[things[class_map] & (instance_map == 0)] = VOID
        depth_m = None
        if self._layout.has_depth:
            depth_m = np.nan_to_num(maps.depth_m, nan=FARTHEST_M, posinf=FARTHEST_M).clip(0, FARTHEST_M)
        return self._layout.write(
            self._root,
            self._split,
            files.sequence,
            files.frame,
            class_map=class_map,
            instance_map=self._layout.packed_ids(class_map, instance_map),
            depth_m=depth_m,
            predicted=True,
        )


def _from_project(layout: Layout) -> np.ndarray:
    """uint8 [256]: class of the project -> the data set's first class that means it, else VOID."""
    theirs = np.arange(len(layout.space), dtype=np.uint8)
    table = np.full(256, VOID, np.uint8)
    for their, ours in zip(theirs[::-1], layout.to_project(theirs)[::-1], strict=True):
        if ours < len(CITYSCAPES):
            table[ours] = their
    return table
