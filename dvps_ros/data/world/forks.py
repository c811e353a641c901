# SPDX-License-Identifier: Apache-2.0
"""Where the road forks: a second carriageway leaves it on one side and goes on.

Either the branch bends away while our road goes on, or our road turns off while the branch goes straight on.
Both are one shape in the coordinates of our road: the branch's distance from it grows with s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvps_ros.data.world.styles import Style

GONE_M = 115.0
"""A branch this far beside the road is out of the drawn ground."""
LONGEST_M = 700.0
RAMP_M = 30.0
"""Before and after a fork, the land and the bends go over from what they are elsewhere."""


@dataclass(frozen=True)
class Fork:
    """A fork of the road. s along the road in metres; side 1 is left, -1 right."""

    s: float
    """The carriageways begin to part here."""
    side: int
    """Of the branch."""
    angle: float
    """Between the two in the end, rad."""
    length: float
    """Until they reach it, metres along our road."""
    turns: bool
    """Our road bends away and the branch goes straight on; else the branch bends."""
    extent: float
    """Until the branch has left the drawn ground, at most."""

    @property
    def end(self) -> float:
        return self.s + self.extent

    def parting(self, s: np.ndarray | float) -> np.ndarray:
        """Angle between the carriageways at s, rad."""
        x = np.clip((np.asarray(s, np.float64) - self.s) / self.length, 0.0, 1.0)
        return self.angle * x * x * (3 - 2 * x)

    def bend(self, s: float) -> float:
        """Curvature that the fork gives our road at s, 1/m."""
        x = (s - self.s) / self.length
        if not self.turns or not 0.0 < x < 1.0:
            return 0.0
        return -self.side * self.angle * 6 * x * (1 - x) / self.length

    def turns_in(self, s0: float, s1: float) -> bool:
        """Whether our road turns off somewhere in s0..s1."""
        return self.turns and self.s < s1 and self.s + self.length > s0

    def presence(self, s: np.ndarray | float) -> np.ndarray:
        """1 along the fork, 0 away from it, with ramps between."""
        before, after = (
            (np.asarray(s) - self.s + RAMP_M) / RAMP_M,
            (self.end + RAMP_M - np.asarray(s)) / RAMP_M,
        )
        return np.clip(np.minimum(before, after), 0.0, 1.0)


class Forks:
    """The forks of one road, drawn as far as somebody looks.

    Args:
        right_only: where a median parts the directions, nobody leaves across it.
    """

    def __init__(self, style: Style, seed: int, density: float, *, right_only: bool = False) -> None:
        self._style, self._density, self._right_only = style, density, right_only
        self._rng = np.random.default_rng([seed, 102])
        self._forks: list[Fork] = []
        self._drawn_to = 0.0

    def near(self, s0: float, s1: float) -> list[Fork]:
        """Forks that are present somewhere in s0..s1."""
        while self._drawn_to < s1 + RAMP_M:
            self._draw()
        return [f for f in self._forks if f.s - RAMP_M < s1 and f.end + RAMP_M > s0]

    def _draw(self) -> None:
        rng, style = self._rng, self._style
        s = self._drawn_to + rng.uniform(60.0, 260.0)
        fast = style.speed[1]
        # A curve that the style's speed allows at 3 m/s^2; it is sharpest in its middle, 1.5 angle / length.
        angle = rng.uniform(0.18, 0.25) if fast > 25 else rng.uniform(0.42, 0.75)
        length = max(40.0, 1.5 * angle * fast**2 / 3.0)
        side = 1 if rng.random() < 0.5 and not self._right_only else -1
        extent = min(length + GONE_M / math.tan(angle) + 20.0, LONGEST_M)
        exists = rng.random() < style.forks * self._density
        fork = Fork(s, side, angle, length, bool(rng.random() < 0.5), extent)
        if exists:
            self._forks.append(fork)
        self._drawn_to = fork.end + 2 * RAMP_M if exists else s
