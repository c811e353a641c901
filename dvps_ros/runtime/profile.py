# SPDX-License-Identifier: Apache-2.0
"""Where an engine's time goes, layer by layer, and how near it comes to what the machine can do.

Work and traffic are counted in the ONNX graph; times are the library's own. The roofline model: Williams,
Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.backends.protocol import Backend, BackendType, Feeds, LayerTime, Progress
from dvps_ros.runtime.builder import CALIBRATED, Builder, quiet
from dvps_ros.runtime.precision import load_graph
from dvps_ros.runtime.verify import load_golden

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators whose work counts."""


@dataclass(frozen=True)
class Cost:
    """Work and traffic of one operator, or a sum of them.

    Args:
        flop: floating-point operations, two a multiply-add.
        bytes: read and written once each, float32 activations.
    """

    flop: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flop + other.flop, self.bytes + other.bytes)


@dataclass(frozen=True)
class Peak:
    """What the machine can do: operations and bytes a second."""

    flop_s: float
    bytes_s: float


def graph_costs(path: Path) -> dict[str, Cost]:
    """Cost of each matrix product and convolution by its node's name; fusion and the rest do no such work.

    Raises:
        EngineError: see :func:`~dvps_ros.runtime.precision.load_graph`.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(load_graph(path), strict_mode=True)
    graph = model.graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {t.name: list(t.dims) for t in graph.initializer}
    costs = {}
    for node in graph.node:
        if node.op_type not in PRODUCTS:
            continue
        first, second, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type == "Conv":
            macs = math.prod(out) * math.prod(second[1:])
        elif node.op_type == "ConvTranspose":
            macs = math.prod(first) * math.prod(second[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            macs = math.prod(out) * first[-2 if transposed else -1]
        sizes = [math.prod(shapes[n]) for n in (*node.input, *node.output) if n]
        costs[node.name] = Cost(2.0 * macs, 4.0 * sum(sizes))
    return costs


@dataclass(frozen=True)
class EngineProfile:
    """What one engine does in a frame.

    Args:
        layers: the longest first.
        cost: of the whole graph.
        latency_ms: median of a run without profiling, no output fetched.
    """

    layers: list[LayerTime]
    cost: Cost
    latency_ms: float


def profile_engine(
    builder: Builder, config: EngineConfig, runs: int, progress: Progress = quiet
) -> EngineProfile:
    """Time an engine and its layers on the golden frame.

    Raises:
        EngineError: the library tells no times, or cannot build or load the graph.
    """
    golden = load_golden(builder.golden)
    feeds = {"image": golden.images[1][None], "intrinsics": golden.intrinsics[None]}
    feeds = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    engine = builder.open(config, progress)
    try:
        engine.run(feeds, {})
        latency_ms = statistics.median(_seconds(engine, feeds, {}) for _ in range(runs)) * 1e3
    finally:
        engine.close()
    progress("timing layers")
    layers = BACKENDS[config.backend].profile(builder.source(config), config, feeds, runs)
    cost = sum(graph_costs(builder.path).values(), Cost(0.0, 0.0))
    return EngineProfile(sorted(layers, key=lambda layer: -layer.ms), cost, latency_ms)


def measured_peak(config: EngineConfig) -> Peak:
    """By two graphs on the same library and precision: a 1x1 convolution of 512 channels, and a sum.

    Raises:
        EngineError: they cannot be built.
    """
    if (
        config.precision in CALIBRATED
    ):  # the roof of a precision that needs no calibration: give --peak-gflops
        config = replace(config, precision="fp32")
    side, channels, count = 96, 512, 1 << 23
    with tempfile.TemporaryDirectory(prefix="dvps-") as folder:
        product, total = Path(folder) / "product.onnx", Path(folder) / "sum.onnx"
        weight = np.full((channels, channels, 1, 1), 1e-3, np.float32)
        _write(product, ["Conv", "Conv", "Relu"], (1, channels, side, side), weight)
        _write(total, ["Add"], (1, count // 4096, 64, 64), np.float32(1.5))
        kind = BACKENDS[config.backend]
        product_s = _best_s(kind, product, config)
        sum_s = _best_s(kind, total, config)
    return Peak(2 * 2.0 * channels * channels * side * side / product_s, 8.0 * count / sum_s)


def _write(path: Path, operators: list[str], shape: tuple[int, ...], constant: np.ndarray) -> None:
    """A chain of operators on one input; those that take two get the constant."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = ["image", *(f"value_{i}" for i in range(1, len(operators))), "out"]
    nodes = [
        helper.make_node(op, [names[i]] if op == "Relu" else [names[i], "constant"], [names[i + 1]])
        for i, op in enumerate(operators)
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", "out")]
    graph = helper.make_graph(
        nodes, "peak", infos[:1], infos[1:], [numpy_helper.from_array(constant, "constant")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def _best_s(kind: BackendType, path: Path, config: EngineConfig) -> float:
    """Least seconds of a run; the result stays on a GPU, and is written in place on the processor."""
    engine = kind.load(kind.build(path, config, quiet, path.parent), path, config)
    try:
        dtype, shape = engine.inputs["image"]
        feeds = {"image": np.full(shape, 0.5, dtype)}
        results = {"out": np.empty(shape, dtype)} if kind.device() == "the processor" else {}
        engine.run(feeds, results)
        return min(_seconds(engine, feeds, results) for _ in range(10))
    finally:
        engine.close()


def _seconds(engine: Backend, feeds: Feeds, results: Feeds) -> float:
    start = time.perf_counter()
    engine.run(feeds, results)
    return time.perf_counter() - start
