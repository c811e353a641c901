# SPDX-License-Identifier: Apache-2.0
"""What a calibration or a stamp says is taken as it is said, or refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvps_ros.data.calibration import camera_from_info, distortion_of, doubts, load_camera
from dvps_ros.data.camera_infos import CameraInfos
from dvps_ros.data.stamps import OutOfLine, Timeline, stamp_to_ns
from dvps_ros.errors import InputError
from dvps_ros.geometry.camera import rectify_maps
from dvps_ros.types import CameraModel

K = np.array([[500.0, 0, 320], [0, 505, 240], [0, 0, 1]])
S = 1_000_000_000


# Names of distortion models


@pytest.mark.parametrize("name", ["plumb_bob", "Brown Conrady", "RADTAN", "radial-tangential"])
def test_aliases_of_plumb_bob(name: str) -> None:
    assert distortion_of(name, [0.1, -0.2, 0.01, 0.02, 0.3]) == ("plumb_bob", (0.1, -0.2, 0.01, 0.02, 0.3))
    assert distortion_of(name, [0.0] * 5) == ("plumb_bob", ())


@pytest.mark.parametrize("name", ["equidistant", "fisheye", "Kannala Brandt4", "KANNALA_BRANDT4", "kb4"])
@pytest.mark.parametrize("zeros", [(), (0.0,) * 4, (0.0,) * 5, (0.0,) * 8])
def test_a_fisheye_of_zeros_is_a_fisheye(name: str, zeros: tuple[float, ...]) -> None:
    assert distortion_of(name, zeros) == ("equidistant", (0.0,) * 4)
    info = message(distortion_model=name, d=zeros)
    camera = camera_from_info(info, rectified=False)
    assert camera.is_distorted
    # r = f theta: a ray of 45 degrees is seen at f pi/4 from the middle, not at f.
    map_x, _ = rectify_maps(camera)
    assert map_x[240, 20] == pytest.approx(320 - 500 * np.arctan(300 / 500), abs=0.5)
    assert not camera_from_info(info, rectified=True).is_distorted


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Inverse Brown Conrady", "maps in the other direction"),
        ("Modified Brown Conrady", "tangential part differs"),
        ("Ftheta", "polynomial is of the angle"),
        ("omnidirectional", "mirror parameter"),
        ("quantum", "not known here"),
    ],
)
@pytest.mark.parametrize("coefficients", [(0.1, 0.2, 0, 0, 0), (0.0,) * 5])
def test_models_that_cannot_be_used_are_refused_by_name_with_the_reason(name, why, coefficients) -> None:
    with pytest.raises(InputError, match=f"{name}.*cannot be used: .*{why}.*rectify the images"):
        camera_from_info(message(distortion_model=name, d=coefficients), rectified=False)
    camera_from_info(message(distortion_model=name, d=coefficients), rectified=True)


def test_coefficients_without_a_name_mean_nothing() -> None:
    assert distortion_of("", ()) == distortion_of("None", (0.0, 0.0)) == ("plumb_bob", ())
    with pytest.raises(InputError, match="have a meaning only with a name"):
        distortion_of("", (0.1, 0.2, 0, 0, 0))


def test_zeros_behind_the_coefficients_count_for_nothing() -> None:
    assert distortion_of("plumb_bob", (0.1, 0.2, 0, 0, 0, 0, 0, 0)) == ("plumb_bob", (0.1, 0.2, 0, 0))
    assert distortion_of("rational_polynomial", (0.1,)) == ("rational_polynomial", (0.1, *(0.0,) * 7))
    assert distortion_of("fisheye", (0.1, 0, 0, 0, 0)) == ("equidistant", (0.1, 0, 0, 0))
    with pytest.raises(InputError, match="plumb_bob camera: expected at most 5 coefficients, got 8"):
        distortion_of("plumb_bob", (0.1, 0.2, 0, 0, 0, 0, 0, 0.1))


def message(**changes: object) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    values = {
        "width": 640, "height": 480, "k": K.reshape(-1), "d": (), "distortion_model": "plumb_bob",
        "p": np.hstack([K, np.zeros((3, 1))]).reshape(-1), "binning_x": 0, "binning_y": 0, "roi": roi,
        "header": header,
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


# Files of OpenCV


def write_opencv(path: Path, distortion: list[float], **more: object) -> Path:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in {"image_width": 640, "image_height": 480, **more}.items():
        storage.write(key, value)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", np.array(distortion).reshape(-1, 1))
    storage.release()
    return path


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".xml"])
def test_the_file_of_opencvs_calibration(tmp_path: Path, suffix: str) -> None:
    camera = load_camera(write_opencv(tmp_path / f"camera{suffix}", [0.1, -0.2, 0.01, 0.02, 0.3]))
    want = CameraModel(640, 480, 500, 505, 320, 240, (0.1, -0.2, 0.01, 0.02, 0.3), "plumb_bob")
    assert camera == want
    rational = [0.1, -0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6]
    camera = load_camera(write_opencv(tmp_path / f"camera{suffix}", rational))
    assert (camera.distortion_model, camera.distortion) == ("rational_polynomial", tuple(rational))
    camera = load_camera(write_opencv(tmp_path / f"camera{suffix}", [0.1, 0.2, 0.3, 0.4], fisheye_model=1))
    assert (camera.distortion_model, camera.distortion) == ("equidistant", (0.1, 0.2, 0.3, 0.4))


def test_the_file_of_older_opencv(tmp_path: Path) -> None:
    """Its first line is no YAML, as others read it."""
    path = write_opencv(tmp_path / "camera.yaml", [0.1, -0.2, 0.01, 0.02, 0.3])
    old = "%YAML:1.0\n---\n" + path.read_text().partition("---\n")[2]
    path.write_text(old)
    assert load_camera(path).distortion == (0.1, -0.2, 0.01, 0.02, 0.3)


def test_an_opencv_file_that_lacks_its_size_says_so(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("camera_matrix", K)
    storage.release()
    with pytest.raises(InputError, match="lacks camera_matrix, image_width or image_height"):
        load_camera(path)
    whole = write_opencv(path, [0.1] * 5).read_bytes()
    for length in range(12, len(whole), 37):
        path.write_bytes(whole[:length])
        try:
            assert load_camera(path).fx == 500
        except InputError as error:
            assert str(path) in str(error) and "exception set" not in str(error)


# Calibrations that are unlikely


def camera(**changes: float) -> CameraModel:
    values = {"width": 640, "height": 480, "fx": 500.0, "fy": 505.0, "cx": 320.0, "cy": 240.0} | changes
    return CameraModel(**values)  # type: ignore[arg-type]


def test_what_is_unlikely_is_said_with_its_numbers() -> None:
    assert doubts(camera()) == ""
    assert doubts(camera(cx=200.0, cy=300.0, fy=600.0)) == ""  # cropped or anamorphic cameras exist
    half = doubts(camera(width=320, height=240))
    assert "cx = 320.0 lies far from the middle of 320 pixels" in half and "another resolution" in half
    assert "fx = 500.0 and fy = 250.0 are far from equal" in doubts(camera(fy=250.0))
    assert "fx = 50.0 makes 640 pixels 162.2 degrees wide" in doubts(camera(fx=50.0, fy=50.0))
    binned = camera_from_info(message(binning_x=2, binning_y=2, k=(K / 2).reshape(-1)), rectified=False)
    assert "cx = 79.8 lies far" not in doubts(binned)  # 0.25 of the width: still possible
    roi = SimpleNamespace(x_offset=200, y_offset=100, width=320, height=240)
    twice = [500, 0, 320 - 200, 0, 505, 240 - 100, 0, 0, 1]
    assert "binning applied twice" in doubts(camera_from_info(message(roi=roi, k=twice), rectified=False))


def test_absurd_distortion_is_said() -> None:
    """k1 = -0.35 brings the corner, 0.80 of the focal length away, to 0.78 times that, as KITTI's does."""
    assert doubts(camera(distortion=(-0.35, 0.0, 0.0, 0.0, 0.0))) == ""
    assert "moves a corner to" in doubts(camera(distortion=(1e6, 1e6, 0.0, 0.0, 0.0)))
    assert "moves a corner to" in doubts(camera(distortion_model="equidistant", distortion=(50.0,) * 4))


def test_skew_is_refused_and_opencvs_header_on_plain_yaml_is_not(tmp_path: Path) -> None:
    plain = (
        "image_width: 640\nimage_height: 480\ncamera_matrix: {data: [500, SKEW, 320, 0, 505, 240, 0, 0, 1]}\n"
    )
    plain += "distortion_model: equidistant\ndistortion_coefficients: {data: [0.1, 0, 0, 0]}\n"
    file = tmp_path / "camera.yaml"
    file.write_text("%YAML:1.0\n---\n" + plain.replace("SKEW", "0"))
    assert load_camera(file).distortion_model == "equidistant" and load_camera(file).fy == 505
    file.write_text(plain.replace("SKEW", "50"))
    with pytest.raises(InputError, match="a skew of 50 pixels is not supported"):
        load_camera(file)


def test_the_model_that_opencvs_file_names_is_taken(tmp_path: Path) -> None:
    file = write_opencv(tmp_path / "camera.yaml", [0.1, -0.2, 0.0, 0.0], distortion_model="equidistant")
    assert load_camera(file).distortion_model == "equidistant"


def test_a_camera_info_that_cannot_be_used_keeps_no_frames() -> None:
    """An error that is raised again and again gathers all frames it passed through, images and all."""
    infos = CameraInfos(rectified=False)
    with pytest.raises(InputError):
        infos.add(message(width=30_000, height=15_000))
    errors = []
    for _ in range(3):
        with pytest.raises(InputError) as caught:
            infos.camera_of(0, 640, 480)
        errors.append(caught.value)
    assert len({id(e) for e in errors}) == 3


def test_absurd_sizes_are_refused() -> None:
    infos = CameraInfos(rectified=False)
    for width, height in ((30_000, 15_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1)):
        with pytest.raises(InputError, match="are more than 64000000"):
            infos.add(message(width=width, height=height))
    assert infos.add(message()).width == 640


# Stamps


def played(stamps: list[int], received: list[int] | None = None, jump_s: float = 1.0) -> list[int | str]:
    timeline, out = Timeline(jump_s), []
    for i, stamp in enumerate(stamps):
        try:
            out.append(timeline.place(stamp, received[i] if received else 100 * S + i * S // 10))
        except OutOfLine as error:
            out.append(error.kind)
    return out


T = [5 * S + i * S // 10 for i in range(20)]


def test_a_stream_in_order_is_as_it_is() -> None:
    assert played(T) == T


@pytest.mark.parametrize("bad", [0, 1, T[3] - S // 10, T[4] - S // 20, T[4] + 3600 * S, T[4] - 3 * S, 2**61])
def test_one_bad_stamp_costs_one_image(bad: int) -> None:
    stamps = [*T[:5], bad, *T[5:]]
    got = played(stamps, [100 * S + i * S // 10 for i in range(len(stamps))])
    assert [g for g in got if isinstance(g, int)] == T
    assert got[5] == ("unstamped" if bad == 0 else "out of order" if T[4] - S < bad < T[4] else "time jump")


def test_repeated_stamps_are_stale() -> None:
    assert played([T[0], T[1], T[1], T[1], T[2]]) == [T[0], T[1], "stale", "stale", T[2]]


def test_a_bag_that_begins_again_costs_one_image() -> None:
    assert played([*T, *T]) == [*T, "time jump", *T[1:]]
    # A short loop is an image out of order, unless the span is set below its length.
    assert played([*T[:5], *T[:5]])[5:] == ["out of order"] * 4 + ["stale"]
    assert played([*T[:5], *T[:5]], jump_s=0.2)[5:] == ["time jump", *T[1:5]]


def test_a_pause_of_the_camera_costs_nothing() -> None:
    later = [t + 60 * S for t in T]
    received = [100 * S + (t - T[0]) for t in (*T, *later)]
    assert played([*T, *later], received) == [*T, *later]
    # The same stamps without the time between their receipts are a clock that was set.
    assert played([*T, *later]) == [*T, "time jump", *later[1:]]


def test_a_slow_camera_played_fast_loses_one_image() -> None:
    slow = [5 * S + 2 * i * S for i in range(8)]
    assert played(slow) == [slow[0], "time jump", *slow[2:]]
    assert played([*slow, *slow])[8:] == ["time jump", *slow[1:]]


def test_a_driver_that_never_stamps_is_taken_at_the_receipts() -> None:
    received = [7 * S + i * S // 5 for i in range(4)]
    timeline = Timeline()
    assert [timeline.place(0, r) for r in received] == received and timeline.unstamped
    assert timeline.place(T[0], 9 * S) == T[0] and not timeline.unstamped  # it has learnt to
    with pytest.raises(OutOfLine, match="nobody publishes /clock"):
        Timeline().place(0, 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 2**62), max_size=30), st.floats(0, 10))
def test_times_always_increase_but_after_a_confirmed_jump(stamps: list[int], jump_s: float) -> None:
    timeline, taken = Timeline(jump_s), []
    for i, stamp in enumerate(stamps):
        try:
            taken.append((i, timeline.place(stamp, i * S // 10 + 1)))
        except OutOfLine:
            continue
    for (i, before), (j, now) in zip(taken, taken[1:], strict=False):
        assert now != before
        assert now > before or j > i + 1  # a step back was announced by an image that was left out


def test_a_stamp_of_too_many_nanoseconds_is_refused() -> None:
    assert stamp_to_ns(SimpleNamespace(sec=-1, nanosec=999_999_999)) == -1
    with pytest.raises(InputError, match="correct the sender"):
        stamp_to_ns(SimpleNamespace(sec=1, nanosec=10**9))
