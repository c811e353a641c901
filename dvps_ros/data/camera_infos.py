# SPDX-License-Identifier: Apache-2.0
"""Which camera model belongs to an image: of messages as the node receives them, and as a bag holds them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from dvps_ros.data.calibration import camera_from_info, numbers_of
from dvps_ros.data.pixels import MAX_PIXELS, check_pixels
from dvps_ros.data.stamps import stamp_to_ns
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

_KEPT = 30
"""Stamps of CameraInfo messages that are remembered: one second of a usual camera."""


class CameraInfos:
    """Pairs images with CameraInfo: the one of exactly the same stamp, else the newest one.

    A camera's intrinsics rarely change, so an image whose own CameraInfo was lost or comes late need not be
    dropped. An image whose own CameraInfo is unusable is refused, and so is one without its own while the
    newest is: depth from intrinsics that no longer hold would be wrong without a sign. Thread-safe.

    Args:
        rectified: images are rectified (take P, no distortion).
        horizontal_fov_deg: above 0, CameraInfo is not used at all: an ideal camera of this field of view.
        max_pixels: cameras of more are refused.
    """

    def __init__(
        self, *, rectified: bool, horizontal_fov_deg: float = 0.0, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._rectified, self._max_pixels = rectified, max_pixels
        self._fov_deg = horizontal_fov_deg
        self._lock = threading.Lock()
        self._by_stamp: OrderedDict[int, CameraModel | InputError] = OrderedDict()
        self._newest: CameraModel | InputError | None = None
        self._raw: tuple[object, ...] | None = None
        self.exact = 0
        """Images with a CameraInfo of their own stamp."""
        self.inexact = 0
        """Images that took the newest one."""

    @property
    def newest(self) -> CameraModel | InputError | None:
        """The last one, or why it cannot be used."""
        return self._newest

    @property
    def missing(self) -> bool:
        """Whether images have to wait, because no CameraInfo has come yet."""
        return self._fov_deg == 0 and self._newest is None

    def add(self, info: Any) -> CameraModel:
        """Take a CameraInfo.

        Raises:
            InputError: it cannot be used (see :func:`camera_from_info`), or is of an impossible size.
        """
        raw = _content(info)
        with self._lock:
            if raw != self._raw:
                self._raw = raw
                try:
                    check_pixels(info.width, info.height, self._max_pixels)
                    self._newest = camera_from_info(info, rectified=self._rectified)
                except InputError as error:
                    self._newest = InputError(str(error))
            assert self._newest is not None
            self._by_stamp[stamp_to_ns(info.header.stamp)] = self._newest
            while len(self._by_stamp) > _KEPT:
                self._by_stamp.popitem(last=False)
            if isinstance(self._newest, InputError):
                # A new one: an error that is kept keeps the frames that it passed through, images and all.
                raise InputError(str(self._newest))
            return self._newest

    def camera_of(self, stamp_ns: int, width: int, height: int) -> CameraModel:
        """The camera of an image of this stamp and size.

        Raises:
            InputError: no usable CameraInfo, or it is for another size.
        """
        if self._fov_deg > 0:
            return CameraModel.from_fov(width, height, self._fov_deg)
        with self._lock:
            own = self._by_stamp.get(stamp_ns)
            camera = own or self._newest
            if not isinstance(camera, CameraModel):
                raise InputError("image: no camera_info has come yet" if camera is None else str(camera))
            self.exact += own is not None
            self.inexact += own is None
        if (camera.width, camera.height) != (width, height):
            raise InputError(
                f"image: it has {width}x{height} pixels, but its camera_info is for "
                f"{camera.width}x{camera.height}"
            )
        return camera


def _content(info: Any) -> tuple[object, ...]:
    """All but the header, in a form that compares NaN as equal to itself."""
    roi = info.roi
    numbers = numbers_of(info)
    return (
        info.width,
        info.height,
        info.distortion_model,
        *(b"".join(float(v).hex().encode() + b" " for v in part) for part in numbers),
        (info.binning_x, info.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
