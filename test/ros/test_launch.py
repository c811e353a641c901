# SPDX-License-Identifier: Apache-2.0
"""What the launch file gives the nodes. ROS 2's wheels lack ``launch``: a recorder stands in its place."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.node import Node

ROOT = Path(__file__).parents[2]


class Recorded:
    """Keeps what an action or substitution was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def perform(self, context: dict[str, str]) -> str:
        return context[self.args[0]]


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names = {
        "launch": ("LaunchContext", "LaunchDescription"),
        "launch.actions": ("DeclareLaunchArgument", "OpaqueFunction", "SetEnvironmentVariable"),
        "launch.substitutions": ("EnvironmentVariable", "LaunchConfiguration", "PathJoinSubstitution"),
        "launch_ros": (),
        "launch_ros.actions": ("LifecycleNode", "Node"),
        "launch_ros.substitutions": ("FindPackageShare",),
    }
    for name, members in names.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, Recorded)
        monkeypatch.setitem(sys.modules, name, module)
    return runpy.run_path(str(ROOT / "launch" / "dvps.launch.py"))


@pytest.mark.parametrize(
    ("in_file", "name", "asked"),
    [({}, "dvps", "dvps"), ({}, "front", "front"), ({"perception_node": ""}, "front", "")],
    ids=["default", "another name", "none"],
)
def test_a_parameter_file_decides_which_perception_is_asked(
    launch_file: dict[str, Any], tmp_path: Path, in_file: dict[str, str], name: str, asked: str
) -> None:
    shipped = yaml.safe_load((ROOT / "config" / "steering.yaml").read_text())
    shipped["/**"]["ros__parameters"] |= in_file
    file = tmp_path / "car.yaml"
    file.write_text(yaml.safe_dump(shipped))
    use = {k: "" for k in (*launch_file["ARGUMENTS"], *launch_file["PARAMETERS"])}
    use |= {"steering": "true", "steering_params_file": str(file), "name": name, "autostart": "false"}
    _, steering = launch_file["start_nodes"](use)

    arguments = ["--ros-args"]
    for i, values in enumerate(steering.kwargs["parameters"]):  # as launch_ros hands them over, in order
        if isinstance(values, dict):
            made = tmp_path / f"{i}.yaml"
            made.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
            values = str(made)
        arguments += ["--params-file", values]
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node(
        "steering", context=context, cli_args=arguments, automatically_declare_parameters_from_overrides=True
    )
    try:
        assert node.get_parameter("perception_node").value == asked
        assert node.get_parameter("autostart").value is False  # the argument, not the file
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
