# SPDX-License-Identifier: Apache-2.0
"""Depth maps to points. Depth is z-depth in metres; what is not finite (sky, unknown) has no point."""

from __future__ import annotations

import numpy as np

from dvps_ros.geometry.camera import rays
from dvps_ros.jit import njit
from dvps_ros.types import CLOUD_DTYPE, CameraModel, check_array

_STEP = 2
"""Pixels to either side over which the slope of a surface is measured."""


def unproject(depth_m: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Points of a depth map in the camera's optical frame.

    Args:
        depth_m: float32 [H,W] z-depth.
        camera: intrinsics of this map (for a stride-4 map, of that map), rectified.

    Returns:
        float32 [H,W,3] metres; NaN where the depth is not finite.

    Raises:
        InputError: the map has another size than the camera.
    """
    check_array("depth_m", depth_m, np.float32, (camera.height, camera.width))
    points = np.empty((*depth_m.shape, 3), np.float32)
    _unproject(depth_m, *rays(camera), points)
    return points


def organised_cloud(
    depth_m: np.ndarray,
    image: np.ndarray,
    class_map: np.ndarray,
    track_map: np.ndarray,
    camera: CameraModel,
    out: np.ndarray | None = None,
    *,
    steepest_deg: float = 90.0,
    is_ground: np.ndarray | None = None,
) -> np.ndarray:
    """One labelled, coloured point for every pixel.

    Between an object and what lies behind it a depth map runs through all depths in between, and its points
    float in free space. There the surface would be seen at a grazing angle, as nothing but the ground is.

    Args:
        depth_m: float32 [H,W] z-depth.
        image: uint8 [H,W,3] RGB.
        class_map: uint8 [H,W].
        track_map: uint16 [H,W].
        camera: intrinsics of the maps, rectified.
        out: CLOUD_DTYPE [H,W] to fill; fresh memory of this size costs more time than the points.
        steepest_deg: angle between a surface's normal and the view, degrees, beyond which it has no points;
            90 keeps all.
        is_ground: bool [256]: classes that may be steeper from row to row.

    Returns:
        CLOUD_DTYPE [H,W]; x = y = z = NaN where the depth is not finite or too steep, the other fields are
        always set.

    Raises:
        InputError: a map has another dtype, or another size than the camera.
    """
    shape = (camera.height, camera.width)
    check_array("depth_m", depth_m, np.float32, shape)
    check_array("image", image, np.uint8, (*shape, 3))
    check_array("class_map", class_map, np.uint8, shape)
    check_array("track_map", track_map, np.uint16, shape)
    if out is None:
        out = np.empty(shape, CLOUD_DTYPE)
    check_array("out", out, CLOUD_DTYPE, shape)
    words = (*shape, CLOUD_DTYPE.itemsize // 4)
    numbers, bits = out.view("f4").reshape(words), out.view("u4").reshape(words)
    steepest = np.float32(np.tan(np.radians(steepest_deg)) if steepest_deg < 90 else np.inf)
    ground = np.zeros(256, bool) if is_ground is None else is_ground
    focal = np.float32(camera.fx), np.float32(camera.fy)
    _fill_cloud(depth_m, image, class_map, track_map, *rays(camera), *focal, steepest, ground, numbers, bits)
    return out


@njit(nogil=True)
def _unproject(depth_m, ray_x, ray_y, points):
    for v in range(depth_m.shape[0]):
        for u in range(depth_m.shape[1]):
            z = depth_m[v, u]
            if not np.isfinite(z):
                z = np.float32(np.nan)
            points[v, u, 0] = ray_x[u] * z
            points[v, u, 1] = ray_y[v] * z
            points[v, u, 2] = z


@njit(nogil=True)
def _fill_cloud(
    depth_m, image, class_map, track_map, ray_x, ray_y, fx, fy, steepest, is_ground, numbers, bits
):
    height, width = depth_m.shape
    for v in range(height):
        above, below = max(v - _STEP, 0), min(v + _STEP, height - 1)
        for u in range(width):
            z = depth_m[v, u]
            if not np.isfinite(z):
                z = np.float32(np.nan)
            elif steepest < np.inf:
                left, right = max(u - _STEP, 0), min(u + _STEP, width - 1)
                # Beside the sky all is steep, beside what is unknown nothing.
                across = abs(depth_m[v, right] - depth_m[v, left]) / max(right - left, 1) * fx
                down = abs(depth_m[below, u] - depth_m[above, u]) / max(below - above, 1) * fy
                if across > steepest * z or (down > steepest * z and not is_ground[class_map[v, u]]):
                    z = np.float32(np.nan)
            numbers[v, u, 0] = ray_x[u] * z
            numbers[v, u, 1] = ray_y[v] * z
            numbers[v, u, 2] = z
            red, green, blue = np.uint32(image[v, u, 0]), np.uint32(image[v, u, 1]), np.uint32(image[v, u, 2])
            bits[v, u, 3] = (red << 16) | (green << 8) | blue
            bits[v, u, 4] = class_map[v, u]
            bits[v, u, 5] = track_map[v, u]
