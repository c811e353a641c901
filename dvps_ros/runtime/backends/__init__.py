# SPDX-License-Identifier: Apache-2.0
"""Inference engines behind one Protocol. A new one is a module, a line of ``BACKENDS`` and a parity test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends.onnxruntime import OnnxRuntime
from dvps_ros.runtime.backends.openvino import OpenVino

__all__ = ["BACKENDS", "Backend", "BackendType", "installed"]


class Backend(Protocol):
    """An opened graph. Not thread-safe: one thread at a time."""

    description: str
    """Library, version, precision and threads, for logs and reports."""
    inputs: dict[str, tuple[np.dtype, tuple[int, ...]]]
    """Type and shape of each input by name, as the graph itself says."""
    outputs: dict[str, tuple[np.dtype, tuple[int, ...]]]

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """Compute every output from every input.

        Args:
            feeds: a C-contiguous array of the right type and shape for each input; read in place.
            results: the same for each output; written in place. No array may be in both.
        """
        ...

    def close(self) -> None:
        """Give back memory and threads; the object cannot run any more."""
        ...


@dataclass(frozen=True)
class BackendType:
    """How to open one kind of engine.

    Args:
        open: (graph file, precision, threads, folder for what it compiles of this model) -> Backend.
        version: of the library; raises EngineError when it is not installed.
        precisions: those that this machine computes in hardware.
    """

    open: Callable[[Path, str, int, Path], Backend]
    version: Callable[[], str]
    precisions: Callable[[], tuple[str, ...]]


BACKENDS: dict[str, BackendType] = {
    "onnxruntime": BackendType(OnnxRuntime, OnnxRuntime.version, OnnxRuntime.precisions),
    "openvino": BackendType(OpenVino, OpenVino.version, OpenVino.precisions),
}


def installed() -> dict[str, BackendType]:
    """The backends whose library is there, by name."""
    found = {}
    for name, backend in BACKENDS.items():
        try:
            backend.version()
        except EngineError:
            continue
        found[name] = backend
    return found
