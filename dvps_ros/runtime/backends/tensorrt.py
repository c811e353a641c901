# SPDX-License-Identifier: Apache-2.0
"""TensorRT 8.6 to 11 and TensorRT-RTX, which share their names, on an NVIDIA GPU.

The precision is written into the graph (``dvps_ros.runtime.precision``) and the network is strongly typed,
the only kind that TensorRT 11 knows. TensorRT 8.6 (JetPack 5) has no such networks: there the same graph is
built with the flags of its precision.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import DeviceError, EngineError
from dvps_ros.runtime import precision as graphs
from dvps_ros.runtime.backends.protocol import CAMERA, QDQ, BackendType, Feeds, LayerTime, Progress
from dvps_ros.runtime.device_memory import Device, open_device
from dvps_ros.runtime.device_run import DeviceRun
from dvps_ros.runtime.machine import keep

log = logging.getLogger(__name__)

NEEDED_CAPABILITY = {
    "fp32": (5, 0),
    "tf32": (8, 0),
    "fp16": (7, 0),
    "bf16": (8, 0),
    "int8": (6, 1),
    "fp8": (8, 9),
}
"""Least compute capability that computes a precision in hardware (NVIDIA's TensorRT support matrix)."""
SINCE_MAJOR = {"bf16": 9, "fp8": 9}
"""Least TensorRT version of a precision in ONNX graphs."""


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.replace("_", "-")
        raise EngineError(
            f"backend {name}: pip install {package} onnx cuda-python, for an NVIDIA GPU ({error})"
        ) from error


def _version(name: str) -> str:
    return _library(name).__version__


def _device(name: str) -> str:
    device = open_device()
    try:
        _served(name, device.compute_capability)
        return f"{device.name}, {_sm(device.compute_capability)}"
    finally:
        device.close()


def _capability(name: str, config: EngineConfig) -> tuple[int, int]:
    """Of the GPU that an engine is for: the one named, else the one here.

    Raises:
        EngineError: no GPU, or one that the library does not serve.
    """
    if not config.target:
        device = open_device()
        device.close()
        return _served(name, device.compute_capability)
    match = re.fullmatch(r"sm_(\d+)(\d)", config.target)
    if not match:
        raise EngineError(f"engine.target: expected a GPU generation such as sm_89, got {config.target!r}")
    return _served(name, (int(match[1]), int(match[2])))


def _served(name: str, capability: tuple[int, int]) -> tuple[int, int]:
    if name == "tensorrt_rtx":
        members = _library(name).ComputeCapability.__members__
        known = [m.lower().replace("sm", "sm_") for m in members if m.startswith("SM")]
        if _sm(capability) not in known:
            raise EngineError(
                f"tensorrt_rtx serves {', '.join(known)}, not {_sm(capability)}: use backend tensorrt"
            )
    return capability


def _sm(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def _major(name: str) -> int:
    """TensorRT's major version; RTX counts its own versions and is as new as the newest."""
    return 99 if name == "tensorrt_rtx" else int(_version(name).split(".")[0])


def _precisions(name: str, config: EngineConfig) -> tuple[str, ...]:
    capability, major = _capability(name, config), _major(name)
    return tuple(
        p
        for p, needed in NEEDED_CAPABILITY.items()
        if capability >= needed and major >= SINCE_MAJOR.get(p, 0)
    )


def _facts(name: str, config: EngineConfig) -> dict[str, str]:
    """RTX plans hold for a GPU generation and are finished at load; TensorRT's hold for one model of GPU."""
    capability = _capability(name, config)
    if name == "tensorrt_rtx":
        return {"gpu": _sm(capability)}
    major = _version(name).split(".")[0]
    return {
        "gpu": "sm_80 or newer" if config.hardware_compatible else _device(name),
        **({"version": f"{major}, any"} if config.version_compatible else {}),
        "options": f"workspace_mib={config.workspace_mib} dla_core={config.dla_core} "
        f"version_compatible={config.version_compatible} hardware_compatible={config.hardware_compatible}",
    }


def _build(name: str, path: Path, config: EngineConfig, progress: Progress, folder: Path) -> bytes:
    """The plan. A timing cache in ``folder`` makes the next build of this library faster.

    Raises:
        EngineError: the GPU lacks the precision, or the graph does not parse or build.
    """
    able = _precisions(name, config)
    if config.precision not in able:
        gpu = _sm(_capability(name, config))
        raise EngineError(f"{name}: {gpu} computes in {', '.join(able)}, not in {config.precision}")
    trt = _library(name)
    logger = _logger(name)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    progress("reading the graph")
    model = graphs.load_graph(path)
    if config.precision in ("fp16", "bf16"):
        model = graphs.lowered(model, config.precision)
    if not parser.parse(model.SerializeToString()):
        reasons = "; ".join(_parser_error(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"{name} cannot parse {path}: {reasons or logger.last}")
    settings = _builder_config(trt, name, builder, config)
    timing_file = folder / f"timing-{name}-{trt.__version__}.cache"
    timing = _load_timing(trt, name, settings, timing_file)
    monitor = _new_monitor(trt, progress)
    settings.progress_monitor = monitor
    plan = builder.build_serialized_network(network, settings)
    if monitor.cancelled is not None:
        raise monitor.cancelled
    if plan is None:
        raise EngineError(f"{name} cannot build {path} in {config.precision}: {logger.last}")
    if timing is not None:
        keep(timing_file, bytes(settings.get_timing_cache().serialize()))
    return bytes(plan)


def _parser_error(error: Any) -> str:
    operator = error.node_operator() if hasattr(error, "node_operator") else ""  # since TensorRT 10
    return f"operator {operator} is not supported ({error.desc()})" if operator else error.desc()


def _network_flags(trt: Any) -> int:
    members = trt.NetworkDefinitionCreationFlag.__members__
    flag = members.get("STRONGLY_TYPED", members.get("EXPLICIT_BATCH"))
    return 1 << int(flag)


def _builder_config(trt: Any, name: str, builder: Any, config: EngineConfig) -> Any:
    settings = builder.create_builder_config()
    flag = trt.BuilderFlag
    settings.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    if config.workspace_mib:
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
    if config.precision != "tf32":  # the library's default is to round float32 to it
        settings.clear_flag(flag.TF32)
    if "STRONGLY_TYPED" not in trt.NetworkDefinitionCreationFlag.__members__:  # TensorRT 8
        if config.precision in ("fp16", "int8"):
            settings.set_flag(flag.FP16)
            settings.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
        if config.precision == "int8":
            settings.set_flag(flag.INT8)
    if name == "tensorrt_rtx":
        if config.target:
            settings.num_compute_capabilities = 1
            member = config.target.upper().replace("_", "")
            settings.set_compute_capability(getattr(trt.ComputeCapability, member), 0)
        return settings
    if config.version_compatible:
        settings.set_flag(flag.VERSION_COMPATIBLE)
    if config.hardware_compatible:
        settings.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if config.dla_core >= 0:
        if config.dla_core >= builder.num_DLA_cores:
            cores = builder.num_DLA_cores
            raise EngineError(
                f"engine.dla_core: this GPU has {cores} DLA cores, counted from 0; -1 uses none"
            )
        settings.default_device_type = trt.DeviceType.DLA
        settings.DLA_core = config.dla_core
        settings.set_flag(flag.GPU_FALLBACK)
    return settings


def _load_timing(trt: Any, name: str, settings: Any, path: Path) -> Any:
    if name == "tensorrt_rtx":  # measures nothing while it builds
        return None
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    timing = settings.create_timing_cache(content)
    if not settings.set_timing_cache(timing, ignore_mismatch=False):  # of another GPU: begin anew
        timing = settings.create_timing_cache(b"")
        settings.set_timing_cache(timing, ignore_mismatch=False)
    return timing


@functools.cache
def _logger(name: str) -> Any:
    """The library's messages in our log; ``last`` is the newest error. The library takes one a process."""
    trt = _library(name)

    base: Any = trt.ILogger

    class Logger(base):
        def __init__(self) -> None:
            super().__init__()
            self.last = "no reason given"

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = text.strip()
            level = logging.WARNING if severity <= trt.ILogger.Severity.WARNING else logging.DEBUG
            log.log(level, "%s: %s", name, text.strip())

    return Logger()


def _new_monitor(trt: Any, progress: Progress) -> Any:
    """Passes the builder's phases on. ``cancelled`` is what ``progress`` raised, if it did."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.cancelled: BaseException | None = None
            self._phases: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if self.cancelled is None:
                try:
                    progress(f"{phase} {step + 1}/{self._phases[phase]}")
                except BaseException as error:  # must not pass through the library
                    self.cancelled = error
            return self.cancelled is None

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

    return Monitor()


class TensorRt:
    """A plan on the GPU; see :class:`~dvps_ros.runtime.backends.Backend`.

    The states stay on the GPU, the image is copied there once, and a frame is one CUDA graph. Several engines
    of one process have streams and memory of their own.

    Raises:
        EngineError: no GPU, or the library refuses the plan (of another GPU or version).
    """

    def __init__(
        self, name: str, plan: bytes, path: Path, config: EngineConfig, *, capture: bool = True
    ) -> None:
        trt = _library(name)
        self._capture = capture
        self._front: tuple[Any, Any] | None = None
        self._device: Device | None = open_device()
        try:
            with self._device.current():
                self._load(trt, name, plan, path, config)
        except BaseException:
            self.close()
            raise
        where = f"{self._device.name}, {self._device.library}"
        self.description = f"{name} {trt.__version__} {config.precision}, {where}"

    def _load(self, trt: Any, name: str, plan: bytes, path: Path, config: EngineConfig) -> None:
        assert self._device is not None
        self._logger = _logger(name)
        self._runtime = trt.Runtime(self._logger)
        if config.version_compatible:
            self._runtime.engine_host_code_allowed = True
        if config.dla_core >= 0:
            self._runtime.DLA_core = config.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{name} cannot load the engine of {path}: {self._logger.last}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceError(f"{name} cannot make a context for {path}: {self._logger.last}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        specs = {
            n: (
                np.dtype(trt.nptype(self._engine.get_tensor_dtype(n))),
                tuple(self._engine.get_tensor_shape(n)),
            )
            for n in names
        }
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.inputs = {n: spec for n, spec in specs.items() if is_input[n]}
        self.outputs = {n: spec for n, spec in specs.items() if not is_input[n]}
        self._run = DeviceRun(self._device, self.inputs, self.outputs, self._enqueue, capture=self._capture)

    def put_before(self, plan: bytes) -> None:
        """Run another plan first, which makes ``image`` of ``camera``; see ``BackendType.put_before``."""
        assert self._device is not None
        with self._device.current():
            engine = self._runtime.deserialize_cuda_engine(plan)
            context = None if engine is None else engine.create_execution_context()
            if context is None:
                raise EngineError(f"cannot load the engine that resizes: {self._logger.last}")
            self._front = engine, context
            spec = np.dtype(np.uint8), tuple(engine.get_tensor_shape(CAMERA))
        self._run.add_input(CAMERA, spec)

    def _enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        if CAMERA in addresses and self._front is not None:
            names = {CAMERA: addresses[CAMERA], "image": addresses["image"]}
            self._execute(self._front[1], names, stream)
        own = {name: address for name, address in addresses.items() if name != CAMERA}
        self._execute(self._context, own if self._front else addresses, stream)

    def _execute(self, context: Any, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(stream):
            raise DeviceError(self._logger.last)

    def attach(self, profiler: Any) -> None:
        """Report the time of every layer of every further run to an ``IProfiler``."""
        self._context.profiler = profiler

    def submit(self, feeds: Mapping[str, np.ndarray], wanted: frozenset[str]) -> None:
        """Begin a frame; a second one may begin before the first is collected (:class:`DeviceRun`)."""
        self._run.submit(feeds, wanted)

    def collect(self, results: Mapping[str, np.ndarray]) -> None:
        """End the oldest frame that was begun."""
        self._run.collect(results)

    def compute_only_s(self, count: int) -> float:
        """Seconds a frame without copies (:class:`DeviceRun`)."""
        return self._run.compute_only_s(count)

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        self._run.run(feeds, results)

    def reset(self) -> None:
        self._run.reset()

    def close(self) -> None:
        if self._device is None:
            return
        device, self._device = self._device, None
        with contextlib.suppress(DeviceError), device.current():
            # The library frees its memory when these go, which needs the GPU to be current.
            for name in ("_run", "_front", "_context", "_engine", "_runtime"):
                vars(self).pop(name, None)
        device.close()


def _profile(name: str, path: Path, config: EngineConfig, feeds: Feeds, runs: int) -> list[LayerTime]:
    """By the library's profiler, without a CUDA graph. RTX fuses most of a network into one layer."""
    trt = _library(name)

    base: Any = trt.IProfiler

    class Profiler(base):
        def __init__(self) -> None:
            super().__init__()
            self.ms: dict[str, float] = {}

        def report_layer_time(self, layer: str, ms: float) -> None:
            self.ms[layer] = self.ms.get(layer, 0.0) + ms

    plan = _build(name, path, config, lambda what: None, path.parent)
    engine = TensorRt(name, plan, path, config, capture=False)
    try:
        engine.run(feeds, {})
        profiler = Profiler()
        engine.attach(profiler)
        for _ in range(runs):
            engine.run(feeds, {})
        return [LayerTime(layer, "", ms / runs, layer) for layer, ms in profiler.ms.items()]
    finally:
        engine.close()


def _type(name: str) -> BackendType:
    return BackendType(
        version=partial(_version, name),
        device=partial(_device, name),
        precisions=partial(_precisions, name),
        automatic=("fp16",),
        facts=partial(_facts, name),
        build=partial(_build, name),
        load=partial(TensorRt, name),
        quantised={"int8": QDQ, "fp8": "fp8"},
        profile=partial(_profile, name),
        put_before=lambda engine, plan, path, config: engine.put_before(plan),
    )


TENSORRT = _type("tensorrt")
TENSORRT_RTX = _type("tensorrt_rtx")
