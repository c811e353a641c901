# SPDX-License-Identifier: Apache-2.0
"""Closed loop: the head's commands drive the ego vehicle of the world, late and with frames lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dvps_ros.data.world import World
from dvps_ros.data.world.route import EgoState
from dvps_ros.errors import InputError
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.runtime.steering import SteeringPipeline
from dvps_ros.training.steering.drives import lane_m, street_seeds
from dvps_ros.types import CameraModel

VEHICLE_WIDTH_M = 1.8
LEAST_LATENCY_S = 0.04
"""The world moves ahead in steps of 0.02 s and asks one beyond: no command can act sooner."""


@dataclass(frozen=True)
class Conditions:
    """What stands between camera and wheels."""

    rate_hz: float = 10.0
    latency_s: float = 0.1
    """From the camera's time stamp to the moment when the command reaches the wheels."""
    drop: float = 0.0
    """Probability that a frame is lost."""
    seconds: float = 60.0
    """Longest drive on one road."""


@dataclass
class RoadDrive:
    """One road, until its end or until the lane was left. Lists hold one value a frame."""

    seed: int
    style: str
    lane_width_m: float
    marked: bool
    """The street has lane lines."""
    left_lane_at_s: float | None = None
    """When the rear axle's middle crossed the lane's edge; then the drive ends."""
    t_s: list[float] = field(default_factory=list)
    lateral_m: list[float] = field(default_factory=list)
    """Of the rear axle's middle, to the left of the lane's middle."""
    speed_mps: list[float] = field(default_factory=list)
    steering_rad: list[float] = field(default_factory=list)
    xy_m: list[tuple[float, float]] = field(default_factory=list)
    driven_s: float = 0.0
    """With what the lane keeper drove until the first command."""
    invalid: int = 0
    """Frames without a valid command: the wheels stay as they are."""
    dropped: int = 0

    def summary(self) -> dict[str, float | int | str | None]:
        """Figures of this road."""
        lateral = np.abs(self.lateral_m)
        margin = 0.5 * (self.lane_width_m - VEHICLE_WIDTH_M)
        return {
            "seed": self.seed,
            "style": self.style,
            "marked": self.marked,
            "seconds": round(self.t_s[-1] - self.t_s[0], 2) if self.t_s else 0.0,
            "metres": round(float(np.sum(self.speed_mps) / max(len(self.speed_mps), 1)
                                  * (self.t_s[-1] - self.t_s[0])), 1) if self.t_s else 0.0,
            "left_lane_at_s": self.left_lane_at_s,
            "lateral_mean_m": round(float(lateral.mean()), 3) if len(lateral) else None,
            "lateral_p95_m": round(float(np.quantile(lateral, 0.95)), 3) if len(lateral) else None,
            "lateral_max_m": round(float(lateral.max()), 3) if len(lateral) else None,
            "wheel_over_line": round(float((lateral > margin).mean()), 4) if len(lateral) else None,
            "invalid_frames": self.invalid,
            "dropped_frames": self.dropped,
        }  # fmt: skip


class Wheels:
    """Holds the newest command that has arrived; who drives until the first one is the lane keeper."""

    def __init__(self, world: World) -> None:
        self._keeper = world.ego.steer
        self._queue: list[tuple[float, float]] = []
        self._angle: float | None = None
        world.ego.steer = self

    @property
    def handed_over(self) -> bool:
        return self._angle is not None

    def send(self, arrives_s: float, angle_rad: float) -> None:
        self._queue.append((arrives_s, angle_rad))

    def __call__(self, t: float, e: EgoState) -> float:
        while self._queue and self._queue[0][0] <= t:
            self._angle = self._queue.pop(0)[1]
        return self._keeper(t, e) if self._angle is None else self._angle


def drive_road(
    world: World,
    camera: CameraModel,
    engine: Engine,
    steering: SteeringPipeline,
    conditions: Conditions,
    *,
    shown: Callable[[np.ndarray, float], None] | None = None,
) -> RoadDrive:
    """Let the head drive one road.

    Until the first valid command arrives the world's lane keeper drives; from then on it counts.

    Args:
        shown: called with each image and its time, for a picture of the drive.

    Raises:
        InputError: conditions out of range, or a perception model without latent tokens.
    """
    if conditions.latency_s < LEAST_LATENCY_S or not 0 <= conditions.drop < 1:
        raise InputError(
            f"closed loop: expected a latency of at least {LEAST_LATENCY_S} s and a drop of 0 to 1, got "
            f"{conditions.latency_s} s and {conditions.drop}"
        )
    rng = np.random.default_rng([world.config.seed, 35])
    preprocess = Preprocess(camera, engine.width, engine.height)
    wheels, lane, width = Wheels(world), lane_m(world), world.scene.section.lane_width
    result = RoadDrive(world.config.seed, world.style, width, world.scene.markings)
    engine.reset()
    steering.forget()
    for number, sample in enumerate(world.frames(camera, rate_hz=conditions.rate_hz)):
        t = number / conditions.rate_hz
        if t > conditions.seconds:
            break
        result.driven_s = t
        ego = world.ego.at(t)
        if wheels.handed_over:
            lateral = world.scene.route.beside(ego)[0] - lane
            result.t_s.append(t)
            result.lateral_m.append(lateral)
            result.speed_mps.append(ego.speed_mps)
            result.steering_rad.append(ego.steering_rad)
            result.xy_m.append((ego.x, ego.y))
            if abs(lateral) > 0.5 * width:
                result.left_lane_at_s = t
                break
        image = sample.images[0]
        if shown is not None:
            shown(image, t)
        if rng.random() < conditions.drop:
            result.dropped += 1
            continue
        output = engine.run(preprocess(image)[1], preprocess.network_camera.vector, frozenset({"latent"}))
        if output.latent is None:
            raise InputError(f"{engine.description}: it has no latent tokens")
        weights = engine.manifest.weights.sha256
        command = steering.process(round(t * 1e9), output.latent, weights)
        if command.valid:
            wheels.send(t + conditions.latency_s, command.tyre_angle_rad)
        else:
            result.invalid += wheels.handed_over
    return result


def drive_on(
    drive: Callable[[int, float], RoadDrive],
    first_seed: int,
    total_s: float,
    road_s: float,
    rate_hz: float,
    *,
    marked: bool | None = None,
) -> Iterator[RoadDrive]:
    """One road after the other until ``total_s`` are driven; a road that was left is followed by a new one.

    Args:
        drive: drives the road of a seed for at most so many seconds.
        road_s: longest drive on one road.
        marked: as of :func:`dvps_ros.training.steering.drives.street_seeds`.
    """
    seed, rest_s = first_seed, total_s
    while rest_s > 1 / rate_hz:
        seed = street_seeds(seed, 1, marked=marked)[0]
        road = drive(seed, min(road_s, rest_s))
        yield road
        rest_s -= road.driven_s
        seed += 1


def overall(drives: list[RoadDrive]) -> dict[str, float | int | None]:
    """Figures over all roads."""
    lateral = np.abs(np.concatenate([d.lateral_m for d in drives]))
    over = np.concatenate([np.abs(d.lateral_m) > 0.5 * (d.lane_width_m - VEHICLE_WIDTH_M) for d in drives])
    seconds = sum(d.t_s[-1] - d.t_s[0] for d in drives if d.t_s)
    left = [d for d in drives if d.left_lane_at_s is not None]
    if not lateral.size:
        return {"roads": len(drives), "minutes": 0.0, "roads_left": len(left)}
    return {
        "roads": len(drives),
        "minutes": round(seconds / 60, 2),
        "roads_left": len(left),
        "roads_with_lines": sum(d.marked for d in drives),
        "roads_with_lines_left": sum(d.marked for d in left),
        "seconds_to_leaving": round(seconds / len(left), 1) if left else None,
        "lateral_mean_m": round(float(lateral.mean()), 3),
        "lateral_rms_m": round(float(math.sqrt((lateral**2).mean())), 3),
        "lateral_p95_m": round(float(np.quantile(lateral, 0.95)), 3),
        "wheel_over_line": round(float(over.mean()), 4),
    }
