# SPDX-License-Identifier: Apache-2.0
"""Helpers of the node tests: a small pipeline, known records, and waiting for events, never for time."""

from __future__ import annotations

import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_rosout_default, qos_profile_sensor_data

from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import (
    CLOUD_DTYPE,
    CameraModel,
    Frame,
    FrameResult,
    Motion,
    PanopticDepth,
    ScaleEstimate,
    ScaleHealth,
    TrackedInstance,
    TrackState,
)

CAMERA = CameraModel(16, 8, 10.0, 11.0, 7.5, 3.5)
CAR = CITYSCAPES.id_of("car")
SCALE = ScaleEstimate(1.5, 0.25, ScaleHealth.OK, np.array([0.0, 1.0, 0.0, -1.65]), 0.75)


def instance(**changes: Any) -> TrackedInstance:
    """A car 10 m ahead that moves to the left at 2 m/s."""
    values = {
        "track_id": 7,
        "class_id": CAR,
        "score": 0.875,
        "state": TrackState.CONFIRMED,
        "box_px": (3.0, 2.0, 6.0, 4.0),
        "area_px": 20,
        "centroid_m": np.array([1.0, 0.5, 10.0]),
        "extent_m": np.array([2.0, 1.5, 4.0]),
        "velocity_mps": np.array([-2.0, 0.0, 0.0]),
        "covariance": np.arange(36.0).reshape(6, 6),
        "age_s": 1.25,
        "unseen_s": 0.0,
        "motion": Motion.MOVING,
    }
    return TrackedInstance(**(values | changes))


def maps_of(image: np.ndarray) -> PanopticDepth:
    """Maps whose pixels tell where they came from: class and track from the image, depth from the row."""
    height, width = image.shape[:2]
    depth = np.repeat(np.arange(1, height + 1, dtype=np.float32)[:, None], width, axis=1)
    depth[0], depth[1] = np.inf, np.nan
    track = image[..., 1].astype(np.uint16) * 200
    return PanopticDepth(image[..., 0] % 19, track, depth, image[..., 2].copy())


def cloud_of(maps: PanopticDepth, image: np.ndarray) -> np.ndarray:
    """The cloud of such maps: z is the depth where that is a number."""
    cloud = np.zeros(maps.class_map.shape, CLOUD_DTYPE)
    cloud["z"] = np.where(np.isfinite(maps.depth_m), maps.depth_m, np.nan)
    cloud["x"] = cloud["y"] = cloud["z"] * 0 + 0.25
    r, g, b = (image[..., i].astype(np.uint32) for i in range(3))
    cloud["rgb"] = r << 16 | g << 8 | b
    cloud["label"], cloud["instance"] = maps.class_map, maps.track_map
    return cloud


class TinyPipeline:
    """Stands where the network is: answers at once with values that depend on the image alone."""

    def __init__(self, camera: CameraModel) -> None:
        weights = SimpleNamespace(sha256="5eed")
        manifest = SimpleNamespace(weights=weights)
        self.engine = SimpleNamespace(description="tiny", differences=[], manifest=manifest)
        self.label_space = CITYSCAPES
        self.resets: Counter[str] = Counter()
        self.opened_for = camera
        self.calls: list[tuple[Frame, frozenset[str]]] = []
        self.closed = False
        self.has_latent = True
        self.before: Callable[[Frame], None] = lambda frame: None
        self.between: Callable[[Frame], None] = lambda frame: None

    def suits(self, camera: CameraModel) -> bool:
        return True

    def infer(self, frame: Frame, wanted: frozenset[str]) -> tuple[Frame, frozenset[str]]:
        self.calls.append((frame, wanted))
        self.before(frame)
        return frame, wanted

    def finish(self, inferred: tuple[Frame, frozenset[str]]) -> FrameResult:
        frame, wanted = inferred
        self.between(frame)
        maps = maps_of(frame.image)
        return FrameResult(
            frame.stamp_ns,
            frame.frame_id,
            frame.camera,
            frame.image,
            maps if "panoptic" in wanted else None,
            (instance(),),
            SCALE,
            np.arange(6, dtype=np.float32).reshape(2, 3) if "latent" in wanted and self.has_latent else None,
            cloud_of(maps, frame.image) if "cloud" in wanted else None,
            {"engine": 3.5},
        )

    def close(self) -> None:
        self.closed = True


class Graph:
    """Nodes in one executor, a test node beside them, and waiting with a deadline."""

    def __init__(self) -> None:
        self.executor = SingleThreadedExecutor()
        self.namespace = f"/t{time.monotonic_ns()}"
        self.node = Node("tester", namespace=self.namespace)
        self.nodes: list[Any] = []
        self.executor.add_node(self.node)

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
        """Spin until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        """Give what must not happen the time to happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def listen(self, kind: Any, topic: str, profile: Any = qos_profile_sensor_data) -> list[Any]:
        """Messages of a topic as they come in."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, profile)
        return received

    def log(self, level: int) -> list[str]:
        """Grows with what the graph's nodes log at this level: 30 is a warning, 40 an error."""
        lines: list[str] = []

        def note(entry: Log) -> None:
            if entry.level == level and entry.name.startswith(self.namespace[1:]):
                lines.append(entry.msg)

        self.node.create_subscription(Log, "/rosout", note, qos_profile_rosout_default)
        return lines

    def remove(self, node: Any) -> None:
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()

    def close(self) -> None:
        for node in list(self.nodes):
            self.remove(node)
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.executor.shutdown()


def huge_png() -> bytes:
    """A PNG of 69 bytes whose header claims 65536x65536 pixels."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(4))),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def parameters(**values: Any) -> list[Parameter]:
    """Parameter overrides; ``__`` in a name stands for a dot."""
    return [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
