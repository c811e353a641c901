# SPDX-License-Identifier: Apache-2.0
"""Video panoptic quality (Kim et al., CVPR 2020) and its depth-aware form (Qiao et al., CVPR 2021).

VPQ_k: every window of k consecutive annotated frames of a video is stacked, equal (class, instance) over it
form a tube, tubes are matched like the segments of PQ; counts are summed over windows and videos. The last
windows are not padded: T frames give T-k+1. DVPQ_k^lambda voids predicted pixels with a relative depth error
above lambda first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any

from dvps_ros.errors import ConfigError
from dvps_ros.metrics.counts import Classes, PairCounts, merge_pairs
from dvps_ros.metrics.pq import Crowd, QualityCounts, quality_counts
from dvps_ros.metrics.sequences import SequenceWalk


class VideoPanopticQuality:
    """The table of counts over window lengths k and depth criteria lambda.

    Holds the pair tables of the last max(k) frames and nothing else of the past.

    Args:
        windows: lengths k in frames.
        lambdas: depth criteria; None for plain VPQ (one column, no voiding).
        crowd: VPQ ignores crowd; the DVPQ scripts do not know it, pass ``"segment"`` to follow them.
    """

    def __init__(
        self,
        classes: Classes,
        windows: Iterable[int],
        *,
        lambdas: Iterable[float] | None = None,
        crowd: Crowd = "ignored",
    ) -> None:
        self.classes = classes
        self.windows = tuple(sorted(set(windows)))
        self.lambdas = None if lambdas is None else tuple(sorted({float(v) for v in lambdas}, reverse=True))
        self.crowd: Crowd = crowd
        if not self.windows or self.windows[0] < 1:
            raise ConfigError(f"window lengths k: expected 1 or more, got {self.windows}")
        columns = 1 if self.lambdas is None else len(self.lambdas)
        self.counts = {k: QualityCounts.zeros(columns, classes.count) for k in self.windows}
        self.seen = dict.fromkeys(self.windows, 0)
        """Number of windows counted for each k."""
        self._walk = SequenceWalk()
        self._recent: deque[PairCounts] = deque(maxlen=self.windows[-1])

    def update(self, pairs: PairCounts, sequence: Hashable = 0) -> None:
        """Add the next frame of ``sequence``."""
        if self._walk.enter(sequence):
            self._recent.clear()
        self._recent.append(pairs)
        tube, length = pairs, 1
        for k in self.windows:
            if k > len(self._recent):
                break
            tube = merge_pairs([tube, *list(self._recent)[-k : len(self._recent) - length]])
            length = k
            self.counts[k] += quality_counts(tube, self.classes, crowd=self.crowd, lambdas=self.lambdas)
            self.seen[k] += 1

    def merge(self, other: VideoPanopticQuality) -> None:
        """Add the sequences of another shard."""
        self._walk.merge(other._walk)
        self._recent.clear()
        for k in self.windows:
            self.counts[k] += other.counts[k]
            self.seen[k] += other.seen[k]

    def compute(self) -> dict[int, Any]:
        """{k: {all, things, stuff, declared}}, or {k: {lambda: {...}}} with depth criteria."""
        return {
            k: self._columns(counts, lambda c: c.summary(self.classes)) for k, counts in self.counts.items()
        }

    def per_class(self) -> dict[int, Any]:
        """The same keys, with the counts of each class."""
        return {k: self._columns(counts, QualityCounts.per_class) for k, counts in self.counts.items()}

    def _columns(self, counts: QualityCounts, show: Any) -> Any:
        if self.lambdas is None:
            return show(counts[0])
        return {value: show(counts[i]) for i, value in enumerate(self.lambdas)}
