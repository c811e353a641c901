# SPDX-License-Identifier: Apache-2.0
"""Messages by value: every encoding in, every output out and over the wire."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from ros_graph import CAMERA, CAR, SCALE, cloud_of, huge_png, instance, maps_of
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from dvps_ros import msg as dvps_msg
from dvps_ros.data.calibration import camera_from_info
from dvps_ros.data.pixels import ENCODINGS, compressed_to_rgb
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES, PanopticOrder, decode_panoptic
from dvps_ros.ros import convert
from dvps_ros.types import Motion, ScaleHealth, TrackState

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="front_optical")
RGB = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def sent(message: Any) -> Any:
    """What a subscriber gets."""
    return deserialize_message(serialize_message(message), type(message))


def raw(pixels: np.ndarray, encoding: str, pad: int = 0, **changes: Any) -> Image:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, pad), 99, np.uint8)])
    values = {"height": height, "width": width, "encoding": encoding, "step": rows.shape[1]}
    message = Image(header=HEADER, **(values | changes))
    message.data = rows.tobytes()
    return sent(message)


ALPHA = np.full((4, 6, 1), 77, np.uint8)
GREY = RGB[..., :1]
EXACT = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[..., ::-1], RGB),
    "rgba8": (np.concatenate([RGB, ALPHA], 2), RGB),
    "bgra8": (np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
    "mono8": (GREY, np.repeat(GREY, 3, 2)),
    "8UC1": (GREY, np.repeat(GREY, 3, 2)),
    "8UC3": (RGB[..., ::-1], RGB),
    "8UC4": (np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
}
YUV = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}
BAYER = {f"bayer_{tile}8": tile for tile in ("rggb", "bggr", "gbrg", "grbg")}


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize("bigendian", [0, 1])
@pytest.mark.parametrize("encoding", EXACT)
def test_interleaved_pixels(encoding: str, pad: int, bigendian: int) -> None:
    pixels, expected = EXACT[encoding]
    decoded = convert.image_to_rgb(raw(pixels, encoding, pad, is_bigendian=bigendian))
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("encoding", YUV)
def test_yuv422(encoding: str) -> None:
    # BT.601 with headroom: red is Y 81, U 90, V 240; blue is Y 41, U 240, V 110.
    red, blue = {"y": 81, "u": 90, "v": 240}, {"y": 41, "u": 240, "v": 110}
    rows = [[color[c] for c in YUV[encoding]] * 2 for color in (red, blue)]
    decoded = convert.image_to_rgb(raw(np.array(rows, np.uint8).reshape(2, 4, 2), encoding, pad=2))
    assert np.abs(decoded[0].astype(int) - [255, 0, 0]).max() <= 2
    assert np.abs(decoded[1].astype(int) - [0, 0, 255]).max() <= 2


@pytest.mark.parametrize("encoding", BAYER)
def test_bayer(encoding: str) -> None:
    color = {"r": 200, "g": 120, "b": 40}
    block = np.array([color[c] for c in BAYER[encoding]], np.uint8).reshape(2, 2)
    decoded = convert.image_to_rgb(raw(np.tile(block, (4, 4))[..., None], encoding))
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.full((4, 4, 3), [200, 120, 40]))


def test_every_encoding_has_a_test() -> None:
    assert {*EXACT, *YUV, *BAYER} == set(ENCODINGS)


BAD_IMAGES = {
    "unknown encoding": (raw(RGB, "rgb16x"), "rgb16x.*expected one of rgb8"),
    "no encoding": (raw(RGB, ""), "''.*expected one of"),
    "short step": (raw(RGB, "rgb8", step=17), "expected 18 bytes or more.*got 17"),
    "long step": (raw(RGB, "rgb8", step=19), "4 rows of 19 bytes, got 72"),
    "tall": (raw(RGB, "rgb8", height=5), "5 rows of 18 bytes, got 72"),
    "low": (raw(RGB, "rgb8", height=3), "3 rows of 18 bytes, got 72"),
    "empty": (Image(encoding="rgb8"), "empty: got 0x0"),
    "no data": (Image(encoding="rgb8", height=4, width=6, step=18), "empty: got 6x4 pixels and 0 bytes"),
    "odd yuv": (raw(np.zeros((2, 3, 2), np.uint8), "yuv422"), "pairs of pixels, got 3x2"),
    "thin bayer": (raw(np.zeros((1, 4, 1), np.uint8), "bayer_rggb8"), "pairs of pixels, got 4x1"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_with_a_sentence(case: str) -> None:
    message, sentence = BAD_IMAGES[case]
    with pytest.raises(InputError, match=sentence):
        convert.image_to_rgb(message)


def smooth() -> np.ndarray:
    v, u = np.mgrid[0:64, 0:96]
    return np.stack([u * 2, v * 3, 255 - u - v], 2).astype(np.uint8)


def test_jpeg_round_trip() -> None:
    message = sent(convert.rgb_to_compressed(smooth(), HEADER))
    assert message.header == HEADER
    error = np.abs(compressed_to_rgb(message.data).astype(int) - smooth())
    assert error.max() < 25 and error.mean() < 2  # channel order would cost far more


def test_png_is_exact() -> None:
    _, data = cv2.imencode(".png", smooth()[..., ::-1])
    np.testing.assert_array_equal(compressed_to_rgb(data.tobytes()), smooth())


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_cut_file_is_not_half_decoded(suffix: str, keep: float) -> None:
    _, data = cv2.imencode(suffix, smooth())
    whole = data.tobytes()
    with pytest.raises(InputError, match="cut off"):
        compressed_to_rgb(whole[: int(len(whole) * keep)])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        compressed_to_rgb(data)


def test_an_image_that_says_an_impossible_size_is_refused() -> None:
    with pytest.raises(InputError, match="65536x65536 pixels are more than 64000000"):
        compressed_to_rgb(huge_png())


def test_compressed_depth_is_no_picture() -> None:
    _, data = cv2.imencode(".png", smooth()[..., 0].astype(np.uint16) * 100)
    with pytest.raises(InputError, match="type uint16, expected 8 bits a channel; is this .* depth camera"):
        compressed_to_rgb(data.tobytes())


def info(**changes: Any) -> CameraInfo:
    values = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.1, -0.2, 0.0, 0.0, 0.0],
        "k": [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0],
        "p": [450.0, 0.0, 310.0, 0.0, 0.0, 460.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    }
    return CameraInfo(**(values | changes))


def test_raw_images_have_k_and_d() -> None:
    camera = camera_from_info(info(), rectified=False)
    assert (camera.width, camera.height) == (640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    assert camera.distortion == (0.1, -0.2, 0, 0, 0) and camera.is_distorted


def test_rectified_images_have_p_and_no_distortion() -> None:
    camera = camera_from_info(info(), rectified=True)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (450, 460, 310, 230)
    assert not camera.is_distorted


def test_region_of_interest_and_binning() -> None:
    region = RegionOfInterest(x_offset=20, y_offset=40, width=400, height=200)
    camera = camera_from_info(info(roi=region, binning_x=2, binning_y=4), rectified=False)
    assert (camera.width, camera.height) == (200, 50)
    assert (camera.fx, camera.fy) == (250, 127.5)
    # Column 320 of the sensor is column 300 of the region, and its pixel's centre 300.5 from the edge.
    assert camera.cx == 300.5 / 2 - 0.5 and camera.cy == 200.5 / 4 - 0.5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [float("nan"), 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]}, "finite"),
        ({"d": [float("inf"), 0.0, 0.0, 0.0, 0.0]}, "finite"),
        ({"width": 0}, "size of the image, got 0x480"),
        (
            {"distortion_model": "kannala"},
            "distortion model 'kannala' cannot be used: it is not known here; .*plumb_bob",
        ),
    ],
)
def test_unusable_camera_info_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        camera_from_info(info(**changes), rectified=False)


def test_camera_info_round_trip() -> None:
    message = sent(convert.camera_to_info(CAMERA, HEADER))
    assert message.header == HEADER
    assert camera_from_info(message, rectified=False) == camera_from_info(message, rectified=True) == CAMERA


MAPS = maps_of(RGB)


def pixels_of(message: Image, dtype: Any) -> np.ndarray:
    assert message.header == HEADER
    array = np.frombuffer(message.data, dtype).reshape(message.height, -1)
    assert message.step == array.strides[0]
    return array


@pytest.mark.parametrize(
    ("message", "encoding", "expected"),
    [
        (convert.semantic_to_image(MAPS.class_map, HEADER), "mono8", MAPS.class_map),
        (convert.instance_to_image(MAPS.track_map, HEADER), "16UC1", MAPS.track_map),
        (convert.confidence_to_image(MAPS.confidence, HEADER), "mono8", MAPS.confidence),
        (convert.depth_to_image(MAPS.depth_m, HEADER), "32FC1", MAPS.depth_m),
    ],
)
def test_maps_out(message: Image, encoding: str, expected: np.ndarray) -> None:
    message = sent(message)
    assert (message.encoding, message.width, message.height, message.is_bigendian) == (encoding, 6, 4, 0)
    np.testing.assert_array_equal(pixels_of(message, expected.dtype), expected)


def test_a_view_with_gaps_goes_out_whole() -> None:
    wide = np.arange(40, dtype=np.uint8).reshape(4, 10)
    message = sent(convert.semantic_to_image(wide[:, 2:8], HEADER))
    np.testing.assert_array_equal(pixels_of(message, np.uint8), wide[:, 2:8])


@pytest.mark.parametrize("order", PanopticOrder)
def test_panoptic_out(order: PanopticOrder) -> None:
    message = sent(convert.panoptic_to_image(MAPS.class_map, MAPS.track_map, HEADER, order))
    assert message.encoding == "32SC1"
    class_map, track_map = decode_panoptic(pixels_of(message, np.int32), order)
    np.testing.assert_array_equal(class_map, MAPS.class_map)
    np.testing.assert_array_equal(track_map, MAPS.track_map)


def test_rgb_out() -> None:
    message = sent(convert.rgb_to_image(RGB, HEADER))
    assert message.step == 18
    np.testing.assert_array_equal(convert.image_to_rgb(message), RGB)


def test_the_cloud_is_organised() -> None:
    cloud = cloud_of(MAPS, RGB)
    message: PointCloud2 = sent(convert.cloud_to_message(cloud, HEADER))
    assert message.header == HEADER
    assert (message.height, message.width, message.point_step, message.row_step) == (4, 6, 24, 144)
    assert not message.is_dense
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ("x", 0, PointField.FLOAT32, 1),
        ("y", 4, PointField.FLOAT32, 1),
        ("z", 8, PointField.FLOAT32, 1),
        ("rgb", 12, PointField.FLOAT32, 1),
        ("label", 16, PointField.UINT32, 1),
        ("instance", 20, PointField.UINT32, 1),
    ]
    assert bytes(message.data) == cloud.tobytes()


def test_label_space_out() -> None:
    message = sent(convert.label_space_to_message(CITYSCAPES, HEADER))
    assert (message.header, message.name) == (HEADER, "cityscapes")
    assert [(c.id, c.name, tuple(c.color), c.is_thing) for c in message.classes] == [
        (c.id, c.name, c.color, c.is_thing) for c in CITYSCAPES.classes
    ]


def test_instances_out() -> None:
    lost = instance(track_id=9, state=TrackState.LOST, box_px=(0.0, 0.0, 0.0, 0.0), area_px=0, unseen_s=0.5)
    message = sent(convert.instances_to_message([instance(), lost], HEADER))
    assert message.header == HEADER
    first, second = message.instances
    assert (first.track_id, first.class_id, first.score, first.area) == (7, CAR, 0.875, 20)
    assert (first.state, first.motion) == (first.STATE_CONFIRMED, first.MOTION_MOVING)
    assert (first.box_x, first.box_y, first.box_width, first.box_height) == (3, 2, 6, 4)
    assert (first.centroid.x, first.centroid.y, first.centroid.z) == (1, 0.5, 10)
    assert (first.extent.x, first.extent.y, first.extent.z) == (2, 1.5, 4)
    assert (first.velocity.x, first.velocity.y, first.velocity.z) == (-2, 0, 0)
    np.testing.assert_array_equal(first.covariance, np.arange(36.0))
    assert (first.age.sec, first.age.nanosec, first.unseen.nanosec) == (1, 250_000_000, 0)
    assert (second.track_id, second.state, second.unseen.nanosec) == (9, second.STATE_LOST, 500_000_000)


def test_constants_equal_the_records() -> None:
    m = dvps_msg.TrackedInstance
    assert [m.STATE_TENTATIVE, m.STATE_CONFIRMED, m.STATE_LOST] == list(TrackState)
    assert [m.MOTION_UNKNOWN, m.MOTION_STATIC, m.MOTION_MOVING] == list(Motion)
    s = dvps_msg.ScaleEstimate
    assert [s.HEALTH_OFF, s.HEALTH_STARTING, s.HEALTH_OK, s.HEALTH_STALE] == list(ScaleHealth)


def test_scale_out() -> None:
    message = sent(convert.scale_to_message(SCALE, HEADER))
    assert (message.header, message.health) == (HEADER, message.HEALTH_OK)
    assert (message.scale, message.variance, message.inlier_ratio) == (1.5, 0.25, 0.75)
    assert message.camera_height == pytest.approx(1.65)
    np.testing.assert_array_equal(message.plane, [0, 1, 0, -1.65])


def test_latent_out() -> None:
    latent = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    message = sent(convert.latent_to_message(latent, HEADER, "abc"))
    assert (message.header, message.weights, message.tokens, message.channels) == (HEADER, "abc", 2, 3)
    np.testing.assert_array_equal(np.array(message.data, np.float32), latent.reshape(-1))
    np.testing.assert_array_equal(convert.message_to_latent(message), latent)
    message.tokens = 3
    with pytest.raises(InputError, match="expected 3 x 3 numbers, got 6"):
        convert.message_to_latent(message)


def test_markers() -> None:
    nowhere = instance(track_id=8, centroid_m=np.full(3, np.nan))
    still = instance(track_id=9, velocity_mps=np.zeros(3))
    message = sent(convert.instances_to_markers([instance(), nowhere, still], CITYSCAPES, HEADER))
    clear, box, text, arrow, *others = message.markers
    assert all(m.header == HEADER for m in message.markers)
    assert clear.action == Marker.DELETEALL
    assert (box.type, box.id, box.scale.z) == (Marker.CUBE, 7, 4.0)
    assert (text.text, text.pose.position.z) == ("car 7", 10.0)
    assert (arrow.points[0].x, arrow.points[1].x) == (1.0, -1.0)
    assert [(m.ns, m.id) for m in others] == [("box", 9), ("label", 9)]


@pytest.mark.parametrize("stamp_ns", [0, 1, 1_700_000_000_123_456_789])
def test_stamps(stamp_ns: int) -> None:
    assert convert.stamp_to_ns(convert.ns_to_stamp(stamp_ns)) == stamp_ns


@pytest.mark.parametrize("nanosec", [1_000_000_000, 4_294_967_295])
def test_a_stamp_that_is_no_time_is_refused(nanosec: int) -> None:
    with pytest.raises(InputError, match=f"expected less than 1000000000 nanoseconds, got {nanosec}"):
        convert.stamp_to_ns(Time(sec=2**31 - 1, nanosec=nanosec))
    latest = Time(sec=2**31 - 1, nanosec=999_999_999)
    assert convert.ns_to_stamp(convert.stamp_to_ns(latest)) == latest


def test_vision_messages() -> None:
    pytest.importorskip("vision_msgs")
    seen, lost = instance(), instance(track_id=9, area_px=0, state=TrackState.LOST)
    flat = sent(convert.instances_to_detections_2d([seen, lost], CITYSCAPES, HEADER))
    assert [d.id for d in flat.detections] == ["7"]
    box = flat.detections[0].bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (5.5, 3.5, 6, 4)
    assert flat.detections[0].results[0].hypothesis.class_id == "car"
    solid = sent(convert.instances_to_detections_3d([seen, lost], CITYSCAPES, HEADER))
    assert [d.id for d in solid.detections] == ["7", "9"]
    assert solid.detections[0].bbox.center.position.z == 10
    table = sent(convert.label_space_to_label_info(CITYSCAPES, HEADER))
    assert [(c.class_id, c.class_name) for c in table.class_map] == list(enumerate(CITYSCAPES.names))
