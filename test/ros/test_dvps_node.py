# SPDX-License-Identifier: Apache-2.0
"""The perception node over real ROS topics, with a small pipeline where the engine does not matter."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_profile_sensor_data,
)
from ros_graph import CAMERA, CAR, Graph, TinyPipeline, cloud_of, huge_png, maps_of, parameters
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Float64, Header
from visualization_msgs.msg import MarkerArray

from dvps_ros import msg as dvps_msg
from dvps_ros.errors import ConfigError, EngineError, InputError
from dvps_ros.labels import CITYSCAPES, decode_panoptic
from dvps_ros.ros import convert, qos
from dvps_ros.ros.health import Health
from dvps_ros.ros.nodes.dvps import DvpsNode, EngineState
from dvps_ros.ros.outputs import OUTPUTS
from dvps_ros.runtime.backends import Progress
from dvps_ros.types import CameraModel

START_NS = 1_700_000_000_000_000_000
LATCHED = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


def picture(seed: int, camera: CameraModel = CAMERA) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)


class Rig:
    """The node with a camera in front of it."""

    def __init__(self, graph: Graph, *, start: bool = True, kind: Any = Image, **values: Any) -> None:
        self.graph = graph
        self.opened: list[TinyPipeline] = []
        self.gate = threading.Event()
        self.gate.set()
        self.node: DvpsNode = graph.add(
            DvpsNode(
                prepare=lambda config: self._open,
                namespace=graph.namespace,
                parameter_overrides=parameters(**values),
            )
        )
        if start:
            self.node.start()
        suffix = "/compressed" if kind is CompressedImage else ""
        base = f"{graph.namespace}/dvps"
        self.image = graph.node.create_publisher(kind, f"{base}/input/image{suffix}", 10)
        self.info = graph.node.create_publisher(CameraInfo, f"{base}/input/camera_info", 10)
        if start:
            graph.wait(lambda: self.image.get_subscription_count() == 1, "the image subscription")

    def _open(self, camera: CameraModel, progress: Progress) -> TinyPipeline:
        pipeline = TinyPipeline(camera)
        pipeline.before = lambda frame: self.gate.wait(10) and None
        self.opened.append(pipeline)
        return pipeline

    @property
    def pipeline(self) -> TinyPipeline:
        return self.opened[0]

    @property
    def counts(self) -> dict[str, int]:
        return self.node.health.counts

    def topic(self, name: str) -> str:
        return f"{self.graph.namespace}/dvps/{name}"

    def listen(self, kind: Any, name: str, profile: Any = qos_profile_sensor_data) -> list[Any]:
        received = self.graph.listen(kind, self.topic(name), profile)
        publisher = self.node._outputs.get(f"~/{name}")
        if publisher is not None:
            self.graph.wait(lambda: publisher.get_subscription_count() > 0, f"a listener of {name}")
        return received

    def header(self, index: int) -> Header:
        stamp = convert.ns_to_stamp(START_NS + index * 100_000_000)
        return Header(stamp=stamp, frame_id="front_optical")

    def ready(self, camera: CameraModel = CAMERA) -> None:
        """Tell the camera and wait for the engine."""
        self.graph.wait(lambda: self.info.get_subscription_count() == 1, "the camera_info subscription")
        self.info.publish(convert.camera_to_info(camera, self.header(0)))
        self.graph.wait(lambda: self.node._pipeline, "the engine")

    def send(self, index: int, image: np.ndarray | None = None) -> np.ndarray:
        image = picture(index) if image is None else image
        self.image.publish(convert.rgb_to_image(image, self.header(index)))
        return image

    def refused(self) -> dict[str, int]:
        return dict(self.node.health.refusals)

    def input_status(self) -> DiagnosticStatus:
        return self.node._input_status("input")


def test_every_output_by_value(graph: Graph) -> None:
    rig = Rig(graph)
    images = {
        name: rig.listen(Image, f"output/{name}")
        for name in ("semantic", "instance", "panoptic", "confidence", "depth")
    }
    others = {
        "points": rig.listen(PointCloud2, "output/points"),
        "instances": rig.listen(dvps_msg.TrackedInstanceArray, "output/instances"),
        "scale": rig.listen(dvps_msg.ScaleEstimate, "output/scale"),
        "latent": rig.listen(dvps_msg.LatentTokens, "output/latent"),
        "camera_info": rig.listen(CameraInfo, "output/camera_info"),
        "markers": rig.listen(MarkerArray, "output/markers"),
    }
    labels = rig.listen(dvps_msg.LabelSpace, "output/labels", LATCHED)
    rig.ready()
    image = rig.send(3)
    graph.wait(lambda: all([*images.values(), *others.values(), labels]), "every output")
    received = {name: messages[0] for name, messages in (images | others).items()}

    for name, message in received.items():
        header = message.markers[0].header if name == "markers" else message.header
        assert header == rig.header(3), name
    maps = maps_of(image)

    def pixels(name: str, dtype: Any) -> np.ndarray:
        message = received[name]
        return np.frombuffer(message.data, dtype).reshape(message.height, message.width)

    np.testing.assert_array_equal(pixels("semantic", np.uint8), maps.class_map)
    np.testing.assert_array_equal(pixels("instance", np.uint16), maps.track_map)
    np.testing.assert_array_equal(pixels("confidence", np.uint8), maps.confidence)
    np.testing.assert_array_equal(pixels("depth", np.float32), maps.depth_m)
    class_map, track_map = decode_panoptic(pixels("panoptic", np.int32))
    np.testing.assert_array_equal(class_map, maps.class_map)
    np.testing.assert_array_equal(track_map, maps.track_map)
    assert bytes(received["points"].data) == cloud_of(maps, image).tobytes()
    assert [(t.track_id, t.class_id) for t in received["instances"].instances] == [(7, CAR)]
    assert received["scale"].camera_height == pytest.approx(1.65)
    assert list(received["latent"].data) == [0, 1, 2, 3, 4, 5] and received["latent"].weights == "5eed"
    assert received["camera_info"].k[0] == CAMERA.fx
    assert [c.name for c in labels[0].classes] == list(CITYSCAPES.names)


def test_what_nav2_needs(graph: Graph) -> None:
    """Mask mono8, confidence mono8, organised cloud: pixel-aligned, equal stamps, sensor-data listeners."""
    rig = Rig(graph)
    mask = rig.listen(Image, "output/semantic", qos_profile_sensor_data)
    confidence = rig.listen(Image, "output/confidence", qos_profile_sensor_data)
    cloud = rig.listen(PointCloud2, "output/points", qos_profile_sensor_data)
    rig.ready()
    for index in range(1, 4):
        rig.send(index)
        graph.wait(lambda n=index: len(mask) == len(confidence) == len(cloud) == n, f"frame {index}")
    for m, c, p in zip(mask, confidence, cloud, strict=True):
        assert m.header == c.header == p.header
        assert m.encoding == c.encoding == "mono8"
        assert (m.height, m.width) == (c.height, c.width) == (p.height, p.width) == (8, 16)
        points = np.frombuffer(p.data, np.uint8).reshape(p.height, p.row_step)
        labels = points.reshape(p.height, p.width, p.point_step)[..., 16:20].copy().view(np.uint32)[..., 0]
        np.testing.assert_array_equal(labels, np.frombuffer(m.data, np.uint8).reshape(8, 16))
    infos = graph.node.get_publishers_info_by_topic(rig.topic("output/labels"))
    assert infos[0].qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    assert infos[0].qos_profile.reliability == QoSReliabilityPolicy.RELIABLE


def test_late_listeners_get_the_label_space(graph: Graph) -> None:
    rig = Rig(graph)
    rig.ready()
    labels = graph.listen(dvps_msg.LabelSpace, rig.topic("output/labels"), LATCHED)
    graph.wait(lambda: labels, "the label space")
    assert labels[0].name == "cityscapes"


def test_standard_vision_messages_where_installed(graph: Graph) -> None:
    vision = pytest.importorskip("vision_msgs.msg")
    rig = Rig(graph)
    flat = rig.listen(vision.Detection2DArray, "output/detections_2d")
    solid = rig.listen(vision.Detection3DArray, "output/detections_3d")
    classes = graph.listen(vision.LabelInfo, rig.topic("output/label_info"), LATCHED)
    rig.ready()
    rig.send(1)
    graph.wait(lambda: flat and solid and classes, "the detections")
    assert flat[0].header == solid[0].header == rig.header(1)
    assert flat[0].detections[0].id == solid[0].detections[0].id == "7"
    assert classes[0].class_map[CAR].class_name == "car"


def test_nothing_is_computed_for_nobody(graph: Graph) -> None:
    rig = Rig(graph)
    rig.ready()
    rig.send(1)
    graph.wait(lambda: rig.counts["unwatched"] == 1, "the frame to be passed over")
    assert rig.pipeline.calls == []
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.send(2)
    graph.wait(lambda: scale, "the scale")
    rig.listen(PointCloud2, "output/points")
    rig.send(3)
    graph.wait(lambda: len(scale) == 2, "the next frame")
    assert [wanted for _, wanted in rig.pipeline.calls] == [frozenset(), frozenset({"cloud"})]


def test_the_newest_frame_wins_and_drops_are_counted(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    rig.gate.clear()
    rig.send(1)
    graph.wait(lambda: rig.pipeline.calls, "the first frame in work")
    for index in (2, 3, 4):
        rig.send(index)
        graph.wait(lambda n=index: rig.counts["received"] == n, f"frame {index}")
    rig.gate.set()
    graph.wait(lambda: len(scale) == 2, "two results")
    assert [m.header.stamp for m in scale] == [rig.header(1).stamp, rig.header(4).stamp]
    counts = {k: rig.counts[k] for k in ("received", "processed", "dropped")}
    assert counts == {"received": 4, "processed": 2, "dropped": 2}


def test_two_frames_in_flight_are_published_in_order_and_one_that_fails_is_left_out(graph: Graph) -> None:
    rig = Rig(graph, frames_in_flight=2)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    semantic = rig.listen(Image, "output/semantic", 10)
    rig.ready()
    second = threading.Event()

    def between(frame: Any) -> None:
        assert second.wait(10)
        if frame.stamp_ns == START_NS + 200_000_000:
            raise EngineError("of the second half")

    rig.pipeline.between = between
    for index in (1, 2):
        rig.send(index)
        graph.wait(lambda n=index: len(rig.pipeline.calls) == n, f"the engine to take frame {index}")
    rig.send(3)
    graph.wait(lambda: rig.counts["received"] == 3, "the third")
    graph.spin(0.2)
    assert len(rig.pipeline.calls) == 2 and scale == []  # frame 1 is not published yet
    second.set()
    graph.wait(lambda: len(scale) == len(semantic) == 2, "the others")
    assert [m.header.stamp for m in scale] == [rig.header(1).stamp, rig.header(3).stamp]
    assert [bytes(m.data) for m in semantic] == [maps_of(picture(n)).class_map.tobytes() for n in (1, 3)]
    assert rig.refused() == {"frame": 1} and "of the second half" in rig.input_status().message
    assert rig.counts["processed"] == 2 and rig.counts["dropped"] == 0


@pytest.mark.parametrize("frames_in_flight", [1, 2])
def test_deactivation_publishes_what_is_in_work_and_drops_what_waits(
    graph: Graph, frames_in_flight: int
) -> None:
    rig = Rig(graph, frames_in_flight=frames_in_flight)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    rig.gate.clear()
    rig.send(1)
    graph.wait(lambda: rig.pipeline.calls, "the first frame in work")
    rig.send(2)
    graph.wait(lambda: rig.counts["received"] == 2, "the second")
    threading.Timer(0.2, rig.gate.set).start()
    rig.node.trigger_deactivate()  # from here on nothing may be published
    assert rig.gate.is_set() and rig.counts["processed"] == 1 and rig.counts["dropped"] == 1
    graph.wait(lambda: scale, "the frame that was in work")
    assert scale[0].header.stamp == rig.header(1).stamp
    rig.node.trigger_activate()
    rig.send(3)
    graph.wait(lambda: len(scale) == 2, "a frame after it")
    assert scale[1].header.stamp == rig.header(3).stamp


def bad_image(**changes: Any) -> Image:
    message = convert.rgb_to_image(picture(1), Header())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def node_and_camera_info(
    graph: Graph, open_engine: Callable[[CameraModel, Progress], TinyPipeline]
) -> tuple[DvpsNode, Publisher]:
    """A started node that opens engines so, and what tells it of its camera."""
    node = graph.add(DvpsNode(prepare=lambda config: open_engine, namespace=graph.namespace))
    node.start()
    info = graph.node.create_publisher(CameraInfo, f"{graph.namespace}/dvps/input/camera_info", 10)
    graph.wait(lambda: info.get_subscription_count() == 1, "the subscription")
    return node, info


BAD_IMAGES = {
    "unknown encoding": (bad_image(encoding="bgr17"), "image", "'bgr17' is not known"),
    "step too short": (bad_image(step=3), "image", "expected 48 bytes or more"),
    "data too short": (bad_image(height=9), "image", "expected 9 rows of 48 bytes"),
    "empty": (Image(), "image", "'' is not known"),
    "no pixels": (Image(encoding="rgb8"), "image", "empty"),
    "another size": (
        convert.rgb_to_image(np.zeros((4, 4, 3), np.uint8), Header()),
        "camera",
        "4x4 pixels, but its camera_info is for 16x8",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_refused_and_the_node_goes_on(graph: Graph, case: str) -> None:
    message, reason, sentence = BAD_IMAGES[case]
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()
    message.header = rig.header(1)
    rig.image.publish(message)
    graph.wait(lambda: rig.refused(), "the refusal")
    assert rig.refused() == {reason: 1}
    status = rig.input_status()
    assert status.level == DiagnosticStatus.WARN and sentence in status.message
    assert {v.key: v.value for v in status.values}[f"refused: {reason}"] == "1"
    rig.send(2)
    graph.wait(lambda: scale, "the next result")
    assert scale[0].header.stamp == rig.header(2).stamp


def compressed(rig: Rig, index: int, data: bytes) -> CompressedImage:
    message = CompressedImage(header=rig.header(index), format="jpeg")
    message.data = data
    return message


def test_compressed_images_and_a_truncated_one(graph: Graph) -> None:
    rig = Rig(graph, kind=CompressedImage, image_transport="compressed")
    depth = rig.listen(Image, "output/depth")
    rig.ready()
    _, png = cv2.imencode(".png", picture(5)[..., ::-1])
    _, jpeg = cv2.imencode(".jpg", picture(5))
    rig.image.publish(compressed(rig, 1, jpeg.tobytes()[:-40]))
    graph.wait(lambda: rig.refused() == {"image": 1}, "the refusal")
    assert "cut off" in rig.input_status().message
    rig.image.publish(compressed(rig, 2, png.tobytes()))
    graph.wait(lambda: depth, "a result")
    np.testing.assert_array_equal(rig.pipeline.calls[0][0].image, picture(5))


def test_uncalibrated_camera_info(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    graph.wait(lambda: rig.info.get_subscription_count() == 1, "the camera_info subscription")
    zeros = convert.camera_to_info(CAMERA, rig.header(1))
    zeros.k = np.zeros(9)
    rig.info.publish(zeros)
    graph.wait(lambda: rig.counts["bad_camera_info"] == 1, "the refusal")
    assert "not calibrated" in rig.input_status().message
    assert not rig.opened
    rig.ready()
    rig.send(2)
    graph.wait(lambda: scale, "a result once the camera is calibrated")


def test_intrinsics_that_turn_bad_stop_the_output(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()
    rig.send(1)
    graph.wait(lambda: scale, "a result")
    bad = convert.camera_to_info(CAMERA, rig.header(2))
    bad.k[0] = float("nan")
    rig.info.publish(bad)
    graph.wait(lambda: rig.counts["bad_camera_info"] == 1, "the refusal of the camera")
    rig.send(2)
    graph.wait(lambda: rig.refused() == {"camera": 1}, "the refusal of the image")
    rig.info.publish(convert.camera_to_info(CAMERA, rig.header(3)))
    graph.wait(lambda: rig.node._cameras._by_stamp.get(START_NS + 300_000_000), "the good camera")
    rig.send(3)
    graph.wait(lambda: len(scale) == 2, "a result again")


def test_image_takes_the_camera_info_of_its_stamp(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    zoomed = CameraModel(16, 8, 20.0, 22.0, 7.5, 3.5)
    rig.ready()  # stamp 0
    rig.info.publish(convert.camera_to_info(zoomed, rig.header(5)))
    graph.wait(lambda: len(rig.node._cameras._by_stamp) == 2, "both cameras")
    for n, index in enumerate((0, 1, 5), start=1):
        rig.send(index)
        graph.wait(lambda n=n: len(scale) == n, f"frame {index}")
    assert [frame.camera.fx for frame, _ in rig.pipeline.calls] == [10.0, 20.0, 20.0]
    assert (rig.node._cameras.exact, rig.node._cameras.inexact) == (2, 1)


def test_field_of_view_instead_of_camera_info(graph: Graph) -> None:
    rig = Rig(graph, horizontal_fov_deg=90.0)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.send(1)
    graph.wait(lambda: scale, "a result without camera_info")
    assert rig.pipeline.opened_for == CameraModel.from_fov(16, 8, 90.0)
    assert graph.node.count_subscribers(rig.topic("input/camera_info")) == 0


def test_a_first_image_of_an_impossible_size_is_refused(graph: Graph) -> None:
    rig = Rig(graph, kind=CompressedImage, image_transport="compressed", horizontal_fov_deg=90.0)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.image.publish(compressed(rig, 1, huge_png()))
    graph.wait(lambda: rig.refused() == {"image": 1}, "the refusal")
    assert "65536x65536 pixels are more than 64000000" in rig.input_status().message
    _, png = cv2.imencode(".png", picture(5)[..., ::-1])
    rig.image.publish(compressed(rig, 2, png.tobytes()))
    graph.wait(lambda: scale, "a result")
    assert rig.pipeline.opened_for == CameraModel.from_fov(16, 8, 90.0)


def test_an_unexpected_error_in_the_first_image_does_not_end_the_node(graph: Graph) -> None:
    rig = Rig(graph, horizontal_fov_deg=90.0)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    errors, camera_of = graph.log(40), rig.node._cameras.camera_of

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("of a camera")

    rig.node._cameras.camera_of = fail
    rig.send(1)
    graph.wait(lambda: rig.refused() == {"image": 1} and errors, "the refusal, and the log")
    assert rig.counts["unexpected_errors"] == 1 and "in fail" in errors[0]
    rig.node._cameras.camera_of = camera_of
    rig.send(2)
    graph.wait(lambda: scale, "a result")
    assert [f.stamp_ns for f, _ in rig.pipeline.calls] == [START_NS + 2 * 10**8]


def test_a_stamp_that_is_no_time_is_refused_and_the_node_goes_on(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()
    message = convert.rgb_to_image(picture(1), rig.header(1))
    message.header.stamp.nanosec = 4_294_967_295
    rig.image.publish(message)
    graph.wait(lambda: rig.refused() == {"image": 1}, "the refusal of the image")
    assert "expected less than 1000000000 nanoseconds, got 4294967295" in rig.input_status().message
    info = convert.camera_to_info(CAMERA, rig.header(1))
    info.header.stamp.nanosec = 1_000_000_000
    rig.info.publish(info)
    graph.wait(lambda: rig.counts["bad_camera_info"] == 1, "the refusal of the camera")
    rig.send(2)
    graph.wait(lambda: scale, "the next result")
    assert rig.counts["unexpected_errors"] == 0


def test_a_camera_that_cannot_be_used_leaves_the_node_to_another_one(graph: Graph) -> None:
    asked = []

    def open_engine(camera: CameraModel, progress: Progress) -> TinyPipeline:
        asked.append(camera.width)
        if camera.height == 1:
            raise InputError(f"camera: got {camera.width}x1 pixels")
        return TinyPipeline(camera)

    node, info = node_and_camera_info(graph, open_engine)

    def show(width: int, height: int, stamp_s: int) -> CameraModel:
        camera = CameraModel(width, height, 10.0, 11.0, 7.5, 0.0)
        header = Header(stamp=convert.ns_to_stamp(stamp_s * 10**9))
        info.publish(convert.camera_to_info(camera, header))
        known = node._cameras._by_stamp
        graph.wait(lambda: stamp_s * 10**9 in known, "the camera")
        return camera

    for i, width in enumerate((3000, 3000, 2000)):  # the same one again opens nothing
        camera = show(width, 1, i)
        graph.wait(lambda c=camera: node._unusable == c, "the refusal")
        told = node._engine_status("engine")
        assert told.level == DiagnosticStatus.ERROR
        assert told.message == f"failed: camera: got {width}x1 pixels; waiting for another camera"
        graph.wait(lambda t=told.message: node.health.recent_trouble() == t, "the trouble")
    assert asked == [3000, 2000] and not node.done.done()
    show(16, 8, 9)
    graph.wait(lambda: node._pipeline, "the engine")
    assert asked == [3000, 2000, 16]
    assert node._engine_status("engine").level == DiagnosticStatus.OK


def test_a_stuck_publisher_repeats_a_stamp(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    rig.send(1)
    graph.wait(lambda: scale, "a result")
    rig.send(1)
    graph.wait(lambda: rig.counts["stale"] == 1, "the repetition")
    assert len(rig.pipeline.calls) == 1


def test_a_driver_that_never_stamps_is_taken_at_the_receipts(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    depth = rig.listen(Image, "output/depth", 10)
    warnings = graph.log(30)
    info = convert.camera_to_info(CAMERA, Header())
    rig.info.publish(info)
    graph.wait(lambda: rig.node._pipeline, "the engine")
    for n in (1, 2, 3):
        rig.image.publish(convert.rgb_to_image(picture(n), Header(frame_id="front_optical")))
        graph.wait(lambda n=n: len(scale) == len(depth) == n, "a result")
    stamps = [convert.stamp_to_ns(m.header.stamp) for m in scale]
    assert stamps == sorted(set(stamps)) == [convert.stamp_to_ns(m.header.stamp) for m in depth]
    assert abs(time.time_ns() - stamps[-1]) < 10**10
    graph.wait(lambda: [w for w in warnings if "no stamps" in w], "the log")
    graph.spin(0.2)
    assert len([w for w in warnings if "no stamps" in w]) == 1


def test_an_unlikely_calibration_is_told_with_its_numbers(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    unlikely = CameraModel(CAMERA.width, CAMERA.height, 100.0, 100.0, CAMERA.width - 1.0, CAMERA.height / 2)
    rig.ready(unlikely)
    rig.send(1)
    graph.wait(lambda: scale, "a result all the same")
    told = rig.input_status()
    assert told.level == DiagnosticStatus.WARN
    assert f"cx = {CAMERA.width - 1.0:.1f} lies far from the middle" in told.message
    rig.info.publish(convert.camera_to_info(CAMERA, rig.header(2)))
    rig.send(2)
    graph.wait(lambda: len(scale) == 2, "the next result")
    assert rig.input_status().level == DiagnosticStatus.OK


def test_an_absurd_camera_info_does_not_end_the_node(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    graph.wait(lambda: rig.info.get_subscription_count() == 1, "the camera_info subscription")
    for n, (width, height) in enumerate(((30_000, 15_000), (2**32 - 1, 2**31)), 1):
        info = convert.camera_to_info(CAMERA, rig.header(0))
        info.width, info.height = width, height
        rig.info.publish(info)
        graph.wait(lambda n=n: rig.counts["bad_camera_info"] == n, "the refusal")
    assert not rig.opened and "are more than 64000000" in rig.input_status().message
    rig.ready()
    rig.send(1)
    graph.wait(lambda: scale, "a result")


def test_what_has_another_size_than_its_camera_is_not_decoded(graph: Graph) -> None:
    rig = Rig(graph, kind=CompressedImage, image_transport="compressed")
    rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    decoded: list[Any] = []
    rig.node._decode = decoded.append
    rig.image.publish(compressed(rig, 1, cv2.imencode(".png", picture(1)[1:])[1].tobytes()))
    graph.wait(lambda: rig.refused() == {"camera": 1}, "the refusal")
    assert not decoded


def test_an_error_in_one_frame_does_not_end_the_node(graph: Graph) -> None:
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()

    def fail(frame: Any) -> None:
        raise ZeroDivisionError("of the engine")

    errors = graph.log(40)
    rig.pipeline.before = fail
    rig.send(1)
    graph.wait(lambda: rig.refused() == {"frame": 1} and errors, "the error, and the log")
    assert "unexpected ZeroDivisionError: of the engine" in rig.input_status().message
    assert {v.key: v.value for v in rig.input_status().values}["unexpected_errors"] == "1"
    assert f"image at {(START_NS + 10**8) * 1e-9:.3f} s left out: Traceback" in errors[0]
    rig.pipeline.before = lambda frame: None
    rig.send(2)
    graph.wait(lambda: scale, "the next result")


def test_a_network_without_latent_tokens(graph: Graph) -> None:
    rig = Rig(graph)
    latent = rig.listen(dvps_msg.LatentTokens, "output/latent")
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()
    rig.pipeline.has_latent = False
    rig.send(1)
    graph.wait(lambda: scale, "the other outputs")
    assert latent == [] and rig.refused() == {}


def test_silence_is_told_with_its_cause(graph: Graph) -> None:
    rig = Rig(graph, no_image_after_s=0.2)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics", 10)

    def told(words: str) -> bool:
        return any(words in s.message for array in diagnostics for s in array.status)

    graph.wait(lambda: told("no image for"), "the silence")
    silent = next(s for a in diagnostics for s in a.status if "no image for" in s.message)
    assert silent.level == DiagnosticStatus.WARN
    assert silent.name == f"{graph.namespace}/dvps: input"
    assert f"on {graph.namespace}/dvps/input/image, which has 1 publisher(s); if it sends," in silent.message
    assert "Fast DDS profile" in silent.message
    graph.node.destroy_publisher(rig.image)
    graph.wait(lambda: told("which has 0 publisher(s); remap ~/input/image"), "the other cause")


def test_a_publisher_of_another_type_is_named_with_the_remedy(graph: Graph) -> None:
    rig = Rig(graph, no_image_after_s=0.2)
    graph.node.destroy_publisher(rig.image)
    another = rclpy.Context()  # of another process, so to say: in one a topic has one type
    rclpy.init(context=another)
    camera = Node("camera", context=another)
    try:
        camera.create_publisher(CompressedImage, rig.topic("input/image"), 10)
        words = (
            "whose publisher sends sensor_msgs/msg/CompressedImage where sensor_msgs/msg/Image is expected"
        )
        graph.wait(lambda: words in rig.input_status().message, "the cause")
        told = rig.input_status()
        assert told.level == DiagnosticStatus.WARN and "image_transport:=compressed" in told.message
    finally:
        camera.destroy_node()
        rclpy.shutdown(context=another)


def test_a_mismatch_of_quality_stays_what_it_is(graph: Graph) -> None:
    """Silence follows from it, and must not be blamed on the transport."""
    topic = f"{graph.namespace}/dvps/input/image"
    override = {f"qos_overrides.{topic}.subscription.reliability": "reliable"}
    rig = Rig(graph, start=False, no_image_after_s=0.2, **override)
    graph.node.destroy_publisher(rig.image)
    graph.node.create_publisher(Image, topic, qos_profile_sensor_data)
    rig.node.start()
    graph.wait(lambda: "no image for" in rig.input_status().message, "the silence")
    for _ in range(3):
        graph.spin(0.3)
        message = rig.input_status().message
        assert f"a publisher of {topic} offers a lower reliability" in message
        assert f"qos_overrides.{topic}.subscription.reliability" in message and "Fast DDS" not in message


def test_camera_info_that_was_sent_once_before_the_node_was_there(graph: Graph) -> None:
    topic = f"{graph.namespace}/dvps/input/camera_info"
    latched = graph.node.create_publisher(CameraInfo, topic, LATCHED)
    latched.publish(convert.camera_to_info(CAMERA, Header()))
    rig = Rig(graph)
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    graph.wait(lambda: rig.node._pipeline, "the engine")
    rig.send(1)
    graph.wait(lambda: scale, "a result")
    assert rig.counts["bad_camera_info"] == 0 and rig.node.health.recent_trouble() is None


def test_a_camera_that_keeps_nothing_is_not_asked_to(graph: Graph) -> None:
    """A subscription that asks for more than it offers is a warning in the driver's log."""
    rig = Rig(graph)
    rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    topic = f"{graph.namespace}/dvps/input/camera_info"
    ends = [e for e in graph.node.get_subscriptions_info_by_topic(topic) if e.node_name == "dvps"]
    assert [e.qos_profile.durability for e in ends] == [QoSDurabilityPolicy.VOLATILE]


def test_images_that_get_lost_on_the_way_are_told(graph: Graph) -> None:
    rig = Rig(graph)
    rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    for n in range(20):  # of ten, four arrive
        rig.info.publish(convert.camera_to_info(CAMERA, rig.header(n)))
        if n % 10 in (1, 3, 6, 8):
            rig.send(n)
        graph.spin(0.05)
    told = rig.input_status()
    assert told.level == DiagnosticStatus.WARN
    assert re.search(r"camera_info comes at [\d.]+ Hz, images at [\d.]+ Hz.*get lost.*Fast DDS", told.message)


def test_much_dropped_is_told_and_little_is_not(graph: Graph) -> None:
    rig = Rig(graph)
    rig.listen(dvps_msg.ScaleEstimate, "output/scale", 10)
    rig.ready()
    rig.pipeline.before = lambda frame: time.sleep(0.15)
    for n in range(1, 31):
        rig.info.publish(convert.camera_to_info(CAMERA, rig.header(n)))
        rig.send(n)
        graph.spin(0.03)
    told = rig.input_status()
    assert told.level == DiagnosticStatus.WARN
    assert re.search(r"sends [\d.]+ images a second, [\d.]+ are processed", told.message)
    clock = iter(np.arange(0, 100, 0.05))
    health = Health(clock=lambda: next(clock))
    for _ in range(20):
        health.received()
    health.count("dropped", 9)
    assert health.recently_dropped() < 0.5


def test_two_nodes_of_one_name_are_told(graph: Graph) -> None:
    rig = Rig(graph)
    graph.spin(0.1)
    assert rig.node.health.recent_trouble() is None
    graph.add(Node("dvps", namespace=graph.namespace))
    graph.wait(lambda: rig.node.health.recent_trouble(), "the warning")
    assert f"another node is called {graph.namespace}/dvps too" in str(rig.node.health.recent_trouble())


def test_images_without_camera_info_are_told(graph: Graph) -> None:
    rig = Rig(graph, no_image_after_s=100.0)
    rig.send(1)
    graph.wait(lambda: rig.counts["received"] == 1, "the image")
    assert "images come in, but no camera_info on" in rig.input_status().message
    assert "horizontal_fov_deg" in rig.input_status().message


def test_camera_info_stamps_that_never_match_are_told(graph: Graph) -> None:
    rig = Rig(graph)
    rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.ready()
    for index in range(1, 31):
        rig.send(index)
        graph.wait(lambda n=index: rig.counts["processed"] == n, f"frame {index}")
    assert "never equal those of the images" in rig.input_status().message


def test_diagnostics_and_timings(graph: Graph) -> None:
    rig = Rig(graph)
    processing = graph.listen(Float64, rig.topic("debug/processing_ms"))
    engine = graph.listen(Float64, rig.topic("debug/engine_ms"))
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics", 10)
    debug = rig.node._debug["processing"]
    graph.wait(lambda: debug.get_subscription_count() == 1, "the listener")
    rig.ready()
    index = 0

    def flowing() -> bool:
        nonlocal index
        if rig.counts["received"] == index:
            index += 1
            rig.send(index)
        return bool(processing and engine and diagnostics)

    graph.wait(flowing, "timings and diagnostics")
    assert processing[0].data > 0 and engine[0].data == 3.5
    diagnostics.clear()
    graph.wait(lambda: diagnostics, "fresh diagnostics")
    of_input, of_engine, of_scale = diagnostics[0].status
    values = {v.key: v.value for v in of_input.values}
    assert int(values["processed"]) >= 1 and float(values["processing_p50_ms"]) > 0
    assert (of_engine.level, of_engine.message) == (DiagnosticStatus.OK, "ready")
    assert {v.key: v.value for v in of_engine.values}["engine"] == "tiny"
    assert {v.key: v.value for v in of_scale.values}["scale"] == "1.5000"


def test_lifecycle_by_services(graph: Graph) -> None:
    rig = Rig(graph, start=False, autostart=False)
    change = graph.node.create_client(ChangeState, f"{graph.namespace}/dvps/change_state")
    ask = graph.node.create_client(GetState, f"{graph.namespace}/dvps/get_state")
    graph.wait(lambda: change.service_is_ready() and ask.service_is_ready(), "the services")

    def go(transition: int) -> str:
        future = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        graph.wait(future.done, "the transition")
        assert future.result().success
        state = ask.call_async(GetState.Request())
        graph.wait(state.done, "the state")
        return state.result().current_state.label

    assert go(Transition.TRANSITION_CONFIGURE) == "inactive"
    published = {name for name, _ in graph.node.get_topic_names_and_types()}
    assert {rig.topic(t[2:]) for t in OUTPUTS} <= published
    rig.ready()
    scale = rig.listen(dvps_msg.ScaleEstimate, "output/scale")
    rig.send(1)
    graph.spin(0.3)
    assert rig.pipeline.calls == [] and rig.counts["received"] == 0  # inactive: not even looked at
    assert go(Transition.TRANSITION_ACTIVATE) == "active"
    rig.send(2)
    graph.wait(lambda: scale, "a result when active")
    assert go(Transition.TRANSITION_DEACTIVATE) == "inactive"
    assert go(Transition.TRANSITION_CLEANUP) == "unconfigured"
    assert rig.pipeline.closed
    assert go(Transition.TRANSITION_CONFIGURE) == "inactive"
    assert go(Transition.TRANSITION_ACTIVATE) == "active"
    rig.info.publish(convert.camera_to_info(CAMERA, rig.header(3)))
    graph.wait(lambda: len(rig.opened) == 2, "a new engine")


def test_parameters_are_declared_with_description_and_range(graph: Graph) -> None:
    node = Rig(graph, start=False).node
    height = node.describe_parameter("scale.camera_height_m")
    assert height.type == ParameterType.PARAMETER_DOUBLE and "metres" in height.description
    assert (height.floating_point_range[0].from_value, height.floating_point_range[0].to_value) == (0, 20)
    assert "onnxruntime" in node.describe_parameter("engine.backend").additional_constraints


def test_parameters_are_fixed_while_configured(graph: Graph) -> None:
    node = Rig(graph).node
    (refused,) = node.set_parameters([Parameter("tracker.memory_s", value=3.0)])
    assert not refused.successful and "deactivate and clean up" in refused.reason
    node.trigger_deactivate()
    node.trigger_cleanup()
    (unsuitable,) = node.set_parameters([Parameter("image_transport", value="theora")])
    assert not unsuitable.successful and "expected one of raw, compressed" in unsuitable.reason
    (accepted,) = node.set_parameters([Parameter("tracker.memory_s", value=3.0)])
    assert accepted.successful
    node.trigger_configure()
    assert node.config.tracker.memory_s == 3.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tracker__memory": 1.0}, r"unknown parameter: tracker.memory \(did you mean tracker.memory_s\?\)"),
        ({"tracker__memory_s": -1.0}, "tracker.memory_s: expected 0.0 to 60.0, got -1.0"),
        ({"tracker__memory_s": "long"}, "tracker.memory_s: expected float, got 'long'"),
        ({"image_transport": "theora"}, "image_transport: expected one of raw, compressed, got 'theora'"),
    ],
)
def test_unsuitable_parameters_are_refused(graph: Graph, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DvpsNode(parameter_overrides=parameters(**values))


def test_a_whole_number_is_a_float(graph: Graph) -> None:
    node = Rig(graph, scale__camera_height_m=2).node
    assert node.config.scale.camera_height_m == 2.0


def test_an_engine_that_cannot_open_ends_the_node(graph: Graph) -> None:
    def prepare(config: Any) -> Any:
        def open_engine(camera: CameraModel, progress: Progress) -> Any:
            raise EngineError("weights.bin is truncated")

        return open_engine

    node = graph.add(DvpsNode(prepare=prepare, namespace=graph.namespace))
    node.start()
    info = graph.node.create_publisher(CameraInfo, f"{graph.namespace}/dvps/input/camera_info", 1)
    graph.wait(lambda: info.get_subscription_count() == 1, "the subscription")
    info.publish(convert.camera_to_info(CAMERA, Header()))
    graph.wait(node.done.done, "the end")
    assert node.done.result() == "weights.bin is truncated"
    assert node._engine_status("engine").level == DiagnosticStatus.ERROR


class Broken:
    """Something that raises what nobody foresaw, the first time it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise TypeError("of a\nprogrammer")
        return TinyPipeline(CAMERA)


def test_an_unexpected_error_while_opening_is_logged_counted_and_told(graph: Graph) -> None:
    node = graph.add(DvpsNode(prepare=lambda config: Broken(), namespace=graph.namespace))
    errors = graph.log(40)
    node.start()
    info = graph.node.create_publisher(CameraInfo, f"{graph.namespace}/dvps/input/camera_info", 1)
    graph.wait(lambda: info.get_subscription_count() == 1, "the subscription")
    info.publish(convert.camera_to_info(CAMERA, Header()))
    graph.wait(lambda: node.done.done() and errors, "the end, and the log")
    assert node.done.result() == "unexpected TypeError: of a programmer"
    assert "engine: Traceback" in errors[0] and "in __call__" in errors[0]
    told = node._engine_status("engine")
    assert told.level == DiagnosticStatus.ERROR
    assert told.message == "failed: unexpected TypeError: of a programmer"
    values = {v.key: v.value for v in node._input_status("input").values}
    assert values["unexpected_errors"] == "1"


def test_an_unexpected_error_of_a_transition_is_told_and_can_be_tried_again(graph: Graph) -> None:
    prepare = Broken()
    node = graph.add(
        DvpsNode(prepare=prepare, namespace=graph.namespace, parameter_overrides=parameters(autostart=False))
    )
    errors = graph.log(40)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics", 10)
    assert node.trigger_configure() is TransitionCallbackReturn.ERROR
    graph.wait(lambda: errors and diagnostics, "the log and the diagnostics")
    assert "on_configure: Traceback" in errors[0] and "in __call__" in errors[0]
    line = diagnostics[-1].status[0]
    assert line.level == DiagnosticStatus.ERROR
    assert line.message == "not configured: unexpected TypeError: of a programmer"
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.health.counts["unexpected_errors"] == 1


def test_while_an_engine_is_built_the_node_says_so_and_can_be_stopped(graph: Graph) -> None:
    stopped = threading.Event()

    def prepare(config: Any) -> Any:
        def open_engine(camera: CameraModel, progress: Progress) -> Any:
            try:
                while True:
                    progress("building lite: timing tactics 3/14")
                    time.sleep(0.01)
            finally:
                stopped.set()

        return open_engine

    node = graph.add(DvpsNode(prepare=prepare, namespace=graph.namespace))
    node.start()
    base = f"{graph.namespace}/dvps"
    info = graph.node.create_publisher(CameraInfo, f"{base}/input/camera_info", 1)
    graph.wait(lambda: info.get_subscription_count() == 1, "the subscription")
    info.publish(convert.camera_to_info(CAMERA, Header()))
    graph.wait(lambda: "building" in node._engine_status("engine").message, "the build")
    told = node._engine_status("engine")
    assert told.level == DiagnosticStatus.WARN
    assert re.fullmatch(r"building lite: timing tactics 3/14, \d+ s", told.message)
    assert graph.node.count_publishers(f"{base}/output/depth") == 1  # topics are there meanwhile
    node._begin_s -= 100
    assert node._engine_status("engine").message.endswith(", 100 s")
    node._release()
    assert stopped.wait(5)


def test_a_build_ends_with_the_clean_up_even_if_the_node_is_configured_again(graph: Graph) -> None:
    working, configured, ended = threading.Event(), threading.Event(), []

    def open_engine(camera: CameraModel, progress: Progress) -> TinyPipeline:
        working.set()
        configured.wait(10)
        try:
            progress("building lite")
        except EngineError as error:
            ended.append(str(error))
            raise
        return TinyPipeline(camera)

    node, info = node_and_camera_info(graph, open_engine)
    info.publish(convert.camera_to_info(CAMERA, Header()))
    graph.wait(working.is_set, "the build")
    worker = node._worker
    node.trigger_deactivate()
    node.trigger_cleanup()  # gives up waiting for the build
    node.trigger_configure()
    configured.set()
    worker._thread.join(10)
    assert ended == ["stopped while the engine was opened"]
    assert (node._engine, node._doing) == (EngineState.WAITING, "")


def test_a_model_that_is_not_there_is_told_at_once(graph: Graph) -> None:
    node = graph.add(
        DvpsNode(namespace=graph.namespace, parameter_overrides=parameters(engine__model="nowhere"))
    )
    with pytest.raises(EngineError, match="nowhere"):
        node.start()


def test_failed_configuration_leaves_the_node_unconfigured(graph: Graph) -> None:
    overrides = parameters(engine__model="nowhere", autostart=False)
    node = graph.add(DvpsNode(namespace=graph.namespace, parameter_overrides=overrides))
    node.start()
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    node.set_parameters([Parameter("engine.model", value="elsewhere")])  # can be corrected


def test_incompatible_quality_of_service_is_told_with_the_remedy(graph: Graph) -> None:
    rig = Rig(graph)
    demanding = LATCHED  # asks for transient local, which results are not
    graph.listen(Image, rig.topic("output/depth"), demanding)
    graph.wait(lambda: rig.node.health.recent_trouble(), "the report")
    topic = rig.topic("output/depth")
    assert rig.node.health.recent_trouble() == (
        f"a subscriber of {topic} asks for a higher durability than this node offers: it gets nothing; "
        f"change its durability, or set qos_overrides.{topic}.publisher.durability of this node to match"
    )


def test_quality_of_service_can_be_overridden(graph: Graph) -> None:
    topic = f"{graph.namespace}/dvps/input/image"
    name = f"qos_overrides.{topic}.subscription.reliability"
    Rig(graph, **{name: "reliable"})
    (info,) = graph.node.get_subscriptions_info_by_topic(topic)
    assert info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE
    assert qos.sensor().reliability == QoSReliabilityPolicy.BEST_EFFORT  # the default is untouched
