# SPDX-License-Identifier: Apache-2.0
"""KITTI raw as it is published (Geiger et al., IJRR 2013): LiDAR scans, tracklets and OXTS of a drive.

Beside ``image_02/data`` a drive holds ``velodyne_points/data/*.bin`` (float32 x, y, z, reflectance; metres, x
forward, y left, z up), ``oxts/data/*.txt`` (GPS and IMU) and, if it was annotated, ``tracklet_labels.xml``
(boxes in the frame of the LiDAR). The calibration of the day lies one folder above.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dvps_ros.data.images import visible
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

EARTH_RADIUS_M = 6378137.0
WHEELBASE_M = 2.71
"""Of the recording car, a VW Passat."""
MIN_SPEED_MPS = 0.5
"""Below it the curvature is that of this speed: a standing car turns on the spot by noise only."""
_LAT, _LON, _ALT, _ROLL, _PITCH, _YAW, _FORWARD, _YAW_RATE = 0, 1, 2, 3, 4, 5, 8, 22


def rigid(calibration: Mapping[str, Sequence[float]]) -> np.ndarray:
    """float64 [4,4] of the entries R and T of ``calib_velo_to_cam.txt`` or ``calib_imu_to_velo.txt``."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(calibration["R"], (3, 3))
    matrix[:3, 3] = calibration["T"]
    return matrix


def camera_from_velo(cameras: Mapping[str, Sequence[float]], camera0_from_velo: np.ndarray) -> np.ndarray:
    """float64 [4,4]: LiDAR points into the rectified left colour camera (number 2).

    Args:
        cameras: ``calib_cam_to_cam.txt``, parsed.
    """
    rectify, projection = np.eye(4), np.reshape(cameras["P_rect_02"], (3, 4))
    rectify[:3, :3] = np.reshape(cameras["R_rect_00"], (3, 3))
    shift = np.eye(4)  # P = K [I | shift]
    shift[:3, 3] = np.linalg.solve(projection[:, :3], projection[:, 3])
    return shift @ rectify @ camera0_from_velo


def read_scan(path: Path) -> np.ndarray:
    """float32 [N,3] points of a scan, metres, in the frame of the LiDAR.

    Raises:
        InputError: naming the file: missing, or not whole points of four numbers.
    """
    try:
        size = path.stat().st_size
        if size == 0 or size % 16:
            raise InputError(f"{path}: expected points of 16 bytes, got {size} bytes")
        return np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def project_scan(
    points: np.ndarray, ids: np.ndarray, camera_from_velo: np.ndarray, camera: CameraModel
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and object id of a scan in the image; of several points on a pixel the nearest counts.

    Args:
        points: [N,3] in the frame of the LiDAR.
        ids: int32 [N].

    Returns:
        float32 [H,W] z-depth, 0 without a point; int32 [H,W] id, -1 without a point.
    """
    points = points.astype(np.float64) @ camera_from_velo[:3, :3].T + camera_from_velo[:3, 3]
    front = points[:, 2] > 0.1
    x, y, z = points[front].T
    u = np.rint(camera.fx * x / z + camera.cx).astype(np.int64)
    v = np.rint(camera.fy * y / z + camera.cy).astype(np.int64)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    order = np.flatnonzero(inside)[np.argsort(-z[inside], kind="stable")]
    depth_m = np.zeros((camera.height, camera.width), np.float32)
    id_map = np.full(depth_m.shape, -1, np.int32)
    depth_m[v[order], u[order]] = z[order]
    id_map[v[order], u[order]] = ids[front][order]
    return depth_m, id_map


@dataclass(frozen=True)
class Tracklet:
    """An annotated object: a box of fixed size that moves."""

    kind: str
    size_m: tuple[float, float, float]
    """Length, width, height."""
    first_frame: int
    poses: np.ndarray
    """float64 [N,4]: x, y, z of the bottom's centre in the frame of the LiDAR (m), yaw (rad), one a frame."""

    def holds(self, points: np.ndarray, frame: int) -> np.ndarray:
        """bool [N]: points [N,3] inside the box in a frame; none where it does not exist."""
        if not 0 <= frame - self.first_frame < len(self.poses):
            return np.zeros(len(points), bool)
        x, y, z, yaw = self.poses[frame - self.first_frame]
        length, width, height = self.size_m
        away = points - (x, y, z)
        along = math.cos(yaw) * away[:, 0] + math.sin(yaw) * away[:, 1]
        across = -math.sin(yaw) * away[:, 0] + math.cos(yaw) * away[:, 1]
        up = away[:, 2]
        return (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2) & (up >= 0) & (up <= height)


def read_tracklets(path: Path) -> list[Tracklet]:
    """The objects of ``tracklet_labels.xml``; their track id is their place in the list plus 1.

    Raises:
        InputError: naming the file: unreadable, or not of this form.
    """
    try:
        items = ElementTree.parse(path).getroot().findall("./tracklets/item")
        return [
            Tracklet(
                _text(item, "objectType"),
                (float(_text(item, "l")), float(_text(item, "w")), float(_text(item, "h"))),
                int(_text(item, "first_frame")),
                np.array(
                    [
                        [float(_text(pose, key)) for key in ("tx", "ty", "tz", "rz")]
                        for pose in item.findall("./poses/item")
                    ]
                ).reshape(-1, 4),
            )
            for item in items
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(f"cannot read tracklets {path}: {error}") from error


def _text(element: ElementTree.Element, key: str) -> str:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"an item lacks {key}")
    return text


def read_oxts(folder: Path) -> np.ndarray:
    """float64 [N,30]: one row a file of ``oxts/data``.

    Raises:
        InputError: none there, or naming every file that does not hold thirty numbers.
    """
    rows, problems = [], []
    for path in sorted(visible(folder / "oxts" / "data", "*.txt")):
        try:
            row = np.array(path.read_text().split(), np.float64)
            if len(row) != 30:
                raise ValueError(f"expected 30 numbers, got {len(row)}")
            rows.append(row)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise InputError("; ".join(problems))
    if not rows:
        raise InputError(f"{folder / 'oxts' / 'data'}: expected text files of GPS and IMU, found none")
    return np.stack(rows)


def poses_from_oxts(oxts: np.ndarray, imu_from_camera: np.ndarray) -> np.ndarray:
    """float64 [N,4,4]: camera to first camera, by a Mercator projection as in the KITTI development kit."""
    scale = math.cos(math.radians(oxts[0, _LAT]))
    world_from_imu = np.tile(np.eye(4), (len(oxts), 1, 1))
    latitude, longitude = np.radians(oxts[:, _LAT]), np.radians(oxts[:, _LON])
    world_from_imu[:, 0, 3] = scale * EARTH_RADIUS_M * longitude
    world_from_imu[:, 1, 3] = scale * EARTH_RADIUS_M * np.log(np.tan(np.pi / 4 + latitude / 2))
    world_from_imu[:, 2, 3] = oxts[:, _ALT]
    for pose, roll, pitch, yaw in zip(
        world_from_imu, oxts[:, _ROLL], oxts[:, _PITCH], oxts[:, _YAW], strict=True
    ):
        pose[:3, :3] = _turn(yaw, 0, 1) @ _turn(pitch, 2, 0) @ _turn(roll, 1, 2)
    # Metres from the first position: the numbers of the projection are in the millions.
    world_from_imu[:, :3, 3] -= world_from_imu[0, :3, 3].copy()
    world_from_camera = world_from_imu @ imu_from_camera
    return np.linalg.inv(world_from_camera[0]) @ world_from_camera


def _turn(angle: float, a: int, b: int) -> np.ndarray:
    """Rotation from axis a towards axis b."""
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[b, a] = math.sin(angle)
    matrix[a, b] = -math.sin(angle)
    return matrix


def steering_from_oxts(oxts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Road-wheel angle (rad, left positive) and speed (m/s) [N] of a bicycle model: KITTI logs no wheel."""
    speed = oxts[:, _FORWARD]
    curvature = oxts[:, _YAW_RATE] / np.maximum(speed, MIN_SPEED_MPS)
    return np.arctan(WHEELBASE_M * curvature), speed
