# SPDX-License-Identifier: Apache-2.0
"""Costs and assignment of queries and segments: by hand, against all permutations, and the odd cases."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.errors import InputError  # noqa: E402
from dvps_ros.losses.matching import CostWeights, assign, match, matching_cost  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stripes(*widths):
    """bool [G,4,w]: segments side by side."""
    row = torch.cat([torch.full((n,), k) for k, n in enumerate(widths)])
    return row.expand(4, -1)[None] == torch.arange(len(widths))[:, None, None]


def slow_cost(class_logits, x, classes, t, weights):
    cost = torch.zeros(len(x), len(t), dtype=torch.float64)
    for q in range(len(x)):
        for g in range(len(t)):
            p = [1 / (1 + math.exp(-v)) for v in x[q].tolist()]
            truth = t[g].tolist()
            entropy = [-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in zip(p, truth, strict=True)]
            both = sum(a * b for a, b in zip(p, truth, strict=True))
            dice = 1 - (2 * both + 1) / (sum(p) + sum(truth) + 1)
            e = [math.exp(v) for v in class_logits[q].tolist()]
            likely = e[int(classes[g])] / sum(e)
            cost[q, g] = -weights.class_ * likely + weights.mask * sum(entropy) / len(p) + weights.dice * dice
    return cost


@pytest.mark.parametrize("weights", [CostWeights(), CostWeights(1, 0, 0), CostWeights(0, 3, 0.5)])
def test_cost_equals_slow_loop(weights):
    class_logits = torch.randn(4, 6, generator=seeded(1), dtype=torch.float64)
    x = torch.randn(4, 9, generator=seeded(2), dtype=torch.float64) * 3
    t = torch.rand(3, 9, generator=seeded(3))
    classes = torch.tensor([4, 0, 4])
    cost = matching_cost(class_logits, x, classes, t, weights)
    torch.testing.assert_close(cost, slow_cost(class_logits, x, classes, t, weights))


def test_cost_by_hand():
    # Two classes and "no object", p = 1/2, 1/4, 1/4; mask probability 1/2 at both points, one of them inside.
    cost = matching_cost(
        torch.tensor([[math.log(2), 0.0, 0.0]]),
        torch.zeros(1, 2),
        torch.tensor([0]),
        torch.tensor([[1.0, 0.0]]),
    )
    assert cost.item() == pytest.approx(-2 / 2 + 5 * math.log(2) + 5 * (1 - 2 / 3))


@pytest.mark.parametrize(("queries", "segments"), [(4, 4), (5, 2), (2, 5), (3, 0), (1, 1)])
def test_assignment_is_the_cheapest_of_all(queries, segments):
    cost = torch.randn(queries, segments, generator=seeded(5))
    query, segment = assign(cost)
    assert len(query) == min(queries, segments) == len(set(query.tolist())) == len(set(segment.tolist()))
    wide = cost if queries <= segments else cost.T
    best = min(
        sum(wide[i, j].item() for i, j in enumerate(p))
        for p in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert cost[query, segment].sum().item() == pytest.approx(best, abs=1e-5)
    assert query.tolist() == sorted(query.tolist())


def test_costs_that_are_not_finite_are_taken_last():
    nan, inf = math.nan, math.inf
    cost = torch.tensor([[nan, nan], [3.0, 1.0], [2.0, inf]])
    query, segment = assign(cost)
    assert list(zip(query.tolist(), segment.tolist(), strict=True)) == [(1, 1), (2, 0)]
    query, _ = assign(torch.full((2, 2), nan))
    assert query.tolist() == [0, 1]


def batch():
    """Sample 0: three stripes, predicted by queries 3, 0, 1; sample 1: one segment, query 2."""
    masks = torch.stack((stripes(3, 3, 2), stripes(8, 0, 0)))
    classes = torch.tensor([[1, 0, 1], [0, -1, -1]])
    truth = [[1, 2, -1, 0], [-1, -1, 0, -1]]
    mask_logits, class_logits = torch.full((2, 4, 4, 8), -5.0), torch.zeros(2, 4, 3)
    for b in range(2):
        for q, g in enumerate(truth[b]):
            if g >= 0:
                mask_logits[b, q][masks[b, g]] = 5.0
                class_logits[b, q, classes[b, g]] = 4.0
    return class_logits, mask_logits, classes, masks, torch.ones(2, 4, 8, dtype=torch.bool), truth


def test_match_finds_the_queries_that_predict_the_segments():
    *inputs, truth = batch()
    assert match(*inputs, points=50, generator=seeded()).tolist() == truth
    # Padding between the segments, and masks of the same shape told apart by class alone.
    class_logits, mask_logits, _, masks, known = inputs
    class_logits[0, 0, 1] = 9.0
    classes = torch.tensor([[0, -1, 1], [-1, -1, -1]])
    masks[0, 0] = masks[0, 2]
    mask_logits[:] = 0
    found = match(class_logits, mask_logits, classes, masks, known, points=50, generator=seeded())
    assert found[0, 0] == 2 and (found[0] == 0).sum() == 1 and (found[1] == -1).all()


def test_match_compares_known_cells_only():
    class_logits, mask_logits, classes, masks, known, truth = batch()
    known[:, :, ::2] = False
    before = match(class_logits, mask_logits, classes, masks, known, points=30, generator=seeded())
    mask_logits = torch.where(known[:, None], mask_logits, torch.nan)
    masks = masks ^ ~known[:, None]
    after = match(class_logits, mask_logits, classes, masks, known, points=30, generator=seeded())
    assert before.tolist() == after.tolist() == truth


def test_sample_without_segments_or_known_cells_gets_no_pair():
    class_logits, mask_logits, classes, masks, known, truth = batch()
    classes[0] = -1
    assert match(class_logits, mask_logits, classes, masks, known, points=30).tolist() == [[-1] * 4, truth[1]]
    known[:] = False
    assert (match(class_logits, mask_logits, classes, masks, known, points=30) == -1).all()


def test_more_segments_than_queries():
    class_logits, mask_logits, classes, masks, known, _ = batch()
    found = match(class_logits[:, :2], mask_logits[:, :2], classes, masks, known, points=50)
    assert found[0].tolist() == [1, 2]


def test_match_survives_a_diverged_network_and_refuses_unknown_classes():
    class_logits, mask_logits, classes, masks, known, _ = batch()
    found = match(class_logits * torch.nan, mask_logits, classes, masks, known, points=20)
    assert (found >= 0).sum(1).tolist() == [3, 1]
    with pytest.raises(InputError, match="expected 0..1 or -1, got 2"):
        match(class_logits, mask_logits, classes + 1, masks, known)
