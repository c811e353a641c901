# SPDX-License-Identifier: Apache-2.0
"""Which instances move over ground, from flow on the one hand, depth and pose on the other: no truth about
motion is needed (MonoDVPS, Petrovai and Nedevschi 2023, section 3.3).

Flow carries the instances of a target frame to where another frame, the source, shows them. From there they
are fetched back by depth and pose, which hold for what stands still. What stands still comes back to its
place; what moves does not.

Not as printed: equation 9 multiplies labels by a mask of 0 and 1, so that hidden pixels become class 0, which
is the road. Here a hidden pixel belongs to no instance, and one that lies outside a frame is VOID: it counts
neither for nor against an instance, or what leaves the image would seem to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dvps_ros.losses.flow import warp_by_flow
from dvps_ros.losses.instance import instance_rows
from dvps_ros.losses.targets import View
from dvps_ros.losses.term import in_float32
from dvps_ros.losses.warping import labels_at, places_by_depth, places_by_flow

START_IOU = 0.7
"""Instances that overlap less with themselves than this move: the paper's T at the start of the training."""
LEAST_LIKENESS = 0.9
"""exp(-|difference|) of images in 0..1 below which a pixel of the source is not what flow says it is, but
hidden in the target (the paper's r, whose value it does not give). In the synthetic world, with all else
exact, T = 0.7 finds 98 % of the moving pixels at a precision of 0.92; with 0.5 it finds 17 %, for the ground
that a car has uncovered in the source fetches the car's label."""
NO_INSTANCE, VOID = -1, -2
"""In maps of instance rows: what belongs to none; and what is unknown or outside."""


class Carried(NamedTuple):
    """Rows of the target's instances (int64 [B,h,w], see :func:`target_rows`) in a source frame and back."""

    in_source: Tensor
    """By flow: the source's pixels (P_{t->s})."""
    in_target: Tensor
    """From there by depth and pose: the target's pixels (P_{s->t}); equal to the target's own rows where
    nothing moves and nothing is hidden."""


class MovingMask(NamedTuple):
    """Pixels of instances that move over ground."""

    target: Tensor
    """bool [B,h,w]."""
    sources: tuple[Tensor, ...]
    """bool [B,h,w], one a source frame."""


def iou_threshold(done: float) -> float:
    """T falls linearly from :data:`START_IOU` to 0 at the end of the training (where it ends the paper does
    not say): the better depth and pose get, the less is left out.

    Args:
        done: share of the training that is done, 0..1.
    """
    return START_IOU * (1 - done)


def target_rows(instance: Tensor) -> Tensor:
    """Instances of all samples numbered from 0: int64 [B,h,w], NO_INSTANCE on stuff, VOID where unknown.

    Args:
        instance: int32 [B,h,w]: id, 0 none, -1 unknown (``DenseTargets.instance``).
    """
    rows, _ = instance_rows(instance)
    return torch.where(instance < 0, VOID, rows)


@torch.no_grad()
@in_float32
def carry(
    rows: Tensor,
    image: Tensor,
    log_depth: Tensor,
    intrinsics: Tensor,
    source: View,
    target_from_source_px: Tensor,
    *,
    least_likeness: float = LEAST_LIKENESS,
) -> Carried:
    """The target's instances, carried to a source frame by flow and fetched back by depth and pose.

    Args:
        rows: int64 [B,h,w] of :func:`target_rows`.
        image: float [B,3,h,w], 0..255, of the target.
        log_depth: float [B,1,h,w], ln metres, of the target.
        intrinsics: float [B,4], of the target.
        source: the other frame; what is not ``seen`` of it is VOID, and all where its pose is unknown.
        target_from_source_px: float [B,2,h,w]: flow of the source to the target, in pixels of these maps.
    """
    in_source = labels_at(rows, places_by_flow(target_from_source_px), NO_INSTANCE)
    difference = (source.image - warp_by_flow(image, target_from_source_px)).abs().mean(1) / 255
    in_source = torch.where(torch.exp(-difference) > least_likeness, in_source, NO_INSTANCE)
    in_source = torch.where(source.seen, in_source, VOID)
    places, valid = places_by_depth(log_depth, intrinsics, source.intrinsics, source.view_from_camera)
    return Carried(in_source, torch.where(valid, labels_at(in_source, places, VOID), VOID))


def instance_iou(rows: Tensor, back: Tensor) -> Tensor:
    """float [N]: IoU of each instance with what came back of it, over pixels that neither map calls VOID; 1
    for an instance of which nothing is known, or that is not in ``rows``.

    Args:
        rows, back: int64 [B,h,w] of :func:`target_rows` and :class:`Carried`.
    """
    count = int(torch.maximum(rows, back).amax()) + 1
    if count <= 0:
        return rows.new_zeros(0, dtype=torch.float32)
    known = (rows != VOID) & (back != VOID)

    def areas(which: Tensor, labels: Tensor) -> Tensor:
        return torch.bincount(labels[which & (labels >= 0)], minlength=count).float()

    common = areas(known & (rows == back), rows)
    union = areas(known, rows) + areas(known, back) - common
    return torch.where(union > 0, common / union.clamp_min(1), 1.0)


def moving_mask(rows: Tensor, carried: Sequence[Carried], threshold: float) -> MovingMask:
    """An instance moves where its IoU is below the threshold for any of the sources.

    Args:
        rows: int64 [B,h,w] of :func:`target_rows`.
        carried: one a source.
        threshold: see :func:`iou_threshold`.
    """
    size = max(1, int(rows.amax()) + 1)
    moves = torch.zeros(size, dtype=torch.bool, device=rows.device)
    for each in carried:
        iou = instance_iou(rows, each.in_target)
        moves[: len(iou)] |= iou < threshold

    def of(labels: Tensor) -> Tensor:
        return moves[labels.clamp_min(0)] & (labels >= 0)

    return MovingMask(of(rows), tuple(of(each.in_source) for each in carried))
