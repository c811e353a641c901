# SPDX-License-Identifier: Apache-2.0
"""The bench of the graph: maths by hand, the search on a responder of known capacity, one real short run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import cv2
import pytest
from tiny_model import paint

from dvps_ros.bench import ros_graph
from dvps_ros.bench.load import Gpu, LoadSampler
from dvps_ros.cli.bench import command
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.ros.probes.figures import Probe, peak_rate, performance
from dvps_ros.runtime.machine import peak_rss_mib
from dvps_ros.types import CameraModel

MS = 1_000_000
T0 = 1_700_000_000 * 10**9


def test_figures_worked_by_hand() -> None:
    sent = [T0, T0 + 100 * MS, T0 + 200 * MS, T0 + 300 * MS]
    received = {T0 + 300 * MS: T0 + 350 * MS, T0: T0 + 40 * MS, T0 + 100 * MS: T0 + 160 * MS}
    figures = performance(sent, received)
    # Outputs come at 40, 160 and 350 ms: intervals of 120 and 190 ms.
    assert figures == pytest.approx(
        {
            "Delta between First & Last Received Frames (ms)": 310,
            "Mean Playback Frame Rate (fps)": 4 / 0.3,
            "Mean Frame Rate (fps)": 3 / 0.31,
            "# of Missed Frames": 1,
            "# of Frames Sent": 4,
            "First Sent to First Received Latency (ms)": 40,
            "Last Sent to Last Received Latency (ms)": 50,
            "First Frame End-to-end Latency (ms)": 40,
            "Last Frame End-to-end Latency (ms)": 50,
            "Max. End-to-End Latency (ms)": 60,
            "Min. End-to-End Latency (ms)": 40,
            "Mean End-to-End Latency (ms)": 50,
            "Max. Frame-to-Frame Jitter (ms)": 70,
            "Min. Frame-to-Frame Jitter (ms)": 70,
            "Mean Frame-to-Frame Jitter (ms)": 70,
            "Frame-to-Frame Jitter Std. Deviation (ms)": 0,
            "Median End-to-End Latency (ms)": 50,
            "99th Percentile End-to-End Latency (ms)": 59.8,
        }
    )


def test_an_even_stream_has_no_jitter() -> None:
    sent = [T0 + i * 50 * MS for i in range(5)]
    figures = performance(sent, {s: s + 30 * MS for s in sent})
    assert figures["Max. Frame-to-Frame Jitter (ms)"] == 0 and figures["# of Missed Frames"] == 0
    assert figures["Mean End-to-End Latency (ms)"] == 30


def test_nothing_received_has_no_figures_but_its_losses() -> None:
    figures = performance([T0, T0 + MS], {})
    known = {name: value for name, value in figures.items() if value is not None}
    assert known == {
        "Mean Playback Frame Rate (fps)": 2000,
        "# of Missed Frames": 2,
        "# of Frames Sent": 2,
    }


def test_what_was_not_sent_cannot_be_received() -> None:
    with pytest.raises(ValueError, match="not sent"):
        performance([T0], {T0 + 1: T0 + 2})


class Responder:
    """Takes the newest frame whenever it is free: what comes faster than its capacity is lost."""

    def __init__(self, capacity_hz: float, *, player_hz: float = 1e9, unlucky: int | None = None) -> None:
        self.capacity_hz, self.player_hz, self.unlucky = capacity_hz, player_hz, unlucky
        self.asked_hz: list[float] = []

    def __call__(self, rate_hz: float) -> Probe:
        self.asked_hz.append(rate_hz)
        played_hz = min(rate_hz, self.player_hz)
        missed = round(1000 * max(0.0, 1 - self.capacity_hz / played_hz))
        if len(self.asked_hz) - 1 == self.unlucky:
            missed = 500
        return Probe(rate_hz, played_hz, 1000, missed)


BOUNDS = {"lower_hz": 4.0, "upper_hz": 120.0, "width_hz": 2.0, "step_hz": 1.0}


@pytest.mark.parametrize("capacity_hz", [5.0, 37.3, 61.9, 110.0])
def test_search_finds_the_capacity(capacity_hz: float) -> None:
    responder = Responder(capacity_hz)
    peak_hz, probes = peak_rate(responder, **BOUNDS)
    assert peak_hz is not None
    # At r Hz the share 1 - capacity/r is lost: 5 % at capacity / 0.95.
    assert peak_hz < capacity_hz / 0.95 <= peak_hz + 1.05
    assert len(probes) < 12 and [p.rate_hz for p in probes] == responder.asked_hz
    assert max(p.rate_hz for p in probes if p.sustained) == peak_hz


def test_search_recovers_from_a_probe_that_failed_by_chance() -> None:
    peak_hz, probes = peak_rate(Responder(80.0, unlucky=1), **BOUNDS)
    assert not probes[1].sustained and probes[1].rate_hz == 62
    assert peak_hz is not None and peak_hz < 80 / 0.95 <= peak_hz + 1.05


def test_search_knows_its_bounds() -> None:
    assert peak_rate(Responder(1.0), **BOUNDS)[0] is None
    peak_hz, probes = peak_rate(Responder(1000.0), **BOUNDS)
    assert peak_hz is not None and 119 < peak_hz <= 120 and max(p.rate_hz for p in probes) <= 120


def test_a_player_that_is_too_slow_sustains_nothing() -> None:
    peak_hz, _ = peak_rate(Responder(1000.0, player_hz=50.0), **BOUNDS)
    assert peak_hz is not None and peak_hz <= 50 / 0.95 < peak_hz + 1


def test_five_percent_is_too_much() -> None:
    assert not Probe(10, 10, 100, 5).sustained and Probe(10, 10, 100, 4).sustained


def test_load_of_a_process() -> None:
    with LoadSampler(os.getpid(), Gpu(), interval_s=0.02) as load:
        while len(load.node_cpu) < 3:
            sum(range(100_000))
    assert max(load.node_cpu) > 1 and all(0 <= v <= 100 for v in load.overall_cpu)
    assert all(10 < v <= peak_rss_mib() + 1 for v in load.node_memory_mib)


def test_gpu_use(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3 << 30, total=12 << 30),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=40),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert Gpu().sample() == (40.0, 25.0)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpu().sample() is None and "nvidia-ml-py" in Gpu().missing


def test_bad_options_are_refused(tmp_path: Path) -> None:
    for arguments, sentence in (
        (["--rates", "10,x"], "expected rates in Hz"),
        (["--rates", "-1"], "expected rates in Hz"),
        (["--size", "512"], "expected HxW"),
        (["--lower", "50", "--upper", "40"], "expected less than --upper 40"),
    ):
        with pytest.raises(click.BadParameter, match=sentence):
            call(*arguments, "--out", tmp_path)
    other = tmp_path / "other.json"
    other.write_text('{"runs": {}}')
    with pytest.raises(InputError, match="expected what dvps bench graph wrote"):
        call("--plot", other)


def call(*arguments: object) -> None:
    command.main(["graph", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def own_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of four images."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), paint(64, 128, car_x=8 + 2 * i)[..., ::-1])
    return folder


@pytest.mark.usefixtures("own_environment")
def test_a_short_run_of_the_real_graph(
    drive: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("dvps_ros.msg", reason="needs the built messages")
    from dvps_ros.ros.probes.playback import frame_outputs

    out = tmp_path / "out"
    options = ["--input", drive, "--fov", 80, "--size", "64x128", "--model", tiny_model, "--rates", "5,8"]
    options += ["--frames-in-flight", 2]
    call(*options, "--lower", 10, "--upper", 12, "--duration", 1.2, "--out", out)
    report = json.loads((out / "graph.json").read_text())
    assert report["topics"] == list(frame_outputs()) and report["config"]["buffer_frames"] == 4
    assert report["config"]["frames_in_flight"] == 2
    assert {p["sent"] for p in report["search"]} == {20}
    assert report["search"][0]["rate_hz"] == 10
    for name, rate, count in (("5.0fps", 5, 6), ("8.0fps", 8, 10)):
        run = report["runs"][name]
        figures, latency_ms = run["figures"], run["latency_ms"]
        received = [v for v in latency_ms if v is not None]
        assert figures["# of Frames Sent"] == count == len(latency_ms) == len(run["sent_s"])
        assert figures["# of Missed Frames"] == count - len(received)
        assert len(received) > count / 2 and all(0 < v < 5000 for v in received)
        assert max(received) == pytest.approx(figures["Max. End-to-End Latency (ms)"])
        assert all(b - a > 0.5 / rate for a, b in zip(run["sent_s"], run["sent_s"][1:], strict=False)), (
            "nothing is sent in a burst"
        )
        assert (
            figures["Max. Node Memory (MiB)"] > 30
            and figures["Mean Node CPU Utilization (% of one processor)"] > 0
        )
    assert ("peak" in report["runs"]) == (report["peak_rate_hz"] is not None)
    printed = capsys.readouterr().out
    (out / "graph.png").unlink()
    call("--plot", out / "graph.json")
    assert ros_graph.table(report) in printed and ros_graph.table(report) in capsys.readouterr().out
    assert cv2.imread(str(out / "graph.png")).std() > 5, "something is drawn"


def test_serialised_messages_get_and_give_their_stamps() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("dvps_ros.msg", reason="needs the built messages")
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header
    from visualization_msgs.msg import MarkerArray

    from dvps_ros.labels import CITYSCAPES
    from dvps_ros.ros import convert
    from dvps_ros.ros.probes.playback import stamp_of, stamped

    image = paint(8, 16, car_x=4)
    header = Header(frame_id="camera")
    again = deserialize_message(
        stamped(serialize_message(convert.rgb_to_image(image, header)), T0 + 7), Image
    )
    assert convert.stamp_to_ns(again.header.stamp) == T0 + 7 and again.header.frame_id == "camera"
    assert (convert.image_to_rgb(again) == image).all()
    camera = CameraModel.from_fov(16, 8, 80.0)
    info = serialize_message(convert.camera_to_info(camera, header))
    assert stamp_of(CameraInfo, stamped(info, T0 + 9)) == T0 + 9
    late = Header(stamp=convert.ns_to_stamp(T0 + 11))
    assert (
        stamp_of(MarkerArray, serialize_message(convert.instances_to_markers([], CITYSCAPES, late)))
        == T0 + 11
    )


def test_unknown_outputs_are_refused() -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("dvps_ros.msg", reason="needs the built messages")
    from dvps_ros.ros.probes.playback import Playback
    from dvps_ros.types import Frame

    frame = Frame(paint(64, 128), 1, CameraModel.from_fov(128, 64, 80.0))
    with pytest.raises(ConfigError, match=r"topics: expected some of semantic, .*, got depht"):
        Playback([frame], ["depht"], node="/dvps", image="/i", camera_info="/c", domain=1)
