# SPDX-License-Identifier: Apache-2.0
"""Writes topics to a rosbag2 folder (MCAP) that appears, whole, when recording ends."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future
from std_msgs.msg import UInt64

from dvps_ros.config import option
from dvps_ros.errors import ConfigError, DvpsError
from dvps_ros.ros import params, qos
from dvps_ros.ros.bag import BagWriter, message_class
from dvps_ros.ros.process import run

_FLUSH_S = 1.0
"""What is recorded is on the disk after so long, and survives a kill."""
_REMIND_S = 10.0
"""Between two warnings that there is no time."""
_SETTLE_S = 0.5
"""After the last counted message, outputs of the same frame may still be under way."""


@dataclass(frozen=True)
class RecorderConfig:
    """The parameters of the recorder."""

    output: str = option("", "Bag folder to make; must not exist.")
    topics: str = option(
        ".*/output/.*", "What to record: topic names or regular expressions, separated by commas."
    )
    sparse: str = option("", "Of these, as in topics, only few messages are written: large clouds, say.")
    sparse_every: int = option(10, "One in so many of them is written.", low=1, high=2**31 - 1)
    count_topic: str = option(".*/output/scale", "Topic (or regular expression) whose messages are counted.")
    frames: int = option(0, "Stop after this many messages on count_topic; 0 goes on.", low=0, high=2**31 - 1)
    silence_s: float = option(
        0.0, "Stop when nothing has come for this long after the first message, seconds; 0 goes on.", low=0.0
    )
    min_free_mib: int = option(
        200, "Stop when less than this is free on the disk, MiB.", low=0, high=2**31 - 1
    )


class Recorder(Node):
    """Subscribes to every matching topic as it appears, reliably where all its publishers are reliable.

    Under ``use_sim_time`` it waits for /clock: without it no message could be given a time. What is latched
    by then is recorded, other messages are not.

    ``~/recorded`` says how many messages of ``count_topic`` came: who stops the recorder can wait for it.

    Raises:
        ConfigError: a parameter that does not suit.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("dvps_recorder", automatically_declare_parameters_from_overrides=True, **kwargs)
        params.declare(self, RecorderConfig)
        self.config = params.read(self, RecorderConfig)
        if not self.config.output:
            raise ConfigError("output: expected the folder of the bag to make, got nothing")
        try:
            self._patterns = _patterns(self.config.topics)
            self._sparse = _patterns(self.config.sparse)
            self._counted = re.compile(self.config.count_topic)
        except re.error as error:
            raise ConfigError(f"topics: expected names or regular expressions, got {error}") from error
        self.done: Future = Future()
        self._writer: BagWriter | None = BagWriter(self.config.output, min_free_mib=self.config.min_free_mib)
        self._seen: set[str] = set()
        self._inputs: dict[str, Subscription[Any]] = {}
        self._passed: Counter[str] = Counter()
        self._frames = 0
        self._recorded = self.create_publisher(UInt64, "~/recorded", qos.output())
        self._last_s: float | None = None
        self._flushed_s = time.monotonic()
        self._timer = self.create_timer(0.1, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _tick(self) -> None:
        if self.get_clock().now().nanoseconds:
            self._discover()
        else:
            self.get_logger().warning(
                "use_sim_time is set and nothing came on /clock yet: not recording. Publish it "
                "(ros2 bag play --clock) or unset use_sim_time",
                throttle_duration_sec=_REMIND_S,
            )
        if time.monotonic() - self._flushed_s >= _FLUSH_S and not self.done.done():
            self._flushed_s = time.monotonic()
            try:
                assert self._writer is not None
                self._writer.flush()
            except DvpsError as error:
                self._finish(str(error))
        self._recorded.publish(UInt64(data=self._frames))
        if self._last_s is None:
            return
        quiet_s = time.monotonic() - self._last_s
        enough = 0 < self.config.frames <= self._frames and quiet_s >= _SETTLE_S
        if enough or 0 < self.config.silence_s <= quiet_s:
            self._finish(None)

    def _discover(self) -> None:
        for topic, kinds in self.get_topic_names_and_types():
            if topic in self._seen or not _matches(topic, self._patterns):
                continue
            offered = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
            if not offered:
                continue  # so far only somebody who waits for it
            self._seen.add(topic)
            try:
                kind = message_class(kinds[0])
                assert self._writer is not None
                self._writer.add_topic(topic, kinds[0], offered[0])
            except ConfigError as error:
                self.get_logger().warning(f"{topic} is not recorded: {error}")
                continue
            profile = qos.matching(offered, depth=50)
            self._inputs[topic] = self.create_subscription(
                kind, topic, partial(self._on_message, topic), profile, raw=True
            )
            self.get_logger().info(f"recording {topic}")

    def _on_message(self, topic: str, data: bytes) -> None:
        if self.done.done():
            return
        try:
            self._store(topic, data)
        except DvpsError as error:
            self._finish(str(error))

    def _store(self, topic: str, data: bytes) -> None:
        """Raises: DiskFull."""
        self._last_s = time.monotonic()
        self._frames += self._counted.fullmatch(topic) is not None
        self._passed[topic] += 1
        if _matches(topic, self._sparse) and (self._passed[topic] - 1) % self.config.sparse_every:
            return
        assert self._writer is not None
        self._writer.write(topic, self.get_clock().now().nanoseconds, data)

    def _take_rest(self) -> None:
        """Write what has come but waits for the executor: to its senders it is delivered."""
        if self.done.done() and self.done.result() is not None:
            return  # the disk is full
        for topic, subscription in self._inputs.items():
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
                    self._store(topic, taken[0])

    def _finish(self, failure: str | None) -> None:
        if not self.done.done():
            self.done.set_result(failure)

    def destroy_node(self) -> None:
        """Finish the bag, then leave ROS.

        Raises:
            DiskFull: the bag cannot be finished.
        """
        writer = getattr(self, "_writer", None)
        try:
            if writer is not None:
                try:
                    self._take_rest()
                finally:
                    self._writer = None
                    whole = writer.close()
                if whole:
                    counts = ", ".join(f"{topic} {n}" for topic, n in sorted(writer.counts.items()))
                    self._say(f"{writer.path}: {counts}")
                else:
                    self._say("no message came: no bag was written")
        finally:
            super().destroy_node()

    def _say(self, sentence: str) -> None:
        # Where ROS has been shut down already its log would complain.
        if self.context.ok():
            self.get_logger().info(sentence)
        else:
            print(sentence, file=sys.stderr)


def _patterns(topics: str) -> list[re.Pattern[str]]:
    return [re.compile(t.strip()) for t in topics.split(",") if t.strip()]


def _matches(topic: str, patterns: list[re.Pattern[str]]) -> bool:
    return any(p.fullmatch(topic) for p in patterns)


def main(args: list[str] | None = None) -> int:
    """Entry point ``dvps_recorder``."""
    return run(Recorder, args, config=RecorderConfig)


if __name__ == "__main__":
    sys.exit(main())
