# SPDX-License-Identifier: Apache-2.0
"""Photometric errors in the synthetic world, whose depth, poses, flow and motion are exact."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from world_triples import SEEDS, Triple  # noqa: E402

from dvps_ros.losses.flow import warp_by_flow  # noqa: E402
from dvps_ros.losses.photometric import photometric, photometric_error, warp  # noqa: E402
from dvps_ros.networks.pose import pose_matrix  # noqa: E402


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return Triple(request.param)


@pytest.mark.parametrize("other", [0, 2])
def test_the_error_is_near_zero_where_nothing_moves_and_only_there(world, other):
    view = world.view(other)
    warped, _ = warp(world.log_depth(), world.intrinsics[1:2], view)
    error = photometric_error(world.view(1).image, warped)[0]
    unwarped = photometric_error(world.view(1).image, view.image)[0]
    still = world.visible(other) & ~world.moving[1]
    moved = world.moving[1] & (world.depth_m[1] > 0)
    assert still.float().mean() > 0.5 and moved.sum() > 200
    assert error[still].median() < 0.006  # half of all such pixels; thin things alias at this size
    assert error[still].mean() < 0.4 * unwarped[still].mean()
    assert error[moved].mean() > 0.15


def test_true_flow_explains_what_moves_too(world):
    flow = world.flow_px[1:2]
    known = flow.isfinite().all(1)[0]
    warped = warp_by_flow(world.view(0).image, torch.nan_to_num(flow))
    error = photometric_error(world.view(1).image, warped)[0]
    moved = world.moving[1] & known & (world.depth_m[1] > 0)
    rigid, _ = warp(world.log_depth(), world.intrinsics[1:2], world.view(0))
    by_depth = photometric_error(world.view(1).image, rigid)[0]
    assert error[known & ~world.moving[1]].median() < 0.006
    assert error[moved].mean() < 0.85 * by_depth[moved].mean()  # walkers swing their legs
    backwards = photometric_error(world.view(1).image, warp_by_flow(world.view(0).image, -flow))[0]
    assert backwards[known & ~world.moving[1]].median() > 0.04


def loss(world, pose_error, log_depth=None):
    """Of frame 1 in both neighbours, whose true poses are followed by a wrong motion [1,6]."""
    wrong = pose_matrix(pose_error[:, :3], pose_error[:, 3:])
    views = [world.view(t, wrong @ world.pose(t)) for t in (0, 2)]
    here, seen = world.view(1), world.view(1).seen
    depth = world.log_depth() if log_depth is None else log_depth
    return photometric(depth, here.image, seen, ~world.moving[1:2], here.intrinsics, views)


def test_the_better_of_two_views_counts(world):
    here = world.view(1)

    def of(views):
        term = photometric(
            world.log_depth(), here.image, here.seen, ~world.moving[1:2], here.intrinsics, views
        )
        return term.value.where(term.weight > 0, torch.inf)

    both, one = of([world.view(0), world.view(2)]), of([world.view(0)])
    counted = torch.isfinite(both) & torch.isfinite(one)
    assert (both[counted] <= one[counted] + 1e-6).all() and (both[counted] < one[counted] - 1e-3).any()


def test_true_pose_and_depth_cost_least_and_gradients_lead_there(world):
    none = torch.zeros(1, 6)
    best = loss(world, none).mean()
    for step in ([0, 0.01, 0, 0, 0, 0], [0.01, 0, 0, 0, 0, 0], [0, 0, 0, 0.1, 0, 0], [0, 0, 0, 0, 0, 0.3]):
        wrong = torch.tensor([step], dtype=torch.float32, requires_grad=True)
        error = loss(world, wrong).mean()
        assert error > 1.02 * best, step
        (gradient,) = torch.autograd.grad(error, wrong)
        assert (gradient * wrong).sum() > 0, step  # further away costs more
    for factor in (0.8, 1.25):
        assert loss(world, none, world.log_depth() + torch.tensor(factor).log()).mean() > 1.2 * best


def test_a_pose_that_is_no_number_is_not_learned_from(world):
    assert loss(world, torch.full((1, 6), torch.nan)).weight.sum() == 0
