# SPDX-License-Identifier: Apache-2.0
"""Start a training from a folder of the transformers library: public weights of half a network."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from dvps_ros.errors import CheckpointError
from dvps_ros.export.checkpoints.source import open_checkpoint
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import DeepDps, Network
from dvps_ros.networks.deep_dps import mask2former_weights

log = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
CLASSIFIER = "classify."
"""Parameters with one row a class, and one for "no object"."""


def start_from_transformers(network: Network, folder: Path, labels: LabelSpace) -> None:
    """Give a network the weights that a folder has for it; what it lacks stays at random and is logged.

    Rows of the classifier go by the names of the classes; classes that the folder does not name stay at
    random.

    Raises:
        CheckpointError: of another architecture or size, unreadable, or with parameters that the network has
            not.
    """
    checkpoint = open_checkpoint(str(folder))
    weights = _read_weights(folder)
    if not isinstance(network, DeepDps) or checkpoint.kind != "mask2former":
        raise CheckpointError(
            f"{folder} is of model type {checkpoint.kind!r}: expected mask2former, for network deep_dps; or "
            "export it with dvps import instead"
        )
    found = mask2former_weights(weights)
    state = network.state_dict()
    names = {int(i): name for i, name in checkpoint.config.get("id2label", {}).items()}
    classifier = {n: found.pop(n) for n in list(found) if n.startswith(CLASSIFIER)}
    wrong = sorted(n for n, v in found.items() if n not in state or state[n].shape != v.shape)
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit the network: {len(wrong)} parameters are surplus or of another shape, "
            f"{wrong[0]} first; set model.backbone, pixel_decoder, width, queries, rounds and hidden to "
            "those of its config.json"
        )
    known = [n for n in labels.names if n in names.values()]
    row_of = {name: i for i, name in names.items()}
    for name, value in classifier.items():
        rows = state[name].clone()
        rows[-1] = value[-1]  # no object
        for class_name in known:
            rows[labels.id_of(class_name)] = value[row_of[class_name]]
        found[name] = rows
    network.load_state_dict(state | found)
    fresh = sorted({n.partition(".")[0] for n in state if n not in found})
    log.info(
        "%s: %d parameters taken; at random: %s; of %d classes %d are known by name",
        folder,
        len(found),
        ", ".join(fresh) or "none",
        len(labels),
        len(known),
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """In float32.

    Raises:
        CheckpointError: unreadable; pickled weights are refused.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}: pickled weights are not read; save it again with "
            "model.save_pretrained(FOLDER, safe_serialization=True)"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch it again") from error
    return {n: v.to(torch.float32) if v.is_floating_point() else v for n, v in weights.items()}
