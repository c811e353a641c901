# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from metrics_reference import stq, tq
from metrics_videos import CLASSES, Video, random_video, videos

from dvps_ros.metrics import (
    IdentityStability,
    SegmentationTrackingQuality,
    TrackingQuality,
    count_pairs,
)

few = settings(max_examples=40, deadline=None)
ROAD, WALL, A, B, VOID, CROWD = (0, 0), (1, 0), (2, 1), (2, 2), (255, 0), (2, 0)


def pairs_of(gt: list[tuple[int, int]], pr: list[tuple[int, int]]):
    maps = [np.array([[label[i] for label in labels]]) for labels in (gt, pr) for i in (0, 1)]
    return count_pairs(*maps)


def run(metric, *frames):
    for gt, pr in frames:
        metric.update(pairs_of(gt, pr))
    return metric.compute()


def close(expected):
    return {name: None if value is None else pytest.approx(value) for name, value in expected.items()}


def test_stq_of_an_id_switch_by_hand():
    """A of 4+4 pixels, predicted as A in frame 0 and as B in frame 1; road right.

    AQ = 1/8 (4 * 4/8 + 4 * 4/8) = 1/2; SQ = 1.
    """
    frames = [([A] * 4 + [ROAD], [A] * 4 + [ROAD]), ([A] * 4 + [ROAD], [B] * 4 + [ROAD])]
    assert run(SegmentationTrackingQuality(CLASSES), *frames) == close({"STQ": sqrt(0.5), "AQ": 0.5, "SQ": 1})


def test_a_class_flip_splits_the_predicted_track():
    """Same id, class 3 in frame 1: two predicted tracks, either pairs with A."""
    frames = [([A] * 4, [A] * 4), ([A] * 4, [(3, 1)] * 4)]
    # IoU of class 2: 4/8, of class 3: 0/4.
    assert run(SegmentationTrackingQuality(CLASSES), *frames) == close(
        {"STQ": sqrt(0.5 * 0.25), "AQ": 0.5, "SQ": 0.25}
    )


def test_predictions_on_void_leave_the_track_or_not():
    frames = [([A] * 4 + [VOID] * 4, [A] * 8)]
    assert run(SegmentationTrackingQuality(CLASSES), *frames)["AQ"] == 0.5  # as deeplab2 counts
    assert run(SegmentationTrackingQuality(CLASSES, void="masked"), *frames)["AQ"] == 1.0


def test_crowd_leaves_truth_and_prediction_but_counts_for_sq():
    frames = [([A] * 4 + [CROWD] * 4, [A] * 8)]
    assert run(SegmentationTrackingQuality(CLASSES), *frames) == close({"STQ": 1, "AQ": 1, "SQ": 1})


def test_predicted_void_is_a_miss_and_one_more_class_for_sq():
    frame = ([ROAD] * 4, [ROAD, ROAD, ROAD, VOID])
    official, plain = (
        run(SegmentationTrackingQuality(CLASSES, predicted_void=rule), frame) for rule in ("class", "miss")
    )
    assert official == {"STQ": None, "AQ": None, "SQ": (0.75 + 0) / 2}  # as deeplab2 counts
    assert plain == {"STQ": None, "AQ": None, "SQ": 0.75}
    # On true void it is nothing.
    assert run(SegmentationTrackingQuality(CLASSES), ([ROAD, VOID], [ROAD, VOID]))["SQ"] == 1.0


def test_stq_mean_is_over_tracks_of_all_sequences():
    metric = SegmentationTrackingQuality(CLASSES)
    metric.update(pairs_of([A, B], [A, B]), "two tracks")
    metric.update(pairs_of([A], [ROAD]), "one track")
    assert metric.compute()["AQ"] == pytest.approx(2 / 3)


def test_equal_ids_in_two_sequences_are_two_tracks():
    metric = SegmentationTrackingQuality(CLASSES)
    for sequence in ("x", "y"):
        metric.update(pairs_of([A, A], [A, A]), sequence)
    assert metric.compute()["AQ"] == 1.0


@given(videos)
@few
def test_stq_equals_the_plain_reference(video: Video):
    for void in ("masked", "kept"):
        for predicted in ("class", "miss"):
            metric = SegmentationTrackingQuality(CLASSES, void=void, predicted_void=predicted)
            expected = stq(*video.maps, video.seq, 4, CLASSES.things, void, predicted)
            assert video.feed(metric).compute() == close(expected)


def test_a_long_sequence_is_compacted_without_loss(monkeypatch):
    monkeypatch.setattr("dvps_ros.metrics.stq._COMPACT_ROWS", 10)
    video = replace(random_video(3, frames=30), seq=np.zeros(30, int))
    assert video.feed(SegmentationTrackingQuality(CLASSES)).compute() == close(
        stq(*video.maps, video.seq, 4, CLASSES.things)
    )


def test_pat_by_hand():
    """A lives 4 frames of 4 pixels and is found by ids 7, 7, none, 7.

    TPA(7) = 3, 7 lives 3 frames: AS = 1/4 * 3 * 3/4 = 9/16. Breaks: 7->none and none->7, of 3.
    """
    seen, missed = [(2, 7)] * 4, [ROAD] * 4
    frames = [([A] * 4, pr) for pr in (seen, seen, missed, seen)]
    tq_expected = sqrt((1 - 2 / 3) * 9 / 16)
    # PQ: class 2 has 3 TP and 1 FN of IoU 1, class 0 one FP.
    pq = (3 / 3.5 + 0) / 2
    assert run(TrackingQuality(CLASSES), *frames) == close(
        {"PAT": 2 * pq * tq_expected / (pq + tq_expected), "PQ": pq, "TQ": tq_expected}
    )


def test_two_frames_without_a_match_count_as_a_break():
    frames = [([A] * 4, pr) for pr in ([(2, 7)] * 4, [ROAD] * 4, [ROAD] * 4, [(2, 7)] * 4)]
    assert run(TrackingQuality(CLASSES), *frames)["TQ"] == 0.0


def test_an_object_of_one_frame_cannot_switch():
    assert run(TrackingQuality(CLASSES), ([A], [A]))["TQ"] == 1.0


def test_frames_of_a_prediction_elsewhere_lower_the_association():
    """Id 7 lives in both frames but finds A only in the first, which is A's only one: 1/(1+1)."""
    frames = [([A, ROAD], [(2, 7), ROAD]), ([WALL, WALL], [(2, 7), WALL])]
    assert run(TrackingQuality(CLASSES), *frames)["TQ"] == pytest.approx(sqrt(0.5))


def test_a_class_flip_keeps_a_track_id_but_not_a_class_id():
    frames = [([A] * 2, [(2, 7)] * 2), ([A] * 2, [(3, 7)] * 2)]
    assert run(TrackingQuality(CLASSES), *frames)["TQ"] == 1.0
    assert run(TrackingQuality(CLASSES, ids="class"), *frames)["TQ"] == 0.0
    # One id under two classes in one frame is one object.
    assert run(TrackingQuality(CLASSES), ([A] * 2, [(2, 7), (3, 7)]))["TQ"] == 1.0


def test_ids_numbered_per_class_are_noticed():
    metric = TrackingQuality(CLASSES)
    run(metric, ([A, A, B], [(2, 7), (2, 7), (2, 8)]), ([A, A, B], [(3, 8), (2, 7), (2, 8)]))
    assert metric.ambiguous_frames == 1


def test_stuff_matches_only_with_class_ids():
    frames = [([A] * 2, [ROAD] * 2)]
    assert run(TrackingQuality(CLASSES), *frames)["TQ"] == 0.0
    assert run(TrackingQuality(CLASSES, ids="class"), *frames)["TQ"] == 1.0


def test_mask_iou_of_one_half_is_no_match_and_void_may_be_masked():
    frames = [([A, A, VOID, VOID], [A] * 4)]
    assert run(TrackingQuality(CLASSES), *frames)["TQ"] == 1.0  # as the nuScenes evaluator counts
    assert run(TrackingQuality(CLASSES, void="kept"), *frames)["TQ"] == 0.0


def test_pq_of_pat_as_nuscenes_counts_it():
    """A of 2 pixels, found with 1 more on void, is 1 of 4 classes; a prediction on void alone is free."""
    frames = [([A, A, VOID, VOID, VOID], [A, A, A, (3, 5), (3, 5)])]
    assert run(TrackingQuality(CLASSES), *frames) == close({"PQ": 1.0, "TQ": 1.0, "PAT": 1.0})
    found = run(TrackingQuality(CLASSES, quality="nuscenes"), *frames)
    assert found == close({"PQ": 0.25, "TQ": 1.0, "PAT": 2 * 0.25 / 1.25})
    # Two of three pixels on void forgive the prediction; without them one is left, on the road: a false one.
    frames = [([ROAD, ROAD, ROAD, VOID, VOID], [ROAD, ROAD, A, A, A])]
    assert run(TrackingQuality(CLASSES), *frames)["PQ"] == pytest.approx(2 / 3)
    assert run(TrackingQuality(CLASSES, quality="nuscenes"), *frames)["PQ"] == pytest.approx(2 / 3 / 4)


def test_stq_of_two_crossing_tracks_by_hand():
    """A of 3+3 and B of 1+3 pixels; from frame 0 to 1 the prediction exchanges two of A's pixels for B's id.

    Frame 0: A A A B, right. Frame 1: A A A B B B predicted as 1 2 2 2 2 1.
    Track 1: 3+1 on A, 0+1 on B, size 5; track 2: 1+2 on B, 2 on A, size 5. |A| = 6, |B| = 4.
    AQ(A) = 1/6 (4 * 4/7 + 2 * 2/9), AQ(B) = 1/4 (3 * 3/6 + 1 * 1/8).
    """
    frames = [([A, A, A, B], [A, A, A, B]), ([A, A, A, B, B, B], [A, B, B, B, B, A])]
    expected = ((16 / 7 + 4 / 9) / 6 + (9 / 6 + 1 / 8) / 4) / 2
    assert run(SegmentationTrackingQuality(CLASSES), *frames) == close(
        {"AQ": expected, "SQ": 1.0, "STQ": sqrt(expected)}
    )


def test_pat_of_a_swap_by_hand():
    """A and B live 4 frames each; predicted ids 7 and 8 are exchanged after the second.

    Each is found twice by either id, both live 4 frames: AS = 1/4 (2 * 2/6 + 2 * 2/6) = 1/3; one break of 3.
    """
    frames = [([A, A, B, B], [(2, a), (2, a), (2, b), (2, b)]) for a, b in ((7, 8), (7, 8), (8, 7), (8, 7))]
    tq_expected = sqrt((1 - 1 / 3) / 3)
    assert run(TrackingQuality(CLASSES), *frames) == close(
        {"PQ": 1.0, "TQ": tq_expected, "PAT": 2 * tq_expected / (1 + tq_expected)}
    )


def test_pat_is_zero_or_none_where_it_should_be():
    assert run(TrackingQuality(CLASSES), ([A], [B])) == {"PAT": 1.0, "PQ": 1.0, "TQ": 1.0}
    assert run(TrackingQuality(CLASSES), ([A], [ROAD])) == {"PAT": 0.0, "PQ": 0.0, "TQ": 0.0}
    assert run(TrackingQuality(CLASSES), ([ROAD], [ROAD])) == {"PAT": None, "PQ": 1.0, "TQ": None}


@given(videos)
@few
def test_tq_equals_the_plain_reference(video: Video):
    for void in ("masked", "kept"):
        expected = tq(*video.maps, video.seq, CLASSES.things, void)
        found = video.feed(TrackingQuality(CLASSES, void=void)).compute()["TQ"]
        assert found == (None if expected is None else pytest.approx(expected))


def test_stability_by_hand():
    """A: 7, none, 7, 8 over four frames; B: never found."""
    frames = [([A, A, A, B], [(2, i), (2, i), (2, i), ROAD]) for i in (7, 7, 8)]
    frames.insert(1, ([A, A, A, B], [ROAD] * 4))
    metric = IdentityStability(CLASSES)
    assert run(metric, *frames) == {
        "objects": 2,
        "frames": 8,
        "found": 3 / 8,
        "kept": 2 / 8,
        "switches": 1,
        "switches_per_object": 0.5,
    }
    first = metric.objects()[0]
    assert (first.class_id, first.instance_id, first.found, first.kept, first.switches) == (2, 1, 3, 2, 1)
    assert run(IdentityStability(CLASSES, min_area_px=2), *frames)["objects"] == 1


def test_a_match_of_another_class_is_found_but_not_under_the_right_class():
    """A is seen as (3, 7), then as class 2 on 3 of its 4 pixels, then on 2 of 4: the lower class of a tie."""
    seen = [[(3, 7)] * 4, [(2, 7)] * 3 + [(3, 7)], [(2, 7)] * 2 + [(3, 7)] * 2]
    metric = IdentityStability(CLASSES)
    run(metric, *(([A] * 4, pr) for pr in seen))
    (only,) = metric.objects()
    assert (only.found, only.right_class, only.kept) == (3, 2, 3)


METRICS = (
    lambda: SegmentationTrackingQuality(CLASSES),
    lambda: TrackingQuality(CLASSES),
    lambda: IdentityStability(CLASSES),
)


@pytest.mark.parametrize("make", METRICS)
@given(video=videos)
@few
def test_shards_of_whole_sequences_merge_to_the_whole(make, video: Video):
    cut = int((video.seq == 0).sum())
    shard = video.feed(make(), slice(0, cut))
    shard.merge(video.feed(make(), slice(cut, None)))
    assert shard.compute() == close(video.feed(make()).compute())


@pytest.mark.parametrize("make", METRICS)
@given(video=videos)
@few
def test_renaming_ids_changes_nothing(make, video: Video):
    rename = np.array([0, 70001, 3, 123456789, 1])
    expected = video.feed(make()).compute()
    assert replace(video, pr_ins=rename[video.pr_ins]).feed(make()).compute() == close(expected)
    assert replace(video, gt_ins=rename[video.gt_ins]).feed(make()).compute() == close(expected)


@given(videos)
@few
def test_perfect_is_one(video: Video):
    perfect = video.perfect()
    tracks = ((perfect.gt_sem >= 2) & (perfect.gt_sem < 255) & (perfect.gt_ins > 0)).any()
    known = (perfect.gt_sem < 255).any()
    assert perfect.feed(SegmentationTrackingQuality(CLASSES)).compute()["AQ"] == (1.0 if tracks else None)
    assert perfect.feed(SegmentationTrackingQuality(CLASSES)).compute()["SQ"] == (1.0 if known else None)
    assert perfect.feed(TrackingQuality(CLASSES)).compute()["TQ"] == (1.0 if tracks else None)
    assert perfect.feed(IdentityStability(CLASSES)).compute()["kept"] == (1.0 if tracks else None)
