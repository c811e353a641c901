# SPDX-License-Identifier: Apache-2.0
"""What becomes of every frame, and how the node is: counters, latency, and the words for /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from dvps_ros.types import ScaleEstimate, ScaleHealth

_WINDOW = 300
"""Frames over which latency is summed up."""
_RATE_WINDOW_S = 5.0
"""Time over which rates are measured and a trouble is called recent, seconds."""
_FEW = 10
"""Fewer images say nothing about their share."""
OTHER_CLOCK_S = 10.0
"""An age beyond this, or below zero, is no age: the stamp is of another clock, as of a bag without /clock."""
_COUNTERS = (
    "received",
    "processed",
    "dropped",
    "stale",
    "unwatched",
    "bad_camera_info",
    "unexpected_errors",
)
"""Those that are told even when they are 0."""


def believable(age_s: float) -> bool:
    """Whether a stamp can be so old."""
    return 0 <= age_s < OTHER_CLOCK_S


class Health:
    """Counts frames. Thread-safe; times are those of ``clock``, in seconds.

    Every received frame ends in exactly one of: processed, dropped (a newer one came before its turn),
    refused (with a reason), stale (not newer than the last one) or unwatched (nobody listens).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._started = clock()
        self._last_image: float | None = None
        self._last_trouble: tuple[float, str] | None = None
        self._received: deque[float] = deque(maxlen=1000)
        self._processed: deque[float] = deque(maxlen=1000)
        self._informed: deque[float] = deque(maxlen=1000)
        self._dropped: deque[float] = deque(maxlen=1000)
        self._latency_ms: deque[float] = deque(maxlen=_WINDOW)
        self._work_ms: deque[float] = deque(maxlen=_WINDOW)

    def count(self, event: str, n: int = 1) -> None:
        """Add to a counter: dropped, stale, unwatched, bad_camera_info (messages, not images), or a
        node's own."""
        with self._lock:
            self.counts[event] += n
            if event == "dropped":
                self._dropped.extend([self._clock()] * n)

    def informed(self) -> None:
        """A camera_info message came in."""
        with self._lock:
            self._informed.append(self._clock())

    def received(self) -> None:
        """An image message came in."""
        with self._lock:
            self.counts["received"] += 1
            self._last_image = self._clock()
            self._received.append(self._last_image)

    def refused(self, reason: str, sentence: str) -> None:
        """An image could not be used."""
        with self._lock:
            self.refusals[reason] += 1
        self.trouble(sentence)

    def trouble(self, sentence: str) -> None:
        """Something a user should know of; shown as a warning for some seconds."""
        with self._lock:
            self._last_trouble = (self._clock(), sentence)

    def processed(self, *, work_ms: float, latency_ms: float) -> None:
        """A frame was published.

        Args:
            work_ms: from the receipt of the image to the last output.
            latency_ms: from its stamp to the last output; left out where it is not believable.
        """
        with self._lock:
            self.counts["processed"] += 1
            self._processed.append(self._clock())
            self._work_ms.append(work_ms)
            if believable(latency_ms * 1e-3):
                self._latency_ms.append(latency_ms)

    def silence_s(self) -> float:
        """Time since the last image, or since the start."""
        with self._lock:
            return self._clock() - (self._started if self._last_image is None else self._last_image)

    def recent_trouble(self) -> str | None:
        """The last trouble, while it is recent."""
        with self._lock:
            if self._last_trouble and self._clock() - self._last_trouble[0] < _RATE_WINDOW_S:
                return self._last_trouble[1]
        return None

    def summary(self) -> dict[str, str]:
        """All figures, as text."""
        with self._lock:
            figures: dict[str, Any] = {name: self.counts[name] for name in _COUNTERS}
            figures["refused"] = sum(self.refusals.values())
            figures |= {f"refused: {reason}": n for reason, n in sorted(self.refusals.items())}
            figures["input_rate_hz"] = f"{self._rate(self._received):.2f}"
            figures["output_rate_hz"] = f"{self._rate(self._processed):.2f}"
            for name, samples in (("latency", self._latency_ms), ("processing", self._work_ms)):
                if samples:
                    p50, p99 = np.percentile(samples, (50, 99))
                    figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = f"{p50:.1f}", f"{p99:.1f}"
        return {k: str(v) for k, v in figures.items()}

    def rates_hz(self) -> tuple[float, float, float]:
        """Of camera_info, of images that came in and of those that were processed; 0 while there are few."""
        with self._lock:
            return self._rate(self._informed), self._rate(self._received), self._rate(self._processed)

    def recently_dropped(self) -> float:
        """Share of the last seconds' images that gave way to newer ones; 0 while there are few."""
        with self._lock:
            since = self._clock() - _RATE_WINDOW_S
            received, dropped = (sum(t >= since for t in times) for times in (self._received, self._dropped))
            return dropped / received if received >= _FEW else 0.0

    def _rate(self, times: deque[float]) -> float:
        now = self._clock()
        recent = [t for t in times if now - t <= _RATE_WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0


def status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    """One line of /diagnostics."""
    pairs = [KeyValue(key=k, value=v) for k, v in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


_SCALE_WORDS = {
    ScaleHealth.OFF: (DiagnosticStatus.OK, "off: no camera height is given, depth is the network's own"),
    ScaleHealth.STARTING: (DiagnosticStatus.WARN, "starting: not enough road seen yet"),
    ScaleHealth.OK: (DiagnosticStatus.OK, "metric"),
    ScaleHealth.STALE: (DiagnosticStatus.WARN, "stale: no road for a while, the last scale is held"),
}


def scale_status(name: str, scale: ScaleEstimate | None) -> DiagnosticStatus:
    """The metric scale as a line of /diagnostics."""
    if scale is None:
        return status(name, DiagnosticStatus.STALE, "no frame yet", {})
    level, message = _SCALE_WORDS[scale.health]
    values = {
        "scale": f"{scale.scale:.4f}",
        "variance": f"{scale.variance:.6f}",
        "camera_height_m": f"{-scale.plane[3]:.3f}",
        "inlier_ratio": f"{scale.inlier_ratio:.3f}",
    }
    return status(name, level, message, values)
