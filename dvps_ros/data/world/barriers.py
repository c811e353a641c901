# SPDX-License-Identifier: Apache-2.0
"""Walls, hedges, fences and guard rails along the road."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dvps_ros.data.world import shade
from dvps_ros.data.world.materials import FENCE, WALL, grey, hue, pick
from dvps_ros.data.world.mesh import Mesh, box, grid, merge
from dvps_ros.data.world.plants import any_leaves
from dvps_ros.data.world.route import Route
from dvps_ros.data.world.site import Site

POST_EVERY_M = 2.2


class Solid(NamedTuple):
    """A barrier that one cannot see through."""

    low_m: float
    high_m: float
    """Its height is between these."""
    half_m: float
    """Half its thickness."""


class Fence(NamedTuple):
    """A barrier of posts, rails and mostly slats."""

    spacing_m: float | None
    """From slat to slat; None has none."""
    slat_m: float
    """Width of a slat."""
    levels: tuple[float, ...]
    """Heights of the rails, in parts of its own."""
    rail_m: float
    """Height of a rail."""
    wood: bool
    """Or else metal."""


SOLIDS = {
    "wall": Solid(0.7, 2.4, 0.14),
    "hedge": Solid(0.8, 2.0, 0.4),
    "noise": Solid(3.0, 5.0, 0.12),
}
FENCES = {
    "picket": Fence(0.16, 0.10, (0.3, 0.8), 0.1, True),
    "bars": Fence(0.14, 0.025, (0.08, 0.95), 0.035, False),
    "rails": Fence(None, 0.0, (0.35, 0.65, 0.97), 0.1, True),
    "mesh": Fence(0.10, 0.008, (0.05, 0.28, 0.52, 0.75, 0.98), 0.035, False),
}


def barrier(site: Site, kind: str, d: float, s0: float, s1: float, up: float) -> None:
    """A barrier along the road at d, ``up`` metres over it, but not across a branch.

    Args:
        kind: of ``SOLIDS`` or ``FENCES``.
    """
    for a, b in site.free_of_branch(s0, s1, d):
        if kind in SOLIDS:
            _solid(site, kind, d, a, b, up)
        else:
            _fence(site, FENCES[kind], d, a, b, up)


def any_barrier(site: Site, d: float, s0: float, s1: float) -> None:
    """A barrier as they stand before gardens."""
    kind = pick(site.rng, {"wall": 2.5, "hedge": 2.5, "picket": 2, "bars": 2, "rails": 1, "mesh": 1.0})
    barrier(site, kind, d, s0, s1, site.kerb)


def _stations(s0: float, s1: float) -> np.ndarray:
    return np.linspace(s0, s1, max(2, int((s1 - s0) / 4.0) + 1))


def _solid(site: Site, kind: str, d: float, s0: float, s1: float, up: float) -> None:
    route, rng = site.street.route, site.rng
    s = _stations(s0, s1)
    count = len(s)
    centre = route.points(s0, d, up)
    # All heights are drawn, whichever is used: the order of draws is part of what a seed means.
    height = {name: rng.uniform(solid.low_m, solid.high_m) for name, solid in SOLIDS.items()}[kind]
    half = SOLIDS[kind].half_m
    d4 = np.array([half, half, -half, -half])
    z4 = np.array([-0.3, height, height, -0.3])
    wobble = rng.normal(size=(count, 4)) * 0.06 if kind == "hedge" else np.zeros((count, 4))
    points = route.points(s[:, None], d + d4[None] + wobble, up + z4[None] + wobble) - centre
    sheets = []
    for a in range(3):
        v = np.array([z4[a], z4[a + 1]]) + 0.3 * (a == 1) * np.array([0, half * 2])
        uv = np.stack([np.broadcast_to(s[:, None], (count, 2)), np.broadcast_to(v, (count, 2))], -1)
        sheets.append(grid(points[:, a : a + 2], 0, uv=uv))
    material = _solid_material(site, kind)
    site.put_at(merge(sheets, two_sided=True), (material,), centre)
    if kind != "hedge":
        end = box((0.05, 2 * half, height), (0, 0, height / 2), 0)
        for end_s in (s0, s1):
            site.put(end, (material,), end_s, d, up=up)


def _solid_material(site: Site, kind: str) -> int:
    add, rng = site.street.materials.add, site.rng
    if kind == "hedge":
        return any_leaves(site)
    if kind == "noise":
        color = hue(rng, 0.3, rng.uniform(0.15, 0.5))
        return add(shade.PLANKS, WALL, color, params=(rng.uniform(0.3, 4.0),))
    if rng.random() < 0.5:
        color = hue(rng, rng.uniform(0.1, 0.6), rng.uniform(0.12, 0.45), 0.05, 0.04)
        joints = grey(0.4, 0.1, rng)
        return add(shade.BRICK, WALL, color, joints, (rng.uniform(0.22, 0.6), rng.uniform(0.08, 0.25)))
    return add(shade.PLAIN, WALL, grey(rng.uniform(0.25, 0.7), 0.08, rng), params=(0.5, 0.8))


def _fence(site: Site, fence: Fence, d: float, s0: float, s1: float, up: float) -> None:
    route, rng = site.street.route, site.rng
    s = _stations(s0, s1)
    centre = route.points(s0, d, up)
    height = rng.uniform(0.8, 1.9)
    posts = np.arange(s0, s1 + 0.1, POST_EVERY_M)
    meshes = [_boards(route, centre, posts, d, up, 0.09, height + 0.06)]
    if fence.spacing_m is not None:
        slats = np.arange(s0, s1, fence.spacing_m)
        meshes.append(_boards(route, centre, slats, d, up, fence.slat_m, height))
    for level in fence.levels:
        z = np.array([level * height - fence.rail_m / 2, level * height + fence.rail_m / 2])
        points = route.points(s[:, None], d + 0.02, up + z[None]) - centre
        uv = np.stack([np.broadcast_to(s[:, None], (len(s), 2)), np.broadcast_to(z, (len(s), 2))], -1)
        meshes.append(grid(points, 0, uv=uv))
    if fence.wood:
        color = hue(rng, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.6), 0.08, 0.03)
    else:
        color = grey(rng.uniform(0.02, 0.4), 0.2, rng)
    material = site.street.materials.add(shade.PLAIN, FENCE, color, params=(0.5, 4.0))
    site.put_at(merge(meshes, two_sided=True), (material,), centre)


def _boards(
    route: Route, centre: np.ndarray, s: np.ndarray, d: float, up: float, width: float, top: float
) -> Mesh:
    """Flat upright boards at s [N] along the fence: two-sided once they are merged."""
    n = len(s)
    p0 = route.points(s - width / 2, d, up - 0.1) - centre
    p1 = route.points(s + width / 2, d, up - 0.1) - centre
    rise = [0, 0, top + 0.1]
    v = np.stack([p0, p1, p1 + rise, p0 + rise], 1).reshape(-1, 3).astype(np.float32)
    quads = np.arange(n)[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]])
    normal = np.cross(p1 - p0, [0, 0, 1.0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    uv = np.zeros((4 * n, 2), np.float32)
    uv[:, 0] = np.repeat(s, 4)
    uv[:, 1] = v[:, 2]
    return Mesh(
        v,
        np.repeat(normal, 4, 0).astype(np.float32),
        uv,
        quads.reshape(-1, 3).astype(np.int32),
        np.zeros(2 * n, np.uint8),
    )


def guard_rail(site: Site, d: float, s0: float, s1: float) -> None:
    """A folded steel rail on posts."""
    route, steel = site.street.route, site.street.palette.furniture.guard_rail
    s = np.linspace(s0, s1, 11)
    origin = route.points(s0, d)
    z = np.array([0.45, 0.55, 0.6, 0.65, 0.75])
    out = np.array([0.0, 0.05, 0.0, 0.05, 0.0])
    points = route.points(s[:, None], d + out[None], z[None]) - origin
    site.put_at(grid(points, 0), (steel,), origin)
    for at in np.arange(s0, s1, 4.0):
        site.put(box((0.06, 0.1, 0.7), (0, 0, 0.3), 0), (steel,), at, d)
