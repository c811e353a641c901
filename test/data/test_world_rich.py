# SPDX-License-Identifier: Apache-2.0
"""Streets with more things on them: what is there, and that the truth of it holds."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from dvps_ros.data.world import World, WorldConfig, shapes
from dvps_ros.data.world.furniture import SIGN_SHAPES, furnish
from dvps_ros.data.world.materials import BUS, CAR, PERSON, SIGN, TRUCK
from dvps_ros.data.world.mesh import Mesh
from dvps_ros.data.world.scene import Scene
from dvps_ros.data.world.site import BLOCK_M, draw_site
from dvps_ros.data.world.street import Street
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import CameraModel

CAMERA = CameraModel.from_fov(256, 128, 80.0)
RICH = WorldConfig(streets="rich", style="city")


@pytest.fixture(scope="module")
def clips():
    return {s: World(replace(RICH, seed=s)).clip(3, CAMERA, scene_flow=True) for s in (1, 2, 3)}


def digest(world: World) -> str:
    clip = world.clip(1, CAMERA)
    return hashlib.sha256(clip.images.tobytes() + clip.depth_m.tobytes()).hexdigest()


def test_truth_of_rich_streets_agrees_with_itself(clips):
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width].astype(np.float64)
    for clip in clips.values():
        things = CITYSCAPES.is_thing[clip.class_map]
        assert set(np.unique(clip.class_map)) <= {*range(19), VOID}
        assert ((clip.instance_map > 0) == things).all()
        assert ((clip.depth_m == 0) == (clip.class_map == CITYSCAPES.id_of("sky"))).all()
        for t in (1, 2):
            still = (clip.moving[t] == 0) & (clip.depth_m[t] > 0)
            previous = np.linalg.inv(clip.world_from_camera[t - 1]) @ clip.world_from_camera[t]
            rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1)
            at = (rays * clip.depth_m[t][..., None]) @ previous[:3, :3].T + previous[:3, 3]
            still &= at[..., 2] > 0.5
            x, y = CAMERA.fx * at[..., 0] / at[..., 2], CAMERA.fy * at[..., 1] / at[..., 2]
            flow = np.stack([x + CAMERA.cx - u, y + CAMERA.cy - v], -1)
            assert np.abs(flow - clip.flow_px[t])[still].max() < 0.01


def test_rich_streets_come_from_the_seed_and_leave_plain_ones_alone():
    plain, rich = replace(RICH, seed=4, streets="plain"), replace(RICH, seed=4)
    before = digest(World(plain))
    first, second = digest(World(rich)), digest(World(rich))
    assert first == second != before
    assert digest(World(plain)) == before  # no shared mesh was changed


def test_rich_streets_have_more_on_them():
    counts = {}
    for rich in (False, True):
        people = signs = 0
        for seed in range(6):
            scene = Scene(seed, "city", rich=rich)
            table = scene.materials
            for number in range(1, 5):
                for part in scene.block(number).parts:
                    signs += int(table.table[part.materials[0], 1] == SIGN)
            for lane in scene.lanes:
                for place in range(12 if lane.of_people else 0):
                    agent = scene.agent(lane, place)
                    owners = {p.instance for p in agent.parts} if agent else set()
                    kinds = {p.instance: table.table[p.materials[0], 1] for p in agent.parts} if agent else {}
                    people += sum(kinds[owner] == PERSON for owner in owners)
        counts[rich] = people, signs
    assert counts[True][0] > 1.4 * counts[False][0] and counts[True][1] > 1.5 * counts[False][1]


def place_on(scene: Street, xy: np.ndarray, number: int) -> tuple[float, float]:
    """s and d of a point on or near a block, to 5 cm."""
    s = np.arange((number - 1) * BLOCK_M, (number + 2) * BLOCK_M, 0.05)
    middle = scene.route.points(s, 0.0)[:, :2]
    k = int(np.linalg.norm(middle - xy, axis=1).argmin())
    heading = scene.route.point(float(s[k]))[3]
    off = xy - middle[k]
    return float(s[k]), float(-off[0] * np.sin(heading) + off[1] * np.cos(heading))


def test_furniture_of_a_block_is_on_it_and_off_the_lanes():
    """Within the block and a thing's reach; nothing but lids and arrows lies on the lanes."""
    found = 0
    for seed, number in itertools.product(range(4), range(1, 5)):
        street = Street(seed, "city", np.random.default_rng([seed, 1]), forks=1.0, rich=True)
        site, x = draw_site(street, number), street.section
        furnish(site, street.more)
        for part in site.parts:
            s, d = place_on(street, part.world_from_part[:2, 3], number)
            assert site.s0 - 1 < s < site.s1 + 8
            if x.right_edge < d < x.left_edge and street.pool.mesh(part.mesh).vertices[:, 2].max() > 0.01:
                # At the edge: cones and boards of road works.
                assert min(d - x.right_edge, x.left_edge - d) < 0.5
            found += 1
    assert found > 300


@pytest.mark.parametrize("shape", sorted(set(SIGN_SHAPES)))
def test_plates_face_back(shape):
    """Slot 0 looks to -x: the triangles of the front are wound so, and their normals say so."""
    mesh = shapes.sign(shape)
    corner = mesh.vertices[mesh.triangles]
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert (face[mesh.slots == 0, 0] < 0).all() and (face[mesh.slots == 1, 0] > 0).all()
    assert (mesh.normals[mesh.triangles[mesh.slots == 0]][..., 0] < 0).all()


def is_sound(mesh: Mesh) -> bool:
    return bool(
        np.isfinite(mesh.vertices).all()
        and np.isfinite(mesh.normals).all()
        and np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-3)
        and mesh.triangles.max() < len(mesh.vertices)
    )


@pytest.mark.parametrize("body", ["micro", "coupe", "mpv", "pickup"])
def test_cars_have_the_size_they_say_and_stand_on_their_wheels(body):
    for top in ("", "taxi", "rack", "box"):
        car = shapes.car(body, top)
        assert is_sound(car.whole)
        low, high = car.whole.vertices.min(0), car.whole.vertices.max(0)
        assert -0.06 < low[2] < 0.01 and abs(high[0] - low[0] - car.size[0]) < 0.15
        assert (high[2] > car.size[2] + 0.02) == (top != "")


@pytest.mark.parametrize("kind", ["waste", "mixer"])
def test_lorries_stand_on_their_wheels(kind):
    lorry = shapes.lorry(kind)
    assert is_sound(lorry.whole) and -0.06 < lorry.whole.vertices[:, 2].min() < 0.01
    assert abs(np.ptp(lorry.whole.vertices[:, 0]) - lorry.size[0]) < 0.4


def test_pickups_are_trucks_and_bendy_buses_buses():
    classes: dict[float, set[int]] = {}
    for seed in range(60):
        world = Scene(seed, "avenue", rich=True)
        for lane in world.lanes:
            for place in range(6):
                agent = None if lane.of_people else world.agent(lane, place)
                if agent is not None:
                    row = world.materials.table[agent.parts[0].materials[0]]
                    classes.setdefault(round(agent.length, 2), set()).add(int(row[1]))
    assert classes[5.3] == {TRUCK} and classes[18.0] == {BUS} and classes[2.75] == {CAR}


def test_a_sample_says_what_its_world_has_beyond_a_plain_one():
    plain = World(WorldConfig(seed=1, style="city", weather="clear")).clip(1, CAMERA)
    rich = World(WorldConfig(seed=1, style="city", weather="clear", streets="rich")).clip(1, CAMERA)
    assert plain.source == "world seed 1, city, clear, t = 0.00 s"
    assert rich.source == f"{plain.source}; rich streets"
