# SPDX-License-Identifier: Apache-2.0
"""What stands and moves in the world: a street, its blocks, and its traffic.

The world is grown in blocks along the road and in agents along lanes, each drawn from the seed and its own
number when the ego vehicle comes near.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dvps_ros.data.world.agents import ALWAYS, NEVER, Agent
from dvps_ros.data.world.blocks import Block, grow_block
from dvps_ros.data.world.lanes import ONCOMING, RIDERS_LEFT, RIDERS_RIGHT, Lane, draw_lanes
from dvps_ros.data.world.materials import pick
from dvps_ros.data.world.people import crossing, walkers
from dvps_ros.data.world.riders import two_wheeler
from dvps_ros.data.world.route import EGO_START_M
from dvps_ros.data.world.street import Street
from dvps_ros.data.world.vehicles import draw_vehicle, on_wheels

SWING_FROM_M, SWUNG_M = 14.0, 3.0
"""Ahead of a rider a vehicle begins to swing out, and has done so."""
ROOM_FOR_RIDER_M = 0.7
"""Between a vehicle's side and a rider's middle."""


class Scene(Street):
    """The street of one seed with all that is on it, without camera and weather."""

    def __init__(
        self, seed: int, style: str, *, traffic: float = 1.0, forks: float = 1.0, rich: bool = False
    ):
        rng = np.random.default_rng([seed, 1])
        super().__init__(seed, style, rng, forks=forks, rich=rich)
        self.lanes, self.ego_lane = draw_lanes(self, rng, traffic)
        self._blocks: dict[int, Block] = {}
        self._agents: dict[tuple[int, int], Agent | None] = {}

    def block(self, number: int) -> Block:
        """The street from s = number * 40 m on."""
        if number not in self._blocks:
            self._blocks[number] = grow_block(self, number)
        return self._blocks[number]

    def agent(self, lane: Lane, place: int) -> Agent | None:
        """The agent at a place of a lane, if there is one."""
        key = (lane.key, place)
        if key not in self._agents:
            rng = np.random.default_rng([self.seed, 2, lane.key, place & 0xFFFFFFFF])
            self._agents[key] = self._make_agent(lane, place, rng) if rng.random() < lane.fill else None
        return self._agents[key]

    def _make_agent(self, lane: Lane, place: int, rng: np.random.Generator) -> Agent | None:
        kind = pick(rng, lane.kinds)
        start = place * lane.gap + rng.uniform(0.0, 0.3) * lane.gap
        if lane.ego and start < EGO_START_M + 11.0:
            return None
        d = lane.d + rng.normal() * lane.wander
        size, rate, phase = rng.uniform(0, 1.2), rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi)
        size *= min(lane.speed / 6.0, 1.0)

        def along(t: float) -> float:
            return start + lane.direction * lane.speed * t + size * math.sin(rate * t + phase)

        yaw = 0.0 if lane.direction > 0 else math.pi
        moving = ALWAYS if lane.speed > 0.05 else NEVER
        if kind == "crossing":
            return crossing(self, start, self.section.lane_d(self.ego_lane), rng)
        if kind in ("person", "pair", "group", "standing", "waiting"):
            return walkers(self, kind, along, d, yaw, lane.speed, rng)
        if kind in ("bicycle", "motorcycle", "wheeled"):
            kind = "bicycle" if kind == "wheeled" else kind
            return two_wheeler(self, kind, lane, along, d, yaw, moving, rng)
        if kind == "tram":
            d = lane.d
        vehicle, materials = draw_vehicle(self, kind, rng)
        parts, poses = on_wheels(self, vehicle, materials)
        if kind in ("truck", "bus", "tram") and lane.ego and start < EGO_START_M + 18.0:
            start += 12.0

        beside = self._leaving_room(lane, d, vehicle.size)

        def motion(t: float) -> list[np.ndarray]:
            s = along(t)
            return poses(self.route.pose(s, beside(t, s), 0.0, yaw, upright=False), lane.direction * s)

        return Agent(parts, motion, moving, vehicle.size[0], along=along, speed=lane.speed)

    def _leaving_room(
        self, lane: Lane, d: float, size: tuple[float, float, float]
    ) -> Callable[[float, float], float]:
        """(time, s) -> d of a vehicle: it swings out for the riders at the road's edge that it passes."""
        x = self.section
        edge_lane = {x.lanes_right - 1: RIDERS_RIGHT, ONCOMING + x.lanes_left: RIDERS_LEFT}.get(lane.key)
        riders = next((r for r in self.lanes if r.key == edge_lane), None)
        if riders is None:
            return lambda t, s: d
        length, width, _ = size

        def beside(t: float, s: float) -> float:
            base = riders.direction * riders.speed * t
            reach = SWING_FROM_M + 0.5 * length
            first, last = (math.floor((s + k * reach - base) / riders.gap) for k in (-1, 1))
            swing = 0.0
            for number in range(first - 1, last + 1):
                rider = self.agent(riders, number)
                if rider is None or rider.along is None:
                    continue
                ahead = abs(rider.along(t) - s) - 0.5 * length
                k = min(max((SWING_FROM_M - ahead) / (SWING_FROM_M - SWUNG_M), 0.0), 1.0)
                room = 0.5 * width + ROOM_FOR_RIDER_M - abs(rider.d - d)
                swing = max(swing, room * k * k * (3 - 2 * k))
            return d + lane.direction * swing

        return beside
