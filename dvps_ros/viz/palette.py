# SPDX-License-Identifier: Apache-2.0
"""Colours of classes, tracks and depth, the same in pictures, videos and RViz."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from dvps_ros.jit import njit
from dvps_ros.labels import LabelSpace
from dvps_ros.types import check_array

NEAR_M, FAR_M = 3.0, 80.0
"""Depth at the two ends of the colour scale."""
SKY_COLOR, UNKNOWN_COLOR = (222, 231, 240), (38, 38, 42)

_GOLDEN = 0.618033988749895
_TRACK_COLORS = 4096
_ID_SHARE = 0.8
"""How much of a track's colour is its own; the rest is its class's."""


def _track_table() -> np.ndarray:
    """uint8 [N,3]: hues in golden-ratio steps, so that any run of ids is spread over the whole circle."""
    tones = [(0.7, 1.0), (0.95, 0.85), (0.5, 1.0), (0.85, 0.7)]
    rows = [colorsys.hsv_to_rgb(i * _GOLDEN % 1.0, *tones[i % len(tones)]) for i in range(_TRACK_COLORS)]
    return np.rint(np.array(rows) * 255).astype(np.uint8)


_TRACK_TABLE = _track_table()


def track_color(track_id: int, class_id: int, label_space: LabelSpace) -> tuple[int, int, int]:
    """RGB of one object: its id's colour, tinted by its class."""
    own = _TRACK_TABLE[track_id % _TRACK_COLORS].astype(np.float32)
    of_class = label_space.palette[class_id].astype(np.float32)
    red, green, blue = (_ID_SHARE * own + (1 - _ID_SHARE) * of_class).astype(np.uint8)
    return int(red), int(green), int(blue)


def palette_ids(ids: np.ndarray) -> np.ndarray:
    """Integer ids as the 16 bits that :func:`panoptic_color` takes: equal ids stay equal, none (< 1) is 0."""
    ids = ids.astype(np.int64)
    return np.where(ids > 0, (ids - 1) % 65535 + 1, 0).astype(np.uint16)


def panoptic_color(class_map: np.ndarray, track_map: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours for stuff, :func:`track_color` for objects, black for void.

    Args:
        class_map: uint8 [H,W].
        track_map: uint16 [H,W], 0 for no object.

    Returns:
        uint8 [H,W,3] RGB.
    """
    check_array("class_map", class_map, np.uint8, (None, None))
    check_array("track_map", track_map, np.uint16, class_map.shape)
    out = np.empty((*class_map.shape, 3), np.uint8)
    _paint(class_map, track_map, label_space.palette, _TRACK_TABLE, out)
    return out


def depth_color(depth_m: np.ndarray) -> np.ndarray:
    """Turbo colours of inverse depth, red at NEAR_M, violet at FAR_M and beyond; sky pale, unknown dark.

    The scale is fixed, so that a colour means the same distance in every frame.

    Args:
        depth_m: float32 [H,W]; +inf sky, NaN unknown.

    Returns:
        uint8 [H,W,3] RGB.
    """
    check_array("depth_m", depth_m, np.float32, (None, None))
    out = np.empty((*depth_m.shape, 3), np.uint8)
    _paint_depth(depth_m, _depth_table(), out)
    return out


def _depth_table() -> np.ndarray:
    """uint8 [258,3]: 256 turbo colours from far to near, then sky, then unknown."""
    turbo = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return np.concatenate([turbo, [SKY_COLOR, UNKNOWN_COLOR]]).astype(np.uint8)


@njit(nogil=True)
def _paint(class_map, track_map, class_table, track_table, out):
    for v in range(class_map.shape[0]):
        for u in range(class_map.shape[1]):
            c, t = class_map[v, u], track_map[v, u]
            for k in range(3):
                color = np.float32(class_table[c, k])
                if t > 0:
                    own = np.float32(track_table[t % _TRACK_COLORS, k])
                    color = np.float32(_ID_SHARE) * own + np.float32(1 - _ID_SHARE) * color
                out[v, u, k] = np.uint8(color)


@njit(nogil=True)
def _paint_depth(depth_m, table, out):
    # The square root spreads the colours over the distances that matter on a road.
    low, high = np.sqrt(1 / FAR_M), np.sqrt(1 / NEAR_M)
    for v in range(depth_m.shape[0]):
        for u in range(depth_m.shape[1]):
            z = depth_m[v, u]
            if np.isnan(z) or z <= 0:
                i = 257
            elif np.isinf(z):
                i = 256
            else:
                share = (np.sqrt(1 / z) - low) / (high - low)
                i = int(min(max(share, 0.0), 1.0) * 255)
            for k in range(3):
                out[v, u, k] = table[i, k]
