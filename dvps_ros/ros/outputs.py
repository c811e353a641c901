# SPDX-License-Identifier: Apache-2.0
"""What the perception node publishes of a frame: one table of topics, what each needs and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from dvps_ros import msg as dvps_msg
from dvps_ros import viz
from dvps_ros.labels import LabelSpace, PanopticOrder
from dvps_ros.ros import convert
from dvps_ros.types import FrameResult, PanopticDepth


@dataclass(frozen=True)
class PublishedFrame:
    """One processed frame, as the outputs see it."""

    result: FrameResult
    header: Header
    space: LabelSpace
    order: PanopticOrder
    weights: str
    """SHA-256 of the network's weights."""

    @property
    def maps(self) -> PanopticDepth:
        """The camera-resolution maps, of a frame for which they were asked."""
        assert self.result.panoptic is not None
        return self.result.panoptic


@dataclass(frozen=True)
class Output:
    """One output topic.

    Args:
        needs: what the pipeline must compute for it; None for what it always gives.
        build: makes the message; None where the network does not have that output.
    """

    type: type
    needs: str | None
    build: Callable[[PublishedFrame], Any]


def _overlay(v: PublishedFrame) -> Image:
    picture = viz.overlay(v.result.image, v.maps.class_map, v.maps.track_map, v.space, v.result.instances)
    return convert.rgb_to_image(picture, v.header)


def _points(v: PublishedFrame) -> PointCloud2:
    assert v.result.cloud is not None
    return convert.cloud_to_message(v.result.cloud, v.header)


def _latent(v: PublishedFrame) -> dvps_msg.LatentTokens | None:
    if v.result.latent is None:
        return None
    return convert.latent_to_message(v.result.latent, v.header, v.weights)


OUTPUTS: dict[str, Output] = {
    "~/output/semantic": Output(
        Image, "panoptic", lambda v: convert.semantic_to_image(v.maps.class_map, v.header)
    ),
    "~/output/instance": Output(
        Image, "panoptic", lambda v: convert.instance_to_image(v.maps.track_map, v.header)
    ),
    "~/output/panoptic": Output(
        Image,
        "panoptic",
        lambda v: convert.panoptic_to_image(v.maps.class_map, v.maps.track_map, v.header, v.order),
    ),
    "~/output/panoptic_color": Output(
        Image,
        "panoptic",
        lambda v: convert.rgb_to_image(
            viz.panoptic_color(v.maps.class_map, v.maps.track_map, v.space), v.header
        ),
    ),
    "~/output/confidence": Output(
        Image, "panoptic", lambda v: convert.confidence_to_image(v.maps.confidence, v.header)
    ),
    "~/output/depth": Output(Image, "panoptic", lambda v: convert.depth_to_image(v.maps.depth_m, v.header)),
    "~/output/camera_info": Output(
        CameraInfo, None, lambda v: convert.camera_to_info(v.result.camera, v.header)
    ),
    "~/output/points": Output(PointCloud2, "cloud", _points),
    "~/output/latent": Output(dvps_msg.LatentTokens, "latent", _latent),
    "~/debug/overlay": Output(Image, "panoptic", _overlay),
    "~/output/markers": Output(
        MarkerArray, None, lambda v: convert.instances_to_markers(v.result.instances, v.space, v.header)
    ),
    "~/output/instances": Output(
        dvps_msg.TrackedInstanceArray,
        None,
        lambda v: convert.instances_to_message(v.result.instances, v.header),
    ),
    # The last of a frame: who receives it knows that the frame is done.
    "~/output/scale": Output(
        dvps_msg.ScaleEstimate, None, lambda v: convert.scale_to_message(v.result.scale, v.header)
    ),
}
"""Every topic of a frame, in the order in which they are published."""


def vision_outputs() -> dict[str, Output]:
    """The standard vision messages, where that package is installed."""
    try:
        from vision_msgs.msg import Detection2DArray, Detection3DArray
    except ImportError:
        return {}
    return {
        "~/output/detections_2d": Output(
            Detection2DArray,
            None,
            lambda v: convert.instances_to_detections_2d(v.result.instances, v.space, v.header),
        ),
        "~/output/detections_3d": Output(
            Detection3DArray,
            None,
            lambda v: convert.instances_to_detections_3d(v.result.instances, v.space, v.header),
        ),
    }


LabelOutput = tuple[type, Callable[[LabelSpace, Header], Any]]


def label_outputs() -> dict[str, LabelOutput]:
    """Topics that say what class ids mean, once and for late subscribers too: type and how it is made."""
    table: dict[str, LabelOutput] = {"~/output/labels": (dvps_msg.LabelSpace, convert.label_space_to_message)}
    try:
        from vision_msgs.msg import LabelInfo
    except ImportError:
        return table
    return table | {"~/output/label_info": (LabelInfo, convert.label_space_to_label_info)}
