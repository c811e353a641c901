# SPDX-License-Identifier: Apache-2.0
"""``dvps world --layout mcap``: what the bag's topics hold is what was rendered, to the bit."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from dvps_ros.cli.world import command
from dvps_ros.data.calibration import camera_from_info
from dvps_ros.data.sources import open_source
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.geometry.depth import unproject
from dvps_ros.geometry.pose import inverse
from dvps_ros.labels import CITYSCAPES, decode_panoptic
from dvps_ros.ros.bag import DiskFull, read_bag
from dvps_ros.ros.recorded import read_frames
from dvps_ros.ros.world_bag import IMAGE, NODE
from dvps_ros.types import CameraModel, Motion

CAMERA = CameraModel.from_fov(128, 64, 80.0)
FRAMES, RATE_HZ = 3, 8.0
ARGUMENTS = ["--seed", "1", "--frames", "3", "--size", "64x128", "--rate", "8", "--layout", "mcap"]
ENCODINGS = {
    "semantic": ("mono8", np.uint8, 1),
    "instance": ("16UC1", np.uint16, 1),
    "panoptic": ("32SC1", np.int32, 1),
    "confidence": ("mono8", np.uint8, 1),
    "depth": ("32FC1", np.float32, 1),
    "flow": ("32FC2", np.float32, 2),
    "scene_flow": ("32FC3", np.float32, 3),
    "moving": ("mono8", np.uint8, 1),
}


@pytest.fixture(scope="module")
def world():
    return World(WorldConfig(seed=1))


@pytest.fixture(scope="module")
def clip(world):
    return world.clip(FRAMES, CAMERA, rate_hz=RATE_HZ, scene_flow=True)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    out = tmp_path_factory.mktemp("bags")
    result = CliRunner().invoke(command, [*ARGUMENTS, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "as mcap" in result.output
    assert [p.name for p in out.iterdir()] == ["000001"]
    return out / "000001"


@pytest.fixture(scope="module")
def messages(bag):
    """Topic -> messages in order of time; each is recorded at its own stamp."""
    found: dict[str, list] = {}
    for topic, time_ns, message in read_bag(bag):
        header = message.transforms[0].header if hasattr(message, "transforms") else message.header
        assert header.stamp.sec * 10**9 + header.stamp.nanosec == time_ns
        found.setdefault(topic, []).append(message)
    return found


def pixels(message, dtype, channels):
    shape = (message.height, message.width, channels) if channels > 1 else (message.height, message.width)
    return message.data.view(dtype).reshape(shape)


def matrix(translation, rotation):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([rotation.x, rotation.y, rotation.z, rotation.w]).as_matrix()
    pose[:3, 3] = translation.x, translation.y, translation.z
    return pose


def test_every_frame_has_every_topic_and_the_stamp_of_its_image(messages):
    once = {"/tf_static", f"{NODE}/output/labels"}
    assert {t: len(m) for t, m in messages.items()} == {t: 1 if t in once else FRAMES for t in messages}
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages[IMAGE]]
    assert stamps == [1_000_000_000, 1_125_000_000, 1_250_000_000]
    assert {m.header.frame_id for m in messages[IMAGE]} == {"camera_optical"}


def test_maps_are_those_of_the_sample_to_the_bit(messages, clip):
    for t in range(FRAMES):
        maps = {}
        for name, (encoding, dtype, channels) in ENCODINGS.items():
            message = messages[f"{NODE}/output/{name}"][t]
            assert message.encoding == encoding
            maps[name] = pixels(message, dtype, channels)
        image = messages[IMAGE][t]
        assert image.encoding == "rgb8"
        np.testing.assert_array_equal(pixels(image, np.uint8, 3), clip.images[t])
        np.testing.assert_array_equal(maps["semantic"], clip.class_map[t])
        np.testing.assert_array_equal(maps["flow"], clip.flow_px[t])
        np.testing.assert_array_equal(maps["scene_flow"], clip.scene_flow_m[t])
        np.testing.assert_array_equal(maps["moving"], clip.moving[t])
        sky = clip.depth_m[t] == 0
        assert sky.any() and np.isposinf(maps["depth"][sky]).all()
        np.testing.assert_array_equal(maps["depth"][~sky], clip.depth_m[t][~sky])
        classes, tracks = decode_panoptic(maps["panoptic"])
        np.testing.assert_array_equal(classes, maps["semantic"])
        np.testing.assert_array_equal(tracks, maps["instance"])
        camera = camera_from_info(messages["/camera/camera_info"][t], rectified=False)
        np.testing.assert_array_equal(camera.vector, clip.intrinsics[t])


def test_ids_are_the_rendered_ones_by_another_number(messages, clip):
    tracks = np.stack([pixels(m, np.uint16, 1) for m in messages[f"{NODE}/output/instance"]])
    np.testing.assert_array_equal(tracks > 0, clip.instance_map > 0)
    pairs = np.unique(np.stack([tracks.ravel(), clip.instance_map.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] > 3
    assert pairs[0].max() == pairs.shape[1] - 1  # numbered without a gap


def test_poses_and_steering(messages, world, clip):
    static = {t.child_frame_id: t for t in messages["/tf_static"][0].transforms}
    assert static["camera_optical"].header.frame_id == "base_link"
    transform = static["camera_optical"].transform
    base_from_camera = matrix(transform.translation, transform.rotation)
    np.testing.assert_allclose(base_from_camera, world.base_from_camera, atol=1e-12)
    for t in range(FRAMES):
        (moved,) = messages["/tf"][t].transforms
        assert (moved.header.frame_id, moved.child_frame_id) == ("odom", "base_link")
        odom_from_base = matrix(moved.transform.translation, moved.transform.rotation)
        np.testing.assert_allclose(odom_from_base @ base_from_camera, clip.world_from_camera[t], atol=1e-9)
        odometry = messages[f"{NODE}/output/odometry"][t]
        pose = odometry.pose.pose
        np.testing.assert_allclose(matrix(pose.position, pose.orientation), odom_from_base, atol=1e-12)
        steering = messages[f"{NODE}/output/steering"][t]
        assert steering.valid and steering.header.frame_id == "base_link"
        assert steering.tyre_angle == clip.steering_rad[t]
        turn = odometry.twist.twist.angular.z
        assert odometry.twist.twist.linear.x == clip.speed_mps[t]
        np.testing.assert_allclose(turn, clip.speed_mps[t] * steering.curvature, rtol=1e-6)


def test_the_odometry_s_twist_is_the_change_of_its_pose():
    """Over a short step, so that the vehicle's speed and steering hardly change."""
    drive = World(WorldConfig(seed=3, style="residential", weather="clear"))
    a, b = drive.ego.at(2.0), drive.ego.at(2.02)
    np.testing.assert_allclose(np.hypot(b.x - a.x, b.y - a.y) / 0.02, b.speed_mps, rtol=1e-3)


def test_instances_describe_the_visible_surfaces(messages, clip):
    seen = 0
    for t in range(FRAMES):
        tracks = pixels(messages[f"{NODE}/output/instance"][t], np.uint16, 1)
        points = unproject(clip.depth_m[t], CAMERA)
        listed = {i.track_id: i for i in messages[f"{NODE}/output/instances"][t].instances}
        assert set(listed) == set(np.unique(tracks)) - {0}
        for number, thing in listed.items():
            mask = tracks == number
            rows, columns = np.nonzero(mask)
            assert (thing.box_x, thing.box_y) == (columns.min(), rows.min())
            assert (thing.box_width, thing.box_height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert thing.area == mask.sum() and thing.class_id == clip.class_map[t][mask][0]
            assert thing.motion == (Motion.MOVING if clip.moving[t][mask].any() else Motion.STATIC)
            low, high = points[mask].min(0) - 1e-4, points[mask].max(0) + 1e-4
            centre = np.array([thing.centroid.x, thing.centroid.y, thing.centroid.z])
            assert (low <= centre).all() and (centre <= high).all()
            velocity = np.array([thing.velocity.x, thing.velocity.y, thing.velocity.z])
            back = np.median(clip.scene_flow_m[t][mask], axis=0)
            np.testing.assert_allclose(velocity, -RATE_HZ * back, rtol=1e-5, atol=1e-5)
            seen += 1
        assert np.isfinite(velocity).all() == (t > 0)  # before the first frame nothing is known
    assert seen > 6


def test_the_scale_holds_the_road_plane(messages, world, clip):
    """Road points in front of the camera lie near the plane of the vehicle's wheels."""
    scale = messages[f"{NODE}/output/scale"][0]
    assert scale.scale == 1.0
    np.testing.assert_allclose(scale.camera_height, world.camera_height_m, rtol=1e-6)
    normal, d = scale.plane[:3], scale.plane[3]
    points = unproject(clip.depth_m[0], CAMERA)
    near = (clip.class_map[0] == CITYSCAPES.id_of("road")) & (clip.depth_m[0] < 8)
    assert near.sum() > 50
    assert np.abs(points[near] @ normal + d).max() < 0.1
    # The same plane from the mount: points at height 0 of the vehicle's frame.
    ground = np.array([[5.0, 1.0, 0.0], [20.0, -3.0, 0.0]])
    camera_from_base = inverse(world.base_from_camera)
    np.testing.assert_allclose(
        (ground @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]) @ normal, -d, atol=1e-9
    )


def test_labels_name_the_classes(messages):
    (labels,) = messages[f"{NODE}/output/labels"]
    assert [c.name for c in labels.classes] == list(CITYSCAPES.names)
    assert [bool(c.is_thing) for c in labels.classes] == [c.is_thing for c in CITYSCAPES.classes]


def test_it_reads_as_a_recording_of_a_perfect_node(bag, clip):
    results = list(read_frames(bag, image_topic=IMAGE, node=NODE))
    assert len(results) == FRAMES
    for t, result in enumerate(results):
        np.testing.assert_array_equal(result.image, clip.images[t])
        np.testing.assert_array_equal(result.panoptic.class_map, clip.class_map[t])
        assert (result.panoptic.confidence == 255).all()


def test_it_is_an_input_with_truth(bag, clip):
    """``dvps run`` and the player read it as a camera, and can score against what it holds."""
    source = open_source(str(bag))
    assert source.frames == FRAMES and abs(source.rate_hz - RATE_HZ) < 0.01
    for t, frame in enumerate(source):
        np.testing.assert_array_equal(frame.image, clip.images[t])
        truth = source.truth(frame.stamp_ns)
        for name in ("class_map", "depth_m", "flow_px", "scene_flow_m", "moving", "intrinsics", "images"):
            np.testing.assert_array_equal(getattr(truth, name)[0], getattr(clip, name)[t], err_msg=name)
        np.testing.assert_array_equal(truth.instance_map > 0, clip.instance_map[t : t + 1] > 0)
    assert source.truth(42) is None


def test_players_keep_what_is_said_once(bag):
    topics = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    for topic in topics["topics_with_message_count"]:
        data = topic["topic_metadata"]
        (profile,) = yaml.safe_load(data["offered_qos_profiles"])
        assert profile["durability"] == (1 if data["name"] in ("/tf_static", f"{NODE}/output/labels") else 2)


@pytest.mark.parametrize(("kind", "worst"), [("png", 0), ("jpeg", 60)])
def test_compressed_images(tmp_path, clip, kind, worst):
    arguments = [*ARGUMENTS, "--frames", "1", "--images", kind, "--out", str(tmp_path)]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    (frame,) = open_source(str(tmp_path / "000001"))
    assert np.abs(frame.image.astype(int) - clip.images[0]).max() <= worst
    assert open_source(str(tmp_path / "000001")).topic == f"{IMAGE}/compressed"


def test_an_existing_bag_is_refused_and_left_alone(bag):
    before = (bag / "metadata.yaml").read_bytes()
    result = CliRunner().invoke(command, [*ARGUMENTS, "--out", str(bag.parent)])
    assert result.exit_code == 1 and "exists already: remove it, or choose" in str(result.exception)
    assert (bag / "metadata.yaml").read_bytes() == before


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    result = CliRunner().invoke(command, [*ARGUMENTS, "--out", str(tmp_path)])
    assert isinstance(result.exception, DiskFull) and "only 1 MiB are free" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_ros():
    """Written where rclpy and the message packages cannot be imported."""
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('rclpy', 'sensor_msgs', 'std_msgs', 'geometry_msgs'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import dvps_ros.ros.world_bag\n"
        "from pathlib import Path\n"
        "from dvps_ros.ros.bag import typestore_of_files\n"
        "store = typestore_of_files(Path(sys.argv[1]))\n"
        "assert 'dvps_ros/msg/TrackedInstanceArray' in store.types\n"
    )
    folder = Path(__file__).parents[2] / "msg"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)
