# SPDX-License-Identifier: Apache-2.0
"""Depth from two views of a scene that stands still, with known poses: no depth truth is needed.

A pixel with its predicted depth is looked up in another image of the clip; where the depth is right, both
show the same (Zhou et al. 2017; the error, the minimum over views and the auto-mask: Godard et al. 2019,
Monodepth2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.losses.targets import View
from dvps_ros.losses.term import Term, in_float32

SSIM_SHARE = 0.85
"""alpha of the error."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of SSIM for images in 0..1 (Wang et al. 2004)."""
LEAST_DEPTH_M = 0.1
"""Points nearer to the other camera than this have no place in its image."""


@in_float32
def photometric(
    log_depth: Tensor, image: Tensor, seen: Tensor, static: Tensor, intrinsics: Tensor, views: Sequence[View]
) -> Term:
    """min over views of pe(image, view warped by depth), pe of :func:`photometric_error`.

    A pixel counts where some view shows its surface and where that view fits better than the same view
    without the warp (auto-mask: leaves out what moves along with the camera, and texture that says nothing).

    Args:
        log_depth: float [B,1,h,w], ln metres.
        image: float [B,3,h,w], 0..255.
        seen: bool [B,h,w], see :class:`View`.
        static: bool [B,h,w], False on pixels that are known to move over ground.
        intrinsics: float [B,4], of ``image``.
    """
    errors, unwarped, shown = [], [], []
    for view in views:
        warped, visible = warp(log_depth, intrinsics, view)
        errors.append(photometric_error(image, warped))
        unwarped.append(photometric_error(image, view.image))
        shown.append(visible & ~_near(~(seen & visible)))
    visible = torch.stack(shown)
    error = torch.stack(errors).masked_fill(~visible, torch.inf).amin(0)
    identity = torch.stack(unwarped).masked_fill(~visible, torch.inf).amin(0)
    counts = visible.any(0) & static & (error < identity)
    return Term(torch.where(counts, error, 0.0), counts.float())


def warp(log_depth: Tensor, intrinsics: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """The view as seen from the camera with this depth, and where it shows that surface.

    Returns:
        float [B,3,h,w], 0..255; bool [B,h,w]: in front of the other camera and within what it saw.
    """
    b, _, h, w = log_depth.shape
    pose = view.view_from_camera.float()
    known = torch.isfinite(pose).all((1, 2))
    pose = torch.where(known[:, None, None], pose, torch.eye(4, device=pose.device))
    v, u = torch.meshgrid(
        torch.arange(h, device=pose.device, dtype=torch.float32),
        torch.arange(w, device=pose.device, dtype=torch.float32),
        indexing="ij",
    )
    fx, fy, cx, cy = (intrinsics.float()[:, i, None, None] for i in range(4))
    rays = torch.stack(((u - cx) / fx, (v - cy) / fy, torch.ones_like(u).expand(b, h, w)), 1)
    points = rays * log_depth.float().exp()
    x, y, z = (pose[:, :3, :3] @ points.flatten(2) + pose[:, :3, 3:]).view(b, 3, h, w).unbind(1)
    front = z > LEAST_DEPTH_M
    z = torch.where(front, z, 1.0)
    fx, fy, cx, cy = (view.intrinsics.float()[:, i, None, None] for i in range(4))
    # grid_sample without align_corners: pixel i is centred on (2 i + 1) / size - 1.
    grid = torch.stack(((2 * (fx * x / z + cx) + 1) / w - 1, (2 * (fy * y / z + cy) + 1) / h - 1), 3)
    # Far outside is outside; bounding it keeps the gradients finite.
    grid = grid.clamp(-2, 2)
    warped = F.grid_sample(view.image.float(), grid, padding_mode="border", align_corners=False)
    inside = F.grid_sample(view.seen[:, None].float(), grid.detach(), align_corners=False)[:, 0] > 0.999
    return warped, inside & front & known[:, None, None]


def photometric_error(a: Tensor, b: Tensor) -> Tensor:
    """pe = alpha/2 (1 - SSIM) + (1 - alpha) |a - b|, mean over colours; 3x3 pixels, borders mirrored.

    Args:
        a, b: float [B,3,h,w], 0..255.

    Returns:
        [B,h,w], 0 for equal images.
    """
    a, b = a / 255, b / 255
    padded_a, padded_b = (F.pad(x, (1, 1, 1, 1), mode="reflect") for x in (a, b))

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1)

    mean_a, mean_b = mean(padded_a), mean(padded_b)
    variance_a = mean(padded_a.square()) - mean_a.square()
    variance_b = mean(padded_b.square()) - mean_b.square()
    covariance = mean(padded_a * padded_b) - mean_a * mean_b
    ssim = ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    )
    unlike = ((1 - ssim) / 2).clamp(0, 1).mean(1)
    return SSIM_SHARE * unlike + (1 - SSIM_SHARE) * (a - b).abs().mean(1)


def _near(wrong: Tensor) -> Tensor:
    """bool [B,h,w]: within the 3x3 pixels of SSIM around a wrong one."""
    return F.max_pool2d(wrong[:, None].float(), 3, 1, 1)[:, 0] > 0
