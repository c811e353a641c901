# SPDX-License-Identifier: Apache-2.0
"""Errors of a predicted steering angle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dvps_ros.errors import InputError


class SteeringErrors:
    """Mean squared and absolute error and bias over all samples whose true angle is known.

    The error is prediction minus truth, road-wheel angle in rad, left positive; a positive bias steers
    too far left.
    """

    def __init__(self) -> None:
        self._n = 0
        self._sum = np.zeros(3)
        self._largest = 0.0

    def update(self, gt_rad: np.ndarray, pr_rad: np.ndarray) -> None:
        """Add samples [N]; a truth of NaN is unknown.

        Raises:
            InputError: lengths differ, or a prediction is not finite.
        """
        gt, pr = np.asarray(gt_rad, np.float64), np.asarray(pr_rad, np.float64)
        if gt.shape != pr.shape or gt.ndim != 1:
            raise InputError(f"steering: expected two arrays of one length, got {gt.shape} and {pr.shape}")
        known = ~np.isnan(gt)
        if not np.isfinite(pr[known]).all():
            raise InputError("steering: the prediction holds values that are not finite")
        error = pr[known] - gt[known]
        self._n += error.size
        self._sum += np.sum(error**2), np.abs(error).sum(), error.sum()
        self._largest = max(self._largest, float(np.abs(error).max(initial=0)))

    def merge(self, other: SteeringErrors) -> None:
        self._n += other._n
        self._sum += other._sum
        self._largest = max(self._largest, other._largest)

    def compute(self) -> dict[str, Any]:
        """{mse_rad2, rmse_rad, mae_rad, bias_rad, max_rad, samples}; None without samples."""
        if not self._n:
            return dict.fromkeys(("mse_rad2", "rmse_rad", "mae_rad", "bias_rad", "max_rad")) | {"samples": 0}
        mse, mae, bias = (float(v) for v in self._sum / self._n)
        return {
            "mse_rad2": mse,
            "rmse_rad": math.sqrt(mse),
            "mae_rad": mae,
            "bias_rad": bias,
            "max_rad": self._largest,
            "samples": self._n,
        }
