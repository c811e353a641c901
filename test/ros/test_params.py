# SPDX-License-Identifier: Apache-2.0
"""The shipped parameter files: complete, equal to the defaults, and accepted by the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.node import Node
from ros_graph import Graph

from dvps_ros.config import flatten, from_yaml, options
from dvps_ros.ros import params
from dvps_ros.ros.nodes.dvps import NodeConfig
from dvps_ros.ros.nodes.player import PlayerConfig
from dvps_ros.ros.nodes.recorder import RecorderConfig
from dvps_ros.ros.nodes.steering import NodeConfig as SteeringNodeConfig

CONFIG = Path(__file__).parents[2] / "config"
NODES = {
    "dvps": NodeConfig,
    "player": PlayerConfig,
    "recorder": RecorderConfig,
    "steering": SteeringNodeConfig,
}
LEFT_TO_LAUNCH = {"steering": {"perception_node"}}
"""What a file leaves out, so that the launch file can set it."""


@pytest.mark.parametrize("name", NODES)
def test_the_file_holds_every_parameter_with_its_default(name: str) -> None:
    data = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    written = flatten(data["/**"]["ros__parameters"])
    left = LEFT_TO_LAUNCH.get(name, set())
    assert written == {o.key: o.default for o in options(NODES[name]) if o.key not in left}
    assert from_yaml(NODES[name], CONFIG / f"{name}.yaml") == NODES[name]()


@pytest.mark.parametrize("name", NODES)
def test_the_node_takes_the_file(graph: Graph, name: str) -> None:
    file = str(CONFIG / f"{name}.yaml")
    node: Any = graph.add(
        Node(
            name,
            cli_args=["--ros-args", "--params-file", file],
            automatically_declare_parameters_from_overrides=True,
        )
    )
    params.declare(node, NODES[name])
    assert params.read(node, NODES[name]) == NODES[name]()
