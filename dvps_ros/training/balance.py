# SPDX-License-Identifier: Apache-2.0
"""How strongly each loss pulls at the weights that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dvps_ros.losses.term import pooled_mean
from dvps_ros.training.batch import Batch
from dvps_ros.training.module import LitPerception


@dataclass(frozen=True)
class Pull:
    """Of one loss term, over the batches in which it counted."""

    value: float
    """Mean value, unweighted."""
    gradient: float
    """Mean norm of its gradient by the shared weights, unweighted."""
    weighted: float
    """``gradient`` times the term's weight in the recipe."""


def measure_pulls(module: LitPerception, batches: Iterable[Batch]) -> dict[str, Pull]:
    """Gradient of each loss term by the shared weights: those that every term of the batch reaches.

    An optimiser that divides by the size of the gradients (Adam) makes a head indifferent to the weight of
    its own loss; the weights decide only what the shared encoder learns. There the strongest term wins.
    """
    module.train()
    named = dict(module.network.named_parameters())
    values: dict[str, list[float]] = {}
    norms: dict[str, list[float]] = {}
    for batch in batches:
        with torch.autocast(module.device.type, torch.bfloat16, enabled=module.recipe.precision == "bf16"):
            terms = module.objective(batch, min(module.progress(), 1.0))
        gradients: dict[str, dict[str, Tensor]] = {}
        for name, parts in terms:
            if not any(bool((term.weight > 0).any()) for term in parts):
                continue
            mean = pooled_mean(parts)
            found = torch.autograd.grad(mean, list(named.values()), retain_graph=True, allow_unused=True)
            gradients[name] = {k: g for k, g in zip(named, found, strict=True) if g is not None}
            values.setdefault(name, []).append(float(mean.detach()))
        shared = set(named).intersection(*gradients.values()) if gradients else set()
        for name, gradient in gradients.items():
            square = sum(float(gradient[k].float().square().sum()) for k in shared)
            norms.setdefault(name, []).append(square**0.5)
    pulls = {}
    for name in norms:
        value, norm = (sum(x[name]) / len(x[name]) for x in (values, norms))
        pulls[name] = Pull(value, norm, norm * module.weighting.weight(name))
    return pulls
