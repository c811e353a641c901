# SPDX-License-Identifier: Apache-2.0
"""Points drawn from the known part of a map, and maps looked up there (PointRend, Kirillov et al. 2020).

A point lies in the cell (floor(y h), floor(x w)); cell centres are at ((j + 0.5) / w, (i + 0.5) / h).
Cells that are unknown or outside the map get no points and take no part in the interpolation between cells:
every cell of sparse labels (LiDAR) is used, and unknown cells get no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_points(known: Tensor, rows: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Points spread evenly over the area of the known cells.

    Args:
        known: bool [h,w], at least one True.
        rows: sets of points.
        count: points in a set.
        generator: on the device of ``known``.

    Returns:
        float32 [rows,count,2]: x, y, 0..1 over the map.
    """
    w = known.shape[1]
    cells = known.flatten().nonzero()[:, 0]
    drawn = torch.randint(len(cells), (rows, count), generator=generator, device=known.device)
    cell = cells[drawn]
    corner = torch.stack((cell % w, cell // w), -1)
    within = torch.rand(corner.shape, generator=generator, device=known.device)
    return (corner + within) / torch.tensor([w, known.shape[0]], device=known.device)


def look_up(maps: Tensor, known: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation among the known cells, whose weights are scaled to add up to 1.

    Args:
        maps: float or bool [N,h,w].
        known: bool [h,w].
        points: float [N,P,2] of :func:`random_points`; or [1,P,2], the same for all maps.

    Returns:
        [N,P], float32 of bool maps.
    """
    values = maps if maps.is_floating_point() else maps.float()
    grid = (2 * points - 1).to(values.dtype)[:, None]  # 1 (row), P, 2 a map
    weight = F.grid_sample(
        known[None, None].to(values.dtype), grid.reshape(1, 1, -1, 2), align_corners=False
    ).reshape(len(points), -1)
    # Outside the map zeros are read, of which the known cells have no share.
    total = F.grid_sample(
        torch.where(known, values, 0.0)[:, None],
        grid.expand(len(maps), -1, -1, -1),
        align_corners=False,
    )[:, 0, 0]
    return total / weight


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    known: Tensor,
    count: int,
    *,
    oversample: float = 3,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points for each map, most of them where it is least certain: where |logit| is smallest.

    The ``importance * count`` least certain of ``oversample * count`` random points; the rest are random.

    Args:
        logits: float [N,h,w].
        known: bool [h,w], at least one True.

    Returns:
        float32 [N,count,2] as of :func:`random_points`.
    """
    least_certain = round(importance * count)
    candidates = random_points(known, len(logits), max(int(oversample * count), least_certain), generator)
    order = look_up(logits, known, candidates).abs().topk(least_certain, dim=1, largest=False).indices
    taken = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    return torch.cat((taken, random_points(known, len(logits), count - least_certain, generator)), 1)
