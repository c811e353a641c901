# SPDX-License-Identifier: Apache-2.0
"""What a steering head is set beside: the angle of some time ago, and a small CNN-LSTM on pixels.

And what is left to a head when the wheel is measured as well: :func:`fit_measured`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dvps_ros.errors import InputError
from dvps_ros.losses.steering import steering_losses
from dvps_ros.networks.steering import SteeringHeadConfig
from dvps_ros.training.steering.latents import TokenTrack
from dvps_ros.training.steering.windows import Windows

HEIGHT, WIDTH = 32, 64
SLOT_STEP = 2
"""The CNN-LSTM sees every so many slots of the head's window."""
CHECK_STEPS = 100


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 [N,H,W,3] images, at the size of the CNN-LSTM, uint8 [N,32,64,3]."""
    return np.stack([cv2.resize(i, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for i in images])


class CnnLstm(nn.Module):
    """Three convolutions see a frame, an LSTM takes the frames in order of time (as of Lechner et al.)."""

    def __init__(self, unit_per_m: float, width: int = 64) -> None:
        super().__init__()
        self._unit_per_m = unit_per_m
        self.see = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * (HEIGHT // 8) * (WIDTH // 8), width),
            nn.ReLU(),
        )
        self.remember = nn.LSTM(width, width, batch_first=True)
        self.say = nn.Linear(width, 1)

    def forward(self, images: Tensor, there: Tensor) -> Tensor:
        """Curvature at the newest frame, float32 [B], 1/m.

        Args:
            images: uint8 [B,F,32,64,3], slot 0 the newest.
            there: bool [B,F]: the slot holds a frame; else its image counts for nothing.
        """
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        seen = self.see(pixels).unflatten(0, images.shape[:2]) * there[..., None]
        states, _ = self.remember(seen.flip(1))
        return self._unit_per_m * self.say(states[:, -1])[:, 0]


def fit_cnn_lstm(
    learnt: Sequence[TokenTrack],
    kept: Sequence[TokenTrack],
    head: SteeringHeadConfig,
    *,
    steps: int,
    batch: int,
    bend_weight: float,
    seed: int,
) -> CnnLstm:
    """Train on the frames and with the loss of the head; what did best on ``kept`` is given back.

    Raises:
        InputError: a track has no thumbnails.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    windows, images = Windows.of(learnt, head), _images(learnt)
    aside = Windows.of(kept, head)
    network = CnnLstm(head.unit_per_m)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1, pct_start=0.1)
    best, best_error = copy.deepcopy(network.state_dict()), np.inf
    for step in range(1, steps + 1):
        rows = rng.integers(len(windows), size=batch)
        curvature = network.train()(*_inputs(windows, images, rows))
        squared, _ = steering_losses(
            curvature,
            torch.ones_like(curvature),
            torch.from_numpy(windows.curvature[rows]),
            torch.from_numpy(windows.lookahead_m[rows]),
            head.unit_per_m,
            bend_weight,
        )
        optimizer.zero_grad()
        squared.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % CHECK_STEPS == 0 or step == steps:
            error = float(np.mean((run_cnn_lstm(network, aside, kept) - aside.curvature) ** 2))
            if error < best_error:
                best, best_error = copy.deepcopy(network.state_dict()), error
    network.load_state_dict(best)
    return network.eval()


def run_cnn_lstm(network: CnnLstm, windows: Windows, tracks: Sequence[TokenTrack]) -> np.ndarray:
    """Curvature of every window of ``tracks``, float32 [W], 1/m.

    Raises:
        InputError: a track has no thumbnails.
    """
    images, network = _images(tracks), network.eval()
    with torch.inference_mode():
        parts = [
            network(*_inputs(windows, images, np.arange(first, min(first + 64, len(windows)))))
            for first in range(0, len(windows), 64)
        ]
    return torch.cat(parts).numpy()


def _images(tracks: Sequence[TokenTrack]) -> np.ndarray:
    for track in tracks:
        if track.thumbnails is None:
            raise InputError(f"{track.name}: expected thumbnails for the CNN-LSTM, got none")
    return np.concatenate([t.thumbnails for t in tracks])


def _inputs(windows: Windows, images: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    index = windows.index[rows, ::SLOT_STEP]
    return torch.from_numpy(images[np.maximum(index, 0)]), torch.from_numpy(index >= 0)


def angles_ago(track: TokenTrack, ago_s: float) -> np.ndarray:
    """For each frame with a known angle the newest one that is at least ``ago_s`` older; the first of the
    track where there is none."""
    known = ~np.isnan(track.steering_rad)
    stamps_ns, angles = track.stamps_ns[known], track.steering_rad[known]
    at = np.searchsorted(stamps_ns, stamps_ns - round(ago_s * 1e9), side="right") - 1
    return angles[np.maximum(at, 0)]


def measured_terms(truth: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is known of a track's frames when the wheel is measured with each image.

    Args:
        truth, head: true and predicted angle [N], rad.

    Returns:
        The true angle of the frame before [N] (the first frame has its own); and [N,2]: how far the head is
        from that, and how much the head has changed since that frame.
    """
    last, before = (np.concatenate((v[:1], v[:-1])) for v in (truth, head))
    return last, np.stack((head - last, head - before), 1)


def fit_measured(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Two weights, float64 [2]: the angle now is that of the frame before + terms @ weights.

    Least squares over tracks of (true, predicted) angles that the head has not learnt.
    """
    last, terms = (np.concatenate(v) for v in zip(*(measured_terms(*p) for p in pairs), strict=True))
    truth = np.concatenate([truth for truth, _ in pairs])
    return np.linalg.lstsq(terms.astype(np.float64), (truth - last).astype(np.float64), rcond=None)[0]
