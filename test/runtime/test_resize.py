# SPDX-License-Identifier: Apache-2.0
"""The resize as a graph against the processor's, alone and before a network."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from tiny_model import paint

from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.errors import EngineError, InputError
from dvps_ros.geometry.camera import Fit
from dvps_ros.runtime.backends import BACKENDS, installed
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.runtime.preprocess import halvings
from dvps_ros.runtime.resize import check_resize, resize_graph
from dvps_ros.types import CameraModel, Frame

PROCESSOR = [name for name in ("onnxruntime", "openvino") if name in installed()]
INTRINSICS = np.array([128, 128, 63.5, 31.5], np.float32)
FITS = {
    "enlarged, bars at the sides": (64, 48, 128, 64),
    "reduced, bars above and below": (333, 201, 96, 64),
    "rounded up": (101, 75, 64, 48),
    "halved twice, then reduced": (500, 252, 96, 64),
    "too far for the processor's halving": (301, 151, 64, 32),
    "just the size": (96, 64, 96, 64),
    "so thin that the mirrors repeat": (96, 8, 96, 64),
    "one row": (96, 1, 96, 64),
}


def config(backend, **changes):
    return EngineConfig(backend=backend, precision="fp32", threads=1, **changes)


def load(graph, folder, backend):
    path = folder / "resize.onnx"
    path.write_bytes(graph)
    kind = BACKENDS[backend]
    return kind.load(kind.build(path, config(backend), quiet, folder), path, config(backend))


@pytest.mark.parametrize("backend", PROCESSOR)
@pytest.mark.parametrize("sizes", FITS.values(), ids=FITS.keys())
def test_graph_equals_the_processor_but_for_rounding(tmp_path, backend, sizes):
    fit = Fit.letterbox(*sizes)
    engine = load(resize_graph(fit), tmp_path, backend)
    check_resize(engine, fit)  # on noise, at most one level
    camera = np.random.default_rng(1).integers(0, 256, (1, fit.camera_height, fit.camera_width, 3), np.uint8)
    got = np.empty((1, fit.height, fit.width, 3), np.uint8)
    engine.run({"camera": camera}, {"image": got})

    def mirrored(i: int, count: int) -> int:
        while not 0 <= i < count:
            i = -i if i < 0 else 2 * (count - 1) - i
            i = 0 if count == 1 else i
        return i

    rows = [fit.pad_y + mirrored(i - fit.pad_y, fit.inner_height) for i in range(fit.height)]
    columns = [fit.pad_x + mirrored(i - fit.pad_x, fit.inner_width) for i in range(fit.width)]
    np.testing.assert_array_equal(got[0], got[0][rows][:, columns])


def test_halvings_by_hand():
    assert halvings(Fit.letterbox(2048, 1024, 1024, 512)) == (0, 0.5)
    assert halvings(Fit.letterbox(2000, 1000, 400, 200)) == (2, 0.8)
    assert halvings(Fit.letterbox(2001, 1000, 400, 200))[0] == 0  # an odd side has no halves


@pytest.mark.parametrize("backend", PROCESSOR)
def test_means_of_four_by_hand(tmp_path, backend):
    """4x4 to 1x1: the mean of four rounded means (2.5 rounds up)."""
    camera = np.zeros((1, 128, 128, 3), np.uint8)
    camera[0, :4, :4, 0] = [[1, 2, 8, 8], [3, 4, 8, 8], [0, 0, 1, 1], [0, 1, 1, 2]]
    engine = load(resize_graph(Fit.letterbox(128, 128, 32, 32)), tmp_path, backend)
    got = np.empty((1, 32, 32, 3), np.uint8)
    engine.run({"camera": camera}, {"image": got})
    assert got[0, 0, 0].tolist() == [3, 0, 0]  # (3 + 8 + 0 + 1) / 4


def test_a_graph_that_resizes_otherwise_is_refused(tmp_path):
    fit = Fit.letterbox(333, 201, 96, 64)
    model = onnx.load_from_string(resize_graph(fit))
    resize = next(n for n in model.graph.node if n.op_type == "Resize")
    attribute = next(a for a in resize.attribute if a.name == "coordinate_transformation_mode")
    attribute.s = b"asymmetric"
    engine = load(model.SerializeToString(), tmp_path, PROCESSOR[0])
    with pytest.raises(
        EngineError, match=r"resizes 333x201 wrongly: a pixel is off by \d+ of 255; set engine"
    ):
        check_resize(engine, fit)


@pytest.mark.parametrize("backend", PROCESSOR)
def test_an_engine_takes_camera_images_and_keeps_the_plan(tiny_model, tmp_path, backend):
    options = config(backend, size="64x128", resize_on_device=True)
    for opening in range(2):
        told = []
        engine = Engine.open(
            tiny_model, options, camera_size=(256, 128), cache_dir=tmp_path, progress=told.append
        )
        building = f"building resize 256x128 to 64x128 {backend} fp32"
        assert any(t.startswith(building) for t in told) == (opening == 0)
        with engine:
            assert engine.camera_shape == (128, 256, 3)
            want = engine.run(paint(64, 128, car_x=32), INTRINSICS).segments.copy()
            engine.reset()
            # At twice the size the car's cells are the same.
            got = engine.run(paint(128, 256, car_x=64), INTRINSICS)
            np.testing.assert_array_equal(got.segments, want)
            moved = engine.run(paint(128, 256, car_x=80), INTRINSICS)
            assert moved.segments[2, 5] == -8  # the memory went on
            with pytest.raises(InputError, match=r"got uint8 \[96x96x3\]"):
                engine.run(paint(96, 96), INTRINSICS)


def test_a_backend_that_cannot_says_so(tiny_model, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(EngineError, match="engine.resize_on_device: pytorch cannot, onnxruntime, openvino, "):
        Engine.open(
            tiny_model, config("pytorch", resize_on_device=True), camera_size=(256, 128), cache_dir=tmp_path
        )


def test_the_pipeline_gives_the_same_and_follows_another_camera(tiny_model, tmp_path, caplog):
    camera = CameraModel(256, 128, 256.0, 256.0, 127.5, 63.5)
    results = []
    for on_device in (False, True):
        engine = config("onnxruntime", model=str(tiny_model), size="64x128", resize_on_device=on_device)
        with DvpsPipeline.open(PipelineConfig(engine=engine), camera, cache_dir=tmp_path) as pipeline:
            frames = [Frame(paint(128, 256, car_x=64 + 8 * i), (i + 1) * 10**8, camera) for i in range(3)]
            results.append([pipeline.process(f).cloud.copy() for f in frames])
            assert pipeline.engine.camera_shape == ((128, 256, 3) if on_device else None)
            with caplog.at_level(logging.WARNING):
                other = CameraModel(128, 64, 128.0, 128.0, 63.5, 31.5)
                pipeline.process(Frame(paint(64, 128, car_x=32), 10**9, other))
            said = "the engine resizes images of 256x128; these are resized on the processor"
            assert (said in caplog.text) == on_device
    for host, device in zip(*results, strict=True):
        assert host.tobytes() == device.tobytes()  # NaN included
