# SPDX-License-Identifier: Apache-2.0
"""How a node's process ends, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os
import signal
import sys
import time
import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
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
            raise rclpy_implementation.RCLError("something is wrong")
        os.kill(os.getpid(), signal.SIGTERM)
        while rclpy.ok():
            time.sleep(0.01)
        self.publisher.publish(Empty())

sys.exit(run(Late))
"""


@pytest.mark.parametrize("interrupted", (True, False), ids=["ROS has ended", "ROS goes on"])
def test_a_publication_fails_quietly_only_after_ros_has_ended(interrupted: bool) -> None:
    """As when SIGTERM comes in the middle of a timer's callback."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(interrupted=interrupted)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode == 0) is interrupted, ended.stderr
    assert ("Traceback" in ended.stderr) is not interrupted
