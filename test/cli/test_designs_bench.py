# SPDX-License-Identifier: Apache-2.0
"""The bench of designs: the front by hand, a tiny model scored and timed, parts of a report that are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_model import paint, write_tiny_model

from dvps_ros.bench import designs
from dvps_ros.bench.designs import held_out_clips, kept_parts, pareto_front, table
from dvps_ros.cli.bench import command
from dvps_ros.cli.options import ImageSize
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.runtime.manifest import MANIFEST, hash_file
from dvps_ros.types import Sample


def row(ms: float | None, miou: float | None, abs_rel: float = 0.5, **keys: str) -> dict:
    return {
        "model": "m", "size": "64x128", "precision": "fp32", "backend": "onnxruntime", "digest": "1", **keys,
        "quality": miou and {"miou": miou, "pq": miou, "pq_things": None, "abs_rel": abs_rel},
        "ms": ms and {"median": ms, "quartile_1": ms - 1, "quartile_3": ms + 1, "runs": 9},
    }  # fmt: skip


def test_the_front_by_hand() -> None:
    rows = [
        row(30, 0.6, 0.10),
        row(10, 0.4, 0.30),
        row(20, 0.3, 0.20),  # slower and worse than the one before, but better in depth
        row(10, 0.35, 0.35),  # as fast, worse
        row(40, 0.6, 0.05),  # as good, slower
        row(None, 0.9, 0.01),
        row(5, None),
    ]
    assert pareto_front(rows, "miou") == [1, 0]
    assert pareto_front(rows, "abs_rel") == [1, 2, 0, 4]
    assert pareto_front(rows, "pq_things") == []
    lines = table(rows).splitlines()
    assert lines[2] == "| m | 64x128 | fp32 | **0.600** | **0.600** | - | **0.100** | 30.0 (29.0 - 31.0) |"
    assert lines[4] == "| m | 64x128 | fp32 | 0.300 | 0.300 | - | **0.200** | 20.0 (19.0 - 21.0) |"
    assert lines[7].endswith("| - |") and lines[8].count(" - ") >= 4


def test_only_parts_of_the_same_weights_on_the_same_engine_are_kept() -> None:
    old = [row(3, 0.5)]
    assert kept_parts(row(None, None), old) == {"quality": old[0]["quality"], "ms": old[0]["ms"]}
    for change in ({"digest": "2"}, {"precision": "int8"}, {"size": "32x64"}, {"backend": "openvino"}):
        assert kept_parts(row(None, None, **change), old) == {"quality": None, "ms": None}


def test_held_out_worlds_differ_and_move() -> None:
    first, second = held_out_clips(2, ImageSize(64, 128))
    for clip in (first, second):
        assert len(clip) == 2 and (clip[0].images != clip[1].images).any()
        assert clip[0].class_map.shape == (1, 64, 128) and (clip[1].depth_m > 0).mean() > 0.2
    assert (first[0].images != second[0].images).any() and (first[0].intrinsics != second[0].intrinsics).any()


def painted_clip() -> list[Sample]:
    """What the tiny model knows: palette colours; a car, road at the depth it computes, sky."""
    frames = []
    # The tiny model's road, 1.5 m below the camera.
    road_m = np.clip(1.5 * 128 / np.maximum(np.arange(64) - 31.5, 0.5), 1, 79)[:, None]
    for car_x in (32, 40):
        image = paint(64, 128, car_x=car_x)
        class_map = np.where(np.arange(64)[:, None] < 32, CITYSCAPES.id_of("sky"), CITYSCAPES.id_of("road"))
        class_map = np.repeat(class_map, 128, 1).astype(np.uint8)
        car = np.zeros((64, 128), bool)
        car[32:48, car_x : car_x + 32] = True
        class_map[car] = CITYSCAPES.id_of("car")
        frames.append(
            Sample(
                image[None],
                np.array([[128, 128, 63.5, 31.5]], np.float32),
                "painted",
                class_map=class_map[None],
                instance_map=car.astype(np.int32)[None],
                depth_m=np.where(class_map == CITYSCAPES.id_of("sky"), 0, road_m).astype(np.float32)[None],
            )
        )
    return frames


@pytest.fixture
def small_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(designs, "held_out_clips", lambda *_: iter([painted_clip()]))


def call(*arguments: object) -> str:
    fixed = ["designs", "--backend", "onnxruntime", "--rounds", "3", "--worlds", "1"]
    result = CliRunner().invoke(command, [*fixed, *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("small_machine")
def test_quality_once_and_times_again(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "designs.json"
    out = call(tiny_model, "--precision", "fp32", "--precision", "int8", "--no-time", "--json", path)
    assert "tiny 64x128 int8 is left out" in out and "not calibrated" in out
    first = json.loads(path.read_text())
    assert [(r["size"], r["precision"]) for r in first["rows"]] == [("64x128", "fp32"), ("96x96", "fp32")]
    exact, other = (r["quality"] for r in first["rows"])
    # At the camera's own size all but the car's corners is right; letterboxed into 96x96 less.
    assert exact["miou"] > 0.99 and exact["pq"] > 0.99 and exact["pq_things"] > 0.99
    assert 0.5 < other["miou"] < exact["miou"]
    assert exact["abs_rel"] < 0.02 and all(r["ms"] is None for r in first["rows"])
    assert first["quality_made"]["image_size"] == "512x1024" and "time_made" not in first

    call(tiny_model, "--precision", "fp32", "--no-quality", "--json", path)
    second = json.loads(path.read_text())
    assert [r["quality"] for r in second["rows"]] == [exact, other]
    assert all(
        0 < r["ms"]["quartile_1"] <= r["ms"]["median"] <= r["ms"]["quartile_3"] for r in second["rows"]
    )
    assert second["quality_made"] == first["quality_made"] and second["time_made"]["machine"]["cores"] > 0
    assert path.with_suffix(".png").stat().st_size > 10_000

    shown = call("--json", path)
    assert shown.count("| tiny |") == 2 and json.loads(path.read_text()) == second


@pytest.mark.usefixtures("small_machine")
def test_other_weights_lose_the_old_scores(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "designs.json"
    model = write_tiny_model(tmp_path / "m")
    call(model, "--precision", "fp32", "--no-time", "--json", path)
    shutil.rmtree(model)
    write_tiny_model(model, ((64, 160),))
    report = json.loads(path.read_text())
    report["rows"][0]["digest"] = "of other weights"
    path.write_text(json.dumps(report))
    call(model, "--precision", "fp32", "--no-quality", "--json", path)
    (left,) = json.loads(path.read_text())["rows"]
    assert left["quality"] is None and left["ms"]["median"] > 0


@pytest.mark.usefixtures("small_machine")
def test_engines_that_fail_their_golden_frames_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "designs.json"
    model = write_tiny_model(tmp_path / "wrong")
    (np.fromfile(model / "weights.bin", np.float32) * 1.3).tofile(model / "weights.bin")
    manifest = json.loads((model / MANIFEST).read_text())
    manifest["weights"]["sha256"] = hash_file(model / "weights.bin")
    (model / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds no results"):
        call(model, "--precision", "fp32", "--no-quality", "--json", path)
    call(model, "--precision", "fp32", "--no-quality", "--no-verify", "--json", path)
    assert json.loads(path.read_text())["rows"][0]["ms"]["median"] > 0


def test_refusals(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "designs.json"
    for content, message in (
        (None, "holds no results: name models"),
        ("{", "not written by `dvps bench designs`"),
        ('{"rows": [{"model": "m"}]}', "a row lacks keys"),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match=message):
            call("--json", path)
    result = CliRunner().invoke(
        command, ["designs", "lite", "--image-size", "big", "--json", str(tmp_path / "x")]
    )
    assert result.exit_code == 2 and "expected HxW" in result.output
