# SPDX-License-Identifier: Apache-2.0
"""What every network must do, asked of all in the table, at a size for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dvps_ros.config import from_flat
from dvps_ros.contract import OUTPUTS
from dvps_ros.export.graph import DeployedGraph
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.losses.weighting import FixedWeights
from dvps_ros.networks import NETWORKS, Network
from dvps_ros.training.batch import collate
from dvps_ros.types import Sample

H, W = 64, 128
TINY: dict[str, dict[str, Any]] = {
    "lite": {"encoder": "thin_tiny", "decoder_width": 16, "context_width": 16, "state_width": 8},
    "deep_dps": {
        "backbone": "resnet_tiny", "pixel_decoder": "pyramid", "width": 32, "queries": 12, "heads": 4,
        "hidden": 64, "rounds": 1,
    },
    "mono_dvps": {
        "backbone": "resnet_tiny", "context_width": 16, "semantic_width": 16, "instance_width": 16,
        "head_width": 16, "state_width": 16,
    },
}  # fmt: skip
"""A new network needs a line here."""
LOSS: dict[str, dict[str, Any]] = {
    "lite": {},
    "deep_dps": {"points": 200},
    "mono_dvps": {"pose_backbone": "resnet_tiny"},
}
UNUSED: dict[str, tuple[str, ...]] = {
    # Motion needs a previous frame that matches, which weights near their start hardly give.
    "lite": ("motion.",),
    "deep_dps": (),
    "mono_dvps": (),
}
"""Parts whose gradient may vanish at the start."""


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def build(name: str) -> Network:
    design: Any = NETWORKS[name]
    return design.network(from_flat(design.config, TINY[name]))


def scene(seed: int = 0, frames: int = 2) -> Sample:
    """Road below sky, two cars of other depths that drive to the right; all truth known."""
    rng = np.random.default_rng(seed)
    classes = np.full((frames, H, W), CITYSCAPES.id_of("road"), np.uint8)
    classes[:, : H // 2] = CITYSCAPES.id_of("sky")
    ids, depth = np.zeros((frames, H, W), np.int32), np.full((frames, H, W), 20, np.float32)
    depth[:, : H // 2] = 0
    for t in range(frames):
        for k, x in enumerate((8, 72)):
            at = np.s_[t, 20:48, x + 4 * t : x + 4 * t + 40]
            classes[at], ids[at], depth[at] = CITYSCAPES.id_of("car"), k + 1, 6 + 6 * k
    color = {CITYSCAPES.id_of("road"): 90, CITYSCAPES.id_of("sky"): 220, CITYSCAPES.id_of("car"): 30}
    grey = np.vectorize(color.get)(classes)[..., None] + 60 * (ids == 1)[..., None] * np.array([1, 0, 0])
    images = (grey + rng.integers(0, 8, (frames, H, W, 3))).astype(np.uint8)
    flow = np.zeros((frames, H, W, 2), np.float32)
    flow[..., 0] = np.where(ids > 0, -4, 0)
    flow[0] = np.nan
    return Sample(
        images=images,
        intrinsics=np.tile(np.array([100, 100, 63.5, 31.5], np.float32), (frames, 1)),
        source=f"scene {seed}",
        class_map=classes,
        instance_map=ids,
        depth_m=depth,
        flow_px=flow,
        moving=(ids > 0).astype(np.uint8),
    )


def batch_of(name: str, *samples: Sample) -> list:
    return collate(samples, CITYSCAPES, NETWORKS[name].objective.targets)


def objective_of(name: str, network: Network, **weights: Any) -> Any:
    design = NETWORKS[name]
    return design.objective(network, CITYSCAPES, from_flat(design.weights, LOSS[name] | weights))


def run(graph: DeployedGraph, sample: Sample) -> list[dict[str, torch.Tensor]]:
    """The outputs of each frame, with memory."""
    state = [torch.zeros(s.sizes(H, W)) for s in graph.state]
    results = []
    with torch.inference_mode():
        for image, intrinsics in zip(sample.images, sample.intrinsics, strict=True):
            got = graph(torch.from_numpy(image)[None], torch.from_numpy(intrinsics)[None], *state)
            results.append(dict(zip(graph.output_names, got, strict=True)))
            state = [results[-1][f"next_{s.name}"] for s in graph.state]
    return results


def test_the_tables_are_complete() -> None:
    assert set(TINY) == set(LOSS) == set(UNUSED) == set(NETWORKS)
    for name, design in NETWORKS.items():
        assert design.network.name == name


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_contracts(name: str) -> None:
    network = build(name)
    out = run(DeployedGraph(network, CITYSCAPES), scene())[-1]
    tokens, channels = out["latent"].shape[1:]
    slots, size = out["embedding"].shape[1:]
    letters = {
        "h": H // 4, "w": W // 4, "K": slots, "S": 9, "D": size, "C": 19, "T": tokens, "F": channels
    }  # fmt: skip
    for output in OUTPUTS.values():
        if output.required or output.name in out:
            assert tuple(out[output.name].shape) == output.sizes(letters), output.name
            assert str(out[output.name].dtype) == f"torch.{output.dtype}", output.name
            assert torch.isfinite(out[output.name].float()).all(), output.name
    assert (out["class_map"] < 19).logical_or(out["class_map"] == VOID).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_zero_memory_is_a_first_frame(name: str) -> None:
    network = build(name).eval()
    image, intrinsics = torch.rand(1, 3, H, W) * 255, torch.tensor([[100.0, 100, 63.5, 31.5]])
    with torch.no_grad():
        first, zero = network(image, intrinsics), network(image, intrinsics, network.initial_state(image))
    for field, value in vars(first).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(zero, field)), field


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name)
    for parameter in network.parameters():  # away from zeros at which products begin
        torch.nn.init.normal_(parameter, std=0.1)
    objective = objective_of(name, network)
    means = objective(batch_of(name, scene(0), scene(1)), 0.0).means()
    FixedWeights(objective.weights)(means).backward()
    silent = [
        n
        for n, p in network.named_parameters()
        if (p.grad is None or not p.grad.abs().sum() > 0) and not n.startswith(UNUSED[name])
    ]
    assert silent == []


@pytest.mark.parametrize("name", NETWORKS)
def test_clips_of_any_length_and_of_one_frame(name: str) -> None:
    network = build(name)
    objective = objective_of(name, network)
    for lengths in ((3, 1), (1,), (5, 2, 2)):
        clips = [scene(i, frames=n) for i, n in enumerate(lengths)]
        means = objective(batch_of(name, *clips), 0.5).means()
        assert all(torch.isfinite(v) for v in means.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frame_without_any_truth_teaches_no_class_instance_or_depth(name: str) -> None:
    bare = Sample(scene().images[:1], scene().intrinsics[:1], "bare")
    objective = objective_of(name, build(name))
    means = objective(batch_of(name, bare), 0.0).means()
    assert {k for k, v in means.items() if v != 0} <= {"smoothness"}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_one_scene(name: str) -> None:
    """Loss falls to a part of what it was within a few dozen steps."""
    network = build(name)
    objective = objective_of(name, network)
    batch = batch_of(name, scene(0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = FixedWeights(objective.weights)(objective(batch, 0.0).means())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_options_of_its_fusion_are_checked(name: str) -> None:
    network = build(name)
    network.fusion(CITYSCAPES.thing_ids, min_score=0.3)
    with pytest.raises(Exception, match="unknown keys least_score"):
        network.fusion(CITYSCAPES.thing_ids, least_score=0.3)
