# SPDX-License-Identifier: Apache-2.0
"""The road's middle line, and the ego vehicle that drives along it.

The middle line is a chain of clothoids with a smooth grade, grown as far as somebody looks. s runs along it,
d to the left of it. The ego vehicle is a kinematic bicycle (Polack et al., 2017, eq. 1) with its reference at
the rear axle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dvps_ros.data.world.forks import Forks
from dvps_ros.data.world.styles import Style

WHEELBASE_M = 2.71
START_M = -60.0
"""The middle line begins here."""
EGO_START_M = 12.0
"""s of the ego vehicle's rear axle at time 0: what lies behind it is not grown."""


class Route:
    """Middle line of the road, extended on demand; the same seed gives the same line however it is asked."""

    def __init__(self, style: Style, seed: int, forks: Forks):
        self._rng = np.random.default_rng([seed, 101])
        self._style, self._forks = style, forks
        self._x, self._y, self._z = [0.0], [0.0], [0.0]
        self._heading, self._curvature, self._grade = [0.0], [0.0], [0.0]
        self._bend = 0.0
        self._slope = 0.0
        self._grow_until(0.0)
        # The first stretch turned anywhere would do; a heading near zero at s = 0 keeps numbers small.
        self._arrays: tuple[int, np.ndarray] | None = None

    def _grow_until(self, s: float) -> None:
        rng, style = self._rng, self._style
        while START_M + len(self._x) - 1 < s + 2:
            length = int(rng.uniform(18, 70) * (3.0 if style.curvature < 1 / 300 else 1.0))
            heading = self._heading[-1]
            straight = rng.random() < 0.35
            target = 0.0 if straight else rng.uniform(-1, 1) * style.curvature
            # The road keeps its general direction, so that it never meets itself.
            ahead = heading + 0.5 * (self._bend + target) * length
            if abs(ahead) > 0.9:
                target = -math.copysign(rng.uniform(0.3, 1.0) * style.curvature, heading)
            slope = rng.uniform(-0.05, 0.05) if rng.random() < 0.6 else 0.0
            if abs(self._z[-1]) > 6.0:
                slope = -math.copysign(rng.uniform(0.01, 0.04), self._z[-1])
            here = START_M + len(self._x) - 1
            forks = self._forks.near(here, here + length)
            for i in range(length):
                k = min((i + 1) / (0.6 * length), 1.0)
                k = k * k * (3 - 2 * k)
                bend = self._bend + (target - self._bend) * k
                for fork in forks:
                    # Along a fork the road's own bends are gentle, so that the branch keeps leaving it.
                    bend = bend * (1 - 0.75 * float(fork.presence(here + i))) + fork.bend(here + i)
                grade = self._slope + (slope - self._slope) * k
                h = self._heading[-1]
                mid = h + 0.5 * bend
                self._x.append(self._x[-1] + math.cos(mid))
                self._y.append(self._y[-1] + math.sin(mid))
                self._z.append(self._z[-1] + grade)
                self._heading.append(h + bend)
                self._curvature.append(bend)
                self._grade.append(grade)
            self._bend, self._slope = target, slope

    def at(self, s: np.ndarray | float) -> np.ndarray:
        """x, y, z, heading, curvature, grade at s: float64 [...,6]."""
        s = np.asarray(s, np.float64)
        self._grow_until(float(s.max()))
        if self._arrays is None or self._arrays[0] != len(self._x):
            table = np.stack([self._x, self._y, self._z, self._heading, self._curvature, self._grade], 1)
            self._arrays = (len(self._x), table)
        table = self._arrays[1]
        q = np.clip(s - START_M, 0.0, len(table) - 1.001)
        i = q.astype(np.int64)
        k = (q - i)[..., None]
        return table[i] * (1 - k) + table[i + 1] * k

    def points(
        self, s: np.ndarray | float, d: np.ndarray | float, up: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """World points float64 [...,3] at (s, d), ``up`` metres over the road's height."""
        a = self.at(s)
        x, y, z = a[..., 0] - d * np.sin(a[..., 3]), a[..., 1] + d * np.cos(a[..., 3]), a[..., 2] + up
        return np.stack(np.broadcast_arrays(x, y, z), -1)

    def point(self, s: float) -> tuple[float, ...]:
        """x, y, z, heading, curvature, grade at one s; much cheaper than :meth:`at` with an array."""
        self._grow_until(s)
        q = min(max(s - START_M, 0.0), len(self._x) - 1.001)
        i = int(q)
        k, j = q - i, i + 1
        columns = (self._x, self._y, self._z, self._heading, self._curvature, self._grade)
        return tuple(c[i] * (1 - k) + c[j] * k for c in columns)

    def beside(self, e: EgoState) -> tuple[float, float]:
        """Metres to the left of the middle line, and radians turned to the left of its direction."""
        x, y, _, heading, _, _ = self.point(e.s)
        side = -(e.x - x) * math.sin(heading) + (e.y - y) * math.cos(heading)
        return side, math.remainder(e.heading - heading, 2 * math.pi)

    def pose(
        self, s: float, d: float, up: float = 0.0, yaw: float = 0.0, *, upright: bool = True
    ) -> np.ndarray:
        """World from an object at (s, d), turned by ``yaw`` from the road; not upright follows the grade."""
        x, y, z, heading, _, grade = self.point(s)
        c, sn = math.cos(heading + yaw), math.sin(heading + yaw)
        pitch = 0.0 if upright else math.atan(grade) * math.cos(yaw)
        cp, sp = math.cos(pitch), math.sin(pitch)
        return np.array(
            [
                [c * cp, -sn, -c * sp, x - d * math.sin(heading)],
                [sn * cp, c, -sn * sp, y + d * math.cos(heading)],
                [sp, 0.0, cp, z + up],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )


@dataclass(frozen=True)
class EgoState:
    """Where the ego vehicle's rear axle is, and how it drives."""

    s: float
    x: float
    y: float
    heading: float
    speed_mps: float
    steering_rad: float


Steer = Callable[[float, EgoState], float]
"""(time in seconds, state) -> wanted road-wheel angle, rad, left positive."""


class Ego:
    """The ego vehicle: a bicycle model that keeps lane and distance, stepped at 50 Hz and remembered.

    Attributes:
        steer: who steers, by default the lane keeper. What was driven before it is replaced stays: :meth:`at`
            has then been asked up to one step beyond its latest time.
    """

    STEP_S = 0.02

    def __init__(self, route: Route, lane_d: float, speed: float, rng: np.random.Generator, leader):
        """
        Args:
            leader: function (t, s) -> (gap to the next vehicle ahead in metres, its speed).
        """
        self._route, self._d, self._cruise, self._leader = route, lane_d, speed, leader
        self._sway = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.03, 0.22)
        x, y, _, heading, curvature, _ = route.point(EGO_START_M)
        offset = rng.normal() * 0.15
        d = lane_d + offset
        yaw = heading + rng.normal() * 0.01
        steer = math.atan(WHEELBASE_M * curvature / (1 - curvature * lane_d))
        self.steer: Steer = self._keep_lane
        self._states = [
            EgoState(EGO_START_M, x - d * math.sin(heading), y + d * math.cos(heading), yaw, speed, steer)
        ]

    def at(self, t: float) -> EgoState:
        """State at a time >= 0, seconds."""
        q = t / self.STEP_S
        while len(self._states) < q + 2:
            self._step()
        i = int(q)
        k = q - i
        a, b = self._states[i], self._states[i + 1]
        if k < 1e-9:
            return a
        mix = [u + (v - u) * k for u, v in zip(vars(a).values(), vars(b).values(), strict=True)]
        return EgoState(*mix)

    def _keep_lane(self, t: float, e: EgoState) -> float:
        phase, size = self._sway
        want = self._d + size * math.sin(0.31 * t + phase[0])
        side, turn = self._route.beside(e)
        preview = self._route.point(e.s + 0.25 * e.speed_mps + 1.0)[4]
        feed = math.atan(WHEELBASE_M * preview / max(1 - preview * want, 0.2))
        speed = max(e.speed_mps, 2.0)
        return feed - 1.1 * turn - math.atan(0.55 * (side - want) / speed)

    def _step(self) -> None:
        e, dt = self._states[-1], self.STEP_S
        t = (len(self._states) - 1) * dt
        _, _, _, heading, curvature, _ = self._route.point(e.s)
        side, _ = self._route.beside(e)
        change = max(-0.6 * dt, min(0.6 * dt, self.steer(t, e) - e.steering_rad))
        steer = max(-0.6, min(0.6, e.steering_rad + change))
        # Intelligent driver model (Treiber et al., 2000): headway 1.2 s, standstill gap 4 m.
        gap, other = self._leader(t, e.s)
        closing = e.speed_mps - other
        desired = 4.0 + max(0.0, 1.2 * e.speed_mps + e.speed_mps * closing / (2 * math.sqrt(1.5 * 2.5)))
        cruise = max(self._cruise, 0.01)
        push = 1.5 * (1 - (e.speed_mps / cruise) ** 4 - (desired / max(gap, 0.5)) ** 2)
        v = max(0.0, e.speed_mps + max(-6.0, push) * dt)
        h = e.heading + v * math.tan(steer) / WHEELBASE_M * dt
        mid = 0.5 * (h + e.heading)
        nx, ny = e.x + v * math.cos(mid) * dt, e.y + v * math.sin(mid) * dt
        along = (nx - e.x) * math.cos(heading) + (ny - e.y) * math.sin(heading)
        s = e.s + along / max(1 - curvature * side, 0.2)
        self._states.append(EgoState(s, nx, ny, h, v, steer))
