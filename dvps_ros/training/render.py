# SPDX-License-Identifier: Apache-2.0
"""Fill the cache with rendered clips: pairs of frames of many worlds, cameras and frame rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvps_ros.data.cache import stored_size, stored_source, write_clip
from dvps_ros.data.world import LOOK, World, WorldConfig, draw_camera
from dvps_ros.training.recipe import DataConfig
from dvps_ros.types import Sample

FRAMES = 2
LATEST_START_S = 12.0
VALIDATION_CLIPS = 48
VALIDATION_SEED = 1_000_000
"""Seeds from here on are for validation only."""


def render_clips(data: DataConfig, *, progress: bool = False) -> None:
    """Render what the cache lacks or holds in another size or look; several processes may fill one cache.

    Raises:
        InputError: the disk refuses a file, or photographs cannot be read.
    """
    plain = WorldConfig()
    photographed = WorldConfig(textures=data.textures, skies=data.skies, streets=data.streets)
    validation = [(Path(data.cache) / "val", plain, VALIDATION_SEED + i) for i in range(VALIDATION_CLIPS)]
    training = [(Path(data.cache) / "train", photographed, seed) for seed in range(data.clips)]
    for folder, world, seed in tqdm(validation + training, unit="clip", disable=not progress):
        path = folder / f"{seed:07d}.npz"
        if stored_size(path) != (data.render_height, data.render_width) or _look(path) != world.look:
            write_clip(path, random_clip(seed, data.render_width, data.render_height, world))


def _look(path: Path) -> str:
    """Of the world that a cached clip shows."""
    return (stored_source(path) or "").partition(LOOK)[2]


def random_clip(seed: int, width: int, height: int, world: WorldConfig | None = None) -> Sample:
    """A clip of :data:`FRAMES` frames; the seed decides world, camera and rate, ``world`` the rest."""
    rng = np.random.default_rng([seed, 7])
    start_s = float(rng.uniform(0, LATEST_START_S)) if rng.random() < 0.7 else 0.0
    return World(replace(world or WorldConfig(), seed=seed)).clip(
        FRAMES, draw_camera(seed, width, height), rate_hz=float(rng.uniform(7, 15)), start_s=start_s
    )
