# SPDX-License-Identifier: Apache-2.0
"""Parts that several networks share. Every one exports to plain ONNX operators with fixed shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True
) -> nn.Sequential:
    """Convolution with "same" padding, batch normalisation and, by default, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2016); starts as the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        last = conv_bn(outputs, outputs, 3, relu=False)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]
        self.body = nn.Sequential(conv_bn(inputs, outputs, 3, stride), last)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Context(nn.Module):
    """Scene context at the deepest stride: two 5x5 residual convolutions and the mean over the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce = conv_bn(inputs, outputs, 1)
        self.near = nn.ModuleList([conv_bn(outputs, outputs, 5) for _ in range(2)])
        self.scene = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        for layer in self.near:
            x = x + layer(x)
        return x + self.scene(x.mean((2, 3)))[:, :, None, None]


def init_convolutions(module: nn.Module) -> None:
    """He initialisation of every convolution below ``module`` (fan-out, for ReLU)."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def patches(x: Tensor, size: int) -> Tensor:
    """The pixels of each size x size patch as channels: matrix units starve on three (Ridnik et al. 2021).

    Args:
        x: [B,C,H,W].

    Returns:
        [B, H/size, W/size, size * size * C]; channel (dy * size + dx) * C + c.
    """
    b, c, height, width = x.shape
    h, w = height // size, width // size
    # The first permutation cancels the graph's own, so one pass over the camera's bytes remains.
    rows = x.permute(0, 2, 3, 1).reshape(b, h, size, w, size * c)
    return rows.transpose(2, 3).reshape(b, h, w, size * size * c)


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Bilinear, pixel centres kept in place (cell j of stride s stays centred on s (j + 0.5) - 0.5)."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def cell_positions(count: int, stride: int, like: Tensor) -> Tensor:
    """[count]: input pixel coordinate of each cell's centre along one axis."""
    return (torch.arange(count, dtype=torch.float32, device=like.device) + 0.5) * stride - 0.5


def ray_map(intrinsics: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Viewing direction of every cell.

    Args:
        intrinsics: [B,4] fx, fy, cx, cy in input pixels.
        height, width: input size; the map has size height/stride, width/stride.

    Returns:
        [B,2,h,w]: (u - cx) / fx and (v - cy) / fy, the x and y of the ray with z = 1.
    """
    fx, fy, cx, cy = (intrinsics[:, i, None] for i in range(4))
    h, w = height // stride, width // stride
    x = (cell_positions(w, stride, intrinsics)[None] - cx) / fx
    y = (cell_positions(h, stride, intrinsics)[None] - cy) / fy
    return torch.stack((x[:, None, :].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)), 1)


def unit_length(x: Tensor) -> Tensor:
    """``x`` divided by its length over axis 1; zero stays zero."""
    # The exporter drops added constants up to 1e-8 as if they were zero.
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-6)


def correlation(current: Tensor, previous: Tensor, radius_x: int, radius_y: int) -> Tensor:
    """Scalar product of each cell with the cells of the previous frame around it (FlowNetC's cost volume).

    Every row is one matrix product over the whole width, of which the diagonal band is read out by
    re-shaping, so the graph has a handful of operators whatever the radius.

    Args:
        current, previous: [B,C,h,w].

    Returns:
        [B,(2 ry + 1)(2 rx + 1),h,w]: channel (dy + ry)(2 rx + 1) + dx + rx holds
        sum_c current[c,y,x] previous[c,y+dy,x+dx], 0 outside the image.
    """
    b, c, h, w = current.shape
    columns, rows = 2 * radius_x + 1, 2 * radius_y + 1
    padded = F.pad(previous, (radius_x, radius_x, radius_y, radius_y))
    shifted = torch.stack([padded[:, :, dy : dy + h] for dy in range(rows)], 1)
    products = current.permute(0, 2, 3, 1)[:, None] @ shifted.permute(0, 1, 3, 2, 4)
    # Entry (x, x + k) of a [w, w + 2 rx] matrix lies at x (w + 2 rx + 1) + k of its flat form.
    flat = F.pad(products.flatten(3), (0, w))
    band = flat.reshape(b, rows, h, w, w + columns)[..., :columns]
    return band.permute(0, 1, 4, 2, 3).reshape(b, rows * columns, h, w)


def matched_shift(cost: Tensor, radius_x: int, radius_y: int) -> Tensor:
    """Mean shift to the best matching cells: softmax over the cost volume, then the expected (dx, dy).

    Args:
        cost: [B,(2 ry + 1)(2 rx + 1),h,w] of :func:`correlation`, times a sharpness.

    Returns:
        [B,2,h,w] in cells.
    """
    dx = torch.arange(-radius_x, radius_x + 1, device=cost.device).repeat(2 * radius_y + 1)
    dy = torch.arange(-radius_y, radius_y + 1, device=cost.device).repeat_interleave(2 * radius_x + 1)
    shifts = torch.stack((dx, dy)).to(cost.dtype)
    return F.conv2d(cost.softmax(1), shifts[:, :, None, None])


def pool_matrix(cells: int, size: int) -> Tensor:
    """[cells, size]: row i averages the part of the axis that cell i covers, fractions of a cell included."""
    edges = torch.arange(cells + 1, dtype=torch.float32) * size / cells
    start = torch.arange(size, dtype=torch.float32)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)


def grid_tokens(x: Tensor, rows: int, columns: int) -> Tensor:
    """Average pooling of [B,C,h,w] to a fixed grid, as tokens [B, rows * columns, C] in row order."""
    _, _, h, w = x.shape
    pooled = pool_matrix(rows, h).to(x) @ x @ pool_matrix(columns, w).to(x).T
    return pooled.flatten(2).transpose(1, 2)
