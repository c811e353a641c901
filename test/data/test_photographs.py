# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, photographs, shade
from dvps_ros.data.world.photographs import Textures, load_sky, load_tile, sky_files
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(192, 96, 80.0)
CITY = WorldConfig(seed=11, style="city", weather="clear", camera_height_m=1.5, camera_pitch_deg=0.0)


def write_tile(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def write_sky(path: Path, elevation_deg: float = 45.0, azimuth_share: float = 0.25) -> Path:
    """Grey, blue below 20 degrees, with a bright red disc."""
    image = np.full((128, 256, 3), 0.5, np.float32)
    image[round(128 * 70 / 180) :] = (5, 0, 0)
    center = round(256 * azimuth_share), round(128 * (90 - elevation_deg) / 180)
    cv2.circle(image, center, 6, (0, 0, 40), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    for name in ("Asphalt", "Bricks", "Grass", "PavingStones"):
        for i in range(2):
            write_tile(root / name / f"{i}.png", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return root


def test_tiles_are_ratios_to_their_mean_at_every_size(tmp_path):
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, :64], image[:, 64:] = (51, 102, 153), (153, 102, 51)  # BGR
    tile, mean = load_tile(write_tile(tmp_path / "a.png", image))
    assert tile.shape == (shade.TEXELS, 3)
    dark, middle, bright = ((v / 255) ** 2.2 for v in (51, 102, 153))
    np.testing.assert_allclose(mean, [(dark + bright) / 2, middle, (dark + bright) / 2], rtol=1e-6)
    np.testing.assert_allclose(tile[0], [bright / mean[0], 1, dark / mean[0]], rtol=1e-5)
    np.testing.assert_allclose(tile[-1], 1, rtol=1e-5)  # of side 1
    side_2 = tile[-5:-1].reshape(2, 2, 3)
    np.testing.assert_allclose(side_2[:, 0], tile[[0, 0]], rtol=1e-5)


def sampled(level: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear by hand, repeating; x, y in widths."""
    side = len(level)
    u, v = x * side - 0.5, y * side - 0.5
    total = np.zeros(3)
    for dy in (0, 1):
        for dx in (0, 1):
            i, j = math.floor(v) + dy, math.floor(u) + dx
            total += (1 - abs(u - j)) * (1 - abs(v - i)) * level[i % side, j % side]
    return total


def test_texture_between_texels_and_between_sizes(tmp_path):
    rng = np.random.default_rng(3)
    tile, _ = load_tile(write_tile(tmp_path / "a.png", rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)))
    levels, start = [], 0
    while len(levels) < 8:
        side = shade.TILE >> len(levels)
        levels.append(tile[start : start + side * side].reshape(side, side, 3))
        start += side * side
    for x, y in rng.uniform(-3, 3, (20, 2)):
        for footprint, low, mix in ((0.0, 0, 0.0), (1 / 128, 0, 0.0), (1.5 / 128, 0, 0.5), (3 / 128, 1, 0.5)):
            want = (1 - mix) * sampled(levels[low], x, y) + mix * sampled(levels[low + 1], x, y)
            got = shade._texture(tile[None], 0, x, y, footprint)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shade._texture(tile[None], 0, 0.3, 0.7, 9.0), 1, rtol=1e-4)  # far away: flat


def disc_in(sky: np.ndarray) -> tuple[int, int]:
    """Row and column of the middle of the bright disc."""
    rows, columns = np.nonzero(sky[..., 0] > sky[..., 0].max() / 2)
    return round(rows.mean()), round(columns.mean())


def test_sky_lies_where_it_was_taken(tmp_path):
    sky = load_sky(write_sky(tmp_path / "a.hdr"))
    assert sky.shape == (256, 1024, 3) and sky.mean() == pytest.approx(1, rel=1e-5)
    row, col = disc_in(sky)
    # 45 of 20 to 90 degrees are stretched to 0 to 90.
    assert (1 - row / 256) * 90 == pytest.approx((45 - 20) / 70 * 90, abs=4)
    assert col == pytest.approx(256, abs=8)
    assert (sky[..., 2] < 2).all()  # nothing of what is below 20 degrees
    turn = 0.7
    elevation, azimuth = math.radians((1 - (row + 0.5) / 256) * 90), 2 * math.pi * (col + 0.5) / 1024 + turn
    direction = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    np.testing.assert_allclose(shade._photographed_sky(sky, turn, *direction), sky[row, col], rtol=1e-3)


def test_the_brightest_of_the_sky_is_where_the_sun_is(tmp_path, monkeypatch):
    write_sky(tmp_path / "skies" / "a.hdr")
    monkeypatch.setattr("dvps_ros.data.world.world.PROCEDURAL_SKY", 0.0)
    world = World(replace(CITY, skies=str(tmp_path / "skies")))
    sky, turn = world._sky
    _, col = disc_in(sky)
    sun = math.atan2(world.light.to_sun[1], world.light.to_sun[0])
    off = (2 * math.pi * (col + 0.5) / sky.shape[1] + turn - sun + math.pi) % (2 * math.pi) - math.pi
    assert abs(off) < math.radians(5)
    level = np.mean([world.light.zenith, world.light.horizon])
    assert np.median(sky) == pytest.approx(
        level * np.median(load_sky(tmp_path / "skies" / "a.hdr")), rel=1e-4
    )


def test_photographs_change_the_picture_and_no_truth(folder, tmp_path, monkeypatch):
    write_sky(tmp_path / "skies" / "a.hdr")
    monkeypatch.setattr("dvps_ros.data.world.world.PROCEDURAL_SKY", 0.0)
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    plain = World(CITY).clip(2, CAMERA)
    config = replace(CITY, textures=str(folder), skies=str(tmp_path / "skies"))
    textured, again = World(config).clip(2, CAMERA), World(config).clip(2, CAMERA)
    assert np.array_equal(textured.images, again.images)
    for name in ("class_map", "instance_map", "depth_m", "flow_px", "moving"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(textured, name))
    differs = (plain.images != textured.images).any(3)
    assert differs[plain.class_map == 0].mean() > 0.9 and differs[plain.class_map == 10].mean() > 0.9


def test_a_surface_scales_by_its_photograph(folder, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    table = World(CITY).scene.materials.table
    got, tiles = Textures(folder).applied(table, seed=1)
    road = table[:, 0] == shade.ROAD
    assert (got[road, shade.TEXTURE] > 0).all() and (1 <= got[road, shade.TILE_M]).all()
    assert (got[table[:, 0] == shade.PAINT] == table[table[:, 0] == shade.PAINT]).all()
    np.testing.assert_allclose(tiles[:, -1], 1, atol=1e-4)  # no photograph makes a surface darker from afar
    assert tiles.shape[1:] == (shade.TEXELS, 3) and len(tiles) == got[:, shade.TEXTURE].max()
    assert (table[:, shade.TEXTURE] == 0).all()  # the scene's own stays


def test_folders_without_photographs_are_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    with pytest.raises(InputError, match="none is no folder; expected one with a sub-folder for each"):
        World(replace(CITY, textures=str(tmp_path / "none")))
    with pytest.raises(InputError, match="has no sub-folder of a material: expected some of Asphalt, Bricks"):
        World(replace(CITY, textures=str(tmp_path)))
    (tmp_path / "Asphalt").mkdir()
    with pytest.raises(InputError, match="Asphalt holds no images"):
        World(replace(CITY, textures=str(tmp_path)))
    (tmp_path / "Asphalt" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.jpg"):
        Textures(tmp_path).applied(World(CITY).scene.materials.table, 2)
    with pytest.raises(InputError, match="skies: .* holds no panorama"):
        sky_files(folder)


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
