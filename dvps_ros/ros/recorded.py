# SPDX-License-Identifier: Apache-2.0
"""The results of the perception node, put together again from a recorded bag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.data.calibration import camera_from_info
from dvps_ros.data.pixels import raw_to_rgb
from dvps_ros.ros.bag import bag_topics, read_bag
from dvps_ros.types import (
    CLOUD_DTYPE,
    FrameResult,
    Motion,
    PanopticDepth,
    ScaleEstimate,
    ScaleHealth,
    TrackedInstance,
    TrackState,
)

NEEDED = ("semantic", "instance", "depth", "confidence", "instances", "scale", "camera_info")
PENDING = 20
"""Frames that may be incomplete at a time: topics are recorded in any order."""


def read_frames(bag: Path, *, image_topic: str, node: str) -> Iterator[FrameResult]:
    """The complete frames of a recording, in the order of their stamps.

    Their ``image`` is the camera's (not rectified); ``latent`` is left out and ``stages_ms`` is empty.

    Args:
        image_topic: the camera's images (sensor_msgs/Image).
        node: name of the perception node, the prefix of its topics, such as ``/dvps``.

    Raises:
        InputError: the bag cannot be read.
    """
    names = {f"{node}/output/{name}": name for name in (*NEEDED, "points")} | {image_topic: "image"}
    pending: dict[int, dict[str, Any]] = {}
    for topic, _, message in read_bag(bag, list(names)):
        stamp = message.header.stamp
        pending.setdefault(stamp.sec * 10**9 + stamp.nanosec, {})[names[topic]] = message
        if len(pending) > PENDING:
            yield from _complete(pending, min(pending))
    for stamp_ns in sorted(pending):
        yield from _complete(pending, stamp_ns)


def read_times(bag: Path, *, node: str) -> dict[str, list[float]]:
    """What the node published about its times: {stage: milliseconds of its frames}.

    Raises:
        InputError: the bag cannot be read.
    """
    prefix, suffix = f"{node}/debug/", "_ms"
    times: dict[str, list[float]] = {}
    topics = [t for t in bag_topics(bag) if t.startswith(prefix) and t.endswith(suffix)]
    for topic, _, message in read_bag(bag, topics) if topics else ():
        times.setdefault(topic.removeprefix(prefix).removesuffix(suffix), []).append(message.data)
    return times


def read_engine(bag: Path, *, node: str) -> str:
    """The description of the engine in the node's last diagnostics; empty when there is none.

    Raises:
        InputError: the bag cannot be read.
    """
    engine = ""
    for _, _, message in read_bag(bag, ["/diagnostics"]):
        for status in message.status:
            if status.name.startswith(f"{node}: "):
                engine = next((v.value for v in status.values if v.key == "engine"), engine)
    return engine


def _complete(pending: dict[int, dict[str, Any]], stamp_ns: int) -> Iterator[FrameResult]:
    messages = pending.pop(stamp_ns)
    if all(name in messages for name in (*NEEDED, "image")):
        yield _result(stamp_ns, messages)


def _result(stamp_ns: int, m: dict[str, Any]) -> FrameResult:
    image, scale = m["image"], m["scale"]
    return FrameResult(
        stamp_ns=stamp_ns,
        frame_id=m["scale"].header.frame_id,
        camera=camera_from_info(m["camera_info"], rectified=True),
        image=raw_to_rgb(image.data, image.encoding, image.height, image.width, image.step),
        panoptic=PanopticDepth(
            class_map=_pixels(m["semantic"], np.uint8),
            track_map=_pixels(m["instance"], np.uint16),
            depth_m=_pixels(m["depth"], np.float32),
            confidence=_pixels(m["confidence"], np.uint8),
        ),
        instances=tuple(_instance(i) for i in m["instances"].instances),
        scale=ScaleEstimate(
            scale=scale.scale,
            variance=scale.variance,
            health=ScaleHealth(scale.health),
            plane=np.asarray(scale.plane, np.float64),
            inlier_ratio=scale.inlier_ratio,
        ),
        latent=None,
        cloud=_cloud(m["points"]) if "points" in m else None,
    )


def _pixels(image: Any, dtype: Any) -> np.ndarray:
    order = np.dtype(dtype).newbyteorder(">" if image.is_bigendian else "<")
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    return np.ascontiguousarray(rows[:, : image.width * order.itemsize]).view(order).astype(dtype, copy=False)


def _cloud(message: Any) -> np.ndarray:
    return np.frombuffer(message.data, CLOUD_DTYPE).reshape(message.height, message.width)


def _instance(m: Any) -> TrackedInstance:
    return TrackedInstance(
        track_id=m.track_id,
        class_id=m.class_id,
        score=m.score,
        state=TrackState(m.state),
        box_px=(m.box_x, m.box_y, m.box_width, m.box_height),
        area_px=m.area,
        centroid_m=_xyz(m.centroid),
        extent_m=_xyz(m.extent),
        velocity_mps=_xyz(m.velocity),
        covariance=np.asarray(m.covariance, np.float64).reshape(6, 6),
        age_s=_seconds(m.age),
        unseen_s=_seconds(m.unseen),
        motion=Motion(m.motion),
    )


def _xyz(v: Any) -> np.ndarray:
    return np.array([v.x, v.y, v.z], np.float64)


def _seconds(d: Any) -> float:
    return float(d.sec + d.nanosec * 1e-9)
