# SPDX-License-Identifier: Apache-2.0
"""Where the tracked objects are in space, how large they are, and how they move.

The place of an object is the robust centre of its visible surface, smoothed by a Kalman filter of
constant velocity: in the world where the camera's pose is known (velocity over ground), else in the
camera's frame (velocity relative to the camera).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dvps_ros.geometry.camera import Fit
from dvps_ros.geometry.pose import check_pose, inverse, transform
from dvps_ros.jit import njit
from dvps_ros.panoptic.track import Track, Tracks
from dvps_ros.types import Motion, TrackedInstance, check_array

_DEPTH_NOISE, _LATERAL_NOISE = 0.05, 0.01
"""Standard deviation of an object's place along and across the line of sight, share of the distance."""
_SURFACE_NOISE_M = 0.15
"""And in every direction: what is visible is not always the same part of the object."""
_ACCELERATION = 2.0
"""Standard deviation of the acceleration, m/s^2 lasting one second."""
_FIRST_SPEED_MPS = 10.0
"""Standard deviation of the velocity at the first sight."""
_GATE = 16.3
"""Squared Mahalanobis distance (3 degrees of freedom, 99.9 %) beyond which a measurement counts less."""
_SURPRISES = 3
"""So many of them in a row, and the filter starts anew from the last one."""
_MOVING_MPS, _STATIC_MPS = 6.0, 0.4
"""Standard deviation of the velocity over ground of what moves, and (as depth drifts) of what does not."""
_EVIDENCE_MEMORY_S = 0.3
"""Smoothing time of the evidence for motion."""
_EVIDENCE_LIMIT, _EVIDENCE_SWITCH = 3.0, 0.7
"""Log-odds: most that one source may claim in one frame; and those that change the verdict."""
_NEAR_SPREADS = 2.5
"""Points count whose depth is within so many median deviations of the median (1.7 standard deviations of a
normal spread), and never less than depth noise itself."""
_MIN_POINTS = 3
"""Of a surface that has a centre."""


@dataclass
class _State:
    """What is known of one track."""

    mean: np.ndarray = field(default_factory=lambda: np.zeros(6))
    """float64 [6]: centre and velocity in the filter's frame."""
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((6, 6)))
    extent_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    surprises: int = _SURPRISES
    """Measurements in a row that did not fit; a new state is one that nothing has fitted yet."""
    evidence: float = 0.0
    """Log-odds that it moves over ground."""
    motion: Motion = Motion.UNKNOWN


class ObjectStates:
    """Three-dimensional states of the tracker's objects."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all objects."""
        self._states: dict[int, _State] = {}
        self._stamp_ns: int | None = None
        self._in_world = False
        self._camera_m = np.zeros(3)
        """The camera's place in the filter's frame."""
        self._scale = 1.0

    def update(
        self,
        stamp_ns: int,
        tracks: Tracks,
        points_m: np.ndarray,
        segment_map: np.ndarray,
        fit: Fit,
        world_from_camera: np.ndarray | None = None,
        *,
        scale: float = 1.0,
    ) -> tuple[TrackedInstance, ...]:
        """States of all seen and remembered objects, by id, in this camera frame.

        Args:
            stamp_ns: of the frame.
            tracks: what the tracker said of this frame.
            points_m: float32 [h,w,3]: points of the segment map's pixels, NaN where there is none.
            segment_map: uint8 [h,w]: row of each pixel, 255 for none.
            fit: how the camera image lies in the network's input.
            world_from_camera: float64 [4,4] pose of the camera; None where unknown.
            scale: factor that made these points metric. What is known of the objects is brought to it, for
                a better scale moves nothing.

        Raises:
            InputError: an array has another dtype or shape, or the pose is not a rigid motion.
        """
        check_array("segment_map", segment_map, np.uint8, (None, None))
        check_array("points_m", points_m, np.float32, (*segment_map.shape, 3))
        pose = np.eye(4) if world_from_camera is None else world_from_camera
        check_pose("world_from_camera", pose)
        in_world = world_from_camera is not None
        if in_world != self._in_world or (self._stamp_ns is not None and stamp_ns < self._stamp_ns):
            self.reset()
        elapsed_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * 1e-9
        camera_m = pose[:3, 3]
        if scale != self._scale and elapsed_s > 0:
            self._rescale(scale / self._scale, (camera_m - self._camera_m) / elapsed_s)
        self._stamp_ns, self._in_world, self._camera_m, self._scale = stamp_ns, in_world, camera_m, scale

        box, center, extent = _surfaces(points_m, segment_map)
        self._predict({t.track_id for t in tracks.live}, elapsed_s)
        seen = [t for t in tracks.live if t.row >= 0]
        self._correct([t for t in seen if np.isfinite(center[t.row, 0])], center, extent, pose)
        self._judge([t for t in seen if t.track_id in self._states], elapsed_s)

        stride = fit.width / segment_map.shape[1]
        edges = np.stack(fit.to_camera_edge(box[:, 0::2] * stride, box[:, 1::2] * stride), -1).reshape(-1, 4)
        pixels = (stride / fit.scale) ** 2
        camera_from_world = inverse(pose)
        turn = np.kron(np.eye(2), camera_from_world[:3, :3])
        return tuple(
            self._instance(stamp_ns, t, edges[t.row], round(t.area * pixels), camera_from_world, turn)
            for t in tracks.live
        )

    def _rescale(self, ratio: float, camera_mps: np.ndarray) -> None:
        """All distances from the camera, and so all velocities relative to it, are longer by this ratio."""
        camera = np.append(self._camera_m, camera_mps)
        for state in self._states.values():
            state.mean = camera + ratio * (state.mean - camera)
            state.covariance = ratio**2 * state.covariance
            state.extent_m = ratio * state.extent_m

    def _predict(self, live: set[int], elapsed_s: float) -> None:
        self._states = {i: s for i, s in self._states.items() if i in live}
        states = list(self._states.values())
        if states:
            _store(states, *predict(*_stack(states), elapsed_s))

    def _correct(
        self, seen: list[Track], center_m: np.ndarray, extent_m: np.ndarray, world_from_camera: np.ndarray
    ) -> None:
        """Bring the measured surfaces (by row, in the camera's frame) into the states, or start them."""
        if not seen:
            return
        measured = center_m[[t.row for t in seen]]
        rotation = world_from_camera[:3, :3]
        places = transform(world_from_camera, measured)
        noises = rotation @ measurement_noise(measured) @ rotation.T
        old = [i for i, t in enumerate(seen) if t.track_id in self._states]
        if old:
            states = [self._states[seen[i].track_id] for i in old]
            *corrected, distances = correct(*_stack(states), places[old], noises[old])
            _store(states, *corrected)
            for state, distance in zip(states, distances, strict=True):
                state.surprises = state.surprises + 1 if distance > _GATE else 0
        for track, place, noise in zip(seen, places, noises, strict=True):
            state = self._states.setdefault(track.track_id, _State())
            if state.surprises >= _SURPRISES:
                covariance = np.zeros((6, 6))
                covariance[:3, :3] = noise
                covariance[3:, 3:] = _FIRST_SPEED_MPS**2 * np.eye(3)
                state.mean, state.covariance, state.surprises = np.append(place, np.zeros(3)), covariance, 0
            state.extent_m = extent_m[track.row]

    def _judge(self, seen: list[Track], elapsed_s: float) -> None:
        """Moving or not: the network's word and, where the pose is known, the velocity over ground."""
        if not seen:
            return
        states = [self._states[t.track_id] for t in seen]
        p = np.array([t.moving for t in seen]).clip(1e-3, 1 - 1e-3)
        claims = np.log(p / (1 - p)).clip(-_EVIDENCE_LIMIT, _EVIDENCE_LIMIT)
        if self._in_world:
            means, covariances = _stack(states)
            of_velocity = motion_log_odds(means[:, 3:], covariances[:, 3:, 3:])
            claims += of_velocity.clip(-_EVIDENCE_LIMIT, _EVIDENCE_LIMIT)
        memory = math.exp(-elapsed_s / _EVIDENCE_MEMORY_S)
        for state, claim in zip(states, claims, strict=True):
            state.evidence = memory * state.evidence + (1 - memory) * float(claim)
            if state.evidence > _EVIDENCE_SWITCH:
                state.motion = Motion.MOVING
            elif state.evidence < -_EVIDENCE_SWITCH:
                state.motion = Motion.STATIC

    def _instance(
        self,
        stamp_ns: int,
        track: Track,
        edges: np.ndarray,
        area_px: int,
        camera_from_world: np.ndarray,
        turn: np.ndarray,
    ) -> TrackedInstance:
        state = self._states.get(track.track_id)
        if state is None:
            centroid = velocity = np.full(3, np.nan)
            extent, covariance, motion = np.zeros(3), np.diag(np.full(6, np.inf)), Motion.UNKNOWN
        else:
            centroid = transform(camera_from_world, state.mean[:3])
            velocity = turn[:3, :3] @ state.mean[3:]
            extent, covariance, motion = state.extent_m, turn @ state.covariance @ turn.T, state.motion
        box_px = (0.0, 0.0, 0.0, 0.0)
        if track.row >= 0:
            left, top, right, bottom = edges.tolist()
            box_px = (left, top, right - left, bottom - top)
        return TrackedInstance(
            track_id=track.track_id,
            class_id=track.class_id,
            score=track.score,
            state=track.state,
            box_px=box_px,
            area_px=area_px if track.row >= 0 else 0,
            centroid_m=centroid,
            extent_m=extent,
            velocity_mps=velocity,
            covariance=covariance,
            age_s=(stamp_ns - track.first_ns) * 1e-9,
            unseen_s=(stamp_ns - track.last_ns) * 1e-9,
            motion=motion,
        )


def _stack(states: list[_State]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([s.mean for s in states]), np.stack([s.covariance for s in states])


def _store(states: list[_State], means: np.ndarray, covariances: np.ndarray) -> None:
    for state, mean, covariance in zip(states, means, covariances, strict=True):
        state.mean, state.covariance = mean, covariance


def predict(mean: np.ndarray, covariance: np.ndarray, elapsed_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Constant velocity over elapsed_s seconds, with white acceleration.

    Args:
        mean: float64 [n,6].
        covariance: float64 [n,6,6].
    """
    t, eye = elapsed_s, np.eye(3)
    step = np.block([[eye, t * eye], [0 * eye, eye]])
    noise = _ACCELERATION**2 * np.block([[t**3 / 3 * eye, t**2 / 2 * eye], [t**2 / 2 * eye, t * eye]])
    return mean @ step.T, step @ covariance @ step.T + noise


def correct(
    mean: np.ndarray, covariance: np.ndarray, place_m: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kalman update by a measured place; one that is far off has its noise raised until it is plausible.

    Args:
        mean: float64 [n,6].
        covariance: float64 [n,6,6].
        place_m: float64 [n,3].
        noise: float64 [n,3,3], its covariance.

    Returns:
        mean and covariance, and float64 [n] the squared Mahalanobis distance of the measurement.
    """
    surprise = place_m - mean[:, :3]
    expected = covariance[:, :3, :3] + noise
    distance = np.einsum("ni,ni->n", surprise, np.linalg.solve(expected, surprise[..., None])[..., 0])
    expected = expected + (np.maximum(distance / _GATE, 1) - 1)[:, None, None] * expected
    gain = np.swapaxes(np.linalg.solve(expected, covariance[:, :3, :]), 1, 2)
    mean = mean + (gain @ surprise[..., None])[..., 0]
    covariance = covariance - gain @ covariance[:, :3, :]
    return mean, (covariance + np.swapaxes(covariance, 1, 2)) / 2, distance


def measurement_noise(place_m: np.ndarray) -> np.ndarray:
    """Covariance float64 [n,3,3] of measured places [n,3] in the camera frame: long along the ray."""
    distance = np.linalg.norm(place_m, axis=1)[:, None, None]
    ray = place_m[:, :, None] / np.maximum(distance, 1e-6)
    along = ray @ np.swapaxes(ray, 1, 2)
    across = np.eye(3) - along
    shares = _DEPTH_NOISE**2 * along + _LATERAL_NOISE**2 * across
    return distance**2 * shares + _SURFACE_NOISE_M**2 * np.eye(3)


def motion_log_odds(velocity_mps: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """ln p(v | moving) - ln p(v | static), float64 [n], for zero-mean Gaussians of the two spreads.

    0 for a velocity [n,3] that is not known, as its covariance [n,3,3] is then much larger than both.
    """
    log_odds = np.zeros(len(velocity_mps))
    for spread, sign in ((_MOVING_MPS, -0.5), (_STATIC_MPS, 0.5)):
        total = covariance + spread**2 * np.eye(3)
        fit = np.einsum("ni,ni->n", velocity_mps, np.linalg.solve(total, velocity_mps[..., None])[..., 0])
        log_odds += sign * (fit + np.log(np.linalg.det(total)))
    return log_odds


@njit(nogil=True)
def _surfaces(points_m, segment_map):
    """Box, robust centre and size of the visible surface of each row of the segment table.

    Centre and size are those of the box from the 5th to the 95th percentile, axis by axis, of the points
    whose depth is near the median depth (background that bleeds into the mask is not); along the view no
    larger than their middle 60 % imply.

    Returns:
        float64 [256,4]: left, top, right, bottom borders, in map pixels.
        float64 [256,3]: centre, metres; NaN if fewer than _MIN_POINTS points are known.
        float64 [256,3]: size, metres.
    """
    height, width = segment_map.shape
    box = np.zeros((256, 4))
    box[:, 0], box[:, 1] = width, height
    first = np.zeros(257, np.int64)
    for y in range(height):
        for x in range(width):
            row = segment_map[y, x]
            if row == 255:
                continue
            box[row, 0] = min(box[row, 0], x)
            box[row, 1] = min(box[row, 1], y)
            box[row, 2] = max(box[row, 2], x + 1)
            box[row, 3] = max(box[row, 3], y + 1)
            if np.isfinite(points_m[y, x, 2]):
                first[row + 1] += 1
    first = np.cumsum(first)
    points = np.empty((first[256], 3))
    filled = first.copy()
    for y in range(height):
        for x in range(width):
            row = segment_map[y, x]
            if row != 255 and np.isfinite(points_m[y, x, 2]):
                points[filled[row]] = points_m[y, x]
                filled[row] += 1

    center = np.full((256, 3), np.nan)
    extent = np.zeros((256, 3))
    for row in range(255):
        mine = points[first[row] : first[row + 1]]
        if len(mine) < _MIN_POINTS:
            continue
        middle = np.median(mine[:, 2])
        away = np.abs(mine[:, 2] - middle)
        near = mine[away <= max(_NEAR_SPREADS * np.median(away), 0.05 * middle)]
        for axis in range(3):
            values = np.sort(near[:, axis])
            low, high = _quantile(values, 0.05), _quantile(values, 0.95)
            if axis == 2:
                # Along the view the depth of a border is drawn to what lies behind it: the middle says more.
                inner_low, inner_high = _quantile(values, 0.2), _quantile(values, 0.8)
                half = 0.75 * (inner_high - inner_low)  # 5 to 95 % of an even spread
                inner = (inner_low + inner_high) / 2
                low, high = max(low, inner - half), min(high, inner + half)
            center[row, axis] = (low + high) / 2
            extent[row, axis] = high - low
    return box, center, extent


@njit(nogil=True)
def _quantile(ordered, share):
    """Linear between the neighbours, as numpy's default."""
    place = share * (len(ordered) - 1)
    i = int(place)
    j = min(i + 1, len(ordered) - 1)
    return ordered[i] + (place - i) * (ordered[j] - ordered[i])
