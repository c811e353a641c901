# SPDX-License-Identifier: Apache-2.0
"""Guidance losses in windows: by hand, against slow loops, masked truth and gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.guidance import MARGIN, depth_to_semantic, semantic_to_depth  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def neighbours(v, u, h, w, window):
    r = window // 2
    for y in range(max(v - r, 0), min(v + r + 1, h)):
        for x in range(max(u - r, 0), min(u + r + 1, w)):
            if (y, x) != (v, u):
                yield y, x


def scene():
    """Features [2,3,6,7], segments with unknown cells, depth, where it is valid."""
    features = torch.randn(2, 3, 6, 7, generator=seeded(1), dtype=torch.float64)
    segments = torch.randint(-1, 3, (2, 6, 7), generator=seeded(2))
    segments[0, :4, :4] = 5  # here all neighbours are of one segment
    depth = torch.rand(2, 6, 7, generator=seeded(3), dtype=torch.float64) * 30
    valid = torch.rand(2, 6, 7, generator=seeded(4)) < 0.6
    valid[1] = False
    valid[1, 0, 0] = valid[1, 3, 3] = True  # no neighbours
    return features, segments, depth, valid


def slow_semantic_to_depth(features, segments, v, u, window, least, squared):
    """(value, counts) of one cell."""
    unit = features / features.norm(dim=0)
    distances = [[0.0] if segments[v, u] >= 0 else [], []]  # from itself
    for y, x in neighbours(v, u, *segments.shape, window):
        if segments[v, u] >= 0 and segments[y, x] >= 0:
            d = float((unit[:, v, u] - unit[:, y, x]).norm())
            distances[int(segments[v, u] != segments[y, x])].append(d**2 if squared else d)
    if min(map(len, distances)) < least:
        return 0.0, False
    return max(0.0, max(distances[0]) - min(distances[1]) + MARGIN), True


@pytest.mark.parametrize(
    ("window", "least", "squared"), [(5, 1, True), (5, 1, False), (5, 4, True), (3, 2, True)]
)
def test_semantic_to_depth_equals_slow_loop(window, least, squared):
    features, segments, *_ = scene()
    term = semantic_to_depth(features, segments, window=window, least=least, squared=squared)
    assert 0 < term.weight.sum() < term.weight.numel()
    for b in range(2):
        for v in range(6):
            for u in range(7):
                value, counts = slow_semantic_to_depth(features[b], segments[b], v, u, window, least, squared)
                assert bool(term.weight[b, v, u]) == counts
                if counts:
                    assert term.value[b, v, u].item() == pytest.approx(value, abs=1e-9)


def slow_depth_to_semantic(features, depth, valid, v, u, window, literal):
    """(value, counts) of one cell."""
    f = features if literal else features / features.norm(dim=0)
    alike = []
    for y, x in neighbours(v, u, *depth.shape, window):
        if valid[v, u] and valid[y, x]:
            step = abs(float(depth[v, u] - depth[y, x])) / 10
            alike.append(math.exp(-step) * math.exp(-float((f[:, v, u] - f[:, y, x]).norm())))
    if not alike:
        return 0.0, False
    return -sum(alike) / (1 if literal else len(alike)), True


@pytest.mark.parametrize(("window", "literal"), [(5, False), (5, True), (3, False)])
def test_depth_to_semantic_equals_slow_loop(window, literal):
    features, _, depth, valid = scene()
    term = depth_to_semantic(features, depth, valid, window=window, literal=literal)
    assert 0 < term.weight[0].sum() < term.weight[0].numel() and term.weight[1].sum() == 0
    for v in range(6):
        for u in range(7):
            value, counts = slow_depth_to_semantic(features[0], depth[0], valid[0], v, u, window, literal)
            assert bool(term.weight[0, v, u]) == counts
            if counts:
                assert term.value[0, v, u].item() == pytest.approx(value, abs=1e-9)


def halves(angle_deg):
    """Two segments next to each other whose features, of length 7, have this angle between them."""
    segments = torch.ones(1, 5, 6, dtype=torch.int64)
    segments[..., 3:] = 2
    angle = torch.where(segments == 2, math.radians(angle_deg), 0.0)
    return torch.stack((angle.cos(), angle.sin()), 1) * 7.0, segments


def test_semantic_to_depth_by_hand():
    same, segments = halves(0.0)
    assert semantic_to_depth(same, segments).mean().item() == pytest.approx(MARGIN)
    near, _ = halves(30.0)  # d- = 2 - 2 cos 30 degrees, squared
    assert semantic_to_depth(near, segments).mean().item() == pytest.approx(0.3 - (2 - 3**0.5), abs=1e-5)
    near, _ = halves(10.0)
    plain = semantic_to_depth(near, segments, squared=False).mean().item()
    assert plain == pytest.approx(0.3 - 2 * math.sin(math.radians(5)), abs=1e-5)
    apart, _ = halves(90.0)
    assert semantic_to_depth(apart, segments).mean() == 0
    # One cell of the other segment within two columns is enough; K - 1 = 4 need as many rows.
    assert semantic_to_depth(apart, segments).weight[0].tolist() == [[0, 1, 1, 1, 1, 0]] * 5
    one, four = [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]
    assert semantic_to_depth(apart, segments, least=4).weight[0].tolist() == [one, four, four, four, one]


def test_a_cell_alone_among_others_is_its_own_company():
    features, segments = halves(20.0)
    segments[:] = 1
    segments[0, 2, 2] = 2
    features[0, :, 2, 2] = torch.tensor([0.0, 3.0])  # 90 and 70 degrees from the others
    term = semantic_to_depth(features, segments, squared=False)
    assert term.weight[0, 2, 2] == 1  # at least one negative, as printed
    assert term.value[0, 2, 2] == 0  # 0 - 2 sin 35 degrees + margin
    features[0, :, 2, 2] = torch.tensor([3.0, 0.0])
    assert semantic_to_depth(features, segments).value[0, 2, 2].item() == pytest.approx(MARGIN)
    assert semantic_to_depth(features, segments, least=2).weight[0, 2, 2] == 0


def test_the_farthest_of_its_own_and_the_nearest_of_others_decide():
    # One segment looks to the right but for one cell upwards, the other to the left but for one to the right.
    features, segments = halves(180.0)
    features[0, :, 2, 1] = torch.tensor([0.0, 1.0])
    features[0, :, 2, 4] = torch.tensor([1.0, 0.0])
    value = semantic_to_depth(features, segments).value[0, 2]
    assert value[2].item() == pytest.approx(2 - 0 + MARGIN)  # the cell upwards, the cell that looks like it
    assert value[3].item() == pytest.approx(4 - 2 + MARGIN)
    assert value[1].item() == pytest.approx(2 - 2 + MARGIN)


def test_depth_to_semantic_by_hand():
    # Depths 0, 10 and 20 m in a row, features of unit length 90 degrees apart from the first to the others.
    features = torch.tensor([[[[2.0, 0.0, 0.0]], [[0.0, 3.0, 3.0]]]])
    depth, valid = torch.tensor([[[1.0, 11.0, 21.0]]]), torch.ones(1, 1, 3, dtype=torch.bool)
    term = depth_to_semantic(features, depth, valid)
    e, root = math.exp(-1), math.exp(-math.sqrt(2))
    expected = [-(e * root + e**2 * root) / 2, -(e * root + e) / 2, -(e**2 * root + e) / 2]
    assert term.value[0, 0].tolist() == pytest.approx(expected)
    far = math.exp(-math.sqrt(13))
    literal = depth_to_semantic(features, depth, valid, literal=True)
    assert literal.value[0, 0].tolist() == pytest.approx([-(e + e**2) * far, -e * far - e, -(e**2) * far - e])


def test_equal_features_at_equal_depth_are_the_minimum():
    features, depth = torch.ones(1, 3, 7, 7, requires_grad=True), torch.full((1, 7, 7), 5.0)
    valid = torch.ones(1, 7, 7, dtype=torch.bool)
    term = depth_to_semantic(features, depth, valid)
    torch.testing.assert_close(term.value, -torch.ones(1, 7, 7))
    assert torch.isfinite(torch.autograd.grad(term.mean(), features)[0]).all()
    literal = depth_to_semantic(features, depth, valid, literal=True)
    assert literal.value.min() == -24 and literal.value[0, 0, 0] == -8


def test_unknown_cells_change_nothing():
    features, segments, depth, valid = scene()
    segments[0, 2, 2] = -1
    inputs = (features, torch.where(segments[:, None] < 0, 100 * features + 7, features))
    plain, changed = (semantic_to_depth(f, segments) for f in inputs)
    assert torch.equal(plain.weight, changed.weight)
    torch.testing.assert_close(plain.value * plain.weight, changed.value * plain.weight)
    inputs = (features, torch.where(valid[:, None], features, 100 * features + 7))
    depths = (depth, torch.where(valid, depth, torch.nan))
    plain, changed = (depth_to_semantic(f, d, valid) for f, d in zip(inputs, depths, strict=True))
    assert torch.equal(plain.weight, changed.weight) and torch.equal(plain.value, changed.value)


def test_unknown_cells_get_no_gradient():
    features, segments, depth, valid = scene()
    features.requires_grad_()
    depth.requires_grad_()
    (gradient,) = torch.autograd.grad(semantic_to_depth(features, segments).mean(), features)
    assert (gradient.movedim(1, -1)[segments < 0] == 0).all() and gradient.abs().sum() > 0
    for gradient in torch.autograd.grad(depth_to_semantic(features, depth, valid).mean(), (features, depth)):
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        cells = gradient.movedim(1, -1)[~valid] if gradient.dim() == 4 else gradient[~valid]
        assert (cells == 0).all()


def test_nothing_is_known_nothing_counts():
    features, segments, depth, valid = scene()
    features.requires_grad_()
    for term in (
        semantic_to_depth(features, torch.full_like(segments, -1)),
        semantic_to_depth(features, torch.full_like(segments, 3)),  # one segment: nothing to tell it from
        depth_to_semantic(features, depth, torch.zeros_like(valid)),
    ):
        assert term.weight.sum() == 0 and term.mean() == 0
        assert torch.isfinite(torch.autograd.grad(term.mean(), features)[0]).all()


def test_gradients_are_exact():
    features, segments, depth, valid = (t[:1, ..., 1:5, 2:6].clone() for t in scene())
    segments[0, :, 2:] = 1
    features.requires_grad_()
    for squared in (True, False):
        assert torch.autograd.gradcheck(
            lambda f, squared=squared: semantic_to_depth(f, segments, squared=squared, margin=1.0).mean(),
            features,
        )
    depth.requires_grad_()
    for literal in (True, False):
        assert torch.autograd.gradcheck(
            lambda f, d, literal=literal: depth_to_semantic(f, d, valid, literal=literal).mean(),
            (features, depth),
        )
