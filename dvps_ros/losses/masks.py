# SPDX-License-Identifier: Apache-2.0
"""Class and mask of queries (Mask2Former, Cheng et al. 2022; L_cls and L_mask of DeepDPS, He et al. 2023).

Samples without panoptic truth teach neither. ``matched`` is what ``matching.match`` gives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.losses.matching import POINTS
from dvps_ros.losses.points import look_up, uncertain_points
from dvps_ros.losses.term import Term, in_float32

NO_OBJECT_WEIGHT = 0.1
"""Most of the queries have no segment."""


@in_float32
def query_class(
    class_logits: Tensor,
    classes: Tensor,
    matched: Tensor,
    has_panoptic: Tensor,
    no_object_weight: float = NO_OBJECT_WEIGHT,
) -> Term:
    """Cross-entropy over C classes and "no object", which the queries without a segment are.

    The mean is the weighted one: a segment counts 1, a query without one ``no_object_weight``.

    Args:
        class_logits: float [B,Q,C+1], "no object" last.
        classes: int64 [B,G], -1 padding, G at least 1.
        matched: int64 [B,Q], row of ``classes``; -1 none.
        has_panoptic: bool [B].

    Returns:
        Term over [B,Q].
    """
    found = matched >= 0
    no_object = class_logits.shape[2] - 1
    target = torch.where(found, classes.gather(1, matched.clamp_min(0)), no_object)
    value = F.cross_entropy(class_logits.transpose(1, 2), target, reduction="none")
    weight = torch.where(found, 1.0, no_object_weight) * has_panoptic[:, None]
    return Term(value, weight)


@in_float32
def query_masks(
    mask_logits: Tensor,
    masks: Tensor,
    known: Tensor,
    matched: Tensor,
    *,
    points: int = POINTS,
    oversample: float = 3,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> tuple[Term, Term]:
    """Cross-entropy and dice of the masks of matched queries, on the same points.

    With logits x, p = sigmoid(x) and truth t at P points: the mean of BCE(x, t), and 1 - (2 sum p t + 1) /
    (sum p + sum t + 1). Points lie in known cells only, most of them where the mask is least certain.

    Args:
        mask_logits: float [B,Q,h,w].
        masks: bool [B,G,h,w].
        known: bool [B,h,w].
        matched: int64 [B,Q], row of ``masks``; -1 none.
        points, oversample, importance, generator: see ``points.uncertain_points``.

    Returns:
        Two terms over [B,Q]; their mean is that over all matched queries of the batch.
    """
    weight = ((matched >= 0) & known.flatten(1).any(1)[:, None]).to(mask_logits.dtype)
    entropies, dices = mask_logits.new_zeros(matched.shape), mask_logits.new_zeros(matched.shape)
    for b in range(len(matched)):
        query = weight[b].nonzero()[:, 0]
        if not len(query):
            continue
        logits, truth = mask_logits[b, query], masks[b, matched[b, query]]
        where = uncertain_points(
            logits, known[b], points, oversample=oversample, importance=importance, generator=generator
        )
        x, t = look_up(logits, known[b], where), look_up(truth, known[b], where).to(logits.dtype)
        entropies[b, query] = point_cross_entropy(x, t)
        dices[b, query] = point_dice(x, t)
    return Term(entropies, weight), Term(dices, weight)


def point_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy [N], mean over the points, of logits and truth (0..1) float [N,P]."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)


def point_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1), [N], of logits and truth (0..1) float [N,P]."""
    p = logits.sigmoid()
    return 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)
