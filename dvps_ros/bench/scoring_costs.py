# SPDX-License-Identifier: Apache-2.0
"""What scoring costs: time and memory of ``dvps eval`` on generated frames."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from dvps_ros.bench.evaluate import count_frames
from dvps_ros.data.layout import FolderPairs
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.errors import DvpsError
from dvps_ros.metrics.evaluation import Evaluation

SEQUENCE_FRAMES = 6
"""As in Cityscapes-DVPS."""
OBJECTS = 40
"""In each frame; real frames hold about as many."""


def scoring_costs(
    frames: int, height: int, width: int, metrics: Sequence[str], jobs: int | None
) -> dict[str, Any]:
    """Score frames in the layout of Cityscapes-DVPS that are made first, in a temporary folder.

    Args:
        jobs: processes to work in; None takes one a core.

    Returns:
        ``seconds`` of all but the making, and ``memory_mib`` of all processes.

    Raises:
        DvpsError: the truth does not score 1 against itself.
    """
    layout = LAYOUTS["cityscapes-dvps"]
    with tempfile.TemporaryDirectory() as folder:
        gt, pred = Path(folder) / "gt", Path(folder) / "pred"
        _write_trees(layout, gt, pred, frames, height, width)
        _check_answer(FolderPairs(layout, gt, gt, "val"), Evaluation(layout.classes))
        start = time.perf_counter()
        evaluation = Evaluation(layout.classes, tuple(metrics))
        memory_mib = []
        for index, counts in enumerate(count_frames(FolderPairs(layout, gt, pred, "val"), evaluation, jobs)):
            evaluation.add(counts)
            if index in (frames // 4, frames - 1):
                memory_mib.append(_memory_mib())
        evaluation.result()
        seconds = time.perf_counter() - start
    return {
        "frames": frames,
        "size": [height, width],
        "metrics": list(metrics),
        "seconds": seconds,
        "memory_mib": dict(zip(("after_a_quarter", "at_the_end"), memory_mib, strict=True)),
    }


def _memory_mib() -> float:
    """Resident memory of this process and the processes it started."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / 2**20


def _check_answer(source: Any, evaluation: Any) -> None:
    """The truth scored against itself must be perfect: a fast wrong answer is worth nothing."""
    for index in range(SEQUENCE_FRAMES):
        evaluation.add(evaluation.count(source.load(index)))
    result = evaluation.result()
    if result["means"]["DVPQ"]["all"] != 1 or result["STQ"]["STQ"] != 1:
        raise DvpsError(f"the truth does not score 1 against itself: {result['means']['DVPQ']}")


def _write_trees(layout: Any, gt: Path, pred: Path, frames: int, height: int, width: int) -> None:
    """Sequences of moving ellipses on a street of bands, and a prediction that is shifted and noisy."""
    noise = np.random.default_rng(0).normal(1, 0.15, (height, width)).astype(np.float32)
    shift = max(1, width // 500)
    for index in tqdm(range(frames), desc="making frames"):
        sequence, frame = divmod(index, SEQUENCE_FRAMES)
        class_map, instance_map, depth_m = _scene(sequence, frame, height, width)
        name = f"{sequence:06d}"
        layout.write(gt, "val", name, frame, class_map=class_map, instance_map=instance_map, depth_m=depth_m)
        layout.write(
            pred,
            "val",
            name,
            frame,
            class_map=np.roll(class_map, shift, 1),
            instance_map=np.roll(instance_map, shift, 1),
            depth_m=np.clip(depth_m * np.roll(noise, 7 * index, 1), 0.5, 250),
        )


def _scene(sequence: int, frame: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class uint8, instance int32 and depth float32 (m) [H,W] of one frame."""
    rng = np.random.default_rng(sequence)
    rows = np.arange(height) / height
    class_map = np.repeat(np.select([rows < 0.3, rows < 0.5, rows < 0.6], [10, 8, 2], 0)[:, None], width, 1)
    class_map = class_map.astype(np.uint8)
    class_map[int(0.3 * height) : int(0.6 * height), :: max(2, width // 20)] = 5
    depth_m = np.repeat(np.clip(1.65 / np.maximum(rows - 0.42, 0.007), 0, 250)[:, None], width, 1)
    depth_m = depth_m.astype(np.float32)
    instance_map = np.zeros((height, width), np.int32)
    for number in range(1, OBJECTS + 1):
        x, y = rng.uniform(0, width), rng.uniform(0.4, 0.8) * height
        radius, speed = rng.uniform(0.01, 0.06) * width, rng.uniform(-0.02, 0.02) * width
        center = round(x + speed * frame), round(y)
        axes = round(radius) + 1, round(radius / 2) + 1
        for array, value in ((class_map, 11 + number % 8), (instance_map, number), (depth_m, 100 / number)):
            cv2.ellipse(array, center, axes, 0, 0, 360, value, -1)
    return class_map, instance_map, depth_m
