# SPDX-License-Identifier: Apache-2.0
"""Light of lamps by night, by values; and that it changes no truth."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, shade
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(192, 96, 80.0)
UP = (0.0, 0.0, 1.0)


def lamp(*at: tuple[float, float, float]) -> shade.Lamps:
    return shade.NO_LAMPS._replace(at=np.array(at), color=(2.0, 1.0, 0.5))


def test_a_street_lamp_lights_the_ground_below_by_the_inverse_square():
    for height in (4.0, 8.0):
        got = shade.lamp_light(lamp((3.0, -2.0, height)), 3.0, -2.0, 0.0, *UP)
        np.testing.assert_allclose(got, np.array([2.0, 1.0, 0.5]) / height**2, rtol=0.05)


def test_light_falls_by_the_cosines_aside_and_adds_up():
    """At 45 degrees: twice the square of the distance, and both cosines are 1 / sqrt(2)."""
    below, aside = (shade.lamp_light(lamp((0.0, 0.0, 8.0)), x, 0.0, 0.0, *UP)[0] for x in (0.0, 8.0))
    assert aside / below == pytest.approx(0.25, rel=0.01)
    both = shade.lamp_light(lamp((0.0, 0.0, 8.0), (8.0, 0.0, 8.0)), 0.0, 0.0, 0.0, *UP)[0]
    assert both == pytest.approx(below + aside)


def test_what_looks_away_or_is_above_a_lamp_is_not_lit():
    assert shade.lamp_light(lamp((0.0, 0.0, 8.0)), 0.0, 0.0, 0.0, 0.0, 0.0, -1.0) == (0.0, 0.0, 0.0)
    assert shade.lamp_light(lamp((0.0, 0.0, 8.0)), 0.0, 0.0, 9.0, 0.0, 0.0, -1.0) == (0.0, 0.0, 0.0)


def test_headlights_light_what_is_ahead():
    beam = shade.NO_LAMPS._replace(beam_color=(90.0, 80.0, 70.0))  # from the origin along +x

    def wall(x: float, y: float = 0.0, z: float = 0.0) -> float:
        return shade.lamp_light(beam, x, y, z, -1.0, 0.0, 0.0)[0]

    assert wall(10.0) == pytest.approx(0.9, rel=0.01)
    assert wall(20.0) == pytest.approx(0.225, rel=0.01)
    assert wall(-10.0) == 0.0
    aside = 10.0 * shade.BEAM_SPREAD_RAD
    assert wall(10.0, aside) / wall(10.0) == pytest.approx(np.exp(-0.5), rel=0.1)
    assert wall(10.0, 0.0, aside / 3) / wall(10.0) == pytest.approx(np.exp(-0.5), rel=0.1)


def test_lamps_light_the_picture_and_change_no_truth(monkeypatch):
    config = WorldConfig(seed=12, style="city", weather="night")
    lit = World(config).clip(2, CAMERA)
    monkeypatch.setattr(World, "_lamps", lambda *_: shade.NO_LAMPS)
    dark = World(config).clip(2, CAMERA)
    for name in ("class_map", "instance_map", "depth_m", "flow_px", "moving"):
        np.testing.assert_array_equal(getattr(lit, name), getattr(dark, name))
    road = lit.class_map == 0
    assert lit.images[road].mean() > 2 * dark.images[road].mean()


def test_night_is_the_same_with_any_number_of_threads():
    clips = [World(WorldConfig(seed=3, weather="night")).clip(2, CAMERA, threads=n) for n in (1, 3)]
    np.testing.assert_array_equal(*(clip.images for clip in clips))


def test_lamps_near_the_camera_light_the_road():
    """The road near a lamp's foot is brighter than the road between lamps."""
    world = World(WorldConfig(seed=35, style="avenue", weather="night", traffic=0.0, effects=False))
    lamps = world._lamps(0.0, world.ego.at(0.0))
    assert 2 <= len(lamps.at) <= 16
    road = world.scene.route.points(np.arange(0.0, 60.0, 1.0), 0.0)
    light = np.array([shade.lamp_light(lamps._replace(beam_color=(0, 0, 0)), *p, *UP)[0] for p in road])
    away = np.linalg.norm(road[:, None, :2] - lamps.at[:, :2], axis=2).min(1)
    assert light[away < 9].min() > light[away > 20].max()


def test_only_rich_streets_are_dark_unasked():
    drawn = {
        streets: Counter(_weathers(WorldConfig(seed=1, streets=streets))) for streets in ("plain", "rich")
    }
    assert drawn["plain"]["night"] == 0 < drawn["plain"]["dusk"]
    assert drawn["rich"]["night"] > 0 < drawn["rich"]["dusk"]
    assert drawn["rich"]["night"] + drawn["rich"]["dusk"] == drawn["plain"]["dusk"]


def _weathers(config: WorldConfig) -> list[str]:
    world, seen = World(config), []
    for take in range(400):
        world.relight(take)
        seen.append(world.weather)
    return seen
