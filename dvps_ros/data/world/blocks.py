# SPDX-License-Identifier: Apache-2.0
"""The street in blocks of 40 m: the ground, what stands beside it, and what is parked."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from dvps_ros.data.world import models, shade
from dvps_ros.data.world.agents import ALWAYS, Agent
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.markings import branch_markings
from dvps_ros.data.world.materials import (
    BICYCLE,
    BUILDING,
    FENCE,
    MOTORCYCLE,
    ROAD,
    TERRAIN,
    WALL,
    Part,
    grey,
    hue,
    part_arrays,
    pick,
)
from dvps_ros.data.world.mesh import Mesh, box, boxes, facets, grid, merge, ribbons, turn_z
from dvps_ros.data.world.route import EGO_START_M, START_M
from dvps_ros.data.world.street import Street
from dvps_ros.data.world.vehicles import draw_vehicle, on_wheels, two_wheeler_materials

BLOCK_M = 40.0


SIDE_STREET_M = 62.0
"""How far a side street reaches."""


class Block:
    """One stretch of street: ``parts`` that stand still, ``agents`` that use its side streets."""

    def __init__(self, scene: Street, number: int):
        self.scene, self.number = scene, number
        self.rng = np.random.default_rng([scene.seed, 3, number & 0xFFFFFFFF])
        self.s0 = number * BLOCK_M
        self.parts: list[Part] = []
        self.agents: list[Agent] = []
        x, style = scene.section, scene.style
        bend = np.abs(scene.route.at(np.linspace(self.s0, self.s0 + BLOCK_M, 9))[:, 4]).max()
        self.reach = min(110.0, 0.8 / max(float(bend), 1e-4))
        self.side_streets: tuple[int, ...] = ()
        if self.rng.random() < style.junctions and self.reach > SIDE_STREET_M + abs(x.left_edge) + 5:
            self.side_streets = ((-1, 1), (-1,), (1,))[int(self.rng.integers(3))]
        self.branch = scene.branch(self.s0, self.s0 + BLOCK_M)
        if self.branch is not None:
            self.side_streets = tuple(k for k in self.side_streets if k != self.branch.side)
        if any(
            f.turns_in(self.s0 - BLOCK_M, self.s0 + 2 * BLOCK_M) for f in scene.forks.near(self.s0, self.s0)
        ):
            self.side_streets = ()  # they need a road that is nearly straight
        half = self.rng.uniform(2.8, 4.6)
        self.street_walk = 2.0 if x.walk > 0 else 0.6
        self.street_half = half
        self.street_from = self.s0 + 20.0 - half - self.street_walk
        self.street_to = self.s0 + 20.0 + half + self.street_walk
        self.crosswalk = (
            self.s0 + 20.0
            if x.walk > 0 and scene.markings and self.rng.random() < (0.7 if self.side_streets else 0.3)
            else None
        )
        if self.branch is not None and self.branch.fork.s < self.s0 + BLOCK_M < self.branch.nose + BLOCK_M:
            self.crosswalk = None
        if self.crosswalk is not None and self.side_streets:
            self.crosswalk = self.street_from - 4.5
        lots = {}
        for side in (-1, 1):
            # A lot goes on over two blocks more often than not.
            lot_rng = np.random.default_rng([scene.seed, 4, side + 1, (number // 2) & 0xFFFFFFFF])
            lots[side] = pick(lot_rng, style.lots)
        if self.branch is not None and lots[self.branch.side] in ("rail", "parking"):
            lots[self.branch.side] = "garden"
        self.ground(lots)
        for side in (-1, 1):
            if side in self.side_streets:
                kind = lots[side] if lots[side] in ("rows", "houses", "garden", "park") else "garden"
                kind = "rows" if lots[side] in ("blocks", "parking") else kind
                self.lot(side, kind, self.s0, self.street_from)
                self.lot(side, kind, self.street_to, self.s0 + BLOCK_M)
                self.side_street(side, kind)
            else:
                self.lot(side, lots[side], self.s0, self.s0 + BLOCK_M)
            self.distance(side)
            self.kerbside(side)
            self.parking(side)
        if x.median > 0.5:
            self.median()
        if self.branch is not None:
            self.along_branch(self.branch, lots[self.branch.side])
        self.arrays = part_arrays(self.parts)
        self.poses = np.array([p.world_from_part for p in self.parts])[:, :3]

    def on_branch(self, s: float, d: float, margin: float) -> bool:
        """Whether a point is on the carriageway that leaves the road here, or near it."""
        return self.branch is not None and self.branch.covers(s, d, margin)

    def free_of_branch(self, s0: float, s1: float, d: float) -> list[tuple[float, float]]:
        """The stretches of s0..s1 that are not on the branch at d."""
        if self.branch is None:
            return [(s0, s1)]
        margin = self.scene.section.walk + 0.6
        steps = np.append(np.arange(s0, s1, 1.0), s1)
        free = [not self.on_branch(float(s), d, margin) for s in steps]
        runs: list[tuple[float, float]] = []
        for a, b, ok in zip(steps[:-1], steps[1:], np.logical_and(free[:-1], free[1:]), strict=True):
            if ok and runs and runs[-1][1] == a:
                runs[-1] = (runs[-1][0], float(b))
            elif ok:
                runs.append((float(a), float(b)))
        return [r for r in runs if r[1] - r[0] > 3.0]

    def put(
        self,
        mesh: Mesh,
        materials,
        s: float,
        d: float,
        up: float = 0.0,
        yaw: float = 0.0,
        scale: float = 1.0,
        instance: int = 0,
        upright: bool = True,
        street: bool = False,
    ) -> None:
        """Add a mesh at (s, d); nothing is put on a side street unless it belongs there (``street``)."""
        side = -1 if d < 0 else 1
        if not street and self.on_branch(s, d, 0.5):
            return
        if side in self.side_streets and not street and self.street_from - 0.5 < s < self.street_to + 0.5:
            if -2.6 < side * (d - self.edge(side)) < SIDE_STREET_M:
                return
        pose = self.scene.route.pose(s, d, up, yaw, upright=upright)
        pose[:3, :3] *= scale
        self.parts.append(Part(self.scene.pool.add(mesh), tuple(materials), instance, pose))

    def edge(self, side: int) -> float:
        x = self.scene.section
        return x.right_edge if side < 0 else x.left_edge

    def far_height(self, side: int, s: np.ndarray | float, distance: float) -> np.ndarray | float:
        """Height of the land over the road, ``distance`` metres beyond the lots' front."""
        k = min(max((distance - 12.0) / 70.0, 0.0), 1.2)
        if k == 0.0:
            return self.scene.section.kerb + 0.0 * s
        p, a = self.scene.land[side]
        rise = (a + 2.5 * np.sin(s / 61 + p[0]) + 1.2 * np.sin(s / 23 + p[1])) * self.scene.relief(side, s)
        if side in self.side_streets:
            rise = rise * np.minimum(np.maximum((np.abs(s - self.s0 - 20.0) - 11.0) / 9.0, 0.0), 1.0)
        return self.scene.section.kerb + rise * k * k * (3 - 2 * min(k, 1.0)) * 2.0

    def far_point(self, side: int, s: float, distance: float) -> float:
        """The same at one point."""
        return float(self.far_height(side, s, distance))

    def ground(self, lots: dict[int, str]) -> None:
        scene, x = self.scene, self.scene.section
        count = 21 if scene.style.curvature > 1 / 300 else 11
        branch = self.branch
        if branch is not None:
            count = 41
        look = scene.palette.road
        road = look.plain
        if self.crosswalk is not None or branch is not None:
            markings = replace(look.markings, crosswalk_s=self.crosswalk)
            if branch is not None and branch.fork.s < self.s0 + BLOCK_M and branch.nose > self.s0:
                # The line at the road's edge is broken where the branch leaves.
                markings = markings.broken_at(x.lanes_left_d if branch.side > 0 else x.lanes_right_d)
            seed = scene.materials.seed(look.plain)
            road = scene.materials.add(
                shade.ROAD, ROAD, look.asphalt, look.paint, markings.params(), seed=seed
            )
        strips: list[tuple] = []
        origin = scene.route.points(self.s0, 0.0)
        ends = (self.s0, self.s0 + BLOCK_M)

        def strip(side, span, a, za, b, zb, slot: int, uv=None) -> None:
            """Outwards from d = a to d = b, face up; heights are numbers or functions of s.

            uv is s and d, or (u, v at a, v at b).
            """
            s = np.linspace(span[0], span[1], count)
            za, zb = (z(s) if callable(z) else np.full(count, z) for z in (za, zb))
            u, va, vb = (s, a, b) if uv is None else uv
            edges = (b, a, zb, za, u, vb, va) if side < 0 else (a, b, za, zb, u, va, vb)
            strips.append((s, *(np.broadcast_to(q, (count,)) for q in edges), slot))

        for side in (-1, 1):
            e, k = self.edge(side), x.kerb
            inner = e + side * (0.15 if k > 0 else 0.0)
            verge = e + side * x.verge if x.verge > 0.2 else inner
            front = verge + side * x.walk
            if branch is not None and side == branch.side:
                self._ground_of_branch(branch, partial(strip, side, ends), np.linspace(*ends, count))
                continue
            split = side in self.side_streets
            spans = [(ends[0], self.street_from), (self.street_to, ends[1])] if split else [ends]
            marks = [min(m, max(self.reach - abs(front), 3.0)) for m in (0.0, 6.0, 14.0, 30.0, 60.0, 110.0)]
            for span in spans:
                if k > 0:
                    strip(side, span, e, 0.0, e, k, 3)
                    strip(side, span, e, k, inner, k, 3)
                if x.verge > 0.2:
                    strip(side, span, inner, k, verge, k, 2)
                if x.walk > 0:
                    strip(side, span, verge, k, front, k, 1)
                for m0, m1 in zip(marks[:-1], marks[1:], strict=True):
                    if m1 - m0 > 0.5:
                        low, high = (partial(self.far_height, side, distance=m) for m in (m0, m1))
                        lot_slot = (5 if side < 0 else 6) if m1 <= 14.0 else 4
                        strip(side, span, front + side * m0, low, front + side * m1, high, lot_slot)
            if split:
                far_end = e + side * SIDE_STREET_M
                kerbs = (self.street_from + self.street_walk, self.street_to - self.street_walk)
                strip(side, kerbs, e, 0.0, far_end, 0.0, 0)
                for span in ((self.street_from, kerbs[0]), (kerbs[1], self.street_to)):
                    strip(side, span, e, k, far_end, k, 1 if x.walk > 0 else 2)
                strip(side, (self.street_from, self.street_to), far_end, k, far_end + side * 40.0, k, 4)
                if k > 0:
                    corners = np.array(
                        [[(s, e, 0), (s, far_end, 0), (s, far_end, k), (s, e, k)] for s in kerbs]
                    )
                    faces = facets(scene.route.points(*np.moveaxis(corners, -1, 0)) - origin)
                    pose = np.eye(4)
                    pose[:3, 3] = origin
                    number = scene.pool.add(merge([faces], two_sided=True))
                    self.parts.append(Part(number, (scene.palette.ground.kerb,), 0, pose))
        strip(1, ends, x.right_edge, 0.0, x.left_edge, 0.0, 0)
        ground = {
            "rows": scene.palette.ground.yard,
            "blocks": scene.palette.ground.yard if self.rng.random() < 0.6 else scene.palette.ground.grass,
            "parking": road,
            "field": scene.palette.ground.field,
            "rail": scene.palette.ground.dirt,
            "forest": scene.palette.ground.dirt,
        }
        far = (
            scene.palette.ground.field
            if scene.style.name in ("rural", "highway")
            else scene.palette.ground.grass
        )
        materials = (
            road,
            scene.palette.ground.walk,
            scene.palette.ground.grass,
            scene.palette.ground.kerb,
            far,
            ground.get(lots[-1], scene.palette.ground.grass),
            ground.get(lots[1], scene.palette.ground.grass),
            road
            if branch is None
            else scene.materials.add(
                shade.ROAD,
                ROAD,
                look.asphalt,
                look.paint,
                branch_markings(
                    look.markings, branch.half, marked=scene.markings, one_way=branch.one_way
                ).params(),
            ),
        )
        pose = np.eye(4)
        pose[:3, 3] = origin
        s, d0, d1, z0, z1, u, v0, v1 = (np.stack(column) for column in list(zip(*strips, strict=True))[:8])
        s, d, z = np.stack([s, s], -1), np.stack([d0, d1], -1), np.stack([z0, z1], -1)
        uv = np.stack([np.stack([u, u], -1), np.stack([v0, v1], -1)], -1)
        mesh = ribbons(scene.route.points(s, d, z) - origin, uv, np.array([q[8] for q in strips]))
        self.parts.append(Part(scene.pool.add(mesh), materials, 0, pose))

    def _ground_of_branch(self, branch: Branch, strip, s: np.ndarray) -> None:
        """The ground on the branch's side: our edge, the land between, the branch, and what lies beyond."""
        x = self.scene.section
        side, k = branch.side, x.kerb
        bends = self.scene.route.at(s)[:, 4] * side
        limit = min(110.0, 0.8 / max(float(bends.max()), 1e-4))
        e, walk_slot, lot_slot = abs(self.edge(side)), 1 if x.walk > 0 else 2, 5 if side < 0 else 6
        low, high = branch.edges(s)
        inner, outer = np.clip(low, e, limit), np.clip(high, e, limit)
        gap = inner - e
        rise = np.where(gap > 0.05, k, 0.0)
        ours, theirs = np.minimum(x.lot, 0.5 * gap), np.minimum(x.walk + 0.3, 0.5 * gap)

        def out(a, za, b, zb, slot, uv=None) -> None:
            # Heights are arrays of their own here: functions that give them whatever s is.
            heights = [np.broadcast_to(np.asarray(z, np.float64), s.shape) for z in (za, zb)]
            strip(side * a, lambda _: heights[0], side * b, lambda _: heights[1], slot, uv)

        out(e, 0.0, e, rise, 3)
        out(e, rise, e + ours, rise, walk_slot)
        out(e + ours, rise, inner - theirs, rise, 2)
        out(inner - theirs, rise, inner, rise, walk_slot)
        out(inner, rise, inner, 0.0, 3)
        turned = np.cos(branch.fork.parting(s))
        across = [(side * (edge - branch.q(s))) * turned for edge in (inner, outer)]
        out(inner, 0.0, outer, 0.0, 7, (branch.arc(s), *across))
        out(outer, 0.0, outer, k, 3)
        edges = [outer, outer + (0.15 if k > 0 else 0.0)]
        edges.append(outer + x.verge if x.verge > 0.2 else edges[1])
        edges.append(edges[2] + x.walk)
        for a, b, slot in zip(edges[:-1], edges[1:], (3, 2, 1), strict=True):
            out(np.minimum(a, limit), k, np.minimum(b, limit), k, slot)
        marks = (0.0, 6.0, 14.0, 30.0, 60.0, 110.0)
        for m0, m1 in zip(marks[:-1], marks[1:], strict=True):
            a, b = (np.minimum(edges[3] + m, limit) for m in (m0, m1))
            out(a, k, b, k, lot_slot if m1 <= 14.0 else 4)

    # -- beside the road ---------------------------------------------------------------------------

    def front(self, side: int) -> float:
        """d of the lots' front line."""
        return self.edge(side) + side * (self.scene.section.lot + 0.05)

    def tree(
        self,
        s: float,
        d: float,
        height: float,
        *,
        fine: bool = True,
        kind: str | None = None,
        up: float = 0.0,
    ) -> None:
        scene, rng = self.scene, self.rng
        kind = (
            kind or scene.palette.plants.tree_kinds[int(rng.integers(len(scene.palette.plants.tree_kinds)))]
        )
        if self.on_branch(s, d, 1.5):
            return
        mesh = models.tree(kind, int(rng.integers(3)), fine)
        leaves = (
            scene.palette.plants.fir
            if kind == "conifer"
            else scene.palette.plants.leaves[int(rng.integers(4))]
        )
        self.put(mesh, (scene.palette.plants.bark, leaves), s, d, up, rng.uniform(0, 6.28), height)

    def bushes(self, s: float, d: float, size: float, up: float = 0.0) -> None:
        rng = self.rng
        self.put(
            models.bush(int(rng.integers(4))),
            (self.scene.palette.plants.bark, self.scene.palette.plants.leaves[int(rng.integers(4))]),
            s,
            d,
            up,
            rng.uniform(0, 6.28),
            size,
        )

    def building(
        self,
        s: float,
        d: float,
        along: float,
        deep: float,
        height: float,
        *,
        gable: float = 0.0,
        shop: bool = False,
        near: bool = True,
        yaw: float = 0.0,
        side: int = 0,
    ) -> None:
        """A house whose front (facing the road) is at d; not ``near`` leaves small parts away.

        Args:
            yaw: of its front from the road's direction.
            side: where it stands as seen from the road that it faces; 0 is that of d.
        """
        scene, rng = self.scene, self.rng
        side = side or (1 if d > 0 else -1)
        middle = s - 0.5 * side * deep * math.sin(yaw), d + 0.5 * side * deep * math.cos(yaw)
        if self.meets_branch(*middle, along, deep, yaw):
            return
        add = scene.materials.add
        masonry = rng.random() < 0.3
        if masonry:
            wall = hue(rng, rng.uniform(0.4, 0.65), rng.uniform(0.12, 0.4), 0.03, 0.03)
        elif rng.random() < 0.6:
            wall = hue(rng, rng.uniform(0.08, 0.4), rng.uniform(0.3, 0.8), 0.10, 0.06)
        else:
            wall = hue(rng, rng.uniform(0.05, 0.45), rng.uniform(0.15, 0.7))
        trim = grey(rng.uniform(0.5, 0.85), 0.04, rng) if rng.random() < 0.75 else hue(rng, 0.6, 0.15)
        door = hue(rng, 0.7, rng.uniform(0.05, 0.3))
        floors = max(1, round(height / rng.uniform(2.8, 3.6)))
        modern = height > 14 and rng.random() < 0.4
        params = (
            height / floors,
            rng.uniform(2.0, 3.8),
            rng.uniform(0.82, 0.96) if modern else rng.uniform(0.32, 0.55),
            rng.uniform(0.55, 0.85) if modern else rng.uniform(0.42, 0.62),
            float(shop),
            float(masonry),
            height,
            float(rng.random() < 0.6),
            float(gable > 0 and rng.random() < 0.35),
            *door,
        )
        facade = add(shade.FACADE, BUILDING, wall, trim, params)
        tile = (
            hue(rng, rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.28), 0.03, 0.03)
            if rng.random() < 0.7
            else grey(rng.uniform(0.05, 0.2), 0.1, rng)
        )
        roof = add(shade.ROOF, BUILDING, tile, params=(0.28,))
        body = box((along, deep, height + 1.0), (0, 0, height / 2 - 0.5), 0, top=1)
        # The box stands 1 m deep in the ground: its facade counts from the ground up.
        body = Mesh(
            body.vertices, body.normals, body.uv - np.array([0, 1.0], np.float32), body.triangles, body.slots
        )
        meshes = [body]
        if gable > 0:
            over = 0.35
            hx, hy = along / 2 + over, deep / 2 + over
            if rng.random() < 0.6 or along > deep * 1.6:  # ridge along the street
                front, ridge, back = (
                    [(x0, y0, z0) for x0 in (-hx, hx)]
                    for y0, z0 in ((-hy, height), (0, height + gable), (hy, height))
                )
                top = height + gable * deep / (2 * hy)
                tri = [
                    [(x0, -deep / 2, height), (x0, deep / 2, height), (x0, 0, top)]
                    for x0 in (along / 2, -along / 2)
                ]
            else:
                front, ridge, back = (
                    [(x0, y0, z0) for y0 in (hy, -hy)]
                    for x0, z0 in ((-hx, height), (0, height + gable), (hx, height))
                )
                top = height + gable * along / (2 * hx)
                tri = [
                    [(-along / 2, y0, height), (along / 2, y0, height), (0, y0, top)]
                    for y0 in (deep / 2, -deep / 2)
                ]
            meshes.append(
                facets(
                    np.array(
                        [[front[0], front[1], ridge[1], ridge[0]], [ridge[0], ridge[1], back[1], back[0]]]
                    ),
                    1,
                )
            )
            for corner in tri:
                v = np.array(corner, np.float32)
                n = np.cross(v[1] - v[0], v[2] - v[0])
                n = n / np.linalg.norm(n) * np.sign(n @ v[0])
                uv = np.stack([v[:, 1] if abs(n[0]) > 0.5 else v[:, 0], v[:, 2]], 1).astype(np.float32)
                meshes.append(
                    Mesh(
                        v,
                        np.tile(n, (3, 1)).astype(np.float32),
                        uv,
                        np.array([[0, 1, 2]], np.int32),
                        np.zeros(1, np.uint8),
                    )
                )
            if rng.random() < 0.6:
                meshes.append(
                    box(
                        (0.6, 0.6, 1.6),
                        (along * rng.uniform(-0.3, 0.3), deep * 0.15, height + gable * 0.85),
                        1,
                    )
                )
            meshes = [merge(meshes, two_sided=True)]
        elif rng.random() < 0.5:
            meshes.append(
                box((along * 0.3, deep * 0.3, 2.2), (along * rng.uniform(-0.3, 0.3), 0, height + 1.1), 1)
            )
        if near and height > 8 and rng.random() < 0.4:
            floor = height / floors
            at = [(q * along, k * floor) for k in range(1, floors) for q in (-0.25, 0.25)]
            slabs = [(x, -side * (deep / 2 + 0.55), z) for x, z in at]
            rails = [(x, -side * (deep / 2 + 1.07), z + 0.5) for x, z in at]
            sizes = [(along * 0.2, 1.1, 0.12)] * len(at) + [(along * 0.2, 0.06, 0.95)] * len(at)
            if at:
                meshes.append(boxes(np.array(sizes), np.array(slabs + rails), [2] * len(sizes)))
        if shop and rng.random() < 0.5:
            meshes.append(
                box(
                    (along * 0.5, 1.3, 0.08),
                    (along * rng.uniform(-0.2, 0.2), -side * (deep / 2 + 0.6), height / floors - 0.35),
                    3,
                )
            )
        plain = add(shade.PLAIN, BUILDING, trim, params=(0.2, 1.0))
        awning = add(shade.PLANKS, BUILDING, hue(rng, 0.8, 0.35), params=(0.4,))
        self.put(
            merge(meshes, two_sided=gable > 0),
            (facade, roof, plain, awning),
            *middle,
            self.scene.section.kerb,
            yaw,
        )

    def meets_branch(self, s: float, d: float, along: float, deep: float, yaw: float) -> bool:
        """Whether a rectangle around (s, d) reaches onto the branch or its sidewalks."""
        c, sn = math.cos(yaw), math.sin(yaw)
        return self.branch is not None and any(
            self.on_branch(s + a * along * c - b * deep * sn, d + a * along * sn + b * deep * c, margin)
            for margin in (self.scene.section.walk + 0.3,)
            for a in (-0.5, -0.25, 0.0, 0.25, 0.5)
            for b in (-0.5, -0.2, 0.2, 0.5)
        )

    def barrier(self, side: int, d: float, s0: float, s1: float, kind: str, up: float) -> None:
        """A fence, wall or hedge along the road, but not across a branch."""
        for a, b in self.free_of_branch(s0, s1, d):
            self._barrier(side, d, a, b, kind, up)

    def _barrier(self, side: int, d: float, s0: float, s1: float, kind: str, up: float) -> None:
        scene, rng = self.scene, self.rng
        route = scene.route
        count = max(2, int((s1 - s0) / 4.0) + 1)
        s = np.linspace(s0, s1, count)
        centre = route.points(s0, d, up)
        add = scene.materials.add
        if kind in ("wall", "hedge", "noise"):
            height = {
                "wall": rng.uniform(0.7, 2.4),
                "hedge": rng.uniform(0.8, 2.0),
                "noise": rng.uniform(3.0, 5.0),
            }[kind]
            half = {"wall": 0.14, "hedge": 0.4, "noise": 0.12}[kind]
            d4 = np.array([half, half, -half, -half])
            z4 = np.array([-0.3, height, height, -0.3])
            if kind == "hedge":
                wobble = rng.normal(size=(count, 4)) * 0.06
            else:
                wobble = np.zeros((count, 4))
            points = route.points(s[:, None], d + d4[None] + wobble, up + z4[None] + wobble) - centre
            sheets = []
            for a in range(3):
                uv = np.stack(
                    [
                        np.broadcast_to(s[:, None], (count, 2)),
                        np.broadcast_to(
                            np.array([z4[a], z4[a + 1]]) + 0.3 * (a == 1) * np.array([0, half * 2]),
                            (count, 2),
                        ),
                    ],
                    -1,
                )
                sheets.append(grid(points[:, a : a + 2], 0, uv=uv))
            ends = [box((0.05, 2 * half, height), (0, 0, height / 2), 0)]
            mesh = merge(sheets, two_sided=True)
            if kind == "hedge":
                material = scene.palette.plants.leaves[int(rng.integers(4))]
            elif kind == "noise":
                material = add(
                    shade.PLANKS, WALL, hue(rng, 0.3, rng.uniform(0.15, 0.5)), params=(rng.uniform(0.3, 4.0),)
                )
            elif rng.random() < 0.5:
                material = add(
                    shade.BRICK,
                    WALL,
                    hue(rng, rng.uniform(0.1, 0.6), rng.uniform(0.12, 0.45), 0.05, 0.04),
                    grey(0.4, 0.1, rng),
                    (rng.uniform(0.22, 0.6), rng.uniform(0.08, 0.25)),
                )
            else:
                material = add(shade.PLAIN, WALL, grey(rng.uniform(0.25, 0.7), 0.08, rng), params=(0.5, 0.8))
            pose = np.eye(4)
            pose[:3, 3] = centre
            self.parts.append(Part(scene.pool.add(mesh), (material,), 0, pose))
            if kind != "hedge":
                for end_s in (s0, s1):
                    self.put(ends[0], (material,), end_s, d, up)
            return
        height = rng.uniform(0.8, 1.9)
        spacing = {"picket": 0.16, "bars": 0.14, "rails": 9e9, "mesh": 0.10}[kind]
        wide = {"picket": 0.10, "bars": 0.025, "rails": 0.0, "mesh": 0.008}[kind]
        meshes = []
        # Posts and slats are flat two-sided boards along the fence, rails run from post to post.
        at = np.arange(s0, s1, min(spacing, 2.2))
        posts = np.arange(s0, s1 + 0.1, 2.2)

        def boards(where: np.ndarray, width: float, top: float) -> Mesh:
            p0 = route.points(where - width / 2, d, up - 0.1) - centre
            p1 = route.points(where + width / 2, d, up - 0.1) - centre
            n = len(where)
            v = (
                np.stack([p0, p1, p1 + [0, 0, top + 0.1], p0 + [0, 0, top + 0.1]], 1)
                .reshape(-1, 3)
                .astype(np.float32)
            )
            t = (
                (np.arange(n)[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]]))
                .reshape(-1, 3)
                .astype(np.int32)
            )
            normal = np.cross(p1 - p0, [0, 0, 1.0])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            uv = np.zeros((4 * n, 2), np.float32)
            uv[:, 0] = np.repeat(where, 4)
            uv[:, 1] = v[:, 2]
            return Mesh(v, np.repeat(normal, 4, 0).astype(np.float32), uv, t, np.zeros(2 * n, np.uint8))

        meshes.append(boards(posts, 0.09, height + 0.06))
        if kind != "rails":
            meshes.append(boards(at, wide, height))
        levels = {
            "picket": (0.3, 0.8),
            "bars": (0.08, 0.95),
            "rails": (0.35, 0.65, 0.97),
            "mesh": (0.05, 0.28, 0.52, 0.75, 0.98),
        }[kind]
        thick = 0.1 if kind in ("picket", "rails") else 0.035
        for level in levels:
            z = np.array([level * height - thick / 2, level * height + thick / 2])
            points = route.points(s[:, None], d + 0.02, up + z[None]) - centre
            meshes.append(
                grid(
                    points,
                    0,
                    uv=np.stack(
                        [np.broadcast_to(s[:, None], (count, 2)), np.broadcast_to(z, (count, 2))], -1
                    ),
                )
            )
        wood = kind in ("picket", "rails")
        color = (
            hue(rng, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.6), 0.08, 0.03)
            if wood
            else grey(rng.uniform(0.02, 0.4), 0.2, rng)
        )
        material = add(shade.PLAIN, FENCE, color, params=(0.5, 4.0))
        pose = np.eye(4)
        pose[:3, 3] = centre
        self.parts.append(Part(scene.pool.add(merge(meshes, two_sided=True)), (material,), 0, pose))

    def any_barrier(self, side: int, d: float, s0: float, s1: float, up: float) -> None:
        kind = pick(self.rng, {"wall": 2.5, "hedge": 2.5, "picket": 2, "bars": 2, "rails": 1, "mesh": 1.0})
        self.barrier(side, d, s0, s1, kind, up)

    def lot(self, side: int, kind: str, a: float, b: float) -> None:
        """What stands beside the road from s = a to b."""
        scene, rng = self.scene, self.rng
        front, up = self.front(side), scene.section.kerb
        middle, part = 0.5 * (a + b), (b - a) / BLOCK_M
        far = partial(self.far_point, side)
        if kind == "rows":
            s, height = a, rng.uniform(8, 18)
            while s < b - 3:
                along = min(rng.uniform(8, 20), b - s)
                if b - s - along < 5:
                    along = b - s
                h = height * rng.uniform(0.8, 1.25)
                self.building(
                    s + along / 2,
                    front + side * rng.choice([0.0, 0.0, 0.6]),
                    along - 0.02,
                    rng.uniform(9, 14),
                    h,
                    gable=rng.uniform(2, 4) if rng.random() < 0.5 else 0.0,
                    shop=rng.random() < 0.55,
                )
                s += along
        elif kind == "houses":
            for s in np.arange(a + 7, b - 5, rng.uniform(15, 22)):
                along, setback = rng.uniform(8, 12), rng.uniform(3, 7)
                self.building(
                    s + rng.uniform(-1, 1),
                    front + side * setback,
                    along,
                    rng.uniform(8, 11),
                    rng.uniform(3.0, 6.5),
                    gable=rng.uniform(2, 4),
                )
                if rng.random() < 0.7:
                    self.tree(
                        s + along * 0.8, front + side * rng.uniform(1.5, setback + 1), rng.uniform(3, 9)
                    )
                for _ in range(int(rng.integers(0, 4))):
                    self.bushes(
                        s + rng.uniform(-7, 7),
                        front + side * rng.uniform(0.8, 2.5),
                        rng.uniform(0.6, 1.6),
                        up,
                    )
                if rng.random() < 0.35:
                    self.parked_car(
                        s + along / 2 + 1.6,
                        front + side * rng.uniform(2.5, 4.0),
                        side * -math.pi / 2 + rng.normal() * 0.05,
                        up,
                    )
            if rng.random() < 0.85:
                self.any_barrier(side, front + side * 0.2, a, middle - 2.0, up)
                self.any_barrier(side, front + side * 0.2, middle + 2.0, b, up)
        elif kind == "blocks":
            setback = rng.uniform(2, 12)
            self.building(
                a + 18,
                front + side * setback,
                rng.uniform(24, 34),
                rng.uniform(12, 16),
                rng.uniform(11, 32),
                shop=rng.random() < 0.2,
            )
            for s in np.arange(a + 3, b, rng.uniform(7, 14)):
                if rng.random() < 0.6:
                    self.tree(s, front + side * rng.uniform(1.0, max(setback - 1, 1.5)), rng.uniform(5, 11))
            if rng.random() < 0.4:
                self.any_barrier(side, front + side * 0.3, a, b, up)
        elif kind in ("park", "forest", "garden"):
            n = {"park": 7, "forest": 16, "garden": 4}[kind]
            for _ in range(max(1, int(n * part))):
                m = rng.uniform(2.5, 26) if kind != "forest" else 3.0 + 30 * rng.random() ** 1.5
                s = rng.uniform(a, b)
                self.tree(
                    s,
                    front + side * m,
                    rng.uniform(5, 14) * (1.3 if kind == "forest" else 1.0),
                    fine=m < 12,
                    up=far(s, m) - 0.1,
                )
            for _ in range(int(rng.integers(2, 8))):
                m = rng.uniform(0.8, 8)
                s = rng.uniform(a, b)
                self.bushes(s, front + side * m, rng.uniform(0.6, 2.6), far(s, m) - 0.05)
            if kind == "park":
                m = rng.uniform(25, 45)
                self.building(
                    middle,
                    front + side * m,
                    rng.uniform(12, 30) * part,
                    12,
                    rng.uniform(6, 22),
                    gable=3.0 if rng.random() < 0.5 else 0.0,
                )
            if rng.random() < (0.5 if kind != "forest" else 0.15):
                self.any_barrier(side, front + side * 0.25, a, b, up)
        elif kind in ("wall", "fence"):
            self.barrier(
                side,
                front + side * 0.2,
                a,
                b,
                "wall" if kind == "wall" else pick(rng, {"bars": 1, "mesh": 1, "picket": 0.6}),
                up,
            )
            for _ in range(5):
                self.tree(
                    rng.uniform(a, b), front + side * rng.uniform(3, 20), rng.uniform(5, 12), fine=False
                )
            if rng.random() < 0.6:
                self.building(
                    middle,
                    front + side * rng.uniform(6, 16),
                    rng.uniform(14, 32),
                    12,
                    rng.uniform(4, 14),
                    gable=2.5 if rng.random() < 0.5 else 0.0,
                )
        elif kind == "parking":
            for m in (3.0, 11.0):
                for s in np.arange(a + 1.5, b - 1, 2.7):
                    if rng.random() < 0.6:
                        self.parked_car(
                            s, front + side * m, side * math.pi / 2 * (1 if rng.random() < 0.5 else -1), up
                        )
            self.building(middle, front + side * 22, rng.uniform(20, 38), 12, rng.uniform(6, 14))
            self.tree(a + 1, front + side * 7, rng.uniform(4, 7))
        elif kind == "barrier":
            self.barrier(side, front + side * 1.0, a, b, "noise", up)
            for _ in range(5):
                self.tree(
                    rng.uniform(a, b), front + side * rng.uniform(4, 12), rng.uniform(6, 13), fine=False
                )
        elif kind == "field":
            for _ in range(int(rng.integers(0, 3))):
                m, s = rng.uniform(3, 9), rng.uniform(a, b)
                self.tree(s, front + side * m, rng.uniform(4, 11), up=far(s, m) - 0.1)
            for _ in range(9):
                m, s = rng.uniform(45, 85), rng.uniform(a, b)
                self.tree(s, front + side * m, rng.uniform(6, 14), fine=False, up=far(s, m) - 0.2)
            if rng.random() < 0.2:
                m = rng.uniform(30, 60)
                self.building(middle, front + side * m, 14, 10, 5.0, gable=3.5)
        elif kind == "rail":
            self.rail(side, front, far)

    def distance(self, side: int) -> None:
        """Something always stands far off, so that the horizon is not empty."""
        scene, rng = self.scene, self.rng
        front, a, b = self.front(side), self.s0, self.s0 + BLOCK_M
        far = partial(self.far_point, side)
        for _ in range(5):
            m, s = rng.uniform(40, 75), rng.uniform(a, b)
            if scene.style.name in ("city", "avenue", "residential") and rng.random() < 0.5:
                self.building(
                    s,
                    front + side * m,
                    rng.uniform(10, 25),
                    12,
                    rng.uniform(6, 26),
                    gable=3.0 if rng.random() < 0.5 else 0.0,
                    near=False,
                )
            else:
                self.tree(s, front + side * m, rng.uniform(7, 15), fine=False, up=far(s, m) - 0.2)
        if self.number % 3 == 0 and rng.random() < 0.6:
            size = rng.uniform(50, 140)
            mesh = models.hill(int(rng.integers(3)))
            pose = scene.route.pose(a, front + side * (130 + size), -8.0)
            pose[:3, :3] = turn_z(rng.uniform(0, 6)) @ np.diag([size, size, rng.uniform(12, 45)])
            self.parts.append(
                Part(
                    scene.pool.add(mesh),
                    (scene.palette.plants.leaves[0] if rng.random() < 0.6 else scene.palette.ground.grass,),
                    0,
                    pose,
                )
            )

    def side_street(self, side: int, kind: str) -> None:
        """A street that branches off: houses, parked cars, one who waits and one who drives away."""
        scene, rng = self.scene, self.rng
        e, up, middle = self.edge(side), scene.section.kerb, self.s0 + 20.0
        tall = kind == "rows"
        height = rng.uniform(8, 16)
        for flank in (-1, 1):
            wall = middle + flank * (self.street_half + self.street_walk)
            d = 17.0
            while d < SIDE_STREET_M - 8:
                deep = rng.uniform(9, 16)
                if kind == "rows" or (kind == "houses" and rng.random() < 0.8):
                    along = 9.0
                    setback = 0.05 if tall else rng.uniform(1.5, 4.0)
                    self.building(
                        wall + flank * (along / 2 + setback),
                        e + side * d,
                        along,
                        deep - (0.02 if tall else 4.0),
                        height * rng.uniform(0.85, 1.2) if tall else rng.uniform(3.0, 6.5),
                        gable=rng.uniform(2, 4) if not tall or rng.random() < 0.4 else 0.0,
                    )
                if not tall or rng.random() < 0.2:
                    self.tree(
                        wall + flank * rng.uniform(0.3, 2.0), e + side * (d - 1), rng.uniform(4, 9), up=up
                    )
                d += deep
            if rng.random() < 0.7:
                for d in np.arange(12.0, SIDE_STREET_M - 6, 6.2):
                    if rng.random() < 0.6:
                        yaw = math.pi / 2 * (-1 if rng.random() < 0.5 else 1)
                        self.parked_car(
                            middle + flank * (self.street_half - 0.2), e + side * d, yaw, up / 2, street=True
                        )
        if tall:
            self.building(middle, e + side * (SIDE_STREET_M + 3), 24.0, 12.0, height)
        else:
            for _ in range(4):
                self.tree(
                    middle + rng.uniform(-9, 9),
                    e + side * (SIDE_STREET_M + rng.uniform(2, 12)),
                    rng.uniform(6, 13),
                    up=up,
                )
        for flank in (-1, 1):
            if rng.random() < 0.5:
                self.signpost(
                    middle + flank * (self.street_half + self.street_walk + 0.7), e + side * 1.0, up, side
                )
        # Traffic keeps to the right: who looks to the left of the main road drives at the greater s.
        lane = 0.3 * self.street_half
        if rng.random() < 0.4:
            self.parked_car(
                middle - side * lane, e + side * rng.uniform(4.0, 6.5), -side * math.pi / 2, street=True
            )
        if rng.random() < 0.5:
            kind = pick(rng, {"car": 6, "van": 1, "bus": 0.3, "truck": 0.5})
            vehicle, materials = draw_vehicle(scene, kind, rng)
            parts, poses = on_wheels(scene, vehicle, materials)
            pace = rng.uniform(2.5, 8.0)
            begin = (middle - EGO_START_M - 25.0) / max(scene.speed, 2.0) - rng.uniform(0.0, 5.0)
            route = scene.route

            def motion(t: float) -> list[np.ndarray]:
                way = 6.0 + pace * (t - begin)
                pose = route.pose(middle + side * lane, e + side * way, 0.0, side * math.pi / 2)
                return poses(pose, way)

            length = vehicle.size[0]
            self.agents.append(
                Agent(parts, motion, ALWAYS, length, during=(begin, begin + (SIDE_STREET_M - 5) / pace))
            )

    def along_branch(self, branch: Branch, kind: str) -> None:
        """What stands along the branch, a sign where the roads part, and who drives away on it."""
        scene, rng = self.scene, self.rng
        x, side, end = scene.section, branch.side, self.s0 + BLOCK_M
        e, up = abs(self.edge(side)), x.kerb
        rows = kind in ("rows", "blocks")
        height, gone = rng.uniform(8, 16), 105.0
        for s in np.arange(self.s0 + 5.0, end, 10.0):
            low, high = (float(q) for q in branch.edges(s))
            turn, yaw = math.cos(branch.yaw(s)), branch.yaw(s)
            if high > gone or s < branch.mouth:
                continue
            built = kind in ("rows", "blocks", "houses", "wall", "fence") and (rows or rng.random() < 0.7)
            beyond = high + (x.lot + (0.5 if rows else rng.uniform(2.0, 6.0))) / turn
            before = low - (x.walk + (0.8 if rows else rng.uniform(2.0, 6.0))) / turn
            # Its houses stand where ours no longer fit, and in the wedge when that is wide enough for both.
            for q, face, fits in (
                (
                    beyond,
                    side,
                    self.meets_branch(s, side * (e + x.lot + 5.0), 10.0, 10.0, 0.0) or high > e + 14,
                ),
                (before, -side, low - e > 36.0),
            ):
                if fits and built:
                    self.building(
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
                        self.tree(
                            s + rng.uniform(-5, 5),
                            side * (q + face * side * rng.uniform(1, 9)),
                            rng.uniform(4, 11),
                            up=up,
                        )
            if rng.random() < 0.5 and low - e > x.lot + x.walk + 3.0:
                self.tree(
                    s, side * rng.uniform(e + x.lot + 0.5, low - x.walk - 1.0), rng.uniform(3, 7), up=up
                )
            if (rng.random() < 0.35) and not branch.one_way and high < gone:
                lean = branch.half - 0.95
                self.parked_car(s, branch.beside(s, -lean), yaw, street=True)
            if rng.random() < 0.4 and scene.style.name != "rural":
                lamp = models.lamp("arm")
                self.put(
                    lamp,
                    (scene.palette.furniture.metal, scene.palette.furniture.lamp_glass),
                    s,
                    side * (high + 0.6),
                    up,
                    yaw - side * math.pi / 2,
                )
        if self.s0 <= branch.nose < end:
            self._nose(branch)
        if self.s0 <= branch.mouth < end:
            self._leavers(branch)
            if not branch.one_way:
                self._waiting(branch)

    def _nose(self, branch: Branch) -> None:
        """A direction sign on two poles where the land between the carriageways begins."""
        scene = self.scene
        s = branch.nose + 3.0
        low, _ = branch.edges(s)
        d = branch.side * 0.5 * (abs(self.edge(branch.side)) + float(low))
        yaw, up = 0.5 * branch.yaw(s), scene.section.kerb
        for k in (-0.7, 0.7):
            self.put(models.pole(3.4, 0.05), (scene.palette.furniture.metal,), s, d + k, up)
        board = scene.palette.furniture.boards[int(self.rng.integers(3))]
        pose = scene.route.pose(s - 0.1, d, up + 2.7, yaw)
        pose[:3, :3] = pose[:3, :3] * np.array([1.0, 2.2, 1.1])[None]
        self.parts.append(
            Part(scene.pool.add(models.sign("wide")), (board, scene.palette.furniture.sign_back), 0, pose)
        )

    def _leavers(self, branch: Branch) -> None:
        """Vehicles that are driving away on the branch when the ego vehicle comes."""
        scene, rng, route = self.scene, self.rng, self.scene.route
        lane = 0.0 if branch.one_way else -0.5 * scene.section.lane_width
        arrival = (branch.fork.s - EGO_START_M) / max(scene.speed, 2.0)
        pace = max(0.7 * scene.speed, 3.5) * rng.uniform(0.8, 1.1)
        begin = arrival - rng.uniform(1.0, 4.0)
        first, last = branch.mouth + 2.0, branch.fork.end - 5.0
        for _ in range(int(rng.integers(1, 4))):
            kind = pick(rng, {"car": 8, "van": 1.3, "truck": 1, "bus": 0.4})
            vehicle, materials = draw_vehicle(scene, kind, rng)
            parts, poses = on_wheels(scene, vehicle, materials)
            length = vehicle.size[0]
            begin -= (length + rng.uniform(8.0, 30.0)) / pace

            def motion(t: float, begin: float = begin, poses=poses) -> list[np.ndarray]:
                s = first + pace * (t - begin)
                pose = route.pose(s, branch.beside(s, lane), 0.0, branch.yaw(s), upright=False)
                return poses(pose, float(branch.arc(s)))

            self.agents.append(
                Agent(parts, motion, ALWAYS, length, during=(begin, begin + (last - first) / pace))
            )

    def _waiting(self, branch: Branch) -> None:
        """A vehicle that comes along the branch, brakes, and waits where it meets our road."""
        scene, rng = self.scene, self.rng
        vehicle, materials = draw_vehicle(scene, pick(rng, {"car": 8, "van": 1.3, "truck": 0.7}), rng)
        parts, poses = on_wheels(scene, vehicle, materials)
        stop = branch.nose + 2.0 + 0.5 * vehicle.size[0]
        far = min(branch.fork.end - 5.0, stop + 110.0)
        pace, lane = rng.uniform(5.0, 9.0), 0.5 * scene.section.lane_width
        # Braking at 2 m/s^2 takes pace / 2 seconds and pace^2 / 4 metres.
        cruise_s, brake_s = (far - stop - pace**2 / 4) / pace, pace / 2
        arrival = (branch.fork.s - EGO_START_M) / max(scene.speed, 2.0)
        begin = arrival - rng.uniform(-2.0, 5.0) - cruise_s - brake_s

        def motion(t: float) -> list[np.ndarray]:
            braking = min(max(t - begin - cruise_s, 0.0), brake_s)
            s = far - pace * min(t - begin, cruise_s) - pace * braking + braking**2
            yaw = branch.yaw(s) + math.pi
            pose = scene.route.pose(s, branch.beside(s, lane), 0.0, yaw, upright=False)
            return poses(pose, -float(branch.arc(s)))

        span = begin, begin + cruise_s + brake_s
        self.agents.append(Agent(parts, motion, span, vehicle.size[0], during=(begin, math.inf)))

    def rail(self, side: int, front: float, far) -> None:
        """A railway beside the road, with a train on it now and then."""
        scene, rng = self.scene, self.rng
        d = front + side * 6.0
        up = far(self.s0 + 20, 6.0) + 0.05
        steel = scene.materials.add(shade.PLAIN, TERRAIN, grey(0.12, 0.1, rng), params=(0.3, 1.0))
        s = self.s0 + np.linspace(0, BLOCK_M, 11)
        origin = scene.route.points(self.s0, d, up)
        rails = []
        for k in (-0.72, 0.72):
            points = scene.route.points(s[:, None], d + k + np.array([[-0.04, 0.04]]), up + 0.18) - origin
            rails.append(grid(points, 0))
        pose = np.eye(4)
        pose[:3, 3] = origin
        self.parts.append(Part(scene.pool.add(merge(rails, two_sided=True)), (steel,), 0, pose))
        if rng.random() < 0.75:
            vehicle, materials = draw_vehicle(scene, "rail", rng)
            self.put(
                vehicle.whole, materials, self.s0 + 20, d, up, instance=scene.new_instance(), upright=False
            )
        if rng.random() < 0.6:
            self.barrier(side, front + side * 0.4, self.s0, self.s0 + BLOCK_M, "mesh", scene.section.kerb)
        for k in (5.0, 25.0):
            self.put(
                models.pole(7.0, 0.12), (scene.palette.furniture.dark_pole,), self.s0 + k, d + side * 3.0, up
            )

    def parked_car(self, s: float, d: float, yaw: float, up: float = 0.0, *, street: bool = False) -> None:
        scene, rng = self.scene, self.rng
        kind = pick(rng, {"car": 10, "van": 1.3, "truck": 0.15})
        if not street and self.meets_branch(s, d, 5.0, 2.0, yaw):
            return
        vehicle, materials = draw_vehicle(scene, kind, rng)
        self.put(
            vehicle.whole,
            materials,
            s,
            d,
            up,
            yaw,
            instance=scene.new_instance(),
            upright=False,
            street=street,
        )

    def parking(self, side: int) -> None:
        scene, rng = self.scene, self.rng
        x = scene.section
        width = x.park_right if side < 0 else x.park_left
        if width <= 0:
            return
        fill = np.random.default_rng([scene.seed, 6, side + 1]).uniform(0.3, 0.95)
        d = self.edge(side) - side * (x.shoulder + width / 2)
        s = self.s0 + 1.5
        facing = 0.0 if side < 0 else math.pi
        while s < self.s0 + BLOCK_M - 4:
            near_crossing = self.crosswalk is not None and abs(s + 1 - self.crosswalk) < 7
            if rng.random() < fill and not near_crossing:
                self.parked_car(
                    s + 2.3,
                    d + rng.normal() * 0.08,
                    facing + rng.normal() * 0.02 + (math.pi if rng.random() < 0.06 else 0),
                )
            s += rng.uniform(5.3, 6.6)

    def kerbside(self, side: int) -> None:
        """Lamps, signs, lights, street trees, bins, bicycles at the edge of the road."""
        scene, rng = self.scene, self.rng
        x, name = scene.section, scene.style.name
        e, up = self.edge(side), x.kerb
        d = e + side * (0.45 if x.kerb > 0 else 1.0)
        look = -math.pi / 2 if side > 0 else math.pi / 2
        lamp_kind = np.random.default_rng([scene.seed, 7]).choice(["arm", "arm", "arm", "post"])
        if (name not in ("rural",) or rng.random() < 0.2) and (
            x.lot > 4.0 or (side < 0) == (self.number % 2 == 0)
        ):
            self.put(
                models.lamp(str(lamp_kind)),
                (scene.palette.furniture.metal, scene.palette.furniture.lamp_glass),
                self.s0 + 4 + rng.uniform(-1, 1),
                d,
                up,
                look,
            )
        for _ in range(int(rng.integers(0, 4))):
            self.signpost(self.s0 + rng.uniform(2, BLOCK_M - 2), d + side * rng.uniform(0, 0.3), up, side)
        if self.crosswalk is not None and rng.random() < 0.8:
            reach = 3.5 * -side if rng.random() < 0.35 else 0.0
            self.light(self.crosswalk - 1.5, d, up, reach, facing=side < 0)
            self.light(self.crosswalk + 4.5, d, up, 0.0, facing=side > 0)
        if x.walk > 0:
            if rng.random() < 0.45:
                step = rng.uniform(7, 13)
                for s in np.arange(self.s0 + 2, self.s0 + BLOCK_M, step):
                    self.tree(
                        s + rng.normal() * 0.5,
                        e + side * (0.9 if x.verge < 1 else x.verge * 0.55),
                        rng.uniform(5, 13),
                        up=up,
                    )
            if rng.random() < 0.15:
                for s in np.arange(self.s0, self.s0 + BLOCK_M, 2.0):
                    self.put(
                        models.pole(0.95, 0.06), (scene.palette.furniture.dark_pole,), s, e + side * 0.35, up
                    )
            if rng.random() < 0.45:
                for k in range(int(rng.integers(1, 7))):
                    self.parked_bicycle(self.s0 + 10 + 0.7 * k, e + side * (x.lot - 0.9), up)
            if rng.random() < 0.3:
                self.parked_motorcycle(self.s0 + rng.uniform(3, 35), e + side * 0.9, up)
            for _ in range(int(rng.integers(0, 2))):
                body = scene.palette.furniture.clutter[int(rng.integers(3))]
                self.put(
                    models.bin_box(),
                    (body, scene.palette.furniture.clutter[0]),
                    self.s0 + rng.uniform(0, 40),
                    e + side * (x.lot - 0.4),
                    up,
                    rng.uniform(0, 6),
                )
        if name == "highway" and rng.random() < 0.5:
            for a, b in self.free_of_branch(self.s0, self.s0 + BLOCK_M, e + side * 0.6):
                self.guard_rail(e + side * 0.6, a, b)
        if name in ("highway", "avenue") and self.number % 5 == 2 and side < 0 and rng.random() < 0.8:
            if self.branch is None:
                self.gantry()
        if name in ("rural", "residential") and side > 0 and scene.seed % 2 == 0:
            self.put(
                models.pole(8.0, 0.11),
                (scene.palette.furniture.dark_pole,),
                self.s0 + 10,
                e + side * (x.lot + 0.4),
                0.0,
            )
            self.put(
                box((0.1, 1.8, 0.12), (0, 0, 7.4), 0),
                (scene.palette.furniture.dark_pole,),
                self.s0 + 10,
                e + side * (x.lot + 0.4),
                0.0,
            )

    def signpost(self, s: float, d: float, up: float, side: int) -> None:
        scene, rng = self.scene, self.rng
        if self.on_branch(s, d, 0.6):
            return
        yaw = 0.0 if side < 0 or rng.random() < 0.3 else math.pi
        yaw += rng.normal() * 0.12
        height = rng.uniform(2.1, 3.0)
        self.put(models.pole(height + 0.3, 0.042), (scene.palette.furniture.metal,), s, d, up)
        for k in range(1 if rng.random() < 0.7 else 2):
            pattern = int(rng.integers(0, 8))
            shape = ("round", "triangle", "round", "octagon", "square", "square", "wide", "wide")[pattern]
            face = (
                scene.palette.furniture.sign_faces[pattern]
                if pattern < 6
                else scene.palette.furniture.boards[int(rng.integers(3))]
            )
            size = rng.uniform(0.55, 0.85)
            mesh = models.sign(shape)
            pose = scene.route.pose(s, d, up + height - k * 0.75, yaw)
            pose[:3, 3] -= pose[:3, 0] * 0.06
            stretch = np.array([1.0, 1.6 if shape == "wide" else 1.0, 0.5 if shape == "wide" else 1.0]) * size
            pose[:3, :3] = pose[:3, :3] * stretch[None]
            self.parts.append(Part(scene.pool.add(mesh), (face, scene.palette.furniture.sign_back), 0, pose))

    def light(self, s: float, d: float, up: float, reach: float, facing: bool) -> None:
        scene = self.scene
        on = int(self.rng.integers(3))
        lenses = [
            scene.palette.furniture.lens_on[k] if k == on else scene.palette.furniture.lens_off[k]
            for k in range(3)
        ]
        self.put(
            models.traffic_light(round(reach, 1)),
            (scene.palette.furniture.metal, scene.palette.furniture.housing, *lenses),
            s,
            d,
            up,
            0.0 if facing else math.pi,
        )

    def gantry(self) -> None:
        scene, rng = self.scene, self.rng
        x = scene.section
        s = self.s0 + 20.0
        self.put(models.pole(7.0, 0.16), (scene.palette.furniture.metal,), s, x.right_edge - 1.0, 0.0)
        beam = box((0.2, abs(x.right_edge) + 2.0, 0.25), (0, -(abs(x.right_edge) - 1.0) / 2, 6.4), 0)
        self.put(beam, (scene.palette.furniture.metal,), s, 0.0)
        board = scene.palette.furniture.boards[int(rng.integers(3))]
        for lane in range(x.lanes_right):
            pose = scene.route.pose(s - 0.3, x.lane_d(lane), 6.3)
            pose[:3, :3] = pose[:3, :3] * np.array([1.0, x.lane_width * 0.85, 1.9])[None]
            self.parts.append(
                Part(scene.pool.add(models.sign("wide")), (board, scene.palette.furniture.sign_back), 0, pose)
            )

    def guard_rail(self, d: float, s0: float, s1: float) -> None:
        scene = self.scene
        s = np.linspace(s0, s1, 11)
        origin = scene.route.points(s0, d)
        z = np.array([0.45, 0.55, 0.6, 0.65, 0.75])
        out = np.array([0.0, 0.05, 0.0, 0.05, 0.0])
        points = scene.route.points(s[:, None], d + out[None], z[None]) - origin
        pose = np.eye(4)
        pose[:3, 3] = origin
        self.parts.append(
            Part(scene.pool.add(grid(points, 0)), (scene.palette.furniture.guard_rail,), 0, pose)
        )
        for at in np.arange(s0, s1, 4.0):
            self.put(box((0.06, 0.1, 0.7), (0, 0, 0.3), 0), (scene.palette.furniture.guard_rail,), at, d, 0.0)

    def parked_bicycle(self, s: float, d: float, up: float) -> None:
        scene, rng = self.scene, self.rng
        c = BICYCLE
        parts = two_wheeler_materials(scene, c, rng, gloss=0.4)
        self.put(
            models.bicycle().whole,
            parts,
            s,
            d,
            up,
            math.pi / 2 + rng.normal() * 0.15,
            instance=scene.new_instance(),
        )

    def parked_motorcycle(self, s: float, d: float, up: float) -> None:
        scene, rng = self.scene, self.rng
        c = MOTORCYCLE
        parts = two_wheeler_materials(scene, c, rng, gloss=0.5)
        self.put(
            models.motorcycle("scooter" if rng.random() < 0.5 else "road").whole,
            parts,
            s,
            d,
            up,
            rng.normal() * 0.4,
            instance=scene.new_instance(),
        )

    def median(self) -> None:
        scene, rng = self.scene, self.rng
        x = scene.section
        d = x.median / 2
        if scene.style.name == "highway":
            kind = np.random.default_rng([scene.seed, 8]).choice(["wall", "rail", "hedge"])
            if kind == "wall":
                mesh = box((BLOCK_M / 8, 0.35, 0.85), (0, 0, 0.42), 0)
                material = scene.materials.add(shade.PLAIN, WALL, grey(0.4, 0.05, rng), params=(0.4, 1.0))
                for k in range(8):
                    self.put(mesh, (material,), self.s0 + (k + 0.5) * BLOCK_M / 8, d)
            elif kind == "rail":
                self.guard_rail(d, self.s0, self.s0 + BLOCK_M)
            else:
                self.barrier(1, d, self.s0, self.s0 + BLOCK_M, "hedge", 0.0)
            return
        s = self.s0 + np.linspace(0, BLOCK_M, 11)
        origin = scene.route.points(self.s0, d)
        half = x.median / 2 - 0.15
        points = (
            scene.route.points(
                s[:, None], d + half * np.array([[-1, -1, 1, 1]]), 0.13 * np.array([[0, 1, 1, 0]])
            )
            - origin
        )
        mesh = grid(points, np.tile([[1, 0, 1]], (10, 1)), crease_deg=30.0)
        pose = np.eye(4)
        pose[:3, 3] = origin
        self.parts.append(
            Part(scene.pool.add(mesh), (scene.palette.ground.grass, scene.palette.ground.kerb), 0, pose)
        )
        if rng.random() < 0.6:
            for at in np.arange(self.s0 + 3, self.s0 + BLOCK_M, 9.0):
                self.tree(at, d, rng.uniform(4, 8), up=0.1)


def blocks_between(s0: float, s1: float) -> range:
    """Numbers of the blocks that cover s0..s1 (the road begins at START_M)."""
    first = math.floor(max(s0, START_M + BLOCK_M / 2) / BLOCK_M)
    return range(first, math.floor(s1 / BLOCK_M) + 1)
