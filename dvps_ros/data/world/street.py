# SPDX-License-Identifier: Apache-2.0
"""The street of one seed: its course, cross-section and looks, which its blocks and its traffic share."""

from __future__ import annotations

import numpy as np

from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.forks import Fork, Forks
from dvps_ros.data.world.materials import Materials, Pool
from dvps_ros.data.world.palette import draw_more, draw_palette
from dvps_ros.data.world.route import Route
from dvps_ros.data.world.styles import STYLES, draw_section


class Street:
    """A street without anything on it. It knows nothing of who puts things into its pool.

    Args:
        style: a name in ``STYLES``.
        rng: the street's own stream, used until the street is drawn.
        forks: density of forks, 0 to 1.
        rich: there are more kinds of things on it, and more of them.
    """

    def __init__(self, seed: int, style: str, rng: np.random.Generator, *, forks: float, rich: bool = False):
        self.seed, self.style = seed, STYLES[style]
        self.section = draw_section(self.style, rng)
        self.forks = Forks(self.style, seed, forks, right_only=self.section.median > 0.5)
        self.route = Route(self.style, seed, self.forks)
        self.materials, self.pool = Materials(), Pool()
        self._branches: dict[Fork, Branch] = {}
        self._instances = 0
        self.land = {side: (rng.uniform(0, 6.28, 2), rng.uniform(-2.0, 5.0)) for side in (-1, 1)}
        """By side: phases of the hills, and the height that the land rises to, metres."""
        self.palette = draw_palette(self.materials, self.style, self.section, rng)
        self.more = draw_more(self.materials, np.random.default_rng([seed, 50])) if rich else None
        """Looks of what only rich streets have; None on others."""
        self.speed = float(rng.uniform(*self.style.speed))
        """Of the ego vehicle on a free road, m/s; 0 in a world that stands still."""
        if rng.random() < 0.08:
            self.speed = 0.0

    @property
    def markings(self) -> bool:
        """Whether its lanes have lines between them."""
        return self.palette.road.marked

    def branch(self, s0: float, s1: float) -> Branch | None:
        """The carriageway that leaves our road somewhere in s0..s1, or runs beside it there."""
        for fork in self.forks.near(s0, s1):
            if fork.s < s1 and fork.end > s0:
                if fork not in self._branches:
                    one_way = self.style.name == "highway"
                    self._branches[fork] = Branch(fork, self.route, self.section, one_way=one_way)
                return self._branches[fork]
        return None

    def relief(self, side: int, s: np.ndarray | float) -> np.ndarray | float:
        """Share of the land's hills that there is at s: none along a branch."""
        s = np.asarray(s, np.float64)
        forks = [f for f in self.forks.near(float(s.min()), float(s.max())) if f.side == side]
        return 1.0 - max((f.presence(s) for f in forks), key=np.max, default=0.0)

    def new_instance(self) -> int:
        """An instance's number that nobody has yet, from 1 on."""
        self._instances += 1
        return self._instances
