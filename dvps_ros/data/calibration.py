# SPDX-License-Identifier: Apache-2.0
"""Camera calibration files, and the choice of a camera model for an input."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from dvps_ros.errors import InputError
from dvps_ros.files import read_bytes, read_data, write_text
from dvps_ros.geometry.camera import COEFFICIENTS
from dvps_ros.types import CameraModel

log = logging.getLogger(__name__)

ALIASES = {
    "plumb_bob": "plumb_bob",
    "radtan": "plumb_bob",
    "radial_tangential": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "opencv": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "rational": "rational_polynomial",
    "full_opencv": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
    "opencv_fisheye": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
    "kb4": "equidistant",
}
"""Name of a distortion model as drivers write it (in lower case, parted by _) -> ROS's."""
NONE = ("", "none", "pinhole", "ideal", "perspective")
"""Names that say nothing: then there must be no coefficients."""
FOREIGN = {
    "inverse_brown_conrady": "it maps in the other direction than plumb_bob",
    "modified_brown_conrady": "its tangential part differs from plumb_bob's",
    "ftheta": "its polynomial is of the angle, in pixels",
    "f_theta": "its polynomial is of the angle, in pixels",
    "mei": "its mirror parameter is not in the coefficients of ROS",
    "omnidirectional": "its mirror parameter is not in the coefficients of ROS",
    "double_sphere": "its two spheres are not in the coefficients of ROS",
    "fov": "it is not implemented",
}
"""Names of models that this package does not know -> why not to take another one for them."""
REMEDY = (
    "rectify the images (image_proc), or calibrate the camera as plumb_bob, rational_polynomial or "
    "equidistant and give that file (--camera, CAMERA=)"
)


def distortion_of(name: str, coefficients: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """ROS's name of a distortion model and as many coefficients as it has.

    A distortion of zeros becomes none, but not that of a fish-eye, which is no pinhole without them either.
    Zeros behind the coefficients of a model count for nothing.

    Raises:
        InputError: an unknown model, one that cannot be taken for a known one, or another number of
            coefficients.
    """
    key = re.sub(r"[\s\-]+", "_", name.strip().lower())
    given = values = tuple(float(c) for c in coefficients)
    while values and values[-1] == 0:
        values = values[:-1]
    if key in NONE and not values:
        return "plumb_bob", ()
    if key not in ALIASES:
        reason = FOREIGN.get(key, "it is not known here")
        if key in NONE:
            reason = f"the coefficients {list(values)} have a meaning only with a name"
        raise InputError(f"distortion model {name!r} cannot be used: {reason}; {REMEDY}")
    model = ALIASES[key]
    if not values and model != "equidistant":
        return model, ()
    counts = COEFFICIENTS[model]
    if len(given) in counts:
        return model, given
    if len(values) > counts[-1]:
        raise InputError(
            f"distortion of a {model} camera: expected at most {counts[-1]} coefficients, "
            f"got {len(values)}; {REMEDY}"
        )
    count = next(c for c in counts if c >= len(values))
    return model, values + (0.0,) * (count - len(values))


def doubts(camera: CameraModel) -> str:
    """What makes a calibration unlikely, with its numbers, as a sentence; empty where nothing does.

    A calibration for another resolution, or a region or binning that was applied twice, shows in the
    principal point; depth and places of objects would be wrong without another sign.
    """
    found = []
    for axis, center, size in (("cx", camera.cx, camera.width), ("cy", camera.cy, camera.height)):
        if not 0.2 * size < center < 0.8 * size:
            found.append(f"{axis} = {center:.1f} lies far from the middle of {size} pixels")
    if not 1 / 1.3 < camera.fx / camera.fy < 1.3:
        found.append(f"fx = {camera.fx:.1f} and fy = {camera.fy:.1f} are far from equal")
    width_deg = math.degrees(2 * math.atan(camera.width / 2 / camera.fx))
    if camera.distortion_model != "equidistant" and not 5 < width_deg < 150:
        found.append(f"fx = {camera.fx:.1f} makes {camera.width} pixels {width_deg:.1f} degrees wide")
    stretch = _stretch_of_corner(camera)
    if not 0.2 < stretch < 5:
        found.append(f"the distortion moves a corner to {stretch:.3g} times its distance from the middle")
    if not found:
        return ""
    return (
        f"the calibration of {camera.width}x{camera.height} pixels is unlikely: {'; '.join(found)}; "
        "is it for another resolution, or a region of interest or binning applied twice?"
    )


def _stretch_of_corner(camera: CameraModel) -> float:
    """What the radial part of the distortion multiplies the farthest corner's distance from the middle by."""
    x = max(camera.cx, camera.width - camera.cx) / camera.fx
    y = max(camera.cy, camera.height - camera.cy) / camera.fy
    r = math.hypot(x, y)
    k = [*camera.distortion, *[0.0] * 8]
    if camera.distortion_model == "equidistant":
        square = min(r, math.pi / 2) ** 2
        return float(1 + sum(k[i] * square ** (i + 1) for i in range(4)))
    square = r * r
    above = 1 + k[0] * square + k[1] * square**2 + k[4] * square**3
    below = 1 + k[5] * square + k[6] * square**2 + k[7] * square**3
    return float(above / below) if below else math.inf


def load_camera(path: str | Path) -> CameraModel:
    """Read a camera file.

    Three forms are known: the YAML of ROS's ``camera_info_manager`` (``image_width``, ``camera_matrix``,
    ...), what OpenCV's calibration writes (YAML or XML, fish-eye or not), and JSON with ``width``,
    ``height``, ``K`` (3x3) and ``distortion`` or ``distortion_plumb_bob``.

    Raises:
        InputError: the file is missing, is neither form, or holds values that are no camera.
    """
    try:
        data = _opencv_calibration(path) or read_data(path)
    except ValueError as error:
        raise InputError(f"cannot read camera file {path}: {error}") from error
    try:
        if "camera_matrix" in data:
            fx, skew, cx, _, fy, cy, *_ = data["camera_matrix"]["data"]
            size = data["image_width"], data["image_height"]
            distortion = data.get("distortion_coefficients", {}).get("data", ())
            model = data.get("distortion_model", "plumb_bob")
        else:
            (fx, skew, cx), (_, fy, cy), _ = data["K"]
            size = data["width"], data["height"]
            distortion = data.get("distortion", data.get("distortion_plumb_bob", ()))
            model = data.get("distortion_model", "plumb_bob")
        if skew != 0:
            raise ValueError(f"a skew of {skew} pixels is not supported; calibrate without")
        return camera_from_numbers(*size, (fx, fy, cx, cy), distortion, model)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"camera file {path}: expected the YAML of camera_info_manager (image_width, camera_matrix, "
            f"...), of OpenCV, or JSON with width, height, K and distortion; "
            f"got {type(error).__name__}: {error}"
        ) from error
    except InputError as error:
        raise InputError(f"camera file {path}: {error}") from error


def _opencv_calibration(path: str | Path) -> dict[str, Any] | None:
    """The content of a file of ``cv::FileStorage`` in the terms of camera_info_manager; None of another file.

    Raises:
        ValueError: it is damaged, or lacks a part.
    """
    try:
        head = read_bytes(path, limit=4 << 20)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not any(mark in head for mark in (b"!!opencv-matrix", b"<opencv_storage>")):
        return None
    try:
        text = head.decode("utf-8-sig")
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        matrices = {}
        for key, names in _OPENCV_NAMES.items():
            nodes = [storage.getNode(name) for name in names]
            matrices[key] = next((n.mat() for n in nodes if n.isMap()), None)
        width, height, fisheye = (
            storage.getNode(name).real() for name in ("image_width", "image_height", "fisheye_model")
        )
        said = storage.getNode("distortion_model")
        named = said.string() if said.isString() else ""
    except (cv2.error, UnicodeDecodeError, SystemError) as error:
        # OpenCV's binding raises SystemError "returned a result with an exception set" around its own error.
        raise ValueError(f"it is no whole file of OpenCV: {error.__cause__ or error}") from error
    if matrices["camera_matrix"] is None or width <= 0 or height <= 0:
        raise ValueError("OpenCV's file lacks camera_matrix, image_width or image_height; add them")
    distortion = matrices["distortion_coefficients"]
    values = [] if distortion is None else distortion.reshape(-1).tolist()
    if not (width.is_integer() and height.is_integer()):
        raise ValueError(f"expected whole numbers of pixels, got {width:g}x{height:g}")
    model = (
        named or "equidistant"
        if fisheye or named
        else "plumb_bob"
        if len(values) <= 5
        else "rational_polynomial"
    )
    return {
        "image_width": int(width),
        "image_height": int(height),
        "camera_matrix": {"data": matrices["camera_matrix"].reshape(-1).tolist()},
        "distortion_model": model,
        "distortion_coefficients": {"data": values},
    }


_OPENCV_NAMES = {
    "camera_matrix": ("camera_matrix", "Camera_Matrix", "K"),
    "distortion_coefficients": ("distortion_coefficients", "Distortion_Coefficients", "D"),
}


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
    """A camera model.

    Args:
        focal_and_center: fx, fy, cx, cy in pixels.

    Raises:
        InputError: see :func:`distortion_of`; or numbers that are no camera.
    """
    name, coefficients = distortion_of(str(model), distortion)
    ideal = CameraModel.from_vector(int(width), int(height), focal_and_center)
    return dataclasses.replace(ideal, distortion=coefficients, distortion_model=name)


def numbers_of(info: Any) -> tuple[Any, Any, Any]:
    """K, D and P of a ``sensor_msgs/CameraInfo`` of ROS 1 or ROS 2."""
    k, d, p = (getattr(info, n) if hasattr(info, n) else getattr(info, n.upper()) for n in "kdp")
    return k, d, p


def camera_from_info(info: Any, *, rectified: bool) -> CameraModel:
    """The camera of a ``sensor_msgs/CameraInfo``, of ROS 1 (fields D, K, P) or ROS 2 (d, k, p).

    Region of interest and binning are taken into account: the camera is that of the image as published.

    Args:
        rectified: the images are rectified: the projection matrix holds and there is no distortion.

    Raises:
        InputError: zero focal length (uncalibrated), no size, numbers not finite, or an unknown distortion.
    """
    k, d, p = numbers_of(info)
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
    try:
        model, distortion = ("plumb_bob", ()) if rectified else distortion_of(info.distortion_model, d)
    except InputError as error:
        raise InputError(f"camera_info: {error}") from error
    roi, bin_x, bin_y = info.roi, max(1, info.binning_x), max(1, info.binning_y)
    width, height = (roi.width, roi.height) if roi.width and roi.height else (info.width, info.height)
    # Integer coordinates are pixel centres, so the image begins at -0.5.
    center = (cx - roi.x_offset + 0.5) / bin_x - 0.5, (cy - roi.y_offset + 0.5) / bin_y - 0.5
    return camera_from_numbers(
        width // bin_x,
        height // bin_y,
        (fx / bin_x, fy / bin_y, *center),
        distortion,
        model,
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
            f"{name} has no camera calibration: give the horizontal field of view of the lens in degrees "
            "(--fov 70; with make FOV=70; parameter fov_deg of the player) or a camera file "
            "(--camera FILE; CAMERA=FILE; parameter camera)"
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
