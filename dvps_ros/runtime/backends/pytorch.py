# SPDX-License-Identifier: Apache-2.0
"""PyTorch, as a stand-in: on a GPU that no other backend serves (with CUDA graphs), and to try precisions.

It runs the exported graph, operator by operator, not the network's own code. It is never chosen by "auto",
and robots need no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import DeviceError, EngineError
from dvps_ros.runtime import precision
from dvps_ros.runtime.backends.protocol import BackendType, Progress
from dvps_ros.runtime.backends.torch_operators import LISTS, operators

log = logging.getLogger(__name__)

STATE, NEXT = "state_", "next_"


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise EngineError(f"backend pytorch: pip install torch ({error})") from error
    return torch


def version() -> str:
    """Raises EngineError when the library is not installed."""
    return _torch().__version__


def device() -> str:
    torch = _torch()
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the processor"


def precisions(config: EngineConfig) -> tuple[str, ...]:
    torch = _torch()
    if not torch.cuda.is_available():
        return ("fp32", "fp16", "bf16")
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    return ("fp32", "tf32", "fp16", "bf16") if ampere else ("fp32", "fp16")


def facts(config: EngineConfig) -> dict[str, str]:
    """The plan is the graph at its precision: the same for every device."""
    return {}


def build(path: Path, config: EngineConfig, progress: Progress, folder: Path) -> bytes:
    """The graph at its precision, weights inside.

    Raises:
        EngineError: the file is no graph, or has an operator that is not in the table.
    """
    torch = _torch()
    progress("reading the graph")
    model = precision.load_graph(path)
    missing = sorted({n.op_type for n in model.graph.node} - operators(torch).keys() - {"Constant"})
    if missing:
        raise EngineError(f"pytorch cannot run {path}: torch_operators.py lacks {', '.join(missing)}")
    if config.precision in ("fp16", "bf16"):
        model = precision.lowered(model, config.precision)
    return model.SerializeToString()


class PyTorch:
    """A graph in PyTorch; see :class:`~dvps_ros.runtime.backends.Backend`.

    Raises:
        EngineError: the library is missing.
    """

    def __init__(self, plan: bytes, path: Path, config: EngineConfig) -> None:
        import onnx
        from onnx import helper

        self._torch = torch = _torch()
        cuda = torch.cuda.is_available()
        self._device = torch.device("cuda" if cuda else "cpu")
        self._threads = config.threads
        self._tf32 = config.precision == "tf32"
        graph = onnx.load_from_string(plan).graph
        weights = {t.name for t in graph.initializer}
        self.inputs = {v.name: _spec(helper, v) for v in graph.input if v.name not in weights}
        self.outputs = {v.name: _spec(helper, v) for v in graph.output}
        self._steps, self._constants = self._prepare(graph)
        self._feeds = {
            n: torch.zeros(shape, dtype=_torch_type(torch, dtype), device=self._device)
            for n, (dtype, shape) in self.inputs.items()
        }
        self._graph: Any = None
        self._results: dict[str, Any] = {}
        if cuda:
            self._capture()
        how = f"{device()}, CUDA graph" if cuda else f"{config.threads} threads"
        self.description = f"pytorch {version()} {config.precision}, {how}"

    def _prepare(self, graph: Any) -> tuple[list[tuple], dict[str, Any]]:
        """Steps (function, attributes, inputs, outputs), and constants with all that only needs constants."""
        from onnx import helper, numpy_helper

        torch, table = self._torch, operators(self._torch)
        constants: dict[str, Any] = {"": None}
        for tensor in graph.initializer:
            constants[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(self._device)
        steps = []
        for node in graph.node:
            attributes = {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}
            if node.op_type == "Constant":
                array = numpy_helper.to_array(attributes["value"]).copy()
                constants[node.output[0]] = torch.from_numpy(array).to(self._device)
                continue
            inputs: list[Any] = list(node.input)
            for k in LISTS.get(node.op_type, ()):
                if k < len(inputs) and inputs[k]:
                    constants[f"{inputs[k]} as list"] = constants[inputs[k]].flatten().tolist()
                    inputs[k] = f"{inputs[k]} as list"
            step = (table[node.op_type], attributes, inputs, list(node.output))
            if all(name in constants for name in inputs):
                self._do([step], constants)
            else:
                steps.append(step)
        return steps, constants

    def _do(self, steps: list[tuple], values: dict[str, Any]) -> dict[str, Any]:
        with self._torch.inference_mode():
            for function, attributes, inputs, names in steps:
                result = function(attributes, *(values[n] for n in inputs))
                results = result if isinstance(result, tuple) else (result,)
                values.update(zip(names, results, strict=False))
        return values

    def _compute(self) -> dict[str, Any]:
        torch = self._torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self._tf32
        values = self._do(self._steps, {**self._constants, **self._feeds})
        return {name: values[name] for name in self.outputs}

    def _capture(self) -> None:
        """Record a run as a CUDA graph; it reads the feeds and writes the results where they are now."""
        torch = self._torch
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):  # let the libraries choose their kernels
                self._compute()
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = self._compute()

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        torch = self._torch
        try:
            for name, array in feeds.items():
                self._feeds[name].copy_(torch.from_numpy(array))
            if self._graph is None:
                before = torch.get_num_threads()
                torch.set_num_threads(self._threads)
                try:
                    self._results = self._compute()
                finally:
                    torch.set_num_threads(before)
            else:
                self._graph.replay()
            for name, array in results.items():
                torch.from_numpy(array).copy_(self._results[name])
            for name in self.inputs:
                if name.startswith(STATE):
                    self._feeds[name].copy_(self._results[NEXT + name])
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"pytorch: {error}") from error
        except RuntimeError as error:
            kind = DeviceError if "CUDA" in str(error) else EngineError
            raise kind(f"pytorch failed: {str(error).splitlines()[0]}") from error

    def reset(self) -> None:
        for name, tensor in self._feeds.items():
            if name.startswith(STATE):
                tensor.zero_()

    def close(self) -> None:
        self._graph = None
        self._results, self._feeds, self._constants = {}, {}, {}


def _spec(helper: Any, value: Any) -> tuple[np.dtype, tuple[int, ...]]:
    kind = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return dtype, tuple(d.dim_value for d in kind.shape.dim)


def _torch_type(torch: Any, dtype: np.dtype) -> Any:
    return torch.from_numpy(np.zeros(0, dtype)).dtype


def _value(value: Any) -> Any:
    """An attribute as plain Python."""
    return value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, tuple) else value


TYPE = BackendType(version, device, precisions, (), facts, build, PyTorch)
