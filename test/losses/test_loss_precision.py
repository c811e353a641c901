# SPDX-License-Identifier: Apache-2.0
"""Losses of mask networks compute in float32 under autocast, and in float64 where they are given that."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.guidance import depth_to_semantic, semantic_to_depth  # noqa: E402
from dvps_ros.losses.masks import query_class, query_masks  # noqa: E402
from dvps_ros.losses.matching import match, matching_cost  # noqa: E402
from dvps_ros.losses.segment_depth import backup_depth, query_depth  # noqa: E402

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, generator=G)
MAPS = torch.randn(2, 3, 6, 7, generator=G)
MASKS = (torch.arange(7) % 2)[None, None, None] == torch.arange(2)[:, None, None].expand(2, 2, 6, 1)
KNOWN = torch.rand(2, 6, 7, generator=G) < 0.8
CLASSES, MATCHED = torch.tensor([[0, 3], [2, 1]]), torch.tensor([[1, -1, 0], [-1, 0, 1]])
DEPTH = torch.rand(2, 6, 7, generator=G) * 50 + 1


def seeded():
    return torch.Generator().manual_seed(1)


LOSSES = {
    "class": lambda cast: [query_class(cast(LOGITS), CLASSES, MATCHED, torch.ones(2, dtype=torch.bool))],
    "masks": lambda cast: query_masks(cast(MAPS), MASKS, KNOWN, MATCHED, points=9, generator=seeded()),
    "query depth": lambda cast: [query_depth(cast(MAPS).exp(), DEPTH, MASKS, MATCHED)],
    "backup depth": lambda cast: [backup_depth(cast(MAPS[:, :1]).exp(), DEPTH)],
    "semantic to depth": lambda cast: [semantic_to_depth(cast(MAPS), MASKS[:, 0].long())],
    "depth to semantic": lambda cast: [depth_to_semantic(cast(MAPS), DEPTH, KNOWN)],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_losses_are_float32_under_autocast(name, dtype):
    leaves = []

    def cast(tensor):
        leaves.append(tensor.to(dtype).clone().requires_grad_())
        return leaves[-1]

    with torch.autocast("cpu", torch.bfloat16):
        terms = LOSSES[name](cast)
        sum(term.mean() for term in terms).backward()
    exact = LOSSES[name](lambda tensor: tensor.to(dtype).double())
    for term, expected in zip(terms, exact, strict=True):
        assert term.value.dtype == term.weight.dtype == torch.float32
        assert expected.value.dtype == torch.float64
        assert term.weight.sum() > 0 and torch.equal(term.weight.double(), expected.weight.double())
        tolerance = 2e-2 if dtype == torch.bfloat16 and "depth" in name else 1e-5  # exp() of the inputs above
        assert term.mean().item() == pytest.approx(expected.mean().item(), rel=tolerance, abs=1e-6)
    assert all(leaf.grad.dtype == dtype and torch.isfinite(leaf.grad).all() for leaf in leaves)
    assert any((leaf.grad != 0).any() for leaf in leaves)


def test_matching_is_float32_under_autocast():
    low, points = MAPS[0].flatten(1).bfloat16(), MASKS[0].flatten(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        cost = matching_cost(LOGITS[0].bfloat16(), low, CLASSES[0], points)
        found = match(
            LOGITS.bfloat16(), MAPS.bfloat16(), CLASSES, MASKS, KNOWN, points=30, generator=seeded()
        )
    assert cost.dtype == torch.float32
    exact = matching_cost(LOGITS[0].bfloat16().double(), low.double(), CLASSES[0], points)
    torch.testing.assert_close(cost.double(), exact, rtol=1e-5, atol=1e-5)
    assert ((found >= 0).sum(1) == 2).all()
