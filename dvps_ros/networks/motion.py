# SPDX-License-Identifier: Apache-2.0
"""Motion between two frames from features of both, for networks that keep those of the previous frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.networks.encoders import Convolution, separable
from dvps_ros.networks.parts import correlation, matched_shift, unit_length, upsample

CORRELATION_RADIUS = (5, 3)
"""Search range in cells of stride 16: 80 px sideways, 48 px up and down."""
MATCH_STRIDE_PX = 16
"""Cell size of the matching."""
MATCH_SHARPNESS = 10.0
"""Factor on the cosines before the softmax over the search range, at the start of training."""
MOTION_UNIT_PX = 16.0
"""Pixels for an activation of 1: keeps the head's activations near 1 in training."""


class MotionBranch(nn.Module):
    """Offset to the previous frame and whether a cell moves over ground, from two frames' features.

    The shift to the best matching cells is the first guess, which convolutions correct: matching need
    not be learnt from scratch, only features that match.
    """

    def __init__(self, state: int, instance: int) -> None:
        super().__init__()
        rx, ry = CORRELATION_RADIUS
        self.sharpness = nn.Parameter(torch.tensor(MATCH_SHARPNESS))
        cells = (2 * rx + 1) * (2 * ry + 1)
        self.coarse = nn.Sequential(Convolution(cells + state + 2, 96, 1), separable(96, 64, 5))
        self.fine = nn.Sequential(Convolution(64 + 2 * state + instance, 64, 1), separable(64, 48, 5))
        self.head = nn.Conv2d(48, 3, 1)

    def forward(self, current: Tensor, previous: Tensor, instance: Tensor) -> Tensor:
        """[B,3,H/8,W/8]: motion x, motion y (units of MOTION_UNIT_PX), logit of moving.

        Args:
            current, previous: [B,state,H/8,W/8] remembered features.
            instance: [B,instance,H/8,W/8] features of the instance decoder.
        """
        current16, previous16 = F.avg_pool2d(current, 2), F.avg_pool2d(previous, 2)
        cost = correlation(unit_length(current16), unit_length(previous16), *CORRELATION_RADIUS)
        shift = matched_shift(cost.float() * self.sharpness, *CORRELATION_RADIUS)
        guess = shift * (MATCH_STRIDE_PX / MOTION_UNIT_PX)
        coarse = self.coarse(torch.cat((cost, current16, guess), 1))
        out = self.head(self.fine(torch.cat((upsample(coarse), current, previous, instance), 1)))
        return out + F.pad(upsample(guess), (0, 0, 0, 0, 0, 1))
