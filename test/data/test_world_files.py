# SPDX-License-Identifier: Apache-2.0
"""``dvps world`` writes trees that the data-set readers read back as rendered."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.cli.world import command
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.data.world.files import TRUTH_COLUMNS, from_project
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
    (sample,) = layout.samples(tmp_path, "train", 3)
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

    truth = tmp_path / "truth" / "train"
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


def test_classes_find_their_place_in_semantic_kitti():
    table = from_project(LAYOUTS["semkitti-dvps"])
    space = LAYOUTS["semkitti-dvps"].space
    for ours, theirs in (("car", "car"), ("rider", "bicyclist"), ("bus", "other-vehicle"), ("wall", "fence")):
        assert space.names[table[CITYSCAPES.id_of(ours)]] == theirs
    assert table[CITYSCAPES.id_of("sky")] == 255


def test_a_wrong_size_is_refused(tmp_path):
    result = CliRunner().invoke(command, ["--size", "wide", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "512x1024" in result.output
