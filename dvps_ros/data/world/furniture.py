# SPDX-License-Identifier: Apache-2.0
"""What only rich streets have beside the road: more signs, shelters, benches, boxes, road works, planters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.mesh import Mesh, box, boxes, disc, facets, merge, tube, turn_x
from dvps_ros.data.world.palette import MoreLook
from dvps_ros.data.world.people import walkers
from dvps_ros.data.world.plants import bush
from dvps_ros.data.world.signs import any_board, traffic_light
from dvps_ros.data.world.site import Site

SIGN_SHAPES = ("yield", "round", "round", "square", "round", "wide", "diamond")
"""By place in ``MoreLook.sign_faces``: yield, no entry, no parking, crosswalk, speed limit, chevrons,
priority."""


def furnish(site: Site, look: MoreLook) -> None:
    """Put them on a block; they draw from a stream of their own, so that all else stays where it is."""
    site = replace(site, rng=np.random.default_rng([site.street.seed, 51, site.number & 0xFFFFFFFF]))
    rng, x = site.rng, site.street.section
    for side in (-1, 1):
        edge = site.edge(side)
        near = edge + side * (0.5 if x.kerb > 0 else 1.1)
        for _ in range(int(rng.integers(0, 4))):
            _signpost(
                site, look, rng.uniform(site.s0 + 1, site.s1 - 1), near + side * rng.uniform(0, 0.4), side
            )
        _lights(site, near, side)
        if rng.random() < (0.08 if x.walk > 0 else 0.15):
            _road_works(site, look, side)
        if x.walk > 0:
            for chance, put in _ON_SIDEWALKS:
                if rng.random() < chance:
                    put(site, look, side)
    if rng.random() < 0.8:
        _on_road(site, look)


def _signpost(site: Site, look: MoreLook, s: float, d: float, side: int) -> None:
    """One to three plates on a pole, small and large, for either direction of driving."""
    rng, up, furniture = site.rng, site.kerb, site.street.palette.furniture
    if site.on_branch(s, d, 0.6) or site.in_side_street(s, d):
        return
    yaw = (0.0 if side < 0 or rng.random() < 0.35 else math.pi) + rng.normal() * 0.15
    height = rng.uniform(2.0, 3.2)
    site.put(shapes.pole(height + 0.3, 0.04), (furniture.metal,), s, d, up=up)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        number = int(rng.integers(len(SIGN_SHAPES)))
        board = rng.random() < 0.2
        shape = "wide" if board else SIGN_SHAPES[number]
        face = any_board(site) if board else look.sign_faces[number]
        size = rng.uniform(0.4, 0.9)
        pose = site.street.route.pose(s, d, up + height - 0.5 * size, yaw)
        pose[:3, 3] -= pose[:3, 0] * 0.06
        tall = 0.4 if shape == "wide" else 1.0
        pose[:3, :3] *= np.array([1.0, 1.2 if shape == "wide" else 1.0, tall])[None] * size
        site.put_posed(shapes.sign(shape), (face, furniture.sign_back), pose)
        height -= size * tall + 0.08


def _lights(site: Site, d: float, side: int) -> None:
    """Traffic lights for both directions where a street leaves or people cross, and seldom elsewhere."""
    rng, j = site.rng, site.junction
    crossed = bool(site.side_streets) or site.crosswalk_s is not None
    if rng.random() > (0.6 if crossed else 0.06):
        return
    for s, ahead in ((j.start - 1.0, True), (j.end + 1.0, False)):
        if rng.random() < 0.8:
            # An arm reaches over the road only where it is to the left of those it is for.
            reach = float(rng.choice([0.0, 0.0, 2.5, 4.0, 5.5])) if ahead == (side < 0) else 0.0
            traffic_light(site, s, d + side * rng.uniform(0.0, 0.5), reach=reach, facing=ahead)


@cache
def shelter() -> Mesh:
    """A bus shelter, open to +y, 4 m long (slot 0 frame, 1 glass, 2 poster, 3 bench)."""
    posts = [(k, y) for k in (-2.0, 0.0, 2.0) for y in (-0.7, 0.5)]
    frame = boxes(np.tile([0.07, 0.07, 2.4], (6, 1)), np.array([(k, y, 1.2) for k, y in posts]), [0] * 6)
    roof = box((4.3, 1.6, 0.12), (0, -0.05, 2.46), 0)
    panes = [box((3.9, 0.02, 1.9), (0, -0.7, 1.25), 1), box((0.02, 1.1, 1.9), (-2.0, -0.1, 1.25), 1)]
    poster = shapes.sign("square").moved(scale=(1.0, 1.15, 1.75)).moved((1.93, -0.1, 1.25)).painted(2)
    bench = box((2.4, 0.4, 0.06), (-0.3, -0.4, 0.48), 3)
    return merge([frame, roof, *panes, poster, bench])


def _shelter(site: Site, look: MoreLook, side: int) -> None:
    """A bus stop and who waits there."""
    rng, x = site.rng, site.street.section
    if x.walk < 2.2:
        return
    s, d = site.s0 + rng.uniform(6, 34), site.edge(side) + side * (x.verge + x.walk - 1.0)
    poster = look.posters[int(rng.integers(len(look.posters)))]
    # Its open side looks to the road.
    site.put(
        shelter(), (look.frame, look.pane, poster, look.frame), s, d, up=site.kerb, yaw=math.pi * (side > 0)
    )
    if rng.random() < 0.7 and not site.in_side_street(s, d) and not site.on_branch(s, d, 1.0):
        site.agents.append(walkers(site.street, "waiting", lambda t: s, d - side * 1.4, 0.0, 0.0, rng))


@cache
def bench() -> Mesh:
    """A bench 1.6 m long that looks to -x (slot 0)."""
    slats = [((0.09, 1.6, 0.035), (k, 0, 0.45)) for k in (-0.2, -0.08, 0.04)]
    slats += [((0.03, 1.6, 0.09), (0.18, 0, z)) for z in (0.6, 0.75)]
    legs = [((0.4, 0.06, 0.45), (0, y, 0.22)) for y in (-0.65, 0.65)]
    sizes, centres = zip(*slats, *legs, strict=True)
    return boxes(np.array(sizes), np.array(centres), [0] * len(sizes))


def _bench(site: Site, look: MoreLook, side: int) -> None:
    d = site.edge(side) + side * (site.street.section.lot - 0.5)
    material = (look.cabinet[int(site.rng.integers(3))],)
    site.put(bench(), material, site.s0 + site.rng.uniform(2, 38), d, up=site.kerb, yaw=side * math.pi / 2)


def _cabinets(site: Site, look: MoreLook, side: int) -> None:
    """Boxes of the power and telephone companies."""
    rng = site.rng
    s, d = site.s0 + rng.uniform(2, 36), site.edge(side) + side * (site.street.section.lot - 0.35)
    for _ in range(int(rng.integers(1, 3))):
        size = rng.uniform(0.5, 1.3), rng.uniform(0.3, 0.5), rng.uniform(0.8, 1.6)
        site.put(box(size, (0, 0, size[2] / 2)), (look.cabinet[int(rng.integers(2))],), s, d, up=site.kerb)
        s += size[0] + 0.7


@cache
def litter_bin() -> Mesh:
    """A bin on a post (slot 0 post, 1 bin)."""
    return merge(
        [
            tube([(0, 0, 0), (0, 0, 1.15)], [0.035, 0.035], 6, 0),
            disc(0.2, 1, width=0.5).moved((0.22, 0, 0.8), turn_x(math.pi / 2)),
        ]
    )


def _small_things(site: Site, look: MoreLook, side: int) -> None:
    """Bollards, bins, parking meters, hydrants at the kerb, in any order."""
    rng, furniture = site.rng, site.street.palette.furniture
    d = site.edge(side) + side * 0.45
    for _ in range(int(rng.integers(2, 8))):
        s, k = site.s0 + rng.uniform(0, 40), rng.random()
        mesh, material = shapes.pole(0.7, 0.13), look.orange
        if k < 0.45:
            mesh, material = shapes.pole(0.9, 0.07), furniture.dark_pole
        elif k < 0.65:
            mesh, material = shapes.pole(round(float(rng.uniform(1.2, 4.0)), 1), 0.04), furniture.metal
        elif k < 0.85:
            mesh, material = litter_bin(), furniture.metal
        site.put(mesh, (material, look.cabinet[1]), s, d + side * rng.uniform(0, 0.3), up=site.kerb)


def _railing(site: Site, look: MoreLook, side: int) -> None:
    """A low railing between road and sidewalk."""
    rng = site.rng
    d = site.edge(side) + side * 0.3
    start = site.s0 + rng.uniform(0, 15)
    for s in np.arange(start, start + rng.uniform(8, 24), 2.0):
        if s + 2.0 > site.s1:
            break
        site.put(_rail_panel(), (look.rail,), s + 1.0, d, up=site.kerb)


@cache
def _rail_panel() -> Mesh:
    """Two metres of railing along x (slot 0)."""
    bars = [((0.05, 0.05, 1.0), (k, 0, 0.5)) for k in (-0.97, 0.97)]
    bars += [((2.0, 0.045, 0.045), (0, 0, z)) for z in (0.98, 0.14)]
    bars += [((0.018, 0.018, 0.84), (k, 0, 0.56)) for k in np.linspace(-0.85, 0.85, 13)]
    sizes, centres = zip(*bars, strict=True)
    return boxes(np.array(sizes), np.array(centres), [0] * len(sizes))


def _planters(site: Site, look: MoreLook, side: int) -> None:
    """Tubs with shrubs, or a low hedge, on the inner side of the sidewalk."""
    rng, x = site.rng, site.street.section
    d = site.edge(side) + side * (x.lot - 0.45)
    step = rng.uniform(1.5, 5.0)
    start, size = site.s0 + rng.uniform(0, 20), rng.uniform(0.5, 0.9)
    for s in np.arange(start, min(start + rng.uniform(4, 20), site.s1), step):
        site.put(box((size, size, 0.5), (0, 0, 0.25)), (look.cabinet[0],), s, d, up=site.kerb)
        bush(site, s, d, size * 1.1, site.kerb + 0.35)


@cache
def parasol() -> Mesh:
    """A parasol, a table and two chairs (slot 0 cloth, 1 wood)."""
    parts = [
        shapes.canopy(1.4, 2.1, 2.6, 0),
        tube([(0, 0, 0), (0, 0, 2.6)], [0.03, 0.03], 6, 1),
        disc(0.4, 1, width=0.04).moved((0, 0, 0.72), turn_x(math.pi / 2)),
    ]
    for y in (-0.75, 0.75):
        parts.append(
            boxes(
                np.array([[0.42, 0.42, 0.45], [0.42, 0.05, 0.5]]),
                np.array([[0, y, 0.22], [0, 1.25 * y, 0.65]]),
                [1, 1],
            )
        )
    return merge(parts)


def _cafe(site: Site, look: MoreLook, side: int) -> None:
    rng, x = site.rng, site.street.section
    if x.walk < 3.0:
        return
    d, s = site.edge(side) + side * (x.lot - 1.4), site.s0 + rng.uniform(2, 20)
    cloth = look.cloth[int(rng.integers(len(look.cloth)))]
    for _ in range(int(rng.integers(2, 6))):
        site.put(parasol(), (cloth, look.cabinet[2]), s, d, up=site.kerb, yaw=rng.uniform(0, 3))
        s += rng.uniform(2.8, 3.6)


def _billboard(site: Site, look: MoreLook, side: int) -> None:
    """A poster in a frame on one post, or on a column."""
    rng, x = site.rng, site.street.section
    s, d = site.s0 + rng.uniform(2, 38), site.edge(side) + side * (x.lot - 0.6)
    poster = look.posters[int(rng.integers(len(look.posters)))]
    if site.on_branch(s, d, 1.0) or site.in_side_street(s, d):
        return
    if rng.random() < 0.3:
        site.put(shapes.pole(3.2, 0.6), (look.cabinet[1],), s, d, up=site.kerb)
        return
    large = rng.random() < 0.3
    width, height, foot = (3.6, 2.6, 2.2) if large else (1.2, 1.8, 0.7)
    site.put(shapes.pole(foot + 0.3, 0.1), (look.cabinet[0],), s, d, up=site.kerb)
    pose = site.street.route.pose(
        s, d, site.kerb + foot + height / 2, rng.normal() * 0.2 + math.pi * (rng.random() < 0.5)
    )
    pose[:3, :3] *= np.array([6.0, width, height])[None]
    site.put_posed(shapes.sign("square"), (poster, look.cabinet[0]), pose)


@cache
def cone() -> Mesh:
    """A traffic cone (slot 0 orange, 1 white)."""
    return merge(
        [
            tube([(0, 0, 0.03), (0, 0, 0.75)], [0.16, 0.03], 8, 0),
            box((0.4, 0.4, 0.04), (0, 0, 0.02), 0),
            tube([(0, 0, 0.36), (0, 0, 0.52)], [0.112, 0.08], 8, 1),
        ]
    )


@cache
def works_barrier() -> Mesh:
    """A striped board 2 m long across x on two feet (slot 0 stripes, 1 feet)."""
    board = shapes.sign("wide").moved((0, 0, 0.95), scale=(2.0, 2.0, 0.28)).painted(0)
    return merge([board, *(box((0.5, 0.06, 1.0), (0, y, 0.5), 1) for y in (-0.85, 0.85))])


def _road_works(site: Site, look: MoreLook, side: int) -> None:
    """A row of cones or striped boards along the road's edge."""
    rng, x = site.rng, site.street.section
    parking = x.park_right if side < 0 else x.park_left
    if parking > 0 or site.crosswalk_s is not None:
        return
    start, boards = site.s0 + rng.uniform(2, 15), rng.random() < 0.4
    for s in np.arange(start, min(start + rng.uniform(6, 20), site.s1), 2.4 if boards else 1.8):
        d = site.edge(side) - side * (0.15 if boards else 0.25)
        mesh, materials = (
            (works_barrier(), (look.stripes, look.orange)) if boards else (cone(), (look.orange, look.arrow))
        )
        site.put(mesh, materials, s, d, yaw=math.pi / 2 if boards else 0.0)


@cache
def _lid() -> Mesh:
    """A manhole's lid of 0.6 m (slot 0), a few millimetres over the road."""
    angle = np.arange(12) * np.pi / 6
    rim = np.stack([0.3 * np.cos(angle), 0.3 * np.sin(angle), np.full(12, 0.006)], 1)
    middle = np.tile([[0.0, 0.0, 0.006]], (12, 1))
    return facets(np.stack([middle, rim, np.roll(rim, -1, 0), middle], 1))


@cache
def _arrow(way: str) -> Mesh:
    """A painted arrow 4 m long along x: ahead, left or right (slot 0)."""
    z = 0.005
    stem = [(-2.0, -0.075, z), (0.9, -0.075, z), (0.9, 0.075, z), (-2.0, 0.075, z)]
    if way == "ahead":
        head = [(0.8, -0.4, z), (2.0, 0.0, z), (2.0, 0.0, z), (0.8, 0.4, z)]
        return facets(np.array([stem, head]))
    turn = 1 if way == "left" else -1
    bar = [(0.5, 0.0, z), (0.9, 0.0, z), (0.9, 0.55 * turn, z), (0.5, 0.55 * turn, z)]
    head = [(0.1, 0.5 * turn, z), (1.3, 0.5 * turn, z), (0.7, 1.2 * turn, z), (0.7, 1.2 * turn, z)]
    quads = np.array([stem, bar, head])
    return facets(quads if turn > 0 else np.concatenate([quads[:1], quads[1:, ::-1]]))


def _on_road(site: Site, look: MoreLook) -> None:
    """Lids of manholes, and arrows before side streets."""
    rng, x = site.rng, site.street.section
    if site.branch is not None:
        return
    for _ in range(int(rng.integers(0, 3))):
        d = rng.uniform(x.lanes_right_d + 0.5, x.lanes_left_d - 0.5)
        if x.median > 0.5 and -0.5 < d < x.median + 0.5:
            continue
        site.put(_lid(), (look.lid,), site.s0 + rng.uniform(1, 39), d, upright=False, on_road=True)
    if site.street.markings and site.side_streets and x.lanes_right > 1 and site.crosswalk_s is not None:
        for lane in range(x.lanes_right):
            way = "ahead" if lane < x.lanes_right - 1 or rng.random() < 0.5 else "right"
            s = site.crosswalk_s - 9.0
            site.put(_arrow(way), (look.arrow,), s, x.lane_d(lane), upright=False, on_road=True)


def _green_strip(site: Site, look: MoreLook, side: int) -> None:
    """Shrubs along the verge."""
    rng, x = site.rng, site.street.section
    if x.verge < 0.8:
        return
    for s in np.arange(site.s0 + 1, site.s1, rng.uniform(0.8, 3.0)):
        bush(site, s, site.edge(side) + side * 0.55 * x.verge, rng.uniform(0.4, 0.9), site.kerb)


_ON_SIDEWALKS: tuple[tuple[float, Callable[[Site, MoreLook, int], None]], ...] = (
    (0.22, _shelter),
    (0.3, _bench),
    (0.4, _cabinets),
    (0.7, _small_things),
    (0.2, _railing),
    (0.25, _planters),
    (0.2, _cafe),
    (0.3, _billboard),
    (0.4, _green_strip),
)
"""With the chance of each on a side of a block."""
