# SPDX-License-Identifier: Apache-2.0
"""Scale-invariant depth losses of segments and of the whole image (Eigen et al. 2014, eq. 4; DeepDPS, He et
al. 2023, eq. 7).

With g = ln predicted - ln true: 10 sqrt(mean of g^2 - 0.85 (mean of g)^2 + 1e-6), as the authors compute it.
They print neither the root nor the 10; that form is ``literal``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dvps_ros.losses.term import Term, in_float32

VARIANCE_FACTOR = 0.85
"""Of (mean of g)^2; 1 would leave the scale to chance."""
ROOT_FACTOR = 10.0
EPSILON = 1e-6
"""Under the root, whose slope at 0 is infinite."""
NEAREST_M = 1e-6
"""Predictions count as at least this, for their logarithm."""


@in_float32
def query_depth(
    depth_m: Tensor,
    truth_m: Tensor,
    masks: Tensor,
    matched: Tensor,
    *,
    max_depth_m: float = math.inf,
    literal: bool = False,
) -> Term:
    """Depth of each matched query on the true mask of its segment.

    A query whose segment has no pixel with a true depth does not count. The authors' code counts it as 10
    sqrt(1e-6).

    Args:
        depth_m: float [B,Q,h,w], or [B,1,h,w] of every pixel: z-depth, above 0.
        truth_m: float [B,h,w], 0 = no truth (masked); beyond ``max_depth_m`` masked as well.
        masks: bool [B,G,h,w].
        matched: int64 [B,Q], row of ``masks``; -1 none.
        literal: the printed form.

    Returns:
        Term over [B,Q].
    """
    sample, query = (matched >= 0).nonzero(as_tuple=True)
    valid = masks[sample, matched[sample, query]] & _valid(truth_m, max_depth_m)[sample]
    pair, y, x = valid.nonzero(as_tuple=True)
    plane = query if depth_m.shape[1] > 1 else torch.zeros_like(query)
    g = _log_ratio(depth_m[sample[pair], plane[pair], y, x], truth_m[sample[pair], y, x])
    value = g.new_zeros(matched.shape)
    weight = torch.zeros_like(value)
    summands = torch.stack((torch.ones_like(g), g, g.square()))
    count, total, total_square = g.new_zeros(3, len(sample)).index_add(1, pair, summands)
    value[sample, query] = _scale_invariant(count, total, total_square, literal)
    weight[sample, query] = (count > 0).to(g.dtype)
    return Term(value, weight)


@in_float32
def backup_depth(
    depth_m: Tensor, truth_m: Tensor, *, max_depth_m: float = math.inf, literal: bool = False
) -> Term:
    """The same over the whole image, of a map for all pixels.

    Args:
        depth_m: float [B,1,h,w]: z-depth, above 0.
        truth_m, max_depth_m, literal: as of :func:`query_depth`.

    Returns:
        Term over [B].
    """
    valid = _valid(truth_m, max_depth_m)
    g = _log_ratio(torch.where(valid, depth_m[:, 0], 1.0), torch.where(valid, truth_m, 1.0))
    count = valid.flatten(1).sum(1).to(g.dtype)
    value = _scale_invariant(count, g.sum((1, 2)), g.square().sum((1, 2)), literal)
    return Term(value, (count > 0).to(g.dtype))


def _valid(truth_m: Tensor, max_depth_m: float) -> Tensor:
    return (truth_m > 0) & (truth_m <= max_depth_m)


def _log_ratio(depth_m: Tensor, truth_m: Tensor) -> Tensor:
    return depth_m.clamp_min(NEAREST_M).log() - truth_m.to(depth_m.dtype).log()


def _scale_invariant(count: Tensor, total: Tensor, total_square: Tensor, literal: bool) -> Tensor:
    """Of the number of pixels, the sum of g and the sum of g^2."""
    count = count.clamp_min(1)
    spread = total_square / count - VARIANCE_FACTOR * (total / count).square()
    return spread if literal else ROOT_FACTOR * (spread + EPSILON).sqrt()
