# SPDX-License-Identifier: Apache-2.0
"""The camera image with what was seen in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvps_ros.jit import njit
from dvps_ros.labels import LabelSpace
from dvps_ros.types import TrackedInstance, check_array
from dvps_ros.viz.palette import panoptic_color, track_color
from dvps_ros.viz.text import Rectangle, draw_tag, tag_size

_MIN_SIDE_PX = 10
"""Smaller objects get no label."""


def overlay(
    image: np.ndarray,
    class_map: np.ndarray,
    track_map: np.ndarray,
    label_space: LabelSpace,
    instances: Sequence[TrackedInstance] = (),
    alpha: float = 0.45,
) -> np.ndarray:
    """Colours over the image, outlines around objects, and labels such as "car 12 14.3 m".

    Args:
        image: uint8 [H,W,3] RGB.
        class_map: uint8 [H,W].
        track_map: uint16 [H,W].
        instances: gives the labels.
        alpha: strength of the colours, 0..1.

    Returns:
        uint8 [H,W,3] RGB.
    """
    check_array("image", image, np.uint8, (None, None, 3))
    check_array("class_map", class_map, np.uint8, image.shape[:2])
    out = panoptic_color(class_map, track_map, label_space)
    _blend(image, class_map, track_map, np.float32(alpha), out)
    _draw_labels(out, label_space, instances)
    return out


def label_of(instance: TrackedInstance, label_space: LabelSpace) -> str:
    """ "car 12 14.3 m", without the distance where it is unknown."""
    text = f"{label_space.names[instance.class_id]} {instance.track_id}"
    z = instance.centroid_m[2]
    return f"{text} {z:.1f} m" if np.isfinite(z) else text


def _draw_labels(image: np.ndarray, label_space: LabelSpace, instances: Sequence[TrackedInstance]) -> None:
    """Nearest first; a label that would cover another one moves up, or is left out."""
    height, width = image.shape[:2]
    scale = min(max(height / 1000, 0.36), 0.6)
    taken: list[Rectangle] = []
    seen = [i for i in instances if i.area_px > 0 and min(i.box_px[2:]) >= _MIN_SIDE_PX]
    for instance in sorted(seen, key=lambda i: i.area_px, reverse=True):
        text = label_of(instance, label_space)
        w, h = tag_size(text, scale)
        x, y, box_w, _ = instance.box_px
        left = int(min(max(x + box_w / 2 - w / 2, 0), max(width - w, 0)))
        for rise in range(1, 4):
            top = int(max(y - rise * h, 0))
            place = (left, top, left + w, top + h)
            if not any(_overlap(place, other) for other in taken):
                taken.append(place)
                color = track_color(instance.track_id, instance.class_id, label_space)
                draw_tag(image, text, left, top, color, scale)
                break


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@njit(nogil=True)
def _blend(image, class_map, track_map, alpha, colors):
    """Mix the image into the colours, in place; pixels on the rim of an object get its colour, brightened."""
    height, width = class_map.shape
    for v in range(height):
        for u in range(width):
            t = track_map[v, u]
            rim = t > 0 and (
                (u > 0 and track_map[v, u - 1] != t)
                or (u + 1 < width and track_map[v, u + 1] != t)
                or (v > 0 and track_map[v - 1, u] != t)
                or (v + 1 < height and track_map[v + 1, u] != t)
            )
            void = class_map[v, u] == 255
            for k in range(3):
                color = np.float32(colors[v, u, k])
                if rim:
                    mixed = np.float32(0.4) * color + np.float32(153)
                elif void:
                    mixed = np.float32(0.6) * image[v, u, k]
                else:
                    mixed = alpha * color + (1 - alpha) * image[v, u, k]
                colors[v, u, k] = np.uint8(mixed)
