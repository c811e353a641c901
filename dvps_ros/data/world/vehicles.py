# SPDX-License-Identifier: Apache-2.0
"""Vehicles as a street has them: which one, how it is painted, and its parts when it drives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from dvps_ros.data.world import shade, shapes
from dvps_ros.data.world.materials import BUS, CAR, TRAIN, TRUCK, Color, Part, car_color, grey, hue, pick
from dvps_ros.data.world.street import Street

Painted = tuple[shapes.Vehicle, tuple[int, ...]]
"""A vehicle, and a material for each slot of its mesh."""
NO_SEAMS = (90, 91, 92, 93)
"""Parameters of ``shade.PAINT`` for a body without doors: their seams are far off it."""


def draw_vehicle(street: Street, kind: str, rng: np.random.Generator) -> Painted:
    """A car, van, truck, bus, tram or rail car."""
    return VEHICLES[kind](street, car_color(rng), rng)


def _car(street: Street, paint: Color, rng: np.random.Generator) -> Painted:
    bodies: dict[str, float] = {"hatchback": 4, "sedan": 3, "estate": 2.5, "suv": 2.5, "minibus": 0.7}
    top = ""
    if street.more is not None:
        bodies |= {"micro": 0.8, "coupe": 1.2, "mpv": 2}
        top = pick(rng, {"": 10, "rack": 1.5, "box": 0.6, "taxi": 0.8})
    return _with_doors(street, pick(rng, bodies), paint, rng, top=top)


def _van(street: Street, paint: Color, rng: np.random.Generator) -> Painted:
    if rng.random() < 0.55:
        paint = grey(rng.uniform(0.55, 0.85), 0.03, rng)
    return _with_doors(street, "van", paint, rng)


def _with_doors(
    street: Street,
    body: str,
    paint: Color,
    rng: np.random.Generator,
    *,
    class_id: int = CAR,
    top: str = "",
) -> Painted:
    vehicle = shapes.car(body, top)
    length, _, height = vehicle.size
    handles_m = 0.58 * height if height < 1.6 else 0.45 * height
    seams = (0.20 * length, 0.0 * length - 0.1, -0.25 * length, handles_m)
    skin = street.materials.add(
        shade.PAINT, class_id, paint, params=(rng.uniform(0, 0.7), *seams), gloss=rng.uniform(0.35, 0.75)
    )
    return vehicle, street.palette.vehicles.materials(skin, class_id)


def _truck(street: Street, paint: Color, rng: np.random.Generator) -> Painted:
    add = street.materials.add
    kinds = {"box": 4, "semi": 2, "tanker": 1, "flatbed": 1.5}
    if street.more is not None:
        kinds |= {"waste": 1, "mixer": 0.8, "pickup": 1.5}
    kind = pick(rng, kinds)
    if kind == "pickup":
        return _with_doors(street, kind, paint, rng, class_id=TRUCK)
    vehicle = shapes.lorry(kind)
    skin = add(shade.PAINT, TRUCK, paint, params=(rng.uniform(0.2, 0.9), *NO_SEAMS), gloss=0.4)
    if rng.random() < 0.6:
        cover = grey(rng.uniform(0.4, 0.8), 0.05, rng)
    else:
        cover = hue(rng, 0.7, rng.uniform(0.1, 0.5))
    band = hue(rng, 0.8, 0.4) if rng.random() < 0.5 else cover
    no_windows, band_to_m = (0.0, 0.0, 1.0), rng.uniform(1.0, 2.0)
    load = add(shade.BUS, TRUCK, cover, band, (*no_windows, band_to_m, 0.0, 0.0, 0.0), gloss=0.08)
    # A lorry's last slot is its load, not a plate.
    return vehicle, (*street.palette.vehicles.materials(skin, TRUCK)[: shapes.PLATE], load)


def _bus(street: Street, paint: Color, rng: np.random.Generator) -> Painted:
    livery, skirt = _draw_livery(rng)
    bodies: dict[str, float] = {"city": 5, "coach": 2, "double": 1}
    if street.more is not None:
        bodies |= {"mini": 1.5, "bendy": 2}
    body = pick(rng, bodies)
    vehicle = shapes.bus(body)
    height = vehicle.size[2]
    if body == "double":
        windows = (1.05, 0.42 * height), (0.58 * height, 0.82 * height)
    else:
        windows = (1.05, 0.80 * height), (0.0, 0.0)
    return _with_windows(street, vehicle, BUS, livery, skirt, windows, rng)


def _on_rails(body: str, street: Street, paint: Color, rng: np.random.Generator) -> Painted:
    livery, skirt = _draw_livery(rng)
    vehicle = shapes.tram(body)
    height = vehicle.size[2]
    windows = (0.42 * height, 0.76 * height), (0.0, 0.0)
    return _with_windows(street, vehicle, TRAIN, livery, skirt, windows, rng)


def _draw_livery(rng: np.random.Generator) -> tuple[Color, Color]:
    """Colours of a bus or train, and of its skirt."""
    if rng.random() < 0.7:
        livery = hue(rng, rng.uniform(0.4, 0.95), rng.uniform(0.15, 0.6))
    else:
        livery = grey(rng.uniform(0.4, 0.8), 0.05, rng)
    if rng.random() < 0.5:
        return livery, livery
    return livery, grey(0.6, 0.1, rng) if rng.random() < 0.5 else hue(rng, 0.8, 0.3)


def _with_windows(
    street: Street,
    vehicle: shapes.Vehicle,
    class_id: int,
    livery: Color,
    skirt: Color,
    windows: tuple[tuple[float, float], tuple[float, float]],
    rng: np.random.Generator,
) -> Painted:
    """Windows are two bands from one height to another, metres; the upper one may be (0, 0)."""
    (low, high), upper = windows
    pillars_m, skirt_to_m = rng.uniform(1.2, 1.8), rng.uniform(0.6, low)
    params = (low, high, pillars_m, skirt_to_m, *upper, 0.485 * vehicle.size[0])
    skin = street.materials.add(shade.BUS, class_id, livery, skirt, params, gloss=0.3)
    return vehicle, street.palette.vehicles.materials(skin, class_id)


VEHICLES: dict[str, Callable[[Street, Color, np.random.Generator], Painted]] = {
    "car": _car,
    "van": _van,
    "truck": _truck,
    "bus": _bus,
    "tram": partial(_on_rails, "tram"),
    "rail": partial(_on_rails, "rail"),
}


def two_wheeler_materials(
    street: Street, class_id: int, rng: np.random.Generator, *, gloss: float
) -> tuple[int, ...]:
    """A material for each slot of a bicycle or motorcycle."""
    params = (0.1, *NO_SEAMS)
    paint = street.materials.add(shade.PAINT, class_id, car_color(rng), params=params, gloss=gloss)
    return street.palette.vehicles.materials(paint, class_id, glazed=False)


def on_wheels(
    street: Street, vehicle: shapes.Vehicle, materials: tuple[int, ...]
) -> tuple[list[Part], Callable[[np.ndarray, float], list[np.ndarray]]]:
    """Parts of a vehicle that drives; and (its pose, the metres it has gone) -> their poses."""
    instance = street.new_instance()
    meshes = (vehicle.body, *(w.mesh for w in vehicle.wheels))
    parts = [Part(street.pool.add(mesh), materials, instance) for mesh in meshes]
    return parts, partial(shapes.rolling, vehicle.wheels)
