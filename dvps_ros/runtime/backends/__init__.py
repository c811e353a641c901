# SPDX-License-Identifier: Apache-2.0
"""Inference engines behind one Protocol. A new one is a module, a line of ``BACKENDS`` and a parity test."""

from __future__ import annotations

from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import onnxruntime, onnxruntime_gpu, openvino, pytorch, tensorrt
from dvps_ros.runtime.backends.protocol import Backend, BackendType, Progress

__all__ = ["BACKENDS", "Backend", "BackendType", "Progress", "installed"]

BACKENDS: dict[str, BackendType] = {
    "onnxruntime": onnxruntime.TYPE,
    "openvino": openvino.TYPE,
    "tensorrt": tensorrt.TENSORRT,
    "tensorrt_rtx": tensorrt.TENSORRT_RTX,
    "onnxruntime_cuda": onnxruntime_gpu.CUDA,
    "onnxruntime_tensorrt": onnxruntime_gpu.TENSORRT,
    "pytorch": pytorch.TYPE,
}


def installed() -> dict[str, BackendType]:
    """The backends whose library and device are there, by name."""
    found = {}
    for name, backend in BACKENDS.items():
        try:
            backend.version()
            backend.device()
        except EngineError:
            continue
        found[name] = backend
    return found
