# SPDX-License-Identifier: Apache-2.0
"""The road as a plane, and the metric scale that the camera's height over it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dvps_ros.config import ScaleConfig
from dvps_ros.geometry.depth import unproject
from dvps_ros.types import CameraModel, ScaleEstimate, ScaleHealth, check_array

_MIN_POINTS = 50
"""Of a road that is wide enough to fit a plane to."""
_MAX_POINTS = 1500
"""More points cost time and change nothing."""
_HYPOTHESES = 48
_INLIER = 0.08
"""A road point is off the plane by at most this share of the camera's height (which equals its relative
depth error)."""
_MIN_INLIER_RATIO = 0.5
_MIN_DOWN = 0.7
"""Least downward component of a road's normal (45 degrees)."""
_MIN_SLOPE = 0.1
"""Only rays that go down more steeply: on a level road up to 10 camera heights away, where it is flat."""

_MEASUREMENT_SIGMA = 0.05
"""Least standard deviation of ln(scale) from one plane: roads are not flat, the network's depth breathes."""
_EFFECTIVE_POINTS = 25.0
"""The depth errors of neighbouring pixels go together: so many points are independent."""
_SYSTEMATIC_SIGMA = 0.03
"""What smoothing does not take away (hills and dips last for seconds), share of the scale."""
_GATE = 3.0
"""Standard deviations beyond which a plane is not believed."""
_START_FRAMES = 5
"""Planes before the scale is used."""


@dataclass(frozen=True)
class PlaneFit:
    """n.p + d = 0 in the camera frame."""

    plane: np.ndarray
    """float64 [4]: unit n pointing down, d; -d is the camera's height."""
    inlier_ratio: float
    spread: float
    """Robust standard deviation of the inliers' distance from the plane, share of the camera's height."""

    @property
    def height_m(self) -> float:
        return float(-self.plane[3])


def fit_plane(points_m: np.ndarray) -> PlaneFit | None:
    """The ground below the camera, robustly; the same points give the same plane.

    With p on the plane, a.p = 1 for a = n / height: linear, and its residual is the relative error of the
    depth, so near and far points count alike. Three-point hypotheses, the one with most inliers, then
    least squares on its inliers, twice.

    Args:
        points_m: float [N,3] in the camera frame, finite.

    Returns:
        None if there are too few points, too few lie on one plane, or it is not below the camera.
    """
    if len(points_m) < _MIN_POINTS:
        return None
    points = points_m[:: -(-len(points_m) // _MAX_POINTS)].astype(np.float64)
    triples = points[np.random.default_rng(0).integers(len(points), size=(_HYPOTHESES, 3))]
    wide = np.abs(np.linalg.det(triples)) > 1e-6
    planes = np.linalg.solve(triples[wide], np.ones((int(wide.sum()), 3, 1)))[..., 0]
    planes = np.concatenate([planes, np.linalg.lstsq(points, np.ones(len(points)), rcond=None)[0][None]])
    inliers = np.abs(planes @ points.T - 1) < _INLIER
    best = inliers[inliers.sum(1).argmax()]
    for _ in range(2):
        if best.sum() < 3:
            return None
        a = np.linalg.lstsq(points[best], np.ones(int(best.sum())), rcond=None)[0]
        residual = np.abs(points @ a - 1)
        best = residual < _INLIER
    length = float(np.linalg.norm(a))
    ratio = float(best.mean())
    if ratio < _MIN_INLIER_RATIO or a[1] < _MIN_DOWN * length:
        return None
    spread = 1.4826 * float(np.median(residual[best]))
    return PlaneFit(np.append(a, -1.0) / length, ratio, spread)


class ScaleEstimator:
    """Factor from the network's depth to metric depth, smoothed in ln(scale) by a scalar Kalman filter.

    The uncertainty of the held scale grows linearly with the time since the last accepted plane, so that
    the filter's memory is the configured time constant at any frame rate and after any gap.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._first_logs: list[float] = []
        self._log_scale = 0.0
        self._variance = math.inf
        self._accepted_ns = 0

    def update(
        self, stamp_ns: int, depth_m: np.ndarray, road: np.ndarray, camera: CameraModel
    ) -> ScaleEstimate:
        """Scale after this frame.

        Args:
            stamp_ns: of the frame; a step back in time holds the scale.
            depth_m: float32 [h,w] z-depth as the network gives it.
            road: bool [h,w], pixels of the road.
            camera: intrinsics of these maps, rectified.

        Raises:
            InputError: an array has another dtype or shape.
        """
        check_array("depth_m", depth_m, np.float32, (camera.height, camera.width))
        check_array("road", road, np.bool_, (camera.height, camera.width))
        if self._config.camera_height_m == 0:
            return ScaleEstimate(1.0, math.inf, ScaleHealth.OFF, np.full(4, np.nan), 0.0)
        # After a step back in time the scale is as good as it was.
        self._accepted_ns = min(self._accepted_ns, stamp_ns)
        points = unproject(depth_m, camera)[road]
        near = points[:, 1] > _MIN_SLOPE * points[:, 2]
        fit = fit_plane(points[near & np.isfinite(points[:, 2])])
        believed = fit is not None and self._measure(stamp_ns, fit)
        return self._estimate(stamp_ns, fit if believed else None)

    @property
    def _started(self) -> bool:
        return len(self._first_logs) >= _START_FRAMES

    def _measure(self, stamp_ns: int, fit: PlaneFit) -> bool:
        """Bring in one plane; False if it does not fit what is known."""
        log_scale = math.log(self._config.camera_height_m / fit.height_m)
        noise = _MEASUREMENT_SIGMA**2 + fit.spread**2 / _EFFECTIVE_POINTS
        if not self._started:
            self._first_logs.append(log_scale)
            self._log_scale = float(np.median(self._first_logs))
            self._variance = (noise + float(np.var(self._first_logs))) / len(self._first_logs)
        else:
            held = self._held_variance(stamp_ns)
            surprise = log_scale - self._log_scale
            if surprise**2 > _GATE**2 * (held + noise):
                return False
            gain = held / (held + noise)
            self._log_scale += gain * surprise
            self._variance = gain * noise
        self._accepted_ns = stamp_ns
        return True

    def _held_variance(self, stamp_ns: int) -> float:
        """Of ln(scale) now; the growth makes the steady gain dt / time_constant for a small dt."""
        held_s = (stamp_ns - self._accepted_ns) * 1e-9
        growth = held_s / max(self._config.time_constant_s, 1e-3)
        return self._variance + (_MEASUREMENT_SIGMA * growth) ** 2

    def _estimate(self, stamp_ns: int, fit: PlaneFit | None) -> ScaleEstimate:
        scale, variance, health = 1.0, math.inf, ScaleHealth.STARTING
        if self._started:
            scale = math.exp(self._log_scale)
            variance = scale**2 * (self._held_variance(stamp_ns) + _SYSTEMATIC_SIGMA**2)
            stale = (stamp_ns - self._accepted_ns) * 1e-9 > self._config.stale_after_s
            health = ScaleHealth.STALE if stale else ScaleHealth.OK
        if fit is None:
            return ScaleEstimate(scale, variance, health, np.full(4, np.nan), 0.0)
        return ScaleEstimate(scale, variance, health, fit.plane * [1, 1, 1, scale], fit.inlier_ratio)
