# SPDX-License-Identifier: Apache-2.0
"""The whole graph of processes on a painted scene that the tiny model understands, and ``dvps run`` on it."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_model import paint

from dvps_ros.bench import demonstration, facts
from dvps_ros.cli import demo, run
from dvps_ros.data.scene_files import write_scene
from dvps_ros.data.sources import open_source
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.ros.probes.processes import GraphError
from dvps_ros.types import CameraModel, Sample

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("dvps_ros.msg", reason="needs the built messages")

H, W, FRAMES = 64, 128, 12
CAMERA = CameraModel(W, H, 100.0, 100.0, 63.5, 31.5)


def truth(index: int) -> Sample:
    """A car that moves 2 px a frame over a road 1.5 m below the camera: what the tiny model sees exactly."""
    image = paint(H, W, car_x=8 + 2 * index)
    distance = np.abs(image[:, :, None].astype(int) - CITYSCAPES.palette[:19].astype(int)).sum(-1)
    classes = distance.argmin(-1).astype(np.uint8)
    rows = np.repeat(np.arange(H, dtype=np.float32)[:, None], W, 1)
    depth = np.where(rows > H // 2 + 4, 1.5 * CAMERA.fy / np.maximum(rows - CAMERA.cy, 1), 0)
    return Sample(
        image[None],
        CAMERA.vector[None],
        f"painted/{index}",
        class_map=classes[None],
        instance_map=(classes == CITYSCAPES.id_of("car"))[None].astype(np.int32),
        depth_m=depth[None].astype(np.float32),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted") / "scene"
    write_scene(folder, map(truth, range(FRAMES)), CAMERA, name="painted", rate_hz=5.0)
    return folder


def call(command, *arguments: object) -> None:
    command.main([str(a) for a in arguments], standalone_mode=False)


def check_report(report: dict) -> None:
    assert list(report) == list(facts.REPORT_KEYS)
    assert report["frames_in"] == FRAMES
    assert report["frames_dropped"] == FRAMES - report["frames_processed"]
    assert report["model"].startswith("tiny") and report["backend"] and report["peak_rss_mib"] > 50
    assert report["latency_ms"]["p50"] > 0 and "engine" in report["stages_ms"]
    quality = report["quality"]
    assert quality["frames"] == report["frames_processed"]
    assert quality["pq"]["all"] > 0.9 and quality["depth"]["abs_rel"] < 0.05
    objects = quality["objects"]
    assert objects["objects"] == 1 and objects["found"] == 1.0 and objects["ids_kept"] == 1.0


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """The demo sets the middleware's variables for its own process, which here is that of all tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def demo_out(scene: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    # One frame after the other: no frame is dropped, however slow the machine.
    call(demo.command, "--input", scene, "--out", out, "--model", tiny_model, "--rate", 0)
    return out


@pytest.fixture(scope="module")
def run_out(scene: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    call(run.command, scene, "--out", out, "--model", tiny_model, "--save-maps")
    return out


def test_demo_results(demo_out: Path) -> None:
    report = json.loads((demo_out / "report.json").read_text())
    assert report["frames_processed"] == FRAMES
    check_report(report)
    for name in ("report.html", "demo.mp4", "cloud.ply", "tracks.csv"):
        assert (demo_out / name).stat().st_size > 500, name
    assert not [p for p in demo_out.rglob("*") if p.name.startswith(".")], "nothing half-written is left"


def test_the_demo_bag_is_an_input_again(demo_out: Path) -> None:
    source = open_source(str(demo_out / "bag"))
    images = [frame.image for frame in source]
    assert len(images) == FRAMES and source.camera == CAMERA
    assert all((image == truth(i).images[0]).all() for i, image in enumerate(images))


def test_run_results(run_out: Path) -> None:
    check_report(json.loads((run_out / "report.json").read_text()))
    with (run_out / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"car"} and len(rows) >= FRAMES


def test_run_takes_the_part_of_a_drive_that_is_asked_for(
    scene: Path, run_out: Path, tiny_model: Path, tmp_path: Path
) -> None:
    part = ("--skip-frames", 2, "--max-frames", 3)
    call(run.command, scene, "--out", tmp_path, "--model", tiny_model, "--save-maps", *part)
    everything = sorted(p.name for p in (run_out / "maps").iterdir())
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == everything[2:5]
    with pytest.raises(InputError, match=f"has {FRAMES} frames; skip fewer than {FRAMES}"):
        call(run.command, scene, "--out", tmp_path, "--model", tiny_model, "--skip-frames", FRAMES)


def test_maps_of_an_earlier_run_do_not_stay(
    scene: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "maps").mkdir()
    for name in ("999000000000.npz", "mine.npz"):
        (tmp_path / "maps" / name).write_bytes(b"")
    call(run.command, scene, "--out", tmp_path, "--model", tiny_model, "--save-maps", "--max-frames", 1)
    left = {p.name for p in (tmp_path / "maps").iterdir()}
    assert "999000000000.npz" not in left and "mine.npz" in left and len(left) == 2
    (tmp_path / "maps" / "mine.npz").unlink()
    assert f"{tmp_path / 'maps'}" in capsys.readouterr().out
    call(run.command, scene, "--out", tmp_path, "--model", tiny_model, "--max-frames", 1)
    assert not (tmp_path / "maps").exists() and f"{tmp_path / 'maps'}" not in capsys.readouterr().out


def test_run_and_graph_give_the_same_maps_bit_for_bit(demo_out: Path, run_out: Path) -> None:
    from dvps_ros.ros.recorded import read_frames

    published = list(read_frames(demo_out / "bag", image_topic=demonstration.IMAGE, node=demonstration.NODE))
    assert len(published) == FRAMES
    for frame in published:
        with np.load(run_out / "maps" / f"{frame.stamp_ns}.npz") as maps:
            for name in ("class_map", "track_map", "depth_m", "confidence"):
                want, got = maps[name], getattr(frame.panoptic, name)
                assert want.dtype == got.dtype and want.tobytes() == got.tobytes(), name


def test_a_node_that_fails_ends_the_demo_with_its_sentence(
    scene: Path, tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(demonstration, "rate_parameters", lambda _: {"rate_hz": -7.0})
    with pytest.raises(GraphError, match=r"^player: rate_hz: expected -1.0 to 1000.0, got -7.0"):
        call(demo.command, "--input", scene, "--out", tmp_path / "out", "--model", tiny_model)
    assert not (tmp_path / "out" / "report.json").exists()


def test_values_that_do_not_hold_end_the_demo_with_a_failure(
    scene: Path, tiny_model: Path, demo_out: Path, tmp_path: Path, monkeypatch
) -> None:
    def recorded_before(out: Path, *_: object) -> demonstration.Ran:
        shutil.copytree(demo_out / "bag", out / "bag")
        shutil.copy(demo_out / demonstration.SENT, out / demonstration.SENT)
        return demonstration.Ran({}, 100.0)

    monkeypatch.setattr(demonstration, "run_graph", recorded_before)
    monkeypatch.setattr(demonstration, "INPUT_LIMITS", {"relative depth error": ("<=", 0.0)})
    with pytest.raises(demonstration.VerdictFailed, match="missed: relative depth error is"):
        call(demo.command, "--input", scene, "--out", tmp_path / "out", "--model", tiny_model, "--rate", 0)
    assert "Failed" in (tmp_path / "out" / "report.html").read_text()
