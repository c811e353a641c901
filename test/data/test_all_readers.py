# SPDX-License-Identifier: Apache-2.0
"""The table of readers: each yields the samples of a tree that is written here, and names what is broken."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from test_layouts import CITY, SEMKITTI, STEP, write_tree
from test_readers import camvid_tree, published_drive
from test_sources_bags import Bag, camera_topics, stamps
from test_steering_log import OURS, write_log

from dvps_ros.cli.data import command
from dvps_ros.data.readers import READERS, Reading
from dvps_ros.errors import InputError

DATA = os.environ.get("DVPS_DATA", "")


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(4):
        assert cv2.imwrite(str(folder / f"{i}.png"), np.full((24, 32, 3), 40 * i, np.uint8))
    return folder


def write_video(folder: Path) -> Path:
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(str(folder / "drive.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 20, (32, 24))
    for i in range(4):
        writer.write(np.full((24, 32, 3), 40 * i, np.uint8))
    writer.release()
    return folder / "drive.avi"


def write_idd(root: Path) -> Path:
    for folder, name, value in (("leftImg8bit", "1_image.jpg", 90), ("gtFine", "1_label.png", 2)):
        (root / folder / "train" / "00").mkdir(parents=True)
        shape = (16, 24, 3) if value == 90 else (16, 24)
        assert cv2.imwrite(str(root / folder / "train" / "00" / name), np.full(shape, value, np.uint8))
    return root


def write_camvid(root: Path) -> Path:
    camvid_tree(root)
    (root / "train").rename(root / "val")
    (root / "trainannot").rename(root / "valannot")
    return root


def tree_of(layout):  # type: ignore[no-untyped-def]
    def write(root: Path) -> Path:
        write_tree(layout, root)
        return root

    return write


def write_steering(root: Path) -> Path:
    return write_log(root, OURS, {f"a/{i}.png": i for i in range(3)})


CASES = {
    "cityscapes-dvps": (tree_of(CITY), 6, 4, {"class_map", "instance_map", "depth_m"}),
    "semkitti-dvps": (tree_of(SEMKITTI), 6, 4, {"class_map", "instance_map", "depth_m"}),
    "kitti-step": (tree_of(STEP), 6, 4, {"class_map", "instance_map"}),
    "kitti-raw": (
        published_drive,
        2,
        1,
        {"class_map", "instance_map", "depth_m", "flow_px", "world_from_camera", "steering_rad", "speed_mps"}
        | {"stamps_ns"},
    ),
    "camvid": (write_camvid, 1, None, {"coarse_map", "instance_map"}),
    "idd-lite": (write_idd, 1, None, {"coarse_map", "instance_map"}),
    "steering-log": (write_steering, 3, 2, {"steering_rad", "speed_mps", "stamps_ns"}),
    "video": (write_video, 4, 3, {"stamps_ns"}),
    "images": (write_images, 4, 3, {"stamps_ns"}),
}
"""Data set -> what writes it, its frames, its clips of two frames, and the truth that is known."""
TRUTH = ("class_map", "coarse_map", "instance_map", "depth_m", "flow_px", "moving", "world_from_camera")
TRUTH += ("steering_rad", "speed_mps", "stamps_ns")


@pytest.mark.parametrize("name", CASES)
def test_samples_and_check_of_a_whole_tree(name, tmp_path):
    write, frames, pairs, truth = CASES[name]
    place = str(write(tmp_path / "tree"))
    how = Reading(fov_deg=60.0)
    samples = list(READERS[name].samples(place, how))
    assert len(samples) == frames
    for sample in samples:
        assert len(sample.images) == 1 and sample.source
        assert {k for k in TRUTH if getattr(sample, k) is not None} == truth
    assert list(READERS[name].problems(place, how)) == [None] * frames
    clips = READERS[name].samples(place, Reading(frames=2, fov_deg=60.0))
    if pairs is None:
        with pytest.raises(InputError, match="single images, not clips of 2 frames"):
            list(clips)
    else:
        clips = list(clips)
        assert len(clips) == pairs
        np.testing.assert_array_equal(clips[0].images[0], samples[0].images[0])
        np.testing.assert_array_equal(clips[0].images[1], samples[1].images[0])


@pytest.mark.parametrize("name", CASES)
def test_check_finds_every_damaged_file(name, tmp_path):
    """Each image, label and depth file in turn is cut to its first bytes: its name must come up."""
    write = CASES[name][0]
    place = write(tmp_path / "tree")
    files = sorted(p for p in (tmp_path / "tree").rglob("*") if p.suffix in (".png", ".jpg", ".avi", ".bin"))
    assert files
    for path in files[:4]:
        whole = path.read_bytes()
        path.write_bytes(whole[:9])
        problems = [p for p in READERS[name].problems(str(place), Reading(fov_deg=60.0)) if p]
        assert len(problems) == 1 and str(path) in problems[0]
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["cityscapes-dvps", "semkitti-dvps", "kitti-step", "camvid", "idd-lite"])
def test_check_finds_every_missing_file(name, tmp_path):
    place = CASES[name][0](tmp_path / "tree")
    for path in sorted(p for p in (tmp_path / "tree").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.unlink()
        problems = [p for p in READERS[name].problems(str(place), Reading()) if p]
        assert problems, f"{path} is missing and nobody says so"
        path.write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_place_that_is_none_is_one_sentence(name, there, tmp_path):
    place = tmp_path / "place"
    if there:
        place.mkdir()
    assert len(list(READERS[name].problems(str(place), Reading()))) == 1
    with pytest.raises(InputError):
        list(READERS[name].samples(str(place), Reading()))


def test_check_finds_a_gap_in_a_sequence(tmp_path):
    for files in write_tree(STEP, tmp_path)[1:2]:
        files.labels[0].unlink()
        files.image.unlink()
    (problem,) = [p for p in READERS["kitti-step"].problems(str(tmp_path), Reading()) if p]
    assert problem == "sequence 000000: frames are missing between 000000 and 000002"


def test_bag(tmp_path):
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "compressed")
    topics["/front/image_raw/compressed"][1].data = np.frombuffer(b"no picture", np.uint8)
    place = str(bag.write(tmp_path / "drive", topics))
    clips = list(READERS["bag"].samples(place, Reading()))
    assert len(clips) == 2 and clips[0].stamps_ns.tolist() == [stamps(3)[0]] and clips[0].depth_m is None
    found = list(READERS["bag"].problems(place, Reading()))
    assert found[:2] == [None, None] and "cannot decode an image of 10 bytes" in found[2] and len(found) == 3


def test_world_yields_samples_with_everything():
    (sample,) = READERS["world"].samples("world:5:1", Reading())
    assert sample.depth_m.max() > 10 and len(np.unique(sample.class_map)) > 4
    assert sample.stamps_ns.tolist() == [1_000_000_000]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    return result.exit_code, result.output + str(result.exception or "")


def test_commands(tmp_path):
    code, text = run("list")
    assert code == 0 and all(name in text for name in READERS)
    written = write_tree(CITY, tmp_path)
    code, text = run("check", "cityscapes-dvps", tmp_path)
    assert code == 0 and "6 frames are whole and consistent" in text
    code, text = run("show", "cityscapes-dvps", tmp_path, "--frames", 2, "--out", tmp_path / "clip.png")
    picture = cv2.imread(str(tmp_path / "clip.png"))
    assert code == 0 and picture.shape == (2 * 320, 3 * 640, 3) and "cityscapes-dvps 000000/000000" in text
    code, text = run("show", "cityscapes-dvps", tmp_path, "--out", tmp_path / "clip.jpg")
    assert code == 1 and "a name that ends in .png, got" in text and not (tmp_path / "clip.jpg").exists()
    code, text = run("show", "cityscapes-dvps", tmp_path, "--index", 6, "--out", tmp_path / "no.png")
    assert code == 1 and "holds no clip number 6" in text and not (tmp_path / "no.png").exists()
    written[2].depth.write_bytes(b"")
    written[3].image.unlink()
    code, text = run("check", "cityscapes-dvps", tmp_path)
    assert code == 1 and str(written[2].depth) in text and "no image file beside it" in text
    assert "2 problems in 6 frames" in text
    code, text = run("check", "cityscapes", tmp_path)
    assert code == 1 and "expected one of cityscapes-dvps, " in text


@pytest.mark.skipif(not DATA, reason="DVPS_DATA is not set")
@pytest.mark.parametrize(
    ("name", "place", "frames"),
    [
        ("camvid", "camvid", 101),
        ("idd-lite", "idd_lite", 174),
        ("kitti-raw", "kitti_0005", 154),
        ("bag", "bags/kitti_0005_mcap", 100),
        ("bag", "bags/recorded_raspicam.bag", 1),
        ("video", "videos/taiwan_freeway_a_960x544.mp4", 219),
        ("images", "kitti_odo_straight/image_0", 51),
    ],
)
def test_real_data_is_whole(name, place, frames):
    fov_deg = 80.0 if name in ("video", "images") else None
    assert list(READERS[name].problems(str(Path(DATA) / place), Reading(fov_deg=fov_deg))) == [None] * frames
