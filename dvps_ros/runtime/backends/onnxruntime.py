# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the processor: the reference backend. Its plan is the optimised graph."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime import machine
from dvps_ros.runtime.backends.host_states import HostStates, resized
from dvps_ros.runtime.backends.protocol import QDQ, Backend, BackendType, Feeds, LayerTime, Progress

_NUMPY_TYPES: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
}
_PROVIDERS = ["CPUExecutionProvider"]


def version() -> str:
    """Raises EngineError when the library is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"backend onnxruntime: pip install onnxruntime ({error})") from error
    return onnxruntime.__version__


def device() -> str:
    return "the processor"


def precisions(config: EngineConfig) -> tuple[str, ...]:
    return ("fp32", "int8")


def facts(config: EngineConfig) -> dict[str, str]:
    """The optimised graph holds layouts of this processor; the number of threads does not enter it."""
    return {"processor": machine.cpu_fingerprint()}


def build(path: Path, config: EngineConfig, progress: Progress, folder: Path) -> bytes:
    """The optimised graph; large weights stay in the model folder.

    Raises:
        EngineError: the file is no graph, or one that the library does not take.
    """
    progress("optimising the graph")
    with tempfile.TemporaryDirectory(prefix="dvps-") as temporary:
        plan = Path(temporary) / "optimised.onnx"
        options = _options(config)
        options.optimized_model_filepath = str(plan)
        _session(path, options, str(path))
        return plan.read_bytes()


class OnnxRuntime:
    """An optimised graph in ONNX Runtime; see :class:`~dvps_ros.runtime.backends.Backend`.

    Raises:
        EngineError: the library is missing, or refuses the plan.
    """

    def __init__(self, plan: bytes, path: Path, config: EngineConfig) -> None:
        version()
        import onnxruntime

        options = _options(config)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        folder = str(path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        self._session = _session(path, options, plan)
        self.inputs = {i.name: spec(i) for i in self._session.get_inputs()}
        self.outputs = {o.name: spec(o) for o in self._session.get_outputs()}
        self._states = HostStates(self.outputs)
        self.front: Backend | None = None
        self._binding = self._session.io_binding()
        self.description = f"onnxruntime {version()} {config.precision}, {config.threads} threads"

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        feeds = resized(self.front, feeds)
        self._binding.clear_binding_outputs()
        for name, array in (*feeds.items(), *self._states.feeds().items()):
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in {**results, **self._states.results()}.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {_first_line(error)}") from error
        self._states.advance(results)

    def reset(self) -> None:
        self._states.reset()

    def close(self) -> None:
        self._session = self._binding = self.front = None


def put_before(engine: OnnxRuntime, plan: bytes, path: Path, config: EngineConfig) -> None:
    engine.front = OnnxRuntime(plan, path, config)


def _options(config: EngineConfig):
    version()
    import onnxruntime

    if config.precision not in precisions(config):
        able = " or ".join(precisions(config))
        raise EngineError(f"onnxruntime: expected precision {able}, got {config.precision}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads spin while one run lasts (faster), not between frames, where tracking, the clouds
    # and the middleware need the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _session(path: Path, options, model: str | bytes):
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(model, options, providers=_PROVIDERS)
    except Exception as error:  # the library raises a family of undocumented types
        raise EngineError(f"onnxruntime cannot load {path}: {_first_line(error)}") from error


def spec(node) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of one of a session's inputs or outputs."""
    if node.type not in _NUMPY_TYPES or not all(isinstance(s, int) for s in node.shape):
        raise EngineError(
            f"tensor {node.name}: expected uint8 or float32 of fixed shape, got {node.type} {node.shape}"
        )
    return _NUMPY_TYPES[node.type], tuple(node.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def profile(path: Path, config: EngineConfig, feeds: Feeds, runs: int) -> list[LayerTime]:
    """By the library's own trace of each node."""
    options = _options(config)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="dvps-") as folder:
        options.profile_file_prefix = f"{folder}/trace"
        session = _session(path, options, str(path))
        states = {i.name: np.zeros(*spec(i)[::-1]) for i in session.get_inputs() if i.name not in feeds}
        for _ in range(runs + 1):
            session.run(None, {**feeds, **states})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            times.setdefault(key, []).append(event["dur"] * 1e-3)
    return [
        LayerTime(name, kind, sum(ms[1:]) / runs, name.removesuffix("_nchwc"))
        for (name, kind), ms in times.items()
    ]


TYPE = BackendType(
    version, device, precisions, ("fp32",), facts, build, OnnxRuntime, {"int8": QDQ}, profile, put_before
)
