# SPDX-License-Identifier: Apache-2.0
"""Labels guide the depth features and depth guides the semantic features, in small windows (DeepDPS, He et
al. 2023, equations 3 to 6; window and margin of FSRE-Depth, Jung et al. 2021).

A loop over the neighbours in a window keeps a few [B,h,w] maps of each for the backward pass; unfolded
windows would take 25 times the memory of the features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dvps_ros.losses.term import Term, in_float32

WINDOW = 5
"""K: windows of 5x5 cells, at every cell."""
MARGIN = 0.3
"""alpha of eq. 5."""
DEPTH_SCALE_M = 10.0
"""tau of eq. 6."""


@in_float32
def semantic_to_depth(
    features: Tensor,
    segments: Tensor,
    *,
    window: int = WINDOW,
    margin: float = MARGIN,
    least: int = 1,
    squared: bool = True,
) -> Term:
    """max(0, d+ - d- + margin): depth features differ between segments and agree within them (eq. 3 to 5).

    d+ is the largest distance from a cell to the cells of its own segment in the window around it, d- the
    smallest to those of other segments; of features of unit length. A cell counts where the window holds at
    least ``least`` of both, itself among its own. Unknown cells are neither. (In the authors' code d- is
    always 0.)

    Args:
        features: float [B,F,h,w], of the depth decoder.
        segments: int64 [B,h,w]: equal where class and instance are; -1 where either is unknown.
        window: K, odd.
        least: cells needed of each kind: 1 in the paper, K - 1 in the authors' code.
        squared: squared distances, 0..4, for which FSRE-Depth chose the margin; else 0..2, as in the authors'
            code.

    Returns:
        Term over [B,h,w].
    """
    x = F.normalize(features, dim=1)
    far_same = x.new_zeros(segments.shape)
    near_other = torch.full_like(far_same, torch.inf)
    same_count, other_count = (segments >= 0).long(), torch.zeros_like(segments)
    for dy, dx, distance in _neighbours(x, window, squared):
        beside = _shifted(segments, dy, dx, -1)
        known = (segments >= 0) & (beside >= 0)
        same, other = known & (beside == segments), known & (beside != segments)
        far_same = torch.maximum(far_same, torch.where(same, distance, 0.0))
        near_other = torch.minimum(near_other, torch.where(other, distance, torch.inf))
        same_count, other_count = same_count + same, other_count + other
    enough = torch.minimum(same_count, other_count) >= max(least, 1)
    value = (far_same - near_other + margin).clamp_min(0)
    return Term(value, enough.to(value.dtype))


@in_float32
def depth_to_semantic(
    features: Tensor,
    depth_m: Tensor,
    valid: Tensor,
    *,
    window: int = WINDOW,
    depth_scale_m: float = DEPTH_SCALE_M,
    literal: bool = False,
) -> Term:
    """-mean over neighbours j of exp(-|d_i - d_j| / tau) exp(-||F_i - F_j||), eq. 6: cells of similar depth
    get similar features.

    F has unit length and the mean is over the valid neighbours, so values lie in -1..0. ``literal`` is the
    printed form: F as it comes and the sum over the neighbours, -24..0. A predicted depth gets a gradient,
    too; detach it to train the features only.

    Args:
        features: float [B,F,h,w], of the semantic decoder.
        depth_m: float [B,h,w], true or predicted.
        valid: bool [B,h,w]: cells with a depth; the others are neither anchors nor neighbours.
        window: K, odd.
        depth_scale_m: tau.

    Returns:
        Term over [B,h,w].
    """
    x = features if literal else F.normalize(features, dim=1)
    depth = torch.where(valid, depth_m, 0.0)
    total, count = x.new_zeros(depth.shape), torch.zeros_like(depth, dtype=torch.int64)
    for dy, dx, distance in _neighbours(x, window, squared=False):
        both = valid & _shifted(valid, dy, dx, False)
        step = (depth - _shifted(depth, dy, dx, 0.0)).abs() / depth_scale_m
        alike = torch.exp(-step - distance)
        total = total + torch.where(both, alike, 0.0)
        count = count + both
    value = -total if literal else -total / count.clamp_min(1)
    return Term(value, (count > 0).to(value.dtype))


def _neighbours(x: Tensor, window: int, squared: bool) -> Iterator[tuple[int, int, Tensor]]:
    """(dy, dx) of each neighbour in the window around a cell, and [B,h,w]: how far its features are from the
    cell's; of no meaning where the neighbour is outside the map."""
    r = window // 2
    after = [(dy, dx) for dy in range(r + 1) for dx in range(-r, r + 1) if (dy, dx) > (0, 0)]
    for dy, dx in after:
        distance = _distance(x, dy, dx, squared)
        yield dy, dx, distance
        # From j back to i it is as far as from i to j.
        yield -dy, -dx, _shifted(distance, -dy, -dx, 0.0)


def _shifted(maps: Tensor, dy: int, dx: int, outside: float) -> Tensor:
    """[...,h,w]: at (i, j) what ``maps`` has at (i + dy, j + dx)."""
    h, w = maps.shape[-2:]
    padded = F.pad(maps, (max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0)), value=outside)
    return padded[..., max(dy, 0) : max(dy, 0) + h, max(dx, 0) : max(dx, 0) + w]


def _distance(x: Tensor, dy: int, dx: int, squared: bool) -> Tensor:
    """[B,h,w]: from each cell's features to those of its neighbour, computed again in the backward pass
    instead of keeping differences of the size of ``x``."""

    def norm(x: Tensor) -> Tensor:
        step = x - _shifted(x, dy, dx, 0.0)
        return step.square().sum(1) if squared else torch.linalg.vector_norm(step, dim=1)

    return checkpoint(norm, x, use_reentrant=False, preserve_rng_state=False)
