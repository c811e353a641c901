# SPDX-License-Identifier: Apache-2.0
"""The slot, the thread behind it, and the counters."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from dvps_ros.ros.health import Health, scale_status
from dvps_ros.ros.worker import LatestSlot, Throttle, Worker
from dvps_ros.types import ScaleEstimate, ScaleHealth


def test_the_newest_item_wins() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(n) for n in (1, 2, 3)] == [False, True, True]
    assert slot.take() == 3
    assert slot.put(4) is False
    assert slot.clear() is True and slot.clear() is False
    slot.close()
    assert slot.take() is None


def test_the_worker_outlives_errors_and_stops() -> None:
    slot: LatestSlot[int] = LatestSlot()
    done, errors = threading.Event(), []

    def handle(n: int) -> None:
        if n == 1:
            raise ValueError("one")
        done.set()

    def on_error(n: int, error: Exception) -> None:
        errors.append((n, str(error)))
        slot.put(2)

    worker = Worker(slot, handle, on_error)
    slot.put(1)
    assert done.wait(5) and errors == [(1, "one")]
    assert worker.stop()


def test_stop_says_when_the_work_hangs() -> None:
    slot: LatestSlot[int] = LatestSlot()
    gate, begun = threading.Event(), threading.Event()
    worker = Worker(slot, lambda n: begun.set() or gate.wait(5) and None, lambda n, error: None)
    slot.put(1)
    assert begun.wait(5)
    assert worker.stop(timeout_s=0.05) is False
    gate.set()
    assert worker.stop() is True


def test_throttle() -> None:
    throttle = Throttle(period_s=1000)
    assert [throttle.ready(k) for k in "aab"] == [True, False, True]


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_health_by_hand() -> None:
    clock = Clock()
    health = Health(clock)
    for n in range(11):
        clock.now_s = 100.0 + 0.1 * n
        health.received()
        health.processed(work_ms=10.0 + n, latency_ms=None)
    health.count("dropped", 3)
    health.refused("image", "image is empty")
    health.refused("image", "image is empty")
    health.refused("camera_info", "not calibrated")
    figures = health.summary()
    assert figures["received"] == figures["processed"] == "11"
    assert (figures["dropped"], figures["stale"], figures["refused"]) == ("3", "0", "3")
    assert (figures["refused: image"], figures["refused: camera_info"]) == ("2", "1")
    assert figures["input_rate_hz"] == figures["output_rate_hz"] == "10.00"
    assert figures["processing_p50_ms"] == "15.0" and "latency_p50_ms" not in figures
    assert health.recent_trouble() == "not calibrated"
    clock.now_s = 110.0
    assert health.recent_trouble() is None
    assert health.silence_s() == pytest.approx(9.0)
    assert health.summary()["output_rate_hz"] == "0.00"  # the stream has stopped


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (ScaleHealth.OFF, DiagnosticStatus.OK),
        (ScaleHealth.STARTING, DiagnosticStatus.WARN),
        (ScaleHealth.OK, DiagnosticStatus.OK),
        (ScaleHealth.STALE, DiagnosticStatus.WARN),
    ],
)
def test_scale_status(state: ScaleHealth, level: bytes) -> None:
    plane = np.array([0, 1, 0, -1.5])
    status = scale_status("scale", ScaleEstimate(1.0, 0.1, state, plane, 0.5))
    assert status.level == level
    assert {v.key: v.value for v in status.values}["camera_height_m"] == "1.500"
