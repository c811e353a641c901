# SPDX-License-Identifier: Apache-2.0
"""The perception node on a real engine: what it publishes is what the library computes, bit for bit."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from ros_graph import Graph, parameters
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tiny_model import paint

from dvps_ros import msg as dvps_msg
from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.ros import convert, qos
from dvps_ros.ros.nodes.dvps import SHAPE_MESSAGES, DvpsNode, EngineState
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.types import CameraModel, Frame, FrameResult

CAMERA = CameraModel(256, 128, 256.0, 256.0, 127.5, 63.5)
LENS = CameraModel(256, 128, 256.0, 256.0, 127.5, 63.5, (-0.3, 0.1, 0.001, 0.002, 0.0))
LARGE = CameraModel(384, 192, 384.0, 384.0, 191.5, 95.5)
START_NS, STEP_NS = 1_700_000_000_000_000_000, 100_000_000


def frame(index: int, camera: CameraModel = CAMERA) -> Frame:
    image = paint(camera.height, camera.width, car_x=64 + 4 * index)
    return Frame(image, START_NS + index * STEP_NS, camera, "front_optical")


@pytest.fixture
def config(tiny_model: Path) -> PipelineConfig:
    return PipelineConfig(
        engine=EngineConfig(model=str(tiny_model), backend="onnxruntime", precision="fp32", threads=1)
    )


@pytest.fixture
def offline(config: PipelineConfig) -> Iterator[Callable[[list[Frame]], list[FrameResult]]]:
    """What the library computes of frames, without ROS."""
    opened = []

    def run(frames: list[Frame]) -> list[FrameResult]:
        opened.append(DvpsPipeline.open(config, frames[0].camera))
        return [opened[-1].process(f) for f in frames]

    yield run
    for pipeline in opened:
        pipeline.close()


class Rig:
    """The node with its real engine, a camera in front of it and a listener behind it."""

    def __init__(self, graph: Graph, model: Path, **values: Any) -> None:
        self.graph = graph
        overrides = parameters(
            **values,
            engine__model=str(model),
            engine__backend="onnxruntime",
            engine__precision="fp32",
            engine__threads=1,
        )
        self.node: DvpsNode = graph.add(DvpsNode(namespace=graph.namespace, parameter_overrides=overrides))
        self.node.start()
        base = f"{graph.namespace}/dvps"
        kinds: dict[str, Any] = {
            "semantic": Image,
            "instance": Image,
            "depth": Image,
            "points": PointCloud2,
            "camera_info": CameraInfo,
            "instances": dvps_msg.TrackedInstanceArray,
            "scale": dvps_msg.ScaleEstimate,
        }
        self.received = {
            name: graph.listen(kind, f"{base}/output/{name}", qos.output()) for name, kind in kinds.items()
        }
        self.image = graph.node.create_publisher(Image, f"{base}/input/image", 10)
        self.info = graph.node.create_publisher(CameraInfo, f"{base}/input/camera_info", 10)
        ends = [self.image, self.info, *(self.node._outputs[f"~/output/{n}"] for n in kinds)]
        graph.wait(lambda: all(e.get_subscription_count() for e in ends), "all connections")

    def send(self, shown: Frame) -> None:
        """A frame with its camera."""
        header = Header(stamp=convert.ns_to_stamp(shown.stamp_ns), frame_id=shown.frame_id)
        self.info.publish(convert.camera_to_info(shown.camera, header))
        known = self.node._cameras._by_stamp
        self.graph.wait(lambda: known.get(shown.stamp_ns) == shown.camera, "the camera")
        self.image.publish(convert.rgb_to_image(shown.image, header))

    def show(self, shown: Frame) -> None:
        """Send a frame and wait for all that comes of it."""
        before = {name: len(messages) for name, messages in self.received.items()}
        self.send(shown)
        # The first time on a machine, opening the engine compiles what numba has not cached yet.
        self.graph.wait(
            lambda: all(len(m) == before[name] + 1 for name, m in self.received.items()),
            "all outputs",
            timeout_s=120,
        )

    def expect(self, n: int, shown: Frame, result: FrameResult) -> None:
        """What was published of frame ``n`` is this result."""
        assert result.panoptic is not None and result.cloud is not None
        for name, expected in (
            ("semantic", result.panoptic.class_map),
            ("instance", result.panoptic.track_map),
            ("depth", result.panoptic.depth_m),
        ):
            message = self.received[name][n]
            values = np.frombuffer(message.data, expected.dtype).reshape(message.height, message.width)
            np.testing.assert_array_equal(values, expected, err_msg=name)
        assert bytes(self.received["points"][n].data) == result.cloud.tobytes()
        header = self.received["instances"][n].header
        assert self.received["instances"][n] == convert.instances_to_message(result.instances, header)
        for messages in self.received.values():
            assert convert.stamp_to_ns(messages[n].header.stamp) == shown.stamp_ns
            assert messages[n].header.frame_id == shown.frame_id


@pytest.mark.parametrize("camera", [CAMERA, LENS], ids=["rectified", "distorted"])
def test_the_node_publishes_what_the_library_computes(
    graph: Graph, tiny_model: Path, offline: Any, camera: CameraModel
) -> None:
    frames = [frame(i, camera) for i in range(4)]
    rig = Rig(graph, tiny_model)
    for shown in frames:
        rig.show(shown)
    expected = offline(frames)
    assert len({i.track_id for r in expected for i in r.instances}) == 1  # one car, one identity
    for n, result in enumerate(expected):
        rig.expect(n, frames[n], result)
    info = rig.received["camera_info"][0]
    assert info.k[0] == camera.fx and not any(info.d)  # the maps are those of the rectified image


def test_two_frames_in_flight_give_the_values_of_one_after_the_other(
    graph: Graph, tiny_model: Path, offline: Any
) -> None:
    """Also over a jump in time and another camera, which the engine sees before the host is done."""
    frames = [*(frame(i) for i in (0, 1, 2, 3, 0, 1)), *(frame(i, LARGE) for i in (2, 3, 4))]
    rig = Rig(graph, tiny_model, frames_in_flight=2, time_jump_s=0.0)
    rig.node._timeline.place = lambda stamp_ns, received_ns: stamp_ns  # the pipeline's own way with time
    rig.show(frames[0])
    pipeline = rig.node._pipeline
    infer, finish, of_next = pipeline.infer, pipeline.finish, threading.Semaphore(0)
    order: list[str] = []

    def infer_and_tell(frame: Frame, wanted: frozenset[str]) -> Any:
        inferred = infer(frame, wanted)
        order.append("infer")
        if len(order) > 1:
            of_next.release()
        return inferred

    def finish_late(inferred: Any) -> FrameResult:
        """When the next frame has been inferred already."""
        assert of_next.acquire(timeout=20)
        order.append("finish")
        return finish(inferred)

    pipeline.infer, pipeline.finish = infer_and_tell, finish_late
    health = rig.node.health
    for n, shown in enumerate(frames[1:], start=2):
        rig.send(shown)
        graph.wait(lambda n=n: health.counts["received"] == n and rig.node._slot._item is None, "its turn")
    of_next.release()
    graph.wait(lambda: all(len(m) == len(frames) for m in rig.received.values()), "all outputs")
    assert order == ["infer", *["infer", "finish"] * 7, "finish"]
    for n, result in enumerate(offline(frames)):
        rig.expect(n, frames[n], result)
    assert rig.node._pipeline.resets == {"time jumped backwards": 1, "image size changed": 1}
    assert health.counts["dropped"] == 0


def test_time_that_jumps_back_starts_anew(graph: Graph, tiny_model: Path, offline: Any) -> None:
    """As a bag that is looped: one image to see that it goes on there, then new tracks."""
    rig = Rig(graph, tiny_model, time_jump_s=0.2)
    for index in (0, 1, 2, 3):
        rig.show(frame(index))
    rig.send(frame(0))
    graph.wait(lambda: rig.node.health.refusals == {"time jump": 1}, "the first image of the second round")
    for index in (1, 2):
        rig.show(frame(index))
    assert rig.node._pipeline.resets == {"time jumped backwards": 1}
    status = rig.node._input_status("input")
    assert {v.key: v.value for v in status.values}["reset: time jumped backwards"] == "1"
    assert status.level == DiagnosticStatus.WARN and "time jumped backwards" in status.message
    again = [m.instances[0].track_id for m in rig.received["instances"]]
    assert again[0] == again[3] != again[4] == again[5]  # the second round is another car


@pytest.mark.parametrize("bad_ns", [0, -50_000_000, 3_600_000_000_000], ids=["zero", "late", "future"])
def test_one_bad_stamp_costs_one_image_and_no_identity(graph: Graph, tiny_model: Path, bad_ns: int) -> None:
    rig = Rig(graph, tiny_model)
    for index in (0, 1, 2, 3):
        rig.show(frame(index))
    shown = frame(4)
    wrong = replace(shown, stamp_ns=frame(3).stamp_ns + bad_ns if bad_ns else 0)
    rig.send(wrong)
    graph.wait(lambda: sum(rig.node.health.refusals.values()) == 1, "the refusal")
    for index in (5, 6):
        rig.show(frame(index))
    assert not rig.node._pipeline.resets
    assert len({m.instances[0].track_id for m in rig.received["instances"]}) == 1
    assert len(rig.received["instances"]) == 6
    told = rig.node._input_status("input")
    assert told.level == DiagnosticStatus.WARN and "left out" in told.message


def test_another_size_in_mid_stream(graph: Graph, tiny_model: Path) -> None:
    rig = Rig(graph, tiny_model)
    for shown in (frame(0), frame(1), frame(2, LARGE), frame(3, LARGE)):
        rig.show(shown)
    assert [(m.width, m.height) for m in rig.received["depth"]] == [(256, 128)] * 2 + [(384, 192)] * 2
    assert rig.node._pipeline.resets == {"image size changed": 1}


def test_a_camera_of_another_shape_gets_its_own_network_size(graph: Graph, tiny_model: Path) -> None:
    """The first camera_info may be of before the driver was set up."""
    rig = Rig(graph, tiny_model)
    rig.show(frame(0))
    assert rig.node._pipeline.engine.graph.size == "64x128"
    square = CameraModel(96, 96, 100.0, 100.0, 47.5, 47.5)
    for index in range(1, SHAPE_MESSAGES):
        rig.info.publish(convert.camera_to_info(square, Header(stamp=convert.ns_to_stamp(index))))
    graph.spin(0.5)
    assert rig.node._pipeline.engine.graph.size == "64x128"  # not yet
    rig.show(frame(1))
    for index in range(SHAPE_MESSAGES):
        rig.info.publish(convert.camera_to_info(square, Header(stamp=convert.ns_to_stamp(index))))
        graph.spin(0.02)
    graph.wait(
        lambda: rig.node._pipeline and rig.node._pipeline.engine.graph.size == "96x96", "the other engine"
    )
    rig.show(frame(2, square))
    assert rig.received["depth"][-1].width == 96


def test_a_camera_too_thin_for_the_network_is_told_and_another_one_works(
    graph: Graph, tiny_model: Path
) -> None:
    rig = Rig(graph, tiny_model)
    thin = CameraModel(3000, 1, 1000.0, 1000.0, 1499.5, 0.0)
    rig.info.publish(convert.camera_to_info(thin, Header()))
    graph.wait(lambda: rig.node._engine is EngineState.FAILED, "the refusal", timeout_s=120)
    told = rig.node._engine_status("engine")
    assert told.level == DiagnosticStatus.ERROR
    assert "got 3000x1 pixels" in told.message and "waiting for another camera" in told.message
    rig.show(frame(0))
    assert not rig.node.done.done() and rig.received["depth"][0].width == CAMERA.width


def test_engine_state_is_told(graph: Graph, tiny_model: Path) -> None:
    rig = Rig(graph, tiny_model)
    waiting = rig.node._engine_status("engine")
    assert (waiting.level, waiting.message) == (DiagnosticStatus.STALE, "waiting for the camera")
    rig.show(frame(0))
    ready = rig.node._engine_status("engine")
    assert (ready.level, ready.message) == (DiagnosticStatus.OK, "ready")
    values = {v.key: v.value for v in ready.values}
    assert "64x128" in values["engine"]
    assert values["verified"].startswith("golden frames: 100.00% of pixels keep class and object, 100% of")


def test_build_only_builds_all_sizes_and_ends(
    graph: Graph, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    overrides = parameters(
        engine__model=str(tiny_model),
        engine__backend="onnxruntime",
        engine__precision="fp32",
        build_only=True,
    )
    node = graph.add(DvpsNode(namespace=graph.namespace, parameter_overrides=overrides))
    node.start()
    graph.wait(node.done.done, "the end", timeout_s=60)
    assert node.done.result() is None
    records = PlanStore(tmp_path / "dvps_ros" / "engines").records().values()
    assert [r.label for r in records] == ["tiny 64x128 onnxruntime fp32", "tiny 96x96 onnxruntime fp32"]
    assert all(r.notes["verified"]["passed"] for r in records)


@pytest.mark.parametrize("part", ["64x128.onnx", "weights.bin", "64x128.golden.npz"])
def test_a_truncated_model_ends_the_node_with_a_sentence(
    graph: Graph, tiny_model: Path, tmp_path: Path, part: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "cut")
    (model / part).write_bytes((model / part).read_bytes()[:-20])
    node = graph.add(
        DvpsNode(namespace=graph.namespace, parameter_overrides=parameters(engine__model=str(model)))
    )
    node.start()
    info = graph.node.create_publisher(CameraInfo, f"{graph.namespace}/dvps/input/camera_info", 1)
    graph.wait(lambda: info.get_subscription_count() == 1, "the subscription")
    info.publish(convert.camera_to_info(CAMERA, Header()))
    graph.wait(node.done.done, "the end", timeout_s=60)
    assert part in node.done.result() and "\n" not in node.done.result()
