# SPDX-License-Identifier: Apache-2.0
"""What every loss function returns: values per element and which of them count; and all terms of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvps_ros.errors import DvpsError


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
        return torch.nonzero(bad.reshape(len(bad), -1).any(1)).flatten().tolist()


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


class Terms:
    """The terms of all frames of a batch, unweighted, by name; each with the names of the samples it is
    of."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[Term, tuple[str, ...]]]] = {}

    def add(self, name: str, term: Term, sources: tuple[str, ...]) -> None:
        """Add a term of one frame, or of one decoder layer."""
        self._parts.setdefault(name, []).append((term, sources))

    def __iter__(self) -> Iterator[tuple[str, list[Term]]]:
        for name, parts in self._parts.items():
            yield name, [term for term, _ in parts]

    def means(self) -> dict[str, Tensor]:
        """The mean of each term over all its elements.

        Raises:
            DvpsError: a term is not finite; names the term and the samples.
        """
        means = {}
        for name, parts in self._parts.items():
            for term, sources in parts:
                if bad := term.bad_samples():
                    raise DvpsError(
                        f"loss term {name!r} is not finite for {', '.join(sources[i] for i in bad)}: lower "
                        "the learning rate or look at the truth of what is named; the last checkpoint is kept"
                    )
            means[name] = pooled_mean([term for term, _ in parts])
        return means


def in_float32(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss function that computes in float32 wherever it is called: under autocast, sums over a map in bf16
    or fp16 lose what they are about."""

    @functools.wraps(loss)
    def wrapped(*args: Any, **options: Any) -> Any:
        device = next(a.device.type for a in (*args, *options.values()) if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*map(_float32, args), **{k: _float32(v) for k, v in options.items()})

    return wrapped


def _float32(value: Any) -> Any:
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value
