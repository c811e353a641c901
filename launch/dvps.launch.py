# SPDX-License-Identifier: Apache-2.0
"""Perception of one camera.

ros2 launch dvps_ros dvps.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("dvps_ros")

ARGUMENTS = {
    "image": ("/camera/image_raw", "Camera image topic; with image_transport:=compressed its base name."),
    "camera_info": ("/camera/camera_info", "CameraInfo topic of that camera."),
    "namespace": ("", "Namespace of the nodes."),
    "name": ("dvps", "Name of the node: the prefix of its topics."),
    "params_file": (PathJoinSubstitution([SHARE, "config", "dvps.yaml"]), "Parameter file."),
    "use_sim_time": ("false", "Take time from /clock."),
    "autostart": ("true", "Configure and activate the node at once."),
    "steering": ("false", "Start the steering node on the tokens of the perception."),
    "steering_params_file": (
        PathJoinSubstitution([SHARE, "config", "steering.yaml"]),
        "Parameter file of the steering node: wheelbase and limits of the vehicle.",
    ),
    "rviz": ("false", "Start RViz with all outputs."),
    "record": ("", "Write the outputs to this bag folder; empty: do not record."),
    "log_level": ("info", "Log level of the nodes."),
    "fastdds_profile": (
        EnvironmentVariable(
            "FASTDDS_DEFAULT_PROFILES_FILE",
            default_value=PathJoinSubstitution([SHARE, "config", "fastdds", "large_messages.xml"]),
        ),
        "Fast DDS profile; the default one carries large images without loss.",
    ),
}

PARAMETERS = {
    "image_transport": ("image_transport", str, "raw or compressed."),
    "model": ("engine.model", str, "Model name, or a directory with a manifest.json."),
    "precision": ("engine.precision", str, "Arithmetic of the engine: auto, fp32, fp16, bf16, int8, ..."),
    "backend": ("engine.backend", str, "Inference engine: auto, openvino, onnxruntime, tensorrt, ..."),
    "camera_height": ("scale.camera_height_m", float, "Height of the camera over the road, metres."),
    "horizontal_fov": ("horizontal_fov_deg", float, "Degrees, of a camera without CameraInfo."),
}
"""Launch argument -> (node parameter, type, meaning). Left empty, the parameter file decides."""


def is_true(text: str) -> bool:
    return text.lower() in ("true", "1", "yes")


def start_nodes(context: LaunchContext) -> list[Node]:
    use = {name: LaunchConfiguration(name).perform(context) for name in (*ARGUMENTS, *PARAMETERS)}
    use_sim_time = {"use_sim_time": is_true(use["use_sim_time"])}
    given = {key: kind(use[name]) for name, (key, kind, _) in PARAMETERS.items() if use[name] != ""}
    log = ["--ros-args", "--log-level", use["log_level"]]
    nodes: list[Node] = [
        LifecycleNode(
            package="dvps_ros",
            executable="dvps_node",
            name=use["name"],
            namespace=use["namespace"],
            output="screen",
            parameters=[
                use["params_file"],
                {**given, **use_sim_time, "autostart": is_true(use["autostart"])},
            ],
            remappings=[
                ("~/input/image", use["image"]),
                ("~/input/image/compressed", f"{use['image']}/compressed"),
                ("~/input/camera_info", use["camera_info"]),
            ],
            arguments=log,
        )
    ]
    if is_true(use["steering"]):
        nodes.append(
            LifecycleNode(
                package="dvps_ros",
                executable="dvps_steering",
                name="steering",
                namespace=use["namespace"],
                output="screen",
                parameters=[
                    {"perception_node": use["name"]},  # unless the file sets another one, or none
                    use["steering_params_file"],
                    {**use_sim_time, "autostart": is_true(use["autostart"])},
                ],
                remappings=[("~/input/latent", f"{use['name']}/output/latent")],
                arguments=log,
            )
        )
    if use["record"]:
        nodes.append(
            Node(
                package="dvps_ros",
                executable="dvps_recorder",
                name="dvps_recorder",
                namespace=use["namespace"],
                output="screen",
                parameters=[{"output": use["record"], **use_sim_time}],
                arguments=log,
            )
        )
    if is_true(use["rviz"]):
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                arguments=["-d", PathJoinSubstitution([SHARE, "config", "rviz", "dvps.rviz"])],
                parameters=[use_sim_time],
            )
        )
    return nodes


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            *(
                DeclareLaunchArgument(
                    name, default_value="", description=f"{description} Empty: {key} of params_file."
                )
                for name, (key, _, description) in PARAMETERS.items()
            ),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", LaunchConfiguration("fastdds_profile")),
            OpaqueFunction(function=start_nodes),
        ]
    )
