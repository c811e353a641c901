# SPDX-License-Identifier: Apache-2.0
"""Attention of queries to image features, within their masks (Cheng et al. 2022, Mask2Former)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attends: Tensor | None = None) -> Tensor:
        """[B,Q,width].

        Args:
            query: [B,Q,width]; key, value: [B,N,width].
            attends: bool [B,Q,N], False where a query must not look; each looks somewhere.
        """
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = None if attends is None else attends[:, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class AttentionStep(nn.Module):
    """Attention, added to what comes in and normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        x_position: Tensor,
        key: Tensor,
        key_position: Tensor,
        attends: Tensor | None = None,
    ) -> Tensor:
        """``x`` [B,Q,width] after it looked at ``key`` [B,N,width]; positions go to queries and keys only."""
        return self.norm(x + self.attention(x + x_position, key + key_position, key, attends))


class FeedForward(nn.Module):
    """Two linear layers on each token, added and normalised."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.outer(F.relu(self.inner(x))))


class DecoderLayer(nn.Module):
    """Masked attention to one level, self-attention, feed-forward network."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross, self.self_attention = AttentionStep(width, heads), AttentionStep(width, heads)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        level: Tensor,
        level_positions: Tensor,
        attends: Tensor,
    ) -> Tensor:
        queries = self.cross(queries, query_positions, level, level_positions, attends)
        queries = self.self_attention(queries, query_positions, queries, query_positions)
        return self.feed_forward(queries)


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, width: int, outputs: int, layers: int = 3) -> None:
        super().__init__()
        sizes = [width] * layers + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def attention_mask(mask_logits: Tensor, height: int, width: int) -> Tensor:
    """bool [B,Q,height*width]: where each query may look: within its predicted mask, or anywhere if that is
    empty.

    Args:
        mask_logits: [B,Q,h,w]; no gradient flows back.
    """
    logits = F.interpolate(
        mask_logits.detach().float(), size=(height, width), mode="bilinear", align_corners=False
    )
    inside = (logits.flatten(2) >= 0).float()
    return inside + (1 - inside.amax(2, keepdim=True)) > 0


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """[height*width, channels]: sines and cosines of the row, then of the column (Carion et al. 2020, DETR).

    Places are scaled to 0..2 pi over the map; wave lengths grow from 2 pi to 10000 * 2 pi.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    waves = 10000.0**exponent

    def axis(count: int) -> Tensor:
        place = (torch.arange(count, device=device) + 1) * (2 * math.pi / (count + 1e-6))
        angle = place[:, None] / waves
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1)

    y, x = axis(height), axis(width)
    grid = (y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1))
    return torch.cat(grid, 2).flatten(0, 1)
