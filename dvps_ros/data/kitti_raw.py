# SPDX-License-Identifier: Apache-2.0
"""Clips of a KITTI raw drive with sparse truth: LiDAR depth, object ids, classes, motion of the scene.

On top of :mod:`dvps_ros.data.kitti_drive` it reads classes, poses and steering: from ``tracklet_labels.xml``
and ``oxts/data`` of a drive as published, or from ``objects.csv`` (classes of the annotated objects),
``poses_cam2.txt`` (3x4 a line, camera to first camera) and ``steering.csv`` (``road_wheel_angle_rad``,
``speed_mps``). Not every object of the scene is annotated, so pixels outside the boxes have no class.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvps_ros.data.images import read_sized
from dvps_ros.data.kitti_drive import DriveLidar, kitti_drive
from dvps_ros.data.kitti_velodyne import poses_from_oxts, read_oxts, steering_from_oxts
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import CameraModel, Sample

CLASS_OF_TYPE = {"Car": "car", "Van": "car", "Truck": "truck", "Pedestrian": "person"}
"""Cyclists are left out: their points lie on rider and bicycle alike."""
ABOVE_GROUND = 0.1
"""Lowest share of a box's height whose points have no class: they may lie on the road."""


class KittiRaw:
    """A drive; ``clip(first, frames)`` reads frames from disk.

    Raises:
        InputError: a file is missing or damaged, or counts do not fit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sequence = kitti_drive(folder, camera=None)
        if not any((folder / name).is_dir() for name in ("velodyne_points", "lidar_depth_02")):
            raise InputError(
                f"KITTI drive {folder}: expected LiDAR in velodyne_points/data or lidar_depth_02"
            )
        self.camera: CameraModel = self.sequence.camera
        read = _read_prepared if (folder / "poses_cam2.txt").is_file() else _read_published
        self.world_from_camera, self.steering_rad, self.speed_mps, kinds = read(folder, self.camera)
        frames = self.sequence.frames
        if not frames == len(self.world_from_camera) == len(self.steering_rad):
            raise InputError(
                f"KITTI drive {folder}: {frames} images, {len(self.world_from_camera)} poses, "
                f"{len(self.steering_rad)} steering angles"
            )
        unknown = ~np.isfinite(self.world_from_camera).all((1, 2))
        if unknown.any():
            raise InputError(
                f"KITTI drive {folder}: expected finite poses, frame {int(np.argmax(unknown))} has none"
            )
        self.annotated = kinds is not None
        self.class_of_track = {
            track: CITYSCAPES.id_of(CLASS_OF_TYPE[kind])
            for track, kind in (kinds or {}).items()
            if kind in CLASS_OF_TYPE
        }

    def __len__(self) -> int:
        return len(self.steering_rad)

    def clip(self, first: int, frames: int) -> Sample:
        """Consecutive frames as one sample; truth on LiDAR points only."""
        if not 0 <= first <= first + frames <= len(self):
            raise InputError(
                f"KITTI drive: frames {first}..{first + frames - 1} are not within 0..{len(self) - 1}"
            )
        stamps = self.sequence.stamps_ns[first : first + frames]
        parts = [self._frame(stamp) for stamp in stamps]
        depth = np.concatenate([p.depth_m for p in parts])
        ids = np.concatenate([p.instance_map for p in parts])
        poses = self.world_from_camera[first : first + frames]
        # Without annotation nothing is known to stand still.
        static = (depth > 0) & (ids < 0) & self.annotated
        flow = np.full((*depth.shape, 2), np.nan, np.float32)
        for t in range(1, frames):
            flow[t] = static_flow(depth[t], static[t], self.camera, np.linalg.inv(poses[t - 1]) @ poses[t])
        return Sample(
            images=np.concatenate([p.images for p in parts]),
            intrinsics=np.concatenate([p.intrinsics for p in parts]),
            source=f"{parts[0].source} +{frames}",
            class_map=np.stack([self._classes(i, d) for i, d in zip(ids, depth, strict=True)]),
            instance_map=ids,
            depth_m=depth,
            flow_px=flow,
            world_from_camera=poses,
            steering_rad=self.steering_rad[first : first + frames],
            speed_mps=self.speed_mps[first : first + frames],
            stamps_ns=np.array(stamps, np.int64),
        )

    def problems(self) -> Iterator[str | None]:
        """After each frame None, or a sentence naming the file that is missing or damaged."""
        for stamp_ns in self.sequence.stamps_ns:
            try:
                if self.sequence.truth(stamp_ns) is None:
                    yield f"{self.sequence.path_of[stamp_ns]}: no LiDAR of this frame"
            except InputError as error:
                yield str(error)
            yield None

    def _frame(self, stamp_ns: int) -> Sample:
        """Image, depth (all 0 where there is no scan) and ids (all -1 in a drive without annotation)."""
        sample = self.sequence.truth(stamp_ns)
        if sample is None:
            path = self.sequence.path_of[stamp_ns]
            image = read_sized(path, self.camera)
            depth_m = np.zeros((1, *image.shape[:2]), np.float32)
            name = f"{self.folder.name}/{path.stem}"
            sample = Sample(image[None], self.camera.vector[None], name, depth_m=depth_m)
        if sample.instance_map is None:
            return replace(sample, instance_map=np.full(sample.truth("depth_m").shape, -1, np.int32))
        return sample

    def _classes(self, ids: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """uint8 [H,W]: class on points of annotated objects, but for the lowest tenth of each box."""
        classes = np.full(ids.shape, VOID, np.uint8)
        for track, class_id in self.class_of_track.items():
            rows = np.nonzero(ids == track)
            if len(rows[0]):
                top, bottom = rows[0].min(), rows[0].max()
                keep = rows[0] <= bottom - ABOVE_GROUND * (bottom - top)
                classes[rows[0][keep], rows[1][keep]] = class_id
        return classes


Motion = tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str] | None]
"""Poses float64 [N,4,4], camera to first; steering rad and speed m/s, float32 [N]; track id -> type, None
where the drive was not annotated."""


def _read_published(folder: Path, camera: CameraModel) -> Motion:
    lidar = DriveLidar(folder, camera)
    oxts = read_oxts(folder)
    steering, speed = steering_from_oxts(oxts)
    return (
        poses_from_oxts(oxts, np.linalg.inv(lidar.camera_from_imu)),
        steering.astype(np.float32),
        speed.astype(np.float32),
        None if lidar.tracklets is None else {i + 1: t.kind for i, t in enumerate(lidar.tracklets)},
    )


def _read_prepared(folder: Path, _: CameraModel) -> Motion:
    try:
        poses = np.loadtxt(folder / "poses_cam2.txt").reshape(-1, 3, 4)
        with (folder / "steering.csv").open(newline="") as f:
            rows = [(float(r["road_wheel_angle_rad"]), float(r["speed_mps"])) for r in csv.DictReader(f)]
        with (folder / "objects.csv").open(newline="") as f:
            kinds = {int(row["track_id"]): row["type"] for row in csv.DictReader(f)}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"KITTI drive {folder}: cannot read poses, steering or objects ({error!r})"
        ) from error
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 1, 4))
    steering, speed = np.array(rows, np.float32).reshape(-1, 2).T
    return np.concatenate([poses, bottom], axis=1), steering.copy(), speed.copy(), kinds


def static_flow(
    depth_m: np.ndarray, static: np.ndarray, camera: CameraModel, previous_from_current: np.ndarray
) -> np.ndarray:
    """float32 [H,W,2]: where a static point was in the previous image, minus where it is; NaN elsewhere.

    Args:
        depth_m: float32 [H,W] z-depth.
        static: bool [H,W], pixels with depth that do not move over ground.
        previous_from_current: float64 [4,4], camera to previous camera.
    """
    flow = np.full((*depth_m.shape, 2), np.nan, np.float32)
    v, u = np.nonzero(static)
    z = depth_m[v, u].astype(np.float64)
    points = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
    moved = previous_from_current[:3, :3] @ points + previous_from_current[:3, 3:]
    front = moved[2] > 0.1
    u, v, moved = u[front], v[front], moved[:, front]
    flow[v, u, 0] = camera.fx * moved[0] / moved[2] + camera.cx - u
    flow[v, u, 1] = camera.fy * moved[1] / moved[2] + camera.cy - v
    return flow
