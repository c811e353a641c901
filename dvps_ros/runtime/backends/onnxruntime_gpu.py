# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on an NVIDIA GPU: its CUDA and its TensorRT execution provider. Not measured by "auto".

ONNX Runtime itself goes on with the processor where a provider does not load; here that is an error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import DeviceError, EngineError
from dvps_ros.runtime import precision
from dvps_ros.runtime.backends import onnxruntime as processor
from dvps_ros.runtime.backends.protocol import QDQ, BackendType, Progress
from dvps_ros.runtime.device_memory import open_device

PROVIDERS = {
    "onnxruntime_cuda": "CUDAExecutionProvider",
    "onnxruntime_tensorrt": "TensorrtExecutionProvider",
}
STATE, NEXT = "state_", "next_"


def _version(name: str) -> str:
    """Raises EngineError when the library is missing, or is the one without this provider."""
    version = processor.version()
    import onnxruntime

    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"backend {name}: this onnxruntime has no {PROVIDERS[name]}: pip install onnxruntime-gpu "
            "in place of onnxruntime"
        )
    return version


def _device(name: str) -> str:
    device = open_device()
    device.close()
    return f"{device.name}, sm_{device.compute_capability[0]}{device.compute_capability[1]}"


def _precisions(name: str, config: EngineConfig) -> tuple[str, ...]:
    return ("fp32", "fp16", "int8") if name == "onnxruntime_tensorrt" else ("fp32", "tf32", "fp16")


def _facts(name: str, config: EngineConfig) -> dict[str, str]:
    options = {"options": f"workspace_mib={config.workspace_mib}"} if name == "onnxruntime_tensorrt" else {}
    return {"gpu": _device(name), **options}


def _build(name: str, path: Path, config: EngineConfig, progress: Progress, folder: Path) -> bytes:
    """CUDA: the graph at its precision. TensorRT: a graph of one node that holds TensorRT's own plan.

    Raises:
        EngineError: the provider does not load, or the graph is refused.
    """
    _version(name)
    progress("reading the graph")
    model = precision.load_graph(path)
    if config.precision == "fp16":
        model = precision.lowered(model, "fp16")
    graph = model.SerializeToString()
    if name == "onnxruntime_cuda":
        return graph
    progress("building; this library tells nothing meanwhile")
    with tempfile.TemporaryDirectory(prefix="dvps-") as target:
        file = Path(target) / "plan.onnx"
        options = _provider_options(name, config) | {
            "trt_dump_ep_context_model": "1",
            "trt_ep_context_file_path": str(file),
            "trt_ep_context_embed_mode": "1",
        }
        _session(PROVIDERS[name], graph, path, options)
        if not file.is_file():
            raise EngineError(f"{name}: expected a plan of {path} from ONNX Runtime 1.18 or newer, got none")
        return file.read_bytes()


def _provider_options(name: str, config: EngineConfig) -> dict[str, str]:
    if name == "onnxruntime_cuda":
        return {"use_tf32": "1" if config.precision == "tf32" else "0"}
    options = {"trt_fp16_enable": "1" if config.precision in ("fp16", "int8") else "0"}
    if config.precision == "int8":
        options["trt_int8_enable"] = "1"
    if config.workspace_mib:
        options["trt_max_workspace_size"] = str(config.workspace_mib << 20)
    return options


def _session(provider: str, graph: bytes, path: Path, provider_options: Mapping[str, str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[(provider, dict(provider_options))])
    except Exception as error:  # the library raises a family of undocumented types
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"onnxruntime cannot load {path} on {provider}: {first}") from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"onnxruntime did not load {provider} and would use the processor: check that CUDA, cuDNN and "
            "TensorRT of the versions that onnxruntime-gpu names are installed"
        )
    return session


class BoundSession:
    """A session whose states stay on the device; see :class:`~dvps_ros.runtime.backends.Backend`.

    Args:
        kind: ONNX Runtime's name of the device, ``cuda`` or ``cpu``.
    """

    def __init__(self, session: Any, kind: str, description: str) -> None:
        import onnxruntime

        self._session, self._kind, self.description = session, kind, description
        self.inputs = {i.name: processor.spec(i) for i in session.get_inputs()}
        self.outputs = {o.name: processor.spec(o) for o in session.get_outputs()}
        self._value = onnxruntime.OrtValue
        self._binding = session.io_binding()
        names = [n for n in self.inputs if n.startswith(STATE)]
        self._last, self._now = ({n: self._zeros(n) for n in names} for _ in range(2))

    def _zeros(self, name: str) -> Any:
        dtype, shape = self.inputs[name]
        return self._value.ortvalue_from_numpy(np.zeros(shape, dtype), self._kind, 0)

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, value in self._last.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(NEXT + name, self._now[name])
        for name, array in results.items():
            if name.removeprefix(NEXT) not in self._now:
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise (DeviceError if "CUDA" in str(error) else EngineError)(f"onnxruntime: {first}") from error
        for name, value in self._now.items():
            if NEXT + name in results:
                results[NEXT + name][...] = value.numpy()
        self._last, self._now = self._now, self._last

    def reset(self) -> None:
        self._last = {name: self._zeros(name) for name in self._last}

    def close(self) -> None:
        self._session = self._binding = None
        self._last, self._now = {}, {}


def _load(name: str, plan: bytes, path: Path, config: EngineConfig) -> BoundSession:
    version = _version(name)
    session = _session(PROVIDERS[name], plan, path, _provider_options(name, config))
    return BoundSession(session, "cuda", f"{name} {version} {config.precision}, {_device(name)}")


def _type(name: str, quantised: dict[str, str]) -> BackendType:
    return BackendType(
        version=partial(_version, name),
        device=partial(_device, name),
        precisions=partial(_precisions, name),
        automatic=(),
        facts=partial(_facts, name),
        build=partial(_build, name),
        load=partial(_load, name),
        quantised=quantised,
    )


CUDA = _type("onnxruntime_cuda", {})
TENSORRT = _type("onnxruntime_tensorrt", {"int8": QDQ})
