# SPDX-License-Identifier: Apache-2.0
"""What stands along a branch, a sign where the roads part, and who drives on it."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.agents import ALWAYS, Agent
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.building import building
from dvps_ros.data.world.materials import pick
from dvps_ros.data.world.parked import parked_car
from dvps_ros.data.world.plants import tree
from dvps_ros.data.world.route import EGO_START_M
from dvps_ros.data.world.signs import direction_sign
from dvps_ros.data.world.site import Site
from dvps_ros.data.world.vehicles import draw_vehicle, on_wheels

BUILT_TO_M = 105.0
"""Nothing is built along a branch this far beside the road."""


def branchside(site: Site, branch: Branch, kind: str) -> None:
    """What stands along the branch on this block, and who drives on it if it begins here.

    Args:
        kind: of the lot on its side, see ``lots.LOTS``.
    """
    height = site.rng.uniform(8, 16)
    for s in np.arange(site.s0 + 5.0, site.s1, 10.0):
        if float(branch.edges(s)[1]) <= BUILT_TO_M and s >= branch.mouth:
            _stretch(site, branch, kind, s, height)
    if site.s0 <= branch.nose < site.s1:
        direction_sign(site, branch)
    if site.s0 <= branch.mouth < site.s1:
        site.agents.extend(_leavers(site, branch))
        if not branch.one_way:
            site.agents.append(_waiting(site, branch))


def _stretch(site: Site, branch: Branch, kind: str, s: float, height: float) -> None:
    """Ten metres of the branch around s."""
    street, rng, x = site.street, site.rng, site.street.section
    side, up, e = branch.side, site.kerb, abs(site.edge(branch.side))
    low, high = (float(q) for q in branch.edges(s))
    turn, yaw = math.cos(branch.yaw(s)), branch.yaw(s)
    rows = kind in ("rows", "blocks")
    built = kind in ("rows", "blocks", "houses", "wall", "fence") and (rows or rng.random() < 0.7)
    beyond = high + (x.lot + (0.5 if rows else rng.uniform(2.0, 6.0))) / turn
    before = low - (x.walk + (0.8 if rows else rng.uniform(2.0, 6.0))) / turn
    # Its houses stand where ours no longer fit, and in the wedge when that is wide enough for both.
    ours_fit = not site.meets_branch(s, side * (e + x.lot + 5.0), 10.0, 10.0, 0.0)
    for q, face, fits in (
        (beyond, side, not ours_fit or high > e + 14),
        (before, -side, low - e > 36.0),
    ):
        if fits and built:
            building(
                site,
                s,
                side * q,
                10.0 / turn - (0.05 if rows else 2.0),
                rng.uniform(8, 11),
                height * rng.uniform(0.85, 1.2) if rows else rng.uniform(3.0, 6.5),
                gable=rng.uniform(2, 4) if not rows or rng.random() < 0.4 else 0.0,
                yaw=yaw,
                side=face,
            )
        elif fits:
            for _ in range(2):
                at = s + rng.uniform(-5, 5), side * (q + face * side * rng.uniform(1, 9))
                tree(site, *at, rng.uniform(4, 11), up=up)
    if rng.random() < 0.5 and low - e > x.lot + x.walk + 3.0:
        d = side * rng.uniform(e + x.lot + 0.5, low - x.walk - 1.0)
        tree(site, s, d, rng.uniform(3, 7), up=up)
    if rng.random() < 0.35 and not branch.one_way and high < BUILT_TO_M:
        lean = branch.half - 0.95
        parked_car(site, s, branch.beside(s, -lean), yaw, on_road=True)
    if rng.random() < 0.4 and street.style.name != "rural":
        furniture = street.palette.furniture
        materials = (furniture.metal, furniture.lamp_glass)
        site.put(shapes.lamp("arm"), materials, s, side * (high + 0.6), up=up, yaw=yaw - side * math.pi / 2)


def _arrival(site: Site, branch: Branch) -> float:
    """When the ego vehicle comes to the fork, about, seconds."""
    return (branch.fork.s - EGO_START_M) / max(site.street.speed, 2.0)


def _leavers(site: Site, branch: Branch) -> list[Agent]:
    """Vehicles that are driving away on the branch when the ego vehicle comes."""
    street, rng = site.street, site.rng
    lane = 0.0 if branch.one_way else -0.5 * street.section.lane_width
    pace = max(0.7 * street.speed, 3.5) * rng.uniform(0.8, 1.1)
    begin = _arrival(site, branch) - rng.uniform(1.0, 4.0)
    first, last = branch.mouth + 2.0, branch.fork.end - 5.0
    leavers = []
    for _ in range(int(rng.integers(1, 4))):
        kind = pick(rng, {"car": 8, "van": 1.3, "truck": 1, "bus": 0.4})
        vehicle, materials = draw_vehicle(street, kind, rng)
        parts, poses = on_wheels(street, vehicle, materials)
        length = vehicle.size[0]
        begin -= (length + rng.uniform(8.0, 30.0)) / pace

        def motion(t: float, begin: float = begin, poses=poses) -> list[np.ndarray]:
            s = first + pace * (t - begin)
            pose = street.route.pose(s, branch.beside(s, lane), 0.0, branch.yaw(s), upright=False)
            return poses(pose, float(branch.arc(s)))

        during = begin, begin + (last - first) / pace
        leavers.append(Agent(parts, motion, ALWAYS, length, during=during))
    return leavers


def _waiting(site: Site, branch: Branch) -> Agent:
    """A vehicle that comes along the branch, brakes, and waits where it meets our road."""
    street, rng = site.street, site.rng
    vehicle, materials = draw_vehicle(street, pick(rng, {"car": 8, "van": 1.3, "truck": 0.7}), rng)
    parts, poses = on_wheels(street, vehicle, materials)
    stop = branch.nose + 2.0 + 0.5 * vehicle.size[0]
    far = min(branch.fork.end - 5.0, stop + 110.0)
    pace, lane = rng.uniform(5.0, 9.0), 0.5 * street.section.lane_width
    # Braking at 2 m/s^2 takes pace / 2 seconds and pace^2 / 4 metres.
    cruise_s, brake_s = (far - stop - pace**2 / 4) / pace, pace / 2
    begin = _arrival(site, branch) - rng.uniform(-2.0, 5.0) - cruise_s - brake_s

    def motion(t: float) -> list[np.ndarray]:
        braking = min(max(t - begin - cruise_s, 0.0), brake_s)
        s = far - pace * min(t - begin, cruise_s) - pace * braking + braking**2
        yaw = branch.yaw(s) + math.pi
        pose = street.route.pose(s, branch.beside(s, lane), 0.0, yaw, upright=False)
        return poses(pose, -float(branch.arc(s)))

    moving = begin, begin + cruise_s + brake_s
    return Agent(parts, motion, moving, vehicle.size[0], during=(begin, math.inf))
