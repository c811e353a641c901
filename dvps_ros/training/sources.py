# SPDX-License-Identifier: Apache-2.0
"""Where training clips come from, mixed in fixed proportion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from dvps_ros.data.cache import read_clip
from dvps_ros.data.transforms import augment, pan_still
from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.training.batch import Batch, collate
from dvps_ros.training.recipe import Recipe
from dvps_ros.types import Sample

Draw = Callable[[np.random.Generator], Sample]
"""A random clip of one or two frames."""


def data_root() -> Path:
    """Folder of the real data sets.

    Raises:
        ConfigError: DVPS_DATA is not set or no folder.
    """
    root = os.environ.get("DVPS_DATA", "")
    if not root or not Path(root).is_dir():
        raise ConfigError(f"real data is read from the folder in DVPS_DATA, which is {root!r}: set it")
    return Path(root)


def cached_clips(folder: Path) -> list[Path]:
    """Clips in a cache folder, sorted."""
    return sorted(folder.glob("*.npz"))


def draw_synthetic(folder: Path) -> Draw:
    """A pair of neighbouring frames of a random clip in the folder; clips that appear later are found too.

    Raises:
        ConfigError: the folder holds no clip.
    """
    clips = cached_clips(folder)
    if not clips:
        raise ConfigError(f"no rendered clips in {folder}: run `dvps train CONFIG --render` first")
    drawn = 0

    def draw(rng: np.random.Generator) -> Sample:
        nonlocal clips, drawn
        drawn += 1
        if drawn % 200 == 0:
            clips = cached_clips(folder)
        sample = read_clip(clips[rng.integers(len(clips))])
        return pair_of(sample, int(rng.integers(len(sample.images) - 1)))

    return draw


def pair_of(sample: Sample, first: int) -> Sample:
    """Frames first and first + 1 of a clip; the offset of the first one to a frame not in the clip is unknown."""
    cut = {
        f.name: value[first : first + 2]
        for f in fields(sample)
        if isinstance(value := getattr(sample, f.name), np.ndarray)
    }
    return replace(sample, **cut)


def draw_stills(samples: list[Sample], panned: float) -> Draw:
    """A random image, as it is or (share ``panned``) as a clip that pans over it."""

    def draw(rng: np.random.Generator) -> Sample:
        sample = samples[rng.integers(len(samples))]
        return pan_still(sample, rng) if rng.random() < panned else sample

    return draw


def draw_pairs(pairs: list[Sample]) -> Draw:
    """A random one of ready pairs."""
    return lambda rng: pairs[rng.integers(len(pairs))]


class MixedClips(IterableDataset):
    """Endless batches: so many clips of each source, augmented; another stream in every worker and rank.

    Args:
        parts: (draw, clips in a batch).
        start: a number that differs after every restart, so that a resumed training sees new batches.
    """

    def __init__(self, parts: list[tuple[Draw, int]], recipe: Recipe, labels: LabelSpace, start: int = 0) -> None:
        super().__init__()
        self.parts, self.recipe, self.labels, self.start = parts, recipe, labels, start

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        rng = np.random.default_rng([self.recipe.seed, self.start, rank, worker.id if worker else 0])
        while True:
            clips = [draw(rng) for draw, count in self.parts for _ in range(count)]
            yield collate([augment(clip, rng, self.recipe.augment) for clip in clips], self.labels)
