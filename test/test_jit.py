# SPDX-License-Identifier: Apache-2.0
"""Compiled loops where their cache has no room."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvps_ros import jit

NOWHERE = {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
"""Leaves numba no folder, as a read-only system without a writable home does."""


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    jit._say_once.cache_clear()


def python(script: str, *arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | NOWHERE | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_everything_runs_without_a_cache_and_says_so_once(tmp_path: Path, tiny_model: Path) -> None:
    run = "import sys; from dvps_ros.cli.main import main; sys.exit(main())"
    arguments = ["run", "world:3:2", "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    done = python(run, *arguments, "--backend", "onnxruntime", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.json").is_file()
    assert done.stderr.count("compiled code cannot be kept") == 1
    assert "set NUMBA_CACHE_DIR" in done.stderr


def test_every_part_imports_without_a_cache(tmp_path: Path) -> None:
    parts = "runtime.pipeline, metrics.evaluation, data.world, viz.report, viz.birds_eye, ros.nodes.dvps"
    script = "".join(f"import dvps_ros.{part.strip()}; " for part in parts.split(","))
    done = python(script, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr


def test_doctor_reports_it(tmp_path: Path) -> None:
    script = "from dvps_ros.cli.doctor import check_python; print(*check_python())"
    done = python(script, tmp_path=tmp_path)
    assert "compiled code cannot be kept" in done.stdout and "NUMBA_CACHE_DIR" in done.stdout


def test_a_full_disk_costs_only_the_cache(
    unsaid: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @jit.njit()
    def twice(x):
        return 2 * x

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(twice._cache._cache_file, "save", full)
    with caplog.at_level(logging.WARNING):
        assert twice(21) == 42 and twice(1.5) == 3.0
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "No space left" in caplog.text


def test_with_room_code_is_kept() -> None:
    assert jit.cache_problem() == ""
