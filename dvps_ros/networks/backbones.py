# SPDX-License-Identifier: Apache-2.0
"""Backbones of the transformers library: features at strides 4, 8, 16 and 32 of an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dvps_ros.errors import ConfigError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# Not below 16 channels: the gradient of a 1x1 convolution of stride 2 over 8 channels that are last in
# memory corrupts the heap of torch 2.13.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": (
        "resnet",
        {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    ),
    "resnet50": ("resnet", {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]}),
    "swin_t": ("swin", {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}),
    "swin_b": (
        "swin",
        {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    ),
    "resnet_tiny": (
        "resnet",
        {
            "embedding_size": 16,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 24, 32, 48],
            "layer_type": "basic",
        },
    ),
    "swin_tiny": (
        "swin",
        {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
    ),
}
"""Name -> model type of the transformers library, and its sizes; the tiny ones are for tests."""


class Backbone(nn.Module):
    """One of :data:`BACKBONES`, with random weights.

    Args:
        name: which.
        inputs: channels of its input: 3 an image, 6 for two.

    Attributes:
        channels: of the features at strides 4, 8, 16, 32.

    Raises:
        ConfigError: an unknown name, or the transformers library is missing.
    """

    def __init__(self, name: str, inputs: int = 3) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"backbone: expected one of {', '.join(BACKBONES)}, got {name!r}")
        try:
            from transformers import AutoBackbone, AutoConfig
        except ImportError as error:
            raise ConfigError(
                f"backbone {name}: needs the transformers library: pip install 'dvps_ros[train]'"
            ) from error
        kind, sizes = BACKBONES[name]
        stages = ["stage1", "stage2", "stage3", "stage4"]
        config = AutoConfig.for_model(kind, **sizes, num_channels=inputs, out_features=stages)
        self.model = AutoBackbone.from_config(config)
        if kind == "swin":
            self.model.swin.layernorm = nn.Identity()  # of the last stage's own output, which nobody takes
        self.channels = tuple(int(c) for c in self.model.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features [B,C,H/s,W/s] of a normalised image [B,inputs,H,W]."""
        return list(self.model(image).feature_maps)
