# SPDX-License-Identifier: Apache-2.0
"""What losses compare predictions with: records of tensors, and the functions that make them from samples.

Truth lies at the networks' output stride, images at full size. Missing truth is masked, not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.types import Sample

TRACK_BITS = 32
"""A segment's key is label << TRACK_BITS | track id."""
MIN_CELLS = 3
"""Instances with fewer stride-4 cells are too small to be asked for."""


@dataclass(frozen=True)
class FrameBatch:
    """One time step of a batch of clips."""

    image: Tensor
    """uint8 [B,3,H,W] RGB (channels last in memory)."""
    intrinsics: Tensor
    """float32 [B,4]."""
    targets: Any
    """What the objective makes of the samples: a frozen dataclass of tensors."""
    sources: tuple[str, ...]
    """Name of each sample, for error messages."""

    def to(self, device: torch.device) -> FrameBatch:
        return _moved(self, device)

    @property
    def nbytes(self) -> int:
        """Of all its tensors."""
        return _nbytes(self)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(v, device) for v in value))
    return value


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_nbytes(getattr(value, f.name)) for f in fields(value))
    return sum(map(_nbytes, value)) if isinstance(value, tuple) else 0


class View(NamedTuple):
    """Another image of the clip. B samples; size and pixel grid as the map that is looked up."""

    image: Tensor
    """float [B,3,h,w], 0..255."""
    seen: Tensor
    """bool [B,h,w]: False where a crop reaches beyond the camera's image."""
    intrinsics: Tensor
    """float [B,4]: fx, fy, cx, cy in pixels of ``image``."""
    view_from_camera: Tensor
    """float [B,4,4], optical frames, metres; NaN unknown (the whole sample is masked)."""


@dataclass(frozen=True)
class DenseTargets:
    """Truth of one frame of a batch at stride 4. B samples; missing truth is masked, not zero."""

    class_map: Tensor
    """uint8 [B,h,w], 255 void."""
    coarse_map: Tensor
    """uint8 [B,h,w], 255 void."""
    groups: Tensor
    """bool [B,G,C]: classes of each coarse label."""
    heat: Tensor
    """float [B,h,w]: centre Gaussians, 1 in the cell of a centre."""
    heat_valid: Tensor
    """bool [B,h,w]."""
    offset_px: Tensor
    """float [B,2,h,w] to the instance's centre."""
    instance: Tensor
    """int32 [B,h,w]: id, equal in both frames of a sample; 0 none, -1 unknown."""
    depth_m: Tensor
    """float [B,h,w], 0 = no truth."""
    dense_depth: Tensor
    """bool [B]: depth has truth on all surfaces (not on single LiDAR points)."""
    motion_px: Tensor
    """float [B,2,h,w] to the previous frame, NaN unknown."""
    moving: Tensor
    """uint8 [B,h,w]: 1 moves, 0 static, 255 unknown."""
    sky: Tensor
    """bool [B,h,w]."""
    segments: Tensor
    """int64 [B,h,w]: equal where class and instance are equal; -1 where either is unknown."""
    image: Tensor
    """float [B,3,h,w], 0..255: the image at stride 4."""
    seen: Tensor
    """bool [B,h,w]: all pixels of the cell are of the camera's image, not beyond its border."""
    intrinsics: Tensor
    """float [B,4]: fx, fy, cx, cy of ``image``, in its pixels."""
    other: View
    """The other frame of the clip, at stride 4; in a clip of one frame its pose is unknown."""


def dense_targets(samples: Sequence[Sample], t: int, labels: LabelSpace) -> DenseTargets:
    """Truth of one time step of a batch, at stride 4."""
    maps = [frame_targets(s, t, labels) for s in samples]
    stacked = {k: torch.from_numpy(np.stack([m[k] for m in maps])) for k in maps[0]}
    other = View(**{k: stacked.pop(f"other_{k}") for k in View._fields})
    groups = torch.zeros(
        len(samples), max(1, *(len(s.coarse_groups) for s in samples)), len(labels), dtype=torch.bool
    )
    for b, s in enumerate(samples):
        for g, members in enumerate(s.coarse_groups):
            groups[b, g, list(members)] = True
    return DenseTargets(**stacked, groups=groups, other=other)


def frame_targets(sample: Sample, t: int, labels: LabelSpace) -> dict[str, np.ndarray]:
    """Arrays of :class:`DenseTargets` for one frame (no batch axis), ``other`` spread to ``other_...``."""
    h, w = (n // OUTPUT_STRIDE for n in sample.images.shape[1:3])
    class_map = cells_of(sample.class_map, t, (h, w), np.uint8, VOID)
    coarse_map = cells_of(sample.coarse_map, t, (h, w), np.uint8, VOID)
    sky_ids = [] if labels.sky_id is None else [labels.sky_id]
    sky_groups = [g for g, members in enumerate(sample.coarse_groups) if list(members) == sky_ids]
    instance = cells_of(sample.instance_map, t, (h, w), np.int32, -1)
    depth = cells_of(sample.depth_m, t, (h, w), np.float32, 0)
    heat, heat_valid, offset = center_targets(
        None if sample.instance_map is None else sample.instance_map[t], instance
    )
    # A thing without an id (crowd) may hide centres: nothing is asked there.
    heat_valid &= ~(labels.is_thing[class_map] & (instance <= 0)) | (heat > 0)
    flow = np.full((2, h, w), np.nan, np.float32)
    if sample.flow_px is not None:
        flow[0] = nearest_known(sample.flow_px[t, ..., 0], np.isnan(sample.flow_px[t, ..., 0]))
        flow[1] = nearest_known(sample.flow_px[t, ..., 1], np.isnan(sample.flow_px[t, ..., 1]))
    return {
        "class_map": class_map,
        "coarse_map": coarse_map,
        "heat": heat,
        "heat_valid": heat_valid,
        "offset_px": offset,
        "instance": instance,
        "depth_m": depth,
        "dense_depth": np.array(sample.depth_m is not None and float((sample.depth_m[t] > 0).mean()) > 0.25),
        "motion_px": flow,
        "moving": cells_of(sample.moving, t, (h, w), np.uint8, 255),
        "sky": np.isin(class_map, sky_ids) | np.isin(coarse_map, sky_groups),
        "segments": dense_segments(class_map, coarse_map, instance, sample.coarse_groups, labels),
        **_view(sample, t),
        **{f"other_{k}": v for k, v in _other_view(sample, t).items()},
    }


def dense_segments(
    class_map: np.ndarray,
    coarse_map: np.ndarray,
    instance: np.ndarray,
    groups: Sequence[Sequence[int]],
    labels: LabelSpace,
) -> np.ndarray:
    """``DenseTargets.segments``; a coarse label serves where there is no class. Things need an id."""
    things = np.zeros(VOID + 1, bool)
    things[: len(groups)] = [bool(labels.is_thing[list(members)].any()) for members in groups]
    label = np.where(class_map != VOID, class_map.astype(np.int64), coarse_map.astype(np.int64) + VOID + 1)
    is_thing = np.where(class_map != VOID, labels.is_thing[class_map], things[coarse_map])
    known = ((class_map != VOID) | (coarse_map != VOID)) & np.where(is_thing, instance > 0, instance >= 0)
    return np.where(known, (label << TRACK_BITS) + instance, -1)


def _view(sample: Sample, t: int) -> dict[str, np.ndarray]:
    """Image, what of it was seen, and intrinsics of one frame, at stride 4."""
    h, w = (n // OUTPUT_STRIDE for n in sample.images.shape[1:3])
    image = cv2.resize(sample.images[t], (w, h), interpolation=cv2.INTER_AREA)
    seen = np.ones((h, w), bool)
    if sample.seen is not None:
        seen = sample.seen[t].reshape(h, OUTPUT_STRIDE, w, OUTPUT_STRIDE).all((1, 3))
    # The centre of cell j lies at 4 j + 1.5 of the input.
    fx, fy, cx, cy = sample.intrinsics[t] / OUTPUT_STRIDE
    middle = (OUTPUT_STRIDE - 1) / (2 * OUTPUT_STRIDE)
    return {
        "image": image.transpose(2, 0, 1).astype(np.float32),
        "seen": seen,
        "intrinsics": np.array([fx, fy, cx - middle, cy - middle], np.float32),
    }


def _other_view(sample: Sample, t: int) -> dict[str, np.ndarray]:
    """Fields of ``View`` of the frame before, for the first one of that after it; the pose is NaN where it is
    unknown or there is no other frame."""
    other = t - 1 if t > 0 else min(1, len(sample.images) - 1)
    pose = np.full((4, 4), np.nan)
    if other != t and sample.world_from_camera is not None:
        pose = np.linalg.inv(sample.world_from_camera[other]) @ sample.world_from_camera[t]
    return {**_view(sample, other), "view_from_camera": pose.astype(np.float32)}


def cells_of(
    clip: np.ndarray | None, t: int, shape: tuple[int, int], dtype: type, missing: float
) -> np.ndarray:
    """Frame ``t`` of truth at stride 4, of this shape; all ``missing`` where the clip has none."""
    if clip is None:
        return np.full(shape, missing, dtype)
    return nearest_known(clip[t], clip[t] == missing)


def nearest_known(full: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """One value a cell of 4x4 pixels: the known pixel nearest to its centre; sparse truth survives."""
    order = ((2, 2), (1, 1), (1, 2), (2, 1))
    out, missing = (
        full[2::OUTPUT_STRIDE, 2::OUTPUT_STRIDE].copy(),
        unknown[2::OUTPUT_STRIDE, 2::OUTPUT_STRIDE],
    )
    if not missing.any():
        return out
    rest = [(y, x) for y in range(OUTPUT_STRIDE) for x in range(OUTPUT_STRIDE) if (y, x) not in order]
    for y, x in (*order[1:], *rest):
        take = missing & ~unknown[y::OUTPUT_STRIDE, x::OUTPUT_STRIDE]
        out[take] = full[y::OUTPUT_STRIDE, x::OUTPUT_STRIDE][take]
        missing = missing & ~take
    return out


def center_targets(
    instance_map: np.ndarray | None, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heat-map, where it holds, and offsets.

    The centre of an instance is the centre of the box around its visible pixels: it needs no dense
    mask, so sparse ids give it too. The Gaussian's width grows with the box.

    Args:
        instance_map: int32 [H,W] of the frame (see ``Sample.instance_map``), None = unknown.
        cells: int32 [h,w], the same at stride 4.

    Returns:
        heat float32 [h,w]; valid bool [h,w]; offset_px float32 [2,h,w], 0 outside instances.
    """
    h, w = cells.shape
    heat, offset = np.zeros((h, w), np.float32), np.zeros((2, h, w), np.float32)
    if instance_map is None:
        return heat, np.zeros((h, w), bool), offset
    valid = cells >= 0
    for index, slices in enumerate(ndimage.find_objects(np.maximum(instance_map, 0))):
        if slices is None:
            continue
        rows, columns = slices
        # Half-open slices: the centre of pixels a..b-1 is (a + b - 1) / 2.
        v, u = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
        i, j = int((v + 0.5) / OUTPUT_STRIDE), int((u + 0.5) / OUTPUT_STRIDE)
        window = (
            slice(rows.start // OUTPUT_STRIDE, -(-rows.stop // OUTPUT_STRIDE)),
            slice(columns.start // OUTPUT_STRIDE, -(-columns.stop // OUTPUT_STRIDE)),
        )
        inside = cells[window] == index + 1
        if inside.sum() < MIN_CELLS:
            valid[window] = False
            continue
        ys, xs = (a.astype(np.float32) * OUTPUT_STRIDE + (OUTPUT_STRIDE - 1) / 2 for a in np.mgrid[window])
        offset[0][window][inside] = (u - xs)[inside]
        offset[1][window][inside] = (v - ys)[inside]
        size = np.sqrt((rows.stop - rows.start) * (columns.stop - columns.start)) / OUTPUT_STRIDE
        _draw_gaussian(heat, i, j, float(np.clip(size / 8, 0.8, 6)))
    valid |= heat > 0
    return heat, valid, offset


def _draw_gaussian(heat: np.ndarray, i: int, j: int, sigma: float) -> None:
    r = int(3 * sigma + 0.5)
    y0, y1, x0, x1 = (
        max(i - r, 0),
        min(i + r + 1, heat.shape[0]),
        max(j - r, 0),
        min(j + r + 1, heat.shape[1]),
    )
    y, x = np.mgrid[y0:y1, x0:x1]
    bump = np.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * sigma**2)).astype(np.float32)
    np.maximum(heat[y0:y1, x0:x1], bump, out=heat[y0:y1, x0:x1])
