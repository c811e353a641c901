# SPDX-License-Identifier: Apache-2.0
"""The perception node: camera images in; panoptic maps, depth, tracked objects and labelled cloud out.

A thin adapter: message in, ``DvpsPipeline.process``, messages out. Callbacks run in the executor's thread
and only hand the newest image over; one worker thread does the rest.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSDurabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header

from dvps_ros.config import PipelineConfig, option
from dvps_ros.data.calibration import doubts
from dvps_ros.data.camera_infos import CameraInfos
from dvps_ros.data.pixels import MAX_PIXELS, check_pixels
from dvps_ros.data.stamps import JUMP_S, OutOfLine, Timeline, stamp_to_ns
from dvps_ros.errors import DvpsError, EngineError, InputError, sentence
from dvps_ros.labels import LabelSpace, PanopticOrder
from dvps_ros.ros import convert, qos
from dvps_ros.ros.connections import PROFILE, why_silent
from dvps_ros.ros.health import believable, scale_status, status
from dvps_ros.ros.nodes.base import BaseNode, LifeConfig, main_of
from dvps_ros.ros.outputs import OUTPUTS, PublishedFrame, label_outputs, vision_outputs
from dvps_ros.ros.worker import LatestSlot, Throttle, Worker
from dvps_ros.runtime import verify
from dvps_ros.runtime.backends import Progress
from dvps_ros.runtime.engine import Engine, open_all
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.pipeline import STAGES, DvpsPipeline
from dvps_ros.types import CameraModel, Frame, FrameResult, ScaleEstimate

REMAP_IMAGE = "remap ~/input/image to the camera's topic"
LEAST_ARRIVING, MOST_DROPPED = 0.8, 0.5
"""Shares of the images: of those that the camera sends fewer that arrive, or of these more that are dropped,
are told as a warning."""
SHAPE_MESSAGES = 10
"""So many camera messages in a row must fit another size of the network before that is opened."""
DRAIN_S = 5.0
"""Longest wait for the frames in work when the node is deactivated."""


@dataclass(frozen=True)
class NodeConfig(LifeConfig, PipelineConfig):
    """The parameters of the node: those of the pipeline, and how it is wired into ROS."""

    build_only: bool = option(
        False, "Build and prove the engines of all sizes, then end: for disk images and fleets."
    )
    image_transport: str = option("raw", "How images come in.", choices=("raw", "compressed"))
    rectified: str = option(
        "auto",
        "Whether images are rectified (P of camera_info holds); auto looks for image_rect in the topic.",
        choices=("auto", "yes", "no"),
    )
    horizontal_fov_deg: float = option(
        0.0,
        "Horizontal field of view of a camera without calibration, degrees; camera_info is then not used. "
        "0 takes camera_info.",
        low=0.0,
        high=179.0,
    )
    panoptic_order: str = option(
        PanopticOrder.INSTANCE_HIGH.value,
        "Which half of a packed panoptic value holds the instance.",
        choices=tuple(o.value for o in PanopticOrder),
    )
    frames_in_flight: int = option(
        1,
        "Frames in work at once. With 2 the engine computes the next frame while maps, cloud and messages of "
        "the one before are made: a higher rate where the engine leaves processor cores idle, as on a GPU.",
        low=1,
        high=2,
    )
    no_image_after_s: float = option(
        2.0, "Silence of the camera that is reported, seconds.", low=0.1, high=3600.0
    )
    time_jump_s: float = option(
        JUMP_S,
        "Step of the stamps against the stream, seconds, up to which an image is out of order and left out; "
        "further back or ahead, time begins anew if the next image continues there (a bag that is looped).",
        low=0.0,
        high=3600.0,
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "Images and cameras of more pixels are refused before they are decoded.",
        low=1,
        high=2**31,
    )


class Pipeline(Protocol):
    """What the node needs of :class:`dvps_ros.runtime.pipeline.DvpsPipeline`."""

    engine: Any
    label_space: LabelSpace
    resets: Counter[str]
    """How often the past was forgotten, by reason."""

    def suits(self, camera: CameraModel) -> bool: ...

    def infer(self, frame: Frame, wanted: frozenset[str]) -> Any: ...

    def finish(self, inferred: Any) -> FrameResult: ...

    def close(self) -> None: ...


OpenPipeline = Callable[[CameraModel, Progress], Pipeline]


def prepare_pipeline(config: PipelineConfig) -> OpenPipeline:
    """Check that the model is there and fits this package; the engine opens when the camera is known.

    Raises:
        ConfigError, EngineError: no such model, or one that cannot be used.
    """
    load_manifest(find_model(config.engine.model))
    return lambda camera, progress: DvpsPipeline.open(config, camera, progress=progress)


@dataclass(frozen=True)
class Arrival:
    """An image message and when it came."""

    message: Image | CompressedImage
    at_s: float
    """Seconds of the monotonic clock."""
    at_ns: int
    """Nanoseconds of the node's clock, which stamps are of."""


class EngineState(Enum):
    """Where the node's engine is, from the first camera on."""

    WAITING = auto()
    OPENING = auto()
    READY = auto()
    FAILED = auto()


class DvpsNode(BaseNode[NodeConfig]):
    """Lifecycle node of the perception of one camera (topics: ``dvps_ros.ros.outputs`` and docs/ros.md).

    Args:
        prepare: makes the pipeline opener; the tests put a small pipeline here.

    Raises:
        ConfigError: a parameter that does not exist or does not suit.
    """

    def __init__(
        self, *, prepare: Callable[[PipelineConfig], OpenPipeline] = prepare_pipeline, **kwargs: Any
    ) -> None:
        super().__init__("dvps", NodeConfig, **kwargs)
        self._prepare = prepare
        self._silence_throttle = Throttle(period_s=30.0)
        self._building_throttle = Throttle(period_s=10.0)

    # Life

    def start(self) -> None:
        """Configure and activate, or build what is to be built, if the node is set to start by itself.

        Raises:
            EngineError: it could not be configured.
        """
        if not (self.get_parameter("autostart").value and self.get_parameter("build_only").value):
            super().start()
            return
        self._demand(self.trigger_configure())
        self._build_all()

    def _open(self) -> None:
        """Check the model; the engine opens when the camera is known."""
        self._open_pipeline = self._prepare(self.config)
        self._pipeline: Pipeline | None = None
        self._worker: Worker[Any, Arrival] | None = None
        self._unusable: CameraModel | None = None
        self._slot: LatestSlot[Arrival] = LatestSlot()
        self._scale: ScaleEstimate | None = None
        self._resets: Counter[str] = Counter()
        self._timeline = Timeline(self.config.time_jump_s)
        self._doubts = ""
        self._unsuited = 0
        self._engine, self._doing, self._begin_s = EngineState.WAITING, "", time.monotonic()
        self._failure = ""

    def _begin(self) -> None:
        self._publish_labels()
        self.get_logger().info(f"active: images from {self._image.topic_name}")

    def _end(self) -> None:
        """What is in work is still published; the engine stays open."""
        if self._slot.clear():
            self.health.count("dropped")
        if not self._slot.drain(DRAIN_S):
            self._warn("drain", f"deactivated with a frame in work for more than {DRAIN_S:g} s")

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.stop()

    # Topics

    def _wire(self) -> None:
        self._table = vision_outputs() | OUTPUTS
        self._outputs = {
            topic: self._publisher(output.type, topic, qos.output()) for topic, output in self._table.items()
        }
        self._labels = {
            topic: (self._publisher(kind, topic, qos.latched()), build)
            for topic, (kind, build) in label_outputs().items()
        }
        self._debug = {
            name: self._publisher(Float64, f"~/debug/{name}_ms", qos.output())
            for name in ("latency", "processing", *STAGES)
        }
        compressed = self.config.image_transport == "compressed"
        topic = "~/input/image/compressed" if compressed else "~/input/image"
        kind: Any = CompressedImage if compressed else Image
        self._image_kind, self._image_qos = kind, qos.sensor()
        self._image = self._subscription(kind, topic, self._on_image, self._image_qos)
        rectified = self.config.rectified == "yes" or (
            self.config.rectified == "auto" and "image_rect" in self._image.topic_name
        )
        fov_deg = self.config.horizontal_fov_deg
        self._cameras = CameraInfos(
            rectified=rectified, horizontal_fov_deg=fov_deg, max_pixels=self.config.max_pixels
        )
        if fov_deg == 0:
            self._info_qos = qos.sensor()
            self._subscription(CameraInfo, "~/input/camera_info", self._on_camera_info, self._info_qos)
        self._hears_latched = False
        self._hear_latched()

    def _hear_latched(self) -> None:
        """A driver may send its CameraInfo once, for all who come later: listen for that where one does.

        To others such a subscription is a fault, of which they would warn in their log.
        """
        if self._hears_latched or not self._cameras.missing:
            return
        topic = self.resolve_topic_name("~/input/camera_info")
        ends = self.get_publishers_info_by_topic(topic)
        if any(e.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL for e in ends):
            self._hears_latched = True
            self._subscription(
                CameraInfo, "~/input/camera_info", self._on_latched_info, qos.latched(), quiet=True
            )

    # Callbacks

    def _on_camera_info(self, info: CameraInfo) -> None:
        self.health.informed()
        self._take_info(info)

    def _on_latched_info(self, info: CameraInfo) -> None:
        """What was sent before this node was there; later ones come by the other subscription, too."""
        if self._cameras.missing:
            self._take_info(info)

    def _take_info(self, info: CameraInfo) -> None:
        try:
            camera = self._cameras.add(info)
        except InputError as error:
            self.health.count("bad_camera_info")
            self._trouble(str(error), "camera_info")
        else:
            self._doubts = doubts(camera)
            if self._doubts:
                self._warn("doubts", self._doubts)
            self._start_engine(camera)
            self._follow_shape(camera)

    def _on_image(self, message: Image | CompressedImage) -> None:
        if not self._active:
            return
        self.health.received()
        if self._slot.put(Arrival(message, time.monotonic(), self.get_clock().now().nanoseconds)):
            self.health.count("dropped")
        if self._awaits_camera() and self.config.horizontal_fov_deg > 0:
            self._start_engine_from_image(message)
        elif self.config.horizontal_fov_deg > 0:
            with contextlib.suppress(InputError):  # the worker refuses it, with the reason
                width, height = convert.image_size(message)
                check_pixels(width, height, self.config.max_pixels)
                self._follow_shape(self._cameras.camera_of(0, width, height))

    def _start_engine_from_image(self, message: Image | CompressedImage) -> None:
        try:
            width, height = convert.image_size(message)
            check_pixels(width, height, self.config.max_pixels)
            camera = self._cameras.camera_of(0, width, height)
        except Exception as error:  # one bad image must not end the perception
            self._slot.clear()
            self._refuse("image", error, message.header.stamp)
        else:
            self._start_engine(camera)

    # Engine

    def _awaits_camera(self) -> bool:
        """Whether no engine is open or being opened, but one can be when a camera is known."""
        return self._worker is None or self._unusable is not None

    def _start_engine(self, camera: CameraModel, after: Worker[Any, Arrival] | None = None) -> None:
        """Open the engine in the worker: topics, services and diagnostics stay alive meanwhile.

        Args:
            after: the worker whose engine is to be closed before: there may be no memory for two.
        """
        if not self._awaits_camera() or camera == self._unusable:
            return
        self._unusable = None
        self._engine, self._begin_s = EngineState.OPENING, time.monotonic()
        progress = partial(self._progress, self._slot)

        def open_pipeline() -> Pipeline:
            if after is not None:
                after.stop(timeout_s=None)
            return self._open_pipeline(camera, progress)

        self._worker = Worker(
            self._slot,
            open_pipeline,
            self._infer,
            on_ready=self._on_ready,
            on_failure=partial(self._on_open_failure, camera),
            on_error=self._on_error,
            overlap=self.config.frames_in_flight > 1,
        )

    def _follow_shape(self, camera: CameraModel) -> None:
        """Open the engine anew when images of another shape have come to stay, to which another size of the
        network fits; a single message of another camera changes nothing."""
        if self._pipeline is None or self._pipeline.suits(camera):
            self._unsuited = 0
            return
        self._unsuited += 1
        if self._unsuited < SHAPE_MESSAGES:
            return
        self._unsuited = 0
        self.get_logger().warning(
            f"images of {camera.width}x{camera.height} fit another size of the network better: opening it"
        )
        if self._slot.clear():
            self.health.count("dropped")
        self._slot.close()  # the worker closes its engine after the frame in work
        before = self._worker
        self._slot, self._worker, self._pipeline = LatestSlot(), None, None
        self._start_engine(camera, after=before)

    def _build_all(self) -> None:
        """Build the engines of all sizes in the worker, and end the process."""
        self._engine, self._begin_s = EngineState.OPENING, time.monotonic()

        def built(engine: Engine) -> None:
            self.get_logger().info(f"all engines are built, after {time.monotonic() - self._begin_s:.1f} s")
            self._finish(None)

        self._worker = Worker(
            self._slot,
            partial(open_all, self.config.engine, progress=partial(self._progress, self._slot)),
            self._infer,
            on_ready=built,
            on_failure=self._on_failure,
            on_error=self._on_error,
        )

    def _progress(self, slot: LatestSlot[Arrival], what: str) -> None:
        """What this slot's worker does until the engine is ready; ends it when the node closes the slot."""
        if slot.closed:
            raise EngineError("stopped while the engine was opened")
        self._doing = what

    def _on_ready(self, pipeline: Pipeline) -> None:
        self._pipeline, self._engine = pipeline, EngineState.READY
        self.get_logger().info(f"ready after {time.monotonic() - self._begin_s:.1f} s")
        self._publish_labels()

    def _on_open_failure(self, camera: CameraModel, error: Exception) -> None:
        """A camera that cannot be used ends the worker only: another one may come."""
        if self._pipeline is not None or not isinstance(error, InputError):
            self._on_failure(error)
            return
        self._engine = EngineState.FAILED
        self._failure = f"failed: {error}; waiting for another camera"
        self._unusable = camera  # from here on another one opens an engine
        self._trouble(self._failure, "unusable camera")

    def _on_failure(self, error: Exception) -> None:
        if not isinstance(error, DvpsError):
            self._fault("engine", error)
        self._engine, self._failure = EngineState.FAILED, f"failed: {sentence(error)}"
        self._finish(sentence(error))

    def _publish_labels(self) -> None:
        if self._active and self._pipeline is not None:
            header = Header(stamp=self.get_clock().now().to_msg())
            for publisher, build in self._labels.values():
                publisher.publish(build(self._pipeline.label_space, header))

    # One frame: worker thread, and with two frames in flight from _publish on the second one

    def _infer(self, pipeline: Pipeline, arrival: Arrival) -> Callable[[], None] | None:
        watched = {t for t, publisher in self._outputs.items() if publisher.get_subscription_count() > 0}
        if not watched and not any(p.get_subscription_count() > 0 for p in self._debug.values()):
            self.health.count("unwatched")
            return None
        frame = self._frame(arrival)
        if frame is None:
            return None
        wanted = frozenset(n for t in watched if (n := self._table[t].needs) is not None)
        return partial(self._publish, pipeline, arrival, watched, pipeline.infer(frame, wanted))

    def _publish(self, pipeline: Pipeline, arrival: Arrival, watched: set[str], inferred: Any) -> None:
        result, header = pipeline.finish(inferred), arrival.message.header
        self._scale = result.scale
        self._tell_resets(pipeline.resets, header.stamp)
        order = PanopticOrder(self.config.panoptic_order)
        weights = pipeline.engine.manifest.weights.sha256
        view = PublishedFrame(result, header, pipeline.label_space, order, weights)
        for topic in self._table:
            if topic in watched:
                output = self._table[topic].build(view)
                if output is not None:
                    self._outputs[topic].publish(output)
        self._account(arrival, result)

    def _frame(self, arrival: Arrival) -> Frame | None:
        """The library's record of an image; None when it was refused or does not continue the stream."""
        message = arrival.message
        stamp = message.header.stamp
        try:
            stamp_ns = stamp_to_ns(stamp)
            placed_ns = self._timeline.place(stamp_ns, arrival.at_ns)
        except OutOfLine as error:
            self._left_out(error, stamp)
            return None
        except InputError as error:
            self._refuse("image", error, stamp)
            return None
        if placed_ns != stamp_ns:
            self._say_once(
                "the images have no stamps: the times of receipt are taken, in all outputs as well"
            )
            message.header.stamp = convert.ns_to_stamp(placed_ns)
        compressed = isinstance(message, CompressedImage)
        try:
            image = None if compressed else self._decode(message)
            size = convert.image_size(message)
        except InputError as error:
            self._refuse("image", error, stamp)
            return None
        try:
            # By the header alone: what has another size than its camera_info is not decoded.
            camera = self._cameras.camera_of(stamp_ns, *size)
        except InputError as error:
            self._refuse("camera", error, stamp)
            return None
        try:
            image = self._decode(message) if image is None else image
        except InputError as error:
            self._refuse("image", error, stamp)
            return None
        return Frame(image, placed_ns, camera, message.header.frame_id)

    def _decode(self, message: Image | CompressedImage) -> np.ndarray:
        return convert.image_to_rgb(message, max_pixels=self.config.max_pixels)

    def _left_out(self, error: OutOfLine, stamp: Time) -> None:
        """Count an image that does not continue the stream: a stuck driver, one out of order, a slip."""
        if error.kind == "stale":
            self.health.count("stale")
        else:
            self.health.refused(error.kind, str(error))
        self._trouble(f"image at {convert.stamp_text(stamp)} left out: {error}", error.kind)

    def _tell_resets(self, resets: Counter[str], stamp: Time) -> None:
        for reason in resets - self._resets:  # the pipeline has logged them
            self.health.trouble(f"image at {convert.stamp_text(stamp)}: {reason}, tracks start anew")
        self._resets = Counter(resets)

    def _account(self, arrival: Arrival, result: FrameResult) -> None:
        processing_ms = (time.monotonic() - arrival.at_s) * 1e3
        latency_ms = (self.get_clock().now().nanoseconds - result.stamp_ns) * 1e-6
        self.health.processed(work_ms=processing_ms, latency_ms=latency_ms)
        times = {"processing": processing_ms, **result.stages_ms}
        if believable(latency_ms * 1e-3):
            times["latency"] = latency_ms
        for name, value in times.items():
            if name in self._debug and self._debug[name].get_subscription_count() > 0:
                self._debug[name].publish(Float64(data=float(value)))

    def _on_error(self, arrival: Arrival, error: Exception) -> None:
        if not self.context.ok() or not self._active:
            return  # publishers go away under the worker when ROS or the node's work ends
        self._refuse("frame", error, arrival.message.header.stamp)

    def _refuse(self, reason: str, error: Exception, stamp: Time) -> None:
        self.health.refused(reason, sentence(error))
        left_out = f"image at {convert.stamp_text(stamp)} left out"
        if isinstance(error, DvpsError):
            self._warn(reason, f"{left_out}: {error}")
        else:
            self._fault(left_out, error, key=reason)

    # Diagnostics

    def _parts(self) -> Mapping[str, Callable[[str], DiagnosticStatus]]:
        return {"input": self._input_status, "engine": self._engine_status, "scale": self._scale_status}

    def _report(self) -> None:
        """While an engine is built, say so in the log as well."""
        if self._configured:
            self._hear_latched()
        if (
            self._configured
            and self._engine is EngineState.OPENING
            and time.monotonic() - self._begin_s > 5.0
        ):
            if self._building_throttle.ready("building"):
                self.get_logger().info(self._opening())
        super()._report()

    def _input_status(self, name: str) -> DiagnosticStatus:
        values = self.health.summary() | {
            "image_topic": self._image.topic_name,
            "camera_info_exact": str(self._cameras.exact),
            "camera_info_newest": str(self._cameras.inexact),
            **{f"reset: {reason}": str(n) for reason, n in self._resets.items()},
        }
        if not self._active:
            return status(name, DiagnosticStatus.OK, "inactive", values)
        silence = self._silence()
        # Its first words tell what is missing; what follows are numbers that change.
        if silence and self._silence_throttle.ready(silence[:8]):
            self.get_logger().warning(silence)
        trouble = silence or self.health.recent_trouble() or self._doubts or self._losses()
        if trouble:
            return status(name, DiagnosticStatus.WARN, trouble, values)
        return status(name, DiagnosticStatus.OK, "images come in", values)

    def _silence(self) -> str | None:
        """What is missing at the input, if anything."""
        quiet_s = self.health.silence_s()
        if quiet_s > self.config.no_image_after_s:
            topic = self._image.topic_name
            why = why_silent(self, topic, self._image_kind, self._image_qos, remap=REMAP_IMAGE, lost=PROFILE)
            return f"no image for {quiet_s:.0f} s {why}"
        if self._cameras.missing and self.health.counts["received"]:
            topic = self.resolve_topic_name("~/input/camera_info")
            advice = "remap it, or set horizontal_fov_deg"
            why = why_silent(self, topic, CameraInfo, self._info_qos, remap=advice, lost=advice)
            return f"images come in, but no camera_info {why}"
        if self._cameras.exact == 0 and self._cameras.inexact >= 30:
            return (
                "the stamps of camera_info never equal those of the images; the newest camera_info is taken "
                "for each image, which is right only if the intrinsics do not change"
            )
        return None

    def _losses(self) -> str | None:
        """What gets lost of the images, on the way or in the node, if it is much."""
        sent_hz, received_hz, processed_hz = self.health.rates_hz()
        if received_hz < LEAST_ARRIVING * sent_hz:
            return (
                f"camera_info comes at {sent_hz:.1f} Hz, images at {received_hz:.1f} Hz on "
                f"{self._image.topic_name}: the others get lost on the way; {PROFILE}"
            )
        if self._engine is EngineState.READY and self.health.recently_dropped() > MOST_DROPPED:
            return (
                f"the camera sends {received_hz:.1f} images a second, {processed_hz:.1f} are processed, the "
                "newest each time; lower its rate, or take a smaller engine.size, a faster precision or "
                "fewer outputs"
            )
        return None

    def _engine_status(self, name: str) -> DiagnosticStatus:
        values = {"model": self.config.engine.model, "backend": self.config.engine.backend}
        if self._pipeline is not None:
            engine = self._pipeline.engine
            values["engine"] = engine.description
            values["verified"] = verify.summary(engine.differences)
        level, words = {
            EngineState.WAITING: (DiagnosticStatus.STALE, "waiting for the camera"),
            EngineState.OPENING: (DiagnosticStatus.WARN, self._opening()),
            EngineState.READY: (DiagnosticStatus.OK, "ready"),
            EngineState.FAILED: (DiagnosticStatus.ERROR, self._failure),
        }[self._engine]
        return status(name, level, words, values)

    def _scale_status(self, name: str) -> DiagnosticStatus:
        return scale_status(name, self._scale)

    def _opening(self) -> str:
        return f"{self._doing or 'opening'}, {time.monotonic() - self._begin_s:.0f} s"


def main(args: list[str] | None = None) -> int:
    """Entry point ``dvps_node``."""
    return main_of(DvpsNode, args, config=NodeConfig)


if __name__ == "__main__":
    sys.exit(main())
