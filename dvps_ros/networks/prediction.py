# SPDX-License-Identifier: Apache-2.0
"""What every network is and returns, in training and in deployment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

SIZE_STEP = 32
"""Input sizes are multiples of this, the deepest stride of the networks."""


@dataclass(frozen=True)
class RawPrediction:
    """Dense maps at stride 4 before fusion; h, w = H/4, W/4; the cell (i, j) is centred on the input
    pixel (u, v) = (4 j + 1.5, 4 i + 1.5)."""

    class_logits: Tensor
    """[B,C,h,w]: softmax over C gives class probabilities."""
    center_logits: Tensor
    """[B,1,h,w]: sigmoid gives the probability that an instance is centred here."""
    center_offset_px: Tensor
    """[B,2,h,w]: (dx, dy) from the pixel to the centre of its instance, input pixels."""
    log_depth: Tensor
    """[B,1,h,w]: ln of z-depth in metres, the camera's focal length already applied."""
    motion_px: Tensor
    """[B,2,h,w]: (dx, dy) to the same point in the previous frame, input pixels; 0 without one."""
    moving_logits: Tensor
    """[B,1,h,w]: sigmoid gives the probability that the pixel moves over ground."""
    embedding: Tensor
    """[B,D,h,w]: identity vector, unit length."""
    latent: Tensor
    """[B,T,C]: tokens of the scene, the same T for every input size."""
    state: dict[str, Tensor]
    """What the next frame needs of this one, each [B,C,H/s,W/s]."""
    depth_features: Tensor | None = None
    """[B,F,h,w]: what the depth head reads, for losses; None where a network has no such features."""


class Network(nn.Module, ABC):
    """A network that trains, validates and exports like all others."""

    name: str
    """Its key in ``NETWORKS``."""
    config: Any
    """Its frozen configuration; ``classes`` is the size of the label space."""

    @property
    @abstractmethod
    def state_channels(self) -> dict[str, tuple[int, int]]:
        """Name -> (channels, stride) of the memory between frames."""

    @abstractmethod
    def forward(
        self, image: Tensor, intrinsics: Tensor, state: dict[str, Tensor] | None = None
    ) -> RawPrediction:
        """One frame.

        Args:
            image: [B,3,H,W] RGB 0..255, H and W multiples of SIZE_STEP.
            intrinsics: [B,4] fx, fy, cx, cy in pixels of this image.
            state: ``state`` of the previous frame's prediction; None or zeros for a first frame
                (single items of a batch may be zeroed).
        """

    def initial_state(self, image: Tensor) -> dict[str, Tensor]:
        """The memory before the first frame: zeros, which mean "no previous frame"."""
        b, _, h, w = image.shape
        return {k: image.new_zeros(b, c, h // s, w // s) for k, (c, s) in self.state_channels.items()}
