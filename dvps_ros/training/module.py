# SPDX-License-Identifier: Apache-2.0
"""The Lightning module: an objective, the weighting of its terms, optimiser, schedule and validation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from dvps_ros.config import to_dict
from dvps_ros.errors import ConfigError, DvpsError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses.weighting import WEIGHTINGS
from dvps_ros.networks import NETWORKS, Network
from dvps_ros.training.batch import Batch, FrameBatch
from dvps_ros.training.checkpoint import META, describe
from dvps_ros.training.recipe import Recipe, ScheduleConfig, loss_weights, network_config
from dvps_ros.training.validate import Validation
from dvps_ros.types import Sample

LONGEST_STEP_S = 10.0
"""More time than this, from the end of one step to that of the next, does not count as training."""


class LitPerception(pl.LightningModule):
    """A design's objective with its network, the weighting of its terms, and the schedule."""

    def __init__(self, recipe: Recipe, labels: LabelSpace) -> None:
        super().__init__()
        design = NETWORKS[recipe.network]
        config = network_config(recipe, classes=len(labels))
        self.recipe, self.labels = recipe, labels
        build: Any = design.network
        network = build(config).to(memory_format=torch.channels_last)
        weights = loss_weights(recipe)
        self.objective = design.objective(network, labels, weights)
        self.weighting = WEIGHTINGS[recipe.weighting](weights)
        # Names, not places: the description goes into published models.
        places = {"out": Path(recipe.out).name, "start_from": Path(recipe.start_from).name}
        data = to_dict(recipe.data) | {"cache": Path(recipe.data.cache).name}
        self.description = describe(
            recipe.network, to_dict(config), labels, to_dict(recipe) | places | {"data": data}
        )
        self._fixed = _fixed_parts(network, recipe.learns)
        for part in self._fixed:
            part.requires_grad_(False)
        self.train()
        _check_rates(network, recipe.rates)
        self.minutes = 0.0
        """Time spent in training steps, kept over restarts."""
        self._counted_until = 0.0
        self._sources: tuple[str, ...] = ()
        self._means: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> LitPerception:
        """Parts that do not learn keep their statistics, too."""
        super().train(mode)
        for part in self._fixed:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    @property
    def network(self) -> Network:
        """What is deployed."""
        return self.objective.network

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        means = self.objective(batch, min(self.progress(), 1.0)).means()
        total = self.weighting(means)
        self._sources, self._means = batch[0].sources, {name: mean.detach() for name, mean in means.items()}
        self.log("loss", total.detach(), prog_bar=True)
        self.log_dict(self._means)
        return total

    def progress(self) -> float:
        """Share of the training that is done, by steps or minutes, whichever is further."""
        return progress(self.global_step, self.minutes, self.recipe.schedule)

    def on_train_start(self) -> None:
        self._counted_until = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        schedule = self.recipe.schedule
        rate = schedule.learning_rate * rate_factor(self.progress(), schedule.warmup, schedule.decay)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["factor"]
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
        self.network.eval()
        folder = Path(self.recipe.out) / "pictures"
        self._validation = Validation(self.network, self.labels, folder, f"step{self.global_step:06d}")

    def validation_step(self, item: tuple[str, Sample], batch_idx: int) -> None:
        name, clip = item
        self._validation.add(name, clip, picture=self.trainer.is_global_zero)

    def on_validation_epoch_end(self) -> None:
        results, iou = self._validation.results()
        self.log_dict(results)  # every rank scores all clips
        if self.trainer.is_global_zero:
            line = {"step": self.global_step, "minutes": round(self.minutes, 2), **results, "iou": iou}
            with (Path(self.recipe.out) / "validation.jsonl").open("a") as f:
                f.write(json.dumps(line) + "\n")
        self._counted_until = time.monotonic()  # validation is no training time

    def configure_optimizers(self) -> torch.optim.Optimizer:
        schedule = self.recipe.schedule
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        named = [*self.objective.named_parameters(), *self.weighting.named_parameters()]
        for name, parameter in named:
            if parameter.requires_grad:
                factor = _rate_of(name.removeprefix("network."), self.recipe.rates)
                # Weights of layers decay; biases, scales, learned queries, positions and tables do not.
                decays = name.endswith("weight") and parameter.ndim > 1
                groups.setdefault((factor, decays), []).append(parameter)
        parts = [
            {"params": parameters, "weight_decay": schedule.weight_decay if decays else 0.0, "factor": factor}
            for (factor, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]
        return torch.optim.AdamW(parts, lr=schedule.learning_rate, fused=True)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip for a fused optimiser because of loss scaling, which bf16 does not need.
        limit = self.recipe.schedule.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters(), limit)
        if not torch.isfinite(norm):
            weighted = {n: self.weighting.weight(n) * float(mean) for n, mean in self._means.items()}
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


def _fixed_parts(network: nn.Module, learns: str) -> list[Any]:
    """The parts of a network that are not among those that learn.

    Raises:
        ConfigError: it has no such part.
    """
    parts: dict[str, Any] = dict(network.named_children()) | dict(network.named_parameters(recurse=False))
    wanted = [name.strip() for name in learns.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in parts]:
        raise ConfigError(
            f"learns: the network has no part {', '.join(unknown)}; its parts are {', '.join(parts)}"
        )
    return [part for name, part in parts.items() if name not in wanted] if wanted else []


def _check_rates(network: nn.Module, rates: Mapping[str, Any]) -> None:
    """Refuse factors that are no numbers, or for parts that are not there.

    Raises:
        ConfigError: see above.
    """
    names = [name for name, _ in network.named_parameters()]
    for part, factor in rates.items():
        if not any(_is_part(name, part) for name in names):
            top = dict.fromkeys(name.partition(".")[0] for name in names)
            raise ConfigError(f"rates: the network has no part {part!r}; its parts are {', '.join(top)}")
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 <= factor <= 100:
            raise ConfigError(f"rates.{part}: expected a factor from 0 to 100, got {factor!r}")


def _rate_of(name: str, rates: Mapping[str, float]) -> float:
    """Factor of a parameter: that of the longest part that it belongs to."""
    fits = [part for part in rates if _is_part(name, part)]
    return float(rates[max(fits, key=len)]) if fits else 1.0


def _is_part(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def progress(step: int, minutes: float, schedule: ScheduleConfig) -> float:
    """Share of the training that is done: 0 at the start, 1 or more when steps or minutes are used up."""
    by_time = minutes / schedule.minutes if schedule.minutes else 0.0
    return max(step / schedule.steps, by_time)


def rate_factor(done: float, warmup: float, decay: str = "cosine") -> float:
    """Factor on the learning rate: linear rise over the share ``warmup``, then down to 0.

    Args:
        decay: ``cosine``, half of one after the rise; or ``poly``, the rise times (1 - done)^0.9.
    """
    rise = max(done / warmup, 0.01) if done < warmup else 1.0
    if decay == "poly":
        return rise * (1 - min(done, 1.0)) ** 0.9
    way = min(max(done - warmup, 0.0) / (1 - warmup), 1.0)
    return rise * 0.5 * (1 + math.cos(math.pi * way))
