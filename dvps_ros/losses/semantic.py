# SPDX-License-Identifier: Apache-2.0
"""Semantic losses: cross-entropy and the Lovász surrogate of the IoU, over the classes, and over sets of
classes for coarser labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.errors import InputError
from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.losses.term import Term, in_float32

RARE_CLASS_WEIGHT = {
    "wall": 1.5,
    "fence": 2.5,
    "pole": 4.0,
    "traffic light": 5.0,
    "traffic sign": 5.0,
    "person": 2.5,
    "rider": 3.0,
    "car": 1.5,
    "truck": 3.0,
    "bus": 3.0,
    "train": 3.0,
    "motorcycle": 4.0,
    "bicycle": 3.0,
}
"""Weight of a class in the cross-entropy, by name; 1 for the others. A class that weighs w is told where its
probability is above 1 / (1 + w); the best IoU, when it is x, wants that at x / (1 + x)."""


def class_weights(labels: LabelSpace) -> Tensor:
    """float [C] of :data:`RARE_CLASS_WEIGHT`."""
    return torch.tensor([RARE_CLASS_WEIGHT.get(name, 1.0) for name in labels.names])


def rare_classes(labels: LabelSpace) -> tuple[int, ...]:
    """Ids of the classes that weigh at least twice as much as a common one."""
    return tuple(i for i, name in enumerate(labels.names) if RARE_CLASS_WEIGHT.get(name, 1.0) >= 2)


@in_float32
def cross_entropy(logits: Tensor, class_map: Tensor, class_weight: Tensor | None = None) -> Term:
    """Cross-entropy per pixel, weighted by the class of the truth.

    Args:
        logits: float [B,C,h,w].
        class_map: uint8 [B,h,w], 255 void (masked).
        class_weight: float [C].

    Raises:
        InputError: a class id of the truth is not below C.
    """
    known = class_map != VOID
    _refuse_unknown_ids(class_map, known, logits.shape[1])
    target = torch.where(known, class_map, 0).long()
    labelled = known.flatten(1).any(1)  # the others would only cost time
    value = torch.zeros(class_map.shape, device=logits.device)
    value[labelled] = F.cross_entropy(logits[labelled], target[labelled], reduction="none")
    weight = known.float()
    if class_weight is not None:
        weight = weight * class_weight.to(logits.device)[target]
    return Term(value, weight)


@in_float32
def set_cross_entropy(
    logits: Tensor, coarse_map: Tensor, groups: Tensor, class_weight: Tensor | None = None
) -> Term:
    """-log of the probability that the class is one of the set that a coarse label stands for.

    L = logsumexp over all classes - logsumexp over the classes of the set. A set of one class gives
    the ordinary cross-entropy; a set weighs as much as the lightest of its classes.

    Args:
        logits: float [B,C,h,w].
        coarse_map: uint8 [B,h,w], row of ``groups``; 255 void (masked).
        groups: bool [B,G,C]: the classes of each coarse label, per sample.
        class_weight: float [C].

    Raises:
        InputError: a coarse id is not below G, or names an empty set.
    """
    known = coarse_map != VOID
    _refuse_unknown_ids(coarse_map, known, groups.shape[1])
    rows = torch.where(known, coarse_map, 0).long()
    sample = torch.arange(len(rows), device=rows.device)[:, None, None]
    if bool((known & ~groups.any(2)[sample, rows]).any()):
        raise InputError(
            "coarse labels: a label in use stands for no class; give it at least one class or void"
        )
    labelled = known.flatten(1).any(1)  # the others would only cost time
    x, known_here = logits[labelled], known[labelled]
    member = groups[labelled][sample[: len(x)], rows[labelled]].permute(0, 3, 1, 2)
    inside = torch.where(member | ~known_here[:, None], x, torch.finfo(x.dtype).min)
    value = torch.zeros(rows.shape, device=logits.device)
    value[labelled] = torch.logsumexp(x, 1) - torch.logsumexp(inside, 1)
    weight = known.float()
    if class_weight is not None:
        lightest = torch.where(groups, class_weight.to(logits.device), torch.inf).amin(2)
        weight = weight * lightest[sample, rows].where(known, 0.0)
    return Term(value, weight)


@in_float32
def lovasz(logits: Tensor, class_map: Tensor) -> Term:
    """The Lovász extension of 1 - IoU, a mean over the classes that occur (Berman et al. 2018, eq. 9 and 11).

    Cross-entropy counts pixels, the IoU counts classes: here a pole weighs as much as the road.

    Args:
        logits: float [B,C,h,w].
        class_map: uint8 [B,h,w], 255 void (masked).

    Returns:
        [1,N], one row for all samples: the error of each known pixel in each class that occurs, and what it
        costs in IoU.

    Raises:
        InputError: a class id of the truth is not below C.
    """
    known = class_map != VOID
    _refuse_unknown_ids(class_map, known, logits.shape[1])
    probability = logits.movedim(1, 0)[:, known].softmax(0)
    return _lovasz_term([(probability, class_map[known].long())])


@in_float32
def set_lovasz(logits: Tensor, coarse_map: Tensor, groups: Tensor) -> Term:
    """:func:`lovasz` over the sets of classes that coarse labels stand for, each label space by itself.

    Args:
        logits, coarse_map, groups: as of :func:`set_cross_entropy`.

    Raises:
        InputError: a coarse id is not below G.
    """
    known = coarse_map != VOID
    _refuse_unknown_ids(coarse_map, known, groups.shape[1])
    parts = []
    for sets in torch.unique(groups, dim=0):
        rows = (groups == sets).flatten(1).all(1)
        probability = logits[rows].movedim(1, 0)[:, known[rows]].softmax(0)
        parts.append((sets.to(probability.dtype) @ probability, coarse_map[rows][known[rows]].long()))
    return _lovasz_term(parts)


def _lovasz_term(spaces: list[tuple[Tensor, Tensor]]) -> Term:
    """Term of probabilities [C,P] and labels [P] of some label spaces; over the classes that occur."""
    errors, weights = [], []
    for probability, label in spaces:
        present = torch.unique(label)
        truth = label == present[:, None]
        error = torch.where(truth, 1 - probability[present], probability[present])
        errors.append(error)
        weights.append(jaccard_weight(error.detach(), truth))
    classes = torch.tensor(float(sum(len(e) for e in errors)), device=errors[0].device)
    value, weight = (torch.cat([part.flatten() for part in parts])[None] for parts in (errors, weights))
    return Term(value, weight, classes)


def jaccard_weight(error: Tensor, truth: Tensor) -> Tensor:
    """By how much 1 - IoU grows when each pixel, largest error first, becomes wrong.

    Args:
        error: float [C,P] in 0..1.
        truth: bool [C,P], at least one true in each row.

    Returns:
        float [C,P]; sum of weight x error is the Lovász extension, and for errors of 0 and 1 just 1 - IoU.
    """
    order = error.argsort(1, descending=True)
    hit = truth.gather(1, order).float()
    total = hit.sum(1, keepdim=True)
    loss = 1 - (total - hit.cumsum(1)) / (total + (1 - hit).cumsum(1))
    step = torch.cat((loss[:, :1], loss[:, 1:] - loss[:, :-1]), 1)
    return torch.empty_like(error).scatter_(1, order, step)


def _refuse_unknown_ids(labels: Tensor, known: Tensor, classes: int) -> None:
    wrong = known & (labels >= classes)
    if bool(wrong.any()):
        raise InputError(
            f"class map: expected ids 0..{classes - 1} or {VOID}, got {int(labels[wrong].max())}"
        )
