# SPDX-License-Identifier: Apache-2.0
"""A panoptic and a depth network of others as one network of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dvps_ros.config import from_flat
from dvps_ros.export.checkpoints.classes import ClassMap
from dvps_ros.export.checkpoints.depth import Depth
from dvps_ros.export.checkpoints.panoptic import Segmenter
from dvps_ros.export.checkpoints.source import Normalise
from dvps_ros.networks import MasksPrediction, Network
from dvps_ros.networks.fusion.masks import ROWS, MasksConfig, MasksFusion
from dvps_ros.networks.parts import grid_tokens

LATENT_GRID = (4, 8)
"""Rows and columns of the latent tokens."""
LEAST_PROBABILITY = 1e-6
"""Of a class, before its logarithm is taken."""


@dataclass(frozen=True)
class ImportedConfig:
    """What export has to know of it."""

    classes: int


class ImportedNetwork(Network[MasksPrediction]):
    """Runs both on each frame; rows are found again in the next frame by their mask vectors.

    Args:
        normalise: pixels for the segmenter; the depth network has its own.
    """

    classes: Tensor

    def __init__(
        self, name: str, segmenter: Segmenter, normalise: Normalise, depth: Depth, classes: ClassMap
    ) -> None:
        super().__init__()
        self.name, self.config = name, ImportedConfig(len(classes.labels))
        self.segmenter, self.normalise, self.depth = segmenter, normalise, depth
        self.register_buffer("classes", classes.matrix())
        self.slots = MasksConfig().slots

    @property
    def state_shapes(self) -> Mapping[str, tuple[int | str, ...]]:
        return {ROWS: (self.slots, self.segmenter.widths[0])}

    def fusion(self, thing_ids: tuple[int, ...], **options: Any) -> MasksFusion:
        config = from_flat(MasksConfig, options)
        return MasksFusion(thing_ids, self.config.classes, config, propagates=True)

    def forward(
        self, image: Tensor, intrinsics: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> MasksPrediction:
        previous = (self.initial_state(image) if state is None else state)[ROWS]
        queries = self.segmenter(self.normalise(image))
        vectors, pixels = queries.mask_vectors, queries.pixel_vectors
        b, _, h, w = pixels.shape
        probability = queries.class_logits.softmax(2) @ self.classes
        return MasksPrediction(
            class_logits=probability.clamp(min=LEAST_PROBABILITY).log(),
            mask_logits=(vectors @ pixels.flatten(2)).reshape(b, -1, h, w),
            depth_m=self.depth(image, intrinsics),
            embedding=queries.embedding,
            latent=grid_tokens(queries.deepest, *LATENT_GRID),
            mask_vectors=vectors,
            pixel_vectors=pixels,
            previous_vectors=previous,
        )
