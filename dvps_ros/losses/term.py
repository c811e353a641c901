# SPDX-License-Identifier: Apache-2.0
"""What every loss function returns: values per element and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """Values of one loss per element; the first axis is the sample.

    Args:
        value: float [B,...], finite wherever weight > 0.
        weight: float [B,...], 0 = the element does not count.
        divisor: what the weighted sum is divided by; the sum of the weights when None.
    """

    value: Tensor
    weight: Tensor
    divisor: Tensor | None = None

    def mean(self) -> Tensor:
        """The weighted mean, a scalar; 0 (with a zero gradient) when nothing counts."""
        return pooled_mean([self])

    def bad_samples(self) -> list[int]:
        """Indices of samples with a value that counts but is not finite."""
        bad = (~torch.isfinite(self.value)) & (self.weight > 0)
        return torch.nonzero(bad.flatten(1).any(1)).flatten().tolist()


def pooled_mean(terms: Sequence[Term]) -> Tensor:
    """The weighted mean over all terms' elements, a scalar; 0 (with a zero gradient) when nothing counts.

    Not the mean of their means: a frame with a single labelled pixel would weigh as much as a full one.
    """
    total = count = torch.zeros((), device=terms[0].value.device)
    for term in terms:
        # Select before multiplying: 0 * inf of a masked element would be NaN.
        counted = torch.where(term.weight > 0, term.value * term.weight, torch.zeros_like(term.value))
        total = total + counted.sum()
        count = count + (term.weight.sum() if term.divisor is None else term.divisor)
    return total / count.clamp_min(1e-6)
