# SPDX-License-Identifier: Apache-2.0
"""Optical flow from images alone: where the flow is right, the other image shows the same.

Flow of frame a to frame b: pixel u of a is found at u + flow in b (``losses.warping``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvps_ros.losses.photometric import near, photometric_error
from dvps_ros.losses.term import Term, in_float32
from dvps_ros.losses.warping import places_by_flow, seen_at, values_at


def warp_by_flow(other: Tensor, flow_px: Tensor) -> Tensor:
    """The other frame as seen from this one, whose flow to the other it is.

    Args:
        other: float [B,C,h,w].
        flow_px: float [B,2,h,w], in pixels of these maps.
    """
    return values_at(other, places_by_flow(flow_px))


@in_float32
def flow_photometric(flow_px: Tensor, image: Tensor, seen: Tensor, other: Tensor, other_seen: Tensor) -> Term:
    """pe(image, the other frame warped by flow), pe of ``photometric_error``.

    A pixel counts where it and its place in the other frame are seen. Nothing is left out for what moves, nor
    for what does not change: unlike depth, flow must explain both.

    Args:
        flow_px: float [B,2,h,w], this frame to the other, in pixels of these images.
        image, other: float [B,3,h,w], 0..255.
        seen, other_seen: bool [B,h,w], False where a crop reaches beyond the camera's image.
    """
    error = photometric_error(image, warp_by_flow(other, flow_px))
    counts = ~near(~(seen & seen_at(other_seen, places_by_flow(flow_px))))
    return Term(torch.where(counts, error, 0.0), counts.float())
