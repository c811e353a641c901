# SPDX-License-Identifier: Apache-2.0
"""Validation during training: clips through the robot's own pipeline, with torch in the engine's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dvps_ros.bench.score import headline, score_frames
from dvps_ros.config import MapConfig, PipelineConfig
from dvps_ros.export.graph import DeployedGraph
from dvps_ros.labels import LabelSpace
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.networks import Network
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.training.torch_engine import TorchEngine
from dvps_ros.types import FrameResult, Sample
from dvps_ros.viz.overlay import overlay
from dvps_ros.viz.palette import depth_color
from dvps_ros.viz.sample import truth_panel

PICTURES = 4
"""Pictures of each set at every validation."""
MAX_DEPTH_M = 200.0
"""Farther than any truth that is scored: a limit for displays must not cost coverage."""


class Validation:
    """One validation of a network, on any number of sets.

    Args:
        network: as it is now; it is copied as an export would change it.
        labels: the classes.
        folder: where pictures go.
        stem: begins the end of their names, such as the step.
    """

    def __init__(self, network: Network, labels: LabelSpace, folder: Path, stem: str) -> None:
        self._graph = DeployedGraph(network, labels)
        self._labels, self._folder, self._stem = labels, folder, stem
        self._pipelines: dict[tuple[int, int], DvpsPipeline[TorchEngine]] = {}
        self._qualities: dict[str, ClipQuality] = {}
        self._pictures: dict[str, int] = {}

    def add(self, name: str, clip: Sample, *, picture: bool = True) -> None:
        """Score a clip of the set ``name``; the first ones leave a picture of their last frame."""
        size = clip.images.shape[1], clip.images.shape[2]
        if size not in self._pipelines:
            config = PipelineConfig(maps=MapConfig(max_depth_m=MAX_DEPTH_M))
            engine = TorchEngine(self._graph, self._labels, *size)
            self._pipelines[size] = DvpsPipeline(engine, config)
        quality = self._qualities.setdefault(name, ClipQuality(self._labels))
        frames = (clip.frames(t, 1) for t in range(len(clip.images)))
        for truth, result in score_frames(self._pipelines[size], frames, quality, sequence=clip.source):
            last = truth, result
        drawn = self._pictures.get(name, 0)
        if picture and drawn < PICTURES:
            self._pictures[name] = drawn + 1
            path = self._folder / f"{name}_{drawn:03d}_{self._stem}.jpg"
            write_picture(path, *last, self._labels)

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """``set/score`` -> value, see ``bench.score.headline``; set -> name of the class -> IoU, None where
        the truth has none."""
        values: dict[str, float] = {}
        class_iou: dict[str, Any] = {}
        for name, quality in self._qualities.items():
            scores = quality.compute()
            values |= {f"{name}/{k}": v for k, v in headline(scores).items()}
            if "iou" in scores:
                class_iou[name] = {c: None if v is None else round(v, 3) for c, v in scores["iou"].items()}
        return values, class_iou


def write_picture(path: Path, truth: Sample, result: FrameResult, labels: LabelSpace) -> None:
    """Image, what was found, depth; below them the confidence, true classes and ids, and true depth, as
    JPEG."""
    maps = result.panoptic
    assert maps is not None, "it is wanted"
    found = overlay(result.image, maps.class_map, maps.track_map, labels, result.instances)
    confidence = np.repeat(maps.confidence[..., None], 3, 2)
    rows = [
        [result.image, found, depth_color(maps.depth_m)],
        [confidence, truth_panel(truth, labels), _true_depth(truth)],
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack([np.hstack(row) for row in rows])[..., ::-1])


def _true_depth(truth: Sample) -> np.ndarray:
    if truth.depth_m is None:
        return np.zeros_like(truth.images[0])
    depth = truth.depth_m[0]
    return depth_color(np.where(depth > 0, depth, np.nan).astype(np.float32))
