# SPDX-License-Identifier: Apache-2.0
"""MonoDVPS: its network by hand, and its objective where depth, poses and flow are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_every_network import TINY, batch_of, objective_of, scene  # noqa: E402
from world_triples import SEEDS, Triple  # noqa: E402

from dvps_ros.geometry.disparity import disparity_of_depth  # noqa: E402
from dvps_ros.labels import CITYSCAPES  # noqa: E402
from dvps_ros.networks import MonoDvps, MonoDvpsConfig, mono_dvps  # noqa: E402
from dvps_ros.networks.mono_dvps import Inside, ScalePrediction  # noqa: E402
from dvps_ros.types import Sample  # noqa: E402

NAME = "mono_dvps"


def network(**changes) -> MonoDvps:
    torch.manual_seed(0)
    return MonoDvps(MonoDvpsConfig(**TINY[NAME] | changes))


def test_the_scales_of_depth_and_what_the_robot_gets():
    net = network().eval()
    image, k = torch.rand(1, 3, 64, 128) * 255, torch.tensor([[100.0, 100, 63.5, 31.5]])
    with torch.no_grad():
        p = net(image, k)
        far = network(canonical_focal_px=50.0).eval()(image, k)
    (inside,) = p.layers
    assert [tuple(s.disparity.shape[2:]) for s in inside.scales] == [(4, 8), (8, 16), (16, 32), (32, 64)]
    finest = inside.scales[-1].disparity.double().numpy()[0, 0]
    mean = finest.reshape(16, 2, 32, 2).mean((1, 3))
    want = 1 / (1 / 100 + (10 - 1 / 100) * mean)  # Monodepth2: 0.1 to 100
    np.testing.assert_allclose(p.log_depth[0, 0].exp().numpy(), want, rtol=1e-5)
    np.testing.assert_allclose((far.log_depth - p.log_depth).numpy(), math.log(100 / 50), atol=1e-5)


def test_size_with_the_papers_backbone():
    with torch.device("meta"):
        net = MonoDvps()
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert millions == pytest.approx(55.6, abs=0.1)


class Exact:
    """The objective with the true depth, poses and flow of a world in place of predictions."""

    def __init__(self, seed: int, factor: float = 1.0, **weights) -> None:
        self.world = world = Triple(seed)
        self.objective = objective_of(NAME, network(), **weights)
        self.clip = batch_of(NAME, world.sample)
        self.predictions = [self._prediction(t, factor) for t in range(3)]
        self.next_from = [world.pose(t + 1, t) for t in range(2)]

    def _prediction(self, t: int, factor: float):
        world = self.world
        disparity = disparity_of_depth(factor * world.log_depth(t).exp()).clamp(0, 1)
        half = torch.nn.functional.avg_pool2d(disparity, 2)
        flow = torch.nan_to_num(world.flow_px[t : t + 1], nan=1e4)[..., 2::4, 2::4]
        p = self.objective.network(self.clip[t].image.float(), self.clip[t].intrinsics)
        scale = ScalePrediction(half, p.layers[0].scales[3].features)
        inside = Inside((scale,), p.layers[0].instance8)
        depth = self.objective.network.log_depth(
            torch.nn.functional.avg_pool2d(half, 2), self.clip[t].intrinsics
        )
        return replace(p, layers=(inside,), log_depth=depth, motion_px=flow)

    def terms(self, t: int = 1) -> dict[str, float]:
        from dvps_ros.losses.term import Terms

        terms = Terms()
        self.objective._unlabelled_terms(terms, self.predictions, self.clip, self.next_from, t, 0.0)
        return {name: float(value) for name, value in terms.means().items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_true_depth_and_poses_are_likest(seed):
    best = Exact(seed).terms()["photometric"]
    assert best < 0.08
    for factor in (0.7, 1.4):
        assert Exact(seed, factor).terms()["photometric"] > 1.1 * best
    wrong = Exact(seed)
    wrong.next_from = [pose.inverse() for pose in wrong.next_from]
    assert wrong.terms()["photometric"] > 1.1 * best


def test_true_flow_is_likest():
    exact = Exact(SEEDS[0])
    best = exact.terms()["flow"]
    exact.predictions[1] = replace(exact.predictions[1], motion_px=-exact.predictions[1].motion_px)
    assert exact.terms()["flow"] > 1.2 * best


def test_what_moves_is_found_and_left_out(monkeypatch):
    exact = Exact(SEEDS[0])
    # Flow of the frame before, against time, that the network would predict: that of the next one is given.
    monkeypatch.setattr(exact.objective, "_flow", lambda source, target, rows, later: source.motion_px / 4)
    quarter, _, flows = exact.objective._views(exact.predictions, exact.clip, exact.next_from, 1)
    target = exact.clip[1].targets
    mask = exact.objective._moving(exact.predictions[1], target, quarter[1:], flows[1:], 0.0)
    moves = (target.moving == 1) & (target.instance > 0)
    hits = (mask.target & moves).sum()
    assert moves.sum() > 50
    # At stride 4 of a small image; test_moving_mask.py asks more of the full resolution.
    assert hits / moves.sum() > 0.45 and hits / mask.target.sum() > 0.8
    assert not exact.objective._moving(exact.predictions[1], target, quarter[1:], flows[1:], 1.0).target.any()


def test_the_camera_of_the_frame_before_is_the_inverse():
    exact = Exact(SEEDS[0])
    quarter, half, _ = exact.objective._views(exact.predictions, exact.clip, exact.next_from, 1)
    for views in (quarter, half):
        for view, other in zip(views, (0, 2), strict=True):
            torch.testing.assert_close(view.view_from_camera, exact.world.pose(other), rtol=1e-4, atol=1e-4)


def test_clips_that_end_earlier_are_seen_from_what_they_have():
    """A batch of a long and of a short clip: as each alone."""
    torch.manual_seed(1)
    objective = objective_of(NAME, network()).eval()
    long, short = scene(0, frames=3), scene(1, frames=2)
    sums = {}
    for name, samples in (("both", (long, short)), ("long", (long,)), ("short", (short,))):
        with torch.no_grad():
            terms = dict(objective(batch_of(NAME, *samples), 0.0))
        sums[name] = {
            k: [
                sum(float(torch.where(t.weight > 0, t.value * t.weight, 0).sum()) for t in terms[k]),
                sum(float(t.weight.sum()) for t in terms[k]),
            ]
            for k in ("photometric", "flow", "smoothness")
        }
    for k, (value, weight) in sums["both"].items():
        if k == "smoothness":  # also of frames that have no neighbour
            continue
        assert value == pytest.approx(sums["long"][k][0] + sums["short"][k][0], rel=1e-3)
        assert weight == sums["long"][k][1] + sums["short"][k][1] > 0


def still() -> Sample:
    sample = scene(0)
    return replace(sample, images=sample.images[[0, 0]])


@pytest.mark.parametrize(
    ("sample", "words"),
    [(still(), "a camera that stands still"), (scene(0, frames=1), "no clip of a batch has two frames")],
)
def test_what_teaches_no_depth_is_said_once(sample, words, caplog):
    objective = objective_of(NAME, network())
    with caplog.at_level("WARNING"):
        for _ in range(2):
            means = objective(batch_of(NAME, sample), 0.0).means()
    assert float(means.get("photometric", torch.zeros(()))) == 0
    assert [words in r.message for r in caplog.records] == [True]


def test_all_that_moves_teaches_no_depth(monkeypatch):
    objective = objective_of(NAME, network())
    sample = scene(0)
    ids = np.ones_like(sample.instance_map)
    cars = np.full_like(sample.class_map, CITYSCAPES.id_of("car"))
    monkeypatch.setattr(mono_dvps, "iou_threshold", lambda done: 1.1)  # all that is known moves
    means = objective(batch_of(NAME, replace(sample, class_map=cars, instance_map=ids)), 0.0).means()
    assert means["photometric"] == 0 and means["flow"] > 0


def test_the_pose_network_learns_with_the_network_and_is_not_deployed():
    objective = objective_of(NAME, network())
    names = [n for n, _ in objective.named_parameters()]
    assert any(n.startswith("pose.") for n in names)
    assert not any(n.startswith("pose") for n, _ in objective.network.named_parameters())
    objective(batch_of(NAME, scene(0, frames=3)), 0.0).means()["photometric"].backward()
    gradients = [p.grad for p in objective.pose.parameters()]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
