# SPDX-License-Identifier: Apache-2.0
"""Semantic losses: cross-entropy over the classes, and over sets of classes for coarser labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.errors import InputError
from dvps_ros.labels import VOID
from dvps_ros.losses.term import Term


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
    value = F.cross_entropy(logits.float(), target, reduction="none")
    weight = known.float()
    if class_weight is not None:
        weight = weight * class_weight.to(logits.device)[target]
    return Term(value, weight)


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
    batch = torch.arange(len(rows), device=rows.device)[:, None, None]
    member = groups[batch, rows].permute(0, 3, 1, 2)
    if bool((known & ~member.any(1)).any()):
        raise InputError(
            "coarse labels: a label in use stands for no class; give it at least one class or void"
        )
    x = logits.float()
    inside = torch.where(member | ~known[:, None], x, torch.finfo(x.dtype).min)
    weight = known.float()
    if class_weight is not None:
        every = class_weight.to(logits.device)[None, :, None, None]
        weight = weight * torch.where(member, every, torch.inf).amin(1).where(known, 0.0)
    return Term(torch.logsumexp(x, 1) - torch.logsumexp(inside, 1), weight)


def _refuse_unknown_ids(labels: Tensor, known: Tensor, classes: int) -> None:
    wrong = known & (labels >= classes)
    if bool(wrong.any()):
        raise InputError(
            f"class map: expected ids 0..{classes - 1} or {VOID}, got {int(labels[wrong].max())}"
        )
