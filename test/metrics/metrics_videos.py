# SPDX-License-Identifier: Apache-2.0
"""Small random videos with everything in them: void, crowd, stuff, things, several sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from dvps_ros.metrics import Classes, PairCounts, count_pairs

CLASSES = Classes(4, (2, 3))
LAMBDAS = (0.5, 0.25, 0.1)


@dataclass(frozen=True)
class Video:
    """gt_*, pr_* [T,H,W]; seq [T]."""

    gt_sem: np.ndarray
    gt_ins: np.ndarray
    pr_sem: np.ndarray
    pr_ins: np.ndarray
    gt_depth: np.ndarray
    pr_depth: np.ndarray
    seq: np.ndarray

    @property
    def maps(self) -> tuple[np.ndarray, ...]:
        return self.gt_sem, self.gt_ins, self.pr_sem, self.pr_ins

    def pairs(self) -> list[tuple[PairCounts, int]]:
        return [
            (
                count_pairs(
                    *(m[t] for m in self.maps),
                    gt_depth=self.gt_depth[t],
                    pr_depth=self.pr_depth[t],
                    lambdas=LAMBDAS,
                ),
                int(self.seq[t]),
            )
            for t in range(len(self.seq))
        ]

    def feed(self, metric, where=slice(None)):
        """``metric`` after all frames."""
        for pairs, sequence in self.pairs()[where]:
            metric.update(pairs, sequence)
        return metric

    def perfect(self) -> Video:
        return replace(self, pr_sem=self.gt_sem, pr_ins=self.gt_ins, pr_depth=self.gt_depth)


def random_video(seed: int, *, noise: float = 0.3, frames: int = 5, size: tuple[int, int] = (4, 6)) -> Video:
    """A video of blocks whose prediction is the truth, shifted in labels at a share ``noise`` of pixels.

    Instance ids are unique over classes; classes 0 and 1 are stuff, 2 and 3 things.
    """
    rng = np.random.default_rng(seed)
    shape = (frames, *size)

    def labels() -> tuple[np.ndarray, np.ndarray]:
        names = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [3, 0], [3, 3], [3, 4], [255, 0]])
        coarse = rng.integers(0, len(names), (frames, (size[0] + 1) // 2, (size[1] + 1) // 2))
        picked = names[coarse.repeat(2, 1).repeat(2, 2)[:, : size[0], : size[1]]]
        return picked[..., 0], picked[..., 1]

    gt_sem, gt_ins = labels()
    # Later frames resemble earlier ones, so that tracks live for more than a frame.
    for t in range(1, frames):
        still = rng.random(size) < 0.8
        gt_sem[t][still], gt_ins[t][still] = gt_sem[t - 1][still], gt_ins[t - 1][still]
    other_sem, other_ins = labels()
    wrong = rng.random(shape) < noise
    gt_depth = rng.integers(0, 6, shape).astype(np.float32)
    return Video(
        gt_sem.astype(np.uint8),
        gt_ins.astype(np.int32),
        np.where(wrong, other_sem, gt_sem).astype(np.uint8),
        np.where(wrong, other_ins, gt_ins).astype(np.int32),
        gt_depth,
        gt_depth * rng.choice(np.float32([0.5, 0.75, 0.9, 1, 1, 1, 1.1, 1.25, 1.5, 2]), shape),
        np.sort(rng.integers(0, 2, frames)),
    )


videos = st.builds(random_video, st.integers(0, 2**32 - 1), noise=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
