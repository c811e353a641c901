# SPDX-License-Identifier: Apache-2.0
"""What every network returns, in training and in deployment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
