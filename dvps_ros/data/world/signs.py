# SPDX-License-Identifier: Apache-2.0
"""Signs and traffic lights."""

from __future__ import annotations

import math

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.mesh import box
from dvps_ros.data.world.site import Site

SHAPES = ("round", "triangle", "round", "octagon", "square", "square", "wide", "wide")
"""Of a sign, by its pattern; the wide ones are direction boards."""


def signpost(site: Site, s: float, d: float, side: int) -> None:
    """One or two signs on a pole, not on a branch."""
    furniture, rng, up = site.street.palette.furniture, site.rng, site.kerb
    if site.on_branch(s, d, 0.6):
        return
    yaw = 0.0 if side < 0 or rng.random() < 0.3 else math.pi
    yaw += rng.normal() * 0.12
    height = rng.uniform(2.1, 3.0)
    site.put(shapes.pole(height + 0.3, 0.042), (furniture.metal,), s, d, up=up)
    for k in range(1 if rng.random() < 0.7 else 2):
        pattern = int(rng.integers(0, len(SHAPES)))
        wide = SHAPES[pattern] == "wide"
        face = any_board(site) if wide else furniture.sign_faces[pattern]
        size = rng.uniform(0.55, 0.85)
        pose = site.street.route.pose(s, d, up + height - k * 0.75, yaw)
        pose[:3, 3] -= pose[:3, 0] * 0.06
        stretch = np.array([1.0, 1.6 if wide else 1.0, 0.5 if wide else 1.0]) * size
        pose[:3, :3] = pose[:3, :3] * stretch[None]
        site.put_posed(shapes.sign(SHAPES[pattern]), (face, furniture.sign_back), pose)


def any_board(site: Site) -> int:
    """Material of a direction board."""
    return site.street.palette.furniture.boards[int(site.rng.integers(3))]


def traffic_light(site: Site, s: float, d: float, *, reach: float, facing: bool) -> None:
    """A traffic light with one lamp on.

    Args:
        reach: of its arm to the left, metres; 0 has none.
        facing: it is for those who drive along s.
    """
    furniture = site.street.palette.furniture
    on = int(site.rng.integers(3))
    lenses = [furniture.lens_on[k] if k == on else furniture.lens_off[k] for k in range(3)]
    materials = (furniture.metal, furniture.housing, *lenses)
    mesh = shapes.traffic_light(round(reach, 1))
    site.put(mesh, materials, s, d, up=site.kerb, yaw=0.0 if facing else math.pi)


def gantry(site: Site) -> None:
    """A beam over our half of the road with a board over each lane."""
    street, x = site.street, site.street.section
    furniture = street.palette.furniture
    s = site.junction.middle
    site.put(shapes.pole(7.0, 0.16), (furniture.metal,), s, x.right_edge - 1.0)
    beam = box((0.2, abs(x.right_edge) + 2.0, 0.25), (0, -(abs(x.right_edge) - 1.0) / 2, 6.4), 0)
    site.put(beam, (furniture.metal,), s, 0.0)
    board = any_board(site)
    for lane in range(x.lanes_right):
        pose = street.route.pose(s - 0.3, x.lane_d(lane), 6.3)
        pose[:3, :3] = pose[:3, :3] * np.array([1.0, x.lane_width * 0.85, 1.9])[None]
        site.put_posed(shapes.sign("wide"), (board, furniture.sign_back), pose)


def direction_sign(site: Site, branch: Branch) -> None:
    """A direction sign on two poles where the land between the carriageways begins."""
    furniture = site.street.palette.furniture
    s = branch.nose + 3.0
    low, _ = branch.edges(s)
    d = branch.side * 0.5 * (abs(site.edge(branch.side)) + float(low))
    for k in (-0.7, 0.7):
        site.put(shapes.pole(3.4, 0.05), (furniture.metal,), s, d + k, up=site.kerb)
    pose = site.street.route.pose(s - 0.1, d, site.kerb + 2.7, 0.5 * branch.yaw(s))
    pose[:3, :3] = pose[:3, :3] * np.array([1.0, 2.2, 1.1])[None]
    site.put_posed(shapes.sign("wide"), (any_board(site), furniture.sign_back), pose)
