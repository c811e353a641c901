# SPDX-License-Identifier: Apache-2.0
"""A clip or a rendered drive played as a camera, perceived, and shown in RViz.

ros2 launch dvps_ros demo.launch.py
ros2 launch dvps_ros demo.launch.py source:=drive.mp4 fov:=70 rviz:=true
ros2 launch dvps_ros demo.launch.py source:=world:5 steering:=true
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "source": ("demo", "Video, folder of images, bag, KITTI raw drive folder, world:SEED or demo."),
    "camera": ("", "Calibration file of the source; empty: its own."),
    "fov": ("0.0", "Horizontal field of view, degrees, of a source without calibration."),
    "rate": ("-1.0", "Images a second; -1: the source's own, 0: as fast as they are processed."),
    "loop": ("true", "Begin again at the end."),
    "stamps": ("now", "Stamps of the images: now, as a camera's, or source, as in the input."),
    "steering": ("false", "Start the steering node on the tokens of the perception; needs stamps:=now."),
    "rviz": ("true", "Start RViz with all outputs."),
    "record": ("", "Write the outputs to this bag folder; empty: do not record."),
    "model": ("", "Model name, or a directory with a manifest.json; empty: the parameter file's."),
    "camera_height": ("", "Height of the camera over the road, metres; empty: the parameter file's."),
}
PASSED_ON = ("rviz", "record", "steering", "model", "camera_height")


def generate_launch_description() -> LaunchDescription:
    use = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    perception = PathJoinSubstitution([FindPackageShare("dvps_ros"), "launch", "dvps.launch.py"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(perception),
                launch_arguments=[
                    ("image", "/camera/image_raw"),
                    ("camera_info", "/camera/camera_info"),
                    *((name, use[name]) for name in PASSED_ON),
                ],
            ),
            Node(
                package="dvps_ros",
                executable="dvps_player",
                name="dvps_player",
                output="screen",
                parameters=[
                    {
                        "source": ParameterValue(use["source"], value_type=str),
                        "camera": ParameterValue(use["camera"], value_type=str),
                        "fov_deg": ParameterValue(use["fov"], value_type=float),
                        "rate_hz": ParameterValue(use["rate"], value_type=float),
                        "loop": ParameterValue(use["loop"], value_type=bool),
                        "stamps": ParameterValue(use["stamps"], value_type=str),
                    }
                ],
                remappings=[
                    ("image", "/camera/image_raw"),
                    ("image/compressed", "/camera/image_raw/compressed"),
                    ("camera_info", "/camera/camera_info"),
                    ("processed", "/dvps/output/scale"),
                    ("labels", "/dvps/output/labels"),
                ],
            ),
        ]
    )
