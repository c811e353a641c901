# SPDX-License-Identifier: Apache-2.0
"""From the latent tokens of camera frames to a steering command: the head's model folder, engine and limits.

A steering head is a model folder of kind ``steering`` (docs/graph_contract.md). It belongs to the weights of
one perception model, whose tokens it has learnt to read.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dvps_ros.config import EngineConfig, SteeringConfig
from dvps_ros.errors import EngineError, InputError
from dvps_ros.files import read_arrays
from dvps_ros.runtime import machine
from dvps_ros.runtime.backends import BACKENDS, Backend, installed
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.manifest import (
    MANIFEST,
    check_hashes,
    checked_record,
    expect_value,
    find_model,
    is_plain_name,
    private_copy,
    read_json,
    write_json,
)
from dvps_ros.runtime.window import JUMPED_BACK, TokenWindow

KIND = "steering"
CONTRACT = 1
GOLDEN_LIMIT = 0.01
"""Largest difference of a golden curvature, in parts of the tolerance."""
ENGINES = ("onnxruntime", "openvino")
"""Backends that run heads, the first that is installed first."""
BEYOND_LIMIT = 1.5
"""A head that wants more than this many times the curvature of the largest angle does not know its input."""
FEED_NAMES = ("latent", "age_s")
RESULT_NAMES = ("curvature", "deviation")


@dataclass(frozen=True)
class TokenSource:
    """Which perception model makes the tokens: its weights decide, the name is for people."""

    name: str
    weights_sha256: str


@dataclass(frozen=True)
class SteeringManifest:
    """What a steering head's folder says about itself.

    Raises:
        ValueError: a value that this contract does not allow.
    """

    name: str
    version: str
    network: str
    perception: TokenSource
    frames: int
    """Slots of the window."""
    period_s: float
    """Time between them."""
    latent_shape: tuple[int, int]
    """Tokens of a frame, channels of a token."""
    tolerance_per_m: float
    """Confidence is the probability that the curvature is off by less than this, 1/m."""
    graph: str
    graph_sha256: str
    golden: str
    golden_sha256: str
    licence: str
    training: dict[str, Any]
    kind: str = KIND
    contract: int = CONTRACT

    def __post_init__(self) -> None:
        expect_value("kind", self.kind, self.kind == KIND, KIND)
        expect_value("contract version", self.contract, self.contract == CONTRACT, str(CONTRACT))
        expect_value("frames", self.frames, 0 < self.frames <= 256, "1 to 256")
        expect_value("period_s", self.period_s, 0 < self.period_s <= 10, "a positive time")
        expect_value("tolerance_per_m", self.tolerance_per_m, self.tolerance_per_m > 0, "a positive number")
        shape = self.latent_shape
        expect_value("latent_shape", shape, len(shape) == 2 and min(shape) > 0, "two positive sizes")
        for file in (self.graph, self.golden):
            expect_value("file name", file, is_plain_name(file), "a plain name")


def load_steering_manifest(model_dir: str | Path) -> SteeringManifest:
    """Read and check the manifest of a steering head.

    Raises:
        EngineError: missing, not JSON, of another kind, or with missing, unknown or unsuitable values.
    """
    path = Path(model_dir) / MANIFEST
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise EngineError(f"{path}: expected a steering head, got a model of another kind")
    try:
        values = checked_record(SteeringManifest, data, "manifest")
        values["perception"] = TokenSource(**checked_record(TokenSource, values["perception"], "perception"))
        values["latent_shape"] = tuple(values["latent_shape"])
        return SteeringManifest(**values)
    except (ValueError, TypeError) as error:
        raise EngineError(f"{path}: {error}") from error


def write_steering_manifest(manifest: SteeringManifest, model_dir: str | Path) -> Path:
    """Write the manifest whole or not at all; :func:`load_steering_manifest` gives the same record back."""
    return write_json(dataclasses.asdict(manifest), Path(model_dir) / MANIFEST)


class SteeringEngine:
    """The head's graph on a backend, proved by its golden window. Not thread-safe."""

    def __init__(self, manifest: SteeringManifest, backend: Backend) -> None:
        f32, window = np.dtype(np.float32), (1, manifest.frames)
        want_in = {"latent": (f32, (*window, *manifest.latent_shape)), "age_s": (f32, window)}
        want_out = dict.fromkeys(RESULT_NAMES, (f32, (1,)))
        if (backend.inputs, backend.outputs) != (want_in, want_out):
            raise EngineError(
                f"{manifest.graph}: expected {want_in} -> {want_out}, got {backend.inputs} -> "
                f"{backend.outputs}; graph and manifest are not of one export"
            )
        self.manifest, self._backend = manifest, backend
        self.description = f"{manifest.name} {manifest.version} on {backend.description}"

    @classmethod
    def open(cls, config: SteeringConfig) -> SteeringEngine:
        """Load a head and prove its files and values.

        Raises:
            EngineError: the model or the backend cannot be used, or its values are wrong.
        """
        model_dir = find_model(config.model)
        manifest = load_steering_manifest(model_dir)
        check_hashes(model_dir, {manifest.golden: manifest.golden_sha256})
        name = config.backend
        if name == "auto":
            name = next((n for n in ENGINES if n in installed()), "")
        if not name:
            raise EngineError(f"no inference engine is installed; pip install {' or '.join(ENGINES)}")
        engine_config = EngineConfig(backend=name, precision="fp32", threads=config.threads)
        kind = BACKENDS[name]
        # Built anew at each start: that takes less time than looking for a kept one.
        with private_copy(model_dir, {manifest.graph: manifest.graph_sha256}) as folder:
            path = folder / manifest.graph
            plan = kind.build(path, engine_config, quiet, machine.cache_dir())
            backend = kind.load(plan, path, engine_config)
        try:
            engine = cls(manifest, backend)
            _check_golden(engine, model_dir / manifest.golden)
        except BaseException:
            backend.close()
            raise
        return engine

    def run(self, latent: np.ndarray, age_s: np.ndarray) -> tuple[float, float]:
        """Curvature at the newest frame and its standard deviation, 1/m.

        Args:
            latent, age_s: as :meth:`dvps_ros.runtime.window.TokenWindow.slots` gives them.

        Raises:
            EngineError: the backend failed, or computed something that is not finite.
        """
        results = {name: np.zeros(1, np.float32) for name in RESULT_NAMES}
        feeds = {"latent": np.ascontiguousarray(latent), "age_s": np.ascontiguousarray(age_s)}
        self._backend.run(feeds, results)
        curvature, deviation = (float(results[name][0]) for name in RESULT_NAMES)
        if not (math.isfinite(curvature) and math.isfinite(deviation)):
            raise EngineError(f"{self.description}: expected finite numbers, got {curvature}, {deviation}")
        return curvature, deviation

    def close(self) -> None:
        self._backend.close()


def _check_golden(engine: SteeringEngine, path: Path) -> None:
    """Raises EngineError when the golden window gives another curvature."""
    try:
        arrays = read_arrays(path)
        golden = {name: arrays[name].astype(np.float32) for name in (*FEED_NAMES, *RESULT_NAMES)}
    except (ValueError, KeyError) as error:
        raise EngineError(f"cannot read golden window {path}: {error}; export the model again") from error
    got = engine.run(golden["latent"], golden["age_s"])
    limit = GOLDEN_LIMIT * engine.manifest.tolerance_per_m
    for name, value in zip(RESULT_NAMES, got, strict=True):
        want = float(golden[name][0])
        if not abs(value - want) <= limit:
            raise EngineError(
                f"{engine.description} computes wrong values: {name} {value:.6g} instead of {want:.6g} 1/m; "
                "use another backend, or export the model again"
            )


class Head(Protocol):
    """What the pipeline needs of :class:`SteeringEngine`."""

    manifest: SteeringManifest
    description: str

    def run(self, latent: np.ndarray, age_s: np.ndarray) -> tuple[float, float]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SteeringResult:
    """What to steer at one frame. Where it is not valid angle and curvature are NaN, the confidence is 0."""

    stamp_ns: int
    tyre_angle_rad: float
    """Of the (middle) front wheel, left positive, limited in angle and rate."""
    curvature_per_m: float
    """Of the path of the rear axle at that angle, left positive."""
    confidence: float
    """Probability that this curvature is off by less than the head's tolerance, for a normal error."""
    reason: str = ""
    """Why it is not valid."""
    reset: str = ""
    """Why the window was emptied before this frame."""

    @property
    def valid(self) -> bool:
        return not self.reason

    @classmethod
    def refused(cls, stamp_ns: int, reason: str) -> SteeringResult:
        """No command, and why."""
        return cls(stamp_ns, math.nan, math.nan, 0.0, reason)


class SteeringPipeline:
    """Window, head and limits of one vehicle. Not thread-safe.

    The rate is limited from one valid command to the next, however many frames without one lie between: by
    the rate times the time between their stamps. Only the first command of all and the first one after time
    has jumped back are free of it.
    """

    def __init__(self, head: Head, config: SteeringConfig) -> None:
        """Take an opened head, which the pipeline closes.

        Raises:
            EngineError: more frames are asked for than the head's window holds.
        """
        manifest = head.manifest
        if config.min_frames > manifest.frames:
            raise EngineError(
                f"min_frames: expected at most the {manifest.frames} frames of the window of "
                f"{manifest.name}, got {config.min_frames}"
            )
        self.head, self._config = head, config
        self._window = TokenWindow(
            manifest.frames, manifest.period_s, manifest.latent_shape, gap_s=config.gap_s
        )
        self._last: SteeringResult | None = None
        self._before: SteeringResult | None = None

    @classmethod
    def open(cls, config: SteeringConfig) -> SteeringPipeline:
        """Load the configured head.

        Raises:
            EngineError: it cannot be used.
        """
        head = SteeringEngine.open(config)
        try:
            return cls(head, config)
        except BaseException:
            head.close()
            raise

    def process(self, stamp_ns: int, tokens: np.ndarray, weights: str) -> SteeringResult:
        """The command at one frame.

        Args:
            tokens: float32 [T,C].
            weights: SHA-256 of the perception weights that made them.

        Raises:
            InputError: tokens of another model or shape, not finite, or of the last frame again; the window
                is as it was.
            EngineError: the head failed.
        """
        expected = self.head.manifest.perception
        if weights != expected.weights_sha256:
            raise InputError(
                f"latent tokens: expected those of {expected.name} with weights "
                f"{expected.weights_sha256[:12]}, got weights {weights[:12]!r} ({len(weights)} of 64 "
                "characters); use the steering head that was trained on that perception model"
            )
        reset = self._window.add(stamp_ns, tokens) or ""
        if reset == JUMPED_BACK:
            self._last = None
        self._before = self._last
        latent, age_s = self._window.slots()
        result = self._limited(stamp_ns, int((age_s >= 0).sum()), *self.head.run(latent, age_s))
        if result.valid:
            self._last = result
        return dataclasses.replace(result, reset=reset)

    def withdraw(self) -> None:
        """The command of the last frame is not carried out: the one before it limits the rate of the next."""
        self._last = self._before

    def forget(self) -> None:
        """Empty the window, as after a gap; the stamp of the newest frame is not taken again."""
        self._window.clear()

    def restart(self) -> None:
        """Begin anew: empty the window and forget the last command, which limits the rate no more."""
        self.forget()
        self._last = self._before = None

    def close(self) -> None:
        self.head.close()

    def _limited(self, stamp_ns: int, frames: int, curvature: float, deviation: float) -> SteeringResult:
        """The result for what the head says, 1/m, of a window of so many frames."""
        config, tolerance = self._config, self.head.manifest.tolerance_per_m
        most = math.tan(config.max_angle_rad) / config.wheelbase_m
        sureness = _probability_within(tolerance, 0.0, deviation)
        if frames < config.min_frames:
            reason = f"the window holds {frames} of at least {config.min_frames} frames"
        elif abs(curvature) > BEYOND_LIMIT * most:
            reason = (
                f"the head wants a curvature of {curvature:.3g} 1/m, more than {BEYOND_LIMIT:g} times the "
                f"{most:.3g} 1/m of the largest angle"
            )
        elif sureness < config.min_confidence:
            reason = f"confidence {sureness:.2f} is below {config.min_confidence:.2f}"
        else:
            angle = math.atan(config.wheelbase_m * curvature)
            angle = max(-config.max_angle_rad, min(config.max_angle_rad, angle))
            if self._last is not None:
                step = config.max_rate_rad_s * (stamp_ns - self._last.stamp_ns) * 1e-9
                angle = self._last.tyre_angle_rad + max(-step, min(step, angle - self._last.tyre_angle_rad))
            limited = math.tan(angle) / config.wheelbase_m
            confidence = _probability_within(tolerance, limited - curvature, deviation)
            return SteeringResult(stamp_ns, angle, limited, confidence)
        return SteeringResult.refused(stamp_ns, reason)


def _probability_within(tolerance: float, offset: float, deviation: float) -> float:
    """That a normal error of this deviation is less than the tolerance away from the offset."""
    scale = math.sqrt(2) * max(deviation, 1e-9)
    return 0.5 * (math.erf((tolerance - offset) / scale) + math.erf((tolerance + offset) / scale))
