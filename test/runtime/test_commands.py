# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import shutil
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dvps_ros.cli import bench, doctor
from dvps_ros.cli.main import main
from dvps_ros.config import EngineConfig
from dvps_ros.runtime.backends import BACKENDS, installed
from dvps_ros.runtime.pipeline import STAGES, DvpsPipeline


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    level = logging.getLogger("dvps_ros").level
    yield
    logging.getLogger("dvps_ros").setLevel(level)


def run(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_bench_reports_stages_and_engines(tiny_model, tmp_path):
    path = tmp_path / "bench.json"
    cameras = ("--camera", "160x80", "--camera", "96x96")
    result = run(bench.command, "--model", tiny_model, *cameras, "--frames", 6, "--json", path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert set(report) == {"command", "commit", "machine", "stages_ms", "engines_ms"}
    assert list(report["stages_ms"]) == ["160x80", "96x96"]
    for size, graph in (("160x80", "64x128"), ("96x96", "96x96")):
        stages = report["stages_ms"][size].copy()
        assert f"tiny 1 at {graph}" in stages.pop("engine_name")
        assert list(stages) == [*STAGES, "host", "total"]
        for spread in stages.values():
            assert 0 < spread["quartile_1"] <= spread["median"] <= spread["quartile_3"] <= spread["max"]
        assert stages["total"]["median"] > stages["host"]["median"]
    engines = [f"{name} {p}" for name, b in installed().items() for p in b.choices(EngineConfig())]
    assert list(report["engines_ms"]) == ["64x128", "96x96"]
    assert all(list(times) == engines for times in report["engines_ms"].values())
    assert "host" in result.output and "engines at 96x96" in result.output


def test_bench_refuses_a_size_it_cannot_read(tiny_model):
    result = run(bench.command, "--model", tiny_model, "--camera", "huge")
    assert result.exit_code == 2 and "expected WIDTHxHEIGHT such as 1242x375, got huge" in result.output


def test_doctor_is_content(tiny_model):
    result = run(doctor.command, "--model", tiny_model)
    assert result.exit_code == 0, result.output
    for name in BACKENDS:
        assert f"{'ok     ' if name in installed() else 'note   '}{name} " in result.output
    assert "model tiny 64x128: golden frames fit on onnxruntime fp32" in result.output
    assert "0 broken" in result.output


def test_a_failed_command_has_a_status_that_a_shell_sees(tiny_model, tmp_path, monkeypatch, capsys):
    """The one of ``dvps`` itself, not of click's test runner."""

    def dvps(*arguments):
        monkeypatch.setattr(sys, "argv", ["dvps", *map(str, arguments)])
        return main()

    build = ("engine", "build", "--model", tiny_model, "--backend", "onnxruntime", "--size", "64x128")
    assert dvps(*build) == 0 and dvps("engine", "list") == 0 and dvps("--version") == 0
    assert dvps(*build, "--precision", "int8") == 1
    assert "was not calibrated yet" in capsys.readouterr().out
    assert dvps("engine", "build", "--nonsense") == 2
    assert dvps("engine", "verify", "--model", tmp_path / "none") == 1


def test_a_folder_that_cannot_be_written_is_one_sentence_before_the_work(tmp_path, monkeypatch, capsys):
    def open_pipeline(*_):
        raise AssertionError("begun, though its results have no place")

    monkeypatch.setattr(DvpsPipeline, "open", open_pipeline)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    monkeypatch.setattr(sys, "argv", ["dvps", "run", "world:1:2", "--out", str(out)])
    assert main() == 1
    assert capsys.readouterr().err == f"dvps: [Errno 20] Not a directory: '{out}'\n"


def test_doctor_finds_a_damaged_and_a_missing_model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "check_ros", lambda: iter(()))
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "weights.bin").write_bytes(b"")
    result = run(doctor.command, "--model", model)
    assert result.exit_code == 1 and "BROKEN model tiny 64x128 on onnxruntime fp32" in result.output
    assert "weights.bin is truncated" in result.output
    (model / "manifest.json").write_text("{}")
    assert run(doctor.command, "--model", model).exit_code == 1
    result = run(doctor.command, "--model", "absent")
    assert result.exit_code == 1 and "no model 'absent'" in result.output


def test_doctor_without_models_or_engines(tmp_path, monkeypatch):
    monkeypatch.setattr("dvps_ros.runtime.manifest.model_places", lambda: [tmp_path])
    (finding,) = doctor.check_models(None)
    assert finding.broken and str(tmp_path) in finding.what and "dvps export" in finding.remedy
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = {f.what: f for f in doctor.check_engines()}
    missing = found["openvino cannot be used here"]
    assert not missing.broken and "pip install openvino" in missing.remedy  # one engine is enough
    monkeypatch.setattr("dvps_ros.runtime.backends.BACKENDS", CPU := dict(list(BACKENDS.items())[:2]))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    findings = list(doctor.check_engines())
    assert len(findings) == len(CPU) and all(f.broken and "pip install" in f.remedy for f in findings)


def test_doctor_on_ros(monkeypatch):
    answers = {"import rclpy": "", "rmw": "rmw_fastrtps_cpp", "dvps_ros.msg": "4"}
    monkeypatch.setattr(doctor, "_python", lambda code: next(a for k, a in answers.items() if k in code))
    (finding,) = doctor.check_ros()
    assert finding.what == "no ROS 2 in this environment" and not finding.broken
    answers["import rclpy"] = "1"
    assert [f.remedy for f in doctor.check_ros()] == ["", ""]
    answers["dvps_ros.msg"] = ""
    assert [f.broken for f in doctor.check_ros()] == [False, True]
    answers["rmw"] = ""
    assert [f.what for f in doctor.check_ros()][1] == "rclpy cannot load a middleware"


def test_doctor_on_the_middleware(tmp_path, monkeypatch):
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    first = next(doctor.check_middleware())
    assert first.remedy.endswith("config/fastdds/large_messages.xml") and not first.broken
    profile = tmp_path / "profile.xml"
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
    assert "does not exist" in next(doctor.check_middleware()).what
    profile.write_text("")
    assert next(doctor.check_middleware()).remedy == ""
    usage = SimpleNamespace(total=64 << 20, free=64 << 20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    memory = list(doctor.check_middleware())[1]
    assert "64 MiB" in memory.what and "--shm-size" in memory.remedy


def test_doctor_runs_code_in_a_fresh_interpreter():
    assert doctor._python("print(6 * 7)") == "42"
    assert doctor._python("raise SystemExit(3)") == ""
    assert not doctor._imports("a_module_that_is_not_there")
