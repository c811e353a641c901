# SPDX-License-Identifier: Apache-2.0
"""Points lie in known cells, and values there are read from known cells only."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.points import look_up, random_points, uncertain_points  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_look_up(values, known, x, y):
    """One value of one map [h,w] at x, y (0..1); plain loops over all cells."""
    h, w = values.shape
    total = weight = 0.0
    for i in range(h):
        for j in range(w):
            share = max(0.0, 1 - abs(x * w - 0.5 - j)) * max(0.0, 1 - abs(y * h - 0.5 - i))
            if known[i, j]:
                total, weight = total + share * float(values[i, j]), weight + share
    return total / weight


def test_points_lie_in_known_cells_and_cover_them_evenly():
    known = torch.zeros(4, 6, dtype=torch.bool)
    known[0, 5] = known[3, 0] = known[2, 2] = True
    points = random_points(known, 3, 2000, seeded())
    column, row = (points[..., 0] * 6).long(), (points[..., 1] * 4).long()
    assert known[row, column].all()
    shares = torch.bincount((row * 6 + column).flatten(), minlength=24) / 6000
    torch.testing.assert_close(shares.reshape(4, 6)[known], torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    within = points * torch.tensor([6.0, 4.0]) % 1
    assert within.mean().item() == pytest.approx(0.5, abs=0.02)
    assert within.min() < 0.01 and within.max() > 0.99


def test_look_up_equals_slow_loop():
    known = torch.rand(5, 7, generator=seeded(1)) < 0.4
    maps = torch.randn(3, 5, 7, generator=seeded(2), dtype=torch.float64)
    points = random_points(known, 3, 20, seeded(3))
    expected = [[slow_look_up(maps[n], known, *points[n, p].tolist()) for p in range(20)] for n in range(3)]
    torch.testing.assert_close(
        look_up(maps, known, points), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-5
    )
    shared = look_up(maps, known, points[:1])
    torch.testing.assert_close(shared, look_up(maps, known, points[:1].expand(3, -1, -1)))
    masks = maps > 0
    torch.testing.assert_close(look_up(masks, known, points), look_up(masks.float(), known, points))


def test_look_up_by_hand():
    maps, known = torch.tensor([[[0.0, 4.0, 100.0]]]), torch.tensor([[True, True, False]])
    x = torch.tensor([0.5, 0.75, 1.0, 1.5, 1.75, 0.0]) / 3  # in cells: centres of 0, between, of 1, beyond
    points = torch.stack((x, torch.full_like(x, 0.1)), -1)[None]
    torch.testing.assert_close(look_up(maps, known, points), torch.tensor([[0.0, 1.0, 2.0, 4.0, 4.0, 0.0]]))


def test_unknown_cells_change_nothing_and_get_no_gradient():
    known = torch.rand(5, 7, generator=seeded(1)) < 0.5
    maps = torch.randn(2, 5, 7, generator=seeded(2), requires_grad=True)
    points = random_points(known, 2, 50, seeded(3))
    changed = torch.where(known, maps, torch.nan)
    assert torch.equal(look_up(maps, known, points), look_up(changed, known, points))
    (gradient,) = torch.autograd.grad(look_up(maps, known, points).sum(), maps)
    assert (gradient[:, ~known] == 0).all() and (gradient[:, known] > 0).any()


def test_uncertain_points_are_the_least_certain_candidates():
    logits = torch.full((2, 8, 8), 9.0)
    logits[0, :, :2] = logits[1, :, 6:] = 0.1
    known = torch.ones(8, 8, dtype=torch.bool)
    points = uncertain_points(logits, known, 40, oversample=8, importance=0.75, generator=seeded())
    assert points.shape == (2, 40, 2)
    assert (points[0, :30, 0] < 2 / 8).all() and (points[1, :30, 0] > 6 / 8).all()
    assert 0 < (points[0, 30:, 0] < 2 / 8).sum() < 10  # the rest is random
    again = uncertain_points(logits, known, 40, oversample=8, importance=0.75, generator=seeded())
    assert torch.equal(points, again)
    candidates = random_points(known, 2, 320, seeded())
    certainty = look_up(logits, known, candidates).abs().sort(1).values[:, :30]
    torch.testing.assert_close(look_up(logits, known, points[:, :30]).abs(), certainty)
