# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of its own for each test process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before rclpy is initialised; 0 is what people use, above 101 ports collide with ephemeral ones.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

rclpy = pytest.importorskip("rclpy")

from ros_graph import Graph  # noqa: E402


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def graph(ros: None) -> Iterator[Graph]:
    made = Graph()
    yield made
    made.close()
