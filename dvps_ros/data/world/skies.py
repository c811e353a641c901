# SPDX-License-Identifier: Apache-2.0
"""Panoramas as the sky of the world, and the light that they shed (docs/world.md)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dvps_ros.data.images import FILE_LIMIT, visible
from dvps_ros.data.world import shade
from dvps_ros.errors import InputError
from dvps_ros.files import read_bytes

log = logging.getLogger(__name__)

SHAPE = (256, 1024)
"""Rows and columns of a sky in memory: the upper half of a panorama."""
MOST_PX = 1 << 25
KEPT = 24
"""Skies that stay in memory; three MiB each."""
TRIES = 6
"""Panoramas that are looked at for one that goes with the weather."""
PROCEDURAL = 0.3
"""Share of the skies that stay procedural."""
SUNNY, CLOUDY = ("clear", "haze", "low_sun"), ("overcast", "rain")
"""Weathers under skies with a sun in them and without; in others (fog, dusk) the sky is procedural."""

LUMINANCE = np.array([0.30, 0.59, 0.11], np.float32)
SUN_RADIUS_RAD = math.radians(6.0)
"""The sun and its glare: light from there counts as the sun's where it is brighter than twice the sky."""
LEAST_SUN = 1.0
"""A sky has a sun where that sheds so many times the light of the rest on a surface turned to it."""
MOST_SUN = 6.0
"""It is taken for no stronger than this: at one exposure the shade of a street would be black."""
LOWEST_SUN_RAD = math.radians(6.0)
BRIGHTEST = 30.0
"""Of the sky, as a ratio to white."""
WHITE_BALANCE = 0.75
"""How far a panorama's light is turned to grey: 0 not, 1 wholly."""

# What stands before the sky: darker than it by this factor, or behind an edge of this contrast.
_DARK, _EDGE = 4.5, 0.32
_EDGES_BELOW_DEG, _HORIZON_ROWS, _MARGIN_ROWS = 60.0, 20, 3
_OPEN_BELOW_DEG, _OPEN_SHARE, _OPEN_RATIO = 55.0, 0.7, 1.4
_LEAST_CUT_DEG, _MOST_CUT_DEG = 8.0, 75.0


class Sky(NamedTuple):
    """The sky of a panorama. Colours are linear RGB in the panorama's own unit; radiances but for ``sun``."""

    radiance: np.ndarray
    """float32 [256,1024,3]: rows from the zenith to the horizon at equal steps of elevation, columns at equal
    steps of azimuth. What stood before the sky is not in it: what is above that is stretched down to the
    horizon."""
    azimuth: float
    """Of its brightest part, radians from the first column on."""
    elevation: float
    sun: np.ndarray
    """float64 [3]: what a white surface turned to the sun sends back of its light alone."""
    ambient: np.ndarray
    """float64 [3]: what a white surface turned up sends back of the light of all but the sun."""
    zenith: np.ndarray
    horizon: np.ndarray
    is_open: bool
    """It is a sky, not the ceiling of a hall or the crowns of a wood."""

    @property
    def has_sun(self) -> bool:
        """There is a sun that casts shadows."""
        return bool(self.sun @ LUMINANCE > LEAST_SUN * (self.ambient @ LUMINANCE))


def sky_files(folder: Path) -> list[Path]:
    """The panoramas of a folder.

    Raises:
        InputError: there is none.
    """
    files = sorted(p for p in visible(folder) if p.suffix.lower() == ".hdr") if folder.is_dir() else []
    if not files:
        raise InputError(
            f"skies: {folder} holds no panorama; expected Radiance files (.hdr), twice as wide as high"
        )
    return files


def draw_sky(files: Sequence[Path], weather: str, rng: np.random.Generator) -> Sky | None:
    """A panorama that goes with the weather; None where the sky shall be procedural.

    Raises:
        InputError: a file cannot be read, or is no panorama.
    """
    if rng.random() < PROCEDURAL or weather not in SUNNY + CLOUDY:
        return None
    for number in rng.permutation(len(files))[:TRIES]:
        sky = load_sky(files[number])
        if sky.is_open and sky.has_sun == (weather in SUNNY):
            return sky
    return None


def lit_by(light: shade.Light, sky: Sky, turn: float) -> tuple[shade.Light, np.ndarray]:
    """Light as under a sky whose first column is at azimuth ``turn``, as strong as ``light`` is.

    Returns:
        The light, and the sky's radiance in its unit, float32 [256,1024,3].
    """
    to_sun = light.to_sun
    ratio = (sky.sun @ LUMINANCE) / (sky.ambient @ LUMINANCE)
    if sky.has_sun:
        sun = sky.sun * min(1.0, MOST_SUN / ratio)
        elevation, azimuth = max(sky.elevation, LOWEST_SUN_RAD), sky.azimuth + turn
        to_sun = (
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        )
    else:
        # Clouds cast the shadow that was drawn for them.
        sun = sky.ambient * (np.dot(light.sun, LUMINANCE) / np.dot(light.sky, LUMINANCE))
    color = sun * to_sun[2] + sky.ambient
    balance = (color / (color @ LUMINANCE)) ** -WHITE_BALANCE
    drawn = 0.45 * np.dot(light.sun, LUMINANCE) * max(light.to_sun[2], 0.25) + np.dot(light.sky, LUMINANCE)
    # A low sun reaches little of a street: its shade is what a camera exposes for.
    scale = balance * (drawn / ((0.45 * sun * to_sun[2] + sky.ambient) * balance @ LUMINANCE))
    sun, ambient = sun * scale, sky.ambient * scale
    lit = light._replace(
        to_sun=to_sun,
        sun=shade.triple(sun),
        sky=shade.triple(ambient),
        bounce=shade.triple(shade.bounce(sun, ambient, to_sun[2])),
        zenith=shade.triple(sky.zenith * scale),
        horizon=shade.triple(sky.horizon * scale),
    )
    return lit, np.minimum(sky.radiance * scale.astype(np.float32), np.float32(BRIGHTEST))


@lru_cache(KEPT)
def load_sky(path: Path) -> Sky:
    """The sky of a panorama in equirectangular projection.

    Raises:
        InputError: it cannot be read, or is no such panorama.
    """
    image = _read_panorama(path)
    full = cv2.resize(image, (SHAPE[1], 2 * SHAPE[0]), interpolation=cv2.INTER_AREA)
    sky = _measured(np.maximum(full, 0))
    if sky is None:
        raise InputError(f"{path}: the sky of the panorama is black; take another one")
    if not sky.is_open:
        log.warning("skies: %s shows no open sky: left out", path)
    return sky


def _measured(full: np.ndarray) -> Sky | None:
    """The sky of a panorama float32 [512,1024,3]; None where it is black."""
    height, width = SHAPE
    elevation = (0.5 - (np.arange(height) + 0.5) / (2 * height)) * math.pi
    azimuth = (np.arange(width) + 0.5) * (2 * math.pi / width)
    upper = full[:height]
    light = upper @ LUMINANCE
    middle = float(np.median(light))
    if not middle > 0:
        return None
    row, col = np.unravel_index(cv2.GaussianBlur(light, (0, 0), 2).argmax(), light.shape)
    # Cosine of the angle to the brightest point.
    near = np.sin(elevation[:, None]) * math.sin(elevation[row]) + np.cos(elevation[:, None]) * math.cos(
        elevation[row]
    ) * np.cos(azimuth - azimuth[col])
    glare = (near > math.cos(SUN_RADIUS_RAD))[..., None]
    solid = ((math.pi / (2 * height)) * (2 * math.pi / width) * np.cos(elevation))[:, None, None]
    sun = (np.where(glare, np.maximum(upper - 2 * middle, 0), 0) * solid).sum((0, 1)) / math.pi
    rest = np.where(glare, np.minimum(upper, 2 * middle), upper)
    ambient = (rest * solid * np.sin(elevation)[:, None, None]).sum((0, 1)) / math.pi

    skyline = _skyline(np.log(light + 1e-5 * middle), elevation, near)
    ground = float(np.median(full[height + 24 :] @ LUMINANCE))
    ratio = np.median(light[elevation > math.radians(30)]) / max(ground, 1e-9)
    is_open = bool((skyline < math.radians(_OPEN_BELOW_DEG)).mean() >= _OPEN_SHARE and ratio >= _OPEN_RATIO)
    low = np.clip(_smooth_cover(skyline), math.radians(_LEAST_CUT_DEG), math.radians(_MOST_CUT_DEG))
    # Elevation e of the world's sky shows low + e * (90 - low) / 90 of the panorama.
    shown = low + elevation[:, None] * (1 - low / (math.pi / 2))
    rows = ((0.5 - shown / math.pi) * 2 * height - 0.5).astype(np.float32)
    columns = np.broadcast_to(np.arange(width, dtype=np.float32), rows.shape)
    radiance = cv2.remap(upper, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    clear = np.minimum(radiance, 3 * middle)
    return Sky(
        radiance,
        float(azimuth[col]),
        float((elevation[row] - low[col]) / (1 - low[col] / (math.pi / 2))),
        sun.astype(np.float64),
        ambient.astype(np.float64),
        clear[elevation > math.radians(60)].mean((0, 1), dtype=np.float64),
        clear[elevation < math.radians(10)].mean((0, 1), dtype=np.float64),
        is_open,
    )


def _skyline(level: np.ndarray, elevation: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Elevation float64 [W] up to which something stands before the sky, radians.

    Args:
        level: float32 [H,W]: logarithm of the luminance.
        elevation: float64 [H], radians.
        near: [H,W]: cosine of the angle to the brightest point, whose edges count for nothing.
    """
    smooth = cv2.GaussianBlur(level, (0, 0), 1.2)
    ring = np.concatenate([smooth[:, -1:], smooth, smooth[:, :1]], axis=1)
    edge = np.maximum(np.abs(ring[:, 2:] - ring[:, :-2]), 2 * np.abs(np.gradient(smooth, axis=0)))
    high = elevation > math.radians(_EDGES_BELOW_DEG)
    stands = (smooth < np.median(smooth[high]) - math.log(_DARK)) | ((edge > _EDGE) & ~high[:, None])
    stands &= near < math.cos(math.radians(4))
    # Only what stands on the ground: clouds have edges too.
    closed = cv2.morphologyEx(stands.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((31, 15), np.uint8))
    _, parts = cv2.connectedComponents(closed)
    grounded = np.setdiff1d(parts[-_HORIZON_ROWS:], 0)
    stands = np.isin(parts, grounded) & (parts > 0)
    first = np.where(stands.any(0), stands.argmax(0) - _MARGIN_ROWS, len(elevation))
    return np.where(first < len(elevation), elevation[np.clip(first, 0, len(elevation) - 1)], 0.0)


def _smooth_cover(skyline: np.ndarray) -> np.ndarray:
    """A slow curve over azimuth that is nowhere below the skyline [W]."""
    width = len(skyline)
    reach = width // 24
    ring = np.concatenate([skyline] * 3)[None].astype(np.float32)
    highest = cv2.dilate(ring, np.ones((1, 2 * reach + 1), np.uint8))
    # The mean over a window of maxima over that window is nowhere below the middle.
    return cv2.blur(highest, (2 * reach + 1, 1))[0, width : 2 * width].astype(np.float64)


def _read_panorama(path: Path) -> np.ndarray:
    """A Radiance picture as float32 [H,W,3] linear RGB.

    Raises:
        InputError: it cannot be read, or is no panorama.
    """
    try:
        data = read_bytes(path, limit=FILE_LIMIT)
    except OSError as error:
        raise InputError(f"cannot read panorama {path}: {error.strerror}") from error
    height, width = _radiance_size(data, path)
    if width != 2 * height or height * width > MOST_PX:
        raise InputError(
            f"{path}: expected a panorama twice as wide as high, of {MOST_PX} pixels at most, got "
            f"{width}x{height}"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.float32 or image.ndim != 3 or not np.isfinite(image).all():
        raise InputError(f"{path}: the panorama cannot be decoded; it is damaged, or no Radiance picture")
    return np.ascontiguousarray(image[..., ::-1])


def _radiance_size(data: bytes, path: Path) -> tuple[int, int]:
    """Height and width in the header of a Radiance file, before anything is decoded."""
    header, _, rest = data[:4096].partition(b"\n\n")
    words = rest.partition(b"\n")[0].split()
    if not header.startswith(b"#?") or len(words) != 4 or not (words[1] + words[3]).isdigit():
        raise InputError(f"{path}: expected a Radiance picture (.hdr), got something else")
    return int(words[1]), int(words[3])
