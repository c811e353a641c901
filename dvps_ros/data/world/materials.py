# SPDX-License-Identifier: Apache-2.0
"""Materials, meshes and the parts that bring them together; colours to paint them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world.mesh import SLOTS, Mesh
from dvps_ros.data.world.shade import MATERIAL_COLUMNS, Meshes
from dvps_ros.labels import CITYSCAPES

(
    ROAD,
    SIDEWALK,
    BUILDING,
    WALL,
    FENCE,
    POLE,
    LIGHT,
    SIGN,
    VEGETATION,
    TERRAIN,
    SKY,
    PERSON,
    RIDER,
    CAR,
    TRUCK,
    BUS,
    TRAIN,
    MOTORCYCLE,
    BICYCLE,
) = range(len(CITYSCAPES))

Color = tuple[float, float, float]


class Materials:
    """Rows for the shader (see ``MATERIAL_COLUMNS``)."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []
        self._table = np.empty((0, MATERIAL_COLUMNS))

    def add(
        self, kind: int, class_id: int, a, b=(0, 0, 0), params=(), *, gloss: float = 0.0, seed: int = 0
    ) -> int:
        """A new row; returns its number."""
        row = [kind, class_id, seed or self.seed(len(self._rows)), gloss, *a, *b, *params]
        self._rows.append(row + [0.0] * (MATERIAL_COLUMNS - len(row)))
        return len(self._rows) - 1

    @staticmethod
    def seed(number: int) -> int:
        """Seed of the texture of row ``number``, where none of its own was given."""
        return number * 7 + 3

    @property
    def table(self) -> np.ndarray:
        """float64 [M,40]."""
        if len(self._table) != len(self._rows):
            self._table = np.array(self._rows, np.float64)
        return self._table


class PoolArrays(NamedTuple):
    """Meshes in arrays, for the renderer."""

    meshes: Meshes
    ranges: np.ndarray
    """int64 [N,4]: first and last+1 vertex, first and last+1 triangle of each mesh."""
    spheres: np.ndarray
    """float64 [N,4]: centre and radius of a sphere around it, metres."""
    two_sided: np.ndarray
    """uint8 [N]."""


class Pool:
    """All meshes of a world in one set of arrays."""

    def __init__(self) -> None:
        self._meshes: list[Mesh] = []
        self._numbers: dict[int, int] = {}
        self._arrays: PoolArrays | None = None

    def add(self, mesh: Mesh) -> int:
        """The mesh's number; the same mesh twice is stored once."""
        number = self._numbers.get(id(mesh))
        if number is None:
            number = len(self._meshes)
            self._numbers[id(mesh)] = number
            self._meshes.append(mesh)
            self._arrays = None
        return number

    def mesh(self, number: int) -> Mesh:
        """The mesh of this number."""
        return self._meshes[number]

    @property
    def arrays(self) -> PoolArrays:
        """All meshes in arrays."""
        if self._arrays is None:
            m = self._meshes
            v = np.cumsum([0] + [len(x.vertices) for x in m])
            t = np.cumsum([0] + [len(x.triangles) for x in m])
            self._arrays = PoolArrays(
                Meshes(
                    np.concatenate([x.vertices for x in m]),
                    np.concatenate([x.normals for x in m]),
                    np.concatenate([x.uv for x in m]),
                    np.concatenate([x.triangles + s for x, s in zip(m, v[:-1], strict=True)]).astype(
                        np.int32
                    ),
                    np.concatenate([x.slots for x in m]),
                ),
                np.stack([v[:-1], v[1:], t[:-1], t[1:]], 1).astype(np.int64),
                np.array([[*c, r] for c, r in (x.sphere for x in m)]),
                np.array([x.two_sided for x in m], np.uint8),
            )
        return self._arrays


@dataclass
class Part:
    """A mesh with its materials, pose and owner."""

    mesh: int
    materials: tuple[int, ...]
    instance: int = 0
    world_from_part: np.ndarray | None = None


class PartArrays(NamedTuple):
    """Parts in arrays, for the renderer."""

    mesh: np.ndarray
    """int64 [P]."""
    materials: np.ndarray
    """int32 [P,8]: for each slot."""
    instance: np.ndarray
    """int32 [P]."""


def part_arrays(parts: list[Part]) -> PartArrays:
    """The parts in arrays, their poses left out."""
    return PartArrays(
        np.array([p.mesh for p in parts], np.int64),
        np.array([_row8(p.materials) for p in parts], np.int32).reshape(-1, SLOTS),
        np.array([p.instance for p in parts], np.int32),
    )


def _row8(materials: tuple[int, ...]) -> list[int]:
    return (list(materials) + [materials[-1]] * SLOTS)[:SLOTS]


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names = list(weights)
    p = np.array([weights[n] for n in names], float)
    return names[int(np.searchsorted(np.cumsum(p / p.sum()), rng.random()))]


def grey(value: float, tint: float, rng: np.random.Generator) -> Color:
    """A colour near grey."""
    c = value * (1 + tint * rng.uniform(-1, 1, 3))
    return tuple(np.clip(c, 0.005, 0.95))


def hue(
    rng: np.random.Generator,
    saturation: float,
    value: float,
    around: float | None = None,
    spread: float = 0.5,
) -> Color:
    """A colour by hue 0..1 (0 red, 1/3 green, 2/3 blue), linear light."""
    h = ((rng.random() if around is None else around + spread * rng.uniform(-1, 1)) % 1.0) * 6
    rgb = np.clip(np.abs((h + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    c = value * (1 - saturation + saturation * rgb)
    return tuple(np.clip(c, 0.005, 0.95))


def car_color(rng: np.random.Generator) -> Color:
    k = rng.random()
    if k < 0.24:
        return grey(rng.uniform(0.015, 0.05), 0.15, rng)
    if k < 0.46:
        return grey(rng.uniform(0.25, 0.5), 0.05, rng)
    if k < 0.64:
        return grey(rng.uniform(0.6, 0.85), 0.03, rng)
    if k < 0.74:
        return grey(rng.uniform(0.08, 0.22), 0.1, rng)
    if k < 0.84:
        return hue(rng, 0.9, rng.uniform(0.08, 0.35), 0.62, 0.05)
    if k < 0.93:
        return hue(rng, 0.93, rng.uniform(0.15, 0.5), 0.0, 0.03)
    return hue(rng, rng.uniform(0.5, 0.95), rng.uniform(0.1, 0.5))
