# SPDX-License-Identifier: Apache-2.0
"""Clips on disk: rendering a clip costs more than learning from it, so each is rendered once and read often.

One ``<name>.npz`` a clip: images as JPEG, depth and flows as float16 (0.05 percent), the rest as it is,
uncompressed. Files are written under a temporary name first, so a reader never sees half a clip.
"""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from dvps_ros.errors import InputError
from dvps_ros.files import read_arrays, whole_file
from dvps_ros.types import Sample

JPEG_QUALITY = 95
_PLAIN = ("class_map", "coarse_map", "moving", "world_from_camera", "steering_rad", "speed_mps", "stamps_ns")
_HALF = ("depth_m", "flow_px", "scene_flow_m")


def write_clip(path: Path, sample: Sample) -> None:
    """Store a clip.

    Raises:
        InputError: an instance id does not fit 16 bits.
        OutputError: the disk refuses the file.
    """
    arrays: dict[str, np.ndarray] = {"intrinsics": sample.intrinsics}
    for t, image in enumerate(sample.images):
        _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        arrays[f"image_{t}"] = code
    arrays |= {k: v for k in _PLAIN if (v := getattr(sample, k)) is not None}
    arrays |= {k: v.astype(np.float16) for k in _HALF if (v := getattr(sample, k)) is not None}
    if sample.instance_map is not None:
        if sample.instance_map.max(initial=0) > np.iinfo(np.int16).max:
            raise InputError(f"{sample.source}: instance ids above {np.iinfo(np.int16).max} cannot be cached")
        arrays["instance_map"] = sample.instance_map.astype(np.int16)
    meta = {"source": sample.source, "coarse_groups": sample.coarse_groups}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _decoded(code: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(code, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("an image in it cannot be decoded")
    return image[..., ::-1]


def read_clip(path: Path) -> Sample:
    """Inverse of :func:`write_clip`.

    Raises:
        InputError: the file is missing, truncated or not a clip.
    """
    try:
        arrays = read_arrays(path)
        meta = json.loads(arrays.pop("meta").tobytes())
        count = len(arrays["intrinsics"])
        codes = [arrays.pop(f"image_{t}") for t in range(count)]
        images = np.stack([_decoded(code) for code in codes])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable clip ({error}); delete it and render it again") from error
    for k in _HALF:
        if k in arrays:
            arrays[k] = arrays[k].astype(np.float32)
    if "instance_map" in arrays:
        arrays["instance_map"] = arrays["instance_map"].astype(np.int32)
    groups = tuple(tuple(g) for g in meta["coarse_groups"])
    return Sample(images=images, source=meta["source"], coarse_groups=groups, **arrays)


def stored_source(path: Path) -> str | None:
    """What a cached clip says of its source; None where there is no readable clip."""
    try:
        with np.load(path) as file:
            return str(json.loads(file["meta"].tobytes())["source"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def stored_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a cached clip's first image, pixels; None where there is no readable clip."""
    try:
        with np.load(path) as file:
            image = cv2.imdecode(file["image_0"], cv2.IMREAD_GRAYSCALE)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return None if image is None else image.shape
