# SPDX-License-Identifier: Apache-2.0
"""Synthetic drives that neither a training nor its validation saw, and the pipeline's scores on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from dvps_ros.bench.facts import engine_facts
from dvps_ros.bench.score import mean_dvpq, score_frames
from dvps_ros.config import PipelineConfig
from dvps_ros.data.world import World, WorldConfig, draw_camera
from dvps_ros.labels import CITYSCAPES
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import CameraModel, Sample

QUALITY_SEED, DESIGNS_SEED = 1_000_100, 1_000_200
"""The first worlds of ``dvps bench quality`` and ``dvps bench designs``: behind those by which trainings are
judged (``training.render.VALIDATION_SEED``)."""
RATE_HZ = 10.0


def held_out_drive(
    seed: int, height: int, width: int, *, start_s: float = 0.0
) -> tuple[CameraModel, Iterator[Sample]]:
    """A camera of this world's own, and the endless drive through it, one frame a clip."""
    camera = draw_camera(seed, width, height)
    return camera, World(WorldConfig(seed=seed)).frames(camera, rate_hz=RATE_HZ, start_s=start_s)


def score_drives(config: PipelineConfig, worlds: int, frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Scores of the whole pipeline on the first frames of so many drives, as one data set.

    Args:
        size: height and width of the camera images.

    Returns:
        ``model``, ``backend``, and ``quality`` as :meth:`ClipQuality.compute` gives it.
    """
    quality = ClipQuality(CITYSCAPES)
    with tqdm(total=worlds * frames, unit="frame") as bar:
        for seed in range(QUALITY_SEED, QUALITY_SEED + worlds):
            camera, drive = held_out_drive(seed, *size)
            with DvpsPipeline.open(config, camera) as pipeline:
                model, backend = engine_facts(pipeline.engine.description)
                for _ in score_frames(pipeline, itertools.islice(drive, frames), quality, sequence=seed):
                    bar.update()
    return {
        "model": model,
        "backend": backend,
        "seeds": [QUALITY_SEED, QUALITY_SEED + worlds - 1],
        "frames_each": frames,
        "image_size": "x".join(map(str, size)),
        "quality": quality.compute(),
    }


def table(scores: dict[str, Any], worlds: int, frames: int) -> str:
    """The scores as lines of text, percent."""
    lines = [f"{worlds} drives of {frames} frames; percent"]
    pq, stq, objects, depth = (scores[key] for key in ("pq", "stq", "objects", "depth"))
    lines.append(
        f"PQ      all {_percent(pq['all'])}  things {_percent(pq['things'])}  stuff {_percent(pq['stuff'])}"
    )
    limits = list(next(iter(scores["dvpq"].values())))
    lines.append("DVPQ    lambda " + "  ".join(f"{limit:>5}" for limit in limits))
    for k, row in scores["dvpq"].items():
        lines.append(f"   k={k}         " + "  ".join(f"{_percent(row[limit]):>5}" for limit in limits))
    lines.append(f"   mean {_percent(mean_dvpq(scores['dvpq']))}")
    lines.append("STQ     " + "  ".join(f"{key} {_percent(stq[key])}" for key in ("STQ", "AQ", "SQ")))
    lines.append(
        f"objects {objects['objects']}, found {_percent(objects['found'])} of their sightings "
        f"(under the right class {_percent(objects['found_in_class'])}), "
        f"ids kept {_percent(objects['ids_kept'])}, switches {objects['id_switches']}"
    )
    sizes = scores["objects_by_size"].items()
    found = ", ".join(f"{size} {_percent(row['found'])}" for size, row in sizes)
    lines.append(f"found by visible area, as a square: {found}")
    lines.append(f"depth   abs_rel {_percent(depth['abs_rel'])}  delta1 {_percent(depth['delta1'])}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
