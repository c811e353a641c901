# SPDX-License-Identifier: Apache-2.0
"""Bags: written here with rosbags in each format, read back by value."""

import shutil
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from dvps_ros.data import bags, mcap_bags
from dvps_ros.data.bag_recovery import recover
from dvps_ros.data.sources import open_source
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

W, H = 32, 24
START_NS = 1_700_000_000_000_000_000
CAMERA = CameraModel(W, H, 30.0, 31.0, 15.0, 11.0, (-0.1, 0.01, 0.0, 0.0, 0.0))


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (H, W, 3)).astype(np.uint8)


class Bag:
    """Messages of one camera, in the vocabulary of a type store."""

    def __init__(self, ros1: bool) -> None:
        self.store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
        self.ros1 = ros1

    def make(self, name: str, **fields: object) -> object:
        return self.store.types[name](**fields)

    def header(self, stamp_ns: int) -> object:
        stamp = self.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        extra = {"seq": 0} if self.ros1 else {}
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id="front_optical", **extra)

    def image(self, index: int, stamp_ns: int) -> object:
        return self.make(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns),
            height=H,
            width=W,
            encoding="bgr8",
            is_bigendian=0,
            step=W * 3,
            data=picture(index)[..., ::-1].reshape(-1),
        )

    def compressed(self, index: int, stamp_ns: int) -> object:
        data = cv2.imencode(".png", picture(index)[..., ::-1])[1].reshape(-1)
        return self.make(
            "sensor_msgs/msg/CompressedImage", header=self.header(stamp_ns), format="png", data=data
        )

    def info(self, stamp_ns: int, fx: float = CAMERA.fx) -> object:
        numbers = {
            "d": np.array(CAMERA.distortion),
            "k": np.array([fx, 0, CAMERA.cx, 0, CAMERA.fy, CAMERA.cy, 0, 0, 1.0]),
            "r": np.eye(3).reshape(-1),
            "p": np.array([28.0, 0, 14.0, 0, 0, 29.0, 10.0, 0, 0, 0, 1.0, 0]),
        }
        if self.ros1:
            numbers = {key.upper(): value for key, value in numbers.items()}
        roi = self.make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns),
            height=H,
            width=W,
            distortion_model="plumb_bob",
            binning_x=0,
            binning_y=0,
            roi=roi,
            **numbers,
        )

    def serialize(self, message: object) -> bytes:
        kind = message.__msgtype__
        return (
            self.store.serialize_ros1(message, kind) if self.ros1 else self.store.serialize_cdr(message, kind)
        )

    def write(self, path: Path, topics: dict[str, list], plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
        """Topics to lists of messages; message i of a topic is recorded at 0.1 i seconds."""
        writer = Writer1(path) if self.ros1 else Writer2(path, version=9, storage_plugin=plugin)
        with writer:
            for topic, messages in topics.items():
                connection = writer.add_connection(topic, messages[0].__msgtype__, typestore=self.store)
                for index, message in enumerate(messages):
                    writer.write(connection, START_NS + index * 10**8, self.serialize(message))
        return path


def stamps(count: int) -> list[int]:
    return [START_NS + 5 + index * 10**8 for index in range(count)]


def check(spec: Path | str, count: int = 3) -> None:
    source = open_source(str(spec))
    frames = list(source)
    assert source.frames == count and source.rate_hz == pytest.approx(10.0, rel=1e-6)
    assert source.camera == CAMERA and source.unreadable == 0
    assert [f.stamp_ns for f in frames] == stamps(count)
    assert {f.frame_id for f in frames} == {"front_optical"}
    for index, frame in enumerate(frames):
        assert (frame.image == picture(index)).all()


def camera_topics(bag: Bag, kind: str, count: int = 3) -> dict[str, list]:
    suffix = "/compressed" if kind == "compressed" else ""
    return {
        f"/front/image_raw{suffix}": [getattr(bag, kind)(i, s) for i, s in enumerate(stamps(count))],
        "/front/camera_info": [bag.info(s) for s in stamps(count)],
    }


@pytest.mark.parametrize("kind", ["image", "compressed"])
@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_ros2_bag_round_trip(tmp_path: Path, plugin: StoragePlugin, kind: str) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, kind), plugin)
    check(folder)
    (file,) = (p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))
    check(file)


@pytest.mark.parametrize("kind", ["image", "compressed"])
def test_ros1_bag_round_trip(tmp_path: Path, kind: str) -> None:
    bag = Bag(ros1=True)
    check(bag.write(tmp_path / "drive.bag", camera_topics(bag, kind)))


def test_raw_goes_before_compressed_of_the_same_camera(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, "image") | camera_topics(bag, "compressed"))
    assert open_source(str(folder)).topic == "/front/image_raw"
    check(f"{folder}:/front/image_raw/compressed")


def test_rectified_topic_takes_the_projection_matrix(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = {"/front/image_rect": [bag.image(0, START_NS)], "/front/camera_info": [bag.info(START_NS)]}
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    assert source.camera == CameraModel(W, H, 28.0, 29.0, 14.0, 10.0)


def test_several_cameras_are_listed(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "image")
    topics |= {
        "/rear/image_raw": [bag.image(9, START_NS)],
        "/rear/camera_info": [bag.info(START_NS)],
    }
    folder = bag.write(tmp_path / "drive", topics)
    with pytest.raises(
        InputError, match=r"several cameras: .*/front/image_raw \(3 images\), /rear/image_raw"
    ):
        open_source(str(folder))
    (frame,) = open_source(f"{folder}:/rear/image_raw")
    assert (frame.image == picture(9)).all()
    with pytest.raises(InputError, match="no image topic /left"):
        open_source(f"{folder}:/left")


def test_an_image_without_camera_info_is_not_taken_for_the_camera(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "image") | {"/perception/overlay": [bag.image(9, START_NS)]}
    check(bag.write(tmp_path / "drive", topics))


def test_recorded_results_are_not_taken_for_the_camera(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "image")
    topics |= {
        "/dvps/output/depth": [bag.image(9, START_NS)],
        "/dvps/output/camera_info": [bag.info(START_NS)],
    }
    check(bag.write(tmp_path / "drive", topics))


def test_bag_without_images(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", {"/front/camera_info": [bag.info(START_NS)]})
    with pytest.raises(InputError, match="holds no images of ROS; its topics are /front/camera_info"):
        open_source(str(folder))


def test_bag_with_an_uncalibrated_camera(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "image") | {"/front/camera_info": [bag.info(START_NS, fx=0.0)]}
    folder = bag.write(tmp_path / "drive", topics)
    with pytest.raises(InputError, match=r"/front/camera_info: .*positive focal lengths.*FOV="):
        open_source(str(folder))
    assert open_source(str(folder), fov_deg=90.0).camera.fx == pytest.approx(W / 2)
    alone = bag.write(tmp_path / "alone", {"/front/image_raw": [bag.image(0, START_NS)]})
    with pytest.raises(InputError, match=r"no camera calibration.*FOV="):
        open_source(str(alone))


def test_images_that_cannot_be_decoded_are_left_out(tmp_path: Path, caplog) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "compressed")
    topics["/front/image_raw/compressed"][1].data = np.frombuffer(b"no picture", np.uint8)
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    assert [f.stamp_ns for f in source] == [stamps(3)[0], stamps(3)[2]]
    assert source.unreadable == 1 and "left out the image at" in caplog.text


def test_image_without_stamp_takes_the_time_of_recording(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "image")
    topics["/front/image_raw"] = [bag.image(i, 0) for i in range(3)]
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    assert [f.stamp_ns for f in source] == [START_NS + i * 10**8 for i in range(3)]


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_cut_mcap_is_one_sentence(tmp_path: Path, part: float) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, "image", 10))
    (file,) = folder.glob("*.mcap")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="cannot read bag"):
        list(open_source(str(folder)))


def test_damaged_database_ends_early_or_is_refused(tmp_path: Path, caplog) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, "image", 10), StoragePlugin.SQLITE3)
    (file,) = folder.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("update messages set data = x'0001' where id = 5")
    source = open_source(str(folder))
    read = len(list(source))
    assert read == 4 and source.unreadable == 6
    assert "ends early, after 4 of 10 images" in caplog.text


def test_each_image_has_the_camera_info_of_its_stamp(tmp_path: Path, caplog) -> None:
    """A zoom: in which order image and CameraInfo of a stamp were recorded says nothing."""
    bag = Bag(ros1=False)
    focal = [30.0, 30.0, 45.0, 45.0, 60.0]
    topics = {
        "/front/image_raw": [bag.image(i, s) for i, s in enumerate(stamps(5))],
        "/front/camera_info": [bag.info(s, fx) for s, fx in zip(stamps(5), focal, strict=True)],
    }
    for name, order in (("after", topics), ("before", dict(reversed(topics.items())))):
        source = open_source(str(bag.write(tmp_path / name, order)))
        assert [f.camera.fx for f in source] == focal
        assert source.camera.fx == 30 and source.unreadable == 0
    assert "camera_info changes to fx = 45.0" in caplog.text


def test_images_without_their_own_camera_info_take_the_newest(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    times = stamps(4)
    topics = {
        "/front/camera_info": [bag.info(times[0], 30.0), bag.info(times[2], 45.0)],
        "/front/image_raw": [bag.image(i, s) for i, s in enumerate(times)],
    }
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    # The second CameraInfo was recorded with the second image, before that one's turn came.
    assert [f.camera.fx for f in source] == [30.0, 45.0, 45.0, 45.0]


def test_a_camera_info_that_becomes_unusable_costs_its_images(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = {
        "/front/camera_info": [
            bag.info(s, fx) for s, fx in zip(stamps(4), [30.0, 0.0, 0.0, 30.0], strict=True)
        ],
        "/front/image_raw": [bag.image(i, s) for i, s in enumerate(stamps(4))],
    }
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    assert [f.stamp_ns for f in source] == [stamps(4)[0], stamps(4)[3]]
    assert source.unreadable == 2
    assert any("it is not calibrated" in p for p in source.problems)


def test_an_image_out_of_order_costs_only_itself(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    times = stamps(6)
    times[3] = times[2] - 50_000_000
    topics = {
        "/front/camera_info": [bag.info(s) for s in times],
        "/front/image_raw": [bag.image(i, s) for i, s in enumerate(times)],
    }
    source = open_source(str(bag.write(tmp_path / "drive", topics)))
    assert [f.stamp_ns for f in source] == [*times[:3], *times[4:]]
    assert source.unreadable == 1 and "out of order" in source.problems[0]


def test_a_mosaic_in_a_compressed_topic(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    topics = camera_topics(bag, "compressed")
    seen = np.zeros((H, W), np.uint8)
    seen[0::2, 0::2], seen[1::2, 1::2], seen[0::2, 1::2], seen[1::2, 0::2] = 200, 40, 120, 120
    for message in topics["/front/image_raw/compressed"]:
        message.format = "bayer_rggb8; png compressed "
        message.data = cv2.imencode(".png", seen)[1].reshape(-1)
    frames = list(open_source(str(bag.write(tmp_path / "drive", topics))))
    assert (frames[0].image == (200, 120, 40)).all()


# Bags as people have them


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_a_folder_without_its_metadata(tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, "image"), plugin)
    (folder / "metadata.yaml").unlink()
    check(folder)


def test_a_database_whose_recorder_did_not_end_is_refused_and_recovered(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    folder = bag.write(tmp_path / "drive", camera_topics(bag, "image", 6), StoragePlugin.SQLITE3)
    (file,) = folder.glob("*.db3")
    with sqlite3.connect(file) as database:  # half of the messages are taken out and come back by the log
        late = database.execute("select * from messages where timestamp >= ?", (START_NS + 3 * 10**8,))
        rows = late.fetchall()
        database.execute("delete from messages where timestamp >= ?", (START_NS + 3 * 10**8,))
    database.close()
    database = sqlite3.connect(file)
    database.execute("pragma journal_mode=WAL")
    database.executemany(f"insert into messages values ({','.join('?' * len(rows[0]))})", rows)
    database.commit()
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn)
    database.close()
    with pytest.raises(InputError, match=r"db3-wal: its recorder did not end; dvps bag recover"):
        open_source(str(torn))
    found = recover(torn, tmp_path / "whole")
    assert found.counts == {"/front/image_raw": 6, "/front/camera_info": 6} and not found.lost
    check(tmp_path / "whole", 6)


def write_mcap(path: Path, bag: Bag, *, others: bool) -> Path:
    """With the mcap library: ROS 1 or 2, and with topics that are none of ROS."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=5000)
        writer.start(profile="ros1" if bag.ros1 else "ros2")
        channels = {}
        for topic, messages in camera_topics(bag, "image").items():
            kind = messages[0].__msgtype__
            text, _ = bag.store.generate_msgdef(kind, ros_version=1 if bag.ros1 else 2)
            name, encoding = (kind.replace("/msg/", "/"), "ros1") if bag.ros1 else (kind, "ros2")
            schema = writer.register_schema(name, f"{encoding}msg", str(getattr(text, "data", text)).encode())
            channels[topic] = writer.register_channel(topic, "ros1" if bag.ros1 else "cdr", schema)
        if others:
            schema = writer.register_schema("foxglove.Thing", "protobuf", b"\1\2")
            channels["/thing"] = writer.register_channel("/thing", "protobuf", schema)
            channels["/status"] = writer.register_channel("/status", "json", 0)
        for i, stamp in enumerate(stamps(3)):
            time_ns = START_NS + i * 10**8
            for topic, messages in camera_topics(bag, "image").items():
                writer.add_message(channels[topic], time_ns, bytes(bag.serialize(messages[i])), stamp)
            for topic in ("/thing", "/status") if others else ():
                writer.add_message(channels[topic], time_ns, b"{}", stamp)
        writer.finish()
    return path


@pytest.mark.parametrize(("ros1", "others"), [(False, False), (False, True), (True, False), (True, True)])
def test_mcap_of_either_ros_and_with_other_topics(tmp_path: Path, ros1: bool, others: bool) -> None:
    check(write_mcap(tmp_path / "drive.mcap", Bag(ros1), others=others))


def test_a_chunk_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    path = write_mcap(tmp_path / "drive.mcap", Bag(False), others=False)
    monkeypatch.setattr(mcap_bags, "MAX_CHUNK", 4000)
    with pytest.raises(InputError, match=r"a chunk of it unpacks to \d+ bytes, more than 4000"):
        mcap_bags.McapBag(path)


def test_two_publishers_of_one_topic_are_counted_and_read(tmp_path: Path) -> None:
    """A driver that was started again has a channel of its own in the file."""
    path = tmp_path / "two.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start(profile="ros2")
        schema = writer.register_schema("std_msgs/msg/UInt64", "ros2msg", b"uint64 data")
        ends = [writer.register_channel("/count", "cdr", schema, {"driver": end}) for end in "ab"]
        for n in range(5):
            writer.add_message(ends[n > 2], n, b"\0\1\0\0" + n.to_bytes(8, "little"), n)
        writer.finish()
    bag = mcap_bags.McapBag(path)
    assert bag.topics["/count"].msgcount == 5 and len(bag.connections) == 2
    read = list(bag.messages([bag.topics["/count"]]))
    assert [time_ns for _, time_ns, _ in read] == [0, 1, 2, 3, 4]
    assert [bag.deserialize(data, c.msgtype).data for c, _, data in read] == [0, 1, 2, 3, 4]
    bag.close()


def test_topics_that_are_none_of_ros_are_named(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start(profile="")
        schema = writer.register_schema("foxglove.CompressedVideo", "protobuf", b"\1")
        channel = writer.register_channel("/cam", "protobuf", schema)
        writer.add_message(channel, 5, b"x", 5)
        writer.finish()
    with pytest.raises(InputError, match=r"no images of ROS; .* /cam \(protobuf foxglove.CompressedVideo\)"):
        open_source(str(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cannot read bag"):
        open_source(str(path))


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_messages_that_unpack_to_too_much_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: StoragePlugin
) -> None:
    bag = Bag(ros1=False)
    writer = Writer2(tmp_path / "drive", version=8, storage_plugin=storage)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in camera_topics(bag, "image").items():
            connection = writer.add_connection(topic, messages[0].__msgtype__, typestore=bag.store)
            for index, message in enumerate(messages):
                writer.write(connection, START_NS + index * 10**8, bag.serialize(message))
    check(tmp_path / "drive")
    monkeypatch.setattr(bags, "MAX_CHUNK", W * H * 3)  # the message's header comes on top
    with pytest.raises(InputError, match=rf"unpacks to \d+ bytes, more than {W * H * 3} are not read"):
        open_source(str(tmp_path / "drive"))


def test_one_compressed_file_of_a_bag_says_what_to_give(tmp_path: Path) -> None:
    bag = Bag(ros1=False)
    for mode in (CompressionMode.FILE, CompressionMode.MESSAGE):
        writer = Writer2(tmp_path / mode.name, version=8, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            for topic, messages in camera_topics(bag, "image").items():
                connection = writer.add_connection(topic, messages[0].__msgtype__, typestore=bag.store)
                for index, message in enumerate(messages):
                    writer.write(connection, START_NS + index * 10**8, bag.serialize(message))
        check(tmp_path / mode.name)
        (file,) = (p for p in (tmp_path / mode.name).iterdir() if p.suffix != ".yaml")
        with pytest.raises(InputError, match=r"give the folder that holds its metadata.yaml"):
            open_source(str(file))
