# SPDX-License-Identifier: Apache-2.0
"""The life of a node's process: start, spin, end with an exit code."""

from __future__ import annotations

import logging
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from dvps_ros.config import options
from dvps_ros.errors import DvpsError
from dvps_ros.ros.memory import keep_freed_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAKE_PERIOD_S = 0.2
"""How often a node that waits looks for a signal: in the wait itself Python handles none."""


def _arguments(error: Exception) -> str:
    """ROS's complaint about arguments, without the places in its sources."""
    text = re.sub(r", at \S+:\d+", "", " ".join(str(error).split()))
    return f"ROS cannot start with these arguments: {text.removeprefix('failed to initialize rcl: ')}"


class Finishing(Protocol):
    """A node that can end its process."""

    done: Future
    """Completed with None at a normal end, with one sentence at a failure."""


class RosLog(logging.Handler):
    """Hands the library's log (stdlib ``logging``) to the node's, and so to /rosout."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy ties a severity to a place in the source, so each has its own line.
        text = self.format(record)  # with the traceback, where there is one
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def usage(program: str, config: type) -> str:
    """The help text of a node's program: its parameters, what they are for and their defaults."""
    lines = [
        f"usage: {program} [--ros-args [-p PARAMETER:=VALUE] [-r TOPIC:=OTHER] [--params-file FILE] ...]",
        "",
        "parameters:",
    ]
    for opt in options(config):
        default = str(opt.default).lower() if isinstance(opt.default, bool) else repr(opt.default)
        lines.append(f"  {opt.key} ({opt.type.__name__}, {default})")
        lines += textwrap.wrap(opt.description, 96, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def run(make_node: Callable[[], Node], args: list[str] | None = None, *, config: type) -> int:
    """Make a node and spin it until it is done, or until SIGINT, SIGTERM or a shutdown of ROS.

    With ``-h`` or ``--help`` it only says which parameters there are.

    The signals are Python's, not rclpy's, which end ROS at once: the callback in work is finished, and the
    node can still publish a last word. Only a second signal interrupts a callback.

    Args:
        config: the dataclass of the node's parameters.

    Returns:
        Exit code: 0 for every normal end, 1 after a failure, whose sentence goes to stderr.
    """
    given = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(given):
        print(usage(Path(sys.argv[0]).name, config))
        return 0
    keep_freed_memory()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # RCLError and others: a parameter file or argument that ROS cannot parse
        print(f"error: {_arguments(error)}", file=sys.stderr)
        return 1
    node: Node | None = None
    handler: logging.Handler | None = None
    failure: str | None = None
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if node is None or asked:
            raise KeyboardInterrupt
        asked = True

    def look() -> None:
        if asked and not done.done():
            done.set_result(None)

    try:
        for number in SIGNALS:
            signal.signal(number, ask)
        node = make_node()
        done: Future = node.done  # type: ignore[attr-defined]
        node.create_timer(WAKE_PERIOD_S, look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        handler = RosLog(node)
        logging.getLogger("dvps_ros").addHandler(handler)
        logging.getLogger("dvps_ros").setLevel(logging.INFO)
        # One thread: callbacks only hand messages over, and several threads cost processor time.
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin_until_future_complete(done)
        failure = done.result() if done.done() else None
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except DvpsError as error:
        failure = str(error)
    finally:
        for number in SIGNALS:  # nothing interrupts the clean-up
            signal.signal(number, signal.SIG_IGN)
        if handler is not None:
            logging.getLogger("dvps_ros").removeHandler(handler)
        try:
            if node is not None:
                node.destroy_node()
        except DvpsError as error:
            failure = failure or str(error)
        rclpy.try_shutdown()
    if failure:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failure else 0
