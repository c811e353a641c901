# SPDX-License-Identifier: Apache-2.0
"""Steering logs: our own CSV, and the columns, units and signs of other logs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.data.steering_log import COMMA_RAD_PER_DEG, log_problems, open_steering_log
from dvps_ros.errors import InputError

DATA = os.environ.get("DVPS_DATA", "")
real = pytest.mark.skipif(not DATA, reason="DVPS_DATA is not set")


def write_log(folder: Path, text: str, images: dict[str, int]) -> Path:
    """The CSV, and 8x6 images of one red value each."""
    for name, red in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((6, 8, 3), (0, 0, red), np.uint8))
    (folder / "steering.csv").write_text(text)
    return folder


OURS = """t_ns,image,steering_rad,speed_mps
1317042272345808896,a/0.png,0.25,3.5
1317042272445808897,a/1.png,,nan
1317042272545808898,a/2.png,-0.125,
"""


def test_our_own_columns(tmp_path):
    folder = write_log(tmp_path, OURS, {f"a/{i}.png": 10 * i for i in range(3)})
    for path in (folder, folder / "steering.csv"):
        log = open_steering_log(path)
        clip = log.clip(1, 2)
        assert len(log) == 3 and clip.images[:, 0, 0].tolist() == [[10, 0, 0], [20, 0, 0]]
        assert clip.stamps_ns.tolist() == [1317042272445808897, 1317042272545808898]
        np.testing.assert_array_equal(log.steering_rad, np.float32([0.25, np.nan, -0.125]))
        np.testing.assert_array_equal(log.speed_mps, np.float32([3.5, np.nan, np.nan]))
        assert clip.steering_rad.dtype == np.float32 and clip.source.endswith("/1")
        # The nominal 60 degrees of a log without calibration: f = 4 / tan 30.
        np.testing.assert_allclose(
            clip.intrinsics[0], [4 / math.tan(math.pi / 6)] * 2 + [3.5, 2.5], rtol=1e-6
        )
    assert list(log_problems(folder)) == [None] * 3
    with pytest.raises(InputError, match=r"frames 2..3 are not within 0..2"):
        log.clip(2, 2)


def test_a_camera_file_beside_the_log_calibrates_it(tmp_path):
    write_log(tmp_path, OURS, {f"a/{i}.png": 0 for i in range(3)})
    (tmp_path / "camera_02.json").write_text(
        '{"width": 8, "height": 6, "K": [[9, 0, 4], [0, 10, 3], [0, 0, 1]]}'
    )
    assert open_steering_log(tmp_path).clip(0, 1).intrinsics.tolist() == [[9, 10, 4, 3]]


def test_donkey_is_right_positive_and_a_share_of_full_lock(tmp_path):
    text = "record,image,steering_norm,throttle_norm\n0,0_cam.png,1.0,0.5\n1,1_cam.png,-0.5,0.5\n"
    log = open_steering_log(write_log(tmp_path, text, {"images/0_cam.png": 0, "images/1_cam.png": 7}))
    np.testing.assert_allclose(log.steering_rad, [-math.radians(25), math.radians(12.5)], rtol=1e-6)
    assert np.diff(log.stamps_ns).tolist() == [50_000_000] and log.clip(1, 1).images[0, 0, 0, 0] == 7
    own = open_steering_log(tmp_path, rad_per_unit=-0.3, rate_hz=10)
    np.testing.assert_allclose(own.steering_rad, [-0.3, 0.15], rtol=1e-6)
    assert np.diff(own.stamps_ns).tolist() == [100_000_000]


def test_sully_chen_is_right_positive_degrees_of_the_wheel(tmp_path):
    text = "image,steering_wheel_deg\n0.png,160\n1.png,-16\n"
    log = open_steering_log(write_log(tmp_path, text, {"images/0.png": 0, "images/1.png": 0}))
    np.testing.assert_allclose(log.steering_rad, np.radians([-10, 1]), rtol=1e-6)


def test_frame_numbers_find_their_images(tmp_path):
    text = "frame,t_rel_s,speed_mps,road_wheel_angle_rad\n3,0.0,2,0.1\n4,0.1,2,0.2\n"
    images = {"image_02/0000000003.png": 3, "image_02/0000000004.png": 4}
    log = open_steering_log(write_log(tmp_path, text, images))
    assert log.clip(0, 2).images[:, 0, 0, 0].tolist() == [3, 4]
    assert log.stamps_ns.tolist() == [0, 100_000_000] and log.steering_rad.tolist() == pytest.approx(
        [0.1, 0.2]
    )


def write_comma(folder: Path) -> None:
    for name, values in {
        "frame_times": [9.9, 10.0, 10.05, 10.3],
        "steering_angle_t": [10.0, 10.1],
        "steering_angle_value": [2.0, 4.0],
        "speed_t": [9.0, 11.0],
        "speed_value": [[5.0], [7.0]],
    }.items():
        np.save(folder / f"{name}.npy", np.array(values))


def test_comma2k19_takes_can_values_at_frame_times(tmp_path):
    write_comma(tmp_path)
    log = open_steering_log(tmp_path)
    expected = np.array([np.nan, 2, 3, np.nan]) * COMMA_RAD_PER_DEG  # outside of the CAN times: unknown
    np.testing.assert_allclose(log.steering_rad, expected, rtol=1e-6)
    np.testing.assert_allclose(log.speed_mps, [5.9, 6.0, 6.05, 6.3], rtol=1e-6)
    assert log.stamps_ns.tolist() == [9_900_000_000, 10_000_000_000, 10_050_000_000, 10_300_000_000]
    with pytest.raises(InputError, match="angles but no images"):
        log.clip(0, 1)
    for i in range(4):
        write_log(tmp_path, "", {f"images/{i}.png": i})
    (tmp_path / "steering.csv").unlink()
    assert open_steering_log(tmp_path).clip(3, 1).images[0, 0, 0, 0] == 3
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(InputError, match="expected 4 images as frame times, got 3"):
        open_steering_log(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a heading and lines"),
        ("t_s,image,angle\n0,a,1\n", "expected columns t_ns or t_s, .* got t_s, image, angle"),
        ("image,steering_rad\na,1\n", "expected a column with time"),
        ("t_s,image,steering_rad\n0,a,left\n", "line 2: could not convert .*left"),
        ("t_s,image,steering_rad\n0,a,0\n0,a,0\n", "line 3: t_s: expected more than .* before, got 0"),
        ("t_s,image,steering_rad\n0,a,inf\n", "line 2: steering_rad: expected a finite number, got inf"),
        ("t_s,image,steering_rad\n,a,0\n", "line 2: could not convert"),
        ("t_s,image,steering_rad\ninf,a,0\n", "line 2: t_s: expected a time within 292 years .* got inf"),
        ("t_ns,image,steering_rad\n9223372036854775808,a,0\n", "line 2: t_ns: expected a time within"),
        ("t_s,image,steering_rad\n0,a,0,5\n", "line 2: expected 3 cells, got more; .* decimal point"),
        ("t_s,image,steering_rad,steering_rad\n0,a,1,2\n", "each column once, got steering_rad twice"),
    ],
)  # fmt: skip
def test_refusals_name_the_line(text, message, tmp_path):
    write_log(tmp_path, text, {"a.png": 0})
    with pytest.raises(InputError, match=message):
        open_steering_log(tmp_path)


def test_a_table_saved_by_a_spreadsheet_is_read_as_any_other(tmp_path):
    """With a byte-order mark, Windows line ends and quotes; a time that is not seen would be made up."""
    text = 't_s,image,"steering_wheel_deg"\r\n5,a.png,"-16"\r\n7,a.png,0\r\n'
    write_log(tmp_path, "\ufeff" + text, {"a.png": 0})
    log = open_steering_log(tmp_path)
    assert log.stamps_ns.tolist() == [5 * 10**9, 7 * 10**9]
    np.testing.assert_allclose(log.steering_rad, [math.radians(1), 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("frame_times", [9.9, np.nan, 10.1, 10.3], "frame times: .* got nan s as number 1"),
        ("frame_times", [9.9, 10, 10, 10.3], "frame times: .* got 10.0 s as number 2"),
        ("steering_angle_t", [10.1, 10.0], "times of steering_angle: .* got 10.0 s as number 1"),
    ],
)
def test_comma2k19_times_that_do_not_increase_are_refused(name, values, message, tmp_path):
    write_comma(tmp_path)
    np.save(tmp_path / f"{name}.npy", np.array(values))
    with pytest.raises(InputError, match=message):
        open_steering_log(tmp_path)


def test_an_empty_array_of_comma2k19_is_named(tmp_path):
    write_comma(tmp_path)
    (tmp_path / "speed_t.npy").write_bytes(b"")
    with pytest.raises(InputError, match="cannot read .*speed_t.npy"):
        open_steering_log(tmp_path)


def test_every_problem_of_a_log_is_named(tmp_path):
    text = "t_s,image,steering_rad\n" + "".join(
        f"{i / 10},{i}.png,{'x' if i == 2 else 0}\n" for i in range(6)
    )
    write_log(tmp_path, text, {f"{i}.png": 0 for i in range(5)})
    (tmp_path / "1.png").write_bytes(b"no image")
    assert cv2.imwrite(str(tmp_path / "3.png"), np.zeros((5, 8, 3), np.uint8))
    found = [p for p in log_problems(tmp_path) if p]
    wanted = [
        "line 4: could not",
        "cannot decode",
        "3.png: expected 6x8 pixels, got 5x8",
        "5.png",
    ]
    assert len(found) == len(wanted)
    for sentence, part in zip(found, wanted, strict=True):
        assert part in sentence


def image_shift(images: np.ndarray) -> np.ndarray:
    """Sideways shift [T-1] of the upper half of each image against the one before, pixels, right positive."""
    grey = [cv2.cvtColor(i[: len(i) // 2], cv2.COLOR_RGB2GRAY).astype(np.float32) for i in images]
    window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
    return np.array([cv2.phaseCorrelate(a, b, window)[0][0] for a, b in zip(grey, grey[1:], strict=False)])


@real
@pytest.mark.parametrize(("name", "least"), [("donkey_tub", 0.6), ("kitti_0005", 0.6)])
def test_real_images_move_right_when_the_car_steers_left(name, least):
    log = open_steering_log(Path(DATA) / name)
    shift = np.convolve(image_shift(log.clip(0, 150).images), np.ones(9) / 9, "same")
    assert np.corrcoef(shift, log.steering_rad[1:150])[0, 1] > least


@real
def test_real_comma2k19_turns_where_it_steers():
    folder = Path(DATA) / "comma2k19_can"
    log = open_steering_log(folder)
    position, velocity = np.load(folder / "frame_positions.npy")[0], np.load(folder / "frame_velocities.npy")
    longitude = math.atan2(position[1], position[0])
    latitude = math.atan2(position[2], math.hypot(position[0], position[1]))
    east = np.array([-math.sin(longitude), math.cos(longitude), 0])
    north = np.cross(position / np.linalg.norm(position), east)
    assert abs(latitude) > 0.1
    heading = np.unwrap(np.arctan2(velocity @ north, velocity @ east))
    step = 20
    yaw = (heading[2 * step :] - heading[: -2 * step]) / (
        log.stamps_ns[2 * step :] - log.stamps_ns[: -2 * step]
    )
    mean = np.convolve(np.nan_to_num(log.steering_rad), np.ones(2 * step) / (2 * step), "same")
    curvature = yaw * 1e9 / log.speed_mps[step:-step]
    assert np.corrcoef(curvature, mean[step:-step])[0, 1] > 0.8


@real
@pytest.mark.parametrize("name", ["donkey_tub", "sullychen_garage", "kitti_0005", "kitti_odo_straight"])
def test_real_logs_are_whole(name):
    problems = list(log_problems(Path(DATA) / name))
    assert [p for p in problems if p] == [] and len(problems) > 50
