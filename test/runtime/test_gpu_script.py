# SPDX-License-Identifier: Apache-2.0
"""The script for a GPU machine keeps up with the code: run here with a backend of the processor."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    proved = ("precisions, plans kept", "states", "two engines at once", "refusals", "resize on the device")
    for name in proved:
        assert verdicts[name] == "ok", result.stdout
    assert "FAIL" not in verdicts.values()
    assert report["times"]["engine_only_ms"] > 0 and report["times"]["pipeline_maps_out_ms"] > 0
    assert report["times"]["resize_on_device_ms"] > 0 and "| target | at most |" in result.stdout


def load_script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_judge_each_target() -> None:
    found = {"engine_only_ms": 0.9, "bare_execution_ms": 0.6, "pipeline_maps_out_ms": 5.0}
    lines = load_script().tables("tensorrt 10 on X fp16", "512x1024", found).splitlines()
    assert lines[0] == "| tensorrt 10 on X fp16 | 512x1024 | 0.90 ms | 0.60 ms |  | 5.00 ms |  |"
    assert lines[4:] == [
        "| engine_only_ms | 1.000 | 0.900 | yes |",
        "| pipeline_maps_out_ms | 3.333 | 5.000 | NO |",
        "| host_overhead_ms | 1.500 | not measured |  |",
        "| engine_only_ms over bare_execution_ms | 1.300 | 1.500 | NO |",
    ]


def test_two_under_way_are_timed_without_losing_a_frame() -> None:
    class Run:
        """Counts; at most two may be under way."""

        outputs = {"depth_m": (np.dtype(np.float32), (1, 2)), "latent": (np.dtype(np.float32), (1, 2))}
        submitted = collected = 0

        def submit(self, feeds, wanted):
            assert self.submitted - self.collected < 2 and wanted == {"depth_m"}
            self.submitted += 1

        def collect(self, results):
            assert set(results) == {"depth_m"} and self.collected < self.submitted
            self.collected += 1

    run = Run()
    assert load_script().pipelined_ms(run, {}, ["depth_m"], 7) > 0
    assert run.submitted == run.collected == 8


def test_without_a_gpu_one_sentence_is_said(tiny_model: Path) -> None:
    try:
        open_device().close()
    except EngineError:
        result = run("--backend", "tensorrt", "--model", tiny_model)
        assert result.returncode == 1 and "FAIL" in result.stdout and "Traceback" not in result.stderr
    else:
        pytest.skip("there is a GPU")
