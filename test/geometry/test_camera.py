# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from dvps_ros.errors import InputError
from dvps_ros.geometry.camera import Fit, project, rays, rectify_maps
from dvps_ros.types import CameraModel

CAMERA = CameraModel(640, 480, 500.0, 510.0, 320.0, 240.0)


def test_project_known_points():
    points = np.array(
        [[0.0, 0.0, 5.0], [1.0, -2.0, 10.0], [1.0, 1.0, 0.0], [1.0, 1.0, -3.0], [np.nan, 0.0, 1.0]]
    )
    pixels = project(points, CAMERA)
    np.testing.assert_allclose(pixels[:2], [[320.0, 240.0], [370.0, 138.0]])
    assert np.isnan(pixels[2:4]).all()
    assert np.isnan(pixels[4, 0])


def test_rays_invert_project():
    x, y = rays(CAMERA)
    pixels = project(np.array([x[17] * 4, y[300] * 4, 4.0]), CAMERA)
    np.testing.assert_allclose(pixels, [17, 300], atol=1e-4)


def test_fit_puts_a_wide_image_in_the_middle():
    fit = Fit.letterbox(1242, 375, 832, 256)
    assert (fit.inner_width, fit.inner_height, fit.pad_x, fit.pad_y) == (832, 251, 0, 2)
    assert fit.scale == pytest.approx(832 / 1242)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000)])
def test_fit_refuses_what_leaves_no_pixel_of_a_side(size):
    with pytest.raises(InputError, match=f"in 256x128, got {size[0]}x{size[1]} pixels"):
        Fit.letterbox(*size, 256, 128)
    thin = Fit.letterbox(500, 1, 256, 128)  # half a pixel and more is one
    assert (thin.inner_width, thin.inner_height) == (256, 1)


@pytest.mark.parametrize("stride", [1, 4])
def test_fit_camera_sees_the_same_ray(stride):
    camera = CameraModel(1000, 400, 700.0, 720.0, 480.0, 210.0)
    fit = Fit.letterbox(1000, 400, 512, 256)
    at_map = fit.camera(camera, stride)
    assert (at_map.width, at_map.height) == (512 // stride, 256 // stride)
    point = np.array([1.0, 0.5, 8.0])
    u, v = project(point, camera)
    u_map, v_map = project(point, at_map)
    assert (u_map + 0.5) * stride == pytest.approx((u + 0.5) * fit.scale + fit.pad_x)
    assert (v_map + 0.5) * stride == pytest.approx((v + 0.5) * fit.scale + fit.pad_y)


def test_fit_edges_return_to_the_camera_image():
    fit = Fit.letterbox(1000, 400, 500, 250)
    x, y = fit.to_camera_edge(np.array([0.0, 250.0, 500.0]), np.array([0.0, 25.0, 250.0]))
    np.testing.assert_allclose(x, [0, 500, 1000])
    np.testing.assert_allclose(y, [0, 0, 400])


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.01)),
        ("rational_polynomial", (0.2, -0.1, 0.001, 0.0, 0.01, 0.1, 0.02, 0.003)),
        ("equidistant", (0.05, -0.01, 0.002, 0.0)),
    ],
)
def test_rectify_maps_point_at_the_distorted_pixel(model, distortion):
    camera = CameraModel(320, 240, 250.0, 255.0, 158.0, 121.0, distortion, model)
    map_x, map_y = rectify_maps(camera)
    assert map_x.shape == map_y.shape == (240, 320) and map_x.dtype == map_y.dtype == np.float32
    for u, v in [(10, 20), (158, 121), (300, 200)]:
        ray = np.array([[[(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0]]])
        if model == "equidistant":
            raw = cv2.fisheye.distortPoints(ray[..., :2], camera.K, np.array(distortion))
        else:
            raw, _ = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), camera.K, np.array(distortion))
        np.testing.assert_allclose((map_x[v, u], map_y[v, u]), raw.ravel(), atol=1e-3)


def test_plumb_bob_by_hand():
    # Only k1: r_raw = r (1 + k1 r^2); the pixel at x = 0.5, y = 0 moves to 0.5 (1 + 0.2 * 0.25).
    camera = CameraModel(101, 101, 100.0, 100.0, 50.0, 50.0, (0.2, 0.0, 0.0, 0.0, 0.0))
    map_x, map_y = rectify_maps(camera)
    assert map_x[50, 100] == pytest.approx(50 + 100 * 0.5 * 1.05, abs=1e-3)
    assert map_y[50, 100] == pytest.approx(50, abs=1e-3)


def test_rectify_maps_without_distortion_are_the_identity():
    map_x, map_y = rectify_maps(CameraModel(8, 6, 5.0, 5.0, 3.5, 2.5))
    np.testing.assert_allclose(map_x, np.tile(np.arange(8), (6, 1)), atol=1e-5)
    np.testing.assert_allclose(map_y, np.tile(np.arange(6)[:, None], (1, 8)), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "distortion", "message"),
    [
        ("fov", (0.9,), "expected one of plumb_bob, rational_polynomial, equidistant, got 'fov'"),
        ("equidistant", (0.1,) * 5, "expected 4 coefficients, got 5"),
        ("plumb_bob", (0.1,) * 3, "expected 4 or 5 coefficients, got 3"),
    ],
)
def test_rectify_maps_refuses(model, distortion, message):
    with pytest.raises(InputError, match=message):
        rectify_maps(CameraModel(8, 6, 5.0, 5.0, 3.5, 2.5, distortion, model))


def test_a_fisheye_without_coefficients_is_still_distorted() -> None:
    flat = CameraModel(64, 48, 40.0, 40.0, 31.5, 23.5, (0.0,) * 4)
    assert not flat.is_distorted
    assert CameraModel(64, 48, 40.0, 40.0, 31.5, 23.5, (0.0,) * 4, "equidistant").is_distorted
    assert CameraModel(64, 48, 40.0, 40.0, 31.5, 23.5, (), "equidistant").is_distorted
