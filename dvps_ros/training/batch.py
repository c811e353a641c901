# SPDX-License-Identifier: Apache-2.0
"""Samples to batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.errors import InputError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses.targets import FrameBatch
from dvps_ros.types import Sample

Batch = list[FrameBatch]
"""Time steps of a batch of clips; a later one holds the longer clips, which come first in the earlier
ones."""
TargetsOf = Callable[[Sequence[Sample], int, LabelSpace], Any]
"""See ``networks.protocol.Objective.targets``."""


def collate(samples: Sequence[Sample], labels: LabelSpace, targets: TargetsOf) -> Batch:
    """Clips of one image size, of any lengths, as a batch.

    Raises:
        InputError: sizes differ, are no multiple of the stride, or a clip's intrinsics cannot be.
    """
    for s in samples:
        if not (np.isfinite(s.intrinsics).all() and (s.intrinsics[:, :2] > 0).all()):
            # In the network, batch normalisation would spread this over all samples.
            raise InputError(
                f"{s.source}: expected finite intrinsics with focal lengths above 0, got fx, fy, cx, cy "
                f"{s.intrinsics.tolist()}; mend or leave out this sample"
            )
    sizes = {s.images.shape[1:3] for s in samples}
    if len(sizes) != 1 or any(n % OUTPUT_STRIDE for n in next(iter(sizes))):
        raise InputError(
            f"batch: expected images of one size, a multiple of {OUTPUT_STRIDE}, got {sorted(sizes)}"
        )
    ordered = sorted(samples, key=lambda s: -len(s.images))
    longest = len(ordered[0].images)
    steps = [[s for s in ordered if len(s.images) > t] for t in range(longest)]
    return [_frame_batch(clips, t, labels, targets) for t, clips in enumerate(steps)]


def _frame_batch(samples: list[Sample], t: int, labels: LabelSpace, targets: TargetsOf) -> FrameBatch:
    image = np.stack([s.images[t] for s in samples])
    return FrameBatch(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([s.intrinsics[t] for s in samples])),
        targets(samples, t, labels),
        tuple(s.source for s in samples),
    )
