# SPDX-License-Identifier: Apache-2.0
"""A look at a running graph from outside: how many frames are done, and what its nodes complain of."""

from __future__ import annotations

import re
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node, NodeNameNonExistentError
from std_msgs.msg import UInt64

from dvps_ros import msg as dvps_msg
from dvps_ros.ros import qos
from dvps_ros.ros.probes.observer import Observer


class Monitor(Observer):
    """Listens to the small topics only.

    Args:
        node: name of the perception node, such as ``/dvps``.
        recorder: name of the recorder.
        domain: ROS domain id.
    """

    def __init__(self, *, node: str, recorder: str, domain: int) -> None:
        super().__init__("dvps_monitor", domain=domain)
        self.received_ns: dict[int, int] = {}
        """Stamp of a frame -> when its last output came, nanoseconds of the wall clock."""
        self.recorded = 0
        """Frames that the recorder has written."""
        self.trouble = ""
        """The newest warning or error in /diagnostics; empty when all is well."""
        self._node_name = node
        self._recorder_name = recorder

    def _connect(self, node: Node) -> None:
        scale, recorded = f"{self._node_name}/output/scale", f"{self._recorder_name}/recorded"
        node.create_subscription(dvps_msg.ScaleEstimate, scale, self._on_done, qos.output())
        node.create_subscription(UInt64, recorded, self._on_recorded, qos.output())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.output())

    def recorder_listens(self, topics: re.Pattern[str]) -> bool:
        """Whether the recorder has subscribed to all of these topics that the perception node offers."""
        graph = self._node
        try:
            offered = graph.get_publisher_names_and_types_by_node(*_name_and_namespace(self._node_name))
            taken = graph.get_subscriber_names_and_types_by_node(*_name_and_namespace(self._recorder_name))
        except NodeNameNonExistentError:
            return False
        wanted = {topic for topic, _ in offered if topics.fullmatch(topic)}
        return bool(wanted) and wanted <= {topic for topic, _ in taken}

    def _on_done(self, message: dvps_msg.ScaleEstimate) -> None:
        stamp = message.header.stamp
        self.received_ns[stamp.sec * 10**9 + stamp.nanosec] = time.time_ns()

    def _on_recorded(self, message: UInt64) -> None:
        self.recorded = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        bad = [s for s in message.status if s.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)]
        self.trouble = bad[-1].message if bad else ""


def _name_and_namespace(full_name: str) -> tuple[str, str]:
    namespace, _, name = full_name.rpartition("/")
    return name, namespace or "/"
