# SPDX-License-Identifier: Apache-2.0
"""Training of the steering head on stored tokens: minutes on a processor, the perception stays as it is."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dvps_ros.config import from_mapping, group, option, to_dict
from dvps_ros.data.steering_log import open_steering_log
from dvps_ros.data.world.driver import lookahead_m
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.errors import CheckpointError, ConfigError, DvpsError
from dvps_ros.metrics.steering import SteeringErrors
from dvps_ros.networks.steering import NO_FRAME_S, SteeringConfig, SteeringHead
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.window import window_slots
from dvps_ros.training.checkpoint import META, load_weights, network_weights, read_checkpoint, source_commit
from dvps_ros.training.drives import render_drives
from dvps_ros.training.latents import LatentMaker, Track, tracks_of
from dvps_ros.training.recipe import read_changed
from dvps_ros.training.sources import data_root

log = logging.getLogger(__name__)
LAST = "last.ckpt"
WORLD = "world"
GOLDEN = "golden_window"
CALIBRATED = 10
"""Every so many drives one is not learnt but calibrates the deviation; of fewer drives their last part."""
ONE_DEVIATION = 0.6827
"""Share of a normal distribution within one standard deviation."""
LOG_GAP_S = 0.5
"""Windows reach back over no longer time without a frame."""


@dataclass(frozen=True)
class SteeringDataConfig:
    """What is driven."""

    cache: str = option("out/steering", "Folder of rendered drives and stored tokens.")
    drives: int = option(200, "Drives to render for training; 0 takes only the log.", low=0)
    height: int = option(256, "Height of the rendered images, pixels.", low=64)
    width: int = option(512, "Width of the rendered images, pixels.", low=64)
    log: str = option("", "Steering log to learn from as well: a folder in DVPS_DATA, or a path.")
    log_share: float = option(
        0.8, "Share of the log, from its beginning, that is learnt from.", low=0.1, high=0.95
    )
    wheelbase_m: float = option(WHEELBASE_M, "Wheelbase of the log's vehicle, metres.", low=0.05, high=10.0)


@dataclass(frozen=True)
class SteeringRecipe:
    """One training of a steering head."""

    network: str = option("steering", "Always steering.", choices=("steering",))
    perception: str = option("lite", "Perception model whose tokens are learnt from: name or folder.")
    start_from: str = option("", "Checkpoint of a head to start from; empty starts at random.")
    out: str = option("out/train/steering", "Folder of checkpoint, log and figures.")
    seed: int = option(1, "Seed of weights and order.", low=0)
    steps: int = option(600, "Optimiser steps.", low=1)
    batch: int = option(64, "Windows in a batch.", low=1)
    slots: int = option(3, "Frames drawn from each window in training, the newest among them.", low=1)
    learning_rate: float = option(2e-3, "Highest learning rate (AdamW, one cycle).", low=0.0)
    weight_decay: float = option(0.05, "Weight decay.", low=0.0)
    bend_weight: float = option(0.3, "lambda of the loss: how much more a bend counts.", low=0.0, high=5.0)
    head: SteeringConfig = group(SteeringConfig)
    data: SteeringDataConfig = group(SteeringDataConfig)


@dataclass(frozen=True)
class Windows:
    """Every window of some tracks, as arrays to draw from."""

    latent: np.ndarray
    """float16 [N,T,C], all tracks after each other."""
    index: np.ndarray
    """int64 [W,F]: frame of each slot, -1 none."""
    age_s: np.ndarray
    """float32 [W,F]."""
    curvature: np.ndarray
    """float32 [W], 1/m."""
    lookahead_m: np.ndarray
    """float32 [W]: how far ahead the driver looks; 10 where the speed is not known."""

    @classmethod
    def of(cls, tracks: Sequence[Track], head: SteeringConfig, wheelbase_m: float) -> Windows:
        index, ages, curvature, ahead = [], [], [], []
        first = 0
        for track in tracks:
            begin = 0
            for i in range(len(track.stamps_ns)):
                if i and track.stamps_ns[i] - track.stamps_ns[i - 1] > LOG_GAP_S * 1e9:
                    begin = i
                if math.isnan(track.steering_rad[i]):
                    continue
                oldest = max(begin, i - 8 * head.frames)
                slot, age = window_slots(track.stamps_ns[oldest : i + 1], head.frames, head.period_s)
                index.append(np.where(slot < 0, -1, slot + first + oldest))
                ages.append(age)
                curvature.append(math.tan(float(track.steering_rad[i])) / wheelbase_m)
                speed = float(track.speed_mps[i])
                ahead.append(10.0 if math.isnan(speed) else lookahead_m(speed))
            first += len(track.stamps_ns)
        latent = np.concatenate([t.latent for t in tracks])
        return cls(
            latent,
            np.array(index),
            np.array(ages, np.float32),
            np.array(curvature, np.float32),
            np.array(ahead, np.float32),
        )

    def __len__(self) -> int:
        return len(self.curvature)

    def inputs(self, rows: np.ndarray, slots: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Tokens float32 [B,F,T,C] and ages [B,F] of windows; ``slots`` int64 [B,K] takes only those."""
        index, age = self.index[rows], self.age_s[rows]
        if slots is not None:
            index, age = np.take_along_axis(index, slots, 1), np.take_along_axis(age, slots, 1)
        latent = self.latent[np.maximum(index, 0)].astype(np.float32)
        latent[index < 0] = 0.0
        return torch.from_numpy(latent), torch.from_numpy(age)


class Batches(IterableDataset):
    """Endless random batches: few frames of each window, so that the head learns to do with any of them."""

    def __init__(self, windows: Windows, recipe: SteeringRecipe) -> None:
        super().__init__()
        self._windows, self._recipe = windows, recipe

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        recipe, windows = self._recipe, self._windows
        rng = np.random.default_rng([recipe.seed, 5])
        others = recipe.head.frames - 1
        while True:
            rows = rng.integers(len(windows), size=recipe.batch)
            drawn = rng.permuted(np.tile(np.arange(1, others + 1), (recipe.batch, 1)), axis=1)
            slots = np.concatenate((np.zeros((recipe.batch, 1), np.int64), drawn[:, : recipe.slots - 1]), 1)
            latent, age_s = windows.inputs(rows, slots)
            # Sometimes nothing but the newest frame, as after a start.
            alone = torch.from_numpy(rng.random(recipe.batch) < 0.15)
            age_s[alone, 1:] = NO_FRAME_S
            yield (
                latent,
                age_s,
                torch.from_numpy(windows.curvature[rows]),
                torch.from_numpy(windows.lookahead_m[rows]),
            )


class LitSteering(pl.LightningModule):
    """The head with its losses."""

    def __init__(self, recipe: SteeringRecipe, golden_window: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.recipe, self._golden_window = recipe, golden_window
        self.network = SteeringHead(recipe.head)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        latent, age_s, truth, ahead = batch
        curvature, deviation = self.network(latent, age_s)
        squared, surprise = steering_losses(
            curvature, deviation, truth, ahead, self.recipe.head.unit_per_m, self.recipe.bend_weight
        )
        self.log_dict({"squared": squared.detach(), "surprise": surprise.detach()}, prog_bar=True)
        return squared + 0.1 * surprise

    def configure_optimizers(self) -> dict:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        manifest = load_manifest(find_model(self.recipe.perception))
        places = {name: Path(getattr(self.recipe, name)).name for name in ("out", "start_from", "perception")}
        data = replace(
            self.recipe.data,
            cache=Path(self.recipe.data.cache).name,
            log=Path(self.recipe.data.log).name,
        )
        checkpoint[META] = {
            "network": self.recipe.network,
            "network_config": to_dict(self.recipe.head),
            "perception": {"name": manifest.name, "weights_sha256": manifest.weights.sha256},
            "recipe": to_dict(replace(self.recipe, data=data)) | places,
            "commit": source_commit(),
            "step": self.global_step,
        }
        latent, age_s = self._golden_window
        checkpoint[GOLDEN] = {"latent": latent.half(), "age_s": age_s}


def steering_losses(
    curvature: Tensor, deviation: Tensor, truth: Tensor, ahead: Tensor, unit: float, bend_weight: float
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of the curvature, and how surprised its deviation is by the error.

    L = sum w (k - k*)^2 / sum w with w = exp(lambda |k*|) (Nguyen et al., uni-encoder, eq. 5), k in units of
    ``unit``. On top, an error counts by the square of the driver's lookahead: what matters is the distance
    from the lane that it leads to, and that grows so. The second term is the negative log-likelihood of a
    normal distribution; it teaches the deviation only.

    Args:
        curvature, deviation, truth: float32 [B], 1/m.
        ahead: float32 [B], metres.
    """
    error = (curvature - truth) / unit
    weight = torch.exp((bend_weight * truth.abs() / unit).clamp(max=3.0)) * (ahead / 10.0) ** 2
    squared = (weight * error**2).sum() / weight.sum()
    sigma = deviation / unit
    surprise = (0.5 * (error.detach() / sigma) ** 2 + torch.log(sigma)).mean()
    return squared, surprise


def read_steering_recipe(path: str | Path, changes: Sequence[str] = ()) -> SteeringRecipe:
    """Read a recipe, then apply changes written ``key=value``.

    Raises:
        ConfigError: unreadable file, unknown key, bad value, or nothing to learn from.
    """
    recipe = read_changed(SteeringRecipe, path, changes)
    if not recipe.data.drives and not recipe.data.log:
        raise ConfigError("data: nothing to learn from; set data.drives or data.log")
    return recipe


def render(recipe: SteeringRecipe) -> None:
    """Render the drives that the recipe asks for and that its cache lacks."""
    data = recipe.data
    if data.drives:
        render_drives(Path(data.cache) / "drives", data.drives, (data.height, data.width), progress=True)


def load_tracks(recipe: SteeringRecipe) -> tuple[list[Track], dict[str, list[Track]]]:
    """Training tracks, and held-out tracks by the name of their set; tokens that are missing are made.

    Raises:
        ConfigError, InputError: a log or a drive is missing or damaged.
    """
    data = recipe.data
    maker = LatentMaker(recipe.perception, Path(data.cache) / "tokens")
    train: list[Track] = []
    held_out: dict[str, list[Track]] = {}
    try:
        if data.drives:
            folder = Path(data.cache) / "drives"
            clips = sorted((folder / "train").glob("*.npz"))[: data.drives]
            if not clips:
                raise ConfigError(f"no rendered drives in {folder}: run `dvps train CONFIG --render` first")
            train += tracks_of(maker, clips, "training drives")
            held_out[WORLD] = list(
                tracks_of(maker, sorted((folder / "val").glob("*.npz")), "held-out drives")
            )
        if data.log:
            path = Path(data.log) if Path(data.log).exists() else data_root() / data.log
            track = maker.track_of_log(open_steering_log(path))
            cut = round(data.log_share * len(track.stamps_ns))
            train.append(track.part(0, cut))
            held_out[track.name] = [track.part(cut, len(track.stamps_ns))]
    finally:
        maker.close()
    return train, held_out


def fit_steering(recipe: SteeringRecipe) -> Path:
    """Train a head and score it on what was held out.

    Returns:
        The checkpoint; ``figures.json`` lies beside it.

    Raises:
        DvpsError: nothing to learn from, or the loss is not finite.
    """
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(recipe.seed)
    train, held_out = load_tracks(recipe)
    train, kept_back = split_calibration(train)
    windows = Windows.of(train, recipe.head, recipe.data.wheelbase_m)
    full = int((windows.age_s >= 0).sum(1).argmax())
    module = LitSteering(recipe, windows.inputs(np.array([full])))
    module.network.standardise(torch.from_numpy(windows.latent).float())
    if recipe.start_from:
        weights = network_weights(read_checkpoint(recipe.start_from))
        load_weights(module.network, weights, recipe.start_from)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed",
        max_steps=recipe.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=CSVLogger(out, name="log", flush_logs_every_n_steps=50),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=20,
    )
    trainer.fit(module, DataLoader(Batches(windows, recipe), batch_size=None))
    if not all(torch.isfinite(p).all() for p in module.network.parameters()):
        raise DvpsError("steering: the training diverged; lower learning_rate")
    calibrate(module.network.eval(), Windows.of(kept_back, recipe.head, recipe.data.wheelbase_m))
    part = out / f"{LAST}.part"
    trainer.save_checkpoint(part)
    os.replace(part, out / LAST)
    validate(module.network, held_out, recipe)
    return out / LAST


def split_calibration(tracks: list[Track]) -> tuple[list[Track], list[Track]]:
    """Tracks to learn from, and those (or the last parts of a few) that only calibrate the deviation."""
    if len(tracks) >= CALIBRATED:
        return [t for i, t in enumerate(tracks) if i % CALIBRATED], tracks[::CALIBRATED]
    cuts = [len(t.stamps_ns) - len(t.stamps_ns) // CALIBRATED for t in tracks]
    pairs = list(zip(tracks, cuts, strict=True))
    return [t.part(0, cut) for t, cut in pairs], [t.part(cut, len(t.stamps_ns)) for t, cut in pairs]


def calibrate(network: SteeringHead, windows: Windows) -> None:
    """Scale the deviation so that :data:`ONE_DEVIATION` of the errors on ``windows`` lie within it."""
    curvature, deviation = predict(network, windows)
    factor = np.quantile(np.abs(curvature - windows.curvature) / deviation, ONE_DEVIATION)
    network.doubt *= float(factor)


@dataclass(frozen=True)
class HeadCheckpoint:
    """A trained head in evaluation mode."""

    network: SteeringHead
    meta: dict
    """``network_config``, ``perception`` (name, weights), ``recipe``, ``commit``, ``step``."""
    golden_window: tuple[np.ndarray, np.ndarray]
    """One real window, float32 latent [1,F,T,C] and age_s [1,F], to prove engines by."""


def load_head(path: str | Path) -> HeadCheckpoint:
    """Read the checkpoint of a head.

    Raises:
        CheckpointError: unreadable, of another network, or with weights that do not fit.
    """
    data = read_checkpoint(path)
    meta = data[META]
    if meta.get("network") != "steering":
        raise CheckpointError(f"checkpoint {path}: expected a steering head, got {meta.get('network')!r}")
    network = SteeringHead(from_mapping(SteeringConfig, meta["network_config"]))
    load_weights(network, network_weights(data), path)
    golden = tuple(data[GOLDEN][name].float().numpy() for name in ("latent", "age_s"))
    return HeadCheckpoint(network.eval(), meta, golden)


def validate_steering(recipe: SteeringRecipe) -> None:
    """Score the recipe's last checkpoint on what is held out."""
    network = load_head(Path(recipe.out) / LAST).network
    validate(network, load_tracks(recipe)[1], recipe)


def validate(network: SteeringHead, held_out: dict[str, list[Track]], recipe: SteeringRecipe) -> None:
    """Score a head, log the tables and write ``figures.json``."""
    figures = {}
    for name, tracks in held_out.items():
        wheelbase_m = WHEELBASE_M if name == WORLD else recipe.data.wheelbase_m
        figures[name] = score(network.eval(), tracks, wheelbase_m)
        log.info("%s\n%s", name, table(figures[name]))
    (Path(recipe.out) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def predict(network: SteeringHead, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Curvature and deviation of every window, float32 [W] each, 1/m."""
    results = []
    with torch.inference_mode():
        for first in range(0, len(windows), 64):
            rows = np.arange(first, min(first + 64, len(windows)))
            results.append(torch.stack(network(*windows.inputs(rows))).numpy())
    curvature, deviation = np.concatenate(results, 1)
    return curvature, deviation


def score(network: SteeringHead, tracks: Sequence[Track], wheelbase_m: float) -> dict[str, dict]:
    """Errors of the head's road-wheel angle, and of what needs no network, on the same frames.

    ``last value`` is the true angle of the frame before, and ``0.5 s ago`` that of half a second earlier. No
    camera sees them: they say how much would be known by who had measured the angle until then.
    """
    windows = Windows.of(tracks, network.config, wheelbase_m)
    curvature, deviation = predict(network, windows)
    truth = np.arctan(wheelbase_m * windows.curvature)
    rows = {"head": np.arctan(wheelbase_m * curvature), "zero": np.zeros_like(truth)}
    for name, ago_s in (("last value", 1e-9), ("0.25 s ago", 0.25), ("0.5 s ago", 0.5), ("1 s ago", 1.0)):
        rows[name] = np.concatenate([_angles_ago(track, ago_s) for track in tracks])
    figures = {}
    for name, angle in rows.items():
        errors = SteeringErrors()
        errors.update(truth, angle)
        figures[name] = errors.compute()
    inside = np.abs(curvature - windows.curvature) < deviation
    figures["head"]["within_one_deviation"] = float(inside.mean())
    figures["head"]["correlation"] = float(np.corrcoef(curvature, windows.curvature)[0, 1])
    return figures


def _angles_ago(track: Track, ago_s: float) -> np.ndarray:
    """For each frame with a known angle the newest one that is at least ``ago_s`` older; the first of the
    track where there is none."""
    known = ~np.isnan(track.steering_rad)
    stamps_ns, angles = track.stamps_ns[known], track.steering_rad[known]
    at = np.searchsorted(stamps_ns, stamps_ns - round(ago_s * 1e9), side="right") - 1
    return angles[np.maximum(at, 0)]


def table(figures: dict[str, dict]) -> str:
    """One line a predictor."""
    lines = [f"{'':<12}{'mse rad2':>12}{'mae rad':>10}{'bias rad':>10}{'frames':>8}"]
    for name, f in figures.items():
        lines.append(
            f"{name:<12}{f['mse_rad2']:>12.6f}{f['mae_rad']:>10.4f}{f['bias_rad']:>10.4f}{f['samples']:>8}"
        )
    return "\n".join(lines)
