# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the processor, fp32: the reference backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dvps_ros.errors import EngineError

_NUMPY_TYPES: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
}


class OnnxRuntime:
    """A graph in ONNX Runtime; see :class:`~dvps_ros.runtime.backends.Backend`.

    Raises:
        EngineError: the library is missing, cannot compute in ``precision``, or refuses the file.
    """

    def __init__(self, path: Path, precision: str, threads: int, cache_dir: Path) -> None:
        self.version()
        import onnxruntime

        if precision not in self.precisions():
            raise EngineError(f"onnxruntime: expected precision fp32, got {precision}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Its threads spin while one run lasts (faster), not between frames, where tracking, the clouds
        # and the middleware need the cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises a family of undocumented types
            raise EngineError(f"onnxruntime cannot load {path}: {_first_line(error)}") from error
        self.inputs = {i.name: self._spec(i) for i in self._session.get_inputs()}
        self.outputs = {o.name: self._spec(o) for o in self._session.get_outputs()}
        self._binding = self._session.io_binding()
        self.description = f"onnxruntime {self.version()} {precision}, {threads} threads"

    @staticmethod
    def version() -> str:
        """Raises EngineError when the library is not installed."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"backend onnxruntime: pip install onnxruntime ({error})") from error
        return onnxruntime.__version__

    @staticmethod
    def precisions() -> tuple[str, ...]:
        return ("fp32",)

    @staticmethod
    def _spec(node) -> tuple[np.dtype, tuple[int, ...]]:
        if node.type not in _NUMPY_TYPES or not all(isinstance(s, int) for s in node.shape):
            raise EngineError(
                f"tensor {node.name}: expected uint8 or float32 of fixed shape, got {node.type} {node.shape}"
            )
        return _NUMPY_TYPES[node.type], tuple(node.shape)

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        for name, array in feeds.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in results.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = self._binding = None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
