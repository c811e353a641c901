# SPDX-License-Identifier: Apache-2.0
"""The lanes of a street: streams of vehicles, riders and walkers along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvps_ros.data.world.street import Street

# Keys of lanes. Each is part of the seed of what comes along the lane. Our vehicles' lanes are 0, 1, ..
# from the middle to the right; those from RIDERS on are of people, drawn only when near.
ONCOMING = 20
RIDERS = RIDERS_RIGHT = 40
RIDERS_LEFT = 41
WALKERS = 60
STANDING = 70
CROSSING = 80


@dataclass(frozen=True)
class Lane:
    """A stream of agents along the road: place j has its agent at ``s = direction * speed * t + j * gap``."""

    key: int
    d: float
    direction: int
    speed: float
    gap: float
    fill: float
    """Probability that there is somebody at a place."""
    kinds: dict[str, float]
    """Who that may be, with weights."""
    ego: bool = False
    """The ego vehicle drives in it."""
    wander: float = 0.15
    """Deviation of d from agent to agent, metres."""

    @property
    def of_people(self) -> bool:
        """Whether those in it are small: riders and walkers."""
        return self.key >= RIDERS


_VEHICLES = {
    "highway": {"car": 10, "van": 1.5, "truck": 2.6, "bus": 0.4, "motorcycle": 0.4},
    "residential": {"car": 10, "van": 1.5, "truck": 0.4, "bus": 0.3, "motorcycle": 1.2},
}
_OTHER_VEHICLES = {"car": 10, "van": 1.6, "truck": 0.9, "bus": 0.8, "motorcycle": 1.3}


_MORE_VEHICLES = {"car": 9, "van": 2.0, "truck": 1.5, "bus": 1.2, "motorcycle": 1.6}
_MORE_TRAFFIC, _MORE_PEOPLE = 1.3, 1.6
"""Density on rich streets, as ratios to that on others."""


def draw_lanes(street: Street, rng: np.random.Generator, traffic: float) -> tuple[list[Lane], int]:
    """Lanes of a street, and which of the right ones is the ego vehicle's.

    Args:
        traffic: density of everything that moves; 1 is usual.
    """
    x, style = street.section, street.style
    vehicles = dict(_VEHICLES.get(style.name, _OTHER_VEHICLES))
    if street.more is not None:
        vehicles, traffic = dict(_MORE_VEHICLES), _MORE_TRAFFIC * traffic
        if style.name == "highway":
            vehicles |= {"truck": 3.0, "bus": 0.6, "motorcycle": 0.6}
    if street.palette.road.tram:
        vehicles["tram"] = 0.9
    flow = max(street.speed, 3.0 if rng.random() < 0.7 else 0.0)
    ego_lane = int(rng.integers(0, x.lanes_right))
    gap = style.traffic_m * rng.uniform(0.6, 1.6)
    lanes = []
    for k in range(x.lanes_right):
        speed = flow * (1.0 + 0.12 * (x.lanes_right - 1 - k)) * rng.uniform(0.8, 1.1)
        lanes.append(Lane(k, x.lane_d(k), 1, speed, gap, 0.62 * traffic, vehicles, ego=k == ego_lane))
    for k in range(1, x.lanes_left + 1):
        speed = max(flow, 4.0) * rng.uniform(0.8, 1.15)
        lanes.append(Lane(ONCOMING + k, x.lane_d(-k), -1, speed, gap, 0.62 * traffic, vehicles))
    if style.name != "highway":
        riders = {"bicycle": 4, "motorcycle": 0.5 if street.more is None else 1.2}
        share = (0.75 if rng.random() < 0.6 else 0.25) * traffic
        right, left = x.lanes_right_d + 0.45, x.lanes_left_d - 0.45
        lanes.append(Lane(RIDERS_RIGHT, right, 1, rng.uniform(2.5, 6), 22.0, share, riders))
        lanes.append(Lane(RIDERS_LEFT, left, -1, rng.uniform(2.5, 6), 25.0, share, riders))
    if x.walk > 0:
        lanes += _walkers(street, rng, traffic)
    return lanes, ego_lane


def _walkers(street: Street, rng: np.random.Generator, traffic: float) -> list[Lane]:
    """Who walks, stands and crosses on a street with sidewalks."""
    x, style = street.section, street.style
    lanes = []
    for k, side in enumerate((-1, 1)):
        edge = x.edge(side)
        for way in (1, -1):
            d = edge + side * (x.verge + x.walk * (0.35 if way == side else 0.7))
            key, speed = WALKERS + 2 * k + (way > 0), rng.uniform(0.9, 1.6)
            people = {"person": 1.0, "pair": 0.25}
            gap = style.people_m
            if street.more is not None:
                people, gap = {"person": 1.0, "pair": 0.5, "group": 0.25}, gap / _MORE_PEOPLE
            lanes.append(Lane(key, d, way, speed, gap, 0.7 * traffic, people, wander=0.3 * x.walk))
        d = edge + side * (x.verge + 0.5 * x.walk)
        people = {"standing": 1, "wheeled": 0.3}
        if street.more is not None:
            people["waiting"] = 0.7
        lanes.append(
            Lane(STANDING + k, d, 1, 0.0, 2 * style.people_m, 0.4 * traffic, people, wander=0.35 * x.walk)
        )
    gap = 60.0 if style.name != "avenue" else 110.0
    lanes.append(Lane(CROSSING, 0.0, 1, 0.0, gap, 0.33 * traffic, {"crossing": 1}))
    return lanes
