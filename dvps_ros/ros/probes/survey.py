# SPDX-License-Identifier: Apache-2.0
"""What goes on in a running graph: cameras, this package's nodes and what lies between them, as findings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState  # type: ignore[import-untyped]
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.qos import QoSReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dvps_ros.ros import qos
from dvps_ros.ros.connections import PROFILE, twins, type_name, why_silent
from dvps_ros.ros.health import believable
from dvps_ros.ros.probes.observer import Observer
from dvps_ros.ros.probes.playback import stamp_of

CAMERA_TYPES: dict[str, Any] = {type_name(kind): kind for kind in (Image, CompressedImage, CameraInfo)}
MOST_TOPICS = 12
"""Camera topics that are listened to: each costs its bandwidth while it lasts."""
OWN_MESSAGES = "dvps_ros/msg/"
NOTICE_S = 0.2
"""Between two looks at what is new in the graph: others need seconds to be found on a busy machine."""
LISTEN_SHARE = 0.4
LEAST_ARRIVING = 0.7
"""Of the camera_info messages' rate; fewer images than that get lost on the way."""
REMAP = "remap the node's input to the camera's topic"
FINE = (DiagnosticStatus.OK, DiagnosticStatus.STALE)


@dataclass(frozen=True)
class Seen:
    """One thing seen; ``advice`` is empty where all is well."""

    what: str
    advice: str = ""


class Survey(Observer):
    """Listens to the camera topics and /diagnostics of a graph, and asks its nodes.

    Args:
        domain: ROS domain id.
    """

    def __init__(self, *, domain: int) -> None:
        super().__init__("dvps_doctor", domain=domain)
        self._heard: dict[str, list[tuple[float, int, int]]] = {}
        """Topic -> (steady time of receipt, s; wall clock, ns; stamp, ns) of each message."""
        self._states: dict[str, Any] = {}
        """Full name of a node with a life cycle -> its answer to come."""
        self._statuses: dict[str, DiagnosticStatus] = {}

    def _connect(self, node: Node) -> None:
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.output())

    def look(self, seconds: float) -> Iterator[Seen]:
        """Watch for a while, then tell what was seen.

        Args:
            seconds: how long; the last ``LISTEN_SHARE`` of it takes up nothing new, but listens.
        """
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > LISTEN_SHARE * seconds:
            self._spin_for(min(left_s, NOTICE_S))
            self._notice()
        self._spin_for(end_s - time.monotonic())
        own = self._own_nodes()
        topics = self._cameras(own)
        if not own and not topics:
            yield Seen("no camera and no node of dvps_ros run in this ROS domain")
            return
        for topic, kind in topics:
            if topic in self._heard:
                yield self._camera(topic, kind)
        silent = [topic for topic, _ in topics if topic not in self._heard]
        if silent:
            yield Seen(f"not listened to: {', '.join(silent)}")
        if not own:
            yield Seen("no node of dvps_ros runs in this ROS domain")
        for node in own:
            yield self._state(node)
            yield from self._inputs(node)
            yield from self._diagnoses(node)

    def _spin_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.spin(left)

    def _notice(self) -> None:
        """Listen to the camera topics found since, and ask the nodes found since for their state."""
        graph = self._node
        for topic, kind in self._cameras(self._own_nodes()):
            if topic not in self._heard and len(self._heard) < MOST_TOPICS:
                self._heard[topic] = []
                graph.create_subscription(
                    CAMERA_TYPES[kind], topic, self._hears(topic, CAMERA_TYPES[kind]), qos.sensor(), raw=True
                )
        for service, _ in graph.get_service_names_and_types():
            node, _, name = service.rpartition("/")
            if name == "get_state" and node not in self._states:
                self._states[node] = graph.create_client(GetState, service).call_async(GetState.Request())

    def _own_nodes(self) -> list[str]:
        """Full names of the nodes that take or give this package's messages, once each."""
        graph = self._node
        kinds = [(t, k) for t, k in graph.get_topic_names_and_types() if k[0].startswith(OWN_MESSAGES)]
        ends = [
            end
            for topic, _ in kinds
            for find in (graph.get_publishers_info_by_topic, graph.get_subscriptions_info_by_topic)
            for end in find(topic)
        ]
        running = {_full_name(name, space) for name, space in graph.get_node_names_and_namespaces()}
        return sorted({_full_name(e.node_name, e.node_namespace) for e in ends} & running)

    def _camera_topics(self) -> list[tuple[str, str]]:
        """(topic, type) of all that has a publisher and is of a camera."""
        return sorted(
            (topic, kind)
            for topic, kinds in self._node.get_topic_names_and_types()
            for kind in kinds
            if kind in CAMERA_TYPES
            and any(p.topic_type == kind for p in self._node.get_publishers_info_by_topic(topic))
        )

    def _cameras(self, own: list[str]) -> list[tuple[str, str]]:
        return [t for t in self._camera_topics() if not self._is_ours(t, own)]

    def _is_ours(self, topic: tuple[str, str], own: list[str]) -> bool:
        """Whether a perception node makes it: its images of depth and classes are no camera's."""
        made_by = {
            _full_name(p.node_name, p.node_namespace)
            for p in self._node.get_publishers_info_by_topic(topic[0])
        }
        return any(node in made_by and topic[0].startswith(f"{node}/") for node in own)

    def _hears(self, topic: str, kind: Any) -> Any:
        def note(message: bytes) -> None:
            self._heard[topic].append((time.monotonic(), time.time_ns(), stamp_of(kind, message)))

        return note

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._statuses |= {status.name: status for status in message.status}

    def _camera(self, topic: str, kind: str) -> Seen:
        publishers = self._node.get_publishers_info_by_topic(topic)
        senders = ", ".join(_full_name(p.node_name, p.node_namespace) for p in publishers)
        offers = " and ".join(sorted({_words(p) for p in publishers}))
        head = f"{topic}: {kind} from {senders}, offered {offers}"
        heard = self._heard[topic]
        if not heard:
            return Seen(f"{head}, nothing came", PROFILE)
        rate_hz = self._rate_hz(topic)
        rate = f"{rate_hz:.1f} Hz" if rate_hz else "few came"
        sent_hz = self._rate_hz(f"{topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info")
        if rate_hz < LEAST_ARRIVING * sent_hz:
            return Seen(f"{head}, {rate} of {sent_hz:.1f} Hz came here, by its camera_info", PROFILE)
        _, wall_ns, stamp_ns = heard[-1]
        age_s = (wall_ns - stamp_ns) * 1e-9
        if stamp_ns == 0:
            return Seen(
                f"{head}, {rate}, without stamps",
                "the time of receipt is taken; let the driver stamp its messages",
            )
        if len(heard) > 1 and len({stamp for *_, stamp in heard}) == 1:
            return Seen(
                f"{head}, {rate}, all with the same stamp", "correct the driver: all but one are left out"
            )
        if not believable(age_s):
            return Seen(
                f"{head}, {rate}, stamped {abs(age_s):.0f} s {'ago' if age_s > 0 else 'ahead'}",
                "right where a bag is played; for a camera on another machine set both clocks (chrony)",
            )
        return Seen(f"{head}, {rate}, stamped {age_s * 1e3:.0f} ms before receipt")

    def _rate_hz(self, topic: str) -> float:
        """Of the messages that came; 0 where they are too few, or none were listened to."""
        times = [second for second, *_ in self._heard.get(topic, ())]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 2 else 0.0

    def _state(self, node: str) -> Seen:
        answers = twins(self._node.get_node_names_and_namespaces(), node)
        if answers > 1:
            return Seen(
                f"{answers} nodes are called {node}",
                "start each under a name of its own (launch: name:=; by hand: -r __node:=NAME)",
            )
        if node not in self._states:
            return Seen(f"{node} runs")
        if not self._states[node].done():
            return Seen(f"{node} does not answer", "it is busy or hangs: look at its log")
        label = self._states[node].result().current_state.label
        if label == "active":
            return Seen(f"{node} is active")
        return Seen(f"{node} is {label}", f"ros2 lifecycle set {node} configure, then activate")

    def _inputs(self, node: str) -> Iterator[Seen]:
        """The camera topics that a node listens to, with both sides."""
        graph = self._node
        name, space = node.rpartition("/")[2], node.rpartition("/")[0] or "/"
        cameras = self._cameras(self._own_nodes())
        others = [topic for topic, kind in cameras if kind != type_name(CameraInfo)]
        there = f"; cameras here: {', '.join(others)}" if others else ""
        try:
            taken = sorted(graph.get_subscriber_names_and_types_by_node(name, space))
        except NodeNameNonExistentError:
            return  # it has just gone
        for topic, kinds in taken:
            for kind in set(kinds) & CAMERA_TYPES.keys():
                ends = [
                    s
                    for s in graph.get_subscriptions_info_by_topic(topic)
                    if _full_name(s.node_name, s.node_namespace) == node and s.topic_type == kind
                ]
                if not ends:
                    continue
                why = why_silent(
                    graph, topic, CAMERA_TYPES[kind], ends[0].qos_profile, remap=REMAP + there, lost=""
                )
                if why.endswith("; "):  # it fits
                    yield Seen(f"{node} takes {topic}, asks for {_words(ends[0])}")
                else:
                    problem, _, advice = why.partition("; ")
                    if kind == type_name(CameraInfo) and not any(k == kind for _, k in cameras):
                        advice = "nobody publishes CameraInfo here: start it, or set horizontal_fov_deg"
                    yield Seen(f"{node} gets nothing {problem}", advice or "correct one of the two sides")

    def _diagnoses(self, node: str) -> Iterator[Seen]:
        mine = [s for name, s in sorted(self._statuses.items()) if name.startswith(f"{node}:")]
        for status in mine:
            if status.level in FINE:
                yield Seen(f"{status.name}: {status.message}")
            else:
                problem, _, advice = status.message.partition("; ")
                yield Seen(f"{status.name}: {problem}", advice or "its figures: ros2 topic echo /diagnostics")


def _full_name(name: str, namespace: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"


def _words(end: TopicEndpointInfo) -> str:
    firm = end.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE
    return "reliable" if firm else "best effort"
