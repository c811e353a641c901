# SPDX-License-Identifier: Apache-2.0
"""Tracking, objects and scale on the synthetic world's truth, exact and spoilt."""

import cv2
import numpy as np
import pytest

from dvps_ros.config import ScaleConfig, TrackerConfig
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.geometry.camera import Fit
from dvps_ros.geometry.depth import unproject
from dvps_ros.geometry.ground import ScaleEstimator
from dvps_ros.panoptic.objects import ObjectStates
from dvps_ros.panoptic.track import Tracker
from dvps_ros.types import CameraModel, Motion, ScaleHealth

WIDTH, HEIGHT, FRAMES, SLOTS, TENTH = 512, 160, 24, 64, 100_000_000
FIT = Fit.letterbox(WIDTH, HEIGHT, WIDTH, HEIGHT)
CAMERA = CameraModel.from_fov(WIDTH, HEIGHT, 80.0)
CELLS = np.s_[2::4, 2::4]
LARGE = 12
"""Cells: what is smaller is a few pixels at the edge of another object."""
FLIP = {11: 12, 12: 11, 13: 14, 14: 13, 15: 14, 16: 15, 17: 18, 18: 17}


@pytest.fixture(scope="module", params=[1, 6])
def clip(request):
    config = WorldConfig(seed=request.param, camera_height_m=1.6, camera_pitch_deg=2.0)
    return World(config).clip(FRAMES, CAMERA)


def segments_of(clip, t, rng, noisy):
    """The tables a network would give: exact, or with ragged masks, noise, missed and misnamed objects."""
    maps = {
        n: getattr(clip, n)[t][CELLS] for n in ("instance_map", "class_map", "flow_px", "depth_m", "moving")
    }
    height, width = maps["instance_map"].shape
    if noisy:
        small = rng.normal(0, 0.7, (height // 4, width // 4, 2)).astype(np.float32)
        bend = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        y, x = np.mgrid[:height, :width]
        y = np.rint(y + bend[..., 0]).clip(0, height - 1).astype(int)
        x = np.rint(x + bend[..., 1]).clip(0, width - 1).astype(int)
        maps = {n: m[y, x] for n, m in maps.items()}
    ids, counts = np.unique(maps["instance_map"], return_counts=True)
    ids = ids[(ids > 0) & (counts >= 4)]
    if noisy:
        ids = ids[rng.random(len(ids)) > 0.05]
    ids = rng.permutation(ids)[:SLOTS]
    segments = np.zeros((SLOTS, 9), np.float32)
    segment_map = np.full((height, width), 255, np.uint8)
    embedding = np.zeros((SLOTS, 32), np.float32)
    for row, i in enumerate(ids):
        mask = maps["instance_map"] == i
        flow = maps["flow_px"][mask]
        flow = flow[np.isfinite(flow).all(1)]
        motion = flow.mean(0) if len(flow) else np.zeros(2)
        class_id = np.bincount(maps["class_map"][mask]).argmax()
        look = np.random.default_rng(int(i)).normal(size=32)
        if noisy:
            motion = motion * (1 + 0.2 * rng.normal(size=2)) + 2 * rng.normal(size=2)
            class_id = FLIP.get(class_id, class_id) if rng.random() < 0.1 else class_id
            look = look + 0.7 * rng.normal(size=32)
        y, x = np.nonzero(mask)
        segments[row] = (
            class_id, 0.9, mask.sum(), 4 * x.mean() + 1.5, 4 * y.mean() + 1.5, *motion,
            maps["depth_m"][mask].mean(), maps["moving"][mask].mean(),
        )  # fmt: skip
        segment_map[mask] = row
        embedding[row] = look / np.linalg.norm(look)
    return segments, segment_map, embedding, ids


def run(clip, noisy):
    """For every frame: (true id, area, truly moving, its TrackedInstance or None) of each segment."""
    rng = np.random.default_rng(0)
    tracker, states = Tracker(TrackerConfig(), (WIDTH, HEIGHT)), ObjectStates()
    frames = []
    for t in range(FRAMES):
        segments, segment_map, embedding, ids = segments_of(clip, t, rng, noisy)
        tracks = tracker.update(t * TENTH, segments, segment_map, embedding)
        depth = clip.depth_m[t][CELLS]
        if noisy:
            depth = depth * (1 + 0.03 * rng.normal(size=depth.shape))
        depth = np.where(depth > 0, depth, np.nan).astype(np.float32)
        points = unproject(depth, FIT.camera(CAMERA, 4))
        pose = clip.world_from_camera[t]
        known = {i.track_id: i for i in states.update(t * TENTH, tracks, points, segment_map, FIT, pose)}
        frames.append(
            [
                (int(i), segments[row, 2], segments[row, 8] > 0.5, known.get(int(tracks.row_track[row])))
                for row, i in enumerate(ids)
            ]
        )
    return frames


def switches(frames):
    """(sightings, changes of id from one sighting to the next) of objects that are large in both."""
    last, count, changed = {}, 0, 0
    for seen in frames:
        for true_id, area, _, instance in seen:
            if area >= LARGE and instance is not None:
                count += 1
                changed += last.get(true_id, instance.track_id) != instance.track_id
                last[true_id] = instance.track_id
    return count, changed


def test_perfect_segments_keep_their_ids(clip):
    """But for one in clip 6: an occluder leaves seven cells of it to be seen before it comes back larger."""
    count, changed = switches(run(clip, noisy=False))
    assert count > 50 and changed <= 1


def test_noisy_segments_nearly_keep_their_ids(clip):
    count, changed = switches(run(clip, noisy=True))
    assert count > 50 and changed <= 0.03 * count


def test_what_moves_and_what_does_not(clip):
    verdicts = [
        (instance.motion, moving)
        for seen in run(clip, noisy=True)
        for _, area, moving, instance in seen
        if area >= LARGE
        and instance is not None
        and instance.age_s > 0.5
        and instance.motion != Motion.UNKNOWN
    ]
    right = [(motion == Motion.MOVING) == moving for motion, moving in verdicts]
    assert len(right) > 50 and np.mean(right) > 0.97


def test_velocity_over_ground(clip):
    """Parked objects stand still; what moves does so at a plausible speed."""
    speeds = {False: [], True: []}
    for seen in run(clip, noisy=False)[FRAMES // 2 :]:
        for _, area, moving, instance in seen:
            if area >= LARGE and instance is not None and instance.age_s > 1.0:
                speeds[bool(moving)].append(np.linalg.norm(instance.velocity_mps))
    if speeds[False]:
        assert np.median(speeds[False]) < 0.6
    if speeds[True]:
        assert np.median(speeds[True]) > 0.8
    assert speeds[False] or speeds[True]


def test_scale_from_the_known_camera_height(clip):
    estimator = ScaleEstimator(ScaleConfig(camera_height_m=1.6))
    for t in range(FRAMES):
        road = clip.class_map[t][CELLS] == 0
        depth = np.ascontiguousarray(clip.depth_m[t][CELLS]) * np.float32(0.8)
        estimate = estimator.update(t * TENTH, depth, road, FIT.camera(CAMERA, 4))
    assert estimate.health == ScaleHealth.OK
    assert estimate.scale == pytest.approx(1.25, rel=0.06)
    assert abs(estimate.scale - 1.25) < 2.5 * np.sqrt(estimate.variance)
