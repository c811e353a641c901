# SPDX-License-Identifier: Apache-2.0
"""A training that a test starts as a process of its own; for more devices Lightning starts it again."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dvps_ros.config import from_flat
from dvps_ros.labels import CITYSCAPES
from dvps_ros.training.batch import Batch
from dvps_ros.training.fit import fit
from dvps_ros.training.module import LitPerception
from dvps_ros.training.recipe import Recipe
from dvps_ros.training.sources import training_parts
from dvps_ros.types import Sample


class Recorded(LitPerception):
    """Writes what this rank saw, and with what weights it ended, beside the checkpoint."""

    sums: list[int]

    def on_train_start(self) -> None:
        super().on_train_start()
        self.sums = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.sums.append(int(batch[0].image.sum()))

    def count_minutes(self) -> None:
        self.minutes += self.global_rank  # as if the other processor were slow
        super().count_minutes()

    def on_fit_end(self) -> None:
        seen = {"sums": self.sums, "step": self.global_step, "minutes": self.minutes}
        weights = dict(self.network.named_parameters())
        torch.save(seen | {"weights": weights}, Path(self.recipe.out) / f"rank{self.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe = from_flat(Recipe, json.loads(sys.argv[1]))
    import dvps_ros.training.fit as module

    module.LitPerception = Recorded  # type: ignore[misc]
    still = Sample(np.full((1, 64, 128, 3), 90, np.uint8), np.full((1, 4), 64, np.float32), "still")
    labelled = Sample(still.images, still.intrinsics, "road", class_map=np.zeros((1, 64, 128), np.uint8))
    fit(recipe, CITYSCAPES, partial(training_parts, recipe), [("still", still), ("road", labelled)])
