# SPDX-License-Identifier: Apache-2.0
"""A clip of a data set with its truth, to look at."""

from __future__ import annotations

import cv2
import numpy as np

from dvps_ros.labels import CITYSCAPES, VOID, LabelSpace
from dvps_ros.types import Sample
from dvps_ros.viz.overlay import overlay
from dvps_ros.viz.palette import depth_color, palette_ids
from dvps_ros.viz.text import draw_caption

PANEL_WIDTH_PX = 640
SPARSE = 0.2
"""Maps with truth on a smaller share of the pixels are drawn with larger dots."""
FULL_FLOW = 0.05
"""Flow, as a share of the image width, at full colour."""


def sample_picture(sample: Sample) -> np.ndarray:
    """uint8 [H,W,3] RGB: a row for each frame, a panel for each kind of truth, numbers in the caption."""
    rows = []
    for t in range(len(sample.images)):
        panels = []
        for name, panel in _panels(sample, t).items():
            height = round(panel.shape[0] * PANEL_WIDTH_PX / panel.shape[1])
            smaller = panel.shape[1] > PANEL_WIDTH_PX and name != "depth"
            panels.append(
                cv2.resize(
                    panel,
                    (PANEL_WIDTH_PX, height),
                    interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST,
                )
            )
            draw_caption(panels[-1], name)
        rows.append(np.concatenate(panels, 1))
    return np.concatenate(rows, 0)


def _panels(sample: Sample, t: int) -> dict[str, np.ndarray]:
    image = sample.images[t]
    panels = {_caption(sample, t): image.copy()}
    if sample.class_map is not None or sample.coarse_map is not None:
        panels["classes and ids"] = truth_panel(sample, CITYSCAPES, t)
    if sample.depth_m is not None:
        depth = _spread(sample.depth_m[t], 0)
        known = depth > 0
        panels["depth"] = np.where(
            known[..., None], depth_color(np.where(known, depth, np.nan).astype(np.float32)), image // 3
        )
    if sample.flow_px is not None:
        panels["flow to the frame before"] = _flow_color(sample.flow_px[t], image)
    return panels


def truth_panel(sample: Sample, labels: LabelSpace, t: int = 0) -> np.ndarray:
    """uint8 [H,W,3]: true classes and ids over the image of a frame; the bare image where no classes are
    known."""
    image = sample.images[t]
    if sample.class_map is not None:
        classes = sample.class_map[t]
    elif sample.coarse_map is not None:
        # A merged class has the colour of the first class in it.
        first = np.full(256, VOID, np.uint8)
        first[: len(sample.coarse_groups)] = [group[0] for group in sample.coarse_groups]
        classes = first[sample.coarse_map[t]]
    else:
        return image.copy()
    ids = np.zeros_like(classes) if sample.instance_map is None else sample.instance_map[t]
    return overlay(image, _spread(classes, VOID), _spread(palette_ids(ids), 0), labels, alpha=0.65)


def _caption(sample: Sample, t: int) -> str:
    parts = [sample.source if t == 0 else f"+{t}"]
    if sample.stamps_ns is not None:
        parts.append(f"{(sample.stamps_ns[t] - sample.stamps_ns[0]) * 1e-9:.3f} s")
    if sample.steering_rad is not None:
        parts.append(f"steering {np.degrees(sample.steering_rad[t]):+.1f} deg")
    if sample.speed_mps is not None and np.isfinite(sample.speed_mps[t]):
        parts.append(f"{sample.speed_mps[t]:.1f} m/s")
    return ", ".join(parts)


def _spread(values: np.ndarray, unknown: float) -> np.ndarray:
    """Values [H,W], those of sparse maps on 5x5 pixels each."""
    known = values != unknown
    if known.mean() > SPARSE or not known.any():
        return values
    out, height, width = values.copy(), *values.shape
    around = np.pad(values, 2, constant_values=unknown)
    for dy in range(5):
        for dx in range(5):
            moved = around[dy : dy + height, dx : dx + width]
            out = np.where(out == unknown, moved, out)
    return out


def _flow_color(flow_px: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Hue is the direction, brightness the length; the dark image where flow is unknown."""
    known = np.isfinite(flow_px[..., 0])
    flow = np.nan_to_num(flow_px)
    hsv = np.empty((*known.shape, 3), np.uint8)
    hsv[..., 0] = (np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360 / 2).astype(np.uint8)
    hsv[..., 1] = 220
    length = np.hypot(flow[..., 0], flow[..., 1]) / (FULL_FLOW * known.shape[1])
    hsv[..., 2] = np.clip(80 + 175 * length, 0, 255).astype(np.uint8)
    colors = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    colors[~known] = 0
    sparse = known.mean() <= SPARSE
    shown = cv2.dilate(colors, np.ones((5, 5), np.uint8)) if sparse else colors
    lit = cv2.dilate(known.astype(np.uint8), np.ones((5, 5), np.uint8)) if sparse else known
    return np.where(lit[..., None] > 0, shown, image // 3)
