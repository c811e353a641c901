# SPDX-License-Identifier: Apache-2.0
"""Hand-made segment tables: rectangles with a class, a depth, a motion and an identity vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRIDE, WIDTH, HEIGHT, SLOTS = 4, 128, 96, 8
"""Of the maps: 32 x 24 cells."""
TENTH = 100_000_000
PERSON, RIDER, CAR, TRUCK, BICYCLE = 11, 12, 13, 14, 18


def vector(i: int) -> np.ndarray:
    """Orthonormal identity vectors."""
    return np.eye(16, dtype=np.float32)[i]


@dataclass(frozen=True)
class Box:
    """A rectangle in stride-4 cells that moved by ``step`` cells since the previous frame."""

    x: int
    y: int
    w: int
    h: int
    who: int
    """Which identity vector it shows."""
    step: tuple[float, float] = (0, 0)
    class_id: int = CAR
    score: float = 0.9
    depth_m: float = 10.0
    moving: float = 0.5


def frame(*boxes: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """segments, segment_map, embedding; later boxes cover earlier ones, rows are in order of the boxes."""
    segments = np.zeros((SLOTS, 9), np.float32)
    segment_map = np.full((HEIGHT // STRIDE, WIDTH // STRIDE), 255, np.uint8)
    embedding = np.zeros((SLOTS, 16), np.float32)
    for row, b in enumerate(boxes):
        segment_map[max(b.y, 0) : b.y + b.h, max(b.x, 0) : b.x + b.w] = row
    for row, b in enumerate(boxes):
        dx, dy = -b.step[0] * STRIDE, -b.step[1] * STRIDE
        center = (b.x + b.w / 2) * STRIDE, (b.y + b.h / 2) * STRIDE
        area = (segment_map == row).sum()
        if area:
            segments[row] = b.class_id, b.score, area, *center, dx, dy, b.depth_m, b.moving
            embedding[row] = vector(b.who)
    return segments, segment_map, embedding
