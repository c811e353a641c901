# SPDX-License-Identifier: Apache-2.0
"""The synthetic world's truth agrees with itself: depth, poses, flow, ids, motion."""

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, demo_world, draw_camera, shapes
from dvps_ros.data.world.driver import WanderingDriver, pursuit
from dvps_ros.data.world.route import EgoState
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(256, 128, 80.0)


@pytest.fixture(scope="module")
def clips():
    return {s: World(WorldConfig(seed=s)).clip(5, CAMERA, scene_flow=True) for s in (1, 3, 4, 7)}


def pixels(camera):
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    return u, v


def unproject(depth, camera):
    u, v = pixels(camera)
    return (
        np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
        * depth[..., None]
    )


def project(points, camera):
    z = points[..., 2]
    return np.stack(
        [camera.fx * points[..., 0] / z + camera.cx, camera.fy * points[..., 1] / z + camera.cy], -1
    )


def test_shapes_and_value_ranges(clips):
    is_thing = CITYSCAPES.is_thing
    for clip in clips.values():
        assert set(np.unique(clip.class_map)) <= {*range(19), 255}
        assert ((clip.instance_map > 0) == is_thing[clip.class_map]).all()
        assert ((clip.depth_m == 0) == (clip.class_map == CITYSCAPES.id_of("sky"))).all()
        assert np.isnan(clip.flow_px[0]).all()
        assert np.isfinite(clip.flow_px[1:]).mean() > 0.99
        assert set(np.unique(clip.moving)) <= {0, 1}
        assert np.abs(clip.steering_rad).max() < 0.6


def test_static_flow_is_ego_motion(clips):
    """Flow minus ego motion vanishes on what stands still."""
    for clip in clips.values():
        for t in range(1, 5):
            still = (clip.moving[t] == 0) & (clip.depth_m[t] > 0)
            previous_from_current = np.linalg.inv(clip.world_from_camera[t - 1]) @ clip.world_from_camera[t]
            points = unproject(clip.depth_m[t].astype(np.float64), CAMERA) @ previous_from_current[:3, :3].T
            points += previous_from_current[:3, 3]
            u, v = pixels(CAMERA)
            still &= points[..., 2] > 0.5
            error = np.abs(project(points, CAMERA) - np.stack([u, v], -1) - clip.flow_px[t])[still]
            assert error.max() < 0.01


def ego_scene_flow(clip, t):
    """What the scene flow would be if nothing but the camera moved; and the points in this camera frame."""
    points = unproject(clip.depth_m[t].astype(np.float64), CAMERA)
    previous_from_current = np.linalg.inv(clip.world_from_camera[t - 1]) @ clip.world_from_camera[t]
    return points @ previous_from_current[:3, :3].T + previous_from_current[:3, 3] - points, points


def test_scene_flow_minus_ego_motion_vanishes_on_static_things(clips):
    for clip in clips.values():
        assert np.isnan(clip.scene_flow_m[0]).all()
        for t in range(1, 5):
            ego, points = ego_scene_flow(clip, t)
            surface = clip.depth_m[t] > 0
            assert (np.isfinite(clip.scene_flow_m[t]).all(-1) == surface).all()
            still = surface & (clip.moving[t] == 0)
            error = np.linalg.norm(clip.scene_flow_m[t] - ego, axis=-1)
            # depth_m is float32: its rounding, turned by the ego motion, is what is left.
            assert (error / points[..., 2])[still].max() < 2e-6


def test_scene_flow_projects_to_flow(clips):
    for clip in clips.values():
        for t in range(1, 5):
            _, points = ego_scene_flow(clip, t)
            before = points + clip.scene_flow_m[t]
            seen = (clip.depth_m[t] > 0) & np.isfinite(clip.flow_px[t]).all(-1) & (before[..., 2] > 0.5)
            error = project(before, CAMERA) - np.stack(pixels(CAMERA), -1) - clip.flow_px[t]
            assert np.abs(error)[seen].max() < 0.01


def test_scene_flow_minus_ego_motion_is_the_velocity_of_vehicles():
    """On every pixel of a moving car: the way that its own pose went over ground."""
    world = World(WorldConfig(seed=1, style="city", traffic=2.0))
    clip, found, rigid, turning = world.clip(4, CAMERA, scene_flow=True), 0, 0, 0
    scene = world.scene
    agents = [scene.agent(lane, place) for lane in scene.lanes for place in range(-10, 20)]
    parts = {p.instance: a for a in agents if a for p in a.parts if a.along}
    for t in range(1, 4):
        ego, points = ego_scene_flow(clip, t)
        world_from_camera, world_from_previous = clip.world_from_camera[t], clip.world_from_camera[t - 1]
        moved = (clip.scene_flow_m[t] - ego) @ world_from_previous[:3, :3].T
        places = points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
        for number in np.unique(clip.instance_map[t][clip.class_map[t] == CITYSCAPES.id_of("car")]):
            if number not in parts:
                continue  # parked
            here, then = (parts[number].poses(0.1 * k)[0] for k in (t, t - 1))
            mask = clip.instance_map[t] == number
            back = places[mask] @ np.linalg.inv(here)[:3, :3].T + np.linalg.inv(here)[:3, 3]
            want = back @ then[:3, :3].T + then[:3, 3] - places[mask]
            # All but the wheels, which turn besides: no point of theirs is faster than twice the car.
            off = np.linalg.norm(moved[mask] - want, axis=1)
            assert off.max() < 1.1 * np.linalg.norm(want, axis=1).max() + 1e-3
            rigid, turning = rigid + (off < 1e-4).sum(), turning + (off >= 1e-4).sum()
            step = np.linalg.norm(np.median(moved[mask], axis=0))
            assert 0.5 < step / (0.1 * parts[number].speed) < 1.5
            found += 1
    assert found >= 6 and rigid > 5 * turning > 0


def test_wheels_roll_without_slipping():
    """The point of a wheel that touches the road stands still; the one on top is twice as fast as the car."""
    vehicle, step = shapes.car("sedan"), 1e-4
    for base_x in (0.0, 3.7):
        poses = []
        for way in (base_x, base_x + step):
            pose = np.eye(4)
            pose[0, 3] = way
            poses.append(shapes.rolling(vehicle.wheels, pose, way))
        for wheel, before, after in zip(vehicle.wheels, poses[0][1:], poses[1][1:], strict=True):
            for up, speed in ((-wheel.radius, 0.0), (0.0, 1.0), (wheel.radius, 2.0)):
                point = before[:3, :3].T @ [0.0, 0.0, up]  # of the wheel, over or under its axle now
                moved = after[:3, :3] @ point + after[:3, 3] - before[:3, :3] @ point - before[:3, 3]
                np.testing.assert_allclose(moved / step, [speed, 0.0, 0.0], atol=1e-3)
            np.testing.assert_allclose(before[:3, 3], [base_x + wheel.x, wheel.y, wheel.radius])


def test_vehicles_leave_room_for_riders_at_the_edge():
    passed = 0
    for seed in range(4):
        world = World(WorldConfig(seed=seed, style="city", traffic=2.0))
        scene, x = world.scene, world.scene.section
        for lane_key, riders_key in ((x.lanes_right - 1, 40), (20 + x.lanes_left, 41)):
            lane = next(q for q in scene.lanes if q.key == lane_key)
            riders = next(q for q in scene.lanes if q.key == riders_key)
            for place in range(-6, 6):
                car = scene.agent(lane, place)
                if car is None or car.along is None:
                    continue
                half_width = 0.5 * np.ptp(scene.pool.mesh(car.parts[0].mesh).vertices[:, 1])
                for t in np.arange(0.0, 20.0, 0.5):
                    s = car.along(t)
                    if s < -20.0:
                        continue
                    at = scene.route.point(s)
                    offset = car.poses(t)[0][:2, 3] - at[:2]
                    d = -offset[0] * np.sin(at[3]) + offset[1] * np.cos(at[3])
                    first = int((s - riders.direction * riders.speed * t) // riders.gap)
                    for number in range(first - 2, first + 2):
                        rider = scene.agent(riders, number)
                        if rider is None or abs(rider.along(t) - s) > 0.5 * car.length + 0.9:
                            continue
                        assert abs(rider.d - d) > half_width + 0.4
                        passed += 1
    assert passed > 20


def test_scene_flow_is_made_only_on_demand():
    assert World(WorldConfig(seed=1)).clip(1, CAMERA).scene_flow_m is None


def test_sky_flow_is_rotation_only(clips):
    clip = clips[4]
    sky = clip.depth_m[2] == 0
    turn = clip.world_from_camera[1][:3, :3].T @ clip.world_from_camera[2][:3, :3]
    rays = unproject(np.ones(sky.shape), CAMERA) @ turn.T
    u, v = pixels(CAMERA)
    np.testing.assert_allclose(
        (project(rays, CAMERA) - np.stack([u, v], -1))[sky], clip.flow_px[2][sky], atol=1e-3
    )


def test_flow_finds_the_same_surface_in_the_previous_frame(clips):
    """A visible pixel's flow lands on the same instance, class and (moved) depth, moving things included."""
    for clip in clips.values():
        agree, total, moved_agree, moved_total = 0, 0, 0, 0
        for t in range(1, 5):
            u, v = pixels(CAMERA)
            target = np.stack([u, v], -1) + clip.flow_px[t]
            inside = (
                (target >= 1).all(-1)
                & (target[..., 0] < CAMERA.width - 2)
                & (target[..., 1] < CAMERA.height - 2)
            )
            inside &= clip.depth_m[t] > 0
            x, y = np.round(target[inside]).astype(int).T
            # Thin leaves and bars cover a pixel's centre in one frame and its neighbour's in the next.
            same = np.zeros(len(x), bool)
            for dy, dx in np.ndindex(3, 3):
                j, i = y + dy - 1, x + dx - 1
                same |= (clip.instance_map[t - 1][j, i] == clip.instance_map[t][inside]) & (
                    clip.class_map[t - 1][j, i] == clip.class_map[t][inside]
                )
            agree, total = agree + same.sum(), total + same.size
            moved = clip.moving[t][inside] == 1
            moved_agree, moved_total = moved_agree + same[moved].sum(), moved_total + moved.sum()
        # The rest are surfaces that were hidden.
        assert agree / total > 0.94
        if moved_total > 300:
            assert moved_agree / moved_total > 0.9


def test_reprojected_depth_matches_the_previous_frame(clips):
    clip = clips[3]
    for t in range(1, 5):
        previous_from_current = np.linalg.inv(clip.world_from_camera[t - 1]) @ clip.world_from_camera[t]
        points = unproject(clip.depth_m[t].astype(np.float64), CAMERA) @ previous_from_current[:3, :3].T
        points += previous_from_current[:3, 3]
        road = (clip.class_map[t] == 0) & (points[..., 2] > 1)
        target = project(points, CAMERA)
        road &= (
            (target > 1).all(-1) & (target[..., 0] < CAMERA.width - 2) & (target[..., 1] < CAMERA.height - 2)
        )
        x, y = target[road].T
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        a, b = x - x0, y - y0
        # 1/z is affine in the image on a plane, so that it can be interpolated without error.
        corners = [
            (y0, x0, (1 - a) * (1 - b)),
            (y0, x0 + 1, a * (1 - b)),
            (y0 + 1, x0, (1 - a) * b),
            (y0 + 1, x0 + 1, a * b),
        ]
        all_road = np.all([clip.class_map[t - 1][j, i] == 0 for j, i, _ in corners], axis=0)
        inverse = sum(w / np.maximum(clip.depth_m[t - 1][j, i], 1e-3) for j, i, w in corners)
        relative = np.abs(inverse * points[road][:, 2] - 1)[all_road]
        assert np.median(relative) < 2e-4
        assert np.quantile(relative, 0.98) < 0.01


def test_ids_stay_through_occlusion():
    """In the demo scene things vanish behind others and come back: same id, class and, at rest, place."""
    frames, small = 40, CameraModel.from_fov(192, 96, 80.0)
    seen: dict[int, list[int]] = {}
    classes: dict[int, set[int]] = {}
    places: dict[int, list[np.ndarray]] = {}
    for t, frame in zip(range(frames), demo_world().frames(small), strict=False):
        points = unproject(frame.depth_m[0].astype(np.float64), small) @ frame.world_from_camera[0][:3, :3].T
        points += frame.world_from_camera[0][:3, 3]
        for number in np.unique(frame.instance_map[0]):
            mask = frame.instance_map[0] == number
            if number == 0 or mask.sum() < 6:
                continue
            seen.setdefault(int(number), []).append(t)
            classes.setdefault(int(number), set()).update(frame.class_map[0][mask].tolist())
            if not frame.moving[0][mask].any():
                places.setdefault(int(number), []).append(np.median(points[mask], axis=0))
    assert len(seen) > 20
    assert all(len(c) == 1 for c in classes.values())
    came_back = [n for n, at in seen.items() if np.diff(at).max(initial=1) > 1]
    assert came_back
    for centres in places.values():
        # What is seen of a car changes, but never leaves its 4 by 2 metres (a bus or truck: 12).
        assert np.ptp(np.array(centres), axis=0).max() < 12.0
    assert np.median([np.ptp(np.array(c), axis=0).max() for c in places.values()]) < 2.0


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    a, b = (World(WorldConfig(seed=9)).clip(2, CAMERA) for _ in range(2))
    for name in (
        "images",
        "class_map",
        "instance_map",
        "depth_m",
        "flow_px",
        "moving",
        "world_from_camera",
        "steering_rad",
    ):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    other = World(WorldConfig(seed=10)).clip(1, CAMERA)
    assert (other.images[0] != a.images[0]).mean() > 0.5


DIGEST = """
import hashlib
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.types import CameraModel
clip = World(WorldConfig(seed=9)).clip(2, CameraModel.from_fov(256, 128, 80.0))
maps = clip.images, clip.instance_map, clip.flow_px
print(hashlib.sha256(b"".join(a.tobytes() for a in maps)).hexdigest())
"""


def test_same_seed_same_bytes_in_another_process():
    clip = World(WorldConfig(seed=9)).clip(2, CAMERA)
    here = hashlib.sha256(b"".join(a.tobytes() for a in (clip.images, clip.instance_map, clip.flow_px)))
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert there.stdout.strip() == here.hexdigest()


def test_same_bytes_however_many_threads():
    for seed in (2, 4):  # two cameras with noise and blur
        one, three = (
            World(WorldConfig(seed=seed)).clip(2, CAMERA, scene_flow=True, threads=n) for n in (1, 3)
        )
        for name in ("images", "class_map", "instance_map", "depth_m", "flow_px", "scene_flow_m", "moving"):
            np.testing.assert_array_equal(getattr(one, name), getattr(three, name), err_msg=name)


def test_frames_equal_the_clip():
    clip = World(WorldConfig(seed=6)).clip(3, CAMERA)
    for t, frame in zip(range(3), World(WorldConfig(seed=6)).frames(CAMERA), strict=False):
        np.testing.assert_array_equal(frame.images[0], clip.images[t])
        np.testing.assert_array_equal(frame.depth_m[0], clip.depth_m[t])


def test_moving_things_move_over_ground():
    """Pixels marked as moving have a flow that ego motion does not explain."""
    clip = World(WorldConfig(seed=1, style="city", traffic=2.0)).clip(4, CAMERA)
    moving = (clip.moving[3] == 1) & (clip.depth_m[3] < 30)
    assert moving.sum() > 50
    previous_from_current = np.linalg.inv(clip.world_from_camera[2]) @ clip.world_from_camera[3]
    points = (
        unproject(clip.depth_m[3].astype(np.float64), CAMERA) @ previous_from_current[:3, :3].T
        + previous_from_current[:3, 3]
    )
    u, v = pixels(CAMERA)
    static_flow = project(points, CAMERA) - np.stack([u, v], -1)
    assert np.median(np.abs(static_flow - clip.flow_px[3]).max(-1)[moving]) > 0.05


def test_all_classes_occur_over_seeds():
    seen = np.zeros(256, bool)
    small = CameraModel.from_fov(192, 96, 90.0)
    for seed in range(60):
        seen[np.unique(World(WorldConfig(seed=seed)).clip(1, small).class_map)] = True
        if seen[:19].all():
            break
    missing = [n for i, n in enumerate(CITYSCAPES.names) if not seen[i]]
    assert not missing


def test_ego_follows_a_bicycle_model():
    """Heading changes as speed * tan(steering) / wheelbase says, and the vehicle stays on its lane."""
    world = World(WorldConfig(seed=3, style="residential"))
    states = [world.ego.at(0.02 * k) for k in range(400)]
    for a, b in zip(states[:-1], states[1:], strict=True):
        np.testing.assert_allclose(
            b.heading - a.heading, b.speed_mps * np.tan(b.steering_rad) / 2.71 * 0.02, atol=1e-9
        )
    for e in states[::20]:
        x, y, _, heading, _, _ = world.scene.route.at(e.s)
        side = -(e.x - x) * np.sin(heading) + (e.y - y) * np.cos(heading)
        assert abs(side - world.scene.section.lane_d(world.scene.ego_lane)) < 0.9


def test_who_steers_the_ego_vehicle_can_be_replaced():
    world = World(WorldConfig(seed=3, style="residential"))
    before = world.ego.at(1.0)
    world.ego.steer = lambda t, e: 0.1
    states = [world.ego.at(1.0 + 0.02 * k) for k in range(100)]
    assert states[0] == before
    # 0.6 rad/s is the quickest that its wheels turn.
    assert max(abs(b.steering_rad - a.steering_rad) for a, b in itertools.pairwise(states)) <= 0.012 + 1e-9
    assert states[-1].steering_rad == pytest.approx(0.1)
    assert states[-1].heading > before.heading


class _Bend:
    """A road that turns left forever around (0, radius), middle line at that radius."""

    radius = 50.0

    def point(self, s):
        a = s / self.radius
        return self.radius * np.sin(a), self.radius * (1 - np.cos(a)), 0.0, a, 1 / self.radius, 0.0

    def points(self, s, d):
        x, y, z, heading, _, _ = self.point(s)
        return np.array([x - d * np.sin(heading), y + d * np.cos(heading), z])


@pytest.mark.parametrize("d", (-3.0, 0.0, 2.0))
def test_pursuit_of_a_bend_is_its_curvature_and_comes_back_to_it(d):
    road = _Bend()
    on_lane = EgoState(s=0.0, x=0.0, y=d, heading=0.0, speed_mps=10.0, steering_rad=0.0)
    assert pursuit(road, on_lane, d) == pytest.approx(1 / (road.radius - d))
    assert pursuit(road, replace(on_lane, y=d + 0.5), d) < 1 / (road.radius - d)  # too far left: turn right
    assert pursuit(road, replace(on_lane, heading=-0.1), d) > 1 / (road.radius - d)


def test_a_wandering_driver_leaves_the_middle_and_stays_near_the_lane():
    sides = []
    for seed in (3, 4, 6):
        world = World(WorldConfig(seed=seed, traffic=0.0))
        lane = world.scene.section.lane_d(world.scene.ego_lane)
        world.ego.steer = WanderingDriver(world.scene.route, lane, 1.0, np.random.default_rng(seed))
        sides += [world.scene.route.beside(world.ego.at(0.1 * k))[0] - lane for k in range(300)]
    assert np.std(sides) > 0.3 and np.abs(sides).max() < 2.0


def test_relight_changes_the_looks_and_nothing_of_the_street():
    world = World(WorldConfig(seed=2, camera_height_m=1.5, camera_pitch_deg=2.0, camera_yaw_deg=0.0))
    world._shake = world._shake[0], 0.0
    a = world.clip(1, CAMERA)
    world.relight(1)
    world._shake = world._shake[0], 0.0
    b = world.clip(1, CAMERA)
    assert (a.images != b.images).mean() > 0.5
    # The mount's roll is drawn anew as well: hardly a pixel changes its class.
    assert (a.class_map == b.class_map).mean() > 0.85
    world.relight(0)
    world._shake = world._shake[0], 0.0
    np.testing.assert_array_equal(world.clip(1, CAMERA).images, a.images)


def test_camera_height_and_pitch_are_as_told():
    world = World(WorldConfig(seed=5, camera_height_m=1.65, camera_pitch_deg=0.0, style="highway"))
    pose = world.world_from_camera(0.0)
    ground = world.scene.route.at(world.ego.at(0.0).s)[2]
    assert abs(pose[2, 3] - ground - 1.65) < 0.15
    assert abs(pose[2, 2]) < 0.08  # the view direction is level but for the road's grade


def test_drawn_cameras_differ_and_repeat():
    a, b = draw_camera(1, 320, 160), draw_camera(2, 320, 160)
    assert a == draw_camera(1, 320, 160) and a != b


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: World(WorldConfig(style="moon")), ConfigError, "moon"),
        (lambda: World(WorldConfig(weather="hail")), ConfigError, "hail"),
        (lambda: World().clip(0, CAMERA), InputError, "at least 1 frame"),
        (lambda: World().clip(1, CAMERA, rate_hz=0.0), InputError, "rate above 0"),
        (lambda: World().clip(1, CameraModel(8, 8, 4, 4, 4, 4, distortion=(0.1,))), InputError, "rectified"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("seed", [2, 12, 54])
def test_a_parking_strip_is_marked_off_where_lanes_are_not(seed):
    """Streets without lane lines: the road is brighter on the strip's edge than half a metre beside it."""
    world, camera = World(WorldConfig(seed=seed)), CameraModel.from_fov(512, 256, 80.0)
    section, road = world.scene.section, CITYSCAPES.id_of("road")
    assert not world.scene.markings and section.park_right > 0
    clip = world.clip(1, camera)
    edge, gains = -section.lanes_right * section.lane_width, []
    for s in np.arange(17.0, 28.0, 0.25):
        points = world.scene.route.points(s, edge + np.array([0.0, 0.5, -0.5]))
        seen = np.linalg.inv(clip.world_from_camera[0]) @ np.hstack((points, np.ones((3, 1)))).T
        u, v = np.round(project(seen[:3].T, camera)).astype(int).T
        if (u < 0).any() or (u >= 512).any() or (v < 0).any() or (v >= 256).any():
            continue
        hidden = abs(clip.depth_m[0, v, u] - seen[2]) > 0.2
        if not hidden.any() and (clip.class_map[0, v, u] == road).all():
            on, left, right = clip.images[0, v, u].mean(1)
            gains.append(on - 0.5 * (left + right))
    assert len(gains) > 10 and np.mean(gains) > 30
