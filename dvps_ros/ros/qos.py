# SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic, in one place, and a sentence when two sides do not match.

Camera data is received as sensor data (best effort), which every publisher can serve. Outputs are offered
reliable, which serves reliable subscribers (RViz, recorders) and best-effort ones (Nav2) alike. All
can be changed with the usual ``qos_overrides.<topic>.<publisher|subscription>.<policy>`` parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions


def sensor() -> QoSProfile:
    """Camera in: best effort, volatile, last 5."""
    return _profile(QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE, 5)


def output() -> QoSProfile:
    """Results out: reliable, volatile, last 5."""
    return _profile(QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.VOLATILE, 5)


def latched() -> QoSProfile:
    """Facts that late subscribers need: reliable, transient local, the last one."""
    return _profile(QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.TRANSIENT_LOCAL, 1)


def matching(offered: list[QoSProfile], depth: int) -> QoSProfile:
    """The most demanding profile that all the offered ones can serve (for a recorder)."""
    reliable = all(q.reliability == QoSReliabilityPolicy.RELIABLE for q in offered)
    lasting = all(q.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL for q in offered)
    return _profile(
        QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
        QoSDurabilityPolicy.TRANSIENT_LOCAL if lasting else QoSDurabilityPolicy.VOLATILE,
        depth,
    )


def _profile(reliability: QoSReliabilityPolicy, durability: QoSDurabilityPolicy, depth: int) -> QoSProfile:
    # A new object each time: rclpy writes parameter overrides into the one it is given.
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability
    )


def overridable() -> QoSOverridingOptions:
    """Lets ``qos_overrides.*`` parameters change a topic's policies."""
    kinds = QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY
    return QoSOverridingOptions(kinds)


def mismatch_sentence(topic: str, side: str, policy: str) -> str:
    """What is wrong and what to do.

    Args:
        side: ``publisher`` or ``subscription``: which end this node has.
        policy: lower-case name of the policy.
    """
    if side == "subscription":
        problem = (
            f"a publisher of {topic} offers a lower {policy} than this node asks for: nothing is received"
        )
    else:
        problem = f"a subscriber of {topic} asks for a higher {policy} than this node offers: it gets nothing"
    return (
        f"{problem}; change its {policy}, or set qos_overrides.{topic}.{side}.{policy} of this node to match"
    )


def subscription_events(topic: str, report: Callable[[str], None]) -> SubscriptionEventCallbacks:
    """Calls ``report`` with a sentence when a publisher does not fit."""

    def mismatch(event: Any) -> None:
        report(mismatch_sentence(topic, "subscription", _policy(event)))

    return SubscriptionEventCallbacks(incompatible_qos=mismatch)


def no_events() -> SubscriptionEventCallbacks:
    """Says nothing of publishers that do not fit, not even in the log."""
    return SubscriptionEventCallbacks(use_default_callbacks=False)


def publisher_events(topic: str, report: Callable[[str], None]) -> PublisherEventCallbacks:
    """Calls ``report`` with a sentence when a subscriber does not fit."""

    def mismatch(event: Any) -> None:
        report(mismatch_sentence(topic, "publisher", _policy(event)))

    return PublisherEventCallbacks(incompatible_qos=mismatch)


def _policy(event: Any) -> str:
    name: str = qos_policy_name_from_kind(event.last_policy_kind)
    return name.removesuffix("_QOS_POLICY").lower()
