# SPDX-License-Identifier: Apache-2.0
"""PyTorch to ONNX: one graph a size, the weights of all in one file beside them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor, nn

from dvps_ros.export.graph import DeployedGraph

OPSET = 20
MIN_EXTERNAL_BYTES = 1024
"""Smaller constants stay in the graph."""
ALIGNMENT = 64


class WeightsWriter:
    """Appends tensors to one file; equal content is stored once, whatever graph it comes from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._offsets: dict[bytes, int] = {}

    def __enter__(self) -> WeightsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def flush(self) -> None:
        """Make what was stored so far readable."""
        self._file.flush()

    def move(self, tensor: TensorProto) -> None:
        """Store the tensor's bytes in the file and leave a reference in the tensor."""
        data = tensor.raw_data
        key = hashlib.sha256(data).digest()
        if key not in self._offsets:
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            self._offsets[key] = self._file.tell()
            self._file.write(data)
        external_data_helper.set_external_data(
            tensor, self.path.name, offset=self._offsets[key], length=len(data)
        )
        tensor.ClearField("raw_data")


def trace(graph: DeployedGraph, height: int, width: int, *, opset: int = OPSET) -> onnx.ModelProto:
    """The graph at one input size, constants folded, weights inside."""
    inputs = (
        torch.zeros(1, height, width, 3, dtype=torch.uint8),
        torch.tensor([[width, width, (width - 1) / 2, (height - 1) / 2]], dtype=torch.float32),
        *(torch.zeros(s.sizes(height, width)) for s in graph.state),
    )
    model = traced(graph, inputs, graph.input_names, graph.output_names, opset)
    _store_convolutions_as_float16(model)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path, weights: WeightsWriter) -> None:
    """Write a traced graph; its large constants go to the shared file, which must lie beside it."""
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        if len(tensor.raw_data) >= MIN_EXTERNAL_BYTES:
            weights.move(tensor)
    path.write_bytes(model.SerializeToString(deterministic=True))


def traced(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A module as ONNX, without what tells of the machine that exported."""
    with _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamo=True,
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # it is None only for the exporter's legacy mode
    model = program.model_proto
    _strip(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter and its libraries tell about themselves."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine that exported: stack traces and their like."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    del model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


def _store_convolutions_as_float16(model: onnx.ModelProto) -> None:
    """Halve the file: rounded convolution weights become float16 behind a cast that runtimes fold."""
    tensors = {t.name: t for t in model.graph.initializer}
    weights = sorted({n.input[1] for n in model.graph.node if n.op_type == "Conv"} & tensors.keys())
    casts = []
    for name in weights:
        values = numpy_helper.to_array(tensors[name])
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            raise ValueError(f"{name} was not rounded to float16 before tracing")
        stored = f"{name}.float16"
        tensors[name].CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], f"cast {name}", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
