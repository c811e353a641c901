# SPDX-License-Identifier: Apache-2.0
"""Bytes of a camera message or image file to RGB: pure functions, no ROS.

The encodings are those of ``sensor_msgs/image_encodings``.
"""

from __future__ import annotations

import struct
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
    check_pairs(encoding, width, height)
    flat = np.frombuffer(data, np.uint8)
    rows = np.ascontiguousarray(flat.reshape(height, step)[:, :row])
    pixels = rows.reshape(height, width, bytes_per_pixel)
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def check_pairs(encoding: str, width: int, height: int) -> None:
    """Refuse a size that an encoding cannot have.

    Raises:
        InputError: see above.
    """
    halved = ENCODINGS[encoding][0] == 2 and width % 2
    if halved or (encoding.startswith("bayer") and min(width, height) < 2):
        raise InputError(f"image size: {encoding} comes in pairs of pixels, got {width}x{height}")


MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a file of 2 kB can say that it is 65500x65500."""
_PNG, _JPEG, _BMP, _TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", (b"II*\0", b"MM\0*")
_KINDS = "JPEG, PNG, BMP, TIFF or WebP"


def encoded_size(data: Any) -> tuple[int, int]:
    """Width and height in pixels, by the header alone, of what :func:`compressed_to_rgb` decodes.

    Raises:
        InputError: the bytes are empty or begin like none of its kinds.
    """
    if len(data) == 0:
        raise InputError("compressed image is empty (0 bytes)")
    flat = np.frombuffer(data, np.uint8)
    head = flat[:32].tobytes()
    size = None
    try:
        if head.startswith(_JPEG):
            height, width, *_ = _turbo().decode_jpeg_header(flat, strict=False)
            size = width, height
        elif head.startswith(_PNG):
            size = struct.unpack(">II", head[16:24])
        elif head.startswith(_BMP):
            width, height = struct.unpack("<ii", head[18:26])
            size = abs(width), abs(height)  # a negative height: rows from the top
        elif head.startswith(_TIFF):
            size = _tiff_size(flat)
        elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            size = _webp_size(head)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        kind = "JPEG image" if head.startswith(_JPEG) else "image"
        raise InputError(f"{kind} is cut off, or its header is broken ({flat.size} bytes)") from error
    if size is None:
        raise InputError(f"cannot decode an image of {flat.size} bytes: no {_KINDS}")
    if min(size) < 1:
        raise InputError(f"image is empty: got {size[0]}x{size[1]} pixels")
    return size


def _tiff_size(flat: np.ndarray) -> tuple[int, int] | None:
    order = "<" if flat[0] == ord("I") else ">"

    def at(form: str, offset: int) -> int:
        return struct.unpack_from(order + form, flat.data, offset)[0]

    tags, start = {}, at("I", 4)
    for entry in range(start + 2, start + 2 + 12 * at("H", start), 12):
        short = at("H", entry + 2) == 3
        tags[at("H", entry)] = at("H" if short else "I", entry + 8)
    return (tags[256], tags[257]) if {256, 257} <= tags.keys() else None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height, _ = struct.unpack("<3s3s2s", head[24:32])
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    return None


def check_pixels(width: int, height: int, limit: int = MAX_PIXELS) -> None:
    """Refuse an image, or a camera of images, that is larger than anybody has.

    Raises:
        InputError: it has more than ``limit`` pixels.
    """
    if width * height > limit:
        raise InputError(
            f"image: {width}x{height} pixels are more than {limit}: is the header damaged? "
            "If such a camera exists, raise the limit (max_pixels)"
        )


def compressed_to_rgb(
    data: Any, format: str = "", *, upright: bool = False, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A JPEG, PNG, BMP, TIFF or WebP in memory as uint8 [H,W,3] RGB.

    Args:
        format: of ``sensor_msgs/CompressedImage``, as image_transport writes it: ``ENCODING; jpeg compressed
            ENCODING``. Where the first is a Bayer pattern and the picture has one channel, it is a mosaic of
            colours; where the second begins with ``rgb``, red and blue were swapped by the sender.
        upright: turn the picture as its EXIF data say, as viewers do. Camera messages are not turned: their
            calibration is that of the sensor.
        max_pixels: more are refused before they are decoded.

    Raises:
        InputError: the bytes are empty, cut off, not an image, too large an image, of more than 8 bits a
            channel, or in a format that is no single picture.
    """
    original, _, codec = (part.strip() for part in format.partition(";"))
    if "compressedDepth" in format:
        raise InputError(f"compressed image has the format {format!r}: a depth camera's topic, no picture")
    try:
        size = encoded_size(data)
    except InputError as error:
        of = f" of format {format!r}" if format else ""
        raise InputError(f"{error}{of}") from error
    check_pixels(*size, max_pixels)
    flat = np.frombuffer(data, np.uint8)
    pixels = _jpeg(flat) if flat[:2].tobytes() == _JPEG else _other(flat, upright)
    if pixels.ndim == 2:
        pattern = f"{original[:10]}8" if original.startswith("bayer_") else "mono8"
        if pattern not in ENCODINGS:
            raise InputError(f"compressed image: unknown Bayer pattern {original!r} in its format {format!r}")
        check_pairs(pattern, pixels.shape[1], pixels.shape[0])
        conversion = ENCODINGS[pattern][1]
        assert conversion is not None
        rgb = cv2.cvtColor(pixels, conversion)
    else:
        rgb = pixels[..., ::-1] if "compressed rgb" in codec else pixels
    if upright and flat[:2].tobytes() == _JPEG:
        rgb = _turned(rgb, _orientation(flat))
    return np.ascontiguousarray(rgb)


def _turbo() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        raise InputError(f"reading a JPEG needs simplejpeg: pip install simplejpeg ({error})") from error
    return simplejpeg


def _jpeg(flat: np.ndarray) -> np.ndarray:
    """uint8 [H,W] or RGB [H,W,3].

    The decoder says whether all of it is there: bytes behind the end do no harm, and an end marker behind
    half a picture does not make it whole.
    """
    turbo = _turbo()
    *_, colors = turbo.decode_jpeg_header(flat, strict=False)[:3]
    if colors in ("CMYK", "YCCK"):
        return _other(flat, upright=False)
    space = "GRAY" if colors == "Gray" else "RGB"
    try:
        try:
            pixels = turbo.decode_jpeg(flat, colorspace=space)
        except ValueError as error:
            if "remature end" in str(error):
                raise InputError(f"JPEG image is cut off: {error} ({flat.size} bytes)") from error
            # Many webcams send a few bytes too many between blocks. A picture that is damaged within a line
            # cannot be told from that: baseline JPEG has no check sums.
            pixels = turbo.decode_jpeg(flat, colorspace=space, strict=False)
    except ValueError as error:
        raise InputError(f"cannot decode a JPEG of {flat.size} bytes: {error}") from error
    return pixels[..., 0] if space == "GRAY" else pixels


def _other(flat: np.ndarray, upright: bool) -> np.ndarray:
    """uint8 [H,W] or RGB [H,W,3], by OpenCV."""
    if flat[:8].tobytes() == _PNG and not png_is_whole(flat):
        raise InputError(f"PNG image is cut off: no end marker in its {flat.size} bytes")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(flat, flags if upright else flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # as of a size that it does not believe
        raise InputError(f"cannot decode an image of {flat.size} bytes: {error.err}") from error
    if pixels is None:
        raise InputError(f"cannot decode an image of {flat.size} bytes: it is damaged")
    if pixels.dtype != np.uint8:
        raise InputError(
            f"compressed image has values of type {pixels.dtype}, expected 8 bits a channel; "
            "is this the topic of a depth camera?"
        )
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def png_is_whole(flat: np.ndarray) -> bool:
    """Whether a PNG's chunks lead to its end; what lies behind that does no harm."""
    at = 8
    while at + 12 <= flat.size:
        length, kind = struct.unpack_from(">I4s", flat.data, at)
        at += 12 + length
        if kind == b"IEND":
            return at <= flat.size
    return False


def _orientation(flat: np.ndarray) -> int:
    """Of a JPEG by its EXIF data, 1 to 8; 1 where they say nothing."""
    at = 2
    while at + 4 <= flat.size and flat[at] == 0xFF and flat[at + 1] not in (0xDA, 0xD9):
        length = int(flat[at + 2]) << 8 | int(flat[at + 3])
        segment = flat[at + 4 : at + 2 + length]
        if flat[at + 1] == 0xE1 and segment[:6].tobytes() == b"Exif\0\0":
            return _exif_orientation(segment[6:].tobytes())
        at += 2 + length
    return 1


def _exif_orientation(tiff: bytes) -> int:
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # broken EXIF data say nothing
    return 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, by the EXIF orientation: 2, 4, 5 and 7 are mirrored, 3, 6 and 8 turned."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
