# SPDX-License-Identifier: Apache-2.0
"""What both kinds of fusion share: sums over the cells of each row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 256
"""Cells in one matrix product of the statistics: bf16 counts exactly up to here, and sums cannot overflow."""
DEPTH_RANGE_M = (0.5, 200.0)
"""Predicted depth is bounded to this."""


def sums(member: Tensor, values: Tensor, rows: int) -> Tensor:
    """[B,rows,M]: sums of values [B,M,N] over the cells [B,N] that are members of each row."""
    b, channels, cells = values.shape
    block = math.gcd(cells, BLOCK)
    index = torch.arange(rows, device=member.device)
    one_hot = (member.reshape(b, -1, block, 1) == index).float()
    blocks = values.reshape(b, channels, -1, block).transpose(1, 2)
    return (blocks @ one_hot).sum(1).transpose(1, 2)
