# SPDX-License-Identifier: Apache-2.0
"""The steering node: latent tokens in; a stamped steering command out, or word that there is none.

A thin adapter: message in, ``SteeringPipeline.process``, messages out. The head takes about a millisecond,
so all happens in the executor's thread. A command is never published twice: while no tokens come that can be
used, messages that say "not valid" take its place.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import Header

from dvps_ros import msg as dvps_msg
from dvps_ros.config import SteeringConfig, option
from dvps_ros.errors import EngineError, InputError, sentence
from dvps_ros.ros import convert, qos
from dvps_ros.ros.health import believable, status
from dvps_ros.ros.nodes.base import BaseNode, LifeConfig, main_of
from dvps_ros.ros.steering_outputs import STEERING_OUTPUTS, optional_outputs
from dvps_ros.runtime.steering import SteeringPipeline, SteeringResult

WATCH_PERIOD_S = 0.05


@dataclass(frozen=True)
class NodeConfig(LifeConfig, SteeringConfig):
    """The parameters of the node: those of head and limits, and how it is wired into ROS."""

    base_frame: str = option(
        "base_link", "Frame of commands and path: at the rear axle, x forward, y left, z up."
    )
    max_age_s: float = option(
        0.4, "A command from an image older than this is not valid, seconds.", low=0.01, high=10.0
    )
    watchdog_s: float = option(
        0.4, "Silence of the tokens after which the command is not valid, seconds.", low=0.05, high=60.0
    )
    perception_node: str = option(
        "dvps",
        "Perception node whose /diagnostics must be sound for a command to be valid; empty: none is asked.",
    )
    diagnostics_after_s: float = option(
        3.0, "Silence of those diagnostics that counts as unsound, seconds.", low=0.1, high=60.0
    )
    path_length_m: float = option(20.0, "Length of the predicted path, metres.", low=1.0, high=200.0)
    ackermann_speed_mps: float = option(
        0.0,
        "Speed written into AckermannDriveStamped, m/s: this node steers only.",
        low=-50.0,
        high=50.0,
    )


OpenSteering = Callable[[SteeringConfig], SteeringPipeline]


class SteeringNode(BaseNode[NodeConfig]):
    """Lifecycle node of the steering command of one vehicle (topics: docs/steering.md).

    Args:
        open_pipeline: the tests put a head of known answers here.

    Raises:
        ConfigError: a parameter that does not exist or does not suit.
    """

    def __init__(self, *, open_pipeline: OpenSteering = SteeringPipeline.open, **kwargs: Any) -> None:
        super().__init__("steering", NodeConfig, **kwargs)
        self._open_pipeline = open_pipeline
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=self._steady)

    # Life

    def _open(self) -> None:
        self._pipeline = self._open_pipeline(self.config)
        self._sound_at_s: float | None = None
        self._unsound = ""

    def _wire(self) -> None:
        self._table = STEERING_OUTPUTS | optional_outputs()
        self._outputs = {t: self._publisher(o.type, t, qos.output()) for t, o in self._table.items()}
        self._tokens = self._subscription(
            dvps_msg.LatentTokens, "~/input/latent", self._on_tokens, qos.sensor()
        )
        if self.config.perception_node:
            self._perception = self._full_name(self.config.perception_node)
            self._subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.output())

    def _begin(self) -> None:
        """From an empty window; the watchdog runs from now on."""
        self._pipeline.restart()
        self._silent, self._invalid = True, "no tokens yet"
        self._taken_at_s, self._taken_ns = time.monotonic(), 0
        self._refused_at_s, self._refusal = -math.inf, ""
        self.get_logger().info(
            f"active: tokens from {self._tokens.topic_name}, {self._pipeline.head.description}"
        )

    def _end(self) -> None:
        """Publish that there is no command any more."""
        self._refuse_command("the node is not active any more")

    def _close(self) -> None:
        self._pipeline.close()

    def _full_name(self, name: str) -> str:
        namespace = self.get_namespace().rstrip("/")
        return name if name.startswith("/") else f"{namespace}/{name}"

    # Tokens

    def _on_tokens(self, message: dvps_msg.LatentTokens) -> None:
        if not self._active:
            return
        self.health.received()
        left_out = f"tokens at {convert.stamp_text(message.header.stamp)} left out"
        try:
            stamp_ns = convert.stamp_to_ns(message.header.stamp)
            self._steer(message, stamp_ns)
        except InputError as error:
            self._refused_at_s, self._refusal = time.monotonic(), str(error)
            self.health.refused("tokens", str(error))
            self._warn("tokens", f"{left_out}: {error}")
        except EngineError as error:
            self.health.refused("head", str(error))
            self._warn("head", str(error))
            self._fail(stamp_ns, str(error))
        except Exception as error:  # one bad message must not end the steering
            self.health.refused("frame", sentence(error))
            self._fault(left_out, error, key="frame")
            self._fail(stamp_ns, sentence(error))

    def _steer(self, message: dvps_msg.LatentTokens, stamp_ns: int) -> None:
        began_s = time.monotonic()
        tokens = convert.message_to_latent(message)
        result = self._pipeline.process(stamp_ns, tokens, message.weights)
        if result.reset:
            self._resets(result.reset)
        self._taken(stamp_ns)
        age_ns = self.get_clock().now().nanoseconds - stamp_ns
        self._publish(self._judged(result, age_ns * 1e-9), age_ns)
        self.health.processed(work_ms=(time.monotonic() - began_s) * 1e3, latency_ms=age_ns * 1e-6)

    def _taken(self, stamp_ns: int) -> None:
        """Tokens of this stamp went to the head."""
        self._taken_at_s, self._taken_ns, self._silent = time.monotonic(), stamp_ns, False

    def _fail(self, stamp_ns: int, reason: str) -> None:
        """The head did not answer: the window starts anew."""
        self._taken(stamp_ns)
        self._pipeline.forget()
        self._refuse_command(reason)

    def _judged(self, result: SteeringResult, age_s: float) -> SteeringResult:
        """The result, not valid where the node knows better than the head."""
        reason = result.reason
        if not believable(age_s):
            reason = (
                f"the image's stamp is {age_s:.1f} s old: stamps and the node's clock differ; "
                "for a bag play it with --clock and set use_sim_time"
            )
        elif age_s > self.config.max_age_s:
            reason = f"the image is {age_s:.2f} s old"
        elif unsound := self._perception_trouble():
            reason = unsound
        if not reason:
            return result
        if result.valid:
            self._pipeline.withdraw()
        return SteeringResult.refused(result.stamp_ns, reason)

    def _resets(self, reason: str) -> None:
        self.health.count("resets")
        self._trouble(f"{reason}: the window of frames starts anew", "reset")

    def _publish(self, result: SteeringResult, age_ns: int) -> None:
        if result.reason and result.reason != self._invalid:
            self.health.trouble(result.reason)
            self._warn("invalid", f"no valid command: {result.reason}")
        self._invalid = result.reason
        stamp = convert.ns_to_stamp(result.stamp_ns)
        header = Header(stamp=stamp, frame_id=self.config.base_frame)
        for topic, output in self._table.items():
            message = output.build(result, header, age_ns, self.config)
            if message is not None:
                self._outputs[topic].publish(message)

    def _refuse_command(self, reason: str) -> None:
        """Publish that there is no command, with the stamp of the last tokens taken: 0 before the first."""
        age_ns = self.get_clock().now().nanoseconds - self._taken_ns if self._taken_ns else 0
        self._publish(SteeringResult.refused(self._taken_ns, reason), age_ns)

    # Watchdog

    def _watch(self) -> None:
        if not self._active:
            return
        now_s, limit_s = time.monotonic(), self.config.watchdog_s
        quiet_s = now_s - self._taken_at_s
        if quiet_s <= limit_s:
            return
        if not self._silent:
            self._silent = True
            self.health.count("watchdog")
        if now_s - self._refused_at_s <= limit_s:
            self._refuse_command(self._refusal)
            return
        self._refuse_command(f"no tokens for more than {limit_s:g} s")
        if quiet_s > 5 and self._throttle.ready("silence"):
            self.get_logger().warning(f"no tokens for {quiet_s:.0f} s on {self._tokens.topic_name}")

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        lines = [s for s in array.status if s.name.startswith(f"{self._perception}: ")]
        if not lines:
            return
        self._sound_at_s = time.monotonic()
        # A line that is stale speaks of a part that is not running; only its scale may be missing.
        bad = [
            s
            for s in lines
            if s.level == DiagnosticStatus.ERROR
            or (s.level == DiagnosticStatus.STALE and not s.name.endswith(": scale"))
        ]
        self._unsound = "; ".join(f"{s.name}: {s.message}" for s in bad)

    def _perception_trouble(self) -> str:
        if not self.config.perception_node:
            return ""
        if self._unsound:
            return f"perception is not sound: {self._unsound}"
        limit_s = self.config.diagnostics_after_s
        if self._sound_at_s is None or time.monotonic() - self._sound_at_s > limit_s:
            return (
                f"no diagnostics of {self._perception} for {limit_s:g} s; "
                "set perception_node to the perception node's name, or to nothing"
            )
        return ""

    # Diagnostics

    def _parts(self) -> Mapping[str, Callable[[str], DiagnosticStatus]]:
        return {"command": self._status}

    def _status(self, name: str) -> DiagnosticStatus:
        values = self.health.summary() | {
            "resets": str(self.health.counts["resets"]),
            "watchdog": str(self.health.counts["watchdog"]),
            "tokens_topic": self._tokens.topic_name,
            "head": self._pipeline.head.description,
        }
        if not self._active:
            return status(name, DiagnosticStatus.OK, "inactive", values)
        if self._invalid:
            return status(name, DiagnosticStatus.WARN, f"no valid command: {self._invalid}", values)
        trouble = self.health.recent_trouble()
        if trouble:
            return status(name, DiagnosticStatus.WARN, trouble, values)
        return status(name, DiagnosticStatus.OK, "commands are valid", values)


def main(args: list[str] | None = None) -> int:
    """Entry point ``dvps_steering``."""
    return main_of(SteeringNode, args, config=NodeConfig)


if __name__ == "__main__":
    sys.exit(main())
