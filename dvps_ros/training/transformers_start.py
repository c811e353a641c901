# SPDX-License-Identifier: Apache-2.0
"""Start a training from a folder of the transformers library: public weights of half a network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvps_ros.errors import CheckpointError
from dvps_ros.export.checkpoints.classes import names_of
from dvps_ros.export.checkpoints.source import load_model, open_checkpoint
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import DeepDps, Network
from dvps_ros.networks.deep_dps import mask2former_weights

log = logging.getLogger(__name__)
CLASSIFIER = "classify."
"""Parameters with one row a class, and one for "no object"."""


def start_from_transformers(network: Network, folder: Path, labels: LabelSpace) -> None:
    """Give a network the weights that a folder has for it; parts that it lacks stay at random and are logged.

    Rows of the classifier go by the names of the classes, whatever their case and punctuation; classes that
    the folder does not name stay at random.

    Raises:
        CheckpointError: of another architecture or size, unreadable, or with a part that is not whole.
    """
    checkpoint = open_checkpoint(str(folder))
    if not isinstance(network, DeepDps) or checkpoint.kind != "mask2former":
        raise CheckpointError(
            f"{folder} is of model type {checkpoint.kind!r}: expected mask2former, for network deep_dps; or "
            "export it with dvps import instead"
        )
    from transformers import Mask2FormerForUniversalSegmentation

    theirs: Any = load_model(checkpoint, Mask2FormerForUniversalSegmentation, allow_missing=False)
    _check_config(checkpoint.name, theirs.config, network)
    found = mask2former_weights(theirs.state_dict())
    state = network.state_dict()
    classifier = {n: found.pop(n) for n in list(found) if n.startswith(CLASSIFIER)}
    parts = {_part(n) for n in found}
    wrong = sorted(
        n
        for n in found.keys() | {n for n in state if _part(n) in parts}
        if n not in state or n not in found or state[n].shape != found[n].shape
    )
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit the network: {len(wrong)} parameters are missing, surplus or of another "
            f"shape, {wrong[0]} first; set model.backbone, pixel_decoder, width, queries, rounds and hidden "
            "to those of its config.json"
        )
    row_of = _rows_by_name(checkpoint.name, theirs.config.id2label)
    rows = {i: row_of[_plain(name)] for i, name in enumerate(labels.names) if _plain(name) in row_of}
    for name, value in classifier.items():
        found[name] = state[name].clone()
        found[name][-1] = value[-1]  # no object
        for own, row in rows.items():
            found[name][own] = value[row]
    network.load_state_dict(state | found)
    log.info(
        "%s: %d parameters taken; at random: %s; of %d classes %d are known by name",
        folder,
        len(found),
        ", ".join(sorted({_part(n) for n in state if n not in found})) or "none",
        len(labels),
        len(rows),
    )


def _check_config(name: str, config: Any, network: DeepDps) -> None:
    """What the shapes of the parameters do not show.

    Raises:
        CheckpointError: the same parameters would compute something else here.
    """
    wanted = {
        "num_attention_heads": network.config.heads,
        "pre_norm": False,
        "activation_function": "relu",
    }
    for key, value in wanted.items():
        if (got := getattr(config, key)) != value:
            raise CheckpointError(
                f"{name} does not fit the network: its {key} is {got!r}, expected {value!r}"
                + ("; set model.heads to it" if key == "num_attention_heads" else "; take another checkpoint")
            )


def _rows_by_name(name: str, names: Mapping[int, str]) -> dict[str, int]:
    """Name of a class -> its row; of equal names the first.

    Raises:
        CheckpointError: the classes are not numbered from 0 without a gap.
    """
    if sorted(names) != list(range(len(names))):
        raise CheckpointError(
            f"{name}: expected id2label in config.json to number its {len(names)} classes from 0, got "
            f"{', '.join(map(str, sorted(names)[-12:]))}; mend config.json"
        )
    rows: dict[str, int] = {}
    for i in sorted(names):
        rows.setdefault(_plain(names[i]), i)
    return rows


def _plain(name: str) -> str:
    return next(iter(names_of(name)), "")


def _part(name: str) -> str:
    return name.partition(".")[0]
