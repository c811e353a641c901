# SPDX-License-Identifier: Apache-2.0
"""Player and recorder over real ROS topics, alone, around the perception node, and as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from ros_graph import Graph, TinyPipeline, maps_of, parameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import UInt64

from dvps_ros import msg as dvps_msg
from dvps_ros.data.calibration import camera_from_info
from dvps_ros.data.pixels import compressed_to_rgb
from dvps_ros.data.sources import open_source
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.ros import convert, qos
from dvps_ros.ros.bag import read_bag
from dvps_ros.ros.nodes.dvps import DvpsNode
from dvps_ros.ros.nodes.player import Player
from dvps_ros.ros.nodes.recorder import Recorder
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(32, 16, 90.0)
FRAMES = 8
DEEP = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=100, reliability=QoSReliabilityPolicy.RELIABLE)
"""Loses nothing on a busy machine, if the publisher's history is as deep."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images at 10 Hz, each different."""
    made = tmp_path / "images"
    made.mkdir()
    for n in range(FRAMES):
        cv2.imwrite(str(made / f"{n:03}.png"), picture(n)[..., ::-1])
    return made


def picture(n: int) -> np.ndarray:
    v, u = np.mgrid[0:16, 0:32]
    return np.stack([u * 8, v * 15, np.full_like(u, n * 20)], 2).astype(np.uint8)


def play(graph: Graph, folder: Path, remap: bool = False, **values: Any) -> Player:
    links = ("labels", "output/labels"), ("processed", "output/scale"), ("image", "input/image")
    rules = [f"{a}:={graph.namespace}/dvps/{b}" for a, b in links]
    rules.append(f"camera_info:={graph.namespace}/dvps/input/camera_info")
    arguments = ["--ros-args", *(x for rule in rules for x in ("-r", rule))] if remap else None
    for topic in ("image", "image/compressed", "camera_info"):
        values[f"qos_overrides.{graph.namespace}/{topic}.publisher.depth"] = 100
    return graph.add(
        Player(
            namespace=graph.namespace,
            cli_args=arguments,
            parameter_overrides=parameters(source=str(folder), fov_deg=90.0, **values),
        )
    )


def own_stamps(folder: Path) -> list[int]:
    return [frame.stamp_ns for frame in open_source(str(folder), fov_deg=90.0)]


def stamps(messages: list[Any]) -> list[int]:
    return [convert.stamp_to_ns(m.header.stamp) for m in messages]


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_what_the_player_sends(graph: Graph, folder: Path, transport: str) -> None:
    compressed = transport == "compressed"
    topic, kind = ("image/compressed", CompressedImage) if compressed else ("image", Image)
    images = graph.listen(kind, f"{graph.namespace}/{topic}", DEEP)
    infos = graph.listen(CameraInfo, f"{graph.namespace}/camera_info", DEEP)
    clock = graph.listen(Clock, "/clock", DEEP)
    player = play(graph, folder, rate_hz=50.0, image_transport=transport, clock=True, frames=4)
    graph.wait(lambda: player.done.done() and len(images + infos + clock) == 12, "four of each")
    assert player.done.result() is None
    assert stamps(images) == stamps(infos) == own_stamps(folder)[:4]
    assert [convert.stamp_to_ns(c.clock) for c in clock] == stamps(images)
    for n, message in enumerate(images):
        decoded = compressed_to_rgb(message.data) if compressed else convert.image_to_rgb(message)
        assert np.abs(decoded.astype(int) - picture(n)).mean() <= (8 if compressed else 0)
    assert camera_from_info(infos[0], rectified=False) == CAMERA
    assert images[0].header.frame_id == infos[0].header.frame_id == "camera_optical"


def test_the_player_keeps_the_sources_own_time(graph: Graph, folder: Path, tmp_path: Path) -> None:
    images = graph.listen(Image, f"{graph.namespace}/image", DEEP)
    player = play(graph, folder, report=str(tmp_path / "sent.json"))
    graph.wait(lambda: player.done.done() and len(images) == FRAMES, "the end")
    sent = [i["sent_ns"] for i in json.loads((tmp_path / "sent.json").read_text())["images"]]
    # Never faster than the source; on a busy machine the first image may be late, and the last.
    assert (sent[-1] - sent[0]) * 1e-9 >= 0.1 * (FRAMES - 1) - 0.2


def test_the_player_waits_for_listeners(graph: Graph, folder: Path) -> None:
    player = play(graph, folder, rate_hz=50.0)
    graph.spin(0.5)
    assert not player.done.done()
    images = graph.listen(Image, f"{graph.namespace}/image", DEEP)
    graph.wait(lambda: player.done.done() and len(images) == FRAMES, "the end")
    assert stamps(images) == own_stamps(folder)


def test_the_player_gives_up_waiting(graph: Graph, folder: Path) -> None:
    player = play(graph, folder, start_timeout_s=0.1)
    graph.wait(player.done.done, "the end")
    assert "nobody was ready in 0.1 s" in player.done.result()


def test_an_unexpected_error_of_the_source_ends_the_player_with_it(graph: Graph, folder: Path) -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise TypeError("of the source")

    player = play(graph, folder)
    player._source = Broken()
    graph.listen(Image, f"{graph.namespace}/image", DEEP)
    graph.wait(player.done.done, "the end")
    assert player.done.result() == "unexpected TypeError: of the source"


def test_loop_and_stamps_of_now(graph: Graph, folder: Path) -> None:
    images = graph.listen(Image, f"{graph.namespace}/image", DEEP)
    player = play(graph, folder, rate_hz=200.0, loop=True, frames=FRAMES + 3, stamps="now")
    before = time.time_ns()
    graph.wait(lambda: player.done.done() and len(images) == FRAMES + 3, "the second round")
    assert all(before - 1e9 < s < time.time_ns() for s in stamps(images))
    np.testing.assert_array_equal(convert.image_to_rgb(images[FRAMES + 1]), picture(1))


def test_the_next_round_begins_a_period_after_the_last_image(
    graph: Graph, folder: Path, tmp_path: Path
) -> None:
    for extra in sorted(folder.iterdir())[2:]:
        extra.unlink()
    graph.listen(Image, f"{graph.namespace}/image", DEEP)
    player = play(graph, folder, rate_hz=2.0, loop=True, frames=3, report=str(tmp_path / "sent.json"))
    graph.wait(player.done.done, "the second round")
    *_, last, again = (i["sent_ns"] for i in json.loads((tmp_path / "sent.json").read_text())["images"])
    assert (again - last) * 1e-9 > 0.25


def test_rate_zero_needs_an_answer(graph: Graph, folder: Path) -> None:
    player = play(graph, folder, rate_hz=0.0, subscribers=0)
    graph.wait(player.done.done, "the end")
    assert "remap processed" in player.done.result()


def test_as_fast_as_it_goes_without_a_drop(graph: Graph, folder: Path, tmp_path: Path) -> None:
    """Player, node and recorder together; the bag holds what the pipeline computed, frame by frame."""
    node = graph.add(
        DvpsNode(
            prepare=lambda config: lambda camera, progress: TinyPipeline(camera), namespace=graph.namespace
        )
    )
    node.start()
    topics = ",".join(f"{graph.namespace}/dvps/output/{n}" for n in ("semantic", "depth", "labels", "scale"))
    recorder = graph.add(
        Recorder(
            namespace=graph.namespace,
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"), topics=topics, frames=FRAMES, min_free_mib=0
            ),
        )
    )
    player = play(graph, folder, remap=True, rate_hz=0.0)
    graph.wait(lambda: player.done.done() and recorder.done.done(), "the end of the drive", 30)
    assert player.done.result() is None and recorder.done.result() is None
    counts = {k: node.health.counts[k] for k in ("received", "processed", "dropped", "stale", "unwatched")}
    assert counts == {"received": FRAMES, "processed": FRAMES, "dropped": 0, "stale": 0, "unwatched": 0}
    graph.remove(recorder)
    recorded: dict[str, list[Any]] = {}
    for topic, _, message in read_bag(tmp_path / "bag"):
        recorded.setdefault(topic.rpartition("/")[2], []).append(message)
    assert {n: len(m) for n, m in recorded.items()} == {
        "semantic": FRAMES,
        "depth": FRAMES,
        "labels": 1,
        "scale": FRAMES,
    }
    for n in range(FRAMES):
        maps = maps_of(picture(n))
        stamp = recorded["semantic"][n].header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == own_stamps(folder)[n]
        semantic = np.asarray(recorded["semantic"][n].data).reshape(16, 32)
        np.testing.assert_array_equal(semantic, maps.class_map)
        depth = np.frombuffer(recorded["depth"][n].data, np.float32).reshape(16, 32)
        np.testing.assert_array_equal(depth, maps.depth_m)


def test_the_recorder_is_reliable_where_it_can_be(graph: Graph, tmp_path: Path) -> None:
    sensor = graph.node.create_publisher(Image, f"{graph.namespace}/sensor", qos.sensor())
    firm = graph.node.create_publisher(dvps_msg.ScaleEstimate, f"{graph.namespace}/firm", qos.output())
    recorder = graph.add(
        Recorder(
            namespace=graph.namespace,
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"),
                topics=f"{graph.namespace}/(sensor|firm)",
                silence_s=0.5,
                min_free_mib=0,
            ),
        )
    )
    graph.wait(lambda: sensor.get_subscription_count() + firm.get_subscription_count() == 2, "both topics")
    reliability = {
        name: graph.node.get_subscriptions_info_by_topic(f"{graph.namespace}/{name}")[
            0
        ].qos_profile.reliability
        for name in ("sensor", "firm")
    }
    assert reliability == {"sensor": qos.sensor().reliability, "firm": qos.output().reliability}
    firm.publish(dvps_msg.ScaleEstimate(scale=2.0))
    graph.wait(recorder.done.done, "silence")
    graph.remove(recorder)
    ((topic, time_ns, message),) = read_bag(tmp_path / "bag")
    assert topic == f"{graph.namespace}/firm" and message.scale == 2.0
    assert abs(time_ns - time.time_ns()) < 60e9


def test_of_sparse_topics_one_message_in_so_many_is_written(graph: Graph, tmp_path: Path) -> None:
    names = ("all", "few")
    out = {
        name: graph.node.create_publisher(dvps_msg.ScaleEstimate, f"{graph.namespace}/{name}", qos.output())
        for name in names
    }
    recorder = graph.add(
        Recorder(
            namespace=graph.namespace,
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"),
                topics=f"{graph.namespace}/(all|few)",
                count_topic=f"{graph.namespace}/all",
                sparse=f"{graph.namespace}/few",
                sparse_every=3,
                min_free_mib=0,
            ),
        )
    )
    told = graph.listen(UInt64, f"{graph.namespace}/dvps_recorder/recorded", DEEP)
    graph.wait(lambda: all(p.get_subscription_count() == 1 for p in out.values()), "both topics")
    for n in range(8):
        for publisher in out.values():
            publisher.publish(dvps_msg.ScaleEstimate(scale=float(n)))
        graph.wait(lambda n=n: min(recorder._passed[p.topic_name] for p in out.values()) > n, "a message")
    graph.wait(lambda: told and told[-1].data == 8, "the count")
    graph.remove(recorder)
    got = {name: [] for name in names}
    for topic, _, message in read_bag(tmp_path / "bag"):
        got[topic.rpartition("/")[2]].append(message.scale)
    assert got == {"all": list(range(8)), "few": [0, 3, 6]}


def test_a_full_disk_ends_the_recorder_with_a_whole_bag(graph: Graph, tmp_path: Path) -> None:
    out = graph.node.create_publisher(dvps_msg.ScaleEstimate, f"{graph.namespace}/firm", qos.output())
    recorder = graph.add(
        Recorder(
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"), topics=f"{graph.namespace}/firm", min_free_mib=0
            )
        )
    )
    graph.wait(lambda: out.get_subscription_count() == 1, "the recorder")
    out.publish(dvps_msg.ScaleEstimate(scale=2.0))
    graph.wait(lambda: recorder._last_s, "the first message")
    recorder._writer._min_free = 1 << 60
    out.publish(dvps_msg.ScaleEstimate(scale=3.0))
    graph.wait(recorder.done.done, "the end")
    assert "MiB are free" in recorder.done.result()
    graph.remove(recorder)
    assert [message.scale for *_, message in read_bag(tmp_path / "bag")] == [2.0]


def test_the_recorder_waits_for_the_clock_that_it_is_told_to_use(graph: Graph, tmp_path: Path) -> None:
    """No message is recorded at time 0; what is latched before the clock starts is kept."""
    warnings = graph.log(30)
    latched = graph.node.create_publisher(dvps_msg.ScaleEstimate, f"{graph.namespace}/firm", qos.latched())
    latched.publish(dvps_msg.ScaleEstimate(scale=2.0))
    recorder = graph.add(
        Recorder(
            namespace=graph.namespace,
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"),
                topics=f"{graph.namespace}/firm",
                min_free_mib=0,
                use_sim_time=True,
            ),
        )
    )
    clock = graph.node.create_publisher(Clock, "/clock", qos.output())
    graph.wait(lambda: any("nothing came on /clock" in text for text in warnings), "the warning")
    assert latched.get_subscription_count() == 0

    def recorded() -> bool:
        clock.publish(Clock(clock=Time(sec=1700, nanosec=5)))
        return recorder._last_s is not None

    graph.wait(recorded, "the latched message")
    graph.remove(recorder)
    graph.node.destroy_publisher(clock)
    ((_, time_ns, message),) = read_bag(tmp_path / "bag")
    assert (time_ns, message.scale) == (1_700_000_000_005, 2.0)


def test_what_has_come_when_the_recorder_ends_is_in_the_bag(graph: Graph, tmp_path: Path) -> None:
    out = graph.node.create_publisher(dvps_msg.ScaleEstimate, f"{graph.namespace}/firm", DEEP)
    recorder = graph.add(
        Recorder(
            parameter_overrides=parameters(
                output=str(tmp_path / "bag"), topics=f"{graph.namespace}/firm", min_free_mib=0
            )
        )
    )
    graph.wait(lambda: out.get_subscription_count() == 1, "the recorder")
    for n in range(8):
        out.publish(dvps_msg.ScaleEstimate(scale=float(n)))
    assert out.wait_for_all_acked(Duration(seconds=20))  # delivered, and no callback was called
    graph.remove(recorder)
    assert [message.scale for *_, message in read_bag(tmp_path / "bag")] == list(range(8))


@pytest.mark.parametrize(
    ("kind", "values", "error", "sentence"),
    [
        (Recorder, {}, ConfigError, "output: expected the folder"),
        (Recorder, {"output": "x", "topics": "(["}, ConfigError, "regular expressions"),
        (Recorder, {"outputs": "x"}, ConfigError, "unknown parameter: outputs"),
        (Player, {}, InputError, "source: expected a video"),
        (Player, {"source": "/nowhere.mp4"}, InputError, "there is no input /nowhere.mp4"),
        (Player, {"source": "x", "rate_hz": -2.0}, ConfigError, "rate_hz: expected -1.0"),
    ],
)
def test_unsuitable_parameters(
    graph: Graph, kind: Any, values: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        kind(parameter_overrides=parameters(**values))


PROCESS_S = 60
"""Longest wait for a process to start or to end on a busy machine."""


def process(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"dvps_ros.ros.nodes.{module}", "--ros-args", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_recorder_with_a_whole_bag(graph: Graph, tmp_path: Path, end: signal.Signals) -> None:
    topic = f"{graph.namespace}/firm"
    out = graph.node.create_publisher(dvps_msg.ScaleEstimate, topic, qos.latched())
    out.publish(dvps_msg.ScaleEstimate(scale=2.0))
    parameters_ = (f"output:={tmp_path / 'bag'}", f"topics:={topic}", "min_free_mib:=0")
    recorder = process("recorder", *(x for p in parameters_ for x in ("-p", p)))
    try:
        graph.wait(lambda: out.get_subscription_count() == 1, "the recorder", PROCESS_S)
        assert out.wait_for_all_acked(Duration(seconds=PROCESS_S))
        recorder.send_signal(end)
        _, errors = recorder.communicate(timeout=PROCESS_S)
    finally:
        recorder.kill()
    assert recorder.returncode == 0, errors
    assert [message.scale for *_, message in read_bag(tmp_path / "bag")] == [2.0]


def test_a_signal_is_a_normal_end_of_the_player(graph: Graph, folder: Path) -> None:
    rules = (
        "-p",
        f"source:={folder}",
        "-p",
        "fov_deg:=90.0",
        "-p",
        "loop:=true",
        "-r",
        f"__ns:={graph.namespace}",
    )
    images = graph.listen(Image, f"{graph.namespace}/image", DEEP)
    player = process("player", *rules)
    try:
        graph.wait(lambda: images, "an image", PROCESS_S)
        player.send_signal(signal.SIGTERM)
        _, errors = player.communicate(timeout=PROCESS_S)
    finally:
        player.kill()
    assert player.returncode == 0, errors


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("recorder", [], "error: output: expected the folder of the bag to make"),
        ("dvps", ["-p", "engine.model:=nowhere"], "error: no model 'nowhere'"),
    ],
)
def test_a_failed_start_ends_non_zero_with_one_sentence(
    module: str, arguments: list[str], sentence: str
) -> None:
    ended = process(module, *arguments)
    _, errors = ended.communicate(timeout=PROCESS_S)
    assert ended.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(sentence)


def test_the_robot_imports_neither_torch_nor_open3d() -> None:
    code = (
        "import sys; import dvps_ros.ros.nodes.dvps, dvps_ros.ros.nodes.player, dvps_ros.ros.nodes.recorder; "
        "print([m for m in ('torch', 'open3d', 'matplotlib', 'lightning') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert printed.stdout.strip() == "[]", printed.stderr
