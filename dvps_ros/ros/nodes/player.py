# SPDX-License-Identifier: Apache-2.0
"""Publishes any input of the library as a camera: Image or CompressedImage, with CameraInfo."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from dvps_ros import msg as dvps_msg
from dvps_ros.config import option
from dvps_ros.errors import ConfigError, DvpsError, InputError, sentence
from dvps_ros.files import write_text
from dvps_ros.ros import convert, params, qos
from dvps_ros.ros.process import run
from dvps_ros.types import Frame

TELL_AFTER_S = 3.0
"""Of waiting for listeners in silence."""
_SETTLE_S = 0.3
"""The middleware finds the other topics of a new listener a moment after the first."""


@dataclass(frozen=True)
class PlayerConfig:
    """The parameters of the player."""

    source: str = option("", "Video, folder of images, bag, KITTI raw drive folder, or world:SEED.")
    camera: str = option("", "Calibration file that goes before the source's own; empty takes the source's.")
    fov_deg: float = option(
        0.0,
        "Horizontal field of view of a source without calibration, degrees; 0 = none.",
        low=0.0,
        high=179.0,
    )
    rate_hz: float = option(
        -1.0,
        "Images a second; -1 keeps the source's own times, 0 sends an image when the last one was processed.",
        low=-1.0,
        high=1000.0,
    )
    stamps: str = option(
        "source",
        "source keeps the times of the input (results can be reproduced); now takes the clock when sending.",
        choices=("source", "now"),
    )
    loop: bool = option(False, "Begin again at the end.")
    frames: int = option(0, "Stop after this many images; 0 plays all.", low=0, high=2**31 - 1)
    image_transport: str = option("raw", "How images go out.", choices=("raw", "compressed"))
    jpeg_quality: int = option(95, "Quality of compressed images.", low=1, high=100)
    report: str = option(
        "",
        "JSON file to write at the end: stamp, time in the source and time of sending of each image; "
        "empty writes none.",
    )
    clock: bool = option(False, "Publish the images' stamps on /clock.")
    subscribers: int = option(1, "Wait until this many subscribers listen to the images.", low=0, high=1000)
    start_timeout_s: float = option(
        120.0, "Longest wait for subscribers and for the perception node to be ready, seconds.", low=0.0
    )
    processed_timeout_s: float = option(
        10.0, "Longest wait for an image to be processed, at rate 0 and at the end, seconds.", low=0.0
    )


class Player(Node):
    """Plays an input on ``image`` (or ``image/compressed``) and ``camera_info``.

    It starts when enough subscribers listen and, where ``labels`` has a publisher, when the label space came:
    the perception node publishes it when its engine is ready. ``processed`` (remap it to the
    perception node's ``~/output/scale``) says which image is done.

    Raises:
        ConfigError: a parameter that does not suit.
        InputError: the input cannot be opened.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("dvps_player", automatically_declare_parameters_from_overrides=True, **kwargs)
        params.declare(self, PlayerConfig)
        self.config = params.read(self, PlayerConfig)
        self.done: Future = Future()
        self._source = self._open()
        compressed = self.config.image_transport == "compressed"
        kind: Any = CompressedImage if compressed else Image
        topic = "image/compressed" if compressed else "image"
        options: Any = {"qos_overriding_options": qos.overridable()}
        self._images = self.create_publisher(kind, topic, qos.output(), **options)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos.output(), **options)
        self._clock_out = (
            self.create_publisher(ClockMessage, "/clock", qos.output()) if self.config.clock else None
        )
        self._changed = threading.Condition()
        self._stopped = False
        self._ready = False
        self._processed_ns: int | None = None
        self._sent_s = 0.0
        self._latency_ms: list[float] = []
        self._report: list[dict[str, int]] = []
        self._labels_in = self.create_subscription(
            dvps_msg.LabelSpace, "labels", self._on_labels, qos.latched()
        )
        self._processed_in = self.create_subscription(
            dvps_msg.ScaleEstimate, "processed", self._on_processed, qos.output()
        )
        self._thread = threading.Thread(target=self._run, name="dvps player", daemon=True)
        self._thread.start()

    def _open(self) -> Any:
        from dvps_ros.data.calibration import load_camera
        from dvps_ros.data.sources import open_source

        if not self.config.source:
            raise InputError("source: expected a video, folder, bag or world:SEED, got nothing")
        camera = load_camera(self.config.camera) if self.config.camera else None
        return open_source(self.config.source, camera=camera, fov_deg=self.config.fov_deg or None)

    # Callbacks (executor thread)

    def _on_labels(self, message: dvps_msg.LabelSpace) -> None:
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def _on_processed(self, message: dvps_msg.ScaleEstimate) -> None:
        with self._changed:
            self._processed_ns = convert.stamp_to_ns(message.header.stamp)
            self._latency_ms.append((time.monotonic() - self._sent_s) * 1e3)
            self._changed.notify_all()

    # Playing (own thread)

    def _run(self) -> None:
        failure: str | None = None
        try:
            self._wait_for_listeners()
            self._play()
        except DvpsError as error:
            failure = str(error)
        except Exception as error:
            if not self._stopped and self.context.ok():
                failure = sentence(error)
                self.get_logger().error("".join(traceback.format_exception(error)))
        finally:
            if not self.done.done():
                self.done.set_result(failure)

    def _wait_for_listeners(self) -> None:
        """Raises: InputError when nobody came in time."""
        deadline = time.monotonic() + self.config.start_timeout_s
        header = Header(frame_id="camera_optical")
        told = False
        while not self._stopped and time.monotonic() < deadline:
            listeners = self._images.get_subscription_count()
            if not told and time.monotonic() > deadline - self.config.start_timeout_s + TELL_AFTER_S:
                told = True
                self.get_logger().info(
                    f"waiting for {self.config.subscribers} subscribers on {self._images.topic_name} and "
                    f"for the perception node to be ready, {self.config.start_timeout_s:g} s at most; now "
                    f"there are {listeners} (another topic: -r image:=TOPIC; at once: -p subscribers:=0)"
                )
            if listeners >= self.config.subscribers:
                if self._ready or not self.count_publishers(self._labels_in.topic_name):
                    self._wait(lambda: self._stopped, _SETTLE_S)
                    return
                # The engine opens for the camera that it is told of.
                header.stamp = self.get_clock().now().to_msg()
                self._infos.publish(convert.camera_to_info(self._source.camera, header))
            self._wait(lambda: self._stopped, 0.2)
        if not self._stopped:
            raise InputError(
                f"nobody was ready in {self.config.start_timeout_s:g} s: {self._images.topic_name} has "
                f"{self._images.get_subscription_count()} of {self.config.subscribers} subscribers"
            )

    def _play(self) -> None:
        acknowledged = self.count_publishers(self._processed_in.topic_name) > 0
        if self.config.rate_hz == 0 and not acknowledged:
            raise ConfigError(
                f"rate_hz 0 needs to hear what is processed, but {self._processed_in.topic_name} has no "
                "publisher; remap processed to the perception node's ~/output/scale"
            )
        begin_s, sent = time.monotonic(), 0
        for frame in self._frames():
            if self._stopped:
                return
            sent += 1
            stamp_ns = self._send(frame)
            if self.config.rate_hz == 0 and not self._wait_processed(stamp_ns):
                self.get_logger().warning(f"image {sent}: not processed in time; going on")
        seconds = time.monotonic() - begin_s
        if acknowledged and sent:
            self._wait_processed(stamp_ns)
        self._images.wait_for_all_acked(Duration(seconds=2))
        if self.config.report:
            report = {"images": self._report, "unreadable": self._source.unreadable}
            write_text(Path(self.config.report), json.dumps(report))
        message = (
            f"{self._source.name}: {sent} images in {seconds:.1f} s ({sent / max(seconds, 1e-9):.1f} Hz)"
        )
        if self._source.unreadable:
            message += f", {self._source.unreadable} could not be read"
        if self._latency_ms and self.config.rate_hz == 0:
            p50, p99 = np.percentile(self._latency_ms, (50, 99))
            message += f"; sent to processed: {p50:.1f} ms median, {p99:.1f} ms p99"
        self.get_logger().info(message)

    def _frames(self) -> Any:
        """The frames of all rounds, each when its time has come; rounds are a period apart."""
        sent, due_s, rate_hz = 0, 0.0, self.config.rate_hz
        while True:
            first: tuple[float, int] | None = None
            for index, frame in enumerate(self._source):
                if first is None:
                    first = max(time.monotonic(), due_s), frame.stamp_ns
                if rate_hz < 0:
                    due_s = first[0] + (frame.stamp_ns - first[1]) * 1e-9
                elif rate_hz > 0:
                    due_s = first[0] + index / rate_hz
                else:
                    due_s = 0.0
                self._wait(lambda: self._stopped, due_s - time.monotonic())
                if self._stopped:
                    return
                yield frame
                sent += 1
                if sent == self.config.frames:
                    return
            if not self.config.loop or first is None:
                return
            due_s += 1 / (rate_hz if rate_hz > 0 else self._source.rate_hz)

    def _send(self, frame: Frame) -> int:
        """Publish one frame; returns the stamp it went out with, nanoseconds."""
        now = self.config.stamps == "now"
        stamp = self.get_clock().now().to_msg() if now else convert.ns_to_stamp(frame.stamp_ns)
        header = Header(stamp=stamp, frame_id=frame.frame_id)
        if self._clock_out is not None:
            self._clock_out.publish(ClockMessage(clock=stamp))
        image = (
            convert.rgb_to_compressed(frame.image, header, quality=self.config.jpeg_quality)
            if self.config.image_transport == "compressed"
            else convert.rgb_to_image(frame.image, header)
        )
        self._sent_s = time.monotonic()
        stamp_ns = convert.stamp_to_ns(stamp)
        if self.config.report:
            times = {"stamp_ns": stamp_ns, "source_ns": frame.stamp_ns, "sent_ns": time.time_ns()}
            self._report.append(times)
        self._infos.publish(convert.camera_to_info(frame.camera, header))
        self._images.publish(image)
        return stamp_ns

    def _wait_processed(self, stamp_ns: int) -> bool:
        return self._wait(lambda: self._processed_ns == stamp_ns, self.config.processed_timeout_s)

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or condition(), max(0.0, timeout_s))
            return condition()

    def destroy_node(self) -> None:
        """Stop playing, leave ROS."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(5.0)
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Entry point ``dvps_player``."""
    return run(Player, args, config=PlayerConfig)


if __name__ == "__main__":
    sys.exit(main())
