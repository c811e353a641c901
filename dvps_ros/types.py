# SPDX-License-Identifier: Apache-2.0
"""The records that the parts of the package hand to each other.

All are frozen and check shapes and dtypes when built. Conventions (docs/conventions.md):
images are RGB uint8 [H,W,3]; the camera optical frame is x right, y down, z forward; depth is
z-depth in metres, NaN where unknown, +inf for sky (REP-117/118); pixel centres have integer
coordinates; class 255 is void; track id 0 is "no instance"; stamps are integer nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np

from dvps_ros.errors import InputError


def check_array(name: str, array: Any, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Refuse an array of another dtype or shape (None matches any size).

    Raises:
        InputError: with the expected and the received dtype and shape.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: expected a numpy array, got {type(array).__name__}")
    fits = array.ndim == len(shape) and all(
        w is None or w == g for w, g in zip(shape, array.shape, strict=False)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        want = "x".join("?" if s is None else str(s) for s in shape)
        got = "x".join(map(str, array.shape))
        raise InputError(f"{name}: expected {np.dtype(dtype)} [{want}], got {array.dtype} [{got}]")


@dataclass(frozen=True)
class CameraModel:
    """Pinhole intrinsics in pixels, with the lens distortion of the raw image if there is one.

    A pixel (u, v) sees the ray ((u-cx)/fx, (v-cy)/fy, 1); integer (u, v) is a pixel's centre.

    Args:
        distortion: coefficients as ROS and OpenCV order them; empty when there is none.
        distortion_model: ``plumb_bob``, ``rational_polynomial`` or ``equidistant``.

    Raises:
        InputError: size or focal length not positive, or any value not finite.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    distortion_model: str = "plumb_bob"

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if self.width <= 0 or self.height <= 0:
            raise InputError(f"camera model: expected a positive image size, got {self.width}x{self.height}")
        if not all(math.isfinite(v) for v in numbers):
            raise InputError(f"camera model: expected finite intrinsics and distortion, got {numbers}")
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(
                f"camera model: expected positive focal lengths, got fx={self.fx}, fy={self.fy}; "
                "is the camera calibrated?"
            )

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_fov_deg: float) -> CameraModel:
        """An ideal camera with square pixels, centred principal point and this horizontal field of view."""
        if not 0.0 < horizontal_fov_deg < 180.0:
            raise InputError(
                f"field of view: expected more than 0 and less than 180 degrees, got {horizontal_fov_deg:g}"
            )
        f = 0.5 * width / math.tan(math.radians(horizontal_fov_deg) / 2)
        return cls(width, height, f, f, (width - 1) / 2, (height - 1) / 2)

    @classmethod
    def from_vector(cls, width: int, height: int, vector: Iterable[float]) -> CameraModel:
        """The camera whose :attr:`vector` this is: fx, fy, cx, cy, without distortion."""
        fx, fy, cx, cy = (float(v) for v in vector)
        return cls(width, height, fx, fy, cx, cy)

    @property
    def K(self) -> np.ndarray:
        """float64 [3,3] camera matrix."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    @property
    def vector(self) -> np.ndarray:
        """float32 [4]: fx, fy, cx, cy."""
        return np.array([self.fx, self.fy, self.cx, self.cy], np.float32)

    @property
    def is_distorted(self) -> bool:
        """Whether the image must be rectified; a fish-eye is no pinhole even with zero coefficients."""
        return self.distortion_model == "equidistant" or any(abs(d) > 1e-9 for d in self.distortion)

    def rectified(self) -> CameraModel:
        """The same pinhole without distortion."""
        return CameraModel(self.width, self.height, self.fx, self.fy, self.cx, self.cy)

    def resized(
        self, scale: float, width: int, height: int, pad_x: float = 0.0, pad_y: float = 0.0
    ) -> CameraModel:
        """Intrinsics after scaling the image by ``scale`` and placing it at (pad_x, pad_y)."""
        return CameraModel(
            width,
            height,
            self.fx * scale,
            self.fy * scale,
            (self.cx + 0.5) * scale - 0.5 + pad_x,
            (self.cy + 0.5) * scale - 0.5 + pad_y,
        )


@dataclass(frozen=True)
class Frame:
    """One camera image, rectified unless ``camera.is_distorted``.

    Args:
        image: uint8 [H,W,3] RGB.
        stamp_ns: acquisition time, nanoseconds.
        camera: its intrinsics at this size.
        frame_id: the camera's optical frame.
    """

    image: np.ndarray
    stamp_ns: int
    camera: CameraModel
    frame_id: str = "camera_optical"

    def __post_init__(self) -> None:
        check_array("frame image", self.image, np.uint8, (self.camera.height, self.camera.width, 3))


@dataclass(frozen=True)
class NetworkOutput:
    """What one run of the deployed graph returns, copied to the host (docs/graph_contract.md).

    h, w are the network's input size divided by its output stride; K is the number of segment slots.
    Arrays may be views of buffers that the next run overwrites.
    """

    class_map: np.ndarray
    """uint8 [h,w]: class id, 255 void."""
    segment_map: np.ndarray
    """uint8 [h,w]: row of ``segments``, 255 for stuff and void."""
    depth_m: np.ndarray
    """float32 [h,w]: z-depth in metres of every pixel (sky included: meaningless there)."""
    segments: np.ndarray
    """float32 [K,S]: one row a segment slot, columns ``contract.Column``; rows not in use have score 0."""
    embedding: np.ndarray
    """float32 [K,D]: identity vectors, unit length for rows in use."""
    confidence: np.ndarray | None = None
    """uint8 [h,w]: probability of the arg-max class x 255."""
    class_logits: np.ndarray | None = None
    """float32 [C,h,w]."""
    nearest: np.ndarray | None = None
    """uint8 [h,w]: row of the nearest kept segment for every pixel, whatever its class; 255 if none."""
    latent: np.ndarray | None = None
    """float32 [T,C]: tokens for the steering head."""
    overlap: np.ndarray | None = None
    """float32 [K,K]: IoU of the previous frame's rows, moved to this frame, with this frame's rows."""


@dataclass(frozen=True)
class PanopticDepth:
    """Panoptic and depth maps at camera resolution."""

    class_map: np.ndarray
    """uint8 [H,W]: class id, 255 void."""
    track_map: np.ndarray
    """uint16 [H,W]: track id, 0 for stuff and void."""
    depth_m: np.ndarray
    """float32 [H,W]: z-depth in metres; +inf sky, NaN unknown."""
    confidence: np.ndarray
    """uint8 [H,W]: probability of the class x 255."""

    def __post_init__(self) -> None:
        shape = self.class_map.shape
        check_array("class_map", self.class_map, np.uint8, (None, None))
        check_array("track_map", self.track_map, np.uint16, shape)
        check_array("depth_m", self.depth_m, np.float32, shape)
        check_array("confidence", self.confidence, np.uint8, shape)


class TrackState(IntEnum):
    """Life of a track; equal to the constants of TrackedInstance.msg."""

    TENTATIVE = 0
    CONFIRMED = 1
    LOST = 2


class Motion(IntEnum):
    """Whether a track moves over ground; equal to the constants of TrackedInstance.msg."""

    UNKNOWN = 0
    STATIC = 1
    MOVING = 2


@dataclass(frozen=True)
class TrackedInstance:
    """One object with a stable identity, in the camera optical frame (x right, y down, z forward)."""

    track_id: int
    class_id: int
    score: float
    state: TrackState
    box_px: tuple[float, float, float, float]
    """x, y (of the top-left pixel), width, height, at camera resolution; zeros when not seen."""
    area_px: int
    """Pixels at camera resolution; 0 when not seen."""
    centroid_m: np.ndarray
    """float64 [3]: robust centre of the visible surface, filtered; NaN when never measured."""
    extent_m: np.ndarray
    """float64 [3]: size of the visible surface along the camera's axes (5th to 95th percentile)."""
    velocity_mps: np.ndarray
    """float64 [3], relative to the camera unless ego-motion is given."""
    covariance: np.ndarray
    """float64 [6,6] of (centroid, velocity)."""
    age_s: float
    """Time since the first sight."""
    unseen_s: float
    """Time since the last sight; 0 when seen in this frame."""
    motion: Motion = Motion.UNKNOWN

    def __post_init__(self) -> None:
        check_array("centroid_m", self.centroid_m, np.float64, (3,))
        check_array("extent_m", self.extent_m, np.float64, (3,))
        check_array("velocity_mps", self.velocity_mps, np.float64, (3,))
        check_array("covariance", self.covariance, np.float64, (6, 6))


CLOUD_DTYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("label", "<u4"),
        ("instance", "<u4"),
    ]
)
"""One point: metres in the camera optical frame; rgb packed 0x00RRGGBB; class id; track id. 24 bytes."""


class ScaleHealth(IntEnum):
    """State of the metric scale; equal to the constants of ScaleEstimate.msg."""

    OFF = 0
    """No camera height is given: depth is the network's own, scale 1."""
    STARTING = 1
    """Not enough road planes yet: scale 1."""
    OK = 2
    STALE = 3
    """No road plane for a while: the last scale is held, its variance grows."""


@dataclass(frozen=True)
class ScaleEstimate:
    """Factor that turns the network's depth into metric depth, from the camera's height over the road."""

    scale: float
    variance: float
    """Of the scale, dimensionless; inf when off or starting."""
    health: ScaleHealth
    plane: np.ndarray
    """float64 [4] (n, d): n.p + d = 0 of the road in the camera frame after scaling, n unit and
    pointing down, so -d is the camera's height in metres; NaN without a plane."""
    inlier_ratio: float
    """Share of road points on the plane, 0 without a plane."""


@dataclass(frozen=True)
class FrameResult:
    """All that one camera frame gives. Maps are for the (rectified) image of ``camera``."""

    stamp_ns: int
    frame_id: str
    camera: CameraModel
    image: np.ndarray
    """uint8 [H,W,3] RGB: the image the maps are aligned with (rectified)."""
    panoptic: PanopticDepth | None
    """None when no map was asked for."""
    instances: tuple[TrackedInstance, ...]
    scale: ScaleEstimate
    latent: np.ndarray | None
    """float32 [T,C]."""
    cloud: np.ndarray | None
    """CLOUD_DTYPE [H,W], x = y = z = NaN where depth is not a number; None when not asked for."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Time of each stage, milliseconds."""


@dataclass(frozen=True)
class Sample:
    """A clip of T frames with whatever truth its data set has; the unit of training and evaluation.

    Missing truth is None (not zeros). H, W are equal over the clip.
    """

    images: np.ndarray
    """uint8 [T,H,W,3] RGB."""
    intrinsics: np.ndarray
    """float32 [T,4]: fx, fy, cx, cy in pixels."""
    source: str
    """Data set, sequence and first frame, for error messages."""
    class_map: np.ndarray | None = None
    """uint8 [T,H,W] in the label space of the project; 255 void."""
    coarse_map: np.ndarray | None = None
    """uint8 [T,H,W] in the data set's own coarser classes; 255 void."""
    coarse_groups: tuple[tuple[int, ...], ...] = ()
    """For each coarse class the fine class ids that it merges."""
    instance_map: np.ndarray | None = None
    """int32 [T,H,W]: id, constant over the clip, 0 none; -1 unknown (thing pixels without an id)."""
    depth_m: np.ndarray | None = None
    """float32 [T,H,W]: z-depth, 0 where there is no truth."""
    flow_px: np.ndarray | None = None
    """float32 [T,H,W,2]: (du, dv) from a pixel to its place in the previous frame; NaN unknown."""
    scene_flow_m: np.ndarray | None = None
    """float32 [T,H,W,3]: from a pixel's surface point, in this camera frame, to the same point at the time
    and in the camera frame of the previous image, metres; NaN unknown. With p = depth_m * ray of the
    pixel u, p + scene_flow_m projects to u + flow_px (docs/conventions.md)."""
    moving: np.ndarray | None = None
    """uint8 [T,H,W]: 1 on pixels that move over ground, 0 static, 255 unknown."""
    seen: np.ndarray | None = None
    """bool [T,H,W]: False where a crop reaches beyond the camera's image; None: all of it was seen."""
    world_from_camera: np.ndarray | None = None
    """float64 [T,4,4]."""
    steering_rad: np.ndarray | None = None
    """float32 [T]: road-wheel angle, left positive; NaN unknown."""
    speed_mps: np.ndarray | None = None
    """float32 [T]: of the ego vehicle, forwards; NaN unknown."""
    stamps_ns: np.ndarray | None = None
    """int64 [T]: acquisition times, nanoseconds, increasing."""

    def frames(self, first: int, count: int) -> Sample:
        """Neighbouring frames of the clip, as a clip."""
        cut: dict[str, Any] = {
            f.name: value[first : first + count]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), np.ndarray)
        }
        return replace(self, **cut)

    def truth(self, name: str) -> np.ndarray:
        """A field that the caller cannot do without.

        Raises:
            InputError: this clip has none.
        """
        array: np.ndarray | None = getattr(self, name)
        if array is None:
            raise InputError(f"{self.source}: expected {name}, got none")
        return array

    def __post_init__(self) -> None:
        check_array(f"{self.source}: images", self.images, np.uint8, (None, None, None, 3))
        t, h, w = self.images.shape[:3]
        check_array(f"{self.source}: intrinsics", self.intrinsics, np.float32, (t, 4))
        maps: list[tuple[str, np.ndarray | None, Any, tuple[int, ...]]] = [
            ("class_map", self.class_map, np.uint8, (t, h, w)),
            ("coarse_map", self.coarse_map, np.uint8, (t, h, w)),
            ("instance_map", self.instance_map, np.int32, (t, h, w)),
            ("depth_m", self.depth_m, np.float32, (t, h, w)),
            ("flow_px", self.flow_px, np.float32, (t, h, w, 2)),
            ("scene_flow_m", self.scene_flow_m, np.float32, (t, h, w, 3)),
            ("moving", self.moving, np.uint8, (t, h, w)),
            ("seen", self.seen, np.bool_, (t, h, w)),
            ("world_from_camera", self.world_from_camera, np.float64, (t, 4, 4)),
            ("steering_rad", self.steering_rad, np.float32, (t,)),
            ("speed_mps", self.speed_mps, np.float32, (t,)),
            ("stamps_ns", self.stamps_ns, np.int64, (t,)),
        ]
        for name, array, dtype, shape in maps:
            if array is not None:
                check_array(f"{self.source}: {name}", array, dtype, shape)
