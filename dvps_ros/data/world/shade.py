# SPDX-License-Identifier: Apache-2.0
"""The deferred pass: from the visibility buffer to light and to every truth map, pixel by pixel, in numba.

Textures are procedural functions of the surface point in its part's own coordinates, so they stick to moving
things and need no texture memory. Detail finer than a pixel's footprint fades out, which is what keeps
distant surfaces from shimmering.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dvps_ros.jit import njit

# A material is one row of MATERIAL_COLUMNS numbers: kind, class, seed, gloss, colour a (3), colour b (3),
# then parameters from column P on, whose meaning depends on the kind.
MATERIAL_COLUMNS = 40
P = 10
PLAIN, ROAD, PAVING, GROUND, FACADE, BRICK, PAINT, GLASS, LEAVES, SIGN, LIGHT, BUS, ROOF, PLANKS, CLOTH = (
    range(15)
)
# The last columns of every material, see photographs.py.
TEXTURE, TURN_COS, TURN_SIN, CONTRAST = range(MATERIAL_COLUMNS - 4, MATERIAL_COLUMNS)
"""Number of its photograph, counted from 1, 0: none; how that lies on the surface: cosine and sine of its
turn over its width in metres; and how much of its contrast is taken, 0..1."""
MOST_PROBES = 4
"""Of a photograph along a long footprint; longer ones blur across."""
TILE = 128
"""Texels along a side of a photograph."""
TEXELS = (4 * TILE * TILE - 1) // 3
"""Of a photograph at the sides TILE, TILE / 2 .. 1."""
NO_TILES = np.empty((0, TEXELS, 3), np.float32)
NO_SKY = np.empty((0, 0, 3), np.float32)
# Parameters of ROAD (see markings.py): the number of lines, d and kind of MOST_LINES, then those below.
SOLID, DASHED, DOUBLE, RAILS = range(4)
MOST_LINES = 6
_LINE_COUNT, _FIRST_LINE = P, P + 1
(
    _DASH_PERIOD,
    _DASH,
    _CROSSWALK_S,
    _CROSSWALK_WIDTH,
    _LANE_WIDTH,
    _LEFT_EDGE,
    _RIGHT_EDGE,
    _WEAR,
    _LINE_WIDTH,
    _STOP_LINE_TO,
) = range(_FIRST_LINE + 2 * MOST_LINES, _FIRST_LINE + 2 * MOST_LINES + 10)


class Light(NamedTuple):
    """Sun, sky and air of one world. Colours are linear RGB, directions are unit vectors in the world."""

    to_sun: tuple[float, float, float]
    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    """Ambient light from above."""
    bounce: tuple[float, float, float]
    """Ambient light from below."""
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloud: tuple[float, float, float]
    cloud_cover: float
    cloud_scale: float
    fog: float
    """Extinction, 1/m."""
    wetness: float
    softness: float
    """Blur of shadows, texels of the shadow map."""
    occlusion: float
    """Share of the ambient light that the shadow map takes (overcast: light comes from near the zenith)."""
    night: float
    """0 day .. 1 night: lamps and windows glow."""
    seed: int


def triple(v: np.ndarray) -> tuple[float, float, float]:
    """A vector [3] as :class:`Light` holds it."""
    x, y, z = v.tolist()
    return x, y, z


def bounce(sun: np.ndarray, sky: np.ndarray, sun_height: float) -> np.ndarray:
    """Ambient light from below: what the ground sends back, [3]."""
    return 0.28 * sky + 0.09 * sun * sun_height


class Photographs(NamedTuple):
    """What photographs.py puts on surfaces and into the sky."""

    tiles: np.ndarray
    """float32 [T,TEXELS,3]: ratios to the mean colour."""
    sky: np.ndarray
    """float32 [h,w,3]: radiance by elevation, from the zenith to the horizon, and azimuth; [0,0,3]: none."""
    sky_turn: float
    """Azimuth of the first column, radians."""


class Visibility(NamedTuple):
    """What each pixel sees, from :func:`raster.rasterise`."""

    visible: np.ndarray
    """int32 [H,W]: row of the two below, -1 is the sky."""
    edges: np.ndarray
    """float64 [M,3,3]: edge functions of the triangle."""
    source: np.ndarray
    """int32 [M,2]: triangle and part."""


class Meshes(NamedTuple):
    """All meshes of a world, one after the other."""

    vertices: np.ndarray
    """float32 [V,3], metres in the mesh's own frame."""
    normals: np.ndarray
    """float32 [V,3]."""
    uv: np.ndarray
    """float32 [V,2]."""
    triangles: np.ndarray
    """int32 [T,3]: vertices."""
    slots: np.ndarray
    """uint8 [T]."""


class Parts(NamedTuple):
    """The parts of one moment."""

    normal_turn: np.ndarray
    """float64 [P,3,4]: world normals (not of unit length) from those of the part."""
    prev_from_here: np.ndarray
    """float64 [P,3,4]: previous camera frame from this camera frame, for points of the part."""
    material: np.ndarray
    """int32 [P,8]: row of the materials for each slot."""
    instance: np.ndarray
    """int32 [P]."""
    moving: np.ndarray
    """uint8 [P]."""
    two_sided: np.ndarray
    """uint8 [P]."""
    scale: np.ndarray
    """float64 [P]: size of a mesh unit, metres."""


class Shadow(NamedTuple):
    """The shadow map, see :func:`raster.rasterise_shadow`."""

    height_map: np.ndarray
    """float32 [S,S]: greatest height along the light, metres."""
    light_from_world: np.ndarray
    """float64 [3,4]."""
    texel_m: float


class Eye(NamedTuple):
    """The camera of one moment. Focal lengths and principal point in pixels."""

    world_from_camera: np.ndarray
    """float64 [4,4]."""
    prev_turn: np.ndarray
    """float64 [3,3]: rotation from this camera frame to the previous one (flow of the sky)."""
    fx: float
    fy: float
    cx: float
    cy: float


class Lamps(NamedTuple):
    """What lights a street by night. Intensities are linear RGB on a white surface a metre away."""

    at: np.ndarray
    """float64 [L,3]: street lamps in the world; none by day."""
    color: tuple[float, float, float]
    """Of each street lamp."""
    beam_from: tuple[float, float, float]
    """Our headlights in the world."""
    beam: tuple[float, float, float]
    """Where they shine, a unit vector."""
    beam_color: tuple[float, float, float]


NO_LAMPS = Lamps(np.empty((0, 3)), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
BEAM_SPREAD_RAD = 0.22
"""From the middle of a beam to where it has fallen to 0.6, sideways; up it is a third of that."""


class Maps(NamedTuple):
    """What is filled: ``rgb`` is linear light, the others are as in ``types.Sample``, for one frame."""

    rgb: np.ndarray
    """float32 [H,W,3]."""
    class_map: np.ndarray
    """uint8 [H,W]."""
    instance_map: np.ndarray
    """int32 [H,W]."""
    depth_m: np.ndarray
    """float32 [H,W]."""
    flow_px: np.ndarray
    """float32 [H,W,2]."""
    moving: np.ndarray
    """uint8 [H,W]."""
    scene_flow_m: np.ndarray
    """float32 [H,W,3]; [0,0,3] when it is not wanted."""


# Value noise comes from a table: cheaper than hashing four corners, and its period shows nowhere.
_TABLE_BITS = 7
_TABLE = np.random.default_rng(1234).random((1 << _TABLE_BITS, 1 << _TABLE_BITS)).astype(np.float32)
_WRAP = (1 << _TABLE_BITS) - 1
# Six taps over the unit disc in 32 rotations, for soft shadows.
_ANGLE = 2 * np.pi * (np.arange(32)[:, None] / 32 + 0.618034 * np.arange(6))
_DISC = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], -1) * np.sqrt((np.arange(6) + 0.5) / 6)[:, None]
# Reordering is allowed, NaN and infinity are not assumed away (flow holds NaN).
_FAST = {"contract", "reassoc", "arcp", "nsz"}


@njit(nogil=True, inline="always")
def _hash(x, y, seed):
    h = (x * 374761393 + y * 668265263 + seed * 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    return (h ^ (h >> 16)) * 2.3283064365386963e-10


@njit(nogil=True, fastmath=_FAST)
def _noise(x, y, seed):
    """Smooth value noise, 0..1, one feature a unit."""
    fx, fy = math.floor(x), math.floor(y)
    tx, ty = x - fx, y - fy
    x0 = (int(fx) + seed * 29) & _WRAP
    y0 = (int(fy) + seed * 67) & _WRAP
    x1, y1 = (x0 + 1) & _WRAP, (y0 + 1) & _WRAP
    tx, ty = tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty)
    a, b, c, d = _TABLE[y0, x0], _TABLE[y0, x1], _TABLE[y1, x0], _TABLE[y1, x1]
    return a + (b - a) * tx + (c - a + (a - b - c + d) * tx) * ty


@njit(nogil=True, fastmath=_FAST)
def _detail(x, y, scale, footprint, seed):
    """Noise around 0 (-0.5..0.5) of ``scale`` features a metre that fades where a pixel spans a feature."""
    keep = 1.4 - 1.6 * footprint * scale
    if keep <= 0.0:
        return 0.0
    return (_noise(x * scale, y * scale, seed) - 0.5) * min(keep, 1.0)


@njit(nogil=True, fastmath=_FAST)
def _detail3(x, y, z, scale, footprint, seed):
    """The same in space: two layers of noise mixed along z."""
    keep = 1.4 - 1.6 * footprint * scale
    if keep <= 0.0:
        return 0.0
    layer = math.floor(z * scale)
    k = z * scale - layer
    k = k * k * (3.0 - 2.0 * k)
    a = _noise(x * scale, y * scale, seed + int(layer))
    b = _noise(x * scale, y * scale, seed + int(layer) + 1)
    return (a + (b - a) * k - 0.5) * min(keep, 1.0)


@njit(nogil=True, inline="always", fastmath=_FAST)
def _clamp(x, low, high):
    return min(max(x, low), high)


@njit(nogil=True, inline="always", fastmath=_FAST)
def _cover(distance, half_width, footprint):
    """Share of a pixel that a line of this half width covers."""
    soft = max(footprint, 1e-4)
    edge = _clamp((half_width - distance) / soft + 0.5, 0.0, 1.0)
    return edge * min(1.0, 2.0 * half_width / soft)


@njit(nogil=True, inline="always", fastmath=_FAST)
def _wave(x, period, line, footprint):
    """Coverage by lines of width ``line`` every ``period``."""
    d = abs(x - period * math.floor(x / period + 0.5))
    return _cover(d, 0.5 * line, footprint)


@njit(nogil=True, fastmath=_FAST)
def _texture(tiles, number, x, y, col_x, col_y, row_x, row_y):
    """Ratio of a photograph to its mean over a pixel's footprint.

    Probes stand along the footprint's longer side, each as wide as the shorter one, as long as
    ``MOST_PROBES`` suffice; their size is mixed from the two nearest ones that are stored.

    Args:
        x, y: middle of the pixel, in widths of the photograph.
        col_x, col_y: from there to the next column's pixel.
        row_x, row_y: to the next row's.
    """
    long2, short2 = col_x * col_x + col_y * col_y, row_x * row_x + row_y * row_y
    step_x, step_y = col_x, col_y
    if short2 > long2:
        long2, short2 = short2, long2
        step_x, step_y = row_x, row_y
    # A footprint below a texel's size is as good as one of that size.
    least = (1.0 / TILE) ** 2
    probes = 1
    while probes < MOST_PROBES and long2 > (probes * probes) * max(short2, least):
        probes += 1
    texels2 = long2 / (probes * probes) * (TILE * TILE)
    side, start = TILE, 0
    while texels2 >= 4.0 and side > 1:
        texels2 *= 0.25
        start += side * side
        side //= 2
    mix = max(math.sqrt(texels2) - 1.0, 0.0) if side > 1 else 0.0
    r, g, b = 0.0, 0.0, 0.0
    for i in range(probes):
        k = (i + 0.5) / probes - 0.5
        px, py = x + k * step_x, y + k * step_y
        r1, g1, b1 = _texel(tiles, number, start, side, px, py)
        if mix > 0.0:
            r2, g2, b2 = _texel(tiles, number, start + side * side, side // 2, px, py)
            r1, g1, b1 = r1 + (r2 - r1) * mix, g1 + (g2 - g1) * mix, b1 + (b2 - b1) * mix
        r, g, b = r + r1, g + g1, b + b1
    return r / probes, g / probes, b / probes


@njit(nogil=True, fastmath=_FAST)
def _texel(tiles, number, start, side, x, y):
    """Bilinear; tiles repeat."""
    x, y = (x - math.floor(x)) * side - 0.5, (y - math.floor(y)) * side - 0.5
    fx, fy = math.floor(x), math.floor(y)
    tx, ty = x - fx, y - fy
    wrap = side - 1
    x0, y0 = int(fx) & wrap, int(fy) & wrap
    x1, y1 = (x0 + 1) & wrap, (y0 + 1) & wrap
    a, b = tiles[number, start + y0 * side + x0], tiles[number, start + y0 * side + x1]
    c, d = tiles[number, start + y1 * side + x0], tiles[number, start + y1 * side + x1]
    k00, k01, k10, k11 = (1 - tx) * (1 - ty), tx * (1 - ty), (1 - tx) * ty, tx * ty
    return (
        a[0] * k00 + b[0] * k01 + c[0] * k10 + d[0] * k11,
        a[1] * k00 + b[1] * k01 + c[1] * k10 + d[1] * k11,
        a[2] * k00 + b[2] * k01 + c[2] * k10 + d[2] * k11,
    )


@njit(nogil=True, fastmath=_FAST)
def _photographed_sky(sky, turn, x, y, z):
    """Bilinear, of a direction above or (then as at) the horizon."""
    height, width = sky.shape[0], sky.shape[1]
    row = (1.0 - 2.0 / math.pi * math.asin(min(max(z, 0.0), 1.0))) * height - 0.5
    col = (math.atan2(y, x) - turn) / (2.0 * math.pi)
    col = (col - math.floor(col)) * width - 0.5
    row = min(max(row, 0.0), height - 1.001)
    r0, c0 = int(row), int(math.floor(col))
    ty, tx = row - r0, col - c0
    c0 = c0 % width
    c1 = (c0 + 1) % width
    a, b, c, d = sky[r0, c0], sky[r0, c1], sky[r0 + 1, c0], sky[r0 + 1, c1]
    k00, k01, k10, k11 = (1 - tx) * (1 - ty), tx * (1 - ty), (1 - tx) * ty, tx * ty
    return (
        a[0] * k00 + b[0] * k01 + c[0] * k10 + d[0] * k11,
        a[1] * k00 + b[1] * k01 + c[1] * k10 + d[1] * k11,
        a[2] * k00 + b[2] * k01 + c[2] * k10 + d[2] * k11,
    )


@njit(nogil=True, fastmath=_FAST)
def _sky(light, x, y, z):
    """Colour of the sky in a direction."""
    up = max(z, 0.0)
    k = math.exp(-5.5 * up)
    r = light.zenith[0] + (light.horizon[0] - light.zenith[0]) * k
    g = light.zenith[1] + (light.horizon[1] - light.zenith[1]) * k
    b = light.zenith[2] + (light.horizon[2] - light.zenith[2]) * k
    s = light.to_sun
    glow = max(x * s[0] + y * s[1] + z * s[2], 0.0)
    glow2 = glow * glow
    glow8 = glow2 * glow2 * glow2 * glow2
    glow16 = glow8 * glow8
    glow32 = glow16 * glow16
    halo = 0.10 * glow8 + 0.8 * glow32 * glow32
    r, g, b = r + light.sun[0] * halo, g + light.sun[1] * halo, b + light.sun[2] * halo
    if light.cloud_cover > 0.0 and z > 0.01:
        q = light.cloud_scale / (z + 0.12)
        cx, cy = x * q, y * q
        n = 0.5 * _noise(cx, cy, light.seed) + 0.27 * _noise(2.1 * cx, 2.1 * cy, light.seed + 1)
        n += 0.14 * _noise(4.3 * cx, 4.3 * cy, light.seed + 2) + 0.09 * _noise(9 * cx, 9 * cy, light.seed + 3)
        c = _clamp((n - 0.95 + light.cloud_cover) * 3.2, 0.0, 1.0) * _clamp(z * 9.0, 0.0, 1.0)
        shade = 1.12 - 0.42 * _clamp((n - 0.45) * 2.2, 0.0, 1.0) * c
        r += (light.cloud[0] * shade - r) * c
        g += (light.cloud[1] * shade - g) * c
        b += (light.cloud[2] * shade - b) * c
    return r, g, b


@njit(nogil=True, fastmath=_FAST)
def _mirror(light, x, y, z, seed):
    """What shiny surfaces reflect: sky over a rough skyline over ground."""
    line = 0.10 + 0.30 * _noise(2.5 * x + 7.0, 2.5 * y, seed)
    low = math.exp(-3.0 * max(z, 0.0))
    r = light.zenith[0] + (light.horizon[0] - light.zenith[0]) * low
    g = light.zenith[1] + (light.horizon[1] - light.zenith[1]) * low
    b = light.zenith[2] + (light.horizon[2] - light.zenith[2]) * low
    k = _clamp((z - line) * 9.0 + 0.5, 0.0, 1.0)
    d = 0.26 if z > 0.0 else 0.20
    return (
        light.sky[0] * d + (r - light.sky[0] * d) * k,
        light.sky[1] * d + (g - light.sky[1] * d) * k,
        light.sky[2] * d + (b - light.sky[2] * d) * k,
    )


@njit(nogil=True, fastmath=_FAST)
def _lit(light, shadow, light_from_world, texel_m, bias, x, y, z, spin):
    """Share of the main light that reaches a world point, 0..1 (1 outside the shadow map)."""
    size = shadow.shape[0]
    m = light_from_world
    lx = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / texel_m + 0.5 * (size - 1)
    ly = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / texel_m + 0.5 * (size - 1)
    lz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] + bias
    border = light.softness + 2.0
    if lx < border or ly < border or lx > size - 1 - border or ly > size - 1 - border:
        return 1.0
    total = 0.0
    if light.softness >= 1.0:
        turn = _DISC[int(spin * 31.99)]
        for k in range(_DISC.shape[1]):
            ix = int(lx + light.softness * turn[k, 0] + 0.5)
            iy = int(ly + light.softness * turn[k, 1] + 0.5)
            if shadow[iy, ix] <= lz:
                total += 1.0
        return total / _DISC.shape[1]
    ix, iy = int(lx), int(ly)
    tx, ty = lx - ix, ly - iy
    if shadow[iy, ix] <= lz:
        total += (1.0 - tx) * (1.0 - ty)
    if shadow[iy, ix + 1] <= lz:
        total += tx * (1.0 - ty)
    if shadow[iy + 1, ix] <= lz:
        total += (1.0 - tx) * ty
    if shadow[iy + 1, ix + 1] <= lz:
        total += tx * ty
    return total


@njit(nogil=True, fastmath=_FAST)
def _road(m, u, v, across, along, seed, tr, tg, tb):
    """Asphalt with its markings: u along the lane, v to the left; returns colour and gloss."""
    base = 1.0 + 0.22 * _detail(u, v, 0.08, along, seed) + 0.20 * _detail(u, v * 3, 0.35, along, seed + 1)
    base += 0.22 * _detail(u, v, 9.0, along, seed + 2) + 0.35 * _detail(u, v, 40.0, along, seed + 3)
    r, g, b = m[4] * base * tr, m[5] * base * tg, m[6] * base * tb
    wear = m[_WEAR]
    # Patches of newer asphalt, and cracks where a slow noise crosses its middle.
    patch = _hash(int(math.floor(u / 7.0)), int(math.floor(v / 2.9)), seed + 9)
    if patch > 1.0 - 0.22 * wear:
        k = 0.72 if patch > 1.0 - 0.13 * wear else 1.22
        r, g, b = r * k, g * k, b * k
    if along < 0.25 and wear > 0.2:
        crack = abs(_noise(u * 0.55 + 2.0 * _noise(v * 1.3, u * 0.4, seed + 4), v * 0.75, seed + 5) - 0.5)
        dark = 0.55 * wear * _cover(crack * 1.6, 0.016, 0.6 * along)
        r, g, b = r * (1 - dark), g * (1 - dark), b * (1 - dark)
    paint = 0.0
    count = int(m[_LINE_COUNT])
    for i in range(count):
        d = v - m[_FIRST_LINE + 2 * i]
        kind = int(m[_FIRST_LINE + 2 * i + 1])
        if abs(d) > 1.0 + across:
            continue
        half = 0.5 * m[_LINE_WIDTH]
        if kind == SOLID:
            paint = max(paint, _cover(abs(d), half, across))
        elif kind == DOUBLE:
            paint = max(paint, _cover(abs(abs(d) - 0.14), half, across))
        elif kind == RAILS:
            metal = _cover(abs(abs(d) - 0.7175), 0.05, across)
            r, g, b = r + (0.09 - r) * metal, g + (0.085 - g) * metal, b + (0.08 - b) * metal
        else:
            period, dash = m[_DASH_PERIOD], m[_DASH]
            phase = u - period * math.floor(u / period + 0.5)
            paint = max(paint, _cover(abs(d), half, across) * _cover(abs(phase), 0.5 * dash, along))
    if m[_CROSSWALK_WIDTH] > 0.0:
        z = u - m[_CROSSWALK_S]
        if -1.0 < z < m[_CROSSWALK_WIDTH] + 1.0 and m[_RIGHT_EDGE] < v < m[_LEFT_EDGE]:
            bar = _wave(v, 1.0, 0.5, across) * _cover(
                abs(z - 0.5 * m[_CROSSWALK_WIDTH]), 0.5 * m[_CROSSWALK_WIDTH], along
            )
            paint = max(paint, bar)
        stop = u - m[_CROSSWALK_S] + 1.6
        if abs(stop) < 2.0 and v < m[_STOP_LINE_TO] and v > m[_RIGHT_EDGE]:
            paint = max(paint, _cover(abs(stop), 0.2, along))
    if paint > 0.0:
        scuff = 1.0 - wear * _clamp(2.2 * (_noise(u * 2.3, v * 7.0, seed + 6) - 0.45), 0.0, 0.85)
        k = paint * scuff
        r, g, b = r + (m[7] - r) * k, g + (m[8] - g) * k, b + (m[9] - b) * k
    # Tyres darken two tracks in each lane.
    lane = m[_LANE_WIDTH]
    if lane > 0.0:
        q = v / lane
        track = abs(abs(q - math.floor(q) - 0.5) * lane - 0.78)
        k = 1.0 - 0.10 * _clamp(1.0 - track / 0.4, 0.0, 1.0)
        r, g, b = r * k, g * k, b * k
    return r, g, b


@njit(nogil=True, fastmath=_FAST)
def _facade(m, u, v, foot, light, seed, tr, tg, tb):
    """A house front, u metres along, v metres up; returns colour, gloss (window glass) and glow."""
    floor_h, bay, win_w, win_h = m[P], m[P + 1], m[P + 2], m[P + 3]
    shop, masonry, height = m[P + 4], m[P + 5], m[P + 6]
    stain = 1.0 + 0.30 * _detail(u, v * 0.6, 0.25, foot, seed) + 0.16 * _detail(u, v, 4.0, foot, seed + 1)
    stain *= 1.0 - 0.22 * math.exp(-1.4 * v)
    r, g, b = m[4] * stain * tr, m[5] * stain * tg, m[6] * stain * tb
    if masonry > 0.5 and foot < 0.3 and m[TEXTURE] == 0.0:
        row = math.floor(v / 0.09)
        shift = 0.13 * (row - 2.0 * math.floor(row / 2.0))
        joint = max(_wave(v, 0.09, 0.014, foot), _wave(u + shift, 0.26, 0.014, foot))
        tint = 1.0 + (0.34 * (_hash(int(math.floor((u + shift) / 0.26)), int(row), seed) - 0.5)) * _clamp(
            1.2 - foot * 8, 0.0, 1.0
        )
        r, g, b = r * tint, g * tint, b * tint
        k = 0.4 * joint
        r, g, b = r + (0.5 - r) * k, g + (0.48 - g) * k, b + (0.45 - b) * k
    floor = math.floor(v / floor_h)
    ground = floor < 0.5
    if ground and shop > 0.5:
        bay, win_w, win_h = bay * 1.7, 0.86, 0.80
    cell = math.floor(u / bay)
    x, y = u - (cell + 0.5) * bay, v - floor * floor_h
    half_w, low = 0.5 * win_w * bay, floor_h * (0.96 - win_h) * 0.72
    if ground and shop > 0.5:
        low = 0.35
    high = low + win_h * floor_h * 0.92
    kind = _hash(int(cell), int(floor), seed + 3)
    door = ground and shop < 0.5 and kind > 0.72
    if door:
        half_w, low, high = 0.55, 0.0, 2.15
    inside = min(half_w - abs(x), min(y - low, high - y))
    if v > height - 0.35:
        k = 0.7 * _clamp((v - height + 0.35) / max(foot, 0.02), 0.0, 1.0)
        return r + (m[7] - r) * k, g + (m[8] - g) * k, b + (m[9] - b) * k, 0.0, 0.0
    if ground and shop > 0.5 and high < y:
        tint = _hash(int(math.floor(u / (bay * 2))), 5, seed)
        k = _clamp((y - high - 0.1) / max(foot, 0.02), 0.0, 1.0)
        text = 1.0 if _wave(u, 0.55, 0.3, foot) * _wave(y - high - 0.4, 10.0, 0.3, foot) < 0.5 else 2.2
        cr, cg, cb = (
            (0.08 + 0.5 * tint) * text,
            (0.1 + 0.35 * ((tint * 7.3) % 1.0)) * text,
            (0.12 + 0.4 * ((tint * 3.7) % 1.0)) * text,
        )
        return r + (cr - r) * k, g + (cg - g) * k, b + (cb - b) * k, 0.0, 0.15 * light.night
    if floor < 0.0 or (floor + 1.0) * floor_h > height + 0.4:
        return r, g, b, 0.0, 0.0
    reveal = 0.10
    if inside < 0.0:
        # Sill below and a frame around the opening, drawn on the wall.
        if y < low and y > low - 0.14 and abs(x) < half_w + 0.12 and not door:
            k = 0.75 * _clamp(1.3 - foot * 4, 0.0, 1.0)
            r, g, b = r + (m[7] - r) * k, g + (m[8] - g) * k, b + (m[9] - b) * k
        elif -inside < 0.13 and m[P + 7] > 0.5:
            k = 0.8 * _clamp(1.3 - foot * 4, 0.0, 1.0)
            r, g, b = r + (m[7] - r) * k, g + (m[8] - g) * k, b + (m[9] - b) * k
        elif (
            m[P + 8] > 0.5
            and abs(x) < half_w * 2.0
            and y > low
            and y < high
            and not door
            and not (ground and shop > 0.5)
        ):
            slat = 0.75 + 0.25 * _wave(y, 0.12, 0.06, foot)
            return m[P + 9] * slat, m[P + 10] * slat, m[P + 11] * slat, 0.0, 0.0
        return r, g, b, 0.0, 0.0
    edge = _clamp(inside / max(foot, 0.01), 0.0, 1.0)
    if door and inside > 0.08:
        panel = 1.0 - 0.35 * _wave(y - 0.3, 0.62, 0.06, foot)
        return m[P + 9] * panel, m[P + 10] * panel, m[P + 11] * panel, 0.1, 0.0
    frame = (
        1.0
        if (
            inside < 0.06 + 0.5 * foot
            or abs(x) < 0.035
            or (win_h > 0.6 and abs(y - low - 0.68 * (high - low)) < 0.03)
        )
        else 0.0
    )
    frame *= _clamp(1.4 - foot * 6, 0.0, 1.0)
    depth_shade = 0.45 + 0.55 * _clamp((high - y) / (2.5 * reveal), 0.0, 1.0)
    curtain = 0.35 if kind > 0.45 and abs(x) > half_w * (0.3 + 0.6 * kind) * 0.8 else 0.0
    blind = 0.5 if kind < 0.22 and y > high - (high - low) * (0.3 + 2.5 * kind) else 0.0
    room = 0.03 + curtain + blind
    room *= depth_shade
    glow = light.night * (1.0 if _hash(int(cell), int(floor), seed + 7) > 0.6 else 0.0)
    wr, wg, wb = room, room * 0.97, room * 0.92
    wr, wg, wb = wr + (m[7] - wr) * frame, wg + (m[8] - wg) * frame, wb + (m[9] - wb) * frame
    return (
        r + (wr - r) * edge,
        g + (wg - g) * edge,
        b + (wb - b) * edge,
        0.55 * edge * (1.0 - frame) * (1.0 - blind),
        glow * edge * (1.0 - frame) * 0.9,
    )


@njit(nogil=True, fastmath=_FAST)
def _sign_face(m, u, v, pattern, seed):
    """A traffic sign's face over -1..1."""
    rad = math.sqrt(u * u + v * v)
    if pattern == 0:  # prohibition: red ring, dark figure
        if rad > 0.72:
            return 0.55, 0.03, 0.03
        if abs(v) < 0.32 and (abs(u + 0.22) < 0.16 or abs(u - 0.24) < 0.17):
            return 0.02, 0.02, 0.02
        return 0.8, 0.8, 0.78
    if pattern == 1:  # warning triangle
        if v < -0.30 or v > 0.55 - 1.55 * abs(u) + 0.05:
            return 0.55, 0.03, 0.03
        if abs(u) < 0.09 and v < 0.22:
            return 0.02, 0.02, 0.02
        return 0.8, 0.8, 0.76
    if pattern == 2:  # mandatory: blue with a white arrow
        if (abs(u) < 0.12 and v < 0.35 and v > -0.6) or (v > 0.1 and v < 0.6 and abs(u) < 0.62 - v):
            return 0.85, 0.85, 0.85
        return 0.02, 0.09, 0.45
    if pattern == 3:  # stop
        if rad > 0.88:
            return 0.8, 0.8, 0.8
        if abs(v) < 0.22 and (u * 4.0 - math.floor(u * 4.0)) < 0.62 and abs(u) < 0.7:
            return 0.85, 0.85, 0.85
        return 0.55, 0.02, 0.03
    if pattern == 4:  # parking, information: blue square
        if abs(u) > 0.9 or abs(v) > 0.9 or (abs(u + 0.15) < 0.12 and abs(v) < 0.6):
            return 0.85, 0.85, 0.85
        if (u - 0.1) ** 2 + (v - 0.28) ** 2 < 0.11 and (u - 0.1) ** 2 + (v - 0.28) ** 2 > 0.02:
            return 0.85, 0.85, 0.85
        return 0.02, 0.12, 0.5
    if pattern == 5:  # priority: yellow square in white
        return (0.85, 0.55, 0.02) if abs(u) < 0.72 and abs(v) < 0.72 else (0.85, 0.85, 0.82)
    if pattern == 7:  # yield
        edge = min(0.46 - v, v + 0.92 - 1.73 * abs(u)) if v < 0.5 else 0.0
        return (0.8, 0.8, 0.76) if edge > 0.17 else (0.55, 0.03, 0.03)
    if pattern == 8:  # no entry
        return (0.85, 0.85, 0.83) if abs(v) < 0.17 and abs(u) < 0.68 else (0.55, 0.02, 0.03)
    if pattern == 9:  # no parking, no stopping
        if rad > 0.78 or abs(u + v) < 0.17 or (seed % 2 == 0 and abs(u - v) < 0.17):
            return 0.55, 0.03, 0.03
        return 0.02, 0.08, 0.42
    if pattern == 10:  # crosswalk
        if v > -0.72 and v < 0.72 and abs(u) < 0.41 * (0.8 - v):
            return (0.02, 0.02, 0.02) if abs(u) < 0.12 and abs(v) < 0.45 else (0.85, 0.85, 0.85)
        return 0.02, 0.1, 0.47
    if pattern == 11:  # speed limit: two digits of seven segments
        if rad > 0.74:
            return 0.55, 0.03, 0.03
        x, left = abs(u) - 0.27, u < 0.0
        digit = 2 + seed % 7 if left else (0 if seed % 3 else 5)
        edge_x, edge_y = abs(abs(x) - 0.13) < 0.055, abs(v) < 0.4
        top, middle, bottom = abs(v - 0.36) < 0.05, abs(v) < 0.05, abs(v + 0.36) < 0.05
        right_side = (x > 0.0) != left
        bars = (top and digit != 4) or (bottom and digit not in (4, 7)) or (middle and digit not in (0, 7))
        upper = digit in (0, 3, 4, 7, 8, 2) if right_side else digit in (0, 4, 5, 6, 8)
        lower = digit != 2 if right_side else digit in (0, 2, 6, 8)
        stroke = edge_x and edge_y and (upper if v > 0.0 else lower)
        if stroke or (bars and abs(x) < 0.18):
            return 0.02, 0.02, 0.02
        return 0.82, 0.82, 0.8
    if pattern == 12:  # chevrons, road works
        k = (u + abs(v)) * 1.6
        return (0.8, 0.8, 0.78) if k - math.floor(k) < 0.5 else (0.55, 0.03, 0.03)
    if pattern == 13:  # priority road
        k = abs(u) + abs(v)
        return (
            (0.82, 0.52, 0.02)
            if k < 0.62
            else ((0.02, 0.02, 0.02) if 0.62 < k < 0.68 else (0.85, 0.85, 0.82))
        )
    if pattern == 14:  # posters: blocks of colour, a picture's noise, a line of lettering
        if abs(u) > 0.94 or abs(v) > 0.95:
            return 0.25, 0.25, 0.26
        block = _hash(int(math.floor(u * 1.5)), int(math.floor(v * 1.7)), seed)
        k = 0.4 + 1.2 * _noise(3.0 * u + 5.0, 3.0 * v, seed)
        if abs(v + 0.6) < 0.1 and _hash(int(math.floor(u * 14)), 1, seed) > 0.3:
            return 0.85, 0.85, 0.8
        r, g, b = (m[4], m[5], m[6]) if block > 0.45 else (m[7], m[8], m[9])
        return r * k, g * k, b * k
    # Direction boards: rows of lettering in colour b on colour a.
    if abs(u) > 0.95 or abs(v) > 0.93:
        return m[7], m[8], m[9]
    row = math.floor((v + 1.0) * 2.5)
    y = (v + 1.0) * 2.5 - row
    long = 0.25 + 0.6 * _hash(int(row), 3, seed)
    if (
        0.28 < y < 0.72
        and u > -0.8
        and u < -0.8 + 1.6 * long
        and _hash(int(math.floor(u * 16)), int(row), seed) > 0.22
    ):
        return m[7], m[8], m[9]
    return m[4], m[5], m[6]


@njit(nogil=True, fastmath=_FAST)
def surface_steps(e, uv0, uv1, uv2, z, u, v):
    """Change of uv to the next column's pixel and to the next row's, on the triangle: u, v, u, v.

    Args:
        e: edge functions [3,3] of the triangle, see ``Visibility``; uv0, uv1, uv2: [2] at its corners.
        z, u, v: depth and uv at the pixel.
    """
    e_c, e_r = e[0, 0] + e[1, 0] + e[2, 0], e[0, 1] + e[1, 1] + e[2, 1]
    return (
        z * (uv0[0] * e[0, 0] + uv1[0] * e[1, 0] + uv2[0] * e[2, 0] - u * e_c),
        z * (uv0[1] * e[0, 0] + uv1[1] * e[1, 0] + uv2[1] * e[2, 0] - v * e_c),
        z * (uv0[0] * e[0, 1] + uv1[0] * e[1, 1] + uv2[0] * e[2, 1] - u * e_r),
        z * (uv0[1] * e[0, 1] + uv1[1] * e[1, 1] + uv2[1] * e[2, 1] - v * e_r),
    )


@njit(nogil=True, fastmath=_FAST)
def world_steps(e, world_from_camera, ray_x, ray_y, ray_z, z, fx, fy):
    """Change of the world point to the next column's pixel and to the next row's: x, y, z, x, y, z.

    Args:
        e: edge functions [3,3] of the triangle.
        ray_x, ray_y, ray_z: the pixel's ray in the world, to depth 1.
        z: depth at the pixel.
    """
    w = world_from_camera
    z_c = -z * z * (e[0, 0] + e[1, 0] + e[2, 0])
    z_r = -z * z * (e[0, 1] + e[1, 1] + e[2, 1])
    k_c, k_r = z / fx, z / fy
    return (
        w[0, 0] * k_c + ray_x * z_c,
        w[1, 0] * k_c + ray_y * z_c,
        w[2, 0] * k_c + ray_z * z_c,
        w[0, 1] * k_r + ray_x * z_r,
        w[1, 1] * k_r + ray_y * z_r,
        w[2, 1] * k_r + ray_z * z_r,
    )


@njit(nogil=True, fastmath=_FAST)
def lamp_light(lamps, x, y, z, nx, ny, nz):
    """Light (linear RGB) of street lamps and headlights on a white surface at x, y, z that faces n.

    It falls with the square of the distance. A street lamp shines downwards (by the cosine); nothing hides
    it. Headlights are flatter than wide.
    """
    total = 0.0
    for i in range(lamps.at.shape[0]):
        lx, ly, lz = lamps.at[i, 0] - x, lamps.at[i, 1] - y, lamps.at[i, 2] - z
        square = lx * lx + ly * ly + lz * lz + 0.25
        facing = nx * lx + ny * ly + nz * lz
        if facing > 0.0 and lz > 0.0:
            total += facing * lz / (square * square)
    r, g, b = lamps.color[0] * total, lamps.color[1] * total, lamps.color[2] * total
    lx, ly, lz = x - lamps.beam_from[0], y - lamps.beam_from[1], z - lamps.beam_from[2]
    ahead = lx * lamps.beam[0] + ly * lamps.beam[1] + lz * lamps.beam[2]
    square = lx * lx + ly * ly + lz * lz
    facing = -(nx * lx + ny * ly + nz * lz)
    if facing > 0.0 and ahead > 0.0:
        up = lz - ahead * lamps.beam[2]
        aside = math.sqrt(max(square - ahead * ahead - up * up, 0.0))
        width = BEAM_SPREAD_RAD * ahead
        k = (aside * aside + 9.0 * up * up) / (width * width)
        square += 0.25
        shine = math.exp(-0.5 * k) * facing / (square * math.sqrt(square))
        r += lamps.beam_color[0] * shine
        g += lamps.beam_color[1] * shine
        b += lamps.beam_color[2] * shine
    return r, g, b


@njit(nogil=True, fastmath=_FAST)
def shade(
    visibility,
    meshes,
    parts,
    materials,
    photographs,
    light,
    lamps,
    shadow,
    eye,
    sky_class,
    maps,
    begin_row,
    end_row,
):
    """Fill all maps of a frame from its visibility buffer.

    Args:
        visibility, meshes, parts, photographs, light, lamps, shadow, eye: records of those names,
            capitalised.
        materials: float64 [N,40]: a row of ``MATERIAL_COLUMNS`` each.
        sky_class: class of the sky.
        maps: :class:`Maps`, out.
        begin_row, end_row: only these rows, the last one not.
    """
    # Taken out of their records once: the loop below runs over a million pixels.
    visible, edges, source = visibility
    vertices, normals, uv, triangles, slots = meshes
    part_turn, prev_from_here, part_material, part_instance, part_moving, part_two_sided, part_scale = parts
    tiles, sky_map, sky_turn = photographs
    with_sky, by_night = sky_map.shape[0] > 0, lamps.beam_color[0] > 0.0
    height_map, light_from_world, texel_m = shadow
    w, prev_turn, fx, fy, cx, cy = eye
    rgb, class_map, instance_map, depth_m, flow_px, moving, scene_flow_m = maps
    width = visible.shape[1]
    with_scene_flow = scene_flow_m.shape[0] > 0
    eye_x, eye_y, eye_z = w[0, 3], w[1, 3], w[2, 3]
    sun = light.to_sun
    lpos = np.empty(3)
    lnor = np.empty(3)
    for row in range(begin_row, end_row):
        for col in range(width):
            rx, ry = (col - cx) / fx, (row - cy) / fy
            length = math.sqrt(rx * rx + ry * ry + 1.0)
            dx = (w[0, 0] * rx + w[0, 1] * ry + w[0, 2]) / length
            dy = (w[1, 0] * rx + w[1, 1] * ry + w[1, 2]) / length
            dz = (w[2, 0] * rx + w[2, 1] * ry + w[2, 2]) / length
            k = visible[row, col]
            if k < 0:
                if with_sky:
                    r, g, b = _photographed_sky(sky_map, sky_turn, dx, dy, dz)
                else:
                    r, g, b = _sky(light, dx, dy, dz)
                rgb[row, col, 0], rgb[row, col, 1], rgb[row, col, 2] = r, g, b
                class_map[row, col] = sky_class
                instance_map[row, col] = 0
                depth_m[row, col] = 0.0
                moving[row, col] = 0
                qx = prev_turn[0, 0] * rx + prev_turn[0, 1] * ry + prev_turn[0, 2]
                qy = prev_turn[1, 0] * rx + prev_turn[1, 1] * ry + prev_turn[1, 2]
                qz = prev_turn[2, 0] * rx + prev_turn[2, 1] * ry + prev_turn[2, 2]
                flow_px[row, col, 0] = fx * qx / qz + cx - col if qz > 0 else np.nan
                flow_px[row, col, 1] = fy * qy / qz + cy - row if qz > 0 else np.nan
                if with_scene_flow:
                    for a in range(3):
                        scene_flow_m[row, col, a] = np.nan
                continue
            tri, part = source[k, 0], source[k, 1]
            e = edges[k]
            b0 = e[0, 0] * col + e[0, 1] * row + e[0, 2]
            b1 = e[1, 0] * col + e[1, 1] * row + e[1, 2]
            b2 = e[2, 0] * col + e[2, 1] * row + e[2, 2]
            z = 1.0 / (b0 + b1 + b2)
            b0, b1, b2 = b0 * z, b1 * z, b2 * z
            px, py = rx * z, ry * z
            f = prev_from_here[part]
            qx = f[0, 0] * px + f[0, 1] * py + f[0, 2] * z + f[0, 3]
            qy = f[1, 0] * px + f[1, 1] * py + f[1, 2] * z + f[1, 3]
            qz = f[2, 0] * px + f[2, 1] * py + f[2, 2] * z + f[2, 3]
            flow_px[row, col, 0] = fx * qx / qz + cx - col if qz > 0.05 else np.nan
            flow_px[row, col, 1] = fy * qy / qz + cy - row if qz > 0.05 else np.nan
            if with_scene_flow:
                scene_flow_m[row, col, 0] = qx - px
                scene_flow_m[row, col, 1] = qy - py
                scene_flow_m[row, col, 2] = qz - z
            depth_m[row, col] = z
            instance_map[row, col] = part_instance[part]
            moving[row, col] = part_moving[part]
            i0, i1, i2 = triangles[tri, 0], triangles[tri, 1], triangles[tri, 2]
            scale = part_scale[part]
            for a in range(3):
                lpos[a] = (b0 * vertices[i0, a] + b1 * vertices[i1, a] + b2 * vertices[i2, a]) * scale
                lnor[a] = b0 * normals[i0, a] + b1 * normals[i1, a] + b2 * normals[i2, a]
            tu = b0 * uv[i0, 0] + b1 * uv[i1, 0] + b2 * uv[i2, 0]
            tv = b0 * uv[i0, 1] + b1 * uv[i1, 1] + b2 * uv[i2, 1]
            m = materials[part_material[part, slots[tri]]]
            class_map[row, col] = np.uint8(m[1])
            pw = part_turn[part]
            nx = pw[0, 0] * lnor[0] + pw[0, 1] * lnor[1] + pw[0, 2] * lnor[2]
            ny = pw[1, 0] * lnor[0] + pw[1, 1] * lnor[1] + pw[1, 2] * lnor[2]
            nz = pw[2, 0] * lnor[0] + pw[2, 1] * lnor[1] + pw[2, 2] * lnor[2]
            norm = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
            nx, ny, nz = nx / norm, ny / norm, nz / norm
            facing = -(nx * dx + ny * dy + nz * dz)
            if facing < 0.0 and part_two_sided[part] == 1:
                nx, ny, nz, facing = -nx, -ny, -nz, -facing
            facing = max(facing, 0.03)
            wx, wy, wz = eye_x + dx * z * length, eye_y + dy * z * length, eye_z + dz * z * length
            foot = z * length / fx
            along = foot / facing

            kind = int(m[0])
            seed = int(m[2])
            r, g, b = m[4], m[5], m[6]
            gloss, glow, wrap = m[3], 0.0, 0.0
            tr, tg, tb = 1.0, 1.0, 1.0
            if m[TEXTURE] > 0.0:
                # Metres along the surface, and how they change to the next column and the next row.
                if kind == GROUND or kind == ROOF or kind == LEAVES:
                    ax, ay, az = 1.0, 0.0, 0.0
                    bx, by, bz = 0.0, 1.0, 0.0
                    level = math.sqrt(nx * nx + ny * ny)
                    if kind == LEAVES:
                        az, bz = 0.7, -0.6
                    elif kind == ROOF and level > 0.1:
                        # Up the slope, and level across it.
                        ax, ay, az = -ny / level, nx / level, 0.0
                        bx, by, bz = 0.0, 0.0, 1.0 / level
                    tx, ty = ax * wx + ay * wy + az * wz, bx * wx + by * wy + bz * wz
                    xc, yc, zc, xr, yr, zr = world_steps(
                        e, w, dx * length, dy * length, dz * length, z, fx, fy
                    )
                    tx_c, ty_c = ax * xc + ay * yc + az * zc, bx * xc + by * yc + bz * zc
                    tx_r, ty_r = ax * xr + ay * yr + az * zr, bx * xr + by * yr + bz * zr
                else:
                    tx, ty = tu, tv
                    tx_c, ty_c, tx_r, ty_r = surface_steps(e, uv[i0], uv[i1], uv[i2], z, tu, tv)
                c, s = m[TURN_COS], m[TURN_SIN]
                tr, tg, tb = _texture(
                    tiles,
                    int(m[TEXTURE]) - 1,
                    c * tx - s * ty,
                    s * tx + c * ty,
                    c * tx_c - s * ty_c,
                    s * tx_c + c * ty_c,
                    c * tx_r - s * ty_r,
                    s * tx_r + c * ty_r,
                )
                c = m[CONTRAST]
                tr, tg, tb = 1.0 + c * (tr - 1.0), 1.0 + c * (tg - 1.0), 1.0 + c * (tb - 1.0)
            if kind == ROAD:
                r, g, b = _road(m, tu, tv, foot * 1.2, along, seed, tr, tg, tb)
                puddle = light.wetness * _clamp(
                    3.0 * (_noise(tu * 0.22, tv * 0.45, seed + 8) - 0.42 + 0.3 * light.wetness), 0.0, 1.0
                )
                gloss = 0.02 + 0.55 * puddle
                dark = 1.0 - 0.45 * max(light.wetness, puddle)
                r, g, b = r * dark, g * dark, b * dark
            elif kind == PAVING:
                t = (
                    1.0
                    + 0.30 * _detail(tu, tv, 0.3, along, seed)
                    + 0.25 * _detail(tu, tv, 14.0, along, seed + 1)
                )
                cell = _hash(int(math.floor(tu / m[P])), int(math.floor(tv / m[P + 1])), seed)
                t += 0.16 * (cell - 0.5) * _clamp(1.2 - 2.0 * along, 0.0, 1.0)
                joint = max(_wave(tu, m[P], 0.02, along), _wave(tv, m[P + 1], 0.02, foot * 1.5))
                if m[TEXTURE] > 0.0:
                    joint = 0.0  # the photograph has its own; so below
                r, g, b = r * t * tr, g * t * tg, b * t * tb
                r, g, b = r + (m[7] - r) * joint, g + (m[8] - g) * joint, b + (m[9] - b) * joint
                dark = 1.0 - 0.4 * light.wetness
                r, g, b = r * dark, g * dark, b * dark
                gloss = 0.25 * light.wetness
            elif kind == GROUND:
                t = (
                    0.5
                    + 0.8 * _detail(wx, wy, 0.05, along, seed)
                    + 0.7 * _detail(wx, wy, 0.4, along, seed + 1)
                )
                t += 0.6 * _detail(wx, wy, 3.0, along, seed + 2)
                fine = 1.0 + 0.9 * _detail(wx, wy, 22.0, along, seed + 3)
                t = _clamp(t, 0.0, 1.0)
                r, g, b = (
                    (r + (m[7] - r) * t) * fine * tr,
                    (g + (m[8] - g) * t) * fine * tg,
                    (b + (m[9] - b) * t) * fine * tb,
                )
            elif kind == FACADE:
                r, g, b, gloss, glow = _facade(m, tu, tv, along, light, seed, tr, tg, tb)
            elif kind == BRICK:
                w_b, h_b = m[P], m[P + 1]
                course = math.floor(tv / h_b)
                shift = 0.5 * w_b * (course - 2.0 * math.floor(course / 2.0))
                joint = max(_wave(tv, h_b, 0.014, along), _wave(tu + shift, w_b, 0.014, along))
                if m[TEXTURE] > 0.0:
                    joint = 0.0
                cell = _hash(int(math.floor((tu + shift) / w_b)), int(course), seed) - 0.5
                t = (
                    1.0
                    + 0.4 * cell * _clamp(1.2 - 5.0 * along, 0.0, 1.0)
                    + 0.35 * _detail(tu, tv, 0.4, along, seed)
                )
                t += 0.25 * _detail(tu, tv, 12.0, along, seed + 1)
                t *= 1.0 - 0.25 * math.exp(-2.5 * tv)
                r, g, b = r * t * tr, g * t * tg, b * t * tb
                r, g, b = r + (m[7] - r) * joint, g + (m[8] - g) * joint, b + (m[9] - b) * joint
            elif kind == PAINT:
                dirt = (
                    m[P]
                    * _clamp(1.0 - 1.3 * lpos[2], 0.0, 0.7)
                    * (0.6 + _noise(lpos[0] * 6, lpos[1] * 6 + lpos[2] * 9, seed))
                )
                seam = 0.0
                if abs(lnor[1]) > 0.55 and lpos[2] > 0.3:
                    d = min(abs(lpos[0] - m[P + 1]), min(abs(lpos[0] - m[P + 2]), abs(lpos[0] - m[P + 3])))
                    seam = 0.75 * _cover(d, 0.008, along)
                    if abs(lpos[2] - m[P + 4]) < 0.02 and (
                        0.0 < lpos[0] - m[P + 2] < 0.18 or 0.0 < lpos[0] - m[P + 3] < 0.18
                    ):
                        seam = 0.5
                r, g, b = r + (0.16 - r) * dirt, g + (0.14 - g) * dirt, b + (0.11 - b) * dirt
                r, g, b = r * (1 - seam), g * (1 - seam), b * (1 - seam)
                gloss *= (1.0 - dirt) * (1.0 - seam)
            elif kind == LEAVES:
                leaf = 0.5 + 1.3 * _detail3(wx, wy, wz, 5.0, foot, seed)
                leaf += 1.0 * _detail3(wx, wy, wz, 17.0, foot, seed + 1)
                leaf += 0.6 * _detail(wx + 0.7 * wz, wy - 0.6 * wz, 1.3, foot, seed + 2)
                t = _clamp(leaf, 0.0, 1.0)
                dark = 0.45 + 0.75 * t
                r, g, b = (
                    (r + (m[7] - r) * t) * dark * tr,
                    (g + (m[8] - g) * t) * dark * tg,
                    (b + (m[9] - b) * t) * dark * tb,
                )
                wrap = 0.45
            elif kind == SIGN:
                r, g, b = _sign_face(m, tu, tv, int(m[P]), seed)
                glow = 0.06 + 0.3 * light.night
            elif kind == LIGHT:
                glow = m[P] + m[P + 1] * light.night
            elif kind == BUS:
                low, high, period = m[P], m[P + 1], m[P + 2]
                t = 1.0 + 0.2 * _detail(lpos[0], lpos[2], 1.5, along, seed)
                r, g, b = r * t, g * t, b * t
                if lpos[2] < m[P + 3]:
                    r, g, b = m[7] * t, m[8] * t, m[9] * t
                side = abs(lnor[1]) > 0.6
                band2 = m[P + 4] > 0.0 and m[P + 4] < lpos[2] < m[P + 5]
                if side and (low < lpos[2] < high or band2) and abs(lpos[0]) < m[P + 6]:
                    pillar = _wave(lpos[0], period, 0.11, along)
                    r, g, b = 0.03 + 0.2 * pillar, 0.03 + 0.2 * pillar, 0.035 + 0.2 * pillar
                    gloss = 0.6 * (1.0 - pillar)
                    glow = 0.25 * light.night * (1.0 - pillar)
                elif side and lpos[1] < 0.0 and lpos[2] < high and lpos[2] > 0.45:
                    door = lpos[0] - period * 4.0 * math.floor(lpos[0] / (period * 4.0))
                    if door < period * 0.9:
                        r, g, b, gloss = 0.05, 0.05, 0.055, 0.4
                if _wave(lpos[2], 10.0, 0.02, along) > 0.5 or (
                    side and _wave(lpos[0] + 0.3, 2.4, 0.012, along) > 0.5
                ):
                    r, g, b = 0.6 * r, 0.6 * g, 0.6 * b
            elif kind == ROOF:
                t = (
                    1.0
                    + 0.5 * _detail(wx, wy, 0.5, along, seed)
                    + 0.35 * _detail(wx, wy, 5.0, along, seed + 1)
                )
                rows = _wave(wz, m[P], 0.3 * m[P], along)
                if m[TEXTURE] > 0.0:
                    rows = 0.0
                t *= 1.0 - 0.3 * rows
                r, g, b = r * t * tr, g * t * tg, b * t * tb
            elif kind == PLANKS:
                board = math.floor(tu / m[P])
                tint = (
                    1.0
                    + 0.35 * (_hash(int(board), 1, seed) - 0.5)
                    + 0.5 * _detail(tu * 4, tv * 0.5, 3.0, along, seed)
                )
                gap = _wave(tu, m[P], 0.015, along)
                if m[TEXTURE] > 0.0:
                    gap = 0.0
                tint *= 1.0 - 0.8 * gap
                r, g, b = r * tint * tr, g * tint * tg, b * tint * tb
            elif kind == CLOTH:
                fold = 1.0 + 0.5 * _detail(lpos[0] + lpos[1] * 1.3, lpos[2] * 0.6, 9.0, foot, seed)
                if m[P] > 0.0 and _wave(lpos[2] + m[P + 1], m[P], 0.45 * m[P], foot) > 0.5:
                    r, g, b = m[7], m[8], m[9]
                r, g, b = r * fold, g * fold, b * fold
                wrap = 0.2
            elif kind == PLAIN:
                t = 1.0 + m[P] * (
                    _detail(lpos[0] + 0.7 * lpos[1], lpos[2] + 0.3 * lpos[1], m[P + 1], along, seed)
                    + 0.6 * _detail(lpos[0], lpos[1] + lpos[2], 5.0 * m[P + 1], along, seed + 1)
                )
                r, g, b = r * t, g * t, b * t

            direct = nx * sun[0] + ny * sun[1] + nz * sun[2]
            direct = (direct + wrap) / (1.0 + wrap)
            # Faces that look away from the sun need no look-up; soft light comes from all over the sky.
            lit = 0.5
            if direct > 0.0 or light.softness >= 1.0:
                bias = texel_m * (3.7 - 2.5 * max(direct, 0.0))
                x, y, h = wx + nx * texel_m, wy + ny * texel_m, wz + nz * texel_m
                lit = _lit(light, height_map, light_from_world, texel_m, bias, x, y, h, _hash(col, row, 77))
            direct = max(direct, 0.0) * lit
            up = 0.5 + 0.5 * nz
            share = 1.0 - light.occlusion * (1.0 - lit) * (0.35 + 0.65 * up)
            if wrap > 0.4:
                # The inside of a crown is dark: light falls off below its sunny side.
                share *= 0.72 + 0.28 * _clamp(up * 1.2, 0.0, 1.0)
            ir = light.sun[0] * direct + (light.sky[0] * up + light.bounce[0] * (1 - up)) * share
            ig = light.sun[1] * direct + (light.sky[1] * up + light.bounce[1] * (1 - up)) * share
            ib = light.sun[2] * direct + (light.sky[2] * up + light.bounce[2] * (1 - up)) * share
            if by_night:
                qr, qg, qb = lamp_light(lamps, wx, wy, wz, nx, ny, nz)
                ir, ig, ib = ir + qr, ig + qg, ib + qb
            r, g, b = max(r, 0.0), max(g, 0.0), max(b, 0.0)
            lr, lg, lb = r * (ir + glow), g * (ig + glow), b * (ib + glow)
            if gloss > 0.0:
                reflect = 2.0 * facing
                ox, oy, oz = dx + reflect * nx, dy + reflect * ny, dz + reflect * nz
                grazing = (1.0 - min(facing, 1.0)) ** 2
                fresnel = gloss * (0.12 + 0.88 * grazing * grazing)
                sr, sg, sb = _mirror(light, ox, oy, oz, seed)
                shine = max(ox * sun[0] + oy * sun[1] + oz * sun[2], 0.0) ** 4
                shine = shine**4
                shine = shine**4 * 6.0 * lit
                lr += (sr + light.sun[0] * shine - lr) * fresnel
                lg += (sg + light.sun[1] * shine - lg) * fresnel
                lb += (sb + light.sun[2] * shine - lb) * fresnel
            if light.fog > 0.0:
                k_fog = 1.0 - math.exp(-light.fog * z * length)
                lr += (light.horizon[0] - lr) * k_fog
                lg += (light.horizon[1] - lg) * k_fog
                lb += (light.horizon[2] - lb) * k_fog
            rgb[row, col, 0], rgb[row, col, 1], rgb[row, col, 2] = lr, lg, lb
