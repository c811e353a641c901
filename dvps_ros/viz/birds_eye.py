# SPDX-License-Identifier: Apache-2.0
"""The scene from above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from dvps_ros.geometry.camera import rays
from dvps_ros.jit import njit
from dvps_ros.labels import LabelSpace
from dvps_ros.types import CameraModel, Motion, PanopticDepth, TrackedInstance, TrackState
from dvps_ros.viz.palette import panoptic_color, track_color
from dvps_ros.viz.text import draw_tag, draw_text, tag_size

_BACKGROUND, _GRID, _RING, _INK = (20, 22, 27), (34, 37, 44), (74, 80, 92), (190, 196, 206)
_TALLEST_M = 2.5
"""Points higher above the camera (crowns of trees, gantries) would hide the street."""
_EGO_M = (1.8, 4.2)
"""Width and length of the sign for the own car."""
_STREET = 0.65
"""Brightness of what is not an object."""
_STEEPEST = 0.7
"""Share of the view in the road's normal beyond which there is no ahead: the camera looks at the ground."""
_BEHIND_M = 3.0
"""Shown behind the camera."""


def birds_eye(
    panoptic: PanopticDepth,
    camera: CameraModel,
    label_space: LabelSpace,
    instances: Sequence[TrackedInstance] = (),
    *,
    road: np.ndarray | None = None,
    width: int = 480,
    height: int = 640,
    reach_m: float = 50.0,
) -> np.ndarray:
    """Points in their panoptic colours seen from above, on a metric grid, with the tracked objects.

    The camera is at the bottom in the middle, looking up; rings are 10 m apart; a box is the visible
    surface of an object, its arrow the way it goes in one second; a lost or unconfirmed one has a thin box.

    Args:
        panoptic: maps [H,W].
        camera: their intrinsics.
        instances: objects to draw.
        road: float64 [4], the road plane in the camera frame as in ``ScaleEstimate.plane``; the scene is seen
            along its normal. Without it, or NaN, the camera is taken to look along the road.
        width: of the picture, px.
        height: of the picture, px.
        reach_m: distance ahead that fits in the picture.

    Returns:
        uint8 [height,width,3] RGB.
    """
    px_per_m = height / (reach_m + _BEHIND_M)
    center = width / 2, reach_m * px_per_m
    image = _ground(width, height, center, px_per_m, reach_m, camera)
    colors = panoptic_color(panoptic.class_map, panoptic.track_map, label_space)
    level = level_from_camera(road)
    top_y = np.full((height, width), np.inf, np.float32)
    _splat(
        panoptic.depth_m,
        colors,
        panoptic.class_map,
        panoptic.track_map,
        *rays(camera),
        level,
        center,
        px_per_m,
        top_y,
        image,
    )
    _draw_rings(image, center, px_per_m, reach_m)
    for instance in sorted(instances, key=lambda i: -i.unseen_s):
        _draw_object(image, instance, label_space, level, center, px_per_m)
    _draw_ego(image, center, px_per_m)
    return image


def level_from_camera(road: np.ndarray | None) -> np.ndarray:
    """float64 [3,3]: turns points of the camera frame so that y is along the road's normal and z ahead."""
    if road is None or not np.isfinite(road).all() or abs(road[2]) > _STEEPEST:
        return np.eye(3)
    down = np.asarray(road[:3], np.float64)
    ahead = np.array([0.0, 0.0, 1.0]) - down[2] * down
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(down, ahead), down, ahead])


def _ground(
    width: int, height: int, center: tuple[float, float], px_per_m: float, reach_m: float, camera: CameraModel
) -> np.ndarray:
    """Grid of 5 m, and the field of view a little brighter."""
    image = np.full((height, width, 3), _BACKGROUND, np.uint8)
    left, right = (-0.5 - camera.cx) / camera.fx, (camera.width - 0.5 - camera.cx) / camera.fx
    far = 2 * reach_m * px_per_m
    view = [center, (center[0] + left * far, center[1] - far), (center[0] + right * far, center[1] - far)]
    cv2.fillPoly(image, [np.rint(view).astype(np.int32)], (27, 30, 36))
    step = 5 * px_per_m
    for k in range(-math.ceil(center[0] / step), math.ceil(center[0] / step) + 1):
        x = round(center[0] + k * step)
        cv2.line(image, (x, 0), (x, height - 1), _GRID, 1)
    for k in range(math.ceil(height / step) + 1):
        y = round(center[1] - k * step)
        cv2.line(image, (0, y), (width - 1, y), _GRID, 1)
    return image


def _draw_rings(image: np.ndarray, center: tuple[float, float], px_per_m: float, reach_m: float) -> None:
    middle = round(center[0]), round(center[1])
    step_m = 10 if reach_m <= 60 else 20
    for ring_m in range(step_m, math.ceil(reach_m) + 1, step_m):
        radius = round(ring_m * px_per_m)
        cv2.ellipse(image, middle, (radius, radius), 0, 180, 360, _RING, 1, cv2.LINE_AA)
        text = f"{ring_m} m"
        draw_text(image, text, middle[0] + 4, max(middle[1] - radius + 12, 12), _INK, 0.36)


def _draw_ego(image: np.ndarray, center: tuple[float, float], px_per_m: float) -> None:
    half = _EGO_M[0] / 2 * px_per_m
    x, y = center
    car = [(x - half, y + _EGO_M[1] * px_per_m), (x - half, y + half), (x, y - half), (x + half, y + half)]
    car.append((x + half, y + _EGO_M[1] * px_per_m))
    cv2.fillPoly(image, [np.rint(car).astype(np.int32)], (235, 238, 243), cv2.LINE_AA)


def _draw_object(
    image: np.ndarray,
    instance: TrackedInstance,
    label_space: LabelSpace,
    level: np.ndarray,
    center: tuple[float, float],
    px_per_m: float,
) -> None:
    if not np.isfinite(instance.centroid_m).all():
        return

    def pixel(x_m: float, z_m: float) -> tuple[int, int]:
        x, y = np.clip([center[0] + x_m * px_per_m, center[1] - z_m * px_per_m], -10_000, 10_000)
        return round(x), round(y)

    color = track_color(instance.track_id, instance.class_id, label_space)
    x, _, z = level @ instance.centroid_m
    half_x, half_z = np.maximum((np.abs(level) @ instance.extent_m)[[0, 2]], 0.4) / 2
    faint = instance.state != TrackState.CONFIRMED
    cv2.rectangle(
        image, pixel(x - half_x, z + half_z), pixel(x + half_x, z - half_z), color, 1 if faint else 2
    )
    if faint:
        return
    velocity = (level @ instance.velocity_mps)[[0, 2]]
    if instance.motion != Motion.STATIC and np.linalg.norm(velocity) > 1:
        tip = pixel(x + velocity[0], z + velocity[1])
        head = 6 / (float(np.linalg.norm(velocity)) * px_per_m)
        cv2.arrowedLine(image, pixel(x, z), tip, (255, 255, 255), 1, cv2.LINE_AA, tipLength=head)
    left, top = pixel(x + half_x, z + half_z)
    text = str(instance.track_id)
    if 0 <= left < image.shape[1] - tag_size(text, 0.36)[0] and 0 <= top < image.shape[0]:
        draw_tag(image, text, left + 2, top, color, 0.36)


@njit(nogil=True)
def _splat(depth_m, colors, class_map, track_map, ray_x, ray_y, level, center, px_per_m, top_y, image):
    """Draw each pixel where it stands, the highest on top, as far as its surface reaches its neighbours."""
    height, width = depth_m.shape
    rows, columns = top_y.shape
    pixel_angle = ray_x[1] - ray_x[0]
    for v in range(height):
        for u in range(width):
            depth = depth_m[v, u]
            # Of the ray of depth 1, turned: to the right, down and ahead.
            right = level[0, 0] * ray_x[u] + level[0, 1] * ray_y[v] + level[0, 2]
            down = level[1, 0] * ray_x[u] + level[1, 1] * ray_y[v] + level[1, 2]
            ahead = level[2, 0] * ray_x[u] + level[2, 1] * ray_y[v] + level[2, 2]
            y, z = down * depth, ahead * depth
            if not np.isfinite(depth) or depth <= 0 or y < -_TALLEST_M or class_map[v, u] == 255:
                continue
            # Objects stand out from a darker street.
            share = np.float32(1.0 if track_map[v, u] > 0 else _STREET)
            near = depth
            for dv, du in ((1, 0), (0, 1), (0, -1)):
                if v + dv < height and 0 <= u + du < width and class_map[v + dv, u + du] == class_map[v, u]:
                    other = depth_m[v + dv, u + du]
                    if 0.9 * depth < other < near:
                        near = other
            x = center[0] + right * depth * px_per_m
            first_column = int(np.floor(x))
            last_column = first_column + max(2, int(np.ceil(pixel_angle * depth * px_per_m)))
            first_row = int(np.floor(center[1] - z * px_per_m))
            last_row = int(np.floor(center[1] - ahead * near * px_per_m))
            for row in range(max(first_row, 0), min(last_row + 1, rows)):
                for column in range(max(first_column, 0), min(last_column, columns)):
                    if y < top_y[row, column]:
                        top_y[row, column] = y
                        for k in range(3):
                            image[row, column, k] = np.uint8(share * colors[v, u, k])
