# SPDX-License-Identifier: Apache-2.0
"""Frames put together from a recording equal what was published, value by value."""

from pathlib import Path

import made_clip as clip
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64, Header

from dvps_ros.ros import convert
from dvps_ros.ros.bag import BagWriter
from dvps_ros.ros.recorded import read_engine, read_frames, read_times

IMAGE = "/camera/image_raw"


def type_name(message) -> str:
    return f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"


def write(path: Path, messages: list[tuple[str, int, object]]) -> Path:
    bag = BagWriter(path)
    for topic, message in {topic: message for topic, _, message in messages}.items():
        bag.add_topic(topic, type_name(message))
    for topic, time_ns, message in messages:
        bag.write(topic, time_ns, serialize_message(message))
    bag.close()
    return path


def published(index: int) -> dict[str, object]:
    """The messages of frame ``index`` by topic."""
    r = clip.result(index)
    header = Header(stamp=convert.ns_to_stamp(r.stamp_ns), frame_id=r.frame_id)
    maps = r.panoptic
    return {
        IMAGE: convert.rgb_to_image(r.image, header),
        "/dvps/output/semantic": convert.semantic_to_image(maps.class_map, header),
        "/dvps/output/instance": convert.instance_to_image(maps.track_map, header),
        "/dvps/output/depth": convert.depth_to_image(maps.depth_m, header),
        "/dvps/output/confidence": convert.confidence_to_image(maps.confidence, header),
        "/dvps/output/camera_info": convert.camera_to_info(r.camera, header),
        "/dvps/output/points": convert.cloud_to_message(r.cloud, header),
        "/dvps/output/instances": convert.instances_to_message(r.instances, header),
        "/dvps/output/scale": convert.scale_to_message(r.scale, header),
    }


def test_round_trip_by_value_whatever_the_order_of_recording(tmp_path: Path) -> None:
    messages = [(topic, 0, m) for index in range(4) for topic, m in published(index).items()]
    order = np.random.default_rng(1).permutation(len(messages))
    shuffled = [(messages[i][0], 10**9 + k, messages[i][2]) for k, i in enumerate(order)]
    bag = write(tmp_path / "bag", shuffled)
    frames = list(read_frames(bag, image_topic=IMAGE, node="/dvps"))
    assert [f.stamp_ns for f in frames] == [i * clip.STEP_NS for i in range(4)]
    for index, got in enumerate(frames):
        sent = clip.result(index)
        assert (got.frame_id, got.camera) == (sent.frame_id, sent.camera)
        assert (got.image == sent.image).all()
        for name in ("class_map", "track_map", "confidence", "depth_m"):
            np.testing.assert_array_equal(getattr(got.panoptic, name), getattr(sent.panoptic, name))
        for name in got.cloud.dtype.names:
            np.testing.assert_array_equal(got.cloud[name], sent.cloud[name])
        (mine,), (theirs,) = got.instances, sent.instances
        for name in ("track_id", "class_id", "state", "motion", "box_px", "area_px", "age_s", "unseen_s"):
            assert getattr(mine, name) == getattr(theirs, name), name
        for name in ("centroid_m", "extent_m", "velocity_mps", "covariance"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert got.scale.health == sent.scale.health and got.scale.variance == sent.scale.variance


def test_frames_with_a_part_missing_are_left_out(tmp_path: Path) -> None:
    messages = []
    for index in range(30):
        parts = published(index)
        if index in (3, 17):
            del parts["/dvps/output/depth"]
        messages += [(topic, index, m) for topic, m in parts.items()]
    bag = write(tmp_path / "bag", messages)
    stamps = [f.stamp_ns // clip.STEP_NS for f in read_frames(bag, image_topic=IMAGE, node="/dvps")]
    assert stamps == [i for i in range(30) if i not in (3, 17)]


def test_times_and_engine(tmp_path: Path) -> None:
    def engine(text: str) -> DiagnosticArray:
        values = [KeyValue(key="model", value="lite"), KeyValue(key="engine", value=text)]
        return DiagnosticArray(status=[DiagnosticStatus(name="/dvps: engine", values=values)])

    bag = write(
        tmp_path / "bag",
        [
            ("/dvps/debug/track_ms", 1, Float64(data=1.5)),
            ("/dvps/debug/engine_ms", 2, Float64(data=20.0)),
            ("/dvps/debug/track_ms", 3, Float64(data=2.5)),
            ("/diagnostics", 4, engine("lite 1 at 64x128 on an engine")),
            ("/other/debug/track_ms", 5, Float64(data=9.0)),
        ],
    )
    assert read_times(bag, node="/dvps") == {"track": [1.5, 2.5], "engine": [20.0]}
    assert read_engine(bag, node="/dvps") == "lite 1 at 64x128 on an engine"
    assert read_engine(bag, node="/else") == ""
