# SPDX-License-Identifier: Apache-2.0
"""The steering node over real ROS topics, with a head whose answers are known."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from known_head import WEIGHTS, KnownHead, known_tokens
from rclpy.qos import QoSProfile
from ros_graph import Graph, parameters
from std_msgs.msg import Header

from dvps_ros import msg as dvps_msg
from dvps_ros.errors import ConfigError, EngineError
from dvps_ros.ros import convert, qos
from dvps_ros.ros.nodes.steering import SteeringNode
from dvps_ros.ros.steering_outputs import arc_points
from dvps_ros.runtime.steering import SteeringPipeline


class Rig:
    """The node with a perception in front of it whose every word the test decides."""

    def __init__(self, graph: Graph, **values: Any) -> None:
        self.graph, self.head = graph, KnownHead()
        defaults = {"min_frames": 1, "wheelbase_m": 2.0, "max_rate_rad_s": 20.0, "perception_node": ""}
        # Tests on a loaded machine: only those of the age and the watchdog set them short.
        defaults |= {"max_age_s": 5.0, "watchdog_s": 5.0, "gap_s": 5.0}
        self.node: SteeringNode = graph.add(
            SteeringNode(
                open_pipeline=lambda config: SteeringPipeline(self.head, config),
                namespace=graph.namespace,
                parameter_overrides=parameters(**{**defaults, **values}),
            )
        )
        self.node.start()
        base = f"{graph.namespace}/steering"
        self.tokens = graph.node.create_publisher(dvps_msg.LatentTokens, f"{base}/input/latent", 10)
        self.commands = graph.listen(dvps_msg.SteeringCommand, f"{base}/output/command", QoSProfile(depth=50))
        self.base = base
        output = self.node._outputs["~/output/command"]
        graph.wait(lambda: self.tokens.get_subscription_count() == 1, "the subscription")
        graph.wait(lambda: output.get_subscription_count() == 1, "the listener")
        self.first_ns = graph.node.get_clock().now().nanoseconds - 2 * 10**9

    def send(
        self, curvature: float, *, deviation: float = 0.001, at_ns: int | None = None, **changes: Any
    ) -> int:
        """Tokens of an image taken just now."""
        stamp_ns = self.graph.node.get_clock().now().nanoseconds if at_ns is None else at_ns
        frame = known_tokens(curvature, deviation)
        header = Header(stamp=convert.ns_to_stamp(stamp_ns), frame_id="camera")
        message = convert.latent_to_message(
            changes.get("latent", frame), header, changes.get("weights", WEIGHTS)
        )
        self.tokens.publish(message)
        return stamp_ns

    def command(self, count: int) -> dvps_msg.SteeringCommand:
        """The command number ``count``, from 1."""
        self.graph.wait(lambda: len(self.commands) >= count, f"command {count}")
        return self.commands[count - 1]

    def status(self) -> DiagnosticStatus:
        return self.node.diagnostics()[0]

    def values(self) -> dict[str, str]:
        return {v.key: v.value for v in self.status().values}


def steered_rig(graph: Graph) -> Rig:
    """A node that two frames have brought to its first valid command, the second of two."""
    rig = Rig(graph, min_frames=2)
    for i in range(2):
        rig.send(0.1, at_ns=rig.first_ns + i * 100_000_000)
        rig.command(i + 1)
    assert rig.commands[1].valid
    return rig


def test_a_command_with_its_stamp_age_and_values(graph: Graph) -> None:
    rig = Rig(graph)
    stamp_ns = rig.send(0.1, deviation=0.01)
    command = rig.command(1)
    assert command.valid and command.header.frame_id == "base_link"
    assert convert.stamp_to_ns(command.header.stamp) == stamp_ns
    assert command.curvature == pytest.approx(0.1)
    assert command.tyre_angle == pytest.approx(math.atan(0.2))  # wheelbase 2 m
    assert command.confidence == pytest.approx(0.6827, abs=1e-3)
    age_ns = command.age.sec * 10**9 + command.age.nanosec
    assert 0 < age_ns <= graph.node.get_clock().now().nanoseconds - stamp_ns
    assert rig.status().level == DiagnosticStatus.OK


def test_the_window_is_kept_by_stamp(graph: Graph) -> None:
    rig = Rig(graph)
    first = rig.first_ns
    for i in (0, 1, 3):  # the third frame is lost on the way
        rig.send(0.01 * i, at_ns=first + i * 100_000_000)
        rig.command(1 + min(i, 2))
    latent, age_s = rig.head.fed
    np.testing.assert_allclose(age_s, [[0, -1, 0.2, 0.3]], atol=1e-6)
    np.testing.assert_allclose(latent[0, :, 0, 0], [0.03, 0, 0.01, 0], atol=1e-6)


def test_gap_and_jump_back_reset_the_window_and_say_so(graph: Graph) -> None:
    rig = Rig(graph, gap_s=0.5, min_frames=2)
    first = rig.first_ns
    for i, (offset_s, valid) in enumerate(((0.0, False), (0.1, True), (0.9, False), (1.0, True)), start=1):
        rig.send(0.0, at_ns=first + round(offset_s * 1e9))
        assert rig.command(i).valid is valid, offset_s
    rig.send(0.0, at_ns=first - 2_000_000_000)  # a bag that was started again
    assert not rig.command(5).valid
    assert rig.node.health.counts["resets"] == 2 and rig.values()["resets"] == "2"
    assert "the window holds 1 of at least 2 frames" in rig.status().message


def test_resets_are_told_once_in_a_while_whatever_their_numbers(graph: Graph) -> None:
    rig = Rig(graph, gap_s=0.2)
    warnings: list[str] = []
    said = rig.node._throttle.ready
    rig.node._throttle.ready = lambda key: said(key) and (warnings.append(key) or True)
    at_ns = rig.first_ns - 10 * 10**9
    for i in range(6):
        at_ns += 300_000_000 + i * 10_000_000
        rig.send(0.0, at_ns=at_ns)
        rig.command(i + 1)
    rig.send(0.0, at_ns=at_ns - 1)
    rig.command(7)
    assert rig.node.health.counts["resets"] == 6
    assert warnings.count("reset") == 1 and not any("gap" in key for key in warnings)


def test_the_watchdog_ends_a_command_when_tokens_stop(graph: Graph) -> None:
    rig = Rig(graph, watchdog_s=0.3)
    stamp_ns = rig.send(0.1)
    assert rig.command(1).valid
    graph.wait(lambda: not rig.commands[-1].valid, "the watchdog", timeout_s=5.0)
    ended = rig.commands[-1]
    assert math.isnan(ended.tyre_angle) and math.isnan(ended.curvature) and ended.confidence == 0.0
    assert convert.stamp_to_ns(ended.header.stamp) == stamp_ns
    assert 0.3 <= ended.age.sec + ended.age.nanosec * 1e-9 < 5.0
    assert sum(c.valid for c in rig.commands) == 1  # the old command never comes again
    assert "no tokens for more than 0.3 s" in rig.status().message
    assert rig.status().level == DiagnosticStatus.WARN and rig.values()["watchdog"] == "1"
    rig.send(0.05, at_ns=stamp_ns)  # is not news for having been ended
    graph.wait(lambda: rig.node.health.refusals["tokens"] == 1, "the refusal")
    rig.send(0.05)
    graph.wait(lambda: rig.commands[-1].valid, "a new command")
    assert rig.commands[-1].curvature == pytest.approx(0.05)
    assert sum(c.valid for c in rig.commands) == 2


def test_the_watchdog_does_not_empty_the_window(graph: Graph) -> None:
    """A bag played slowly: silence by the clock on the wall, none by stamp."""
    rig = Rig(graph, watchdog_s=0.1, min_frames=3)
    count = rig.node.health.counts
    for i in range(3):
        rig.send(0.1, at_ns=rig.first_ns + i * 100_000_000)
        graph.wait(lambda n=i + 1: (count["processed"], count["watchdog"]) == (n, n), "the watchdog")
    valid = [c for c in rig.commands if c.valid]
    assert [convert.stamp_to_ns(c.header.stamp) for c in valid] == [rig.first_ns + 200_000_000]
    assert valid[0].curvature == pytest.approx(0.1) and rig.values()["resets"] == "0"


def test_before_the_first_tokens_there_is_word_that_there_is_no_command(graph: Graph) -> None:
    rig = Rig(graph, watchdog_s=0.2)
    command = rig.command(1)
    assert not command.valid and math.isnan(command.tyre_angle) and command.confidence == 0.0
    assert convert.stamp_to_ns(command.header.stamp) == 0 and (command.age.sec, command.age.nanosec) == (0, 0)
    assert rig.status().message == "no valid command: no tokens for more than 0.2 s"
    assert rig.values()["watchdog"] == "0"  # there was no command to end


def test_while_tokens_are_refused_that_is_the_reason(graph: Graph) -> None:
    rig = Rig(graph, watchdog_s=0.3)
    said = len(rig.commands)
    for _ in range(8):
        rig.send(0.0, weights="b" * 64)
        graph.spin(0.1)
    assert len(rig.commands) > said and not any(c.valid for c in rig.commands)
    assert "no valid command: latent tokens: expected those of lite with weights" in rig.status().message
    graph.wait(lambda: "no tokens for more than" in rig.status().message, "the silence after it")


@pytest.mark.parametrize("nanosec", (1_000_000_000, 4_294_967_295))
def test_a_stamp_that_is_no_time_is_refused(graph: Graph, nanosec: int) -> None:
    rig = Rig(graph, watchdog_s=0.3)
    stamp_ns = rig.send(0.1)
    assert rig.command(1).valid
    message = convert.latent_to_message(known_tokens(0.1), Header(), WEIGHTS)
    message.header.stamp.sec, message.header.stamp.nanosec = 2**31 - 1, nanosec
    rig.tokens.publish(message)
    graph.wait(lambda: rig.node.health.refusals["tokens"] == 1, "the refusal")
    assert f"nanoseconds, got {nanosec}" in rig.node.health.recent_trouble()
    graph.wait(lambda: len(rig.commands) > 1, "the watchdog")
    assert not rig.commands[-1].valid
    assert convert.stamp_to_ns(rig.commands[-1].header.stamp) == stamp_ns
    assert rig.values()["unexpected_errors"] == "0"


def test_the_rate_is_limited_between_commands(graph: Graph) -> None:
    rig = Rig(graph, max_rate_rad_s=0.5, max_angle_rad=0.2)
    first = rig.first_ns
    wanted = (0.15, -0.15, -0.15)
    for i, curvature in enumerate(wanted):
        rig.send(curvature, at_ns=first + i * 100_000_000)
        rig.command(i + 1)
    assert [c.tyre_angle for c in rig.commands] == pytest.approx([0.2, 0.15, 0.10], abs=1e-6)


def test_a_command_that_the_node_withholds_does_not_move_the_next_one(graph: Graph) -> None:
    rig = Rig(graph, max_rate_rad_s=0.5)
    sound = rig.node._perception_trouble
    for i, (curvature, trouble) in enumerate(((0.0, sound), (0.1, lambda: "blind"), (-0.1, sound))):
        rig.node._perception_trouble = trouble
        rig.send(curvature, at_ns=rig.first_ns + i * 100_000_000)
        rig.command(i + 1)
    assert [c.valid for c in rig.commands] == [True, False, True]
    # 0.2 s at 0.5 rad/s from the first one.
    assert [rig.commands[i].tyre_angle for i in (0, 2)] == pytest.approx([0.0, -0.1])


def test_bad_tokens_are_counted_and_refused(graph: Graph) -> None:
    rig = Rig(graph)
    bad = np.full((2, 3), np.nan, np.float32)
    rig.send(0.0, latent=bad)
    rig.send(0.0, latent=np.zeros((3, 3), np.float32))
    for number, weights in enumerate(("b" * 64, "", WEIGHTS[:1], WEIGHTS[:63]), start=3):
        rig.send(0.0, weights=weights)
        graph.wait(lambda n=number: rig.node.health.refusals["tokens"] == n, f"refusal {number}")
        got = f"got weights {weights[:12]!r} ({len(weights)} of 64 characters)"
        assert got in rig.node.health.recent_trouble()
    assert not any(c.valid for c in rig.commands)
    said = len(rig.commands)
    repeated = rig.send(0.1)
    assert rig.command(said + 1).valid
    rig.send(0.2, at_ns=repeated)
    graph.wait(lambda: rig.node.health.refusals["tokens"] == 7, "the repeated stamp")
    assert len(rig.commands) == said + 1


def test_an_unexpected_error_of_the_head_ends_the_command_and_not_the_node(graph: Graph) -> None:
    rig = steered_rig(graph)
    answer, errors = rig.head.run, graph.log(40)

    def fail(latent: np.ndarray, age_s: np.ndarray) -> tuple[float, float]:
        raise ZeroDivisionError("of a programmer")

    rig.head.run = fail
    for i in (2, 3):
        rig.send(0.1, at_ns=rig.first_ns + i * 100_000_000)
        command = rig.command(i + 1)
        assert not command.valid and math.isnan(command.tyre_angle) and command.confidence == 0.0
    assert rig.values()["unexpected_errors"] == rig.values()["refused: frame"] == "2"
    assert rig.status().level == DiagnosticStatus.WARN
    assert "no valid command: unexpected ZeroDivisionError: of a programmer" in rig.status().message
    graph.wait(lambda: errors, "the log")
    graph.spin(0.2)
    assert len(errors) == 1  # the second came within the throttle's time
    assert "s left out: Traceback" in errors[0] and "in fail" in errors[0]
    rig.head.run = answer
    for i, valid in ((4, False), (5, True)):  # the window began anew
        rig.send(0.1, at_ns=rig.first_ns + i * 100_000_000)
        assert rig.command(i + 1).valid is valid


@pytest.mark.parametrize("error", (EngineError("lost"), ZeroDivisionError("lost")), ids=["foreseen", "not"])
def test_a_head_that_fails_on_its_first_frame_tells_its_stamp(graph: Graph, error: Exception) -> None:
    rig = Rig(graph)

    def fail(latent: np.ndarray, age_s: np.ndarray) -> tuple[float, float]:
        raise error

    rig.head.run = fail
    stamp_ns = rig.send(0.1)
    command = rig.command(1)
    assert not command.valid and convert.stamp_to_ns(command.header.stamp) == stamp_ns
    assert 0 < command.age.sec * 10**9 + command.age.nanosec < 5 * 10**9


@pytest.mark.parametrize(
    ("late_s", "reason"), [(1.0, "old"), (1e6, "stamps and the node's clock differ"), (-5.0, "differ")]
)
def test_old_images_and_other_clocks_give_no_command(graph: Graph, late_s: float, reason: str) -> None:
    rig = Rig(graph, max_age_s=0.5)
    rig.send(0.1, at_ns=graph.node.get_clock().now().nanoseconds - round(late_s * 1e9))
    command = rig.command(1)
    assert not command.valid and math.isnan(command.tyre_angle)
    assert reason in rig.status().message


def test_unsound_perception_gives_no_command(graph: Graph) -> None:
    rig = Rig(graph, perception_node="eyes", diagnostics_after_s=1.0)
    speak = graph.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    graph.wait(lambda: speak.get_subscription_count() >= 1, "the diagnostics subscription")
    rig.send(0.1)
    assert not rig.command(1).valid and "no diagnostics of" in rig.status().message

    def say(level: bytes, part: str = "engine") -> None:
        name = f"{graph.namespace}/eyes: {part}"
        heard = rig.node._sound_at_s
        speak.publish(DiagnosticArray(status=[DiagnosticStatus(name=name, level=level, message="lost")]))
        graph.wait(lambda: rig.node._sound_at_s != heard, "the diagnostics")

    for level, part, valid in (
        (DiagnosticStatus.OK, "engine", True),
        (DiagnosticStatus.ERROR, "engine", False),
        (DiagnosticStatus.WARN, "input", True),
        (DiagnosticStatus.STALE, "scale", True),
        (DiagnosticStatus.STALE, "engine", False),
    ):
        say(level, part)
        count = len(rig.commands)
        rig.send(0.1)
        assert rig.command(count + 1).valid is valid, (level, part)
    say(DiagnosticStatus.OK)
    time.sleep(1.1)
    count = len(rig.commands)
    rig.send(0.1)
    assert not rig.command(count + 1).valid


def test_deactivation_ends_the_command_and_activation_begins_anew(graph: Graph) -> None:
    rig = steered_rig(graph)
    rig.node.trigger_deactivate()
    assert not rig.command(3).valid
    rig.send(0.1)
    graph.spin(0.2)
    assert len(rig.commands) == 3
    rig.node.trigger_activate()
    assert rig.status().message == "no valid command: no tokens yet"
    graph.spin(0.2)
    assert len(rig.commands) == 3  # the watchdog waits anew
    rig.send(0.1)
    assert not rig.command(4).valid  # one frame: nothing is left of the window before
    rig.node.trigger_deactivate()
    assert not rig.command(5).valid
    rig.node.trigger_activate()
    rig.node.trigger_deactivate()
    assert convert.stamp_to_ns(rig.command(6).header.stamp) == 0  # nor of the stamp
    rig.node.trigger_cleanup()
    assert rig.head.closed and rig.status().message == "not configured"


@pytest.mark.parametrize("end", ("shutdown", "destruction"))
def test_the_last_word_of_a_node_that_ends_is_not_valid(graph: Graph, end: str) -> None:
    rig = steered_rig(graph)
    if end == "shutdown":
        rig.node.trigger_shutdown()
    else:
        graph.remove(rig.node)
    last = rig.command(3)
    assert (
        not last.valid and math.isnan(last.tyre_angle) and last.header.stamp == rig.commands[1].header.stamp
    )
    graph.spin(0.2)
    assert len(rig.commands) == 3


SCRIPT = """
import sys
from known_head import KnownHead
from ros_graph import parameters
from dvps_ros.ros.nodes.base import main_of
from dvps_ros.ros.nodes.steering import SteeringNode
from dvps_ros.runtime.steering import SteeringPipeline

values = parameters(perception_node="", min_frames=1, max_age_s=5.0, watchdog_s=60.0)
opened = lambda config: SteeringPipeline(KnownHead(), config)
make = lambda: SteeringNode(open_pipeline=opened, namespace=sys.argv[1], parameter_overrides=values)
sys.exit(main_of(make, [], config=type(None)))
"""


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_the_last_word_of_a_process_that_a_signal_ends_is_not_valid(
    graph: Graph, number: signal.Signals
) -> None:
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    command = [sys.executable, "-c", SCRIPT, graph.namespace]
    node = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    try:
        base = f"{graph.namespace}/steering"
        tokens = graph.node.create_publisher(dvps_msg.LatentTokens, f"{base}/input/latent", 10)
        commands = graph.listen(dvps_msg.SteeringCommand, f"{base}/output/command", qos.output())
        graph.wait(tokens.get_subscription_count, "the node", timeout_s=60)
        graph.wait(lambda: graph.node.count_publishers(f"{base}/output/command") == 1, "its publisher")
        while not commands:
            header = Header(stamp=graph.node.get_clock().now().to_msg())
            tokens.publish(convert.latent_to_message(known_tokens(0.1), header, WEIGHTS))
            graph.spin(0.2)
        assert all(c.valid for c in commands)
        node.send_signal(number)
        graph.wait(lambda: not commands[-1].valid, "the last word")
        assert math.isnan(commands[-1].tyre_angle)
        _, errors = node.communicate(timeout=20)
    finally:
        node.kill()
    assert node.returncode == 0 and "Traceback" not in errors, errors


LISTENER = """
import sys
import rclpy
from dvps_ros import msg as dvps_msg
from dvps_ros.ros import qos

rclpy.init()
node = rclpy.create_node("frozen", namespace=sys.argv[1])
node.create_subscription(dvps_msg.SteeringCommand, "steering/output/command", print, qos.output())
rclpy.spin(node)
"""


def test_a_frozen_subscriber_is_told_of_and_does_not_hold_the_end_up(graph: Graph) -> None:
    rig = Rig(graph)
    output = rig.node._outputs["~/output/command"]
    listener = subprocess.Popen(
        [sys.executable, "-c", LISTENER, graph.namespace],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        graph.wait(lambda: output.get_subscription_count() == 2, "the second listener", timeout_s=60)
        warnings = graph.log(30)
        listener.send_signal(signal.SIGSTOP)
        rig.node.trigger_shutdown()
    finally:
        listener.kill()
    assert not rig.command(1).valid
    graph.wait(lambda: any("did not confirm" in w and rig.base in w for w in warnings), "the warning")
    assert rig.node.done.done()


def test_the_path_is_the_arc_of_the_command(graph: Graph) -> None:
    nav = pytest.importorskip("nav_msgs.msg")
    rig = Rig(graph, path_length_m=10.0)
    paths = graph.listen(nav.Path, f"{rig.base}/output/path")
    graph.wait(lambda: rig.node._outputs["~/output/path"].get_subscription_count() == 1, "the listener")
    rig.send(0.1)
    graph.wait(lambda: paths, "the path")
    path = paths[0]
    assert path.header.frame_id == "base_link" and len(path.poses) == 21
    end = path.poses[-1].pose
    # A circle of 10 m around (0, 10), to the left.
    assert end.position.x == pytest.approx(10 * math.sin(1.0), abs=1e-6)
    assert end.position.y == pytest.approx(10 * (1 - math.cos(1.0)), abs=1e-6)
    assert 2 * math.atan2(end.orientation.z, end.orientation.w) == pytest.approx(1.0)
    rig.send(0.1, deviation=10.0)
    graph.wait(lambda: len(paths) == 2, "the second path")
    assert list(paths[1].poses) == []


def test_a_straight_path_is_straight() -> None:
    assert arc_points(0.0, 1.0) == [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (1.0, 0.0, 0.0)]


def test_unknown_parameters_are_refused(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="unknown parameter: wheel_base"):
        SteeringNode(namespace=graph.namespace, parameter_overrides=parameters(wheel_base=2.0))
