# SPDX-License-Identifier: Apache-2.0
"""The graph at lower precisions, computed by PyTorch, and its operators against ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import list_models

pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

PERCEPTION = list(list_models())
RNG = np.random.default_rng(0)
I64 = np.int64
OPERATORS = [
    ("Conv", {"pads": [1, 0, 2, 1], "strides": [2, 1]}, [RNG.normal(size=(4, 3, 3, 2)), RNG.normal(size=4)]),
    ("Conv", {"group": 3, "dilations": [2, 2], "pads": [2, 2, 2, 2]}, [RNG.normal(size=(3, 1, 3, 3))]),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, []),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, []),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, []),
    ("Resize", {"mode": "linear"}, [None, np.float32([1, 1, 2, 1.5])]),
    ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
     [None, None, np.array([1, 3, 5, 9], I64)]),
    ("Resize", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
     [None, np.float32([1, 1, 2, 3])]),
    ("Gather", {"axis": 2}, [np.array([[5, 0], [-1, 2]], I64)]),
    ("GatherElements", {"axis": 3}, [RNG.integers(0, 8, (1, 3, 6, 4))]),
    ("GatherND", {}, [np.array([[0, 2, 1], [0, 0, 5]], I64)]),
    ("Slice", {}, [np.array([1, -5], I64), np.array([3, 100], I64), np.array([1, 3], I64),
                   np.array([1, 2], I64)]),
    ("Pad", {"mode": "constant"}, [np.array([0, 1, 0, 2, 0, 0, 3, 1], I64), np.float32(7)]),
    ("Pad", {"mode": "edge"}, [np.array([0, 0, 0, 2, 0, 0, 3, 1], I64)]),
    ("TopK", {"axis": -1}, [np.array([3], I64)]),
    ("ReduceSum", {"keepdims": 0}, [np.array([1, -1], I64)]),
    ("ReduceMax", {}, [np.array([2], I64)]),
    ("ArgMax", {"axis": 1, "keepdims": 0}, []),
    ("Split", {"axis": 3}, [np.array([5, 3], I64)]),
    ("Expand", {}, [np.array([2, 1, 1, 1], I64)]),
    ("Reshape", {}, [np.array([0, -1, 4], I64)]),
    ("Unsqueeze", {}, [np.array([0, -1], I64)]),
    ("Clip", {}, [np.float32(-0.5), np.float32(0.25)]),
    ("Softmax", {"axis": 1}, []),
    ("LayerNormalization", {"axis": -1}, [RNG.normal(size=8), RNG.normal(size=8)]),
    ("GridSample", {"mode": "linear", "align_corners": 1}, [RNG.uniform(-1.2, 1.2, (1, 4, 5, 2))]),
    ("Cast", {"to": TensorProto.UINT8}, []),
    ("Max", {}, [RNG.normal(size=(3, 1, 1)), np.float32(0.1)]),
]  # fmt: skip
"""Operator, attributes, and its inputs but the first, which is float32 [1,3,6,8]."""


@pytest.mark.parametrize(
    ("operator", "attributes", "others"), OPERATORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_operator_equals_onnx_runtimes(tmp_path, operator, attributes, others):
    image = RNG.normal(size=(1, 3, 6, 8)).astype(np.float32)
    if operator == "Cast":
        image = np.abs(image) * 50
    names, constants = ["image"], []
    for k, value in enumerate(others):
        names.append("" if value is None else f"constant_{k}")
        if value is not None:
            value = np.asarray(value)
            value = value.astype(np.float32) if value.dtype == np.float64 else value
            constants.append(numpy_helper.from_array(value, names[-1]))
    outputs = {"TopK": 2, "Split": 2}.get(operator, 1)
    node = helper.make_node(operator, names, [f"out_{k}" for k in range(outputs)], **attributes)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape)]
    # Types and shapes of the outputs come from ONNX's own inference.
    bare = helper.make_graph([node], "one", inputs, [], constants)
    bare.output.extend(onnx.ValueInfoProto(name=n) for n in node.output)
    model = helper.make_model(bare, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    path = tmp_path / "one.onnx"
    onnx.save(model, path)
    want = onnxruntime.InferenceSession(path).run(None, {"image": image})
    config = EngineConfig(backend="pytorch", precision="fp32", threads=1)
    kind = BACKENDS["pytorch"]
    engine = kind.load(kind.build(path, config, quiet, tmp_path), path, config)
    got = {n: np.zeros(s, t) for n, (t, s) in engine.outputs.items()}
    engine.run({"image": image}, got)
    for expected, name in zip(want, node.output, strict=True):
        assert got[name].dtype == expected.dtype
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("model", PERCEPTION)
def test_shipped_graphs_keep_their_values_at_lower_precision(model, precision, tmp_path):
    """The very graphs that TensorRT gets: golden frames within the limits of the precision."""
    config = EngineConfig(model=model, backend="pytorch", precision=precision, threads=2)
    with Engine.open(model, config, cache_dir=tmp_path) as engine:
        values = {d.output: d.value for d in engine.differences}
    assert values["panoptic"] > 0 or values["class_logits"] > 1e-6  # it is not fp32 in disguise


def test_a_missing_operator_is_named(tmp_path):
    node = helper.make_node("Hardmax", ["image"], ["out"])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("image", "out")]
    graph = helper.make_graph([node], "foreign", infos[:1], infos[1:])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(EngineError, match="torch_operators.py lacks Hardmax"):
        BACKENDS["pytorch"].build(path, EngineConfig(precision="fp32", threads=1), quiet, tmp_path)
