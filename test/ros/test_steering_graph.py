# SPDX-License-Identifier: Apache-2.0
"""Perception and steering as they run on a vehicle: both real nodes on real engines, small models."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from ros_graph import Graph, parameters
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tiny_model import paint

from dvps_ros import msg as dvps_msg
from dvps_ros.config import SteeringConfig
from dvps_ros.ros import convert, qos
from dvps_ros.ros.nodes.dvps import DvpsNode
from dvps_ros.ros.nodes.steering import SteeringNode
from dvps_ros.runtime.manifest import load_manifest
from dvps_ros.runtime.steering import SteeringPipeline
from dvps_ros.types import CameraModel

torch = pytest.importorskip("torch", reason="the head is made by its exporter")

CAMERA = CameraModel(256, 128, 256.0, 256.0, 127.5, 63.5)
LIMITS = {"min_frames": 1, "min_confidence": 0.0, "max_rate_rad_s": 20.0, "gap_s": 60.0}


@pytest.fixture(scope="module")
def head(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of random weights for the tokens of the tiny perception model."""
    from dvps_ros.export import export_steering
    from dvps_ros.networks.steering import SteeringHead, SteeringHeadConfig

    torch.manual_seed(0)
    size = SteeringHeadConfig(frames=4, tokens=2, channels=3, width=16, heads=2, unit_per_m=0.02)
    network, folder = SteeringHead(size).eval(), tmp_path_factory.mktemp("models") / "small"
    network.standardise(128 + 64 * torch.randn(50, 2, 3))  # tokens are colours
    weights = load_manifest(tiny_model).weights.sha256
    export_steering(
        network,
        folder,
        golden_window=(np.ones((1, 4, 2, 3), np.float32), np.array([[0, 0.1, 0.2, 0.3]], np.float32)),
        version="1",
        licence="Apache-2.0",
        perception={"name": "tiny", "weights_sha256": weights},
        training={"steps": 0},
    )
    return folder


class Vehicle:
    """Camera, perception, steering and who listens to both. Stamps are of now, as on a vehicle."""

    def __init__(self, graph: Graph, perception: Path, head: Path) -> None:
        self.graph = graph
        base = graph.namespace
        self.steering: SteeringNode = graph.add(
            SteeringNode(
                namespace=base,
                parameter_overrides=parameters(
                    model=str(head), max_age_s=9.0, watchdog_s=3.0, diagnostics_after_s=30.0, **LIMITS
                ),
                cli_args=["--ros-args", "-r", "~/input/latent:=dvps/output/latent"],
            )
        )
        self.dvps: DvpsNode = graph.add(
            DvpsNode(
                namespace=base,
                parameter_overrides=parameters(
                    engine__model=str(perception),
                    engine__backend="onnxruntime",
                    engine__precision="fp32",
                    engine__threads=1,
                ),
            )
        )
        self.steering.start()
        self.dvps.start()
        self.tokens = graph.listen(dvps_msg.LatentTokens, f"{base}/dvps/output/latent", qos.output())
        self.commands = graph.listen(
            dvps_msg.SteeringCommand, f"{base}/steering/output/command", QoSProfile(depth=500)
        )
        self.image = graph.node.create_publisher(Image, f"{base}/dvps/input/image", 10)
        self.info = graph.node.create_publisher(CameraInfo, f"{base}/dvps/input/camera_info", 10)
        latent = self.dvps._outputs["~/output/latent"]
        command = self.steering._outputs["~/output/command"]
        graph.wait(lambda: latent.get_subscription_count() == 2, "both listeners of the tokens")
        for end in (self.image, self.info, command):
            graph.wait(end.get_subscription_count, "all connections")

    def send(self, number: int) -> int:
        """One image of now; its stamp."""
        stamp_ns = self.graph.node.get_clock().now().nanoseconds
        header = Header(stamp=convert.ns_to_stamp(stamp_ns), frame_id="front_optical")
        self.info.publish(convert.camera_to_info(CAMERA, header))
        known = self.dvps._cameras._by_stamp
        self.graph.wait(lambda: known.get(stamp_ns) == CAMERA, "the camera")
        # The tiny model's tokens are mean colours: what changes them is the light, not the car's place.
        image = paint(CAMERA.height, CAMERA.width, car_x=40 + 12 * number) // (1 + number)
        self.image.publish(convert.rgb_to_image(image, header))
        return stamp_ns

    def show(self, number: int) -> int:
        """One image of now; its stamp, once its command has come."""
        stamp_ns = self.send(number)
        # The first time on a machine, opening the engine compiles what numba has not cached yet.
        self.graph.wait(lambda: self.of(stamp_ns), "the command of the image", timeout_s=120)
        return stamp_ns

    def of(self, stamp_ns: int) -> list[dvps_msg.SteeringCommand]:
        """The commands of one image."""
        return [c for c in self.commands if convert.stamp_to_ns(c.header.stamp) == stamp_ns]


def test_images_become_commands_until_perception_stops(graph: Graph, tiny_model: Path, head: Path) -> None:
    vehicle = Vehicle(graph, tiny_model, head)
    vehicle.show(0)  # opens the engine, which may take longer than an image may be old
    graph.wait(lambda: not vehicle.steering._perception_trouble(), "a sound perception")
    first = len(vehicle.tokens)
    stamps = [vehicle.show(i) for i in range(1, 7)]
    assert [convert.stamp_to_ns(t.header.stamp) for t in vehicle.tokens[first:]] == stamps

    # What the node says is what the library computes of the same tokens.
    offline = SteeringPipeline.open(SteeringConfig(model=str(head), **LIMITS))
    for message in vehicle.tokens:
        stamp_ns = convert.stamp_to_ns(message.header.stamp)
        want = offline.process(stamp_ns, convert.message_to_latent(message), message.weights)
        if stamp_ns in stamps:
            (got,) = vehicle.of(stamp_ns)
            assert got.valid, vehicle.steering.health.recent_trouble()
            assert got.header.frame_id == "base_link"
            assert got.tyre_angle == pytest.approx(want.tyre_angle_rad, abs=1e-5)
            assert got.curvature == pytest.approx(math.tan(want.tyre_angle_rad) / 2.71, abs=1e-5)
    offline.close()
    assert np.ptp([vehicle.of(s)[0].tyre_angle for s in stamps]) > 1e-4  # it does depend on the images

    # Perception ends: no old command is sent again as a new one.
    vehicle.dvps.trigger_deactivate()
    before = len(vehicle.commands)
    graph.wait(lambda: len(vehicle.commands) > before + 3, "the watchdog")
    for command in vehicle.commands[before:]:
        assert not command.valid and math.isnan(command.tyre_angle)
        assert convert.stamp_to_ns(command.header.stamp) == stamps[-1]
    ages_s = [c.age.sec + c.age.nanosec * 1e-9 for c in vehicle.commands[before:]]
    assert ages_s == sorted(ages_s) and ages_s[0] >= 3.0
    assert vehicle.steering._status("command").level == DiagnosticStatus.WARN

    # And begins again.
    vehicle.dvps.trigger_activate()
    (command,) = vehicle.of(vehicle.show(0))
    assert command.valid


def test_tokens_of_other_weights_never_steer(
    graph: Graph, tiny_model: Path, head: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(head, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["perception"]["weights_sha256"] = "b" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    vehicle = Vehicle(graph, tiny_model, other)
    vehicle.send(0)
    graph.wait(lambda: vehicle.steering.health.recent_trouble(), "the refusal", timeout_s=120)
    assert "expected those of tiny with weights bbbbbbbbbbbb" in vehicle.steering.health.recent_trouble()
    graph.wait(lambda: vehicle.tokens, "the tokens")
    said = len(vehicle.commands)
    graph.wait(lambda: len(vehicle.commands) > said, "word that there is no command")
    assert len(vehicle.tokens) == 1
    for command in vehicle.commands:
        assert not command.valid and convert.stamp_to_ns(command.header.stamp) == 0
