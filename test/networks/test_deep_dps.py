# SPDX-License-Identifier: Apache-2.0
"""DeepDPS: its parts against slow references and an independent implementation of the half that is
Mask2Former."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dvps_ros.networks.backbones import Backbone
from dvps_ros.networks.deep_dps import (
    MAX_DEPTH_M,
    DeepDps,
    DeepDpsConfig,
    GeometricQueries,
    mask2former_weights,
)
from dvps_ros.networks.masked_attention import attention_mask, sine_positions
from dvps_ros.networks.pyramids import LEVELS, DeformableAttention, cell_places

SIZES = {
    "width": 32,
    "queries": 12,
    "heads": 4,
    "hidden": 64,
    "rounds": 1,
    "pixel_layers": 2,
    "pixel_hidden": 64,
}
H, W = 64, 128


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def images(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, H, W) * 255


def intrinsics(count: int = 1, focal: float = 100.0) -> torch.Tensor:
    return torch.tensor([[focal, focal, (W - 1) / 2, (H - 1) / 2]]).repeat(count, 1)


def test_with_its_weights_it_computes_what_the_transformers_librarys_mask2former_does() -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    network = DeepDps(DeepDpsConfig(backbone="resnet_tiny", pixel_decoder="deformable", **SIZES)).eval()
    config = Mask2FormerConfig(
        backbone_config=network.backbone.model.config, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=64, dim_feedforward=64, encoder_layers=2, decoder_layers=LEVELS + 1,
        num_attention_heads=4, num_queries=12, num_labels=19,
    )  # fmt: skip
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    for parameter in theirs.parameters():  # zeros and ones would hide parts that are swapped
        nn.init.normal_(parameter, std=0.15)
    weights = mask2former_weights(theirs.state_dict())
    missing, surplus = network.load_state_dict(weights, strict=False)
    assert surplus == []
    assert {name.partition(".")[0] for name in missing} == {
        "depth", "depth_norm", "depth_vector", "depth_level_positions", "slots", "slot_positions", "geometry",
        "backup",
    }  # fmt: skip
    image = images(2)
    with torch.no_grad():
        ours = network(image, intrinsics(2))
        want = theirs((image - network.mean) / network.std)
    torch.testing.assert_close(ours.class_logits, want.class_queries_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.mask_logits, want.masks_queries_logits, rtol=1e-3, atol=1e-3)
    assert want.class_queries_logits.std() > 0.05 and want.masks_queries_logits.std() > 0.05


def test_deformable_attention_equals_the_loop() -> None:
    sizes, heads, points, width = [(2, 3), (4, 6), (8, 12)], 2, 3, 8
    layer = DeformableAttention(width, heads, points)
    nn.init.normal_(layer.weights.weight)
    nn.init.normal_(layer.offsets.weight)
    count = sum(h * w for h, w in sizes)
    query, values = torch.randn(1, count, width), torch.randn(1, count, width)
    places = torch.cat([cell_places(h, w, query.device) for h, w in sizes])
    with torch.no_grad():
        got = layer(query, values, places, sizes)[0]
        offsets = layer.offsets(query).view(count, heads, LEVELS, points, 2)
        weights = layer.weights(query).view(count, heads, -1).softmax(2).view(count, heads, LEVELS, points)
        maps = [m.view(h, w, heads, -1) for m, (h, w) in zip(
            layer.value(values)[0].split([h * w for h, w in sizes]), sizes, strict=True
        )]  # fmt: skip
        seen = torch.zeros(count, heads, width // heads)
        for n in range(0, count, 7):
            for head in range(heads):
                for level, (h, w) in enumerate(sizes):
                    for point in range(points):
                        dx, dy = offsets[n, head, level, point].tolist()
                        x, y = places[n, 0].item() * w + dx - 0.5, places[n, 1].item() * h + dy - 0.5
                        for j in (math.floor(x), math.floor(x) + 1):
                            for i in (math.floor(y), math.floor(y) + 1):
                                if 0 <= i < h and 0 <= j < w:
                                    share = (1 - abs(x - j)) * (1 - abs(y - i))
                                    weight = weights[n, head, level, point] * share
                                    seen[n, head] += weight * maps[level][i, j, head]
        want = layer.out(seen.flatten(1))
    torch.testing.assert_close(got[::7], want[::7], rtol=1e-4, atol=1e-5)


def test_where_queries_may_look_by_hand() -> None:
    logits = torch.full((1, 3, 4, 4), -1.0)
    logits[0, 0, :2, :2] = 1.0
    logits[0, 2] = 5.0
    attends = attention_mask(logits, 2, 2)
    assert attends.tolist() == [[[True, False, False, False], [True] * 4, [True] * 4]]
    assert not attention_mask(logits.requires_grad_(), 4, 4).requires_grad


def test_positions_by_hand() -> None:
    got = sine_positions(2, 3, 8, torch.device("cpu"))
    assert got.shape == (6, 8)
    y, x = 2 * math.pi * 2 / 2, 2 * math.pi * 1 / 3  # cell (1, 0)
    want = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
    want += [math.sin(x), math.cos(x), math.sin(x / 100), math.cos(x / 100)]
    torch.testing.assert_close(got[3], torch.tensor(want), atol=1e-5, rtol=0)


def test_a_latent_slot_looks_within_the_mask_of_its_query_only() -> None:
    geometry = GeometricQueries(8, 2, 16)
    level, zero = torch.randn(1, 6, 8), torch.zeros(1, 1, 8)
    attends = torch.zeros(1, 2, 6, dtype=torch.bool)
    attends[0, 0, :3] = attends[0, 1, 3:] = True
    slots = torch.randn(1, 2, 8)
    with torch.no_grad():
        before = geometry.look(slots, zero, level, zero, attends)
        level[0, 4] += 1.0
        after = geometry.look(slots, zero, level, zero, attends)
    assert torch.equal(before[0, 0], after[0, 0]) and not torch.allclose(before[0, 1], after[0, 1])


def test_slots_look_within_the_masks_that_their_layer_predicts() -> None:
    network = DeepDps(DeepDpsConfig(backbone="resnet_tiny", pixel_decoder="pyramid", **SIZES)).eval()
    seen: list[torch.Tensor] = []
    for geometry in network.geometry:
        geometry.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[-1]))
    with torch.no_grad():
        p = network(images(), intrinsics())
    for attends, before, after, stride in zip(seen, p.layers[:-1], p.layers[1:], (32, 16, 8), strict=True):
        size = H // stride, W // stride
        assert torch.equal(attends, attention_mask(after.mask_logits, *size))
        assert not torch.equal(attends, attention_mask(before.mask_logits, *size))


def test_the_geometry_of_queries_does_not_change_their_segments() -> None:
    network = DeepDps(DeepDpsConfig(backbone="resnet_tiny", pixel_decoder="pyramid", **SIZES)).eval()
    image = images()
    with torch.no_grad():
        before = network(image, intrinsics())
        for part in (network.geometry, network.backup, network.depth):
            for parameter in part.parameters():
                nn.init.normal_(parameter)
        after = network(image, intrinsics())
    assert torch.equal(before.class_logits, after.class_logits)
    assert torch.equal(before.mask_logits, after.mask_logits)
    assert not torch.allclose(before.depth_m, after.depth_m)


def test_depth_is_bounded_and_follows_the_focal_length_only_where_asked() -> None:
    for canonical, factor in ((0.0, 1.0), (200.0, 0.5)):
        config = DeepDpsConfig(
            backbone="resnet_tiny", pixel_decoder="pyramid", canonical_focal_px=canonical, **SIZES
        )
        network = DeepDps(config).eval()
        image = images()
        with torch.no_grad():
            near, far = network(image, intrinsics(focal=100.0)), network(image, intrinsics(focal=400.0))
        assert near.depth_m.min() > 0 and near.depth_m.max() < MAX_DEPTH_M * factor
        ratio = 4.0 if canonical else 1.0
        torch.testing.assert_close(far.depth_m, ratio * near.depth_m)
        torch.testing.assert_close(far.backup_depth_m, ratio * near.backup_depth_m)


@pytest.mark.parametrize("depth_by", ["segment", "segment_only", "pixels"])
def test_the_ablations_predict_what_they_say(depth_by: str) -> None:
    config = DeepDpsConfig(backbone="resnet_tiny", pixel_decoder="pyramid", depth_by=depth_by, **SIZES)
    network = DeepDps(config).eval()
    with torch.no_grad():
        p = network(images(2), intrinsics(2))
    assert p.depth_m.shape[1] == (1 if depth_by == "pixels" else 12)
    assert (p.layers[-1].backup_depth_m is not None) == (depth_by == "segment")
    assert len(p.layers) == 1 + LEVELS and p.layers[0].depth_m is None
    out = network.fusion((11, 13))(p)
    assert out["depth_m"].shape == (2, H // 4, W // 4)


def test_backbones_have_the_strides_they_should() -> None:
    for name in ("resnet_tiny", "swin_tiny"):
        backbone = Backbone(name)
        features = backbone(torch.randn(1, 3, H, W))
        assert [tuple(f.shape[1:]) for f in features] == [
            (c, H // s, W // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
        ]
