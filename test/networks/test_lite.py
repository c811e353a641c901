# SPDX-License-Identifier: Apache-2.0
"""The lite network: shapes, values that follow from its design, and that it can learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dvps_ros.networks import NETWORKS, Lite, LiteConfig, PointsPrediction

H, W = 64, 96
TINY = LiteConfig(
    classes=5, embedding=8, encoder="thin_tiny", decoder_width=16, context_width=16, state_width=8
)


@pytest.fixture
def network() -> Lite:
    torch.manual_seed(0)
    return Lite(TINY)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, H, W, generator=torch.Generator().manual_seed(seed)) * 255


def intrinsics(count: int, focal: float = 500.0) -> torch.Tensor:
    return torch.tensor([[focal, focal, (W - 1) / 2, (H - 1) / 2]]).repeat(count, 1)


def wake_motion(network: Lite) -> None:
    """A fresh motion head is nearly silent; give it weights that show in the output."""
    torch.nn.init.normal_(network.motion.head.weight, std=1.0)


def test_shapes_of_all_outputs(network: Lite) -> None:
    p = network(images(2), intrinsics(2))
    h, w = H // 4, W // 4
    assert p.class_logits.shape == (2, 5, h, w)
    assert p.center_logits.shape == p.log_depth.shape == p.moving_logits.shape == (2, 1, h, w)
    assert p.center_offset_px.shape == p.motion_px.shape == (2, 2, h, w)
    assert p.embedding.shape == (2, 8, h, w)
    assert p.latent.shape == (2, 96, 16)
    assert {k: tuple(v.shape) for k, v in p.state.items()} == {"features": (2, 8, H // 8, W // 8)}


def test_latent_shape_is_the_same_for_every_input_size(network: Lite) -> None:
    for height, width in ((32, 64), (96, 160)):
        p = network.eval()(torch.zeros(1, 3, height, width), intrinsics(1))
        assert p.latent.shape == (1, 96, 16)


def test_heads_start_at_their_priors(network: Lite) -> None:
    with torch.no_grad():
        p = network.eval()(images(1), intrinsics(1))
    assert torch.sigmoid(p.center_logits).mean() == pytest.approx(0.01, abs=0.01)
    assert torch.sigmoid(p.moving_logits).mean() == pytest.approx(0.1, abs=0.05)
    assert torch.exp(p.log_depth).mean() == pytest.approx(15.0, rel=0.3)
    assert torch.allclose(p.embedding.norm(dim=1), torch.ones(1, H // 4, W // 4), atol=1e-3)


def test_depth_is_proportional_to_focal_length_but_for_the_rays(network: Lite) -> None:
    """With the ray inputs silenced, twice the focal length means exactly twice the depth."""
    network.eval()
    for decoder in (network.semantic, network.instance, network.depth):
        torch.nn.init.zeros_(decoder.rays16.weight)
        torch.nn.init.zeros_(decoder.rays8.weight)
    near = network(images(1), intrinsics(1, 400.0)).log_depth
    far = network(images(1), intrinsics(1, 800.0)).log_depth
    assert torch.allclose(far - near, torch.full_like(near, math.log(2)), atol=1e-5)


def test_depth_sees_the_rays(network: Lite) -> None:
    network.eval()
    torch.nn.init.normal_(network.depth_head.weight)
    a, b = intrinsics(1), intrinsics(1)
    b[0, 3] += 20.0
    image = images(1)
    assert (network(image, a).log_depth - network(image, b).log_depth).abs().max() > 1e-3


def test_zero_state_is_a_first_frame_and_any_other_state_moves(network: Lite) -> None:
    network.eval()
    wake_motion(network)
    image = images(1)
    first = network(image, intrinsics(1))
    zero = network(image, intrinsics(1), network.initial_state(image))
    second = network(image, intrinsics(1), network(images(1, seed=1), intrinsics(1)).state)
    assert torch.equal(first.motion_px, torch.zeros_like(first.motion_px))
    assert torch.equal(first.motion_px, zero.motion_px) and torch.equal(
        first.moving_logits, zero.moving_logits
    )
    assert second.motion_px.abs().mean() > 0.1
    assert torch.equal(first.class_logits, second.class_logits)


def test_state_may_be_dropped_for_single_items(network: Lite) -> None:
    network.eval()
    wake_motion(network)
    image = images(2)
    state = network(images(2, seed=1), intrinsics(2)).state
    dropped = {k: v * torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1) for k, v in state.items()}
    p = network(image, intrinsics(2), dropped)
    assert p.motion_px[0].abs().mean() > 0.1 and p.motion_px[1].abs().max() == 0


def test_every_parameter_gets_a_gradient(network: Lite) -> None:
    wake_motion(network)
    state = network(images(2, seed=1), intrinsics(2)).state
    p = network(images(2), intrinsics(2), state)
    dense = (p.class_logits, p.center_logits, p.center_offset_px, p.log_depth, p.motion_px, p.moving_logits)
    sum((x * torch.randn_like(x)).sum() for x in (*dense, p.embedding, p.latent)).backward()
    silent = [n for n, q in network.named_parameters() if q.grad is None or not q.grad.abs().sum() > 0]
    # The second convolution of a residual block starts behind a zero scale, and so do those before it.
    assert [n for n in silent if ".body." not in n] == []


def losses(p: PointsPrediction, truth: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "class": F.cross_entropy(p.class_logits, truth["class"]),
        "center": F.binary_cross_entropy_with_logits(p.center_logits, truth["center"]),
        "offset": F.l1_loss(p.center_offset_px, truth["offset"]) / 8,
        "depth": F.l1_loss(p.log_depth, truth["depth"].log()),
        "motion": F.l1_loss(p.motion_px, truth["motion"]) / 8,
        "moving": F.binary_cross_entropy_with_logits(p.moving_logits, truth["moving"]),
        "embedding": (1 - (p.embedding * truth["embedding"]).sum(1)).mean(),
    }


def test_every_head_fits_one_tiny_batch(network: Lite) -> None:
    """Two objects left and right on a flat background, all truths constant over each object."""
    image = images(2) * 0.2
    image[:, 0, 16:48, 8:40] += 150.0
    image[:, 2, 16:48, 56:88] += 150.0
    h, w = H // 4, W // 4
    obj = torch.zeros(2, 1, h, w, dtype=torch.long)
    obj[:, :, 4:12, 2:10], obj[:, :, 4:12, 14:22] = 1, 2
    table = torch.tensor([[0.0, 0.0], [6.0, -3.0], [-9.0, 2.0]])
    identity = F.one_hot(obj[:, 0], 8).permute(0, 3, 1, 2).float()
    truth = {
        "class": obj[:, 0],
        "center": (obj > 0).float(),
        "offset": table[obj[:, 0]].permute(0, 3, 1, 2) * 3,
        "depth": torch.tensor([40.0, 8.0, 15.0])[obj],
        "motion": table[obj[:, 0]].permute(0, 3, 1, 2),
        "moving": (obj == 1).float(),
        "embedding": identity,
    }
    k = intrinsics(2)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(80):
        state = network(image.roll(6, 3), k).state
        terms = losses(network(image, k, state), truth)
        if step == 0:
            start = {name: v.item() for name, v in terms.items()}
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    end = {name: v.item() for name, v in terms.items()}
    assert all(end[name] < 0.35 * start[name] for name in start), [(k, start[k], end[k]) for k in start]


def test_table_builds_every_network() -> None:
    for name, (network, config, *_) in NETWORKS.items():
        assert network.name == name
        assert isinstance(network(config()), torch.nn.Module)
