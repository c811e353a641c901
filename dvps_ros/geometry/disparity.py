# SPDX-License-Identifier: Apache-2.0
"""Disparity 0..1 of a sigmoid and z-depth (Godard et al. 2019, Monodepth2): 1 / depth is linear in it.

Plain arithmetic: the functions take numpy arrays and tensors alike.
"""

from __future__ import annotations

from typing import Any

DEPTH_RANGE_M = (0.1, 100.0)
"""Depth of disparity 1 and of disparity 0, metres (of a scale that training decides)."""


def depth_of_disparity(disparity: Any, depth_range_m: tuple[float, float] = DEPTH_RANGE_M) -> Any:
    """z-depth in metres; disparity 0 is the farthest, 1 the nearest of ``depth_range_m``."""
    nearest, farthest = depth_range_m
    return 1 / (1 / farthest + (1 / nearest - 1 / farthest) * disparity)


def disparity_of_depth(depth_m: Any, depth_range_m: tuple[float, float] = DEPTH_RANGE_M) -> Any:
    """Inverse of :func:`depth_of_disparity`; depths beyond the range give disparities beyond 0..1."""
    nearest, farthest = depth_range_m
    return (1 / depth_m - 1 / farthest) / (1 / nearest - 1 / farthest)
