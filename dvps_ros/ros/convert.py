# SPDX-License-Identifier: Apache-2.0
"""Pure functions between ROS messages and the records of the library.

Every output takes the header of the input image: equal stamp, equal frame. Large arrays go into a
message without a copy (:func:`_fill`): publish the message before the array is written to again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from copy import copy
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from dvps_ros import msg as dvps_msg
from dvps_ros.data.pixels import (
    ENCODINGS,
    MAX_PIXELS,
    check_pixels,
    compressed_to_rgb,
    encoded_size,
    raw_to_rgb,
)
from dvps_ros.data.stamps import stamp_to_ns as stamp_to_ns
from dvps_ros.errors import InputError
from dvps_ros.labels import LabelSpace, PanopticOrder, encode_panoptic
from dvps_ros.types import CLOUD_DTYPE, CameraModel, ScaleEstimate, TrackedInstance, TrackState

BIG_ENDIAN = sys.byteorder == "big"


# Time


def ns_to_stamp(stamp_ns: int) -> Time:
    """Stamp of nanoseconds."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def stamp_text(stamp: Time) -> str:
    """A stamp for people, whatever it holds."""
    return f"{stamp.sec + stamp.nanosec * 1e-9:.3f} s"


def _duration(seconds: float) -> Duration:
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=sec, nanosec=nanosec)


# Images in


def image_size(message: Image | CompressedImage) -> tuple[int, int]:
    """Width and height of an image in pixels, before anything is decoded.

    Raises:
        InputError: a compressed image whose header says none.
    """
    if isinstance(message, CompressedImage):
        return encoded_size(message.data)
    return message.width, message.height


def image_to_rgb(message: Image | CompressedImage, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB pixels of an image: uint8 [H,W,3], a view of the message where it is dense rgb8.

    Encodings other than :data:`dvps_ros.data.pixels.ENCODINGS` go through cv_bridge where it is installed.
    ``is_bigendian`` says nothing about 8-bit pixels.

    Args:
        max_pixels: larger images are refused before they are decoded.

    Raises:
        InputError: unknown encoding, empty or too large an image, a step or data size that does not fit, or
            as :func:`dvps_ros.data.pixels.compressed_to_rgb`.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_rgb(message.data, message.format, max_pixels=max_pixels)
    check_pixels(message.width, message.height, max_pixels)
    if message.encoding not in ENCODINGS:
        try:
            from cv_bridge import CvBridge
        except ImportError:
            pass  # the decoder below refuses, with the encodings it knows
        else:
            try:
                return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
            except Exception as error:  # CvBridgeError, and what numpy and OpenCV raise in it
                raise InputError(f"image: cv_bridge cannot convert {message.encoding!r}: {error}") from error
    return raw_to_rgb(message.data, message.encoding, message.height, message.width, message.step)


def camera_to_info(camera: CameraModel, header: Header) -> CameraInfo:
    """CameraInfo of a camera model; P is K without distortion (rectification keeps the focal length)."""
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    info.distortion_model = camera.distortion_model
    info.d = list(camera.distortion) or [0.0] * 5
    info.k = camera.K.reshape(-1)
    info.r = np.eye(3).reshape(-1)
    info.p = np.hstack([camera.K, np.zeros((3, 1))]).reshape(-1)
    return info


# Images out


def _fill(message: Any, array: np.ndarray, dtype: Any = np.uint8) -> Any:
    """Lend an array to ``message.data`` without a copy.

    The public setter looks at every element (a third of a second for a camera image). The converter to
    the wire format takes any buffer from the field behind it; a test compares what arrives.
    """
    message._data = np.ascontiguousarray(array).reshape(-1).view(dtype)
    return message


def _image(array: np.ndarray, encoding: str, header: Header) -> Image:
    height, width = array.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding)
    message.is_bigendian = int(BIG_ENDIAN)
    message.step = width * array.itemsize * (array.shape[2] if array.ndim == 3 else 1)
    return _fill(message, array)


def rgb_to_image(image: np.ndarray, header: Header) -> Image:
    """rgb8 of RGB uint8 [H,W,3]."""
    return _image(image, "rgb8", header)


def rgb_to_compressed(image: np.ndarray, header: Header, *, quality: int = 95) -> CompressedImage:
    """JPEG of RGB uint8 [H,W,3]."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return _fill(CompressedImage(header=header, format="rgb8; jpeg compressed bgr8"), data)


def semantic_to_image(class_map: np.ndarray, header: Header) -> Image:
    """mono8 of class ids uint8 [H,W]; 255 void."""
    return _image(class_map, "mono8", header)


def instance_to_image(track_map: np.ndarray, header: Header) -> Image:
    """16UC1 of track ids uint16 [H,W]; 0 none."""
    return _image(track_map, "16UC1", header)


def panoptic_to_image(
    class_map: np.ndarray,
    track_map: np.ndarray,
    header: Header,
    order: PanopticOrder = PanopticOrder.INSTANCE_HIGH,
) -> Image:
    """32SC1 of class and track id packed into one number."""
    return _image(encode_panoptic(class_map, track_map, order), "32SC1", header)


def confidence_to_image(confidence: np.ndarray, header: Header) -> Image:
    """mono8 of the class probability x 255, uint8 [H,W]."""
    return _image(confidence, "mono8", header)


def depth_to_image(depth_m: np.ndarray, header: Header) -> Image:
    """32FC1 of z-depth in metres, float32 [H,W]; NaN unknown, +inf sky (REP-118)."""
    return _image(depth_m, "32FC1", header)


_CLOUD_FIELDS = [
    PointField(
        name=name,
        offset=offset,
        # PCL and RViz read packed colours from a field of type float.
        datatype=PointField.UINT32 if name in ("label", "instance") else PointField.FLOAT32,
        count=1,
    )
    for name, (_, offset, *_) in (CLOUD_DTYPE.fields or {}).items()
]


def cloud_to_message(cloud: np.ndarray, header: Header) -> PointCloud2:
    """Organised cloud of CLOUD_DTYPE [H,W]: row v, column u is pixel (u, v) of the maps of the same stamp."""
    height, width = cloud.shape
    message = PointCloud2(header=header, height=height, width=width, fields=_CLOUD_FIELDS)
    message.is_bigendian = BIG_ENDIAN
    message.point_step = CLOUD_DTYPE.itemsize
    message.row_step = CLOUD_DTYPE.itemsize * width
    message.is_dense = False  # x = y = z = NaN at sky and unknown depth
    return _fill(message, cloud)


# Records out


def label_space_to_message(space: LabelSpace, header: Header) -> dvps_msg.LabelSpace:
    """What the class ids mean."""
    return dvps_msg.LabelSpace(
        header=header,
        name=space.name,
        classes=[
            dvps_msg.LabelClass(id=c.id, name=c.name, color=np.array(c.color, np.uint8), is_thing=c.is_thing)
            for c in space.classes
        ],
    )


def _point(p: np.ndarray) -> Point:
    return Point(x=float(p[0]), y=float(p[1]), z=float(p[2]))


def _vector(v: np.ndarray) -> Vector3:
    return Vector3(x=float(v[0]), y=float(v[1]), z=float(v[2]))


def _instance(t: TrackedInstance) -> dvps_msg.TrackedInstance:
    x, y, width, height = (float(v) for v in t.box_px)
    return dvps_msg.TrackedInstance(
        track_id=t.track_id,
        class_id=t.class_id,
        score=float(t.score),
        state=int(t.state),
        motion=int(t.motion),
        box_x=x,
        box_y=y,
        box_width=width,
        box_height=height,
        area=t.area_px,
        centroid=_point(t.centroid_m),
        extent=_vector(t.extent_m),
        velocity=_vector(t.velocity_mps),
        covariance=t.covariance.reshape(-1),
        age=_duration(t.age_s),
        unseen=_duration(t.unseen_s),
    )


def instances_to_message(
    instances: Iterable[TrackedInstance], header: Header
) -> dvps_msg.TrackedInstanceArray:
    """All tracked objects."""
    return dvps_msg.TrackedInstanceArray(header=header, instances=[_instance(t) for t in instances])


def scale_to_message(scale: ScaleEstimate, header: Header) -> dvps_msg.ScaleEstimate:
    """The metric scale."""
    return dvps_msg.ScaleEstimate(
        header=header,
        health=int(scale.health),
        scale=float(scale.scale),
        variance=float(scale.variance),
        plane=np.asarray(scale.plane, np.float64),
        camera_height=float(-scale.plane[3]),
        inlier_ratio=float(scale.inlier_ratio),
    )


def latent_to_message(latent: np.ndarray, header: Header, weights: str) -> dvps_msg.LatentTokens:
    """Latent tokens, float32 [T,C], of the network with these weights (SHA-256)."""
    tokens, channels = latent.shape
    message = dvps_msg.LatentTokens(header=header, weights=weights, tokens=tokens, channels=channels)
    return _fill(message, latent, np.float32)


def message_to_latent(message: dvps_msg.LatentTokens) -> np.ndarray:
    """float32 [T,C].

    Raises:
        InputError: the data is not tokens x channels long.
    """
    data = np.asarray(message.data, np.float32)
    if data.size != message.tokens * message.channels:
        raise InputError(
            f"latent tokens: expected {message.tokens} x {message.channels} numbers, got {data.size}"
        )
    return data.reshape(message.tokens, message.channels)


def _like(message: Any, **fields: Any) -> Any:
    """A copy of a message that shares all but the given fields: a constructor makes every part anew."""
    made = copy(message)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def instances_to_markers(
    instances: Iterable[TrackedInstance], space: LabelSpace, header: Header, *, arrow_s: float = 1.0
) -> MarkerArray:
    """For RViz: a box and a text for each object with a place, an arrow to where it is ``arrow_s`` later."""
    white = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    box = Marker(header=header, ns="box", type=Marker.CUBE)
    text = Marker(header=header, ns="label", type=Marker.TEXT_VIEW_FACING, color=white)
    text.scale.z = 0.4
    arrow = Marker(header=header, ns="velocity", type=Marker.ARROW, color=white)
    arrow.scale = Vector3(x=0.1, y=0.2, z=0.0)  # shaft and head diameter, metres
    upright = Quaternion()
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for t in instances:
        if not np.isfinite(t.centroid_m).all():
            continue
        x, y, z = t.centroid_m.tolist()
        extent_m = [0.0 if math.isnan(e) else e for e in t.extent_m.tolist()]
        r, g, b = (v / 255 for v in space.classes[t.class_id].color)
        width, height, depth = (max(e, 0.05) for e in extent_m)  # RViz refuses flat boxes
        markers.append(
            _like(
                box,
                id=t.track_id,
                pose=Pose(position=Point(x=x, y=y, z=z), orientation=upright),
                scale=Vector3(x=width, y=height, z=depth),
                color=ColorRGBA(r=r, g=g, b=b, a=0.2 if t.state is TrackState.LOST else 0.6),
            )
        )
        above = Point(x=x, y=y - (extent_m[1] / 2 + 0.3), z=z)
        markers.append(
            _like(
                text,
                id=t.track_id,
                pose=Pose(position=above, orientation=upright),
                text=f"{space.classes[t.class_id].name} {t.track_id}",
            )
        )
        step_m = t.velocity_mps * arrow_s
        if np.isfinite(step_m).all() and np.linalg.norm(step_m) > 0.2:
            points = [Point(x=x, y=y, z=z), _point(t.centroid_m + step_m)]
            markers.append(_like(arrow, id=t.track_id, points=points))
    return MarkerArray(markers=markers)


# Standard vision messages, where the package vision_msgs is installed


def instances_to_detections_2d(
    instances: Iterable[TrackedInstance], space: LabelSpace, header: Header
) -> Any:
    """vision_msgs/Detection2DArray of the objects seen in this frame; ``id`` is the track id."""
    from vision_msgs.msg import Detection2D, Detection2DArray

    detections = []
    for t in instances:
        if t.area_px == 0:
            continue
        x, y, width, height = (float(v) for v in t.box_px)
        detection = Detection2D(header=header, id=str(t.track_id), results=[_hypothesis(t, space)])
        # The box covers whole pixels: its left edge lies half a pixel left of the first pixel's centre.
        detection.bbox.center.position.x = x + (width - 1) / 2
        detection.bbox.center.position.y = y + (height - 1) / 2
        detection.bbox.size_x, detection.bbox.size_y = width, height
        detections.append(detection)
    return Detection2DArray(header=header, detections=detections)


def instances_to_detections_3d(
    instances: Iterable[TrackedInstance], space: LabelSpace, header: Header
) -> Any:
    """vision_msgs/Detection3DArray of the objects with a place; boxes along the axes of the optical frame."""
    from vision_msgs.msg import Detection3D, Detection3DArray

    detections = []
    for t in instances:
        if not np.isfinite(t.centroid_m).all():
            continue
        detection = Detection3D(header=header, id=str(t.track_id), results=[_hypothesis(t, space)])
        detection.bbox.center.position = _point(t.centroid_m)
        detection.bbox.size = _vector(t.extent_m)
        detections.append(detection)
    return Detection3DArray(header=header, detections=detections)


def _hypothesis(t: TrackedInstance, space: LabelSpace) -> Any:
    from vision_msgs.msg import ObjectHypothesisWithPose

    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = space.classes[t.class_id].name
    result.hypothesis.score = float(t.score)
    result.pose.pose.position = _point(t.centroid_m)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = t.covariance[:3, :3]
    result.pose.covariance = covariance.reshape(-1)
    return result


def label_space_to_label_info(space: LabelSpace, header: Header) -> Any:
    """vision_msgs/LabelInfo, the class table that Nav2's semantic layer reads."""
    from vision_msgs.msg import LabelInfo, VisionClass

    return LabelInfo(
        header=header, class_map=[VisionClass(class_id=c.id, class_name=c.name) for c in space.classes]
    )
