# SPDX-License-Identifier: Apache-2.0
"""KITTI raw drives (synced and rectified) as a sequence of camera frames with LiDAR truth."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path

import numpy as np

from dvps_ros.data.calibration import camera_from_kitti
from dvps_ros.data.images import ImageSequence, image_files, read_sized
from dvps_ros.data.kitti_velodyne import camera_from_velo, project_scan, read_scan, read_tracklets, rigid
from dvps_ros.data.layout import read_depth, read_png
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample


def kitti_drive(folder: Path, *, camera: CameraModel | None) -> ImageSequence:
    """The left colour camera of a KITTI raw drive (synced and rectified).

    Known layouts: the published one (``image_02/data``, ``image_02/timestamps.txt``, ``calib_*.txt`` in the
    parent folder; ``velodyne_points/data`` and ``tracklet_labels.xml`` as truth), and a flat one
    (``image_02/*.jpg``, ``timestamps_image_02.txt`` and ``calib_cam_to_cam.txt`` in the drive,
    ``lidar_depth_02/*.png`` and ``lidar_inst_02/*.png`` as truth).

    Raises:
        InputError: images, calibration or time stamps are missing or do not fit together.
    """
    images = folder / "image_02"
    paths = image_files(images)
    if camera is None:
        camera = camera_from_kitti(_drive_calibration(folder, "cam_to_cam", S_rect_02=2, P_rect_02=12), 2)
    stamps_ns = read_kitti_stamps(_first_file(images / "timestamps.txt", folder / "timestamps_image_02.txt"))
    if len(stamps_ns) != len(paths):
        raise InputError(f"KITTI drive {folder}: {len(paths)} images but {len(stamps_ns)} time stamps")
    truth = None
    if (folder / "lidar_depth_02").is_dir():
        truth = partial(_lidar_images, folder, camera)
    elif (folder / "velodyne_points").is_dir():
        truth = partial(_projected_scans, DriveLidar(folder, camera))
    name = folder.resolve().name
    return ImageSequence(name, paths, stamps_ns, camera, frame_id="camera_optical", truth=truth)


class DriveLidar:
    """Scans and tracklets of a drive as published, seen by its left colour camera.

    Raises:
        InputError: calibration or tracklets cannot be read.
    """

    def __init__(self, folder: Path, camera: CameraModel) -> None:
        self.folder = folder
        self.camera = camera
        cameras = _drive_calibration(folder, "cam_to_cam", P_rect_02=12, R_rect_00=9)
        camera0_from_velo, velo_from_imu = (
            _drive_calibration(folder, name, R=9, T=3) for name in ("velo_to_cam", "imu_to_velo")
        )
        self.camera_from_velo = camera_from_velo(cameras, rigid(camera0_from_velo))
        self.camera_from_imu = self.camera_from_velo @ rigid(velo_from_imu)
        labels = folder / "tracklet_labels.xml"
        self.tracklets = read_tracklets(labels) if labels.is_file() else None
        """None where the drive was not annotated."""

    def scan(self, frame: int) -> Path:
        """The file of a frame number; it may not be there."""
        return self.folder / "velodyne_points" / "data" / f"{frame:010d}.bin"

    def truth(self, frame: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Depth float32 [H,W] (m, 0 unknown) and id int32 [H,W] (-1 outside the boxes) of a frame number.

        Raises:
            InputError: the scan of this frame is missing or damaged.
        """
        points = read_scan(self.scan(frame))
        ids = np.full(len(points), -1, np.int32)
        for i, tracklet in enumerate(self.tracklets or ()):
            ids[tracklet.holds(points, frame)] = i + 1
        depth_m, id_map = project_scan(points, ids, self.camera_from_velo, self.camera)
        return depth_m, None if self.tracklets is None else id_map


def _drive_calibration(folder: Path, name: str, **counts: int) -> dict[str, list[float]]:
    """``calib_<name>.txt`` of the drive, or of its day.

    Args:
        counts: how many numbers each of these entries must have.

    Raises:
        InputError: naming the file: missing, unreadable, or an entry lacks numbers.
    """
    file = f"calib_{name}.txt"
    path = _first_file(folder / file, folder.resolve().parent / file)
    try:
        numbers = read_kitti_calibration(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read KITTI calibration {path}: {error}") from error
    for key, count in counts.items():
        found = numbers.get(key, [])
        if len(found) != count or not np.isfinite(found).all():
            raise InputError(f"{path}: expected {count} finite numbers as {key}, got {found or 'none'}")
    return numbers


def _first_file(*candidates: Path) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"KITTI drive: expected a file {' or '.join(map(str, candidates))}")


def read_kitti_calibration(path: Path) -> dict[str, list[float]]:
    """``name: numbers`` lines of a KITTI calibration file; lines that hold no numbers are left out."""
    numbers = {}
    for line in path.read_text().splitlines():
        key, _, values = line.partition(":")
        try:
            numbers[key] = [float(v) for v in values.split()]
        except ValueError:
            continue
    return numbers


def read_kitti_stamps(path: Path) -> list[int]:
    """Lines ``2011-09-26 13:02:25.964389445`` as nanoseconds since 1970, read as UTC.

    Raises:
        InputError: unreadable, a line is no time, or not after the one before.
    """
    stamps: list[int] = []
    try:
        for line in filter(None, path.read_text().splitlines()):
            seconds, _, fraction = line.partition(".")
            whole = datetime.datetime.fromisoformat(seconds).replace(tzinfo=datetime.timezone.utc)
            stamps.append(int(whole.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9]))
            if len(stamps) > 1 and stamps[-1] <= stamps[-2]:
                raise ValueError(f"expected a time after that of the line before, got {line}")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read time stamps {path}: {error}") from error
    return stamps


def _lidar_images(folder: Path, camera: CameraModel, image: Path) -> Sample | None:
    """Truth that was projected before: 16-bit images of depth (metres x 256) and of ids (0 none); None of a
    frame that has none."""
    name = f"{image.stem}.png"
    if not (folder / "lidar_depth_02" / name).exists():
        return None
    depth_m = read_depth(folder / "lidar_depth_02" / name)
    instance = None
    if (folder / "lidar_inst_02").is_dir():
        instance = read_png(folder / "lidar_inst_02" / name).astype(np.int32)
        instance[instance == 0] = -1
    return _sparse_sample(folder.name, image, camera, depth_m, instance)


def _projected_scans(lidar: DriveLidar, image: Path) -> Sample | None:
    """None of a frame without a scan: of the drives as published some lack a few."""
    if not lidar.scan(int(image.stem)).exists():
        return None
    return _sparse_sample(lidar.folder.name, image, lidar.camera, *lidar.truth(int(image.stem)))


def _sparse_sample(
    name: str, image: Path, camera: CameraModel, depth_m: np.ndarray, instance: np.ndarray | None
) -> Sample:
    """Sparse depth and object ids of LiDAR points; the id is unknown (-1) outside the annotated boxes."""
    return Sample(
        read_sized(image, camera)[None],
        camera.vector[None],
        f"{name}/{image.stem}",
        instance_map=None if instance is None else instance[None],
        depth_m=depth_m[None],
    )
