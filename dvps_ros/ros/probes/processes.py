# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes: started with their parameters, watched, and ended whatever happens.

The ROS 2 wheels have no launch system; this starts the same executables from the same parameter files.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dvps_ros.errors import DvpsError
from dvps_ros.installation import share_file
from dvps_ros.runtime.machine import peak_rss_mib

IMAGE, INFO, NODE = "/camera/image_raw", "/camera/camera_info", "/dvps"
"""Topics of the camera, and the perception node, in the graphs that this package starts."""
START_LIMIT_S = 180.0
"""For nodes and engine to be ready: the first start on a machine compiles and measures the engines."""
PATIENCE_S = {signal.SIGINT: 15.0, signal.SIGTERM: 5.0, signal.SIGKILL: 5.0}
"""How long each signal is given before the next one is sent."""


class GraphError(DvpsError):
    """A node of the graph failed, or did not end in time."""


@dataclass
class Child:
    """One running node."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    peak_rss_mib: float = 0.0

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def sentence(self) -> str:
        """Why it failed: its own last error line, else the end of its output."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["no output"])[-1].removeprefix("error:").strip()

    def sample(self) -> None:
        """Note the peak of its resident memory so far."""
        try:
            self.peak_rss_mib = max(self.peak_rss_mib, peak_rss_mib(self.process.pid))
        except OSError:
            pass  # it has just ended


class Graph:
    """A context manager that ends every node it started, in the reverse order, when its block ends.

    Args:
        logs: folder for the nodes' output, one file a node.
        domain: ROS domain id of all nodes.
    """

    def __init__(self, logs: Path, *, domain: int) -> None:
        self.children: dict[str, Child] = {}
        self._logs = logs
        profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or str(
            share_file("config/fastdds/large_messages.xml")
        )
        self.environment = os.environ | {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "FASTDDS_DEFAULT_PROFILES_FILE": profile,
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Graph:
        self._logs.mkdir(parents=True, exist_ok=True)
        # A plain `kill` of this process must end the nodes as Ctrl-C does.
        self._old = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for name in reversed(list(self.children)):
                self._end(self.children[name])
        finally:
            signal.signal(signal.SIGTERM, self._old)

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        remap: Mapping[str, str] | None = None,
    ) -> Child:
        """Start ``dvps_ros.ros.nodes.<name>``; ``parameters`` go before those of ``config/<name>.yaml``."""
        arguments = ["--ros-args", "--params-file", str(share_file(f"config/{name}.yaml"))]
        for source, target in (remap or {}).items():
            arguments += ["-r", f"{source}:={target}"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={_yaml(value)}"]
        return self.spawn(name, [sys.executable, "-m", f"dvps_ros.ros.nodes.{name}", *arguments])

    def spawn(self, name: str, command: Sequence[str]) -> Child:
        """Start a program in a process group of its own; its output goes to ``<logs>/<name>.log``."""
        log = self._logs / f"{name}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.children[name] = Child(name, process, log)
        return self.children[name]

    def check(self) -> None:
        """Note the memory of the nodes.

        Raises:
            GraphError: a node has failed.
        """
        for child in self.children.values():
            child.sample()
            if child.code not in (None, 0):
                raise GraphError(f"{child.name}: {child.sentence()} (its log: {child.log})")

    def stop(self, name: str) -> None:
        """Ask a node to end, and wait for it.

        Raises:
            GraphError: it failed, or had to be killed.
        """
        child = self.children.pop(name)
        child.sample()
        if not self._end(child):
            raise GraphError(f"{name} did not end when asked to and was killed (its log: {child.log})")
        if child.code not in (0, -signal.SIGINT):
            raise GraphError(f"{name}: {child.sentence()} (its log: {child.log})")

    def _end(self, child: Child) -> bool:
        """True when it ended before it had to be killed."""
        for number, patience_s in PATIENCE_S.items():
            if child.code is not None:
                return True
            try:
                os.killpg(child.process.pid, number)
            except ProcessLookupError:
                pass
            try:
                child.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            return number != signal.SIGKILL
        return False


def _yaml(value: Any) -> str:
    """A parameter value on the command line; rcl parses it as YAML, so text is quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def free_domain() -> int:
    """A ROS domain id that nobody on this machine uses: its discovery ports are free.

    Raises:
        GraphError: all are taken.
    """
    domains = list(range(1, 101))
    random.shuffle(domains)
    for domain in domains:
        base = 7400 + 250 * domain  # DDS-RTPS: port base and domain gain
        if all(_is_free(base + offset) for offset in (0, 10, 11)):
            return domain
    raise GraphError("every ROS domain id from 1 to 100 is in use on this machine")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _interrupt(*_: object) -> None:
    """Ctrl-C in effect, also where a shell started this process with SIGINT ignored."""
    raise KeyboardInterrupt
