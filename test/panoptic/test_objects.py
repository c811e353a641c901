# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scene import HEIGHT, TENTH, WIDTH, Box, frame

from dvps_ros.config import TrackerConfig
from dvps_ros.errors import InputError
from dvps_ros.geometry.camera import Fit
from dvps_ros.panoptic.objects import (
    ObjectStates,
    _surfaces,
    correct,
    measurement_noise,
    motion_log_odds,
    predict,
)
from dvps_ros.panoptic.track import Tracker
from dvps_ros.types import Motion, TrackState

FIT = Fit.letterbox(2 * WIDTH, 2 * HEIGHT, WIDTH, HEIGHT)
"""A camera twice as large as the network's input."""


class Scene:
    """Tracker and states, fed with boxes whose points all lie at a given place."""

    def __init__(self):
        self.tracker = Tracker(TrackerConfig(), (WIDTH, HEIGHT))
        self.states = ObjectStates()

    def step(self, stamp_ns, box, place_m, pose=None, scale=1.0):
        segments, segment_map, embedding = frame(*([box] if box else []))
        points = np.full((*segment_map.shape, 3), np.nan, np.float32)
        points[segment_map == 0] = place_m
        tracks = self.tracker.update(stamp_ns, segments, segment_map, embedding)
        return self.states.update(stamp_ns, tracks, points, segment_map, FIT, pose, scale=scale)


def test_surface_equals_numpy():
    rng = np.random.default_rng(0)
    segment_map = rng.choice([0, 3, 255], (24, 32)).astype(np.uint8)
    points = rng.normal([1, 2, 10], [0.5, 0.3, 0.2], (24, 32, 3)).astype(np.float32)
    points[rng.random((24, 32)) < 0.1] = np.nan
    bleeding = rng.random((24, 32)) < 0.2
    points[bleeding, 2] = 40
    box, center, extent = _surfaces(points, segment_map)
    for row in (0, 3):
        mine = points[(segment_map == row) & np.isfinite(points[..., 2])].astype(float)
        away = np.abs(mine[:, 2] - np.median(mine[:, 2]))
        near = mine[away <= max(2.5 * np.median(away), 0.05 * np.median(mine[:, 2]))]
        assert near[:, 2].max() < 20
        low, high = np.percentile(near, [5, 95], 0)
        inner = np.percentile(near[:, 2], [20, 80])
        low[2] = max(low[2], inner.mean() - 0.75 * np.diff(inner).item())
        high[2] = min(high[2], inner.mean() + 0.75 * np.diff(inner).item())
        np.testing.assert_allclose(center[row], (low + high) / 2)
        np.testing.assert_allclose(extent[row], high - low)
        y, x = np.nonzero(segment_map == row)
        np.testing.assert_array_equal(box[row], [x.min(), y.min(), x.max() + 1, y.max() + 1])
    assert np.isnan(center[1]).all()


def test_depth_that_blends_into_the_background_does_not_lengthen_an_object():
    """A car 2 m deep: a quarter of its cells, at its borders, lie on the way to the wall 20 m behind."""
    rng = np.random.default_rng(1)
    segment_map = np.zeros((20, 20), np.uint8)
    points = np.zeros((20, 20, 3), np.float32)
    points[..., 2] = rng.uniform(10, 12, (20, 20))
    border = np.ones((20, 20), bool)
    border[1:-1, 2:-2] = False
    points[border, 2] = rng.uniform(10, 32, border.sum())
    assert 0.2 < border.mean() < 0.4
    _, center, extent = _surfaces(points, segment_map)
    assert 1.5 < extent[0, 2] < 2.6 and abs(center[0, 2] - 11) < 0.4


def test_prediction_by_hand():
    mean = np.array([[1.0, 2, 3, 10, 0, -5]])
    moved, covariance = predict(mean, np.eye(6)[None], 0.2)
    np.testing.assert_allclose(moved, [[3, 2, 2, 10, 0, -5]])
    assert covariance[0, 0, 0] == pytest.approx(1 + 0.04 + 4 * 0.2**3 / 3)
    assert covariance[0, 0, 3] == pytest.approx(0.2 + 4 * 0.02)
    assert covariance[0, 3, 3] == pytest.approx(1 + 4 * 0.2)
    assert covariance[0, 0, 1] == 0


def test_correction_equals_the_textbook():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    mean, covariance = rng.normal(size=6), root @ root.T
    noise = np.diag([0.5, 0.7, 2.0])
    place = mean[:3] + [0.3, -0.2, 0.4]
    H = np.eye(3, 6)
    K = covariance @ H.T @ np.linalg.inv(H @ covariance @ H.T + noise)
    new_mean, new_covariance, distance = correct(mean[None], covariance[None], place[None], noise[None])
    np.testing.assert_allclose(new_mean[0], mean + K @ (place - H @ mean))
    np.testing.assert_allclose(new_covariance[0], (np.eye(6) - K @ H) @ covariance, atol=1e-12)
    surprise = place - H @ mean
    S = H @ covariance @ H.T + noise
    assert distance[0] == pytest.approx(surprise @ np.linalg.inv(S) @ surprise)


def test_a_wild_measurement_counts_less():
    mean, covariance, noise = np.zeros((1, 6)), np.eye(6)[None], np.eye(3)[None]
    near, *_ = correct(mean, covariance, np.array([[2.0, 0, 0]]), noise)
    assert near[0, 0] == pytest.approx(1.0)
    wild, *_ = correct(mean, covariance, np.array([[40.0, 0, 0]]), noise)
    # Innovation variance 2, distance 800: noise so large that the distance is the gate, 16.3.
    assert wild[0, 0] == pytest.approx(40 / (1600 / 16.3))


def test_evidence_of_motion_by_hand():
    # Known velocity: ln N(v; 0, 6^2) - ln N(v; 0, 0.4^2), in three dimensions.
    v, exact, unknown = np.array([[3.0, 0, 0], [0.1, 0, 0]]), np.zeros((2, 3, 3)), 1e6 * np.eye(3)[None]
    expected = -0.5 * np.array([9, 0.01]) * (1 / 36 - 1 / 0.16) - 3 * math.log(6 / 0.4)
    np.testing.assert_allclose(motion_log_odds(v, exact), expected)
    assert motion_log_odds(v[:1], unknown)[0] == pytest.approx(0, abs=1e-3)


def test_noise_is_long_along_the_line_of_sight():
    noise = measurement_noise(np.array([[0.0, 0, 50], [30.0, 0, 0]]))
    np.testing.assert_allclose(
        np.sqrt(np.diag(noise[0])), [math.hypot(0.5, 0.15)] * 2 + [math.hypot(2.5, 0.15)]
    )
    assert noise[1, 0, 0] > noise[1, 2, 2]


def test_box_area_and_place_of_one_object():
    (instance,) = Scene().step(0, Box(4, 6, 5, 3, 0), (1.0, 0.5, 12.0))
    assert instance.box_px == (32, 48, 40, 24)  # 8 camera pixels a cell
    assert instance.area_px == 15 * 64
    np.testing.assert_allclose(instance.centroid_m, [1, 0.5, 12])
    np.testing.assert_allclose(instance.extent_m, 0)
    np.testing.assert_array_equal(instance.velocity_mps, 0)
    assert (instance.state, instance.motion) == (TrackState.TENTATIVE, Motion.UNKNOWN)
    assert (instance.age_s, instance.unseen_s, instance.class_id) == (0, 0, 13)


def test_box_stays_inside_the_camera_image():
    fit = Fit.letterbox(256, 64, WIDTH, HEIGHT)  # 128x32 in the middle, from row 32 on
    tracker, states = Tracker(TrackerConfig(), (WIDTH, HEIGHT)), ObjectStates()
    segments, segment_map, embedding = frame(Box(0, 0, 32, 24, 0))
    tracks = tracker.update(0, segments, segment_map, embedding)
    points = np.ones((24, 32, 3), np.float32)
    (instance,) = states.update(0, tracks, points, segment_map, fit)
    assert instance.box_px == (0, 0, 256, 64)


def test_velocity_relative_to_the_camera():
    scene = Scene()
    for i in range(30):
        (instance,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0), (0.0, 1.0, 20 - 0.5 * i))
    np.testing.assert_allclose(instance.velocity_mps, [0, 0, -5], atol=0.15)
    np.testing.assert_allclose(instance.centroid_m, [0, 1, 20 - 14.5], atol=0.1)
    sigma = np.sqrt(np.diag(instance.covariance))
    assert sigma[2] < 0.3 and sigma[5] < 1.2
    assert np.linalg.eigvalsh(instance.covariance).min() > 0


def pose_at(z, yaw=0.0):
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    pose[2, 3] = z
    return pose


def test_velocity_over_ground_of_a_parked_car():
    # The camera drives at 10 m/s past a car that stands 40 m ahead: no velocity, and static.
    scene = Scene()
    for i in range(30):
        place = (2.0, 1.0, 40.0 - 1.0 * i)
        (instance,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0), place, pose_at(1.0 * i))
    np.testing.assert_allclose(instance.velocity_mps, 0, atol=0.05)
    np.testing.assert_allclose(instance.centroid_m, place, atol=0.05)
    assert instance.motion == Motion.STATIC


@pytest.mark.parametrize(("poses", "velocity_mps"), [(False, -10.0), (True, 0.0)], ids=["camera", "world"])
def test_a_better_scale_moves_nothing(poses, velocity_mps):
    """A parked car that the camera nears at 10 m/s; what was thought 0.8 of the truth becomes all of it."""
    scene = Scene()
    for i in range(25):
        scale = 0.8 if i < 15 else 1.0
        place = np.array([2.0, 1.0, 40.0 - i])
        pose = pose_at(1.0 * i) if poses else None
        (instance,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0), scale * place, pose, scale)
        if i >= 15:
            np.testing.assert_allclose(instance.centroid_m, place, atol=0.1)
            np.testing.assert_allclose(instance.velocity_mps, [0, 0, velocity_mps], atol=0.4)


def test_velocity_over_ground_is_in_camera_axes():
    # The world's z runs along the camera's -x when it looks a quarter turn to the right (yaw +90).
    scene = Scene()
    pose = pose_at(0.0, math.pi / 2)
    for i in range(30):
        place = np.linalg.inv(pose) @ [15.0, 0.0, 0.8 * i, 1.0]
        (instance,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0), place[:3], pose)
    np.testing.assert_allclose(instance.velocity_mps, [-8, 0, 0], atol=0.3)
    assert instance.motion == Motion.MOVING


@pytest.mark.parametrize(
    ("moving", "verdict"), [(0.95, Motion.MOVING), (0.05, Motion.STATIC), (0.5, Motion.UNKNOWN)]
)
def test_without_poses_the_network_says_what_moves(moving, verdict):
    scene = Scene()
    for i in range(5):
        (instance,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0, moving=moving), (0, 0, 10))
    assert instance.motion == verdict


def test_the_verdict_does_not_flicker():
    scene, verdicts = Scene(), set()
    for i in range(20):
        box = Box(4, 4, 6, 5, 0, moving=0.95 if i < 6 else (0.4, 0.6)[i % 2])
        (instance,) = scene.step(i * TENTH, box, (0, 0, 10))
        if i > 2:
            verdicts.add(instance.motion)
    assert verdicts == {Motion.MOVING}


def test_a_jump_is_doubted_first_then_believed():
    scene = Scene()
    for i in range(20):
        scene.step(i * TENTH, Box(4, 4, 6, 5, 0), (0.0, 0.0, 15.0))
    seen = [
        scene.step(i * TENTH, Box(4, 4, 6, 5, 0), (0.0, 0.0, 40.0))[0].centroid_m[2] for i in range(20, 23)
    ]
    assert seen[0] < 20
    assert seen[2] == 40


def test_a_lost_object_is_predicted():
    scene = Scene()
    for i in range(20):
        (seen,) = scene.step(i * TENTH, Box(4, 4, 6, 5, 0), (0.5 * i, 0.0, 15.0))
    (lost,) = scene.step(22 * TENTH, None, (0, 0, 0))
    assert (lost.state, lost.area_px, lost.box_px) == (TrackState.LOST, 0, (0, 0, 0, 0))
    assert lost.unseen_s == pytest.approx(0.3) and lost.age_s == pytest.approx(2.2)
    np.testing.assert_allclose(lost.centroid_m, seen.centroid_m + 0.3 * seen.velocity_mps)
    assert np.trace(lost.covariance) > np.trace(seen.covariance)


def test_an_object_without_depth_has_no_place():
    (instance,) = Scene().step(0, Box(4, 4, 6, 5, 0), (np.nan,) * 3)
    assert np.isnan(instance.centroid_m).all() and np.isnan(instance.velocity_mps).all()
    assert np.isinf(np.diag(instance.covariance)).all()
    assert instance.area_px > 0


def test_time_backwards_and_lost_poses_start_anew():
    scene = Scene()
    for i in range(10):
        scene.step((50 + i) * TENTH, Box(4, 4, 6, 5, 0), (0, 0, 10 + i), pose_at(0.0))
    (instance,) = scene.step(60 * TENTH, Box(4, 4, 6, 5, 0), (0, 0, 30), None)
    np.testing.assert_allclose(instance.centroid_m, [0, 0, 30])
    np.testing.assert_array_equal(instance.velocity_mps, 0)
    (instance,) = scene.step(0, Box(4, 4, 6, 5, 0), (0, 0, 5))
    np.testing.assert_allclose(instance.centroid_m, [0, 0, 5])


def test_wrong_input_is_refused():
    scene = Scene()
    with pytest.raises(InputError, match="world_from_camera: expected"):
        scene.step(0, Box(4, 4, 6, 5, 0), (0, 0, 5), np.full((4, 4), np.nan))
    tracks = scene.tracker.update(TENTH, *frame())
    with pytest.raises(InputError, match=r"points_m: expected float32 \[24x32x3\]"):
        scene.states.update(TENTH, tracks, np.zeros((24, 31, 3), np.float32), frame()[1], FIT)
