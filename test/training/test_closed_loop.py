# SPDX-License-Identifier: Apache-2.0
"""The closed loop with a head that knows the truth, and with one that is wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.driver import pursuit
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.errors import InputError
from dvps_ros.runtime.steering import SteeringResult
from dvps_ros.training.steering.closed_loop import (
    Conditions,
    RoadDrive,
    Wheels,
    drive_on,
    drive_road,
    overall,
)
from dvps_ros.training.steering.drives import lane_m, street_seeds
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(64, 32, 80.0)


class BlindEngine:
    """An engine without eyes: its tokens are ones."""

    height, width = 32, 64
    description = "blind"
    manifest = SimpleNamespace(weights=SimpleNamespace(sha256="0"))

    def reset(self):
        pass

    def run(self, image, intrinsics, wanted):
        return SimpleNamespace(latent=np.ones((2, 3), np.float32))


class Driver:
    """Stands where window and head are; ``steer`` answers from the ego vehicle's state."""

    def __init__(self, world, steer):
        self.world, self.steer, self.stamps = world, steer, []

    def forget(self):
        pass

    def process(self, stamp_ns, tokens, weights):
        self.stamps.append(stamp_ns)
        angle = self.steer(self.world.ego.at(stamp_ns * 1e-9))
        return SteeringResult(stamp_ns, angle, math.tan(angle) / WHEELBASE_M, 1.0)


def a_world() -> World:
    return World(WorldConfig(seed=3, style="residential", traffic=0.0, view_m=20.0))


def drive(steer, **conditions):
    world = a_world()
    driver = Driver(world, lambda e: steer(world, e))
    return drive_road(world, CAMERA, BlindEngine(), driver, Conditions(**conditions)), driver


def truth(world, e):
    return math.atan(WHEELBASE_M * pursuit(world.scene.route, e, lane_m(world)))


def test_who_knows_the_truth_stays_in_the_lane_late_and_with_frames_lost():
    road, driver = drive(truth, latency_s=0.1, drop=0.3, seconds=12.0)
    assert road.left_lane_at_s is None and np.abs(road.lateral_m).max() < 0.5
    assert road.t_s[0] == pytest.approx(0.2, abs=0.11)  # the first command takes its time
    assert road.driven_s == pytest.approx(12.0)
    assert road.dropped > 10 and road.dropped + len(driver.stamps) == 121
    figures = overall([road])
    assert figures["roads_left"] == 0 and figures["seconds_to_leaving"] is None
    assert figures["lateral_mean_m"] == pytest.approx(np.abs(road.lateral_m).mean(), abs=1e-3)


def test_who_steers_aside_leaves_the_lane_and_the_drive_ends():
    road, _ = drive(lambda world, e: -0.1, seconds=30.0)
    assert road.left_lane_at_s is not None and road.t_s[-1] == road.left_lane_at_s < 10.0
    assert road.lateral_m[-1] < -0.5 * road.lane_width_m <= min(road.lateral_m[:-1])
    assert overall([road])["roads_left"] == 1
    assert road.summary()["left_lane_at_s"] == road.left_lane_at_s


def test_a_command_acts_when_it_arrives():
    world = a_world()
    wheels = Wheels(world)
    wheels.send(0.5, 0.2)
    keeper = wheels(0.4, world.ego.at(0.0))
    assert not wheels.handed_over and keeper != 0.2
    assert wheels(0.5, world.ego.at(0.0)) == 0.2 and wheels.handed_over
    wheels.send(0.6, -0.1)
    assert wheels(0.58, world.ego.at(0.0)) == 0.2 and wheels(0.6, world.ego.at(0.0)) == -0.1


def test_a_road_that_was_left_is_followed_by_new_ones_until_all_time_is_driven():
    """Ten seconds, at most 4 s a road; the second road is left after 1.5 s."""
    asked = []

    def drive(seed, longest_s):
        asked.append((seed, longest_s))
        return RoadDrive(seed, "city", 3.0, True, driven_s=1.5 if len(asked) == 2 else longest_s)

    roads = list(drive_on(drive, 2_000_000, 10.0, 4.0, 10.0))
    assert [s for _, s in asked] == [4.0, 4.0, 4.0, 0.5] and sum(r.driven_s for r in roads) == 10.0
    assert [seed for seed, _ in asked] == street_seeds(2_000_000, 4)


def test_roads_with_and_without_lines_are_told_apart():
    def drive(seed, longest_s):
        marked = World(WorldConfig(seed=seed)).scene.markings
        left = None if marked else 0.1
        return RoadDrive(seed, "city", 3.0, marked, left, [0.0, 0.1], [0.0, 0.2], driven_s=longest_s)

    for streets in (None, True, False):
        roads = list(drive_on(drive, 2_000_006, 8.0, 2.0, 10.0, marked=streets))
        assert [r.seed for r in roads] == street_seeds(2_000_006, 4, marked=streets)
        assert streets is None or {r.marked for r in roads} == {streets}
        figures, unmarked = overall(roads), sum(not r.marked for r in roads)
        assert figures["roads_left"] == unmarked and figures["roads_with_lines_left"] == 0
        assert figures["roads_with_lines"] == 4 - unmarked
        assert roads[0].summary()["marked"] == roads[0].marked


def test_refuses_conditions_that_cannot_be():
    with pytest.raises(InputError, match="latency of at least 0.04 s"):
        drive(truth, latency_s=0.0)
