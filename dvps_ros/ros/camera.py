# SPDX-License-Identifier: Apache-2.0
"""Which camera model belongs to an image."""

from __future__ import annotations

import threading
from collections import OrderedDict

from sensor_msgs.msg import CameraInfo

from dvps_ros.data.calibration import camera_from_info
from dvps_ros.errors import InputError
from dvps_ros.ros.convert import stamp_to_ns
from dvps_ros.types import CameraModel

_KEPT = 30
"""Stamps of CameraInfo messages that are remembered: one second of a usual camera."""


class CameraInfos:
    """Pairs images with CameraInfo: the one of exactly the same stamp, else the newest one.

    A camera's intrinsics rarely change, so an image whose own CameraInfo was lost or comes late need not
    be dropped. While the newest CameraInfo is unusable, images without one of their own are refused: depth
    from intrinsics that no longer hold would be wrong without a sign. Thread-safe.

    Args:
        rectified: images are rectified (take P, no distortion).
        horizontal_fov_deg: above 0, CameraInfo is not used at all: an ideal camera of this field of view.
    """

    def __init__(self, *, rectified: bool, horizontal_fov_deg: float) -> None:
        self._rectified = rectified
        self._fov_deg = horizontal_fov_deg
        self._lock = threading.Lock()
        self._by_stamp: OrderedDict[int, CameraModel] = OrderedDict()
        self._newest: CameraModel | InputError | None = None
        self._raw: tuple[object, ...] | None = None
        self.exact = 0
        """Images with a CameraInfo of their own stamp."""
        self.inexact = 0
        """Images that took the newest one."""

    @property
    def missing(self) -> bool:
        """Whether images have to wait, because no CameraInfo has come yet."""
        return self._fov_deg == 0 and self._newest is None

    def add(self, info: CameraInfo) -> CameraModel:
        """Take a CameraInfo.

        Raises:
            InputError: it cannot be used (see :func:`camera_from_info`).
        """
        raw = _content(info)
        with self._lock:
            if raw != self._raw:
                self._raw = raw
                try:
                    self._newest = camera_from_info(info, rectified=self._rectified)
                except InputError as error:
                    self._newest = error
            if isinstance(self._newest, InputError):
                raise self._newest
            assert self._newest is not None
            self._by_stamp[stamp_to_ns(info.header.stamp)] = self._newest
            while len(self._by_stamp) > _KEPT:
                self._by_stamp.popitem(last=False)
            return self._newest

    def camera_of(self, stamp_ns: int, width: int, height: int) -> CameraModel:
        """The camera of an image of this stamp and size.

        Raises:
            InputError: no usable CameraInfo, or it is for another size.
        """
        if self._fov_deg > 0:
            return CameraModel.from_fov(width, height, self._fov_deg)
        with self._lock:
            camera = self._by_stamp.get(stamp_ns)
            if camera is not None:
                self.exact += 1
            elif isinstance(self._newest, CameraModel):
                camera = self._newest
                self.inexact += 1
            else:
                raise self._newest or InputError("image: no camera_info has come yet")
        if (camera.width, camera.height) != (width, height):
            raise InputError(
                f"image: it has {width}x{height} pixels, but its camera_info is for "
                f"{camera.width}x{camera.height}"
            )
        return camera


def _content(info: CameraInfo) -> tuple[object, ...]:
    """All but the header, in a form that compares NaN as equal to itself."""
    roi = info.roi
    numbers = (info.d, info.k, info.p)
    return (
        info.width,
        info.height,
        info.distortion_model,
        *(b"".join(float(v).hex().encode() + b" " for v in part) for part in numbers),
        (info.binning_x, info.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
