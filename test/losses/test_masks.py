# SPDX-License-Identifier: Apache-2.0
"""Class and mask losses of queries: by hand, against slow loops, masked truth and gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.masks import (  # noqa: E402
    point_cross_entropy,
    point_dice,
    query_class,
    query_masks,
)
from dvps_ros.losses.points import look_up, uncertain_points  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_class_by_hand():
    # Three queries, two classes: probabilities 1/2 of the right class, 1/4 and 3/4 of "no object".
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]).log()
    term = query_class(logits, torch.tensor([[0, -1]]), torch.tensor([[0, -1, -1]]), torch.tensor([True]))
    torch.testing.assert_close(term.value, -torch.tensor([[0.5, 0.25, 0.75]]).log())
    torch.testing.assert_close(term.weight, torch.tensor([[1.0, 0.1, 0.1]]))
    expected = (math.log(2) + 0.1 * math.log(4) + 0.1 * math.log(4 / 3)) / 1.2
    assert term.mean().item() == pytest.approx(expected)


def test_class_equals_the_weighted_cross_entropy_of_torch():
    logits = torch.randn(3, 5, 4, generator=seeded(1), dtype=torch.float64)
    classes = torch.tensor([[2, 0, 1], [1, 1, -1], [-1, -1, -1]])
    matched = torch.tensor([[-1, 2, 0, 1, -1], [1, -1, -1, -1, 0], [-1] * 5])
    target = torch.tensor([3, 1, 2, 0, 3] + [1, 3, 3, 3, 1] + [3] * 5)
    weight = torch.tensor([1, 1, 1, 0.2], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, weight)
    every = torch.ones(3, dtype=torch.bool)
    term = query_class(logits, classes, matched, every, no_object_weight=0.2)
    torch.testing.assert_close(term.mean(), expected)


def test_class_of_samples_without_panoptic_truth_counts_for_nothing():
    logits = torch.randn(2, 3, 4, generator=seeded(1)).requires_grad_()
    classes, matched = torch.tensor([[2], [-1]]), torch.tensor([[-1, 0, -1], [-1, -1, -1]])
    term = query_class(logits, classes, matched, torch.tensor([True, False]))
    (gradient,) = torch.autograd.grad(term.mean(), logits)
    assert (gradient[1] == 0).all() and (gradient[0] != 0).all()
    assert query_class(logits, classes, matched, torch.tensor([False, False])).mean() == 0
    # With panoptic truth and no segment, all queries are "no object".
    empty = query_class(logits[1:], classes[1:], matched[1:], torch.tensor([True]))
    torch.testing.assert_close(empty.value, -logits[1:].log_softmax(2)[..., 3])


def test_point_losses_equal_slow_loops():
    x = torch.randn(4, 11, generator=seeded(1), dtype=torch.float64) * 3
    t = torch.rand(4, 11, generator=seeded(2), dtype=torch.float64)
    for n in range(4):
        p = [1 / (1 + math.exp(-v)) for v in x[n].tolist()]
        pairs = list(zip(p, t[n].tolist(), strict=True))
        entropy = sum(-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in pairs) / 11
        dice = 1 - (2 * sum(a * b for a, b in pairs) + 1) / (sum(a + b for a, b in pairs) + 1)
        assert point_cross_entropy(x, t)[n].item() == pytest.approx(entropy)
        assert point_dice(x, t)[n].item() == pytest.approx(dice)


def scene():
    """Two samples of 4x6 cells, three queries, two segments and one."""
    mask_logits = torch.randn(2, 3, 4, 6, generator=seeded(1), dtype=torch.float64)
    owner = torch.randint(0, 2, (2, 4, 6), generator=seeded(2))
    owner[1] = 0
    masks = owner[:, None] == torch.arange(2)[:, None, None]
    known = torch.rand(2, 4, 6, generator=seeded(3)) < 0.7
    matched = torch.tensor([[1, -1, 0], [-1, 0, -1]])
    return mask_logits, masks & known[:, None], known, matched


def test_masks_are_the_point_losses_of_the_matched_pairs():
    mask_logits, masks, known, matched = scene()
    entropy, dice = query_masks(mask_logits, masks, known, matched, points=16, generator=seeded(7))
    generator = seeded(7)
    expected_entropy, expected_dice = [], []
    for b, queries, rows in ((0, [0, 2], [1, 0]), (1, [1], [0])):
        where = uncertain_points(mask_logits[b, queries], known[b], 16, generator=generator)
        x = look_up(mask_logits[b, queries], known[b], where)
        t = look_up(masks[b, rows].double(), known[b], where)
        expected_entropy += point_cross_entropy(x, t).tolist()
        expected_dice += point_dice(x, t).tolist()
    assert entropy.value[matched >= 0].tolist() == pytest.approx(expected_entropy)
    assert dice.value[matched >= 0].tolist() == pytest.approx(expected_dice)
    assert torch.equal(entropy.weight > 0, matched >= 0) and torch.equal(dice.weight, entropy.weight)
    # Divided by the segments of the batch, not of each sample.
    assert entropy.mean().item() == pytest.approx(sum(expected_entropy) / 3)
    assert dice.mean().item() == pytest.approx(sum(expected_dice) / 3)


def test_masks_by_hand():
    # One cell is known, so every point reads it, whatever lies next to it.
    known = torch.zeros(1, 2, 3, dtype=torch.bool)
    known[0, 1, 1] = True
    mask_logits = torch.full((1, 1, 2, 3), 50.0)
    mask_logits[0, 0, 1, 1] = 0.0
    matched = torch.tensor([[0]])
    entropy, dice = query_masks(mask_logits, known[:, None], known, matched, points=4)
    assert entropy.mean().item() == pytest.approx(math.log(2))
    assert dice.mean().item() == pytest.approx(1 - (2 * 2 + 1) / (2 + 4 + 1))


def test_right_masks_cost_nothing_and_others_more():
    masks = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    masks[0, 0, :, :3] = True
    known = torch.ones(1, 4, 6, dtype=torch.bool)
    known[:, :, 2:4] = False  # no point between inside and outside
    right = torch.where(masks, 30.0, -30.0)
    matched = torch.tensor([[0]])

    def both(logits):
        return [t.mean().item() for t in query_masks(logits, masks, known, matched, points=64)]

    assert both(right) == pytest.approx([0, 0], abs=1e-6)
    for wrong in (-right, right.roll(3, 3), torch.zeros_like(right)):
        assert min(both(wrong)) > 0.1


def test_mask_of_one_cell_is_learned():
    mask_logits = torch.zeros(1, 1, 4, 6, requires_grad=True)
    masks = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    masks[0, 0, 2, 3] = True
    known, matched, generator = torch.ones(1, 4, 6, dtype=torch.bool), torch.tensor([[0]]), seeded()
    optimizer = torch.optim.Adam([mask_logits], lr=0.3)
    for _ in range(60):
        terms = query_masks(mask_logits, masks, known, matched, points=100, generator=generator)
        optimizer.zero_grad()
        sum(term.mean() for term in terms).backward()
        optimizer.step()
    assert torch.equal(mask_logits > 0, masks)


def test_unknown_cells_change_no_mask_loss():
    mask_logits, masks, known, matched = scene()
    plain = query_masks(mask_logits, masks, known, matched, points=16, generator=seeded(7))
    changed = torch.where(known[:, None], mask_logits, torch.inf).requires_grad_()
    terms = query_masks(changed, masks ^ ~known[:, None], known, matched, points=16, generator=seeded(7))
    for term, expected in zip(terms, plain, strict=True):
        assert torch.equal(term.value, expected.value)
        (gradient,) = torch.autograd.grad(term.mean(), changed, retain_graph=True)
        assert (gradient.movedim(1, -1)[~known] == 0).all() and (gradient[:, :, known[0]] != 0).any()
        assert torch.isfinite(gradient).all()


def test_samples_without_panoptic_truth_have_no_mask_loss():
    mask_logits, masks, known, matched = scene()
    known[1] = False
    mask_logits.requires_grad_()
    for term in query_masks(mask_logits, masks, known, matched, points=16):
        assert term.weight.sum(1).tolist() == [2, 0]
        assert (torch.autograd.grad(term.mean(), mask_logits, retain_graph=True)[0][1] == 0).all()
    for term in query_masks(mask_logits, masks, known, torch.full_like(matched, -1), points=16):
        assert term.weight.sum() == 0 and term.mean() == 0


def test_gradients_are_exact():
    mask_logits, masks, known, matched = (x[:1] for x in scene())
    for k in range(2):
        assert torch.autograd.gradcheck(
            # Points are chosen by the logits: all of them random here, or a step would move them.
            lambda x, k=k: query_masks(x, masks, known, matched, points=9, importance=0, generator=seeded(7))[
                k
            ].mean(),
            mask_logits.clone().requires_grad_(),
        )
    class_logits = torch.randn(1, 3, 4, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    classes, matched = torch.tensor([[2]]), torch.tensor([[-1, 0, -1]])
    assert torch.autograd.gradcheck(
        lambda x: query_class(x, classes, matched, torch.tensor([True])).mean(), class_logits
    )
