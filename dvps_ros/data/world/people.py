# SPDX-License-Identifier: Apache-2.0
"""People: their clothes and bodies, and those who walk, stand and cross."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world import shade, shapes
from dvps_ros.data.world.agents import ALWAYS, NEVER, Agent
from dvps_ros.data.world.materials import PERSON, Color, Part, grey, hue, pick
from dvps_ros.data.world.route import EGO_START_M
from dvps_ros.data.world.street import Street


def draw_body(
    street: Street, class_id: int, build: str, rng: np.random.Generator, instance: int
) -> list[Part]:
    """The limbs of somebody in clothes of their own, in the order of ``shapes.LIMBS``."""
    clothes = _draw_clothes(street, class_id, rng)
    meshes = (shapes.limb(name, build) if name == "torso" else shapes.limb(name) for name in shapes.LIMBS)
    return [Part(street.pool.add(mesh), clothes, instance) for mesh in meshes]


def _draw_clothes(street: Street, class_id: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Materials of skin, shirt, trousers, hair and shoes."""
    add = street.materials.add
    tone = rng.uniform(0.08, 0.55)
    skin_color = tone, tone * rng.uniform(0.62, 0.74), tone * rng.uniform(0.42, 0.58)
    skin = add(shade.PLAIN, class_id, skin_color, params=(0.15, 9.0))

    def dye(bright: float) -> Color:
        if rng.random() < 0.5:
            return grey(rng.uniform(0.015, bright), 0.1, rng)
        return hue(rng, rng.uniform(0.3, 0.9), rng.uniform(0.05, bright))

    stripes = rng.uniform(0.05, 0.3) if rng.random() < 0.2 else 0.0
    shirt = add(shade.CLOTH, class_id, dye(0.7), dye(0.7), (stripes, rng.random()))
    blue = hue(rng, 0.6, rng.uniform(0.05, 0.16), 0.62, 0.03) if rng.random() < 0.45 else dye(0.3)
    trousers = add(shade.CLOTH, class_id, blue, blue)
    hair = add(shade.PLAIN, class_id, hue(rng, 0.5, rng.uniform(0.01, 0.2), 0.07, 0.03), params=(0.8, 40.0))
    shoes = add(shade.CLOTH, class_id, dye(0.4))
    return skin, shirt, trousers, hair, shoes


def _stride(height: float, phase: float, swing: float, bend: tuple[float, float]) -> list[np.ndarray]:
    """Limb poses of somebody who walks (swing > 0) or stands."""
    a = swing * math.sin(phase)
    kl = 0.12 + swing * max(0.0, math.sin(phase + 1.9)) * 1.6
    kr = 0.12 + swing * max(0.0, math.sin(phase + 1.9 + math.pi)) * 1.6
    drop = 0.53 * height * (1 - math.cos(0.8 * a)) + 0.004 * height
    knees = kl * (swing > 0), kr * (swing > 0)
    joints = (a, -a, *knees, -0.9 * a + 0.05, 0.9 * a + 0.05, bend[0], bend[1])
    return shapes.body_pose(height, (0.0, 0.0, 0.53 * height - drop), 0.05 + 0.1 * swing, joints, 0.08)


class _Walker(NamedTuple):
    """One of those who walk together."""

    height: float
    phase: float
    """Of the stride."""
    bend: tuple[float, float]
    """Of the elbows, rad."""
    ahead_m: float
    aside_m: float


BUILDS = {"plain": 5, "coat": 3, "skirt": 1.2, "bag": 2}
MORE_BUILDS = {**BUILDS, "cap": 1.5, "long_hair": 3, "hood": 1.5, "umbrella": 0.4}


def _draw_walker(number: int, rng: np.random.Generator, builds: dict[str, float]) -> tuple[_Walker, str]:
    """Number 0, 1, .. of a group, and the build of their body."""
    height = rng.normal(1.71, 0.09) if rng.random() < 0.88 else rng.uniform(1.05, 1.45)
    build = pick(rng, builds)
    phase = rng.uniform(0, 2 * np.pi)
    left, right = rng.uniform(0.1, 0.9, 2) if rng.random() < 0.6 else (0.25, 0.25)
    walker = _Walker(height, phase, (left, right), rng.normal() * 0.25, number * rng.uniform(0.55, 0.75))
    return walker, build


def walkers(
    street: Street,
    kind: str,
    along: Callable[[float], float],
    d: float,
    yaw: float,
    speed: float,
    rng: np.random.Generator,
) -> Agent:
    """A person, a pair or a group, somebody who is standing or several who are waiting.

    Args:
        along: time -> s.
    """
    people: list[_Walker] = []
    parts: list[Part] = []
    several = {"pair": 2} if kind not in ("group", "waiting") else {kind: int(rng.integers(3, 7))}
    for k in range(several.get(kind, 1)):
        walker, build = _draw_walker(k, rng, BUILDS if street.more is None else MORE_BUILDS)
        if k > 1:  # a group is as deep as it is broad
            walker = walker._replace(ahead_m=0.8 * (k // 2) + walker.ahead_m, aside_m=0.7 * (k % 2))
        people.append(walker)
        parts += draw_body(street, PERSON, build, rng, street.new_instance())
    walking = kind not in ("standing", "waiting")
    turn = yaw if walking else rng.uniform(0, 2 * np.pi)

    def motion(t: float) -> list[np.ndarray]:
        poses = []
        s = along(t)
        for who in people:
            at = d + who.aside_m
            base = street.route.pose(s + who.ahead_m, at, _walk_height(street, s, at), turn)
            swing = min(0.5, 0.36 * speed) if walking else 0.0
            phase = who.phase + abs(s) * 4.2 / (0.85 * who.height)
            poses += [base @ p for p in _stride(who.height, phase, swing, who.bend)]
        return poses

    return Agent(parts, motion, ALWAYS if walking else NEVER, 0.6)


def _walk_height(street: Street, s: float, d: float) -> float:
    """Height over the road of what one walks on."""
    x, branch = street.section, street.branch(s, s + 1e-3)
    if branch is not None and branch.covers(s, d):
        return 0.0
    return x.kerb if d < x.right_edge or d > x.left_edge else 0.0


def crossing(street: Street, s: float, ego_d: float, rng: np.random.Generator) -> Agent:
    """Somebody who crosses the road in front of the ego vehicle and is off its lane before it comes.

    Args:
        ego_d: d of the ego vehicle's lane.
    """
    x = street.section
    height, phase = rng.normal(1.70, 0.09), rng.uniform(0, 2 * np.pi)
    way = 1 if rng.random() < 0.5 else -1
    pace = rng.uniform(1.0, 1.7)
    arrival = (s - EGO_START_M) / max(street.speed, 0.5)
    clear = arrival - rng.uniform(1.2, 4.0)
    build = pick(rng, {"plain": 5, "coat": 3, "bag": 2})
    parts = draw_body(street, PERSON, build, rng, street.new_instance())
    low, high = x.right_edge - 0.8 * max(x.walk, 1.0), x.left_edge + 0.8 * max(x.walk, 1.0)

    def motion(t: float) -> list[np.ndarray]:
        d = ego_d + way * (2.2 + pace * (t - clear))
        swing = 0.45 if low < d < high else 0.0
        d = min(max(d, low), high)
        up = x.kerb * min(max((x.right_edge + 0.3 - d) / 0.3, (d - x.left_edge + 0.3) / 0.3, 0.0), 1.0)
        base = street.route.pose(s, d, up, way * math.pi / 2)
        limbs = _stride(height, phase + d * 4.2 / (0.85 * height), swing, (0.4, 0.4))
        return [base @ p for p in limbs]

    crossed = sorted(clear + (way * (edge - ego_d) - 2.2) / pace for edge in (low, high))
    return Agent(parts, motion, (crossed[0], crossed[1]), 0.6)
