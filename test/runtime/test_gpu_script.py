# SPDX-License-Identifier: Apache-2.0
"""The script for a GPU machine keeps up with the code: run here with a backend of the processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dvps_ros.errors import EngineError
from dvps_ros.runtime.device_memory import open_device

SCRIPT = Path(__file__).parents[1] / "gpu" / "check.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def test_what_needs_no_gpu_passes(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ("--backend", "onnxruntime", "--model", tiny_model, "--frames", 5)
    result = run(*arguments, "--out", tmp_path / "gpu.json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    verdicts = {name: verdict for name, (verdict, _) in report["checks"].items()}
    for name in ("precisions, plans kept", "states", "two engines at once", "refusals"):
        assert verdicts[name] == "ok", result.stdout
    assert "FAIL" not in verdicts.values()
    assert report["times"]["engine_only_ms"] > 0 and report["times"]["pipeline_total_ms"] > 0


def test_without_a_gpu_one_sentence_is_said(tiny_model: Path) -> None:
    try:
        open_device().close()
    except EngineError:
        result = run("--backend", "tensorrt", "--model", tiny_model)
        assert result.returncode == 1 and "FAIL" in result.stdout and "Traceback" not in result.stderr
    else:
        pytest.skip("there is a GPU")
