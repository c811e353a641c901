# SPDX-License-Identifier: Apache-2.0
"""Depth losses on the logarithm of z-depth, so that near and far weigh by relative error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dvps_ros.losses.term import Term, in_float32


@in_float32
def log_l1(log_depth: Tensor, depth_m: Tensor, max_depth_m: float) -> Term:
    """|ln predicted - ln true| where there is truth.

    Args:
        log_depth: float [B,1,h,w], ln metres.
        depth_m: float [B,h,w], 0 = no truth (masked); beyond ``max_depth_m`` masked as well.
    """
    valid = (depth_m > 0) & (depth_m <= max_depth_m)
    return Term((log_depth[:, 0] - _safe_log(depth_m, valid)).abs(), valid.float())


@in_float32
def scale_invariant(log_depth: Tensor, depth_m: Tensor, max_depth_m: float) -> Term:
    """|e - mean of e over the sample|, e = ln predicted - ln true: the scene's shape, whatever its scale.

    The L1 form of the scale-invariant error of Eigen et al. 2014 (eq. 3 with lambda = 1).
    """
    valid = (depth_m > 0) & (depth_m <= max_depth_m)
    weight = valid.float()
    error = torch.where(valid, log_depth[:, 0] - _safe_log(depth_m, valid), 0.0)
    mean = error.sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp_min(1)
    return Term((error - mean).abs(), weight)


@in_float32
def gradient_l1(log_depth: Tensor, depth_m: Tensor, max_depth_m: float) -> Term:
    """|difference of e to the right and lower neighbour|, where all three have truth: straight surfaces.

    Gradient matching of Li and Snavely 2018 (MegaDepth, eq. 3) at one scale.
    """
    valid = (depth_m > 0) & (depth_m <= max_depth_m)
    error = log_depth[:, 0] - _safe_log(depth_m, valid)
    value, weight = torch.zeros_like(error), torch.zeros_like(error)
    value[:, :, :-1] += torch.where(
        valid[:, :, 1:] & valid[:, :, :-1], (error[:, :, 1:] - error[:, :, :-1]).abs(), 0.0
    )
    value[:, :-1] += torch.where(valid[:, 1:] & valid[:, :-1], (error[:, 1:] - error[:, :-1]).abs(), 0.0)
    weight[:, :-1, :-1] = (valid[:, :-1, :-1] & valid[:, 1:, :-1] & valid[:, :-1, 1:]).float()
    return Term(value, weight)


@in_float32
def sky_is_far(log_depth: Tensor, sky: Tensor, max_depth_m: float) -> Term:
    """ln max_depth - ln predicted on sky that is predicted nearer than that; sky has no true depth.

    Args:
        log_depth: float [B,1,h,w], ln metres.
        sky: bool [B,h,w].
    """
    return Term((math.log(max_depth_m) - log_depth[:, 0]).clamp_min(0), sky.float())


@in_float32
def edge_aware_smoothness(surface: Tensor, image: Tensor, *, edge: float = 10.0) -> Term:
    """|gradient of the surface| exp(-edge |gradient of the image|), x + y (Godard et al. 2017, eq. 5).

    Args:
        surface: float [B,1,h,w], free of the scene's scale: ln depth, or a disparity that is
            :func:`mean_normalised`.
        image: float [B,3,h,w], 0..255, at the same size; here 0..1, its gradient the mean over the channels.
        edge: 10 is ours, 1 that of Monodepth2 and what follows it.
    """
    d, i = surface, image / 255
    value = torch.zeros_like(d[:, 0])
    dx = (d[..., :, 1:] - d[..., :, :-1]).abs()[:, 0] * torch.exp(
        -(i[..., :, 1:] - i[..., :, :-1]).abs().mean(1) * edge
    )
    dy = (d[..., 1:, :] - d[..., :-1, :]).abs()[:, 0] * torch.exp(
        -(i[..., 1:, :] - i[..., :-1, :]).abs().mean(1) * edge
    )
    value[:, :, :-1] += dx
    value[:, :-1] += dy
    return Term(value, torch.ones_like(value))


@in_float32
def mean_normalised(disparity: Tensor) -> Tensor:
    """Disparity [B,1,h,w] over its mean in the image (Wang et al. 2018): free of the scene's scale."""
    return disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)


def _safe_log(depth_m: Tensor, valid: Tensor) -> Tensor:
    return torch.log(torch.where(valid, depth_m, torch.ones_like(depth_m)))
