# SPDX-License-Identifier: Apache-2.0
"""Motion losses: the offset to the previous frame, and whether a pixel moves over ground."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.losses.term import Term, in_float32


@in_float32
def charbonnier(
    motion_px: Tensor, target_px: Tensor, *, epsilon_px: float = 0.5, limit_px: float = 128.0
) -> Term:
    """sqrt(|error|^2 + eps^2) - eps per pixel, in pixels (Charbonnier; 0 for equal inputs).

    Args:
        motion_px, target_px: float [B,2,h,w], this frame to the previous one; NaN target = unknown (masked).
        limit_px: longer true offsets are masked, they leave the image anyway.
    """
    valid = torch.isfinite(target_px).all(1)
    target = torch.where(valid[:, None], target_px, 0.0)
    valid = valid & (target.abs().amax(1) <= limit_px)
    error = torch.where(valid[:, None], motion_px - target, 0.0)
    return Term((error.square().sum(1) + epsilon_px**2).sqrt() - epsilon_px, valid.float())


@in_float32
def moving_cross_entropy(logits: Tensor, moving: Tensor, *, positive_weight: float = 3.0) -> Term:
    """Binary cross-entropy of "moves over ground".

    Args:
        logits: float [B,1,h,w].
        moving: uint8 [B,h,w]: 1 moves, 0 static, 255 unknown (masked).
        positive_weight: of moving pixels, which are rare.
    """
    known = moving != 255
    target = (moving == 1).float()
    value = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return Term(value, known.float() * (1 + (positive_weight - 1) * target))
