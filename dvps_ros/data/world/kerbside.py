# SPDX-License-Identifier: Apache-2.0
"""What stands at the edge of the road: lamps, signs, lights, street trees, bins, bicycles."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.barriers import guard_rail
from dvps_ros.data.world.mesh import box
from dvps_ros.data.world.parked import parked_bicycle, parked_motorcycle
from dvps_ros.data.world.plants import tree
from dvps_ros.data.world.signs import gantry, signpost, traffic_light
from dvps_ros.data.world.site import Site


def kerbside(site: Site, side: int) -> None:
    """What stands at the road's edge on one side."""
    street, rng, x = site.street, site.rng, site.street.section
    name, e = street.style.name, site.edge(side)
    d = e + side * (0.45 if x.kerb > 0 else 1.0)
    _lamp(site, side, d)
    for _ in range(int(rng.integers(0, 4))):
        signpost(site, site.s0 + rng.uniform(2, 38), d + side * rng.uniform(0, 0.3), side)
    if site.crosswalk_s is not None and rng.random() < 0.8:
        reach = 3.5 * -side if rng.random() < 0.35 else 0.0
        traffic_light(site, site.crosswalk_s - 1.5, d, reach=reach, facing=side < 0)
        traffic_light(site, site.crosswalk_s + 4.5, d, reach=0.0, facing=side > 0)
    if x.walk > 0:
        _on_sidewalk(site, side)
    if name == "highway" and rng.random() < 0.5:
        for a, b in site.free_of_branch(site.s0, site.s1, e + side * 0.6):
            guard_rail(site, e + side * 0.6, a, b)
    if name in ("highway", "avenue") and site.number % 5 == 2 and side < 0 and rng.random() < 0.8:
        if site.branch is None:
            gantry(site)
    if name in ("rural", "residential") and side > 0 and street.seed % 2 == 0:
        _power_pole(site, e + side * (x.lot + 0.4))


def _lamp(site: Site, side: int, d: float) -> None:
    street, rng = site.street, site.rng
    kind = np.random.default_rng([street.seed, 7]).choice(["arm", "arm", "arm", "post"])
    lamps = street.style.name != "rural" or rng.random() < 0.2
    # Along narrow sidewalks they stand on the two sides in turn.
    if lamps and (street.section.lot > 4.0 or (side < 0) == (site.number % 2 == 0)):
        furniture = street.palette.furniture
        site.put(
            shapes.lamp(str(kind)),
            (furniture.metal, furniture.lamp_glass),
            site.s0 + 4 + rng.uniform(-1, 1),
            d,
            up=site.kerb,
            yaw=-math.pi / 2 if side > 0 else math.pi / 2,
        )


def _on_sidewalk(site: Site, side: int) -> None:
    """Trees, bollards, parked two-wheelers and bins."""
    furniture, rng, x = site.street.palette.furniture, site.rng, site.street.section
    e, up = site.edge(side), site.kerb
    if rng.random() < 0.45:
        step = rng.uniform(7, 13)
        d = e + side * (0.9 if x.verge < 1 else x.verge * 0.55)
        for s in np.arange(site.s0 + 2, site.s1, step):
            tree(site, s + rng.normal() * 0.5, d, rng.uniform(5, 13), up=up)
    if rng.random() < 0.15:
        for s in np.arange(site.s0, site.s1, 2.0):
            site.put(shapes.pole(0.95, 0.06), (furniture.dark_pole,), s, e + side * 0.35, up=up)
    if rng.random() < 0.45:
        for k in range(int(rng.integers(1, 7))):
            parked_bicycle(site, site.s0 + 10 + 0.7 * k, e + side * (x.lot - 0.9))
    if rng.random() < 0.3:
        parked_motorcycle(site, site.s0 + rng.uniform(3, 35), e + side * 0.9)
    for _ in range(int(rng.integers(0, 2))):
        materials = furniture.clutter[int(rng.integers(3))], furniture.clutter[0]
        at = site.s0 + rng.uniform(0, 40), e + side * (x.lot - 0.4)
        site.put(shapes.bin_box(), materials, *at, up=up, yaw=rng.uniform(0, 6))


def _power_pole(site: Site, d: float) -> None:
    wood = (site.street.palette.furniture.dark_pole,)
    site.put(shapes.pole(8.0, 0.11), wood, site.s0 + 10, d)
    site.put(box((0.1, 1.8, 0.12), (0, 0, 7.4), 0), wood, site.s0 + 10, d)
