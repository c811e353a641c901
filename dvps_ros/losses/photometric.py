# SPDX-License-Identifier: Apache-2.0
"""Depth from views of a scene that stands still: no depth truth is needed.

A pixel with its predicted depth is looked up in another image of the clip; where depth and pose are right,
both show the same (Zhou et al. 2017; the error, the minimum over views and the auto-mask: Godard et al. 2019,
Monodepth2). Poses are known, or predicted by ``networks.pose`` and learned from the same error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.losses.targets import View
from dvps_ros.losses.term import Term, in_float32
from dvps_ros.losses.warping import places_by_depth, seen_at, values_at

SSIM_SHARE = 0.85
"""alpha of the error."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of SSIM for images in 0..1 (Wang et al. 2004)."""


@in_float32
def photometric(
    log_depth: Tensor, image: Tensor, seen: Tensor, static: Tensor, intrinsics: Tensor, views: Sequence[View]
) -> Term:
    """min over views of pe(image, view warped by depth), pe of :func:`photometric_error`.

    A pixel counts where some view shows its surface and where that view fits better than the same view
    without the warp (auto-mask: leaves out what moves along with the camera, and texture that says nothing).

    Args:
        log_depth: float [B,1,h,w], ln metres, at the size of ``image``: coarser predictions are upsampled
            first (as disparities, see ``geometry.disparity``).
        image: float [B,3,h,w], 0..255.
        seen: bool [B,h,w], see :class:`View`.
        static: bool [B,h,w], False on pixels that are known to move over ground.
        intrinsics: float [B,4], of ``image``.
        views: other frames. To leave out what moves in them, too, take it out of their ``seen``.
    """
    errors, unwarped, shown = [], [], []
    for view in views:
        warped, visible = warp(log_depth, intrinsics, view)
        errors.append(photometric_error(image, warped))
        unwarped.append(photometric_error(image, view.image))
        shown.append(visible & ~near(~(seen & visible)))
    visible = torch.stack(shown)
    error = torch.stack(errors).masked_fill(~visible, torch.inf).amin(0)
    identity = torch.stack(unwarped).masked_fill(~visible, torch.inf).amin(0)
    counts = visible.any(0) & static & (error < identity)
    return Term(torch.where(counts, error, 0.0), counts.float())


def warp(log_depth: Tensor, intrinsics: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """The view as seen from the camera with this depth, and where it shows that surface.

    Differentiable in depth and in the view's pose.

    Returns:
        float [B,3,h,w], 0..255; bool [B,h,w]: in front of the other camera and within what it saw.
    """
    places, valid = places_by_depth(
        log_depth.float(), intrinsics.float(), view.intrinsics.float(), view.view_from_camera.float()
    )
    return values_at(view.image.float(), places), seen_at(view.seen, places) & valid


def strided_view(image: Tensor, seen: Tensor, intrinsics: Tensor, stride: int) -> View:
    """A frame of a clip as a view at 1/stride of its size, of unknown pose: ``_replace`` it.

    Args:
        image: uint8 [B,3,H,W], see ``FrameBatch``.
        seen: bool [B,H/4,W/4], see ``DenseTargets``.
        intrinsics: float [B,4], in pixels of ``image``.
        stride: 1, 2 or 4.
    """
    repeats = OUTPUT_STRIDE // stride
    middle = (stride - 1) / 2  # pixel j of the smaller image is centred on stride j + middle
    offset = intrinsics.new_tensor([0.0, 0.0, middle, middle])
    return View(
        F.avg_pool2d(image.float(), stride),
        seen.repeat_interleave(repeats, 1).repeat_interleave(repeats, 2),
        (intrinsics - offset) / stride,
        intrinsics.new_full((len(intrinsics), 4, 4), torch.nan),
    )


def of_rows(view: View, rows: int) -> View:
    """The first ``rows`` samples of a view; of those that it does not have, nothing is seen.

    Clips of a batch have different lengths: a later frame holds the first rows of the earlier ones.
    """
    missing = rows - len(view.image)
    if missing <= 0:
        return View(*(part[:rows] for part in view))
    fill = (0, False, 1, torch.nan)
    return View(
        *(
            torch.cat((part, part.new_full((missing, *part.shape[1:]), value)))
            for part, value in zip(view, fill, strict=True)
        )
    )


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


def near(wrong: Tensor) -> Tensor:
    """bool [B,h,w]: within the 3x3 pixels of SSIM around a wrong one."""
    return F.max_pool2d(wrong[:, None].float(), 3, 1, 1)[:, 0] > 0
