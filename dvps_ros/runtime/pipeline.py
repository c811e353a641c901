# SPDX-License-Identifier: Apache-2.0
"""One camera in; tracked, labelled, metric 3-D world out. The same code on the robot and off line."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from dvps_ros.config import PipelineConfig
from dvps_ros.contract import NO_SEGMENT, Column
from dvps_ros.errors import EngineError, InputError
from dvps_ros.geometry.depth import organised_cloud, unproject
from dvps_ros.geometry.ground import ScaleEstimator
from dvps_ros.geometry.pose import check_pose
from dvps_ros.labels import VOID
from dvps_ros.panoptic.objects import ObjectStates
from dvps_ros.panoptic.track import LONGEST_GAP_S, Tracker, Tracks
from dvps_ros.runtime.backends import Progress
from dvps_ros.runtime.buffers import Buffers
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.engine import Engine, Runner
from dvps_ros.runtime.manifest import find_model
from dvps_ros.runtime.maps import MapMaker, cells_shown
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.runtime.verify import load_golden
from dvps_ros.types import CLOUD_DTYPE, CameraModel, Frame, FrameResult, NetworkOutput

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Runner)

REMIND_S = 5.0
"""Between two lines of the log on one reason to begin anew."""

ALL_OUTPUTS = frozenset({"panoptic", "cloud", "latent"})
"""What a caller may want beside instances and scale, which are always given."""
GROUND = ("road", "sidewalk", "terrain")
"""Classes that are seen at any angle."""
STAGES = ("fit", "engine", "scale", "track", "maps", "objects", "cloud")


@dataclass(frozen=True)
class _View:
    """What depends on the camera alone."""

    preprocess: Preprocess
    map_camera: CameraModel
    """Of the network's maps."""
    maps: MapMaker
    shown: np.ndarray | None
    """bool [h,w]: the network's cells that show the camera's image; None where all do."""


@dataclass
class _Past:
    """What a frame does not continue."""

    forgotten: list[str] = field(default_factory=list)
    """Why tracks and the network's memory begin anew with it; empty where they go on."""
    scale_too: bool = False


@dataclass(frozen=True)
class Inferred:
    """A frame half done: what the network says of it."""

    frame: Frame
    wanted: frozenset[str]
    image: np.ndarray
    """Rectified, uint8 [H,W,3]."""
    output: NetworkOutput
    view: _View
    past: _Past
    stages_ms: dict[str, float]


class DvpsPipeline(Generic[R]):
    """Everything between a camera frame and its result.

    Not thread-safe, but for one thread in :meth:`infer` beside one in :meth:`finish`. Equal frames in equal
    order give equal results, bit for bit, on one engine, in two halves or at once.

    Attributes:
        engine: the loaded network.
        label_space: of all class ids in the results.
        resets: how often the past was forgotten, by reason.
    """

    def __init__(self, engine: R, config: PipelineConfig) -> None:
        """Take an opened engine, which the pipeline closes.

        Raises:
            ConfigError: the camera's height is given but the label space has no class "road".
        """
        self.engine = engine
        self.label_space = engine.label_space
        self.resets: Counter[str] = Counter()
        self._config = config
        self._is_ground = np.zeros(256, bool)
        self._is_ground[[self.label_space.id_of(n) for n in GROUND if n in self.label_space.names]] = True
        self._road = self.label_space.id_of("road") if config.scale.camera_height_m > 0 else -1
        size = (engine.width, engine.height)
        self._tracker = Tracker(config.tracker, size, engine.stride, label_space=self.label_space)
        self._objects = ObjectStates()
        self._scale = ScaleEstimator(config.scale)
        self._camera: CameraModel | None = None
        self._stamp_ns: int | None = None
        self._tell_again_s: dict[str, float] = {}
        """Reason to begin anew -> the earliest time that it is logged again."""
        self._past = _Past()
        self._buffers = Buffers()

    @staticmethod
    def open(
        config: PipelineConfig,
        camera: CameraModel,
        *,
        cache_dir: Path | None = None,
        progress: Progress = quiet,
    ) -> DvpsPipeline[Engine]:
        """Load the configured model for a camera and run everything once, so that no frame waits for it.

        Args:
            progress: told what is being done, often; may raise to stop it.

        Raises:
            EngineError: the model or the backend cannot be used.
            ConfigError: see :meth:`__init__`.
            InputError: the camera's distortion model is unknown.
        """
        size = (camera.width, camera.height)
        model_dir = find_model(config.engine.model)
        engine = Engine.open(
            model_dir, config.engine, camera_size=size, cache_dir=cache_dir, progress=progress
        )
        try:
            progress("rehearsing")
            rehearsal = DvpsPipeline(engine, config)
            for i, image in enumerate(load_golden(model_dir / engine.graph.golden).images):
                rehearsal.process(Frame(cv2.resize(image, size), i * 100_000_000, camera))
            engine.reset()
            return DvpsPipeline(engine, config)
        except BaseException:
            engine.close()
            raise

    def process(
        self,
        frame: Frame,
        wanted: frozenset[str] = ALL_OUTPUTS,
        *,
        world_from_camera: np.ndarray | None = None,
    ) -> FrameResult:
        """One frame.

        Args:
            wanted: members of :data:`ALL_OUTPUTS`; nothing is computed for the others.
            world_from_camera: float64 [4,4] pose of the camera where it is known; velocities are then over
                ground, not relative to the camera.

        Raises:
            InputError: a frame that cannot be used; the pipeline is as it was and takes the next one.
            EngineError: the backend failed.
        """
        if world_from_camera is not None:
            check_pose("world_from_camera", world_from_camera)
        return self.finish(self.infer(frame, wanted), world_from_camera=world_from_camera)

    def infer(self, frame: Frame, wanted: frozenset[str] = ALL_OUTPUTS) -> Inferred:
        """The first half of :meth:`process`, up to what the network says.

        One thread may infer the next frame while another finishes this one. The frame after the next must
        wait until this one is finished: the engine overwrites its outputs.

        Raises:
            InputError: a frame that cannot be used; the pipeline is as it was and takes the next one.
            EngineError: the backend failed.
        """
        self._check(frame, wanted)
        lap = _Laps()
        self._follow(frame)
        if self.engine.camera_shape == frame.image.shape:
            image = network_image = self._view.preprocess.rectified(frame.image)
        else:
            image, network_image = self._view.preprocess(frame.image)
        lap("fit")
        try:
            output = self.engine.run(
                network_image, self._view.preprocess.network_camera.vector, _outputs_for(wanted)
            )
        except EngineError:
            self._forget("engine failed")
            raise
        output = self._without_rim(output)
        lap("engine")
        past, self._past = self._past, _Past()
        return Inferred(frame, wanted, image, output, self._view, past, lap.times_ms)

    def finish(self, inferred: Inferred, *, world_from_camera: np.ndarray | None = None) -> FrameResult:
        """The second half of :meth:`process`: each inferred frame once, in their order."""
        frame, wanted, output, view = inferred.frame, inferred.wanted, inferred.output, inferred.view
        self._begin_anew(inferred.past)
        lap = _Laps()
        scale = self._scale.update(
            frame.stamp_ns, output.depth_m, output.class_map == self._road, view.map_camera
        )
        lap("scale")
        tracks = self._tracker.update(
            frame.stamp_ns, output.segments, output.segment_map, output.embedding, output.overlap
        )
        lap("track")
        maps = None
        if wanted & {"panoptic", "cloud"}:
            maps = view.maps(output, _row_classes(output, tracks), tracks.row_track, scale.scale)
            lap("maps")
        points_m = unproject(output.depth_m * np.float32(scale.scale), view.map_camera)
        instances = self._objects.update(
            frame.stamp_ns,
            tracks,
            points_m,
            output.segment_map,
            view.preprocess.fit,
            world_from_camera,
            scale=scale.scale,
        )
        lap("objects")
        camera, cloud = view.preprocess.camera, None
        if "cloud" in wanted and maps is not None:
            cloud = self._buffers.take("cloud", (camera.height, camera.width), CLOUD_DTYPE)
            organised_cloud(
                maps.depth_m,
                inferred.image,
                maps.class_map,
                maps.track_map,
                camera,
                out=cloud,
                steepest_deg=self._config.maps.steepest_deg,
                is_ground=self._is_ground,
            )
            lap("cloud")
        latent = output.latent if "latent" in wanted else None
        return FrameResult(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            camera=camera,
            image=inferred.image,
            panoptic=maps if "panoptic" in wanted else None,
            instances=instances,
            scale=scale,
            latent=None if latent is None else latent.copy(),  # the engine reuses its buffers
            cloud=cloud,
            stages_ms=inferred.stages_ms | lap.times_ms,
        )

    def suits(self, camera: CameraModel) -> bool:
        """Whether images of this camera fill no other graph of the model better than the one that is open."""
        return self.engine.suits(camera, self._config.engine.size)

    def reset(self) -> None:
        """Forget the past, the scale included: the next frame is the first. Track ids go on counting."""
        self.engine.reset()
        self._past = _Past()
        self._tracker.reset()
        self._objects.reset()
        self._scale.reset()
        self._stamp_ns = None

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def __enter__(self) -> DvpsPipeline[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, frame: Frame, wanted: frozenset[str]) -> None:
        unknown = wanted - ALL_OUTPUTS
        if unknown:
            raise InputError(f"outputs: expected some of {sorted(ALL_OUTPUTS)}, got {sorted(unknown)}")
        if frame.stamp_ns == self._stamp_ns:
            raise InputError(
                f"frame stamp: {frame.stamp_ns} ns is that of the frame before; "
                "is the camera's driver setting stamps, or a frame sent twice?"
            )

    def _follow(self, frame: Frame) -> None:
        """Adapt to a new camera, and forget the past where the frame does not continue it."""
        if frame.camera != self._camera:
            preprocess = Preprocess(frame.camera, self.engine.width, self.engine.height)
            known = self._camera
            size = (frame.camera.height, frame.camera.width, 3)
            if self.engine.camera_shape not in (None, size):
                height, width, _ = self.engine.camera_shape
                log.warning(
                    "the engine resizes images of %dx%d; these are resized on the processor", width, height
                )
            if known is not None and (known.width, known.height) != (frame.camera.width, frame.camera.height):
                self._past.scale_too = True
                self._forget("image size changed")
            maps = MapMaker(
                preprocess.fit,
                self.label_space,
                sky_class=self.engine.sky_class,
                max_depth_m=self._config.maps.max_depth_m,
                min_confidence=self._config.maps.min_confidence,
                min_region=self._config.maps.min_region,
                stride=self.engine.stride,
            )
            map_camera = preprocess.fit.camera(preprocess.camera, self.engine.stride)
            shown = cells_shown(preprocess.fit, self.engine.stride, preprocess.shown)
            self._camera = frame.camera
            self._view = _View(preprocess, map_camera, maps, None if shown.all() else shown)
        if self._stamp_ns is not None:
            step_s = (frame.stamp_ns - self._stamp_ns) * 1e-9
            if step_s < 0:
                self._forget("time jumped backwards")
            elif step_s > LONGEST_GAP_S:
                self._forget("gap in time")
        self._stamp_ns = frame.stamp_ns

    def _forget(self, reason: str) -> None:
        """Begin anew from here on; the frames before may not be finished yet."""
        self.engine.reset()
        self._past.forgotten.append(reason)
        now_s = time.monotonic()
        if now_s >= self._tell_again_s.get(reason, 0.0):  # stamps that flap must not fill the log
            self._tell_again_s[reason] = now_s + REMIND_S
            log.warning("%s: tracks and the network's memory start anew", reason)

    def _begin_anew(self, past: _Past) -> None:
        if past.forgotten:
            self._tracker.reset()
            self._objects.reset()
            self.resets.update(past.forgotten)
        if past.scale_too:
            self._scale.reset()

    def _without_rim(self, output: NetworkOutput) -> NetworkOutput:
        """Void and no segment on cells in the padding, or where rectification left nothing to see."""
        shown = self._view.shown
        if shown is None:
            return output
        return replace(
            output,
            class_map=np.where(shown, output.class_map, np.uint8(VOID)),
            segment_map=np.where(shown, output.segment_map, np.uint8(NO_SEGMENT)),
        )


def _outputs_for(wanted: frozenset[str]) -> frozenset[str]:
    """The graph's outputs that these of :data:`ALL_OUTPUTS` need, beside those that are always fetched."""
    maps = {"confidence", "class_logits", "nearest"} if wanted & {"panoptic", "cloud"} else set()
    return frozenset(maps | (wanted & {"latent"}) | {"overlap"})


class _Laps:
    """Milliseconds from each call to the next, by name."""

    def __init__(self) -> None:
        self.times_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.times_ms[stage] = (now - self._last) * 1e3
        self._last = now


def _row_classes(output: NetworkOutput, tracks: Tracks) -> np.ndarray:
    """uint8 [256]: class of each row of ``segments``: that of its track's whole life, else its own."""
    classes = np.full(256, VOID, np.uint8)
    classes[: len(output.segments)] = output.segments[:, Column.CLASS_ID]
    for track in tracks.live:
        if track.row >= 0:
            classes[track.row] = track.class_id
    return classes
