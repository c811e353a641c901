# SPDX-License-Identifier: Apache-2.0
"""The bench of the topics: bytes known by hand, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from tiny_model import paint

from dvps_ros.bench.topics import table
from dvps_ros.cli.bench import command


def test_bytes_and_times_of_every_topic(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("dvps_ros.msg", reason="needs the built messages")
    from dvps_ros.ros.probes.playback import frame_outputs

    folder = tmp_path / "drive"
    folder.mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / f"{i:02}.png"), paint(64, 128, car_x=8 + 2 * i)[..., ::-1])
    out = tmp_path / "topics.json"
    options = ["--input", folder, "--fov", 80, "--size", "64x128", "--model", tiny_model, "--frames", 5]
    command.main(["topics", *map(str, options), "--json", str(out)], standalone_mode=False)
    topics = json.loads(out.read_text())["topics"]
    assert list(topics) == list(frame_outputs())
    pixels = 64 * 128
    for name, pixel_bytes in (("semantic", 1), ("instance", 2), ("depth", 4), ("points", 24)):
        # Beside the pixels: headers, the fields of a cloud.
        assert 0 < topics[name]["bytes"] - pixels * pixel_bytes < 300, name
    assert all(row["build_ms"] > 0 and row["serialise_ms"] > 0 for row in topics.values())
    assert table(topics) in capsys.readouterr().out


def test_the_table_sums_up() -> None:
    row = {"bytes": 1500, "build_ms": 0.25, "serialise_ms": 0.5}
    assert table({"a": row, "b": row}).splitlines()[2:] == [
        "| a | 1.5 | 0.25 | 0.50 |",
        "| b | 1.5 | 0.25 | 0.50 |",
        "| all | 3.0 | 0.50 | 1.00 |",
    ]
