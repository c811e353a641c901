# SPDX-License-Identifier: Apache-2.0
"""A tiny hand-made clip with truth, and the results of a perfect or a broken perception of it."""

import numpy as np

from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import (
    CLOUD_DTYPE,
    CameraModel,
    FrameResult,
    Motion,
    PanopticDepth,
    Sample,
    ScaleEstimate,
    ScaleHealth,
    TrackedInstance,
    TrackState,
)

H, W = 48, 96
CAMERA = CameraModel(W, H, 60.0, 60.0, 47.5, 23.5)
ROAD, SKY, CAR = (CITYSCAPES.id_of(name) for name in ("road", "sky", "car"))
CAR_ID = 5
STEP_NS = 100_000_000


def truth(index: int) -> Sample:
    """Sky over road; a car of 20 x 16 pixels at 12 m that moves to the right."""
    classes = np.full((H, W), ROAD, np.uint8)
    classes[: H // 2] = SKY
    rows = np.arange(H, dtype=np.float32)[:, None]
    depth = np.where(rows < H // 2, 0, 60 * 1.5 / np.maximum(rows - 23.5, 0.5)).astype(np.float32)
    depth = np.repeat(depth, W, 1)
    instance = np.zeros((H, W), np.int32)
    car = slice(16, 32), slice(10 + 3 * index, 30 + 3 * index)
    classes[car], depth[car], instance[car] = CAR, 12.0, CAR_ID
    image = CITYSCAPES.palette[classes]
    image[: H // 4] += np.uint8(index)
    return Sample(
        image[None],
        CAMERA.vector[None],
        f"clip/{index}",
        class_map=classes[None],
        instance_map=instance[None],
        depth_m=depth[None],
    )


def perfect_maps(sample: Sample, track_id: int = 7) -> PanopticDepth:
    """What a perfect perception gives; the car is ``track_id``."""
    classes, depth = sample.class_map[0], sample.depth_m[0].copy()
    depth[classes == SKY] = np.inf
    tracks = np.where(sample.instance_map[0] == CAR_ID, track_id, 0).astype(np.uint16)
    return PanopticDepth(classes.copy(), tracks, depth, np.full((H, W), 250, np.uint8))


def result(index: int, maps: PanopticDepth | None = None) -> FrameResult:
    """The results of frame ``index``."""
    sample = truth(index)
    maps = maps or perfect_maps(sample)
    cloud = np.zeros((H, W), CLOUD_DTYPE)
    v, u = np.mgrid[:H, :W]
    z = np.where(np.isfinite(maps.depth_m), maps.depth_m, np.nan)
    cloud["x"], cloud["y"], cloud["z"] = (u - CAMERA.cx) * z / CAMERA.fx, (v - CAMERA.cy) * z / CAMERA.fy, z
    rgb = sample.images[0].astype(np.uint32)
    cloud["rgb"] = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    cloud["label"], cloud["instance"] = maps.class_map, maps.track_map
    car = TrackedInstance(
        track_id=7,
        class_id=CAR,
        score=0.9,
        state=TrackState.CONFIRMED,
        box_px=(10.0 + 3 * index, 16.0, 20.0, 16.0),
        area_px=320,
        centroid_m=np.array([1.0, -0.5, 12.0]),
        extent_m=np.array([4.0, 3.2, 0.0]),
        velocity_mps=np.array([0.5, 0.0, 0.0]),
        covariance=np.eye(6),
        age_s=0.1 * index,
        unseen_s=0.0,
        motion=Motion.MOVING,
    )
    return FrameResult(
        stamp_ns=index * STEP_NS,
        frame_id="camera_optical",
        camera=CAMERA,
        image=sample.images[0],
        panoptic=maps,
        instances=(car,),
        scale=ScaleEstimate(1.0, float("inf"), ScaleHealth.OFF, np.full(4, np.nan), 0.0),
        latent=None,
        cloud=cloud,
        stages_ms={"infer": 10.0 + index, "track": 1.0},
    )
