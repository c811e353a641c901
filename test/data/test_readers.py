# SPDX-License-Identifier: Apache-2.0
"""Readers of CamVid, IDD-lite and KITTI on trees that the tests write, and on the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.data.cache import read_clip, write_clip
from dvps_ros.data.camvid import read_camvid
from dvps_ros.data.coarse import CoarseLabels
from dvps_ros.data.idd_lite import read_idd_lite
from dvps_ros.data.kitti_drive import DriveLidar
from dvps_ros.data.kitti_raw import KittiRaw, static_flow
from dvps_ros.data.kitti_velodyne import poses_from_oxts, project_scan, read_scan, steering_from_oxts
from dvps_ros.data.sources import open_source
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import CameraModel, Sample

DATA = os.environ.get("DVPS_DATA", "")
real = pytest.mark.skipif(not DATA, reason="DVPS_DATA is not set")
names = CITYSCAPES.names


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array if array.ndim == 2 else array[..., ::-1])


def camvid_tree(root: Path) -> np.ndarray:
    labels = np.full((60, 80), 3, np.uint8)  # road
    labels[:20] = 0  # sky
    labels[30:45, 10:40] = 8  # a car: a full rectangle
    labels[25:55, 50:52] = labels[25:27, 50:75] = 8  # an L: not one object
    labels[55:] = 11
    image = np.full((60, 80, 3), (200, 100, 50), np.uint8)
    write(root / "train" / "a_1.png", image)
    write(root / "trainannot" / "a_1.png", labels)
    return labels


def test_camvid(tmp_path):
    labels = camvid_tree(tmp_path)
    (sample,) = read_camvid(tmp_path, "train")
    assert sample.images.shape == (1, 60, 80, 3) and sample.images[0, 0, 0].tolist() == [200, 100, 50]
    np.testing.assert_array_equal(sample.coarse_map[0], np.where(labels == 11, 255, labels))
    assert {names[i] for i in sample.coarse_groups[8]} == {"car", "truck", "bus", "train"}
    ids = sample.instance_map[0]
    assert (ids[30:45, 10:40] == 1).all() and (ids[40, 50:52] == -1).all()
    assert (ids[:20] == 0).all() and (ids[55:] == -1).all()
    assert sample.depth_m is None and sample.class_map is None and "a_1" in sample.source


def test_camvid_refusals(tmp_path):
    with pytest.raises(InputError, match="found none"):
        list(read_camvid(tmp_path, "val"))
    camvid_tree(tmp_path)
    write(tmp_path / "trainannot" / "a_1.png", np.full((60, 80), 12, np.uint8))
    with pytest.raises(InputError, match=r"unknown classes \[12\]; expected 0 to 11"):
        list(read_camvid(tmp_path, "train"))
    write(tmp_path / "trainannot" / "a_1.png", np.zeros((60, 79), np.uint8))
    with pytest.raises(InputError, match="a_1.png: expected 60x80 pixels, got 60x79"):
        list(read_camvid(tmp_path, "train"))
    (tmp_path / "trainannot" / "a_1.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="a_1.png: expected a whole PNG"):
        list(read_camvid(tmp_path, "train"))


def test_a_class_in_two_coarse_groups_is_refused():
    with pytest.raises(ConfigError, match="wall in more than one group"):
        CoarseLabels(groups=(("building", "wall"), ("fence", "wall")), solidity={}, horizontal_fov_deg=60.0)


def test_idd_lite_holds_out_every_tenth_sequence(tmp_path):
    for sequence in range(11):
        write(tmp_path / f"leftImg8bit/train/{sequence:02d}/1_image.jpg", np.zeros((16, 16, 3), np.uint8))
        write(
            tmp_path / f"gtFine/train/{sequence:02d}/1_label.png", np.full((16, 16), sequence % 7, np.uint8)
        )
    train, val = list(read_idd_lite(tmp_path, "train")), list(read_idd_lite(tmp_path, "val"))
    assert len(train) == 9 and [s.source for s in val] == ["idd_lite 00/1_image", "idd_lite 10/1_image"]
    assert (train[0].coarse_map == 1).all() and {names[i] for i in train[0].coarse_groups[1]} == {
        "sidewalk",
        "terrain",
    }


def kitti_tree(root: Path) -> CameraModel:
    """Three frames of 40x20; the camera advances by 1 m a frame; one car and a static point at 10 m."""
    for t in range(3):
        write(root / f"image_02/{t:010d}.png", np.full((20, 40, 3), 10 * t, np.uint8))
        depth, ids = np.zeros((20, 40), np.uint16), np.zeros((20, 40), np.uint16)
        depth[5, 30] = 10 * 256  # static
        depth[8:18, 5], ids[8:18, 5] = 5 * 256, 7  # car
        write(root / f"lidar_depth_02/{t:010d}.png", depth)
        write(root / f"lidar_inst_02/{t:010d}.png", ids)
    stamps = "".join(f"2011-09-26 13:00:0{t}.000000000\n" for t in range(3))
    (root / "timestamps_image_02.txt").write_text(stamps)
    p = "20 0 19.5 0 0 20 9.5 0 0 0 1 0"
    (root / "calib_cam_to_cam.txt").write_text(
        f"S_rect_02: 40 20\nP_rect_02: {p}\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
    )
    poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {t}\n" for t in range(3))
    (root / "poses_cam2.txt").write_text(poses)
    (root / "steering.csv").write_text("frame,road_wheel_angle_rad,speed_mps\n0,0.1,4\n1,0.0,5\n2,-0.1,6\n")
    (root / "objects.csv").write_text("frame,track_id,type\n0,7,Car\n")
    return CameraModel(40, 20, 20, 20, 19.5, 9.5)


def test_kitti_clip_values(tmp_path):
    kitti_tree(tmp_path)
    drive = KittiRaw(tmp_path)
    clip = drive.clip(1, 2)
    assert len(drive) == 3 and clip.images.shape == (2, 20, 40, 3) and clip.images[1, 0, 0, 0] == 20
    assert (
        clip.depth_m[0, 5, 30] == 10 and clip.instance_map[0, 8, 5] == 7 and clip.instance_map[0, 0, 0] == -1
    )
    car = CITYSCAPES.id_of("car")
    assert (clip.class_map[0, 8:17, 5] == car).all() and clip.class_map[
        0, 17, 5
    ] == 255  # the foot may be road
    # At 10 m now means 11 m before, seen from 1 m further back: it was nearer to the middle.
    np.testing.assert_allclose(
        clip.flow_px[1, 5, 30], [(30 - 19.5) * (10 / 11 - 1), (5 - 9.5) * (10 / 11 - 1)], rtol=1e-5
    )
    assert np.isnan(clip.flow_px[1, 10, 5]).all()  # the car may move
    assert clip.steering_rad.tolist() == pytest.approx([0.0, -0.1]) and clip.speed_mps.tolist() == [5, 6]
    assert np.diff(clip.stamps_ns).tolist() == [10**9]


def test_kitti_refusals(tmp_path):
    kitti_tree(tmp_path)
    with pytest.raises(InputError, match="not within 0..2"):
        KittiRaw(tmp_path).clip(2, 2)
    (tmp_path / "poses_cam2.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(InputError, match="3 images, 1 poses"):
        KittiRaw(tmp_path)
    (tmp_path / "objects.csv").unlink()
    with pytest.raises(InputError, match="cannot read poses, steering or objects"):
        KittiRaw(tmp_path)


def published_drive(root: Path) -> Path:
    """Two frames of 40x20 as KITTI publishes them; LiDAR and camera share axes (x forward is z)."""
    day, drive = root / "2011_09_26", root / "2011_09_26" / "2011_09_26_drive_0001_sync"
    for t in range(2):
        write(drive / f"image_02/data/{t:010d}.png", np.full((20, 40, 3), 10 * t, np.uint8))
        # Two points on one ray (the nearer counts), one inside the box at 5 m, one behind the camera.
        points = np.float32([[10, 0, 0, 0], [20, 0, 0, 0], [5, 2, -0.2, 0], [-3, 0, 0, 0]])
        (drive / "velodyne_points/data").mkdir(parents=True, exist_ok=True)
        points.tofile(drive / f"velodyne_points/data/{t:010d}.bin")
        # Heading east; 4 m further north each frame is 4 m to the left.
        row = ["49", "8", "100", "0", "0", "0", *["0"] * 24]
        row[0] = f"{49 + np.degrees(4 * t / 6378137.0):.12f}"
        row[8], row[22] = "5", "0.5"
        (drive / "oxts/data").mkdir(parents=True, exist_ok=True)
        (drive / f"oxts/data/{t:010d}.txt").write_text(" ".join(row))
    (drive / "image_02/timestamps.txt").write_text("".join(f"2011-09-26 13:00:0{t}.5\n" for t in range(2)))
    (day / "calib_cam_to_cam.txt").write_text(
        "S_rect_02: 40 20\nP_rect_02: 20 0 19.5 0 0 20 9.5 0 0 0 1 0\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
    )
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    (day / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")
    pose = "<item><tx>5</tx><ty>2</ty><tz>-1</tz><rz>1.5707963</rz></item>"
    (drive / "tracklet_labels.xml").write_text(
        "<s><tracklets><item><objectType>Van</objectType><h>1.5</h><w>3</w><l>1</l>"
        f"<first_frame>1</first_frame><poses>{pose}</poses></item></tracklets></s>"
    )
    return drive


def test_kitti_as_published(tmp_path):
    drive = KittiRaw(published_drive(tmp_path))
    clip = drive.clip(0, 2)
    rows, columns = np.nonzero(clip.depth_m[0])
    # u = 20 y / z + 19.5 with y to the right; rint(11.5) is 12 and rint(10.3) is 10.
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(10, 12), (10, 20)]
    assert clip.depth_m[0, 10, 20] == 10 and clip.depth_m[0, 10, 12] == 5
    # The box exists in frame 1 only, and is longer across (turned by 90 degrees) than along.
    assert clip.instance_map[0].max() == -1 and clip.instance_map[1, 10, 12] == 1
    assert clip.instance_map[1, 10, 20] == -1
    np.testing.assert_allclose(clip.world_from_camera[1, :3, 3], [-4, 0, 0], atol=1e-3)
    np.testing.assert_allclose(clip.steering_rad, np.arctan(2.71 * 0.1), rtol=1e-6)
    assert clip.speed_mps.tolist() == [5, 5] and np.diff(clip.stamps_ns).tolist() == [10**9]
    assert np.isfinite(clip.flow_px[1, 10, 20]).all() and np.isnan(clip.flow_px[1, 10, 12]).all()


def change(path: Path, before: str, after: str) -> None:
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("../calib_cam_to_cam.txt", "P_rect_02: 20 0 19.5", "P_rect_02: 20 0", "12 finite numbers as P_"),
        ("../calib_cam_to_cam.txt", "S_rect_02: 40 20", "", "2 finite numbers as S_rect_02, got none"),
        ("../calib_cam_to_cam.txt", "R_rect_00: 1", "R_rect_00: nan", "9 finite numbers as R_rect_00"),
        ("../calib_velo_to_cam.txt", "T: 0 0 0", "T: 0 0", r"velo_to_cam.txt: .* as T, got \[0.0, 0.0\]"),
        ("../calib_imu_to_velo.txt", "R: 1", "Q: 1", "imu_to_velo.txt: expected 9 .* as R, got none"),
        ("image_02/timestamps.txt", ":01.5", ":00.5", "after that of the line before, got .* 13:00:00.5"),
        ("oxts/data/0000000001.txt", " 8 ", " nan ", "expected finite poses, frame 1 has none"),
    ],
)  # fmt: skip
def test_kitti_numbers_that_are_missing_or_wrong_are_named(file, before, after, message, tmp_path):
    drive = published_drive(tmp_path)
    change(drive / file, before, after)
    with pytest.raises(InputError, match=message):
        KittiRaw(drive)


def test_kitti_without_annotation_knows_no_static_points(tmp_path):
    folder = published_drive(tmp_path)
    (folder / "tracklet_labels.xml").unlink()
    clip = KittiRaw(folder).clip(0, 2)
    assert (clip.instance_map == -1).all() and np.isnan(clip.flow_px).all() and clip.depth_m.max() == 10


def test_a_missing_scan_costs_only_its_truth(tmp_path):
    """As of four frames of the published drive 0009."""
    folder = published_drive(tmp_path)
    (folder / "velodyne_points/data/0000000000.bin").unlink()
    source = open_source(str(folder))
    assert len(list(source)) == 2
    assert source.truth(source.stamps_ns[0]) is None and source.truth(source.stamps_ns[1]) is not None
    drive = KittiRaw(folder)
    clip = drive.clip(0, 2)
    assert not clip.depth_m[0].any() and (clip.instance_map[0] == -1).all() and clip.depth_m[1].any()
    assert np.isnan(clip.flow_px[1]).all() or np.isfinite(clip.flow_px[1]).any()
    (problem,) = (p for p in drive.problems() if p)
    assert "0000000000.png: no LiDAR of this frame" in problem


def test_every_problem_of_a_drive_is_named(tmp_path):
    folder = published_drive(tmp_path)
    assert list(KittiRaw(folder).problems()) == [None, None]
    (folder / "velodyne_points/data/0000000000.bin").write_bytes(b"12345")
    write(folder / "image_02/data/0000000001.png", np.zeros((20, 41, 3), np.uint8))
    found = [p for p in KittiRaw(folder).problems() if p]
    assert len(found) == 2
    assert "0000000000.bin: expected points of 16 bytes, got 5 bytes" in found[0]
    assert "0000000001.png: expected 20x40 pixels, got 20x41" in found[1]
    (folder / "oxts/data/0000000000.txt").write_text("49 north")
    (folder / "oxts/data/0000000001.txt").write_text("1 2 3")
    with pytest.raises(InputError, match="0.txt: .*north.*; .*0000000001.txt: expected 30 numbers, got 3"):
        KittiRaw(folder)
    (folder / "tracklet_labels.xml").write_text("<s><tracklets><item><h>1</h></item></tracklets></s>")
    with pytest.raises(InputError, match="tracklet_labels.xml: an item lacks objectType"):
        KittiRaw(folder)


def test_static_flow_of_a_turning_camera_does_not_depend_on_depth():
    camera = CameraModel(40, 20, 20, 20, 19.5, 9.5)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]]
    depth = np.full((20, 40), 5, np.float32)
    depth[:, ::2] = 50
    flow = static_flow(depth, np.ones_like(depth, bool), camera, turn)
    assert flow[10, 19, 0] == pytest.approx(20 * np.tan(0.1 + np.arctan(-0.5 / 20)) + 0.5, abs=1e-4)
    np.testing.assert_allclose(
        flow[10, 10:30:2, 0], np.interp(range(10, 30, 2), range(40), flow[10, :, 0]), atol=1e-5
    )


def test_clip_cache_round_trip_and_refusal(tmp_path):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (4, 8, 3)).astype(np.uint8), (64, 32))
    flow = rng.normal(size=(2, 32, 64, 2)).astype(np.float32)
    flow[0] = np.nan
    sample = Sample(
        images=np.stack([smooth, smooth[::-1]]),
        intrinsics=np.full((2, 4), 30, np.float32),
        source="round trip",
        class_map=rng.integers(0, 19, (2, 32, 64)).astype(np.uint8),
        coarse_map=rng.integers(0, 2, (2, 32, 64)).astype(np.uint8),
        coarse_groups=((0, 1), (2,)),
        instance_map=rng.integers(-1, 30000, (2, 32, 64)).astype(np.int32),
        depth_m=rng.uniform(1, 200, (2, 32, 64)).astype(np.float32),
        flow_px=flow,
        scene_flow_m=rng.normal(size=(2, 32, 64, 3)).astype(np.float32),
        moving=rng.integers(0, 2, (2, 32, 64)).astype(np.uint8),
        world_from_camera=np.stack([np.eye(4)] * 2),
        steering_rad=np.array([0.1, 0.2], np.float32),
        speed_mps=np.array([3.0, 3.1], np.float32),
    )
    path = tmp_path / "deep" / "1.npz"
    write_clip(path, sample)
    assert [p.name for p in path.parent.iterdir()] == ["1.npz"]
    back = read_clip(path)
    assert np.abs(back.images.astype(int) - sample.images).mean() < 3
    for name in (
        "class_map",
        "coarse_map",
        "instance_map",
        "moving",
        "world_from_camera",
        "steering_rad",
        "speed_mps",
        "intrinsics",
    ):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name))
    np.testing.assert_allclose(back.depth_m, sample.depth_m, rtol=1e-3)
    np.testing.assert_allclose(back.flow_px, sample.flow_px, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(back.scene_flow_m, sample.scene_flow_m, rtol=1e-3, atol=1e-3)
    assert back.coarse_groups == sample.coarse_groups and back.source == sample.source
    for content in (path.read_bytes()[:3000], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="render it again"):
            read_clip(path)


@real
def test_real_camvid():
    samples = list(read_camvid(Path(DATA) / "camvid", "val"))
    assert len(samples) == 101 and samples[0].images.shape == (1, 360, 480, 3)
    counts = np.bincount(np.concatenate([s.coarse_map.ravel() for s in samples[::10]]), minlength=256)
    assert counts[3] / counts[:11].sum() > 0.15  # a street


@real
def test_real_kitti_reprojects():
    drive = KittiRaw(Path(DATA) / "kitti_0005")
    clip = drive.clip(30, 2)
    known = np.isfinite(clip.flow_px[1, ..., 0])
    assert known.mean() > 0.02
    # The static flow, followed on the LiDAR depth of the previous frame, meets points of the expected depth.
    previous_from_current = np.linalg.inv(clip.world_from_camera[0]) @ clip.world_from_camera[1]
    v, u = np.nonzero(known)
    z = clip.depth_m[1, v, u].astype(np.float64)
    points = np.stack(
        [(u - drive.camera.cx) / drive.camera.fx * z, (v - drive.camera.cy) / drive.camera.fy * z, z]
    )
    expected = (previous_from_current[:3, :3] @ points + previous_from_current[:3, 3:])[2]
    pu, pv = (np.rint(a + clip.flow_px[1, v, u, i]).astype(int) for i, a in enumerate((u, v)))
    inside = (pu >= 0) & (pu < drive.camera.width) & (pv >= 0) & (pv < drive.camera.height)
    there = clip.depth_m[0, pv[inside], pu[inside]]
    error = np.abs(there - expected[inside])[there > 0] / there[there > 0]
    assert np.median(error) < 0.01


@real
def test_real_scans_tracklets_and_oxts_give_what_was_prepared_from_them():
    """An independent program projected the scans, drew the tracklets and integrated the poses before."""
    folder = Path(DATA) / "kitti_0005"
    drive, lidar = KittiRaw(folder), DriveLidar(folder, KittiRaw(folder).camera)
    for frame in (0, 100):
        prepared = drive.clip(frame, 1)
        points = read_scan(folder / f"velodyne_sample/{frame:010d}.bin")
        ids = np.full(len(points), -1, np.int32)
        for i, tracklet in enumerate(lidar.tracklets):
            ids[tracklet.holds(points, frame)] = i + 1
        depth, id_map = project_scan(points, ids, lidar.camera_from_velo, lidar.camera)
        known = depth > 0
        assert (known == (prepared.depth_m[0] > 0)).all()
        np.testing.assert_allclose(depth[known], prepared.depth_m[0][known], atol=1 / 256)
        objects = (id_map > 0) | (prepared.instance_map[0] > 0)
        assert (id_map == prepared.instance_map[0])[objects].mean() > 0.95
    oxts = np.loadtxt(folder / "oxts/oxts_all.txt")
    poses = poses_from_oxts(oxts, np.linalg.inv(lidar.camera_from_imu))
    np.testing.assert_allclose(poses, drive.world_from_camera, atol=2e-3)
    steering, speed = steering_from_oxts(oxts)
    np.testing.assert_allclose(steering, drive.steering_rad, atol=1e-5)
    np.testing.assert_allclose(speed, drive.speed_mps, atol=1e-4)
