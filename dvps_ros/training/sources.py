# SPDX-License-Identifier: Apache-2.0
"""Where training clips come from, mixed in fixed proportion."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from dvps_ros.data.cache import read_clip
from dvps_ros.data.camvid import read_camvid
from dvps_ros.data.idd_lite import read_idd_lite
from dvps_ros.data.kitti_raw import KittiRaw
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.transforms import Box, augment, crop_resize, pan_still
from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses.semantic import rare_classes
from dvps_ros.networks import NETWORKS, SIZE_STEP
from dvps_ros.training.batch import Batch, collate
from dvps_ros.training.recipe import Recipe
from dvps_ros.types import Sample

log = logging.getLogger(__name__)
KITTI_DRIVE = "kitti_0005"
KITTI_TRAIN_FRAMES = 100
"""Frames of the drive from here on are held out."""
LARGE_SIZES = ((256, 832), (320, 640), (384, 768), (512, 1024))
"""Height and width of large crops: those of deployment and one between. Depth is wrong at sizes that were not
seen: learnt on 192x384 alone its error at 384x768 was 0.49 instead of 0.27, and learnt up to 320x640 it came
out 12 percent too far at 384x768."""
LARGE_ZOOM = 1.25
T = TypeVar("T")
Draw = Callable[[np.random.Generator], Sample]
"""A random clip of one or two frames."""
Build = Callable[[], list[tuple[Draw, int]]]
"""Opens the sources: (draw, clips in a batch) of each."""


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


def draw_synthetic(folder: Path, frames: int) -> Draw:
    """Neighbouring frames of a random clip in the folder; clips that appear later are found too.

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
        return sample.frames(int(rng.integers(len(sample.images) - frames + 1)), frames)

    return draw


def draw_stills(samples: list[Sample], panned: float) -> Draw:
    """A random image, as it is or (share ``panned``) as a clip that pans over it."""

    def draw(rng: np.random.Generator) -> Sample:
        sample = samples[rng.integers(len(samples))]
        return pan_still(sample, rng) if rng.random() < panned else sample

    return draw


def draw_pairs(clip: Sample) -> Draw:
    """Two neighbouring frames from anywhere in a long clip."""
    return lambda rng: clip.frames(int(rng.integers(len(clip.images) - 1)), 2)


def draw_clips(clips: Sequence[Callable[[], Sample]]) -> Draw:
    """A random clip of a data set, read when it is drawn."""
    return lambda rng: clips[int(rng.integers(len(clips)))]()


def training_parts(recipe: Recipe) -> list[tuple[Draw, int]]:
    """(draw, clips in a batch) of every source that the recipe uses.

    Raises:
        ConfigError: DVPS_DATA is needed and not set, or the cache is empty.
        InputError: a data set is incomplete.
    """
    data = recipe.data
    parts: list[tuple[Draw, int]] = []
    for frames, count in ((2, data.synthetic), (1, data.synthetic_stills)):
        if count:
            parts.append((draw_synthetic(Path(data.cache) / "train", frames), count))
    if data.camvid:
        parts.append(
            (draw_stills(list(read_camvid(data_root() / "camvid", "train")), data.panned), data.camvid)
        )
    if data.idd_lite:
        parts.append(
            (draw_stills(list(read_idd_lite(data_root() / "idd_lite", "train")), data.panned), data.idd_lite)
        )
    native = recipe.labels in LAYOUTS
    for name, count in data.mix.items():
        clips = LAYOUTS[name].clips(Path(data.places[name]), "train", data.frames, native=native)
        parts.append((draw_clips(clips), count))
    if data.kitti:
        drive = KittiRaw(data_root() / KITTI_DRIVE)
        parts.append((draw_pairs(drive.clip(0, KITTI_TRAIN_FRAMES)), data.kitti))
    return parts


def held_out_sets(recipe: Recipe) -> list[tuple[str, Sample]]:
    """Validation clips of every source that exists here, at sizes the network takes:
    ``validate_clips`` of each at most, evenly spread. What is missing is logged.

    Raises:
        ConfigError: DVPS_DATA is set and no folder.
        InputError: a data set is incomplete.
    """
    count = recipe.validate_clips
    folder = Path(recipe.data.cache) / "val"
    clips = cached_clips(folder)
    if not clips:
        log.warning("no rendered clips in %s: run `dvps train CONFIG --render` to validate on them", folder)
    sets = {"world": [read_clip(path) for path in spread(clips, count)]}
    readers: dict[str, tuple[str, Callable[[Path], list[Sample]]]] = {
        "camvid": ("camvid", lambda path: spread(list(read_camvid(path, "val")), count)),
        "idd_lite": ("idd_lite", lambda path: spread(list(read_idd_lite(path, "val")), count)),
        "kitti": (KITTI_DRIVE, lambda path: _later_pairs(KittiRaw(path), max(1, count // 2))),
    }
    native = recipe.labels in LAYOUTS
    for name in recipe.data.mix:
        clips_of = LAYOUTS[name].clips(
            Path(recipe.data.places[name]), "val", recipe.data.frames, native=native
        )
        sets[name] = [read_one() for read_one in spread(clips_of, count)]
    for name, (part, read) in readers.items() if os.environ.get("DVPS_DATA") and not native else ():
        path = data_root() / part
        if path.is_dir():
            sets[name] = read(path)
        else:
            log.info("no folder %s: no validation on it", path)
    return [
        (name, _fitted(sample, None if name == "world" else recipe.validate_area_px))
        for name, samples in sets.items()
        for sample in samples
    ]


def _later_pairs(drive: KittiRaw, count: int) -> list[Sample]:
    """Pairs of the frames that are held out."""
    return [drive.clip(i, 2) for i in spread(range(KITTI_TRAIN_FRAMES, len(drive) - 1), count)]


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spread."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _fitted(sample: Sample, area_px: int | None) -> Sample:
    """The whole image at about this area (None: its own), sides multiples of SIZE_STEP."""
    h, w = sample.images.shape[1:3]
    scale = math.sqrt(area_px / (h * w)) if area_px else 1.0
    return crop_resize(
        sample, Box(0, 0, w, h), *(max(SIZE_STEP, round(n * scale / SIZE_STEP) * SIZE_STEP) for n in (w, h))
    )


class MixedClips(IterableDataset):
    """Endless batches: so many clips of each source, augmented; another stream in every worker and rank.

    Args:
        build: gives (draw, clips in a batch) of each source; called in the process that draws.
        start: a number that differs after every restart, so that a resumed training sees new batches.
        rank: of this process in a distributed training; its workers cannot tell.
    """

    def __init__(
        self, build: Build, recipe: Recipe, labels: LabelSpace, start: int = 0, rank: int = 0
    ) -> None:
        super().__init__()
        self.build, self.recipe, self.labels, self.start, self.rank = build, recipe, labels, start, rank

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.recipe.seed, self.start, self.rank, worker.id if worker else 0])
        slots = [draw for draw, count in self.build() for _ in range(count)]
        small = self.recipe.augment
        rare = rare_classes(self.labels)
        targets = NETWORKS[self.recipe.network].objective.targets
        while True:
            chosen, view = slots, small
            if rng.random() < small.large:
                height, width = LARGE_SIZES[rng.integers(len(LARGE_SIZES))]
                view = replace(small, height=height, width=width, max_zoom=max(small.min_zoom, LARGE_ZOOM))
                share = small.height * small.width / (height * width)
                count = min(len(slots), max(1, round(len(slots) * share)))
                chosen = [slots[i] for i in rng.choice(len(slots), count, replace=False)]
            yield collate([augment(draw(rng), rng, view, rare) for draw in chosen], self.labels, targets)
