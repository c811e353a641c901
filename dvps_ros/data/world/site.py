# SPDX-License-Identifier: Apache-2.0
"""The site of one block of street: what those who build on it know, and where they put things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dvps_ros.data.world.agents import Agent
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.markings import CROSSWALK_M
from dvps_ros.data.world.materials import Part
from dvps_ros.data.world.mesh import Mesh
from dvps_ros.data.world.street import Street

BLOCK_M = 40.0
SIDE_STREET_M = 62.0
"""How far a side street reaches."""
FARTHEST_M = 110.0
"""Ground is laid this far beside the road, where the road is straight enough."""


@dataclass(frozen=True)
class Junction:
    """Where the side streets of a block meet the road, whether it has any or not. Metres."""

    middle: float
    """s of its middle."""
    half: float
    """Half the width of its carriageway."""
    walk: float
    """Width of the sidewalks on both sides of it."""
    start: float
    end: float
    """s of the outer edges of those sidewalks."""


@dataclass(frozen=True)
class Site:
    """One block of a street and its random stream; ``parts`` and ``agents`` grow as things are put there.

    s runs along the road, d to the left of its middle line, metres; side 1 is left, -1 right.
    """

    street: Street
    number: int
    rng: np.random.Generator
    s0: float
    """The block begins here."""
    reach: float
    """Farther beside the road, its normals may meet."""
    branch: Branch | None
    """The carriageway that leaves the road on this block or runs beside it."""
    side_streets: tuple[int, ...]
    """Sides on which a side street leaves."""
    junction: Junction
    crosswalk_s: float | None
    parts: list[Part] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)

    @property
    def s1(self) -> float:
        """The block ends here."""
        return self.s0 + BLOCK_M

    # -- where -------------------------------------------------------------------------------------

    def edge(self, side: int) -> float:
        """d of the road's edge."""
        return self.street.section.edge(side)

    def front(self, side: int) -> float:
        """d of the lots' front line."""
        return self.edge(side) + side * (self.street.section.lot + 0.05)

    @property
    def kerb(self) -> float:
        """Height of the ground beside the road."""
        return self.street.section.kerb

    def far_height(self, side: int, s: np.ndarray | float, distance: float) -> np.ndarray | float:
        """Height of the land over the road, ``distance`` metres beyond the lots' front."""
        k = min(max((distance - 12.0) / 70.0, 0.0), 1.2)
        if k == 0.0:
            return self.kerb + 0.0 * s
        phases, top = self.street.land[side]
        hills = top + 2.5 * np.sin(s / 61 + phases[0]) + 1.2 * np.sin(s / 23 + phases[1])
        rise = hills * self.street.relief(side, s)
        if side in self.side_streets:
            beside = (np.abs(s - self.s0 - 0.5 * BLOCK_M) - 11.0) / 9.0
            rise = rise * np.minimum(np.maximum(beside, 0.0), 1.0)
        return self.kerb + rise * k * k * (3 - 2 * min(k, 1.0)) * 2.0

    def far_point(self, side: int, s: float, distance: float) -> float:
        """The same at one point."""
        return float(self.far_height(side, s, distance))

    def on_branch(self, s: float, d: float, margin: float) -> bool:
        """Whether a point is on the carriageway that leaves the road here, or near it."""
        return self.branch is not None and self.branch.covers(s, d, margin)

    def meets_branch(self, s: float, d: float, along: float, deep: float, yaw: float) -> bool:
        """Whether a rectangle around (s, d) reaches onto the branch or its sidewalks."""
        if self.branch is None:
            return False
        c, sn = math.cos(yaw), math.sin(yaw)
        margin = self.street.section.walk + 0.3
        return any(
            self.on_branch(s + a * along * c - b * deep * sn, d + a * along * sn + b * deep * c, margin)
            for a in (-0.5, -0.25, 0.0, 0.25, 0.5)
            for b in (-0.5, -0.2, 0.2, 0.5)
        )

    def free_of_branch(self, s0: float, s1: float, d: float) -> list[tuple[float, float]]:
        """The stretches of s0..s1 that are not on the branch at d."""
        if self.branch is None:
            return [(s0, s1)]
        margin = self.street.section.walk + 0.6
        steps = np.append(np.arange(s0, s1, 1.0), s1)
        free = [not self.on_branch(float(s), d, margin) for s in steps]
        runs: list[tuple[float, float]] = []
        for a, b, ok in zip(steps[:-1], steps[1:], np.logical_and(free[:-1], free[1:]), strict=True):
            if ok and runs and runs[-1][1] == a:
                runs[-1] = (runs[-1][0], float(b))
            elif ok:
                runs.append((float(a), float(b)))
        return [r for r in runs if r[1] - r[0] > 3.0]

    def in_side_street(self, s: float, d: float) -> bool:
        """Whether a point is in a side street or its mouth."""
        side = -1 if d < 0 else 1
        return (
            side in self.side_streets
            and self.junction.start - 0.5 < s < self.junction.end + 0.5
            and -2.6 < side * (d - self.edge(side)) < SIDE_STREET_M
        )

    # -- putting things there ----------------------------------------------------------------------

    def put(
        self,
        mesh: Mesh,
        materials: Sequence[int],
        s: float,
        d: float,
        *,
        up: float = 0.0,
        yaw: float = 0.0,
        scale: float = 1.0,
        instance: int = 0,
        upright: bool = True,
        on_road: bool = False,
    ) -> None:
        """Put a mesh at (s, d), if that is not on a branch or side street.

        Args:
            up: metres over the road's height.
            yaw: from the road's direction, rad.
            upright: or else it follows the grade.
            on_road: it belongs on branches and side streets.
        """
        if not on_road and (self.on_branch(s, d, 0.5) or self.in_side_street(s, d)):
            return
        pose = self.street.route.pose(s, d, up, yaw, upright=upright)
        pose[:3, :3] *= scale
        self.put_posed(mesh, materials, pose, instance)

    def put_at(self, mesh: Mesh, materials: Sequence[int], origin: np.ndarray) -> None:
        """Put a mesh that is built along the world's axes at a point [3] of the world."""
        pose = np.eye(4)
        pose[:3, 3] = origin
        self.put_posed(mesh, materials, pose)

    def put_posed(
        self, mesh: Mesh, materials: Sequence[int], world_from_mesh: np.ndarray, instance: int = 0
    ) -> None:
        """Put a mesh at a pose [4,4] of its own."""
        self.parts.append(Part(self.street.pool.add(mesh), tuple(materials), instance, world_from_mesh))


def draw_site(street: Street, number: int) -> Site:
    """The site of block ``number``: whether streets and a branch leave there, and people may cross."""
    rng = np.random.default_rng([street.seed, 3, number & 0xFFFFFFFF])
    x, s0 = street.section, number * BLOCK_M
    s1 = s0 + BLOCK_M
    bend = np.abs(street.route.at(np.linspace(s0, s1, 9))[:, 4]).max()
    reach = min(FARTHEST_M, 0.8 / max(float(bend), 1e-4))
    sides: tuple[int, ...] = ()
    if rng.random() < street.style.junctions and reach > SIDE_STREET_M + abs(x.left_edge) + 5:
        sides = ((-1, 1), (-1,), (1,))[int(rng.integers(3))]
    branch = street.branch(s0, s1)
    if branch is not None:
        sides = tuple(side for side in sides if side != branch.side)
    if any(fork.turns_in(s0 - BLOCK_M, s1 + BLOCK_M) for fork in street.forks.near(s0, s0)):
        sides = ()  # they need a road that is nearly straight
    half, walk = rng.uniform(2.8, 4.6), 2.0 if x.walk > 0 else 0.6
    middle = s0 + 0.5 * BLOCK_M
    junction = Junction(middle, half, walk, middle - half - walk, middle + half + walk)
    crosswalk_s = None
    if x.walk > 0 and street.markings and rng.random() < (0.7 if sides else 0.3):
        crosswalk_s = junction.start - 1.5 * CROSSWALK_M if sides else middle
    if branch is not None and branch.fork.s < s1 < branch.nose + BLOCK_M:
        crosswalk_s = None
    return Site(street, number, rng, s0, reach, branch, sides, junction, crosswalk_s)
