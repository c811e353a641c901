# SPDX-License-Identifier: Apache-2.0
"""Command-line options, and words on the console, that several sub-commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from dvps_ros.config import EngineConfig, PipelineConfig, ScaleConfig, check_value, options
from dvps_ros.types import CameraModel

_DEFAULTS = {o.key: o for o in options(PipelineConfig)}

json_option = click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Output file."
)


def measurement(spoilt: str = "") -> dict[str, Any]:
    """How a file of figures comes about (:func:`dvps_ros.bench.facts.measurement`).

    Args:
        spoilt: what other work on the machine does to the figures; said where there is some.
    """
    from dvps_ros.bench import facts

    made = facts.measurement()
    if spoilt and facts.is_busy(made):
        click.echo(f"other work is running (load {made['machine']['load']:.1f}): {spoilt}")
    return made


def out_option(folder: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--out``: the folder for what a command leaves behind."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", type=kind, default=Path(folder), show_default=True, help=help)


def image_size_option(size: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--image-size``: what a rendered camera gives."""
    return click.option("--image-size", type=SizeType(), default=size, show_default=True, help=help)


class ImageSize(NamedTuple):
    """Pixels; as text HEIGHTxWIDTH."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class SizeType(click.ParamType):
    """An option's value HEIGHTxWIDTH, or WIDTHxHEIGHT with ``width_first``, as an :class:`ImageSize`."""

    name = "text"

    def __init__(self, low: int = 10, high: int = 9999, *, width_first: bool = False) -> None:
        self._low, self._high, self._width_first = low, high, width_first
        self._words = "WIDTHxHEIGHT such as 1242x375" if width_first else "HxW such as 512x1024"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ImageSize:
        if isinstance(value, ImageSize):
            return value
        match = re.fullmatch(r"([0-9]+)x([0-9]+)", str(value).lower())
        if not match:
            self.fail(f"expected {self._words}, got {value}", param, ctx)
        first, second = int(match[1]), int(match[2])
        if not all(self._low <= n <= self._high for n in (first, second)):
            self.fail(f"expected {self._low} to {self._high} pixels each way, got {value}", param, ctx)
        return ImageSize(second, first) if self._width_first else ImageSize(first, second)


def camera_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--fov`` and ``--camera``: the calibration of an input that brings none."""
    command = click.option(
        "--camera",
        "camera_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Camera calibration: YAML of camera_info_manager, or JSON with width, height, K, distortion.",
    )(command)
    return click.option(
        "--fov", "fov_deg", type=float, help="Horizontal field of view in degrees, of an uncalibrated input."
    )(command)


def calibration_options(help: str, frames: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--calibration``, ``--frames`` (so many by default) and the camera of that input."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = camera_options(command)
        command = click.option(
            "--frames",
            type=click.IntRange(8),
            default=frames,
            show_default=True,
            help="Frames of it, evenly spaced.",
        )(command)
        return click.option("--calibration", metavar="INPUT", help=help)(command)

    return add


def _configured(*rows: tuple[str, str, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that stand for keys of the configuration, with its words and defaults: (flag, name, key)."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for flag, name, key in reversed(rows):
            option = _DEFAULTS[key]
            kind = click.Choice(option.choices) if option.choices else option.type
            command = click.option(
                flag, name, type=kind, default=option.default, show_default=True, help=option.description
            )(command)
        return command

    return add


pipeline_options = _configured(
    ("--model", "model", "engine.model"),
    ("--backend", "backend", "engine.backend"),
    ("--camera-height", "camera_height_m", "scale.camera_height_m"),
)
_PRECISION = "--precision", "precision", "engine.precision"
precision_option = _configured(_PRECISION)
engine_choice_options = _configured(_PRECISION, ("--network-size", "network_size", "engine.size"))


def played_options(*, size: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What is processed and by which engine, for benches that hold frames in memory
    (:func:`dvps_ros.bench.ros_graph.read_frames`)."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--size",
                type=SizeType(),
                default=size,
                show_default=True,
                help="Network input HxW; the camera image of a synthetic world has the same size.",
            ),
            click.option(
                "--input", "input_spec", default="world:7", show_default=True, help="As dvps run takes it."
            ),
            camera_options,
            precision_option,
            pipeline_options,
        ):
            command = option(command)
        return command

    return add


def pipeline_config(
    model: str, backend: str, camera_height_m: float, precision: str = "auto", network_size: str = "auto"
) -> PipelineConfig:
    """The configuration that :data:`pipeline_options` and :data:`engine_choice_options` stand for.

    Raises:
        ConfigError: a height out of range.
    """
    camera_height_m = check_value(_DEFAULTS["scale.camera_height_m"], camera_height_m)
    return PipelineConfig(
        engine=EngineConfig(model=model, backend=backend, precision=precision, size=network_size),
        scale=ScaleConfig(camera_height_m=camera_height_m),
    )


def given_camera(camera_file: Path | None) -> CameraModel | None:
    """The camera of ``--camera``, if it was given.

    Raises:
        InputError: the file is no camera calibration.
    """
    from dvps_ros.data.calibration import load_camera

    return load_camera(camera_file) if camera_file is not None else None
