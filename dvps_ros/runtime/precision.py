# SPDX-License-Identifier: Apache-2.0
"""A graph at a lower precision, written into the ONNX file, as strongly typed engines want it.

The convolutions, and what lies between two of them, compute in float16 or bfloat16. All else stays float32:
what comes before the first one (normalisation, rays), everything behind the heads (fusion compares and
counts, where a rounded value is another id), and coordinates in between (a vote at column 1000 would be
rounded by half a pixel).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dvps_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = {"Conv", "ConvTranspose"}
PASSING = {
    "Relu", "LeakyRelu", "HardSwish", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize",
    "Pad", "Transpose", "Split", "Slice",
}  # fmt: skip
"""Operators that stay in the lower precision when their first input is in it."""
JOINING = {"Add", "Mul", "Concat"}
"""The same, when all their inputs are results of the lower precision: none a constant, none a coordinate."""


def load_graph(path: Path) -> onnx.ModelProto:
    """The whole graph, weights inside.

    Raises:
        EngineError: ``onnx`` is not installed, or the file is no graph.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"this engine rewrites the graph: pip install onnx ({error})") from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's own families
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"cannot read the graph {path}: {first}; export the model again") from error
    return model


def lowered(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy that computes in ``fp16`` or ``bf16`` where that is safe; the same interface.

    Raises:
        EngineError: there is no convolution to lower.
    """
    import onnx
    from onnx import TensorProto, helper

    low = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types |= {t.name: t.data_type for t in graph.initializer}
    region = _region(graph, types)
    if not region:
        raise EngineError(f"the graph has no convolution to compute in {precision}: use fp32")
    results = {name for i in region for name in graph.node[i].output}
    nodes, cast = [], set()
    needed = {o.name for o in graph.output}
    needed |= {name for i, n in enumerate(graph.node) for name in n.input if i not in region}

    def lower(name: str) -> str:
        """The low-precision twin of a float32 tensor; others as they are."""
        if types.get(name) != TensorProto.FLOAT:
            return name
        twin = f"{name}.{precision}"
        if name not in results and twin not in cast:
            cast.add(twin)
            nodes.append(helper.make_node("Cast", [name], [twin], f"lower {name}", to=low))
        return twin

    for i, node in enumerate(graph.node):
        if i not in region:
            nodes.append(node)
            continue
        kept = (
            1 if node.op_type == "Resize" else len(node.input)
        )  # its other inputs are float32 by definition
        inputs = [lower(name) if k < kept else name for k, name in enumerate(node.input)]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        del twin.input[:], twin.output[:]
        twin.input.extend(inputs)
        twin.output.extend(f"{name}.{precision}" for name in node.output)
        nodes.append(twin)
        for name in node.output:
            if name in needed:
                nodes.append(
                    helper.make_node(
                        "Cast", [f"{name}.{precision}"], [name], f"raise {name}", to=TensorProto.FLOAT
                    )
                )
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def _region(graph: onnx.GraphProto, types: dict[str, int]) -> set[int]:
    """Indices of the nodes that lie on a way from one convolution to another, coordinates left out."""
    from onnx import TensorProto

    below: set[str] = set()  # tensors that are results of the region, seen from the inputs
    region = set()
    for i, node in enumerate(graph.node):
        data = [n for n in node.input if n and types.get(n) == TensorProto.FLOAT]
        joins = node.op_type in JOINING and len(data) > 1 and all(n in below for n in data)
        passes = node.op_type in PASSING and node.input[0] in below
        if node.op_type in CONVOLUTIONS or joins or passes:
            region.add(i)
            below |= set(node.output)
    # From the outputs: what no convolution reads any more goes back to float32.
    read: set[str] = set()
    for i in sorted(region, reverse=True):
        node = graph.node[i]
        if node.op_type in CONVOLUTIONS or any(n in read for n in node.output):
            read |= set(node.input)
        else:
            region.discard(i)
    return region
