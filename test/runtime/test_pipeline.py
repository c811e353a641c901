# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import subprocess
import sys

import cv2
import numpy as np
import pytest
from tiny_model import paint

from dvps_ros.config import EngineConfig, PipelineConfig, ScaleConfig
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.geometry.camera import rectify_maps
from dvps_ros.labels import CITYSCAPES, VOID, LabelClass, LabelSpace
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.pipeline import STAGES, DvpsPipeline
from dvps_ros.types import CameraModel, Frame, ScaleHealth

ROAD, SKY, CAR = (CITYSCAPES.id_of(n) for n in ("road", "sky", "car"))
STEP_NS = 100_000_000
CAMERA = CameraModel(256, 128, 256.0, 256.0, 127.5, 63.5)
"""Twice the network's 64x128: fx = 128 there, and camera pixel (2c, 2r) lies on network pixel c, r."""


@pytest.fixture
def make(tiny_model, tmp_path):
    opened = []

    def open_(**parts):
        engine = EngineConfig(model=str(tiny_model), backend="onnxruntime", precision="fp32", threads=1)
        config = PipelineConfig(engine=engine, **parts)
        opened.append(DvpsPipeline.open(config, CAMERA, cache_dir=tmp_path / "cache"))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()


def frame(i, *, car_x=64, camera=CAMERA, **changes):
    image = paint(camera.height, camera.width, car_x=car_x)
    values = {"image": image, "stamp_ns": i * STEP_NS, "camera": camera, "frame_id": "front"}
    return Frame(**(values | changes))


def test_values_by_hand(make):
    pipeline = make()
    result = pipeline.process(frame(1))
    # The car covers columns 64..127 and rows 64..95 of the camera: whole cells of the network.
    maps = result.panoptic
    assert (maps.class_map[:64] == SKY).all()
    assert (maps.class_map[96:] == ROAD).all() and (maps.class_map[68:, :60] == ROAD).all()
    # Bilinear: of the 4x4 corner pixels, where one cell of four is car, only the inner ones are.
    assert (maps.class_map[68:92, 64:128] == CAR).all() and (maps.class_map[64:96, 68:124] == CAR).all()
    np.testing.assert_array_equal(maps.track_map, maps.class_map == CAR)
    assert np.isposinf(maps.depth_m[:64]).all()
    # Road 1.5 m below the camera: z = 1.5 fy / (v - cy), exact between the rows of cells.
    v = np.arange(100, 124)
    np.testing.assert_allclose(maps.depth_m[100:124, 200], 1.5 * 256 / (v - 63.5), rtol=1e-5)
    assert (maps.confidence == 255).all()

    (car,) = result.instances
    assert (car.track_id, car.class_id, car.box_px, car.area_px) == (1, CAR, (64.0, 64.0, 64.0, 32.0), 2048)
    assert car.score == pytest.approx(0.88)
    assert (result.stamp_ns, result.frame_id, result.camera) == (STEP_NS, "front", CAMERA)
    np.testing.assert_array_equal(result.image, frame(1).image)
    # Mean colour of this frame, and of the one before (there is none).
    mean = frame(1).image.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(result.latent, [mean, [0, 0, 0]], atol=0.01)
    assert result.scale.health is ScaleHealth.OFF

    point = result.cloud[110, 200]
    z = 1.5 * 256 / (110 - 63.5)
    assert point["z"] == pytest.approx(z) and point["x"] == pytest.approx((200 - 127.5) / 256 * z)
    assert point["y"] == pytest.approx(1.5)  # on the road
    assert (point["label"], point["instance"], point["rgb"]) == (ROAD, 0, 128 << 16 | 64 << 8 | 128)
    assert np.isnan(result.cloud["z"][:64]).all()
    assert tuple(result.stages_ms) == STAGES


def test_keeps_identity_and_velocity(make):
    """A car that moves 8 px a frame to the right on the road at z = 1.5 fy / (79.5 - 63.5) = 24 m."""
    pipeline = make()
    for i in range(10):
        result = pipeline.process(frame(i, car_x=16 + 8 * i))
        assert [t.track_id for t in result.instances] == [1]
    (car,) = result.instances
    assert car.box_px == (88.0, 64.0, 64.0, 32.0)
    speed = 8 / 256 * car.centroid_m[2] / 0.1
    np.testing.assert_allclose(car.velocity_mps, [speed, 0, 0], atol=0.15 * speed)


@pytest.mark.parametrize(
    ("wanted", "stages"),
    [
        (set(), ("fit", "engine", "scale", "track", "objects")),
        ({"latent"}, ("fit", "engine", "scale", "track", "objects")),
        ({"panoptic"}, ("fit", "engine", "scale", "track", "maps", "objects")),
        ({"cloud"}, STAGES),
    ],
)
def test_computes_only_what_is_wanted(make, wanted, stages):
    result = make().process(frame(1), frozenset(wanted))
    assert tuple(result.stages_ms) == stages
    assert (result.panoptic is not None) == ("panoptic" in wanted)
    assert (result.cloud is not None) == ("cloud" in wanted)
    assert (result.latent is not None) == ("latent" in wanted)
    assert result.instances[0].box_px == (64.0, 64.0, 64.0, 32.0)


def test_is_deterministic_and_results_are_kept(make):
    """Two pipelines give the same bytes, and later frames do not overwrite earlier results."""
    first, second = make(), make()
    rng = np.random.default_rng(3)
    images = [cv2.blur(rng.integers(0, 256, (128, 256, 3), np.uint8), (9, 9)) for _ in range(4)]
    results = [first.process(frame(i, image=image)) for i, image in enumerate(images)]
    for i, image in enumerate(images):
        again = second.process(frame(i, image=image.copy()))
        for name in ("class_map", "track_map", "depth_m", "confidence"):
            a, b = getattr(results[i].panoptic, name), getattr(again.panoptic, name)
            assert a.tobytes() == b.tobytes(), (i, name)
        assert results[i].cloud.tobytes() == again.cloud.tobytes()
        assert results[i].latent.tobytes() == again.latent.tobytes()


def test_metric_scale(make):
    """The camera is 3 m over the road, the network believes 1.5: all is twice as far."""
    pipeline = make(scale=ScaleConfig(camera_height_m=3.0))
    for i in range(10):
        result = pipeline.process(frame(i))
    assert result.scale.health is ScaleHealth.OK
    assert result.scale.scale == pytest.approx(2.0, rel=1e-3)
    np.testing.assert_allclose(result.panoptic.depth_m[120, 200], 2 * 1.5 * 256 / (120 - 63.5), rtol=1e-3)
    assert -result.scale.plane[3] == pytest.approx(3.0, rel=1e-3)
    near = result.cloud[110, 200]
    assert near["y"] == pytest.approx(3.0, rel=1e-3)


def test_a_scale_that_is_found_moves_nothing(make):
    """From one frame to the next all is twice as far, and what stands still goes on standing still."""
    pipeline, distances = make(scale=ScaleConfig(camera_height_m=3.0)), []
    for i in range(12):
        (car,) = pipeline.process(frame(i, car_x=100)).instances
        np.testing.assert_allclose(car.velocity_mps, 0, atol=0.05)
        distances.append(car.centroid_m[2])
    assert distances[-1] == pytest.approx(2 * distances[0], rel=1e-3)


def test_scale_needs_a_road_class(tiny_model, tmp_path):
    config = EngineConfig(backend="onnxruntime", precision="fp32")
    engine = Engine.open(tiny_model, config, cache_dir=tmp_path)
    classes = (LabelClass(0, "street", (1, 2, 3), False), *CITYSCAPES.classes[1:])
    engine.manifest = dataclasses.replace(engine.manifest, label_space=LabelSpace("streets", classes))
    DvpsPipeline(engine, PipelineConfig())
    with pytest.raises(ConfigError, match="'streets' has no class 'road'"):
        DvpsPipeline(engine, PipelineConfig(scale=ScaleConfig(camera_height_m=1.5)))


def test_time_jumps_forget_the_past(make, caplog):
    pipeline = make()
    pipeline.process(frame(100))
    assert pipeline.process(frame(101)).instances[0].age_s == pytest.approx(0.1)
    back = pipeline.process(frame(50))
    assert back.instances[0].track_id == 2 and back.instances[0].age_s == 0
    np.testing.assert_array_equal(back.latent[1], 0)  # the network's memory is empty as well
    assert pipeline.process(frame(51)).latent[1].any()
    after_gap = pipeline.process(frame(51 + 21))
    assert after_gap.instances[0].track_id == 3
    np.testing.assert_array_equal(after_gap.latent[1], 0)
    assert pipeline.resets == {"time jumped backwards": 1, "gap in time": 1}
    assert "time jumped backwards" in caplog.text and "gap in time" in caplog.text
    assert pipeline.process(frame(52 + 21)).instances[0].track_id == 3


def test_size_change_in_mid_stream(make):
    pipeline = make()
    pipeline.process(frame(1))
    small = CameraModel(128, 64, 128.0, 128.0, 63.5, 31.5)
    result = pipeline.process(frame(2, camera=small, car_x=32))
    assert result.panoptic.class_map.shape == (64, 128) and result.cloud.shape == (64, 128)
    assert result.instances[0].box_px == (32.0, 32.0, 32.0, 16.0)
    assert result.instances[0].age_s == 0 and pipeline.resets == {"image size changed": 1}
    # Other intrinsics at the same size are no reason to forget.
    zoomed = dataclasses.replace(small, fx=130.0, fy=130.0)
    result = pipeline.process(frame(3, camera=zoomed, car_x=32))
    assert result.instances[0].age_s > 0 and result.camera == zoomed
    v = np.arange(50, 62)
    np.testing.assert_allclose(result.panoptic.depth_m[50:62, 100], 1.5 * 130 / (v - 31.5), rtol=1e-5)


def test_bad_frames_leave_it_usable(make):
    pipeline = make()
    pipeline.process(frame(1))
    with pytest.raises(InputError, match="that of the frame before"):
        pipeline.process(frame(1))
    with pytest.raises(InputError, match=r"got \['points'\]"):
        pipeline.process(frame(2), frozenset({"points"}))
    with pytest.raises(InputError, match="world_from_camera: expected a finite 4x4 matrix"):
        pipeline.process(frame(2), world_from_camera=np.full((4, 4), np.nan))
    strange = dataclasses.replace(CAMERA, distortion=(0.1,), distortion_model="fisheye_of_mine")
    with pytest.raises(InputError, match="distortion model"):
        pipeline.process(frame(2, camera=strange))
    result = pipeline.process(frame(2))
    assert result.instances[0].track_id == 1 and result.instances[0].age_s == pytest.approx(0.1)
    assert not pipeline.resets


def test_reset(make):
    pipeline = make(scale=ScaleConfig(camera_height_m=3.0))
    for i in range(8):
        pipeline.process(frame(i))
    pipeline.reset()
    result = pipeline.process(frame(3))  # earlier than the last one, yet no jump
    assert result.scale.health is ScaleHealth.STARTING and not pipeline.resets
    assert result.instances[0].age_s == 0


def test_padding_is_no_part_of_the_world(make):
    """A square camera in the wide input: the padding left and right mirrors it, objects included."""
    square = CameraModel(64, 64, 64.0, 64.0, 31.5, 31.5)
    result = make().process(frame(1, camera=square, car_x=None))
    assert not result.instances
    assert (result.panoptic.class_map[:32] == SKY).all() and (result.panoptic.class_map[32:] == ROAD).all()


def test_the_black_rim_of_a_rectified_image_is_no_part_of_the_world(make):
    """A pincushion lens: the rectified corners show nothing, and black is near the colours of things."""
    lens = dataclasses.replace(CAMERA, distortion=(0.3, 0.1, 0.0, 0.0, 0.0))
    result = make().process(frame(1, camera=lens))
    assert {i.class_id for i in result.instances} == {CAR}
    white = np.full((CAMERA.height, CAMERA.width), 255, np.uint8)
    map_x, map_y = rectify_maps(lens)
    shown = cv2.remap(white, map_x, map_y, cv2.INTER_NEAREST) > 0
    # What is farther inside than two cells of eight camera pixels is kept.
    inside = cv2.erode(shown.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    assert (~shown).sum() > 1000 and inside.sum() > 10000
    maps = result.panoptic
    assert (maps.class_map[~shown] == VOID).all() and (maps.class_map[inside] != VOID).all()
    assert np.isnan(maps.depth_m[~shown]).all() and not maps.track_map[~shown].any()
    assert np.isnan(result.cloud["z"][~shown]).all()


def test_distorted_image_is_rectified(make):
    """A raw image made by bending a known rectified one comes out straight, with its labels."""
    raw_camera = dataclasses.replace(CAMERA, distortion=(-0.25, 0.05, 0.0, 0.0))
    straight = paint(128, 256, car_x=64)
    u, v = np.meshgrid(np.arange(256.0), np.arange(128.0))
    points = cv2.undistortPoints(
        np.stack([u, v], -1).reshape(-1, 1, 2), CAMERA.K, np.array(raw_camera.distortion), P=CAMERA.K
    ).reshape(128, 256, 2)
    raw = cv2.remap(straight, *np.moveaxis(points.astype(np.float32), 2, 0), cv2.INTER_LINEAR)
    assert (raw != straight).any()
    result = make().process(frame(1, image=raw, camera=raw_camera))
    assert result.camera == CAMERA
    inner = np.s_[16:112, 32:224]
    assert np.median(np.abs(result.image[inner].astype(int) - straight[inner])) == 0
    same = result.panoptic.class_map[inner] == make().process(frame(1)).panoptic.class_map[inner]
    assert same.mean() > 0.97


def test_robot_path_imports_neither_torch_nor_open3d():
    code = (
        "import sys, dvps_ros.runtime.pipeline; "
        "bad = {'torch', 'open3d', 'rclpy', 'matplotlib', 'onnxruntime', 'openvino'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
