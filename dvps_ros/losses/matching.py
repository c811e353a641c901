# SPDX-License-Identifier: Apache-2.0
"""Which query learns which segment: the cheapest one-to-one assignment (DETR, Carion et al. 2020, eq. 1; the
costs of Mask2Former, Cheng et al. 2022, which DeepDPS keeps)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dvps_ros.errors import InputError
from dvps_ros.losses.points import look_up, random_points
from dvps_ros.losses.term import in_float32

POINTS = 12544
"""112 x 112 points stand for a mask, in the costs and in the losses."""
PROHIBITIVE = 1e6
"""Replaces a cost that is not finite."""


class CostWeights(NamedTuple):
    """What the parts of the matching cost weigh."""

    class_: float = 2.0
    """Negative probability of the segment's class."""
    mask: float = 5.0
    """Binary cross-entropy, mean over the points."""
    dice: float = 5.0
    """1 - dice of the points."""


COST_WEIGHTS = CostWeights()


@in_float32
@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    classes: Tensor,
    masks: Tensor,
    known: Tensor,
    *,
    weights: CostWeights = COST_WEIGHTS,
    points: int = POINTS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The segment of each query of a batch; with more segments than queries some stay unmatched.

    Args:
        class_logits: float [B,Q,C+1], "no object" last.
        mask_logits: float [B,Q,h,w].
        classes: int64 [B,G], -1 padding.
        masks: bool [B,G,h,w].
        known: bool [B,h,w]: only these cells are compared; a sample without any gets no pair.
        points: random points that stand for a mask, the same for all pairs of a sample.
        generator: for the points, on the device of the tensors.

    Returns:
        int64 [B,Q]: row of ``classes``; -1 none.

    Raises:
        InputError: a class id is not below C.
    """
    count = class_logits.shape[2] - 1
    if bool((classes >= count).any()):
        raise InputError(f"classes of segments: expected 0..{count - 1} or -1, got {int(classes.max())}")
    matched = torch.full(class_logits.shape[:2], -1, dtype=torch.int64, device=class_logits.device)
    for b in range(len(matched)):
        rows = (classes[b] >= 0).nonzero()[:, 0]
        if not len(rows) or not bool(known[b].any()):
            continue
        where = random_points(known[b], 1, points, generator)
        cost = matching_cost(
            class_logits[b],
            look_up(mask_logits[b], known[b], where),
            classes[b, rows],
            look_up(masks[b, rows], known[b], where),
            weights,
        )
        query, row = assign(cost)
        matched[b, query] = rows[row]
    return matched


@in_float32
def matching_cost(
    class_logits: Tensor,
    point_logits: Tensor,
    classes: Tensor,
    point_truth: Tensor,
    weights: CostWeights = COST_WEIGHTS,
) -> Tensor:
    """What it costs to give segment g to query q: -w_c p_q(class of g) + w_m BCE + w_d (1 - dice).

    Args:
        class_logits: float [Q,C+1].
        point_logits: float [Q,P]: mask logits at P points.
        classes: int64 [G], 0..C-1.
        point_truth: float [G,P], 0..1: the segments' masks at these points.

    Returns:
        float [Q,G].
    """
    truth = point_truth.to(point_logits.dtype)
    # BCE(x, t) = softplus(x) - x t: one product of matrices for all pairs.
    mask = (F.softplus(point_logits).sum(1)[:, None] - point_logits @ truth.T) / truth.shape[1]
    probability = point_logits.sigmoid()
    both = probability @ truth.T
    dice = (2 * both + 1) / (probability.sum(1)[:, None] + truth.sum(1) + 1)
    likely = class_logits.softmax(1)[:, classes]
    return -weights.class_ * likely + weights.mask * mask + weights.dice * (1 - dice)


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The min(Q, G) pairs of least total cost.

    A cost that is not finite counts as :data:`PROHIBITIVE`: it comes from a network that has diverged, and
    the loss term reports that with the sample's name.

    Args:
        cost: float [Q,G].

    Returns:
        query int64 [n], rising; segment int64 [n]; on the device of ``cost``.
    """
    cost = cost.detach().double()
    cost = torch.where(torch.isfinite(cost), cost, PROHIBITIVE)
    query, segment = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(query).to(cost.device), torch.from_numpy(segment).to(cost.device)
