# SPDX-License-Identifier: Apache-2.0
"""int8 on processors by hand: a graph of two convolutions, ranges by numpy, rounding by numpy."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.data.sources import open_source, spaced
from dvps_ros.errors import EngineError
from dvps_ros.runtime import ranges
from dvps_ros.runtime.pipeline import DvpsPipeline

openvino = pytest.importorskip("openvino")
RNG = np.random.default_rng(5)
BODY = RNG.normal(size=(16, 16, 1, 1)).astype(np.float16)
HEAD = RNG.normal(size=(3, 16, 1, 1)).astype(np.float32)
FEEDS = [{"image": RNG.uniform(-1, 3, (1, 16, 4, 6)).astype(np.float32)} for _ in range(3)]


def write_graph(path: Path, body: str = "network.body.weight") -> Path:
    """image -> convolution with ``body``, half-precision behind a cast -> relu -> convolution of the head."""
    nodes = [
        helper.make_node("Cast", [f"{body}.float16"], [body], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", body], ["wide"], "body"),
        helper.make_node("Relu", ["wide"], ["seen"]),
        helper.make_node("Conv", ["seen", "network.head.weight"], ["out"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 16, 4, 6))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 3, 4, 6))],
        [
            numpy_helper.from_array(BODY, f"{body}.float16"),
            numpy_helper.from_array(HEAD, "network.head.weight"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "two.onnx")


def measured(graph: Path) -> ranges.Ranges:
    return ranges.measure(graph, FEEDS, lambda what: None)


def test_the_range_is_that_of_all_frames_and_the_head_is_left(graph: Path) -> None:
    images = np.concatenate([f["image"] for f in FEEDS])
    assert measured(graph) == {"network.body.weight": [float(images.min()), float(images.max())]}


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    step = (high - low) / 255
    zero = np.round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step


def convolved(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.einsum("oi,bihw->bohw", weights[..., 0, 0].astype(np.float64), values)


def paired_peak(row: np.ndarray) -> float:
    """The largest sum of an even channel's weight and the next one's, of those with one sign."""
    sums = []
    for a, b in zip(row[0::2], row[1::2], strict=True):
        sums += [max(a, 0) + max(b, 0), max(-a, 0) + max(-b, 0)]
    return max(sums)


def test_the_graph_rounds_inputs_and_weights_as_by_hand(graph: Path, tmp_path: Path) -> None:
    ((low, high),) = measured(graph).values()
    ranges.write(graph, {"network.body.weight": [low, high]}, tmp_path / "int8.xml")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    engine = openvino.Core().compile_model(tmp_path / "int8.xml", "CPU", options)
    weights = BODY.astype(np.float64)
    step = np.array([paired_peak(row[:, 0, 0]) for row in weights]).reshape(16, 1, 1, 1) / 127
    # Beyond the range as well: it is clipped there.
    image = np.concatenate([FEEDS[0]["image"][:, :, :2] * 1.5, FEEDS[0]["image"][:, :, 2:]], 2)
    hidden = np.maximum(convolved(np.round(weights / step) * step, rounded(image, low, high)), 0)
    want = convolved(HEAD, hidden)
    got = engine({"image": image})["out"]
    plain = convolved(HEAD, np.maximum(convolved(weights, image), 0))
    assert np.abs(got - want).max() < 0.01 * np.abs(want - plain).max()


def test_levels_of_neighbouring_channels_never_exceed_what_16_bits_hold() -> None:
    rng = np.random.default_rng(3)
    for channels in (16, 17):  # the last of an odd number has no neighbour
        weights = rng.laplace(size=(64, channels, 3, 3)).astype(np.float32)
        weights[0] = 0
        weights[1] = 1  # all at the highest level
        peaks = ranges._peaks(weights)
        levels = np.round(weights / peaks * 127)
        padded = np.pad(levels, ((0, 0), (0, channels % 2), (0, 0), (0, 0)))
        for sign in (1, -1):
            pairs = np.maximum(sign * padded[:, 0::2], 0) + np.maximum(sign * padded[:, 1::2], 0)
            assert pairs.max() * 255 <= 2**15 - 1
        largest = np.abs(weights).max((1, 2, 3), keepdims=True)
        largest[0] = 1
        assert (peaks >= largest).all() and (peaks <= 2 * largest).all()


def test_zero_stays_zero_in_every_range() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-2.0, -0.1), (0.0, 0.0), (-1e-9, 5.0)):
        a, b = ranges._with_zero(low, high)
        step = (b - a) / 255
        assert a <= 0 <= b and step > 0 and (-a / step) == pytest.approx(round(-a / step), abs=1e-6)
        assert abs(min(low, 0) - a) <= step and abs(max(high, 0) - b) <= step or low == high == 0


def test_the_union_holds_for_every_part() -> None:
    parts = [{"a": [-1.0, 2.0], "b": [0.0, 1.0]}, {"a": [-0.5, 3.0], "b": [-4.0, 0.5]}]
    assert ranges.union(parts) == {"a": [-1.0, 3.0], "b": [-4.0, 1.0]}
    assert ranges.union([]) == {}


def test_ranges_of_another_network_and_graphs_without_weights_are_refused(
    graph: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="not of two.onnx: 2 convolutions differ, such as network.body"):
        ranges.write(graph, {"network.other.weight": [0.0, 1.0]}, tmp_path / "int8.xml")
    nameless = write_graph(tmp_path / "nameless.onnx", "coordinates")
    with pytest.raises(EngineError, match="no convolution of learnt weights"):
        ranges.measure(nameless, FEEDS, lambda what: None)
    for bad in (np.nan, np.inf, -np.inf):
        feeds = [{"image": FEEDS[0]["image"].copy()}]
        feeds[0]["image"][0, 3, 1, 1] = bad  # one of 384
        with pytest.raises(EngineError, match="two.onnx computed values that are not finite"):
            ranges.measure(graph, feeds, lambda what: None)
    (tmp_path / "broken.onnx").write_bytes(b"x")
    with pytest.raises(EngineError, match="openvino cannot read"):
        ranges.measure(tmp_path / "broken.onnx", FEEDS, lambda what: None)


@pytest.mark.parametrize("model", ["lite", "lite_research"])
@pytest.mark.parametrize("source", ["kitti_0005", "videos/udacity_challenge_1280x720.mp4"])
def test_shipped_ranges_hold_on_photographs(model: str, source: str, tmp_path: Path) -> None:
    """They were measured on rendered streets: int8 must lose as little where the camera is real."""
    if "DVPS_DATA" not in os.environ:
        pytest.skip("real driving data: set DVPS_DATA")
    frames = list(spaced(open_source(f"{os.environ['DVPS_DATA']}/{source}", fov_deg=60), 8))
    classes, depths = [], []
    config = EngineConfig(backend="openvino", threads=2)
    with contextlib.ExitStack() as stack:
        pipelines = [
            stack.enter_context(
                DvpsPipeline.open(
                    PipelineConfig(engine=replace(config, model=model, precision=p)),
                    frames[0].camera,
                    cache_dir=tmp_path,
                )
            )
            for p in ("fp32", "int8")
        ]
        for frame in frames:
            want, got = (p.process(frame).panoptic for p in pipelines)
            assert want is not None and got is not None
            classes.append((want.class_map == got.class_map).mean())
            far = np.isfinite(want.depth_m) & np.isfinite(got.depth_m) & (want.depth_m > 20)
            depths.append(np.abs(got.depth_m[far] / want.depth_m[far] - 1).mean())
    assert np.mean(classes) > 0.97 and np.mean(depths) < 0.03, (classes, depths)
