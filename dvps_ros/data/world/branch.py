# SPDX-License-Identifier: Apache-2.0
"""The second carriageway of a fork, in the coordinates of our road."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world.forks import Fork
from dvps_ros.data.world.route import Route
from dvps_ros.data.world.styles import CrossSection


class Branch:
    """The carriageway that leaves: where it is beside our road. q is metres outwards, ``d = side * q``."""

    def __init__(self, fork: Fork, route: Route, section: CrossSection, *, one_way: bool) -> None:
        self.fork, self.side = fork, fork.side
        self.half = 0.5 * section.lane_width + 0.6 if one_way else section.lane_width + 0.25
        self.one_way = one_way
        edge = section.left_edge if fork.side > 0 else -section.right_edge
        self._s = np.arange(fork.s, fork.end + 1.0)
        curvature = route.at(self._s)[:, 4]
        slope = np.tan(fork.parting(self._s))
        q = [edge - self.half]
        for k in range(len(self._s) - 1):
            # A metre of s is 1 - curvature * d metres long beside the middle line.
            q.append(q[-1] + max(1.0 - curvature[k] * fork.side * q[-1], 0.05) * slope[k])
        self._q = np.array(q)
        step = np.diff(self._s) * np.maximum(1.0 - curvature[:-1] * fork.side * self._q[:-1], 0.05)
        self._arc = np.concatenate([[0.0], np.cumsum(np.hypot(step, np.diff(self._q)))])
        beyond = np.flatnonzero(self._q + self.half > edge + 0.5)
        self.mouth = float(self._s[beyond[0]])
        """s at which it leaves our road."""
        parted = np.flatnonzero(self._q - self.half > edge + 1.6)
        self.nose = float(self._s[parted[0]])
        """s at which there is land between the two."""

    def q(self, s: np.ndarray | float) -> np.ndarray:
        """Its middle."""
        return np.interp(s, self._s, self._q)

    def edges(self, s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Its inner and outer edge."""
        q, half = self.q(s), self.half / np.cos(self.fork.parting(s))
        return q - half, q + half

    def arc(self, s: np.ndarray | float) -> np.ndarray:
        """Metres along it."""
        return np.interp(s, self._s, self._arc)

    def yaw(self, s: float) -> float:
        """Its direction from our road's, rad, left positive."""
        return self.side * float(self.fork.parting(s))

    def beside(self, s: float, left: float) -> float:
        """d of a point ``left`` metres to the left of its middle."""
        return self.side * float(self.q(s)) + left / math.cos(float(self.fork.parting(s)))

    def covers(self, s: float, d: float, margin: float = 0.0) -> bool:
        """Whether a point is on it, or closer to it than ``margin``."""
        if not self.fork.s <= s <= self.fork.end:
            return False
        low, high = self.edges(s)
        return bool(low - margin < self.side * d < high + margin)
