# SPDX-License-Identifier: Apache-2.0
"""Golden frames: proof that a loaded engine computes what the exported network computed.

An engine can load without complaint and be wrong: weights of another training, channels swapped,
another normalisation, a compiler's bug at low precision, sums that do not fit their type. So each graph
ships two frames and the outputs of the reference engine; they are compared here before the first camera
frame, value by value and in what users see: identities kept, depth of what is far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dvps_ros.config import TrackerConfig
from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, OUTPUTS, SEGMENT_COLUMNS, Column
from dvps_ros.errors import EngineError, InputError
from dvps_ros.files import read_arrays
from dvps_ros.panoptic.track import Tracker


class Verifiable(Protocol):
    """What is verified; see :class:`dvps_ros.runtime.engine.Engine`."""

    description: str
    output_names: frozenset[str]

    def run(self, image: np.ndarray, intrinsics: np.ndarray, wanted: frozenset[str]) -> Any: ...

    def outputs(self) -> Mapping[str, np.ndarray]: ...

    def reset(self) -> None: ...


class WrongValues(EngineError):
    """An engine whose golden frames differ by more than its precision allows.

    Args:
        differences: what was measured.
    """

    def __init__(self, message: str, differences: list[Difference]) -> None:
        super().__init__(message)
        self.differences = differences


_ROWS = (
    "class", "segment", "panoptic", "ids", "table", "motion", "depth", "far", "confidence", "features",
    "state", "embedding", "overlap",
)  # fmt: skip
LIMITS = {
    precision: dict(zip(_ROWS, limits, strict=True))
    for precision, limits in {
        "fp32": (0.002, 0.01, 0.01, 0.1, 0.05, 0.05, 0.005, 0.005, 0.005, 0.005, 0.005, 0.005, 0.01),
        "tf32": (0.005, 0.2, 0.05, 0.2, 0.25, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.15, 0.05),
        "fp16": (0.005, 0.2, 0.05, 0.2, 0.25, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.15, 0.05),
        "bf16": (0.02, 0.2, 0.03, 0.3, 0.3, 0.15, 0.015, 0.015, 0.03, 0.015, 0.02, 0.15, 0.05),
        "int8": (0.04, 0.14, 0.05, 0.34, 0.3, 0.25, 0.04, 0.035, 0.11, 0.045, 0.095, 0.16, 0.1),
        "int8 qdq": (0.06, 0.2, 0.08, 0.34, 0.4, 0.5, 0.05, 0.05, 0.2, 0.08, 0.19, 0.2, 0.15),
        "fp8": (0.03, 0.2, 0.2, 0.3, 0.3, 0.3, 0.15, 0.15, 0.15, 0.15, 0.15, 0.3, 0.15),
    }.items()
}
"""Per precision and kind of output: how much it may differ from the golden frames.

Set to 1.3 to 1.7 times the most that the shipped models were seen to differ on processors with AVX2, AVX-512,
VNNI and bf16. What fails int8's, on all six graphs: sums that saturate at 16 bits (by 1.2 or more); and of
every convolution weights that are zeroed or twice too large (test/runtime/test_mutations.py). The graphs with
QuantizeLinear have half the levels where nothing is negative. TensorRT's tf32, fp16 and fp8 await a GPU."""
PANOPTIC = "panoptic"
"""Name of the row for class and segment together: one less its value is the agreement per pixel."""
IDS = "ids"
"""Name of the row for the share of objects that are not linked to the same object of the first frame."""
FAR = "depth_far"
"""Name of the row for the mean relative difference of depth where the golden depth is within FAR_M."""
FAR_M = (20.0, 80.0)
MOTION = "motion"
"""Name of the row for the mean difference of the objects' motion in the image, relative to its mean size."""
SURE_SCORE = 0.5
"""Of the golden objects whose identities count: weaker ones may come and go by a rounding."""
TABLES = ("segments", "segment_map", "embedding")
"""Outputs by which the tracker links two frames."""
ROWS = "next_state_rows"
"""Memory that has an entry for each row of the table, where a network has it."""
ROW_MAP = "next_state_row_map"
"""Memory of the row of each cell, plus one, where a network has it."""
CENTER = [Column.CENTER_X, Column.CENTER_Y]
LEAST_SPREAD = 0.1
"""Of values relative to their mean size: a spread below it does not count as less."""
SAME_CENTER_PX = 8.0
"""Segments of two engines are the same when their centres lie within two cells of the stride-4 map."""


@dataclass(frozen=True)
class Golden:
    """Two frames 0.1 s apart, every output of the second one, and TABLES of the first."""

    images: tuple[np.ndarray, np.ndarray]
    """uint8 [H,W,3] each."""
    intrinsics: np.ndarray
    """float32 [4]."""
    outputs: dict[str, np.ndarray]
    """By output name, with the leading axis of size one."""
    first: dict[str, np.ndarray]


def load_golden(path: Path) -> Golden:
    """Read a ``golden.npz`` (docs/graph_contract.md).

    Raises:
        EngineError: it is missing, truncated, or lacks an array.
    """
    try:
        arrays = read_arrays(path)
        outputs, first = (
            {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            for prefix in ("out_", "first_")
        )
        if sorted(first) != sorted(TABLES):
            raise KeyError("the tables of the first frame are missing")
        return Golden((arrays["image_0"], arrays["image_1"]), arrays["intrinsics"], outputs, first)
    except (ValueError, KeyError) as error:
        raise EngineError(f"cannot read golden frames {path}: {error}; export the model again") from error


@dataclass(frozen=True)
class Difference:
    """One output of an engine against the golden one.

    ``value`` is what the limit holds for: the share of pixels (of objects: ``ids``) that disagree for maps of
    ids, the mean difference relative to the spread of the golden values for the rest, relative to the golden
    values for ``depth_far``.
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
    """The panoptic map, far depth, then every golden output, against an engine's.

    Segments are matched by their centres, because scores that are almost equal may swap rows.
    """
    match = _match_rows(golden["segments"][0], outputs["segments"][0])
    rows = np.flatnonzero(match < 255)
    pairs = rows[match[rows] >= 0], match[rows][match[rows] >= 0]
    other = (golden["class_map"] != outputs["class_map"]) | (
        match[golden["segment_map"]] != outputs["segment_map"]
    )
    share = float(other.mean())
    limits = LIMITS[precision]
    differences = [
        Difference(PANOPTIC, share, limits["panoptic"], share, float(other.max())),
        _far(golden["depth_m"], outputs["depth_m"], limits["far"]),
        _motion(golden["segments"][0, pairs[0]], outputs["segments"][0, pairs[1]], limits["motion"]),
    ]
    for name, want in golden.items():
        got = outputs[name]
        if name == "nearest":  # where no segment is, votes point nowhere and nobody uses them
            voted = golden["segment_map"] != NO_SEGMENT
            want, got = want[voted], got[voted]
        if name in ("segment_map", "nearest"):
            want = match[want]
        elif name == ROW_MAP:
            want, got = (np.where(x > 0, x - 1, NO_SEGMENT).astype(np.int64) for x in (want, got))
            want = match[want]
        elif name == "overlap":  # of each row the best; rows of the frame before may have swapped
            want, got = want[0].max(0)[pairs[0]], got[0].max(0)[pairs[1]]
        elif name in ("segments", "embedding", ROWS):
            want, got = want[0, pairs[0]], got[0, pairs[1]]
        gap = np.abs(want.astype(np.float64) - got.astype(np.float64))
        mean, largest = (float(gap.mean()), float(gap.max())) if gap.size else (0.0, 0.0)
        kind = OUTPUTS[name].kind if name in OUTPUTS else "segment" if name == ROW_MAP else "state"
        if kind == "overlap":
            value = mean
        elif kind in ("class", "segment"):
            value = float(np.mean(want != got)) if want.size else 0.0
        elif name == "segments":
            # Columns have units of their own; a row without a partner counts as wholly different.
            spread = np.abs(want).mean(0) + 1e-3 if len(want) else np.ones(len(SEGMENT_COLUMNS))
            used = max(len(rows), int((outputs["segments"][0, :, Column.SCORE] > 0).sum()))
            alone = (used - len(pairs[0])) / max(used, 1)
            value = alone + (float((gap / spread).mean()) if gap.size else 0.0)
        else:
            spread = float(np.abs(want - np.mean(want, dtype=np.float64)).mean()) if want.size else 0.0
            size = float(np.abs(want).mean(dtype=np.float64)) if want.size else 0.0
            # Golden values are kept as halves: of a map that is the same everywhere, all that differs.
            value = mean / max(spread, LEAST_SPREAD * size, 1e-3)
        differences.append(Difference(name, value, limits[kind], mean, largest))
    return differences


def _far(want: np.ndarray, got: np.ndarray, limit: float) -> Difference:
    far = (want >= FAR_M[0]) & (want <= FAR_M[1])
    gap = np.abs(got[far].astype(np.float64) / want[far] - 1) if far.any() else np.zeros(1)
    return Difference(FAR, float(gap.mean()), limit, float(gap.mean()), float(gap.max()))


def _motion(want: np.ndarray, got: np.ndarray, limit: float) -> Difference:
    columns = [Column.MOTION_DX, Column.MOTION_DY]
    gap = np.abs(got[:, columns].astype(np.float64) - want[:, columns]) if len(want) else np.zeros((1, 2))
    size_px = np.abs(want[:, columns]).mean() if len(want) else 0.0
    value = float(gap.mean() / max(size_px, 1.0))
    return Difference(MOTION, value, limit, float(gap.mean()), float(gap.max()))


def linked(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> np.ndarray:
    """int64 [256]: for each row of the second frame's table its row in the first one, 0.1 s before, by the
    tracker; -1 for new objects and rows not in use."""
    height, width = first["segment_map"].shape[1:]
    tracker = Tracker(TrackerConfig(), (width * OUTPUT_STRIDE, height * OUTPUT_STRIDE))
    rows = []
    for stamp_ns, tables in ((0, first), (100_000_000, second)):
        segments, segment_map, embedding = (tables[n][0] for n in TABLES)
        overlap = tables["overlap"][0] if "overlap" in tables else None
        tracks = tracker.update(stamp_ns, segments, segment_map, embedding, overlap)
        rows.append(tracks.row_track.astype(np.int64))
    before, now = rows
    links = np.full(256, -1)
    for row in np.flatnonzero(now):
        found = np.flatnonzero(before == now[row])
        links[row] = found[0] if len(found) else -1
    return links


def compare_ids(
    golden: Golden, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], precision: str
) -> Difference:
    """Of the sure objects that the golden tables of both frames link, the share that an engine's do not."""
    want, got = linked(golden.first, golden.outputs), linked(first, second)
    before = _match_rows(golden.first["segments"][0], first["segments"][0])
    now = _match_rows(golden.outputs["segments"][0], second["segments"][0])
    scores = golden.outputs["segments"][0, :, Column.SCORE]
    rows = np.flatnonzero((want[: len(scores)] >= 0) & (scores >= SURE_SCORE))
    kept = [0 <= now[r] < 255 and 0 <= before[want[r]] == got[now[r]] for r in rows]
    lost = len(rows) - sum(kept)
    share = lost / len(rows) if len(rows) else 0.0
    return Difference(IDS, share, LIMITS[precision]["ids"], share, float(lost))


def _match_rows(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """int64 [256]: row of ``got`` for each row of ``want``; -1 without a partner, 255 for rows not in use."""
    match = np.full(256, 255)
    used, there = (np.flatnonzero(rows[:, Column.SCORE] > 0) for rows in (want, got))
    match[used] = -1
    for row in used:
        away = np.hypot(*(got[there][:, CENTER] - want[row, CENTER]).T)
        if len(there) and away.min() <= SAME_CENTER_PX:
            nearest = away.argmin()
            match[row] = there[nearest]
            there = np.delete(there, nearest)
    return match


def check(engine: Verifiable, golden: Golden, precision: str) -> list[Difference]:
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
        engine.run(golden.images[0], golden.intrinsics, engine.output_names)
        first = {n: engine.outputs()[n].copy() for n in TABLES}
        engine.run(golden.images[1], golden.intrinsics, engine.output_names)
        for name, want in (*golden.outputs.items(), *golden.first.items()):
            got = engine.outputs()[name]
            if (want.dtype, want.shape) != (got.dtype, got.shape):
                raise InputError(f"{name}: expected {got.dtype} {got.shape}, got {want.dtype} {want.shape}")
        differences = compare(golden.outputs, engine.outputs(), precision)
        differences.append(compare_ids(golden, first, engine.outputs(), precision))
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
    """One line for logs and diagnostics: what users would see, and the row that is nearest to its limit."""
    if not differences:
        return "not verified"
    of = {d.output: d.value for d in differences}
    worst = max(differences, key=lambda d: d.value / d.limit)
    return (
        f"golden frames: {1 - of[PANOPTIC]:.2%} of pixels keep class and object, "
        f"{1 - of[IDS]:.0%} of objects their identity, "
        f"depth beyond {FAR_M[0]:.0f} m differs by {of[FAR]:.2%}; "
        f"nearest to its limit: {worst.output}, {worst.value:.5f} of {worst.limit}"
    )
