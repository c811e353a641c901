# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, photographs, shade
from dvps_ros.data.world.photographs import StreetTextures, Textures, load_tile
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(192, 96, 80.0)
CITY = WorldConfig(seed=11, style="city", weather="clear", camera_height_m=1.5, camera_pitch_deg=0.0)


def write_tile(path: Path, image: np.ndarray) -> Path:
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


def levels_of(tile: np.ndarray) -> list[np.ndarray]:
    """A photograph at its sides 128, 64 .. 1, as pictures."""
    levels, start = [], 0
    while len(levels) < 8:
        side = shade.TILE >> len(levels)
        levels.append(tile[start : start + side * side].reshape(side, side, 3))
        start += side * side
    return levels


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> np.ndarray:
    """A photograph of noise, float32 [TEXELS,3]."""
    path = tmp_path_factory.mktemp("noise") / "a.png"
    image = np.random.default_rng(3).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    return load_tile(write_tile(path, image))[0]


def test_texture_between_texels_and_between_sizes(noise):
    levels, rng = levels_of(noise), np.random.default_rng(4)
    for x, y in rng.uniform(-3, 3, (20, 2)):
        for size, low, mix in ((0.0, 0, 0.0), (1 / 128, 0, 0.0), (1.5 / 128, 0, 0.5), (3 / 128, 1, 0.5)):
            want = (1 - mix) * sampled(levels[low], x, y) + mix * sampled(levels[low + 1], x, y)
            got = shade._texture(noise[None], 0, x, y, size, 0.0, 0.0, size)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shade._texture(noise[None], 0, 0.3, 0.7, 9.0, 0, 0, 9.0), 1, rtol=1e-4)


def test_a_long_footprint_is_probed_along_it(noise):
    """A footprint of 1 x 4 texels: the mean of four probes, not of one as wide as it is long."""
    level, texel = levels_of(noise)[0], 1 / 128
    for x, y in np.random.default_rng(6).uniform(0, 1, (10, 2)):
        want = np.mean([sampled(level, x + (i - 1.5) * texel, y) for i in range(4)], axis=0)
        for steps in ((4 * texel, 0, 0, texel), (0, texel, 4 * texel, 0)):
            np.testing.assert_allclose(shade._texture(noise[None], 0, x, y, *steps), want, rtol=1e-4)


def test_texture_is_close_to_the_mean_over_the_footprint(noise):
    """Against a brute-force mean of the bilinear photograph over the pixel's parallelogram."""
    level, rng = levels_of(noise)[0], np.random.default_rng(8)
    grid = (np.arange(16) + 0.5) / 16 - 0.5
    for long, short in ((4.0, 1.0), (8.0, 2.0), (8.0, 8.0), (32.0, 8.0)):
        errors, spread = [], []
        for _ in range(30):
            (x, y), a = rng.uniform(0, 1, 2), rng.uniform(0, 2 * math.pi)
            col = np.array([math.cos(a), math.sin(a)]) * long / 128
            row = np.array([-math.sin(a), math.cos(a)]) * short / 128
            places = [np.array([x, y]) + i * col + j * row for i in grid for j in grid]
            want = np.mean([sampled(level, *place) for place in places], axis=0)
            errors.append(shade._texture(noise[None], 0, x, y, *col, *row) - want)
            spread.append(want - 1)
        # White noise is the worst case; what is left of it after the mean is small, and the error smaller.
        assert np.std(errors) < 0.8 * np.std(level) / math.sqrt(long * short)
        assert np.std(np.add(errors, spread)) < 1.4 * np.std(spread) + 0.01


def test_steps_to_the_next_pixel_are_the_derivatives_on_the_triangle():
    """Against differences of a plainly written perspective interpolation."""
    rng = np.random.default_rng(7)
    k = np.array([[300.0, 0, 150], [0, 280.0, 90], [0, 0, 1]])
    for _ in range(10):
        corners = rng.uniform((-3, -3, 4), (3, 3, 15), (3, 3))  # in the camera's frame
        uv = rng.uniform(-5, 5, (3, 2))
        edges = np.linalg.inv(corners.T) @ np.linalg.inv(k)
        pose = np.eye(4)
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, 3] = rng.normal(size=3)

        def at(pixel, edges=edges, uv=uv, pose=pose):
            """Depth, uv and world point."""
            share = edges @ [*pixel, 1.0]
            z = 1 / share.sum()
            return z, z * share @ uv, pose[:3, :3] @ (np.linalg.inv(k) @ [*pixel, 1.0] * z) + pose[:3, 3]

        middle = k @ corners.mean(0)
        pixel, h = middle[:2] / middle[2], 1e-5
        z, (u, v), _ = at(pixel)
        ahead, back = ([at(pixel + sign * h * axis) for axis in np.eye(2)] for sign in (1, -1))
        got = shade.surface_steps(edges, *uv, z, u, v)
        want = [(a[1] - b[1]) / (2 * h) for a, b in zip(ahead, back, strict=True)]
        np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-4, atol=1e-6)
        ray = pose[:3, :3] @ np.linalg.inv(k) @ [*pixel, 1.0]
        got = shade.world_steps(edges, pose, *ray, z, k[0, 0], k[1, 1])
        want = [(a[2] - b[2]) / (2 * h) for a, b in zip(ahead, back, strict=True)]
        np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-4, atol=1e-6)


def test_photographs_change_the_picture_and_no_truth(folder, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    plain = World(CITY).clip(2, CAMERA)
    config = replace(CITY, textures=str(folder))
    textured, again = World(config).clip(2, CAMERA), World(config).clip(2, CAMERA)
    assert np.array_equal(textured.images, again.images)
    for name in ("class_map", "instance_map", "depth_m", "flow_px", "moving"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(textured, name))
    differs = (plain.images != textured.images).any(3)
    assert differs[plain.class_map == 0].mean() > 0.9 and differs[plain.class_map == 10].mean() < 0.2


def test_a_surface_scales_by_its_photograph(folder, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    table = World(CITY).scene.materials.table
    got, tiles = StreetTextures(Textures(folder), seed=1).applied(table)
    road = table[:, 0] == shade.ROAD
    assert (got[road, shade.TEXTURE] > 0).all()
    width_m = 1 / np.hypot(got[road, shade.TURN_COS], got[road, shade.TURN_SIN])
    assert ((1.5 <= width_m) & (width_m <= 4.0)).all()
    assert (got[table[:, 0] == shade.PAINT] == table[table[:, 0] == shade.PAINT]).all()
    np.testing.assert_allclose(tiles[:, -1], 1, atol=1e-4)  # no photograph makes a surface darker from afar
    assert tiles.shape[1:] == (shade.TEXELS, 3) and len(tiles) == got[:, shade.TEXTURE].max()
    assert (table[:, shade.TEXTURE] == 0).all()  # the scene's own stays


def test_a_growing_street_keeps_its_photographs(folder):
    table = World(CITY).scene.materials.table
    street = StreetTextures(Textures(folder), seed=5)
    first, _ = street.applied(table[:20])
    grown, tiles = street.applied(table)
    at_once, at_once_tiles = StreetTextures(Textures(folder), seed=5).applied(table)
    np.testing.assert_array_equal(grown[:20], first)
    np.testing.assert_array_equal(grown, at_once)
    np.testing.assert_array_equal(tiles, at_once_tiles)


def test_a_photograph_lies_on_the_road_in_metres(tmp_path, monkeypatch):
    """A wide strip of black and white across the road, at the distances that the camera model says."""
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    monkeypatch.setitem(
        photographs.SURFACES, shade.ROAD, photographs.Surface(("Asphalt",), (8.0, 8.0), 1.0, 1)
    )
    image = np.full((128, 128, 3), 20, np.uint8)
    image[:, 64:] = 200  # 4 m of each along the road
    write_tile(tmp_path / "Asphalt" / "a.png", image)
    config = replace(CITY, style="highway", weather="overcast", traffic=0.0, effects=False)
    camera = CameraModel.from_fov(384, 192, 60.0)
    world = World(replace(config, textures=str(tmp_path)))
    clip = world.clip(1, camera)
    v, u = np.mgrid[: camera.height, : camera.width]
    depth = clip.depth_m[0].astype(np.float64)
    points = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(depth)], -1)
    points = (points * depth[..., None]) @ clip.world_from_camera[0][:3, :3].T
    points += clip.world_from_camera[0][:3, 3]
    road = (clip.class_map[0] == 0) & (depth < 25)
    along = np.arange(0.0, 60.0, 0.05)
    middle = world.scene.route.points(along, 0.0)[:, :2]
    s = along[np.linalg.norm(points[road][:, None, :2] - middle, axis=2).argmin(1)]
    bright = clip.images[0][road].mean(1)
    white = (s / 8.0) % 1.0
    inside = (np.abs(white - 0.25) < 0.15) | (np.abs(white - 0.75) < 0.15)
    dark, light = bright[inside & (white < 0.5)], bright[inside & (white > 0.5)]
    # Lane markings are white on both.
    assert np.quantile(dark, 0.8) < np.quantile(light, 0.2)


def test_a_far_road_neither_flickers_nor_sparkles(tmp_path, monkeypatch):
    """Black and white noise, much finer than a pixel from afar: there it is as even as a grey road, in every
    frame; near the camera it is seen."""
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    monkeypatch.setitem(
        photographs.SURFACES, shade.ROAD, photographs.Surface(("Asphalt",), (2.0, 2.0), 1.0, 1)
    )
    config = replace(
        CITY, style="highway", weather="overcast", traffic=0.0, effects=False, camera_yaw_deg=0.0
    )
    camera, spread = CameraModel.from_fov(384, 192, 60.0), {}
    noise = np.random.default_rng(1).choice([0, 255], (128, 128, 1)).astype(np.uint8)
    for name, image in (("noise", noise), ("grey", np.full((128, 128, 1), 186, np.uint8))):
        write_tile(tmp_path / name / "Asphalt" / "a.png", image.repeat(3, axis=2))
        clip = World(replace(config, textures=str(tmp_path / name))).clip(3, camera)
        light = clip.images.mean(3)
        step = np.abs(np.diff(light, axis=2))
        for place, low, high in (("near", 4, 6), ("far", 30, 60)):
            road = (clip.class_map == 0) & (clip.depth_m > low) & (clip.depth_m < high)
            spread[name, place] = np.median(step[road[:, :, 1:] & road[:, :, :-1]])
    assert spread["noise", "near"] > 5 * spread["grey", "near"] + 5
    assert spread["noise", "far"] < spread["grey", "far"] + 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3000, 40)])
def test_tiles_of_any_shape_are_taken(tmp_path, shape):
    tile, mean = load_tile(write_tile(tmp_path / "a.png", np.full((*shape, 3), 128, np.uint8)))
    np.testing.assert_allclose(tile, 1, rtol=1e-5)
    np.testing.assert_allclose(mean, (128 / 255) ** 2.2, rtol=1e-5)


def test_folders_are_taken_as_the_public_sites_name_them(tmp_path):
    grey = np.full((8, 8, 3), 90, np.uint8)
    new, old = "Asphalt025C_1K-JPG/Asphalt025C_1K-JPG", "asphalt_02/asphalt_02"
    for name in (f"{new}_Color", f"{new}_NormalGL", f"{old}_diff_1k", f"{old}_rough_1k", "Unknown/a"):
        write_tile(tmp_path / f"{name}.jpg", grey)
    files = Textures(tmp_path).files
    assert list(files) == ["Asphalt"]
    assert [p.name for p in files["Asphalt"]] == ["Asphalt025C_1K-JPG_Color.jpg", "asphalt_02_diff_1k.jpg"]


def test_a_missing_material_stays_procedural_and_is_said_once(folder, caplog, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    photographs.open_textures.cache_clear()
    with caplog.at_level(logging.WARNING):
        worlds = [World(replace(CITY, textures=str(folder))) for _ in range(3)]
    said = [r.getMessage() for r in caplog.records if "RoofingTiles" in r.getMessage()]
    assert said == [
        f"textures: {folder} has none of RoofingTiles, ThatchedRoof: such surfaces stay procedural"
    ]
    world = worlds[0]
    world.clip(1, CAMERA)
    table, _ = world._materials()
    assert (table[table[:, 0] == shade.ROOF, shade.TEXTURE] == 0).all()


def test_folders_without_photographs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "PROCEDURAL", 0.0)
    with pytest.raises(InputError, match="none is no folder; expected one with a sub-folder for each"):
        World(replace(CITY, textures=str(tmp_path / "none")))
    with pytest.raises(InputError, match="has no sub-folder of a material: expected some of Asphalt, Bricks"):
        World(replace(CITY, textures=str(tmp_path)))
    (tmp_path / "Asphalt").mkdir()
    with pytest.raises(InputError, match="Asphalt holds no images of a surface's colour"):
        World(replace(CITY, textures=str(tmp_path)))
    (tmp_path / "Asphalt" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.jpg"):
        StreetTextures(Textures(tmp_path), 2).applied(World(CITY).scene.materials.table)
