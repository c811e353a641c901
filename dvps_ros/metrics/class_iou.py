# SPDX-License-Identifier: Apache-2.0
"""Intersection over union of classes, without instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvps_ros.labels import VOID
from dvps_ros.metrics.stq import class_iou


class ClassIou:
    """Counts pixels by true and predicted class; keeps no maps.

    Args:
        names: of the classes of the truth.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._counts = np.zeros((len(names), len(names) + 1), np.int64)

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Add one image.

        Args:
            truth: uint8 [H,W], 255 void (not scored).
            predicted: uint8 [H,W]; any number that is no class is a miss where the truth has one.
        """
        rows, columns = self._counts.shape
        known = truth != VOID
        index = truth[known].astype(np.int64) * columns + np.minimum(predicted[known], rows)
        self._counts += np.bincount(index, minlength=rows * columns).reshape(rows, columns)

    def iou(self) -> dict[str, float | None]:
        """Name -> IoU; None where the truth has none of the class."""
        iou, there = class_iou(self._counts), self._counts.sum(1)
        return {n: float(iou[i]) if there[i] else None for i, n in enumerate(self.names)}

    def mean(self) -> float | None:
        """Over the classes that the truth has; None without any."""
        values = [v for v in self.iou().values() if v is not None]
        return float(np.mean(values)) if values else None
