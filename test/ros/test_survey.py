# SPDX-License-Identifier: Apache-2.0
"""What the doctor sees of a graph: real nodes, right and wrong connections between them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_graph import Graph
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dvps_ros import msg as dvps_msg
from dvps_ros.ros import convert, qos
from dvps_ros.ros.probes.survey import Survey

PERIOD_S = 0.05
LOOK_S = 6.0


def look() -> dict[str, str]:
    """What was seen -> the advice."""
    with Survey(domain=int(os.environ["ROS_DOMAIN_ID"])) as survey:
        return {seen.what: seen.advice for seen in survey.look(LOOK_S)}


@contextmanager
def sent(*messages: tuple[Any, Any]) -> Iterator[None]:
    """Publishes (publisher, function that makes its message) again and again; stamps are made anew."""
    end = threading.Event()

    def play() -> None:
        while not end.wait(PERIOD_S):
            for publisher, make in messages:
                publisher.publish(make())

    thread = threading.Thread(target=play)
    thread.start()
    yield
    end.set()
    thread.join()


def now() -> Header:
    return Header(stamp=convert.ns_to_stamp(time.time_ns()))


def the(found: dict[str, str], *words: str) -> tuple[str, str]:
    """The one finding with these words, and its advice."""
    (only,) = [(what, advice) for what, advice in found.items() if all(w in what for w in words)]
    return only


def test_rates_stamps_and_quality_of_service_of_both_sides(graph: Graph) -> None:
    """A camera of 20 Hz, one without stamps, one whose images do not come; a node that asks one for more than
    it offers, and waits for a topic that nobody has."""
    node, space = graph.node, graph.namespace
    good = node.create_publisher(Image, f"{space}/good/image", qos.output())
    zero = node.create_publisher(Image, f"{space}/zero/image", qos.sensor())
    old = node.create_publisher(Image, f"{space}/old/image", qos.sensor())
    node.create_publisher(Image, f"{space}/dead/image", qos.sensor())
    infos = node.create_publisher(CameraInfo, f"{space}/good/camera_info", qos.output())
    node.create_publisher(dvps_msg.LabelSpace, f"{space}/labels", qos.latched())
    diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", qos.output())
    reliable = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
    for topic in ("zero/image", "nowhere/image"):
        node.create_subscription(Image, f"{space}/{topic}", print, reliable)
    name = node.get_fully_qualified_name()
    trouble = DiagnosticStatus(name=f"{name}: input", level=b"\1", message="no image; look at the lens")
    late = Header(stamp=Time(sec=1_000_000_000))
    with sent(
        (good, lambda: Image(header=now())),
        (zero, Image),
        (old, lambda: Image(header=late)),
        (infos, lambda: CameraInfo(header=now())),
        (diagnostics, lambda: DiagnosticArray(status=[trouble])),
    ):
        found = look()
    what, advice = the(found, f"{space}/good/image: sensor_msgs/msg/Image from {name}, offered reliable")
    rate_hz = float(what.split(", ")[2].split()[0])
    assert 10 < rate_hz < 21 and advice == ""
    _, advice = the(found, f"{space}/zero/image: ", "offered best effort", "without stamps")
    assert "time of receipt" in advice
    _, advice = the(found, f"{space}/old/image: ", "all with the same stamp")
    assert "correct the driver" in advice
    _, advice = the(found, f"{space}/dead/image: ", "nothing came")
    assert "Fast DDS profile" in advice
    _, advice = the(found, f"{name} gets nothing on {space}/zero/image", "offers a lower reliability")
    assert f"qos_overrides.{space}/zero/image.subscription.reliability" in advice
    _, advice = the(found, f"{name} gets nothing on {space}/nowhere/image, which has 0 publisher(s)")
    assert f"{space}/good/image" in advice and "camera_info" not in advice
    assert the(found, f"{name}: input: no image") == (f"{name}: input: no image", "look at the lens")
    the(found, f"{name} runs")


def test_an_empty_graph(graph: Graph) -> None:
    assert look() == {"no camera and no node of dvps_ros run in this ROS domain": ""}
