# SPDX-License-Identifier: Apache-2.0
"""Balancing of loss terms: values by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses import weighting  # noqa: E402
from dvps_ros.losses.term import Term, Terms, in_float32  # noqa: E402
from dvps_ros.losses.weighting import DynamicAverage, FixedWeights, Uncertainty  # noqa: E402


@dataclass(frozen=True)
class Weights:
    a: float = 2.0
    b: float = 3.0
    reach_m: float = 100.0


def means(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(float(a), requires_grad=True), "b": torch.tensor(float(b), requires_grad=True)}


def test_fixed_weights() -> None:
    assert FixedWeights(Weights())(means(5.0, 7.0)).item() == 2 * 5 + 3 * 7


def test_dynamic_average_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """a falls to a half, b not at all: r = (0.5, 1), so b weighs more."""
    monkeypatch.setattr(weighting, "WINDOW_STEPS", 2)
    w = DynamicAverage(Weights())
    for a, b in ((6, 1), (2, 1), (3, 1), (1, 1)):  # means of the windows: 4, 1 and 2, 1
        assert w(means(a, b)).item() == 2 * a + 3 * b
    low, high = math.exp(0.25), math.exp(0.5)
    factors = {"a": 2 * low / (low + high), "b": 2 * high / (low + high)}
    assert w.factors() == pytest.approx(factors)
    assert w(means(5.0, 7.0)).item() == pytest.approx(10 * factors["a"] + 21 * factors["b"])
    again = DynamicAverage(Weights())
    again.load_state_dict(w.state_dict())  # a training that goes on where it stopped
    assert again.factors() == w.factors()


def test_dynamic_average_leaves_terms_that_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighting, "WINDOW_STEPS", 1)
    w = DynamicAverage(Weights())
    for _ in range(3):
        w({"a": torch.tensor(1.0)})
    assert w.factors() == {"a": 1.0}
    assert w(means(1.0, 1.0)).item() == pytest.approx(2 + 3)


def test_uncertainty_by_hand_and_its_gradient() -> None:
    w = Uncertainty(Weights())
    assert w(means(4.0, 6.0)).item() == pytest.approx(0.5 * (2 * 4 + 3 * 6))
    with torch.no_grad():
        w.log_variance[0] = math.log(4.0)
    total = w(means(4.0, 6.0))
    assert total.item() == pytest.approx(0.5 * 2 * (4 / 4 + math.log(4)) + 9)
    total.backward()
    # At s = ln L the derivative by s vanishes: exp(-s) L = 1.
    assert w.log_variance.grad.tolist() == pytest.approx([0.0, 0.5 * 3 * (1 - 6), 0.0])


def test_terms_are_pooled_over_frames_and_name_what_is_not_finite() -> None:
    terms = Terms()
    terms.add("x", Term(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)), ("one",))
    terms.add("x", Term(torch.tensor([[8.0]]), torch.ones(1, 1)), ("two",))
    assert terms.means()["x"].item() == 4
    terms.add("x", Term(torch.tensor([[math.nan]]), torch.ones(1, 1)), ("three",))
    with pytest.raises(Exception, match="'x' is not finite for three"):
        terms.means()


def test_losses_compute_in_float32_under_autocast() -> None:
    @in_float32
    def loss(a: torch.Tensor, *, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    a = torch.full((1, 3), 1 + 2**-9)
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(a, b=a.T)
        assert got.dtype == torch.float32 and got.item() == pytest.approx(3 * (1 + 2**-9) ** 2, rel=1e-6)
        assert loss(a.bfloat16(), b=a.T).dtype == torch.float32
