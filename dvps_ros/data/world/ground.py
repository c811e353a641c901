# SPDX-License-Identifier: Apache-2.0
"""The ground of a block: the road, kerbs, sidewalks, the lots' land, side streets and branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world import shade
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.markings import Markings, branch_markings
from dvps_ros.data.world.materials import ROAD as ROAD_CLASS
from dvps_ros.data.world.mesh import Mesh, facets, merge, ribbons
from dvps_ros.data.world.route import Route
from dvps_ros.data.world.site import FARTHEST_M, SIDE_STREET_M, Site

# Slots of the ground.
ROAD, WALK, GRASS, KERB, FAR, RIGHT_LOT, LEFT_LOT, BRANCH = range(8)
KERBSTONE_M = 0.15
LOT_M = 14.0
"""The ground of the lots reaches this far beyond their front."""
MARKS_M = (0.0, 6.0, LOT_M, 30.0, 60.0, FARTHEST_M)
"""Beyond the front, the land is laid in strips between these."""

Span = tuple[float, float]
Height = Callable[[np.ndarray], np.ndarray | float] | np.ndarray | float


class _Strip(NamedTuple):
    """A strip along the road, its right edge first: float64 [N] each."""

    s: np.ndarray
    d0: np.ndarray
    d1: np.ndarray
    z0: np.ndarray
    z1: np.ndarray
    u: np.ndarray
    v0: np.ndarray
    v1: np.ndarray


class _Strips:
    """Strips side by side, each with hard edges.

    Args:
        count: points along each.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._strips: list[_Strip] = []
        self._slots: list[int] = []

    def add(self, side: int, span: Span, a, za: Height, b, zb: Height, slot: int, uv=None) -> None:
        """A strip outwards from d = a to d = b, face up.

        Args:
            a, b: numbers, or float64 [N]: for each point along it.
            za, zb: heights over the road, the same, or functions of s.
            uv: (u, v at a, v at b) of the texture; s and d where there is none.
        """
        s = np.linspace(span[0], span[1], self._count)
        za, zb = (z(s) if callable(z) else z for z in (za, zb))
        u, va, vb = (s, a, b) if uv is None else uv
        edges = (b, a, zb, za, u, vb, va) if side < 0 else (a, b, za, zb, u, va, vb)
        self._strips.append(_Strip(s, *(np.broadcast_to(q, (self._count,)) for q in edges)))
        self._slots.append(slot)

    def mesh(self, route: Route, origin: np.ndarray) -> Mesh:
        """All strips as one mesh around a point [3] of the world."""
        q = _Strip(*(np.stack(column) for column in zip(*self._strips, strict=True)))
        s, d, z = np.stack([q.s, q.s], -1), np.stack([q.d0, q.d1], -1), np.stack([q.z0, q.z1], -1)
        uv = np.stack([np.stack([q.u, q.u], -1), np.stack([q.v0, q.v1], -1)], -1)
        return ribbons(route.points(s, d, z) - origin, uv, np.array(self._slots))


def ground(site: Site, lots: dict[int, str]) -> None:
    """The ground of a block.

    Args:
        lots: kind of the lot on each side.
    """
    street, x = site.street, site.street.section
    branch, ends = site.branch, (site.s0, site.s1)
    if branch is not None:
        count = 41
    else:
        count = 21 if street.style.curvature > 1 / 300 else 11
    road = _road_material(site)
    strips = _Strips(count)
    origin = street.route.points(site.s0, 0.0)
    for side in (-1, 1):
        if branch is not None and side == branch.side:
            _beside_branch(site, branch, strips, np.linspace(*ends, count))
            continue
        split = side in site.side_streets
        j = site.junction
        for span in [(ends[0], j.start), (j.end, ends[1])] if split else [ends]:
            _beside_road(site, side, span, strips)
        if split:
            _side_street(site, side, strips, origin)
    strips.add(1, ends, x.right_edge, 0.0, x.left_edge, 0.0, ROAD)
    materials = _materials(site, lots, road)
    site.put_at(strips.mesh(street.route, origin), materials, origin)


def _road_material(site: Site) -> int:
    """The street's own, or one whose markings heed a crosswalk and a branch."""
    look, x = site.street.palette.road, site.street.section
    if site.crosswalk_s is None and site.branch is None:
        return look.plain
    markings = replace(look.markings, crosswalk_s=site.crosswalk_s)
    if site.branch is not None and site.branch.fork.s < site.s1 and site.branch.nose > site.s0:
        # The line at the road's edge is broken where the branch leaves.
        markings = markings.broken_at(x.lanes_left_d if site.branch.side > 0 else x.lanes_right_d)
    # The texture goes on from block to block: it has the seed of the plain road.
    return _asphalt(site, markings, seed=site.street.materials.seed(look.plain))


def _asphalt(site: Site, markings: Markings, seed: int = 0) -> int:
    look = site.street.palette.road
    return site.street.materials.add(
        shade.ROAD, ROAD_CLASS, look.asphalt, look.paint, markings.params(), seed=seed
    )


def _materials(site: Site, lots: dict[int, str], road: int) -> tuple[int, ...]:
    """Materials of the ground's slots."""
    street, look = site.street, site.street.palette.ground
    under = {
        "rows": look.yard,
        "blocks": look.yard if site.rng.random() < 0.6 else look.grass,
        "parking": road,
        "field": look.field,
        "rail": look.dirt,
        "forest": look.dirt,
    }
    leaving = road
    if site.branch is not None:
        marked, one_way = street.markings, site.branch.one_way
        street_markings = street.palette.road.markings
        leaving = _asphalt(
            site, branch_markings(street_markings, site.branch.half, marked=marked, one_way=one_way)
        )
    return (
        road,
        look.walk,
        look.grass,
        look.kerb,
        look.field if street.style.name in ("rural", "highway") else look.grass,
        under.get(lots[-1], look.grass),
        under.get(lots[1], look.grass),
        leaving,
    )


def _land_slot(side: int, far_end_m: float) -> int:
    """Slot of the land that ends this far beyond the front."""
    if far_end_m > LOT_M:
        return FAR
    return RIGHT_LOT if side < 0 else LEFT_LOT


def _beside_road(site: Site, side: int, span: Span, strips: _Strips) -> None:
    """Kerb, verge, sidewalk and land on one side of the road."""
    x, e, k = site.street.section, site.edge(side), site.kerb
    inner = e + side * (KERBSTONE_M if k > 0 else 0.0)
    verge = e + side * x.verge if x.verge > 0.2 else inner
    front = verge + side * x.walk
    if k > 0:
        strips.add(side, span, e, 0.0, e, k, KERB)
        strips.add(side, span, e, k, inner, k, KERB)
    if x.verge > 0.2:
        strips.add(side, span, inner, k, verge, k, GRASS)
    if x.walk > 0:
        strips.add(side, span, verge, k, front, k, WALK)
    marks = [min(m, max(site.reach - abs(front), 3.0)) for m in MARKS_M]
    for m0, m1 in zip(marks[:-1], marks[1:], strict=True):
        if m1 - m0 > 0.5:
            low, high = (partial(site.far_height, side, distance=m) for m in (m0, m1))
            a, b = front + side * m0, front + side * m1
            strips.add(side, span, a, low, b, high, _land_slot(side, m1))


def _side_street(site: Site, side: int, strips: _Strips, origin: np.ndarray) -> None:
    """A side street, its sidewalks and kerbs, and the land behind its end."""
    street, j = site.street, site.junction
    e, k = site.edge(side), site.kerb
    end = e + side * SIDE_STREET_M
    kerbs = (j.start + j.walk, j.end - j.walk)
    strips.add(side, kerbs, e, 0.0, end, 0.0, ROAD)
    for span in ((j.start, kerbs[0]), (kerbs[1], j.end)):
        strips.add(side, span, e, k, end, k, WALK if street.section.walk > 0 else GRASS)
    strips.add(side, (j.start, j.end), end, k, end + side * 40.0, k, FAR)
    if k > 0:
        corners = np.array([[(s, e, 0), (s, end, 0), (s, end, k), (s, e, k)] for s in kerbs])
        faces = facets(street.route.points(*np.moveaxis(corners, -1, 0)) - origin)
        site.put_at(merge([faces], two_sided=True), (street.palette.ground.kerb,), origin)


def _beside_branch(site: Site, branch: Branch, strips: _Strips, s: np.ndarray) -> None:
    """The branch's side: our edge, the land between, the branch, and what lies beyond; s float64 [N]."""
    x, side, k = site.street.section, branch.side, site.kerb
    bends = site.street.route.at(s)[:, 4] * side
    limit = min(FARTHEST_M, 0.8 / max(float(bends.max()), 1e-4))
    e, walk = abs(site.edge(side)), WALK if x.walk > 0 else GRASS
    low, high = branch.edges(s)
    inner, outer = np.clip(low, e, limit), np.clip(high, e, limit)
    gap = inner - e
    rise = np.where(gap > 0.05, k, 0.0)
    ours, theirs = np.minimum(x.lot, 0.5 * gap), np.minimum(x.walk + 0.3, 0.5 * gap)

    def out(a, za, b, zb, slot: int, uv=None) -> None:
        """A strip from a to b metres outwards."""
        strips.add(side, (site.s0, site.s1), side * a, za, side * b, zb, slot, uv)

    out(e, 0.0, e, rise, KERB)
    out(e, rise, e + ours, rise, walk)
    out(e + ours, rise, inner - theirs, rise, GRASS)
    out(inner - theirs, rise, inner, rise, walk)
    out(inner, rise, inner, 0.0, KERB)
    turned = np.cos(branch.fork.parting(s))
    across = [(side * (edge - branch.q(s))) * turned for edge in (inner, outer)]
    out(inner, 0.0, outer, 0.0, BRANCH, (branch.arc(s), *across))
    out(outer, 0.0, outer, k, KERB)
    kerbstone = outer + (KERBSTONE_M if k > 0 else 0.0)
    verge = outer + x.verge if x.verge > 0.2 else kerbstone
    front = verge + x.walk
    for a, b, slot in ((outer, kerbstone, KERB), (kerbstone, verge, GRASS), (verge, front, WALK)):
        out(np.minimum(a, limit), k, np.minimum(b, limit), k, slot)
    for m0, m1 in zip(MARKS_M[:-1], MARKS_M[1:], strict=True):
        a, b = (np.minimum(front + m, limit) for m in (m0, m1))
        out(a, k, b, k, _land_slot(side, m1))
