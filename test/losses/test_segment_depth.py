# SPDX-License-Identifier: Apache-2.0
"""Depth losses of segments and of the image: by hand, against slow loops, masked truth and gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.segment_depth import backup_depth, query_depth  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow(pairs, literal=False):
    """Of a list of (predicted, true)."""
    g = [math.log(a) - math.log(b) for a, b in pairs]
    spread = sum(v * v for v in g) / len(g) - 0.85 * (sum(g) / len(g)) ** 2
    return spread if literal else 10 * math.sqrt(spread + 1e-6)


def scene():
    """Three queries in two samples of 4x5 cells; sample 1 has one segment."""
    depth = torch.rand(2, 3, 4, 5, generator=seeded(1), dtype=torch.float64) * 60 + 1
    truth = torch.rand(2, 4, 5, generator=seeded(2), dtype=torch.float64) * 60 + 1
    truth[torch.rand(2, 4, 5, generator=seeded(3)) < 0.3] = 0
    owner = torch.randint(-1, 2, (2, 4, 5), generator=seeded(4))
    owner[1, owner[1] > 0] = 0
    masks = owner[:, None] == torch.arange(2)[:, None, None]
    return depth, truth, masks, torch.tensor([[1, -1, 0], [-1, -1, 0]])


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("limit_m", [math.inf, 30.0])
def test_query_depth_equals_slow_loop(literal, limit_m):
    depth, truth, masks, matched = scene()
    term = query_depth(depth, truth, masks, matched, max_depth_m=limit_m, literal=literal)
    expected = []
    for b, q, row in ((0, 0, 1), (0, 2, 0), (1, 2, 0)):
        cells = [
            (depth[b, q, i, j].item(), truth[b, i, j].item())
            for i in range(4)
            for j in range(5)
            if masks[b, row, i, j] and 0 < truth[b, i, j] <= limit_m
        ]
        expected.append(slow(cells, literal))
        assert term.value[b, q].item() == pytest.approx(expected[-1])
    assert torch.equal(term.weight > 0, matched >= 0)
    assert term.mean().item() == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize("literal", [False, True])
def test_backup_depth_equals_slow_loop(literal):
    depth, truth, *_ = scene()
    term = backup_depth(depth[:, :1], truth, literal=literal)
    for b in range(2):
        cells = zip(depth[b, 0].flatten().tolist(), truth[b].flatten().tolist(), strict=True)
        cells = [(predicted, true) for predicted, true in cells if true > 0]
        assert term.value[b].item() == pytest.approx(slow(cells, literal))
    assert term.weight.tolist() == [1, 1]


def test_by_hand():
    # g = 1 and 3: mean of squares 5, square of the mean 4.
    depth = torch.tensor([[[[math.e, math.e**3]]]])
    truth, masks = torch.ones(1, 1, 2), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    term = query_depth(depth, truth, masks, torch.tensor([[0]]))
    assert term.mean().item() == pytest.approx(10 * math.sqrt(5 - 0.85 * 4))
    assert query_depth(depth, truth, masks, torch.tensor([[0]]), literal=True).mean().item() == pytest.approx(
        1.6
    )
    assert backup_depth(depth, truth).mean().item() == pytest.approx(10 * math.sqrt(1.6))
    # A wrong scale costs 0.15 of its square; a right depth the root of epsilon.
    assert backup_depth(truth[:, None] * math.e, truth, literal=True).mean().item() == pytest.approx(0.15)
    assert backup_depth(truth[:, None], truth).mean().item() == pytest.approx(0.01)
    assert backup_depth(truth[:, None], truth, literal=True).mean() == 0


def test_one_map_for_all_queries():
    depth, truth, masks, matched = scene()
    one = query_depth(depth[:, 1:2], truth, masks, matched)
    every = query_depth(depth[:, 1:2].expand(2, 3, 4, 5), truth, masks, matched)
    assert torch.equal(one.value, every.value) and torch.equal(one.weight, every.weight)


def test_query_without_a_valid_pixel_does_not_count():
    depth, truth, masks, matched = scene()
    truth[0][masks[0, 0]] = 0
    depth.requires_grad_()
    term = query_depth(depth, truth, masks, matched)
    assert term.weight.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert term.mean().item() == pytest.approx((term.value[0, 0] + term.value[1, 2]).item() / 2)
    (gradient,) = torch.autograd.grad(term.mean(), depth)
    assert torch.isfinite(gradient).all() and (gradient[0, 2] == 0).all() and (gradient[0, 0] != 0).any()


def test_samples_without_depth_or_pairs_count_for_nothing():
    depth, truth, masks, matched = scene()
    depth.requires_grad_()
    truth[1] = 0
    assert query_depth(depth, truth, masks, matched).weight.sum(1).tolist() == [2, 0]
    assert backup_depth(depth[:, :1], truth).weight.tolist() == [1, 0]
    for term in (
        query_depth(depth, truth, masks, torch.full_like(matched, -1)),
        query_depth(depth, truth * 0, masks, matched),
        backup_depth(depth[:, :1], truth * 0),
    ):
        assert term.weight.sum() == 0 and term.mean() == 0
        assert torch.isfinite(torch.autograd.grad(term.mean(), depth)[0]).all()


def test_depth_outside_the_mask_or_without_truth_changes_nothing():
    depth, truth, masks, matched = scene()
    counts = torch.zeros_like(depth, dtype=torch.bool)
    for b, q in matched.ge(0).nonzero().tolist():
        counts[b, q] = masks[b, matched[b, q]] & (truth[b] > 0)
    changed = torch.where(counts, depth, torch.nan).requires_grad_()
    term = query_depth(changed, truth, masks, matched)
    assert torch.equal(term.value, query_depth(depth, truth, masks, matched).value)
    (gradient,) = torch.autograd.grad(term.mean(), changed)
    assert torch.equal(gradient != 0, counts)
    backup = torch.where(truth > 0, depth[:, 0], torch.nan)[:, None].requires_grad_()
    term = backup_depth(backup, truth)
    assert torch.equal(term.value, backup_depth(depth[:, :1], truth).value)
    assert torch.isfinite(torch.autograd.grad(term.mean(), backup)[0]).all()


def test_gradient_is_finite_at_the_minimum_and_at_zero_depth():
    truth, masks = torch.full((1, 2, 2), 7.0), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    for predicted in (truth[:, None].clone(), torch.zeros(1, 1, 2, 2)):
        predicted.requires_grad_()
        for term in (
            query_depth(predicted, truth, masks, torch.tensor([[0]])),
            backup_depth(predicted, truth),
        ):
            assert torch.isfinite(term.mean())
            assert torch.isfinite(torch.autograd.grad(term.mean(), predicted)[0]).all()


@pytest.mark.parametrize("literal", [False, True])
def test_gradients_are_exact(literal):
    depth, truth, masks, matched = scene()
    depth.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: query_depth(d, truth, masks, matched, literal=literal).mean(), depth
    )
    assert torch.autograd.gradcheck(lambda d: backup_depth(d[:, :1], truth, literal=literal).mean(), depth)
