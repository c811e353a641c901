# SPDX-License-Identifier: Apache-2.0
"""Training of the steering head on stored tokens: minutes on a processor, the perception stays as it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from dvps_ros.config import from_mapping, group, option, to_dict
from dvps_ros.data.cache import read_clip
from dvps_ros.data.steering_log import open_steering_log
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.errors import CheckpointError, ConfigError, DvpsError, InputError
from dvps_ros.files import write_text
from dvps_ros.installation import source_commit
from dvps_ros.losses.steering import steering_losses
from dvps_ros.metrics.steering import SteeringErrors
from dvps_ros.networks.steering import NO_FRAME_S, SteeringHead, SteeringHeadConfig
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.training.checkpoint import META, load_weights, network_weights, read_checkpoint
from dvps_ros.training.checkpoint_io import WholeFiles
from dvps_ros.training.recipe import read_changed
from dvps_ros.training.sources import data_root
from dvps_ros.training.steering.baselines import (
    CnnLstm,
    angles_ago,
    fit_cnn_lstm,
    fit_measured,
    measured_terms,
    run_cnn_lstm,
    thumbnails,
)
from dvps_ros.training.steering.drives import render_drives
from dvps_ros.training.steering.latents import LatentMaker, TokenTrack
from dvps_ros.training.steering.windows import Windows
from dvps_ros.types import Sample

log = logging.getLogger(__name__)
LAST = "last.ckpt"
WORLD, UNMARKED = "world", "world_unmarked"
"""Names of the held-out drives: on any streets, and on streets without lines."""
GOLDEN = "golden_window"
CALIBRATED = 10
"""One of so many drives, or of so many parts of a log, is not learnt but calibrates the deviation."""
ONE_DEVIATION = 0.6827
"""Share of a normal distribution within one standard deviation."""


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
    baseline_steps: int = option(
        800, "Optimiser steps of the CNN-LSTM that the head is set beside; 0 leaves it out.", low=0
    )
    bend_weight: float = option(0.3, "lambda of the loss: how much more a bend counts.", low=0.0, high=5.0)
    head: SteeringHeadConfig = group(SteeringHeadConfig)
    data: SteeringDataConfig = group(SteeringDataConfig)


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
        terms = {"squared": squared.detach(), "surprise": surprise.detach()}
        for name, term in terms.items():
            if not torch.isfinite(term):
                raise DvpsError(
                    f"steering: the loss term {name} became {term.item()} at step {self.global_step}; "
                    "lower learning_rate (the last checkpoint is kept)"
                )
        self.log_dict(terms, prog_bar=True)
        return squared + 0.1 * surprise

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
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
            "commit": source_commit() or "unknown",
            "step": self.global_step,
        }
        latent, age_s = self._golden_window
        checkpoint[GOLDEN] = {"latent": latent.half(), "age_s": age_s}


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


@dataclass(frozen=True)
class TrackSets:
    """What a training takes."""

    learnt: list[TokenTrack]
    kept_back: list[TokenTrack]
    """Of the same drives and logs, not learnt: they calibrate."""
    held_out: dict[str, list[TokenTrack]]
    """What scores the head, by the name of the set."""


def load_tracks(recipe: SteeringRecipe) -> TrackSets:
    """Drives and log of a recipe; tokens that are missing are made.

    With ``baseline_steps`` the tracks hold thumbnails.

    Raises:
        ConfigError, InputError: a log or a drive is missing or damaged, or too little to calibrate by.
    """
    data = recipe.data
    maker = LatentMaker(recipe.perception, Path(data.cache) / "tokens")
    drives: list[TokenTrack] = []
    logs: list[TokenTrack] = []
    held_out: dict[str, list[TokenTrack]] = {}
    try:
        if data.drives:
            folder = Path(data.cache) / "drives"
            clips = sorted((folder / "train").glob("*.npz"))[: data.drives]
            sets = {WORLD: folder / "val", UNMARKED: folder / "val_unmarked"}
            unseen = {name: sorted(place.glob("*.npz")) for name, place in sets.items()}
            if not clips or not all(unseen.values()):
                raise ConfigError(f"drives are missing in {folder}: run `dvps train CONFIG --render` first")
            drives = _drives(maker, clips, "training drives", recipe)
            for name, paths in unseen.items():
                held_out[name] = _drives(maker, paths, f"held-out drives ({name})", recipe)
        if data.log:
            path = Path(data.log) if Path(data.log).exists() else data_root() / data.log
            steering_log = open_steering_log(path)
            clip = steering_log.clip(0, len(steering_log))
            track = _track(maker, steering_log.name, clip, data.wheelbase_m, recipe)
            cut = round(data.log_share * len(track.stamps_ns))
            logs.append(track.part(0, cut))
            held_out[track.name] = [track.part(cut, len(track.stamps_ns))]
    finally:
        maker.close()
    return TrackSets(*split_calibration(drives, logs), held_out)


def _drives(maker: LatentMaker, clips: list[Path], what: str, recipe: SteeringRecipe) -> list[TokenTrack]:
    return [
        _track(maker, f"{path.parent.name}-{path.stem}", read_clip(path), WHEELBASE_M, recipe)
        for path in tqdm(clips, desc=f"tokens of {what}", unit="drive")
    ]


def _track(
    maker: LatentMaker, name: str, clip: Sample, wheelbase_m: float, recipe: SteeringRecipe
) -> TokenTrack:
    track = maker.track(name, clip, wheelbase_m)
    return replace(track, thumbnails=thumbnails(clip.images)) if recipe.baseline_steps else track


def split_calibration(
    drives: list[TokenTrack], logs: list[TokenTrack]
) -> tuple[list[TokenTrack], list[TokenTrack]]:
    """What is learnt, and what only calibrates the deviation: every tenth drive, and of a log its last tenth.

    Of fewer drives than ten it is the last tenth of each, too.

    Raises:
        InputError: a track has no frame with a known angle to learn from, or to calibrate by.
    """
    many = len(drives) >= CALIBRATED
    learnt = [t for i, t in enumerate(drives) if i % CALIBRATED] if many else []
    kept_back = drives[::CALIBRATED] if many else []
    for track in logs if many else drives + logs:
        count = len(track.stamps_ns)
        cut = count - count // CALIBRATED
        learnt.append(track.part(0, cut))
        kept_back.append(track.part(cut, count))
    for what, tracks in (("learn from", learnt), ("calibrate by", kept_back)):
        for track in tracks:
            if not np.isfinite(track.steering_rad).any():
                raise InputError(
                    f"{track.name}: expected frames with a known angle to {what}, got none; "
                    "take a longer log, or leave it out"
                )
    return learnt, kept_back


def fit_steering(recipe: SteeringRecipe) -> Path:
    """Train a head and score it on what was held out.

    Returns:
        The checkpoint; ``figures.json`` lies beside it.

    Raises:
        DvpsError: nothing to learn from, or tokens, loss or head are not finite (the last checkpoint is
            kept).
    """
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(recipe.seed)
    sets = load_tracks(recipe)
    windows, kept_back = (Windows.of(tracks, recipe.head) for tracks in (sets.learnt, sets.kept_back))
    full = int((windows.age_s >= 0).sum(1).argmax())
    module = LitSteering(recipe, windows.inputs(np.array([full])))
    module.network.standardise(torch.from_numpy(windows.latent).float())
    if recipe.start_from:
        weights = network_weights(read_checkpoint(recipe.start_from), "network.")
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
        plugins=[WholeFiles()],
        enable_model_summary=False,
        log_every_n_steps=20,
    )
    trainer.fit(module, DataLoader(Batches(windows, recipe), batch_size=None))
    calibrate(module.network.eval(), kept_back)
    for name, tensor in module.network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise DvpsError(f"steering: {name} is not finite after {recipe.steps} steps; lower learning_rate")
    trainer.save_checkpoint(out / LAST)
    validate(module.network, sets, recipe)
    return out / LAST


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
    network = SteeringHead(from_mapping(SteeringHeadConfig, meta["network_config"]))
    load_weights(network, network_weights(data, "network."), path)
    golden = tuple(data[GOLDEN][name].float().numpy() for name in ("latent", "age_s"))
    return HeadCheckpoint(network.eval(), meta, golden)


def validate_steering(recipe: SteeringRecipe) -> None:
    """Score the recipe's last checkpoint on what is held out."""
    network = load_head(Path(recipe.out) / LAST).network
    validate(network, load_tracks(recipe), recipe)


def validate(network: SteeringHead, sets: TrackSets, recipe: SteeringRecipe) -> None:
    """Score a head and its baselines, log the tables and write ``figures.json``.

    The CNN-LSTM is trained for it, on what the head has learnt.
    """
    network.eval()
    cnn_lstm = None
    if recipe.baseline_steps:
        cnn_lstm = fit_cnn_lstm(
            sets.learnt,
            sets.kept_back,
            recipe.head,
            steps=recipe.baseline_steps,
            batch=recipe.batch,
            bend_weight=recipe.bend_weight,
            seed=recipe.seed,
        )
    weights = fit_measured([head_angles(network, t) for t in sets.kept_back])
    figures = {}
    for name, tracks in sets.held_out.items():
        figures[name] = score(network, tracks, weights, cnn_lstm)
        log.info("%s\n%s", name, table(figures[name]))
    write_text(Path(recipe.out) / "figures.json", json.dumps(figures, indent=1) + "\n")


def predict(network: SteeringHead, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Curvature and deviation of every window, float32 [W] each, 1/m."""
    results = []
    with torch.inference_mode():
        for first in range(0, len(windows), 64):
            rows = np.arange(first, min(first + 64, len(windows)))
            results.append(torch.stack(network(*windows.inputs(rows))).numpy())
    curvature, deviation = np.concatenate(results, 1)
    return curvature, deviation


def head_angles(network: SteeringHead, track: TokenTrack) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted road-wheel angle, rad, of every frame of a track whose angle is known."""
    windows = Windows.of([track], network.config)
    curvature, _ = predict(network, windows)
    return windows.angle_rad(windows.curvature), windows.angle_rad(curvature)


def score(
    network: SteeringHead,
    tracks: Sequence[TokenTrack],
    measured: np.ndarray,
    cnn_lstm: CnnLstm | None,
) -> dict[str, dict]:
    """Errors of the head's road-wheel angle, and of its baselines, on the same frames.

    ``last value`` is the true angle of the frame before, and ``0.5 s ago`` that of half a second earlier. No
    camera sees them: they say how much would be known by who had measured the angle until then. ``head +
    measured`` knows the angle of the frame before as well (:func:`fit_measured`); the head does not.
    """
    windows = Windows.of(tracks, network.config)
    curvature, deviation = predict(network, windows)
    truth = windows.angle_rad(windows.curvature)
    pairs = [head_angles(network, t) for t in tracks]
    rows = {"head": windows.angle_rad(curvature), "zero": np.zeros_like(truth)}
    if cnn_lstm is not None:
        rows["cnn-lstm"] = windows.angle_rad(run_cnn_lstm(cnn_lstm, windows, tracks))
    for name, ago_s in (("last value", 1e-9), ("0.25 s ago", 0.25), ("0.5 s ago", 0.5), ("1 s ago", 1.0)):
        rows[name] = np.concatenate([angles_ago(track, ago_s) for track in tracks])
    last, terms = (np.concatenate(v) for v in zip(*(measured_terms(*p) for p in pairs), strict=True))
    rows["head + measured"] = last + terms @ measured
    figures = {}
    for name, angle in rows.items():
        errors = SteeringErrors()
        errors.update(truth, angle)
        figures[name] = errors.compute()
    inside = np.abs(curvature - windows.curvature) < deviation
    figures["head"]["within_one_deviation"] = float(inside.mean())
    figures["head"]["correlation"] = float(np.corrcoef(curvature, windows.curvature)[0, 1])
    return figures


def table(figures: dict[str, dict]) -> str:
    """One line a predictor."""
    lines = [f"{'':<16}{'mse rad2':>12}{'mae rad':>10}{'bias rad':>10}{'frames':>8}"]
    for name, f in figures.items():
        lines.append(
            f"{name:<16}{f['mse_rad2']:>12.6f}{f['mae_rad']:>10.4f}{f['bias_rad']:>10.4f}{f['samples']:>8}"
        )
    return "\n".join(lines)
