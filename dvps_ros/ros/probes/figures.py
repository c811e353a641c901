# SPDX-License-Identifier: Apache-2.0
"""Figures of a run of the ROS 2 graph, by the names and formulas of NVIDIA's ros2_benchmark, and its search.

Names and formulas are those of its ``BasicPerformanceMetrics`` and ``ResourceMetrics``. Mind
three of them: frame rates divide n frames by the time between the first and the last (n - 1 intervals);
jitter is the change from one interval between outputs to the next; missed are frames sent and never received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_LOSS = 0.05
"""Share of frames at which a rate no longer counts as sustained."""
LEAST_PLAYBACK = 0.95
"""Share of the asked rate that must really have been sent, else the run says nothing about it."""

Figures = dict[str, float | None]


def performance(sent_ns: Sequence[int], received_ns: Mapping[int, int]) -> Figures:
    """Rates, losses, latency and jitter.

    Args:
        sent_ns: camera stamp of each frame, in order: when it was sent.
        received_ns: camera stamp of a frame -> when the last of its outputs was received, on the same clock.

    Returns:
        None where there are too few frames: one received for latency, two for a rate, three for jitter.

    Raises:
        ValueError: something was received that was not sent.
    """
    strange = set(received_ns) - set(sent_ns)
    if strange:
        raise ValueError(f"frames were received that were not sent: stamps {sorted(strange)[:3]}")
    latency_ms = np.array([(received_ns[s] - s) * 1e-6 for s in sent_ns if s in received_ns])
    arrivals_ms = np.sort(np.array([t - sent_ns[0] for t in received_ns.values()], np.float64)) * 1e-6
    jitter_ms = np.abs(np.diff(arrivals_ms, 2))
    sent_ms = (sent_ns[-1] - sent_ns[0]) * 1e-6 if sent_ns else 0.0
    received_ms = float(arrivals_ms[-1] - arrivals_ms[0]) if arrivals_ms.size else 0.0
    return {
        "Delta between First & Last Received Frames (ms)": received_ms if arrivals_ms.size else None,
        "Mean Playback Frame Rate (fps)": 1e3 * len(sent_ns) / sent_ms if sent_ms > 0 else None,
        "Mean Frame Rate (fps)": 1e3 * arrivals_ms.size / received_ms if received_ms > 0 else None,
        "# of Missed Frames": len(sent_ns) - len(received_ns),
        "# of Frames Sent": len(sent_ns),
        "First Sent to First Received Latency (ms)": _at(arrivals_ms, 0),
        "Last Sent to Last Received Latency (ms)": (
            float(arrivals_ms[-1]) - sent_ms if arrivals_ms.size else None
        ),
        "First Frame End-to-end Latency (ms)": _at(latency_ms, 0),
        "Last Frame End-to-end Latency (ms)": _at(latency_ms, -1),
        **statistics_of("End-to-End Latency (ms)", latency_ms, ("Max.", "Min.", "Mean")),
        **statistics_of("Frame-to-Frame Jitter (ms)", jitter_ms, ("Max.", "Min.", "Mean")),
        "Frame-to-Frame Jitter Std. Deviation (ms)": float(jitter_ms.std()) if jitter_ms.size else None,
        # Beyond ros2_benchmark, which has no quantiles.
        "Median End-to-End Latency (ms)": _quantile(latency_ms, 50),
        "99th Percentile End-to-End Latency (ms)": _quantile(latency_ms, 99),
    }


_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {"Max.": np.max, "Min.": np.min, "Mean": np.mean}


def statistics_of(name: str, values: Sequence[float] | np.ndarray, kinds: Sequence[str]) -> Figures:
    """``Max.``, ``Min.`` or ``Mean`` of the values by name; None without values."""
    array = np.asarray(values, np.float64)
    return {f"{k} {name}": float(_STATISTICS[k](array)) if array.size else None for k in kinds}


def _at(values: np.ndarray, index: int) -> float | None:
    return float(values[index]) if values.size else None


def _quantile(values: np.ndarray, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values.size else None


@dataclass(frozen=True)
class Probe:
    """One run of the search."""

    rate_hz: float
    played_hz: float
    """What was really sent."""
    sent: int
    missed: int

    @property
    def loss(self) -> float:
        return self.missed / self.sent

    @property
    def sustained(self) -> bool:
        """Less than 5 % lost, of frames that were really sent at this rate."""
        return self.loss < LARGEST_LOSS and self.played_hz >= LEAST_PLAYBACK * self.rate_hz

    @classmethod
    def of(cls, rate_hz: float, figures: Figures) -> Probe:
        """From the figures of a run at this rate."""
        sent, missed = figures["# of Frames Sent"], figures["# of Missed Frames"]
        assert sent is not None and missed is not None
        return cls(rate_hz, figures["Mean Playback Frame Rate (fps)"] or 0.0, int(sent), int(missed))


def peak_rate(
    probe: Callable[[float], Probe], *, lower_hz: float, upper_hz: float, width_hz: float, step_hz: float
) -> tuple[float | None, list[Probe]]:
    """The highest rate that is sustained: binary search, then steps upwards (as ros2_benchmark does).

    The steps repair a probe of the binary search that failed by chance. Unlike there, the lower bound is
    probed too.

    Args:
        width_hz: the binary search ends when its interval is not wider.
        step_hz: of the steps upwards; no rate above ``upper_hz`` is probed.

    Returns:
        The rate, None when not even ``lower_hz`` is sustained; and all probes in order.
    """
    probes: list[Probe] = []

    def sustained(rate_hz: float) -> bool:
        probes.append(probe(rate_hz))
        return probes[-1].sustained

    if not sustained(lower_hz):
        return None, probes
    low_hz, high_hz = lower_hz, upper_hz
    while high_hz - low_hz > width_hz:
        middle_hz = (low_hz + high_hz) / 2
        if sustained(middle_hz):
            low_hz = middle_hz
        else:
            high_hz = middle_hz
    while low_hz + step_hz <= upper_hz and sustained(low_hz + step_hz):
        low_hz += step_hz
    return low_hz, probes
