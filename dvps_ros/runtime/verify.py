# SPDX-License-Identifier: Apache-2.0
"""Golden frames: proof that a loaded engine computes what the exported network computed.

An engine can load without complaint and be wrong: weights of another training, channels swapped,
another normalisation, a compiler's bug at low precision. So each graph ships two frames and the
outputs of the reference engine; they are compared here, value by value, before the first camera frame.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dvps_ros.errors import EngineError, InputError
from dvps_ros.runtime.manifest import SEGMENT_COLUMNS
from dvps_ros.types import NO_SEGMENT

if TYPE_CHECKING:
    from dvps_ros.runtime.engine import Engine


class WrongValues(EngineError):
    """An engine whose golden frames differ by more than its precision allows.

    Args:
        differences: what was measured.
    """

    def __init__(self, message: str, differences: list[Difference]) -> None:
        super().__init__(message)
        self.differences = differences


LIMITS = {
    "fp32": {"class": 0.002, "segment": 0.01, "panoptic": 0.01, "value": 0.005, "table": 0.05},
    "tf32": {"class": 0.005, "segment": 0.05, "panoptic": 0.05, "value": 0.01, "table": 0.1},
    "fp16": {"class": 0.005, "segment": 0.05, "panoptic": 0.05, "value": 0.01, "table": 0.1},
    "int8": {"class": 0.03, "segment": 0.2, "panoptic": 0.2, "value": 0.15, "table": 0.3},
    "fp8": {"class": 0.03, "segment": 0.2, "panoptic": 0.2, "value": 0.15, "table": 0.3},
    "bf16": {"class": 0.02, "segment": 0.15, "panoptic": 0.15, "value": 0.03, "table": 0.2},
}
"""Per precision: shares of pixels with another class, with another segment, and with either; differences of
dense values relative to their spread, and of the segments' table, where one centre of thirty that comes or
goes is 3 %.

Measured with trained weights: bf16 differs by 0.002, 0.10, 0.008 and 0.10; colours in the wrong order by
0.14, 0.41, 0.30 and 0.58; colours at 0.9 of their value by 0.04, 0.26, 0.16 and 0.29; an image shifted by one
pixel by 0.04, 0.45, 0.21 and 0.58."""
_KINDS = {
    "class_map": "class",
    "segment_map": "segment",
    "nearest": "segment",
    "segments": "table",
    "embedding": "table",
}
"""Of the outputs; all others are dense values."""
PANOPTIC = "panoptic"
"""Name of the row for class and segment together: one less its value is the agreement per pixel."""
SAME_CENTER_PX = 8.0
"""Segments of two engines are the same when their centres lie within two cells of the stride-4 map."""


@dataclass(frozen=True)
class Golden:
    """Two consecutive frames, and every output of the second one."""

    images: tuple[np.ndarray, np.ndarray]
    """uint8 [H,W,3] each."""
    intrinsics: np.ndarray
    """float32 [4]."""
    outputs: dict[str, np.ndarray]
    """By output name, with the leading axis of size one."""


def load_golden(path: Path) -> Golden:
    """Read a ``golden.npz`` (docs/graph_contract.md).

    Raises:
        EngineError: it is missing, truncated, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        outputs = {n.removeprefix("out_"): a for n, a in arrays.items() if n.startswith("out_")}
        return Golden((arrays["image_0"], arrays["image_1"]), arrays["intrinsics"], outputs)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise EngineError(f"cannot read golden frames {path}: {error}; export the model again") from error


@dataclass(frozen=True)
class Difference:
    """One output of an engine against the golden one.

    ``value`` is what the limit holds for: the share of pixels that disagree for maps of ids, the mean
    difference relative to the spread of the golden values for the rest.
    """

    output: str
    value: float
    limit: float
    mean: float
    """Mean absolute difference, in the output's unit."""
    max: float

    @property
    def passed(self) -> bool:
        return self.value <= self.limit  # False for NaN


def compare(
    golden: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], precision: str
) -> list[Difference]:
    """The panoptic map, then every golden output, against an engine's.

    Segments are matched by their centres, because scores that are almost equal may swap rows.
    """
    match = _match_rows(golden["segments"][0], outputs["segments"][0])
    rows = np.flatnonzero(match < 255)
    pairs = rows[match[rows] >= 0], match[rows][match[rows] >= 0]
    other = (golden["class_map"] != outputs["class_map"]) | (
        match[golden["segment_map"]] != outputs["segment_map"]
    )
    share = float(other.mean())
    differences = [Difference(PANOPTIC, share, LIMITS[precision]["panoptic"], share, float(other.max()))]
    for name, want in golden.items():
        got = outputs[name]
        if name == "nearest":  # where no segment is, votes point nowhere and nobody uses them
            voted = golden["segment_map"] != NO_SEGMENT
            want, got = want[voted], got[voted]
        if name in ("segment_map", "nearest"):
            want = match[want]
        elif name in ("segments", "embedding"):
            want, got = want[0, pairs[0]], got[0, pairs[1]]
        gap = np.abs(want.astype(np.float64) - got.astype(np.float64))
        mean, largest = (float(gap.mean()), float(gap.max())) if gap.size else (0.0, 0.0)
        kind = _KINDS.get(name, "value")
        if kind in ("class", "segment"):
            value = float(np.mean(want != got)) if want.size else 0.0
        elif name == "segments":
            # Columns have units of their own; a row without a partner counts as wholly different.
            spread = np.abs(want).mean(0) + 1e-3 if len(want) else np.ones(len(SEGMENT_COLUMNS))
            used = max(len(rows), int((outputs["segments"][0, :, 1] > 0).sum()))
            alone = (used - len(pairs[0])) / max(used, 1)
            value = alone + (float((gap / spread).mean()) if gap.size else 0.0)
        else:
            spread = float(np.abs(want - np.mean(want, dtype=np.float64)).mean()) if want.size else 0.0
            value = mean / max(spread, 1e-3)
        limit = LIMITS[precision][kind]
        differences.append(Difference(name, value, limit, mean, largest))
    return differences


def _match_rows(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """int64 [256]: row of ``got`` for each row of ``want``; -1 without a partner, 255 for rows not in use."""
    match = np.full(256, 255)
    used, there = np.flatnonzero(want[:, 1] > 0), np.flatnonzero(got[:, 1] > 0)
    match[used] = -1
    for row in used:
        away = np.hypot(*(got[there, 3:5] - want[row, 3:5]).T)
        if len(there) and away.min() <= SAME_CENTER_PX:
            nearest = away.argmin()
            match[row] = there[nearest]
            there = np.delete(there, nearest)
    return match


def check(engine: Engine, golden: Golden, precision: str) -> list[Difference]:
    """Run the golden frames through an engine, which is reset before and after.

    Raises:
        EngineError: golden frames of another size or another set of outputs.
        WrongValues: values beyond the limits; the message holds the table.
    """
    missing = sorted(set(golden.outputs) ^ engine.output_names)
    if missing:
        raise EngineError(f"golden frames of {engine.description}: not in both graph and file: {missing}")
    engine.reset()
    try:
        for image in golden.images:
            engine.run(image, golden.intrinsics, engine.output_names)
        differences = compare(golden.outputs, engine.outputs(), precision)
    except (InputError, ValueError, IndexError) as error:
        raise EngineError(
            f"golden frames of {engine.description} do not fit: {error}; export the model again"
        ) from error
    finally:
        engine.reset()
    if not all(d.passed for d in differences):
        raise WrongValues(
            f"{engine.description} computes wrong values; use another backend or precision, or export the "
            f"model again\n{table(differences)}",
            differences,
        )
    return differences


def table(differences: list[Difference]) -> str:
    """One line an output, for a log or an error."""
    lines = [f"{'output':<22}{'difference':>11}{'limit':>8}{'mean':>11}{'max':>11}"]
    for d in differences:
        verdict = "" if d.passed else "  FAILS"
        lines.append(f"{d.output:<22}{d.value:>11.5f}{d.limit:>8.3f}{d.mean:>11.4g}{d.max:>11.4g}{verdict}")
    return "\n".join(lines)


def summary(differences: list[Difference]) -> str:
    """One line, for diagnostics: panoptic agreement, and the output that is nearest to its limit."""
    if not differences:
        return "not verified"
    agreement = next(1 - d.value for d in differences if d.output == PANOPTIC)
    worst = max(differences, key=lambda d: d.value / d.limit)
    return (
        f"golden frames: panoptic {agreement:.2%} equal per pixel; "
        f"nearest to its limit: {worst.output}, {worst.value:.5f} of {worst.limit}"
    )
