# SPDX-License-Identifier: Apache-2.0
"""Drives as the steering head sees them: the tokens that the deployed perception engine makes of a frame."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import InputError
from dvps_ros.files import whole_file
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.types import CameraModel, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenTrack:
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
    wheelbase_m: float
    """Of the vehicle that was steered."""
    thumbnails: np.ndarray | None = None
    """uint8 [N,h,w,3], small images for a baseline; None where nobody asked for them."""

    def part(self, first: int, last: int) -> TokenTrack:
        """Frames ``first`` to ``last`` (excluded)."""
        cut = slice(first, last)
        return replace(
            self,
            latent=self.latent[cut],
            stamps_ns=self.stamps_ns[cut],
            steering_rad=self.steering_rad[cut],
            speed_mps=self.speed_mps[cut],
            thumbnails=None if self.thumbnails is None else self.thumbnails[cut],
        )


class LatentMaker:
    """Runs the perception model on clips and keeps its tokens, by model, name and what the images show.

    Args:
        model: name or folder of the perception model.
        folder: where tokens are kept; those of other weights, and of other images, are left alone.
    """

    def __init__(self, model: str, folder: Path) -> None:
        weights = load_manifest(find_model(model)).weights.sha256
        self._model, self._folder = model, folder / weights[:12]
        self._engines: dict[tuple[int, int], Engine] = {}

    def engine(self, camera_size: tuple[int, int]) -> Engine:
        """The engine for images of (width, height)."""
        if camera_size not in self._engines:
            self._engines[camera_size] = Engine.open(
                self._model, EngineConfig(model=self._model), camera_size=camera_size
            )
        return self._engines[camera_size]

    def track(self, name: str, clip: Sample, wheelbase_m: float) -> TokenTrack:
        """A clip with the tokens of its images; only these are kept, all else is the clip's.

        Args:
            wheelbase_m: of the vehicle that was steered.

        Raises:
            InputError: the clip holds no angles, or the model has no tokens.
            OutputError: the disk refuses the tokens.
        """
        if clip.steering_rad is None or clip.stamps_ns is None:
            raise InputError(f"{clip.source}: expected steering angles and stamps, got none")
        path = self._folder / f"{name}-{_digest(clip)}.npy"
        latent = _kept(path)
        if latent is None:
            latent = self._make(clip)
            with whole_file(path) as part, part.open("wb") as file:
                np.save(file, latent)
        unknown = np.full(len(latent), np.nan, np.float32)
        speed = unknown if clip.speed_mps is None else clip.speed_mps
        return TokenTrack(name, latent, clip.stamps_ns, clip.steering_rad, speed, wheelbase_m)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _make(self, clip: Sample) -> np.ndarray:
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
        return latent


def _digest(clip: Sample) -> str:
    """Of all that tokens depend on but the model: the pixels and the camera."""
    digest = hashlib.blake2b(str(clip.images.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(clip.images).data)
    digest.update(np.ascontiguousarray(clip.intrinsics).data)
    return digest.hexdigest()


def _kept(path: Path) -> np.ndarray | None:
    try:
        return np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged, making it again: %s", path, error)
        return None
