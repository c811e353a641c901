# SPDX-License-Identifier: Apache-2.0
"""Drives to learn steering from: the synthetic world, driven badly on purpose and labelled rightly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvps_ros.data.cache import stored_size, write_clip
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.driver import WanderingDriver, pursuit
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.training.render import VALIDATION_SEED
from dvps_ros.types import CameraModel, Sample

RATE_HZ = 10.0
FRAMES = 40
REACH_M = 1.1
"""How far from the middle of its lane a training drive goes."""
SLOWEST_MPS = 3.0
"""On streets with less nothing is to be learnt."""
TRAFFIC = 0.5
VIEW_M = 120.0
"""Less traffic and a nearer end of the world than usual: a frame costs half, the road is the same."""
UNMARKED_SEED = VALIDATION_SEED + 500_000
"""Held-out streets without lines have seeds from here on."""
VALIDATION_DRIVES = 20
LATEST_START_S = 20.0


def steering_world(seed: int, width: int, height: int) -> tuple[World, CameraModel]:
    """A street where traffic flows and a camera that looks ahead; other seeds give other streets and cameras.

    The camera is 1.1 to 1.7 m over the road, sees 65 to 95 degrees, and looks ahead to within a degree.
    """
    rng = np.random.default_rng([seed, 33])
    config = WorldConfig(
        seed=seed,
        camera_height_m=float(rng.uniform(1.1, 1.7)),
        camera_pitch_deg=float(rng.uniform(-1.0, 5.0)),
        camera_yaw_deg=float(rng.normal() * 0.3),
        traffic=TRAFFIC,
        view_m=VIEW_M,
        forks=0.0,  # a camera alone cannot know which way is meant
    )
    return World(config), CameraModel.from_fov(width, height, float(rng.uniform(65, 95)))


def street_seeds(first: int, count: int, *, marked: bool | None = None) -> list[int]:
    """Seeds from ``first`` on of streets where traffic flows.

    Args:
        marked: True takes only streets with lane lines, False only those without, None both.
    """
    seeds: list[int] = []
    seed = first
    while len(seeds) < count:
        scene = World(WorldConfig(seed=seed)).scene
        if scene.speed >= SLOWEST_MPS and marked in (None, scene.markings):
            seeds.append(seed)
        seed += 1
    return seeds


def lane_m(world: World) -> float:
    """Place of the ego lane beside the road's middle line, metres to the left."""
    return world.scene.section.lane_d(world.scene.ego_lane)


def render_drives(folder: Path, count: int, size: tuple[int, int], *, progress: bool = False) -> None:
    """Render what is missing of ``count`` drives to learn from (``train``), and of :data:`VALIDATION_DRIVES`
    others on any streets (``val``) and on streets without lines (``val_unmarked``).

    Several processes may fill one folder: drives of this size are left alone, others are rendered anew.

    Args:
        size: height and width of the images.

    Raises:
        InputError: the disk refuses a file.
    """
    wanted = [(folder / "val", s) for s in street_seeds(VALIDATION_SEED, VALIDATION_DRIVES)]
    unmarked = street_seeds(UNMARKED_SEED, VALIDATION_DRIVES, marked=False)
    wanted += [(folder / "val_unmarked", s) for s in unmarked]
    wanted += [(folder / "train", s) for s in street_seeds(0, count)]
    for place, seed in tqdm(wanted, unit="drive", disable=not progress):
        path = place / f"{seed:07d}.npz"
        if stored_size(path) != size:
            write_clip(path, wandering_drive(seed, size))


def wandering_drive(seed: int, size: tuple[int, int]) -> Sample:
    """:data:`FRAMES` images at :data:`RATE_HZ`; ``steering_rad`` is what leads back to the lane's middle."""
    rng = np.random.default_rng([seed, 34])
    world, camera = steering_world(seed, size[1], size[0])
    route, lane = world.scene.route, lane_m(world)
    world.ego.steer = WanderingDriver(route, lane, REACH_M, rng)
    start_s = float(rng.uniform(0.0, LATEST_START_S))
    clip = world.clip(FRAMES, camera, rate_hz=RATE_HZ, start_s=start_s)
    states = [world.ego.at(start_s + i / RATE_HZ) for i in range(FRAMES)]
    steering = [math.atan(WHEELBASE_M * pursuit(route, e, lane)) for e in states]
    return Sample(
        clip.images,
        clip.intrinsics,
        clip.source,
        steering_rad=np.array(steering, np.float32),
        speed_mps=np.array([e.speed_mps for e in states], np.float32),
        stamps_ns=np.array([round(i * 1e9 / RATE_HZ) for i in range(FRAMES)], np.int64),
    )
