# SPDX-License-Identifier: Apache-2.0
"""Side streets: houses, parked cars, one who waits and one who drives away."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world.agents import ALWAYS, Agent
from dvps_ros.data.world.building import building
from dvps_ros.data.world.materials import pick
from dvps_ros.data.world.parked import parked_car
from dvps_ros.data.world.plants import tree
from dvps_ros.data.world.route import EGO_START_M
from dvps_ros.data.world.signs import signpost
from dvps_ros.data.world.site import SIDE_STREET_M, Site
from dvps_ros.data.world.vehicles import draw_vehicle, on_wheels


def side_street(site: Site, side: int, kind: str) -> None:
    """What stands and drives in the side street of one side.

    Args:
        kind: of the lots at its corners, see ``lots.LOTS``.
    """
    rng, e, j = site.rng, site.edge(side), site.junction
    tall = kind == "rows"
    height = rng.uniform(8, 16)
    for flank in (-1, 1):
        _flank(site, side, flank, kind, height)
    if tall:
        building(site, j.middle, e + side * (SIDE_STREET_M + 3), 24.0, 12.0, height)
    else:
        for _ in range(4):
            at = j.middle + rng.uniform(-9, 9), e + side * (SIDE_STREET_M + rng.uniform(2, 12))
            tree(site, *at, rng.uniform(6, 13), up=site.kerb)
    for flank in (-1, 1):
        if rng.random() < 0.5:
            signpost(site, j.middle + flank * (j.half + j.walk + 0.7), e + side * 1.0, side)
    # Traffic keeps to the right: who looks to the left of the main road drives at the greater s.
    lane = 0.3 * j.half
    if rng.random() < 0.4:
        at = j.middle - side * lane, e + side * rng.uniform(4.0, 6.5)
        parked_car(site, *at, -side * math.pi / 2, on_road=True)
    if rng.random() < 0.5:
        site.agents.append(_leaver(site, side, j.middle + side * lane))


def _flank(site: Site, side: int, flank: int, kind: str, height: float) -> None:
    """Houses, trees and parked cars on one flank of the street: -1 at the smaller s, 1 at the greater."""
    rng, e, j = site.rng, site.edge(side), site.junction
    tall = kind == "rows"
    wall = j.middle + flank * (j.half + j.walk)
    d = 17.0
    while d < SIDE_STREET_M - 8:
        deep = rng.uniform(9, 16)
        if tall or (kind == "houses" and rng.random() < 0.8):
            along = 9.0
            setback = 0.05 if tall else rng.uniform(1.5, 4.0)
            building(
                site,
                wall + flank * (along / 2 + setback),
                e + side * d,
                along,
                deep - (0.02 if tall else 4.0),
                height * rng.uniform(0.85, 1.2) if tall else rng.uniform(3.0, 6.5),
                gable=rng.uniform(2, 4) if not tall or rng.random() < 0.4 else 0.0,
            )
        if not tall or rng.random() < 0.2:
            at = wall + flank * rng.uniform(0.3, 2.0), e + side * (d - 1)
            tree(site, *at, rng.uniform(4, 9), up=site.kerb)
        d += deep
    if rng.random() < 0.7:
        for d in np.arange(12.0, SIDE_STREET_M - 6, 6.2):
            if rng.random() < 0.6:
                yaw = math.pi / 2 * (-1 if rng.random() < 0.5 else 1)
                at = j.middle + flank * (j.half - 0.2), e + side * d
                parked_car(site, *at, yaw, up=site.kerb / 2, on_road=True)


def _leaver(site: Site, side: int, s: float) -> Agent:
    """Somebody who drives away down the side street when the ego vehicle comes."""
    street, rng, e, j = site.street, site.rng, site.edge(side), site.junction
    kind = pick(rng, {"car": 6, "van": 1, "bus": 0.3, "truck": 0.5})
    vehicle, materials = draw_vehicle(street, kind, rng)
    parts, poses = on_wheels(street, vehicle, materials)
    pace = rng.uniform(2.5, 8.0)
    begin = (j.middle - EGO_START_M - 25.0) / max(street.speed, 2.0) - rng.uniform(0.0, 5.0)

    def motion(t: float) -> list[np.ndarray]:
        way = 6.0 + pace * (t - begin)
        return poses(street.route.pose(s, e + side * way, 0.0, side * math.pi / 2), way)

    during = begin, begin + (SIDE_STREET_M - 5) / pace
    return Agent(parts, motion, ALWAYS, vehicle.size[0], during=during)
