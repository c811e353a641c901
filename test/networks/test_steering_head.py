# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from dvps_ros.errors import ConfigError
from dvps_ros.networks.steering import NO_FRAME_S, SteeringHead, SteeringHeadConfig

SMALL = SteeringHeadConfig(frames=3, tokens=4, channels=6, width=16, heads=4)


@pytest.fixture
def head() -> SteeringHead:
    torch.manual_seed(0)
    return SteeringHead(SMALL).eval()


def test_values_and_gradients(head):
    latent, age_s = torch.randn(5, 3, 4, 6, requires_grad=True), torch.tensor([[0.0, 0.1, 0.2]] * 5)
    curvature, deviation = head(latent, age_s)
    assert curvature.shape == deviation.shape == (5,)
    assert (deviation > 0).all() and curvature.std() > 0
    curvature.sum().backward()
    assert (latent.grad.abs().sum((0, 3)) > 0).all()  # every token of every frame counts


def test_absent_frames_count_for_nothing(head):
    latent = torch.randn(2, 3, 4, 6)
    age_s = torch.tensor([[0.0, NO_FRAME_S, 0.2]] * 2)
    other = latent.clone()
    other[:, 1] = 100 * torch.randn(2, 4, 6)
    torch.testing.assert_close(head(latent, age_s), head(other, age_s), rtol=0, atol=0)
    # And only those: leaving a slot out is the same as a window without it.
    short = SteeringHead(SteeringHeadConfig(frames=2, tokens=4, channels=6, width=16, heads=4)).eval()
    short.load_state_dict(head.state_dict())
    torch.testing.assert_close(short(latent[:, [0, 2]], age_s[:, [0, 2]]), head(latent, age_s))


def test_it_knows_place_and_age(head):
    latent, age_s = torch.randn(1, 3, 4, 6), torch.tensor([[0.0, 0.1, 0.2]])
    assert not torch.allclose(head(latent, age_s)[0], head(latent.flip(2), age_s)[0])
    assert not torch.allclose(head(latent, age_s)[0], head(latent, 2 * age_s)[0])
    # The order of the slots is nothing, their age is all.
    torch.testing.assert_close(head(latent.flip(1), age_s.flip(1)), head(latent, age_s))


def test_standardise(head):
    tokens = 3 + 2 * torch.randn(500, 4, 6)
    head.standardise(tokens)
    scaled = (tokens - head.mean) / head.spread
    assert scaled.mean().abs() < 1e-4 and scaled.std() == pytest.approx(1.0, abs=0.05)


def test_refuses_heads_that_do_not_share_the_width():
    with pytest.raises(ConfigError, match="multiple of 3 heads"):
        SteeringHead(SteeringHeadConfig(width=16, heads=3))


def test_it_is_attention_of_one_query_over_keys_and_values_of_all_tokens(head):
    """Head by head as it is written down: softmax(q k / sqrt(c) - age x fading) v over every token."""
    latent, ages = torch.randn(3, 4, 6), [0.0, 0.1, 0.4]
    tokens, bias = [], []
    for frame, age_s in zip(latent, ages, strict=True):
        phase = age_s * head.waves
        age = head.age(torch.cat((torch.sin(phase), torch.cos(phase))))
        for k, token in enumerate(frame):
            tokens.append((head.embed(token) + age) * head.gain[k] + head.place[k] + age)
            bias.append(-age_s * torch.exp(head.fading))
    seen = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        scores = [head.query[part] @ head.key(x)[part] / 2 + b[h] for x, b in zip(tokens, bias, strict=True)]
        weights = torch.softmax(torch.stack(scores), 0)
        seen.append(sum(w * head.value(x)[part] for w, x in zip(weights, tokens, strict=True)))
    seen = torch.cat(seen) * 2 / 3  # sqrt(4 tokens) / 3
    want = head.config.unit_per_m * (head.straight(seen) + head.bent(seen))[0]
    got, _ = head(latent[None], torch.tensor([ages]))
    torch.testing.assert_close(got[0], want)


def test_training_hides_whole_channels_and_whole_tokens():
    torch.manual_seed(0)
    head = SteeringHead(SteeringHeadConfig(dropout=0.5))
    seen = head._hidden(torch.ones(40, 3, 96, 128))
    channel, token = (seen != 0).any((1, 2)), (seen != 0).any(-1)
    assert torch.equal(seen != 0, channel[:, None, None] & token[..., None])
    assert channel.float().mean() == pytest.approx(0.5, abs=0.05)
    assert token.float().mean() == pytest.approx(0.5, abs=0.05)
    assert seen.mean() == pytest.approx(1.0, abs=0.1)  # what is left stands for the rest
    assert torch.equal(head.eval()._hidden(seen), seen)
