# SPDX-License-Identifier: Apache-2.0
"""Network output at stride 4 to maps at camera resolution, in one pass.

For a camera pixel let its neighbours be the four cells of the stride-4 map around it, weighted
bilinearly (cells that lie in the padding are never neighbours):

- class: arg-max of the bilinearly interpolated ``class_logits``. Where all four neighbours have the same
  arg-max, that is the result, exactly, and nothing is computed. Void if the nearest neighbour is void.
- segment of a thing pixel: the heaviest among neighbours of that class ("no segment" is one of them: the
  graph drops small ones); where no neighbour has that class, ``nearest`` of the nearest neighbour. The
  pixel then takes the class of its segment or track, so that an object has one.
- depth: bilinear in 1/z, which is linear on planes, among neighbours of the same class and segment
  only: no points float between an object and what is behind it.
- sky is +inf; void, depth that is no positive number, and depth beyond the limit are NaN.
- confidence: bilinear.
- Last, stuff that covers less of the image than ``min_region`` is void (its depth stays): a few pixels of
  fence or terrain in a frame are more often wrong than right. Poles, lights and signs are small by nature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from dvps_ros.contract import NO_SEGMENT
from dvps_ros.geometry.camera import Fit
from dvps_ros.jit import njit
from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.runtime.buffers import Buffers
from dvps_ros.types import NetworkOutput, PanopticDepth

SMALL_STUFF = ("pole", "traffic light", "traffic sign")
"""Classes of stuff that are no regions but single objects; things are none either."""


def cells_inside(pad: int, inner: int, stride: int) -> slice:
    """The cells, along one axis, whose centre lies in the image and not in the padding; at least one."""
    first = math.ceil((pad + 0.5) / stride - 0.5)
    last = math.floor((pad + inner - 0.5) / stride - 0.5)
    return slice(first, max(first, last) + 1)


def cells_shown(fit: Fit, stride: int, shown: np.ndarray | None) -> np.ndarray:
    """The cells whose centre lies in the image, and all of whose pixels show something, bool [h,w].

    Args:
        shown: bool [H,W], the camera pixels that show something; None for all.
    """
    y = cells_inside(fit.pad_y, fit.inner_height, stride)
    x = cells_inside(fit.pad_x, fit.inner_width, stride)
    cells = np.zeros((fit.height // stride, fit.width // stride), bool)
    cells[y, x] = True
    if shown is not None:
        size = math.ceil(stride / fit.scale) | 1
        whole = cv2.erode(shown.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
        centers = [(np.arange(n) + 0.5) * stride for n in (cells.shape[1], cells.shape[0])]
        u, v = (np.floor(c).astype(np.int64) for c in fit.to_camera_edge(*centers))
        cells &= whole[np.ix_(v.clip(max=fit.camera_height - 1), u.clip(max=fit.camera_width - 1))]
    return cells


@dataclass(frozen=True)
class _Axis:
    """Along one axis: the lower neighbour cell of each camera pixel, the upper one, and its weight."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, pixels: int, scale: float, pad: int, inner: int, stride: int) -> _Axis:
        at_input = (np.arange(pixels) + 0.5) * scale - 0.5 + pad
        cell = (at_input + 0.5) / stride - 0.5
        cells = cells_inside(pad, inner, stride)
        first, last = cells.start, cells.stop - 1
        cell = np.clip(cell, first, last)
        low = np.minimum(np.floor(cell).astype(np.int64), max(first, last - 1))
        return cls(low, np.minimum(low + 1, last), (cell - low).astype(np.float32))


class MapMaker:
    """Brings network outputs to the resolution of one camera.

    Args:
        fit: how the camera's image lies in the network's input.
        label_space: tells things from stuff.
        sky_class: class whose depth is +inf, or None.
        max_depth_m: depth beyond this is NaN.
        min_confidence: pixels with a lower class probability become void.
        min_region: share of the image below which stuff becomes void.
    """

    def __init__(
        self,
        fit: Fit,
        label_space: LabelSpace,
        *,
        sky_class: int | None,
        max_depth_m: float,
        min_confidence: float = 0.0,
        min_region: float = 0.0,
        stride: int = 4,
    ) -> None:
        self._x = _Axis.of(fit.camera_width, fit.scale, fit.pad_x, fit.inner_width, stride)
        self._y = _Axis.of(fit.camera_height, fit.scale, fit.pad_y, fit.inner_height, stride)
        self._shape = (fit.camera_height, fit.camera_width)
        self._buffers = Buffers()
        self._is_thing = label_space.is_thing
        self._sky = -1 if sky_class is None else sky_class
        self._max_depth_m = np.float32(max_depth_m)
        self._min_confidence = np.uint8(np.ceil(min_confidence * 255))
        self._seen = tuple(slice(axis.low.min(), axis.high.max() + 1) for axis in (self._y, self._x))
        self._min_region = min_region
        stuff = (label_space.classes[i] for i in label_space.stuff_ids)
        self._regions = np.array([c.id for c in stuff if c.name not in SMALL_STUFF], np.int64)

    def __call__(
        self, output: NetworkOutput, row_class: np.ndarray, row_track: np.ndarray, scale: float
    ) -> PanopticDepth:
        """The maps of one frame.

        Args:
            row_class: uint8 [256]: class of each row of ``segments``.
            row_track: uint16 [256]: track id of each row, 0 for none.
            scale: factor from network depth to metres.
        """
        # Without the optional outputs edges are those of the stride-4 map.
        logits = np.zeros((0, 1, 1), np.float32) if output.class_logits is None else output.class_logits
        nearest = output.segment_map if output.nearest is None else output.nearest
        confidence = output.confidence
        if confidence is None:
            confidence = np.full_like(output.class_map, 255)
        take = self._buffers.take
        maps = PanopticDepth(
            take("class_map", self._shape, np.uint8),
            take("track_map", self._shape, np.uint16),
            take("depth_m", self._shape, np.float32),
            take("confidence", self._shape, np.uint8),
        )
        inverse = _inverse_depth(output.depth_m, output.class_map, np.float32(scale), self._sky)
        _fill(
            output.class_map,
            output.segment_map,
            nearest,
            inverse,
            confidence,
            logits,
            row_class,
            row_track,
            self._is_thing,
            self._sky,
            self._max_depth_m,
            self._min_confidence,
            (self._x.low, self._x.high, self._x.weight),
            (self._y.low, self._y.high, self._y.weight),
            maps.class_map,
            maps.track_map,
            maps.depth_m,
            maps.confidence,
        )
        if self._min_region > 0:
            self._void_specks(maps.class_map, output.class_map[self._seen])
        return maps

    def _void_specks(self, class_map: np.ndarray, cells: np.ndarray) -> None:
        """In place: void for regions that cover too little of the cells that the camera sees."""
        share = np.bincount(cells.ravel(), minlength=256)[self._regions] / cells.size
        name = np.arange(256, dtype=np.uint8)
        name[self._regions[share < self._min_region]] = VOID
        cv2.LUT(class_map, name, dst=class_map)


@njit(nogil=True, error_model="numpy")
def _inverse_depth(depth_m, class_map, scale, sky):
    """1 / (scale * depth) of each cell; 0 for sky, so that it comes out as +inf; NaN where unknown."""
    inverse = np.empty(depth_m.shape, np.float32)
    for y in range(depth_m.shape[0]):
        for x in range(depth_m.shape[1]):
            z = depth_m[y, x] * scale
            known = class_map[y, x] != VOID and z > 0 and z < np.inf
            value = np.float32(1) / z if known else np.float32(np.nan)
            inverse[y, x] = np.float32(0) if class_map[y, x] == sky else value
    return inverse


@njit(nogil=True, error_model="numpy")
def _fill(
    cell_class,
    cell_segment,
    cell_nearest,
    cell_inverse,
    cell_confidence,
    logits,
    row_class,
    row_track,
    is_thing,
    sky,
    max_depth,
    min_confidence,
    x_axis,
    y_axis,
    class_map,
    track_map,
    depth_m,
    confidence,
):
    x_low, x_high, x_weight = x_axis
    y_low, y_high, y_weight = y_axis
    cells = cell_class.shape[1]
    classes = logits.shape[0]
    one, half, nan = np.float32(1), np.float32(0.5), np.float32(np.nan)
    inverse_row = np.empty(cells, np.float32)
    confidence_row = np.empty(cells, np.float32)
    class_row = np.empty(cells, np.uint8)
    track_row = np.empty(cells, np.uint16)
    uniform = np.zeros(cells, np.bool_)
    rivals = np.empty((cells, max(classes, 1)), np.uint8)
    rival_count = np.zeros(cells, np.int64)
    left, right = np.empty(classes, np.float32), np.empty(classes, np.float32)
    columns = np.searchsorted(x_low, np.arange(cells + 1))  # first pixel of each cell column
    previous = -1
    for v in range(y_low.size):
        y0, y1, wy = y_low[v], y_high[v], y_weight[v]
        for x in range(cells):
            inverse_row[x] = cell_inverse[y0, x] * (one - wy) + cell_inverse[y1, x] * wy
            confidence_row[x] = np.float32(cell_confidence[y0, x]) * (one - wy) + (
                np.float32(cell_confidence[y1, x]) * wy
            )
        if y0 != previous:
            previous = y0
            for x0 in range(x_low[0], x_low[-1] + 1):
                x1 = min(x0 + 1, x_high[-1])
                c, s = cell_class[y0, x0], cell_segment[y0, x0]
                inverse_sum = (
                    cell_inverse[y0, x0] + cell_inverse[y0, x1] + cell_inverse[y1, x0] + cell_inverse[y1, x1]
                )
                uniform[x0] = (
                    c == cell_class[y0, x1]
                    and c == cell_class[y1, x0]
                    and c == cell_class[y1, x1]
                    and s == cell_segment[y0, x1]
                    and s == cell_segment[y1, x0]
                    and s == cell_segment[y1, x1]
                    and (c == VOID or not np.isnan(inverse_sum))
                )
                class_row[x0] = c if s == NO_SEGMENT else row_class[s]
                track_row[x0] = 0 if s == NO_SEGMENT else row_track[s]
                if not uniform[x0]:
                    rival_count[x0] = _find_rivals(logits, cell_class, y0, y1, x0, x1, rivals[x0])

        # As if every cell were uniform: no branches, so that it becomes vector code.
        for u in range(x_low.size):
            low, high, wx = x_low[u], x_high[u], x_weight[u]
            z = one / (inverse_row[low] * (one - wx) + inverse_row[high] * wx)
            depth_m[v, u] = z if (z <= max_depth or z == np.inf) else nan
            p = confidence_row[low] * (one - wx) + confidence_row[high] * wx
            confidence[v, u] = np.uint8(p + half)
        for u in range(x_low.size):
            class_map[v, u] = class_row[x_low[u]]
            track_map[v, u] = track_row[x_low[u]]

        for x0 in range(x_low[0], x_low[-1] + 1):
            if uniform[x0]:
                continue
            x1 = min(x0 + 1, x_high[-1])
            c = (cell_class[y0, x0], cell_class[y0, x1], cell_class[y1, x0], cell_class[y1, x1])
            s = (cell_segment[y0, x0], cell_segment[y0, x1], cell_segment[y1, x0], cell_segment[y1, x1])
            near = (cell_nearest[y0, x0], cell_nearest[y0, x1], cell_nearest[y1, x0], cell_nearest[y1, x1])
            inverse = (cell_inverse[y0, x0], cell_inverse[y0, x1], cell_inverse[y1, x0], cell_inverse[y1, x1])
            one_class = c[0] == c[1] and c[0] == c[2] and c[0] == c[3]
            if not one_class:
                for i in range(rival_count[x0]):
                    k = rivals[x0, i]
                    left[i] = logits[k, y0, x0] * (one - wy) + logits[k, y1, x0] * wy
                    right[i] = logits[k, y0, x1] * (one - wy) + logits[k, y1, x1] * wy
            group_label, group_segment = -1, -1
            for u in range(columns[x0], columns[x0 + 1]):
                wx = x_weight[u]
                weight = ((one - wy) * (one - wx), (one - wy) * wx, wy * (one - wx), wy * wx)
                closest = _heaviest(weight)
                label = c[closest]
                if not one_class and classes > 0 and label != VOID:
                    best = np.float32(-np.inf)
                    for i in range(rival_count[x0]):
                        value = left[i] * (one - wx) + right[i] * wx
                        if value > best:
                            best, label = value, rivals[x0, i]
                segment = np.uint8(NO_SEGMENT)
                if is_thing[label]:
                    segment = _vote(label, c, s, weight, near[closest])
                if label != group_label or segment != group_segment:
                    group_label, group_segment = label, segment
                    group, group_inverse = _group(label, segment, c, s, inverse)
                total, sum_inverse = _dot(group, weight), _dot(group_inverse, weight)
                z = total / sum_inverse if total > 0 else _closest_depth(inverse, weight)
                if label == sky:
                    z = np.float32(np.inf)
                elif label == VOID or not z <= max_depth:
                    z = nan
                depth_m[v, u] = z
                class_map[v, u] = label if segment == NO_SEGMENT else row_class[segment]
                track_map[v, u] = 0 if segment == NO_SEGMENT else row_track[segment]

        if min_confidence > 0:
            # Selections, not stores under an if: LLVM 22 makes wrong AVX-512 code of byte stores under one.
            for u in range(x_low.size):
                doubtful = confidence[v, u] < min_confidence
                class_map[v, u] = VOID if doubtful else class_map[v, u]
                track_map[v, u] = 0 if doubtful else track_map[v, u]
                depth_m[v, u] = nan if doubtful else depth_m[v, u]


@njit(nogil=True)
def _find_rivals(logits, cell_class, y0, y1, x0, x1, rivals):
    """The classes that can win somewhere between four cells, into ``rivals``; returns their number.

    Let m be the mean of the logits of the corners' arg-max classes. Everything is bilinear, so a class that
    is below m at all four corners is below m between them, and so below one of these classes: mostly two
    or three of nineteen stay.
    """
    winners = (cell_class[y0, x0], cell_class[y0, x1], cell_class[y1, x0], cell_class[y1, x1])
    m00 = m01 = m10 = m11 = np.float32(0)
    distinct = np.float32(0)
    for i in range(4):
        j = winners[i]
        known = j < logits.shape[0]
        for before in range(i):
            known = known and winners[before] != j
        if known:
            distinct += np.float32(1)
            m00 += logits[j, y0, x0]
            m01 += logits[j, y0, x1]
            m10 += logits[j, y1, x0]
            m11 += logits[j, y1, x1]
    count = 0
    for k in range(logits.shape[0]):
        if (
            logits[k, y0, x0] * distinct >= m00
            or logits[k, y0, x1] * distinct >= m01
            or logits[k, y1, x0] * distinct >= m10
            or logits[k, y1, x1] * distinct >= m11
        ):
            rivals[count] = k
            count += 1
    return count


@njit(nogil=True, inline="always")
def _heaviest(weight):
    best = 0
    for k in range(1, 4):
        if weight[k] > weight[best]:
            best = k
    return best


@njit(nogil=True)
def _vote(label, c, s, weight, default):
    """The segment (or none) with most weight among the neighbours of this class."""
    best, segment = np.float32(0), default
    for k in range(4):
        if c[k] == label:
            total = np.float32(0)
            for j in range(4):
                if c[j] == label and s[j] == s[k]:
                    total += weight[j]
            if total > best:
                best, segment = total, s[k]
    return segment


@njit(nogil=True)
def _group(label, segment, c, s, inverse):
    """The neighbours on the same thing or stuff whose depth is known: 1 each, and their 1/z; 0 for others."""
    zero, one = np.float32(0), np.float32(1)
    in_0 = (s[0] == segment) and (segment != NO_SEGMENT or c[0] == label) and inverse[0] > 0
    in_1 = (s[1] == segment) and (segment != NO_SEGMENT or c[1] == label) and inverse[1] > 0
    in_2 = (s[2] == segment) and (segment != NO_SEGMENT or c[2] == label) and inverse[2] > 0
    in_3 = (s[3] == segment) and (segment != NO_SEGMENT or c[3] == label) and inverse[3] > 0
    return (
        (one if in_0 else zero, one if in_1 else zero, one if in_2 else zero, one if in_3 else zero),
        (
            inverse[0] if in_0 else zero,
            inverse[1] if in_1 else zero,
            inverse[2] if in_2 else zero,
            inverse[3] if in_3 else zero,
        ),
    )


@njit(nogil=True, inline="always")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


@njit(nogil=True, error_model="numpy")
def _closest_depth(inverse, weight):
    """Depth of the heaviest neighbour that has one; NaN if none has."""
    best, closest = np.float32(0), np.float32(np.nan)
    for k in range(4):
        if inverse[k] > 0 and weight[k] > best:
            best, closest = weight[k], inverse[k]
    return np.float32(1) / closest
