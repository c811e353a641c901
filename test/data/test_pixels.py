# SPDX-License-Identifier: Apache-2.0
"""What compressed images say of themselves: size, mosaic, order of colours, orientation, their end."""

from __future__ import annotations

import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from dvps_ros.data.pixels import (
    ENCODINGS,
    check_pixels,
    compressed_to_rgb,
    encoded_size,
    raw_to_rgb,
)
from dvps_ros.errors import InputError


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth, of another colour in every corner."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([4 * u % 256, 5 * v % 256, (255 - 2 * u - 2 * v) % 256], 2).astype(np.uint8)


def encoded(suffix: str, rgb: np.ndarray, *options: int) -> bytes:
    ok, data = cv2.imencode(suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb, list(options))
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_the_header_gives_the_size(suffix: str) -> None:
    assert encoded_size(encoded(suffix, picture(50, 70))) == (70, 50)
    assert encoded_size(encoded(suffix, picture(50, 70)[..., 0])) == (70, 50)


def test_the_header_gives_the_size_of_lossless_webp() -> None:
    assert encoded_size(encoded(".webp", picture(50, 70), cv2.IMWRITE_WEBP_QUALITY, 101)) == (70, 50)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8", b"II*\0", b"RIFF0000WEBPVP8X", b"BM", b"GIF89a" * 9]
)
def test_what_has_no_size_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        encoded_size(data)
    with pytest.raises(InputError):
        compressed_to_rgb(data)


def huge_jpeg() -> bytes:
    """A progressive JPEG that says 65500x65500."""
    data = bytearray(encoded(".jpg", picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def huge_png() -> bytes:
    """50 kB that unpack to 12 GB."""
    rows = zlib.compressobj(9)
    body = rows.compress(bytes(50_000_000)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("make", [huge_jpeg, huge_png])
def test_the_size_is_looked_at_before_anything_is_decoded(make) -> None:
    data = make()
    before_kib, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError, match="6[0-9]+x6[0-9]+ pixels are more than 64000000"):
        compressed_to_rgb(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000
    assert time.process_time() - start < 1


def test_the_limit_is_the_users() -> None:
    data = encoded(".png", picture(48, 64))
    compressed_to_rgb(data, max_pixels=48 * 64)
    with pytest.raises(InputError, match=r"64x48 pixels are more than 3071: .*raise the limit"):
        compressed_to_rgb(data, max_pixels=48 * 64 - 1)
    check_pixels(8000, 8000)


# Whole or not


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
)
def test_bytes_after_the_end_of_a_jpeg_do_no_harm(options) -> None:
    whole = encoded(".jpg", picture(), *options)
    want = compressed_to_rgb(whole)
    for more in (b"\0" * 96, b"\0" * 4096, bytes(range(256)) * 2, b"\xff\xd9"):
        np.testing.assert_array_equal(compressed_to_rgb(whole + more), want)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("keep", [0.5, 0.8, 0.97])
def test_a_cut_jpeg_with_an_end_marker_is_not_whole(options, keep: float) -> None:
    whole = encoded(".jpg", picture(240, 320), *options)
    cut = whole[: int(len(whole) * keep)]
    for data in (cut, cut + b"\xff\xd9", cut + b"\xff\xd9" + b"\0" * 50):
        with pytest.raises(InputError, match="cut off"):
            compressed_to_rgb(data)


def test_an_end_marker_in_a_thumbnail_is_not_that_of_the_picture() -> None:
    whole = encoded(".jpg", picture(240, 320))
    thumbnail = encoded(".jpg", picture(24, 32))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    np.testing.assert_array_equal(
        compressed_to_rgb(whole[:2] + segment + whole[2:]), compressed_to_rgb(whole)
    )
    with pytest.raises(InputError, match="cut off"):
        compressed_to_rgb((whole[:2] + segment + whole[2:])[: len(segment) + 500])


def test_a_few_bytes_between_the_blocks_are_a_webcams_way() -> None:
    """libjpeg warns of them and goes on."""
    whole = encoded(".jpg", picture())
    np.testing.assert_array_equal(
        compressed_to_rgb(whole[:-2] + b"\x12\x34\x56" + whole[-2:]), compressed_to_rgb(whole)
    )


def test_bytes_after_the_end_of_a_png_do_no_harm() -> None:
    whole = encoded(".png", picture())
    np.testing.assert_array_equal(compressed_to_rgb(whole + b"\0" * 500), picture())
    with pytest.raises(InputError, match="cut off"):
        compressed_to_rgb(whole[:-5])


# The format of a message


PATTERNS = ["rggb", "bggr", "gbrg", "grbg"]


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """uint8 [H,W]: of each pixel the one colour that a sensor of this pattern sees."""
    out = np.empty(rgb.shape[:2], np.uint8)
    for i, color in enumerate(pattern):
        row, column = divmod(i, 2)
        out[row::2, column::2] = rgb[row::2, column::2, "rgb".index(color)]
    return out


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_mosaic_in_a_picture_has_its_colours(pattern: str, bits: int) -> None:
    flat = np.full((48, 64, 3), (200, 120, 40), np.uint8)
    seen = mosaic(flat, pattern)
    format = f"bayer_{pattern}{bits}; png compressed "
    np.testing.assert_array_equal(compressed_to_rgb(encoded(".png", seen), format), flat)
    raw = raw_to_rgb(seen.tobytes(), f"bayer_{pattern}8", 48, 64, 64)
    np.testing.assert_array_equal(compressed_to_rgb(encoded(".png", seen), format), raw)
    jpeg = compressed_to_rgb(
        encoded(".jpg", seen, cv2.IMWRITE_JPEG_QUALITY, 100), f"bayer_{pattern}8; jpeg compressed "
    )
    assert np.abs(jpeg[4:-4, 4:-4].astype(int) - flat[4:-4, 4:-4]).mean() < 6
    # Where the sender made colours of it before compressing there are three channels: nothing is left to do.
    colours = encoded(".png", picture())
    np.testing.assert_array_equal(
        compressed_to_rgb(colours, f"bayer_{pattern}8; png compressed bgr8"), picture()
    )


def test_an_unknown_mosaic_is_refused() -> None:
    with pytest.raises(InputError, match="unknown Bayer pattern 'bayer_rgbw8'"):
        compressed_to_rgb(encoded(".png", picture()[..., 0]), "bayer_rgbw8; png compressed ")


@pytest.mark.parametrize(
    "format", ["", "png", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8", "rgb8; png compressed "]
)
def test_colours_are_those_of_the_file(format: str) -> None:
    np.testing.assert_array_equal(compressed_to_rgb(encoded(".png", picture()), format), picture())


def test_a_sender_that_did_not_swap_its_colours_is_heard() -> None:
    """image_transport's own rule: only "compressed bgr" is a file of true colours."""
    swapped = encoded(".png", picture()[..., ::-1])
    np.testing.assert_array_equal(compressed_to_rgb(swapped, "rgb8; png compressed rgb8"), picture())


def test_grey_stays_grey() -> None:
    grey = picture()[..., 0]
    for format in ("", "mono8; png compressed mono8"):
        rgb = compressed_to_rgb(encoded(".png", grey), format)
        np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, 2))
    assert compressed_to_rgb(encoded(".jpg", grey)).shape == (48, 64, 3)


def test_formats_that_are_no_picture_are_named() -> None:
    with pytest.raises(InputError, match="'16UC1; compressedDepth png': a depth camera's topic"):
        compressed_to_rgb(b"\0" * 12 + encoded(".png", picture()), "16UC1; compressedDepth png")
    with pytest.raises(InputError, match="no JPEG, PNG, BMP, TIFF or WebP of format 'h264'"):
        compressed_to_rgb(b"\0\0\0\1\x67" + b"\1" * 99, "h264")


# Orientation of stills


def with_orientation(jpeg: bytes, orientation: int, order: str) -> bytes:
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 1)
    tiff += struct.pack(f"{order}HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(10))
def test_stills_are_turned_as_viewers_turn_them(orientation: int, order: str) -> None:
    jpeg = with_orientation(encoded(".jpg", picture()), orientation, order)
    viewed = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(compressed_to_rgb(jpeg, upright=True), viewed)
    # A camera's messages are as its sensor and calibration see them.
    np.testing.assert_array_equal(compressed_to_rgb(jpeg), compressed_to_rgb(encoded(".jpg", picture())))


@pytest.mark.parametrize("cut", [6, 9, 14, 20, 24])
def test_broken_exif_data_turn_nothing(cut: int) -> None:
    jpeg = with_orientation(encoded(".jpg", picture()), 6, "<")
    segment = jpeg[6 : 6 + cut]
    broken = (
        jpeg[:2]
        + b"\xff\xe1"
        + struct.pack(">H", len(segment) + 2)
        + segment
        + encoded(".jpg", picture())[2:]
    )
    assert compressed_to_rgb(broken, upright=True).shape == (48, 64, 3)


def test_every_encoding_that_is_one_channel_of_a_mosaic_is_known() -> None:
    assert {f"bayer_{p}8" for p in PATTERNS} <= ENCODINGS.keys()
