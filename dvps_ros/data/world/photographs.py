# SPDX-License-Identifier: Apache-2.0
"""Photographs on the surfaces of the world and in its sky, from folders that the user has (docs/world.md).

A texture scales the procedural colour of a surface, whose mean moves towards the photograph's: markings,
joints and windows stay where they were, and truth is not touched.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dvps_ros.data.images import FILE_LIMIT, image_files, read_image, visible
from dvps_ros.data.world import shade
from dvps_ros.errors import InputError
from dvps_ros.files import read_bytes

log = logging.getLogger(__name__)

TILE = shade.TILE
KEPT_TILES = 512
"""That stay in memory; a third of a MiB each."""
SKY_SHAPE = (256, 1024)
"""Of the upper half of a panorama in memory."""
SKY_FROM_DEG = 20.0
"""What a panorama shows below this elevation (houses, trees) is not sky; above it is stretched to the
horizon."""
MOST_PANORAMA_PX = 1 << 25

MOST_CONTRAST = 2.5
"""Brightest texel, as a ratio to the mean."""
PROCEDURAL, PROCEDURAL_SKY = 0.25, 0.5
"""Share of the surfaces and of the skies that stay as they are."""
SURFACES: dict[int, tuple[tuple[str, ...], tuple[float, float], float]] = {
    shade.ROAD: (("Asphalt", "Asphalt", "Asphalt", "Concrete"), (1.0, 3.0), 0.7),
    shade.PAVING: (("PavingStones", "PavingStones", "Tiles", "Concrete", "Granite"), (1.2, 3.0), 1.0),
    shade.GROUND: (("Ground", "Gravel", "ScatteredLeaves"), (2.0, 5.0), 1.0),
    shade.FACADE: (("Plaster", "Concrete", "Bricks", "Bricks", "WoodSiding", "Rock"), (1.5, 4.0), 0.7),
    shade.BRICK: (("Bricks", "Bricks", "Rocks"), (1.0, 2.5), 1.0),
    shade.ROOF: (("RoofingTiles", "RoofingTiles", "RoofingTiles", "ThatchedRoof"), (1.5, 3.0), 1.0),
    shade.PLANKS: (("Planks", "Wood", "WoodSiding", "CorrugatedSteel"), (1.2, 3.0), 0.9),
    shade.LEAVES: (("Grass", "Moss", "PineNeedles", "ScatteredLeaves"), (0.4, 1.2), 0.3),
}
"""Kind of material -> folders that may cover it (more often named, more often taken), width of a tile in
metres, and how far contrast and mean colour may go towards the photograph's."""
GREEN = ("Grass", "Grass", "Moss")
"""Folders for ground that is greener than red."""


class Textures:
    """A folder with a sub-folder of square tiles for each material.

    Raises:
        InputError: no such folder, or none of its sub-folders is that of a material.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(
                f"textures: {folder} is no folder; expected one with a sub-folder for each material"
            )
        names = {name for names, _, _ in SURFACES.values() for name in names} | set(GREEN)
        self.files = {
            d.name: image_files(d) for d in sorted(visible(folder)) if d.is_dir() and d.name in names
        }
        if not self.files:
            raise InputError(
                f"textures: {folder} has no sub-folder of a material: expected some of "
                f"{', '.join(sorted(names))}"
            )
        if missing := sorted(names - self.files.keys()):
            log.info("textures: %s lacks %s; other materials take their place", folder, ", ".join(missing))

    def applied(self, table: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """A table of materials with photographs on them.

        Args:
            table: float64 [N,36], left as it is.
            seed: with the number of a row it decides its photograph.

        Returns:
            The new table, and its tiles, float32 [T,TEXELS,3].
        """
        table, tiles = table.copy(), []
        for number, row in enumerate(table):
            surface = SURFACES.get(int(row[0]))
            if surface is None:
                continue
            names, (least_m, most_m), share = surface
            rng = np.random.default_rng([seed, 31, number])
            if row[0] == shade.GROUND and row[5] > 1.1 * row[4]:
                names = GREEN
            known = [name for name in names if name in self.files]
            if not known or rng.random() < PROCEDURAL:
                continue
            files = self.files[known[rng.integers(len(known))]]
            ratio, mean = load_tile(files[rng.integers(len(files))])
            tiles.append(1 + np.float32(share * rng.uniform(0.4, 1.0)) * (ratio - 1))
            row[shade.TEXTURE], row[shade.TILE_M] = len(tiles), rng.uniform(least_m, most_m)
            share, light = share * rng.uniform(0.3, 1.0), rng.uniform(0.7, 1.3)
            row[4:7] += share * (light * mean - row[4:7])
            if row[0] in (shade.GROUND, shade.LEAVES):
                row[7:10] += share * (rng.uniform(0.7, 1.3) * light * mean - row[7:10])
        return table, np.stack(tiles) if tiles else shade.NO_TILES


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


def sky_files(folder: Path) -> list[Path]:
    """The panoramas of a folder.

    Raises:
        InputError: there is none.
    """
    files = sorted(p for p in visible(folder) if p.suffix.lower() == ".hdr") if folder.is_dir() else []
    if not files:
        raise InputError(f"skies: {folder} holds no panorama (.hdr)")
    return files


@lru_cache(16)
def load_sky(path: Path) -> np.ndarray:
    """Radiance of the sky of a panorama in equirectangular projection: float32 [256,1024,3] linear RGB, rows
    from the zenith to the horizon at equal steps of elevation; the mean is 1.

    Raises:
        InputError: it cannot be read, or is no such panorama.
    """
    try:
        data = read_bytes(path, limit=FILE_LIMIT)
    except OSError as error:
        raise InputError(f"cannot read panorama {path}: {error.strerror}") from error
    height, width = _radiance_size(data, path)
    if width != 2 * height or height * width > MOST_PANORAMA_PX:
        raise InputError(
            f"{path}: expected a panorama twice as wide as high, of {MOST_PANORAMA_PX} pixels at most, got "
            f"{width}x{height}"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.float32 or not np.isfinite(image).all():
        raise InputError(f"{path}: the panorama cannot be decoded")
    rows = round(height * (90 - SKY_FROM_DEG) / 180)
    sky = cv2.resize(
        np.ascontiguousarray(image[:rows, :, ::-1]), SKY_SHAPE[::-1], interpolation=cv2.INTER_AREA
    )
    level = float(sky.mean())
    if not level > 0:
        raise InputError(f"{path}: the sky of the panorama is black")
    return sky / level


def _radiance_size(data: bytes, path: Path) -> tuple[int, int]:
    """Height and width in the header of a Radiance file, before anything is decoded."""
    header, _, rest = data[:4096].partition(b"\n\n")
    words = rest.partition(b"\n")[0].split()
    if not header.startswith(b"#?") or len(words) != 4 or not (words[1] + words[3]).isdigit():
        raise InputError(f"{path}: expected a Radiance picture (.hdr), got something else")
    return int(words[1]), int(words[3])
