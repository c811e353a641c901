# SPDX-License-Identifier: Apache-2.0
"""``dvps eval --dataset steering-log``: predicted angles against those that were driven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data.steering_log import open_steering_log
from dvps_ros.errors import InputError
from dvps_ros.metrics.steering import SteeringErrors


def score_steering(gt: Path, pred: Path) -> dict[str, Any]:
    """The JSON of two steering logs; frames are matched by their time.

    Raises:
        InputError: a log cannot be read, the prediction has other times than the truth, or lacks an angle.
    """
    truth, guess = open_steering_log(gt), open_steering_log(pred)
    for name, other, ours, theirs in (
        (pred, gt, guess.stamps_ns, truth.stamps_ns),
        (gt, pred, truth.stamps_ns, guess.stamps_ns),
    ):
        alone = np.setdiff1d(ours, theirs)
        if alone.size:
            raise InputError(
                f"{name}: {alone.size} of {len(ours)} frames are not in {other}, "
                f"the first is at {alone[0]} ns"
            )
    missing = np.isnan(guess.steering_rad) & ~np.isnan(truth.steering_rad)
    if missing.any():
        first = int(guess.stamps_ns[missing][0])
        raise InputError(f"{pred}: expected an angle for every frame of {gt}, the one at {first} ns has none")
    errors = SteeringErrors()
    errors.update(truth.steering_rad, guess.steering_rad)
    return {
        "frames": len(truth),
        "sequences": 1,
        "steering": errors.compute(),
        "undefined": [] if errors.compute()["samples"] else ["steering: the truth holds no angle"],
        "warnings": [],
        "rules": {"steering": "road-wheel angle, rad, left positive; frames without a true angle left out"},
    }
