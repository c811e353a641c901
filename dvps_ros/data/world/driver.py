# SPDX-License-Identifier: Apache-2.0
"""Drivers of the ego vehicle that know the truth: one to learn from, and one that errs on purpose.

Who only ever sees a car in the middle of its lane never learns to come back to it (Bojarski et al., 2016).
So training drives are steered by :class:`WanderingDriver`, while the label of each frame is what
:func:`pursuit` would do there.
"""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world.route import WHEELBASE_M, EgoState, Route


def lookahead_m(speed_mps: float) -> float:
    """How far ahead the driver looks: in curves and when coming back, farther when faster."""
    return 4.0 + 0.6 * speed_mps


def pursuit(route: Route, e: EgoState, d: float) -> float:
    """Curvature (1/m, left positive) of the arc from the rear axle to a point of the lane ahead.

    Pure pursuit (Coulter, 1992): k = 2 y / L^2 for a point at distance L, y to the left. On a lane of
    constant curvature it is that curvature.

    Args:
        d: the lane's place beside the middle line, metres to the left.
    """
    curvature = route.point(e.s)[4]
    ahead = lookahead_m(e.speed_mps) / max(1.0 - curvature * d, 0.2)
    x, y, _ = route.points(e.s + ahead, d)
    dx, dy = x - e.x, y - e.y
    left = -dx * math.sin(e.heading) + dy * math.cos(e.heading)
    return 2.0 * left / max(dx * dx + dy * dy, 1.0)


class WanderingDriver:
    """Keeps to changing places in the lane and is pushed off course now and then; for ``Ego.steer``.

    Args:
        d: the lane's place beside the middle line.
        reach_m: how far from the middle of the lane it goes.
    """

    def __init__(self, route: Route, d: float, reach_m: float, rng: np.random.Generator) -> None:
        self._route, self._d, self._reach_m, self._rng = route, d, reach_m, rng
        self._until_s = self._push_until_s = 0.0
        self._offset_m = self._push_per_m = 0.0

    def __call__(self, t: float, e: EgoState) -> float:
        rng = self._rng
        if t >= self._until_s:
            self._until_s = t + rng.uniform(1.5, 5.0)
            self._offset_m = rng.uniform(-1.0, 1.0) * self._reach_m if rng.random() < 0.7 else 0.0
            # A push turns the car by up to 0.12 rad, whatever its speed.
            length_s = rng.uniform(0.3, 0.8)
            turn = rng.uniform(-0.12, 0.12) if rng.random() < 0.6 else 0.0
            self._push_until_s = t + length_s
            self._push_per_m = turn / (length_s * max(e.speed_mps, 3.0))
        curvature = pursuit(self._route, e, self._d + self._offset_m)
        if t < self._push_until_s:
            curvature += self._push_per_m
        return math.atan(WHEELBASE_M * curvature)
