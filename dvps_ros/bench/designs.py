# SPDX-License-Identifier: Apache-2.0
"""Designs: quality against milliseconds of models, input sizes and precisions."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dvps_ros.bench.held_out import DESIGNS_SEED, held_out_drive
from dvps_ros.bench.score import score_frames
from dvps_ros.config import EngineConfig, MapConfig, PipelineConfig
from dvps_ros.errors import EngineError, InputError
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.runtime.engine import Engine, times_in_turns
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.runtime.verify import load_golden
from dvps_ros.types import Sample

START_S = 4.0
"""Each pair of frames is taken this long after its world's start."""
MAX_DEPTH_M = 80.0
TIME_LIMIT_S = 120.0
"""For all rounds of one size: no further round begins later."""
ROW_KEYS = ("model", "size", "precision")
SCORES = {"miou": "mIoU", "pq": "PQ", "pq_things": "PQ of things", "abs_rel": "depth abs_rel"}
LOWER_IS_BETTER = ("abs_rel",)


def read_report(path: Path) -> dict[str, Any]:
    """The results of earlier calls; without rows where there is no file.

    Raises:
        InputError: the file is no such report.
    """
    if not path.exists():
        return {"rows": []}
    try:
        report = json.loads(path.read_text())
        complete = all({*ROW_KEYS, "digest", "quality", "ms"} <= set(row) for row in report["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} was not written by `dvps bench designs`: {error!r}") from error
    if not complete:
        raise InputError(f"{path} was not written by `dvps bench designs`: a row lacks keys")
    return report


def kept_parts(row: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """``quality`` and ``ms`` of the same weights on the same engine in an earlier report, else None."""
    same = (old for old in earlier if all(old[key] == row[key] for key in (*ROW_KEYS, "backend", "digest")))
    found = next(same, {})
    return {part: found.get(part) for part in ("quality", "ms")}


@dataclass(frozen=True)
class Design:
    """What is measured: a model at one size and precision."""

    folder: Path
    config: EngineConfig
    row: dict[str, Any]
    """Its keys in the report."""

    def open(self, tell: Callable[[str], object]) -> Engine | None:
        """The engine; None, and a sentence to ``tell``, where it cannot be had."""
        try:
            return Engine.open(self.folder, self.config)
        except EngineError as error:
            tell(f"{' '.join(self.row[key] for key in ROW_KEYS)} is left out: {error}")
            return None


def designs_of(
    models: Sequence[str], sizes: Sequence[str], precisions: Sequence[str], engine: EngineConfig
) -> Iterator[Design]:
    """Every size (of the model, where none is given) and precision of every model, on this engine."""
    for model in models:
        folder = find_model(model)
        manifest = load_manifest(folder)
        for size in sizes or [graph.size for graph in manifest.graphs]:
            graph = manifest.graph_of(size)
            for precision in precisions:
                row = {
                    "model": manifest.name,
                    "version": manifest.version,
                    "size": size,
                    "precision": precision,
                    "backend": engine.backend,
                    "digest": f"{graph.sha256[:16]}-{manifest.weights.sha256[:16]}",
                    "weights_mb": round((folder / manifest.weights.file).stat().st_size / 1e6, 2),
                }
                yield Design(folder, replace(engine, size=size, precision=precision), row)


def held_out_clips(worlds: int, size: tuple[int, int]) -> Iterator[list[Sample]]:
    """Two neighbouring frames of each unseen world, through a camera of its own.

    Args:
        size: height and width of the images.
    """
    for seed in tqdm(range(DESIGNS_SEED, DESIGNS_SEED + worlds), desc="worlds", leave=False):
        _, drive = held_out_drive(seed, *size, start_s=START_S)
        yield [replace(frame, flow_px=None, moving=None) for frame in itertools.islice(drive, 2)]


def score(
    design: Design, clips: Sequence[Sequence[Sample]], tell: Callable[[str], object]
) -> dict[str, float | None] | None:
    """Scores of the frames of all clips; None where the engine cannot be had."""
    engine = design.open(tell)
    if engine is None:
        return None
    quality = ClipQuality(engine.label_space)
    config = PipelineConfig(maps=MapConfig(max_depth_m=MAX_DEPTH_M))
    with DvpsPipeline(engine, config) as pipeline:
        for index, clip in enumerate(tqdm(clips, desc=engine.description, leave=False)):
            for _ in score_frames(pipeline, clip, quality, sequence=index):
                pass
    found = quality.compute()
    return {
        "miou": found["stq"]["SQ"],
        "pq": found["pq"]["all"],
        "pq_things": found["pq"]["things"],
        "abs_rel": found["depth"]["abs_rel"],
    }


def times(
    designs: Sequence[Design], rounds: int, tell: Callable[[str], object]
) -> list[dict[str, float] | None]:
    """Median and quartiles of each engine's milliseconds; those of one size run in turns."""
    found: dict[int, dict[str, float]] = {}
    for size in dict.fromkeys(d.row["size"] for d in designs):
        with contextlib.ExitStack() as stack:
            engines = {}
            for i, design in enumerate(designs):
                if design.row["size"] == size and (engine := design.open(tell)) is not None:
                    engines[i] = stack.enter_context(engine)
            if not engines:
                continue
            first = designs[next(iter(engines))].folder
            golden = load_golden(first / next(iter(engines.values())).graph.golden)
            for i, laps in times_in_turns(engines, golden, rounds=rounds, limit_s=TIME_LIMIT_S).items():
                low, median, high = np.percentile(laps, (25, 50, 75)).tolist()
                found[i] = {"median": median, "quartile_1": low, "quartile_3": high, "runs": len(laps)}
    return [found.get(i) for i in range(len(designs))]


def pareto_front(rows: Sequence[Mapping[str, Any]], score: str) -> list[int]:
    """Indices of the rows, fastest first, than which none is as fast and better, or as good and faster.

    Args:
        score: key of ``quality``; rows that lack it or a time take no part.
    """
    sign = -1 if score in LOWER_IS_BETTER else 1
    points = [
        (row["ms"]["median"], -sign * row["quality"][score], i)
        for i, row in enumerate(rows)
        if row["ms"] and row["quality"] and row["quality"][score] is not None
    ]
    front: list[int] = []
    best = math.inf
    for _, cost, i in sorted(points):
        if cost < best:
            best = cost
            front.append(i)
    return front


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown; scores that no faster row reaches are bold."""
    lines = [
        f"| model | size | precision | {' | '.join(SCORES.values())} | engine, ms (quartiles) |",
        "|---" * (len(SCORES) + 4) + "|",
    ]
    fronts = {score: pareto_front(rows, score) for score in SCORES}
    for i, row in enumerate(rows):
        cells = [row[key] for key in ROW_KEYS]
        for score in SCORES:
            value = row["quality"] and row["quality"][score]
            text = "-" if value is None else f"{value:.3f}"
            cells.append(f"**{text}**" if i in fronts[score] else text)
        ms = row["ms"]
        spread = ms and f"{ms['median']:.1f} ({ms['quartile_1']:.1f} - {ms['quartile_3']:.1f})"
        lines.append(f"| {' | '.join([*cells, spread or '-'])} |")
    return "\n".join(lines)
