# SPDX-License-Identifier: Apache-2.0
"""``dvps world`` writes trees that the data-set readers read back as rendered."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.cli.world import command
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.files import TRUTH_COLUMNS, ahead, from_project, write_sequence
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import CameraModel


@pytest.fixture(scope="module")
def clip():
    return World(WorldConfig(seed=1)).clip(3, CameraModel.from_fov(128, 64, 80.0), scene_flow=True)


@pytest.mark.parametrize("name", ["cityscapes-dvps", "kitti-step", "semkitti-dvps"])
def test_written_sequences_read_back(tmp_path, clip, name):
    arguments = ["--seed", "1", "--frames", "3", "--size", "64x128", "--layout", name, "--out", str(tmp_path)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "3 frames" in result.output

    layout = LAYOUTS[name]
    (sample,) = layout.samples(tmp_path, "val", 3)
    np.testing.assert_array_equal(sample.images, clip.images)
    known = np.isin(clip.class_map, np.unique(layout.to_project(np.arange(19, dtype=np.uint8))))
    np.testing.assert_array_equal(sample.class_map[known], clip.class_map[known])
    if name != "kitti-step":
        near = clip.depth_m < 250
        np.testing.assert_allclose(sample.depth_m[near], clip.depth_m[near], atol=1 / 512 + 1e-6)
    # Ids differ in number, not in meaning: each written id is one rendered id, over the whole clip.
    thing = (sample.instance_map > 0) & known
    assert thing.any()
    pairs = np.unique(np.stack([sample.instance_map[thing], clip.instance_map[thing]]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]

    truth = tmp_path / "truth" / "val"
    with np.load(truth / "000001" / "000002.npz") as maps:
        np.testing.assert_array_equal(maps["flow_px"], clip.flow_px[2])
        np.testing.assert_array_equal(maps["scene_flow_m"], clip.scene_flow_m[2])
        np.testing.assert_array_equal(maps["moving"], clip.moving[2])
    with (truth / "000001.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == TRUTH_COLUMNS and len(rows) == 3
    pose, mount = np.array(rows[2][-24:], float).reshape(2, 3, 4)
    np.testing.assert_allclose(pose, clip.world_from_camera[2][:3])
    np.testing.assert_allclose(mount, World(WorldConfig(seed=1)).base_from_camera[:3])
    assert float(rows[1][1]) == 0.1
    np.testing.assert_allclose(
        np.array([row[6:8] for row in rows], float), np.stack([clip.steering_rad, clip.speed_mps], 1)
    )
    assert not list(tmp_path.rglob("*.part"))


def test_two_sequences_at_a_time_are_the_same_files(tmp_path):
    arguments = ["--seed", "4", "--frames", "1", "--size", "64x128", "--sequences", "2"]
    for jobs in ("1", "2"):
        out = ["--jobs", jobs, "--out", str(tmp_path / jobs)]
        assert CliRunner().invoke(command, [*arguments, *out], catch_exceptions=False).exit_code == 0
    trees = [
        {
            p.relative_to(tmp_path / jobs): p.read_bytes()
            for p in (tmp_path / jobs).rglob("*")
            if p.suffix == ".png"
        }
        for jobs in ("1", "2")
    ]
    assert len(trees[0]) >= 6 and trees[0] == trees[1]
    tables = [(tmp_path / jobs / "truth/val/000005.csv").read_bytes() for jobs in ("1", "2")]
    assert tables[0] == tables[1]


INTERRUPTED = """
import sys
from pathlib import Path
from dvps_ros.ros.world_sequences import Sequence, write_all
from dvps_ros.data.world import WorldConfig
from dvps_ros.types import CameraModel

def interrupt(frames):
    raise KeyboardInterrupt

if __name__ == "__main__":
    camera = CameraModel.from_fov(64, 32, 80.0)
    rest = (camera, 150, 10.0, "kitti-step", Path(sys.argv[1]), "val", "raw")
    write_all([Sequence(WorldConfig(seed=k), *rest) for k in range(3)], 2, interrupt)
"""


def test_ctrl_c_ends_all_workers(tmp_path):
    """Also the third sequence, which the executor had handed out already."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    arguments = [sys.executable, str(tmp_path / "interrupted.py"), str(tmp_path / "out")]
    process = subprocess.run(
        arguments, stderr=subprocess.PIPE, text=True, timeout=240
    )  # waits for its workers
    assert process.stderr.endswith("KeyboardInterrupt\n")
    truth = tmp_path / "out" / "truth" / "val"
    begun = sorted(truth.iterdir())  # a whole one has its table beside it
    assert begun and {path.name for path in begun} <= {"000000", "000001"}
    assert max(len(list(folder.iterdir())) for folder in begun) < 150


def test_an_existing_sequence_is_refused_before_anything_is_rendered(tmp_path):
    (tmp_path / "truth/val/000008").mkdir(parents=True)
    arguments = [
        "--seed",
        "7",
        "--sequences",
        "2",
        "--frames",
        "1",
        "--size",
        "64x128",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "000008 exists already: remove it, or choose another --out or --seed" in str(result.exception)
    assert not (tmp_path / "video_sequence").exists()


def test_a_full_disk_is_a_sentence(tmp_path, clip, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        InputError, match="000001, which is left unfinished.*No space left.*choose another --out"
    ):
        write_sequence(
            [clip], LAYOUTS["kitti-step"], tmp_path, split="train", sequence="000001", rate_hz=10.0,
            base_from_camera=np.eye(4),
        )  # fmt: skip
    assert not (tmp_path / "truth/train/000001.csv").exists()


def test_rendering_ahead_keeps_order_and_passes_errors_on():
    def numbers():
        yield from range(5)
        raise InputError("the end of the world")

    with ahead(numbers(), 2) as items:
        assert [next(items) for _ in range(5)] == list(range(5))
        with pytest.raises(InputError, match="end of the world"):
            next(items)
    endless = iter(int, 1)
    with ahead(endless, 2) as items:  # and it ends when nobody takes any more
        assert next(items) == 0


def test_classes_find_their_place_in_semantic_kitti():
    table = from_project(LAYOUTS["semkitti-dvps"])
    space = LAYOUTS["semkitti-dvps"].space
    for ours, theirs in (("car", "car"), ("rider", "bicyclist"), ("bus", "other-vehicle"), ("wall", "fence")):
        assert space.names[table[CITYSCAPES.id_of(ours)]] == theirs
    assert table[CITYSCAPES.id_of("sky")] == 255


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "wide"], "expected HxW such as 512x1024, got wide"),
        (["--size", "8x1024"], "expected 16 to 8192 pixels each way, got 8x1024"),
        (["--size", "100000x100000"], "expected 16 to 8192 pixels"),
        (["--layout", "nuscenes"], "'cityscapes-dvps', 'semkitti-dvps', 'kitti-step', 'mcap'"),
        (["--frames", "0"], "0 is not in the range"),
    ],
)
def test_wrong_options_are_refused(tmp_path, arguments, words):
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 2 and words in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--style", "moon"], "expected a style of auto, residential"),
        (["--fov", "190"], "less than 180 degrees"),
    ],
)
def test_wrong_values_are_refused(tmp_path, arguments, words):
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 1 and words in str(result.exception)
