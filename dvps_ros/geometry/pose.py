# SPDX-License-Identifier: Apache-2.0
"""Rigid motions as 4x4 matrices: ``a_from_b`` maps points of b into a, so that names cancel by eye."""

from __future__ import annotations

import numpy as np

from dvps_ros.errors import InputError


def check_pose(name: str, a_from_b: np.ndarray) -> None:
    """Refuse what is not a rigid motion: float [4,4], finite, orthonormal rotation, last row 0 0 0 1.

    Raises:
        InputError: naming what is wrong.
    """
    if a_from_b.shape != (4, 4) or not np.isfinite(a_from_b).all():
        raise InputError(f"{name}: expected a finite 4x4 matrix, got {a_from_b.tolist()}")
    rotation = a_from_b[:3, :3]
    rigid = (
        np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4
        and np.linalg.det(rotation) > 0
        and np.array_equal(a_from_b[3], [0, 0, 0, 1])
    )
    if not rigid:
        raise InputError(f"{name}: expected a rotation and a translation, got {a_from_b.tolist()}")


def inverse(a_from_b: np.ndarray) -> np.ndarray:
    """b_from_a: float [...,4,4]."""
    b_from_a = np.zeros_like(a_from_b)
    rotation = np.swapaxes(a_from_b[..., :3, :3], -1, -2)
    b_from_a[..., :3, :3] = rotation
    b_from_a[..., :3, 3] = -(rotation @ a_from_b[..., :3, 3:])[..., 0]
    b_from_a[..., 3, 3] = 1
    return b_from_a


def relative(world_from_a: np.ndarray, world_from_b: np.ndarray) -> np.ndarray:
    """a_from_b: float [...,4,4]."""
    return inverse(world_from_a) @ world_from_b


def transform(a_from_b: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Points [...,3] of b in a."""
    return points_b @ a_from_b[:3, :3].T + a_from_b[:3, 3]
