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
from dvps_ros.errors import ConfigError
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


def declared(graph: Graph, tmp_path: Path, content: str) -> Any:
    file = tmp_path / "robot.yaml"
    file.write_text(content)
    arguments = ["--ros-args", "--params-file", str(file)]
    node: Any = graph.add(
        Node("dvps", cli_args=arguments, automatically_declare_parameters_from_overrides=True)
    )
    params.declare(node, NodeConfig)
    return node


def test_parameters_of_other_nodes_in_a_file_for_the_robot_are_named_in_the_log(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = "    robot_description: x\n    controller: {gain: 3.0}\n    engine: {rpm: 5}\n"
    own = "    image_transport: compressed\n    use_sim_time: true\n"
    node = declared(graph, tmp_path, f"/**:\n  ros__parameters:\n{others}{own}")
    assert params.read(node, NodeConfig).image_transport == "compressed"
    ignored = "not of this node are ignored: controller.gain, engine.rpm, robot_description"
    assert ignored in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("engine: {modle: lite}", r"engine.modle \(did you mean engine.model\?\)"),
        ("image_transprot: raw", r"image_transprot \(did you mean image_transport\?\)"),
        ("use_sim_tme: true", r"use_sim_tme \(did you mean use_sim_time\?\)"),
        ("engine: fast", r"engine \(did you mean engine.…\?\)"),
        ("engine: {model: {name: lite}}", r"engine.model.name \(did you mean engine.model\?\)"),
        ("use_sim_time: 'yes'", "use_sim_time: expected true or false, got 'yes'"),
        ("use_sim_time: 1", "use_sim_time: expected true or false, got 1"),
        ("qos_overrides: 5", "qos_overrides"),
        (
            "qos_overrides: {/a: {subscription: {reliability: maybe}}}",
            "expected one of reliable, .*got 'maybe'",
        ),
        ("qos_overrides: {/a: {subscription: {depth: -3}}}", "a number of messages, 1 to 10000, got -3"),
        ("qos_overrides: {/a: {subscription: {depth: deep}}}", "a number of messages, .*got 'deep'"),
        ("qos_overrides: {/a: {subscription: {reliabilty: reliable}}}", "reliabilty: expected qos_overrides"),
        ("qos_overrides: {/a: {receiver: {depth: 3}}}", "<publisher or subscription>"),
    ],
)
def test_slips_and_values_that_ros_would_take_are_refused(
    graph: Graph, tmp_path: Path, line: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        declared(graph, tmp_path, f"/**:\n  ros__parameters:\n    {line}\n")


def test_every_policy_that_can_be_overridden_is_known(graph: Graph, tmp_path: Path) -> None:
    policies = "{history: keep_last, depth: 7, reliability: reliable, durability: volatile}"
    line = f"qos_overrides: {{/a: {{subscription: {policies}, publisher_x: {policies}}}}}"
    declared(graph, tmp_path, f"/**:\n  ros__parameters:\n    {line}\n")
