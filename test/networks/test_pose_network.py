# SPDX-License-Identifier: Apache-2.0
"""Camera motion between two images: matrices by hand, gradients at zero, directions of forward and turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dvps_ros.geometry.pose import check_pose, inverse, transform
from dvps_ros.losses.warping import pixel_grid, places_by_depth
from dvps_ros.networks.backbones import Backbone
from dvps_ros.networks.pose import (
    SCALE,
    PoseDecoder,
    PoseNetwork,
    inverse_pose,
    pose_matrix,
    rotation_matrix,
)

DOUBLE = torch.float64
K = torch.tensor([[50.0, 50.0, 15.5, 7.5]])


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def test_quarter_turns_by_hand() -> None:
    quarter = math.pi / 2
    got = rotation_matrix(torch.tensor([[quarter, 0, 0], [0, quarter, 0], [0, 0, quarter]], dtype=DOUBLE))
    want = [
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
    ]
    torch.testing.assert_close(got, torch.tensor(want, dtype=DOUBLE))


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-4, 0.00999, 0.01001, 0.5, 3.0])
def test_it_is_the_matrix_exponential_at_every_angle(length: float) -> None:
    axis = torch.tensor([0.36, -0.48, 0.8], dtype=DOUBLE)
    x, y, z = (length * axis).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=DOUBLE)
    want = torch.matrix_exp(cross)
    torch.testing.assert_close(rotation_matrix(length * axis), want, rtol=0, atol=2e-13)
    torch.testing.assert_close(rotation_matrix((length * axis).float()).double(), want, rtol=0, atol=3e-7)


def test_gradients_are_exact_at_zero_and_elsewhere() -> None:
    for start in ([0.0, 0, 0], [1e-5, 0, 2e-5], [0.3, -0.2, 0.9]):
        angle = torch.tensor([start], dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(rotation_matrix, angle)
        assert torch.autograd.gradgradcheck(rotation_matrix, angle)


def test_inverse_undoes_and_agrees_with_numpy() -> None:
    pose = pose_matrix(torch.randn(4, 3, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE))
    back = inverse_pose(pose)
    torch.testing.assert_close(back @ pose, torch.eye(4, dtype=DOUBLE).expand(4, 4, 4))
    np.testing.assert_allclose(back.numpy(), inverse(pose.numpy()), atol=1e-12)


def second_from_first(axis_angle: list[float], translation_m: list[float]) -> torch.Tensor:
    return pose_matrix(torch.tensor([axis_angle]), torch.tensor([translation_m]))


def shift_of(pose: torch.Tensor, depth_m: float = 10.0) -> torch.Tensor:
    """[2,16,32]: where the second camera sees each pixel of a wall, minus the pixel."""
    places, valid = places_by_depth(torch.full((1, 1, 16, 32), math.log(depth_m)), K, K, pose)
    assert valid.all()
    return (places - pixel_grid(16, 32, places))[0]


def test_driving_forwards_spreads_the_image_and_the_previous_frame_shrinks_it() -> None:
    ahead = second_from_first([0, 0, 0], [0, 0, -2.0])  # the wall at 10 m comes to 8 m
    np.testing.assert_allclose(transform(ahead[0].numpy(), np.array([1.0, 0.5, 10])), [1, 0.5, 8])
    u, v = pixel_grid(16, 32, K)
    shift = shift_of(ahead)
    torch.testing.assert_close(shift, torch.stack((u - 15.5, v - 7.5)) * (10 / 8 - 1))
    past = shift_of(inverse_pose(ahead))
    torch.testing.assert_close(past, torch.stack((u - 15.5, v - 7.5)) * (10 / 12 - 1))


def test_turning_to_the_left_moves_the_image_to_the_right() -> None:
    # The camera turns by -a about y, which points down; so the scene turns by +a in it.
    left = second_from_first([0, 0.1, 0], [0, 0, 0])
    at_middle = shift_of(left)[:, 7:9, 15:17].mean((1, 2))
    assert at_middle[0].item() == pytest.approx(50 * math.tan(0.1), rel=1e-2)
    assert abs(at_middle[1].item()) < 1e-4


def test_places_have_gradients_by_the_pose() -> None:
    numbers = torch.zeros(1, 6, dtype=DOUBLE, requires_grad=True)
    log_depth = torch.linspace(1, 3, 12, dtype=DOUBLE).view(1, 1, 3, 4).requires_grad_()
    k = K.double()

    def places(n: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return places_by_depth(d, k, k, pose_matrix(n[:, :3], n[:, 3:]))[0]

    assert torch.autograd.gradcheck(places, (numbers, log_depth))


def test_the_decoder_is_the_mean_of_its_six_numbers_times_a_hundredth() -> None:
    decoder = PoseDecoder(4, maps=2, width=8)
    last = decoder.body[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, 10, 0, 100, 0, -200])
    pose = decoder([torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)])
    want = pose_matrix(torch.tensor([0, 10 * SCALE, 0]), torch.tensor([1.0, 0, -2]))
    torch.testing.assert_close(pose, want.expand(2, 4, 4))


def test_the_decoder_tells_first_from_second() -> None:
    decoder = PoseDecoder(4, maps=2, width=8)
    a, b = torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    assert not torch.allclose(decoder([a, b]), decoder([b, a]))


def test_the_network_gives_rigid_motions_in_float32_and_learns_one() -> None:
    network = PoseNetwork(Backbone("resnet_tiny", inputs=6), width=16)
    first, second = (torch.rand(2, 3, 64, 96) * 255 for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        pose = network(first, second)
    assert pose.dtype == torch.float32
    for matrix in pose.detach().double().numpy():
        check_pose("pose", matrix)
    want = second_from_first([0.01, 0.02, 0], [0, 0.05, -0.3])
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        loss = (network(first, second) - want).square().sum((1, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 2e-3
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert silent == []
