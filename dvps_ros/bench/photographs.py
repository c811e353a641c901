# SPDX-License-Identifier: Apache-2.0
"""Mean IoU of the deployed pipeline on photographs with coarse labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from dvps_ros.bench.facts import engine_facts
from dvps_ros.bench.score import score_frames
from dvps_ros.config import PipelineConfig
from dvps_ros.data.readers import READERS, Reading
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import CameraModel


def score_photographs(config: PipelineConfig, dataset: str, root: Path, split: str) -> dict[str, Any]:
    """Classes of single images; each is the first of its drive, so the network remembers nothing.

    Returns:
        ``model``, ``backend``, ``images`` (their number), ``iou`` by class and ``miou``.

    Raises:
        InputError: there are no images.
    """
    quality = ClipQuality(CITYSCAPES)
    pipeline: DvpsPipeline | None = None
    try:
        samples = READERS[dataset].samples(str(root), Reading(split=split))
        for index, sample in enumerate(tqdm(samples, unit="image")):
            if pipeline is None:
                height, width = sample.images.shape[1:3]
                camera = CameraModel.from_vector(width, height, sample.intrinsics[0])
                pipeline = DvpsPipeline.open(config, camera)
                model, backend = engine_facts(pipeline.engine.description)
            for _ in score_frames(pipeline, [sample], quality, sequence=index):
                pass
    finally:
        if pipeline is not None:
            pipeline.close()
    if not quality.frames:
        raise InputError(f"{root}: no image of {dataset} in split {split}")
    scores = quality.compute()
    return {
        "model": model,
        "backend": backend,
        "dataset": dataset,
        "split": split,
        "images": scores["frames"],
        "iou": scores["iou"],
        "miou": scores["miou"],
    }


def table(report: dict[str, Any]) -> str:
    """The scores as lines of text."""
    lines = [
        f"{name:<32}{'-' if value is None else f'{value:.3f}':>8}" for name, value in report["iou"].items()
    ]
    engine = f"{report['model']} on {report['backend']}"
    return "\n".join([*lines, f"{'mean':<32}{report['miou']:>8.3f}   of {report['images']} images, {engine}"])
