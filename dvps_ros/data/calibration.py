# SPDX-License-Identifier: Apache-2.0
"""Camera calibration files, and the choice of a camera model for an input."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvps_ros.errors import InputError
from dvps_ros.files import read_data, write_text
from dvps_ros.types import CameraModel

log = logging.getLogger(__name__)

DISTORTION_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")


def load_camera(path: str | Path) -> CameraModel:
    """Read a camera file.

    Two forms are known: the YAML of ROS's ``camera_info_manager`` (``image_width``, ``camera_matrix``, ...),
    and JSON with ``width``, ``height``, ``K`` (3x3) and ``distortion`` or ``distortion_plumb_bob``.

    Raises:
        InputError: the file is missing, is neither form, or holds values that are no camera.
    """
    try:
        data = read_data(path)
    except ValueError as error:
        raise InputError(f"cannot read camera file {path}: {error}") from error
    try:
        if "camera_matrix" in data:
            fx, _, cx, _, fy, cy, *_ = data["camera_matrix"]["data"]
            size = data["image_width"], data["image_height"]
            distortion = data.get("distortion_coefficients", {}).get("data", ())
            model = data.get("distortion_model", "plumb_bob")
        else:
            (fx, _, cx), (_, fy, cy), _ = data["K"]
            size = data["width"], data["height"]
            distortion = data.get("distortion", data.get("distortion_plumb_bob", ()))
            model = data.get("distortion_model", "plumb_bob")
        return camera_from_numbers(*size, (fx, fy, cx, cy), distortion, model)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"camera file {path}: expected the YAML of camera_info_manager (image_width, camera_matrix, "
            f"...) or JSON with width, height, K and distortion; got {type(error).__name__}: {error}"
        ) from error
    except InputError as error:
        raise InputError(f"camera file {path}: {error}") from error


def save_camera(path: str | Path, camera: CameraModel) -> None:
    """Write the JSON form that :func:`load_camera` reads.

    Raises:
        OutputError: the file cannot be written.
    """
    data = {
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "distortion_model": camera.distortion_model,
        "distortion": list(camera.distortion),
    }
    write_text(Path(path), json.dumps(data, indent=1))


def camera_from_numbers(
    width: int, height: int, focal_and_center: Sequence[float], distortion: Sequence[float], model: str
) -> CameraModel:
    """A camera model; a distortion of zeros only becomes none.

    Args:
        focal_and_center: fx, fy, cx, cy in pixels.
    """
    coefficients = tuple(float(d) for d in distortion)
    if not any(coefficients):
        coefficients = ()
    ideal = CameraModel.from_vector(int(width), int(height), focal_and_center)
    return dataclasses.replace(ideal, distortion=coefficients, distortion_model=model or "plumb_bob")


def camera_from_info(info: Any, *, rectified: bool) -> CameraModel:
    """The camera of a ``sensor_msgs/CameraInfo``, of ROS 1 (fields D, K, P) or ROS 2 (d, k, p).

    Region of interest and binning are taken into account: the camera is that of the image as published.

    Args:
        rectified: the images are rectified: the projection matrix holds and there is no distortion.

    Raises:
        InputError: zero focal length (uncalibrated), no size, numbers not finite, or an unknown distortion.
    """
    k, d, p = (getattr(info, n) if hasattr(info, n) else getattr(info, n.upper()) for n in "kdp")
    matrix, columns = (p, 4) if rectified and p[0] > 0 else (k, 3)
    fx, fy, cx, cy = (float(matrix[i]) for i in (0, columns + 1, 2, columns + 2))
    if not all(math.isfinite(v) for v in (fx, fy, cx, cy, *d)):
        raise InputError(
            f"camera_info: expected finite numbers, got fx, fy, cx, cy = {fx}, {fy}, {cx}, {cy} "
            f"and distortion {[float(v) for v in d]}"
        )
    if fx <= 0 or fy <= 0:
        raise InputError(
            f"camera_info: expected positive focal lengths, got fx={fx}, fy={fy}: it is not calibrated"
        )
    if info.width == 0 or info.height == 0:
        raise InputError(f"camera_info: expected the size of the image, got {info.width}x{info.height}")
    distorted = not rectified and any(d)
    if distorted and info.distortion_model not in DISTORTION_MODELS:
        raise InputError(
            f"camera_info: unknown distortion model {info.distortion_model!r}; "
            f"expected one of {', '.join(DISTORTION_MODELS)}"
        )
    roi, bin_x, bin_y = info.roi, max(1, info.binning_x), max(1, info.binning_y)
    width, height = (roi.width, roi.height) if roi.width and roi.height else (info.width, info.height)
    # Integer coordinates are pixel centres, so the image begins at -0.5.
    center = (cx - roi.x_offset + 0.5) / bin_x - 0.5, (cy - roi.y_offset + 0.5) / bin_y - 0.5
    return camera_from_numbers(
        width // bin_x,
        height // bin_y,
        (fx / bin_x, fy / bin_y, *center),
        d if distorted else (),
        info.distortion_model,
    )


def camera_for(
    name: str, width: int, height: int, *, camera: CameraModel | None, fov_deg: float | None
) -> CameraModel:
    """The camera model of an input that has no calibration of its own.

    A camera file of another size with the same shape (a scaled video) is scaled to the input.

    Raises:
        InputError: neither a camera nor a field of view is known, or the camera is of another shape.
    """
    if camera is None and fov_deg is None:
        raise InputError(
            f"{name} has no camera calibration: pass the horizontal field of view in degrees (--fov, FOV=90) "
            "or a camera file (--camera, CAMERA=camera.yaml)"
        )
    if camera is None:
        return CameraModel.from_fov(width, height, float(fov_deg))  # type: ignore[arg-type]
    if (camera.width, camera.height) == (width, height):
        return camera
    scale = width / camera.width
    if abs(camera.height * scale - height) > max(1.0, 0.01 * height):
        raise InputError(
            f"camera file is for {camera.width}x{camera.height} pixels, but {name} has {width}x{height}: "
            "pass the calibration of this camera"
        )
    log.info("%s: calibration of %dx%d scaled to %dx%d", name, camera.width, camera.height, width, height)
    # Distortion acts on normalised coordinates, so it does not change with the size.
    return dataclasses.replace(
        camera.resized(scale, width, height),
        distortion=camera.distortion,
        distortion_model=camera.distortion_model,
    )


def camera_from_kitti(calibration: Mapping[str, Sequence[float]], index: int) -> CameraModel:
    """The rectified camera ``index`` of a KITTI raw ``calib_cam_to_cam.txt`` parsed to lists of numbers."""
    p = calibration[f"P_rect_{index:02d}"]
    width, height = calibration[f"S_rect_{index:02d}"]
    return CameraModel(int(width), int(height), p[0], p[5], p[2], p[6])
