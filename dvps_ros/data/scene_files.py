# SPDX-License-Identifier: Apache-2.0
"""A rendered scene on disk: images with exact truth, readable by people and by :func:`open_scene`.

``scene.json`` (name, rate_hz), ``camera.json``, and one PNG a frame in ``image/`` (RGB), ``class/`` (8 bit,
255 void), ``instance/`` (16 bit id, 0 none) and ``depth/`` (16 bit, metres = value / 256, 0 = sky or beyond
255 m).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from dvps_ros.data.calibration import load_camera, save_camera
from dvps_ros.data.images import ImageSequence, even_stamps, image_files, read_image
from dvps_ros.errors import InputError
from dvps_ros.files import read_data, write_text
from dvps_ros.types import CameraModel, Sample

DEPTH_UNITS_PER_M = 256


def write_scene(
    folder: Path, clips: Iterable[Sample], camera: CameraModel, *, name: str, rate_hz: float
) -> ImageSequence:
    """Write clips, one after the other, as one scene, and open it.

    ``scene.json`` is written last: where it is, the scene is whole.

    Raises:
        InputError: a file cannot be written.
    """
    count = 0
    for kind in ("image", "class", "instance", "depth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for clip in clips:
        if clip.class_map is None or clip.instance_map is None or clip.depth_m is None:
            raise InputError(
                f"scene {name}: expected clips with classes, instances and depth, got {clip.source}"
            )
        for t in range(len(clip.images)):
            units = np.rint(clip.depth_m[t] * DEPTH_UNITS_PER_M)
            _write_png(folder / "image" / f"{count:06d}.png", cv2.cvtColor(clip.images[t], cv2.COLOR_RGB2BGR))
            _write_png(folder / "class" / f"{count:06d}.png", clip.class_map[t])
            _write_png(folder / "instance" / f"{count:06d}.png", clip.instance_map[t].astype(np.uint16))
            _write_png(
                folder / "depth" / f"{count:06d}.png", np.where(units < 65536, units, 0).astype(np.uint16)
            )
            count += 1
    save_camera(folder / "camera.json", camera)
    write_text(folder / "scene.json", json.dumps({"name": name, "rate_hz": rate_hz}))
    return open_scene(folder)


def open_scene(folder: Path) -> ImageSequence:
    """Open what :func:`write_scene` wrote.

    Raises:
        InputError: a part of the scene is missing or damaged.
    """
    try:
        scene = read_data(folder / "scene.json")
        name, rate_hz = str(scene["name"]), float(scene["rate_hz"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read scene {folder}: {error!r}") from error
    paths = image_files(folder / "image")
    camera = load_camera(folder / "camera.json")

    def truth(image: Path) -> Sample:
        return Sample(
            read_image(image)[None],
            camera.vector[None],
            f"{name}/{image.stem}",
            class_map=_read_png(folder / "class" / image.name)[None],
            instance_map=_read_png(folder / "instance" / image.name).astype(np.int32)[None],
            depth_m=(_read_png(folder / "depth" / image.name).astype(np.float32) / DEPTH_UNITS_PER_M)[None],
        )

    return ImageSequence(
        name, paths, even_stamps(len(paths), rate_hz), camera, frame_id="camera_optical", truth=truth
    )


def _write_png(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise InputError(f"cannot write {path}: is the disk full or the folder not writable?")


def _read_png(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise InputError(f"cannot read {path}")
    return pixels
