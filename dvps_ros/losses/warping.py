# SPDX-License-Identifier: Apache-2.0
"""Where the pixels of one image lie in another, by depth and pose or by flow, and what is found there.

A map is looked up at places, so an image, mask or label of frame b becomes "b as seen from a": with places of
a's pixels in b. Flow has the same direction: that of frame a to frame b belongs to a's pixels, and pixel u of
a is found at u + flow in b. The project's ``motion_px`` and ``Sample.flow_px`` are the flow of each frame to
the previous one (docs/conventions.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_DEPTH_M = 0.1
"""Points nearer to the other camera than this have no place in its image."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """float [2,h,w]: (u, v) of every pixel, of the dtype and on the device of ``like``."""
    v, u = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype),
        torch.arange(width, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack((u, v))


def places_by_depth(
    log_depth: Tensor, intrinsics: Tensor, view_intrinsics: Tensor, view_from_camera: Tensor
) -> tuple[Tensor, Tensor]:
    """Where another camera sees the surface of each pixel, if it stands still.

    Args:
        log_depth: float [B,1,h,w], ln metres.
        intrinsics, view_intrinsics: float [B,4]: fx, fy, cx, cy in pixels of the map and of the other image.
        view_from_camera: float [B,4,4], optical frames, metres; NaN unknown.

    Returns:
        Places float [B,2,h,w], pixels (u, v) of the other image; bool [B,h,w]: the pose is known and the
        surface in front of the other camera. Elsewhere places are finite and mean nothing.
    """
    b, _, h, w = log_depth.shape
    known = torch.isfinite(view_from_camera).all(2).all(1)
    still = torch.eye(4, device=view_from_camera.device, dtype=view_from_camera.dtype)
    pose = torch.where(known[:, None, None], view_from_camera, still)
    u, v = pixel_grid(h, w, log_depth)
    fx, fy, cx, cy = (intrinsics[:, i, None, None] for i in range(4))
    rays = torch.stack(((u - cx) / fx, (v - cy) / fy, torch.ones_like(u).expand(b, h, w)), 1)
    points = rays * log_depth.exp()
    x, y, z = (pose[:, :3, :3] @ points.flatten(2) + pose[:, :3, 3:]).view(b, 3, h, w).unbind(1)
    front = z > LEAST_DEPTH_M
    z = torch.where(front, z, 1.0)
    fx, fy, cx, cy = (view_intrinsics[:, i, None, None] for i in range(4))
    return torch.stack((fx * x / z + cx, fy * y / z + cy), 1), front & known[:, None, None]


def places_by_flow(flow_px: Tensor) -> Tensor:
    """Where the other image shows each pixel: u + flow.

    Args:
        flow_px: float [B,2,h,w], (du, dv) in pixels of this map.
    """
    h, w = flow_px.shape[2:]
    return pixel_grid(h, w, flow_px) + flow_px


def values_at(image: Tensor, places_px: Tensor) -> Tensor:
    """Bilinear values [B,C,h,w] of an image [B,C,H,W] at places [B,2,h,w]; outside it those of its border."""
    # Far outside is outside; bounding it keeps the gradients finite.
    grid = _normalised(image, places_px).clamp(-2, 2)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def seen_at(seen: Tensor, places_px: Tensor) -> Tensor:
    """bool [B,h,w]: the place is inside the image, and all pixels around it are seen.

    Args:
        seen: bool [B,H,W].
        places_px: float [B,2,h,w].
    """
    grid = _normalised(seen[:, None], places_px.detach()).clamp(-2, 2)
    return F.grid_sample(seen[:, None].to(grid), grid, align_corners=False)[:, 0] > 0.999


def labels_at(labels: Tensor, places_px: Tensor, missing: int) -> Tensor:
    """The label of the pixel nearest to each place; ``missing`` outside the map.

    Args:
        labels: int64 [B,H,W].
        places_px: float [B,2,h,w].
    """
    height, width = labels.shape[1:]
    u, v = torch.floor(places_px.detach() + 0.5).unbind(1)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    index = torch.where(inside, v * width + u, 0.0).long()
    found = labels.flatten(1).gather(1, index.flatten(1)).view_as(index)
    return torch.where(inside, found, missing)


def _normalised(image: Tensor, places_px: Tensor) -> Tensor:
    """[B,h,w,2] for ``grid_sample`` without align_corners: pixel i is centred on (2 i + 1) / size - 1."""
    h, w = image.shape[2:]
    u, v = places_px.unbind(1)
    return torch.stack(((2 * u + 1) / w - 1, (2 * v + 1) / h - 1), 3)
