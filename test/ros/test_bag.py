# SPDX-License-Identifier: Apache-2.0
"""Bags: what is written is read back by value, appears whole or not at all, and stops before a full disk."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import mcap.reader
import mcap.writer
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from rclpy.serialization import serialize_message
from ros_graph import SCALE, instance
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from std_msgs.msg import Header

from dvps_ros.cli.bag import command
from dvps_ros.data.bag_recovery import recover
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.ros import bag, convert, qos
from dvps_ros.ros.bag import (
    BagWriter,
    DiskFull,
    definition,
    message_class,
    read_bag,
    typestore,
    unfinished,
)

HEADER = Header(frame_id="front_optical")
MSG = Path(__file__).parents[2] / "msg"
OURS = [f"dvps_ros/msg/{file.stem}" for file in sorted(MSG.glob("*.msg"))]
STANDARD = [
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/PointCloud2",
    "visualization_msgs/msg/MarkerArray",
    "diagnostic_msgs/msg/DiagnosticArray",
    "std_msgs/msg/Float64",
]


def records() -> dict[str, tuple[str, Any]]:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    return {
        "/image": ("sensor_msgs/msg/Image", convert.rgb_to_image(image, HEADER)),
        "/instances": (
            "dvps_ros/msg/TrackedInstanceArray",
            convert.instances_to_message([instance()], HEADER),
        ),
        "/labels": ("dvps_ros/msg/LabelSpace", convert.label_space_to_message(CITYSCAPES, HEADER)),
        "/scale": ("dvps_ros/msg/ScaleEstimate", convert.scale_to_message(SCALE, HEADER)),
    }


def write(path: Path) -> BagWriter:
    writer = BagWriter(path, min_free_mib=0)
    for n, (topic, (kind, message)) in enumerate(records().items()):
        writer.add_topic(topic, kind, qos.latched() if topic == "/labels" else qos.output())
        writer.write(topic, 1000 + n, serialize_message(message))
    return writer


def test_round_trip(tmp_path: Path) -> None:
    writer = write(tmp_path / "drive")
    assert not (tmp_path / "drive").exists()  # nothing half-written under the final name
    assert writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["drive"]
    messages = {topic: (time_ns, message) for topic, time_ns, message in read_bag(tmp_path / "drive")}
    assert {t: time_ns for t, (time_ns, _) in messages.items()} == {
        "/image": 1000,
        "/instances": 1001,
        "/labels": 1002,
        "/scale": 1003,
    }
    image = messages["/image"][1]
    assert (image.encoding, image.width, image.header.frame_id) == ("rgb8", 4, "front_optical")
    np.testing.assert_array_equal(image.data, np.arange(24))
    (track,) = messages["/instances"][1].instances
    assert (track.track_id, track.centroid.z, track.velocity.x) == (7, 10.0, -2.0)
    np.testing.assert_array_equal(track.covariance, np.arange(36.0))
    assert [c.name for c in messages["/labels"][1].classes] == list(CITYSCAPES.names)
    assert messages["/scale"][1].scale == 1.5
    assert [t for t, *_ in read_bag(tmp_path / "drive", ["/scale"])] == ["/scale"]


def test_metadata_is_what_humble_reads(tmp_path: Path) -> None:
    write(tmp_path / "drive").close()
    information = yaml.safe_load((tmp_path / "drive" / "metadata.yaml").read_text())[
        "rosbag2_bagfile_information"
    ]
    assert information["relative_file_paths"] == ["drive.mcap"]
    assert information["message_count"] == 4
    topics = {
        t["topic_metadata"]["name"]: t["topic_metadata"] for t in information["topics_with_message_count"]
    }
    offered = topics["/labels"]["offered_qos_profiles"]
    assert isinstance(offered, str)  # a list, as later versions write it, breaks older players
    (profile,) = yaml.safe_load(offered)
    assert (profile["durability"], profile["reliability"], profile["depth"]) == (1, 1, 1)


@pytest.mark.parametrize("kind", STANDARD)
def test_definitions_have_the_hash_of_the_standard(kind: str) -> None:
    reference = get_typestore(Stores.ROS2_KILTED)
    assert typestore([kind]).hash_rihs01(kind) == reference.hash_rihs01(kind)


def test_definitions_have_the_hash_of_our_files() -> None:
    reference = get_typestore(Stores.ROS2_KILTED)
    for kind in OURS:
        reference.register(get_types_from_msg((MSG / f"{kind[13:]}.msg").read_text(), kind))
    store = typestore(OURS)
    assert {k: store.hash_rihs01(k) for k in OURS} == {k: reference.hash_rihs01(k) for k in OURS}


def test_definition_text() -> None:
    text, inner = definition("dvps_ros/msg/LatentTokens")
    assert text == "std_msgs/Header header\nstring weights\nuint32 tokens\nuint32 channels\nfloat32[] data"
    assert inner == ["std_msgs/msg/Header"]


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere_msgs/msg/Thing is not installed"):
        message_class("nowhere_msgs/msg/Thing")
    with pytest.raises(ConfigError, match="std_msgs/msg/Thing is not installed"):
        message_class("std_msgs/msg/Thing")


def test_an_existing_bag_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "drive").close()
    with pytest.raises(ConfigError, match="exists already"):
        BagWriter(tmp_path / "drive")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write a bag at"):
        BagWriter(tmp_path / "file" / "drive")


def test_a_recording_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> None:
        assert unfinished(tmp_path / "drive") == []  # owned from its first moment
        raise OSError("No space left on device")

    monkeypatch.setattr(bag.Writer, "open", full)
    with pytest.raises(ConfigError, match="No space left"):
        BagWriter(tmp_path / "drive")
    assert list(tmp_path.iterdir()) == []


def test_no_message_no_bag(tmp_path: Path) -> None:
    assert BagWriter(tmp_path / "drive").close() is False
    assert list(tmp_path.iterdir()) == []


def test_recording_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "drive", min_free_mib=0)
    kind, message = records()["/scale"]
    writer.add_topic("/scale", kind)
    writer.write("/scale", 1, serialize_message(message))
    writer._min_free = 1 << 60  # more than any disk has
    with pytest.raises(DiskFull, match=r"only \d+ MiB are free.*stopped after 1 messages"):
        writer.write("/scale", 2, serialize_message(message))
    assert writer.close()
    assert len(list(read_bag(tmp_path / "drive"))) == 1


def test_a_torn_bag_never_gets_its_name(tmp_path: Path) -> None:
    """The disk is full all of a sudden, in the middle of a message: here a limit on the size of files."""
    writer = BagWriter(tmp_path / "drive", min_free_mib=0)
    image = convert.rgb_to_image(np.zeros((1000, 1000, 3), np.uint8), HEADER)
    writer.add_topic("/image", "sensor_msgs/msg/Image")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        writer.write("/image", 1, serialize_message(image))
        with pytest.raises(DiskFull, match="cannot be written to any further"):
            writer.write("/image", 2, serialize_message(image))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(DiskFull, match="what was written is in .*partial"):
        writer.close()
    assert not (tmp_path / "drive").exists()


def test_an_unreadable_bag_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "drive").close()
    file = tmp_path / "drive" / "drive.mcap"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=re.escape(f"cannot read bag {tmp_path / 'drive'}")):
        list(read_bag(tmp_path / "drive"))
    with pytest.raises(InputError, match="cannot read bag"):
        list(read_bag(tmp_path / "nowhere"))


# Recordings that were killed


def scale_of(stamp_ns: int) -> bytes:
    _, message = records()["/scale"]
    message.header.stamp = convert.ns_to_stamp(stamp_ns)
    return serialize_message(message)


def killed(path: Path, count: int, flushed: int) -> Path:
    """What is left of a recorder that wrote ``count`` messages, flushed the first ones and was killed."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_bag
from dvps_ros.ros.bag import BagWriter
writer = BagWriter({str(path)!r}, min_free_mib=0)
writer.add_topic("/scale", "dvps_ros/msg/ScaleEstimate")
for n in range({count}):
    writer.write("/scale", 10 + n, test_bag.scale_of(n))
    if n + 1 == {flushed}:
        writer.flush()
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -9, ended.stderr
    (left,) = unfinished(path)
    return left


def test_a_killed_recording_is_never_deleted_and_told_at_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = killed(tmp_path / "drive", 5, 3)
    content = {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    write(tmp_path / "drive").close()
    assert f"dvps bag recover {left}" in caplog.text
    assert {p: p.read_bytes() for p in content} == content
    BagWriter(tmp_path / "other").discard()
    assert left.exists()


def test_what_was_flushed_is_recovered(tmp_path: Path) -> None:
    left = killed(tmp_path / "drive", 50, 40)
    found = recover(left, tmp_path / "saved")
    assert found.counts == {"/scale": 40} and "torn" in found.lost
    messages = list(read_bag(tmp_path / "saved"))
    assert [t for _, t, _ in messages] == list(range(10, 50))
    assert [m.header.stamp.nanosec for _, _, m in messages] == list(range(40))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [left.name]


def test_a_cut_file_gives_what_is_whole(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "drive", min_free_mib=0)
    writer.add_topic("/scale", "dvps_ros/msg/ScaleEstimate")
    for n in range(30):
        writer.write("/scale", 10 + n, scale_of(n))
        if n % 10 == 9:
            writer.flush()
    writer.close()
    whole = (tmp_path / "drive" / "drive.mcap").read_bytes()
    seen = set()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.mcap").write_bytes(whole[:length])
        try:
            found = recover(tmp_path / "cut.mcap", tmp_path / f"saved{length}")
        except InputError as error:
            assert "no whole message is left" in str(error)
            seen.add(0)
        else:
            seen.add(found.counts["/scale"])
            assert len(list(read_bag(tmp_path / f"saved{length}"))) == found.counts["/scale"]
    assert seen == {0, 10, 20, 30}
    assert recover(tmp_path / "drive", tmp_path / "again").lost == ""


def test_a_damaged_chunk_ends_what_is_recovered_and_is_told(tmp_path: Path) -> None:
    """What a chunk's check sum does not fit is not taken for messages (rosbags writes none, others do)."""
    whole = tmp_path / "whole.mcap"
    with whole.open("wb") as file:
        writer = mcap.writer.Writer(file, chunk_size=500, compression=mcap.writer.CompressionType.NONE)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/UInt64", "ros2msg", b"uint64 data")
        channel = writer.register_channel("/count", "cdr", schema)
        for n in range(30):
            data = b"\0\1\0\0" + n.to_bytes(8, "little")
            writer.add_message(channel, log_time=n, data=data, publish_time=n)
        writer.finish()
    with whole.open("rb") as file:
        chunks = mcap.reader.make_reader(file).get_summary().chunk_indexes
    assert len(chunks) > 1
    last = chunks[-1]
    damaged = bytearray(whole.read_bytes())
    damaged[last.chunk_start_offset + last.chunk_length - 1] ^= 0x55
    (tmp_path / "bad.mcap").write_bytes(damaged)
    found = recover(tmp_path / "bad.mcap", tmp_path / "saved")
    messages = [m.data for *_, m in read_bag(tmp_path / "saved")]
    assert messages == list(range(len(messages))) and 0 < len(messages) < 30
    assert found.counts["/count"] == len(messages) and "torn" in found.lost


def test_two_recordings_to_one_place_do_not_touch_each_other(tmp_path: Path) -> None:
    one, two = write(tmp_path / "drive"), write(tmp_path / "drive")
    assert one._temporary != two._temporary and unfinished(tmp_path / "drive") == []
    one.close()
    with pytest.raises(DiskFull, match="somebody else wrote there; what was written is in"):
        two.close()
    assert len(list(read_bag(tmp_path / "drive"))) == len(list(read_bag(two._temporary / "drive")))


def test_the_command_recovers_and_tells(tmp_path: Path) -> None:
    left = killed(tmp_path / "drive", 5, 3)
    result = CliRunner().invoke(command, ["recover", str(left)])
    assert result.exit_code == 0, result.output
    (saved,) = tmp_path.glob("drive.*_recovered")
    assert f"{saved}: /scale 3" in result.output and "lost: what comes after" in result.output
    for words, arguments in (
        ("there is no", ["nowhere"]),
        ("exists already", [str(left), "--out", str(saved)]),
    ):
        failed = CliRunner().invoke(command, ["recover", *arguments])
        assert words in str(failed.exception)
