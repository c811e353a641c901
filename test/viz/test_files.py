# SPDX-License-Identifier: Apache-2.0
"""Result files, read back by value; none is left half-written."""

import builtins
import csv
import subprocess
import sys
from pathlib import Path

import cv2
import made_clip as clip
import numpy as np
import pytest

from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.viz import files


def shade(index: int) -> np.ndarray:
    return np.full((64, 96, 3), (20 * index, 100, 250 - 20 * index), np.uint8)


def test_video_round_trip(tmp_path: Path) -> None:
    with files.video_file(tmp_path / "v.mp4", 96, 64, 12.5) as video:
        for index in range(10):
            video.write(shade(index))
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    for index in range(10):
        ok, bgr = capture.read()
        assert ok and np.abs(bgr[..., ::-1].astype(int) - shade(index)).mean() < 6
    assert not capture.read()[0]


def test_video_without_pyav_is_mpeg4(tmp_path: Path, monkeypatch) -> None:
    real = builtins.__import__

    def without_av(name, *arguments, **keywords):
        if name == "av":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with files.video_file(tmp_path / "v.mp4", 96, 64, 10.0) as video:
        video.write(shade(3))
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"FMP4", b"mp4v")
    assert np.abs(capture.read()[1][..., ::-1].astype(int) - shade(3)).mean() < 6


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
room = int(sys.argv[2])
sys.modules.update({name: None for name in sys.argv[3:]})
from dvps_ros.errors import OutputError
from dvps_ros.viz import files

noise = np.random.default_rng(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # as a disk that is full
try:
    with files.video_file(Path(sys.argv[1]), 384, 192, 10.0) as video:
        for _ in range(60):
            video.write(noise.integers(0, 255, (192, 384, 3), dtype=np.uint8))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("room", "without", "reason"),
    [(0, (), "File too large"), (100_000, ("av",), "only 0 of 60 frames were written")],
)
def test_a_video_that_has_no_room_is_one_sentence(
    tmp_path: Path, room: int, without: tuple[str, ...], reason: str
) -> None:
    """In a process of its own: PyAV crashes when it is used on after a write that failed."""
    arguments = [sys.executable, "-c", FULL, str(tmp_path / "v.mp4"), str(room), *without]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"cannot write {tmp_path / 'v.mp4'}: {reason}")
    assert list(tmp_path.iterdir()) == []


def test_an_odd_size_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="even size, got 97x64"),
        files.video_file(tmp_path / "v.mp4", 97, 64, 1),
    ):
        pass


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.video_file(tmp_path / "v.mp4", 96, 64, 10.0) as video:
        video.write(shade(0))
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt), files.tracks_file(tmp_path / "tracks.csv"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_ply_round_trip(tmp_path: Path) -> None:
    cloud = clip.result(0).cloud
    count = files.write_ply(tmp_path / "c.ply", cloud)
    header, _, body = (tmp_path / "c.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert f"element vertex {count}" in lines
    kinds = {"float": "<f4", "uchar": "u1", "uint": "<u4"}
    row = [(w[2], kinds[w[1]]) for w in map(str.split, lines) if w[0] == "property"]
    vertex = np.frombuffer(body, row)
    points = cloud[np.isfinite(cloud["z"])]
    assert len(vertex) == count == len(points) < cloud.size
    for name in ("x", "y", "z", "label", "instance"):
        assert (vertex[name] == points[name]).all()
    assert (vertex["red"] == points["rgb"] >> 16).all()
    assert (vertex["blue"] == points["rgb"] & 255).all()


def test_tracks_table(tmp_path: Path) -> None:
    with files.tracks_file(tmp_path / "t.csv") as table:
        table.writerows(files.track_rows(clip.result(3), CITYSCAPES))
    (row,) = csv.DictReader((tmp_path / "t.csv").open())
    assert row["stamp_s"] == "0.300000000" and row["track_id"] == "7" and row["class"] == "car"
    assert (row["state"], row["motion"]) == ("confirmed", "moving")
    assert [float(row[k]) for k in ("box_x_px", "box_width_px", "z_m", "vx_mps")] == [19.0, 20.0, 12.0, 0.5]
