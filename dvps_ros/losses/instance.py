# SPDX-License-Identifier: Apache-2.0
"""Instance losses: centre heat-map, offset to the centre, identity embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.losses.term import Term, in_float32


@in_float32
def center_focal(
    logits: Tensor, heat: Tensor, valid: Tensor, *, alpha: float = 2.0, beta: float = 4.0
) -> Term:
    """Penalty-reduced focal loss of the centre heat-map (CenterNet, Zhou et al. 2019, eq. 1).

    At a peak (heat = 1): -(1-p)^alpha log p; elsewhere -(1-heat)^beta p^alpha log(1-p); divided by
    the number of peaks.

    Args:
        logits: float [B,1,h,w].
        heat: float [B,h,w], Gaussians with the value 1 in the cell of each centre.
        valid: bool [B,h,w].
    """
    x = logits[:, 0]
    log_p, log_not_p = F.logsigmoid(x), F.logsigmoid(-x)
    p = x.sigmoid()
    peak = heat >= 1.0
    value = torch.where(peak, -((1 - p) ** alpha) * log_p, -((1 - heat) ** beta) * p**alpha * log_not_p)
    weight = valid.float()
    return Term(value, weight, (peak & valid).sum().clamp_min(1).float())


@in_float32
def center_mse(logits: Tensor, heat: Tensor, valid: Tensor) -> Term:
    """Squared error of the centre heat-map (Panoptic-DeepLab, Cheng et al. 2020, section 3.2).

    Args:
        logits: float [B,1,h,w]; their sigmoid is compared.
        heat: float [B,h,w], 0..1.
        valid: bool [B,h,w].
    """
    return Term((logits[:, 0].sigmoid() - heat).square(), valid.float())


@in_float32
def offset_l1(offset_px: Tensor, target_px: Tensor, valid: Tensor) -> Term:
    """|dx error| + |dy error| of the offset to the instance's centre (Panoptic-DeepLab), input pixels.

    Args:
        offset_px, target_px: float [B,2,h,w].
        valid: bool [B,h,w], pixels of instances with a known id.
    """
    target = torch.where(valid[:, None], target_px, 0.0)
    return Term((offset_px - target).abs().sum(1), valid.float())


@in_float32
def identity_contrast(
    previous: Tensor, previous_ids: Tensor, current: Tensor, current_ids: Tensor, *, temperature: float = 0.07
) -> Term:
    """Softmax cross-entropy of each pixel's embedding against the instances of the previous frame.

    As in QDTrack (Pang et al. 2021) with masks for proposals: a key is the mean embedding of an
    instance of the previous frame, unit length; the instances of all samples of the batch are the
    other choices. Every instance weighs the same, whatever its area.

    Args:
        previous, current: float [B,D,h,w], unit length.
        previous_ids, current_ids: int32 [B,h,w]; only ids > 0 take part; equal id = same object.
        temperature: of the cosine similarity.
    """
    keys_of, keys = instance_rows(previous_ids)
    ids_of, _ = instance_rows(current_ids)
    weight = torch.zeros(current_ids.shape, dtype=torch.float32, device=current.device)
    if len(keys) < 2:
        return Term(current[:, 0] * 0, weight)
    d = current.shape[1]
    pixels = previous.permute(0, 2, 3, 1).reshape(-1, d)
    inside = keys_of.flatten() >= 0
    sums = torch.zeros(len(keys), d, device=current.device).index_add(
        0, keys_of.flatten()[inside], pixels[inside]
    )
    means = F.normalize(sums, dim=1)
    similarity = torch.einsum("bdhw,kd->bkhw", current, means) / temperature
    # Which key, if any, is the object under a pixel of the current frame.
    packed = _pack(current_ids)
    row = torch.searchsorted(keys, packed).clamp_max(len(keys) - 1)
    matched = (keys[row] == packed) & (ids_of >= 0)
    value = F.cross_entropy(similarity, torch.where(matched, row, 0), reduction="none")
    if bool(matched.any()):
        area = torch.bincount(row[matched], minlength=len(keys)).float()
        weight = torch.where(matched, 1 / area.clamp_min(1)[row], weight)
    return Term(value, weight)


def _pack(ids: Tensor) -> Tensor:
    """One int64 number for (sample, id), unique in the batch."""
    sample = torch.arange(len(ids), device=ids.device, dtype=torch.int64)[:, None, None]
    return (sample << 32) + ids.long().clamp_min(0)


def instance_rows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Row int64 [B,h,w] of each pixel in the sorted list of all samples' instances (-1: none), and that list.

    Args:
        ids: int32 [B,h,w]; instances have ids > 0, of one sample each.
    """
    packed = _pack(ids)
    keys = torch.unique(packed[ids > 0])
    if len(keys) == 0:
        return torch.full_like(packed, -1), keys
    row = torch.searchsorted(keys, packed).clamp_max(len(keys) - 1)
    return torch.where(ids > 0, row, -1), keys
