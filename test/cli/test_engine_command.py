# SPDX-License-Identifier: Apache-2.0
"""``dvps engine`` as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.cli.engine import command
from dvps_ros.cli.main import main
from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import MANIFEST, hash_file


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dvps_ros" / "engines"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


ORT = ("--backend", "onnxruntime", "--threads", 1)


def test_build_list_verify_clean(tiny_model: Path, engines: Path) -> None:
    assert "0 engines in" in run("list")
    built = run("build", "--model", tiny_model, *ORT)
    assert built.count("built in") == 2 and "panoptic" in built
    times = {p: p.stat().st_mtime_ns for p in engines.glob("*.plan")}
    assert run("build", "--model", tiny_model, *ORT).count("was there") == 2
    assert times == {p: p.stat().st_mtime_ns for p in engines.glob("*.plan")}
    assert "built in" in run("build", "--model", tiny_model, *ORT, "--size", "96x96", "--force")
    listed = run("list")
    assert listed.count("verified, current") == 2 and "tiny 64x128 onnxruntime fp32" in listed
    assert run("verify", "--model", tiny_model, *ORT).count("passed") == 2
    assert "0 engines removed" in run("clean")
    assert "2 engines removed" in run("clean", "--all") and "0 engines in" in run("list")


def test_a_resize_is_listed_beside_the_engine_it_is_for(tiny_model: Path, engines: Path) -> None:
    config = EngineConfig(backend="onnxruntime", precision="fp32", threads=1, resize_on_device=True)
    Engine.open(tiny_model, config, camera_size=(256, 128)).close()
    lines = run("list").splitlines()
    (line,) = (x for x in lines if x.startswith("resize 256x128 to 64x128 onnxruntime fp32"))
    assert "proved at each load, current" in line and lines[-1].startswith("2 engines in")
    assert "0 engines removed" in run("clean")
    (path,) = engines.glob("resize*.json")
    path.write_text(path.read_text().replace('"version": "', '"version": "0.'))
    assert "stale: of version 0." in run("list") and "1 engines removed" in run("clean")


def test_a_wrong_engine_is_refused_with_its_table_and_listed_so(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "wrong")
    (np.fromfile(model / "weights.bin", np.float32) * 1.3).tofile(model / "weights.bin")
    data = json.loads((model / MANIFEST).read_text())
    data["weights"]["sha256"] = hash_file(model / "weights.bin")
    (model / MANIFEST).write_text(json.dumps(data))
    output = run("verify", "--model", model, *ORT, "--size", "64x128", code=1)
    assert "REFUSED" in output and "class_logits" in output and "FAILS" in output
    assert "REFUSED" in run("list")


def test_what_this_machine_cannot_use_is_told_and_cleaned(
    tiny_model: Path, tmp_path: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "copy")
    run("build", "--model", model, *ORT, "--size", "64x128")
    kind = BACKENDS["onnxruntime"]
    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "onnxruntime", replace(kind, version=lambda: "9.9"))
        assert f"stale: of version {kind.version()}, here is 9.9" in run("list")
    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "onnxruntime", replace(kind, facts=lambda config: {"processor": "other"}))
        assert "here is other" in run("list")
    with monkeypatch.context() as patch:

        def version() -> str:
            raise EngineError("backend onnxruntime: pip install onnxruntime")

        patch.setitem(BACKENDS, "onnxruntime", replace(kind, version=version))
        assert "not usable: backend onnxruntime: pip install" in run("list")
    assert "current" in run("list")
    data = json.loads((model / MANIFEST).read_text())
    data["graphs"][0]["sha256"] = "0" * 64
    (model / MANIFEST).write_text(json.dumps(data))
    assert "stale: the model was exported again" in run("list")
    (engines / "x.plan.999999999.part").write_bytes(b"123")
    assert "left over" in run("list")
    assert "1 engines removed" in run("clean") and list(engines.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "nowhere"), "no model 'nowhere'"),
        (("--size", "1x1"), "it ships 64x128, 96x96"),
        (("--backend", "onnxruntime", "--precision", "bf16"), "no engine computes in bf16 here"),
    ],
)
def test_refusals(tiny_model: Path, arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        run("build", *(() if "--model" in arguments else ("--model", tiny_model)), *arguments)


def test_a_folder_that_cannot_be_written_is_told_and_the_engine_works(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = run("build", "--model", tiny_model, *ORT, "--size", "64x128", code=1)
    assert "built in" in told and "but not kept" in told and "panoptic" in told
    assert "cannot keep the engine" in caplog.text and "set XDG_CACHE_HOME" in caplog.text


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "tensorrt"])
def test_only_rtx_builds_for_another_gpu(
    tiny_model: Path,
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    backend: str,
) -> None:
    """Not an engine for the processor here, told to be for that GPU."""
    arguments = ["--model", str(tiny_model), "--backend", backend, "--target", "sm_89"]
    monkeypatch.setattr(sys, "argv", ["dvps", "engine", "build", *arguments])
    assert main() == 1
    assert f"only tensorrt_rtx builds for another GPU, not {backend}" in capsys.readouterr().err
    assert not engines.exists()


SLOW = """
import sys, time
from dataclasses import replace
from dvps_ros.cli import main
from dvps_ros.runtime.backends import BACKENDS
kind = BACKENDS["onnxruntime"]
def build(path, config, progress, folder):
    print("building", flush=True)
    for i in range(600):
        progress(f"step {i}")
        time.sleep(0.1)
BACKENDS["onnxruntime"] = replace(kind, build=build)
sys.exit(main.main())
"""


def test_an_interrupt_leaves_nothing_half_written(tiny_model: Path, engines: Path) -> None:
    arguments = ["engine", "build", "--model", str(tiny_model), "--backend", "onnxruntime"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "building\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "dvps: interrupted" in errors and "Traceback" not in errors
    assert not [p for p in engines.iterdir() if p.suffix != ".lock"]
    assert run("clean") == "0 engines removed, 0.0 MiB freed\n"
    assert list(engines.iterdir()) == []
