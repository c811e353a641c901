# SPDX-License-Identifier: Apache-2.0
"""Everything a training run can be told; read from YAML, unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dvps_ros.config import from_flat, group, mapping, option, read_keys
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.transforms import AugmentConfig
from dvps_ros.data.world import STREETS
from dvps_ros.errors import ConfigError
from dvps_ros.labels import CITYSCAPES, LabelSpace, with_things
from dvps_ros.losses.weighting import WEIGHTINGS
from dvps_ros.networks import NETWORKS, SIZE_STEP

T = TypeVar("T")
CITYSCAPES_SOURCES = ("synthetic", "synthetic_stills", "camvid", "idd_lite", "kitti")
"""Fields of ``DataConfig``: clips in a batch whose labels are in the space ``cityscapes``."""


@dataclass(frozen=True)
class DataConfig:
    """Clips of each source in every batch, and where they lie."""

    cache: str = option("out/cache", "Folder of the rendered clips.")
    clips: int = option(2000, "Clips to render for training.", low=1)
    render_height: int = option(384, "Height of the rendered clips, pixels.", low=64)
    render_width: int = option(768, "Width of the rendered clips, pixels.", low=64)
    textures: str = option(
        "",
        "Photographs of surfaces for the rendered clips, as of the world. Cached clips of another look are "
        "rendered again: take a cache of its own for each.",
    )
    skies: str = option("", "Panoramas of the sky for them.")
    streets: str = option("plain", "What is on their streets, as of the world.", choices=STREETS)
    synthetic: int = option(2, "Rendered pairs of frames in a batch: they teach motion and identity.", low=0)
    synthetic_stills: int = option(
        5, "Rendered single frames in a batch: more scenes for the same time.", low=0
    )
    camvid: int = option(0, "CamVid images in a batch (needs DVPS_DATA).", low=0)
    idd_lite: int = option(0, "IDD-lite images in a batch (needs DVPS_DATA).", low=0)
    kitti: int = option(0, "Frame pairs of the KITTI drive in a batch (needs DVPS_DATA).", low=0)
    mix: dict = mapping(
        "Clips of other data sets in a batch, by name as `dvps data check` knows them: {kitti-step: 2}."
    )
    places: dict = mapping("Where they lie: {kitti-step: FOLDER}.")
    frames: int = option(1, "Frames of their clips.", low=1, high=64)
    panned: float = option(0.3, "Share of single images that become a clip by panning.", low=0.0, high=1.0)
    workers: int = option(1, "Processes that prepare batches.", low=0, high=64)


@dataclass(frozen=True)
class ScheduleConfig:
    """How long and how fast; the learning rate warms up, then falls along a cosine to 0."""

    minutes: float = option(
        0.0, "Length of the training in minutes of this machine; 0 counts steps only.", low=0.0
    )
    steps: int = option(20000, "Most optimiser steps.", low=1)
    warmup: float = option(0.03, "Share of the training in which the learning rate rises.", low=0.0, high=0.5)
    learning_rate: float = option(1e-3, "Highest learning rate (AdamW).", low=0.0)
    decay: str = option(
        "cosine",
        "How the learning rate falls to 0: half a cosine, or (1 - done)^0.9.",
        choices=("cosine", "poly"),
    )
    weight_decay: float = option(0.02, "Weight decay (AdamW).", low=0.0)
    clip_norm: float = option(5.0, "Gradients are scaled down to this norm.", low=0.0)
    ema_decay: float = option(
        0.998, "Decay of the averaged weights, which are validated and exported.", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    base: str = option(
        "", "Recipe, relative to this one, whose values hold where this one says nothing else."
    )
    network: str = option("lite", "Network to train, a name in networks.NETWORKS.")
    model: dict = mapping(
        "Size of the network: fields of its configuration, e.g. width; empty is its default."
    )
    start_from: str = option(
        "",
        "Checkpoint, model folder, or folder of the transformers library (Mask2Former for deep_dps) whose "
        "weights the training starts from; imagenet: the encoder's published ones; empty starts at random.",
    )
    learns: str = option(
        "",
        "Parts of the network that learn, their names with commas between; the others stay as they are. "
        "Empty: all.",
    )
    rates: dict = mapping("Factors on the learning rate, by part of the network: {backbone: 0.1}.")
    labels: str = option(
        "cityscapes",
        "Label space: cityscapes, a data set that is trained in its own (semkitti-dvps), or a YAML file.",
    )
    out: str = option("out/train", "Folder of checkpoints, logs and pictures.")
    seed: int = option(1, "Seed of weights, order and augmentation.", low=0)
    precision: str = option("bf16", "Arithmetic of the forward pass.", choices=("bf16", "fp32"))
    deterministic: bool = option(
        False, "The same recipe gives the same weights, bit for bit on a CPU; needs schedule.minutes = 0."
    )
    devices: int = option(1, "Devices of a distributed training.", low=1)
    checkpoint_minutes: float = option(5.0, "Time between checkpoints, minutes.", low=0.01)
    validate_every: int = option(500, "Steps between validations.", low=1)
    validate_clips: int = option(6, "Clips of each held-out set in a validation.", low=1)
    validate_area_px: int = option(
        204800,
        "Area of real images in a validation, pixels; rendered ones keep theirs. Of 4:3, 204800 is about "
        "what a graph of 384x768 sees, 348160 what one of 512x1024 sees.",
        low=1024,
    )
    data: DataConfig = group(DataConfig)
    augment: AugmentConfig = group(AugmentConfig)
    loss: dict = mapping("Weights of the network's loss terms, and their options; empty is its default.")
    weighting: str = option(
        "fixed",
        "How the weighted terms are balanced: not, by how slowly each falls, or by learned uncertainties.",
        choices=tuple(WEIGHTINGS),
    )
    schedule: ScheduleConfig = group(ScheduleConfig)


def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe, then apply changes written ``key=value`` (value in YAML).

    Raises:
        ConfigError: unreadable file, unknown key, bad value, a batch without clips, material without a place,
            or crops of a size that no network takes.
    """
    recipe = read_changed(Recipe, path, changes)
    network_config(recipe, classes=1)
    loss_weights(recipe)
    data = recipe.data
    _check_mix(data)
    if not data.mix and not any(getattr(data, name) for name in CITYSCAPES_SOURCES):
        raise ConfigError("data: a batch needs at least one clip; set data.synthetic or another source")
    height, width = recipe.augment.height, recipe.augment.width
    if height % SIZE_STEP or width % SIZE_STEP:
        raise ConfigError(
            f"augment.height, augment.width: expected multiples of {SIZE_STEP}, got {height} and {width}"
        )
    if recipe.deterministic and recipe.schedule.minutes:
        raise ConfigError(
            "deterministic: the learning rate must not follow the clock; "
            "set schedule.minutes=0 and schedule.steps"
        )
    return recipe


def _check_mix(data: DataConfig) -> None:
    for name, count in data.mix.items():
        if name not in LAYOUTS:
            raise ConfigError(f"data.mix: expected one of {', '.join(LAYOUTS)}, got {name!r}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"data.mix.{name}: expected clips in a batch, 1 or more, got {count!r}")
        if not isinstance(data.places.get(name), str):
            raise ConfigError(f"data.mix.{name}: say where it lies: data.places.{name}=FOLDER")
    if surplus := sorted(set(data.places) - set(data.mix)):
        raise ConfigError(
            f"data.places: {', '.join(surplus)} is not in data.mix; give it a number of clips there"
        )


def label_space(recipe: Recipe) -> LabelSpace:
    """The classes that a recipe trains.

    Raises:
        ConfigError: no such label space, or material that is not in it.
    """
    name = recipe.labels
    if name == CITYSCAPES.name:
        return CITYSCAPES
    if name in LAYOUTS:
        data = recipe.data
        foreign = [n for n in CITYSCAPES_SOURCES if getattr(data, n)] + [n for n in data.mix if n != name]
        if foreign:
            raise ConfigError(
                f"labels: {name} is the data set's own space, which {', '.join(foreign)} of data lacks; "
                "take it out, or train in cityscapes"
            )
        layout = LAYOUTS[name]
        return with_things(layout.space, layout.things)
    space = LabelSpace.from_yaml(name)
    if space.names != CITYSCAPES.names:
        raise ConfigError(
            f"labels: {name} must name the classes of cityscapes in their order: the material is labelled "
            "so; colours and what is countable may differ"
        )
    return space


def check_phases(recipes: Sequence[Recipe]) -> None:
    """Refuse phases of which one cannot go on from the one before.

    Raises:
        ConfigError: another network, size or label space, or the same folder twice.
    """
    for first, second in pairwise(recipes):
        for key in ("network", "model", "labels"):
            a, b = getattr(first, key), getattr(second, key)
            if a != b:
                raise ConfigError(
                    f"phases: {second.out} cannot go on from {first.out}: {key} is {b!r}, there it is {a!r}"
                )
    outs = [str(Path(recipe.out).resolve()) for recipe in recipes]
    if len(set(outs)) < len(outs):
        raise ConfigError(f"phases: each needs an `out` of its own, got {', '.join(r.out for r in recipes)}")


def _read_with_base(cls: type, path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The dotted keys of a recipe and of those that it is based on; its own come first.

    Raises:
        ConfigError: unreadable, or based on itself.
    """
    place = path.resolve()
    if place in seen:
        raise ConfigError(f"base: {path} is based on itself, by way of {', '.join(p.name for p in seen)}")
    values = read_keys(cls, path)
    base = values.get("base", "")
    if not base:
        return values
    return _read_with_base(cls, path.parent / base, (*seen, place)) | values


def network_config(recipe: Recipe, *, classes: int) -> Any:
    """Configuration of the recipe's network (such as ``LiteConfig``) for so many classes.

    Raises:
        ConfigError: unknown network, or a key of ``model`` that its configuration does not know or allow.
    """
    if recipe.network not in NETWORKS:
        raise ConfigError(f"network: expected one of {', '.join(NETWORKS)}, got {recipe.network!r}")
    if "classes" in recipe.model:
        raise ConfigError("model.classes: the label space decides it; leave it out")
    try:
        return from_flat(NETWORKS[recipe.network].config, recipe.model | {"classes": classes})
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from error


def loss_weights(recipe: Recipe) -> Any:
    """Weights and options of the loss terms of the recipe's network.

    Raises:
        ConfigError: a key of ``loss`` that the network does not know, or a value out of range.
    """
    try:
        return from_flat(NETWORKS[recipe.network].weights, recipe.loss)
    except ConfigError as error:
        raise ConfigError(f"loss: {error}") from error


def read_changed(cls: type[T], path: str | Path, changes: Sequence[str]) -> T:
    """Read a configuration file, then apply changes written ``key=value`` (value in YAML; none: empty text).

    Raises:
        ConfigError: unreadable file, unknown key or bad value.
    """
    return from_flat(cls, with_changes(_read_with_base(cls, Path(path)), changes))


def with_changes(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Values and what ``key=value`` says of them (value in YAML; none: empty text).

    Raises:
        ConfigError: no ``=``, or no YAML.
    """
    changed = dict(values)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, got {change!r}")
        try:
            changed[key] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"expected KEY=VALUE with a value in YAML, got {change!r}: {reason}") from error
    return changed
