# SPDX-License-Identifier: Apache-2.0
"""Configuration: frozen dataclasses, one source for YAML files, command line and ROS parameters.

Every field carries its description and range, so that the ROS layer can declare parameters from
the same dataclass and a YAML file uses the same dotted keys (``tracker.memory_s``) everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from dvps_ros.errors import ConfigError
from dvps_ros.files import read_data

T = TypeVar("T")


def option(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field: its default, a sentence that says what it does (with unit), and its range."""
    return field(
        default=default, metadata={"description": description, "low": low, "high": high, "choices": choices}
    )


def mapping(description: str) -> Any:
    """A field of type ``dict``, for keys that another configuration class knows and checks."""
    metadata = {"description": description, "low": None, "high": None, "choices": ()}
    return field(default_factory=dict, metadata=metadata)


def group(cls: type[T]) -> T:
    """A nested group of options."""
    return field(default_factory=cls)


@dataclass(frozen=True)
class Option:
    """One leaf of a configuration: its dotted key, default, type, description and range."""

    key: str
    type: type
    default: Any
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """All leaves of a configuration dataclass, depth first, in order of declaration."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        kind = hints[f.name]
        if isinstance(kind, type) and is_dataclass(kind):
            yield from options(kind, f"{prefix}{f.name}.")
        else:
            m = f.metadata
            yield Option(
                f"{prefix}{f.name}", kind, f.default, m["description"], m["low"], m["high"], m["choices"]
            )


def check_value(opt: Option, value: Any) -> Any:
    """The value, converted to the option's type.

    Raises:
        ConfigError: wrong type, out of range or not one of the choices.
    """
    if opt.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    kind = type(value)
    if kind is not opt.type:
        raise ConfigError(f"{opt.key}: expected {opt.type.__name__}, got {value!r} ({kind.__name__})")
    if opt.choices and value not in opt.choices:
        raise ConfigError(f"{opt.key}: expected one of {', '.join(opt.choices)}, got {value!r}")
    if opt.type in (int, float):
        low = -float("inf") if opt.low is None else opt.low
        high = float("inf") if opt.high is None else opt.high
        if not low <= value <= high:
            raise ConfigError(f"{opt.key}: expected {low} to {high}, got {value}")
    return value


def from_flat(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration from dotted keys; missing keys keep their default.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or range.
    """
    known = {o.key: o for o in options(cls)}
    values = _gather(values, [key for key, o in known.items() if o.type is dict])
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown keys {', '.join(unknown)}; known keys are {', '.join(known)}")
    return _build(cls, {k: check_value(known[k], v) for k, v in values.items()}, "")


def _gather(values: Mapping[str, Any], mappings: Iterable[str]) -> dict[str, Any]:
    """The keys below each of ``mappings`` (``model.width``) as one value, a dictionary."""
    gathered = dict(values)
    for key in mappings:
        inside = {k: gathered.pop(k) for k in values if k.startswith(f"{key}.")}
        if inside:
            gathered[key] = {k[len(key) + 1 :]: v for k, v in inside.items()}
    return gathered


def _build(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        kind, key = hints[f.name], f"{prefix}{f.name}"
        if is_dataclass(kind):
            arguments[f.name] = _build(kind, values, f"{key}.")  # type: ignore[arg-type]
        elif key in values:
            arguments[f.name] = values[key]
    return cls(**arguments)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def from_mapping(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build a configuration from nested mappings (a parsed YAML file); see :func:`from_flat`."""
    return from_flat(cls, flatten(data))


def from_yaml(cls: type[T], path: str | Path) -> T:
    """Read a configuration file.

    Raises:
        ConfigError: see :func:`read_keys`.
    """
    return from_flat(cls, read_keys(cls, path))


def read_keys(cls: type, path: str | Path) -> dict[str, Any]:
    """What a configuration file of ``cls`` says, by dotted keys. A ROS parameter file
    (``/**: ros__parameters:``) is accepted as well.

    Raises:
        ConfigError: the file is missing, not a YAML mapping, or holds unknown keys or bad values.
    """
    try:
        data = read_data(path)
    except ValueError as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"configuration {path}: expected a mapping, got {type(data).__name__}")
    inner = list(data.values())
    if len(inner) == 1 and isinstance(inner[0], dict) and set(inner[0]) == {"ros__parameters"}:
        data = inner[0]["ros__parameters"]
    values = flatten(data)
    try:
        from_flat(cls, values)
    except ConfigError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain data, read back by :func:`from_mapping`."""
    return dataclasses.asdict(config)


@dataclass(frozen=True)
class EngineConfig:
    """Which model runs, and on what."""

    model: str = option("lite", "Model: a name under models/ or a directory that holds a manifest.json.")
    size: str = option(
        "auto", "Network input size HxW, one that the model ships; auto takes the best fit to the camera."
    )
    backend: str = option(
        "auto",
        "Inference engine; auto measures the installed ones at the first start and remembers the fastest.",
        choices=(
            "auto",
            "openvino",
            "onnxruntime",
            "tensorrt",
            "tensorrt_rtx",
            "onnxruntime_cuda",
            "onnxruntime_tensorrt",
            "pytorch",
        ),
    )
    precision: str = option(
        "auto",
        "Arithmetic of the engine; auto lets the measurement choose among those the machine has.",
        choices=("auto", "fp32", "tf32", "fp16", "bf16", "int8", "fp8"),
    )
    threads: int = option(0, "Processor threads of the engine; 0 takes all cores.", low=0, high=256)
    workspace_mib: int = option(
        0,
        "TensorRT: most scratch memory of the GPU, MiB; 0 takes what there is.",
        low=0,
        high=1 << 20,
    )
    dla_core: int = option(
        -1, "TensorRT on Jetson: run on this DLA core, the GPU doing what it cannot; -1: GPU.", low=-1, high=3
    )
    version_compatible: bool = option(
        False, "TensorRT: an engine for all versions of the same major version; slower, larger."
    )
    hardware_compatible: bool = option(
        False, "TensorRT: an engine for every GPU from Ampere (sm_80) on; slower."
    )
    target: str = option(
        "", "TensorRT-RTX: build for this GPU generation, such as sm_89, on any machine; empty: the GPU here."
    )
    resize_on_device: bool = option(
        False,
        "Copy the camera's whole image to where the network computes, and resize it there.",
    )
    verify: bool = option(
        True, "Run the model's golden frames through the engine at start-up; refuse a wrong one."
    )


@dataclass(frozen=True)
class TrackerConfig:
    """Which segment of this frame is which object of the last ones."""

    min_log_odds: float = option(
        -1.0,
        "Least log-odds, nats, that a segment is a known object; lower keeps more ids, and mixes up more.",
        low=-20.0,
        high=20.0,
    )
    confirm_hits: int = option(3, "Sightings after which a tentative object is confirmed.", low=1, high=100)
    memory_s: float = option(1.5, "How long an unseen object is remembered, seconds.", low=0.0, high=60.0)
    min_score: float = option(
        0.3,
        "Least score of a segment that starts a new object; weaker ones only continue known ones.",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class ScaleConfig:
    """Metric scale from the known height of the camera over the road."""

    camera_height_m: float = option(
        0.0, "Height of the camera over the road, metres; 0 trusts the network.", low=0.0, high=20.0
    )
    time_constant_s: float = option(2.0, "Smoothing time of the scale, seconds.", low=0.0, high=600.0)
    stale_after_s: float = option(
        3.0, "Time without a road plane after which the scale is stale, seconds.", low=0.1, high=600.0
    )


@dataclass(frozen=True)
class MapConfig:
    """How maps are brought to camera resolution."""

    max_depth_m: float = option(
        80.0, "Depth beyond this is not published (NaN), metres.", low=1.0, high=1000.0
    )
    min_confidence: float = option(
        0.0, "Pixels with a lower class probability become void.", low=0.0, high=1.0
    )
    steepest_deg: float = option(
        80.0,
        "Cloud: surfaces seen at a more grazing angle, degrees, have no points: between an object and what "
        "lies behind it they would float in free space. The ground may be steeper. 90 keeps all.",
        low=10.0,
        high=90.0,
    )
    min_region: float = option(
        0.003,
        "Share of the image below which ground, buildings, plants and sky become void (their depth stays): "
        "so little of a class is mostly wrong. 0 keeps all.",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class SteeringConfig:
    """From latent tokens to a steering command."""

    model: str = option("steering", "Steering head: a name under models/ or a folder with a manifest.json.")
    backend: str = option(
        "auto",
        "Inference engine; auto takes the first that is installed.",
        choices=("auto", "openvino", "onnxruntime"),
    )
    threads: int = option(1, "Processor threads of the head's engine.", low=1, high=256)
    wheelbase_m: float = option(2.71, "Wheelbase of the vehicle, metres.", low=0.05, high=20.0)
    max_angle_rad: float = option(
        0.6, "Largest tyre angle that is commanded, either side, rad.", low=0.0, high=1.5
    )
    max_rate_rad_s: float = option(0.6, "Fastest change of the tyre angle, rad/s.", low=0.001, high=20.0)
    min_confidence: float = option(0.3, "A command of lower confidence is not valid.", low=0.0, high=1.0)
    min_frames: int = option(3, "Frames that the window must hold before a command is valid.", low=1, high=64)
    gap_s: float = option(
        0.5, "A longer time between two frames empties the window, seconds.", low=0.01, high=60.0
    )


@dataclass(frozen=True)
class PipelineConfig:
    """All that the perception of one camera can be told."""

    engine: EngineConfig = group(EngineConfig)
    tracker: TrackerConfig = group(TrackerConfig)
    scale: ScaleConfig = group(ScaleConfig)
    maps: MapConfig = group(MapConfig)
