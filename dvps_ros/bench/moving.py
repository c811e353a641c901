# SPDX-License-Identifier: Apache-2.0
"""Frames for timing: the model's golden picture at the camera's size, moving sideways."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from dvps_ros.config import PipelineConfig
from dvps_ros.runtime.manifest import find_model
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.runtime.verify import load_golden
from dvps_ros.types import CameraModel, Frame


def moving_frames(pipeline: DvpsPipeline, config: PipelineConfig, camera: CameraModel) -> Iterator[Frame]:
    """Without end, 20 a second by their stamps, 4 px further each time."""
    golden = load_golden(find_model(config.engine.model) / pipeline.engine.graph.golden)
    size = (camera.width, camera.height)
    picture = cv2.resize(golden.images[1], size, interpolation=cv2.INTER_LINEAR)
    for i in itertools.count():
        yield Frame(np.roll(picture, 4 * i, axis=1), (i + 1) * 50_000_000, camera)
