# SPDX-License-Identifier: Apache-2.0
"""Scoring of predictions against truth, frame by frame in several processes, and its table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dvps_ros.data.steering_log import open_steering_log
from dvps_ros.errors import InputError
from dvps_ros.metrics.steering import SteeringErrors

SMALL_WORK_PX = 20_000_000
"""Below this many pixels starting processes costs more than it saves."""


_worker: tuple[Any, Any] | None = None


def _start(source: Any, evaluation: Any) -> None:
    global _worker
    _worker = source, evaluation


def _count(index: int) -> Any:
    assert _worker is not None
    source, evaluation = _worker
    return evaluation.count(source.load(index))


def count_frames(source: Any, evaluation: Any, jobs: int | None = None) -> Iterator[Any]:
    """The counts of all frames in order, the pixels being looked at in several processes.

    Args:
        source: has ``__len__`` and ``load(index) -> FramePair``, and can be pickled.
        jobs: number of processes; None takes one a core, or this one alone when there is little to do.
    """
    frames = len(source)
    first = evaluation.count(source.load(0)) if frames else None
    if jobs is None:
        pixels = frames * first.shape[0] * first.shape[1] if first else 0
        jobs = 1 if pixels < SMALL_WORK_PX else len(os.sched_getaffinity(0))
    with tqdm(total=frames, unit=" frames", desc="scoring") as bar:
        if first:
            yield first
            bar.update()
        if jobs == 1 or frames < 3:
            for index in range(1, frames):
                yield evaluation.count(source.load(index))
                bar.update()
            return
        # Forking a process that runs threads (the bar has one) can hang it.
        context = get_context("spawn")
        with ProcessPoolExecutor(min(jobs, frames), context, _start, (source, evaluation)) as pool:
            try:
                # Ctrl-C in a terminal reaches all processes; this one answers for those that it starts here.
                handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    results = pool.map(_count, range(1, frames))
                finally:
                    signal.signal(signal.SIGINT, handler)
                for counts in results:
                    yield counts
                    bar.update()
            except BrokenProcessPool as error:
                raise InputError(
                    "a process that scored frames died, maybe of memory; try --jobs 1"
                ) from error


def score_steering(gt: Path, pred: Path) -> dict[str, Any]:
    """The JSON of two steering logs; frames are matched by their time.

    Raises:
        InputError: a log cannot be read, the prediction has other times than the truth, or lacks an angle.
    """
    truth, guess = open_steering_log(gt), open_steering_log(pred)
    for name, other, ours, theirs in (
        (pred, gt, guess.stamps_ns, truth.stamps_ns),
        (gt, pred, truth.stamps_ns, guess.stamps_ns),
    ):
        alone = np.setdiff1d(ours, theirs)
        if alone.size:
            raise InputError(
                f"{name}: {alone.size} of {len(ours)} frames are not in {other}, "
                f"the first is at {alone[0]} ns"
            )
    missing = np.isnan(guess.steering_rad) & ~np.isnan(truth.steering_rad)
    if missing.any():
        first = int(guess.stamps_ns[missing][0])
        raise InputError(f"{pred}: expected an angle for every frame of {gt}, the one at {first} ns has none")
    errors = SteeringErrors()
    errors.update(truth.steering_rad, guess.steering_rad)
    return {
        "frames": len(truth),
        "sequences": 1,
        "steering": errors.compute(),
        "undefined": [] if errors.compute()["samples"] else ["steering: the truth holds no angle"],
        "warnings": [],
        "rules": {"steering": "road-wheel angle, rad, left positive; frames without a true angle left out"},
    }


def table(result: dict[str, Any]) -> str:
    """The results for a terminal, in percent (depth errors in their units)."""
    lines = [f"{result['frames']} frames in {result['sequences']} sequences"]
    groups = ("all", "things", "stuff")

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    def row(name: str, values: Any) -> None:
        lines.append(f"{name:<18}" + "  ".join(values))

    if any(name in result for name in ("PQ", "VPQ", "DPQ", "DVPQ")):
        row("\n" + " " * 18, [f"{g:>6}" for g in groups])
    if "PQ" in result:
        row("PQ", [percent(result["PQ"][g]) for g in groups])
    for key, cell in result.get("VPQ", {}).items():
        row(f"VPQ k={key}", [percent(cell[g]) for g in groups])
    if "VPQ" in result.get("means", {}):
        row("VPQ mean", [percent(result["means"]["VPQ"][g]) for g in groups])
    grid = {k: dict(columns) for k, columns in result.get("DVPQ", {}).items()}
    means = result.get("means", {})
    for k, columns in grid.items():
        columns["mean"] = means["DVPQ_k"][k]
    if grid:
        grid["mean"] = means["DVPQ_lambda"] | {"mean": means["DVPQ"]}
    elif "DPQ" in result:
        grid["1"] = result["DPQ"] | {"mean": means["DPQ"]}
    if grid:
        name = "DVPQ" if "DVPQ" in result else "DPQ"
        heads = ["mean" if v == "mean" else f"lambda={v}" for v in next(iter(grid.values()))]
        lines += ["", f"{name:<8}" + "".join(f"{head:>26}" for head in heads)]
        for k, columns in grid.items():
            cells = [
                "".join(percent(cell[g]) + " " * (g != "stuff") for g in groups) for cell in columns.values()
            ]
            lines.append(f"{k if k == 'mean' else 'k=' + k:<8}" + "".join(f"{cell:>26}" for cell in cells))
    lines.append("")
    for name in ("STQ", "DSTQ", "PAT"):
        if name in result:
            parts = {key: value for key, value in result[name].items() if not isinstance(value, dict)}
            lines.append("  ".join(f"{key} {percent(value).strip()}" for key, value in parts.items()))
    if "ids" in result:
        ids = result["ids"]
        lines.append(
            f"ids: {ids['objects']} objects, found in {percent(ids['found']).strip()} % of their frames, "
            f"under one id in {percent(ids['kept']).strip()} %, {ids['switches']} switches"
        )
    if "depth" in result:
        names = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "delta1", "delta2", "delta3")
        lines += ["", f"{'depth':<20}" + "".join(f"{name:>10}" for name in names)]
        for crop, by_scaling in result["depth"].items():
            for scaling, values in by_scaling.items():
                cells = ["-" if values[n] is None else f"{values[n]:.4f}" for n in names]
                lines.append(f"{crop + ' ' + scaling:<20}" + "".join(f"{cell:>10}" for cell in cells))
    if "steering" in result and result["steering"]["samples"]:
        steering = result["steering"]
        lines += [
            "",
            f"steering: {steering['samples']} angles, mae {steering['mae_rad']:.4f} rad, "
            f"mse {steering['mse_rad2']:.6f} rad^2, bias {steering['bias_rad']:+.4f} rad (left positive)",
        ]
    counts = result.get("per_class", {}).get("PQ")
    if counts:
        lines += ["", f"{'class':<18}{'PQ':>7}{'SQ':>8}{'RQ':>8}{'TP':>8}{'FP':>8}{'FN':>8}"]
        for c, name in enumerate(result["classes"]["names"]):
            if counts["pq"][c] is not None:
                shares = "  ".join(percent(counts[key][c]) for key in ("pq", "sq", "rq"))
                lines.append(
                    f"{name:<18}{shares:>7}" + "".join(f"{counts[n][c]:>8}" for n in ("tp", "fp", "fn"))
                )
    lines += [""] + [f"{kind}: {text}" for kind in ("undefined", "warnings") for text in result[kind]]
    return "\n".join(lines).rstrip()
