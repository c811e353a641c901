# SPDX-License-Identifier: Apache-2.0
"""Graphs at a lower precision: what is lowered, what is not, and what that does to values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dvps_ros.errors import EngineError
from dvps_ros.runtime.precision import load_graph, lowered


def graph_of(nodes, constants, outputs):
    """Input ``image`` float32 [1,2,8,8]; ``outputs``: name -> shape."""
    f32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", f32, [1, 2, 8, 8])],
        [helper.make_tensor_value_info(n, f32, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def two_convolutions():
    """Normalised, convolved, a shortcut, convolved again; in between coordinates: 1000 more than a result."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    return graph_of(
        [
            node("Sub", ["image", "mean"], ["normal"]),
            node("Conv", ["normal", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Add", ["b", "a"], ["joined"]),
            node("Add", ["b", "columns"], ["place"]),
            node("Sub", ["place", "columns"], ["back"]),
            node("Conv", ["joined", "w2", "b1"], ["c"]),
            node("Conv", ["back", "w2", "b1"], ["d"]),
            node("Relu", ["c"], ["head"]),
        ],
        {
            "mean": np.float32(100),
            "columns": np.float32(1000),
            "w1": rng.normal(size=(2, 2, 3, 3)).astype(np.float32),
            "w2": rng.normal(size=(2, 2, 1, 1)).astype(np.float32),
            "b1": rng.normal(size=2).astype(np.float32),
        },
        {"head": [1, 2, 8, 8], "d": [1, 2, 8, 8], "place": [1, 2, 8, 8]},
    )


def types_of(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {
        v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)
    }


@pytest.mark.parametrize(
    ("precision", "low"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_what_is_lowered(precision, low):
    model = lowered(two_convolutions(), precision)
    onnx.checker.check_model(model)
    types = types_of(model)
    for name in ("a", "b", "joined", "c", "d"):
        assert types[f"{name}.{precision}"] == low, name
    for name in ("normal", "place", "back", "head", "d"):  # before, coordinates, behind the heads
        assert types[name] == TensorProto.FLOAT, name
    assert f"place.{precision}" not in types and f"head.{precision}" not in types


def test_values_stay_near_and_coordinates_are_not_rounded():
    onnxruntime = pytest.importorskip("onnxruntime")
    image = np.random.default_rng(1).uniform(0, 255, (1, 2, 8, 8)).astype(np.float32)

    def run(model):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": image})

    want, got = run(two_convolutions()), run(lowered(two_convolutions(), "fp16"))
    for name, a, b in zip(("head", "d", "place"), want, got, strict=True):
        assert 0 < np.abs(a - b).max() < 0.003 * np.abs(a).max(), name
    # float16 has steps of 0.5 or more above 1000: a place in it would be off by a quarter in the mean.
    assert np.abs(want[2] - got[2]).mean() < 0.1


def test_a_graph_without_convolution_is_refused():
    model = graph_of([helper.make_node("Relu", ["image"], ["head"])], {}, {"head": [1, 2, 8, 8]})
    with pytest.raises(EngineError, match="no convolution to compute in fp16"):
        lowered(model, "fp16")


@pytest.mark.parametrize("content", [b"", b"no graph at all", None])
def test_what_is_no_graph_is_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    whole = two_convolutions().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(EngineError, match=r"cannot read the graph .*x.onnx: .*; export the model again"):
        load_graph(path)
