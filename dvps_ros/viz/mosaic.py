# SPDX-License-Identifier: Apache-2.0
"""One picture of all that a frame gave, for videos and reports."""

from __future__ import annotations

import cv2
import numpy as np

from dvps_ros.errors import InputError
from dvps_ros.labels import LabelSpace
from dvps_ros.types import FrameResult
from dvps_ros.viz.birds_eye import birds_eye
from dvps_ros.viz.overlay import overlay
from dvps_ros.viz.palette import FAR_M, NEAR_M, depth_color
from dvps_ros.viz.text import draw_caption, draw_text

_WIDE = 2.4
"""Images of a larger aspect ratio are stacked, the bird's eye beside them; others make a square of four."""
_STACKED_WIDTH, _SQUARE_WIDTH = 1280, 960
"""Widest panel."""
_TICKS_M = (5, 10, 20, 40)


def mosaic(result: FrameResult, label_space: LabelSpace) -> np.ndarray:
    """Camera, panoptic overlay with ids, depth, and the scene from above.

    Returns:
        uint8 [H,W,3] RGB, H and W even; the same size for every frame of a camera.

    Raises:
        InputError: the result holds no maps.
    """
    maps = result.panoptic
    if maps is None:
        raise InputError("mosaic: expected a result with panoptic maps, got one without; ask for 'panoptic'")
    height, width = result.image.shape[:2]
    wide = width > _WIDE * height
    panel_width = min(width, _STACKED_WIDTH if wide else _SQUARE_WIDTH)
    panel_width -= panel_width % 2
    panel_height = round(panel_width * height / width / 2) * 2

    picture = overlay(result.image, maps.class_map, maps.track_map, label_space, result.instances)
    panels = [
        _panel(result.image, panel_width, panel_height, "camera"),
        _panel(picture, panel_width, panel_height, "panoptic, tracked"),
        _panel(depth_color(maps.depth_m), panel_width, panel_height, "depth"),
    ]
    _draw_depth_scale(panels[2])
    view_width, view_height = (panel_height * 2, panel_height * 3) if wide else (panel_width, panel_height)
    above = birds_eye(
        maps,
        result.camera,
        label_space,
        result.instances,
        road=None if result.scale is None else result.scale.plane,
        width=view_width,
        height=view_height,
    )
    draw_caption(above, "bird's eye")
    if wide:
        return np.hstack([np.vstack(panels), above])
    return np.vstack([np.hstack(panels[:2]), np.hstack([panels[2], above])])


def _panel(image: np.ndarray, width: int, height: int, caption: str) -> np.ndarray:
    shrinks = width < image.shape[1]
    panel = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    draw_caption(panel, caption)
    return panel


def _draw_depth_scale(panel: np.ndarray) -> None:
    """The colours of the distances, along the lower rim; in place."""
    height, width = panel.shape[:2]
    left, right, top = width - width // 4 - 10, width - 10, height - 12
    # Equal steps of the colour scale are equal steps of the root of inverse depth.
    low, high = FAR_M**-0.5, NEAR_M**-0.5
    roots = np.linspace(high, low, right - left)
    bar = depth_color((roots**-2.0).astype(np.float32)[None])
    panel[top - 16 : height, left - 12 :] //= 3
    panel[top : top + 6, left:right] = bar
    for tick_m in _TICKS_M:
        x = left + round((high - tick_m**-0.5) / (high - low) * (right - left))
        draw_text(panel, f"{tick_m} m", x - 10, top - 4, (255, 255, 255), 0.34)
