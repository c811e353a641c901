# SPDX-License-Identifier: Apache-2.0
"""Trees and bushes."""

from __future__ import annotations

from dvps_ros.data.world import shapes
from dvps_ros.data.world.site import Site


def tree(site: Site, s: float, d: float, height: float, *, fine: bool = True, up: float = 0.0) -> None:
    """A tree of a kind that grows on this street, not on a branch.

    Args:
        fine: seen from near.
    """
    plants, rng = site.street.palette.plants, site.rng
    kind = plants.tree_kinds[int(rng.integers(len(plants.tree_kinds)))]
    if site.on_branch(s, d, 1.5):
        return
    mesh = shapes.tree(kind, int(rng.integers(3)), fine, fine and site.street.more is not None)
    leaves = plants.fir if kind == "conifer" else any_leaves(site)
    site.put(mesh, (plants.bark, leaves), s, d, up=up, yaw=rng.uniform(0, 6.28), scale=height)


def bush(site: Site, s: float, d: float, size: float, up: float = 0.0) -> None:
    """A bush, ``size`` metres high."""
    mesh = shapes.bush(int(site.rng.integers(4)))
    materials = site.street.palette.plants.bark, any_leaves(site)
    site.put(mesh, materials, s, d, up=up, yaw=site.rng.uniform(0, 6.28), scale=size)


def any_leaves(site: Site) -> int:
    """Material of leaves."""
    return site.street.palette.plants.leaves[int(site.rng.integers(4))]
