# SPDX-License-Identifier: Apache-2.0
"""Why nothing, or not all, comes on a topic: from what the graph tells of its publishers, as sentences.

The node's /diagnostics and ``dvps doctor`` ask the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

from dvps_ros.ros.qos import mismatch_sentence

PROFILE = (
    "if it sends, its large images get lost on the way: set the Fast DDS profile of config/fastdds where the "
    "camera driver starts"
)


def type_name(kind: Any) -> str:
    """``sensor_msgs/msg/Image`` of the class Image."""
    package, _, _ = kind.__module__.partition(".")
    return f"{package}/msg/{kind.__name__}"


def incompatible(offered: QoSProfile, requested: QoSProfile) -> str:
    """The policy of a publisher that is lower than what a subscription asks for; empty where they match."""
    best_effort = offered.reliability == QoSReliabilityPolicy.BEST_EFFORT
    if requested.reliability == QoSReliabilityPolicy.RELIABLE and best_effort:
        return "reliability"
    volatile = offered.durability == QoSDurabilityPolicy.VOLATILE
    if requested.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL and volatile:
        return "durability"
    return ""


def why_silent(node: Node, topic: str, kind: Any, requested: QoSProfile, *, remap: str, lost: str) -> str:
    """Why a subscription may hear nothing: no publisher, another type or quality of service, or loss.

    Args:
        topic: as resolved.
        requested: what the subscription asks for, overrides included.
        remap: advice where nobody publishes.
        lost: advice where somebody does, and fits.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"on {topic}, which has 0 publisher(s); {remap}"
    fitting = [p for p in publishers if p.topic_type == type_name(kind)]
    if not fitting:
        others = ", ".join(sorted({p.topic_type for p in publishers}))
        expected = f"{type_name(kind)} is expected{_transport(others)}"
        return f"on {topic}, whose publisher sends {others} where {expected}"
    policies = [incompatible(p.qos_profile, requested) for p in fitting]
    if all(policies):
        return f"on {topic}: {mismatch_sentence(topic, 'subscription', policies[0])}"
    return f"on {topic}, which has {len(publishers)} publisher(s); {lost}"


def _transport(kinds: str) -> str:
    if "CompressedImage" in kinds:
        return "; set image_transport to compressed (launch: image_transport:=compressed)"
    if "sensor_msgs/msg/Image" in kinds:
        return "; set image_transport to raw (launch: image_transport:=raw)"
    return ""


def twins(names: Iterable[tuple[str, str]], full_name: str) -> int:
    """How many nodes of a graph have this full name.

    Args:
        names: (name, namespace) of all nodes, as ``Node.get_node_names_and_namespaces`` gives them.
    """
    return sum(f"{namespace.rstrip('/')}/{name}" == full_name for name, namespace in names)
