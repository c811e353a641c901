# SPDX-License-Identifier: Apache-2.0
"""Drives as the steering head sees them: the tokens that the deployed perception engine makes of a frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from dvps_ros.config import EngineConfig
from dvps_ros.data.cache import read_clip
from dvps_ros.data.steering_log import SteeringLog
from dvps_ros.errors import InputError
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.types import CameraModel, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """One drive: tokens and what was, or should have been, steered."""

    name: str
    latent: np.ndarray
    """float16 [N,T,C]."""
    stamps_ns: np.ndarray
    """int64 [N], increasing."""
    steering_rad: np.ndarray
    """float32 [N]: road-wheel angle, left positive; NaN unknown."""
    speed_mps: np.ndarray
    """float32 [N]; NaN unknown."""
    thumbnails: np.ndarray | None = None
    """uint8 [N,h,w,3], small images for a baseline; None where nobody asked for them."""

    def part(self, first: int, last: int) -> Track:
        """Frames ``first`` to ``last`` (excluded)."""
        cut = slice(first, last)
        small = None if self.thumbnails is None else self.thumbnails[cut]
        return Track(
            self.name,
            self.latent[cut],
            self.stamps_ns[cut],
            self.steering_rad[cut],
            self.speed_mps[cut],
            small,
        )


class LatentMaker:
    """Runs the perception model on clips and keeps what it gives, by model and clip.

    Args:
        model: name or folder of the perception model.
        folder: where tokens are kept; those of other weights are left alone.
    """

    def __init__(self, model: str, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._engines: dict[tuple[int, int], Engine] = {}

    def engine(self, camera_size: tuple[int, int]) -> Engine:
        """The engine for images of (width, height)."""
        if camera_size not in self._engines:
            self._engines[camera_size] = Engine.open(
                self._model, EngineConfig(model=self._model), camera_size=camera_size
            )
        return self._engines[camera_size]

    def track_of_clip(self, path: Path) -> Track:
        """Tokens of a cached clip.

        Raises:
            InputError: the clip cannot be read, or holds no angles.
        """
        name = f"{path.parent.name}-{path.stem}"
        return self._kept(name) or self._make(name, read_clip(path))

    def track_of_log(self, steering_log: SteeringLog) -> Track:
        """Tokens of a whole steering log.

        Raises:
            InputError: an image is missing or damaged.
        """
        name = steering_log.name
        return self._kept(name) or self._make(name, steering_log.clip(0, len(steering_log)))

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _path(self, name: str) -> Path:
        from dvps_ros.runtime.manifest import find_model, load_manifest

        weights = load_manifest(find_model(self._model)).weights.sha256
        return self._folder / weights[:12] / f"{name}.npz"

    def _kept(self, name: str) -> Track | None:
        path = self._path(name)
        try:
            with np.load(path) as file:
                return Track(name, **{k: file[k] for k in file.files})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, BadZipFile) as error:
            log.warning("%s is damaged, making it again: %s", path, error)
            return None

    def _make(self, name: str, clip: Sample) -> Track:
        if clip.steering_rad is None or clip.stamps_ns is None:
            raise InputError(f"{clip.source}: expected steering angles and stamps, got none")
        count, height, width = clip.images.shape[:3]
        camera = CameraModel.from_vector(width, height, clip.intrinsics[0])
        engine = self.engine((width, height))
        preprocess = Preprocess(camera, engine.width, engine.height)
        latent = np.empty((count, *engine.manifest.latent_shape), np.float16)
        for i, image in enumerate(clip.images):
            output = engine.run(preprocess(image)[1], preprocess.network_camera.vector, frozenset({"latent"}))
            if output.latent is None:
                raise InputError(f"perception model {self._model}: it has no latent tokens")
            latent[i] = output.latent
        speed = np.full(count, np.nan, np.float32) if clip.speed_mps is None else clip.speed_mps
        arrays: dict[str, Any] = {
            "latent": latent,
            "stamps_ns": clip.stamps_ns,
            "steering_rad": clip.steering_rad,
            "speed_mps": speed,
        }
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(f"cannot write tokens {path}: {error}") from error
        return Track(name, **arrays)


def tracks_of(maker: LatentMaker, clips: list[Path], what: str) -> Iterator[Track]:
    """Tokens of many cached clips, with a progress bar."""
    for path in tqdm(clips, desc=f"tokens of {what}", unit="drive"):
        yield maker.track_of_clip(path)
