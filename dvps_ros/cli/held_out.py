# SPDX-License-Identifier: Apache-2.0
"""Synthetic drives that neither a training nor its validation saw, to be scored on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvps_ros.types import CameraModel, Sample

QUALITY_SEED, DESIGNS_SEED = 1_000_100, 1_000_200
"""The first worlds of ``dvps bench quality`` and ``dvps bench designs``: behind those by which trainings are
judged (``training.render.VALIDATION_SEED``)."""
RATE_HZ = 10.0


def held_out_drive(
    seed: int, height: int, width: int, *, start_s: float = 0.0
) -> tuple[CameraModel, Iterator[Sample]]:
    """A camera of this world's own, and the endless drive through it, one frame a clip."""
    from dvps_ros.data.world import World, WorldConfig, draw_camera

    camera = draw_camera(seed, width, height)
    return camera, World(WorldConfig(seed=seed)).frames(camera, rate_hz=RATE_HZ, start_s=start_s)
