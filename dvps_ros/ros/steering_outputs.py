# SPDX-License-Identifier: Apache-2.0
"""What the steering node publishes of a frame: one table of topics and how each is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Header

from dvps_ros import msg as dvps_msg
from dvps_ros.runtime.steering import SteeringResult

PATH_STEP_M = 0.5


class OutputConfig(Protocol):
    """The parameters of the node that its outputs need."""

    @property
    def path_length_m(self) -> float: ...

    @property
    def ackermann_speed_mps(self) -> float: ...


@dataclass(frozen=True)
class SteeringOutput:
    """One topic; ``build`` gives None where there is nothing to publish."""

    type: type
    build: Callable[[SteeringResult, Header, int, OutputConfig], Any]


def command_message(
    result: SteeringResult, header: Header, age_ns: int, config: OutputConfig
) -> dvps_msg.SteeringCommand:
    """The command; its numbers are NaN where it is not valid."""
    age_ns = max(0, age_ns)
    return dvps_msg.SteeringCommand(
        header=header,
        valid=result.valid,
        tyre_angle=result.tyre_angle_rad,
        curvature=result.curvature_per_m,
        confidence=result.confidence,
        age=Duration(sec=min(age_ns // 10**9, 2**31 - 1), nanosec=age_ns % 10**9),
    )


def arc_points(curvature_per_m: float, length_m: float) -> list[tuple[float, float, float]]:
    """x, y, yaw along an arc that starts at the base frame, :data:`PATH_STEP_M` apart."""
    points = []
    for i in range(int(length_m / PATH_STEP_M) + 1):
        s = i * PATH_STEP_M
        yaw = curvature_per_m * s
        # sin(yaw)/yaw and (1 - cos(yaw))/yaw, which the half angle keeps exact near zero.
        half = math.sin(yaw / 2) / (yaw / 2) if abs(yaw) > 1e-9 else 1.0
        points.append((s * half * math.cos(yaw / 2), s * half * math.sin(yaw / 2), yaw))
    return points


def optional_outputs() -> dict[str, SteeringOutput]:
    """Topics of packages that may be missing: ``nav_msgs`` and ``ackermann_msgs``."""
    table = {}
    try:
        from nav_msgs.msg import Path
    except ImportError:
        pass
    else:

        def path(result: SteeringResult, header: Header, age_ns: int, config: OutputConfig) -> Path:
            message = Path(header=header)  # without poses where there is no command: viewers clear it
            if result.valid:
                for x, y, yaw in arc_points(result.curvature_per_m, config.path_length_m):
                    pose = PoseStamped(header=header)
                    pose.pose.position.x, pose.pose.position.y = x, y
                    pose.pose.orientation.z = math.sin(yaw / 2)
                    pose.pose.orientation.w = math.cos(yaw / 2)
                    message.poses.append(pose)
            return message

        table["~/output/path"] = SteeringOutput(Path, path)
    try:
        from ackermann_msgs.msg import AckermannDriveStamped
    except ImportError:
        pass
    else:

        def drive(
            result: SteeringResult, header: Header, age_ns: int, config: OutputConfig
        ) -> AckermannDriveStamped | None:
            if not result.valid:
                return None  # the message cannot say so: its receiver needs a time-out
            message = AckermannDriveStamped(header=header)
            message.drive.steering_angle = result.tyre_angle_rad
            message.drive.speed = config.ackermann_speed_mps
            return message

        table["~/output/ackermann"] = SteeringOutput(AckermannDriveStamped, drive)
    return table


STEERING_OUTPUTS = {"~/output/command": SteeringOutput(dvps_msg.SteeringCommand, command_message)}
"""What is always published."""
