# SPDX-License-Identifier: Apache-2.0
"""A folder of the transformers library, local or of its hub: what it says of itself, and its weights.

No code of the folder is run, no pickled object is made, and what the folder does not say is not guessed.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.files import read_data

log = logging.getLogger(__name__)

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TEXTS = ("*.json", "*.txt", "README.md")
PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".ckpt", ".bin")
DERIVED = ("relative_position_index", "position_ids", "num_batches_tracked")
"""Ends of keys that older files hold and newer networks work out by themselves."""
LISTED = 20
"""Keys that a message names."""


@dataclass(frozen=True)
class Checkpoint:
    """One folder that transformers loads."""

    name: str
    """As the user gave it."""
    folder: Path
    config: dict[str, Any]
    revision: str = ""
    """Commit of the hub; empty for local folders."""

    @property
    def kind(self) -> str:
        """The architecture, such as ``mask2former``."""
        return str(self.config["model_type"])

    def card(self) -> tuple[dict[str, Any], str]:
        """Metadata and text of README.md; empty where there are none."""
        path = self.folder / "README.md"
        text = path.read_text(errors="replace") if path.is_file() else ""
        match = re.match(r"---\s*\n(.*?)\n---\s*\n?(.*)", text, re.DOTALL)
        if not match:
            return {}, text
        try:
            data = yaml.safe_load(match[1])
        except yaml.YAMLError:
            return {}, match[2]
        return (data if isinstance(data, dict) else {}), match[2]

    def licence(self, stated: str | None, option: str) -> str:
        """What the user states, else what the card's metadata say.

        Raises:
            ConfigError: neither says it.
        """
        if stated:
            return stated
        data, _ = self.card()
        found = data.get("license")
        if found == "other":  # a name of its own, or nothing that one could go by
            found = data.get("license_name")
        if isinstance(found, list):
            found = " and ".join(map(str, found))
        if not found:
            raise ConfigError(
                f"{self.name}: its README.md names no licence in its metadata; look it up and state it with "
                f"{option} NAME"
            )
        return str(found)


def open_checkpoint(source: str) -> Checkpoint:
    """Find a folder, or fetch it from the hub, and read its configuration.

    Args:
        source: a folder, or ``owner/name`` or ``owner/name@revision`` on the hub.

    Raises:
        CheckpointError: it is not there, cannot be reached, or is no folder of transformers.
    """
    folder, revision = Path(source).expanduser(), ""
    if not folder.is_dir():
        if folder.exists():
            raise CheckpointError(
                f"{source}: expected a folder with config.json and weights, got a file; give its folder"
            )
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", source):
            raise CheckpointError(
                f"{source}: there is no such folder, and a hub name has the form owner/name"
            )
        folder = _fetched(source)
        revision = folder.name
    path = folder / "config.json"
    try:
        config = read_data(path)
    except ValueError as error:
        raise CheckpointError(
            f"{source} is no model of the transformers library: cannot read {path}: {error}; expected "
            "config.json beside model.safetensors, as save_pretrained writes them"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(
            f"{source} is no model of the transformers library: {path} has no model_type; expected a folder "
            "as save_pretrained writes it"
        )
    return Checkpoint(source, folder, config, revision)


def _fetched(source: str) -> Path:
    import huggingface_hub

    name, _, revision = source.partition("@")
    try:
        for patterns in ((*TEXTS, "*.safetensors"), (*TEXTS, "pytorch_model*.bin")):
            folder = huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=list(patterns)
            )
            if any((Path(folder) / file).is_file() for file in WEIGHTS[:2]):
                break
    # Its errors, and those of the HTTP library below, share no base but this.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{source} is no folder here, and cannot be fetched from the hub "
            f"({type(error).__name__}: {reason}); fetch it where there is a network with "
            f"`hf download {name} --local-dir FOLDER` (after `hf auth login` if its terms must be accepted) "
            "and give that folder"
        ) from error
    return Path(folder)


def load_model(
    checkpoint: Checkpoint,
    model_class: Any,
    *,
    allow_missing: bool,
    unused: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network in float32 and evaluation mode.

    Args:
        model_class: of transformers.
        allow_missing: random values for keys that the file lacks, instead of an error; surplus ones are
            ignored.
        unused: beginnings of keys that only training needs.
        changes: to the configuration.

    Raises:
        CheckpointError: no weights, pickled objects, or keys or shapes that do not fit the configuration.
    """
    if not any((checkpoint.folder / file).is_file() for file in WEIGHTS):
        pickles = sorted(p.name for p in checkpoint.folder.iterdir() if p.suffix in PICKLES)
        found = f" ({', '.join(pickles)} may run code when loaded, and is refused)" if pickles else ""
        raise CheckpointError(
            f"{checkpoint.name}: there are no weights that can be loaded{found}; expected "
            f"{WEIGHTS[0]} or {WEIGHTS[2]}, as save_pretrained writes them"
        )
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                checkpoint.folder,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                attn_implementation="eager",
                **(changes or {}),
            )
    # Which exception a damaged file or configuration raises depends on the library that reads it.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint.name}: its weights cannot be loaded as {model_class.__name__} "
            f"({type(error).__name__}: {reason}); files must be safetensors, or tensors only "
            "(torch's weights_only: other pickled objects are refused), whole, and of this configuration"
        ) from error
    shapes = sorted(
        f"{key} ({_sizes(got)} instead of {_sizes(want)})" for key, got, want in _mismatched(info)
    )
    if shapes:
        raise CheckpointError(
            f"{checkpoint.name}: the weights have other shapes than config.json says: {_listed(shapes)}; "
            "both must come from one training"
        )
    ignored = ("criterion.", *unused)
    missing, surplus = (
        sorted(k for k in info[kind] if not k.startswith(ignored) and not k.endswith(DERIVED))
        for kind in ("missing_keys", "unexpected_keys")
    )
    if missing or surplus:
        problem = "; ".join(
            f"{len(keys)} {what}: {_listed(keys)}"
            for what, keys in (("missing", missing), ("unknown", surplus))
            if keys
        )
        if not allow_missing:
            raise CheckpointError(
                f"{checkpoint.name}: keys of the weights do not fit {model_class.__name__}: {problem}; is it "
                "another network's file? --allow-missing takes it with random values for what is missing"
            )
        log.warning("%s: %s; missing ones are random", checkpoint.name, problem)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress and what transformers says of keys, which is said here."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _mismatched(info: Any) -> list[tuple[str, Any, Any]]:
    return [tuple(entry) for entry in info["mismatched_keys"]]


def _sizes(shape: Any) -> str:
    return "x".join(str(n) for n in shape) or "a number"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done with pixels before it sees them."""

    mean: tuple[float, ...]
    """Of red, green, blue, or of blue, green, red where ``flipped``; 0..255."""
    std: tuple[float, ...]
    flipped: bool
    """Channels in the order blue, green, red."""
    data: dict[str, Any]
    """The whole file; empty where mean and deviation were stated by hand."""


def read_preprocessing(
    checkpoint: Checkpoint, mean: Sequence[float] | None, std: Sequence[float] | None, prefix: str = "--"
) -> Preprocessing:
    """From the folder's ``preprocessor_config.json`` (or ``processor_config.json``), or as stated by hand.

    Args:
        mean, std: of red, green, blue in 0..1; both or none.
        prefix: of the options' names, for messages.

    Raises:
        ConfigError: only one of the two is given, or the folder does not say what the network wants.
    """
    data: dict[str, Any] = {}
    advice = f"state them with {prefix}mean R,G,B {prefix}std R,G,B (of pixels in 0..1)"
    for file, inner in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = checkpoint.folder / file
        if not path.is_file():
            continue
        try:
            read = read_data(path)
        except ValueError as error:
            raise ConfigError(f"{checkpoint.name}: cannot read {path}: {error}") from error
        data = (read or {}).get(inner, {}) if inner else read
        if isinstance(data, dict) and data:
            break
        data = {}
    if (mean is None) != (std is None):
        raise ConfigError(f"give both {prefix}mean and {prefix}std, or none")
    if mean is not None and std is not None:
        stated = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
        flips = {k: v for k, v in data.items() if k == "do_flip_channel_order"}
        return _preprocessing(
            checkpoint, stated | flips | {"image_mean": list(mean), "image_std": list(std)}, data, advice
        )
    if not data:
        raise ConfigError(
            f"{checkpoint.name}: it has no preprocessor_config.json, so mean and deviation of its input are "
            f"unknown; fetch that file too, or {advice}"
        )
    return _preprocessing(checkpoint, data, data, advice)


def _preprocessing(
    checkpoint: Checkpoint, values: dict[str, Any], data: dict[str, Any], advice: str
) -> Preprocessing:
    def value(key: str) -> Any:
        if values.get(key) is None:
            raise ConfigError(f"{checkpoint.name}: its preprocessor_config.json has no {key}; {advice}")
        return values[key]

    factor = float(value("rescale_factor")) if value("do_rescale") else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if value("do_normalize"):
        mean, std = list(value("image_mean")), list(value("image_std"))
    fits = len(mean) == len(std) == 3 and all(isinstance(v, (int, float)) for v in (*mean, *std))
    if not fits or min(std) <= 0 or factor <= 0:
        raise ConfigError(
            f"{checkpoint.name}: expected image_mean and image_std of three numbers, deviations and "
            f"rescale_factor above 0, got {mean}, {std}, {factor}; {advice}"
        )
    flipped = bool(values.get("do_flip_channel_order"))
    return Preprocessing(tuple(m / factor for m in mean), tuple(s / factor for s in std), flipped, data)


class Normalise(nn.Module):
    """Camera pixels as a network wants them."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.flipped = preprocessing.flipped
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] RGB 0..255 -> the same shape, normalised."""
        return ((image.flip(1) if self.flipped else image) - self.mean) / self.std
