# SPDX-License-Identifier: Apache-2.0
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.config import ScaleConfig
from dvps_ros.errors import InputError
from dvps_ros.geometry.depth import unproject
from dvps_ros.geometry.ground import ScaleEstimator, fit_plane
from dvps_ros.types import CameraModel, ScaleHealth

CAMERA = CameraModel(208, 64, 120.0, 120.0, 103.5, 28.0)
SECOND = 1_000_000_000


def load_kitti_camera(root: Path) -> CameraModel:
    projection = np.array(json.loads((root / "camera_02.json").read_text())["P_rect_02"]).reshape(3, 4)
    return CameraModel(1242, 375, projection[0, 0], projection[1, 1], projection[0, 2], projection[1, 2])


def plane_depth(height_m: float, pitch_rad: float = 0.0, camera: CameraModel = CAMERA) -> np.ndarray:
    """Depth map of a plane; pitch down is positive; 0 above the horizon."""
    normal = np.array([0.0, math.cos(pitch_rad), math.sin(pitch_rad)])
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, float)], -1)
    down = rays @ normal
    return np.where(down > 1e-3, height_m / np.maximum(down, 1e-3), 0).astype(np.float32)


def points_on(height_m: float, pitch_rad: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    x, z = rng.uniform(-6, 6, 800), rng.uniform(4, 25, 800)
    return np.stack([x, (height_m - math.sin(pitch_rad) * z) / math.cos(pitch_rad), z], -1)


@pytest.mark.parametrize("pitch", [0.0, 0.03, -0.02, 0.3])
def test_exact_plane(pitch):
    fit = fit_plane(points_on(1.65, pitch))
    np.testing.assert_allclose(fit.plane, [0, math.cos(pitch), math.sin(pitch), -1.65], atol=1e-9)
    assert (fit.inlier_ratio, fit.height_m) == (1.0, pytest.approx(1.65))


def test_plane_with_noise_and_outliers():
    rng = np.random.default_rng(4)
    points = points_on(1.5, 0.02)
    points *= 1 + 0.02 * rng.standard_normal((len(points), 1))
    outliers = rng.random(len(points)) < 0.35
    points[outliers, 1] -= rng.uniform(0.3, 1.2, outliers.sum())  # kerbs and cars, always above the road
    fit = fit_plane(points)
    assert fit.height_m == pytest.approx(1.5, abs=0.015)
    assert fit.inlier_ratio == pytest.approx(0.65, abs=0.06)
    assert 0.01 < fit.spread < 0.04
    np.testing.assert_array_equal(fit.plane, fit_plane(points).plane)


def test_no_plane():
    rng = np.random.default_rng(5)
    assert fit_plane(points_on(1.5)[:20]) is None
    assert fit_plane(rng.uniform(1, 20, (500, 3))) is None
    assert fit_plane(points_on(1.5)[:, [1, 0, 2]]) is None  # a wall beside the camera
    assert fit_plane(points_on(1.5) * [1, -1, 1]) is None  # a ceiling
    assert fit_plane(np.ones((100, 3))) is None


def run(estimator, stamps, network_scale, road=True, noise=None):
    """Feed a level road of height 1.65 m that the network sees 1 / network_scale as large."""
    depth = plane_depth(1.65) / np.float32(network_scale)
    mask = (depth > 0) & road
    for i, stamp in enumerate(stamps):
        frame = depth if noise is None else (depth * np.float32(noise[i]))
        estimate = estimator.update(int(stamp), frame, mask, CAMERA)
    return estimate


def test_off_without_a_height():
    estimate = run(ScaleEstimator(ScaleConfig()), [0], 1.3)
    assert (estimate.scale, estimate.variance, estimate.health) == (1.0, math.inf, ScaleHealth.OFF)
    assert np.isnan(estimate.plane).all() and estimate.inlier_ratio == 0


def test_scale_of_a_perfect_road():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    first = run(estimator, np.arange(4) * SECOND // 10, 1.25)
    assert (first.scale, first.variance, first.health) == (1.0, math.inf, ScaleHealth.STARTING)
    assert first.plane[3] == pytest.approx(-1.65 / 1.25, rel=1e-4)
    estimate = run(estimator, np.arange(4, 30) * SECOND // 10, 1.25)
    assert estimate.health == ScaleHealth.OK
    assert estimate.scale == pytest.approx(1.25, rel=1e-4)
    np.testing.assert_allclose(estimate.plane, [0, 1, 0, -1.65], atol=1e-3)
    assert estimate.inlier_ratio == 1.0
    assert 0.03 < math.sqrt(estimate.variance) / estimate.scale < 0.035


@pytest.mark.parametrize("rate_hz", [5, 10, 30])
def test_time_constant_at_any_rate(rate_hz):
    """A step of the scale by 5 % is followed like a first-order lag of the time constant."""
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65, time_constant_s=2.0))
    step = SECOND // rate_hz
    run(estimator, np.arange(20 * rate_hz) * step, 1.0)
    estimate = run(estimator, np.arange(20 * rate_hz, 22 * rate_hz) * step, 1.05)
    share = math.log(estimate.scale) / math.log(1.05)
    assert share == pytest.approx(1 - math.exp(-1), abs=0.06)


def test_noise_is_smoothed_and_the_variance_is_honest():
    rng = np.random.default_rng(6)
    errors = []
    for _ in range(8):
        estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
        noise = np.exp(0.05 * rng.standard_normal(60))
        estimate = run(estimator, np.arange(60) * SECOND // 10, 1.0, noise=noise)
        errors.append(math.log(estimate.scale))
    # 3 % is for roads that are not flat; this one is.
    assert 0.003 < np.std(errors) < math.sqrt(estimate.variance - 0.03**2)


def test_an_outlier_frame_is_rejected():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    run(estimator, np.arange(30) * SECOND // 10, 1.0)
    odd = run(estimator, [3 * SECOND], 2.0)
    assert odd.scale == pytest.approx(1.0, rel=1e-4)
    assert np.isnan(odd.plane).all() and odd.inlier_ratio == 0


def test_without_a_road_the_scale_is_held_and_gets_uncertain():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65, stale_after_s=3.0))
    ok = run(estimator, np.arange(30) * SECOND // 10, 1.2)
    held = run(estimator, [2.9 * SECOND + 2 * SECOND], 1.2, road=False)
    stale = run(estimator, [2.9 * SECOND + 4 * SECOND], 1.2, road=False)
    assert (held.health, stale.health) == (ScaleHealth.OK, ScaleHealth.STALE)
    assert held.scale == stale.scale == ok.scale
    assert ok.variance < held.variance < stale.variance
    assert np.isnan(stale.plane).all()
    back = run(estimator, [7 * SECOND], 1.2)
    assert back.health == ScaleHealth.OK and back.variance < held.variance


def test_a_lasting_change_is_believed_in_the_end():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    run(estimator, np.arange(30) * SECOND // 10, 1.0)
    estimate = run(estimator, np.arange(30, 150) * SECOND // 10, 1.4)
    assert estimate.health == ScaleHealth.OK
    assert estimate.scale == pytest.approx(1.4, rel=0.02)


def test_a_step_back_in_time_holds_the_scale():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    run(estimator, (1000 + np.arange(30)) * SECOND, 1.2)
    estimate = run(estimator, [0], 1.2)
    assert estimate.health == ScaleHealth.OK and estimate.scale == pytest.approx(1.2, rel=1e-4)


@pytest.mark.skipif("DVPS_DATA" not in os.environ, reason="DVPS_DATA is not set: no real drive")
def test_height_of_a_real_camera_from_its_laser_scanner():
    """KITTI's cameras are 1.65 m above the road (its setup drawing)."""
    root = Path(os.environ["DVPS_DATA"]) / "kitti_0005"
    camera = load_kitti_camera(root)
    heights = []
    for i in range(0, 150, 25):
        depth = cv2.imread(str(root / "lidar_depth_02" / f"{i:010d}.png"), cv2.IMREAD_UNCHANGED) / 256
        points = unproject(np.where(depth > 0, depth, np.nan).astype(np.float32), camera)
        ahead = (np.abs(points[..., 0]) < 2.5) & (points[..., 2] < 15) & (points[..., 1] > 0.5)
        fit = fit_plane(points[ahead])
        heights.append(fit.height_m)
        assert fit.inlier_ratio > 0.6 and fit.plane[1] > 0.995
    assert np.median(heights) == pytest.approx(1.65, abs=0.06)


def test_wrong_maps_are_refused():
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    depth = plane_depth(1.65)
    with pytest.raises(InputError, match="road: expected bool"):
        estimator.update(0, depth, np.ones(depth.shape, np.uint8), CAMERA)
    with pytest.raises(InputError, match="depth_m: expected float32"):
        estimator.update(0, depth[1:], depth[1:] > 0, CAMERA)


def test_sky_and_holes_in_the_road_mask_do_no_harm():
    depth = plane_depth(1.65)
    road = depth > 0
    depth[road & (np.random.default_rng(7).random(depth.shape) < 0.2)] = np.nan
    depth[-1, :20] = np.inf
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.65))
    for i in range(6):
        estimate = estimator.update(i * SECOND // 10, depth, road, CAMERA)
    assert estimate.scale == pytest.approx(1.0, rel=1e-4)
