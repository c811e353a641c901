# SPDX-License-Identifier: Apache-2.0
"""What scoring costs: the bench itself, and memory that does not grow with the number of frames."""

from __future__ import annotations

import json
import pickle

import numpy as np
from click.testing import CliRunner

from dvps_ros.cli.bench import command
from dvps_ros.metrics import stq
from dvps_ros.metrics.counts import Classes
from dvps_ros.metrics.evaluation import Evaluation, FramePair


def test_bench_of_eval(tmp_path):
    out = tmp_path / "bench.json"
    arguments = [
        "eval",
        "--frames",
        "12",
        "--height",
        "64",
        "--width",
        "128",
        "--metrics",
        "all",
        "--jobs",
        "1",
    ]
    result = CliRunner().invoke(command, [*arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["frames"] == 12 and report["size"] == [64, 128] and "PAT" in report["metrics"]
    assert report["seconds"] > 0 and set(report["memory_mib"]) == {"after_a_quarter", "at_the_end"}
    assert "12 frames of 64x128" in result.output


def test_what_is_kept_does_not_grow_with_the_number_of_frames(monkeypatch):
    """One sequence of the same objects: the state of its last quarter is no larger than that of its first."""
    monkeypatch.setattr(stq, "_COMPACT_ROWS", 256)  # the table of tracks fills up to here before it is summed
    rng = np.random.default_rng(3)
    evaluation = Evaluation(Classes(4, (2, 3)))
    sizes = []
    for t in range(160):
        sem = rng.integers(0, 4, (24, 32)).astype(np.uint8)
        ins = np.where(sem >= 2, rng.integers(1, 4, sem.shape), 0).astype(np.int32)
        depth = rng.uniform(1, 60, sem.shape).astype(np.float32)
        guess = depth * rng.uniform(0.7, 1.3, sem.shape).astype(np.float32)
        pair = FramePair("a", f"{t}", sem, ins, np.roll(sem, 1, 1), np.roll(ins, 1, 1), depth, guess)
        evaluation.add(evaluation.count(pair))
        sizes.append(len(pickle.dumps(evaluation)))
    assert max(sizes[120:]) < 1.05 * max(sizes[:40])
