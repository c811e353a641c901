# SPDX-License-Identifier: Apache-2.0
"""Start a training from a published model folder: no checkpoint is needed to go on from its weights.

A published graph holds its batch normalisations folded into the convolutions before them. Here each is
unfolded again, with the statistics of the new training data, so that it computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvps_ros.errors import CheckpointError
from dvps_ros.export.graph import CONVOLUTION_AND_NORM
from dvps_ros.export.published import published_weights


@torch.no_grad()
def start_from_model(
    network: nn.Module, folder: str | Path, batches: Iterable, forward: Callable[[Any], object]
) -> None:
    """Load a model folder's weights into ``network``, which afterwards computes what the model computes.

    Args:
        network: of the architecture that the folder was exported from; changed in place.
        batches: some batches of the coming training, for the statistics of the batch normalisations.
        forward: runs the network on a batch.

    Raises:
        CheckpointError: names or shapes differ from the network's.
        EngineError: the folder is no complete model.
    """
    constants = dict(network.named_buffers())
    found = {k: v for k, v in published_weights(folder).items() if k not in constants}
    modules = dict(network.named_modules())
    biases: dict[nn.BatchNorm2d, Tensor] = {}
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d):
            folded = f"{_before(name)}.bias"
            if folded not in found or found[folded].shape != module.bias.shape:
                raise CheckpointError(
                    f"model {folder} does not fit the network: no bias {folded} for {name}; start from a "
                    "model of the same architecture, or from a checkpoint"
                )
            biases[module] = found.pop(folded)
    wanted = {n: p for n, p in network.named_parameters() if modules[n.rpartition(".")[0]] not in biases}
    wrong = [
        n
        for n in wanted.keys() | found.keys()
        if n not in found or n not in wanted or found[n].shape != wanted[n].shape
    ]
    if wrong:
        raise CheckpointError(
            f"model {folder} does not fit the network: {len(wrong)} parameters differ, {sorted(wrong)[0]} "
            "first; start from a model of the same architecture, or from a checkpoint"
        )
    for name, parameter in wanted.items():
        parameter.copy_(found[name])
    _unfold(network, biases, batches, forward)


def _before(norm: str) -> str:
    """Name of the convolution that a normalisation follows, see ``export.graph.folded``."""
    parent, _, last = norm.rpartition(".")
    convolution, normalisation = CONVOLUTION_AND_NORM
    return f"{parent}.{convolution if last == normalisation else int(last) - 1}"


@dataclass
class _Sums:
    """Of what comes into a normalisation, by channel."""

    total: Tensor
    squares: Tensor
    count: int = 0

    def measure(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].float()
        self.total += x.sum((0, 2, 3))
        self.squares += x.square().sum((0, 2, 3))
        self.count += x.numel() // x.shape[1]


def _running(module: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance that it normalises by."""
    assert module.running_mean is not None and module.running_var is not None
    return module.running_mean, module.running_var


def _unfold(
    network: nn.Module,
    biases: dict[nn.BatchNorm2d, Tensor],
    batches: Iterable,
    forward: Callable[[Any], object],
) -> None:
    """Set each normalisation to x + bias, in terms of the mean and variance of its input over the batches."""
    sums = {m: _Sums(torch.zeros_like(m.bias), torch.zeros_like(m.bias)) for m in biases}
    hooks = []
    for module, bias in biases.items():
        mean, variance = _running(module)
        mean.zero_()
        variance.fill_(1 - module.eps)
        module.weight.fill_(1)
        module.bias.copy_(bias)
        hooks.append(module.register_forward_pre_hook(sums[module].measure))
    was_training = network.training
    network.eval()
    for batch in batches:
        forward(batch)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for module, bias in biases.items():
        seen = sums[module]
        if not seen.count:
            raise CheckpointError("warm start: a normalisation saw no data; give at least one batch of pairs")
        mean, variance = _running(module)
        mean.copy_(seen.total / seen.count)
        variance.copy_((seen.squares / seen.count - mean.square()).clamp_min(0))
        module.weight.copy_((variance + module.eps).sqrt())
        module.bias.copy_(bias + mean)
