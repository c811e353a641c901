# SPDX-License-Identifier: Apache-2.0
"""Camera image to network input: rectified once, scaled with kept aspect ratio, mirrored at its borders."""

from __future__ import annotations

import cv2
import numpy as np

from dvps_ros.geometry.camera import Fit, rectify_maps
from dvps_ros.types import CameraModel, check_array


class Preprocess:
    """Everything about one camera and one network size that need not be computed again for each frame.

    Attributes:
        fit: how the image lies in the network's input.
        camera: the rectified camera, at camera resolution.
        network_camera: its intrinsics at the network's input.
        shown: bool [H,W], the rectified pixels that the camera's image shows; None where it shows all. A
            lens whose image is larger at the border than a pinhole's leaves a black rim.

    Raises:
        InputError: an unknown distortion model.
    """

    def __init__(self, camera: CameraModel, width: int, height: int) -> None:
        self.source = camera
        self.fit = Fit.letterbox(camera.width, camera.height, width, height)
        self.camera = camera.rectified()
        self.network_camera = self.fit.camera(self.camera)
        self.shown: np.ndarray | None = None
        self._maps = None
        if camera.is_distorted:
            x, y = rectify_maps(camera)
            shown = (x >= -0.5) & (x <= camera.width - 0.5) & (y >= -0.5) & (y <= camera.height - 0.5)
            self.shown = None if shown.all() else shown
            # Fixed-point maps: half the memory traffic of float maps, exact to 1/32 pixel.
            self._maps = cv2.convertMaps(x, y, cv2.CV_16SC2)
        self._input = np.zeros((height, width, 3), np.uint8)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rectify and fit one frame.

        Args:
            image: uint8 [H,W,3] RGB of this camera.

        Returns:
            The rectified image at camera resolution (the given one if there is nothing to rectify), and the
            network's input uint8 [h,w,3]: a buffer that the next call overwrites.
        """
        image = self.rectified(image)
        fitted(image, self.fit, self._input)
        return image, self._input

    def rectified(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] at camera resolution, for engines that resize themselves."""
        check_array("camera image", image, np.uint8, (self.camera.height, self.camera.width, 3))
        return image if self._maps is None else cv2.remap(image, *self._maps, cv2.INTER_LINEAR)


def halvings(fit: Fit) -> tuple[int, float]:
    """How often the image is halved before the last resize, and the scale of that.

    Means of 2x2 first where more than that would be skipped: INTER_AREA at a fractional scale is exact as
    well but takes 10 ms for 1024x2048, this 2.
    """
    times, scale, height, width = 0, fit.scale, fit.camera_height, fit.camera_width
    while scale < 0.5 and height % 2 == 0 and width % 2 == 0:
        times, scale, height, width = times + 1, scale * 2, height // 2, width // 2
    return times, scale


def fitted(image: np.ndarray, fit: Fit, out: np.ndarray) -> None:
    """Resize a rectified image uint8 [H,W,3] into the inside of ``out`` uint8 [h,w,3]; mirror it around."""
    times, scale = halvings(fit)
    for _ in range(times):
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # fx and fy, not a size: OpenCV would make scales of its own from the rounded size.
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    inner = image[: fit.inner_height, : fit.inner_width]
    cv2.copyMakeBorder(inner, *fit.pads, cv2.BORDER_REFLECT_101, dst=out)
