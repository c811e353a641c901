# SPDX-License-Identifier: Apache-2.0
"""Monocular depth networks of the transformers library, resized and scaled inside the graph."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.export.checkpoints.source import Checkpoint, Normalise, Preprocessing, load_model

log = logging.getLogger(__name__)

KINDS = ("depth_anything",)
"""``model_type`` of the depth networks that are known here."""
LEAST_INVERSE_DEPTH = 1e-4
"""Of a relative network's answer; below it is infinity."""
FILTERS = {2: 1.0, 3: 2.0}
"""Pillow's numbers of bilinear and bicubic resampling -> half the width of their kernels."""


@dataclass(frozen=True)
class DepthOptions:
    """What the user says of a depth network."""

    max_depth_m: float | None = None
    """In place of config.json's."""
    relative_factor_m: float | None = None
    """Takes a relative network: z-depth is this divided by what the network says."""
    canonical_focal_px: float | None = None
    """Focal length, in pixels of the depth network's own input, of the camera that it was trained for;
    depth is then scaled by the real camera's."""
    size: tuple[int, int] | None = None
    """(height, width) of the network's input, instead of what its preprocessing makes of the image."""


class Depth(nn.Module):
    """A depth network behind its own preprocessing.

    Args:
        model: of transformers.
        preprocessing: of the same folder.

    Raises:
        ConfigError: an option that does not fit the network.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, options: DepthOptions) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.normalise = Normalise(preprocessing)
        self.data = preprocessing.data
        self.patch = int(model.config.patch_size)
        if options.size and any(n % self.patch or n <= 0 for n in options.size):
            height, width = options.size
            raise ConfigError(
                f"--depth-size {height}x{width}: this depth network takes multiples of {self.patch}, such as "
                f"{round(height / self.patch) * self.patch}x{round(width / self.patch) * self.patch}"
            )
        self.filter = int(self.data.get("resample", 3))
        if self.filter not in FILTERS:
            raise ConfigError(
                f"the depth network's preprocessing resamples by Pillow's filter {self.filter}; expected "
                "2 (bilinear) or 3 (bicubic)"
            )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the depth network's input for an image: the side that changes less becomes as
        long as the preprocessing says, the other one keeps the aspect ratio; then to multiples of a patch.

        Raises:
            ConfigError: the preprocessing does not say.
        """
        if self.options.size:
            return self.options.size
        size = self.data.get("size")
        if isinstance(size, int):
            size = {"height": size, "width": size}
        if not isinstance(size, dict) or not {"height", "width"} <= set(size):
            raise ConfigError(
                f"the depth network's preprocessor_config.json says no height and width (got {size!r}); "
                "state it with --depth-size HxW"
            )
        scales = [size["height"] / height, size["width"] / width]
        if self.data.get("keep_aspect_ratio"):
            scales = [min(scales, key=lambda scale: abs(1 - scale))] * 2
        multiple = max(int(self.data.get("ensure_multiple_of") or 1), self.patch)
        sides = (round(s * n / multiple) * multiple for s, n in zip(scales, (height, width), strict=True))
        high, wide = (max(side, multiple) for side in sides)
        return high, wide

    def forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """z-depth [B,1,H/4,W/4], metres.

        Args:
            image: [B,3,H,W] RGB 0..255.
            intrinsics: [B,4] fx, fy, cx, cy in pixels of this image.
        """
        height, width = image.shape[2:]
        rows, columns = self.input_size(height, width)
        x = image
        if (rows, columns) != (height, width):
            x = resize(x, (rows, columns), self.filter)
        depth = self.model(pixel_values=self.normalise(x)).predicted_depth[:, None]
        size = [height // OUTPUT_STRIDE, width // OUTPUT_STRIDE]
        depth = F.interpolate(depth, size=size, mode="bilinear", align_corners=False)
        if self.options.relative_factor_m is not None:
            depth = self.options.relative_factor_m / depth.clamp(min=LEAST_INVERSE_DEPTH)
        if self.options.canonical_focal_px is not None:
            focal_px = intrinsics[:, :1] * (columns / width)
            depth = depth * (focal_px / self.options.canonical_focal_px)[:, :, None, None]
        return depth


def resize(image: Tensor, size: tuple[int, int], filter: int) -> Tensor:
    """[B,C,H,W] of 0..255 to another (height, width), as image processors do it: across, then down, in bytes.

    By matrix products, because no runtime's own resizing widens its kernel where the image shrinks.
    """
    (height, width), (rows, columns) = image.shape[2:], size
    x = (image @ resampling(width, columns, filter).to(image).T).clamp(0, 255)
    return (resampling(height, rows, filter).to(image) @ x).clamp(0, 255)


def resampling(source: int, target: int, filter: int) -> Tensor:
    """float32 [target, source]: resizes one axis by Pillow's filter of this number, whose kernel widens when
    the axis shrinks (Keys 1981 with a = -0.5 for bicubic)."""
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    t = ((torch.arange(source, dtype=torch.float64) + 0.5)[None] - centre[:, None]).abs() / stretch
    if filter == 2:
        kernel = (1 - t).clamp(min=0)
    else:
        near = (1.5 * t - 2.5) * t * t + 1
        far = ((-0.5 * t + 2.5) * t - 4) * t + 2
        kernel = torch.where(t < 1, near, torch.where(t < FILTERS[3], far, 0.0))
    return (kernel / kernel.sum(1, keepdim=True)).float()


def check_depth(checkpoint: Checkpoint, options: DepthOptions) -> None:
    """Before any weights are read.

    Raises:
        CheckpointError: another architecture, or relative depth that was not asked for.
        ConfigError: options that contradict it.
    """
    config = checkpoint.config
    if checkpoint.kind not in KINDS:
        raise CheckpointError(
            f"{checkpoint.name} is of architecture {checkpoint.kind}; expected a depth network of "
            f"{', '.join(KINDS)} (Depth Anything V2, metric)"
        )
    metric = config.get("depth_estimation_type", "relative") == "metric"
    if not metric and options.relative_factor_m is None:
        raise CheckpointError(
            f"{checkpoint.name} predicts relative depth (depth_estimation_type is not metric), from which no "
            "distance follows; take a metric one, such as Depth-Anything-V2-Metric-Outdoor, or state "
            "--relative-depth FACTOR, where z-depth is FACTOR / answer in metres"
        )
    if metric and options.relative_factor_m is not None:
        raise ConfigError(f"{checkpoint.name} predicts metric depth; leave --relative-depth out")
    if not metric and options.max_depth_m is not None:
        raise ConfigError(
            f"{checkpoint.name} predicts relative depth, which has no --max-depth; leave it out"
        )
    if metric and options.max_depth_m is None and not (config.get("max_depth") or 0) > 1:
        raise CheckpointError(
            f"{checkpoint.name}: expected its config.json to say max_depth in metres, got "
            f"{config.get('max_depth')!r}; state it with --max-depth (80 outdoors, 20 indoors are usual)"
        )


def load_depth(
    checkpoint: Checkpoint, preprocessing: Preprocessing, options: DepthOptions, *, allow_missing: bool
) -> Depth:
    """The depth network with its weights.

    Raises:
        CheckpointError: see :func:`~dvps_ros.export.checkpoints.source.load_model`.
    """
    from transformers import DepthAnythingForDepthEstimation

    model: Any = load_model(checkpoint, DepthAnythingForDepthEstimation, allow_missing=allow_missing)
    if options.max_depth_m is not None:
        model.head.max_depth = options.max_depth_m
    return Depth(model, preprocessing, options)
