# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights with all that is needed to use them: network, settings, labels, recipe, commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvps_ros.config import from_mapping
from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.installation import source_commit
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import NETWORKS

META = "dvps"
"""Key of the description in a checkpoint file."""
PERCEPTION = "objective.network."
"""Before the names of a perception network's weights: it is a part of its objective."""
_IDENTITY = ("network", "network_config", "labels")
"""What decides which weights a network takes, and what its outputs mean."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, its averaged weights loaded, in evaluation mode."""

    network: nn.Module
    labels: LabelSpace
    meta: dict[str, Any]
    """``network`` (name), ``network_config``, ``labels``, ``recipe``, ``commit``, ``step``, ``minutes``."""


def describe(
    network: str, network_config: Mapping[str, Any], labels: LabelSpace, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """The fixed part of :attr:`Checkpoint.meta`."""
    return {
        "network": network,
        "network_config": dict(network_config),
        "labels": labels.to_dict(),
        "recipe": dict(recipe),
        "commit": source_commit() or "unknown",
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The raw content of a checkpoint of this package, on the CPU.

    Raises:
        CheckpointError: missing, truncated, or written by something else.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist") from error
    except Exception as error:  # a file of anybody's: unpickling raises whatever it runs into
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} is truncated or no checkpoint: {reason}") from error
    described = isinstance(data, dict) and isinstance(data.get(META), dict)
    if not described or not isinstance(data.get("state_dict"), dict):
        raise CheckpointError(
            f"checkpoint {path} was not written by `dvps train`: it holds no {META!r} description"
        )
    return data


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Rebuild the network of a checkpoint with its averaged weights.

    Raises:
        CheckpointError: unreadable, of an unknown network, or with weights that do not fit it.
    """
    data = read_checkpoint(path)
    meta = data[META]
    if missing := [key for key in _IDENTITY if key not in meta]:
        raise CheckpointError(
            f"checkpoint {path} does not say its {', '.join(missing)}: expected one that `dvps train` wrote"
        )
    if meta["network"] not in NETWORKS:
        raise CheckpointError(
            f"checkpoint {path} is of network {meta['network']!r}; this version knows {', '.join(NETWORKS)}"
        )
    design: Any = NETWORKS[meta["network"]]
    try:
        network = design.network(from_mapping(design.config, meta["network_config"]))
        labels = LabelSpace.from_dict(meta["labels"])
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {path} does not fit this version: {error}") from error
    load_weights(network, network_weights(data), path)
    return Checkpoint(network.eval(), labels, meta)


def load_mean_checkpoint(paths: Sequence[str | Path]) -> Checkpoint:
    """The network whose weights are the mean of those of several checkpoints (Wortsman et al. 2022).

    It serves for trainings that went on from one another or from one start. Everything else is the first's.

    Raises:
        CheckpointError: one is unreadable, or they are not of one network, size and label space.
    """
    loaded = [load_checkpoint(path) for path in paths]
    first = loaded[0]
    for path, other in zip(paths[1:], loaded[1:], strict=True):
        check_fits(path, other.meta, first.meta, str(paths[0]))
    states = [checkpoint.network.state_dict() for checkpoint in loaded]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    first.network.load_state_dict(mean)
    others = [{key: c.meta[key] for key in ("recipe", "commit", "step", "minutes")} for c in loaded[1:]]
    return replace(first, meta={**first.meta, "mean_with": others}) if others else first


def check_fits(
    path: str | Path, meta: Mapping[str, Any], wanted: Mapping[str, Any], whose: str = "the recipe"
) -> None:
    """Prove that a checkpoint is of the network, size and label space that are wanted.

    Args:
        meta, wanted: descriptions, see :func:`describe`.
        whose: what ``wanted`` describes, for the message.

    Raises:
        CheckpointError: it is of others, or does not say of which.
    """
    got, expected = _flat_identity(meta), _flat_identity(wanted)
    for key in expected | got:
        if got.get(key) != expected.get(key):
            raise CheckpointError(
                f"checkpoint {path} differs from {whose} in its {key}: expected {expected.get(key)!r}, "
                f"got {got.get(key)!r}; use one of the same network, size and label space"
            )


def _flat_identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    labels = meta.get("labels", {})
    return {
        "network": meta.get("network"),
        **{f"network_config.{key}": value for key, value in meta.get("network_config", {}).items()},
        "labels.name": labels.get("name"),
        **{f"labels.classes.{i}": value for i, value in enumerate(labels.get("classes", ()))},
    }


def network_weights(data: Mapping[str, Any], prefix: str = PERCEPTION) -> dict[str, Tensor]:
    """The averaged weights of the network in a raw checkpoint, whose names begin with ``prefix`` there."""
    return {k.removeprefix(prefix): v for k, v in data["state_dict"].items() if k.startswith(prefix)}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Load all weights, or refuse.

    Raises:
        CheckpointError: names or shapes differ.
    """
    wanted = network.state_dict()
    wrong = sorted(
        name
        for name in wanted.keys() | weights.keys()
        if name not in weights or name not in wanted or wanted[name].shape != weights[name].shape
    )
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"checkpoint {path} does not fit the network: missing, surplus or of another shape: "
            f"{', '.join(wrong[:3])}{more}; use one that this version wrote for this network"
        )
    network.load_state_dict(weights)
