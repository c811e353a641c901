# SPDX-License-Identifier: Apache-2.0
"""What parts the directions of a wide road."""

from __future__ import annotations

import numpy as np

from dvps_ros.data.world import shade
from dvps_ros.data.world.barriers import barrier, guard_rail
from dvps_ros.data.world.materials import WALL, grey
from dvps_ros.data.world.mesh import box, grid
from dvps_ros.data.world.plants import tree
from dvps_ros.data.world.site import BLOCK_M, Site


def median(site: Site) -> None:
    """A barrier on a highway, else a strip of grass between kerbs."""
    if site.street.style.name == "highway":
        _highway_median(site)
    else:
        _green_median(site)


def _highway_median(site: Site) -> None:
    street, d = site.street, site.street.section.median / 2
    kind = np.random.default_rng([street.seed, 8]).choice(["wall", "rail", "hedge"])
    if kind == "rail":
        guard_rail(site, d, site.s0, site.s1)
    elif kind == "hedge":
        barrier(site, "hedge", d, site.s0, site.s1, 0.0)
    else:
        mesh = box((BLOCK_M / 8, 0.35, 0.85), (0, 0, 0.42), 0)
        concrete = grey(0.4, 0.05, site.rng)
        material = street.materials.add(shade.PLAIN, WALL, concrete, params=(0.4, 1.0))
        for k in range(8):
            site.put(mesh, (material,), site.s0 + (k + 0.5) * BLOCK_M / 8, d)


def _green_median(site: Site) -> None:
    street, rng, d = site.street, site.rng, site.street.section.median / 2
    ground = street.palette.ground
    s = site.s0 + np.linspace(0, BLOCK_M, 11)
    origin = street.route.points(site.s0, d)
    across = d + (d - 0.15) * np.array([[-1, -1, 1, 1]])
    up = 0.13 * np.array([[0, 1, 1, 0]])
    points = street.route.points(s[:, None], across, up) - origin
    kerb_grass_kerb = np.tile([[1, 0, 1]], (10, 1))
    site.put_at(grid(points, kerb_grass_kerb, crease_deg=30.0), (ground.grass, ground.kerb), origin)
    if rng.random() < 0.6:
        for at in np.arange(site.s0 + 3, site.s1, 9.0):
            tree(site, at, d, rng.uniform(4, 8), up=0.1)
