# SPDX-License-Identifier: Apache-2.0
"""Start a training from a published model folder: no checkpoint is needed to go on from its weights.

A published graph holds its batch normalisations folded into the convolutions before them. Here each is
unfolded again, with the statistics of the new training data, so that it computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from dvps_ros.errors import CheckpointError
from dvps_ros.export.published import published_weights


@torch.no_grad()
def start_from_model(
    network: nn.Module, folder: str | Path, batches: Iterable, forward: Callable[[object], object]
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
            parent, _, index = name.rpartition(".")
            folded = f"{parent}.{int(index) - 1}.bias"
            if folded not in found or found[folded].shape != module.bias.shape:
                raise CheckpointError(f"model {folder} does not fit the network: no bias {folded} for {name}")
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
            "first; start from a model of the same architecture"
        )
    for name, parameter in wanted.items():
        parameter.copy_(found[name])
    _unfold(network, biases, batches, forward)


def _unfold(
    network: nn.Module,
    biases: dict[nn.BatchNorm2d, Tensor],
    batches: Iterable,
    forward: Callable[[object], object],
) -> None:
    """Set each normalisation to x + bias, in terms of the mean and variance of its input over the batches."""
    sums = {m: [torch.zeros_like(m.bias), torch.zeros_like(m.bias), 0] for m in biases}

    def measure(module: nn.Module, inputs: tuple[Tensor]) -> None:
        x, entry = inputs[0].float(), sums[module]
        entry[0] += x.sum((0, 2, 3))
        entry[1] += x.square().sum((0, 2, 3))
        entry[2] += x.numel() // x.shape[1]

    hooks = []
    for module, bias in biases.items():
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)
        module.weight.fill_(1)
        module.bias.copy_(bias)
        hooks.append(module.register_forward_pre_hook(measure))
    was_training = network.training
    network.eval()
    for batch in batches:
        forward(batch)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for module, bias in biases.items():
        total, squares, count = sums[module]
        if not count:
            raise CheckpointError("warm start: a normalisation saw no data; give at least one batch of pairs")
        mean = total / count
        module.running_mean.copy_(mean)
        module.running_var.copy_((squares / count - mean.square()).clamp_min(0))
        module.weight.copy_((module.running_var + module.eps).sqrt())
        module.bias.copy_(bias + mean)
