# SPDX-License-Identifier: Apache-2.0
"""Pixel decoders: from a backbone's features to three maps for attention and one of vectors for every
pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.networks.masked_attention import FeedForward, sine_positions

LEVELS = 3
"""Maps for attention, at strides 32, 16 and 8 in this order."""


def conv_gn(inputs: int, outputs: int, kernel: int, *, relu: bool = False) -> nn.Sequential:
    """Convolution and group normalisation of 32 groups (fewer where there are fewer channels)."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(math.gcd(32, outputs), outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, pixel centres kept, to the size of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class PixelDecoder(nn.Module):
    """What both kinds have in common: the way from stride 8 to the vectors at stride 4.

    Args:
        channels: of the backbone's features at strides 4, 8, 16, 32.
        width: channels of all maps.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = conv_gn(channels[0], width, 1)
        self.smooth = conv_gn(width, width, 3, relu=True)
        self.vectors = nn.Conv2d(width, width, 1)

    def levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B,width,.,.] at strides 32, 16, 8."""
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The maps for attention at strides 32, 16, 8; and the vectors [B,width,H/4,W/4]."""
        levels = self.levels(features)
        fine = self.lateral(features[0])
        return levels, self.vectors(self.smooth(fine + resized(levels[-1], fine)))


class PlainPyramid(PixelDecoder):
    """A feature pyramid (Lin et al. 2017): plain convolutions only, which every runtime computes alike."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__(channels, width)
        self.laterals = nn.ModuleList(conv_gn(c, width, 1) for c in reversed(channels[1:]))
        self.smooths = nn.ModuleList(conv_gn(width, width, 3, relu=True) for _ in range(LEVELS))

    def levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = []
        for lateral, smooth, x in zip(self.laterals, self.smooths, reversed(features[1:]), strict=True):
            x = lateral(x)
            maps.append(smooth(x if not maps else x + resized(maps[-1], x)))
        return maps


class DeformablePyramid(PixelDecoder):
    """Multi-scale deformable attention over strides 32, 16 and 8 (Zhu et al. 2021; Cheng et al. 2022).

    Args:
        layers, heads, points: of the encoder; points a head and level.
        hidden: channels inside its feed-forward networks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
    ) -> None:
        super().__init__(channels, width)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(math.gcd(32, width), width))
            for c in reversed(channels[1:])
        )
        self.level_positions = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(DeformableLayer(width, heads, points, hidden) for _ in range(layers))

    def levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.projections, reversed(features[1:]), strict=True)]
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        positions = torch.cat(
            [
                sine_positions(h, w, tokens.shape[2], tokens.device) + self.level_positions[i]
                for i, (h, w) in enumerate(sizes)
            ]
        )[None]
        places = torch.cat([cell_places(h, w, tokens.device) for h, w in sizes])
        for layer in self.layers:
            tokens = layer(tokens, positions, places, sizes)
        parts = tokens.split([h * w for h, w in sizes], 1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def cell_places(height: int, width: int, device: torch.device) -> Tensor:
    """[height * width, 2]: (x, y) of each cell's centre, 0..1 over the map."""
    x = (torch.arange(width, device=device) + 0.5) / width
    y = (torch.arange(height, device=device) + 0.5) / height
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), 2).flatten(0, 1)


class DeformableLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each normalised after the sum."""

    def __init__(self, width: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, points)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self, tokens: Tensor, positions: Tensor, places: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        tokens = self.norm(tokens + self.attention(tokens + positions, tokens, places, sizes))
        return self.feed_forward(tokens)


class DeformableAttention(nn.Module):
    """Each token looks at a few places of each level, around its own, that it chooses (Zhu et al. 2021, eq.
    3)."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(width, heads * LEVELS * points * 2)
        self.weights = nn.Linear(width, heads * LEVELS * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self._reset()

    def _reset(self) -> None:
        """At the start heads look in directions of their own, the points one, two, ... cells away."""
        nn.init.zeros_(self.offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), 1)
        direction = direction / direction.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1).float()
        start = direction[:, None, None] * steps[:, None]
        self.offsets.bias = nn.Parameter(start.expand(-1, LEVELS, -1, -1).reshape(-1).clone())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, values: Tensor, places: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """[B,N,width].

        Args:
            query: [B,N,width], values: [B,S,width], all levels' tokens one after the other.
            places: [N,2], (x, y) of each query, 0..1.
            sizes: (height, width) of each level.
        """
        b, n, _ = query.shape
        offsets = self.offsets(query).view(b, n, self.heads, LEVELS, self.points, 2)
        weights = self.weights(query).view(b, n, self.heads, LEVELS * self.points).softmax(3)
        parts = self.value(values).split([h * w for h, w in sizes], 1)
        total = torch.zeros(())
        for level, ((h, w), part) in enumerate(zip(sizes, parts, strict=True)):
            # One image a head: [B heads, width / heads, h, w].
            image = part.transpose(1, 2).reshape(b * self.heads, -1, h, w)
            step = torch.tensor([w, h], device=query.device, dtype=query.dtype)
            where = places[:, None, None] + offsets[:, :, :, level] / step
            grid = (2 * where - 1).transpose(1, 2).flatten(0, 1)
            seen = F.grid_sample(image, grid.to(image.dtype), align_corners=False)
            share = weights[..., level * self.points : (level + 1) * self.points]
            share = share.transpose(1, 2).flatten(0, 1)[:, None]
            total = total + (seen * share).sum(3)
        return self.out(total.view(b, -1, n).transpose(1, 2))
