# SPDX-License-Identifier: Apache-2.0
"""Depth flicker of a wall that the camera drives towards."""

import numpy as np
import pytest

from dvps_ros.metrics import DepthFlicker

HEIGHT, WIDTH = 40, 64
INTRINSICS = np.array([50.0, 50.0, 31.5, 19.5], np.float32)
STATIC = np.ones((HEIGHT, WIDTH), bool)


def drive(predict, frames=4, static=STATIC, sequence=lambda t: 0):
    """Flicker of ``predict(truth, t)``; the wall stands at 20 m, the camera makes 1 m a frame."""
    flicker = DepthFlicker()
    for t in range(frames):
        truth = np.full((HEIGHT, WIDTH), 20.0 - t, np.float32)
        pose = np.eye(4)
        pose[2, 3] = t
        predicted = predict(truth, t).astype(np.float32)
        flicker.update(predicted, truth, static, INTRINSICS, pose, sequence(t))
    return flicker.compute()


def test_depth_that_follows_the_motion_does_not_flicker_even_at_a_wrong_scale():
    assert drive(lambda truth, t: 0.7 * truth) == pytest.approx(0.0, abs=1e-6)


def test_depth_that_breathes_flickers_by_as_much():
    assert drive(lambda truth, t: truth * (1.0 if t % 2 else 1.1)) == pytest.approx(np.log(1.1), rel=1e-5)


def test_depth_that_stands_still_while_the_camera_moves_flickers():
    # 20 m in each of two frames, while the truth goes from 20 to 19 m.
    assert drive(lambda truth, t: 0 * truth + 20, frames=2) == pytest.approx(np.log(20 / 19), rel=1e-5)


def test_moving_pixels_and_unknown_depth_do_not_count():
    left = np.s_[:, : WIDTH // 2]

    def spoilt_left(truth, t):
        predicted = truth.copy()
        predicted[left] *= 1 + t
        return predicted

    right_only = STATIC.copy()
    right_only[left] = False
    assert drive(spoilt_left, static=right_only) == pytest.approx(0.0, abs=1e-6)
    assert drive(lambda truth, t: np.where(spoilt_left(truth, t) == truth, truth, np.inf)) == pytest.approx(
        0.0, abs=1e-6
    )


def test_a_point_that_was_hidden_before_does_not_count():
    # A near board covers the left half of the first picture, and is gone in the second.
    flicker = DepthFlicker()
    first = np.full((HEIGHT, WIDTH), 20.0, np.float32)
    first[:, : WIDTH // 2] = 5.0
    second = np.full((HEIGHT, WIDTH), 20.0, np.float32)
    predicted = first.copy()
    predicted[:, : WIDTH // 2] = 9.0
    flicker.update(predicted, first, STATIC, INTRINSICS, np.eye(4))
    flicker.update(second * np.float32(1.02), second, STATIC, INTRINSICS, np.eye(4))
    assert flicker.compute() == pytest.approx(np.log(1.02), rel=1e-4)


def test_nothing_to_follow_is_no_value():
    assert drive(lambda truth, t: truth, frames=1) is None
    assert drive(lambda truth, t: truth, static=~STATIC) is None
    assert drive(lambda truth, t: truth * (1 + t), sequence=lambda t: t) is None  # every frame a new clip
