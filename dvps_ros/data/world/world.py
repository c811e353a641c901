# SPDX-License-Identifier: Apache-2.0
"""The synthetic street world: a seed in, video with exact truth out (docs/world.md)."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dvps_ros.config import option
from dvps_ros.data.world import raster, shade
from dvps_ros.data.world.agents import Agent
from dvps_ros.data.world.blocks import Block, blocks_between
from dvps_ros.data.world.materials import SKY
from dvps_ros.data.world.mesh import turn_x, turn_y, turn_z
from dvps_ros.data.world.photographs import StreetTextures, open_textures
from dvps_ros.data.world.route import WHEELBASE_M, Ego, EgoState
from dvps_ros.data.world.scene import Scene
from dvps_ros.data.world.sensor import Sensor, expose
from dvps_ros.data.world.skies import draw_sky, lit_by, sky_files
from dvps_ros.data.world.styles import STYLES
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.types import CameraModel, Sample

WEATHERS = ("clear", "haze", "overcast", "rain", "fog", "low_sun", "dusk", "night")
WEATHER_SHARES = (0.36, 0.12, 0.24, 0.08, 0.05, 0.1, 0.05, 0.0)
"""On rich streets half the dusk is night."""
MOST_LAMPS, LAMPS_WITHIN_M = 16, 70.0
STREETS = ("plain", "rich")
LOOK = "; "
"""Between a sample's source and the look of its world, if that has any."""
T = TypeVar("T")
BASE_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


_PER_FRAME = (
    "images",
    "intrinsics",
    "class_map",
    "instance_map",
    "depth_m",
    "flow_px",
    "scene_flow_m",
    "moving",
    "world_from_camera",
    "steering_rad",
    "speed_mps",
)


@dataclass(frozen=True)
class WorldConfig:
    """Which world. What is left at auto or 0 is drawn from the seed."""

    seed: int = option(0, "Everything is drawn from this number.", low=0)
    style: str = option("auto", "Kind of street.", choices=("auto", *STYLES))
    weather: str = option("auto", "Light and air.", choices=("auto", *WEATHERS))
    streets: str = option(
        "plain",
        "rich: more kinds of things on them, and more of each.",
        choices=STREETS,
    )
    traffic: float = option(1.0, "Density of everything that moves.", low=0.0, high=2.0)
    forks: float = option(1.0, "Density of forks, where the road parts in two.", low=0.0, high=1.0)
    camera_height_m: float = option(
        0.0, "Height of the camera over the road, metres; 0 draws 0.9 to 2.2.", low=0.0, high=5.0
    )
    camera_pitch_deg: float = option(
        math.nan, "Downward tilt of the camera, degrees; not a number draws -3 to 8.", low=-90.0, high=90.0
    )
    camera_yaw_deg: float = option(
        math.nan,
        "Turn of the camera to the left, degrees; not a number draws near 0, or up to 45 in one of six.",
        low=-180.0,
        high=180.0,
    )
    view_m: float = option(200.0, "How far ahead the world is drawn, metres.", low=20.0, high=1000.0)
    textures: str = option(
        "", "Folder of photographs of surfaces, a sub-folder for each material; empty: procedural surfaces."
    )
    skies: str = option("", "Folder of panoramas of the sky (.hdr); empty: a procedural sky.")
    effects: bool = option(
        True, "Noise, blur, colour cast, motion blur of a real camera; off gives clean images."
    )

    @property
    def look(self) -> str:
        """What it has beyond a plain procedural world, in words; empty for one that has nothing more."""
        parts = ["rich streets"] if self.streets == "rich" else []
        parts += [f"{name} of {folder}" for name in ("textures", "skies") if (folder := getattr(self, name))]
        return ", ".join(parts)


DEMO = WorldConfig(
    seed=5_000_016,
    style="city",
    weather="clear",
    forks=0.0,
    camera_height_m=1.5,
    camera_pitch_deg=2.0,
    camera_yaw_deg=0.0,
)
"""The scene of the demo, and of comparisons between versions; its seed is kept out of training."""


def demo_world() -> World:
    """A sunny city drive behind a van, between parked cars, past walkers and riders: 70 objects in 12 s."""
    return World(DEMO)


def draw_camera(seed: int, width: int, height: int) -> CameraModel:
    """A random camera for training: horizontal view of 45 to 105 degrees, principal point off the middle."""
    rng = np.random.default_rng([seed, 21])
    ideal = CameraModel.from_fov(width, height, float(rng.uniform(45, 105)))
    return replace(
        ideal,
        cx=ideal.cx + float(rng.normal()) * 0.02 * width,
        cy=ideal.cy + float(rng.normal()) * 0.04 * height,
    )


def _draw_light(weather: str, rng: np.random.Generator) -> shade.Light:
    azimuth = rng.uniform(0, 2 * math.pi)
    elevation = math.radians({"low_sun": rng.uniform(6, 18)}.get(weather, rng.uniform(22, 68)))
    to_sun = np.array(
        [
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ]
    )
    warm = rng.uniform(0.0, 1.0) * (2.2 if weather in ("low_sun", "dusk") else 0.7)
    sun = np.array([1.0, 1 - 0.13 * warm, 1 - 0.26 * warm])
    blue = rng.uniform(0.3, 1.0)
    zenith = np.array([0.42 - 0.24 * blue, 0.52 - 0.16 * blue, 0.68 - 0.02 * blue])
    horizon = np.array([0.80, 0.86, 0.92]) * rng.uniform(0.8, 1.1)
    sky = np.array([0.52, 0.60, 0.74])
    strength, ambient, fog, cover, wet, soft, occlusion, night = 2.3, 0.62, 0.0006, 0.0, 0.0, 0.0, 0.25, 0.0
    if weather == "clear":
        strength, cover = rng.uniform(2.0, 4.2), rng.uniform(0.15, 0.55) if rng.random() < 0.7 else 0.0
    elif weather == "haze":
        strength, ambient, fog, cover = (
            rng.uniform(1.2, 2.0),
            0.75,
            rng.uniform(0.001, 0.004),
            rng.uniform(0.2, 0.6),
        )
        horizon = np.array([0.92, 0.93, 0.95])
    elif weather == "low_sun":
        strength, ambient, cover = rng.uniform(1.6, 2.6), 0.42, rng.uniform(0.1, 0.5)
        horizon = np.array([1.0, 0.86, 0.70]) * rng.uniform(0.8, 1.15)
    elif weather in ("overcast", "rain", "fog", "dusk", "night"):
        to_sun = np.array([rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), 1.0])
        strength, ambient, cover, soft, occlusion = (
            rng.uniform(0.15, 0.5),
            1.0,
            rng.uniform(0.6, 1.0),
            4.0,
            rng.uniform(0.6, 0.9),
        )
        level = rng.uniform(0.75, 1.05)
        zenith, horizon = np.array([0.72, 0.75, 0.79]) * level, np.array([0.90, 0.91, 0.93]) * level
        sky = np.array([0.74, 0.78, 0.83])
        fog = rng.uniform(0.0005, 0.003)
    if weather == "rain":
        wet, fog = rng.uniform(0.4, 1.0), rng.uniform(0.002, 0.006)
        zenith, horizon = zenith * 0.75, horizon * 0.8
    elif weather == "fog":
        fog, cover = rng.uniform(0.008, 0.03), 0.0
        zenith = horizon
    elif weather == "dusk":
        night = rng.uniform(0.3, 1.0)
        tint = np.array([0.55, 0.62, 0.95])
        zenith, horizon, sky = zenith * tint * 0.5, horizon * np.array([0.8, 0.7, 0.75]) * 0.7, sky * tint
        ambient, strength = 0.45, 0.05
    elif weather == "night":
        night, cover = 1.0, 0.0
        zenith, horizon = (
            np.array([0.010, 0.013, 0.022]),
            np.array([0.05, 0.04, 0.035]) * rng.uniform(0.4, 1.6),
        )
        ambient, strength, fog = rng.uniform(0.02, 0.07), 0.0, rng.uniform(0.0, 0.001)
        wet = rng.uniform(0.3, 1.0) if rng.random() < 0.3 else 0.0
    elif weather in ("clear", "haze", "low_sun") and rng.random() < 0.1:
        wet = rng.uniform(0.2, 0.7)
    to_sun = to_sun / np.linalg.norm(to_sun)
    sun = sun * strength
    sky = sky * ambient
    bounce = shade.bounce(sun, sky, to_sun[2])
    cloud = np.array([0.95, 0.96, 0.98]) * (1.0 if soft == 0 else float(horizon.mean()))

    return shade.Light(
        shade.triple(to_sun),
        shade.triple(sun),
        shade.triple(sky),
        shade.triple(bounce),
        shade.triple(zenith),
        shade.triple(horizon),
        shade.triple(cloud),
        float(cover),
        float(rng.uniform(0.5, 1.8)),
        float(fog),
        float(wet),
        float(soft),
        float(occlusion),
        float(night),
        int(rng.integers(1, 1 << 20)),
    )


def _folder(text: str) -> Path:
    """A folder that an option names, by environment variables too: $DVPS_DATA/cc0_skies."""
    return Path(os.path.expandvars(text)).expanduser()


def _draw_sensor(light: shade.Light, rng: np.random.Generator, effects: bool) -> Sensor:
    level = 0.45 * light.sun[1] * max(light.to_sun[2], 0.25) + light.sky[1]
    exposure = 1.05 / (level + 0.25)
    if not effects:
        return Sensor(float(exposure), (1.0, 1.0, 1.0), 0.3, 2.2, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1)
    gain = np.clip(1 + 0.07 * rng.normal(size=3), 0.8, 1.25)
    dark = 0.4 + 0.6 * light.night
    return Sensor(
        exposure=float(exposure * rng.uniform(0.62, 1.7)),
        gain=shade.triple(gain),
        contrast=float(rng.uniform(-0.2, 1.0)),
        gamma=float(rng.uniform(1.9, 2.5)),
        saturation=float(rng.uniform(0.45, 1.35)),
        blur_px=float(rng.choice([0.45, 0.55, 0.65, 0.8, 1.1])),
        shutter=float(rng.uniform(0.0, 0.35) if rng.random() < 0.5 else 0.0),
        noise=float(dark * abs(rng.normal()) * 0.006),
        grain=float(dark * abs(rng.normal()) * 0.02),
        vignette=float(rng.uniform(0.0, 0.35)),
        seed=int(rng.integers(1, 1 << 30)),
    )


class _Workers:
    """Does the work on an image's rows, and two things at a time, in this many threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def over_rows(self, rows: int, work: Callable[[int, int], object]) -> None:
        """Calls ``work(first, last)`` until all rows are done."""
        if self._pool is None:
            work(0, rows)
            return
        # Rows differ in cost (sky, road): several bands a thread even it out.
        edges = np.linspace(0, rows, 4 * self._threads + 1).astype(int).tolist()
        list(self._pool.map(work, edges[:-1], edges[1:]))

    def both(self, one: Callable[[], object], other: Callable[[], T]) -> T:
        """Calls both; returns what the other returns."""
        if self._pool is None:
            one()
            return other()
        waiting = self._pool.submit(one)
        result = other()
        waiting.result()
        return result


@dataclass(frozen=True)
class _Placed:
    """All parts of one moment, stacked."""

    pose: np.ndarray
    """float64 [P,3,4]: world from part."""
    previous: np.ndarray
    """float64 [P,3,4]: the same one frame earlier."""
    mesh: np.ndarray
    materials: np.ndarray
    instance: np.ndarray
    moving: np.ndarray


class World:
    """One street world. Building it is cheap; content appears as the ego vehicle comes near.

    The same configuration, camera and calls give the same bytes. Instances keep their id for the whole drive,
    also while nobody sees them; riders and their vehicles are instances of their own.

    Raises:
        ConfigError: an unknown style or weather.
    """

    def __init__(self, config: WorldConfig | None = None):
        self.config = config = config or WorldConfig()
        rng = np.random.default_rng([config.seed, 0])
        names = list(STYLES)
        drawn = names[int(np.searchsorted(np.cumsum([0.28, 0.28, 0.16, 0.14, 0.14]), rng.random()))]
        style = drawn if config.style == "auto" else config.style
        if style not in STYLES or config.weather not in ("auto", *WEATHERS):
            raise ConfigError(
                f"world: expected a style of auto, {', '.join(STYLES)} "
                f"and a weather of auto, {', '.join(WEATHERS)}; "
                f"got {style!r} and {config.weather!r}"
            )
        self.style = style
        rich = config.streets == "rich"
        self.scene = Scene(config.seed, style, traffic=config.traffic, forks=config.forks, rich=rich)
        self._textures = (
            StreetTextures(open_textures(_folder(config.textures)), config.seed) if config.textures else None
        )
        self._sky_files = sky_files(_folder(config.skies)) if config.skies else []
        self.relight(0)
        self.ego = Ego(
            self.scene.route,
            self.scene.section.lane_d(self.scene.ego_lane),
            self.scene.speed,
            rng,
            self._leader,
        )

    def relight(self, take: int) -> None:
        """Draw weather, light, camera looks and camera mount anew (take 0 is what a new world has).

        Growing a street costs more than a frame of it: several takes of one street, at different times of the
        drive, are the cheap way to varied training clips.
        """
        config = self.config
        rng = np.random.default_rng([config.seed, 9, take])
        mood = str(rng.choice(WEATHERS, p=WEATHER_SHARES))
        if config.streets == "rich" and mood == "dusk" and rng.random() < 0.5:
            mood = "night"
        self.weather = mood if config.weather == "auto" else config.weather
        self.light = _draw_light(self.weather, rng)
        self._sky = shade.NO_SKY, 0.0
        if self._sky_files:
            self._take_sky(np.random.default_rng([config.seed, 33, take]))
        self.sensor = _draw_sensor(self.light, rng, config.effects)
        height, pitch = rng.uniform(0.9, 2.2), rng.uniform(-3.0, 8.0)
        self.camera_height_m = float(config.camera_height_m or height)
        self.camera_pitch_rad = math.radians(
            pitch if math.isnan(config.camera_pitch_deg) else config.camera_pitch_deg
        )
        yaw = rng.normal() * 0.6 if rng.random() < 5 / 6 else rng.uniform(-45.0, 45.0)
        self.camera_yaw_rad = math.radians(
            yaw if math.isnan(config.camera_yaw_deg) else config.camera_yaw_deg
        )
        self._camera_roll = rng.normal() * 0.006
        self._shake = rng.uniform(0, 2 * math.pi, 3), rng.uniform(0.0, 0.006)

    # -- motion ------------------------------------------------------------------------------------

    def _leader(self, t: float, s: float) -> tuple[float, float]:
        """Gap to and speed of the next vehicle ahead in the ego lane."""
        best, speed = 1e3, 0.0
        for lane in self.scene.lanes:
            if not lane.ego:
                continue
            first = math.floor((s - lane.speed * t) / lane.gap) - 1
            for place in range(first, first + 4):
                agent = self.scene.agent(lane, place)
                if agent is None or agent.along is None:
                    continue
                gap = agent.along(t) - 0.5 * agent.length - s - 3.6
                if -2.0 < gap < best:
                    best, speed = gap, agent.speed
        return best, speed

    @property
    def base_from_camera(self) -> np.ndarray:
        """float64 [4,4]: ego vehicle (origin on the road under the rear axle) from the optical frame."""
        pose = np.eye(4)
        pose[:3, :3] = (
            turn_z(self.camera_yaw_rad)
            @ turn_y(self.camera_pitch_rad)
            @ turn_x(self._camera_roll)
            @ BASE_FROM_OPTICAL
        )
        pose[:3, 3] = 0.62 * WHEELBASE_M, 0.0, self.camera_height_m
        return pose

    def world_from_camera(self, t: float) -> np.ndarray:
        """float64 [4,4] at time t: world (z up) from the camera's optical frame."""
        return self._camera_pose(t, self.ego.at(t))

    def _camera_pose(self, t: float, e: EgoState) -> np.ndarray:
        _, _, z, _, _, grade = self.scene.route.point(e.s)
        (a, b, c), size = self._shake
        rate = min(e.speed_mps / 6.0, 1.5)
        bob = size * rate * math.sin(9.1 * t + a)
        pitch = -math.atan(grade) + 0.5 * size * rate * math.sin(7.3 * t + b)
        roll = 0.4 * size * rate * math.sin(5.9 * t + c)
        world_from_base = np.eye(4)
        world_from_base[:3, :3] = turn_z(e.heading) @ turn_y(pitch) @ turn_x(roll)
        world_from_base[:3, 3] = e.x, e.y, z + bob
        return world_from_base @ self.base_from_camera

    def _near(self, t: float) -> tuple[list[Block], list[Agent]]:
        """Blocks and agents that may be seen at time t."""
        e = self.ego.at(t)
        view = self.config.view_m
        blocks = [self.scene.block(number) for number in blocks_between(e.s - 10.0, e.s + view)]
        agents: list[Agent] = []
        for block in blocks:
            agents += [a for a in block.agents if a.during[0] <= t <= a.during[1]]
        for lane in self.scene.lanes:
            base = lane.direction * lane.speed * t
            reach = min(view, 90.0) if lane.of_people else view
            for place in range(
                math.floor((e.s - 20.0 - base) / lane.gap), math.floor((e.s + reach - base) / lane.gap) + 1
            ):
                agent = self.scene.agent(lane, place)
                if agent is not None:
                    agents.append(agent)
        return blocks, agents

    def _place(self, t: float, t_previous: float) -> _Placed:
        blocks, agents = self._near(t)
        still = np.concatenate([b.poses for b in blocks])
        now, before = (
            np.array([pose for a in agents for pose in a.poses(time)]).reshape(-1, 4, 4)[:, :3]
            for time in (t, t_previous)
        )
        moves = [a.is_moving(t) for a in agents]
        arrays = [*(b.arrays for b in blocks), *(a.arrays for a in agents)]
        return _Placed(
            pose=np.concatenate([still, now]),
            previous=np.concatenate([still, before]),
            mesh=np.concatenate([a.mesh for a in arrays]),
            materials=np.concatenate([a.materials for a in arrays]),
            instance=np.concatenate([a.instance for a in arrays]),
            moving=np.repeat(
                np.array([0] * len(still) + moves, np.uint8),
                [1] * len(still) + [len(a.parts) for a in agents],
            ),
        )

    # -- drawing -----------------------------------------------------------------------------------

    def clip(
        self,
        frames: int,
        camera: CameraModel,
        *,
        rate_hz: float = 10.0,
        start_s: float = 0.0,
        scene_flow: bool = False,
        threads: int = 1,
    ) -> Sample:
        """A clip with every truth field of ``Sample`` filled.

        Args:
            camera: pinhole; its distortion is not rendered.
            start_s: time of the first frame after the world's start.
            scene_flow: also ``scene_flow_m``, which most uses have no need of and takes 12 bytes a pixel.
            threads: that render a frame; the bytes are the same however many. Worker processes that
                render a world each do better with one.

        Raises:
            InputError: no frames, a rate that is not positive, a negative start, or a distorted camera.
        """
        if frames < 1:
            raise InputError(f"world: expected at least 1 frame, got {frames}")
        drive = self.frames(camera, rate_hz=rate_hz, start_s=start_s, scene_flow=scene_flow, threads=threads)
        samples = list(itertools.islice(drive, frames))
        join: dict[str, Any] = {
            name: np.concatenate([getattr(s, name) for s in samples])
            for name in _PER_FRAME
            if getattr(samples[0], name) is not None
        }
        return Sample(source=samples[0].source, **join)

    def frames(
        self,
        camera: CameraModel,
        *,
        rate_hz: float = 10.0,
        start_s: float = 0.0,
        scene_flow: bool = False,
        threads: int = 1,
    ) -> Iterator[Sample]:
        """An endless drive, each frame a Sample with T = 1; see :meth:`clip`.

        Raises:
            InputError: a rate that is not positive, a negative start, or a distorted camera.
        """
        if not rate_hz > 0.0 or not start_s >= 0.0:
            raise InputError(
                f"world: expected a rate above 0 and a start at 0 or later, got {rate_hz} Hz and {start_s} s"
            )
        if camera.is_distorted:
            raise InputError(
                "world: expected a camera without distortion, got one with; use camera.rectified()"
            )
        workers = _Workers(threads)
        for number in itertools.count():
            t, t_previous = start_s + number / rate_hz, start_s + (number - 1) / rate_hz
            yield self._frame(number, t, t_previous, camera, scene_flow, workers)

    def _frame(
        self,
        number: int,
        t: float,
        t_previous: float,
        camera: CameraModel,
        scene_flow: bool,
        workers: _Workers,
    ) -> Sample:
        height, width = camera.height, camera.width
        ego = self.ego.at(t)
        world_from_camera = self._camera_pose(t, ego)
        # The scene knows no time before its start: the flow of frame 0 is not used.
        world_from_previous = self.world_from_camera(t_previous) if number else world_from_camera
        placed = self._place(t, t_previous if number else t)
        meshes, ranges, spheres, two_sided = self.scene.pool.arrays
        camera_from_world = np.linalg.inv(world_from_camera)
        previous_from_world = np.linalg.inv(world_from_previous)

        pose = placed.pose
        scale = np.linalg.norm(pose[:, :, 0], axis=1)
        widest = np.linalg.norm(pose[:, :, :3], axis=1).max(1)
        sphere = spheres[placed.mesh]
        radius = sphere[:, 3] * widest
        centre = np.einsum("pij,pj->pi", pose[:, :, :3], sphere[:, :3]) + pose[:, :, 3]
        eye = centre @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        seen = self._in_view(eye, radius, camera)
        order = np.flatnonzero(seen)
        order = order[np.argsort(eye[order, 2] - radius[order], kind="stable")]
        camera_from_part = camera_from_world[:3, :3] @ pose
        camera_from_part[:, :, 3] += camera_from_world[:3, 3]
        part_range = ranges[placed.mesh]
        most = int((part_range[order, 3] - part_range[order, 2]).sum())

        inverse_z = np.zeros((height, width))
        visible = np.full((height, width), -1, np.int32)
        edges = np.empty((most + 1, 3, 3))
        source = np.empty((most + 1, 2), np.int32)
        cull = (1 - two_sided[placed.mesh]).astype(np.uint8)
        draw = partial(
            raster.rasterise,
            order,
            camera_from_part,
            part_range,
            cull,
            meshes.vertices,
            meshes.triangles,
            camera.fx,
            camera.fy,
            camera.cx,
            camera.cy,
            inverse_z,
            visible,
            edges,
            source,
        )
        shadow = workers.both(
            draw,
            lambda: self._shadow(world_from_camera, centre, radius, pose, part_range, meshes, height),
        )

        # Points of a part: this camera -> part -> previous world pose -> previous camera. Parts at rest skip
        # the way through the part, which would only add rounding.
        prev_from_here = np.empty_like(pose)
        static = previous_from_world @ world_from_camera
        prev_from_here[:] = static[:3]
        moved = order[placed.moving[order] > 0]
        here, then = np.zeros((2, len(moved), 4, 4))
        here[:, :3], then[:, :3], here[:, 3, 3], then[:, 3, 3] = pose[moved], placed.previous[moved], 1.0, 1.0
        prev_from_here[moved] = (previous_from_world @ then @ np.linalg.inv(here) @ world_from_camera)[:, :3]
        normal_turn = pose.copy()
        # Normals go with the inverse transpose; for a rotation times a scale along the mesh's axes that is
        # the rotation over the scale, and shade() makes them unit again.
        normal_turn[:, :, :3] /= np.maximum(np.linalg.norm(pose[:, :, :3], axis=1, keepdims=True) ** 2, 1e-12)

        maps = shade.Maps(
            rgb=np.empty((height, width, 3), np.float32),
            class_map=np.empty((height, width), np.uint8),
            instance_map=np.empty((height, width), np.int32),
            depth_m=np.empty((height, width), np.float32),
            flow_px=np.empty((height, width, 2), np.float32),
            moving=np.empty((height, width), np.uint8),
            scene_flow_m=np.empty((height, width, 3) if scene_flow else (0, 0, 3), np.float32),
        )
        parts = shade.Parts(
            normal_turn=normal_turn,
            prev_from_here=prev_from_here,
            material=placed.materials,
            instance=placed.instance,
            moving=placed.moving,
            two_sided=two_sided[placed.mesh],
            scale=scale,
        )
        turn = static[:3, :3].copy()
        paint = partial(
            shade.shade,
            shade.Visibility(visible, edges, source),
            meshes,
            parts,
            *self._materials(),
            self.light,
            self._lamps(t, ego),
            shadow,
            shade.Eye(world_from_camera, turn, camera.fx, camera.fy, camera.cx, camera.cy),
            SKY,
            maps,
        )
        workers.over_rows(height, paint)
        flow_px = maps.flow_px if number else None
        image = expose(maps.rgb, flow_px, self.sensor, round(t * 1000), workers.over_rows)
        if number == 0:
            maps.flow_px[:] = np.nan
            maps.scene_flow_m[:] = np.nan
        return Sample(
            images=image[None],
            intrinsics=camera.vector[None],
            source=self._source(t),
            class_map=maps.class_map[None],
            instance_map=maps.instance_map[None],
            depth_m=maps.depth_m[None],
            flow_px=maps.flow_px[None],
            scene_flow_m=maps.scene_flow_m[None] if scene_flow else None,
            moving=maps.moving[None],
            world_from_camera=world_from_camera[None],
            steering_rad=np.array([ego.steering_rad], np.float32),
            speed_mps=np.array([ego.speed_mps], np.float32),
        )

    def _take_sky(self, rng: np.random.Generator) -> None:
        """A panorama above, and its light, if one goes with the weather."""
        sky = draw_sky(self._sky_files, self.weather, rng)
        if sky is not None:
            turn = float(rng.uniform(0, 2 * math.pi))
            self.light, radiance = lit_by(self.light, sky, turn)
            self._sky = radiance, turn

    def _materials(self) -> tuple[np.ndarray, shade.Photographs]:
        """The materials of the scene so far, with photographs on them if there are any."""
        table, tiles = self.scene.materials.table, shade.NO_TILES
        if self._textures is not None:
            table, tiles = self._textures.applied(table)
        return table, shade.Photographs(tiles, *self._sky)

    def _source(self, t: float) -> str:
        """What a sample says of itself."""
        scene = f"world seed {self.config.seed}, {self.style}, {self.weather}, t = {t:.2f} s"
        return f"{scene}{LOOK}{self.config.look}" if self.config.look else scene

    def _lamps(self, t: float, ego: EgoState) -> shade.Lamps:
        """The street lamps nearby and the headlights, if it is night."""
        if self.weather != "night":
            return shade.NO_LAMPS
        base = self._camera_pose(t, ego) @ np.linalg.inv(self.base_from_camera)
        beam_from = base[:3, 3] + base[:3, :3] @ [3.3, 0.0, 0.65]
        beam = base[:3, :3] @ [math.cos(0.03), 0.0, -math.sin(0.03)]
        blocks, _ = self._near(t)
        at = np.concatenate([block.lamps for block in blocks])
        away = np.linalg.norm(at - beam_from, axis=1)
        nearest = np.argsort(away, kind="stable")[:MOST_LAMPS]
        nearest = nearest[away[nearest] < LAMPS_WITHIN_M]
        rng = np.random.default_rng([self.config.seed, 34])
        # From the orange of sodium to the white of diodes.
        warm, strength = rng.uniform(0.0, 1.0), rng.uniform(12.0, 35.0)
        color = strength * np.array([1.0, 0.92 - 0.35 * warm, 0.85 - 0.70 * warm])
        head = rng.uniform(60.0, 160.0) * np.array([1.0, 0.96, 0.88])
        return shade.Lamps(at[nearest], *(shade.triple(v) for v in (color, beam_from, beam, head)))

    @staticmethod
    def _in_view(eye: np.ndarray, radius: np.ndarray, camera: CameraModel) -> np.ndarray:
        """Which spheres [N,3], [N] in the camera frame meet the view frustum: bool [N]."""
        seen = eye[:, 2] > -radius
        for axis, f, c, size in (
            (0, camera.fx, camera.cx, camera.width),
            (1, camera.fy, camera.cy, camera.height),
        ):
            for edge, sign in (((-0.5 - c) / f, 1.0), ((size - 0.5 - c) / f, -1.0)):
                distance = sign * (eye[:, axis] - edge * eye[:, 2]) / math.sqrt(1 + edge * edge)
                seen &= distance > -radius
        return seen

    def _shadow(
        self, world_from_camera, centre, radius, pose, part_range, meshes: shade.Meshes, height: int
    ) -> shade.Shadow:
        """Shadow map ahead of the camera."""
        size = 320 if height < 300 else (512 if height < 640 else 768)
        span = 64.0
        texel = span / size
        z_axis = np.array(self.light.to_sun)
        x_axis = np.cross([0.0, 1.0, 0.0] if abs(z_axis[1]) < 0.9 else [1.0, 0.0, 0.0], z_axis)
        x_axis /= np.linalg.norm(x_axis)
        turn = np.stack([x_axis, np.cross(z_axis, x_axis), z_axis])
        ahead = world_from_camera[:3, 2] * [1, 1, 0]
        focus = world_from_camera[:3, 3] + ahead / max(np.linalg.norm(ahead), 1e-6) * 0.40 * span
        # Whole texels, so that shadows do not swim as the camera moves.
        at = turn @ focus
        at[:2] = np.round(at[:2] / texel) * texel
        light_from_world = np.concatenate([turn, -at[:, None]], axis=1)
        middle = centre @ turn.T - at
        near = (
            (np.abs(middle[:, 0]) < span / 2 + radius)
            & (np.abs(middle[:, 1]) < span / 2 + radius)
            & (radius < 60)
        )
        light_from_part = turn @ pose
        light_from_part[:, :, 3] -= at
        shadow = np.full((size, size), -1e9, np.float32)
        raster.rasterise_shadow(
            np.flatnonzero(near),
            light_from_part,
            part_range,
            meshes.vertices,
            meshes.triangles,
            texel,
            shadow,
        )
        return shade.Shadow(shadow, light_from_world, texel)
