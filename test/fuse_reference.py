# SPDX-License-Identifier: Apache-2.0
"""The slow reference of ``dvps_ros.networks.fusion.points``: the same definition in numpy and numba."""

from __future__ import annotations

import numpy as np

from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, SEGMENT_COLUMNS
from dvps_ros.jit import njit
from dvps_ros.networks.fusion.points import HEAT_SCALE, TIE_STEP, PointsConfig
from dvps_ros.networks.fusion.tables import DEPTH_RANGE_M
from dvps_ros.types import NetworkOutput, check_array


def fuse(
    class_logits: np.ndarray,
    center_logits: np.ndarray,
    center_offset_px: np.ndarray,
    log_depth: np.ndarray,
    motion_px: np.ndarray,
    moving_logits: np.ndarray,
    embedding: np.ndarray,
    *,
    thing_ids: tuple[int, ...],
    config: PointsConfig | None = None,
) -> NetworkOutput:
    """Group the pixels of things around centres and describe each group in a table.

    A pixel votes for the place pixel + offset; it belongs to the candidate centre nearest to its vote if
    its arg-max class is a thing. Candidates with too few pixels are dropped, and their pixels with them.

    Args:
        class_logits: float32 [C,h,w].
        center_logits, log_depth, moving_logits: float32 [1,h,w]; depth as ln metres.
        center_offset_px, motion_px: float32 [2,h,w], (dx, dy) in input pixels.
        embedding: float32 [D,h,w].
        thing_ids: classes that are countable.

    Returns:
        The maps and tables of docs/graph_contract.md (``latent`` is None).

    Raises:
        InputError: an array of another dtype or shape.
    """
    config = config or PointsConfig()
    h, w = class_logits.shape[-2:]
    check_array("class_logits", class_logits, np.float32, (None, h, w))
    check_array("embedding", embedding, np.float32, (None, h, w))
    for name, array, channels in (
        ("center_logits", center_logits, 1),
        ("center_offset_px", center_offset_px, 2),
        ("log_depth", log_depth, 1),
        ("motion_px", motion_px, 2),
        ("moving_logits", moving_logits, 1),
    ):
        check_array(name, array, np.float32, (channels, h, w))

    class_map = class_logits.argmax(0).astype(np.uint8)
    probability = 1.0 / np.exp(class_logits - class_logits.max(0)).sum(0)
    depth_m = np.clip(np.exp(log_depth[0]), *DEPTH_RANGE_M)
    moving = _sigmoid(moving_logits[0])

    score, center_x, center_y = _peaks(center_logits[0], config)
    row = _nearest(center_offset_px, center_x, center_y)
    is_thing = np.zeros(256, bool)
    is_thing[list(thing_ids)] = True
    inside = is_thing[class_map] & (row >= 0)
    rows, classes = row[inside], class_map[inside]

    count = len(score)
    votes = np.zeros((count, 256), np.int64)
    np.add.at(votes, (rows, classes), 1)
    area = votes.sum(1)
    kept = area >= config.min_area

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows, values[inside], count) / np.maximum(area, 1)

    identity = np.stack([mean(e) for e in embedding], 1)
    identity /= np.sqrt((identity**2).sum(1, keepdims=True) + 1e-6)
    columns = (
        votes.argmax(1),
        score,
        area,
        center_x,
        center_y,
        mean(motion_px[0]),
        mean(motion_px[1]),
        mean(depth_m),
        mean(moving),
    )
    segments = np.zeros((config.slots, len(SEGMENT_COLUMNS)), np.float32)
    segments[:count] = np.stack(columns, 1) * kept[:, None]
    identities = np.zeros((config.slots, len(embedding)), np.float32)
    identities[:count] = identity * kept[:, None]

    name_of_row = np.full(count + 1, NO_SEGMENT, np.uint8)  # the last entry is that of row -1
    name_of_row[:count][kept] = np.flatnonzero(kept)
    nearest = name_of_row[row]
    return NetworkOutput(
        class_map=class_map,
        segment_map=np.where(inside, nearest, np.uint8(NO_SEGMENT)),
        depth_m=depth_m,
        segments=segments,
        embedding=identities,
        confidence=(probability * 255 + 0.5).astype(np.uint8),
        class_logits=class_logits,
        nearest=nearest,
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x))).astype(np.float32)


def _peaks(center_logits: np.ndarray, config: PointsConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score and position (input pixels) of the candidate centres, float32 [n], n <= slots, best first."""
    h, w = center_logits.shape
    later_cells = np.arange(h * w - 1, -1, -1, dtype=np.float32).reshape(h, w)
    key = np.float32(HEAT_SCALE) * _sigmoid(center_logits) + later_cells * np.float32(TIE_STEP)
    reach = config.window // 2
    padded = np.pad(key, reach, constant_values=-1)
    highest = np.lib.stride_tricks.sliding_window_view(padded, (config.window,) * 2).max((2, 3))
    score = np.minimum(key / np.float32(HEAT_SCALE), 1)
    candidates = np.flatnonzero((key == highest) & (score >= np.float32(config.min_score)))
    order = candidates[np.argsort(-key.ravel()[candidates])][: config.slots]
    y, x = np.divmod(order, w)
    middle = (OUTPUT_STRIDE - 1) / 2
    return (
        score.ravel()[order],
        (OUTPUT_STRIDE * x + middle).astype(np.float32),
        (OUTPUT_STRIDE * y + middle).astype(np.float32),
    )


@njit()
def _nearest(
    offset_px: np.ndarray, center_x: np.ndarray, center_y: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """Index int64 [h,w] of the centre nearest to each cell's vote, the first of equals; -1 if none."""
    _, h, w = offset_px.shape
    row = np.full((h, w), -1, np.int64)
    middle = np.float32((OUTPUT_STRIDE - 1) / 2)
    for i in range(h):
        for j in range(w):
            x = np.float32(OUTPUT_STRIDE * j) + middle + offset_px[0, i, j]
            y = np.float32(OUTPUT_STRIDE * i) + middle + offset_px[1, i, j]
            best = np.float32(np.inf)
            for k in range(len(center_x)):
                dx, dy = x - center_x[k], y - center_y[k]
                distance = dx * dx + dy * dy
                if distance < best:
                    best, row[i, j] = distance, k
    return row
