# SPDX-License-Identifier: Apache-2.0
"""One pass over the pixels of a frame, from which every segmentation metric is computed.

A *segment* is the set of pixels with equal (class, instance). :func:`count_pairs` counts, for each
pair of a true and a predicted segment, the pixels they share, split by how wrong the depth is there.
All metrics work on these small integer tables; none looks at pixels again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dvps_ros.errors import ConfigError, InputError
from dvps_ros.jit import njit
from dvps_ros.labels import VOID, LabelSpace

T = TypeVar("T", int, np.ndarray)

VOID_SEGMENT = np.int64(VOID << 32)
"""Key of all void pixels, whatever their instance."""


@dataclass(frozen=True)
class Classes:
    """The classes that are scored: ids 0..count-1, of which ``things`` are countable.

    Raises:
        ConfigError: no class, more than 254, a thing that is not a class, or names that do not fit.
    """

    count: int
    things: tuple[int, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.count < VOID:
            raise ConfigError(f"number of classes: expected 1 to {VOID - 1}, got {self.count}")
        stray = sorted(set(self.things) - set(range(self.count)))
        if stray:
            raise ConfigError(f"thing classes: expected ids 0 to {self.count - 1}, got {stray}")
        object.__setattr__(self, "things", tuple(sorted(set(self.things))))
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"class {c}" for c in range(self.count)))
        if len(self.names) != self.count:
            raise ConfigError(f"class names: expected {self.count}, got {len(self.names)}")

    @classmethod
    def of(cls, space: LabelSpace, things: Iterable[int] | None = None) -> Classes:
        """The classes of a label space; ``things`` overrides which are countable (KITTI-STEP: 11 and 13)."""
        return cls(len(space), space.thing_ids if things is None else tuple(things), space.names)

    @property
    def is_thing(self) -> np.ndarray:
        """bool [256]: look-up by class id."""
        table = np.zeros(256, bool)
        table[list(self.things)] = True
        return table


def class_of(segment: T) -> T:
    """Class of segment keys (int64 array, or one int), 255 for void."""
    return segment >> 32


def id_of(segment: T) -> T:
    """Instance id of segment keys (int64 array, or one int), 0 for none."""
    return segment & 0xFFFFFFFF


@dataclass(frozen=True)
class PairCounts:
    """Pixels shared by each pair of a true and a predicted segment, over one frame or several."""

    gt: np.ndarray
    """int64 [R]: true segment, ``class << 32 | instance``; all void pixels share one key."""
    pr: np.ndarray
    """int64 [R]: predicted segment, packed alike."""
    pixels: np.ndarray
    """int64 [R, L+1]: column b counts the pixels whose depth error passes all but the b smallest lambdas;
    column 0 holds those that pass all, and those without true depth."""
    lambdas: tuple[float, ...] = ()
    """Depth criteria, ascending."""

    @property
    def total(self) -> np.ndarray:
        """int64 [R]: pixels of each pair."""
        return self.pixels.sum(1)

    def kept(self, lambdas: Sequence[float] | None) -> np.ndarray:
        """int64 [R, L]: pixels with a depth error of at most each of L lambdas; all pixels [R,1] for None.

        Raises:
            ConfigError: a lambda that the pixels were not counted for.
        """
        if lambdas is None:
            return self.total[:, None]
        unknown = sorted(set(lambdas) - set(self.lambdas))
        if unknown:
            raise ConfigError(
                f"depth criteria: pixels were counted for lambda {self.lambdas}, not for {unknown}"
            )
        return np.cumsum(self.pixels, 1)[:, [self.lambdas.index(value) for value in lambdas]]

    def check(self, classes: Classes) -> None:
        """Refuse classes that are neither scored nor void, and negative instance ids of the prediction.

        Raises:
            InputError: naming the values.
        """
        for name, segments in (("truth", self.gt), ("prediction", self.pr)):
            found = class_of(segments)
            unknown = np.unique(found[(found >= classes.count) & (found != VOID)])
            if unknown.size:
                raise InputError(
                    f"the {name} holds unknown classes {unknown.tolist()}; "
                    f"expected 0 to {classes.count - 1}, or {VOID} for void"
                )
        if (id_of(self.pr) >> 31).any():
            raise InputError("the prediction holds negative instance ids; expected 0 (none) or more")


def merge_pairs(parts: Sequence[PairCounts]) -> PairCounts:
    """Sum of several tables: the pairs of the tubes that their frames form when stacked."""
    if len(parts) == 1:
        return parts[0]
    gt = np.concatenate([part.gt for part in parts])
    pr = np.concatenate([part.pr for part in parts])
    pixels = np.concatenate([part.pixels for part in parts])
    order = np.lexsort((pr, gt))
    gt, pr, pixels = gt[order], pr[order], pixels[order]
    first = np.empty(len(gt), bool)
    first[:1] = True
    first[1:] = (gt[1:] != gt[:-1]) | (pr[1:] != pr[:-1])
    starts = np.flatnonzero(first)
    return PairCounts(gt[starts], pr[starts], np.add.reduceat(pixels, starts, axis=0), parts[0].lambdas)


def count_pairs(
    gt_sem: np.ndarray,
    gt_ins: np.ndarray,
    pr_sem: np.ndarray,
    pr_ins: np.ndarray,
    *,
    gt_depth: np.ndarray | None = None,
    pr_depth: np.ndarray | None = None,
    lambdas: Iterable[float] = (),
) -> PairCounts:
    """Count the pixels of one frame by true segment, predicted segment and depth error.

    The depth error of a pixel is |d^ - d| / d in double precision (16-bit integers would wrap); it passes
    lambda when it is **at most** lambda (ViP-DeepLab). Pixels without true depth pass; a prediction that is
    NaN or infinite where the truth is known does not.

    Args:
        gt_sem, pr_sem: integer [H,W]: class, 255 void.
        gt_ins, pr_ins: integer [H,W]: instance, 0 none; -1 in the truth means "unknown" and counts as 0.
        gt_depth, pr_depth: float or integer [H,W] of equal unit, 0 = no truth; needed with ``lambdas``.

    Raises:
        InputError: shapes differ, a type is not an integer, a value does not fit, or depth is missing.
    """
    criteria = tuple(sorted({float(value) for value in lambdas}))
    maps = [
        _integers("gt_sem", gt_sem, np.uint8),
        _integers("gt_ins", gt_ins, np.int32),
        _integers("pr_sem", pr_sem, np.uint8),
        _integers("pr_ins", pr_ins, np.int32),
    ]
    if criteria:
        if gt_depth is None or pr_depth is None:
            raise InputError("depth criteria (lambda) were given but no true or no predicted depth")
        maps += [_metres(gt_depth), _metres(pr_depth)]
    shapes = {m.shape for m in maps}
    if len(shapes) != 1 or len(maps[0].shape) != 2:
        raise InputError(f"expected maps of one shape [H,W], got {[m.shape for m in maps]}")
    flat = [m.ravel() for m in maps] + [np.zeros(0, np.float32)] * (6 - len(maps))
    capacity = 1 << 12
    while True:
        gt, pr, pixels = _count(*flat, np.array(criteria, np.float64), capacity)
        if len(gt) < capacity // 2:
            return PairCounts(gt, pr, pixels, criteria)
        capacity *= 8


def _integers(name: str, array: np.ndarray, dtype: type) -> np.ndarray:
    """``array`` as contiguous ``dtype``; a value that does not fit is refused instead of wrapped."""
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: expected an integer array, got {array.dtype}")
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype) and array.size:
        low, high = int(array.min()), int(array.max())
        bounds = np.iinfo(dtype)
        if low < bounds.min or high > bounds.max:
            raise InputError(f"{name}: expected values {bounds.min} to {bounds.max}, got {low} to {high}")
    return np.ascontiguousarray(array, dtype)


def _metres(depth: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(depth, np.float32)


@njit(nogil=True)
def _count(gt_sem, gt_ins, pr_sem, pr_ins, gt_depth, pr_depth, lambdas, capacity):
    """Histogram over pairs through a hash table of ``capacity`` (power of two) slots, half of them usable.

    Stops early with capacity // 2 rows when there are more pairs than that.
    """
    limit = capacity // 2
    mask = capacity - 1
    slots = np.full(capacity, -1, np.int64)
    gt = np.empty(limit, np.int64)
    pr = np.empty(limit, np.int64)
    pixels = np.zeros((limit, lambdas.size + 1), np.int64)
    rows = 0
    row = -1
    last_g = np.int64(-1)
    last_p = np.int64(-1)
    for i in range(gt_sem.size):
        g = np.int64(gt_sem[i]) << 32
        if gt_sem[i] != 255 and gt_ins[i] > 0:
            g |= np.int64(gt_ins[i])
        p = np.int64(pr_sem[i]) << 32
        if pr_sem[i] != 255:
            p |= np.int64(pr_ins[i]) & 0xFFFFFFFF
        if g != last_g or p != last_p:
            h = (g * 31 + p) * np.int64(-7046029254386353131)
            slot = (h ^ (h >> 29)) & mask
            row = slots[slot]
            while row >= 0 and (gt[row] != g or pr[row] != p):
                slot = (slot + 1) & mask
                row = slots[slot]
            if row < 0:
                row = rows
                gt[row] = g
                pr[row] = p
                slots[slot] = row
                rows += 1
                if rows == limit:
                    break
            last_g = g
            last_p = p
        bucket = 0
        if lambdas.size:
            d = np.float64(gt_depth[i])
            if 0.0 < d < np.inf:
                error = abs(np.float64(pr_depth[i]) - d) / d
                # Written so that NaN fails every criterion.
                while bucket < lambdas.size and not error <= lambdas[bucket]:
                    bucket += 1
        pixels[row, bucket] += 1
    return gt[:rows].copy(), pr[:rows].copy(), pixels[:rows].copy()
