# SPDX-License-Identifier: Apache-2.0
"""How the means of the loss terms become one number: the only place with weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

WINDOW_STEPS = 100
"""Steps over which dynamic averaging takes the mean of a term: the epoch of its authors, for endless data."""
TEMPERATURE = 2.0
"""Of dynamic averaging (Liu et al. 2019)."""


class Weighting(nn.Module, ABC):
    """A weighted sum of terms.

    Args:
        weights: an object with one number a term, by the term's name; may have other options.
    """

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights
        self.names = tuple(f.name for f in fields(weights))

    def weight(self, name: str) -> float:
        """The number that the recipe gives a term."""
        return float(getattr(self.weights, name))

    @abstractmethod
    def forward(self, means: Mapping[str, Tensor]) -> Tensor:
        """The total, a scalar.

        Args:
            means: name -> mean of the term, see ``Terms.means``.
        """


class FixedWeights(Weighting):
    """The recipe's weights, from the first step to the last."""

    def forward(self, means: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), device=next(iter(means.values())).device)
        for name, mean in means.items():
            total = total + self.weight(name) * mean
        return total


class DynamicAverage(Weighting):
    """Terms that fall more slowly than the others weigh more (Liu et al. 2019, eq. 7, "dynamic weight
    average").

    The recipe's weight of term k is multiplied by K softmax(r_k / T), r_k = L_k(window - 1) / L_k(window -
    2), over the K terms; by 1 in the first two windows of WINDOW_STEPS steps.
    """

    sums: Tensor
    means: Tensor
    step: Tensor

    def __init__(self, weights: Any) -> None:
        super().__init__(weights)
        count = len(self.names)
        self.register_buffer("sums", torch.zeros(2, count))
        """Of the window that runs: sum of each term, and in how many steps it was there."""
        self.register_buffer("means", torch.full((2, count), torch.nan))
        """Of the last two windows, the older first."""
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def factors(self) -> dict[str, float]:
        """Name -> factor on the recipe's weight, of the terms that were there in both windows."""
        ratio = self.means[1] / self.means[0].clamp_min(1e-12)
        known = torch.isfinite(ratio)
        shares = int(known.sum()) * torch.softmax(ratio[known] / TEMPERATURE, 0)
        names = [name for name, there in zip(self.names, known.tolist(), strict=True) if there]
        return dict(zip(names, shares.tolist(), strict=True))

    def forward(self, means: Mapping[str, Tensor]) -> Tensor:
        factors = self.factors()
        total = torch.zeros((), device=next(iter(means.values())).device)
        for name, mean in means.items():
            total = total + self.weight(name) * factors.get(name, 1.0) * mean
        if self.training:
            self._count(means)
        return total

    @torch.no_grad()
    def _count(self, means: Mapping[str, Tensor]) -> None:
        for i, name in enumerate(self.names):
            if name in means:
                self.sums[0, i] += means[name].detach()
                self.sums[1, i] += 1
        self.step += 1
        if int(self.step) % WINDOW_STEPS == 0:
            self.means[0] = self.means[1]
            self.means[1] = self.sums[0] / self.sums[1]  # NaN where the term was never there
            self.sums.zero_()


class Uncertainty(Weighting):
    """Each term has a learned log variance s (Kendall et al. 2018, eq. 10 for regressions): the total is the
    sum of weight * (exp(-s) L + s) / 2, s = 0 at the start."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights)
        # As long as the number of fields, some of which may be no terms: those get no gradient.
        self.log_variance = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, means: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), device=next(iter(means.values())).device)
        for name, mean in means.items():
            s = self.log_variance[self.names.index(name)]
            total = total + 0.5 * self.weight(name) * (torch.exp(-s) * mean + s)
        return total


WEIGHTINGS: dict[str, type[Weighting]] = {
    "fixed": FixedWeights,
    "dynamic_average": DynamicAverage,
    "uncertainty": Uncertainty,
}
