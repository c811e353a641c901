# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the networks against slow obvious versions."""

from __future__ import annotations

import numpy as np
import torch

from dvps_ros.networks.parts import (
    correlation,
    grid_tokens,
    matched_shift,
    patches,
    pool_matrix,
    ray_map,
    upsample,
)


def test_correlation_equals_the_loop() -> None:
    g = torch.Generator().manual_seed(0)
    current, previous = (torch.randn(2, 3, 4, 5, generator=g) for _ in range(2))
    rx, ry = 2, 1
    want = torch.zeros(2, 3, 5, 4, 5)
    for dy in range(-ry, ry + 1):
        for dx in range(-rx, rx + 1):
            for y in range(4):
                for x in range(5):
                    if 0 <= y + dy < 4 and 0 <= x + dx < 5:
                        product = current[:, :, y, x] * previous[:, :, y + dy, x + dx]
                        want[:, dy + ry, dx + rx, y, x] = product.sum(1)
    assert torch.allclose(correlation(current, previous, rx, ry), want.flatten(1, 2), atol=1e-6)


def test_correlation_peaks_at_the_shift() -> None:
    """An image that came from 2 cells to the left and 1 above."""
    previous = torch.nn.functional.normalize(
        torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1)), dim=1
    )
    current = previous.roll((1, 2), (2, 3))
    peak = correlation(current, previous, 3, 2)[0, :, 4:8, 4:8].argmax(0)
    assert torch.equal(peak, torch.full((4, 4), (2 - 1) * 7 + (3 - 2)))


def test_matched_shift_is_the_shift_of_the_content_and_the_mean_of_equal_matches() -> None:
    torch.manual_seed(2)
    previous = torch.nn.functional.normalize(torch.randn(1, 32, 12, 12), dim=1)
    current = previous.roll((1, -2), (2, 3))  # the content of (y, x) was at (y - 1, x + 2)
    shift = matched_shift(50 * correlation(current, previous, 3, 2), 3, 2)
    assert torch.allclose(shift[0, 0, 4:8, 4:8], torch.tensor(2.0), atol=1e-2)
    assert torch.allclose(shift[0, 1, 4:8, 4:8], torch.tensor(-1.0), atol=1e-2)
    two = torch.full((1, 35, 1, 1), -1e4)
    two[0, [3 * 7 + 6, 2 * 7 + 2]] = 0  # (dx, dy) = (3, 1) and (-1, 0)
    assert matched_shift(two, 3, 2).flatten().tolist() == [1.0, 0.5]


def test_rays_of_a_hand_worked_camera() -> None:
    """At stride 8 the first cell is centred on pixel 3.5."""
    rays = ray_map(torch.tensor([[10.0, 20.0, 3.5, 13.5]]), 16, 24, 8)
    assert torch.equal(rays[0, 0], torch.tensor([[0.0, 0.8, 1.6]] * 2))
    assert torch.equal(rays[0, 1], torch.tensor([[-0.5] * 3, [-0.1] * 3]))


def test_upsampling_keeps_pixel_centres() -> None:
    x = torch.arange(6, dtype=torch.float32).view(1, 1, 1, 6) * 8 + 3.5  # input pixel of stride-8 cells
    fine = upsample(x.expand(1, 1, 2, 6))[0, 0, 0]
    assert torch.equal(fine[1:-1], torch.arange(1, 11, dtype=torch.float32) * 4 + 1.5)


def test_pool_matrix_by_hand() -> None:
    assert np.allclose(pool_matrix(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    assert np.allclose(pool_matrix(3, 2), [[1, 0], [0.5, 0.5], [0, 1]])


def test_grid_tokens_are_the_means_of_blocks() -> None:
    x = torch.randn(1, 2, 4, 6)
    tokens = grid_tokens(x, 2, 3)
    assert tokens.shape == (1, 6, 2)
    assert torch.allclose(tokens[0, 4], x[0, :, 2:4, 2:4].mean((1, 2)), atol=1e-6)


def test_patches_hold_every_pixel_where_promised() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    p = patches(x, 2)
    assert p.shape == (2, 2, 3, 12)
    assert p[1, 0, 2, (1 * 2 + 0) * 3 + 2] == x[1, 2, 0 * 2 + 1, 2 * 2 + 0]
    assert torch.equal(p.permute(0, 3, 1, 2).sum((1, 2, 3)), x.sum((1, 2, 3)))
