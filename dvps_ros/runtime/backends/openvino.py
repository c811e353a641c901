# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the processor. Its plan is the compiled graph."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime import machine
from dvps_ros.runtime.backends.host_states import HostStates, resized
from dvps_ros.runtime.backends.protocol import RANGES, Backend, BackendType, Feeds, LayerTime, Progress

_ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16"}
_BF16_ISAS = ("BF16", "FP16", "AMX")
"""Parts of the names of oneDNN's instruction sets that hold bf16."""


def version() -> str:
    """Raises EngineError when the library is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"backend openvino: pip install openvino ({error})") from error
    return openvino.__version__.split("-")[0]


def device() -> str:
    return "the processor"


def precisions(config: EngineConfig) -> tuple[str, ...]:
    return ("fp32", "bf16", "int8") if _has_bf16() else ("fp32", "int8")


def facts(config: EngineConfig) -> dict[str, str]:
    options = " ".join(f"{k}={v}" for k, v in sorted(_options(config).items()))
    return {"processor": machine.cpu_fingerprint(), "options": options}


def build(path: Path, config: EngineConfig, progress: Progress, folder: Path) -> bytes:
    """The compiled graph, weights included.

    Raises:
        EngineError: the processor lacks the precision, or the file is no graph that the library takes.
    """
    progress("compiling")
    stream = io.BytesIO()
    _compiled(path, config, {}).export_model(stream)
    return stream.getvalue()


def _compiled(path: Path, config: EngineConfig, more: dict):
    version()
    import openvino

    if config.precision not in precisions(config):
        able = " or ".join(precisions(config))
        raise EngineError(f"openvino: this processor computes in {able}, not in {config.precision}")
    core = openvino.Core()
    try:
        return core.compile_model(path, "CPU", _options(config) | more)
    except Exception as error:  # a bare RuntimeError with several lines
        raise EngineError(f"openvino cannot load {path}: {_last_line(error)}") from error


class OpenVino:
    """A compiled graph in OpenVINO; see :class:`~dvps_ros.runtime.backends.Backend`.

    Raises:
        EngineError: the library is missing, or refuses the plan.
    """

    def __init__(self, plan: bytes, path: Path, config: EngineConfig) -> None:
        version()
        import openvino

        try:
            self._compiled = openvino.Core().import_model(io.BytesIO(plan), "CPU", _options(config))
        except Exception as error:
            raise EngineError(f"openvino cannot load the engine of {path}: {_last_line(error)}") from error
        self.inputs = {p.any_name: _spec(p) for p in self._compiled.inputs}
        self.outputs = {p.any_name: _spec(p) for p in self._compiled.outputs}
        self._states = HostStates(self.outputs)
        self.front: Backend | None = None
        self._request = self._compiled.create_infer_request()
        self._tensor = openvino.Tensor
        # Outputs that nobody wants are written as well: to arrays that are overwritten by the next run.
        self._unwanted = {n: np.empty(s, t) for n, (t, s) in self.outputs.items()}
        self.description = f"openvino {version()} {config.precision}, {config.threads} threads"

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        feeds = resized(self.front, feeds)
        arrays = {**feeds, **self._states.feeds(), **self._unwanted, **results, **self._states.results()}
        for name, array in arrays.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        try:
            self._request.infer()
        except Exception as error:
            raise EngineError(f"openvino failed: {_last_line(error)}") from error
        self._states.advance(results)

    def reset(self) -> None:
        self._states.reset()

    def close(self) -> None:
        self._request = self._compiled = self.front = None


def put_before(engine: OpenVino, plan: bytes, path: Path, config: EngineConfig) -> None:
    engine.front = OpenVino(plan, path, config)


@functools.cache
def _has_bf16() -> bool:
    import openvino

    # The library asks the processor, its kernels heed the limit as well.
    limit = machine.isa_limit()
    allowed = limit in ("", "DEFAULT", "ALL") or any(name in limit for name in _BF16_ISAS)
    return allowed and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _options(config: EngineConfig) -> dict:
    # What int8 leaves unquantised (sums, upsampling) takes less time in bf16 than in fp32.
    rest = "bf16" if _has_bf16() else "fp32"
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": config.threads,
        "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[rest if config.precision == "int8" else config.precision],
        # The node's other threads and processes share the cores: let the kernel place them.
        "ENABLE_CPU_PINNING": False,
    }


def _spec(port) -> tuple[np.dtype, tuple[int, ...]]:
    if port.get_partial_shape().is_dynamic:
        raise EngineError(
            f"graph tensor {port.any_name}: expected a fixed shape, got {port.get_partial_shape()}"
        )
    return np.dtype(port.get_element_type().to_dtype()), tuple(port.get_shape())


def _last_line(error: Exception) -> str:
    """OpenVINO's messages end with the cause, after the file and line of its own sources."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def profile(path: Path, config: EngineConfig, feeds: Feeds, runs: int) -> list[LayerTime]:
    """By the library's performance counters; layers that were fused away are left out."""
    compiled = _compiled(path, config, {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    fused = {
        op.get_friendly_name(): op.get_rt_info()["originalLayersNames"].astype(str)
        for op in compiled.get_runtime_model().get_ordered_ops()
    }
    states = {p.any_name: np.zeros(*_spec(p)[::-1]) for p in compiled.inputs if p.any_name not in feeds}
    times: dict[tuple[str, str], float] = {}
    for run in range(runs + 1):
        request.infer({**feeds, **states})
        for layer in request.profiling_info if run else ():
            if layer.status == layer.EXECUTED:
                key = layer.node_name, f"{layer.node_type} {layer.exec_type}"
                times[key] = times.get(key, 0.0) + layer.real_time.total_seconds() * 1e3 / runs
    return [LayerTime(*key, ms, fused.get(key[0], "")) for key, ms in times.items()]


TYPE = BackendType(
    version,
    device,
    precisions,
    ("fp32", "bf16"),
    facts,
    build,
    OpenVino,
    {"int8": RANGES},
    profile,
    put_before,
)
