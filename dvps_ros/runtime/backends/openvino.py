# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the processor, fp32 or bf16."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dvps_ros.errors import EngineError
from dvps_ros.runtime.machine import cpu_fingerprint, keep

log = logging.getLogger(__name__)

_ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """A graph in OpenVINO; see :class:`~dvps_ros.runtime.backends.Backend`.

    The compiled graph is kept in ``cache_dir`` (named by what it was made of and for), so that the next
    start only reads it.

    Raises:
        EngineError: the library is missing, cannot compute in ``precision``, or refuses the file.
    """

    def __init__(self, path: Path, precision: str, threads: int, cache_dir: Path) -> None:
        self.version()
        import openvino

        if precision not in self.precisions():
            able = " or ".join(self.precisions())
            raise EngineError(f"openvino: this processor computes in {able}, not in {precision}")
        core = openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[precision],
            # The node's other threads and processes share the cores: let the kernel place them.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._compiled = self._load(core, path, options, cache_dir)
        except Exception as error:  # a bare RuntimeError with several lines
            raise EngineError(f"openvino cannot load {path}: {_last_line(error)}") from error
        self.inputs = {p.any_name: self._spec(p) for p in self._compiled.inputs}
        self.outputs = {p.any_name: self._spec(p) for p in self._compiled.outputs}
        self._request = self._compiled.create_infer_request()
        self._tensor = openvino.Tensor
        self.description = f"openvino {self.version()} {precision}, {threads} threads"

    @staticmethod
    def version() -> str:
        """Raises EngineError when the library is not installed."""
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"backend openvino: pip install openvino ({error})") from error
        return openvino.__version__.split("-")[0]

    @staticmethod
    def precisions() -> tuple[str, ...]:
        import openvino

        has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if has_bf16 else ("fp32",)

    @staticmethod
    def _spec(port) -> tuple[np.dtype, tuple[int, ...]]:
        if port.get_partial_shape().is_dynamic:
            raise EngineError(
                f"graph tensor {port.any_name}: expected a fixed shape, got {port.get_partial_shape()}"
            )
        return np.dtype(port.get_element_type().to_dtype()), tuple(port.get_shape())

    def _load(self, core, path: Path, options: dict, cache_dir: Path):
        made_of = f"{self.version()} {sorted(options.items())} {cpu_fingerprint()} {path.name}"
        blob = cache_dir / f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.blob"
        content = _read_blob(blob)
        if content is not None:
            try:
                return core.import_model(io.BytesIO(content), "CPU", options)
            except Exception as error:
                log.warning("compiled graph %s is refused, compiling again: %s", blob, _last_line(error))
        compiled = core.compile_model(core.read_model(path), "CPU", options)
        stream = io.BytesIO()
        compiled.export_model(stream)
        content = stream.getvalue()
        keep(blob, hashlib.sha256(content).digest() + content)
        return compiled

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        for name, array in (*feeds.items(), *results.items()):
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        try:
            self._request.infer()
        except Exception as error:
            raise EngineError(f"openvino failed: {_last_line(error)}") from error

    def close(self) -> None:
        self._request = self._compiled = None


def _read_blob(path: Path) -> bytes | None:
    """A blob whose leading SHA-256 fits; a truncated one could take the process down when imported."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read the compiled graph %s: %s", path, error)
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        log.warning("compiled graph %s is damaged, compiling again", path)
        return None
    return content[32:]


def _last_line(error: Exception) -> str:
    """OpenVINO's messages end with the cause, after the file and line of its own sources."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
