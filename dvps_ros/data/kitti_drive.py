# SPDX-License-Identifier: Apache-2.0
"""KITTI raw drives (synced and rectified) as a sequence of camera frames with LiDAR truth."""

from __future__ import annotations

import datetime
from pathlib import Path

import cv2
import numpy as np

from dvps_ros.data.calibration import camera_from_kitti
from dvps_ros.data.images import ImageSequence, image_files, read_image
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample


def kitti_drive(folder: Path, *, camera: CameraModel | None) -> ImageSequence:
    """The left colour camera of a KITTI raw drive (synced and rectified).

    Known layouts: the original one (``image_02/data``, ``image_02/timestamps.txt``, ``calib_cam_to_cam.txt``
    in the parent folder), and a flat one (``image_02/*.jpg``, ``timestamps_image_02.txt`` and
    ``calib_cam_to_cam.txt`` in the drive, ``lidar_depth_02/*.png`` and ``lidar_inst_02/*.png`` as truth).

    Raises:
        InputError: images, calibration or time stamps are missing or do not fit together.
    """
    images = folder / "image_02"
    paths = image_files(images)
    if camera is None:
        file = _first_file(folder / "calib_cam_to_cam.txt", folder.resolve().parent / "calib_cam_to_cam.txt")
        try:
            camera = camera_from_kitti(read_kitti_calibration(file), 2)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot read KITTI calibration {file}: {error!r}") from error
    stamps_ns = read_kitti_stamps(_first_file(images / "timestamps.txt", folder / "timestamps_image_02.txt"))
    if len(stamps_ns) != len(paths):
        raise InputError(f"KITTI drive {folder}: {len(paths)} images but {len(stamps_ns)} time stamps")
    has_truth = (folder / "lidar_depth_02").is_dir()

    def truth(image: Path) -> Sample:
        return _lidar_truth(folder, image, camera)

    name = folder.resolve().name
    return ImageSequence(
        name, paths, stamps_ns, camera, frame_id="camera_optical", truth=truth if has_truth else None
    )


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
    """Lines ``2011-09-26 13:02:25.964389445`` as nanoseconds since 1970, read as UTC."""
    stamps = []
    for line in filter(None, path.read_text().splitlines()):
        seconds, _, fraction = line.partition(".")
        try:
            whole = datetime.datetime.fromisoformat(seconds).replace(tzinfo=datetime.timezone.utc)
            stamps.append(int(whole.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9]))
        except ValueError as error:
            raise InputError(f"cannot read time stamps {path}: {error}") from error
    return stamps


def _lidar_truth(folder: Path, image: Path, camera: CameraModel) -> Sample:
    """Sparse depth and object ids of LiDAR points; the id is unknown (-1) outside the annotated boxes."""
    name = f"{image.stem}.png"
    depth = cv2.imread(str(folder / "lidar_depth_02" / name), cv2.IMREAD_UNCHANGED)
    if depth is None:
        raise InputError(f"cannot read LiDAR depth {folder / 'lidar_depth_02' / name}")
    ids = cv2.imread(str(folder / "lidar_inst_02" / name), cv2.IMREAD_UNCHANGED)
    instance = None
    if ids is not None:
        instance = ids.astype(np.int32)
        instance[ids == 0] = -1
        instance = instance[None]
    return Sample(
        read_image(image)[None],
        camera.vector[None],
        f"{folder.name}/{image.stem}",
        instance_map=instance,
        depth_m=(depth.astype(np.float32) / 256.0)[None],
    )
