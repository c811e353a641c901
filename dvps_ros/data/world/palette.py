# SPDX-License-Identifier: Apache-2.0
"""The looks that all of one street shares: numbers of materials, drawn once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvps_ros.data.world import shade, shapes
from dvps_ros.data.world.markings import Markings, draw_markings
from dvps_ros.data.world.materials import (
    BICYCLE,
    BUILDING,
    BUS,
    CAR,
    FENCE,
    LIGHT,
    MOTORCYCLE,
    POLE,
    ROAD,
    SIDEWALK,
    SIGN,
    TERRAIN,
    TRAIN,
    TRUCK,
    VEGETATION,
    Color,
    Materials,
    grey,
    hue,
)
from dvps_ros.data.world.styles import CrossSection, Style
from dvps_ros.labels import VOID


@dataclass(frozen=True)
class RoadLook:
    """A road of asphalt, and how others with the same asphalt are made."""

    marked: bool
    """Its lanes have lines between them."""
    tram: bool
    markings: Markings
    asphalt: Color
    paint: Color
    plain: int
    """Material of the road where nothing interrupts its markings."""


@dataclass(frozen=True)
class GroundLook:
    """Materials of the ground beside the road."""

    walk: int
    kerb: int
    grass: int
    dirt: int
    field: int
    yard: int


@dataclass(frozen=True)
class PlantLook:
    """Materials of plants, and the kinds of trees that grow here."""

    bark: int
    leaves: tuple[int, ...]
    fir: int
    tree_kinds: tuple[str, ...]


@dataclass(frozen=True)
class VehicleLook:
    """Materials of vehicles apart from their skin, each by class."""

    glass: dict[int, int]
    trim: dict[int, int]
    tyre: dict[int, int]
    rim: dict[int, int]
    front_light: dict[int, int]
    rear_light: dict[int, int]
    plate: dict[int, int]

    def materials(self, skin: int, class_id: int, *, glazed: bool = True) -> tuple[int, ...]:
        """Materials of a vehicle's mesh in the order of its slots (see shapes.py)."""
        others = (self.trim, self.tyre, self.rim, self.front_light, self.rear_light, self.plate)
        glass = self.glass if glazed else self.trim
        return (skin, glass[class_id], *(look[class_id] for look in others))


@dataclass(frozen=True)
class FurnitureLook:
    """Materials of lamps, signs, traffic lights, bins and guard rails."""

    metal: int
    dark_pole: int
    lamp_glass: int
    sign_back: int
    sign_faces: tuple[int, ...]
    """By pattern, see ``shade``."""
    boards: tuple[int, ...]
    """Direction signs."""
    housing: int
    lens_on: tuple[int, ...]
    """Red, yellow, green."""
    lens_off: tuple[int, ...]
    clutter: tuple[int, ...]
    guard_rail: int


@dataclass(frozen=True)
class MoreLook:
    """Materials of what only rich streets have."""

    sign_faces: tuple[int, ...]
    """In the order of ``furniture.SIGN_SHAPES``."""
    posters: tuple[int, ...]
    cabinet: tuple[int, ...]
    """Boxes, benches and the like in grey, green and brown."""
    orange: int
    """Cones and barriers of road works."""
    stripes: int
    cloth: tuple[int, ...]
    """Parasols and awnings."""
    pane: int
    """Glass of a bus shelter."""
    frame: int
    rail: int
    """Railings between road and sidewalk."""
    lid: int
    """Of manholes."""
    arrow: int


@dataclass(frozen=True)
class Palette:
    """All materials that things on one street share."""

    road: RoadLook
    ground: GroundLook
    plants: PlantLook
    vehicles: VehicleLook
    furniture: FurnitureLook


def draw_palette(
    materials: Materials, style: Style, section: CrossSection, rng: np.random.Generator
) -> Palette:
    """Draw the looks of a street; their rows are added to ``materials``."""
    # The order of these draws and rows is part of what a seed means: another order is another world.
    road = _draw_road(materials, style, section, rng)
    ground = _draw_ground(materials, rng)
    add = materials.add
    metal = add(shade.PLAIN, POLE, grey(rng.uniform(0.08, 0.4), 0.08, rng), params=(0.25, 2.0), gloss=0.25)
    dark_pole = add(
        shade.PLAIN, POLE, grey(rng.uniform(0.02, 0.08), 0.2, rng), params=(0.25, 2.0), gloss=0.15
    )
    lamp_glass = add(shade.LIGHT, POLE, (0.9, 0.88, 0.8), params=(0.1, 4.0))
    bark, leaves, fir = _draw_greens(materials, rng)
    vehicles = _draw_vehicles(materials, rng)
    sign_back = add(shade.PLAIN, SIGN, grey(0.3, 0.1, rng), params=(0.2, 3.0))
    faces = [add(shade.SIGN, SIGN, (0.02, 0.1, 0.4), (0.85, 0.85, 0.85), (p,)) for p in range(6)]
    board_colors = [
        ((0.02, 0.08, 0.35), (0.85,) * 3),
        ((0.75, 0.5, 0.03), (0.02,) * 3),
        ((0.02, 0.25, 0.1), (0.85,) * 3),
    ]
    boards = [add(shade.SIGN, SIGN, a, b, (6,)) for a, b in board_colors]
    housing = add(shade.PLAIN, LIGHT, grey(0.02, 0.1, rng), params=(0.2, 2.0))
    lenses = [(0.5, 0.02, 0.01), (0.5, 0.25, 0.01), (0.02, 0.45, 0.12)]
    lens_on = [add(shade.LIGHT, LIGHT, c, params=(2.2, 1.0)) for c in lenses]
    lens_off = [add(shade.LIGHT, LIGHT, tuple(0.15 * v for v in c), params=(0.0, 0.0)) for c in lenses]
    clutter = [add(shade.PLAIN, VOID, hue(rng, 0.7, 0.15), params=(0.3, 3.0)) for _ in range(3)]
    guard_rail = add(shade.PLAIN, VOID, grey(0.35, 0.05, rng), params=(0.3, 2.0), gloss=0.3)
    trees = rng.permutation(shapes.TREES)[:3]
    return Palette(
        road=road,
        ground=ground,
        plants=PlantLook(bark, leaves, fir, tuple(str(kind) for kind in trees)),
        vehicles=vehicles,
        furniture=FurnitureLook(
            metal=metal,
            dark_pole=dark_pole,
            lamp_glass=lamp_glass,
            sign_back=sign_back,
            sign_faces=tuple(faces),
            boards=tuple(boards),
            housing=housing,
            lens_on=tuple(lens_on),
            lens_off=tuple(lens_off),
            clutter=tuple(clutter),
            guard_rail=guard_rail,
        ),
    )


def draw_more(materials: Materials, rng: np.random.Generator) -> MoreLook:
    """Draw what only rich streets have; its rows are added to ``materials``."""
    add = materials.add
    faces = tuple(
        add(shade.SIGN, SIGN, (0.5,) * 3, params=(p,), seed=int(rng.integers(1, 1000))) for p in range(7, 14)
    )
    posters = tuple(
        add(shade.SIGN, VOID, hue(rng, 0.6, 0.6), hue(rng, 0.5, 0.3), (14,), seed=int(rng.integers(1, 1000)))
        for _ in range(4)
    )
    boxes = (
        grey(rng.uniform(0.2, 0.5), 0.05, rng),
        hue(rng, 0.5, 0.1, 0.35, 0.05),
        hue(rng, 0.5, 0.15, 0.07, 0.02),
    )
    return MoreLook(
        sign_faces=faces,
        posters=posters,
        cabinet=tuple(add(shade.PLAIN, VOID, c, params=(0.35, 4.0), gloss=0.05) for c in boxes),
        orange=add(shade.PLAIN, VOID, (0.8, 0.16, 0.02), params=(0.2, 5.0)),
        stripes=add(shade.SIGN, VOID, (0.5,) * 3, params=(12,)),
        cloth=tuple(
            add(shade.CLOTH, VOID, hue(rng, 0.7, rng.uniform(0.2, 0.6)), (0.8,) * 3) for _ in range(3)
        ),
        pane=add(shade.PLAIN, BUILDING, (0.10, 0.12, 0.12), params=(0.1, 1.0), gloss=0.7),
        frame=add(
            shade.PLAIN, BUILDING, grey(rng.uniform(0.05, 0.3), 0.05, rng), params=(0.2, 2.0), gloss=0.2
        ),
        rail=add(shade.PLAIN, FENCE, grey(rng.uniform(0.05, 0.4), 0.1, rng), params=(0.2, 2.0), gloss=0.2),
        lid=add(shade.PLAIN, ROAD, grey(rng.uniform(0.05, 0.1), 0.05, rng), params=(0.8, 12.0), gloss=0.1),
        arrow=add(shade.PLAIN, ROAD, grey(rng.uniform(0.45, 0.75), 0.02, rng), params=(0.5, 3.0)),
    )


def _draw_road(
    materials: Materials, style: Style, section: CrossSection, rng: np.random.Generator
) -> RoadLook:
    marked = rng.random() < style.lines
    asphalt = grey(rng.uniform(0.06, 0.26), 0.05, rng)
    paint = grey(rng.uniform(0.55, 0.8), 0.02, rng)
    markings, tram = draw_markings(style, section, rng, marked=marked)
    plain = materials.add(shade.ROAD, ROAD, asphalt, paint, markings.params())
    return RoadLook(marked, tram, markings, asphalt, paint, plain)


def _draw_ground(materials: Materials, rng: np.random.Generator) -> GroundLook:
    add = materials.add
    tile = rng.choice([0.3, 0.5, 1.0, 2.0])
    stone = grey(rng.uniform(0.22, 0.5), 0.10, rng)
    walk = add(shade.PAVING, SIDEWALK, stone, grey(0.12, 0.1, rng), (tile, rng.choice([0.3, 0.5, 1.0])))
    kerb = add(shade.PLAIN, SIDEWALK, grey(rng.uniform(0.3, 0.55), 0.05, rng), params=(0.4, 1.0))
    green = hue(rng, rng.uniform(0.55, 0.85), rng.uniform(0.07, 0.22), 0.24, 0.05)
    dry = hue(rng, rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.3), 0.15, 0.04)
    other = dry if rng.random() < 0.6 else tuple(1.4 * v for v in green)
    grass = add(shade.GROUND, TERRAIN, green, other)
    dirt = add(shade.GROUND, TERRAIN, hue(rng, 0.45, rng.uniform(0.12, 0.3), 0.08, 0.03), dry)
    field = add(shade.GROUND, TERRAIN, hue(rng, 0.6, rng.uniform(0.15, 0.4), 0.16, 0.06), green)
    slabs = grey(rng.uniform(0.15, 0.45), 0.12, rng)
    yard = add(shade.PAVING, SIDEWALK, slabs, grey(0.1, 0.1, rng), (0.4, 0.4))
    return GroundLook(walk, kerb, grass, dirt, field, yard)


def _draw_greens(materials: Materials, rng: np.random.Generator) -> tuple[int, tuple[int, ...], int]:
    """Materials of bark, leaves and firs."""
    add = materials.add
    bark = add(shade.PLAIN, VEGETATION, hue(rng, 0.4, rng.uniform(0.05, 0.16), 0.07, 0.02), params=(0.9, 6.0))
    autumn = rng.random() < 0.2
    leaves = []
    for _ in range(4):
        dark = hue(rng, rng.uniform(0.6, 0.85), rng.uniform(0.05, 0.14), 0.10 if autumn else 0.25, 0.05)
        light = hue(rng, rng.uniform(0.6, 0.85), rng.uniform(0.16, 0.34), 0.13 if autumn else 0.22, 0.04)
        leaves.append(add(shade.LEAVES, VEGETATION, dark, light))
    fir = add(shade.LEAVES, VEGETATION, hue(rng, 0.6, 0.05, 0.33, 0.04), hue(rng, 0.6, 0.13, 0.30, 0.04))
    return bark, tuple(leaves), fir


def _draw_vehicles(materials: Materials, rng: np.random.Generator) -> VehicleLook:
    add = materials.add
    glazed = (CAR, TRUCK, BUS, TRAIN)
    every = (*glazed, MOTORCYCLE, BICYCLE)
    dark, bright = (0.02, 0.022, 0.024), (0.75, 0.76, 0.74)
    return VehicleLook(
        glass={c: add(shade.PLAIN, c, dark, params=(0.1, 1.0), gloss=0.75) for c in glazed},
        trim={c: add(shade.PLAIN, c, grey(0.022, 0.1, rng), params=(0.3, 3.0), gloss=0.06) for c in every},
        tyre={c: add(shade.PLAIN, c, grey(0.018, 0.1, rng), params=(0.3, 8.0)) for c in every},
        rim={c: add(shade.PLAIN, c, grey(0.35, 0.1, rng), params=(1.2, 9.0), gloss=0.5) for c in every},
        front_light={c: add(shade.LIGHT, c, bright, params=(0.12, 3.0), gloss=0.4) for c in every},
        rear_light={
            c: add(shade.LIGHT, c, (0.35, 0.012, 0.015), params=(0.25, 2.0), gloss=0.3) for c in every
        },
        plate={c: add(shade.PLAIN, c, (0.75, 0.75, 0.70), params=(0.3, 40.0)) for c in every},
    )
