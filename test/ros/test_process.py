# SPDX-License-Identifier: Apache-2.0
"""How a node's process ends, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os
import signal
import sys
import time
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Empty
from dvps_ros.ros.process import run

class Late(Node):
    def __init__(self):
        super().__init__("late")
        self.done = Future()
        self.publisher = self.create_publisher(Empty, "said", 1)
        self.create_timer(0.01, self.speak)

    def speak(self):
        if not {interrupted}:
            raise ZeroDivisionError("something is wrong")
        os.kill(os.getpid(), signal.SIGTERM)
        if {stuck}:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        print("the callback is finished", flush=True)

    def destroy_node(self):
        os.kill(os.getpid(), signal.SIGINT)  # by someone in a hurry
        self.publisher.publish(Empty())
        print("ROS still carries this", flush=True)
        super().destroy_node()

sys.exit(run(Late, config=type(None)))
"""


@pytest.mark.parametrize(
    ("interrupted", "stuck"),
    [(True, False), (True, True), (False, False)],
    ids=["signal", "second signal", "error"],
)
def test_a_signal_in_a_callback_is_a_quiet_end_and_an_error_is_not(interrupted: bool, stuck: bool) -> None:
    """Either way the node can publish until it is destroyed, and another signal does not cut that short."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(interrupted=interrupted, stuck=stuck)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode == 0) is interrupted, ended.stderr
    assert ("Traceback" in ended.stderr) is not interrupted
    finished = ["the callback is finished"] * (interrupted and not stuck)
    # The callback's timer may come once more before the node looks.
    assert list(dict.fromkeys(ended.stdout.splitlines())) == [*finished, "ROS still carries this"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1, 2\n", "Couldn't parse params file"),
        ("/**:\n  ros__parameters: 5\n", "Cannot have a value before ros__parameters at line 2"),
        ("/**: &a\n  ros__parameters: *a\n", "Will not support aliasing"),
        ("\0\1\2", "Couldn't parse params file"),
        (None, "Error opening YAML file"),
    ],
)
@pytest.mark.parametrize("node", ["dvps", "recorder"])
def test_a_broken_parameter_file_is_one_sentence(
    tmp_path: Path, node: str, content: str | None, words: str
) -> None:
    file = tmp_path / "robot.yaml"
    if content is not None:
        file.write_text(content)
    command = [sys.executable, "-m", f"dvps_ros.ros.nodes.{node}", "--ros-args", "--params-file", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    line = ended.stderr.splitlines()[-1]  # rcl's own complaint comes before
    assert line.startswith("error: ROS cannot start with these arguments: ") and words in line
    assert "/project/src" not in line


@pytest.mark.parametrize("program", ["dvps", "steering", "player", "recorder"])
def test_help_tells_the_parameters_and_starts_nothing(program: str) -> None:
    command = [sys.executable, "-m", f"dvps_ros.ros.nodes.{program}", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    parameter = {"dvps": "engine.model", "steering": "base_frame", "player": "source", "recorder": "output"}
    assert ended.returncode == 0 and "--ros-args" in ended.stdout
    assert f"\n  {parameter[program]} (str, " in ended.stdout
