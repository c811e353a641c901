# SPDX-License-Identifier: Apache-2.0
"""What is parked: cars, bicycles and motorcycles."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.materials import BICYCLE, MOTORCYCLE, pick
from dvps_ros.data.world.site import Site
from dvps_ros.data.world.vehicles import draw_vehicle, two_wheeler_materials


def parked_car(site: Site, s: float, d: float, yaw: float, *, up: float = 0.0, on_road: bool = False) -> None:
    """A car, van or truck that stands.

    Args:
        on_road: it may stand on a branch or side street.
    """
    street, rng = site.street, site.rng
    kind = pick(rng, {"car": 10, "van": 1.3, "truck": 0.15})
    if not on_road and site.meets_branch(s, d, 5.0, 2.0, yaw):
        return
    vehicle, materials = draw_vehicle(street, kind, rng)
    instance = street.new_instance()
    site.put(
        vehicle.whole, materials, s, d, up=up, yaw=yaw, instance=instance, upright=False, on_road=on_road
    )


def parked_bicycle(site: Site, s: float, d: float) -> None:
    """A bicycle across the sidewalk."""
    street, rng = site.street, site.rng
    materials = two_wheeler_materials(street, BICYCLE, rng, gloss=0.4)
    yaw = math.pi / 2 + rng.normal() * 0.15
    instance = street.new_instance()
    site.put(shapes.bicycle().whole, materials, s, d, up=site.kerb, yaw=yaw, instance=instance)


def parked_motorcycle(site: Site, s: float, d: float) -> None:
    """A motorcycle along the sidewalk."""
    street, rng = site.street, site.rng
    materials = two_wheeler_materials(street, MOTORCYCLE, rng, gloss=0.5)
    vehicle = shapes.motorcycle("scooter" if rng.random() < 0.5 else "road")
    yaw = rng.normal() * 0.4
    instance = street.new_instance()
    site.put(vehicle.whole, materials, s, d, up=site.kerb, yaw=yaw, instance=instance)


def parking_strip(site: Site, side: int) -> None:
    """Cars in the parking strip of one side, if it has one; none near a crosswalk."""
    x, rng = site.street.section, site.rng
    width = x.park_right if side < 0 else x.park_left
    if width <= 0:
        return
    fill = np.random.default_rng([site.street.seed, 6, side + 1]).uniform(0.3, 0.95)
    d = site.edge(side) - side * (x.shoulder + width / 2)
    facing = 0.0 if side < 0 else math.pi
    s = site.s0 + 1.5
    while s < site.s1 - 4:
        near_crossing = site.crosswalk_s is not None and abs(s + 1 - site.crosswalk_s) < 7
        if rng.random() < fill and not near_crossing:
            off = rng.normal() * 0.08
            yaw = facing + rng.normal() * 0.02 + (math.pi if rng.random() < 0.06 else 0)
            parked_car(site, s + 2.3, d + off, yaw)
        s += rng.uniform(5.3, 6.6)
