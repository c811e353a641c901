# SPDX-License-Identifier: Apache-2.0
"""What each output topic costs to make."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from dvps_ros.labels import LabelSpace, PanopticOrder
from dvps_ros.ros.outputs import PublishedFrame
from dvps_ros.ros.probes.playback import frame_outputs
from dvps_ros.types import FrameResult

WARM_UP = 3
"""Frames that are not counted: numba compiles for the first, and buffers are new."""


def topic_costs(results: Iterable[FrameResult], space: LabelSpace) -> dict[str, dict[str, float]]:
    """Per topic: bytes, build_ms and serialise_ms, medians over all frames but the first :data:`WARM_UP`."""
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for n, result in enumerate(results):
        header = Header(frame_id=result.frame_id)
        view = PublishedFrame(result, header, space, PanopticOrder.INSTANCE_HIGH, weights="0" * 64)
        for topic, output in frame_outputs().items():
            begin = time.thread_time()
            message = output.build(view)
            built = time.thread_time()
            if message is None:
                continue  # the network has no such output
            size = len(serialize_message(message))
            end = time.thread_time()
            if n >= WARM_UP:
                rows.setdefault(topic, []).append((size, (built - begin) * 1e3, (end - built) * 1e3))
    return {topic: _medians(of_topic) for topic, of_topic in rows.items()}


def _medians(rows: list[tuple[int, float, float]]) -> dict[str, float]:
    sizes, build_ms, serialise_ms = (statistics.median(column) for column in zip(*rows, strict=True))
    return {"bytes": sizes, "build_ms": build_ms, "serialise_ms": serialise_ms}
