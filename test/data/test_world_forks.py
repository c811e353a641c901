# SPDX-License-Identifier: Apache-2.0
"""Where the road forks, the branch is a road of its own: its course, its surface, and nothing in its way."""

import math

import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.branch import Branch
from dvps_ros.data.world.forks import Forks
from dvps_ros.data.world.materials import BUILDING, FENCE, POLE, ROAD, WALL
from dvps_ros.data.world.styles import STYLES
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(256, 128, 90.0)
# Seed, style, and what happens at the fork that comes first.
TURN_LEFT_STRAIGHT = (24, "city")
"""The branch goes straight on to the right, our road turns to the left."""
LEAVES_LEFT = (48, "city")


def world_of(seed, style, **more):
    options = dict(
        camera_height_m=1.6, camera_pitch_deg=3.0, camera_yaw_deg=0.0, weather="clear", effects=False
    )
    return World(WorldConfig(seed=seed, style=style, **{**options, **more}))


def first_branch(world):
    fork = world.scene.forks.near(0.0, 400.0)[0]
    return world.scene.branch(fork.s, fork.s + 1.0)


def direction(world, s, d):
    """Heading in the world of a course (s, d) at its ends, rad."""
    points = world.scene.route.points(s, d)[:, :2]
    first, last = points[1] - points[0], points[-1] - points[-2]
    return math.atan2(first[1], first[0]), math.atan2(last[1], last[0])


@pytest.mark.parametrize(("seed", "style"), [TURN_LEFT_STRAIGHT, LEAVES_LEFT, (58, "highway"), (54, "rural")])
def test_one_of_the_two_goes_straight_on_and_they_part_by_the_angle(seed, style):
    world = world_of(seed, style)
    branch = first_branch(world)
    fork = branch.fork
    s = np.arange(fork.s, fork.s + fork.length, 0.5)
    ours = direction(world, s, 0.0 * s)
    theirs = direction(world, s, fork.side * branch.q(s))
    turned = [math.remainder(b - a, 2 * math.pi) for a, b in (ours, theirs)]
    np.testing.assert_allclose(turned[1] - turned[0], fork.side * fork.angle, atol=0.03)
    # The road's own bends, a quarter of what they are elsewhere, are all that bends the other one.
    own = 0.25 * world.scene.style.curvature * fork.length + 0.03
    straight = turned[1] if fork.turns else turned[0]
    assert abs(straight) < own


def test_the_places_above_show_both_kinds():
    kinds = {first_branch(world_of(*place)).fork.turns for place in (TURN_LEFT_STRAIGHT, LEAVES_LEFT)}
    assert kinds == {True, False}


@pytest.mark.parametrize(("seed", "style"), [TURN_LEFT_STRAIGHT, LEAVES_LEFT])
def test_the_ego_vehicle_keeps_its_lane_through_the_fork(seed, style):
    world = world_of(seed, style, traffic=0.0)
    end = first_branch(world).fork.s + 60.0
    lane, t, passed = world.scene.section.lane_d(world.scene.ego_lane), 0.0, 0
    while (e := world.ego.at(t)).s < end:
        side, _ = world.scene.route.beside(e)
        assert abs(side - lane) < 0.9
        passed += e.s > end - 60.0
        t += 0.2
    assert passed > 5


@pytest.mark.parametrize(("seed", "style"), [TURN_LEFT_STRAIGHT, LEAVES_LEFT])
def test_the_branch_is_seen_as_road_and_the_wedge_is_not(seed, style):
    world = world_of(seed, style, traffic=0.0, camera_height_m=5.0, camera_pitch_deg=15.0)
    branch = first_branch(world)
    t = 0.0
    while world.ego.at(t).s < branch.nose - 15.0:
        t += 0.25
    sample = next(world.frames(CAMERA, start_s=t))
    camera_from_world = np.linalg.inv(sample.world_from_camera[0])

    def classes(s, d, up):
        """Class at the pixels of the points that are seen (those that nothing hides), of all in the image."""
        points = world.scene.route.points(s, d, up) @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        ahead = points[points[:, 2] > 1.0]
        u = np.rint(CAMERA.fx * ahead[:, 0] / ahead[:, 2] + CAMERA.cx).astype(int)
        v = np.rint(CAMERA.fy * ahead[:, 1] / ahead[:, 2] + CAMERA.cy).astype(int)
        inside = (u >= 0) & (u < CAMERA.width) & (v >= 0) & (v < CAMERA.height)
        depth = sample.depth_m[0][v[inside], u[inside]]
        seen = np.abs(depth / ahead[inside, 2] - 1.0) < 0.05
        return sample.class_map[0][v[inside], u[inside]][seen]

    s = np.arange(branch.mouth + 4.0, branch.nose + 60.0, 0.25)
    on_it = np.concatenate([classes(s, branch.side * (branch.q(s) + k), 0.0) for k in (-1.0, 0.0, 1.0)])
    assert len(on_it) > 15 and (on_it == ROAD).mean() > 0.9
    s = np.arange(branch.nose + 5.0, branch.nose + 30.0, 0.25)
    edge = abs(world.scene.section.left_edge if branch.side > 0 else world.scene.section.right_edge)
    low, _ = branch.edges(s)
    between = classes(s, branch.side * 0.5 * (edge + low), world.scene.section.kerb)
    assert len(between) > 3 and (between == ROAD).mean() < 0.1


@pytest.mark.parametrize(
    ("seed", "style"), [TURN_LEFT_STRAIGHT, LEAVES_LEFT, (1, "residential"), (54, "rural")]
)
def test_nothing_is_built_on_the_branch(seed, style):
    world = world_of(seed, style)
    branch = first_branch(world)
    scene = world.scene
    s = np.arange(branch.mouth + 2.0, branch.fork.s + 120.0, 0.5)
    middle = scene.route.points(s, branch.side * branch.q(s))
    checked = 0
    for number in range(int(branch.fork.s // 40), int((branch.fork.s + 120) // 40) + 1):
        for part in scene.block(number).parts:
            kinds = set(scene.materials.table[list(part.materials), 1].astype(int))
            if not kinds & {BUILDING, FENCE, POLE, WALL}:
                continue
            mesh = scene.pool.mesh(part.mesh)
            points = mesh.vertices @ part.world_from_part[:3, :3].T + part.world_from_part[:3, 3]
            distance = np.linalg.norm(points[:, None, :2] - middle[None, :, :2], axis=2)
            nearest = middle[distance.argmin(1)]
            low = points[:, 2] - nearest[:, 2] < 2.5  # arms of lamps reach over it
            if low.any():
                assert distance.min(1)[low].min() > branch.half - 0.3, kinds
                checked += 1
    assert checked > 10


@pytest.mark.parametrize(("seed", "style"), [TURN_LEFT_STRAIGHT, LEAVES_LEFT])
def test_one_comes_along_the_branch_and_waits_beside_our_road(seed, style):
    world = world_of(seed, style)
    branch = first_branch(world)
    route, x = world.scene.route, world.scene.section
    (waiting,) = (a for a in world.scene.block(int(branch.mouth // 40)).agents if a.during[1] == math.inf)
    begin, stopped = waiting.moving
    at = np.array([waiting.poses(t)[0] for t in np.linspace(begin, stopped + 5.0, 400)])
    speed = np.linalg.norm(np.diff(at[:, :3, 3], axis=0), axis=1) / ((stopped + 5.0 - begin) / 399)
    assert speed[:50].min() > 4.0 and speed[-50:].max() == 0.0  # it drives, and then stands
    assert np.abs(np.diff(speed)).max() < 0.5  # and does not stop at once
    assert waiting.is_moving(stopped - 0.1) and not waiting.is_moving(stopped + 0.1)
    # It looks the way that it came, and stands on the branch, clear of our road.
    heading = np.diff(at[:2, :2, 3], axis=0)[0]
    assert heading @ at[0, :2, 0] > 0.99 * np.linalg.norm(heading)
    s = np.arange(branch.fork.s, branch.fork.s + 100.0, 0.05)
    edge = x.left_edge if branch.side > 0 else x.right_edge
    to_our_edge = np.linalg.norm(route.points(s, edge)[:, :2] - at[-1, :2, 3], axis=1).min()
    to_middle = np.linalg.norm(
        route.points(s, branch.side * branch.q(s))[:, :2] - at[-1, :2, 3], axis=1
    ).min()
    assert to_our_edge > 1.2 and to_middle < branch.half - 0.8


def test_a_median_keeps_leavers_on_their_side_and_density_0_has_no_fork():
    style = STYLES["highway"]
    assert {f.side for seed in range(8) for f in Forks(style, seed, 1.0, right_only=True).near(0, 4000)} == {
        -1
    }
    assert {f.side for seed in range(8) for f in Forks(style, seed, 1.0).near(0, 4000)} == {-1, 1}
    assert Forks(style, 1, 0.0).near(0, 4000) == []
    assert world_of(*LEAVES_LEFT, forks=0.0).scene.branch(0.0, 1000.0) is None


def test_forks_are_the_same_however_they_are_asked_for():
    a, b = (Forks(STYLES["city"], 5, 1.0) for _ in range(2))
    stepwise = {f for s in np.arange(0.0, 3000.0, 35.0) for f in a.near(s, s + 35.0)}
    assert stepwise == set(b.near(0.0, 3000.0)) and len(stepwise) > 3
    ends = sorted((f.s, f.end) for f in stepwise)
    assert all(next_s > end for (_, end), (next_s, _) in zip(ends[:-1], ends[1:], strict=True))


def test_a_branch_on_a_straight_road_is_the_integral_of_its_slope():
    """tan of the smooth step of the angle, summed by hand over metres."""
    world = world_of(*LEAVES_LEFT)
    fork = first_branch(world).fork

    class Straight:
        def at(self, s):
            return np.zeros((*np.shape(s), 6))

    section = world.scene.section
    branch = Branch(fork, Straight(), section, one_way=False)
    edge = section.left_edge if fork.side > 0 else -section.right_edge
    x = np.linspace(0.0, 1.0, 100_001)
    slope = np.tan(fork.angle * x * x * (3 - 2 * x))
    across = fork.length * np.trapezoid(slope, x) + 10.0 * math.tan(fork.angle)
    np.testing.assert_allclose(branch.q(fork.s + fork.length + 10.0), edge - branch.half + across, atol=0.6)
