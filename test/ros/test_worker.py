# SPDX-License-Identifier: Apache-2.0
"""The slot, the thread behind it, and the counters."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

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


class Tool:
    closed = False

    def close(self) -> None:
        self.closed = True


class Work:
    """A worker whose callbacks are written down."""

    def __init__(
        self, open_tool: Callable[[], Tool], handle: Callable[[Tool, int], Any], overlap: bool = False
    ) -> None:
        self.slot: LatestSlot[int] = LatestSlot()
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.worker = Worker(
            self.slot,
            open_tool,
            handle,
            on_ready=lambda tool: self.events.put(("ready", tool)),
            on_failure=lambda error: self.events.put(("failure", str(error))),
            on_error=lambda n, error: self.events.put(("error", (n, str(error)))),
            overlap=overlap,
        )

    def next(self) -> tuple[str, Any]:
        return self.events.get(timeout=10)


def test_the_worker_outlives_errors_and_closes_its_tool() -> None:
    handled: queue.Queue[int] = queue.Queue()

    def handle(tool: Tool, n: int) -> None:
        if n == 1:
            raise ValueError("one")
        handled.put(n)

    tool = Tool()
    work = Work(lambda: tool, handle)
    assert work.next() == ("ready", tool)
    work.slot.put(1)
    assert work.next() == ("error", (1, "one"))
    work.slot.put(2)
    assert handled.get(timeout=10) == 2
    assert not tool.closed
    assert work.worker.stop() and tool.closed


def test_what_cannot_be_opened_is_told() -> None:
    def open_tool() -> Tool:
        raise ValueError("no tool")

    work = Work(open_tool, lambda tool, n: None)
    assert work.next() == ("failure", "no tool")
    assert work.worker.stop()


def test_an_error_of_a_callback_is_told_and_the_tool_closed() -> None:
    tool, told = Tool(), queue.Queue()

    def on_ready(tool: Tool) -> None:
        raise TypeError("of the callback")

    slot: LatestSlot[int] = LatestSlot()
    worker = Worker(
        slot,
        lambda: tool,
        lambda tool, n: None,
        on_ready=on_ready,
        on_failure=told.put,
        on_error=lambda n, error: None,
    )
    assert repr(told.get(timeout=10)) == "TypeError('of the callback')"
    assert worker.stop() and tool.closed


def test_an_error_while_stopping_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Jammed(Tool):
        def close(self) -> None:
            raise TypeError("jammed")

    work = Work(Jammed, lambda tool, n: None)
    assert work.next()[0] == "ready"
    assert work.worker.stop() and work.events.empty()
    assert "TypeError: jammed" in caplog.text and "Traceback" in caplog.text


def test_stop_while_the_tool_is_being_opened() -> None:
    gate, tool = threading.Event(), Tool()
    work = Work(lambda: gate.wait(10) and tool, lambda tool, n: None)
    work.slot.put(1)
    assert work.worker.stop(timeout_s=0.05) is False
    gate.set()
    assert work.worker.stop() is True
    assert tool.closed and work.events.empty()  # nobody hears of a worker that was stopped


class Halves:
    """Both halves of the handling of numbers, each held up until the test lets it go."""

    def __init__(self) -> None:
        self.log: queue.Queue[str] = queue.Queue()
        self.gates = {half: threading.Semaphore(0) for half in ("first", "second")}

    def __call__(self, tool: Tool, n: int) -> Callable[[], None]:
        self._half("first", n)
        return lambda: self._half("second", n)

    def _half(self, half: str, n: int) -> None:
        self.log.put(f"{half} {n}")
        assert self.gates[half].acquire(timeout=10)

    def begun(self, count: int) -> list[str]:
        return [self.log.get(timeout=10) for _ in range(count)]


def test_the_second_half_runs_beside_the_first_half_of_the_next_and_never_a_third() -> None:
    halves = Halves()
    work = Work(Tool, halves, overlap=True)
    work.slot.put(1)
    assert halves.begun(1) == ["first 1"]
    work.slot.put(2)
    halves.gates["first"].release()
    assert sorted(halves.begun(2)) == ["first 2", "second 1"]  # both at once: neither gate is open
    work.slot.put(3)
    halves.gates["first"].release()
    assert not work.slot.drain(0.1) and halves.log.empty()  # 2 waits for 1, and 3 in the slot for 2
    assert work.slot.put(4) is True  # the newest wins meanwhile
    halves.gates["second"].release()
    assert sorted(halves.begun(2)) == ["first 4", "second 2"]
    for gate in halves.gates.values():
        gate.release(2)
    assert halves.begun(1) == ["second 4"]
    assert work.slot.drain(10)
    assert work.worker.stop()


def test_without_overlap_a_frame_is_finished_before_the_next() -> None:
    halves = Halves()
    work = Work(Tool, halves)
    work.slot.put(1)
    assert halves.begun(1) == ["first 1"]
    work.slot.put(2)
    halves.gates["first"].release()
    assert halves.begun(1) == ["second 1"]
    assert not work.slot.drain(0.05) and halves.log.empty()
    halves.gates["second"].release()
    assert halves.begun(1) == ["first 2"]
    for gate in halves.gates.values():
        gate.release()
    assert halves.begun(1) == ["second 2"] and work.worker.stop()


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_in_either_half_is_told_once_and_the_others_go_on(overlap: bool) -> None:
    def handle(tool: Tool, n: int) -> Callable[[], None]:
        if n == 1:
            raise ValueError("first half")

        def finish() -> None:
            if n == 2:
                raise ValueError("second half")
            done.put(n)

        return finish

    done: queue.Queue[int] = queue.Queue()
    work = Work(Tool, handle, overlap=overlap)
    assert work.next()[0] == "ready"
    for n in (1, 2, 3):
        work.slot.put(n)
        if n < 3:
            assert work.next() == ("error", (n, "first half" if n == 1 else "second half"))
    assert done.get(timeout=10) == 3
    assert work.worker.stop() and work.events.empty()


def test_stop_finishes_what_is_in_work_and_then_closes() -> None:
    halves, tool = Halves(), Tool()
    work = Work(lambda: tool, halves, overlap=True)
    work.slot.put(1)
    halves.begun(1)
    halves.gates["first"].release()
    assert halves.begun(1) == ["second 1"]
    assert work.worker.stop(timeout_s=0.05) is False and not tool.closed
    halves.gates["second"].release()
    assert work.worker.stop() and tool.closed and work.slot.drain(0)


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
        health.processed(work_ms=10.0 + n, latency_ms=1e9)
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
    for latency_ms in (-1.0, 20.0, 40.0, 10_000.0):  # the first and the last are of another clock
        clock.now_s += 0.1
        health.processed(work_ms=10.0, latency_ms=latency_ms)
    assert health.summary()["latency_p50_ms"] == "30.0"


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
