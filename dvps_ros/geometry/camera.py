# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera: projection, rectification, and how its image lies in a network's input."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
"""Distortion model -> numbers of coefficients that it can have."""


@dataclass(frozen=True)
class Fit:
    """How a camera image lies in the input of a network.

    The image is scaled by ``scale`` to inner_width x inner_height and placed with its top-left pixel at
    (pad_x, pad_y); camera pixel u is input pixel (u + 0.5) * scale - 0.5 + pad_x.
    """

    camera_width: int
    camera_height: int
    width: int
    height: int
    scale: float
    inner_width: int
    inner_height: int
    pad_x: int
    pad_y: int

    @classmethod
    def letterbox(cls, camera_width: int, camera_height: int, width: int, height: int) -> Fit:
        """Largest size of kept aspect ratio, in the middle of the input.

        Raises:
            InputError: so long and narrow an image that less than a pixel would be left of a side.
        """
        scale = min(width / camera_width, height / camera_height)
        inner_width = min(width, round(camera_width * scale))
        inner_height = min(height, round(camera_height * scale))
        if min(inner_width, inner_height) < 1:
            raise InputError(
                f"camera: expected images that leave a pixel or more of each side in {width}x{height}, got "
                f"{camera_width}x{camera_height} pixels; check the camera's size"
            )
        return cls(
            camera_width,
            camera_height,
            width,
            height,
            scale,
            inner_width,
            inner_height,
            (width - inner_width) // 2,
            (height - inner_height) // 2,
        )

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Pixels above, below, left and right of the image, which mirror it: networks have never seen black
        bars, and what they take those for reaches into the image."""
        below = self.height - self.pad_y - self.inner_height
        return self.pad_y, below, self.pad_x, self.width - self.pad_x - self.inner_width

    def camera(self, camera: CameraModel, stride: int = 1) -> CameraModel:
        """Intrinsics of the network's input, or of its maps at ``stride``, for a rectified camera."""
        at_input = camera.resized(self.scale, self.width, self.height, self.pad_x, self.pad_y)
        return at_input.resized(1.0 / stride, self.width // stride, self.height // stride)

    def to_camera_edge(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Borders between pixels (0 is the left border of pixel 0) of the input, in the camera image."""
        return (
            np.clip((x - self.pad_x) / self.scale, 0, self.camera_width),
            np.clip((y - self.pad_y) / self.scale, 0, self.camera_height),
        )


def project(points_m: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Pixels of points in the camera frame: float [...,3] metres to float [...,2] (u, v).

    Points on or behind the plane of the camera (z <= 0) and points that are not numbers give NaN.
    """
    z = points_m[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        over_z = np.where(z > 0, 1 / z, np.nan)
        u = camera.fx * points_m[..., 0] * over_z + camera.cx
        v = camera.fy * points_m[..., 1] * over_z + camera.cy
    return np.stack([u, v], axis=-1)


def rays(camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the pixels at z = 1: float32 x [W] of the columns and y [H] of the rows."""
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    y = (np.arange(camera.height) - camera.cy) / camera.fy
    return x.astype(np.float32), y.astype(np.float32)


def rectify_maps(camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Maps for ``cv2.remap(raw, map_x, map_y, cv2.INTER_LINEAR)`` that undo the lens distortion.

    The rectified image has the size and the pinhole of ``camera.rectified()``.

    Returns:
        float32 [H,W] each: column and row of the raw image that a rectified pixel shows.

    Raises:
        InputError: the distortion model is unknown or has another number of coefficients.
    """
    model, count = camera.distortion_model, len(camera.distortion)
    if model not in COEFFICIENTS:
        raise InputError(f"distortion model: expected one of {', '.join(COEFFICIENTS)}, got {model!r}")
    if count and count not in COEFFICIENTS[model]:
        wanted = " or ".join(map(str, COEFFICIENTS[model]))
        raise InputError(f"distortion of a {model} camera: expected {wanted} coefficients, got {count}")
    distortion = np.array(camera.distortion if count else (0.0,) * 4, np.float64)
    size = (camera.width, camera.height)
    undistort = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else cv2.initUndistortRectifyMap
    map_x, map_y = undistort(camera.K, distortion, np.eye(3), camera.K, size, cv2.CV_32FC1)
    return map_x, map_y
