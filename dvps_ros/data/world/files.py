# SPDX-License-Identifier: Apache-2.0
"""Rendered sequences as files: in the layout of a data set, with ``truth/`` beside (docs/world.md)."""

from __future__ import annotations

import csv
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data.layout import Layout
from dvps_ros.data.semkitti_dvps import SemkittiDvps
from dvps_ros.errors import ConfigError, InputError, OutputError
from dvps_ros.files import whole_file
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import Sample

_NEAREST_CLASS = {"bus": "other-vehicle", "train": "other-vehicle", "wall": "fence"}
"""Classes of ours that SemanticKITTI has no own name for; without an entry here they become void."""

TRUTH_COLUMNS = [
    *("frame", "time_s", "fx", "fy", "cx", "cy", "steering_rad", "speed_mps"),
    *(f"world_from_camera_{r}{c}" for r in range(3) for c in range(4)),
    *(f"base_from_camera_{r}{c}" for r in range(3) for c in range(4)),
]


def from_project(layout: Layout) -> np.ndarray:
    """uint8 [256]: class of the layout for each class of ours."""
    theirs = layout.to_project(np.arange(256, dtype=np.uint8))
    table = np.full(256, VOID, np.uint8)
    for c in CITYSCAPES.classes:
        match = np.flatnonzero(theirs[: len(layout.space)] == c.id)
        if len(match):
            table[c.id] = match[0]
        elif c.name in _NEAREST_CLASS:
            table[c.id] = layout.space.id_of(_NEAREST_CLASS[c.name])
    return table


def truth_folder(root: Path, split: str, sequence: str) -> Path:
    """Where the truth of a sequence lies that the layout has no place for."""
    return root / "truth" / split / sequence


def write_sequence(
    frames: Iterable[Sample],
    layout: Layout,
    root: Path,
    *,
    split: str,
    sequence: str,
    rate_hz: float,
    base_from_camera: np.ndarray,
) -> int:
    """Write one-frame samples with full truth, scene flow included, as one sequence.

    Objects are numbered anew, 1, 2, ... in the order of their first sight, so that the ids fit every layout.
    ``truth/<split>/<sequence>.csv`` is written last, under a temporary name first: where it is, all is there.

    Returns:
        Number of frames written.

    Raises:
        ConfigError: the sequence is there already.
        InputError: the folder cannot be written, or there are more objects than the layout can number.
    """
    table = from_project(layout)
    is_thing = layout.classes.is_thing
    numbers = np.zeros(1, np.int32)
    rows: list[list[float]] = []
    truth = truth_folder(root, split, sequence)
    if truth.exists():
        raise ConfigError(f"{truth} exists already: remove that sequence, or write to another folder")
    try:
        truth.mkdir(parents=True)
        for index, sample in enumerate(frames):
            ids = sample.truth("instance_map")[0]
            numbers = renumber(numbers, ids)
            true_class = sample.truth("class_map")[0]
            depth_m = sample.truth("depth_m")[0]
            class_map = table[true_class]
            instance_map = np.where(is_thing[class_map], numbers[ids], 0).astype(np.int32)
            maps: dict[str, Any] = {
                "class_map": class_map,
                "instance_map": instance_map,
                "image": sample.images[0],
            }
            if layout.name != "kitti-step":
                maps["depth_m"] = depth_m
            if isinstance(layout, SemkittiDvps):
                maps["focal_px"] = float(sample.intrinsics[0, 0])
            layout.write(root, split, sequence, index, **maps)
            _write_npz(
                truth / f"{index:06d}.npz",
                flow_px=sample.truth("flow_px")[0],
                scene_flow_m=sample.truth("scene_flow_m")[0],
                moving=sample.truth("moving")[0],
                depth_m=depth_m,
                instance_map=numbers[ids].astype(np.uint16),
                class_map=true_class,
            )
            rows.append(
                [
                    index,
                    index / rate_hz,
                    *map(float, sample.intrinsics[0]),
                    float(sample.truth("steering_rad")[0]),
                    float(sample.truth("speed_mps")[0]),
                    *sample.truth("world_from_camera")[0][:3].reshape(-1),
                    *base_from_camera[:3].reshape(-1),
                ]
            )
        table_file = truth.with_suffix(".csv")
        with whole_file(table_file) as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(TRUTH_COLUMNS)
            writer.writerows(rows)
    except (OSError, OutputError) as error:
        raise InputError(
            f"cannot write sequence {sequence}, which is left unfinished: {error}; "
            "make room, or choose another --out"
        ) from error
    return len(rows)


@contextmanager
def ahead(items: Iterable[Any], count: int) -> Iterator[Iterator[Any]]:
    """Another thread goes through ``items``, up to ``count`` ahead of who takes them here, in the same order.

    What ``items`` raises is raised here.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(count)
    end, stopped = object(), threading.Event()

    def hand_over(item: Any, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand_over(item):
                    return
            hand_over(end)
        except BaseException as error:
            hand_over(end, error)

    def take() -> Iterator[Any]:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item

    thread = threading.Thread(target=work, name="world", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()


def renumber(numbers: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Extend the table id -> number (int32, 0 for ids not seen) by ids that are seen for the first time."""
    top = int(ids.max())
    if top >= len(numbers):
        numbers = np.concatenate([numbers, np.zeros(top + 1 - len(numbers), np.int32)])
    new = np.unique(ids)
    new = new[(new > 0) & (numbers[new] == 0)]
    numbers[new] = numbers.max() + 1 + np.arange(len(new))
    return numbers


def _write_npz(path: Path, **arrays: Any) -> None:
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # packing exact flows takes longer than rendering them, for little
