# SPDX-License-Identifier: Apache-2.0
"""The Lightning module: clips through the network frame by frame, losses, optimiser and schedule."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from dvps_ros.config import to_dict
from dvps_ros.errors import DvpsError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses.total import class_weights, total_loss
from dvps_ros.networks import NETWORKS, RawPrediction
from dvps_ros.training.batch import Batch, FrameBatch
from dvps_ros.training.checkpoint import META, describe
from dvps_ros.training.recipe import Recipe, ScheduleConfig, network_config
from dvps_ros.training.validate import Scores, write_picture
from dvps_ros.types import Sample

PICTURES = 4
"""Pictures of each set at every validation."""
LONGEST_STEP_S = 10.0
"""More time than this, from the end of one step to that of the next, does not count as training."""


class LitPerception(pl.LightningModule):
    """A network with its losses; ``network`` is a key of NETWORKS."""

    class_weight: Tensor

    def __init__(self, recipe: Recipe, labels: LabelSpace) -> None:
        super().__init__()
        config = network_config(recipe, classes=len(labels))
        self.recipe, self.labels = recipe, labels
        network: Any = NETWORKS[recipe.network][0](config)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        # Names, not places: the description goes into published models.
        places = {"out": Path(recipe.out).name, "start_from": Path(recipe.start_from).name}
        data = to_dict(recipe.data) | {"cache": Path(recipe.data.cache).name}
        self.description = describe(
            recipe.network, to_dict(config), labels, to_dict(recipe) | places | {"data": data}
        )
        self.register_buffer("class_weight", class_weights(labels), persistent=False)
        self.minutes = 0.0
        """Time spent in training steps, kept over restarts."""
        self._counted_until = 0.0
        self._sources: tuple[str, ...] = ()
        self._means: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> list[RawPrediction]:
        """Predictions of each time step; the memory of step 0 goes into step 1, first rows first."""
        predictions: list[RawPrediction] = []
        state = None
        for frame in batch:
            rows = len(frame.image)
            state = None if state is None else {k: v[:rows] for k, v in state.items()}
            prediction = self.network(channels_last(frame.image), frame.intrinsics, state)
            predictions.append(prediction)
            state = prediction.state
        return predictions

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        targets = [frame.targets for frame in batch]
        predictions = self(batch)
        with torch.autocast(self.device.type, enabled=False):
            total, means = total_loss(predictions, targets, self.class_weight, self.recipe.loss)
        self._sources, self._means = targets[0].sources, means
        self.log("loss", total.detach(), prog_bar=True)
        self.log_dict(means)
        return total

    def progress(self) -> float:
        """Share of the training that is done, by steps or minutes, whichever is further."""
        return progress(self.global_step, self.minutes, self.recipe.schedule)

    def on_train_start(self) -> None:
        self._counted_until = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        rate = self.recipe.schedule.learning_rate * rate_factor(self.progress(), self.recipe.schedule.warmup)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("learning_rate", rate)

    def count_minutes(self) -> None:
        """Add the time since it was last counted; at the end of a step, before any callback saves."""
        now = time.monotonic()
        # The time in which the process is suspended does not count.
        self.minutes += min(now - self._counted_until, LONGEST_STEP_S) / 60
        self._counted_until = now
        # One clock for all ranks: who stopped alone would leave the others waiting.
        self.minutes = self.trainer.strategy.broadcast(self.minutes)

    def on_validation_epoch_start(self) -> None:
        self._scores: dict[str, Scores] = {}
        self.network.eval()

    def validation_step(self, item: tuple[str, Sample], batch_idx: int) -> None:
        name, sample = item
        scores = self._scores.setdefault(name, Scores(self.labels))
        for t, prediction in enumerate(self.predict_clip(sample)):
            scores.update(sample, t, prediction)
        if self.trainer.is_global_zero:
            folder = Path(self.recipe.out) / "pictures"
            stem = f"{name}_{batch_idx:03d}_step{self.global_step:06d}.jpg"
            if len(scores.pictures) < PICTURES:
                scores.pictures.append(stem)
                write_picture(folder / stem, sample, t, prediction, self.labels)

    def predict_clip(self, sample: Sample) -> Iterator[RawPrediction]:
        """Predictions of the frames of a clip in order, with memory; maps float32 on the CPU."""
        state = None
        for image, intrinsics in zip(sample.images, sample.intrinsics, strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self.device)
            prediction = self.network(
                channels_last(pixels), torch.from_numpy(intrinsics)[None].to(self.device), state
            )
            state = prediction.state
            maps = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
            yield replace(
                prediction, **{k: v.float().cpu() for k, v in maps.items() if isinstance(v, Tensor)}
            )

    def on_validation_epoch_end(self) -> None:
        results = {f"{name}/{k}": v for name, s in self._scores.items() for k, v in s.compute().items()}
        self.log_dict(results)  # every rank scores all clips
        if self.trainer.is_global_zero:
            per_class = {
                name: {c: round(v, 3) for c, v in zip(s.names, s.iou().tolist(), strict=False)}
                for name, s in self._scores.items()
                if len(s.confusion)
            }
            line = {"step": self.global_step, "minutes": round(self.minutes, 2), **results, "iou": per_class}
            with (Path(self.recipe.out) / "validation.jsonl").open("a") as f:
                f.write(json.dumps(line) + "\n")
        self._counted_until = time.monotonic()  # validation is no training time

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        schedule = self.recipe.schedule
        groups = [
            {"params": decayed, "weight_decay": schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip for a fused optimiser because of loss scaling, which bf16 does not need.
        limit = self.recipe.schedule.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not torch.isfinite(norm):
            weighted = {n: getattr(self.recipe.loss, n) * float(mean) for n, mean in self._means.items()}
            name = max(weighted, key=weighted.__getitem__)
            raise DvpsError(
                f"the gradient is not finite at step {self.global_step}, in a batch of "
                f"{', '.join(self._sources)}; the largest weighted loss is {name!r} "
                f"({weighted[name]:g}): lower the learning rate or look at "
                "these samples; the last checkpoint is kept"
            )
        self.log("gradient_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[META] = self.description | {"step": self.global_step, "minutes": self.minutes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.minutes = checkpoint[META]["minutes"]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return [frame.to(device) for frame in batch] if batch and isinstance(batch[0], FrameBatch) else batch


def channels_last(image: Tensor) -> Tensor:
    """uint8 [B,3,H,W] as float32, channels last in memory."""
    return image.float().contiguous(memory_format=torch.channels_last)


def progress(step: int, minutes: float, schedule: ScheduleConfig) -> float:
    """Share of the training that is done: 0 at the start, 1 or more when steps or minutes are used up."""
    by_time = minutes / schedule.minutes if schedule.minutes else 0.0
    return max(step / schedule.steps, by_time)


def rate_factor(done: float, warmup: float) -> float:
    """Factor on the learning rate: linear rise over the share ``warmup``, then half a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))
