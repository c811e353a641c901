# SPDX-License-Identifier: Apache-2.0
"""Houses: a box with a procedural facade, a flat or gabled roof, balconies, an awning."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world import shade
from dvps_ros.data.world.materials import BUILDING, Color, grey, hue
from dvps_ros.data.world.mesh import Mesh, box, boxes, facets, merge
from dvps_ros.data.world.site import Site

# Slots of a house.
FACADE, ROOF, TRIM, AWNING = range(4)
EAVES_M = 0.35
"""A gabled roof reaches this far over the walls."""


class Facade(NamedTuple):
    """Parameters of a material of kind ``shade.FACADE``, in the order of its columns there."""

    floor_m: float
    bay_m: float
    """From window to window."""
    window_width: float
    """In bays."""
    window_height: float
    """In floors."""
    shop: float
    """1 has one on the ground floor; so with those below."""
    masonry: float
    height_m: float
    framed: float
    shutters: float
    door_red: float
    door_green: float
    door_blue: float


def building(
    site: Site,
    s: float,
    d: float,
    along: float,
    deep: float,
    height: float,
    *,
    gable: float = 0.0,
    shop: bool = False,
    near: bool = True,
    yaw: float = 0.0,
    side: int = 0,
) -> None:
    """A house whose front, the middle of which is at (s, d), faces the road; not on a branch. Metres.

    Args:
        along: length of its front; ``deep``: from front to back; ``height``: to the eaves.
        gable: from the eaves to the ridge; 0 is a flat roof.
        shop: on the ground floor.
        near: or else it has no small parts.
        yaw: of its front from the road's direction, rad.
        side: where it stands as seen from the road that it faces; 0 is that of d.
    """
    rng, add = site.rng, site.street.materials.add
    side = side or (1 if d > 0 else -1)
    middle = s - 0.5 * side * deep * math.sin(yaw), d + 0.5 * side * deep * math.cos(yaw)
    if site.meets_branch(*middle, along, deep, yaw):
        return
    wall, trim, facade = _draw_facade(rng, height, shop=shop, gabled=gable > 0)
    floors = round(height / facade.floor_m)
    facade_material = add(shade.FACADE, BUILDING, wall, trim, facade)
    if rng.random() < 0.7:
        tile = hue(rng, rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.28), 0.03, 0.03)
    else:
        tile = grey(rng.uniform(0.05, 0.2), 0.1, rng)
    roof_material = add(shade.ROOF, BUILDING, tile, params=(0.28,))
    meshes = [_body(along, deep, height)]
    if gable > 0:
        ridge_along = rng.random() < 0.6 or along > deep * 1.6
        meshes += _gabled_roof(along, deep, height, gable, ridge_along=ridge_along)
        if rng.random() < 0.6:
            at = along * rng.uniform(-0.3, 0.3), deep * 0.15, height + gable * 0.85
            meshes.append(box((0.6, 0.6, 1.6), at, ROOF))
    elif rng.random() < 0.5:
        at = along * rng.uniform(-0.3, 0.3), 0, height + 1.1
        meshes.append(box((along * 0.3, deep * 0.3, 2.2), at, ROOF))
    if near and height > 8 and rng.random() < 0.4:
        meshes.append(_balconies(along, deep, height, floors, side))
    if shop and rng.random() < 0.5:
        at = along * rng.uniform(-0.2, 0.2), -side * (deep / 2 + 0.6), height / floors - 0.35
        meshes.append(box((along * 0.5, 1.3, 0.08), at, AWNING))
    trim_material = add(shade.PLAIN, BUILDING, trim, params=(0.2, 1.0))
    awning_material = add(shade.PLANKS, BUILDING, hue(rng, 0.8, 0.35), params=(0.4,))
    materials = facade_material, roof_material, trim_material, awning_material
    site.put(merge(meshes, two_sided=gable > 0), materials, *middle, up=site.kerb, yaw=yaw)


def _draw_facade(
    rng: np.random.Generator, height: float, *, shop: bool, gabled: bool
) -> tuple[Color, Color, Facade]:
    """Colours of walls and trim, and the facade."""
    masonry = rng.random() < 0.3
    if masonry:
        wall = hue(rng, rng.uniform(0.4, 0.65), rng.uniform(0.12, 0.4), 0.03, 0.03)
    elif rng.random() < 0.6:
        wall = hue(rng, rng.uniform(0.08, 0.4), rng.uniform(0.3, 0.8), 0.10, 0.06)
    else:
        wall = hue(rng, rng.uniform(0.05, 0.45), rng.uniform(0.15, 0.7))
    trim = grey(rng.uniform(0.5, 0.85), 0.04, rng) if rng.random() < 0.75 else hue(rng, 0.6, 0.15)
    door = hue(rng, 0.7, rng.uniform(0.05, 0.3))
    floors = max(1, round(height / rng.uniform(2.8, 3.6)))
    modern = height > 14 and rng.random() < 0.4
    facade = Facade(
        height / floors,
        rng.uniform(2.0, 3.8),
        rng.uniform(0.82, 0.96) if modern else rng.uniform(0.32, 0.55),
        rng.uniform(0.55, 0.85) if modern else rng.uniform(0.42, 0.62),
        float(shop),
        float(masonry),
        height,
        float(rng.random() < 0.6),
        float(gabled and rng.random() < 0.35),
        *door,
    )
    return wall, trim, facade


def _body(along: float, deep: float, height: float) -> Mesh:
    body = box((along, deep, height + 1.0), (0, 0, height / 2 - 0.5), FACADE, top=ROOF)
    # The box stands 1 m deep in the ground: its facade counts from the ground up.
    uv = body.uv - np.array([0, 1.0], np.float32)
    return Mesh(body.vertices, body.normals, uv, body.triangles, body.slots)


def _gabled_roof(along: float, deep: float, height: float, gable: float, *, ridge_along: bool) -> list[Mesh]:
    """Two planes of a roof and the triangles of wall under its ends.

    Args:
        ridge_along: the ridge runs along the front, or else from front to back.
    """
    hx, hy = along / 2 + EAVES_M, deep / 2 + EAVES_M
    if ridge_along:
        front, ridge, back = (
            [(x, y, z) for x in (-hx, hx)] for y, z in ((-hy, height), (0, height + gable), (hy, height))
        )
        top = height + gable * deep / (2 * hy)
        ends = [[(x, -deep / 2, height), (x, deep / 2, height), (x, 0, top)] for x in (along / 2, -along / 2)]
    else:
        front, ridge, back = (
            [(x, y, z) for y in (hy, -hy)] for x, z in ((-hx, height), (0, height + gable), (hx, height))
        )
        top = height + gable * along / (2 * hx)
        ends = [[(-along / 2, y, height), (along / 2, y, height), (0, y, top)] for y in (deep / 2, -deep / 2)]
    planes = [[front[0], front[1], ridge[1], ridge[0]], [ridge[0], ridge[1], back[1], back[0]]]
    return [facets(np.array(planes), ROOF), *(_gable_end(np.array(end, np.float32)) for end in ends)]


def _gable_end(v: np.ndarray) -> Mesh:
    """A triangle [3,3] of facade that looks away from the middle of the house."""
    n = np.cross(v[1] - v[0], v[2] - v[0])
    n = n / np.linalg.norm(n) * np.sign(n @ v[0])
    uv = np.stack([v[:, 1] if abs(n[0]) > 0.5 else v[:, 0], v[:, 2]], 1).astype(np.float32)
    normals = np.tile(n, (3, 1)).astype(np.float32)
    return Mesh(v, normals, uv, np.array([[0, 1, 2]], np.int32), np.full(1, FACADE, np.uint8))


def _balconies(along: float, deep: float, height: float, floors: int, side: int) -> Mesh:
    """Slabs and rails at two windows of each floor but the lowest."""
    at = [(q * along, k * (height / floors)) for k in range(1, floors) for q in (-0.25, 0.25)]
    slabs = [(x, -side * (deep / 2 + 0.55), z) for x, z in at]
    rails = [(x, -side * (deep / 2 + 1.07), z + 0.5) for x, z in at]
    sizes = [(along * 0.2, 1.1, 0.12)] * len(at) + [(along * 0.2, 0.06, 0.95)] * len(at)
    return boxes(np.array(sizes), np.array(slabs + rails), [TRIM] * len(sizes))
