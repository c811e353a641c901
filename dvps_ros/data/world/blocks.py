# SPDX-License-Identifier: Apache-2.0
"""The street in blocks of 40 m: the ground, what stands beside it, and what is parked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvps_ros.data.world.agents import Agent
from dvps_ros.data.world.branchside import branchside
from dvps_ros.data.world.furniture import furnish
from dvps_ros.data.world.ground import ground
from dvps_ros.data.world.kerbside import kerbside
from dvps_ros.data.world.lots import distance, lot
from dvps_ros.data.world.materials import Part, PartArrays, part_arrays, pick
from dvps_ros.data.world.median import median
from dvps_ros.data.world.parked import parking_strip
from dvps_ros.data.world.route import START_M
from dvps_ros.data.world.side_street import side_street
from dvps_ros.data.world.site import BLOCK_M, Site, draw_site
from dvps_ros.data.world.street import Street

CORNER_LOTS = {"rows": "rows", "blocks": "rows", "parking": "rows", "houses": "houses", "park": "park"}
"""What stands at the corners of a side street instead of a lot of each kind; gardens where none is named."""


@dataclass(frozen=True)
class Block:
    """One stretch of street."""

    parts: list[Part]
    """What stands still."""
    agents: list[Agent]
    """Who uses its side streets and its branch."""
    arrays: PartArrays
    """``parts`` in arrays."""
    poses: np.ndarray
    """float64 [P,3,4]: world from each part."""
    lamps: np.ndarray
    """float64 [L,3]: where its street lamps shine, in the world."""


def grow_block(street: Street, number: int) -> Block:
    """The street from s = number * 40 m on; what it needs is added to the street's pool and materials."""
    site = draw_site(street, number)
    kinds = _draw_lots(site)
    # The order is part of what a seed means: all draw from the site's one stream.
    ground(site, kinds)
    for side in (-1, 1):
        if side in site.side_streets:
            kind = CORNER_LOTS.get(kinds[side], "garden")
            lot(site, kind, side, site.s0, site.junction.start)
            lot(site, kind, side, site.junction.end, site.s1)
            side_street(site, side, kind)
        else:
            lot(site, kinds[side], side, site.s0, site.s1)
        distance(site, side)
        kerbside(site, side)
        parking_strip(site, side)
    if street.section.median > 0.5:
        median(site)
    if site.branch is not None:
        branchside(site, site.branch, kinds[site.branch.side])
    if street.more is not None:
        furnish(site, street.more)
    poses = np.array([part.world_from_part for part in site.parts])[:, :3]
    return Block(site.parts, site.agents, part_arrays(site.parts), poses, _lamps(site))


def _draw_lots(site: Site) -> dict[int, str]:
    """Kind of the lot on each side."""
    kinds = {}
    for side in (-1, 1):
        # A lot goes on over two blocks more often than not.
        rng = np.random.default_rng([site.street.seed, 4, side + 1, (site.number // 2) & 0xFFFFFFFF])
        kinds[side] = pick(rng, site.street.style.lots)
    if site.branch is not None and kinds[site.branch.side] in ("rail", "parking"):
        kinds[site.branch.side] = "garden"
    return kinds


def _lamps(site: Site) -> np.ndarray:
    """Middles of the lamps' glass, float64 [L,3]."""
    glass = site.street.palette.furniture.lamp_glass
    at = []
    for part in site.parts:
        if glass in part.materials and part.world_from_part is not None:
            mesh = site.street.pool.mesh(part.mesh)
            shines = mesh.triangles[mesh.slots == part.materials.index(glass)]
            middle = mesh.vertices[shines].reshape(-1, 3).mean(0)
            at.append(part.world_from_part[:3, :3] @ middle + part.world_from_part[:3, 3])
    return np.array(at, np.float64).reshape(-1, 3)


def blocks_between(s0: float, s1: float) -> range:
    """Numbers of the blocks that cover s0..s1 (the road begins at START_M)."""
    first = math.floor(max(s0, START_M + BLOCK_M / 2) / BLOCK_M)
    return range(first, math.floor(s1 / BLOCK_M) + 1)
