# SPDX-License-Identifier: Apache-2.0
"""Small legible text on pictures."""

from __future__ import annotations

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def tag_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of :func:`draw_tag`'s plate, pixels."""
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    return width + 6, height + base + 3


def draw_tag(
    image: np.ndarray, text: str, left: int, top: int, color: tuple[int, int, int], scale: float
) -> None:
    """Text on a plate of a colour, black or white, whichever is easier to read; in place."""
    width, height = tag_size(text, scale)
    _, base = cv2.getTextSize(text, _FONT, scale, 1)
    cv2.rectangle(image, (left, top), (left + width - 1, top + height - 1), color, cv2.FILLED)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 120
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(image, text, (left + 3, top + height - base - 1), _FONT, scale, ink, 1, cv2.LINE_AA)


def draw_caption(image: np.ndarray, text: str, scale: float = 0.5) -> None:
    """White text in the upper left corner, on a darkened strip; in place."""
    width, height = tag_size(text, scale)
    corner = image[: height + 4, : width + 6]
    corner[:] = corner // 3
    cv2.putText(image, text, (6, height - 2), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def draw_text(
    image: np.ndarray, text: str, left: int, base: int, color: tuple[int, int, int], scale: float = 0.4
) -> None:
    """Plain text; in place."""
    cv2.putText(image, text, (left, base), _FONT, scale, color, 1, cv2.LINE_AA)
