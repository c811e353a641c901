# SPDX-License-Identifier: Apache-2.0
"""Segments of samples: by hand, and what is unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dvps_ros.labels import CITYSCAPES, VOID  # noqa: E402
from dvps_ros.losses.segment_targets import segment_targets  # noqa: E402
from dvps_ros.losses.targets import FrameBatch, dense_targets  # noqa: E402
from dvps_ros.types import Sample  # noqa: E402

ROAD, SKY, PERSON, CAR = (CITYSCAPES.id_of(name) for name in ("road", "sky", "person", "car"))


def full(cells, dtype):
    """[1,4h,4w] of one value a cell [h,w]."""
    return np.kron(np.array(cells), np.ones((4, 4), int)).astype(dtype)[None]


def sample(classes, ids, **more):
    class_map = full(classes, np.uint8)
    return Sample(
        images=np.zeros((*class_map.shape, 3), np.uint8),
        intrinsics=np.array([[8, 8, 4, 4]], np.float32),
        source="drawn",
        class_map=class_map,
        instance_map=full(ids, np.int32),
        **more,
    )


def street():
    """A road in two parts, two cars, a car without an id, a void cell, a person with a car's id."""
    return sample(
        [[ROAD, CAR, CAR, ROAD], [VOID, CAR, CAR, PERSON]],
        [[0, 7, 300, 0], [0, 7, -1, 7]],
        depth_m=full([[5, 0, 6, 7], [0, 0, 0, 8]], np.float32),
    )


def test_segments_by_hand():
    t = segment_targets([street()], 0, CITYSCAPES)
    assert t.classes.tolist() == [[ROAD, PERSON, CAR, CAR]]
    assert t.track_ids.tolist() == [[0, 7, 7, 300]]
    assert t.is_thing.tolist() == [[False, True, True, True]]
    assert t.rows.tolist() == [[[0, 2, 3, 0], [-1, 2, -1, 1]]]
    assert t.masks[0, 2].tolist() == [[False, True, False, False]] * 2
    assert t.masks.sum((2, 3)).tolist() == [[2, 1, 2, 1]] and t.masks.sum(1).max() == 1
    assert torch.equal(t.masks.any(1), t.known)
    assert t.known.tolist() == [[[True] * 4, [False, True, False, True]]]
    assert t.depth_m.tolist() == [[[5, 0, 6, 7], [0, 0, 0, 8]]]
    assert t.count.tolist() == [4] and t.has_panoptic.tolist() == [True] and t.has_depth.tolist() == [True]
    assert t.classes.dtype == t.rows.dtype == torch.int64 and t.depth_m.dtype == torch.float32


def test_segments_agree_with_the_dense_targets():
    samples = [street(), replace(street(), class_map=None), replace(street(), depth_m=None)]
    ours, dense = segment_targets(samples, 0, CITYSCAPES), dense_targets(samples, 0, CITYSCAPES)
    assert torch.equal(ours.segments, dense.segments)
    assert torch.equal(ours.depth_m, dense.depth_m)


def test_samples_without_truth_are_padding():
    without_ids = replace(street(), instance_map=None, depth_m=None)
    empty = sample([[VOID] * 4] * 2, [[0] * 4] * 2)
    t = segment_targets([without_ids, street(), empty], 0, CITYSCAPES)
    assert t.count.tolist() == [0, 4, 0]
    assert t.has_panoptic.tolist() == [False, True, False]
    assert t.has_depth.tolist() == [False, True, False]
    assert (t.classes[[0, 2]] == -1).all() and (t.track_ids[[0, 2]] == -1).all()
    assert not t.masks[[0, 2]].any() and not t.is_thing[[0, 2]].any()
    alone = segment_targets([empty], 0, CITYSCAPES)
    assert alone.classes.tolist() == [[-1]] and alone.masks.shape == (1, 1, 2, 4)


def test_stuff_needs_no_id():
    t = segment_targets([sample([[ROAD, SKY, ROAD]], [[-1, 0, 4]])], 0, CITYSCAPES)
    assert t.classes.tolist() == [[ROAD, SKY]] and t.rows.tolist() == [[[0, 1, 0]]]


def test_class_and_id_come_from_one_pixel():
    s = sample([[CAR, ROAD]], [[5, 0]])
    # The pixels nearest to the centre: a person without an id, then the car.
    s.class_map[0, 2, 2], s.instance_map[0, 2, 2] = PERSON, -1
    t = segment_targets([s], 0, CITYSCAPES)
    assert t.classes.tolist() == [[ROAD, CAR]] and t.track_ids.tolist() == [[0, 5]]


def test_sparse_labels_are_kept():
    s = sample([[VOID, VOID]], [[0, 0]])
    s.class_map[0, 3, 0], s.instance_map[0, 3, 0] = CAR, 9
    t = segment_targets([s], 0, CITYSCAPES)
    assert t.track_ids.tolist() == [[9]] and t.rows.tolist() == [[[0, -1]]]


def test_coarse_labels_are_segments_but_no_masks():
    s = sample(
        [[VOID, ROAD, PERSON, VOID]], [[0, 0, -1, 3]],
        coarse_map=full([[0, 0, 1, 1]], np.uint8), coarse_groups=((ROAD, SKY), (PERSON, CAR)),
    )  # fmt: skip
    t = segment_targets([s], 0, CITYSCAPES)
    assert t.rows.tolist() == [[[-1, 0, -1, -1]]]
    first, second, third, fourth = t.segments[0, 0].tolist()
    assert third == -1 and min(first, second, fourth) >= 0 and len({first, second, fourth}) == 3
    only_coarse = segment_targets([replace(s, class_map=None)], 0, CITYSCAPES)
    assert not only_coarse.has_panoptic.any() and (only_coarse.segments >= 0).sum() == 3


def test_the_step_of_the_clip_and_identity_over_time():
    first, second = street(), street()
    clip = replace(
        first,
        images=np.concatenate((first.images, second.images)),
        intrinsics=np.repeat(first.intrinsics, 2, 0),
        class_map=np.concatenate((first.class_map, second.class_map[:, :, ::-1])),
        instance_map=np.concatenate((first.instance_map, second.instance_map[:, :, ::-1])),
        depth_m=np.concatenate((first.depth_m, second.depth_m[:, :, ::-1])),
    )
    one, two = (segment_targets([clip], t, CITYSCAPES) for t in range(2))
    assert torch.equal(one.track_ids, two.track_ids) and torch.equal(one.classes, two.classes)
    assert torch.equal(one.masks, two.masks.flip(3)) and torch.equal(one.depth_m, two.depth_m.flip(2))


def test_targets_move_with_their_batch():
    t = segment_targets([street()], 0, CITYSCAPES)
    batch = FrameBatch(torch.zeros(1, 3, 8, 16, dtype=torch.uint8), torch.ones(1, 4), t, ("drawn",))
    moved = batch.to(torch.device("meta"))
    assert moved.targets.rows.device.type == moved.targets.masks.device.type == "meta"
    assert batch.nbytes == 3 * 8 * 16 + 16 + t.rows.nbytes * 2 + t.depth_m.nbytes + 4 * (8 + 8 + 1)
