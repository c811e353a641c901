# SPDX-License-Identifier: Apache-2.0
"""Where an engine's time goes, layer by layer, and how near it comes to what the machine can do.

Work and traffic are counted in the ONNX graph; times are the library's own. The roofline model: Williams,
Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

import math
import re
import statistics
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    """Work and traffic of a layer, or a sum of them.

    Args:
        flop: floating-point operations of convolutions and matrix products, two a multiply-add.
        bytes: read and written, each tensor once.
    """

    flop: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flop + other.flop, self.bytes + other.bytes)


@dataclass(frozen=True)
class Work:
    """What a layer does in a frame.

    Args:
        cost: zero where the library does not tell what the layer was made of.
        weights: name of those of its largest product, which says where in the network it is; else empty.
    """

    cost: Cost
    weights: str


@dataclass(frozen=True)
class Peak:
    """What the machine can do: operations and bytes a second."""

    flop_s: float
    bytes_s: float


FLOAT_BYTES = {"fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
"""Size of a value between the layers, by precision; 4 in the others. What an engine keeps in float32 all the
same (fusion, the outputs) is counted too small."""


class GraphCosts:
    """Work and traffic of a graph's nodes, and of the layers that a library made of them.

    Args:
        path: the ONNX graph.
        float_bytes: size of a value that is float32 in the graph; weights count as they are stored.

    Raises:
        EngineError: see :func:`~dvps_ros.runtime.precision.load_graph`.
    """

    def __init__(self, path: Path, float_bytes: int = 4) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(load_graph(path), strict_mode=True).graph
        self._nodes = graph.node
        self._shapes: dict[str, list[int]] = {}
        self._bytes: dict[str, int] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            self._shapes[value.name] = [d.dim_value for d in kind.shape.dim]
            size = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            is_float = kind.elem_type == onnx.TensorProto.FLOAT
            self._bytes[value.name] = math.prod(self._shapes[value.name]) * (
                float_bytes if is_float else size
            )
        for tensor in graph.initializer:
            self._shapes[tensor.name] = list(tensor.dims)
            size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            self._bytes[tensor.name] = math.prod(tensor.dims) * size
        self._results = {o.name for o in graph.output}
        self.total = self._of(range(len(self._nodes)), PRODUCTS)

    def _flop(self, node: Any) -> float:
        if node.op_type not in PRODUCTS:
            return 0.0
        first, second, out = (self._shapes[n] for n in (*node.input[:2], node.output[0]))
        if node.op_type == "Conv":
            macs = math.prod(out) * math.prod(second[1:])
        elif node.op_type == "ConvTranspose":
            macs = math.prod(first) * math.prod(second[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            macs = math.prod(out) * first[-2 if transposed else -1]
        return 2.0 * macs

    def _of(self, indices: Iterable[int], kinds: Collection[str]) -> Cost:
        """Sum over nodes of these kinds, each on its own."""
        nodes = [self._nodes[i] for i in indices if self._nodes[i].op_type in kinds]
        traffic = sum(self._bytes.get(name, 0) for n in nodes for name in (*n.input, *n.output))
        return Cost(sum(map(self._flop, nodes)), float(traffic))

    def of_layers(self, layers: Sequence[LayerTime]) -> list[Work]:
        """Work of each layer: of the nodes that it names, and of those that none names and whose result only
        it reads (they were fused into it). Between the nodes of one layer nothing is read or written."""
        by_name: dict[str, int] = {}
        for i, node in enumerate(self._nodes):
            by_name |= {name: i for name in (*node.output, node.name) if name}
        owner: dict[int, int] = {}
        for k, layer in enumerate(layers):
            for name in re.findall(r"[^\s,+()\[\]{}]+", layer.origin):
                if name in by_name:
                    owner.setdefault(by_name[name], k)
        readers: dict[str, set[int]] = {}
        for i in reversed(range(len(self._nodes))):
            node = self._nodes[i]
            reading = {owner[j] for name in node.output for j in readers.get(name, ()) if j in owner}
            if i not in owner and len(reading) == 1:
                owner[i] = reading.pop()
            for name in node.input:
                readers.setdefault(name, set()).add(i)
        members: list[list[int]] = [[] for _ in layers]
        for i, k in owner.items():
            members[k].append(i)
        return [self._fused(set(group), readers) for group in members]

    def _fused(self, group: set[int], readers: Mapping[str, set[int]]) -> Work:
        made = {name for i in group for name in self._nodes[i].output}
        read = {name for i in group for name in self._nodes[i].input} - made
        written = {name for name in made if name in self._results or readers.get(name, set()) - group}
        traffic = sum(self._bytes.get(name, 0) for name in read | written)
        flop = {i: self._flop(self._nodes[i]) for i in group}
        largest = max(flop, key=flop.__getitem__, default=-1)
        weights = self._nodes[largest].input[1] if flop.get(largest) else ""
        name = weights.removeprefix("network.").removesuffix(".weight") if "." in weights else ""
        return Work(Cost(sum(flop.values()), float(traffic)), name)


@dataclass(frozen=True)
class EngineProfile:
    """What one engine does in a frame.

    Args:
        layers: the longest first.
        work: of each.
        cost: of all convolutions and matrix products of the graph.
        latency_ms: median of a run without profiling, no output fetched.
    """

    layers: list[LayerTime]
    work: list[Work]
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
    with builder.source(config) as source:
        layers = BACKENDS[config.backend].profile(source, config, feeds, runs)
    layers = sorted(layers, key=lambda layer: -layer.ms)
    graph = GraphCosts(builder.path, FLOAT_BYTES.get(config.precision, 4))
    return EngineProfile(layers, graph.of_layers(layers), graph.total, latency_ms)


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
        _write(total, ["Add"], (1, count // 4096, 64, 64), np.array(1.5, np.float32))
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
