# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from dvps_ros.cli.engine import command
from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import installed
from dvps_ros.runtime.backends.protocol import LayerTime
from dvps_ros.runtime.profile import Cost, GraphCosts, measured_peak
from dvps_ros.viz.roofline import draw_profile

PROFILED = [name for name in ("onnxruntime", "openvino") if name in installed()]


def test_costs_by_hand(tmp_path):
    """A strided convolution in two groups and a matrix product."""
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "network.head.0.weight", "b"],
            ["c"],
            "conv",
            strides=[2, 2],
            pads=[1] * 4,
            group=2,
        ),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "m"], ["out"], "product"),
    ]
    constants = {
        "network.head.0.weight": np.zeros((6, 2, 3, 3), np.float32),
        "b": np.zeros(6, np.float32),
        "shape": np.array([6, 16], np.int64),
        "m": np.zeros((16, 5), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "costs",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [6, 5])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    # 6 x 4 x 4 results of 2 x 3 x 3 products; image, weights, bias and result.
    conv = Cost(2 * 96 * 18, 4 * (256 + 108 + 6 + 96))
    product = Cost(2 * 30 * 16, 4 * (96 + 80 + 30))
    costs = GraphCosts(path)
    assert costs.total == conv + product
    shape = 2 * 8
    each = [LayerTime("a", "", 1, "conv"), LayerTime("b", "", 1, "r"), LayerTime("c", "", 1, "[product] + x")]
    works = costs.of_layers(each)
    assert [w.cost for w in works] == [conv, Cost(0, 4 * 2 * 96 + shape), product]
    assert [w.weights for w in works] == ["head.0", "", ""]  # a name of a module, not of a constant
    # Fused: what lies between is not written, and a node that nobody names belongs to its reader.
    fused = costs.of_layers([LayerTime("a", "", 1, "reorder_1"), LayerTime("b", "", 1, "out,r")])
    assert fused[0].cost == Cost(0, 0) and fused[1].weights == "head.0"
    assert fused[1].cost == Cost(conv.flop + product.flop, 4 * (256 + 108 + 6 + 80 + 30) + shape)
    # In bf16 activations are half as large; weights count as they are stored.
    assert GraphCosts(path, 2).total.bytes == 2 * (256 + 96 + 96 + 30) + 4 * (108 + 6 + 80)


@pytest.mark.parametrize("backend", PROFILED)
def test_profile_tells_layers_latency_and_roof(tiny_model, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ["--model", tiny_model, "--backend", backend, "--precision", "fp32", "--size", "64x128"]
    arguments += ["--threads", 1, "--runs", 3, "--out", tmp_path / "out"]
    arguments += ["--peak-gflops", 100, "--peak-gbps", 10]
    result = CliRunner().invoke(command, ["profile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / f"tiny-64x128-{backend}-fp32.json").read_text())
    # The classifier: 16 x 32 pixels, 19 classes, 3 colours.
    assert report["flop"] == 2 * 16 * 32 * 19 * 3
    assert report["peak_flop_s"] == 100e9 and report["peak_bytes_s"] == 10e9
    times = [layer["ms"] for layer in report["layers"]]
    assert len(times) > 10 and times == sorted(times, reverse=True) and min(times) >= 0
    assert any("Conv" in layer["kind"] for layer in report["layers"])
    flop = [layer["flop"] for layer in report["layers"]]
    assert sum(flop) == report["flop"] and "GFLOP/s" in result.output
    assert sum(layer["bytes"] for layer in report["layers"]) > 64 * 128 * 3  # the image is read
    assert 0 < report["latency_ms"] < 100 and "of the roof" in result.output
    picture = cv2.imread(str(tmp_path / "out" / f"tiny-64x128-{backend}-fp32.png"))
    assert picture.shape[0] > 500 and picture.std() > 10


@pytest.mark.skipif("onnxruntime" not in PROFILED, reason="onnxruntime is not installed")
def test_peak_is_of_this_machine():
    peak = measured_peak(EngineConfig(backend="onnxruntime", precision="fp32", threads=1))
    assert 1e9 < peak.flop_s < 1e13 and 1e8 < peak.bytes_s < 1e12


def test_a_backend_that_tells_no_layers_says_so(tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = [
        "--model",
        str(tiny_model),
        "--backend",
        "pytorch",
        "--precision",
        "fp32",
        "--size",
        "64x128",
    ]
    with pytest.raises(EngineError, match="pytorch tells no times of layers: profile openvino"):
        CliRunner().invoke(command, ["profile", *arguments], catch_exceptions=False)


def test_roofline_picture_marks_the_point_below_the_roof(tmp_path):
    bars, dots = [("conv", 2.0), ("add", 1.0)], [(10, 6e10, 0.7), (2, 1e10, 0.1)]
    draw_profile(tmp_path / "p.png", "an engine", bars, dots, (10, 5e10), 1e11, 1e10)
    picture = cv2.imread(str(tmp_path / "p.png"))
    red = (picture == (0x52, 0x4E, 0xC4)).all(2)  # the point, right half
    assert red[:, picture.shape[1] // 2 :].sum() > 10 and not red[:, : picture.shape[1] // 2].any()
