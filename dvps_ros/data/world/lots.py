# SPDX-License-Identifier: Apache-2.0
"""Lots: what stands beside the road, kind by kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world import shade, shapes
from dvps_ros.data.world.barriers import any_barrier, barrier
from dvps_ros.data.world.building import building
from dvps_ros.data.world.materials import TERRAIN, grey, pick
from dvps_ros.data.world.mesh import grid, merge, turn_z
from dvps_ros.data.world.parked import parked_car
from dvps_ros.data.world.plants import bush, tree
from dvps_ros.data.world.site import BLOCK_M, Site
from dvps_ros.data.world.vehicles import draw_vehicle


class Lot(NamedTuple):
    """A piece of land on one side of the road, from s = start to end."""

    site: Site
    side: int
    """1 left, -1 right."""
    start: float
    end: float

    @property
    def middle(self) -> float:
        """s of its middle."""
        return 0.5 * (self.start + self.end)

    @property
    def share(self) -> float:
        """Of a block's length."""
        return (self.end - self.start) / BLOCK_M

    def d(self, beyond_m: float) -> float:
        """d of what is this far beyond the lot's front line."""
        return self.site.front(self.side) + self.side * beyond_m

    def up(self, s: float, beyond_m: float) -> float:
        """Height of the land there over the road."""
        return self.site.far_point(self.side, s, beyond_m)


def lot(site: Site, kind: str, side: int, start: float, end: float) -> None:
    """What stands beside the road from s = start to end.

    Args:
        kind: of ``LOTS``.
    """
    LOTS[kind](Lot(site, side, start, end))


def _rows(lot: Lot) -> None:
    """Town houses wall to wall."""
    site, rng = lot.site, lot.site.rng
    s, usual = lot.start, rng.uniform(8, 18)
    while s < lot.end - 3:
        along = min(rng.uniform(8, 20), lot.end - s)
        if lot.end - s - along < 5:
            along = lot.end - s
        height = usual * rng.uniform(0.8, 1.25)
        building(
            site,
            s + along / 2,
            lot.d(rng.choice([0.0, 0.0, 0.6])),
            along - 0.02,
            rng.uniform(9, 14),
            height,
            gable=rng.uniform(2, 4) if rng.random() < 0.5 else 0.0,
            shop=rng.random() < 0.55,
        )
        s += along


def _houses(lot: Lot) -> None:
    """Houses in gardens."""
    site, rng = lot.site, lot.site.rng
    for s in np.arange(lot.start + 7, lot.end - 5, rng.uniform(15, 22)):
        along, setback = rng.uniform(8, 12), rng.uniform(3, 7)
        building(
            site,
            s + rng.uniform(-1, 1),
            lot.d(setback),
            along,
            rng.uniform(8, 11),
            rng.uniform(3.0, 6.5),
            gable=rng.uniform(2, 4),
        )
        if rng.random() < 0.7:
            tree(site, s + along * 0.8, lot.d(rng.uniform(1.5, setback + 1)), rng.uniform(3, 9))
        for _ in range(int(rng.integers(0, 4))):
            at = s + rng.uniform(-7, 7), lot.d(rng.uniform(0.8, 2.5))
            bush(site, *at, rng.uniform(0.6, 1.6), site.kerb)
        if rng.random() < 0.35:
            at = s + along / 2 + 1.6, lot.d(rng.uniform(2.5, 4.0))
            parked_car(site, *at, lot.side * -math.pi / 2 + rng.normal() * 0.05, up=site.kerb)
    if rng.random() < 0.85:
        any_barrier(site, lot.d(0.2), lot.start, lot.middle - 2.0)
        any_barrier(site, lot.d(0.2), lot.middle + 2.0, lot.end)


def _blocks(lot: Lot) -> None:
    """A block of flats behind trees."""
    site, rng = lot.site, lot.site.rng
    setback = rng.uniform(2, 12)
    building(
        site,
        lot.start + 18,
        lot.d(setback),
        rng.uniform(24, 34),
        rng.uniform(12, 16),
        rng.uniform(11, 32),
        shop=rng.random() < 0.2,
    )
    for s in np.arange(lot.start + 3, lot.end, rng.uniform(7, 14)):
        if rng.random() < 0.6:
            tree(site, s, lot.d(rng.uniform(1.0, max(setback - 1, 1.5))), rng.uniform(5, 11))
    if rng.random() < 0.4:
        any_barrier(site, lot.d(0.3), lot.start, lot.end)


def _greenery(lot: Lot, trees: int, *, wild: bool = False) -> None:
    """Trees, as many on a whole block, and bushes; wild ones are bigger and stand farther off too."""
    site, rng = lot.site, lot.site.rng
    for _ in range(max(1, int(trees * lot.share))):
        m = 3.0 + 30 * rng.random() ** 1.5 if wild else rng.uniform(2.5, 26)
        s = rng.uniform(lot.start, lot.end)
        height = rng.uniform(5, 14) * (1.3 if wild else 1.0)
        tree(site, s, lot.d(m), height, fine=m < 12, up=lot.up(s, m) - 0.1)
    for _ in range(int(rng.integers(2, 8))):
        m = rng.uniform(0.8, 8)
        s = rng.uniform(lot.start, lot.end)
        bush(site, s, lot.d(m), rng.uniform(0.6, 2.6), lot.up(s, m) - 0.05)


def _maybe_fenced(lot: Lot, chance: float) -> None:
    if lot.site.rng.random() < chance:
        any_barrier(lot.site, lot.d(0.25), lot.start, lot.end)


def _park(lot: Lot) -> None:
    """Trees before a building."""
    rng = lot.site.rng
    _greenery(lot, 7)
    building(
        lot.site,
        lot.middle,
        lot.d(rng.uniform(25, 45)),
        rng.uniform(12, 30) * lot.share,
        12,
        rng.uniform(6, 22),
        gable=3.0 if rng.random() < 0.5 else 0.0,
    )
    _maybe_fenced(lot, 0.5)


def _garden(lot: Lot) -> None:
    _greenery(lot, 4)
    _maybe_fenced(lot, 0.5)


def _forest(lot: Lot) -> None:
    _greenery(lot, 16, wild=True)
    _maybe_fenced(lot, 0.15)


def _enclosed(lot: Lot, *, wall: bool) -> None:
    """Trees and mostly a building behind a wall or fence."""
    site, rng = lot.site, lot.site.rng
    kind = "wall" if wall else pick(rng, {"bars": 1, "mesh": 1, "picket": 0.6})
    barrier(site, kind, lot.d(0.2), lot.start, lot.end, site.kerb)
    for _ in range(5):
        at = rng.uniform(lot.start, lot.end), lot.d(rng.uniform(3, 20))
        tree(site, *at, rng.uniform(5, 12), fine=False)
    if rng.random() < 0.6:
        building(
            site,
            lot.middle,
            lot.d(rng.uniform(6, 16)),
            rng.uniform(14, 32),
            12,
            rng.uniform(4, 14),
            gable=2.5 if rng.random() < 0.5 else 0.0,
        )


def _parking(lot: Lot) -> None:
    """Two rows of parked cars before a building."""
    site, rng = lot.site, lot.site.rng
    for m in (3.0, 11.0):
        for s in np.arange(lot.start + 1.5, lot.end - 1, 2.7):
            if rng.random() < 0.6:
                yaw = lot.side * math.pi / 2 * (1 if rng.random() < 0.5 else -1)
                parked_car(site, s, lot.d(m), yaw, up=site.kerb)
    building(site, lot.middle, lot.d(22), rng.uniform(20, 38), 12, rng.uniform(6, 14))
    tree(site, lot.start + 1, lot.d(7), rng.uniform(4, 7))


def _noise_barrier(lot: Lot) -> None:
    site, rng = lot.site, lot.site.rng
    barrier(site, "noise", lot.d(1.0), lot.start, lot.end, site.kerb)
    for _ in range(5):
        at = rng.uniform(lot.start, lot.end), lot.d(rng.uniform(4, 12))
        tree(site, *at, rng.uniform(6, 13), fine=False)


def _field(lot: Lot) -> None:
    """Open land with a row of trees far off."""
    site, rng = lot.site, lot.site.rng
    for _ in range(int(rng.integers(0, 3))):
        m, s = rng.uniform(3, 9), rng.uniform(lot.start, lot.end)
        tree(site, s, lot.d(m), rng.uniform(4, 11), up=lot.up(s, m) - 0.1)
    for _ in range(9):
        m, s = rng.uniform(45, 85), rng.uniform(lot.start, lot.end)
        tree(site, s, lot.d(m), rng.uniform(6, 14), fine=False, up=lot.up(s, m) - 0.2)
    if rng.random() < 0.2:
        building(site, lot.middle, lot.d(rng.uniform(30, 60)), 14, 10, 5.0, gable=3.5)


def _rail(lot: Lot) -> None:
    """A railway beside the road, with a train on it now and then."""
    site, rng, street = lot.site, lot.site.rng, lot.site.street
    route, dark_pole = street.route, street.palette.furniture.dark_pole
    d, middle = lot.d(6.0), site.s0 + 20
    up = lot.up(middle, 6.0) + 0.05
    steel = street.materials.add(shade.PLAIN, TERRAIN, grey(0.12, 0.1, rng), params=(0.3, 1.0))
    s = site.s0 + np.linspace(0, BLOCK_M, 11)
    origin = route.points(site.s0, d, up)
    rails = []
    for k in (-0.72, 0.72):
        rails.append(grid(route.points(s[:, None], d + k + np.array([[-0.04, 0.04]]), up + 0.18) - origin, 0))
    site.put_at(merge(rails, two_sided=True), (steel,), origin)
    if rng.random() < 0.75:
        train, materials = draw_vehicle(street, "rail", rng)
        instance = street.new_instance()
        site.put(train.whole, materials, middle, d, up=up, instance=instance, upright=False)
    if rng.random() < 0.6:
        barrier(site, "mesh", lot.d(0.4), site.s0, site.s1, site.kerb)
    for k in (5.0, 25.0):
        site.put(shapes.pole(7.0, 0.12), (dark_pole,), site.s0 + k, d + lot.side * 3.0, up=up)


LOTS: dict[str, Callable[[Lot], None]] = {
    "rows": _rows,
    "houses": _houses,
    "blocks": _blocks,
    "park": _park,
    "garden": _garden,
    "forest": _forest,
    "wall": partial(_enclosed, wall=True),
    "fence": partial(_enclosed, wall=False),
    "parking": _parking,
    "barrier": _noise_barrier,
    "field": _field,
    "rail": _rail,
}


def distance(site: Site, side: int) -> None:
    """Something always stands far off, so that the horizon is not empty."""
    rng, street, lot = site.rng, site.street, Lot(site, side, site.s0, site.s1)
    for _ in range(5):
        m, s = rng.uniform(40, 75), rng.uniform(lot.start, lot.end)
        if street.style.name in ("city", "avenue", "residential") and rng.random() < 0.5:
            building(
                site,
                s,
                lot.d(m),
                rng.uniform(10, 25),
                12,
                rng.uniform(6, 26),
                gable=3.0 if rng.random() < 0.5 else 0.0,
                near=False,
            )
        else:
            tree(site, s, lot.d(m), rng.uniform(7, 15), fine=False, up=lot.up(s, m) - 0.2)
    if site.number % 3 == 0 and rng.random() < 0.6:
        size = rng.uniform(50, 140)
        mesh = shapes.hill(int(rng.integers(3)))
        pose = street.route.pose(lot.start, lot.d(130 + size), -8.0)
        pose[:3, :3] = turn_z(rng.uniform(0, 6)) @ np.diag([size, size, rng.uniform(12, 45)])
        look = street.palette
        cover = look.plants.leaves[0] if rng.random() < 0.6 else look.ground.grass
        site.put_posed(mesh, (cover,), pose)
