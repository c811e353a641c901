# SPDX-License-Identifier: Apache-2.0
"""What an inference engine is to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError

Feeds = Mapping[str, np.ndarray]
"""Inputs by name, states left out."""
CAMERA = "camera"
"""Input of the graph that resizes; see ``BackendType.put_before``."""
Progress = Callable[[str], None]
"""Told what a build is doing, often; may raise to cancel it."""


class Backend(Protocol):
    """An opened graph with its memory. Not thread-safe: one thread at a time.

    ``state_*`` inputs are the ``next_state_*`` outputs of the run before, all zeros at first: they stay
    where the engine computes.
    """

    description: str
    """Library, version, precision and device, for logs and reports."""
    inputs: dict[str, tuple[np.dtype, tuple[int, ...]]]
    """Type and shape of each input by name, as the graph itself says."""
    outputs: dict[str, tuple[np.dtype, tuple[int, ...]]]

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """Compute one frame.

        Args:
            feeds: a C-contiguous array of the right type and shape for each input that is not a state.
            results: the same for each output that the caller wants; written in place. No array is in both.

        Raises:
            DeviceError: the device ran out of memory or was lost; close this engine and load it again.
            EngineError: the library failed.
        """
        ...

    def reset(self) -> None:
        """All states zero: the next frame has no previous one."""
        ...

    def close(self) -> None:
        """Give back memory and threads; the object cannot run any more."""
        ...


@dataclass(frozen=True)
class LayerTime:
    """One layer of a compiled graph, as its library names it."""

    name: str
    kind: str
    ms: float
    """Mean of several runs."""
    origin: str = ""
    """Names of the graph's nodes or tensors that it computes, as the library tells them."""


def no_profile(path: Path, config: EngineConfig, feeds: Feeds, runs: int) -> list[LayerTime]:
    """Of a backend whose library tells no times of layers."""
    raise EngineError(f"{config.backend} tells no times of layers: profile openvino, onnxruntime or tensorrt")


RANGES, QDQ = "ranges", "qdq"
"""Kinds of calibration: one that a model can ship (``dvps_ros.runtime.ranges``), and an ONNX graph."""


@dataclass(frozen=True)
class BackendType:
    """How one kind of engine is built and loaded. ``config`` has backend, precision and threads resolved.

    Args:
        version: of the library; raises EngineError when it is not installed.
        device: what it computes on here, for people; raises EngineError when that is missing.
        precisions: those that the device computes in hardware.
        automatic: those of them that the choice "auto" measures.
        facts: what a plan depends on beside graph, weights, precision and version.
        build: (graph file, config, progress, folder for what makes later builds faster) -> the plan.
        load: (plan, graph file, config) -> the engine.
        quantised: precision -> kind of calibration that it takes (``dvps_ros.runtime.calibration``).
        profile: (graph file, config, inputs, runs) -> mean times of the layers.
        put_before: (engine, plan, graph file, config): runs that plan, which makes ``image`` of ``camera``,
            before an opened engine on its device; its feeds may then hold ``camera`` in place of ``image``.
    """

    version: Callable[[], str]
    device: Callable[[], str]
    precisions: Callable[[EngineConfig], tuple[str, ...]]
    automatic: tuple[str, ...]
    facts: Callable[[EngineConfig], dict[str, str]]
    build: Callable[[Path, EngineConfig, Progress, Path], bytes]
    load: Callable[[bytes, Path, EngineConfig], Backend]
    quantised: Mapping[str, str] = field(default_factory=dict)
    profile: Callable[[Path, EngineConfig, Feeds, int], list[LayerTime]] = no_profile
    put_before: Callable[[Any, bytes, Path, EngineConfig], None] | None = None

    def arithmetic(self, precision: str) -> str:
        """The key of ``verify.LIMITS`` for a precision here."""
        return f"{precision} {QDQ}" if self.quantised.get(precision) == QDQ else precision

    def choices(self, config: EngineConfig, *, ranges: bool = False) -> tuple[str, ...]:
        """Precisions that "auto" measures here.

        Args:
            ranges: whether the model ships those of its activations, so that int8 needs no calibration.
        """
        shipped = {p for p, kind in self.quantised.items() if ranges and kind == RANGES}
        return tuple(p for p in self.precisions(config) if p in shipped.union(self.automatic))
