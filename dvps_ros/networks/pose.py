# SPDX-License-Identifier: Apache-2.0
"""Motion of the camera between two images (Godard et al. 2019, Monodepth2): for training only.

Of a pair (first, second), networks predict ``second_from_first``: points of the first image's camera, in the
second's. Pairs are given in the order of time, so that driving forwards always looks alike: a camera that
moves ahead by d has the translation (0, 0, -d), for what it sees comes nearer. With p, c, n the previous, the
current and the next frame, the pair (c, n) gives ``n_from_c``, which is what the view n needs
(``losses.targets.View``); the pair (p, c) gives ``c_from_p``, of which the view p needs the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dvps_ros.networks.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone

SCALE = 0.01
"""Radians and metres for an activation of 1: motions begin small, as those between frames are."""
SMALL_ANGLE = 1e-2
"""Radians below which series take the place of divisions by the angle; their error is below float32's."""


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation about an axis (Rodrigues), exact and differentiable at zero, too.

    Args:
        axis_angle: float [...,3]: its length is the angle, radians; right-handed.

    Returns:
        [...,3,3].
    """
    x, y, z = axis_angle.unbind(-1)
    square = x * x + y * y + z * z
    small = square < SMALL_ANGLE**2
    # Chosen before the root: its slope at zero is infinite, and 0 * inf would be no number.
    angle = torch.where(small, 1.0, square).sqrt()
    sine = torch.where(small, 1 - square / 6 + square.square() / 120, angle.sin() / angle)  # sin a / a
    half = (angle / 2).sin() / angle
    cosine = torch.where(
        small, 0.5 - square / 24 + square.square() / 720, 2 * half * half
    )  # (1 - cos a) / a^2
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    outer = axis_angle[..., :, None] * axis_angle[..., None, :]
    one = torch.eye(3, device=axis_angle.device, dtype=axis_angle.dtype)
    squared = outer - square[..., None, None] * one  # the cross product taken twice
    return one + sine[..., None, None] * cross + cosine[..., None, None] * squared


def pose_matrix(axis_angle: Tensor, translation_m: Tensor) -> Tensor:
    """[...,4,4]: rotation first, then translation. Both float [...,3]."""
    top = torch.cat((rotation_matrix(axis_angle), translation_m[..., None]), -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat((top, bottom), -2)


def inverse_pose(a_from_b: Tensor) -> Tensor:
    """b_from_a of rigid motions [...,4,4]."""
    rotation = a_from_b[..., :3, :3].transpose(-1, -2)
    # Products by element: matrix products would round to bf16 under autocast.
    translation = -(rotation * a_from_b[..., None, :3, 3]).sum(-1, keepdim=True)
    return torch.cat((torch.cat((rotation, translation), -1), a_from_b[..., 3:, :]), -2)


class PoseDecoder(nn.Module):
    """Features of a pair to ``second_from_first``.

    Args:
        channels: of each map of features.
        maps: how many there are: one of both images together, or one of the first and one of the second.
        width: channels inside.
    """

    def __init__(self, channels: int, *, maps: int = 1, width: int = 256) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.body = nn.Sequential(
            nn.Conv2d(maps * width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 6, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """float32 [B,4,4].

        Args:
            features: ``maps`` maps [B,channels,h,w], the first image's before the second's.
        """
        squeezed = [torch.relu(self.squeeze(x)) for x in features]
        numbers = SCALE * self.body(torch.cat(squeezed, 1)).float().mean((2, 3))
        return pose_matrix(numbers[:, :3], numbers[:, 3:])


class PoseNetwork(nn.Module):
    """Two images to ``second_from_first``.

    Args:
        encoder: a backbone of six input channels (``Backbone(name, inputs=6)``), whose deepest features are
            taken.
        width: channels of the decoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Backbone, *, width: int = 256) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = PoseDecoder(encoder.channels[-1], width=width)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """float32 [B,4,4] of two images [B,3,H,W], RGB 0..255."""
        pair = torch.cat([(image.float() - self.mean) / self.std for image in (first, second)], 1)
        return self.decoder([self.encoder(pair)[-1]])
