# SPDX-License-Identifier: Apache-2.0
"""Photographs on the surfaces of the world, from a folder that the user has (docs/world.md).

A texture scales the procedural colour of a surface, whose mean moves towards the photograph's: markings and
windows stay where they were, and truth is not touched.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dvps_ros.data.images import IMAGE_SUFFIXES, natural_order, read_image, visible
from dvps_ros.data.world import shade
from dvps_ros.errors import InputError

log = logging.getLogger(__name__)

TILE = shade.TILE
KEPT_TILES = 512
"""That stay in memory; a third of a MiB each."""
MOST_CONTRAST = 2.5
"""Brightest texel, as a ratio to the mean."""
PROCEDURAL = 0.15
"""Share of the surfaces that stay as they are."""
FILES_A_STREET = 3
"""Of each material: the houses of one street resemble each other."""


class Surface(NamedTuple):
    """What may cover a kind of material."""

    materials: tuple[str, ...]
    """Folders; the more often named, the more often taken."""
    width_m: tuple[float, float]
    """Of a tile."""
    share: float
    """How far contrast and mean colour may go towards the photograph's."""
    turns: int
    """It may lie turned by multiples of a circle over this; 1: upright."""


SURFACES = {
    shade.ROAD: Surface(("Asphalt",) * 5 + ("Road", "Concrete"), (1.5, 4.0), 0.8, 360),
    shade.PAVING: Surface(("PavingStones",) * 4 + ("Concrete", "Granite"), (1.2, 3.0), 1.0, 4),
    shade.GROUND: Surface(("Ground", "Gravel", "ScatteredLeaves"), (2.0, 5.0), 1.0, 360),
    shade.FACADE: Surface(
        ("Plaster", "Plaster", "Concrete", "Bricks", "Bricks", "WoodSiding", "Rock"), (1.5, 4.0), 0.8, 1
    ),
    shade.BRICK: Surface(("Bricks", "Bricks", "Rocks"), (1.0, 2.5), 1.0, 1),
    shade.ROOF: Surface(("RoofingTiles",) * 3 + ("ThatchedRoof",), (1.5, 3.0), 1.0, 1),
    shade.PLANKS: Surface(("Planks", "Wood", "WoodSiding", "CorrugatedSteel"), (1.2, 3.0), 0.9, 1),
    shade.LEAVES: Surface(("Grass", "Moss", "PineNeedles", "ScatteredLeaves"), (0.4, 1.2), 0.3, 360),
}
"""By kind of material."""
GREEN = ("Grass", "Grass", "Moss")
"""Folders for ground that is greener than red."""
MATERIALS = sorted({name for surface in SURFACES.values() for name in surface.materials} | set(GREEN))
_NO_COLOUR = {
    "normal", "normalgl", "normaldx", "nor", "gl", "dx", "roughness", "rough", "displacement", "disp",
    "height", "ambientocclusion", "ao", "metalness", "metallic", "opacity", "mask", "emission", "arm",
    "spec", "specular", "bump",
}  # fmt: skip
"""Words in the names of files that hold something else than colour, as ambientCG and Poly Haven name them."""


class Textures:
    """A folder with a sub-folder of tiles for each material, or several whose names begin with it.

    Raises:
        InputError: no such folder, or none of its sub-folders is that of a material.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(
                f"textures: {folder} is no folder; expected one with a sub-folder for each material"
            )
        known = {name.lower(): name for name in MATERIALS}
        self.files: dict[str, list[Path]] = {}
        for below in sorted(p for p in visible(folder) if p.is_dir()):
            # Asphalt025C_1K-JPG is asphalt.
            name = known.get(re.match(r"[A-Za-z]*", below.name)[0].lower())  # type: ignore[index]
            if name is not None:
                self.files.setdefault(name, []).extend(_colours(below))
        if not self.files:
            raise InputError(
                f"textures: {folder} has no sub-folder of a material: expected some of {', '.join(MATERIALS)}"
            )
        if missing := sorted(set(MATERIALS) - self.files.keys()):
            log.info("textures: %s lacks %s; others take their place", folder, ", ".join(missing))
        for names in (set(surface.materials) for surface in SURFACES.values()):
            if not names & self.files.keys():
                log.warning(
                    "textures: %s has none of %s: such surfaces stay procedural",
                    folder,
                    ", ".join(sorted(names)),
                )


def _colours(folder: Path) -> list[Path]:
    """The images of a folder that show colour, in natural order.

    Raises:
        InputError: there is none.
    """
    files = sorted((p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_order)
    files = [p for p in files if not _NO_COLOUR & set(re.split(r"[_\-. ]", p.stem.lower())[1:])]
    if not files:
        raise InputError(
            f"textures: {folder} holds no images of a surface's colour "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); put some there, or remove it"
        )
    return files


@lru_cache(8)
def open_textures(folder: Path) -> Textures:
    """:class:`Textures`, looked through once in a process."""
    return Textures(folder)


class StreetTextures:
    """The photographs of one street: what its materials are covered with as it grows."""

    def __init__(self, textures: Textures, seed: int) -> None:
        self._seed = seed
        self._files: dict[str, list[Path]] = {}
        for number, name in enumerate(MATERIALS):
            if name in textures.files:
                files = textures.files[name]
                order = np.random.default_rng([seed, 32, number]).permutation(len(files))
                self._files[name] = [files[i] for i in order[:FILES_A_STREET]]
        self._table = np.empty((0, shade.MATERIAL_COLUMNS))
        self._numbers: dict[Path, int] = {}
        self._ratios: list[np.ndarray] = []
        self._tiles = shade.NO_TILES

    def applied(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A table of materials with photographs on them.

        Args:
            table: float64 [N,40], left as it is; it begins with the rows of the call before.

        Returns:
            The new table, and its tiles, float32 [T,TEXELS,3].

        Raises:
            InputError: an image cannot be read.
        """
        done = len(self._table)
        if done < len(table):
            fresh = table[done:].copy()
            for number, row in enumerate(fresh, done):
                self._cover(row, np.random.default_rng([self._seed, 31, number]))
            self._table = np.concatenate([self._table, fresh])
            if len(self._tiles) != len(self._ratios):
                self._tiles = np.stack(self._ratios)
        return self._table, self._tiles

    def _cover(self, row: np.ndarray, rng: np.random.Generator) -> None:
        """Put a photograph on a row of the table, or none."""
        kind = int(row[0])
        surface = SURFACES.get(kind)
        if surface is None:
            return
        names = GREEN if kind == shade.GROUND and row[5] > 1.1 * row[4] else surface.materials
        known = [name for name in names if name in self._files]
        if not known or rng.random() < PROCEDURAL:
            return
        files = self._files[known[rng.integers(len(known))]]
        path = files[rng.integers(len(files))]
        ratio, mean = load_tile(path)
        if path not in self._numbers:
            self._ratios.append(ratio)
            self._numbers[path] = len(self._ratios)
        turn = 2 * math.pi * rng.integers(surface.turns) / surface.turns
        width_m = rng.uniform(*surface.width_m)
        row[shade.TEXTURE] = self._numbers[path]
        row[shade.TURN_COS], row[shade.TURN_SIN] = math.cos(turn) / width_m, math.sin(turn) / width_m
        row[shade.CONTRAST] = surface.share * rng.uniform(0.6, 1.0)
        share, light = surface.share * rng.uniform(0.3, 1.0), rng.uniform(0.7, 1.3)
        row[4:7] += share * (light * mean - row[4:7])
        if kind in (shade.GROUND, shade.LEAVES):
            row[7:10] += share * (rng.uniform(0.7, 1.3) * light * mean - row[7:10])


@lru_cache(KEPT_TILES)
def load_tile(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A photograph as ratios to its mean colour, and that colour (linear).

    Returns:
        float32 [TEXELS,3], the image at sides TILE, TILE / 2 .. 1 one after the other; float64 [3].

    Raises:
        InputError: it cannot be read.
    """
    image = read_image(path)
    side = min(image.shape[:2])
    square = cv2.resize(image[:side, :side], (TILE, TILE), interpolation=cv2.INTER_AREA)
    linear = (square.astype(np.float32) / 255) ** 2.2
    mean = linear.mean((0, 1), dtype=np.float64)
    ratio = np.clip(linear / np.maximum(mean, 1e-3), 0, MOST_CONTRAST).astype(np.float32)
    ratio /= np.maximum(ratio.mean((0, 1)), 1e-3)
    levels = [ratio]
    while levels[-1].shape[0] > 1:
        x = levels[-1]
        levels.append((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4)
    return np.concatenate([x.reshape(-1, 3) for x in levels]), mean
