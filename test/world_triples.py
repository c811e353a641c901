# SPDX-License-Identifier: Apache-2.0
"""Three frames of a clear, noiseless synthetic world as tensors, with what is visible from frame to frame."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from dvps_ros.data.world import World, WorldConfig
from dvps_ros.losses.photometric import strided_view
from dvps_ros.losses.targets import View
from dvps_ros.losses.warping import pixel_grid, places_by_depth, values_at
from dvps_ros.types import CameraModel, Sample

SEEDS = (5, 9)
"""Worlds with much that moves."""
CAMERA = CameraModel.from_fov(256, 128, 80.0)
HIDDEN = 0.03
"""A surface is hidden where another lies nearer than it by this share of its depth."""


@cache
def clip_of(seed: int) -> Sample:
    """Frames t-1, t, t+1 at 10 Hz."""
    config = WorldConfig(
        seed=seed, style="city", weather="clear", camera_height_m=1.5, camera_pitch_deg=2.0,
        camera_yaw_deg=0.0, effects=False,
    )  # fmt: skip
    return World(config).clip(3, CAMERA, rate_hz=10.0, start_s=2.0)


class Triple:
    """The clip of a world; frame 1 is looked up in frames 0 and 2."""

    def __init__(self, seed: int) -> None:
        self.sample = clip_of(seed)
        self.images = torch.from_numpy(self.sample.images).permute(0, 3, 1, 2)
        self.intrinsics = torch.from_numpy(self.sample.intrinsics)
        self.depth_m = torch.from_numpy(self.sample.truth("depth_m"))
        self.moving = torch.from_numpy(self.sample.truth("moving")) == 1
        self.flow_px = torch.from_numpy(self.sample.truth("flow_px")).permute(0, 3, 1, 2)
        self.shape = self.depth_m.shape[1:]

    def pose(self, other: int, t: int = 1) -> Tensor:
        """other_from_t [1,4,4]."""
        world = self.sample.truth("world_from_camera")
        return torch.from_numpy(np.linalg.inv(world[other]) @ world[t]).float()[None]

    def log_depth(self, t: int = 1) -> Tensor:
        """[1,1,h,w]; the sky, which has no depth, is put far away."""
        depth = self.depth_m[t]
        return torch.where(depth > 0, depth, 1e3).log()[None, None]

    def view(self, t: int, pose: Tensor | None = None) -> View:
        """Frame t as a view of frame 1, at full size."""
        seen = torch.ones(1, *(n // 4 for n in self.shape), dtype=torch.bool)
        view = strided_view(self.images[t : t + 1], seen, self.intrinsics[t : t + 1], 1)
        return view._replace(view_from_camera=self.pose(t) if pose is None else pose)

    def visible(self, other: int) -> Tensor:
        """bool [h,w]: pixels of frame 1 with a depth whose surface, if it stands still, frame ``other``
        shows."""
        pose, (fx, fy, cx, cy) = self.pose(other), self.intrinsics[1]
        places, front = places_by_depth(self.log_depth(), self.intrinsics[1:2], self.intrinsics[:1], pose)
        inside = ((places >= 0) & (places <= places.new_tensor(self.shape[::-1]).view(2, 1, 1) - 1)).all(1)
        u, v = pixel_grid(*self.shape, self.depth_m)
        d = self.depth_m[1]
        points = torch.stack(((u - cx) / fx * d, (v - cy) / fy * d, d)).flatten(1)
        z = (pose[0, :3, :3] @ points + pose[0, :3, 3:])[2].view(self.shape)
        there = values_at(self.depth_m[other][None, None], places)[0, 0]
        return (front & inside)[0] & (d > 0) & ((there - z).abs() < HIDDEN * z)
