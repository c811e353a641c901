# SPDX-License-Identifier: Apache-2.0
"""What is asked of every loss alike: gradients as of finite differences, elements without truth that change
nothing, whatever they hold, sums in float32 under autocast, and zero where there is no truth at all."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

import dvps_ros.losses  # noqa: E402
from dvps_ros.losses import (  # noqa: E402
    depth,
    flow,
    guidance,
    instance,
    masks,
    motion,
    panoptic_depth,
    photometric,
    segment_depth,
    semantic,
)
from dvps_ros.losses.targets import View  # noqa: E402
from dvps_ros.losses.term import Term  # noqa: E402

B, H, W, C, Q, G = 2, 6, 8, 3, 4, 3
SAMPLES = torch.Generator().manual_seed(5)
UNKNOWN = torch.zeros(B, H, W, dtype=torch.bool)
UNKNOWN[:, 2:5, 3:6] = True
"""Cells without truth."""
NONE = torch.ones_like(UNKNOWN)


def random(*shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
    """float64: gradients are compared with differences of 1e-5."""
    return low + (high - low) * torch.rand(*shape, generator=SAMPLES, dtype=torch.float64)


def whole(*shape: int, below: int) -> Tensor:
    return torch.randint(below, shape, generator=SAMPLES)


class Case(NamedTuple):
    """One loss on truth of which some cells are unknown."""

    term: Callable[[Tensor, Tensor], Term]
    """Of a prediction and the bool [B,h,w] of cells without truth."""
    prediction: Tensor
    deaf: Callable[[Tensor], Tensor] = lambda unknown: unknown[:, None]
    """Unknown cells -> which elements of the prediction must not matter."""
    never_empty: bool = False
    """Whether it needs no truth at all."""


CLASSES, IDS = whole(B, H, W, below=C), whole(B, H, W, below=4).int()
TARGET_PX = random(B, 2, H, W).float()
DEPTH_M, HEAT = random(B, H, W, low=2, high=40).float(), random(B, H, W, low=0, high=0.9).float()
HEAT[:, 1, 1] = 1.0
IMAGE = random(B, 3, H, W, low=0, high=255).float()
SEGMENTS = (torch.arange(W)[None, None] // 3 + 3 * (torch.arange(H)[None, :, None] // 3)).expand(B, H, W)
GROUPS = torch.tensor([[[True, True, False], [False, False, True]]] * B)
MATCHED = torch.tensor([[0, -1, 2, 1], [-1, 1, -1, 0]])
MASKS = torch.stack([(SEGMENTS == g) for g in range(G)], 1)
ROWS = torch.tensor([[0, 2, 1], [1, 0, -1]])
PREVIOUS = torch.nn.functional.normalize(random(B, 4, H, W), dim=1).float()
POSE = torch.eye(4).repeat(B, 1, 1)
POSE[:, 0, 3] = 0.4
INTRINSICS = torch.tensor([[8.0, 8.0, W / 2, H / 2]]).expand(B, 4)
SEEN = torch.ones(B, H, W, dtype=torch.bool)


def void(classes: Tensor, unknown: Tensor) -> Tensor:
    return classes.masked_fill(unknown, 255).to(torch.uint8)


def no_depth(unknown: Tensor) -> Tensor:
    return DEPTH_M.masked_fill(unknown, 0)


def no_segment(unknown: Tensor) -> Tensor:
    return SEGMENTS.masked_fill(unknown, -1)


def view() -> View:
    return View(IMAGE.roll(1, 3), SEEN, INTRINSICS, POSE)


def points() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def queries_of(unknown: Tensor) -> Tensor:
    """Queries of samples without panoptic truth."""
    return unknown.flatten(1).all(1)[:, None, None]


CASES: dict[str, Case] = {
    "depth.log_l1": Case(lambda x, u: depth.log_l1(x, no_depth(u), 80.0), random(B, 1, H, W)),
    "depth.scale_invariant": Case(
        lambda x, u: depth.scale_invariant(x, no_depth(u), 80.0), random(B, 1, H, W)
    ),
    "depth.gradient_l1": Case(lambda x, u: depth.gradient_l1(x, no_depth(u), 80.0), random(B, 1, H, W)),
    "depth.sky_is_far": Case(lambda x, u: depth.sky_is_far(x, ~u, 80.0), random(B, 1, H, W)),
    "depth.edge_aware_smoothness": Case(
        lambda x, u: depth.edge_aware_smoothness(x, IMAGE), random(B, 1, H, W), never_empty=True
    ),
    "guidance.semantic_to_depth": Case(
        lambda x, u: guidance.semantic_to_depth(x, no_segment(u)), random(B, 4, H, W)
    ),
    "guidance.depth_to_semantic": Case(
        lambda x, u: guidance.depth_to_semantic(x, DEPTH_M, ~u), random(B, 4, H, W)
    ),
    "instance.center_focal": Case(lambda x, u: instance.center_focal(x, HEAT, ~u), random(B, 1, H, W)),
    "instance.offset_l1": Case(lambda x, u: instance.offset_l1(x, TARGET_PX, ~u), random(B, 2, H, W)),
    "instance.identity_contrast": Case(
        lambda x, u: instance.identity_contrast(PREVIOUS, IDS, x, IDS.masked_fill(u, 0)),
        random(B, 4, H, W),
    ),
    "masks.query_class": Case(
        lambda x, u: masks.query_class(x, ROWS.clamp_min(0), MATCHED, ~u.flatten(1).all(1)),
        random(B, Q, C + 1),
        queries_of,
    ),
    "masks.query_masks mask": Case(
        lambda x, u: masks.query_masks(x, MASKS, ~u, MATCHED, points=40, generator=points())[0],
        random(B, Q, H, W),
    ),
    "masks.query_masks dice": Case(
        lambda x, u: masks.query_masks(x, MASKS, ~u, MATCHED, points=40, generator=points())[1],
        random(B, Q, H, W),
    ),
    "motion.charbonnier": Case(
        lambda x, u: motion.charbonnier(x, TARGET_PX.masked_fill(u[:, None], torch.nan)), random(B, 2, H, W)
    ),
    "motion.moving_cross_entropy": Case(
        lambda x, u: motion.moving_cross_entropy(x, void(CLASSES % 2, u)), random(B, 1, H, W)
    ),
    "panoptic_depth.guided_smoothness": Case(
        lambda x, u: panoptic_depth.guided_smoothness(x, no_segment(u)), random(B, 1, H, W)
    ),
    "panoptic_depth.guided_edges": Case(
        lambda x, u: panoptic_depth.guided_edges(x, no_segment(u)), random(B, 1, H, W)
    ),
    "panoptic_depth.guided_triplet": Case(
        lambda x, u: panoptic_depth.guided_triplet(x, no_segment(u)), random(B, 4, H, W)
    ),
    "photometric.photometric": Case(
        lambda x, u: photometric.photometric(x, IMAGE, SEEN, ~u, INTRINSICS, [view()]),
        random(B, 1, H, W, low=1.0, high=2.0),
        # The error of a pixel is that of the 3x3 around it.
        lambda unknown: torch.nn.functional.max_pool2d((~unknown).float(), 3, 1, 1)[:, None] == 0,
    ),
    "segment_depth.query_depth": Case(
        lambda x, u: segment_depth.query_depth(x, no_depth(u), MASKS, MATCHED),
        random(B, Q, H, W, low=1, high=60),
    ),
    "segment_depth.backup_depth": Case(
        lambda x, u: segment_depth.backup_depth(x, no_depth(u)), random(B, 1, H, W, low=1, high=60)
    ),
    "semantic.cross_entropy": Case(
        lambda x, u: semantic.cross_entropy(x, void(CLASSES, u)), random(B, C, H, W)
    ),
    "semantic.set_cross_entropy": Case(
        lambda x, u: semantic.set_cross_entropy(x, void(CLASSES % 2, u), GROUPS), random(B, C, H, W)
    ),
    "semantic.lovasz": Case(lambda x, u: semantic.lovasz(x, void(CLASSES, u)), random(B, C, H, W)),
    "semantic.set_lovasz": Case(
        lambda x, u: semantic.set_lovasz(x, void(CLASSES % 2, u), GROUPS), random(B, C, H, W)
    ),
    "flow.flow_photometric": Case(
        lambda x, u: flow.flow_photometric(x, IMAGE, ~u, IMAGE.roll(1, 3), SEEN),
        # Between pixels, where bilinear values have a slope.
        whole(B, 2, H, W, below=2).double() + random(B, 2, H, W, low=0.2, high=0.8),
        lambda unknown: torch.nn.functional.max_pool2d((~unknown).float(), 3, 1, 1)[:, None] == 0,
    ),
    "instance.center_mse": Case(lambda x, u: instance.center_mse(x, HEAT, ~u), random(B, 1, H, W)),
}
SINGLE = {
    "flow.flow_photometric",
    "instance.identity_contrast",
    "motion.moving_cross_entropy",
    "photometric.photometric",
    "semantic.cross_entropy",
    "semantic.set_cross_entropy",
    "semantic.lovasz",
    "semantic.set_lovasz",
}
"""Losses that compute in float32 only: their gradients are compared with coarser differences."""


def prediction_of(name: str) -> Tensor:
    prediction = CASES[name].prediction
    return (prediction.float() if name in SINGLE else prediction.clone()).requires_grad_()


def test_the_table_has_every_loss() -> None:
    found = set()
    for module in pkgutil.iter_modules(dvps_ros.losses.__path__):
        source = importlib.import_module(f"dvps_ros.losses.{module.name}")
        for name, function in inspect.getmembers(source, inspect.isfunction):
            gives = str(inspect.signature(function).return_annotation)
            public = not name.startswith("_") and function.__module__ == source.__name__
            if public and gives in ("Term", "tuple[Term, Term]"):
                found.add(f"{module.name}.{name}")
    assert {name.split()[0] for name in CASES} == found


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    case = CASES[name]
    x = prediction_of(name)
    value = case.term(x, UNKNOWN).mean()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.abs().max() > 0, "the case says nothing about its gradient"
    step, tolerance = (1e-2, 0.1) if name in SINGLE else (1e-5, 1e-3)
    for direction in random(5, *x.shape).to(x.dtype):
        with torch.no_grad():
            ahead, behind = (case.term(x + s * step * direction, UNKNOWN).mean() for s in (1, -1))
        expected = (gradient * direction).sum().item()
        got = (ahead - behind).item() / (2 * step)
        assert got == pytest.approx(expected, rel=tolerance, abs=tolerance * gradient.abs().max().item())


@pytest.mark.parametrize("name", CASES)
def test_what_has_no_truth_changes_nothing(name: str) -> None:
    case = CASES[name]
    if case.never_empty:
        pytest.skip("needs no truth")
    deaf = case.deaf(UNKNOWN)
    x = prediction_of(name)
    value = case.term(x, UNKNOWN).mean()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient[deaf.expand_as(x)].abs().sum() == 0
    other = torch.where(deaf, random(*x.shape).to(x.dtype).abs() + 0.5, x.detach())
    torch.testing.assert_close(case.term(other, UNKNOWN).mean(), value.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_without_any_truth_it_is_zero_with_a_gradient_of_zero(name: str) -> None:
    case = CASES[name]
    if case.never_empty:
        pytest.skip("needs no truth")
    x = prediction_of(name)
    term = case.term(x, NONE)
    assert term.mean().item() == 0 and term.bad_samples() == []
    if term.mean().requires_grad:
        term.mean().backward()
        assert x.grad.abs().max() == 0


@pytest.mark.parametrize("name", CASES)
def test_low_precision_is_summed_in_float32(name: str) -> None:
    case = CASES[name]
    low = case.prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = case.term(low, UNKNOWN)
    expected = case.term(low.float(), UNKNOWN)
    assert term.value.dtype == torch.float32
    torch.testing.assert_close(term.mean(), expected.mean().float())
