# SPDX-License-Identifier: Apache-2.0
"""Depth errors as the monocular literature reports them (Eigen et al. 2014, Monodepth2, ManyDepth), and the
inlier ratios of depth-aware STQ.

All errors are taken per image and averaged over images. Depth is z-depth in metres; true depth of 0 or not
finite is unknown. Predictions that are NaN or infinite count as 0, "no depth".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dvps_ros.errors import ConfigError, InputError
from dvps_ros.jit import njit

Crop = Literal["none", "garg", "eigen", "cityscapes"]
Scaling = Literal["none", "median"]

CROPS: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
    "cityscapes": (0.25, 0.75, 192 / 2048, 1856 / 2048),
}
"""First row, end row, first column, end column as shares of the image, truncated to whole pixels.
``cityscapes`` is ManyDepth's: the bottom quarter dropped, then rows from 256 and columns 192 to 1856 of
1024x2048."""

LOWEST_M = 1e-3
"""Predictions are clamped to at least this in capped protocols, and in all logarithms."""

ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "delta1", "delta2", "delta3")
"""mean |d-d^|/d; mean (d-d^)^2/d, m; root mean (d-d^)^2, m; root mean (ln d - ln d^)^2;
100 sqrt(mean e^2 - (mean e)^2) with e = ln d^ - ln d; shares with max(d/d^, d^/d) < 1.25, 1.25^2, 1.25^3."""


@dataclass(frozen=True)
class DepthProtocol:
    """Which pixels are scored and how the prediction is prepared.

    Args:
        crop: a key of :data:`CROPS`.
        scaling: ``median`` multiplies the prediction by median(gt)/median(pred) of the scored pixels, before
            clamping.
        cap_m: scored are pixels with 1e-3 < gt < cap (strict), and predictions are clamped to [1e-3, cap].
            None scores all gt > 0 and clamps nothing. ``"default"`` is None for crop ``none`` (the supervised
            Cityscapes-DVPS protocol) and 80 m for the others.

    Raises:
        ConfigError: unknown crop or scaling, or a cap that is not positive.
    """

    crop: Crop = "none"
    scaling: Scaling = "none"
    cap_m: float | None | Literal["default"] = "default"

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ConfigError(f"depth crop: expected one of {', '.join(CROPS)}, got {self.crop!r}")
        if self.scaling not in ("none", "median"):
            raise ConfigError(f"depth scaling: expected none or median, got {self.scaling!r}")
        if self.cap_m == "default":
            object.__setattr__(self, "cap_m", None if self.crop == "none" else 80.0)
        if self.cap_m is not None and not LOWEST_M < self.cap_m < math.inf:  # type: ignore[operator]
            raise ConfigError(f"depth cap: expected more than {LOWEST_M} m, or none, got {self.cap_m}")

    @property
    def truth_range(self) -> tuple[np.float32, np.float32]:
        """Scored is truth between these, both excluded; compared in the precision of the maps."""
        low, high = (0.0, np.inf) if self.cap_m is None else (LOWEST_M, self.cap_m)
        return np.float32(low), np.float32(high)

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that are scored."""
        top, bottom, left, right = CROPS[self.crop]
        return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))


@dataclass(frozen=True)
class ImageErrors:
    """Errors of one image under one protocol."""

    values: np.ndarray
    """float64 [8]: in the order of :data:`ERRORS`; NaN when no pixel was scored."""
    pixels: int
    scale: float
    """What the prediction was multiplied by; 1 without median scaling or where its median is not positive."""


def image_errors(gt: np.ndarray, pr: np.ndarray, protocols: Sequence[DepthProtocol]) -> list[ImageErrors]:
    """Score one image under each protocol.

    Args:
        gt, pr: [H,W] metres.

    Raises:
        InputError: shapes differ.
    """
    gt, pr = _same_shape(gt, pr)
    selected: dict[tuple[str, Any], tuple[np.ndarray, np.ndarray]] = {}
    result = []
    for protocol in protocols:
        key = protocol.crop, protocol.cap_m
        if key not in selected:
            window = protocol.window(*gt.shape)
            selected[key] = _select(gt[window], pr[window], *protocol.truth_range)
        result.append(_score(*selected[key], protocol))
    return result


def _score(truth: np.ndarray, guess: np.ndarray, protocol: DepthProtocol) -> ImageErrors:
    """Errors over the scored pixels [N]."""
    if not truth.size:
        return ImageErrors(np.full(len(ERRORS), np.nan), 0, 1.0)
    scale = 1.0
    if protocol.scaling == "median":
        middle = float(np.median(guess))
        scale = float(np.median(truth)) / middle if middle > 0 else 1.0
    low, high = (-np.inf, np.inf) if protocol.cap_m is None else (LOWEST_M, protocol.cap_m)
    return ImageErrors(_errors(truth, guess, scale, low, high), truth.size, scale)


class DepthErrors:
    """Mean of the errors over images, for several protocols at once."""

    def __init__(self, protocols: Iterable[DepthProtocol]) -> None:
        self.protocols = tuple(protocols)
        n = len(self.protocols)
        self._sum = np.zeros((n, len(ERRORS)))
        self._images = np.zeros(n, np.int64)
        self._empty = np.zeros(n, np.int64)
        self._pixels = np.zeros(n, np.int64)
        self._scale = np.zeros((n, 2))

    def update(self, gt: np.ndarray, pr: np.ndarray) -> None:
        """Add one image: [H,W] metres each."""
        self.add(image_errors(gt, pr, self.protocols))

    def add(self, errors: Iterable[ImageErrors]) -> None:
        """Add one image that :func:`image_errors` has scored, one entry a protocol."""
        for i, image in enumerate(errors):
            if not image.pixels:
                self._empty[i] += 1
                continue
            self._sum[i] += image.values
            self._images[i] += 1
            self._pixels[i] += image.pixels
            self._scale[i] += image.scale, image.scale**2

    def merge(self, other: DepthErrors) -> None:
        for name in ("_sum", "_images", "_empty", "_pixels", "_scale"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def compute(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """{crop: {scaling: errors}}, None without images.

        Besides :data:`ERRORS`: the numbers of ``images``, ``images_without_truth`` and ``pixels``, and with
        median scaling mean and standard deviation of the factor.
        """
        result: dict[str, dict[str, dict[str, float | int | None]]] = {}
        for i, protocol in enumerate(self.protocols):
            n = int(self._images[i])
            mean = self._sum[i] / n if n else [None] * len(ERRORS)
            values: dict[str, float | int | None] = {
                name: None if value is None else float(value)
                for name, value in zip(ERRORS, mean, strict=True)
            }
            values |= {
                "images": n,
                "images_without_truth": int(self._empty[i]),
                "pixels": int(self._pixels[i]),
            }
            if protocol.scaling == "median":
                scale, square = self._scale[i] / n if n else (None, None)
                values["scale_mean"] = None if scale is None else float(scale)
                values["scale_std"] = None if scale is None else math.sqrt(max(0.0, square - scale**2))
            result.setdefault(protocol.crop, {})[protocol.scaling] = values
        return result


DISTANCES_M = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, math.inf)
"""Edges of the ranges of true depth over which :class:`DepthByDistance` sums."""


def distance_sums(gt: np.ndarray, pr: np.ndarray) -> np.ndarray:
    """float64 [ranges, 3]: pixels with truth, sum of |pred - gt|/gt, sum of pred - gt (m)."""
    gt, pr = _same_shape(gt, pr)
    return _distance_sums(gt.ravel(), pr.ravel(), np.array(DISTANCES_M))


class DepthByDistance:
    """Relative error and bias over all pixels of a range of true depth, without scaling, crop or cap."""

    def __init__(self) -> None:
        self._sums = np.zeros((len(DISTANCES_M) - 1, 3))

    def update(self, gt: np.ndarray, pr: np.ndarray) -> None:
        """Add one image: [H,W] metres each."""
        self.add(distance_sums(gt, pr))

    def add(self, sums: np.ndarray) -> None:
        """Add what :func:`distance_sums` summed."""
        self._sums += sums

    def merge(self, other: DepthByDistance) -> None:
        self._sums += other._sums

    def compute(self) -> list[dict[str, float | int | None]]:
        """A row {from_m, to_m, pixels, abs_rel, bias_m} a range; to_m is None for the last, open one."""
        rows: list[dict[str, float | int | None]] = []
        for near, far, (pixels, relative, signed) in zip(
            DISTANCES_M, DISTANCES_M[1:], self._sums.tolist(), strict=False
        ):
            rows.append(
                {
                    "from_m": near,
                    "to_m": far if math.isfinite(far) else None,
                    "pixels": int(pixels),
                    "abs_rel": relative / pixels if pixels else None,
                    "bias_m": signed / pixels if pixels else None,
                }
            )
        return rows


def inliers(gt: np.ndarray, pr: np.ndarray, thresholds: Iterable[float]) -> np.ndarray:
    """int64 [1+len(thresholds)]: pixels with truth, then those with max(d/d^, d^/d) <= each threshold."""
    gt, pr = _same_shape(gt, pr)
    return _inliers(gt.ravel(), pr.ravel(), np.array(tuple(thresholds), np.float64))


class DepthInliers:
    """DQ of depth-aware STQ (deeplab2): geometric mean of the shares of inliers among pixels with truth."""

    def __init__(self, thresholds: Iterable[float] = (1.25, 1.1)) -> None:
        self.thresholds = tuple(thresholds)
        if not self.thresholds or min(self.thresholds) < 1:
            raise ConfigError(f"depth inlier thresholds: expected ratios of 1 or more, got {self.thresholds}")
        self.counts = np.zeros(1 + len(self.thresholds), np.int64)

    def update(self, gt: np.ndarray, pr: np.ndarray) -> None:
        """Add one image: [H,W] metres each."""
        self.add(inliers(gt, pr, self.thresholds))

    def add(self, counts: np.ndarray) -> None:
        """Add what :func:`inliers` counted."""
        self.counts += counts

    def merge(self, other: DepthInliers) -> None:
        self.counts += other.counts

    def compute(self) -> tuple[float | None, dict[float, float | None]]:
        """DQ, and the share of each threshold; None without truth."""
        valid = int(self.counts[0])
        if not valid:
            return None, dict.fromkeys(self.thresholds)
        shares = [int(count) / valid for count in self.counts[1:]]
        return math.prod(shares) ** (1 / len(shares)), dict(zip(self.thresholds, shares, strict=True))


def depth_aware_stq(stq: float | None, dq: float | None) -> float | None:
    """DSTQ = (STQ^2 DQ)^(1/3); None when a part is undefined."""
    return None if stq is None or dq is None else (stq * stq * dq) ** (1 / 3)


def _same_shape(gt: np.ndarray, pr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gt = np.ascontiguousarray(gt, np.float32)
    pr = np.ascontiguousarray(pr, np.float32)
    if gt.ndim != 2 or gt.shape != pr.shape:
        raise InputError(f"depth: expected two maps of one shape [H,W], got {gt.shape} and {pr.shape}")
    return gt, pr


@njit(nogil=True)
def _select(gt, pr, low, high):
    """Truth and prediction [N] where low < truth < high; a prediction that is no number becomes 0."""
    truth = np.empty(gt.size, np.float32)
    guess = np.empty(gt.size, np.float32)
    n = 0
    for y in range(gt.shape[0]):
        for x in range(gt.shape[1]):
            if low < gt[y, x] < high:
                truth[n] = gt[y, x]
                guess[n] = pr[y, x] if np.isfinite(pr[y, x]) else 0.0
                n += 1
    return truth[:n], guess[:n]


@njit(nogil=True)
def _errors(gt, pr, scale, low, high):
    abs_rel = sq_rel = square = log_square = log_sum = 0.0
    delta1 = delta2 = delta3 = 0
    for i in range(gt.size):
        d = np.float64(gt[i])
        e = min(max(np.float64(pr[i]) * scale, low), high)
        difference = e - d
        abs_rel += abs(difference) / d
        sq_rel += difference * difference / d
        square += difference * difference
        log = np.log(max(e, 1e-3) / d)
        log_sum += log
        log_square += log * log
        if e > 0:
            ratio = max(e / d, d / e)
            delta1 += ratio < 1.25
            delta2 += ratio < 1.5625
            delta3 += ratio < 1.953125
    n = gt.size
    silog = 100 * np.sqrt(max(log_square / n - (log_sum / n) ** 2, 0.0))
    return np.array(
        [
            abs_rel / n,
            sq_rel / n,
            np.sqrt(square / n),
            np.sqrt(log_square / n),
            silog,
            delta1 / n,
            delta2 / n,
            delta3 / n,
        ]
    )


@njit(nogil=True)
def _inliers(gt, pr, thresholds):
    counts = np.zeros(1 + thresholds.size, np.int64)
    for i in range(gt.size):
        d = np.float64(gt[i])
        e = np.float64(pr[i])
        if 0.0 < d < np.inf:
            counts[0] += 1
            if 0.0 < e < np.inf:
                ratio = max(e / d, d / e)
                for t in range(thresholds.size):
                    counts[1 + t] += ratio <= thresholds[t]
    return counts


@njit(nogil=True)
def _distance_sums(gt, pr, edges):
    sums = np.zeros((edges.size - 1, 3))
    for i in range(gt.size):
        d = np.float64(gt[i])
        if 0.0 < d < np.inf:
            e = np.float64(pr[i]) if np.isfinite(pr[i]) else 0.0
            row = 0
            while d >= edges[row + 1]:
                row += 1
            sums[row, 0] += 1
            sums[row, 1] += abs(e - d) / d
            sums[row, 2] += e - d
    return sums
