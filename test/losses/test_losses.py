# SPDX-License-Identifier: Apache-2.0
"""Losses against values worked by hand, masks, gradients and refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.errors import ConfigError, DvpsError, InputError  # noqa: E402
from dvps_ros.labels import CITYSCAPES, VOID  # noqa: E402
from dvps_ros.losses import depth, instance, motion, semantic  # noqa: E402
from dvps_ros.losses.semantic import class_weights  # noqa: E402
from dvps_ros.losses.targets import DenseTargets, FrameBatch, View  # noqa: E402
from dvps_ros.losses.term import Term, pooled_mean  # noqa: E402
from dvps_ros.losses.weighting import FixedWeights  # noqa: E402
from dvps_ros.networks.lite import LiteWeights, clip_terms  # noqa: E402


def tensor(values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def test_term_mean_ignores_masked_values_even_infinite_ones():
    term = Term(tensor([[1.0, math.inf, 3.0]]), tensor([[1.0, 0.0, 3.0]]))
    assert term.mean().item() == pytest.approx((1 + 9) / 4)
    assert term.bad_samples() == []
    assert Term(tensor([[1.0], [math.nan]]), tensor([[1.0], [1.0]])).bad_samples() == [1]
    assert Term(tensor([[math.nan]]), tensor([[0.0]])).mean().item() == 0


def test_pooled_mean_counts_elements_and_not_terms():
    many = Term(tensor([[1.0, 1.0, 1.0]]), tensor([[1.0, 1.0, 1.0]]))
    one, none = Term(tensor([[5.0]]), tensor([[1.0]])), Term(tensor([[7.0]]), tensor([[0.0]]))
    assert pooled_mean([many, one, none]).item() == pytest.approx(8 / 4)
    # A term with a divisor of its own brings that: 4 / (3 + 1 + 2).
    per_peak = Term(tensor([[4.0]]), tensor([[1.0]]), tensor(2.0))
    assert pooled_mean([many, one, per_peak]).item() == pytest.approx(12 / 6)


def test_cross_entropy_by_hand():
    logits = tensor([[[[0.0, math.log(3.0)]], [[0.0, 0.0]]]])  # two classes, 1x2 pixels: p = 1/2 and 3/4
    term = semantic.cross_entropy(logits, tensor([[[0, 0]]], torch.uint8))
    torch.testing.assert_close(term.value, tensor([[[math.log(2), math.log(4 / 3)]]]))
    weighted = semantic.cross_entropy(logits, tensor([[[0, 1]]], torch.uint8), tensor([1.0, 3.0]))
    assert weighted.mean().item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    masked = semantic.cross_entropy(logits, tensor([[[0, VOID]]], torch.uint8))
    assert masked.mean().item() == pytest.approx(math.log(2))
    with pytest.raises(InputError, match="0..1 or 255, got 2"):
        semantic.cross_entropy(logits, tensor([[[0, 2]]], torch.uint8))


def test_jaccard_weight_by_hand():
    # Two pixels of the class among four, errors falling 0.9, 0.6, 0.5, 0.2: wrong pixels so far make the IoU
    # 1/2 (missed one), 1/3 (and one too many), 0 (missed both), 0.
    error = tensor([[0.5, 0.9, 0.2, 0.6]])
    truth = tensor([[True, True, False, False]], torch.bool)
    torch.testing.assert_close(semantic.jaccard_weight(error, truth), tensor([[1 / 3, 1 / 2, 0.0, 1 / 6]]))


def test_lovasz_of_certain_predictions_is_one_minus_the_mean_iou():
    truth = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    truth[truth == 3] = VOID
    predicted = torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(2))
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 5).permute(0, 3, 1, 2).float()
    known = truth != VOID
    iou = [
        ((predicted == c) & (truth == c) & known).sum() / (((predicted == c) | (truth == c)) & known).sum()
        for c in range(3)  # the fourth and fifth do not occur
    ]
    assert semantic.lovasz(logits, truth).mean().item() == pytest.approx(1 - sum(iou).item() / 3, abs=1e-6)
    # Sets of classes: {0, 3} and {1, 4} in one label space, {2} and {0, 1} in that of the other sample.
    groups = torch.zeros(2, 2, 5, dtype=torch.bool)
    groups[0, 0, [0, 3]] = groups[0, 1, [1, 4]] = groups[1, 0, [2]] = groups[1, 1, [0, 1]] = True
    coarse = torch.randint(0, 2, (2, 6, 7), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    coarse[0, 0] = VOID
    losses = []
    for b in range(2):
        for g in range(2):
            said = groups[b, g][predicted[b]] & (coarse[b] != VOID)
            losses.append(1 - (said & (coarse[b] == g)).sum() / (said | (coarse[b] == g)).sum())
    assert semantic.set_lovasz(logits, coarse, groups).mean().item() == pytest.approx(
        sum(losses).item() / 4, abs=1e-6
    )


def test_lovasz_falls_by_its_gradient_and_knows_nothing_of_void():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, 3, 4, 5, generator=generator, requires_grad=True)
    truth = torch.randint(0, 3, (1, 4, 5), generator=generator).to(torch.uint8)
    truth[0, 0] = VOID
    before = semantic.lovasz(logits, truth).mean()
    (slope,) = torch.autograd.grad(before, logits)
    assert (slope[:, :, 0] == 0).all() and (slope[:, :, 1:] != 0).any()
    assert semantic.lovasz(logits.detach() - 0.1 * slope, truth).mean() < before
    nothing = torch.full((1, 4, 5), VOID, dtype=torch.uint8)
    assert semantic.lovasz(logits, nothing).mean().item() == 0
    assert semantic.set_lovasz(logits, nothing, torch.zeros(1, 1, 3, dtype=torch.bool)).mean().item() == 0
    with pytest.raises(InputError, match=r"0\.\.2 or 255, got 3"):
        semantic.lovasz(logits, torch.full((1, 4, 5), 3, dtype=torch.uint8))


def test_set_cross_entropy_adds_the_probabilities_of_the_set():
    p = tensor([0.5, 0.3, 0.2])
    logits = p.log().view(1, 3, 1, 1).expand(1, 3, 1, 2).contiguous()
    groups = tensor([[[True, False, True], [False, True, False]]], torch.bool)
    term = semantic.set_cross_entropy(logits, tensor([[[0, 1]]], torch.uint8), groups)
    torch.testing.assert_close(term.value, tensor([[[-math.log(0.7), -math.log(0.3)]]]))
    single = torch.eye(3, dtype=torch.bool)[None]
    fine = tensor([[[2, 0]]], torch.uint8)
    torch.testing.assert_close(
        semantic.set_cross_entropy(logits, fine, single).value, semantic.cross_entropy(logits, fine).value
    )
    everything = semantic.set_cross_entropy(logits, tensor([[[0, VOID]]], torch.uint8), groups | True)
    assert everything.mean().item() == pytest.approx(0, abs=1e-6)
    weighted = semantic.set_cross_entropy(
        logits, tensor([[[0, VOID]]], torch.uint8), groups, tensor([3.0, 5.0, 2.0])
    )
    assert weighted.weight.tolist() == [[[2.0, 0.0]]]  # the lightest of classes 0 and 2
    with pytest.raises(InputError, match="stands for no class"):
        semantic.set_cross_entropy(logits, tensor([[[0, 1]]], torch.uint8), groups & False)


def test_sky_is_pushed_away_only_where_it_is_near():
    log_depth = tensor([[[[30.0, 240.0, 30.0]]]]).log()
    term = depth.sky_is_far(log_depth, tensor([[[True, True, False]]], torch.bool), 120.0)
    assert term.value[0, 0, :2].tolist() == pytest.approx([math.log(4), 0])
    assert term.mean().item() == pytest.approx(math.log(4) / 2)


def test_center_focal_by_hand():
    logits = torch.zeros(1, 1, 1, 3)  # p = 1/2 everywhere
    heat = tensor([[[1.0, 0.5, 0.0]]])
    term = instance.center_focal(logits, heat, torch.ones(1, 1, 3, dtype=torch.bool))
    quarter = math.log(2) / 4
    torch.testing.assert_close(term.value, tensor([[[quarter, quarter / 16, quarter]]]))
    assert term.mean().item() == pytest.approx(quarter * (2 + 1 / 16))  # one peak
    sure = tensor([[[[30.0, -30.0, -30.0]]]])
    assert instance.center_focal(sure, heat.round(), torch.ones(1, 1, 3, dtype=torch.bool)).mean() < 1e-6


def test_offset_counts_only_instances():
    predicted, target = torch.zeros(1, 2, 1, 2), tensor([[[[3.0, 9.0]], [[-4.0, 9.0]]]])
    term = instance.offset_l1(predicted, target, tensor([[[True, False]]], torch.bool))
    assert term.mean().item() == 7.0
    assert instance.offset_l1(target, target, tensor([[[True, True]]], torch.bool)).mean() == 0


def unit(*angles_deg):
    """[1,2,1,n] unit vectors."""
    radians = torch.deg2rad(tensor(angles_deg))
    return torch.stack((radians.cos(), radians.sin()))[None, :, None]


def test_identity_contrast_by_hand():
    ids = tensor([[[5, 9, 0]]], torch.int32)
    previous = unit(0, 90, 45)
    term = instance.identity_contrast(previous, ids, unit(0, 90, 45), ids, temperature=1.0)
    expected = math.log(1 + math.exp(-1))  # cosines 1 and 0
    torch.testing.assert_close(term.value[0, 0, :2], tensor([expected, expected]))
    assert term.weight.tolist() == [[[1.0, 1.0, 0.0]]]
    swapped = instance.identity_contrast(previous, ids, unit(90, 0, 45), ids, temperature=1.0)
    assert swapped.mean().item() == pytest.approx(math.log(1 + math.e))


def test_identity_contrast_equal_weight_per_instance_and_unmatched_ids():
    previous_ids, current_ids = tensor([[[1, 1, 2]]], torch.int32), tensor([[[1, 2, 2, 3]]], torch.int32)
    term = instance.identity_contrast(unit(0, 0, 90), previous_ids, unit(0, 90, 90, 0), current_ids)
    assert term.weight.tolist() == [[[1.0, 0.5, 0.5, 0.0]]]  # id 3 is new, id -1 and 0 never count
    lonely = instance.identity_contrast(
        unit(0), tensor([[[1]]], torch.int32), unit(0), tensor([[[1]]], torch.int32)
    )
    assert lonely.weight.sum() == 0  # nothing to tell it from


def test_equal_ids_of_two_samples_are_different_objects():
    ids = tensor([[[1]], [[1]]], torch.int32)
    vectors = torch.cat((unit(0), unit(90)))
    right = instance.identity_contrast(vectors, ids, vectors, ids, temperature=0.1).mean()
    wrong = instance.identity_contrast(vectors, ids, vectors.flip(0), ids, temperature=0.1).mean()
    assert right < 1e-3 and wrong > 5


def test_depth_terms_by_hand():
    truth = tensor([[[1.0, math.e], [0.0, 500.0]]])
    log_depth = tensor([[[[0.5, 1.0], [7.0, 7.0]]]])
    log = depth.log_l1(log_depth, truth, 100)
    assert log.weight.tolist() == [[[1, 1], [0, 0]]]
    assert log.mean().item() == pytest.approx(0.25)
    # errors 0.5 and 0: mean 0.25
    assert depth.scale_invariant(log_depth, truth, 100).mean().item() == pytest.approx(0.25)
    assert depth.scale_invariant(log_depth + 3, truth, 100).mean().item() == pytest.approx(0.25)
    full = torch.full((1, 2, 2), math.e)
    shifted = tensor([[[[1.0, 1.5], [1.25, 0.0]]]])
    assert depth.gradient_l1(shifted, full, 100).mean().item() == pytest.approx(0.75)
    for loss in (depth.log_l1, depth.scale_invariant, depth.gradient_l1):
        assert loss(torch.ones(1, 1, 2, 2), full, 100).mean().item() == pytest.approx(0, abs=1e-6)


def test_smoothness_is_zero_on_planes_of_one_depth_and_cheaper_at_image_edges():
    image = torch.zeros(1, 3, 2, 2)
    assert depth.edge_aware_smoothness(torch.full((1, 1, 2, 2), 3.0), image).mean() == 0
    step = tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    flat = depth.edge_aware_smoothness(step, image).mean().item()
    image[..., 1] = 255
    assert flat == pytest.approx(0.5)
    assert depth.edge_aware_smoothness(step, image).mean().item() == pytest.approx(0.5 * math.exp(-10))


def test_motion_by_hand():
    target = tensor([[[[3.0, math.nan, 900.0]], [[4.0, 0.0, 0.0]]]])
    predicted = torch.zeros(1, 2, 1, 3, requires_grad=True)
    term = motion.charbonnier(predicted, target, epsilon_px=0.5)
    assert term.weight.tolist() == [[[1, 0, 0]]]
    assert term.mean().item() == pytest.approx(math.sqrt(25.25) - 0.5)
    term.mean().backward()
    assert torch.isfinite(predicted.grad).all() and (predicted.grad[..., 1:] == 0).all()


def test_moving_by_hand():
    term = motion.moving_cross_entropy(
        torch.zeros(1, 1, 1, 3), tensor([[[1, 0, 255]]], torch.uint8), positive_weight=3
    )
    assert term.weight.tolist() == [[[3, 1, 0]]]
    assert term.mean().item() == pytest.approx(math.log(2))


class Maps:
    """Random predictions of a batch of two."""

    def __init__(self, seed: int = 0, rows: int = 2) -> None:
        g = torch.Generator().manual_seed(seed)

        def make(channels):
            return torch.randn(rows, channels, 4, 8, generator=g).requires_grad_()

        self.class_logits, self.center_logits, self.center_offset_px = make(19), make(1), make(2)
        self.log_depth, self.motion_px, self.moving_logits = make(1), make(2), make(1)
        self.raw_embedding, self.depth_features = make(8), make(6)

    @property
    def embedding(self):
        return torch.nn.functional.normalize(self.raw_embedding, dim=1)


def targets(rows: int = 2) -> DenseTargets:
    g = torch.Generator().manual_seed(3)
    size = (rows, 4, 8)
    instances = torch.randint(0, 4, size, generator=g, dtype=torch.int32)
    heat = torch.zeros(size)
    heat[:, 1, 2] = 1
    return DenseTargets(
        class_map=torch.randint(0, 19, size, generator=g, dtype=torch.uint8),
        coarse_map=torch.full(size, VOID, dtype=torch.uint8),
        groups=torch.zeros(rows, 1, 19, dtype=torch.bool),
        heat=heat,
        heat_valid=torch.ones(size, dtype=torch.bool),
        offset_px=torch.zeros(rows, 2, 4, 8),
        instance=instances,
        depth_m=torch.full(size, 5.0),
        dense_depth=torch.ones(rows, dtype=torch.bool),
        motion_px=torch.zeros(rows, 2, 4, 8),
        moving=torch.zeros(size, dtype=torch.uint8),
        sky=torch.ones(size, dtype=torch.bool),
        segments=instances.long(),
        image=torch.rand(rows, 3, 4, 8, generator=g) * 255,
        seen=torch.ones(size, dtype=torch.bool),
        intrinsics=torch.tensor([[4.0, 4.0, 3.5, 1.5]]).expand(rows, 4),
        other=View(
            torch.rand(rows, 3, 4, 8, generator=g) * 255,
            torch.ones(size, dtype=torch.bool),
            torch.tensor([[4.0, 4.0, 3.5, 1.5]]).expand(rows, 4),
            torch.eye(4).expand(rows, 4, 4),
        ),
    )


def total_loss(maps, truths, weight, config):
    """The total, and the mean of each term."""
    clip = [
        FrameBatch(t.image, t.intrinsics, t, tuple(f"clip {i}" for i in range(len(t.image)))) for t in truths
    ]
    means = clip_terms(maps, clip, weight, config).means()
    return FixedWeights(config)(means), means


def test_total_is_the_weighted_sum_and_all_gradients_are_finite():
    maps = [Maps(0), Maps(1)]
    config = LiteWeights()
    total, means = total_loss(maps, [targets(), targets()], class_weights(CITYSCAPES), config)
    assert total.item() == pytest.approx(
        sum(getattr(config, k) * v.item() for k, v in means.items()), rel=1e-5
    )
    assert set(means) == {
        "semantic", "coarse", "lovasz", "coarse_lovasz", "center", "offset", "depth", "depth_shape",
        "depth_edges", "sky", "smoothness", "motion", "moving", "identity",
    }  # fmt: skip
    total.backward()
    for m in maps:
        for name in ("class_logits", "center_logits", "center_offset_px", "log_depth", "raw_embedding"):
            gradient = getattr(m, name).grad
            assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name
    assert maps[0].motion_px.grad is None  # a first frame has no previous one


def test_terms_of_weight_zero_that_cost_time_are_not_computed_and_others_join_the_sum():
    maps, config = [Maps(0), Maps(1)], LiteWeights()
    extra = {"photometric": 2.0, "guided_smoothness": 0.1, "guided_edges": 0.2, "guided_triplet": 0.3}
    plain, without = total_loss(maps, [targets(), targets()], class_weights(CITYSCAPES), config)
    total, means = total_loss(
        maps, [targets(), targets()], class_weights(CITYSCAPES), replace(config, **extra)
    )
    assert set(means) - set(without) == set(extra)
    assert (total - plain).item() == pytest.approx(
        sum(w * means[k].item() for k, w in extra.items()), rel=1e-4
    )
    assert all(means[k] > 0 for k in extra)
    total.backward()
    assert maps[0].depth_features.grad.abs().sum() > 0
    maps[0].depth_features = None
    with pytest.raises(ConfigError, match="gives no depth features"):
        total_loss(maps[:1], [targets()], class_weights(CITYSCAPES), LiteWeights(guided_triplet=1.0))


def test_frames_without_any_truth_cost_nothing_but_smoothness():
    t = targets()
    empty = replace(
        t,
        class_map=torch.full_like(t.class_map, VOID),
        heat_valid=torch.zeros_like(t.heat_valid),
        instance=torch.full_like(t.instance, -1),
        depth_m=torch.zeros_like(t.depth_m),
        motion_px=torch.full_like(t.motion_px, math.nan),
        moving=torch.full_like(t.moving, 255),
        sky=torch.zeros_like(t.sky),
        segments=torch.full_like(t.segments, -1),
        other=t.other._replace(view_from_camera=torch.full((2, 4, 4), math.nan)),
    )
    every = LiteWeights(photometric=1.0, guided_smoothness=1.0, guided_edges=1.0, guided_triplet=1.0)
    _, means = total_loss([Maps(0), Maps(1)], [empty, empty], class_weights(CITYSCAPES), every)
    assert {k for k, v in means.items() if v != 0} == {"smoothness"}


def test_a_value_that_is_not_finite_names_term_and_sample():
    maps = Maps(0)
    with torch.no_grad():
        maps.log_depth[1, 0, 2, 3] = math.nan
    with pytest.raises(DvpsError, match="'depth' is not finite for clip 1"):
        total_loss([maps], [targets()], class_weights(CITYSCAPES), LiteWeights())


def test_shorter_second_step_pairs_with_the_first_rows():
    total, _ = total_loss(
        [Maps(0, 3), Maps(1, 2)], [targets(3), targets(2)], class_weights(CITYSCAPES), LiteWeights()
    )
    assert torch.isfinite(total)
