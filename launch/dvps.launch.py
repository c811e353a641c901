# SPDX-License-Identifier: Apache-2.0
"""Perception of one camera: ``ros2 launch dvps_ros dvps.launch.py image:=/camera/image_raw ...``."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import (
    EnvironmentVariable,
    LaunchConfiguration,
    PathJoinSubstitution,
    PythonExpression,
)
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("dvps_ros")

ARGUMENTS = {
    "image": ("/camera/image_raw", "Camera image topic; with image_transport:=compressed its base name."),
    "camera_info": ("/camera/camera_info", "CameraInfo topic of that camera."),
    "image_transport": ("raw", "raw or compressed."),
    "model": ("lite", "Model name, or a directory with a manifest.json."),
    "backend": ("auto", "Inference engine: auto, openvino, onnxruntime."),
    "camera_height": ("0.0", "Height of the camera over the road, metres, for metric scale; 0 = the network's scale."),
    "horizontal_fov": ("0.0", "Horizontal field of view, degrees, of a camera without CameraInfo; 0 = use CameraInfo."),
    "namespace": ("", "Namespace of the nodes."),
    "name": ("dvps", "Name of the node: the prefix of its topics."),
    "params_file": (PathJoinSubstitution([SHARE, "config", "dvps.yaml"]), "Parameter file."),
    "use_sim_time": ("false", "Take time from /clock."),
    "autostart": ("true", "Configure and activate the node at once."),
    "rviz": ("false", "Start RViz with all outputs."),
    "record": ("", "Write the outputs to this bag folder; empty = do not record."),
    "log_level": ("info", "Log level of the nodes."),
    "fastdds_profile": (
        EnvironmentVariable(
            "FASTDDS_DEFAULT_PROFILES_FILE",
            default_value=PathJoinSubstitution([SHARE, "config", "fastdds", "large_messages.xml"]),
        ),
        "Fast DDS profile; the default one carries large images without loss.",
    ),
}


def generate_launch_description() -> LaunchDescription:
    use = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    use_sim_time = ParameterValue(use["use_sim_time"], value_type=bool)
    log = ["--ros-args", "--log-level", use["log_level"]]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", use["fastdds_profile"]),
            LifecycleNode(
                package="dvps_ros",
                executable="dvps_node",
                name=use["name"],
                namespace=use["namespace"],
                output="screen",
                parameters=[
                    use["params_file"],
                    {
                        "engine.model": ParameterValue(use["model"], value_type=str),
                        "engine.backend": ParameterValue(use["backend"], value_type=str),
                        "scale.camera_height_m": ParameterValue(use["camera_height"], value_type=float),
                        "horizontal_fov_deg": ParameterValue(use["horizontal_fov"], value_type=float),
                        "image_transport": ParameterValue(use["image_transport"], value_type=str),
                        "autostart": ParameterValue(use["autostart"], value_type=bool),
                        "use_sim_time": use_sim_time,
                    },
                ],
                remappings=[
                    ("~/input/image", use["image"]),
                    ("~/input/image/compressed", [use["image"], "/compressed"]),
                    ("~/input/camera_info", use["camera_info"]),
                ],
                arguments=log,
            ),
            Node(
                package="dvps_ros",
                executable="dvps_recorder",
                name="dvps_recorder",
                namespace=use["namespace"],
                output="screen",
                condition=IfCondition(PythonExpression(["'", use["record"], "' != ''"])),
                parameters=[{"output": ParameterValue(use["record"], value_type=str), "use_sim_time": use_sim_time}],
                arguments=log,
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                condition=IfCondition(use["rviz"]),
                arguments=["-d", PathJoinSubstitution([SHARE, "config", "rviz", "dvps.rviz"])],
                parameters=[{"use_sim_time": use_sim_time}],
            ),
        ]
    )
