# SPDX-License-Identifier: Apache-2.0
"""Loss of a predicted curvature (Nguyen et al.)."""

from __future__ import annotations

import torch
from torch import Tensor


def steering_losses(
    curvature: Tensor, deviation: Tensor, truth: Tensor, ahead: Tensor, unit: float, bend_weight: float
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of the curvature, and how surprised its deviation is by the error.

    L = sum w (k - k*)^2 / sum w with w = exp(lambda |k*|) (Nguyen et al., uni-encoder, eq. 5), k in units of
    ``unit``. On top, an error counts by the square of the driver's lookahead: what matters is the distance
    from the lane that it leads to, and that grows so. The second term is the negative log-likelihood of a
    normal distribution; it teaches the deviation only.

    Args:
        curvature, deviation, truth: float32 [B], 1/m.
        ahead: float32 [B], metres.
    """
    error = (curvature - truth) / unit
    weight = torch.exp((bend_weight * truth.abs() / unit).clamp(max=3.0)) * (ahead / 10.0) ** 2
    squared = (weight * error**2).sum() / weight.sum()
    sigma = deviation / unit
    surprise = (0.5 * (error.detach() / sigma) ** 2 + torch.log(sigma)).mean()
    return squared, surprise
