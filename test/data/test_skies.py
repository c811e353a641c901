# SPDX-License-Identifier: Apache-2.0
"""Panoramas as sky and light, on ones made with a known sun."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, shade, skies
from dvps_ros.data.world.skies import LUMINANCE, draw_sky, lit_by, load_sky, sky_files
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(192, 96, 80.0)
CITY = WorldConfig(seed=11, style="city", weather="clear", camera_height_m=1.5, camera_pitch_deg=0.0)
HEIGHT, WIDTH = 256, 512
SKY, GROUND, SUN = (0.4, 0.5, 0.8), (0.1, 0.1, 0.1), (900.0, 700.0, 400.0)


def directions(height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    """Elevation [H,1] and azimuth [1,W] of an equirectangular picture's pixels, radians."""
    width = 2 * height
    return (
        (0.5 - (np.arange(height)[:, None] + 0.5) / height) * math.pi,
        (np.arange(width)[None] + 0.5) * 2 * math.pi / width,
    )


def panorama(sun_elevation_deg: float | None = 40.0, sun_azimuth_deg: float = 120.0) -> np.ndarray:
    """float32 [H,W,3] RGB: an even sky over dark ground, with a sun of 2 degrees radius."""
    elevation, azimuth = directions()
    image = np.where(elevation[..., None] > 0, SKY, GROUND) * np.ones((HEIGHT, WIDTH, 1))
    if sun_elevation_deg is not None:
        up, at = math.radians(sun_elevation_deg), math.radians(sun_azimuth_deg)
        near = np.sin(elevation) * math.sin(up) + np.cos(elevation) * math.cos(up) * np.cos(azimuth - at)
        image[near > math.cos(math.radians(2.0))] = SUN
    return image.astype(np.float32)


def written(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
    return path


@pytest.mark.parametrize(("elevation_deg", "azimuth_deg"), [(40.0, 120.0), (65.0, 301.0), (22.0, 3.0)])
def test_the_sun_is_found_where_it_was_put(tmp_path, elevation_deg, azimuth_deg):
    sky = load_sky(written(tmp_path / "a.hdr", panorama(elevation_deg, azimuth_deg)))
    assert sky.is_open and sky.has_sun
    assert math.degrees(sky.azimuth) == pytest.approx(azimuth_deg, abs=0.6)
    # The lowest degrees are cut away, and the rest is stretched down to the horizon.
    cut = skies._LEAST_CUT_DEG
    assert math.degrees(sky.elevation) == pytest.approx((elevation_deg - cut) / (1 - cut / 90), abs=0.6)
    row, col = np.unravel_index(sky.radiance.sum(2).argmax(), sky.radiance.shape[:2])
    assert (1 - (row + 0.5) / 256) * 90 == pytest.approx(math.degrees(sky.elevation), abs=3)
    assert (col + 0.5) * 360 / 1024 == pytest.approx(azimuth_deg, abs=5)


def test_sun_and_ambient_light_are_integrals_over_the_sky(tmp_path):
    """Of an even sky a white surface sends back its radiance; the sun counts by its solid angle."""
    image = panorama()
    sky = load_sky(written(tmp_path / "a.hdr", image))
    np.testing.assert_allclose(sky.ambient, SKY, rtol=0.03)
    elevation, _ = directions()
    solid = (math.pi / HEIGHT) ** 2 * np.cos(elevation) * np.ones((HEIGHT, WIDTH))
    want = sum(solid[image[..., 0] > 100]) * (np.array(SUN) - 2 * np.array(SKY)) / math.pi
    np.testing.assert_allclose(sky.sun, want, rtol=0.03)
    np.testing.assert_allclose(sky.zenith, SKY, rtol=0.03)
    np.testing.assert_allclose(sky.horizon, SKY, rtol=0.03)


def test_an_even_sky_has_no_sun(tmp_path):
    sky = load_sky(written(tmp_path / "a.hdr", panorama(None)))
    assert sky.is_open and not sky.has_sun


def test_a_house_before_the_sky_is_not_in_it(tmp_path):
    image = panorama()
    image[round(HEIGHT * 50 / 180) : HEIGHT // 2, 300:380] = (0.02, 0.03, 0.02)  # up to 40 degrees
    sky = load_sky(written(tmp_path / "a.hdr", image))
    assert sky.is_open and (sky.radiance @ LUMINANCE > 0.4).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((HEIGHT, WIDTH, 3), 0.5, np.float32),  # a hall: as bright below as above
        np.random.default_rng(0).choice([0.02, 1.0], (HEIGHT, WIDTH, 1)).astype(np.float32).repeat(3, 2),
    ],
)
def test_what_is_no_open_sky_is_left_out_and_said_once(tmp_path, caplog, image):
    path = written(tmp_path / "hall.hdr", image)
    with caplog.at_level(logging.WARNING):
        picked = [draw_sky([path], "clear", np.random.default_rng(i)) for i in range(8)]
    assert picked == [None] * 8
    assert [r.getMessage() for r in caplog.records] == [f"skies: {path} shows no open sky: left out"]


def test_a_sky_goes_with_the_weather(tmp_path, monkeypatch):
    monkeypatch.setattr(skies, "PROCEDURAL", 0.0)
    sunny = written(tmp_path / "sunny.hdr", panorama())
    grey = written(tmp_path / "grey.hdr", panorama(None))
    for weather, want in (
        ("clear", sunny),
        ("low_sun", sunny),
        ("rain", grey),
        ("fog", None),
        ("dusk", None),
    ):
        got = draw_sky([grey, sunny], weather, np.random.default_rng(1))
        assert got is (None if want is None else load_sky(want))
    assert draw_sky([grey], "clear", np.random.default_rng(1)) is None


def drawn_light() -> shade.Light:
    return World(CITY).light


def test_light_comes_from_the_sun_of_the_sky(tmp_path):
    sky = load_sky(written(tmp_path / "a.hdr", panorama()))
    light, _ = lit_by(drawn_light(), sky, turn=0.5)
    east, north, up = light.to_sun
    assert math.hypot(east, north, up) == pytest.approx(1.0)
    assert math.asin(up) == pytest.approx(sky.elevation)
    assert math.atan2(north, east) % (2 * math.pi) == pytest.approx(math.radians(120) + 0.5, abs=0.01)


def test_light_keeps_the_colours_of_the_sky_and_the_level_that_was_drawn(tmp_path, monkeypatch):
    sky, before = load_sky(written(tmp_path / "a.hdr", panorama())), drawn_light()
    monkeypatch.setattr(skies, "WHITE_BALANCE", 0.0)
    light, radiance = lit_by(before, sky, turn=0.0)
    ratio = sky.sun / sky.ambient
    assert ratio @ LUMINANCE < skies.MOST_SUN
    np.testing.assert_allclose(np.divide(light.sun, light.sky), ratio, rtol=1e-6)
    np.testing.assert_allclose(radiance[200, 800] / light.zenith, 1, rtol=0.02)
    drawn, lit = (np.dot(0.45 * x.to_sun[2] * np.array(x.sun) + x.sky, LUMINANCE) for x in (before, light))
    assert lit == pytest.approx(drawn, rel=1e-6)
    weak, _ = lit_by(before, sky._replace(sun=100 * sky.sun), turn=0.0)
    assert np.dot(weak.sun, LUMINANCE) / np.dot(weak.sky, LUMINANCE) == pytest.approx(skies.MOST_SUN)
    monkeypatch.setattr(skies, "WHITE_BALANCE", 1.0)
    light, _ = lit_by(before, sky, turn=0.0)
    total = np.array(light.sun) * light.to_sun[2] + np.array(light.sky)
    np.testing.assert_allclose(total / total[1], 1, rtol=1e-6)


def test_the_look_up_in_a_direction():
    rng = np.random.default_rng(5)
    sky = rng.random((64, 256, 3)).astype(np.float32)
    for row, col, turn in ((10, 20, 0.0), (40, 255, 1.3), (62, 0, -2.0)):
        up = math.radians((1 - (row + 0.5) / 64) * 90)
        at = 2 * math.pi * (col + 0.5) / 256 + turn
        direction = math.cos(up) * math.cos(at), math.cos(up) * math.sin(at), math.sin(up)
        np.testing.assert_allclose(shade._photographed_sky(sky, turn, *direction), sky[row, col], rtol=1e-4)


def test_a_panorama_changes_the_picture_and_no_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(skies, "PROCEDURAL", 0.0)
    written(tmp_path / "a.hdr", panorama())
    monkeypatch.setenv("MY_SKIES", str(tmp_path))
    config = replace(CITY, skies="$MY_SKIES")
    plain, lit, again = (World(c).clip(2, CAMERA) for c in (CITY, config, config))
    assert np.array_equal(lit.images, again.images)
    for name in ("class_map", "instance_map", "depth_m", "flow_px", "moving"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(lit, name))
    assert (plain.images != lit.images).any(3)[plain.class_map == 10].mean() > 0.9


def test_a_folder_without_panoramas_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"holds no panorama; expected Radiance files \(\.hdr\)"):
            sky_files(folder)
    with pytest.raises(InputError, match="holds no panorama"):
        World(replace(CITY, skies=str(tmp_path)))
    with pytest.raises(InputError, match=r"cannot read panorama .*none\.hdr"):
        load_sky(tmp_path / "none.hdr")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 100000 +X 200000\n",
            "twice as wide as high, of .* got 200000",
        ),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 64 +X 64\n", "twice as wide as high"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 64 +X 128\n", "cannot be decoded"),
        (b"\x89PNG", "expected a Radiance picture"),
        (b"", "expected a Radiance picture"),
    ],
)
def test_panoramas_that_are_none_are_refused(tmp_path, data, message):
    (tmp_path / "a.hdr").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_sky(tmp_path / "a.hdr")


def test_a_black_sky_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.hdr"), np.zeros((64, 128, 3), np.float32))
    with pytest.raises(InputError, match="is black"):
        load_sky(tmp_path / "a.hdr")
