# SPDX-License-Identifier: Apache-2.0
"""The windows of some drives, as arrays to draw batches from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dvps_ros.data.world.driver import lookahead_m
from dvps_ros.errors import InputError
from dvps_ros.networks.steering import SteeringHeadConfig
from dvps_ros.runtime.window import window_slots
from dvps_ros.training.steering.latents import TokenTrack

LOG_GAP_S = 0.5
"""Windows reach back over no longer time without a frame."""


@dataclass(frozen=True)
class Windows:
    """Every window of some tracks, as arrays to draw from."""

    latent: np.ndarray
    """float16 [N,T,C], all tracks after each other."""
    index: np.ndarray
    """int64 [W,F]: frame of each slot, -1 none."""
    age_s: np.ndarray
    """float32 [W,F]."""
    curvature: np.ndarray
    """float32 [W], 1/m."""
    lookahead_m: np.ndarray
    """float32 [W]: how far ahead the driver looks; 10 where the speed is not known."""
    wheelbase_m: np.ndarray
    """float32 [W], of the vehicle of the window's track."""

    @classmethod
    def of(cls, tracks: Sequence[TokenTrack], head: SteeringHeadConfig) -> Windows:
        """One window for each frame whose angle is known.

        Raises:
            InputError: tokens of a track are not finite.
        """
        index, ages, curvature, ahead, wheelbase = [], [], [], [], []
        first = 0
        for track in tracks:
            _check_finite(track)
            begin = 0
            for i in range(len(track.stamps_ns)):
                if i and track.stamps_ns[i] - track.stamps_ns[i - 1] > LOG_GAP_S * 1e9:
                    begin = i
                if math.isnan(track.steering_rad[i]):
                    continue
                oldest = max(begin, i - 8 * head.frames)
                slot, age = window_slots(track.stamps_ns[oldest : i + 1], head.frames, head.period_s)
                index.append(np.where(slot < 0, -1, slot + first + oldest))
                ages.append(age)
                curvature.append(math.tan(float(track.steering_rad[i])) / track.wheelbase_m)
                wheelbase.append(track.wheelbase_m)
                speed = float(track.speed_mps[i])
                ahead.append(10.0 if math.isnan(speed) else lookahead_m(speed))
            first += len(track.stamps_ns)
        latent = np.concatenate([t.latent for t in tracks])
        return cls(
            latent,
            np.array(index),
            np.array(ages, np.float32),
            np.array(curvature, np.float32),
            np.array(ahead, np.float32),
            np.array(wheelbase, np.float32),
        )

    def __len__(self) -> int:
        return len(self.curvature)

    def angle_rad(self, curvature: np.ndarray) -> np.ndarray:
        """Road-wheel angles, float32 [W], that curvatures of every window, float32 [W], 1/m, ask for."""
        return np.arctan(self.wheelbase_m * curvature)

    def inputs(self, rows: np.ndarray, slots: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Tokens float32 [B,F,T,C] and ages [B,F] of windows; ``slots`` int64 [B,K] takes only those."""
        index, age = self.index[rows], self.age_s[rows]
        if slots is not None:
            index, age = np.take_along_axis(index, slots, 1), np.take_along_axis(age, slots, 1)
        latent = self.latent[np.maximum(index, 0)].astype(np.float32)
        latent[index < 0] = 0.0
        return torch.from_numpy(latent), torch.from_numpy(age)


def _check_finite(track: TokenTrack) -> None:
    bad = np.flatnonzero(~np.isfinite(track.latent).all((1, 2)))
    if len(bad):
        raise InputError(
            f"{track.name}: expected finite tokens, got others in {len(bad)} of {len(track.latent)} frames, "
            f"first in frame {bad[0]}; leave the drive or log out, or delete its tokens to make them again"
        )
