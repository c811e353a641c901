# SPDX-License-Identifier: Apache-2.0
"""Fill the cache with rendered clips: many short clips of different worlds, cameras and frame rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvps_ros.data.cache import write_clip
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.training.recipe import DataConfig
from dvps_ros.types import CameraModel, Sample

FRAMES = 3
"""Frames of a clip: two training pairs."""
VALIDATION_CLIPS = 48
VALIDATION_SEED = 1_000_000
"""Seeds from here on are for validation only."""


def render_clips(data: DataConfig, *, progress: bool = False) -> None:
    """Render what is missing in the cache; several processes may fill one cache (existing clips are skipped).

    Raises:
        InputError: the disk refuses a file.
    """
    validation = [(Path(data.cache) / "val", VALIDATION_SEED + i) for i in range(VALIDATION_CLIPS)]
    training = [(Path(data.cache) / "train", seed) for seed in range(data.clips)]
    for folder, seed in tqdm(validation + training, unit="clip", disable=not progress):
        path = folder / f"{seed:07d}.npz"
        if not path.exists():
            write_clip(path, random_clip(seed, data.render_width, data.render_height))


def random_clip(seed: int, width: int, height: int) -> Sample:
    """A clip of :data:`FRAMES` frames; the seed decides world, camera and rate."""
    rng = np.random.default_rng([seed, 7])
    camera = random_camera(rng, width, height)
    return World(WorldConfig(seed=seed)).clip(FRAMES, camera, rate_hz=float(rng.uniform(7, 15)))


def random_camera(rng: np.random.Generator, width: int, height: int) -> CameraModel:
    """A camera of 45 to 105 degrees horizontal field of view; the principal point strays by 3 percent."""
    ideal = CameraModel.from_fov(width, height, float(rng.uniform(45, 105)))
    cx, cy = rng.normal([ideal.cx, ideal.cy], 0.03 * height)
    return CameraModel(
        width, height, ideal.fx, ideal.fy * float(np.exp(rng.normal(0, 0.02))), float(cx), float(cy)
    )
