# SPDX-License-Identifier: Apache-2.0
"""Moving instances: by hand, and against the exact motion of the synthetic world."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from world_triples import Triple  # noqa: E402

from dvps_ros.losses.moving_mask import (  # noqa: E402
    NO_INSTANCE,
    START_IOU,
    VOID,
    Carried,
    carry,
    instance_iou,
    iou_threshold,
    moving_mask,
    target_rows,
)
from dvps_ros.losses.targets import View  # noqa: E402
from dvps_ros.losses.warping import pixel_grid, places_by_depth  # noqa: E402

K = torch.tensor([[40.0, 40.0, 19.5, 7.5]])
H, W = 16, 40


def test_rows_tell_the_samples_apart_and_keep_what_is_unknown():
    ids = torch.tensor([[[0, 7, 7, -1]], [[7, 3, 0, 0]]], dtype=torch.int32)
    assert target_rows(ids).tolist() == [[[NO_INSTANCE, 0, 0, VOID]], [[2, 1, NO_INSTANCE, NO_INSTANCE]]]


def test_iou_by_hand():
    rows = torch.tensor([[[0, 0, 0, 0, 1, 1, NO_INSTANCE, VOID]]])
    back = torch.tensor([[[0, NO_INSTANCE, 0, VOID, VOID, VOID, 0, 0]]])
    # Of 0: two in common, one lost, one elsewhere; of 1 nothing is known.
    assert instance_iou(rows, back).tolist() == [0.5, 1.0]
    nothing = torch.full((1, 2, 2), NO_INSTANCE)
    assert instance_iou(nothing, nothing).tolist() == []
    assert not moving_mask(nothing, [], 0.7).target.any()


def test_the_threshold_falls_to_zero_where_nothing_moves_any_more():
    assert [iou_threshold(done) for done in (0.0, 0.5, 1.0)] == [START_IOU, 0.35, 0.0]
    rows = torch.tensor([[[0, 0, 1]]])
    gone = torch.full_like(rows, NO_INSTANCE)
    assert moving_mask(rows, [Carried(rows, gone)], iou_threshold(0.9)).target.all()
    assert not moving_mask(rows, [Carried(rows, gone)], iou_threshold(1.0)).target.any()


def walls() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A parked (id 1) and a driving car (id 2), all 8 m away; the camera steps aside by 0.4 m to the next
    frame, in which the world so lies 2 px further left; the driving car comes 6 px further right.

    Image of this frame, of the next one, and the flow from that back to this one."""
    generator = torch.Generator().manual_seed(0)
    ground = torch.rand(1, 3, H, W + 2, generator=generator) * 40 + 20
    cars = torch.rand(2, 1, 3, 6, 8, generator=generator) * 40 + torch.tensor([120, 200]).view(2, 1, 1, 1, 1)
    image, following = ground[..., :W].clone(), ground[..., 2:].clone()
    image[..., 5:11, 6:14], image[..., 5:11, 20:28] = cars
    following[..., 5:11, 4:12], following[..., 5:11, 24:32] = cars
    flow = torch.zeros(1, 2, H, W)
    flow[:, 0] = 2
    flow[:, 0, 5:11, 24:32] = -4
    return image, following, flow


def carried(flow=None, seen=None, **options):
    image, following, exact = walls()
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = -0.4  # next_from_this
    seen = torch.ones(1, H, W, dtype=torch.bool) if seen is None else seen
    source = View(following, seen, K, pose)
    instance = torch.zeros(1, H, W, dtype=torch.int32)
    instance[:, 5:11, 6:14], instance[:, 5:11, 20:28] = 1, 2
    rows = target_rows(instance)
    depth = torch.full((1, 1, H, W), math.log(8.0))
    return rows, carry(rows, image, depth, K, source, exact if flow is None else flow, **options)


def test_a_driving_car_is_found_between_parked_ones():
    rows, there = carried()
    want = torch.full((1, H, W), NO_INSTANCE)
    want[:, 5:11, 4:12], want[:, 5:11, 24:32] = 0, 1
    assert torch.equal(there.in_source, want)
    iou = instance_iou(rows, there.in_target)
    # The driving car comes back at columns 26 to 33: it shares 2 of 8 + 8 - 2 with itself.
    assert iou.tolist() == pytest.approx([1.0, 2 / 14])
    mask = moving_mask(rows, [there], 0.7)
    assert torch.equal(mask.target, rows == 1) and torch.equal(mask.sources[0], there.in_source == 1)


def test_without_the_test_for_hidden_pixels_the_car_leaves_a_ghost():
    rows, there = carried(least_likeness=0.0)
    # The ground that it uncovered is, by flow, where the car was: columns 18 to 25 less those it covers.
    assert (there.in_source[0, 5:11, 18:24] == 1).all()
    assert instance_iou(rows, there.in_target)[1] > 0.5


def test_what_leaves_the_image_does_not_move():
    seen = torch.ones(1, H, W, dtype=torch.bool)
    seen[..., :8] = False  # half of the parked car in the next frame
    rows, there = carried(seen=seen)
    assert instance_iou(rows, there.in_target)[0] == 1
    assert (there.in_target[..., :10] == VOID).all()


SEEDS = (3, 5, 9, 11, 17)


def test_against_the_exact_motion_of_the_world():
    """With exact depth, pose, flow and instances. Moving pixels count where the motion is seen: more than a
    pixel off what depth and pose explain."""
    hits = false = missed = 0
    for seed in SEEDS:
        world = Triple(seed)
        instance = torch.from_numpy(world.sample.truth("instance_map"))[1:2]
        rows, k = target_rows(instance), world.intrinsics[1:2]
        # The flow of frame 2 to the frame before it, which is the target.
        flow = torch.nan_to_num(world.flow_px[2:3], nan=1e4)
        there = carry(rows, world.view(1).image, world.log_depth(), k, world.view(2), flow)
        found = moving_mask(rows, [there], START_IOU).target[0]
        places, _ = places_by_depth(world.log_depth(), k, k, world.pose(0))
        off = (world.flow_px[1] - (places - pixel_grid(*world.shape, places))[0]).norm(dim=0)
        moves = world.moving[1] & (instance[0] > 0)
        hits += int((found & moves).sum())
        false += int((found & ~moves).sum())
        missed += int((~found & moves & (off > 1)).sum())
    assert hits > 1000
    assert hits / (hits + false) > 0.9 and hits / (hits + missed) > 0.95
