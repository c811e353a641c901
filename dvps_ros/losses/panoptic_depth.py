# SPDX-License-Identifier: Apache-2.0
"""Depth losses guided by panoptic labels (MonoDVPS, Petrovai and Nedevschi 2023, equations 5 to 8).

Depth is smooth within a segment and breaks between segments. Where labels are missing nothing counts. The
surface is the paper's mean-normalised disparity (``losses.depth.mean_normalised``) or the logarithm of depth:
both are free of the scene's scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.losses.term import Term, in_float32

TRIPLET_RADIUS = 2
"""Patches of 5x5 cells."""
TRIPLET_MARGIN = 0.3
TRIPLET_LEAST = 4
"""Fewer cells of the own or of other segments in the patch say little (Jung et al. 2021, FSRE-Depth)."""


@in_float32
def guided_smoothness(surface: Tensor, segments: Tensor) -> Term:
    """|difference of the surface| between neighbours of one segment (PGS, eq. 5 with 6).

    Args:
        surface: float [B,1,h,w], see above.
        segments: int64 [B,h,w]: equal where class and instance are; -1 where either is unknown.

    Returns:
        Term over [B,2,h,w]: each cell with its right and with its lower neighbour.
    """
    step, same, _ = _neighbours(surface, segments)
    return Term(step, same.float())


@in_float32
def guided_edges(surface: Tensor, segments: Tensor) -> Term:
    """exp(-|difference of the surface|) between neighbours of different segments (PED, eq. 7).

    Arguments and result as of :func:`guided_smoothness`.
    """
    step, _, different = _neighbours(surface, segments)
    return Term(torch.exp(-step), different.float())


@in_float32
def guided_triplet(features: Tensor, segments: Tensor) -> Term:
    """max(0, d+ + margin - d-) of the depth head's features in 5x5 patches (PGT, eq. 8).

    d+ (d-) is the mean squared distance from the middle cell to the cells of its own (of other) segments,
    of features of unit length. A cell counts where the patch holds enough of both.

    Args:
        features: float [B,F,h,w].
        segments: int64 [B,h,w] as in :func:`guided_smoothness`.
    """
    x = F.normalize(features, dim=1)
    b, _, h, w = x.shape
    r = TRIPLET_RADIUS
    padded, labels = F.pad(x, (r, r, r, r)), F.pad(segments, (r, r, r, r), value=-1)
    zero = torch.zeros((b, h, w), device=x.device)
    sums, counts = [zero, zero], [zero, zero]
    for dy in range(2 * r + 1):
        for dx in range(2 * r + 1):
            if dx == dy == r:
                continue
            beside = labels[:, dy : dy + h, dx : dx + w]
            distance = (x - padded[:, :, dy : dy + h, dx : dx + w]).square().sum(1)
            known = (beside >= 0) & (segments >= 0)
            for k, chosen in enumerate((known & (beside == segments), known & (beside != segments))):
                sums[k] = sums[k] + torch.where(chosen, distance, 0.0)
                counts[k] = counts[k] + chosen
    near, far = (total / count.clamp_min(1) for total, count in zip(sums, counts, strict=True))
    enough = (counts[0] >= TRIPLET_LEAST) & (counts[1] >= TRIPLET_LEAST)
    return Term((near + TRIPLET_MARGIN - far).clamp_min(0), enough.float())


def _neighbours(d: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|difference| [B,2,h,w] of d [B,1,h,w] to the right and lower neighbour; are both of one segment; are
    they of two."""
    step = torch.cat(
        (
            F.pad((d[..., 1:] - d[..., :-1]).abs(), (0, 1)),
            F.pad((d[..., 1:, :] - d[..., :-1, :]).abs(), (0, 0, 0, 1)),
        ),
        1,
    )
    beside = torch.stack(
        (F.pad(segments[..., 1:], (0, 1), value=-1), F.pad(segments[..., 1:, :], (0, 0, 0, 1), value=-1)), 1
    )
    own = segments[:, None]
    known = (own >= 0) & (beside >= 0)
    return step, known & (own == beside), known & (own != beside)
