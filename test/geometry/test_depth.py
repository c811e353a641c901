# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from dvps_ros.errors import InputError
from dvps_ros.geometry.camera import project
from dvps_ros.geometry.depth import organised_cloud, unproject
from dvps_ros.types import CLOUD_DTYPE, CameraModel

CAMERA = CameraModel(4, 3, 2.0, 4.0, 1.0, 1.0)


def test_unproject_by_hand():
    depth = np.full((3, 4), 8.0, np.float32)
    depth[0, 0], depth[0, 1] = np.inf, np.nan
    points = unproject(depth, CAMERA)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points[1, 1], [0, 0, 8])
    np.testing.assert_array_equal(points[2, 3], [8, 2, 8])  # (3-1)/2*8, (2-1)/4*8
    assert np.isnan(points[0, :2]).all()


def test_unproject_then_project_is_the_pixel_grid():
    camera = CameraModel(50, 40, 31.0, 33.0, 24.2, 20.7)
    depth = np.random.default_rng(0).uniform(1, 80, (40, 50)).astype(np.float32)
    u, v = np.meshgrid(np.arange(50), np.arange(40))
    np.testing.assert_allclose(project(unproject(depth, camera), camera), np.stack([u, v], -1), atol=1e-4)


def test_cloud_fields_by_hand():
    depth = np.full((3, 4), 4.0, np.float32)
    depth[2, 3] = np.inf
    image = np.zeros((3, 4, 3), np.uint8)
    image[1, 2] = (1, 2, 3)
    image[2, 3] = (255, 128, 7)
    class_map = np.full((3, 4), 13, np.uint8)
    class_map[2, 3] = 255
    track_map = np.zeros((3, 4), np.uint16)
    track_map[1, 2] = 65535
    out = np.empty((3, 4), CLOUD_DTYPE)
    cloud = organised_cloud(depth, image, class_map, track_map, CAMERA, out)
    assert cloud is out
    assert tuple(cloud[1, 2]) == (2.0, 0.0, 4.0, 0x010203, 13, 65535)
    assert np.isnan([cloud[2, 3]["x"], cloud[2, 3]["y"], cloud[2, 3]["z"]]).all()
    assert (cloud[2, 3]["rgb"], cloud[2, 3]["label"], cloud[2, 3]["instance"]) == (0xFF8007, 255, 0)


def test_cloud_equals_unproject():
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 80, (3, 4)).astype(np.float32)
    depth[0, 1] = np.nan
    blank = np.zeros((3, 4, 3), np.uint8)
    cloud = organised_cloud(depth, blank, blank[..., 0].copy(), np.zeros((3, 4), np.uint16), CAMERA)
    points = np.stack([cloud["x"], cloud["y"], cloud["z"]], -1)
    np.testing.assert_array_equal(points, unproject(depth, CAMERA))


def test_wrong_sizes_and_types_are_refused():
    depth, image = np.ones((3, 4), np.float32), np.zeros((3, 4, 3), np.uint8)
    classes, tracks = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint16)
    with pytest.raises(InputError, match=r"depth_m: expected float32 \[3x4\], got float64"):
        unproject(depth.astype(np.float64), CAMERA)
    with pytest.raises(InputError, match="track_map: expected uint16"):
        organised_cloud(depth, image, classes, classes, CAMERA)
    with pytest.raises(InputError, match=r"depth_m: expected float32 \[3x4\], got float32 \[4x3\]"):
        organised_cloud(depth.T, image, classes, tracks, CAMERA)
    with pytest.raises(InputError, match="out: expected"):
        organised_cloud(depth, image, classes, tracks, CAMERA, np.empty((4, 3), CLOUD_DTYPE))


def test_points_between_an_object_and_its_background_are_left_out():
    """A car at 10 m before a wall at 30 m, whose depth blends over five columns; road below and sky above."""
    height, width = 40, 60
    camera = CameraModel(width, height, 50.0, 50.0, 29.5, 19.5)
    depth = np.full((height, width), 30, np.float32)
    depth[:, 20:40] = 10
    depth[:, 15:20], depth[:, 40:45] = np.linspace(27, 13, 5), np.linspace(13, 27, 5)
    rows = np.arange(30, height)
    depth[30:] = (1.5 * 50 / (rows - 19.5))[:, None]  # a plane 1.5 m below: 82 degrees and more
    depth[:5] = np.inf
    classes = np.full((height, width), 13, np.uint8)
    classes[30:] = 0
    is_ground = np.zeros(256, bool)
    is_ground[0] = True
    image, tracks = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint16)
    cloud = organised_cloud(depth, image, classes, tracks, camera, steepest_deg=75.0, is_ground=is_ground)
    there = np.isfinite(cloud["z"])
    inner = np.s_[8:27]
    assert not there[inner, 15:20].any() and not there[inner, 40:45].any()
    assert there[inner, 23:37].all() and there[inner, :12].all() and there[inner, 48:].all()
    assert there[31:38].all()  # the road stays; as another class it would not
    steep = organised_cloud(depth, image, classes, tracks, camera, steepest_deg=75.0)
    assert not np.isfinite(steep["z"])[31:33].any()
    every = organised_cloud(depth, image, classes, tracks, camera, steepest_deg=90.0)
    np.testing.assert_array_equal(every["z"], np.where(np.isinf(depth), np.nan, depth))
    one = CameraModel(1, 1, 5.0, 5.0, 0.0, 0.0)
    maps = np.full((1, 1), 3, np.float32), image[:1, :1], classes[:1, :1], tracks[:1, :1]
    pixel = organised_cloud(*maps, one, steepest_deg=80.0)
    assert pixel["z"][0, 0] == 3
