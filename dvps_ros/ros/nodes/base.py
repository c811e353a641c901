# SPDX-License-Identifier: Apache-2.0
"""What the lifecycle nodes share: the life, the wiring of topics, troubles and /diagnostics.

A node gives a dataclass of parameters and four hooks; the order in which they are called is here only.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.task import Future

from dvps_ros.config import option
from dvps_ros.errors import DvpsError, EngineError, sentence
from dvps_ros.ros import params, qos
from dvps_ros.ros.connections import twins
from dvps_ros.ros.health import Health, status
from dvps_ros.ros.process import run
from dvps_ros.ros.worker import Throttle


@dataclass(frozen=True)
class LifeConfig:
    """The parameters of every lifecycle node."""

    autostart: bool = option(
        True, "Configure and activate at once; false leaves that to a lifecycle manager."
    )


DELIVERY_S = 1.0
"""How long a node that stops waits for its subscribers, all topics together."""

C = TypeVar("C", bound=LifeConfig)
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _told(transition: Transition) -> Transition:
    """Tell of an exception in a transition: rclpy makes an ERROR of it without a word."""

    @wraps(transition)
    def run_and_tell(node: BaseNode[Any], state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node._failure = sentence(error)
            node._fault(transition.__name__, error)
            return TransitionCallbackReturn.ERROR

    return run_and_tell


class BaseNode(LifecycleNode, Generic[C]):
    """A lifecycle node that starts itself unless told not to, and says in /diagnostics how it is.

    Args:
        name: of the node.
        config_type: dataclass of its parameters.

    Attributes:
        config: the parameters, read when the node is configured and locked until it is cleaned up.
        done: completed when the process is to end: with None, or with the sentence of a failure.
        health: what became of what came in.

    Raises:
        ConfigError: a parameter that does not exist or does not suit.
    """

    config: C

    def __init__(self, name: str, config_type: type[C], **kwargs: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **kwargs)
        self.done: Future = Future()
        self.health = Health()
        self._config_type = config_type
        self._failure = ""
        self._configured = self._active = False
        self._publishers_out: list[Any] = []
        self._subscriptions_in: list[Any] = []
        self._throttle = Throttle(period_s=5.0)
        self._said: set[str] = set()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        params.declare(self, config_type, locked=lambda: self._configured)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.output())
        self.create_timer(1.0, self._report, clock=self._steady)

    # What a node gives

    def _open(self) -> None:
        """Take what ``config`` names.

        Raises:
            DvpsError: it cannot be used; the node stays unconfigured.
        """
        raise NotImplementedError

    def _wire(self) -> None:
        """Advertise and subscribe, with :meth:`_publisher` and :meth:`_subscription`."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Begin to work: the node is active, its publishers are enabled."""
        raise NotImplementedError

    def _end(self) -> None:
        """End to work: the publishers are still enabled."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close what :meth:`_open` took; topics are removed after it."""
        raise NotImplementedError

    def _parts(self) -> Mapping[str, Callable[[str], DiagnosticStatus]]:
        """Parts of the node -> what makes its line of /diagnostics, by the line's name, when configured."""
        raise NotImplementedError

    # Life

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, open what they name, advertise every topic."""
        try:
            self.config = params.read(self, self._config_type)
            self._open()
        except DvpsError as error:
            self._failure = str(error)
            if not self.get_parameter("autostart").value:  # else it ends the process, which tells it
                self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        self._configured, self._failure = True, ""
        self._wire()
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to work."""
        outcome = super().on_activate(state)
        self._active = True
        self._begin()
        return outcome

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to work; what was opened stays open."""
        self._stop()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close what was opened, remove the topics."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to work, close what was opened and end the process."""
        self._stop()
        self._release()
        self._finish(None)
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that failed unexpectedly: as unconfigured as at the start."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop to work while ROS still carries the last word, close what was opened, leave ROS."""
        try:
            if self.context.ok():
                self._stop()
        finally:
            self._release()
            super().destroy_node()

    def start(self) -> None:
        """Configure and activate, if the node is set to start by itself.

        Raises:
            EngineError: it could not be configured.
        """
        if self.get_parameter("autostart").value:
            self._demand(self.trigger_configure())
            self._demand(self.trigger_activate())

    def _demand(self, outcome: TransitionCallbackReturn) -> None:
        if outcome is not TransitionCallbackReturn.SUCCESS:
            raise EngineError(self._failure or "the node could not be started; see its log")

    def _stop(self) -> None:
        if self._active:
            self._end()
            self._active = False
            self._deliver()

    def _deliver(self) -> None:
        """Wait until reliable subscribers have the last messages: a publisher that goes takes them along."""
        deadline_s = time.monotonic() + DELIVERY_S
        for publisher in self._publishers_out:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            if not publisher.wait_for_all_acked(Duration(seconds=left_s)):
                topic = publisher.topic_name
                self.get_logger().warning(f"a subscriber of {topic} did not confirm the last message")

    def _release(self) -> None:
        if not self._configured:
            return
        self._active = self._configured = False
        self._close()
        while self._publishers_out:
            self.destroy_lifecycle_publisher(self._publishers_out.pop())
        while self._subscriptions_in:
            self.destroy_subscription(self._subscriptions_in.pop())

    def _finish(self, failure: str | None) -> None:
        if not self.done.done():
            self.done.set_result(failure)

    # Topics

    def _publisher(self, kind: type, topic: str, profile: QoSProfile) -> Any:
        """A publisher that is silent while the node is inactive, and lives until it is cleaned up."""
        publisher: Any = self.create_lifecycle_publisher(
            kind,
            topic,
            profile,
            qos_overriding_options=qos.overridable(),
            event_callbacks=qos.publisher_events(self.resolve_topic_name(topic), self._trouble),
        )
        self._publishers_out.append(publisher)
        return publisher

    def _subscription(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile,
        *,
        quiet: bool = False,
    ) -> Any:
        """A subscription that lives until the node is cleaned up.

        Args:
            profile: changed in place by ``qos_overrides`` parameters.
            quiet: a second one to a topic, for publishers that may be there: others are no trouble, and
                nothing overrides it.
        """
        subscription = self.create_subscription(
            kind,
            topic,
            callback,
            profile,
            qos_overriding_options=None if quiet else qos.overridable(),
            event_callbacks=qos.no_events()
            if quiet
            else qos.subscription_events(self.resolve_topic_name(topic), self._trouble),
        )
        self._subscriptions_in.append(subscription)
        return subscription

    # Troubles

    def _trouble(self, words: str, key: str | None = None) -> None:
        """Tell a trouble in /diagnostics, and in the log unless one of this key was told just before."""
        self.health.trouble(words)
        self._warn(key or words, words)

    def _warn(self, key: str, words: str) -> None:
        if self._throttle.ready(key):
            self.get_logger().warning(words)

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self.get_logger().warning(words)

    def _fault(self, where: str, error: BaseException, *, key: str | None = None) -> None:
        """Tell an error that nobody foresaw: counted, and in the log with all that helps to find it.

        Args:
            key: as in :meth:`_trouble`; without one it is always logged.
        """
        self.health.count("unexpected_errors")
        self.health.trouble(f"{where}: {sentence(error)}")
        if key is None or self._throttle.ready(key):
            self.get_logger().error(f"{where}: {''.join(traceback.format_exception(error))}")

    # Diagnostics

    def diagnostics(self) -> list[DiagnosticStatus]:
        """How the parts of the node are."""
        name = self.get_fully_qualified_name()
        return [
            line(f"{name}: {part}") if self._configured else self._not_configured(f"{name}: {part}")
            for part, line in self._parts().items()
        ]

    def _report(self) -> None:
        name = self.get_fully_qualified_name()
        if twins(self.get_node_names_and_namespaces(), name) > 1:
            self._trouble(
                f"another node is called {name} too: both answer; start one under another name "
                "(launch: name:=; by hand: -r __node:=NAME)"
            )
        array = DiagnosticArray(status=self.diagnostics())
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _not_configured(self, name: str) -> DiagnosticStatus:
        if self._failure:
            return status(name, DiagnosticStatus.ERROR, f"not configured: {self._failure}", {})
        return status(name, DiagnosticStatus.STALE, "not configured", {})


def main_of(make: Callable[[], BaseNode[Any]], args: list[str] | None, *, config: type) -> int:
    """Make, start and spin a node: the body of an entry point. Returns the exit code."""

    def make_node() -> BaseNode[Any]:
        node = make()
        node.start()
        return node

    return run(make_node, args, config=config)
