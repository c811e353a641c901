# SPDX-License-Identifier: Apache-2.0
"""Riders on bicycles and motorcycles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dvps_ros.data.world import shapes
from dvps_ros.data.world.agents import Agent, Span
from dvps_ros.data.world.lanes import RIDERS_LEFT, RIDERS_RIGHT, Lane
from dvps_ros.data.world.materials import BICYCLE, MOTORCYCLE, RIDER, pick
from dvps_ros.data.world.people import draw_body
from dvps_ros.data.world.street import Street
from dvps_ros.data.world.vehicles import on_wheels, two_wheeler_materials


def two_wheeler(
    street: Street,
    kind: str,
    lane: Lane,
    along: Callable[[float], float],
    d: float,
    yaw: float,
    moving: Span,
    rng: np.random.Generator,
) -> Agent:
    """A bicycle or motorcycle and who rides it.

    Args:
        along: time -> s.
    """
    class_id = BICYCLE if kind == "bicycle" else MOTORCYCLE
    height = rng.normal(1.72, 0.08)
    scooter = kind != "bicycle" and bool(rng.random() < 0.5)
    if kind == "bicycle":
        vehicle = shapes.bicycle()
    else:
        vehicle = shapes.motorcycle("scooter" if scooter else "road")
    parts, poses = on_wheels(street, vehicle, two_wheeler_materials(street, class_id, rng, gloss=0.4))
    helmet = kind == "motorcycle" or rng.random() < 0.3
    build = "helmet" if helmet else pick(rng, {"plain": 3, "bag": 1})
    parts += draw_body(street, RIDER, build, rng, street.new_instance())
    # Drawn for all, so that a seed keeps its street whatever the kind.
    cyclist_lean = rng.uniform(0.15, 0.7)
    lean = cyclist_lean if kind == "bicycle" else (0.12 if scooter else 0.35)
    phase = rng.uniform(0, 2 * np.pi)

    def motion(t: float) -> list[np.ndarray]:
        s = along(t)
        base = street.route.pose(s, d, 0.0, yaw, upright=False)
        if kind == "bicycle":
            limbs = _pedalling(height, lean, phase + abs(s) * 1.35)
        else:
            limbs = _seated(height, lean, scooter)
        return poses(base, lane.direction * s) + [base @ p for p in limbs]

    # Vehicles swing out for who rides at the road's edge; they do not follow him.
    followed = along if lane.key in (RIDERS_RIGHT, RIDERS_LEFT) else None
    return Agent(parts, motion, moving, 1.8, along=followed, speed=lane.speed, d=d)


def _pedalling(height: float, lean: float, turn: float) -> list[np.ndarray]:
    """Limb poses on a bicycle whose pedals have turned by ``turn``, rad."""
    hips = [0.95 + 0.38 * math.sin(turn + o) for o in (0.0, math.pi)]
    knees = [1.15 + 0.45 * math.sin(turn + o + 0.9) for o in (0.0, math.pi)]
    joints = (*hips, *knees, lean + 1.0, lean + 1.0, 0.35, 0.35)
    return shapes.body_pose(height, (-0.20, 0.0, 0.97), lean, joints, -0.02)


def _seated(height: float, lean: float, scooter: bool) -> list[np.ndarray]:
    """Limb poses on a motorcycle."""
    hip = (-0.30, 0.0, 0.86) if scooter else (-0.20, 0.0, 0.90)
    knee = 1.15 if scooter else 1.5
    joints = (1.25, 1.25, knee, knee, lean + 0.9, lean + 0.9, 0.4, 0.4)
    return shapes.body_pose(height, hip, lean, joints, 0.12)
