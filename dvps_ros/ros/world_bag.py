# SPDX-License-Identifier: Apache-2.0
"""A rendered drive as a rosbag2 folder: the camera, and the truth as a perfect perception node publishes it.

Written with rosbags' own message classes, so that it needs no ROS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from scipy.ndimage import find_objects
from scipy.spatial.transform import Rotation

from dvps_ros.data.images import FIRST_STAMP_NS
from dvps_ros.data.world.files import renumber
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.errors import InputError
from dvps_ros.geometry.depth import unproject
from dvps_ros.geometry.pose import inverse
from dvps_ros.labels import CITYSCAPES, encode_panoptic
from dvps_ros.ros.bag import BagWriter, typestore_of_files
from dvps_ros.types import CameraModel, Motion, Sample, ScaleHealth, TrackState

CAMERA = "/camera"
NODE = "/truth"
"""Its topics are named as those of a perception node of this name: ``read_frames(bag, node=NODE)``."""
IMAGE = f"{CAMERA}/image_raw"
FRAME, BASE, ODOM, MAP = "camera_optical", "base_link", "odom", "map"
IMAGES = ("raw", "jpeg", "png")
JPEG_QUALITY = 95
MAX_ID = 65535
"""Of an object in a 16-bit instance image."""

_IMAGE = "sensor_msgs/msg/Image"
_TOPICS = {
    f"{CAMERA}/camera_info": "sensor_msgs/msg/CameraInfo",
    f"{NODE}/output/camera_info": "sensor_msgs/msg/CameraInfo",
    **{
        f"{NODE}/output/{name}": _IMAGE
        for name in (
            "semantic",
            "instance",
            "panoptic",
            "confidence",
            "depth",
            "flow",
            "scene_flow",
            "moving",
        )
    },
    f"{NODE}/output/instances": "dvps_ros/msg/TrackedInstanceArray",
    f"{NODE}/output/steering": "dvps_ros/msg/SteeringCommand",
    f"{NODE}/output/odometry": "nav_msgs/msg/Odometry",
    "/tf": "tf2_msgs/msg/TFMessage",
    # The last of a frame, as the perception node's.
    f"{NODE}/output/scale": "dvps_ros/msg/ScaleEstimate",
}
_LATCHED_TOPICS = {
    f"{NODE}/output/labels": "dvps_ros/msg/LabelSpace",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


def write_bag(
    frames: Iterable[Sample],
    path: Path,
    camera: CameraModel,
    *,
    rate_hz: float,
    base_from_camera: np.ndarray,
    messages: Path,
    images: str = "raw",
) -> int:
    """Write one-frame samples with full truth, scene flow included, as one bag.

    All messages of a frame are recorded at, and carry, the image's stamp, which counts from one second.
    Objects are numbered anew, 1, 2, ... in the order of their first sight. The bag appears when it is whole.

    Args:
        base_from_camera: float64 [4,4]: the camera on the vehicle (x forward, y left, z up), whose origin is
            on the road under the rear axle.
        messages: folder of this package's .msg files.
        images: ``raw`` (Image rgb8), ``jpeg`` or ``png`` (CompressedImage).

    Returns:
        Number of frames written.

    Raises:
        ConfigError: the folder exists already, or cannot be made.
        InputError: more objects than 16 bits can number.
        DiskFull: there is no room left; nothing is left behind.
    """
    writer = BagWriter(path, store=typestore_of_files(messages))
    try:
        drive = _Drive(writer, camera, rate_hz, base_from_camera, images)
        for sample in frames:
            drive.add(sample)
        writer.close()
    except BaseException:
        writer.discard()
        raise
    return drive.frames


class _Drive:
    """Turns samples into the messages of one bag."""

    def __init__(
        self,
        writer: BagWriter,
        camera: CameraModel,
        rate_hz: float,
        base_from_camera: np.ndarray,
        images: str,
    ) -> None:
        self.frames = 0
        assert writer.store is not None, "write_world_bag makes one"
        self._writer, self._store = writer, writer.store
        self._camera, self._rate_hz, self._images = camera, rate_hz, images
        self._base_from_camera = base_from_camera
        self._numbers = np.zeros(1, np.int32)
        self._first_ns: dict[int, int] = {}
        self._kinds = {
            IMAGE if images == "raw" else f"{IMAGE}/compressed": (
                _IMAGE if images == "raw" else "sensor_msgs/msg/CompressedImage"
            ),
            **_TOPICS,
            **_LATCHED_TOPICS,
        }
        for topic, kind in self._kinds.items():
            writer.add_topic(topic, kind, _qos(latched=topic in _LATCHED_TOPICS))

    def add(self, sample: Sample) -> None:
        """Write all messages of the next frame."""
        stamp_ns = FIRST_STAMP_NS + round(self.frames * 1e9 / self._rate_hz)
        if self.frames == 0:
            self._put("/tf_static", stamp_ns, self._mount(stamp_ns))
            self._put(f"{NODE}/output/labels", stamp_ns, self._labels(stamp_ns))
        for topic, message in self._messages(sample, stamp_ns).items():
            self._put(topic, stamp_ns, message)
        self.frames += 1

    def _put(self, topic: str, stamp_ns: int, message: Any) -> None:
        self._writer.write(topic, stamp_ns, self._store.serialize_cdr(message, self._kinds[topic]))

    def _messages(self, sample: Sample, stamp_ns: int) -> dict[str, Any]:
        header = self._header(stamp_ns)
        class_map = sample.truth("class_map")[0]
        track_map = self._numbered(sample, stamp_ns)
        # As the perception node says it (REP-118): the sky is infinitely far.
        depth_m = sample.truth("depth_m")[0]
        depth_m = np.where(depth_m > 0, depth_m, np.float32(np.inf))
        info = self._camera_info(header)
        maps = {
            "semantic": (class_map, "mono8"),
            "instance": (track_map, "16UC1"),
            "panoptic": (encode_panoptic(class_map, track_map), "32SC1"),
            "confidence": (np.full_like(class_map, 255), "mono8"),
            "depth": (depth_m, "32FC1"),
            "flow": (sample.truth("flow_px")[0], "32FC2"),
            "scene_flow": (sample.truth("scene_flow_m")[0], "32FC3"),
            "moving": (sample.truth("moving")[0], "mono8"),
        }
        outputs = {name: self._image(array, encoding, header) for name, (array, encoding) in maps.items()}
        outputs |= {
            "camera_info": info,
            "instances": self._make(
                "dvps_ros/msg/TrackedInstanceArray",
                header=header,
                instances=self._instances(sample, track_map, stamp_ns),
            ),
            "steering": self._steering(sample, stamp_ns),
            "odometry": self._odometry(sample, stamp_ns),
            "scale": self._scale(header),
        }
        topics = {f"{NODE}/output/{name}": message for name, message in outputs.items()}
        odom_from_base = sample.truth("world_from_camera")[0] @ inverse(self._base_from_camera)
        tf = [self._transform(ODOM, BASE, odom_from_base, stamp_ns)]
        topics |= {f"{CAMERA}/camera_info": info, "/tf": self._make("tf2_msgs/msg/TFMessage", transforms=tf)}
        if self._images == "raw":
            topics[IMAGE] = self._image(sample.images[0], "rgb8", header)
        else:
            topics[f"{IMAGE}/compressed"] = self._compressed(sample.images[0], header)
        return {topic: topics[topic] for topic in self._kinds if topic in topics}

    # -- truth ---------------------------------------------------------------------------------------

    def _numbered(self, sample: Sample, stamp_ns: int) -> np.ndarray:
        """uint16 [H,W]: objects in the order of their first sight."""
        ids = sample.truth("instance_map")[0]
        known = int(self._numbers.max())
        self._numbers = renumber(self._numbers, ids)
        count = int(self._numbers.max())
        if count > MAX_ID:
            raise InputError(f"{sample.source}: more than {MAX_ID} objects in one bag: write fewer frames")
        self._first_ns |= {number: stamp_ns for number in range(known + 1, count + 1)}
        return self._numbers[ids].astype(np.uint16)

    def _instances(self, sample: Sample, track_map: np.ndarray, stamp_ns: int) -> list[Any]:
        """A TrackedInstance for each object that is seen; place and size as the node measures them."""
        points_m = unproject(sample.truth("depth_m")[0], self._camera)
        instances = []
        for number, box in enumerate(find_objects(track_map.astype(np.int32)), start=1):
            if box is None:
                continue
            rows, columns = box
            mask = track_map[box] == number
            low, high = np.quantile(points_m[box][mask].astype(np.float64), [0.05, 0.95], axis=0)
            # Scene flow leads back in time; relative to the camera, as the node's without ego-motion.
            velocity = -np.median(sample.truth("scene_flow_m")[0][box][mask], axis=0) * self._rate_hz
            moves = sample.truth("moving")[0][box][mask].any()
            instances.append(
                self._make(
                    "dvps_ros/msg/TrackedInstance",
                    track_id=number,
                    class_id=int(sample.truth("class_map")[0][box][mask][0]),
                    score=1.0,
                    state=int(TrackState.CONFIRMED),
                    motion=int(Motion.MOVING if moves else Motion.STATIC),
                    box_x=float(columns.start),
                    box_y=float(rows.start),
                    box_width=float(columns.stop - columns.start),
                    box_height=float(rows.stop - rows.start),
                    area=int(mask.sum()),
                    centroid=self._xyz("Point", 0.5 * (low + high)),
                    extent=self._xyz("Vector3", high - low),
                    velocity=self._xyz("Vector3", velocity),
                    covariance=np.zeros(36),
                    age=self._duration(stamp_ns - self._first_ns[number]),
                    unseen=self._duration(0),
                )
            )
        return instances

    # -- messages ------------------------------------------------------------------------------------

    def _make(self, kind: str, **fields: Any) -> Any:
        return self._store.types[kind](**fields)

    def _time(self, stamp_ns: int) -> Any:
        return self._make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)

    def _duration(self, ns: int) -> Any:
        return self._make("builtin_interfaces/msg/Duration", sec=ns // 10**9, nanosec=ns % 10**9)

    def _header(self, stamp_ns: int, frame: str = FRAME) -> Any:
        return self._make("std_msgs/msg/Header", stamp=self._time(stamp_ns), frame_id=frame)

    def _xyz(self, kind: str, v: Iterable[float]) -> Any:
        x, y, z = map(float, v)
        return self._make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)

    def _image(self, array: np.ndarray, encoding: str, header: Any) -> Any:
        data = np.ascontiguousarray(array)
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        return self._make(
            _IMAGE,
            header=header,
            height=data.shape[0],
            width=data.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=data.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def _compressed(self, image: np.ndarray, header: Any) -> Any:
        suffix = {"jpeg": ".jpg", "png": ".png"}[self._images]
        options = (
            [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        _, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        name = f"rgb8; {self._images} compressed bgr8"
        return self._make(
            "sensor_msgs/msg/CompressedImage", header=header, format=name, data=data.reshape(-1)
        )

    def _camera_info(self, header: Any) -> Any:
        c = self._camera
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._make(
            "sensor_msgs/msg/CameraInfo",
            header=header,
            height=c.height,
            width=c.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=c.K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([c.K, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def _labels(self, stamp_ns: int) -> Any:
        classes = [
            self._make(
                "dvps_ros/msg/LabelClass",
                id=c.id,
                name=c.name,
                color=np.array(c.color, np.uint8),
                is_thing=c.is_thing,
            )
            for c in CITYSCAPES.classes
        ]
        return self._make(
            "dvps_ros/msg/LabelSpace", header=self._header(stamp_ns), name=CITYSCAPES.name, classes=classes
        )

    def _scale(self, header: Any) -> Any:
        """Depth is metric; the road plane is that of the vehicle's wheels."""
        plane = -self._base_from_camera[2]  # height in the vehicle's frame is 0, and down is positive
        return self._make(
            "dvps_ros/msg/ScaleEstimate",
            header=header,
            health=int(ScaleHealth.OK),
            scale=1.0,
            variance=0.0,
            plane=plane,
            camera_height=float(-plane[3]),
            inlier_ratio=math.nan,
        )

    def _steering(self, sample: Sample, stamp_ns: int) -> Any:
        angle = float(sample.truth("steering_rad")[0])
        return self._make(
            "dvps_ros/msg/SteeringCommand",
            header=self._header(stamp_ns, BASE),
            valid=True,
            tyre_angle=angle,
            curvature=math.tan(angle) / WHEELBASE_M,
            confidence=1.0,
            age=self._duration(0),
        )

    def _odometry(self, sample: Sample, stamp_ns: int) -> Any:
        speed, angle = float(sample.truth("speed_mps")[0]), float(sample.truth("steering_rad")[0])
        pose = sample.truth("world_from_camera")[0] @ inverse(self._base_from_camera)
        twist = self._make(
            "geometry_msgs/msg/Twist",
            linear=self._xyz("Vector3", (speed, 0.0, 0.0)),
            angular=self._xyz("Vector3", (0.0, 0.0, speed * math.tan(angle) / WHEELBASE_M)),
        )
        return self._make(
            "nav_msgs/msg/Odometry",
            header=self._header(stamp_ns, ODOM),
            child_frame_id=BASE,
            pose=self._make(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self._make(
                    "geometry_msgs/msg/Pose",
                    position=self._xyz("Point", pose[:3, 3]),
                    orientation=self._quaternion(pose),
                ),
                covariance=np.zeros(36),
            ),
            twist=self._make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def _mount(self, stamp_ns: int) -> Any:
        """The odometry has no drift: map and odom are one."""
        transforms = [
            self._transform(MAP, ODOM, np.eye(4), stamp_ns),
            self._transform(BASE, FRAME, self._base_from_camera, stamp_ns),
        ]
        return self._make("tf2_msgs/msg/TFMessage", transforms=transforms)

    def _transform(self, parent: str, child: str, parent_from_child: np.ndarray, stamp_ns: int) -> Any:
        return self._make(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(stamp_ns, parent),
            child_frame_id=child,
            transform=self._make(
                "geometry_msgs/msg/Transform",
                translation=self._xyz("Vector3", parent_from_child[:3, 3]),
                rotation=self._quaternion(parent_from_child),
            ),
        )

    def _quaternion(self, pose: np.ndarray) -> Any:
        x, y, z, w = map(float, Rotation.from_matrix(pose[:3, :3]).as_quat())
        return self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _qos(*, latched: bool) -> Qos:
    """Reliable; of what is said once, also late subscribers get the last."""
    unset = QosTime(0, 0)
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 5,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        unset,
        unset,
        QosLiveliness.SYSTEM_DEFAULT,
        unset,
        False,
    )
