# SPDX-License-Identifier: Apache-2.0
"""Bytes of a camera message or image file to RGB: pure functions, no ROS.

The encodings are those of ``sensor_msgs/image_encodings``.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from dvps_ros.errors import InputError

# Encoding -> (bytes per pixel, OpenCV conversion to RGB; None where the bytes are RGB already).
# 8UC3 says nothing about the order of its channels; drivers that use it hand over OpenCV images: BGR.
# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the first two pixels.
ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
}


def raw_to_rgb(data: Any, encoding: str, height: int, width: int, step: int) -> np.ndarray:
    """The pixels of an uncompressed image message.

    Args:
        data: ``height * step`` bytes; each row starts at a multiple of ``step`` and may be padded.

    Returns:
        uint8 [H,W,3] RGB; a view of ``data`` for rgb8 without padding, else its own memory.

    Raises:
        InputError: unknown encoding, empty image, or step and size that do not fit the data.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"image encoding {encoding!r} is not known; expected one of {', '.join(ENCODINGS)}")
    if height <= 0 or width <= 0 or len(data) == 0:
        raise InputError(f"image is empty: got {width}x{height} pixels and {len(data)} bytes")
    bytes_per_pixel, conversion = ENCODINGS[encoding]
    row = width * bytes_per_pixel
    if step < row:
        raise InputError(
            f"image step: expected {row} bytes or more for {width} pixels {encoding}, got {step}"
        )
    if len(data) != height * step:
        raise InputError(f"image data: expected {height} rows of {step} bytes, got {len(data)} bytes in all")
    if (bytes_per_pixel == 2 and width % 2) or (encoding.startswith("bayer") and min(width, height) < 2):
        raise InputError(f"image size: {encoding} comes in pairs of pixels, got {width}x{height}")
    flat = np.frombuffer(data, np.uint8)
    rows = np.ascontiguousarray(flat.reshape(height, step)[:, :row])
    pixels = rows.reshape(height, width, bytes_per_pixel)
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


# First bytes -> (name, last bytes). The decoders fill the missing part of a cut file with grey.
_COMPLETE = {
    b"\xff\xd8": ("JPEG", b"\xff\xd9"),
    b"\x89PNG\r\n\x1a\n": ("PNG", b"IEND\xaeB`\x82"),
}


def compressed_to_rgb(data: Any) -> np.ndarray:
    """A JPEG, PNG, BMP, TIFF or WebP in memory as uint8 [H,W,3] RGB; a JPEG is not turned by its EXIF data.

    Raises:
        InputError: the bytes are empty, cut off, not an image, of more than 8 bits a channel, or say a size
            that no decoder takes.
    """
    if len(data) == 0:
        raise InputError("compressed image is empty (0 bytes)")
    flat = np.frombuffer(data, np.uint8)
    head, tail = flat[:8].tobytes(), flat[-64:].tobytes()
    for start, (name, end) in _COMPLETE.items():
        if head.startswith(start) and end not in tail:
            raise InputError(f"{name} image is cut off: no end marker in its {flat.size} bytes")
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        bgr = cv2.imdecode(flat, flags)
    except cv2.error as error:  # as of a size that it does not believe
        raise InputError(f"cannot decode an image of {flat.size} bytes: {error.err}") from error
    if bgr is None:
        raise InputError(f"cannot decode an image of {flat.size} bytes: no JPEG, PNG, BMP, TIFF or WebP")
    if bgr.dtype != np.uint8:
        raise InputError(
            f"compressed image has values of type {bgr.dtype}, expected 8 bits a channel; "
            "is this the topic of a depth camera?"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
