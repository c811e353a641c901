# SPDX-License-Identifier: Apache-2.0
"""Panoptic-guided depth losses: by hand, against slow loops, masks and gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.panoptic_depth import (  # noqa: E402
    TRIPLET_MARGIN,
    guided_edges,
    guided_smoothness,
    guided_triplet,
)

SEGMENTS = torch.tensor([[[1, 1, 2], [1, -1, 2]]])
LOG_DEPTH = torch.tensor([[[[0.0, 0.5, 2.0], [0.25, 9.0, 2.75]]]])


def test_smoothness_counts_neighbours_of_one_segment():
    term = guided_smoothness(LOG_DEPTH, SEGMENTS)
    # To the right: 1-1 of 0.5; down: 1-1 of 0.25 and 2-2 of 0.75. The cell of -1 counts nowhere.
    assert term.weight[0].tolist() == [[[1, 0, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]]]
    assert term.value[0][term.weight[0] > 0].tolist() == [0.5, 0.25, 0.75]
    assert guided_smoothness(torch.full_like(LOG_DEPTH, 3.0), SEGMENTS).mean() == 0


def test_edges_count_neighbours_of_two_segments():
    term = guided_edges(LOG_DEPTH, SEGMENTS)
    assert term.weight[0].tolist() == [[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert term.mean().item() == pytest.approx(math.exp(-1.5))
    assert guided_edges(torch.zeros_like(LOG_DEPTH), SEGMENTS).mean() == 1


def test_the_two_pull_in_opposite_directions_only_where_they_count():
    d = LOG_DEPTH.clone().requires_grad_()
    (smooth,) = torch.autograd.grad(guided_smoothness(d, SEGMENTS).value.mul(
        guided_smoothness(d, SEGMENTS).weight).sum(), d)  # fmt: skip
    assert smooth[0, 0].tolist() == [[-2.0, 1.0, -1.0], [1.0, 0.0, 1.0]]
    (edges,) = torch.autograd.grad(guided_edges(d, SEGMENTS).mean(), d)
    pull = math.exp(-1.5)
    torch.testing.assert_close(edges[0, 0], torch.tensor([[0.0, pull, -pull], [0.0, 0.0, 0.0]]))


def slow_triplet(features, segments, v, u):
    """(value, counts) of one cell; plain loops."""
    h, w = segments.shape
    own, sums, counts = segments[v, u], [0.0, 0.0], [0, 0]
    unit = features / features.norm(dim=0).clamp_min(1e-12)
    for y in range(max(v - 2, 0), min(v + 3, h)):
        for x in range(max(u - 2, 0), min(u + 3, w)):
            if (y, x) == (v, u) or own < 0 or segments[y, x] < 0:
                continue
            k = int(segments[y, x] != own)
            sums[k] += float((unit[:, v, u] - unit[:, y, x]).square().sum())
            counts[k] += 1
    if min(counts) < 4:
        return 0.0, False
    return max(0.0, sums[0] / counts[0] + TRIPLET_MARGIN - sums[1] / counts[1]), True


def test_triplet_equals_a_slow_loop():
    g = torch.Generator().manual_seed(2)
    segments = torch.randint(-1, 3, (2, 6, 7), generator=g)
    segments[0, :3] = 5  # a region of one segment: too few others
    features = torch.randn(2, 4, 6, 7, generator=g)
    term = guided_triplet(features, segments)
    for b in range(2):
        for v in range(6):
            for u in range(7):
                value, counts = slow_triplet(features[b], segments[b], v, u)
                assert bool(term.weight[b, v, u]) == counts
                if counts:
                    assert term.value[b, v, u].item() == pytest.approx(value, abs=1e-5)
    assert 10 < term.weight.sum() < 70


def halves(angle_deg: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two segments side by side whose features have this angle between them."""
    segments = torch.ones(1, 5, 6, dtype=torch.int64)
    segments[..., 3:] = 2
    angle = torch.where(segments == 2, math.radians(angle_deg), 0.0)
    return torch.stack((angle.cos(), angle.sin()), 1) * 7.0, segments


def test_triplet_by_hand():
    # Same within, so d+ = 0; between them d- = 2 - 2 cos(angle).
    same, segments = halves(0.0)
    assert guided_triplet(same, segments).mean().item() == pytest.approx(TRIPLET_MARGIN)
    part, _ = halves(30.0)
    assert guided_triplet(part, segments).mean().item() == pytest.approx(0.3 - (2 - 3**0.5), abs=1e-5)
    apart, _ = halves(90.0)
    assert guided_triplet(apart, segments).mean() == 0
    # Four of the other segment must lie within 2 cells: columns 1 and 4 see one of its columns, so four rows.
    one, four = [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]
    assert guided_triplet(apart, segments).weight[0].tolist() == [one, four, four, four, one]


def test_triplet_gradient_is_exact_and_unknown_cells_get_none():
    g = torch.Generator().manual_seed(3)
    segments = torch.randint(1, 3, (1, 5, 6), generator=g)
    segments[0, 2, 2] = -1
    features = torch.randn(1, 3, 5, 6, generator=g).requires_grad_()
    term = guided_triplet(features, segments)
    (gradient,) = torch.autograd.grad((term.value * term.weight).sum(), features)
    assert (gradient[0, :, 2, 2] == 0).all() and gradient.abs().sum() > 0
    step = 1e-2
    for c, v, u in ((0, 1, 1), (2, 3, 4), (1, 0, 5)):
        nudge = torch.zeros_like(features)
        nudge[0, c, v, u] = step
        up, down = (guided_triplet(features.detach() + s * nudge, segments) for s in (1, -1))
        slope = ((up.value - down.value) * term.weight).sum().item() / (2 * step)
        assert gradient[0, c, v, u].item() == pytest.approx(slope, abs=5e-3)


def test_nothing_is_known_nothing_counts():
    unknown = torch.full((1, 5, 6), -1)
    depth = torch.rand(1, 1, 5, 6).requires_grad_()
    for term in (
        guided_smoothness(depth, unknown),
        guided_edges(depth, unknown),
        guided_triplet(depth.expand(1, 3, 5, 6), unknown),
    ):
        assert term.weight.sum() == 0 and term.mean() == 0
        assert torch.isfinite(torch.autograd.grad(term.mean(), depth)[0]).all()
