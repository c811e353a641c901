# SPDX-License-Identifier: Apache-2.0
"""Inputs: each test writes its own small video, folder, bag or drive and reads it back by value."""

import json
import os
import struct
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dvps_ros.data.calibration import load_camera, save_camera
from dvps_ros.data.images import image_files
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.pixels import compressed_to_rgb, raw_to_rgb
from dvps_ros.data.scene_files import write_scene
from dvps_ros.data.sources import open_source
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample

W, H = 64, 48


def picture(index: int) -> np.ndarray:
    """A smooth RGB picture that differs from frame to frame and survives lossy coding."""
    image = np.zeros((H, W, 3), np.uint8)
    image[:, : W // 2] = (40 + 20 * index, 80, 200)
    image[:, W // 2 :] = (200, 30 + 15 * index, 60)
    return image


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), cv2.cvtColor(picture(index), cv2.COLOR_RGB2BGR))
    return folder


def write_video(path: Path, frames: int, rate_hz: float = 25.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, (W, H))
    for index in range(frames):
        writer.write(cv2.cvtColor(picture(index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


# Pixels


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", (10, 20, 30)),
        ("bgr8", (30, 20, 10)),
        ("rgba8", (10, 20, 30, 255)),
        ("bgra8", (30, 20, 10, 255)),
        ("8UC3", (30, 20, 10)),
    ],
)
def test_colour_encodings_give_rgb_also_with_padded_rows(encoding: str, pixel: tuple[int, ...]) -> None:
    row = bytes(pixel) * 3 + b"\xee\xee"
    rgb = raw_to_rgb(row * 2, encoding, 2, 3, len(row))
    assert rgb.shape == (2, 3, 3)
    assert (rgb == (10, 20, 30)).all()


def test_mono_is_repeated() -> None:
    assert raw_to_rgb(bytes([7, 9]), "mono8", 1, 2, 2).tolist() == [[[7, 7, 7], [9, 9, 9]]]


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", (1, 0, 2, 0)), ("yuv422", (1, 0, 2, 0)), ("yuyv", (0, 1, 0, 2)), ("yuv422_yuy2", (0, 1, 0, 2))],
)
def test_yuv422_order(encoding: str, order: tuple[int, ...]) -> None:
    # A saturated red in BT.601 video range: Y 81, U 90, V 240.
    values = (81, 90, 240)
    pair = bytes(values[i] for i in order)
    rgb = raw_to_rgb(pair * 4, encoding, 2, 4, 8)
    assert np.abs(rgb.astype(int) - (254, 0, 0)).max() <= 3


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_pattern_starts_at_the_first_pixel(pattern: str) -> None:
    colour = {"r": 200, "g": 100, "b": 50}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (4, 4))
    rgb = raw_to_rgb(mosaic.tobytes(), f"bayer_{pattern}8", 8, 8, 8)
    assert (rgb[2:-2, 2:-2] == (200, 100, 50)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"\0" * 12, "32FC1", 2, 2, 6), "encoding '32FC1' is not known"),
        ((b"", "rgb8", 0, 0, 0), "empty"),
        ((b"\0" * 12, "rgb8", 2, 2, 5), "image step: expected 6"),
        ((b"\0" * 11, "rgb8", 2, 2, 6), "image data: expected 2 rows of 6 bytes, got 11"),
    ],
)
def test_raw_pixels_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        raw_to_rgb(*arguments)


def test_compressed_pixels() -> None:
    bgr = cv2.cvtColor(picture(1), cv2.COLOR_RGB2BGR)
    png, jpeg = cv2.imencode(".png", bgr)[1].tobytes(), cv2.imencode(".jpg", bgr)[1].tobytes()
    assert (compressed_to_rgb(png) == picture(1)).all()
    assert np.abs(compressed_to_rgb(jpeg).astype(int) - picture(1)).mean() < 4
    with pytest.raises(InputError, match="cut off"):
        compressed_to_rgb(jpeg[: len(jpeg) // 2])
    with pytest.raises(InputError, match="0 bytes"):
        compressed_to_rgb(b"")
    with pytest.raises(InputError, match="no JPEG"):
        compressed_to_rgb(b"not a picture")


# Calibration


def test_camera_info_manager_yaml(tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(
        "image_width: 640\nimage_height: 480\ncamera_name: left\n"
        "camera_matrix: {rows: 3, cols: 3, data: [500.5, 0, 320.25, 0, 501.5, 240.75, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0.01, -0.01, 0]}\n"
    )
    assert load_camera(file) == CameraModel(
        640, 480, 500.5, 501.5, 320.25, 240.75, (-0.3, 0.1, 0.01, -0.01, 0.0)
    )


def test_camera_json_round_trip(tmp_path: Path) -> None:
    camera = CameraModel(640, 480, 500.5, 501.5, 320.25, 240.75, (0.1, 0.2, 0.3, 0.4), "equidistant")
    save_camera(tmp_path / "c.json", camera)
    assert load_camera(tmp_path / "c.json") == camera


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"width": 3}', '{"width": 3, "height": 2, "K": "no"}'])
def test_bad_camera_file_is_one_sentence_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match="bad.json"):
        load_camera(tmp_path / "bad.json")


def test_uncalibrated_input_says_what_to_pass(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["0.png"])
    with pytest.raises(InputError, match=r"clip has no camera calibration.*FOV=.*CAMERA="):
        open_source(str(folder))


def test_camera_of_a_scaled_video_is_scaled(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["0.png"])
    twice = CameraModel(2 * W, 2 * H, 100.0, 102.0, 63.5, 47.5, (-0.2, 0.1, 0, 0, 0.3))
    camera = open_source(str(folder), camera=twice).camera
    assert camera == CameraModel(W, H, 50.0, 51.0, 31.5, 23.5, (-0.2, 0.1, 0, 0, 0.3))
    with pytest.raises(InputError, match="calibration of this camera"):
        open_source(str(folder), camera=CameraModel(W, W, 50, 50, 32, 32))


# Folders and videos


def test_folder_in_natural_order_with_stamps(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["f1.png", "f2.png", "f10.png"])
    source = open_source(str(folder), fov_deg=90.0)
    frames = list(source)
    assert (source.name, source.frames, source.rate_hz) == ("clip", 3, 10.0)
    assert [f.stamp_ns for f in frames] == [1_000_000_000, 1_100_000_000, 1_200_000_000]
    for index, frame in enumerate(frames):
        assert (frame.image == picture(index)).all()
    assert source.camera.fx == pytest.approx(W / 2)
    assert source.truth(0) is None
    assert len(list(islice(source, 2))) == 2


def test_digits_that_are_no_number_do_not_stop_the_ordering(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["a 2.png", "a 10.png", "\u00b25.png"])
    assert [p.name for p in image_files(folder)] == ["a 2.png", "a 10.png", "\u00b25.png"]


def test_folder_leaves_out_and_counts_what_cannot_be_read(tmp_path: Path, caplog) -> None:
    folder = write_images(tmp_path / "clip", ["0.jpg", "1.jpg", "2.jpg", "3.png"])
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(folder / "2.jpg"), np.zeros((8, 8, 3), np.uint8))
    source = open_source(str(folder), fov_deg=90.0)
    assert [f.stamp_ns for f in source] == [1_000_000_000, 1_300_000_000]
    assert source.unreadable == 2
    assert "1.jpg: JPEG image is cut off" in caplog.text
    assert "2.jpg: expected 48x64 pixels, got 8x8" in caplog.text


def test_folder_uses_the_calibration_in_it(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["0.png"])
    save_camera(folder / "camera.json", CameraModel(W, H, 40.0, 41.0, 31.0, 23.0))
    assert open_source(str(folder)).camera.fy == 41.0


def test_folder_with_one_folder_of_images_and_its_calibration(tmp_path: Path) -> None:
    write_images(tmp_path / "drive" / "image_0", ["0.png", "1.png"])
    save_camera(tmp_path / "drive" / "camera_0.json", CameraModel(W, H, 40.0, 41.0, 31.0, 23.0))
    source = open_source(str(tmp_path / "drive"))
    assert (source.frames, source.camera.fy) == (2, 41.0)
    write_images(tmp_path / "drive" / "image_1", ["0.png"])
    with pytest.raises(InputError, match="several folders of images: image_0, image_1"):
        open_source(str(tmp_path / "drive"))


def test_video_frames_and_stamps(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "clip.mp4", 5)), fov_deg=60.0)
    frames = list(source)
    assert (source.frames, source.rate_hz, source.unreadable) == (5, 25.0, 0)
    assert [f.stamp_ns for f in frames] == [10**9 + i * 40_000_000 for i in range(5)]
    for index, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - picture(index)).mean() < 6
    assert len(list(source)) == 5, "a source can be read again"


def test_video_that_ends_early_warns_and_counts(tmp_path: Path, caplog) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (W, H))
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(rng.integers(0, 255, (H, W, 3), np.uint8))
    writer.release()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(str(path), fov_deg=60.0)
    read = len(list(source))
    assert 8 <= read < 20  # no more is said to be lost than the one frame that was cut
    assert source.unreadable <= 1


def encode(path: Path, times_s: list[float], codec: str, *, rate: int = 1000, rotate: int = 0) -> Path:
    """Pictures of their number at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 10
        for index, time_s in enumerate(times_s):
            image = np.full((48, 64, 3), 10 * (index % 25), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.mp4", "libx264")],
)
def test_video_time_is_that_of_presentation(tmp_path: Path, name: str, codec: str) -> None:
    """Of a phone: a rate that varies, and a pause of five seconds."""
    times_s = [0.0, 0.033, 0.066, 0.133, 0.166, 0.3, 5.3, 5.333, 5.366, 5.4, 5.5, 5.6]
    source = open_source(str(encode(tmp_path / name, times_s, codec)), fov_deg=60.0)
    frames = list(source)
    np.testing.assert_allclose([(f.stamp_ns - 10**9) * 1e-9 for f in frames], times_s, atol=0.002)
    assert source.rate_hz == pytest.approx(11 / 5.6, rel=0.01)
    assert source.unreadable == 0 and source.problems == []
    assert all(abs(float(f.image.mean()) - 10 * i) < 4 for i, f in enumerate(frames))


@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_a_video_is_turned_as_players_turn_it(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    """Phones write how they were held into the track's header, which OpenCV heeds."""

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    path = write_video(tmp_path / "clip.mp4", 3)
    content = path.read_bytes()
    track = content.index(b"tkhd")
    at = content.index(matrix(1, 0, 0, 1), track)
    path.write_bytes(content[:at] + matrix(*turn) + content[at + 36 :])
    capture = cv2.VideoCapture(str(path))
    _, viewed = capture.read()
    capture.release()
    (first, *_) = open_source(str(path), fov_deg=60.0)
    assert first.image.shape == viewed.shape
    assert np.abs(first.image.astype(int) - viewed[..., ::-1]).mean() < 3


def test_a_damaged_stretch_is_skipped_and_told(tmp_path: Path, caplog) -> None:
    path = encode(tmp_path / "a.mp4", [i / 20 for i in range(100)], "libx264")
    with av.open(str(path)) as container:
        places = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for pos, size, _ in places[42:45]:
        content[pos + 5 : pos + size] = bytes((b * 7 + 3) % 256 for b in range(size - 5))
    path.write_bytes(content)
    source = open_source(str(path), fov_deg=60.0)
    frames = list(source)
    assert 85 <= len(frames) < 100 and len(frames) + source.unreadable >= 97
    assert any("is damaged at 2." in p for p in source.problems)
    after = [f for f in frames if f.stamp_ns >= 10**9 + 3 * 10**9]
    np.testing.assert_allclose(
        [(f.stamp_ns - 10**9) * 1e-9 for f in after], np.arange(60, 100) / 20, atol=0.002
    )
    assert all(
        abs(float(f.image.mean()) - 10 * (round((f.stamp_ns - 10**9) * 20e-9) % 25)) < 4 for f in after
    )


def test_a_video_without_pictures_or_times(tmp_path: Path) -> None:
    raw = encode(tmp_path / "a.h264", [i / 25 for i in range(10)], "libx264", rate=25)
    source = open_source(str(raw), fov_deg=60.0)
    assert len(list(source)) == 10
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="it holds no pictures"):
        open_source(str(tmp_path / "sound.mp4"), fov_deg=60.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clip.mp4", b"no video", "cannot read video"),
        ("clip.mcap", b"no bag", "cannot read bag"),
        ("clip.bag", b"no bag", "cannot read bag"),
        ("clip.db3", b"no bag", "cannot read bag"),
        ("clip.xyz", b"", "cannot tell what"),
    ],
)
def test_unreadable_inputs_are_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / name), fov_deg=90.0)


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no input"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no images"):
        open_source(str(tmp_path), fov_deg=90.0)
    with pytest.raises(InputError, match="expected world:SEED"):
        open_source("world:blue")
    with pytest.raises(InputError, match="at least one frame, got world:3:0"):
        open_source("world:3:0")


# Scenes and drives


def scene_clip(frames: int) -> Sample:
    rng = np.random.default_rng(3)
    depth = rng.uniform(1.0, 80.0, (frames, H, W)).astype(np.float32)
    depth[:, :4] = 0.0
    return Sample(
        np.stack([picture(i) for i in range(frames)]),
        np.tile(np.array([[50, 50, 31.5, 23.5]], np.float32), (frames, 1)),
        "made",
        class_map=rng.integers(0, 19, (frames, H, W)).astype(np.uint8),
        instance_map=rng.integers(0, 400, (frames, H, W)).astype(np.int32),
        depth_m=depth,
    )


def test_scene_round_trip_by_value(tmp_path: Path) -> None:
    clip, camera = scene_clip(3), CameraModel(W, H, 50.0, 50.0, 31.5, 23.5)
    write_scene(tmp_path / "scene", [clip], camera, name="street", rate_hz=20.0)
    source = open_source(str(tmp_path / "scene"))
    frames = list(source)
    assert (source.name, source.frames, source.camera) == ("street", 3, camera)
    assert [f.stamp_ns for f in frames] == [1_000_000_000, 1_050_000_000, 1_100_000_000]
    for index, frame in enumerate(frames):
        truth = source.truth(frame.stamp_ns)
        assert (frame.image == clip.images[index]).all() and (truth.images[0] == clip.images[index]).all()
        assert (truth.class_map[0] == clip.class_map[index]).all()
        assert (truth.instance_map[0] == clip.instance_map[index]).all()
        assert np.abs(truth.depth_m[0] - clip.depth_m[index]).max() <= 0.5 / 256
        assert (truth.depth_m[0, :4] == 0).all()
    assert source.truth(7) is None


def test_world_gives_the_same_frames_and_the_truth_of_the_last() -> None:
    camera = CameraModel.from_fov(64, 32, 80.0)
    source = open_source("world:3:2", camera=camera)
    once, twice = [f.image for f in source], [f.image for f in source]
    assert (source.frames, source.rate_hz, len(once)) == (2, 10.0, 2)
    assert all((a == b).all() for a, b in zip(once, twice, strict=True)) and (once[0] != once[1]).any()
    for frame in source:
        truth = source.truth(frame.stamp_ns)
        assert (truth.images[0] == frame.image).all() and truth.class_map is not None
        assert source.truth(frame.stamp_ns + 1) is None
    # On the road right below the image the depth follows from the height of the camera.
    road = truth.class_map[0, -1] == 0
    assert road.any() and 0.5 < np.median(truth.depth_m[0, -1][road]) < 8.0


def test_kitti_drive_in_its_original_layout(tmp_path: Path) -> None:
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync"
    write_images(drive / "image_02" / "data", ["0000000000.png", "0000000001.png"])
    (drive / "image_02" / "timestamps.txt").write_text(
        "2011-09-26 13:02:25.964389445\n2011-09-26 13:02:26.064389445\n"
    )
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\n"
        f"S_rect_02: {W}.0e+00 {H}.0e+00\n"
        "P_rect_02: 7.2e+01 0 3.1e+01 4.5e+01 0 7.3e+01 2.2e+01 0.2 0 0 1 0.003\n"
    )
    source = open_source(str(drive))
    frames = list(source)
    assert source.camera == CameraModel(W, H, 72.0, 73.0, 31.0, 22.0)
    assert [f.stamp_ns for f in frames] == [1317042145964389445, 1317042146064389445]
    assert source.rate_hz == pytest.approx(10.0)
    assert (frames[1].image == picture(1)).all()
    (drive.parent / "calib_cam_to_cam.txt").unlink()
    with pytest.raises(InputError, match="calib_cam_to_cam.txt"):
        open_source(str(drive))


@pytest.fixture
def real() -> Path:
    if not os.environ.get("DVPS_DATA"):
        pytest.skip("DVPS_DATA is not set")
    return Path(os.environ["DVPS_DATA"])


def test_real_kitti_drive(real: Path) -> None:
    source = open_source(str(real / "kitti_0005"))
    first = next(iter(source))
    truth = source.truth(first.stamp_ns)
    assert source.frames == 154 and first.image.shape == (375, 1242, 3)
    assert first.stamp_ns == 1317042272345808896
    assert json.loads((real / "kitti_0005" / "camera_02.json").read_text())["K"][0][0] == source.camera.fx
    assert 10_000 < np.count_nonzero(truth.depth_m) < 40_000
    assert truth.class_map is None and set(np.unique(truth.instance_map)) >= {-1, 1, 2}


def test_real_bag_equals_the_drive(real: Path) -> None:
    drive, bag = open_source(str(real / "kitti_0005")), open_source(str(real / "bags" / "kitti_0005_mcap"))
    assert bag.frames == 100 and bag.camera == drive.camera
    for ours, theirs in zip(islice(bag, 3), drive, strict=False):
        assert ours.stamp_ns == theirs.stamp_ns and (ours.image == theirs.image).all()


def test_real_ros1_bag(real: Path) -> None:
    source = open_source(str(real / "bags" / "recorded_raspicam.bag"))
    (frame,) = source
    assert frame.image.shape == (960, 1280, 3) and frame.frame_id == "raspicam"
    assert source.camera.fx == pytest.approx(1014.3431) and source.camera.is_distorted


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("split", ["val", "train"])
def test_the_root_of_a_data_set_is_an_input_with_truth(tmp_path: Path, layout, split: str) -> None:
    classes = np.full((4, 6), 13, np.uint8) if layout.name != "semkitti-dvps" else np.zeros((4, 6), np.uint8)
    for sequence in ("000000", "000001"):
        for frame in range(2):
            layout.write(
                tmp_path,
                split,
                sequence,
                frame,
                class_map=classes,
                instance_map=np.full((4, 6), 1 + frame, np.int32),
                image=np.full((4, 6, 3), 10 * frame, np.uint8),
            )
    source = open_source(str(tmp_path))
    frames = list(source)
    assert source.frames == len(frames) == 4 and source.rate_hz == layout.rate_hz
    step, gap = (frames[i + 1].stamp_ns - frames[i].stamp_ns for i in (0, 1))
    assert step == round(1e9 / layout.rate_hz) and gap >= 60 * 10**9
    truth = source.truth(frames[3].stamp_ns)
    assert truth is not None and (truth.truth("class_map") == 13).all()
    assert (truth.images[0] == frames[3].image).all()
