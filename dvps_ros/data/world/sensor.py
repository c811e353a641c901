# SPDX-License-Identifier: Apache-2.0
"""From linear light to the bytes of a camera: motion blur, lens, exposure, colour, noise, tone curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from dvps_ros.jit import njit

OverRows = Callable[[int, Callable[[int, int], object]], None]
"""(number of rows, work on rows first..last-1): does the work on all rows."""


class Sensor(NamedTuple):
    """The camera's looks, drawn once a world."""

    exposure: float
    gain: tuple[float, float, float]
    """White balance, per channel."""
    contrast: float
    """Strength of an S-curve; 0 none."""
    gamma: float
    saturation: float
    blur_px: float
    """Gaussian sigma of the lens."""
    shutter: float
    """Share of the frame time that the shutter is open (motion blur)."""
    noise: float
    """Read noise, in parts of full scale."""
    grain: float
    """Photon noise: standard deviation at full scale."""
    vignette: float
    seed: int


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _smear(rgb, flow_px, shutter, out, first, last):
    """Average along each pixel's own motion, five taps."""
    height, width = flow_px.shape[:2]
    for y in range(first, last):
        for x in range(width):
            u, v = flow_px[y, x, 0] * shutter, flow_px[y, x, 1] * shutter
            size = u * u + v * v
            if not size > 0.5 or not size < 1e4:
                for c in range(3):
                    out[y, x, c] = rgb[y, x, c]
                continue
            for c in range(3):
                out[y, x, c] = 0.0
            for k in range(5):
                q = (k - 2) * 0.25
                sx = min(max(int(round(x + u * q)), 0), width - 1)
                sy = min(max(int(round(y + v * q)), 0), height - 1)
                for c in range(3):
                    out[y, x, c] += np.float32(0.2) * rgb[sy, sx, c]


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _weights(sigma):
    """Of a Gaussian of radius 2: middle, neighbour, next."""
    w1 = np.float32(math.exp(-0.5 / (sigma * sigma)))
    w2 = np.float32(math.exp(-2.0 / (sigma * sigma)))
    total = np.float32(1.0) + 2 * (w1 + w2)
    return np.float32(1.0) / total, w1 / total, w2 / total


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _blur_along(rgb, sigma, out, first, last):
    """Gaussian along the rows, radius 2."""
    width = rgb.shape[1]
    w0, w1, w2 = _weights(sigma)
    for y in range(first, last):
        for x in range(width):
            xa, xb, xc, xd = max(x - 2, 0), max(x - 1, 0), min(x + 1, width - 1), min(x + 2, width - 1)
            for c in range(3):
                out[y, x, c] = (
                    w0 * rgb[y, x, c]
                    + w1 * (rgb[y, xb, c] + rgb[y, xc, c])
                    + w2 * (rgb[y, xa, c] + rgb[y, xd, c])
                )


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _blur_across(rgb, sigma, out, first, last):
    """Gaussian along the columns, radius 2."""
    height, width = rgb.shape[:2]
    w0, w1, w2 = _weights(sigma)
    for y in range(first, last):
        ya, yb, yc, yd = max(y - 2, 0), max(y - 1, 0), min(y + 1, height - 1), min(y + 2, height - 1)
        for x in range(width):
            for c in range(3):
                out[y, x, c] = (
                    w0 * rgb[y, x, c]
                    + w1 * (rgb[yb, x, c] + rgb[yc, x, c])
                    + w2 * (rgb[ya, x, c] + rgb[yd, x, c])
                )


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _random(state):
    """One step of xorshift32 (Marsaglia, 2003)."""
    state ^= (state << 13) & 0xFFFFFFFF
    state ^= state >> 17
    state ^= (state << 5) & 0xFFFFFFFF
    return state


@njit(nogil=True, fastmath={"contract", "reassoc", "arcp", "nsz"})
def _develop(rgb, sensor, curve, seed, out, first, last):
    """Exposure, colour, noise and tone to bytes; ``curve`` is the tone curve over 0..1 in 4096 steps."""
    height, width = rgb.shape[:2]
    steps = curve.shape[0] - 1
    for y in range(first, last):
        # Each row has its own noise, however the rows are shared out among threads.
        state = (seed ^ (y * 2246822519)) & 0xFFFFFFFF
        state = ((state ^ (state >> 15)) * 2654435761) & 0xFFFFFFFF
        state = (state ^ (state >> 13)) | 1
        for x in range(width):
            dx, dy = 2.0 * x / width - 1.0, 2.0 * y / height - 1.0
            gain = sensor.exposure * (1.0 - sensor.vignette * 0.5 * (dx * dx + dy * dy))
            r = rgb[y, x, 0] * gain * sensor.gain[0]
            g = rgb[y, x, 1] * gain * sensor.gain[1]
            b = rgb[y, x, 2] * gain * sensor.gain[2]
            grey = 0.30 * r + 0.59 * g + 0.11 * b
            r = grey + sensor.saturation * (r - grey)
            g = grey + sensor.saturation * (g - grey)
            b = grey + sensor.saturation * (b - grey)
            noise = sensor.noise + sensor.grain * math.sqrt(max(grey, 0.0))
            for c in range(3):
                v = r if c == 0 else (g if c == 1 else b)
                # Two uniform draws make a triangular stand-in for the normal distribution.
                state = _random(state)
                v += ((state & 0xFFFF) + (state >> 16) - 65535.0) * 3.738e-5 * noise
                # Highlights roll off instead of clipping hard.
                if v > 0.7:
                    v = 1.0 - 0.09 / (v - 0.4)
                out[y, x, c] = curve[int(min(max(v, 0.0), 1.0) * steps)]


def expose(
    rgb: np.ndarray, flow_px: np.ndarray | None, sensor: Sensor, frame: int, over_rows: OverRows
) -> np.ndarray:
    """Linear light float32 [H,W,3] (used up) to an image uint8 [H,W,3]; noise depends on seed and frame.

    Args:
        over_rows: calls a function with (first row, last row) until all rows are done.
    """
    height = len(rgb)
    scratch = np.empty_like(rgb)
    if flow_px is not None and sensor.shutter > 0.05:
        over_rows(height, partial(_smear, rgb, flow_px, sensor.shutter, scratch))
        rgb, scratch = scratch, rgb
    if sensor.blur_px > 0.25:
        over_rows(height, partial(_blur_along, rgb, sensor.blur_px, scratch))
        over_rows(height, partial(_blur_across, scratch, sensor.blur_px, rgb))
    x = np.linspace(0.0, 1.0, 4097) ** (1.0 / sensor.gamma)
    x = x + sensor.contrast * (x * x * (3 - 2 * x) - x)
    curve = np.clip(np.round(255 * x), 0, 255).astype(np.uint8)
    out = np.empty(rgb.shape, np.uint8)
    seed = (sensor.seed * 2654435761 + frame * 40503 + 1) & 0xFFFFFFFF
    over_rows(height, partial(_develop, rgb, sensor, curve, seed, out))
    return out
