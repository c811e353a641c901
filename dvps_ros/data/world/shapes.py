# SPDX-License-Identifier: Apache-2.0
"""The meshes of the world's things: cars, lorries, people, bicycles, trees, street furniture.

Each function is cached: a process builds a mesh once and all its worlds share it. All stand on z = 0 with
their middle over the origin and look along +x.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world.mesh import (
    Mesh,
    ball,
    box,
    creased,
    disc,
    facets,
    grid,
    merge,
    tube,
    turn_x,
    turn_y,
    turn_z,
)

# Slots of vehicles.
PAINT, GLASS, TRIM, TYRE, RIM, FRONT_LIGHT, REAR_LIGHT, PLATE = range(8)
# Slots of people.
SKIN, SHIRT, TROUSERS, HAIR, SHOES = range(5)
# Slots of two-wheelers share PAINT, TRIM, TYRE, RIM.

WHEEL_ARCH = 1.16


class Wheel(NamedTuple):
    """A wheel whose axle is the y axis of its mesh, and where on the vehicle that is."""

    mesh: Mesh
    x: float
    y: float
    radius: float


class Vehicle(NamedTuple):
    """A vehicle's mesh, whole and without the wheels that turn."""

    whole: Mesh
    size: tuple[float, float, float]
    """Length, width, height."""
    body: Mesh
    wheels: tuple[Wheel, ...]


def _vehicle(parts: list[Mesh], wheels: list[Wheel], size: tuple[float, float, float]) -> Vehicle:
    body = merge(parts)
    fixed = [w.mesh.moved((w.x, w.y, w.radius)) for w in wheels]
    return Vehicle(merge([body, *fixed]), size, body, tuple(wheels))


def rolling(wheels: tuple[Wheel, ...], pose: np.ndarray, way_m: float) -> list[np.ndarray]:
    """Poses of a vehicle's body and wheels, for its own pose and the way it has gone."""
    poses = [pose]
    for wheel in wheels:
        c, s = np.cos(way_m / wheel.radius), np.sin(way_m / wheel.radius)
        turned = np.array(
            [[c, 0.0, s, wheel.x], [0.0, 1.0, 0.0, wheel.y], [-s, 0.0, c, wheel.radius], [0.0, 0.0, 0.0, 1.0]]
        )
        poses.append(pose @ turned)
    return poses


@cache
def _wheel(radius: float, width: float, side: int, sides: int = 16) -> Mesh:
    """Tyre, rim and its holes, and hub; the outer face lies at y = 0 and looks to ``side``."""
    tyre = disc(radius, TYRE, sides=sides, width=width).moved((0.0, -side * width / 2, 0.0))
    rim = disc(0.64 * radius, RIM, sides=sides).moved((0.0, side * 0.004, 0.0))
    hub = disc(0.14 * radius, TRIM, sides=6).moved((0.0, side * 0.008, 0.0))
    # Five dark openings between the spokes show that it turns.
    at = np.arange(5) * (2 * np.pi / 5)
    corners = []
    for r, lean in ((0.24, -0.28), (0.56, -0.34), (0.56, 0.34), (0.24, 0.28)):
        corners.append(radius * r * np.stack([np.cos(at + lean), 0 * at, np.sin(at + lean)], 1))
    holes = np.stack(corners[::-side], 1) + [0.0, side * 0.006, 0.0]
    return merge([tyre, rim, facets(holes, TRIM), hub])


def _four_wheels(axles: tuple[float, ...], y: float, radius: float, width: float) -> list[Wheel]:
    return [Wheel(_wheel(radius, width, side), x, side * y, radius) for x in axles for side in (1, -1)]


def _hull(stations: list[tuple], width: float, height: float, length: float, clearance: float) -> Mesh:
    """A vehicle's shell lofted along x.

    Each station is (x, width, belt, roof width, roof, side glass after it, top glass after it); x in lengths
    from the middle (front +0.5), heights and widths in parts of ``height`` and ``width``.
    """
    rings, slots = [], []
    for x, w, belt, roof_w, roof, side_glass, top_glass in stations:
        hw, zc = 0.5 * width * w, clearance
        cabin = roof > belt + 0.12
        zb, zr = belt * height, roof * height
        mid = zc + 0.55 * (zb - zc)
        if cabin:
            wr = 0.5 * width * roof_w
            upper = [(wr, zr - 0.045 * height), (0.80 * wr, zr - 0.006 * height), (0.0, zr)]
        else:
            upper = [(0.90 * hw, zb + 0.6 * (zr - zb)), (0.65 * hw, zr), (0.0, zr + 0.01 * height)]
        half = [(0.88 * hw, zc), (0.97 * hw, zc + 0.07 * height), (hw, mid), (0.965 * hw, zb), *upper]
        ring = [(y, z) for y, z in half] + [(-y, z) for y, z in half[-2::-1]] + half[:1]
        rings.append([(x * length, y, z) for y, z in ring])
        half_slots = [
            TRIM,
            PAINT,
            PAINT,
            GLASS if side_glass else PAINT,
            PAINT,
            GLASS if top_glass else PAINT,
        ]
        if top_glass:
            half_slots[4] = PAINT
        slots.append([*half_slots, *half_slots[::-1], TRIM])
    points = np.array(rings)
    front = np.repeat(points[:1].mean(1, keepdims=True), points.shape[1], axis=1)
    rear = np.repeat(points[-1:].mean(1, keepdims=True), points.shape[1], axis=1)
    points = np.concatenate([front, points, rear])
    ends = [PAINT] * 13  # a fan around the middle of each end
    all_slots = np.array([ends, *slots[:-1], ends])
    # Stations run from front to rear; the ring goes over the top from left to right and back below.
    shell = grid(points, all_slots, crease_deg=38.0)
    under = box((0.9 * length, 0.8 * width, 0.1), (0, 0, clearance + 0.06), TRIM)
    return merge([shell, under])


_BODIES = {
    # name: (length, width, height, clearance, front axle, rear axle, wheel radius, stations)
    "hatchback": (
        4.05,
        1.76,
        1.48,
        0.17,
        0.31,
        -0.32,
        0.31,
        [
            (0.500, 0.72, 0.40, 0, 0.43, 0, 0),
            (0.485, 0.90, 0.47, 0, 0.50, 0, 0),
            (0.40, 0.98, 0.53, 0, 0.575, 0, 0),
            (0.235, 1.0, 0.585, 0.8, 0.645, 0, 1),
            (0.06, 1.0, 0.61, 0.77, 0.965, 1, 0),
            (-0.09, 1.0, 0.62, 0.78, 1.0, 0, 0),
            (-0.12, 1.0, 0.62, 0.78, 1.0, 1, 0),
            (-0.30, 1.0, 0.635, 0.76, 0.985, 0, 0),
            (-0.40, 0.99, 0.65, 0.72, 0.94, 0, 1),
            (-0.475, 0.95, 0.64, 0.68, 0.70, 0, 0),
            (-0.495, 0.90, 0.55, 0, 0.58, 0, 0),
            (-0.50, 0.80, 0.36, 0, 0.38, 0, 0),
        ],
    ),
    "sedan": (
        4.65,
        1.82,
        1.45,
        0.16,
        0.305,
        -0.30,
        0.32,
        [
            (0.500, 0.72, 0.40, 0, 0.43, 0, 0),
            (0.485, 0.90, 0.48, 0, 0.51, 0, 0),
            (0.40, 0.98, 0.55, 0, 0.59, 0, 0),
            (0.215, 1.0, 0.60, 0.8, 0.655, 0, 1),
            (0.065, 1.0, 0.625, 0.76, 0.965, 1, 0),
            (-0.055, 1.0, 0.63, 0.77, 1.0, 0, 0),
            (-0.08, 1.0, 0.63, 0.77, 1.0, 1, 0),
            (-0.21, 1.0, 0.64, 0.74, 0.97, 0, 1),
            (-0.35, 0.99, 0.65, 0.74, 0.70, 0, 0),
            (-0.47, 0.96, 0.64, 0, 0.68, 0, 0),
            (-0.49, 0.92, 0.58, 0, 0.62, 0, 0),
            (-0.50, 0.80, 0.36, 0, 0.40, 0, 0),
        ],
    ),
    "estate": (
        4.6,
        1.82,
        1.50,
        0.17,
        0.31,
        -0.29,
        0.32,
        [
            (0.500, 0.72, 0.40, 0, 0.43, 0, 0),
            (0.485, 0.90, 0.47, 0, 0.50, 0, 0),
            (0.40, 0.98, 0.53, 0, 0.575, 0, 0),
            (0.225, 1.0, 0.585, 0.8, 0.645, 0, 1),
            (0.075, 1.0, 0.61, 0.77, 0.965, 1, 0),
            (-0.055, 1.0, 0.62, 0.78, 1.0, 0, 0),
            (-0.08, 1.0, 0.62, 0.78, 1.0, 1, 0),
            (-0.24, 1.0, 0.63, 0.77, 0.99, 0, 0),
            (-0.27, 1.0, 0.63, 0.77, 0.99, 1, 0),
            (-0.42, 0.99, 0.645, 0.74, 0.955, 0, 1),
            (-0.48, 0.96, 0.64, 0.70, 0.72, 0, 0),
            (-0.495, 0.90, 0.55, 0, 0.58, 0, 0),
            (-0.50, 0.80, 0.36, 0, 0.38, 0, 0),
        ],
    ),
    "suv": (
        4.5,
        1.88,
        1.70,
        0.22,
        0.31,
        -0.30,
        0.36,
        [
            (0.500, 0.76, 0.44, 0, 0.47, 0, 0),
            (0.488, 0.92, 0.54, 0, 0.57, 0, 0),
            (0.42, 0.98, 0.58, 0, 0.62, 0, 0),
            (0.225, 1.0, 0.61, 0.82, 0.66, 0, 1),
            (0.09, 1.0, 0.63, 0.80, 0.965, 1, 0),
            (-0.06, 1.0, 0.635, 0.81, 1.0, 0, 0),
            (-0.09, 1.0, 0.635, 0.81, 1.0, 1, 0),
            (-0.27, 1.0, 0.645, 0.80, 0.99, 0, 0),
            (-0.30, 1.0, 0.645, 0.80, 0.99, 1, 0),
            (-0.43, 0.99, 0.65, 0.78, 0.965, 0, 1),
            (-0.485, 0.97, 0.645, 0.74, 0.76, 0, 0),
            (-0.497, 0.92, 0.55, 0, 0.58, 0, 0),
            (-0.50, 0.82, 0.38, 0, 0.40, 0, 0),
        ],
    ),
    "van": (
        5.2,
        1.98,
        2.15,
        0.20,
        0.33,
        -0.30,
        0.34,
        [
            (0.500, 0.78, 0.33, 0, 0.36, 0, 0),
            (0.488, 0.93, 0.42, 0, 0.45, 0, 0),
            (0.41, 0.99, 0.47, 0, 0.51, 0, 0),
            (0.36, 1.0, 0.50, 0.86, 0.54, 0, 1),
            (0.235, 1.0, 0.53, 0.86, 0.95, 1, 0),
            (0.11, 1.0, 0.54, 0.88, 1.0, 0, 0),
            (-0.30, 1.0, 0.54, 0.88, 1.0, 0, 0),
            (-0.49, 1.0, 0.54, 0.87, 0.985, 0, 0),
            (-0.50, 0.96, 0.50, 0.84, 0.96, 0, 0),
        ],
    ),
    "minibus": (
        5.0,
        1.95,
        1.95,
        0.20,
        0.33,
        -0.30,
        0.34,
        [
            (0.500, 0.78, 0.36, 0, 0.39, 0, 0),
            (0.488, 0.93, 0.46, 0, 0.49, 0, 0),
            (0.42, 0.99, 0.51, 0, 0.55, 0, 0),
            (0.36, 1.0, 0.53, 0.86, 0.58, 0, 1),
            (0.22, 1.0, 0.55, 0.84, 0.95, 1, 0),
            (0.10, 1.0, 0.56, 0.86, 1.0, 0, 0),
            (0.07, 1.0, 0.56, 0.86, 1.0, 1, 0),
            (-0.17, 1.0, 0.56, 0.86, 1.0, 0, 0),
            (-0.20, 1.0, 0.56, 0.86, 1.0, 1, 0),
            (-0.45, 1.0, 0.56, 0.85, 0.985, 0, 0),
            (-0.47, 1.0, 0.56, 0.85, 0.98, 0, 1),
            (-0.495, 0.97, 0.55, 0.80, 0.75, 0, 0),
            (-0.50, 0.94, 0.40, 0, 0.45, 0, 0),
        ],
    ),
    "micro": (
        2.75,
        1.62,
        1.54,
        0.18,
        0.33,
        -0.34,
        0.29,
        [
            (0.500, 0.76, 0.40, 0, 0.43, 0, 0),
            (0.480, 0.92, 0.47, 0, 0.50, 0, 0),
            (0.41, 0.99, 0.54, 0, 0.58, 0, 0),
            (0.31, 1.0, 0.59, 0.82, 0.65, 0, 1),
            (0.06, 1.0, 0.61, 0.80, 0.97, 1, 0),
            (-0.22, 1.0, 0.63, 0.80, 1.0, 0, 0),
            (-0.40, 1.0, 0.64, 0.78, 0.97, 0, 1),
            (-0.480, 0.96, 0.63, 0.72, 0.70, 0, 0),
            (-0.50, 0.84, 0.36, 0, 0.38, 0, 0),
        ],
    ),
    "coupe": (
        4.4,
        1.84,
        1.33,
        0.13,
        0.31,
        -0.30,
        0.33,
        [
            (0.500, 0.72, 0.36, 0, 0.39, 0, 0),
            (0.485, 0.90, 0.45, 0, 0.48, 0, 0),
            (0.38, 0.98, 0.53, 0, 0.57, 0, 0),
            (0.15, 1.0, 0.60, 0.78, 0.655, 0, 1),
            (-0.03, 1.0, 0.63, 0.72, 0.97, 1, 0),
            (-0.14, 1.0, 0.64, 0.72, 1.0, 1, 0),
            (-0.25, 1.0, 0.66, 0.70, 0.95, 0, 1),
            (-0.44, 0.99, 0.66, 0.68, 0.71, 0, 0),
            (-0.485, 0.93, 0.60, 0, 0.63, 0, 0),
            (-0.50, 0.80, 0.36, 0, 0.40, 0, 0),
        ],
    ),
    "mpv": (
        4.7,
        1.86,
        1.75,
        0.18,
        0.32,
        -0.30,
        0.33,
        [
            (0.500, 0.76, 0.39, 0, 0.42, 0, 0),
            (0.485, 0.92, 0.47, 0, 0.50, 0, 0),
            (0.42, 0.98, 0.53, 0, 0.57, 0, 0),
            (0.30, 1.0, 0.57, 0.84, 0.62, 0, 1),
            (0.11, 1.0, 0.60, 0.82, 0.965, 1, 0),
            (-0.05, 1.0, 0.61, 0.83, 1.0, 0, 0),
            (-0.08, 1.0, 0.61, 0.83, 1.0, 1, 0),
            (-0.27, 1.0, 0.62, 0.82, 0.995, 0, 0),
            (-0.30, 1.0, 0.62, 0.82, 0.99, 1, 0),
            (-0.45, 0.99, 0.63, 0.80, 0.965, 0, 1),
            (-0.488, 0.97, 0.62, 0.76, 0.72, 0, 0),
            (-0.50, 0.84, 0.36, 0, 0.38, 0, 0),
        ],
    ),
    "pickup": (
        5.3,
        1.90,
        1.80,
        0.24,
        0.32,
        -0.29,
        0.38,
        [
            (0.500, 0.78, 0.44, 0, 0.47, 0, 0),
            (0.490, 0.93, 0.54, 0, 0.57, 0, 0),
            (0.42, 0.98, 0.58, 0, 0.61, 0, 0),
            (0.22, 1.0, 0.60, 0.82, 0.65, 0, 1),
            (0.11, 1.0, 0.61, 0.80, 0.965, 1, 0),
            (-0.02, 1.0, 0.61, 0.80, 1.0, 0, 0),
            (-0.04, 1.0, 0.61, 0.80, 1.0, 1, 0),
            (-0.12, 1.0, 0.61, 0.79, 0.98, 0, 1),
            (-0.15, 1.0, 0.60, 0.9, 0.63, 0, 0),
            (-0.49, 1.0, 0.60, 0, 0.62, 0, 0),
            (-0.50, 0.96, 0.40, 0, 0.43, 0, 0),
        ],
    ),
}

CARS = tuple(_BODIES)


@cache
def car(body: str, top: str = "") -> Vehicle:
    """A car; on its roof a taxi's sign, a rack, a box, or nothing: top is taxi, rack, box or empty."""
    length, width, height, clearance, front, rear, radius, stations = _BODIES[body]
    parts = [_hull(stations, width, height, length, clearance)]
    for x in (front * length, rear * length):
        for side in (1, -1):
            y = side * (0.5 * width + 0.012)
            arch = disc(radius * WHEEL_ARCH, TRIM, sides=16, width=0.05).moved(
                (x, y - side * 0.018, radius * 1.02)
            )
            parts.append(arch)
    wheels = _four_wheels((front * length, rear * length), 0.5 * width + 0.02, radius, 0.21)
    belt = stations[2][2] * height
    tail = 0.62 * height if body not in ("van", "minibus") else 0.42 * height
    for side in (1, -1):
        parts.append(
            box(
                (0.10, 0.19 * width, 0.09 * height),
                (0.487 * length - 0.02, side * 0.345 * width, belt - 0.09 * height),
                FRONT_LIGHT,
            )
        )
        parts.append(
            box(
                (0.06, 0.11 * width, 0.15 * height),
                (-0.492 * length, side * 0.385 * width, tail - 0.07 * height),
                REAR_LIGHT,
            )
        )
        parts.append(
            box(
                (0.12, 0.20, 0.13),
                (
                    stations[3][0] * length - 0.12,
                    side * (0.5 * width + 0.05),
                    0.68 * height * (0.86 if height > 1.9 else 1.0),
                ),
                PAINT,
            )
        )
    parts.append(
        box((0.04, 0.62 * width, 0.06 * height), (-0.497 * length, 0, clearance + 0.07 * height), TRIM)
    )
    parts.append(box((0.04, 0.44 * width, 0.085 * height), (0.497 * length, 0, 0.34 * height), TRIM))
    parts.append(box((0.04, 0.50, 0.11), (0.505 * length, 0, 0.24 * height), PLATE))
    parts.append(box((0.04, 0.50, 0.11), (-0.505 * length, 0, 0.33 * height), PLATE))
    if body == "van":
        parts.append(box((0.02, 0.70 * width, 0.30 * height), (-0.497 * length, 0, 0.74 * height), GLASS))
        parts.append(box((0.02, 0.03, 0.80 * height), (-0.503 * length, 0, 0.52 * height), TRIM))
    parts += _on_roof(top, length, width, height)
    return _vehicle(parts, wheels, (length, width, height))


def _on_roof(top: str, length: float, width: float, height: float) -> list[Mesh]:
    """What a car has on its roof."""
    x = -0.12 * length
    if top == "taxi":
        return [box((0.16, 0.55, 0.15), (x + 0.25, 0, height + 0.06), FRONT_LIGHT)]
    if top == "rack":
        sides = [box((1.5, 0.04, 0.05), (x, k * 0.36 * width, height - 0.01), TRIM) for k in (1, -1)]
        return [
            *sides,
            *(box((0.06, 0.72 * width, 0.03), (x + k, 0, height + 0.03), TRIM) for k in (0.5, -0.5)),
        ]
    if top == "box":
        xs = np.array([-1.0, -0.95, -0.5, 0.5, 0.9, 1.0]) + x
        case = tube([(k, 0, 0) for k in xs], [0.05, 0.16, 0.2, 0.2, 0.14, 0.03], 8, TRIM)
        return [case.moved((0, 0, height + 0.2), scale=(1.0, 2.0, 1.0))]
    return []


@cache
def lorry(kind: str) -> Vehicle:
    """A truck: cab (slot PAINT) and load (slot PLATE); kind is box, tanker, flatbed, semi, waste or mixer."""
    length = {"box": 7.6, "tanker": 8.5, "flatbed": 7.5, "semi": 14.5, "waste": 8.8, "mixer": 8.6}[kind]
    cab_l, w, cab_h = 2.1, 2.45, 2.75 if kind != "semi" else 3.4
    x_front = length / 2
    stations = [
        (0.5, 0.90, 0.30, 0.9, 0.33, 0, 0),
        (0.49, 1.0, 0.44, 0.94, 0.47, 0, 1),
        (0.40, 1.0, 0.48, 0.92, 0.93, 1, 0),
        (0.0, 1.0, 0.50, 0.94, 1.0, 0, 0),
        (-0.49, 1.0, 0.50, 0.94, 1.0, 0, 0),
        (-0.5, 1.0, 0.5, 0.9, 0.98, 0, 0),
    ]
    cab = _hull(stations, w, cab_h - 0.4, cab_l, 0.05).moved((x_front - cab_l / 2, 0, 0.4))
    parts = [cab, box((length - 0.3, 0.9, 0.25), (-0.1, 0, 0.85), TRIM)]
    load_l = length - cab_l - 0.25
    load_x = -length / 2 + load_l / 2
    if kind in ("box", "semi"):
        h = 2.5 if kind == "box" else 2.85
        parts.append(box((load_l, 2.5, h), (load_x, 0, 1.05 + h / 2), PLATE))
        parts.append(box((0.03, 0.05, h * 0.95), (-length / 2 - 0.01, 0, 1.05 + h / 2), TRIM))
    elif kind == "tanker":
        z = 2.1
        xs = np.array([-0.5, -0.47, -0.3, 0.0, 0.3, 0.47, 0.5]) * load_l + load_x
        parts.append(tube([(x, 0, z) for x in xs], [0.7, 1.02, 1.1, 1.1, 1.1, 1.02, 0.7], 16, PLATE))
    elif kind == "waste":
        parts.append(box((load_l - 1.4, 2.45, 2.1), (load_x + 0.7, 0, 2.15), PLATE))
        hopper = [(-length / 2 + k, 0, z) for k, z in ((0.35, 1.75), (0.5, 2.0), (1.0, 2.2), (1.6, 2.2))]
        parts.append(tube(hopper, [0.75, 1.0, 1.1, 1.1], 8, TRIM))
        parts.append(box((0.1, 2.2, 0.3), (-length / 2 + 0.05, 0, 1.1), REAR_LIGHT))
    elif kind == "mixer":
        xs = np.array([-0.5, -0.46, -0.1, 0.2, 0.42, 0.46]) * load_l + load_x
        zs = [2.75, 2.7, 2.3, 2.1, 1.95, 1.95]
        drum = [(x, 0, z) for x, z in zip(xs, zs, strict=True)]
        parts.append(tube(drum, [0.4, 0.6, 1.15, 1.15, 0.7, 0.4], 14, PLATE))
        parts.append(box((0.5, 0.6, 1.2), (-length / 2 + 0.3, 0, 1.7), TRIM))
    else:
        parts.append(box((load_l, 2.5, 0.15), (load_x, 0, 1.1), PLATE))
        for side in (1, -1):
            parts.append(box((load_l, 0.06, 0.6), (load_x, side * 1.22, 1.45), PLATE))
        parts.append(box((load_l * 0.5, 1.8, 1.0), (load_x - 0.2, 0.1, 1.65), TRIM))
    axles = [x_front - 0.75, -length / 2 + 1.3, -length / 2 + 2.5] + (
        [x_front - 3.3] if kind == "semi" else []
    )
    for side in (1, -1):
        parts.append(box((0.06, 0.35, 0.18), (x_front + 0.0, side * 0.9, 0.75), FRONT_LIGHT))
        parts.append(box((0.06, 0.32, 0.16), (-length / 2, side * 1.0, 0.85), REAR_LIGHT))
        parts.append(box((0.1, 0.2, 0.5), (x_front - 0.25, side * 1.38, 2.0), TRIM))
        parts.append(box((length * 0.35, 0.04, 0.4), (-0.2, side * 1.2, 0.7), TRIM))
    parts.append(box((0.05, 1.9, 0.12), (-length / 2 - 0.03, 0, 0.55), TRIM))
    height = cab_h if kind == "flatbed" else 1.05 + (2.85 if kind == "semi" else 2.5)
    return _vehicle(parts, _four_wheels(tuple(axles), 1.25, 0.48, 0.35), (length, 2.5, height))


def _coach(length: float, width: float, height: float, *, taper: float, clearance: float) -> Mesh:
    """A long box with slightly rounded edges; sides and ends carry uv (metres along, height in parts)."""
    h, hw = height, width / 2
    section = [
        (0.97 * hw, clearance),
        (hw, clearance + 0.1),
        (hw, 0.86 * h),
        (0.93 * hw, 0.96 * h),
        (0.6 * hw, h),
    ]
    ring = section + [(-y, z) for y, z in section[::-1]] + section[:1]
    xs = [0.5, 0.492, 0.46, -0.46, -0.492, -0.5]
    shrink = [1 - taper, 1 - 0.4 * taper, 1.0, 1.0, 1 - 0.4 * taper, 1 - taper]
    points = np.array(
        [
            [(x * length, y * s, clearance + (z - clearance) * (0.97 + 0.03 * s)) for y, z in ring]
            for x, s in zip(xs, shrink, strict=True)
        ]
    )
    front = np.repeat(points[:1].mean(1, keepdims=True), len(ring), axis=1)
    rear = np.repeat(points[-1:].mean(1, keepdims=True), len(ring), axis=1)
    return grid(np.concatenate([front, points, rear]), PAINT, crease_deg=35.0)


@cache
def bus(kind: str) -> Vehicle:
    """A city bus, coach, double-decker, minibus or bendy bus. PAINT is a livery with a window band drawn by
    the shader."""
    length, height = {
        "city": (12.0, 3.0),
        "coach": (12.5, 3.6),
        "double": (10.8, 4.3),
        "mini": (7.6, 2.9),
        "bendy": (18.0, 3.05),
    }[kind]
    if kind == "bendy":
        fore, aft = 0.56 * length, 0.40 * length
        parts = [
            _coach(fore, 2.52, height, taper=0.06, clearance=0.3).moved(((length - fore) / 2, 0, 0)),
            _coach(aft, 2.52, height, taper=0.06, clearance=0.3).moved((-(length - aft) / 2, 0, 0)),
            box((0.05 * length, 2.3, height - 0.45), (-0.08 * length, 0, 0.2 + height / 2), TRIM),
        ]
    else:
        parts = [_coach(length, 2.52, height, taper=0.06, clearance=0.3)]
    top = 0.80 * height if kind != "double" else 0.46 * height
    parts.append(box((0.03, 2.2, top - 1.05), (length / 2 - 0.002, 0, (top + 1.05) / 2), GLASS))
    parts.append(box((0.04, 1.6, 0.28), (length / 2, 0, 0.90 * height), TRIM))
    parts.append(box((0.03, 1.9, 0.85), (-length / 2 + 0.002, 0, 0.7 * height), GLASS))
    axles = (
        (length * 0.28, -length * 0.24) if kind != "bendy" else (0.35 * length, 0.02 * length, -0.3 * length)
    )
    for x in axles:
        for side in (1, -1):
            parts.append(disc(0.58, TRIM, width=0.06).moved((x, side * 1.255, 0.52)))
    for side in (1, -1):
        parts.append(box((0.04, 0.4, 0.2), (length / 2, side * 0.95, 0.72), FRONT_LIGHT))
        parts.append(box((0.04, 0.22, 0.45), (-length / 2, side * 1.1, 1.1), REAR_LIGHT))
        parts.append(box((0.12, 0.22, 0.55), (length / 2 - 0.02, side * 1.42, 2.1), TRIM))
    parts.append(box((0.03, 0.5, 0.12), (-length / 2 - 0.01, 0, 0.8), PLATE))
    return _vehicle(parts, _four_wheels(axles, 1.295, 0.48, 0.3), (length, 2.52, height))


@cache
def tram(kind: str) -> Vehicle:
    """One train unit: tram (street, three sections) or rail (a longer and taller railway car)."""
    section, width, height, count = {"tram": (9.0, 2.4, 3.4, 3), "rail": (18.0, 2.9, 3.9, 2)}[kind]
    length = count * section + (count - 1) * 0.5
    parts = []
    for k in range(count):
        x = -length / 2 + section / 2 + k * (section + 0.5)
        taper = 0.03
        parts.append(_coach(section, width, height, taper=taper, clearance=0.35).moved((x, 0, 0)))
        parts.append(box((section * 0.5, width * 0.8, 0.4), (x, 0, 0.3), TRIM))
        parts.append(box((section * 0.4, width * 0.6, 0.3), (x, 0, height + 0.1), TRIM))
        if k:
            parts.append(
                box((0.6, width * 0.85, height * 0.85), (x - section / 2 - 0.25, 0, height * 0.5), TRIM)
            )
    for end in (1, -1):
        parts.append(
            box((0.04, width * 0.85, height * 0.38), (end * (length / 2 + 0.002), 0, height * 0.62), GLASS)
        )
        for side in (1, -1):
            parts.append(box((0.05, 0.3, 0.2), (end * length / 2, side * width * 0.36, 0.95), FRONT_LIGHT))
    return _vehicle(parts, [], (length, width, height))


# People are nine rigid parts, each with its joint at the origin and hanging down (torso: standing up).
LIMBS = ("torso", "thigh_l", "thigh_r", "shin_l", "shin_r", "arm_l", "arm_r", "forearm_l", "forearm_r")
HIP, KNEE, SHOULDER, ELBOW = 0.53, 0.265, 0.30, 0.175
"""Height of the hip, length of the shin, shoulder over hip, length of the upper arm; in body heights."""


@cache
def limb(name: str, build: str = "plain") -> Mesh:
    """A limb of a person 1 m tall; build is plain, skirt, coat, bag, helmet, cap, long_hair, hood or umbrella
    (torso only)."""
    if name == "torso":
        wide, deep = 0.095, 0.060
        zs = [-0.045, -0.02, 0.03, 0.10, 0.17, 0.24, 0.285, 0.305]
        radii = [0.060, 0.098, 0.094, 0.084, 0.094, 0.112, 0.102, 0.045]
        if build in ("coat", "skirt"):
            zs = [-0.20, -0.18, *zs[1:]]
            radii = [0.10, 0.125 if build == "skirt" else 0.112, *radii[1:]]
        angle = np.linspace(0, 2 * np.pi, 11)
        rings = np.array(
            [
                [(deep / wide * r * np.cos(a) * 1.05, r * np.sin(a), z) for a in angle]
                for r, z in zip(radii, zs, strict=True)
            ]
        )
        ends = [np.repeat(rings[k].mean(0)[None, None], 11, 1) for k in (0, -1)]
        body = grid(np.concatenate([ends[0], rings, ends[1]])[:, ::-1], SHIRT, crease_deg=70.0)
        slots = body.slots.copy()
        low = body.vertices[body.triangles, 2].mean(1) < (-0.01 if build not in ("coat",) else -1)
        slots[low] = TROUSERS
        body = Mesh(body.vertices, body.normals, body.uv, body.triangles, slots)
        neck = tube([(0, 0, 0.29), (0.005, 0, 0.35)], [0.030, 0.028], 6, SKIN)
        head = ball(SKIN).moved((0.012, 0, 0.405), scale=(0.058, 0.046, 0.068))
        if build == "helmet":
            hair = ball(HAIR).moved((0.004, 0, 0.425), scale=(0.076, 0.058, 0.058))
        else:
            hair = ball(HAIR).moved((-0.006, 0, 0.422), scale=(0.058, 0.050, 0.060))
        parts = [body, neck, head, hair]
        if build == "cap":
            parts.append(box((0.075, 0.07, 0.006), (0.075, 0, 0.437), SHOES))
            parts.append(ball(SHOES).moved((0.004, 0, 0.430), scale=(0.063, 0.053, 0.052)))
        elif build == "long_hair":
            locks = [(-0.02, 0, 0.43), (-0.045, 0, 0.37), (-0.06, 0, 0.27), (-0.065, 0, 0.21)]
            parts.append(tube(locks, [0.035, 0.05, 0.05, 0.02], 6, HAIR))
        elif build == "hood":
            parts.append(ball(SHIRT).moved((-0.012, 0, 0.412), scale=(0.066, 0.062, 0.078)))
        elif build == "umbrella":
            parts.append(canopy(0.3, 0.55, 0.68, SHOES).moved((0.1, 0, 0)))
            parts.append(tube([(0.1, 0, 0.2), (0.1, 0, 0.67)], [0.006, 0.006], 4, HAIR))
        if build == "bag":
            parts.append(box((0.09, 0.15, 0.20), (-0.105, 0, 0.16), SHOES))
        return merge(parts)
    if name.startswith("thigh"):
        return tube(
            [(0, 0, 0.02), (0, 0, -0.03), (0, 0, -0.14), (0, 0, -0.265)],
            [0.045, 0.056, 0.048, 0.036],
            7,
            TROUSERS,
        )
    if name.startswith("shin"):
        leg = tube(
            [(0, 0, 0.01), (0, 0, -0.07), (0, 0, -0.16), (0, 0, -0.245)],
            [0.035, 0.038, 0.030, 0.024],
            7,
            TROUSERS,
        )
        shoe = tube(
            [(-0.03, 0, -0.248), (0.0, 0, -0.240), (0.06, 0, -0.250), (0.105, 0, -0.256)],
            [0.018, 0.030, 0.024, 0.012],
            6,
            SHOES,
        )
        return merge([leg, shoe])
    if name.startswith("arm"):
        return tube(
            [(0, 0, 0.02), (0, 0, -0.02), (0, 0, -0.10), (0, 0, -0.18)],
            [0.024, 0.036, 0.031, 0.026],
            6,
            SHIRT,
        )
    sleeve = tube([(0, 0, 0.005), (0, 0, -0.07), (0, 0, -0.14)], [0.026, 0.025, 0.020], 6, SHIRT)
    hand = ball(SKIN, detail=0).moved((0, 0, -0.165), scale=(0.022, 0.014, 0.034))
    return merge([sleeve, hand])


def canopy(radius: float, low: float, high: float, slot: int = 0) -> Mesh:
    """The cloth of an umbrella around the z axis, seen from above and below."""
    angle = np.linspace(0, 2 * np.pi, 9)
    rim = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(9, low)], 1)
    top = np.tile([[0.0, 0.0, high]], (9, 1))
    return merge([grid(np.stack(order), slot, crease_deg=20.0) for order in ((rim, top), (top, rim))])


def _pose(offset: tuple[float, float, float], turn: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = offset
    return pose


def body_pose(
    height: float,
    hip: tuple[float, float, float],
    lean: float,
    joints: tuple[float, ...],
    spread: float = 0.0,
) -> list[np.ndarray]:
    """Poses of the nine limbs in a person's frame (origin on the ground, x ahead), scaled to ``height``.

    Args:
        hip: where the hip's middle is, metres.
        lean: of the torso, forward, rad.
        joints: thigh l, r (forward +), knee bend l, r, arm l, r (forward +), elbow bend l, r; rad.
        spread: of the arms to the sides, rad.
    """
    s = np.diag([height, height, height, 1.0])
    tl, tr, kl, kr, al, ar, el, er = joints
    base = _pose(hip, np.eye(3)) @ s
    torso = base @ _pose((0, 0, 0), turn_y(lean))
    poses = [torso]
    thighs = [base @ _pose((0, side * 0.05, 0), turn_y(-a)) for side, a in ((1, tl), (-1, tr))]
    shins = [t @ _pose((0, 0, -0.265), turn_y(k)) for t, k in zip(thighs, (kl, kr), strict=True)]
    arms = [
        torso @ _pose((0, side * 0.118, 0.27), turn_y(-a) @ turn_x(side * spread))
        for side, a in ((1, al), (-1, ar))
    ]
    forearms = [a @ _pose((0, 0, -0.175), turn_y(-e)) for a, e in zip(arms, (el, er), strict=True)]
    return poses + thighs + shins + arms + forearms


@cache
def bicycle() -> Vehicle:
    """Two thin wheels with spokes, a diamond frame, bar and saddle."""
    angle = np.linspace(0, 2 * np.pi, 19)
    ring = np.array(
        [
            [(r * np.cos(a), y, r * np.sin(a)) for a in angle]
            for r, y in (
                (0.335, 0.024),
                (0.345, 0.0),
                (0.335, -0.024),
                (0.312, -0.012),
                (0.312, 0.012),
                (0.335, 0.024),
            )
        ]
    )
    wheel = [grid(ring[::-1], TYRE, crease_deg=60.0)]
    for k in range(5):
        a = k * np.pi / 5
        d = np.array([np.cos(a), 0, np.sin(a)]) * 0.315
        wheel.append(tube([-d, d], [0.004, 0.004], 3, RIM))
    wheel.append(disc(0.03, RIM, sides=6, width=0.08))
    mesh = merge(wheel)
    wheels = [Wheel(mesh, x, 0.0, 0.34) for x in (0.52, -0.52)]
    parts = []
    crank, seat, head = (-0.08, 0, 0.30), (-0.22, 0, 0.80), (0.36, 0, 0.78)
    for start, end, r in [
        (crank, seat, 0.018),
        (crank, head, 0.022),
        (seat, head, 0.02),
        ((-0.52, 0, 0.34), crank, 0.012),
        ((-0.52, 0, 0.34), seat, 0.012),
        ((0.52, 0, 0.34), (0.34, 0, 0.90), 0.016),
        ((0.34, 0, 0.90), (0.33, 0, 1.0), 0.015),
        (seat, (-0.24, 0, 0.94), 0.014),
    ]:
        parts.append(tube([start, end], [r, r], 5, PAINT))
    parts.append(
        tube(
            [(0.27, 0.28, 1.0), (0.35, 0.15, 1.02), (0.35, -0.15, 1.02), (0.27, -0.28, 1.0)],
            [0.015] * 4,
            5,
            TRIM,
        )
    )
    parts.append(box((0.26, 0.13, 0.06), (-0.26, 0, 0.96), TRIM))
    parts.append(disc(0.10, TRIM, sides=8, width=0.03).moved((-0.08, -0.03, 0.30)))
    parts.append(box((0.06, 0.07, 0.07), (0.44, 0, 0.88), FRONT_LIGHT))
    parts.append(box((0.03, 0.06, 0.06), (-0.60, 0, 0.70), REAR_LIGHT))
    return _vehicle(parts, wheels, (1.7, 0.56, 1.02))


@cache
def motorcycle(kind: str) -> Vehicle:
    """A motorcycle (kind road) or scooter."""
    scooter = kind == "scooter"
    r, x = (0.24, 0.62) if scooter else (0.31, 0.70)
    wheel = merge([_wheel(r, 0.12, 1, 14), disc(0.6 * r, RIM, sides=12).moved((0.0, -0.124, 0.0))])
    wheels = [Wheel(wheel, sx, 0.06, r) for sx in (x, -x)]
    parts = []
    if scooter:
        parts += [
            tube(
                [(-0.85, 0, 0.62), (-0.6, 0, 0.55), (-0.25, 0, 0.5), (-0.05, 0, 0.32)],
                [0.10, 0.19, 0.18, 0.14],
                8,
                PAINT,
            ),
            tube([(-0.05, 0, 0.27), (0.35, 0, 0.27)], [0.16, 0.16], 6, TRIM, flat=0.35),
            tube([(0.36, 0, 0.28), (0.50, 0, 0.6), (0.46, 0, 0.98)], [0.18, 0.17, 0.10], 8, PAINT),
            box((0.75, 0.30, 0.10), (-0.45, 0, 0.76), TRIM),
        ]
    else:
        parts += [
            tube([(-0.05, 0, 0.82), (0.15, 0, 0.90), (0.40, 0, 0.86)], [0.12, 0.17, 0.11], 8, PAINT),
            box((0.50, 0.30, 0.42), (0.12, 0, 0.50), TRIM),
            tube([(-0.95, 0, 0.90), (-0.6, 0, 0.82), (-0.1, 0, 0.78)], [0.06, 0.14, 0.13], 8, TRIM),
            tube([(0.70, 0, 0.31), (0.48, 0, 1.0)], [0.05, 0.05], 6, RIM),
            tube([(0.30, 0, 0.80), (0.55, 0, 0.85), (0.66, 0, 0.95)], [0.18, 0.17, 0.08], 8, PAINT),
            tube([(0.1, -0.16, 0.35), (-0.75, -0.18, 0.45)], [0.04, 0.07], 6, RIM),
        ]
    parts.append(
        tube(
            [(0.36, 0.36, 1.03), (0.46, 0.2, 1.04), (0.46, -0.2, 1.04), (0.36, -0.36, 1.03)],
            [0.02] * 4,
            5,
            TRIM,
        )
    )
    for side in (1, -1):
        parts.append(box((0.03, 0.12, 0.08), (0.44, side * 0.36, 1.18), TRIM))
    parts.append(ball(FRONT_LIGHT, detail=0).moved((0.62, 0, 0.9), scale=(0.06, 0.09, 0.09)))
    parts.append(box((0.04, 0.16, 0.07), (-0.95, 0, 0.82 if not scooter else 0.6), REAR_LIGHT))
    parts.append(box((0.03, 0.18, 0.14), (-0.93, 0, 0.6), PLATE))
    return _vehicle(parts, wheels, (2.0, 0.72, 1.2))


def _leaves(
    rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, count: int, size: float
) -> Mesh:
    """Small loose triangles over the surface of some balls: a crown's ragged outline."""
    which = rng.integers(len(centres), size=count)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    middle = centres[which] + direction * radii[which, None] * rng.uniform(0.9, 1.3, (count, 1))
    corners = middle[:, None] + rng.normal(size=(count, 3, 3)) * size
    v = corners.reshape(-1, 3).astype(np.float32)
    normals = np.repeat(direction, 3, axis=0).astype(np.float32)
    t = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    return Mesh(v, normals, np.zeros((3 * count, 2), np.float32), t, np.full(count, 1, np.uint8))


def _crown(
    rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, leaves: int, size: float, detail: int
) -> Mesh:
    parts = []
    for c, r in zip(centres, radii, strict=True):
        b = ball(1, detail=detail)
        bumps = 1 + 0.16 * rng.normal(size=(len(b.vertices), 1)).clip(-1.5, 1.5)
        v = (b.vertices * bumps * r * [1, 1, rng.uniform(0.75, 1.0)] + c).astype(np.float32)
        parts.append(Mesh(v, b.normals, b.uv, b.triangles, b.slots))
    if leaves:
        parts.append(_leaves(rng, centres, radii, leaves, size))
    return merge(parts, two_sided=True)


TREES = ("round", "tall", "conifer", "bare", "poplar", "wide")


@cache
def tree(kind: str, variant: int, fine: bool, lush: bool = False) -> Mesh:
    """A tree 1 m tall (slot 0 bark, 1 leaves); ``fine`` has a ragged outline for trees near the road, that of
    a ``lush`` one is of single leaves."""
    rng = np.random.default_rng([11, TREES.index(kind), variant])
    bark = []
    detail = 1 if fine else 0
    bend = rng.normal(size=2) * 0.02
    if kind == "conifer":
        bark.append(tube([(0, 0, -0.02), (0, 0, 0.9)], [0.022, 0.004], 6, 0))
        tiers = []
        for k in range(7):
            z, r = 0.12 + 0.115 * k, 0.21 * (1 - k / 7.4)
            angle = np.linspace(0, 2 * np.pi, 12)
            ragged = r * rng.uniform(0.75, 1.15, 12)
            ragged[-1] = ragged[0]
            low = np.stack(
                [ragged * np.cos(angle), ragged * np.sin(angle), np.full(12, z) - 0.02 * rng.random(12)], 1
            )
            top = np.tile([[0, 0, z + 0.21]], (12, 1))
            tiers.append(grid(np.stack([low, top]), 1, crease_deg=60.0))
        count = 160 if fine else 20
        around, up = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.1, 0.95, count)
        out = 0.21 * (1 - (up - 0.1) / 0.95)
        c = np.stack([out * np.cos(around), out * np.sin(around), up], 1)
        tiers.append(_leaves(rng, c, np.full(count, 0.02), count, 0.018))
        return merge(bark + tiers, two_sided=True)
    fork = {"round": 0.32, "tall": 0.30, "bare": 0.30, "poplar": 0.14, "wide": 0.28}[kind]
    bark.append(
        tube(
            [(0, 0, -0.02), (bend[0], bend[1], fork * 0.6), (0, 0, fork + 0.15)], [0.032, 0.022, 0.012], 7, 0
        )
    )
    spread = {
        "round": (0.17, 0.20),
        "tall": (0.13, 0.27),
        "bare": (0.17, 0.27),
        "poplar": (0.045, 0.36),
        "wide": (0.25, 0.16),
    }[kind]
    middle = {"round": 0.66, "tall": 0.62, "bare": 0.62, "poplar": 0.54, "wide": 0.68}[kind]
    count = 10 if fine else 6
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = rng.uniform(0.45, 1.0, (count, 1))
    centres = direction * reach * [spread[0], spread[0], spread[1]] + [0, 0, middle]
    for c in centres[: 7 if fine else 3]:
        start = np.array([bend[0], bend[1], fork * rng.uniform(0.75, 1.1)])
        bark.append(tube([start, 0.5 * (start + c) + [0, 0, -0.02], c], [0.013, 0.009, 0.004], 4, 0))
    if kind == "bare":
        for c in centres:
            for _ in range(9 if fine else 3):
                d = rng.normal(size=3) * 0.11 + [0, 0, 0.06]
                bark.append(tube([c, c + d], [0.005, 0.0015], 3, 0))
        return merge(bark, two_sided=True)
    radii = rng.uniform(0.10, 0.17, count) * {"poplar": 0.62, "tall": 1.05, "round": 1.1, "wide": 1.1}[kind]
    if lush:
        return merge([*bark, _crown(rng, centres, 0.85 * radii, 1300, 0.013, detail)], two_sided=True)
    return merge(
        [*bark, _crown(rng, centres, radii, 420 if fine else 60, 0.017 if fine else 0.026, detail)],
        two_sided=True,
    )


@cache
def bush(variant: int) -> Mesh:
    """A bush about 1 m across and 1 m tall (slot 1 leaves)."""
    rng = np.random.default_rng([12, variant])
    count = 5
    centres = np.c_[rng.uniform(-0.28, 0.28, (count, 2)), rng.uniform(0.25, 0.55, count)]
    return _crown(rng, centres, rng.uniform(0.22, 0.36, count), 90, 0.05, 1)


@cache
def lamp(kind: str) -> Mesh:
    """A street lamp (slot 0 pole, 1 glass): arm reaches along +x; kind is arm, double or post."""
    if kind == "post":
        return merge(
            [tube([(0, 0, 0), (0, 0, 3.6)], [0.06, 0.045], 8, 0), ball(1).moved((0, 0, 3.8), scale=0.24)]
        )
    parts = [tube([(0, 0, 0), (0, 0, 1.0), (0, 0, 7.4)], [0.10, 0.085, 0.05], 8, 0)]
    for side in (1, -1) if kind == "double" else (1,):
        parts.append(
            tube([(0, 0, 7.3), (side * 0.7, 0, 7.75), (side * 1.9, 0, 7.9)], [0.045, 0.04, 0.035], 6, 0)
        )
        parts.append(box((0.75, 0.26, 0.12), (side * 2.1, 0, 7.9), 0))
        parts.append(box((0.6, 0.2, 0.03), (side * 2.1, 0, 7.83), 1))
    return merge(parts)


@cache
def pole(height: float, radius: float) -> Mesh:
    return tube([(0, 0, 0), (0, 0, height)], [radius, radius * 0.85], 8, 0)


@cache
def traffic_light(reach: float) -> Mesh:
    """Pole (slot 0), housing (1) and lenses red, amber, green (2, 3, 4), seen from -x; reach 0 has no arm."""
    parts = [tube([(0, 0, 0), (0, 0, 3.4 if reach == 0 else 5.8)], [0.075, 0.06], 8, 0)]
    heads = [(0.0, 2.75)]
    if reach > 0:
        parts.append(tube([(0, 0, 5.6), (0, reach, 5.9)], [0.06, 0.04], 6, 0))
        heads += [(reach * 0.95, 5.6)]
    for y, z in heads:
        parts.append(box((0.22, 0.32, 0.95), (-0.12, y, z), 1))
        for k in range(3):
            lens = disc(0.105, 2 + k, sides=10).moved((0, 0, 0), turn_z(np.pi / 2))
            parts.append(lens.moved((-0.235, y, z + 0.29 - 0.29 * k)))
            parts.append(box((0.14, 0.24, 0.015), (-0.30, y, z + 0.41 - 0.29 * k), 1))
    return merge(parts)


@cache
def sign(shape: str) -> Mesh:
    """A 1 m plate seen from -x (slot 0 front, 1 back; uv -1..1): round, triangle, yield, diamond, octagon,
    square or wide."""
    angle = {
        "round": np.arange(14) * 2 * np.pi / 14,
        "triangle": np.pi / 2 + np.arange(3) * 2 * np.pi / 3,
        "yield": -np.pi / 2 + np.arange(3) * 2 * np.pi / 3,
        "diamond": np.arange(4) * np.pi / 2,
        "octagon": np.pi / 8 + np.arange(8) * np.pi / 4,
    }.get(shape)
    if angle is None:
        outline = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
    else:
        outline = np.stack([np.cos(angle), np.sin(angle)], 1)
    n = len(outline)
    plate = []
    for slot, x, flip in ((0, -0.012, False), (1, 0.012, True)):
        v = np.concatenate([[[x, 0, 0]], np.c_[np.full(n, x), 0.5 * outline]]).astype(np.float32)
        ring = np.arange(n)
        t = np.stack([np.zeros(n, int), 1 + ring, 1 + (ring + 1) % n], 1)
        t = t if flip else t[:, ::-1]
        uv = np.concatenate([[[0, 0]], outline * [-1, 1]]).astype(np.float32)
        normals = np.tile(np.array([[1.0 if flip else -1.0, 0, 0]], np.float32), (len(v), 1))
        plate.append(Mesh(v, normals, uv, t.astype(np.int32), np.full(n, slot, np.uint8)))
    return merge(plate)


@cache
def bin_box() -> Mesh:
    """A wheelie bin (slot 0 body, 1 lid)."""
    return merge(
        [
            box((0.55, 0.55, 0.9), (0, 0, 0.5), 0),
            box((0.62, 0.6, 0.08), (0.02, 0, 0.98), 1),
            disc(0.1, 1, sides=8, width=0.62).moved((-0.22, 0, 0.1)),
        ]
    )


@cache
def hill(variant: int) -> Mesh:
    """A distant hill of radius 1 and height about 1."""
    rng = np.random.default_rng([13, variant])
    b = ball(0, detail=2)
    v = b.vertices * (1 + 0.08 * rng.normal(size=(len(b.vertices), 1)))
    return creased(v, b.triangles, b.slots, 80.0)
