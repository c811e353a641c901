# SPDX-License-Identifier: Apache-2.0
"""What moves: agents, and the times between which they do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dvps_ros.data.world.materials import Part, part_arrays

Span = tuple[float, float]
"""From one time to another, seconds."""
ALWAYS: Span = (-math.inf, math.inf)
NEVER: Span = (math.inf, -math.inf)


class Agent:
    """Something that moves along the road: its parts and where they are at a time."""

    def __init__(
        self,
        parts: list[Part],
        motion: Callable[[float], list[np.ndarray]],
        moving: Span,
        length: float,
        *,
        during: Span = ALWAYS,
        along: Callable[[float], float] | None = None,
        speed: float = 0.0,
        d: float = 0.0,
    ):
        """
        Args:
            motion: time -> world from each part.
            moving: it moves over ground between these times.
            during: it is there between these times.
            along: time -> s, for who has others behind, at about ``speed``; ``d`` beside the middle line.
        """
        self.parts, self.moving, self.length, self.during = parts, moving, length, during
        self.along, self.speed, self.d = along, speed, d
        self.arrays = part_arrays(parts)
        self._motion = motion
        self._known: dict[float, list[np.ndarray]] = {}

    def is_moving(self, t: float) -> bool:
        return self.moving[0] <= t <= self.moving[1]

    def poses(self, t: float) -> list[np.ndarray]:
        """World from each part at time t, float64 [4,4] each."""
        # Each frame asks for its own time and for the one before: the last two answers are kept.
        if t not in self._known:
            if len(self._known) == 2:
                del self._known[min(self._known)]
            self._known[t] = self._motion(t)
        return self._known[t]
