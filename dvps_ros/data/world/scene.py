# SPDX-License-Identifier: Apache-2.0
"""What stands and moves in the world: the looks of one street, its blocks, and its traffic.

The world is grown in blocks along the road and in agents along lanes, each drawn from the seed and its own
number when the ego vehicle comes near.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from dvps_ros.data.world import models, shade
from dvps_ros.data.world.agents import ALWAYS, NEVER, Agent, Lane, Span
from dvps_ros.data.world.blocks import Block
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.forks import Fork, Forks
from dvps_ros.data.world.materials import (
    BICYCLE,
    BUS,
    CAR,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    POLE,
    RIDER,
    ROAD,
    SIDEWALK,
    SIGN,
    TERRAIN,
    TRAIN,
    TRUCK,
    VEGETATION,
    Color,
    Materials,
    Part,
    Pool,
    car_color,
    grey,
    hue,
    pick,
)
from dvps_ros.data.world.route import EGO_START_M, Route
from dvps_ros.data.world.styles import STYLES, CrossSection, Style, draw_section
from dvps_ros.labels import VOID

SWING_FROM_M, SWUNG_M = 14.0, 3.0
"""Ahead of a rider a vehicle begins to swing out, and has done so."""
ROOM_FOR_RIDER_M = 0.7
"""Between a vehicle's side and a rider's middle."""


class Scene:
    """The street of one seed, without camera and weather."""

    def __init__(self, seed: int, style: str, *, traffic: float = 1.0, forks: float = 1.0):
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        self.style: Style = STYLES[style]
        self.section: CrossSection = draw_section(self.style, rng)
        self.forks = Forks(self.style, seed, forks, right_only=self.section.median > 0.5)
        self.route = Route(self.style, seed, self.forks)
        self._branches: dict[Fork, Branch] = {}
        self.materials = Materials()
        self.pool = Pool()
        self._next_instance = 1
        self._blocks: dict[int, Block] = {}
        self._agents: dict[tuple[int, int], Agent | None] = {}
        self.land = {side: (rng.uniform(0, 6.28, 2), rng.uniform(-2.0, 5.0)) for side in (-1, 1)}
        self._palette(rng)
        self.lanes = self._lanes(rng, traffic)

    def branch(self, s0: float, s1: float) -> Branch | None:
        """The carriageway that leaves our road somewhere in s0..s1, or runs beside it there."""
        for fork in self.forks.near(s0, s1):
            if fork.s < s1 and fork.end > s0:
                if fork not in self._branches:
                    one_way = self.style.name == "highway"
                    self._branches[fork] = Branch(fork, self.route, self.section, one_way=one_way)
                return self._branches[fork]
        return None

    def branch_road(self, branch: Branch) -> int:
        """Material of a branch's carriageway, with lane markings where the street has them."""
        x, half = self.section, branch.half
        lines = [(half - 0.25, 0), (0.25 - half, 0)] + ([] if branch.one_way else [(0.0, 1)])
        lines = lines if self.markings else []
        flat = [len(lines)] + [v for line in lines for v in line] + [0.0] * (2 * (6 - len(lines)))
        params = [*flat, *self._road_params[13:]]
        params[15:20] = [0.0, 0.0, x.lane_width, half, -half]
        return self.materials.add(shade.ROAD, ROAD, self._asphalt, self._white, params)

    def relief(self, side: int, s: np.ndarray | float) -> np.ndarray | float:
        """Share of the land's hills that there is at s: none along a branch."""
        s = np.asarray(s, np.float64)
        forks = [f for f in self.forks.near(float(s.min()), float(s.max())) if f.side == side]
        return 1.0 - max((f.presence(s) for f in forks), key=np.max, default=0.0)

    # -- looks shared by the whole street ----------------------------------------------------------

    def _palette(self, rng: np.random.Generator) -> None:
        add = self.materials.add
        s, x = self.style, self.section
        self.markings = rng.random() < s.lines
        asphalt = grey(rng.uniform(0.06, 0.26), 0.05, rng)
        white = grey(rng.uniform(0.55, 0.8), 0.02, rng)
        lines: list[tuple[float, int]] = []
        if self.markings:
            dashed_centre = rng.random() < 0.6
            for k in range(1, x.lanes_right):
                lines.append((-k * x.lane_width, 1))
            for k in range(1, x.lanes_left):
                lines.append((x.median + k * x.lane_width, 1))
            if x.median > 0.5:
                lines += [(-0.1, 0), (x.median + 0.1, 0)]
            else:
                lines.append((0.0, 1 if dashed_centre else (2 if rng.random() < 0.5 else 0)))
        # An empty parking strip is marked off even where lanes are not: nobody could tell it from a lane.
        edges = self.markings and s.name in ("highway", "rural")
        if x.park_right or edges:
            lines.append((-x.lanes_right * x.lane_width, 0))
        if x.park_left or edges:
            lines.append((x.median + x.lanes_left * x.lane_width, 0))
        self.tram = s.name in ("city", "avenue") and rng.random() < 0.28
        if self.tram:
            lines = lines[:4] + [(x.lane_d(0), 3), (x.lane_d(-1), 3)]
        lines = lines[:6]
        flat = [len(lines)] + [v for line in lines for v in line] + [0.0] * (2 * (6 - len(lines)))
        period = 12.0 if s.name == "highway" else rng.uniform(5.0, 9.0)
        self._road_params = [
            *flat,
            period,
            period * rng.uniform(0.33, 0.5),
            0.0,
            0.0,
            x.lane_width,
            x.left_edge,
            x.right_edge,
            rng.uniform(0.1, 1.0),
            rng.uniform(0.10, 0.16),
            0.0,
        ]
        self._asphalt, self._white = asphalt, white
        self._road_plain = add(shade.ROAD, ROAD, asphalt, white, self._road_params)
        tile = rng.choice([0.3, 0.5, 1.0, 2.0])
        walk = grey(rng.uniform(0.22, 0.5), 0.10, rng)
        self._walk = add(
            shade.PAVING, SIDEWALK, walk, grey(0.12, 0.1, rng), (tile, rng.choice([0.3, 0.5, 1.0]))
        )
        self._kerb = add(shade.PLAIN, SIDEWALK, grey(rng.uniform(0.3, 0.55), 0.05, rng), params=(0.4, 1.0))
        grass = hue(rng, rng.uniform(0.55, 0.85), rng.uniform(0.07, 0.22), 0.24, 0.05)
        dry = hue(rng, rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.3), 0.15, 0.04)
        self._grass = add(
            shade.GROUND, TERRAIN, grass, dry if rng.random() < 0.6 else tuple(1.4 * v for v in grass)
        )
        self._dirt = add(shade.GROUND, TERRAIN, hue(rng, 0.45, rng.uniform(0.12, 0.3), 0.08, 0.03), dry)
        self._field = add(shade.GROUND, TERRAIN, hue(rng, 0.6, rng.uniform(0.15, 0.4), 0.16, 0.06), grass)
        self._yard = add(
            shade.PAVING, SIDEWALK, grey(rng.uniform(0.15, 0.45), 0.12, rng), grey(0.1, 0.1, rng), (0.4, 0.4)
        )
        self._metal = add(
            shade.PLAIN, POLE, grey(rng.uniform(0.08, 0.4), 0.08, rng), params=(0.25, 2.0), gloss=0.25
        )
        self._dark_pole = add(
            shade.PLAIN, POLE, grey(rng.uniform(0.02, 0.08), 0.2, rng), params=(0.25, 2.0), gloss=0.15
        )
        self._lamp_glass = add(shade.LIGHT, POLE, (0.9, 0.88, 0.8), params=(0.1, 4.0))
        self._bark = add(
            shade.PLAIN, VEGETATION, hue(rng, 0.4, rng.uniform(0.05, 0.16), 0.07, 0.02), params=(0.9, 6.0)
        )
        autumn = rng.random() < 0.2
        self._leaves = []
        for _ in range(4):
            a = hue(rng, rng.uniform(0.6, 0.85), rng.uniform(0.05, 0.14), 0.10 if autumn else 0.25, 0.05)
            b = hue(rng, rng.uniform(0.6, 0.85), rng.uniform(0.16, 0.34), 0.13 if autumn else 0.22, 0.04)
            self._leaves.append(add(shade.LEAVES, VEGETATION, a, b))
        self._fir = add(
            shade.LEAVES, VEGETATION, hue(rng, 0.6, 0.05, 0.33, 0.04), hue(rng, 0.6, 0.13, 0.30, 0.04)
        )
        self._glass = {
            c: add(shade.PLAIN, c, (0.02, 0.022, 0.024), params=(0.1, 1.0), gloss=0.75)
            for c in (CAR, TRUCK, BUS, TRAIN)
        }
        self._trim = {
            c: add(shade.PLAIN, c, grey(0.022, 0.1, rng), params=(0.3, 3.0), gloss=0.06)
            for c in (CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE)
        }
        self._tyre = {c: add(shade.PLAIN, c, grey(0.018, 0.1, rng), params=(0.3, 8.0)) for c in self._trim}
        self._rim = {
            c: add(shade.PLAIN, c, grey(0.35, 0.1, rng), params=(1.2, 9.0), gloss=0.5) for c in self._trim
        }
        self._front = {
            c: add(shade.LIGHT, c, (0.75, 0.76, 0.74), params=(0.12, 3.0), gloss=0.4) for c in self._trim
        }
        self._rear = {
            c: add(shade.LIGHT, c, (0.35, 0.012, 0.015), params=(0.25, 2.0), gloss=0.3) for c in self._trim
        }
        self._plate = {c: add(shade.PLAIN, c, (0.75, 0.75, 0.70), params=(0.3, 40.0)) for c in self._trim}
        self._sign_back = add(shade.PLAIN, SIGN, grey(0.3, 0.1, rng), params=(0.2, 3.0))
        self._faces = [add(shade.SIGN, SIGN, (0.02, 0.1, 0.4), (0.85, 0.85, 0.85), (p,)) for p in range(6)]
        board = [
            ((0.02, 0.08, 0.35), (0.85,) * 3),
            ((0.75, 0.5, 0.03), (0.02,) * 3),
            ((0.02, 0.25, 0.1), (0.85,) * 3),
        ]
        self._boards = [add(shade.SIGN, SIGN, a, b, (6,)) for a, b in board]
        self._housing = add(shade.PLAIN, LIGHT, grey(0.02, 0.1, rng), params=(0.2, 2.0))
        lens = [((0.5, 0.02, 0.01), 0), ((0.5, 0.25, 0.01), 1), ((0.02, 0.45, 0.12), 2)]
        self._lens_on = [add(shade.LIGHT, LIGHT, c, params=(2.2, 1.0)) for c, _ in lens]
        self._lens_off = [
            add(shade.LIGHT, LIGHT, tuple(0.15 * v for v in c), params=(0.0, 0.0)) for c, _ in lens
        ]
        self._clutter = [add(shade.PLAIN, VOID, hue(rng, 0.7, 0.15), params=(0.3, 3.0)) for _ in range(3)]
        self._rail_guard = add(shade.PLAIN, VOID, grey(0.35, 0.05, rng), params=(0.3, 2.0), gloss=0.3)
        self._tree_kinds = list(rng.permutation(models.TREES)[:3])

    # -- streams of moving things ------------------------------------------------------------------

    def _lanes(self, rng: np.random.Generator, traffic: float) -> list[Lane]:
        x, s = self.section, self.style
        cars = {"car": 10, "van": 1.6, "truck": 0.9, "bus": 0.8, "motorcycle": 1.3}
        if s.name == "highway":
            cars = {"car": 10, "van": 1.5, "truck": 2.6, "bus": 0.4, "motorcycle": 0.4}
        elif s.name == "residential":
            cars = {"car": 10, "van": 1.5, "truck": 0.4, "bus": 0.3, "motorcycle": 1.2}
        if self.tram:
            cars["tram"] = 0.9
        self.speed = float(rng.uniform(*s.speed))
        if rng.random() < 0.08:
            self.speed = 0.0
        flow = max(self.speed, 3.0 if rng.random() < 0.7 else 0.0)
        self.ego_lane = int(rng.integers(0, x.lanes_right))
        gap = s.traffic_m * rng.uniform(0.6, 1.6)
        lanes = []
        for lane in range(x.lanes_right):
            speed = flow * (1.0 + 0.12 * (x.lanes_right - 1 - lane)) * rng.uniform(0.8, 1.1)
            lanes.append(
                Lane(lane, x.lane_d(lane), 1, speed, gap, 0.62 * traffic, cars, ego=lane == self.ego_lane)
            )
        for lane in range(1, x.lanes_left + 1):
            speed = max(flow, 4.0) * rng.uniform(0.8, 1.15)
            lanes.append(Lane(20 + lane, x.lane_d(-lane), -1, speed, gap, 0.62 * traffic, cars))
        if s.name != "highway":
            near, far = -x.lanes_right * x.lane_width + 0.45, x.median + x.lanes_left * x.lane_width - 0.45
            riders = {"bicycle": 4, "motorcycle": 0.5}
            share = (0.75 if rng.random() < 0.6 else 0.25) * traffic
            lanes.append(Lane(40, near, 1, rng.uniform(2.5, 6), 22.0, share, riders))
            lanes.append(Lane(41, far, -1, rng.uniform(2.5, 6), 25.0, share, riders))
        if x.walk > 0:
            for key, (side, edge) in enumerate([(-1, x.right_edge), (1, x.left_edge)]):
                for way in (1, -1):
                    d = edge + side * (x.verge + x.walk * (0.35 if way == side else 0.7))
                    people = {"person": 1.0, "pair": 0.25}
                    lanes.append(
                        Lane(
                            60 + 2 * key + (way > 0),
                            d,
                            way,
                            rng.uniform(0.9, 1.6),
                            s.people_m,
                            0.7 * traffic,
                            people,
                            wander=0.3 * x.walk,
                        )
                    )
                d = edge + side * (x.verge + 0.5 * x.walk)
                lanes.append(
                    Lane(
                        70 + key,
                        d,
                        1,
                        0.0,
                        2 * s.people_m,
                        0.4 * traffic,
                        {"standing": 1, "wheeled": 0.3},
                        wander=0.35 * x.walk,
                    )
                )
            lanes.append(
                Lane(80, 0.0, 1, 0.0, 60.0 if s.name != "avenue" else 110.0, 0.33 * traffic, {"crossing": 1})
            )
        return lanes

    def vehicle_materials(self, skin: int, c: int, *, glazed: bool = True) -> tuple[int, ...]:
        """Materials of a vehicle's mesh parts in their order: skin, glass, trim, tyre, rim, lights, plate."""
        glass = self._glass[c] if glazed else self._trim[c]
        return (
            skin,
            glass,
            self._trim[c],
            self._tyre[c],
            self._rim[c],
            self._front[c],
            self._rear[c],
            self._plate[c],
        )

    def _instance(self) -> int:
        self._next_instance += 1
        return self._next_instance - 1

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
            return self._crossing(start, rng)
        if kind in ("person", "pair", "standing"):
            return self._walkers(along, d, yaw, kind, rng, lane.speed)
        if kind in ("bicycle", "motorcycle", "wheeled"):
            kind = "bicycle" if kind == "wheeled" else kind
            return self._two_wheeler(lane, along, d, yaw, kind, rng, moving)
        if kind == "tram":
            d = lane.d
        vehicle, materials = self.vehicle(kind, rng)
        parts, poses = self.on_wheels(vehicle, materials)
        if kind in ("truck", "bus", "tram") and lane.ego and start < EGO_START_M + 18.0:
            start += 12.0

        beside = self._leaving_room(lane, along, d, vehicle)

        def motion(t: float) -> list[np.ndarray]:
            s = along(t)
            return poses(self.route.pose(s, beside(t, s), 0.0, yaw, upright=False), lane.direction * s)

        return Agent(parts, motion, moving, vehicle.size[0], along=along, speed=lane.speed)

    def _leaving_room(
        self, lane: Lane, along: Callable[[float], float], d: float, vehicle: models.Vehicle
    ) -> Callable[[float, float], float]:
        """(time, s) -> d of a vehicle: it swings out for the riders at the road's edge that it passes."""
        edge_lane = {self.section.lanes_right - 1: 40, 20 + self.section.lanes_left: 41}.get(lane.key)
        riders = next((r for r in self.lanes if r.key == edge_lane), None)
        if riders is None:
            return lambda t, s: d
        length, width, _ = vehicle.size

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

    # -- vehicles ----------------------------------------------------------------------------------

    def vehicle(self, kind: str, rng: np.random.Generator) -> tuple[models.Vehicle, tuple[int, ...]]:
        """A car, van, truck, bus, tram or rail car, and its materials."""
        add = self.materials.add
        paint = car_color(rng)
        if kind in ("car", "van"):
            body = (
                "van"
                if kind == "van"
                else pick(rng, {"hatchback": 4, "sedan": 3, "estate": 2.5, "suv": 2.5, "minibus": 0.7})
            )
            if kind == "van" and rng.random() < 0.55:
                paint = grey(rng.uniform(0.55, 0.85), 0.03, rng)
            vehicle = models.car(body)
            length, _, height = vehicle.size
            seams = (
                0.20 * length,
                0.0 * length - 0.1,
                -0.25 * length,
                0.58 * height if height < 1.6 else 0.45 * height,
            )
            skin = add(
                shade.PAINT, CAR, paint, params=(rng.uniform(0, 0.7), *seams), gloss=rng.uniform(0.35, 0.75)
            )
            c = CAR
            return vehicle, self.vehicle_materials(skin, c)
        if kind == "truck":
            body = pick(rng, {"box": 4, "semi": 2, "tanker": 1, "flatbed": 1.5})
            vehicle = models.lorry(body)
            c = TRUCK
            skin = add(shade.PAINT, c, paint, params=(rng.uniform(0.2, 0.9), 90, 91, 92, 93), gloss=0.4)
            cover = (
                grey(rng.uniform(0.4, 0.8), 0.05, rng)
                if rng.random() < 0.6
                else hue(rng, 0.7, rng.uniform(0.1, 0.5))
            )
            band = hue(rng, 0.8, 0.4) if rng.random() < 0.5 else cover
            load = add(
                shade.BUS, c, cover, band, (0.0, 0.0, 1.0, rng.uniform(1.0, 2.0), 0.0, 0.0, 0.0), gloss=0.08
            )
            return vehicle, (*self.vehicle_materials(skin, c)[:7], load)
        c = BUS if kind == "bus" else TRAIN
        livery = (
            hue(rng, rng.uniform(0.4, 0.95), rng.uniform(0.15, 0.6))
            if rng.random() < 0.7
            else grey(rng.uniform(0.4, 0.8), 0.05, rng)
        )
        skirt = (
            livery
            if rng.random() < 0.5
            else (grey(0.6, 0.1, rng) if rng.random() < 0.5 else hue(rng, 0.8, 0.3))
        )
        if kind == "bus":
            body = pick(rng, {"city": 5, "coach": 2, "double": 1})
            vehicle = models.bus(body)
            length, _, height = vehicle.size
            low, high = (1.05, 0.80 * height) if body != "double" else (1.05, 0.42 * height)
            second = (0.58 * height, 0.82 * height) if body == "double" else (0.0, 0.0)
        else:
            body = "rail" if kind == "rail" else "tram"
            vehicle = models.tram(body)
            length, _, height = vehicle.size
            low, high, second = 0.42 * height, 0.76 * height, (0.0, 0.0)
        skin = add(
            shade.BUS,
            c,
            livery,
            skirt,
            (low, high, rng.uniform(1.2, 1.8), rng.uniform(0.6, low), *second, 0.485 * length),
            gloss=0.3,
        )
        return vehicle, self.vehicle_materials(skin, c)

    def on_wheels(
        self, vehicle: models.Vehicle, materials: tuple[int, ...]
    ) -> tuple[list[Part], Callable[[np.ndarray, float], list[np.ndarray]]]:
        """Parts of a vehicle that drives; and (its pose, the metres it has gone) -> their poses."""
        instance = self._instance()
        meshes = (vehicle.body, *(w.mesh for w in vehicle.wheels))
        parts = [Part(self.pool.add(mesh), materials, instance) for mesh in meshes]
        return parts, partial(models.rolling, vehicle.wheels)

    # -- people and two-wheelers ----------------------------------------------------------------------------

    def _clothes(self, class_id: int, rng: np.random.Generator) -> tuple[int, ...]:
        add = self.materials.add
        tone = rng.uniform(0.08, 0.55)
        skin = add(
            shade.PLAIN,
            class_id,
            (tone, tone * rng.uniform(0.62, 0.74), tone * rng.uniform(0.42, 0.58)),
            params=(0.15, 9.0),
        )

        def dye(bright: float) -> Color:
            if rng.random() < 0.5:
                return grey(rng.uniform(0.015, bright), 0.1, rng)
            return hue(rng, rng.uniform(0.3, 0.9), rng.uniform(0.05, bright))

        stripes = rng.uniform(0.05, 0.3) if rng.random() < 0.2 else 0.0
        shirt = add(shade.CLOTH, class_id, dye(0.7), dye(0.7), (stripes, rng.random()))
        blue = hue(rng, 0.6, rng.uniform(0.05, 0.16), 0.62, 0.03) if rng.random() < 0.45 else dye(0.3)
        trousers = add(shade.CLOTH, class_id, blue, blue)
        hair = add(
            shade.PLAIN, class_id, hue(rng, 0.5, rng.uniform(0.01, 0.2), 0.07, 0.03), params=(0.8, 40.0)
        )
        shoes = add(shade.CLOTH, class_id, dye(0.4))
        return skin, shirt, trousers, hair, shoes

    def _body(self, class_id: int, build: str, rng: np.random.Generator, instance: int) -> list[Part]:
        clothes = self._clothes(class_id, rng)
        return [
            Part(
                self.pool.add(models.limb(name, build) if name == "torso" else models.limb(name)),
                clothes,
                instance,
            )
            for name in models.LIMBS
        ]

    @staticmethod
    def _stride(height: float, phase: float, swing: float, bend: tuple[float, float]) -> list[np.ndarray]:
        """Limb poses of somebody who walks (swing > 0) or stands."""
        a = swing * math.sin(phase)
        kl = 0.12 + swing * max(0.0, math.sin(phase + 1.9)) * 1.6
        kr = 0.12 + swing * max(0.0, math.sin(phase + 1.9 + math.pi)) * 1.6
        drop = 0.53 * height * (1 - math.cos(0.8 * a)) + 0.004 * height
        joints = (
            a,
            -a,
            kl * (swing > 0),
            kr * (swing > 0),
            -0.9 * a + 0.05,
            0.9 * a + 0.05,
            bend[0],
            bend[1],
        )
        return models.body_pose(height, (0.0, 0.0, 0.53 * height - drop), 0.05 + 0.1 * swing, joints, 0.08)

    def _walkers(
        self, along, d: float, yaw: float, kind: str, rng: np.random.Generator, speed: float
    ) -> Agent:
        count = 2 if kind == "pair" else 1
        people = []
        parts: list[Part] = []
        for k in range(count):
            height = rng.normal(1.71, 0.09) if rng.random() < 0.88 else rng.uniform(1.05, 1.45)
            build = pick(rng, {"plain": 5, "coat": 3, "skirt": 1.2, "bag": 2})
            people.append(
                (
                    height,
                    rng.uniform(0, 2 * np.pi),
                    rng.uniform(0.1, 0.9, 2) if rng.random() < 0.6 else (0.25, 0.25),
                    rng.normal() * 0.25,
                    k * rng.uniform(0.55, 0.75),
                )
            )
            parts += self._body(PERSON, build, rng, self._instance())
        walking = kind != "standing"
        turn = yaw if walking else rng.uniform(0, 2 * np.pi)

        def motion(t: float) -> list[np.ndarray]:
            poses = []
            s = along(t)
            for height, phase, bend, shift, aside in people:
                base = self.route.pose(s + shift, d + aside, self._walk_height(s, d + aside), turn)
                swing = min(0.5, 0.36 * speed) if walking else 0.0
                limbs = self._stride(height, phase + abs(s) * 4.2 / (0.85 * height), swing, tuple(bend))
                poses += [base @ p for p in limbs]
            return poses

        return Agent(parts, motion, ALWAYS if walking else NEVER, 0.6)

    def _walk_height(self, s: float, d: float) -> float:
        branch = self.branch(s, s + 1e-3)
        if branch is not None and branch.covers(s, d):
            return 0.0
        return self.section.kerb if d < self.section.right_edge or d > self.section.left_edge else 0.0

    def _crossing(self, s: float, rng: np.random.Generator) -> Agent:
        """Somebody who crosses the road in front of the ego vehicle and is off its lane before it comes."""
        x = self.section
        height, phase = rng.normal(1.70, 0.09), rng.uniform(0, 2 * np.pi)
        way = 1 if rng.random() < 0.5 else -1
        pace = rng.uniform(1.0, 1.7)
        ego_d = x.lane_d(self.ego_lane)
        arrival = (s - EGO_START_M) / max(self.speed, 0.5)
        clear = arrival - rng.uniform(1.2, 4.0)
        parts = self._body(PERSON, pick(rng, {"plain": 5, "coat": 3, "bag": 2}), rng, self._instance())
        low, high = x.right_edge - 0.8 * max(x.walk, 1.0), x.left_edge + 0.8 * max(x.walk, 1.0)

        def motion(t: float) -> list[np.ndarray]:
            d = ego_d + way * (2.2 + pace * (t - clear))
            walking = low < d < high
            d = min(max(d, low), high)
            up = x.kerb * min(max((x.right_edge + 0.3 - d) / 0.3, (d - x.left_edge + 0.3) / 0.3, 0.0), 1.0)
            base = self.route.pose(s, d, up, way * math.pi / 2)
            limbs = self._stride(
                height, phase + d * 4.2 / (0.85 * height), 0.45 if walking else 0.0, (0.4, 0.4)
            )
            return [base @ p for p in limbs]

        crossed = sorted(clear + (way * (edge - ego_d) - 2.2) / pace for edge in (low, high))
        return Agent(parts, motion, (crossed[0], crossed[1]), 0.6)

    def _two_wheeler(
        self,
        lane: Lane,
        along: Callable[[float], float],
        d: float,
        yaw: float,
        kind: str,
        rng: np.random.Generator,
        moving: Span,
    ) -> Agent:
        c = BICYCLE if kind == "bicycle" else MOTORCYCLE
        height = rng.normal(1.72, 0.08)
        if kind == "bicycle":
            vehicle, scooter = models.bicycle(), False
        else:
            scooter = rng.random() < 0.5
            vehicle = models.motorcycle("scooter" if scooter else "road")
        paint = self.materials.add(shade.PAINT, c, car_color(rng), params=(0.1, 90, 91, 92, 93), gloss=0.4)
        bike = self.vehicle_materials(paint, c, glazed=False)
        parts, poses = self.on_wheels(vehicle, bike)
        helmet = kind == "motorcycle" or rng.random() < 0.3
        parts += self._body(
            RIDER, "helmet" if helmet else pick(rng, {"plain": 3, "bag": 1}), rng, self._instance()
        )
        lean = {"bicycle": rng.uniform(0.15, 0.7)}.get(kind, 0.12 if scooter else 0.35)
        phase = rng.uniform(0, 2 * np.pi)

        def motion(t: float) -> list[np.ndarray]:
            s = along(t)
            base = self.route.pose(s, d, 0.0, yaw, upright=False)
            if kind == "bicycle":
                turn = phase + abs(s) * 1.35
                hip = (-0.20, 0.0, 0.97)
                legs = []
                for offset in (0.0, math.pi):
                    legs.append(0.95 + 0.38 * math.sin(turn + offset))
                knees = [1.15 + 0.45 * math.sin(turn + o + 0.9) for o in (0.0, math.pi)]
                joints = (*legs, *knees, lean + 1.0, lean + 1.0, 0.35, 0.35)
                limbs = models.body_pose(height, hip, lean, joints, -0.02)
            else:
                hip = (-0.30, 0.0, 0.86) if scooter else (-0.20, 0.0, 0.90)
                joints = (
                    1.25,
                    1.25,
                    1.15 if scooter else 1.5,
                    1.15 if scooter else 1.5,
                    lean + 0.9,
                    lean + 0.9,
                    0.4,
                    0.4,
                )
                limbs = models.body_pose(height, hip, lean, joints, 0.12)
            return poses(base, lane.direction * s) + [base @ p for p in limbs]

        # Vehicles swing out for who rides at the road's edge; they do not follow him.
        followed = along if lane.key in (40, 41) else None
        return Agent(parts, motion, moving, 1.8, along=followed, speed=lane.speed, d=d)

    # -- blocks ------------------------------------------------------------------------------------

    def block(self, number: int) -> Block:
        """The street from s = number * 40 m on."""
        if number not in self._blocks:
            self._blocks[number] = Block(self, number)
        return self._blocks[number]
