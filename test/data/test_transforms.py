# SPDX-License-Identifier: Apache-2.0
"""Augmentation keeps image, truth and intrinsics consistent: checked by projecting points."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dvps_ros.data.transforms import (
    AugmentConfig,
    Box,
    Lens,
    augment,
    crop_resize,
    focus_box,
    mirror,
    pan_still,
    random_box,
    recolor,
    retake,
    roughen,
)
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample

H, W = 24, 48


def plane_clip() -> Sample:
    """A camera that advances and turns before a sloped plane; exact depth and flow of every pixel."""
    camera = CameraModel(W, H, 40.0, 42.0, 22.0, 13.0)
    v, u = np.mgrid[:H, :W].astype(np.float64)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    normal = np.array([0.1, 0.05, 1.0])
    depth1 = 8.0 / (rays @ normal)
    angle = 0.02
    previous_from_current = np.eye(4)
    previous_from_current[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]
    ]  # fmt: skip
    previous_from_current[:3, 3] = [0.05, 0.0, 0.4]
    points = rays * depth1[..., None] @ previous_from_current[:3, :3].T + previous_from_current[:3, 3]
    flow = np.full((2, H, W, 2), np.nan, np.float32)
    flow[1, ..., 0] = camera.fx * points[..., 0] / points[..., 2] + camera.cx - u
    flow[1, ..., 1] = camera.fy * points[..., 1] / points[..., 2] + camera.cy - v
    scene_flow = np.full((2, H, W, 3), np.nan, np.float32)
    scene_flow[1] = points - rays * depth1[..., None]
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, (2, H, W)).astype(np.int32)
    return Sample(
        images=rng.integers(0, 255, (2, H, W, 3)).astype(np.uint8),
        intrinsics=np.tile(camera.vector, (2, 1)),
        source="plane",
        class_map=ids.astype(np.uint8),
        instance_map=ids,
        depth_m=np.stack([depth1, depth1]).astype(np.float32),
        flow_px=flow,
        scene_flow_m=scene_flow,
        moving=np.zeros((2, H, W), np.uint8),
        world_from_camera=np.stack([np.eye(4), previous_from_current]),
        steering_rad=np.array([0.1, -0.2], np.float32),
    )


def flow_error(sample: Sample) -> np.ndarray:
    """Distance of the stored flows, in pixels and in millimetres, from those that depth, intrinsics and poses
    imply; the greater of the two."""
    h, w = sample.images.shape[1:3]
    fx, fy, cx, cy = sample.intrinsics[1].astype(np.float64)
    v, u = np.mgrid[:h, :w].astype(np.float64)
    z = sample.depth_m[1].astype(np.float64)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)
    previous_from_current = np.linalg.inv(sample.world_from_camera[0]) @ sample.world_from_camera[1]
    moved = points @ previous_from_current[:3, :3].T + previous_from_current[:3, 3]
    implied = np.stack(
        [fx * moved[..., 0] / moved[..., 2] + cx - u, fy * moved[..., 1] / moved[..., 2] + cy - v], -1
    )
    flow = np.linalg.norm(implied - sample.flow_px[1], axis=-1)
    return np.maximum(flow, 1e3 * np.linalg.norm(moved - points - sample.scene_flow_m[1], axis=-1))


def test_the_clip_itself_is_consistent():
    assert flow_error(plane_clip()).max() < 2e-3


def test_whole_number_growth_repeats_pixels_and_scales_intrinsics():
    clip = plane_clip()
    grown = crop_resize(clip, Box(10, 4, 12, 8), 36, 24)
    np.testing.assert_array_equal(
        grown.class_map[0], clip.class_map[0, 4:12, 10:22].repeat(3, 0).repeat(3, 1)
    )
    np.testing.assert_allclose(
        grown.intrinsics[0], [120, 126, (22 - 10 + 0.5) * 3 - 0.5, (13 - 4 + 0.5) * 3 - 0.5]
    )
    assert flow_error(grown)[1::3, 1::3].max() < 2e-3  # the middle of each block is the old pixel centre


def test_same_size_crop_copies():
    clip = plane_clip()
    cut = crop_resize(clip, Box(5, 3, 20, 12), 20, 12)
    np.testing.assert_array_equal(cut.images, clip.images[:, 3:15, 5:25])
    assert flow_error(cut).max() < 2e-3


def test_outside_there_is_no_truth():
    clip = plane_clip()
    out = crop_resize(clip, Box(-4, -2, W + 8, H + 4), W + 8, H + 4)
    edge = (slice(None), slice(0, 2))
    assert (
        (out.images[edge] == 0).all()
        and (out.class_map[edge] == 255).all()
        and (out.depth_m[edge] == 0).all()
    )
    assert (out.instance_map[edge] == -1).all() and (out.moving[edge] == 255).all()
    assert np.isnan(out.flow_px[edge]).all() and np.isnan(out.scene_flow_m[edge]).all()
    np.testing.assert_array_equal(out.depth_m[:, 2:-2, 4:-4], clip.depth_m)
    assert clip.seen is None and not out.seen[edge].any() and out.seen[:, 2:-2, 4:-4].all()
    assert out.seen.sum() == 2 * H * W
    again = crop_resize(mirror(out), Box(1, 0, W, H), W, H)  # inside, but not of what the camera saw
    assert (~again.seen[:, :2]).all() and (~again.seen[:, 2:, :3]).all() and again.seen[:, 2:, 3:].all()


def test_mirror_twice_is_the_original_and_once_is_consistent():
    clip = plane_clip()
    once, twice = mirror(clip), mirror(mirror(clip))
    assert flow_error(once).max() < 2e-3
    np.testing.assert_allclose(once.steering_rad, [-0.1, 0.2])
    np.testing.assert_array_equal(once.images[:, :, 0], clip.images[:, :, -1])
    for name in (
        "images",
        "class_map",
        "depth_m",
        "flow_px",
        "scene_flow_m",
        "world_from_camera",
        "steering_rad",
    ):
        np.testing.assert_allclose(getattr(twice, name), getattr(clip, name), atol=1e-6)


def test_augment_is_reproducible_of_the_wanted_size_and_consistent():
    config = AugmentConfig(height=32, width=64, aspect=0.0, min_zoom=1.0, max_zoom=1.6)
    a, b = (augment(plane_clip(), np.random.default_rng(5), config) for _ in range(2))
    assert a.images.shape == (2, 32, 64, 3)
    np.testing.assert_array_equal(a.images, b.images)
    # Nearest truth: within the motion of half a pixel, 0.1 px or 2 mm.
    assert np.nanmedian(flow_error(a)) < 2.0


def test_random_boxes_stay_inside_when_they_fit():
    config = AugmentConfig(height=32, width=64, min_zoom=1.0, max_zoom=2.0, aspect=0.0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        box = random_box(rng, 128, 64, config)
        assert 0 <= box.x <= 128 - box.width and 0 <= box.y <= 64 - box.height
        assert 64 <= box.width <= 128


def test_a_focused_box_shows_a_rare_class_wherever_it_can():
    classes = np.zeros((2, 60, 100), np.uint8)
    classes[1, 10:14, 80:84], classes[1, 40:44, 5:8], classes[0, 30, 50] = 15, 11, 17
    clip = Sample(np.zeros((2, 60, 100, 3), np.uint8), np.ones((2, 4), np.float32), "rare", class_map=classes)
    rng, box, shown = np.random.default_rng(0), Box(40, 20, 30, 20), {15: 0, 11: 0}
    for _ in range(60):
        b = focus_box(box, clip, rng, (11, 15, 17))
        assert (b.width, b.height) == (30, 20) and 0 <= b.x <= 70 and 0 <= b.y <= 40
        inside = np.unique(classes[1, b.y : b.y + 20, b.x : b.x + 30])
        assert {11, 15} & set(inside)
        for c in shown:
            shown[c] += c in inside
    assert min(shown.values()) > 15  # the classes take turns, whatever their area
    assert focus_box(box, clip, rng, (17,)) == box  # only in the first frame
    whole = Box(0, 0, 100, 60)
    assert focus_box(whole, clip, rng, (11,)) == whole
    coarse = replace(clip, class_map=None, coarse_map=classes // 11, coarse_groups=((0,), (11, 12)))
    b = focus_box(box, coarse, rng, (11, 12))
    assert (classes[1, b.y : b.y + 20, b.x : b.x + 30] > 0).any()
    assert focus_box(box, coarse, rng, (11,)) == box  # the coarse label may be something common


def test_noise_is_in_every_channel_alike():
    gray = np.full((1, 64, 64, 3), 128, np.uint8)
    spreads = [recolor(gray, np.random.default_rng(seed)).std((0, 1, 2)) for seed in range(40)]
    noisy = np.array([s for s in spreads if s.max() > 1])
    assert 5 < len(noisy) < 30  # about a third gets any
    assert (noisy.min(1) > 0.5 * noisy.max(1)).all()


def test_a_roughened_image_keeps_its_mean_and_its_place_and_gains_fine_detail():
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (96, 160, 3)).astype(np.uint8), (0, 0), 4
    )
    image = np.clip(128 + 3.0 * (image.astype(int) - 128), 60, 195).astype(np.uint8)
    rough = roughen(np.stack([image, np.roll(image, 8, 1)]), np.random.default_rng(1))
    np.testing.assert_allclose(rough.mean((1, 2)), np.stack([image, image]).mean((1, 2)), atol=1.0)
    # The factors are those of a convolution: what moves by 8 pixels still does, texture and all.
    assert np.abs(np.roll(rough[0], 8, 1).astype(int) - rough[1]).max() <= 1
    changed = rough[0].astype(float) - image
    assert changed.std() > 2 and np.corrcoef(rough[0].ravel(), image.ravel())[0, 1] > 0.8

    def amplitudes(x):
        return np.abs(np.fft.rfft2(x.astype(float), axes=(0, 1)))

    seeds = [roughen(image[None], np.random.default_rng(s))[0] for s in range(40)]
    ratio = np.stack([amplitudes(x) / amplitudes(image) for x in seeds])
    # |1 + 0.5 z| of a strong, coarse component: its mean square is 1 + 0.25.
    strong = amplitudes(image)[..., 0] > 3000
    strong[0, 0] = False
    assert strong.sum() >= 10
    assert abs((ratio[..., 0][:, strong] ** 2).mean() - 1.25) < 0.08


def test_texture_is_a_share_of_the_samples():
    sample = Sample(
        np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3)).astype(np.uint8),
        np.ones((2, 4), np.float32),
        "noise",
    )
    plain = AugmentConfig(height=64, width=96, color=0, flip=0, aspect=0, max_zoom=1, focus=0)
    same = [
        (
            augment(sample, np.random.default_rng(s), replace(plain, texture=share)).images == sample.images
        ).all()
        for share in (0.0, 0.5, 1.0)
        for s in range(20)
    ]
    assert all(same[:20]) and 4 <= sum(same[20:40]) <= 16 and not any(same[40:])


def test_recolor_of_strength_zero_changes_nothing_and_frames_change_alike():
    images = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3)).astype(np.uint8), 2, 0)
    assert recolor(images, np.random.default_rng(1), 0.0) is images
    gray = np.full((2, 8, 8, 3), 128, np.uint8)
    changed = recolor(gray, np.random.default_rng(2), 1.0)
    assert changed.shape == gray.shape and changed.dtype == np.uint8
    assert abs(float(changed[0].mean()) - float(changed[1].mean())) < 3


def test_pan_knows_where_each_pixel_was():
    u, v = np.meshgrid(np.arange(160), np.arange(80))
    image = np.stack([u, v * 2, np.zeros_like(u)], -1).astype(np.uint8)
    still = Sample(image[None], np.array([[50, 50, 80, 40]], np.float32), "ramp")
    clip = pan_still(still, np.random.default_rng(3))
    now, before = np.mgrid[10:70:7, 30:130:9].reshape(2, -1), clip.images[0]
    for y, x in now.T:
        du, dv = clip.flow_px[1, y, x]
        px, py = int(round(x + du)), int(round(y + dv))
        assert abs(int(before[py, px, 0]) - x) <= 2 and abs(int(before[py, px, 1]) / 2 - y) <= 2
    assert np.isnan(clip.flow_px[0]).all()
    assert clip.seen[1].all() and 0 < (~clip.seen[0]).mean() < 0.2


def test_refusals():
    clip = plane_clip()
    with pytest.raises(InputError, match="positive size"):
        crop_resize(clip, Box(0, 0, 0, 5), 8, 8)
    with pytest.raises(InputError, match="expected one frame, got 2"):
        pan_still(replace(clip), np.random.default_rng(0))


SHARP = Lens(1.0, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0, 0.0, 100)


def grey_picture(value: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.full((1, *size, 3), value, np.uint8)


def test_a_perfect_lens_takes_the_same_picture():
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    before = images.copy()
    np.testing.assert_array_equal(retake(images, SHARP, 1), images)
    np.testing.assert_array_equal(images, before)


def test_exposure_scales_linear_light_and_clips():
    for value, exposure in ((60, 2.0), (180, 0.5), (250, 2.0)):
        want = min(exposure * (value / 255) ** 2.2, 1) ** (1 / 2.2) * 255
        got = retake(grey_picture(value), SHARP._replace(exposure=exposure), 1)
        assert (np.abs(got.astype(float) - want) <= 1).all()


def test_vignetting_darkens_the_corners_by_the_square_of_their_distance():
    got = retake(grey_picture(200), SHARP._replace(vignette=0.5), 1)[0, ..., 0].astype(float)
    light = (got / 255) ** 2.2 / (200 / 255) ** 2.2
    assert light[32, 48] == pytest.approx(1, abs=0.02)
    assert light[0, 0] == pytest.approx(0.5, abs=0.03)
    assert light[32, 0] == pytest.approx(0.75, abs=0.02)  # the middle of a side is at half the square


def test_motion_blurs_along_its_way_only():
    images = np.zeros((1, 41, 41, 3), np.uint8)
    images[0, 20, 20] = 255
    got = (retake(images, SHARP._replace(motion_px=(6.0, 0.0)), 1)[0, ..., 0] / 255.0) ** 2.2
    assert got.sum() == pytest.approx(1, abs=0.05)
    rows, columns = np.nonzero(got > 0.01)
    assert set(rows) == {20} and set(columns) == set(range(17, 24))


def test_noise_grows_with_the_root_of_light():
    lens = SHARP._replace(read_noise=1.0, shot_noise=6.0)
    for value in (30, 120, 200):
        got = retake(grey_picture(value, (200, 200)), lens, 3).astype(float)
        assert got.mean() == pytest.approx(value, abs=0.3)
        assert got.std() == pytest.approx(1 + 6 * np.sqrt(value / 255), rel=0.05)
    np.testing.assert_array_equal(*(retake(grey_picture(90), lens, 5) for _ in range(2)))


def test_sharpening_overshoots_at_edges_and_leaves_planes_alone():
    images = grey_picture(80)
    images[:, :, 48:] = 160
    got = retake(images, SHARP._replace(sharpening=1.0), 1)[0, 32, :, 0]
    assert got[47] < 70 and got[48] > 170
    assert (got[:40] == 80).all() and (got[56:] == 160).all()


def test_jpeg_is_of_its_quality():
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    errors = [
        np.abs(retake(images, SHARP._replace(jpeg=q), 1).astype(int) - images).mean() for q in (95, 60, 30)
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_other_cameras_change_pictures_and_no_truth():
    sample = plane_clip()
    config = AugmentConfig(height=32, width=64, camera=1.0)
    plain = augment(sample, np.random.default_rng(5), replace(config, camera=0.0))
    taken, again = (augment(sample, np.random.default_rng(5), config) for _ in range(2))
    np.testing.assert_array_equal(taken.images, again.images)
    assert (taken.images != plain.images).any()
    np.testing.assert_array_equal(taken.class_map, plain.class_map)
    np.testing.assert_array_equal(taken.depth_m, plain.depth_m)
