# SPDX-License-Identifier: Apache-2.0
"""How much depth flickers: what changes from frame to frame on points that stand still.

For a static surface point, seen at pixel u of this frame and at u' of the previous one, the flicker is
|e - e'| with e = ln(predicted / true depth) at u, and e' the same at u' of the previous frame. A wrong scale
that stays as it is does not flicker; depth that follows the camera's motion does not either.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

MOST_DEPTH_M = 80.0
SAME_SURFACE = 0.02
"""A point was visible before if the true depth there is that of the point, up to this share."""
STEP = 4
"""Every fourth row and column is looked at."""


class DepthFlicker:
    """Median over the static points of a frame, averaged over frames; one clip after the other."""

    def __init__(self) -> None:
        self._sequence: Hashable | None = None
        self._previous: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._medians: list[float] = []

    def update(
        self,
        depth_m: np.ndarray,
        truth_m: np.ndarray,
        static: np.ndarray,
        intrinsics: np.ndarray,
        world_from_camera: np.ndarray,
        sequence: Hashable = 0,
    ) -> None:
        """The next frame of ``sequence``.

        Args:
            depth_m: float32 [H,W], predicted; not finite or not above 0: unknown.
            truth_m: float32 [H,W], 0 unknown.
            static: bool [H,W], pixels that do not move over ground.
            intrinsics: [4] fx, fy, cx, cy, px.
            world_from_camera: float64 [4,4], true pose.
        """
        previous = self._previous if sequence == self._sequence else None
        self._sequence, self._previous = sequence, (depth_m, truth_m, world_from_camera)
        if previous is None:
            return
        fx, fy, cx, cy = map(float, intrinsics)
        height, width = truth_m.shape
        v, u = (i.ravel() for i in np.mgrid[STEP // 2 : height : STEP, STEP // 2 : width : STEP])
        keep = static[v, u] & (truth_m[v, u] > 0) & (truth_m[v, u] < MOST_DEPTH_M)
        v, u = v[keep], u[keep]
        z = truth_m[v, u].astype(np.float64)
        points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones_like(z)])
        x, y, z_before, _ = np.linalg.inv(previous[2]) @ world_from_camera @ points
        z_safe = np.maximum(z_before, 1e-6)
        u_before, v_before = np.rint(fx * x / z_safe + cx), np.rint(fy * y / z_safe + cy)
        inside = (z_before > 0) & (u_before >= 0) & (u_before < width) & (v_before >= 0) & (v_before < height)
        here = v[inside], u[inside]
        there = v_before[inside].astype(int), u_before[inside].astype(int)
        visible = np.abs(previous[1][there] - z_before[inside]) < SAME_SURFACE * z_before[inside]
        now, before = depth_m[here], previous[0][there]
        known = visible & np.isfinite(now) & np.isfinite(before) & (now > 0) & (before > 0)
        if known.any():
            change = np.log(now[known] / truth_m[here][known]) - np.log(
                before[known] / previous[1][there][known]
            )
            self._medians.append(float(np.median(np.abs(change))))

    def compute(self) -> float | None:
        """In natural logarithms, so 0.01 is one percent; None if no point could be followed."""
        return float(np.mean(self._medians)) if self._medians else None
