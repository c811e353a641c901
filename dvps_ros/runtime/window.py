# SPDX-License-Identifier: Apache-2.0
"""The last frames of latent tokens, kept by time stamp."""

from __future__ import annotations

from collections import deque

import numpy as np

from dvps_ros.errors import InputError

NO_FRAME_S = -1.0
"""Age of a slot that holds no frame."""
JUMPED_BACK = "time jumped backwards"
KEPT_PER_PERIOD = 32
"""Frames that are kept of each period at most; of a faster source some are left out."""


def window_slots(stamps_ns: np.ndarray, frames: int, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Which frames stand in the slots of a window whose newest frame is the last one.

    Slot k is for the frame that is nearest to k periods old, if one is within half a period of that. So the
    window covers the same time at any frame rate, and a lost frame leaves a hole, not a shift.

    Args:
        stamps_ns: int64 [N], increasing.

    Returns:
        Index of each slot's frame, int64 [frames], -1 none; and its age before the newest frame in seconds,
        float32 [frames], :data:`NO_FRAME_S` none.
    """
    age = (stamps_ns[-1] - stamps_ns) * 1e-9 / period_s
    slot = np.floor(age + 0.5).astype(np.int64)
    index, ages = np.full(frames, -1), np.full(frames, NO_FRAME_S, np.float32)
    away = np.full(frames, np.inf)
    index[0], ages[0], away[0] = len(stamps_ns) - 1, 0.0, 0.0
    for i in np.flatnonzero(slot < frames):
        k = slot[i]
        if abs(age[i] - k) < away[k]:
            index[k], ages[k], away[k] = i, age[i] * period_s, abs(age[i] - k)
    return index, ages


class TokenWindow:
    """Collects frames of tokens and hands them out as the steering head takes them.

    Args:
        shape: tokens and channels of a frame.
        gap_s: a longer time between two frames empties the window.
    """

    def __init__(self, frames: int, period_s: float, shape: tuple[int, int], *, gap_s: float) -> None:
        self._frames, self._period_s, self._shape, self._gap_s = frames, period_s, shape, gap_s
        self._kept: deque[tuple[int, np.ndarray]] = deque()
        self._newest_ns: int | None = None
        self._least_step_ns = period_s * 1e9 / KEPT_PER_PERIOD

    def add(self, stamp_ns: int, tokens: np.ndarray) -> str | None:
        """Take the newest frame.

        Args:
            tokens: float32 [T,C].

        Returns:
            Why the window begins anew, if it does: :data:`JUMPED_BACK`, or a gap.

        Raises:
            InputError: another shape, a number that is not finite, or the stamp of the last frame again; the
                window is as it was.
        """
        if tokens.shape != self._shape:
            raise InputError(f"latent tokens: expected {list(self._shape)}, got {list(tokens.shape)}")
        if not np.isfinite(tokens).all():
            raise InputError("latent tokens: expected finite numbers, got NaN or infinity")
        reason = None
        if self._newest_ns is not None:
            step_s = (stamp_ns - self._newest_ns) * 1e-9
            if step_s == 0:
                raise InputError(f"latent tokens: stamp {stamp_ns} ns is that of the frame before")
            if step_s < 0:
                reason = JUMPED_BACK
            elif self._kept and step_s > self._gap_s:
                reason = f"gap of {step_s:.2f} s"
        if reason:
            self._kept.clear()
        if len(self._kept) > 1 and self._kept[-1][0] - self._kept[-2][0] < self._least_step_ns:
            self._kept.pop()
        self._kept.append((stamp_ns, np.array(tokens, np.float32)))
        self._newest_ns = stamp_ns
        oldest_ns = stamp_ns - round(self._frames * self._period_s * 1e9)
        while self._kept[0][0] < oldest_ns:
            self._kept.popleft()
        return reason

    def clear(self) -> None:
        """Forget all frames, but not the newest stamp: it is not taken again."""
        self._kept.clear()

    def slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens float32 [1,F,T,C], zeros where there is no frame, and ages float32 [1,F] in seconds."""
        stamps_ns = np.array([stamp for stamp, _ in self._kept], np.int64)
        index, age_s = window_slots(stamps_ns, self._frames, self._period_s)
        latent = np.zeros((1, self._frames, *self._shape), np.float32)
        for k in np.flatnonzero(index >= 0):
            latent[0, k] = self._kept[index[k]][1]
        return latent, age_s[None]
