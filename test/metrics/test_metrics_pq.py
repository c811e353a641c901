# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from metrics_reference import pq_counts, pq_of, voided, vpq_counts
from metrics_videos import CLASSES, LAMBDAS, Video, random_video, videos

from dvps_ros.errors import ConfigError, InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.metrics import Classes, PairCounts, PanopticQuality, VideoPanopticQuality, count_pairs
from dvps_ros.metrics.pq import quality_counts

few = settings(max_examples=40, deadline=None)


def row(*values: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One line of pixels from (class, instance)."""
    return np.array([[c for c, _ in values]], np.uint8), np.array([[i for _, i in values]], np.int32)


def counts_of(gt, pr, **options):
    """[iou, tp, fp, fn] of class 2 (a thing)."""
    counts = quality_counts(count_pairs(*gt, *pr), CLASSES, **options)[0]
    return [float(counts.iou[2]), int(counts.tp[2]), int(counts.fp[2]), int(counts.fn[2])]


ROAD, A, B, CROWD, VOID = (0, 0), (2, 1), (2, 2), (2, 0), (255, 0)


def test_iou_of_exactly_one_half_is_no_match():
    assert counts_of(row(A, A, ROAD), row(A, A, A)) == [pytest.approx(2 / 3), 1, 0, 0]
    assert counts_of(row(A, A, ROAD, ROAD), row(A, A, A, A)) == [0, 0, 1, 1]


def test_union_leaves_out_true_void():
    assert counts_of(row(A, A, VOID, VOID, VOID), row(A, A, A, A, A)) == [1.0, 1, 0, 0]
    # Any instance number of void is void.
    assert counts_of(row(A, A, (255, 9), (255, 4)), row(A, A, A, A)) == [1.0, 1, 0, 0]


def test_prediction_half_on_void_is_a_false_positive():
    assert counts_of(row(VOID, VOID, ROAD, ROAD), row(A, A, A, A)) == [0, 0, 1, 0]
    assert counts_of(row(VOID, VOID, VOID, ROAD), row(A, A, A, A)) == [0, 0, 0, 0]


def test_predicted_void_is_free_and_truth_under_it_is_missed():
    assert counts_of(row(A, A), row(VOID, VOID)) == [0, 0, 0, 1]
    assert counts_of(row(VOID, VOID), row(VOID, VOID)) == [0, 0, 0, 0]


def test_crowd_is_never_matched_never_missed_and_forgives_its_own_class():
    assert counts_of(row(CROWD, CROWD, CROWD), row(CROWD, CROWD, CROWD)) == [0, 0, 0, 0]
    assert counts_of(row(CROWD, CROWD, ROAD), row(A, A, A)) == [0, 0, 0, 0]
    assert counts_of(row(CROWD, CROWD, CROWD), row(VOID, VOID, VOID)) == [0, 0, 0, 0]
    other = [(3, 1)] * 3
    counts = quality_counts(count_pairs(*row(CROWD, CROWD, CROWD), *row(*other)), CLASSES)[0]
    assert counts.fp.tolist() == [0, 0, 0, 1]
    # Void and crowd add up: 1 + 1 of 3 pixels is more than half.
    assert counts_of(row(CROWD, VOID, ROAD), row(A, A, A)) == [0, 0, 0, 0]
    assert counts_of(row(CROWD, CROWD), row(A, A), crowd="segment") == [1.0, 1, 0, 0]


def test_means_over_present_and_over_declared_classes():
    metric = PanopticQuality(CLASSES)
    metric.update(count_pairs(*row(A, A, A, ROAD), *row(A, A, ROAD, ROAD)))
    # Class 2: IoU 2/3. Class 0: IoU 1/2, so FP and FN.
    assert metric.compute() == {
        "all": pytest.approx(1 / 3),
        "things": pytest.approx(2 / 3),
        "stuff": 0.0,
        "declared": {"all": pytest.approx(1 / 6), "things": pytest.approx(1 / 3), "stuff": 0.0},
    }
    assert metric.per_class()["pq"] == [0.0, None, pytest.approx(2 / 3), None]


def test_nothing_seen_is_none_not_nan():
    empty = PanopticQuality(CLASSES).compute()
    assert (empty["all"], empty["things"], empty["stuff"]) == (None, None, None)
    video = VideoPanopticQuality(CLASSES, [3])
    video.update(count_pairs(*row(A), *row(A)))
    assert video.seen == {3: 0} and video.compute()[3]["all"] is None


def test_tubes_by_hand():
    """An object of 2+2 pixels; the id changes in frame 1.

    k=1: IoU 1 twice. k=2: tube of 4 pixels against two predicted ones of 2: IoU 1/2, no match.
    """
    metric = VideoPanopticQuality(CLASSES, [1, 2])
    metric.update(count_pairs(*row(A, A, ROAD), *row(A, A, ROAD)), "x")
    metric.update(count_pairs(*row(A, A, ROAD), *row(B, B, ROAD)), "x")
    assert metric.compute()[1]["all"] == 1.0
    per_class = metric.per_class()[2]
    assert (per_class["tp"][2], per_class["fp"][2], per_class["fn"][2]) == (0, 2, 1)
    assert metric.compute()[2] == {
        "all": 0.5,
        "things": 0.0,
        "stuff": 1.0,
        "declared": {"all": 0.25, "things": 0.0, "stuff": 0.5},
    }


def test_windows_stay_inside_sequences():
    metric = VideoPanopticQuality(CLASSES, [2])
    pairs = count_pairs(*row(A), *row(A))
    for sequence in ("x", "x", "y", "z", "z", "z"):
        metric.update(pairs, sequence)
    assert metric.seen == {2: 3}
    with pytest.raises(InputError, match="sequence x"):
        metric.update(pairs, "x")


def depth_counts(gt_depth, pr_depth, lam, gt=None, pr=None):
    gt = row(*[A] * len(gt_depth)) if gt is None else gt
    pr = gt if pr is None else pr
    pairs = count_pairs(
        *gt, *pr, gt_depth=np.array([gt_depth]), pr_depth=np.array([pr_depth]), lambdas=LAMBDAS
    )
    counts = quality_counts(pairs, CLASSES, lambdas=(lam,))[0]
    return [float(counts.iou[2]), int(counts.tp[2]), int(counts.fp[2]), int(counts.fn[2])]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_depth_error_equal_to_lambda_is_kept(dtype):
    gt = np.array([10, 10, 10], dtype)
    assert depth_counts(gt, np.array([11, 9, 10], dtype), 0.1) == [1.0, 1, 0, 0]
    # One of three pixels leaves the prediction: IoU 2/3.
    assert depth_counts(gt, np.array([11, 8, 10], dtype), 0.1) == [pytest.approx(2 / 3), 1, 0, 0]


def test_sixteen_bit_depth_does_not_wrap():
    """3 - 5 in uint16 is 65534; the error is 0.4."""
    gt = np.array([5, 5, 5], np.uint16)
    assert depth_counts(gt, np.array([3, 3, 3], np.uint16), 0.5) == [1.0, 1, 0, 0]


def test_pixels_without_true_depth_keep_their_label():
    assert depth_counts([0.0, np.nan, np.inf], [7.0, 7.0, 7.0], 0.1) == [1.0, 1, 0, 0]


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_a_prediction_that_is_no_depth_becomes_void(wrong):
    assert depth_counts([5.0] * 3, [wrong, 5.0, 5.0], 0.5) == [pytest.approx(2 / 3), 1, 0, 0]


def test_depth_aware_tubes_by_hand():
    """Labels are right in both frames; in the second, depth is 30 % off on two of A's four pixels.

    lambda 0.25, k = 1: IoU 1 and 2/4 (no match): PQ = 1 / (1 + 1/2 + 1/2) = 1/2.
    lambda 0.25, k = 2: the tube keeps 6 of 8 pixels: PQ = 3/4. With lambda 0.5 nothing is voided.
    """
    metric = VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS, crowd="segment")
    labels = row(A, A, A, A, ROAD, ROAD)
    truth = np.full((1, 6), 10.0)
    for wrong in ([0, 0, 0, 0, 0, 0], [3, -3, 0, 0, 0, 0]):
        metric.update(
            count_pairs(*labels, *labels, gt_depth=truth, pr_depth=truth + np.array([wrong]), lambdas=LAMBDAS)
        )
    found = {k: {lam: cell["things"] for lam, cell in by.items()} for k, by in metric.compute().items()}
    assert found == {1: {0.5: 1.0, 0.25: 0.5, 0.1: 0.5}, 2: {0.5: 1.0, 0.25: 0.75, 0.1: 0.75}}
    assert all(cell["stuff"] == 1.0 for by in metric.compute().values() for cell in by.values())


def test_voided_pixels_leave_the_prediction_before_the_void_exemption():
    """Of 5 predicted pixels 2 lie on void; without the 2 voided ones 2 of 3 do, which is more than half."""
    gt = row(VOID, VOID, ROAD, ROAD, ROAD)
    pr = row(A, A, A, A, A)
    assert depth_counts([0, 0, 4, 4, 4], [1, 1, 4, 4, 4], 0.5, gt, pr) == [0, 0, 1, 0]
    assert depth_counts([0, 0, 4, 4, 4], [1, 1, 4, 9, 9], 0.5, gt, pr) == [0, 0, 0, 0]


def test_a_prediction_that_is_voided_whole_is_no_false_positive():
    assert depth_counts([4, 4], [9, 9], 0.5) == [0, 0, 0, 1]


def test_segments_larger_than_32_bits_of_pixels():
    """Areas whose doubled sum passes 2^31 are counted exactly."""
    key = np.array([2 << 32 | 1], np.int64)
    void = np.array([255 << 32], np.int64)
    huge = 2**33
    pairs = PairCounts(
        np.concatenate([key, void]), np.concatenate([key, key]), np.array([[huge - 1], [huge]], np.int64)
    )
    counts = quality_counts(pairs, CLASSES)[0]
    assert counts.iou[2] == 1.0
    pairs = PairCounts(
        np.concatenate([void, key * 0]), np.repeat(key, 2), np.array([[huge + 1], [huge]], np.int64)
    )
    assert quality_counts(pairs, CLASSES)[0].fp[2] == 0


@given(videos)
@few
def test_pq_equals_the_plain_reference(video: Video):
    metric = PanopticQuality(CLASSES)
    expected = {c: [0, 0, 0, 0] for c in range(4)}
    for t, (pairs, _) in enumerate(video.pairs()):
        metric.update(pairs)
        for c, more in pq_counts(*(m[t] for m in video.maps), 4, CLASSES.things).items():
            expected[c] = [a + b for a, b in zip(expected[c], more, strict=True)]
    found = metric.counts[0]
    for c in range(4):
        assert [found.tp[c], found.fp[c], found.fn[c]] == expected[c][1:]
        assert found.iou[c] == pytest.approx(float(expected[c][0]))
    assert metric.compute()["all"] == pytest.approx(pq_of(expected))


@given(videos)
@few
def test_the_depth_aware_table_equals_the_plain_reference(video: Video):
    metric = video.feed(VideoPanopticQuality(CLASSES, [1, 2, 3], lambdas=LAMBDAS, crowd="segment"))
    for lam in LAMBDAS:
        pr_sem = voided(video.pr_sem, video.gt_depth, video.pr_depth, lam)
        for k in (1, 2, 3):
            expected = vpq_counts(
                video.gt_sem, video.gt_ins, pr_sem, video.pr_ins, video.seq, k, 4, CLASSES.things, "segment"
            )
            found = metric.per_class()[k][lam]
            for c in range(4):
                assert [found["tp"][c], found["fp"][c], found["fn"][c]] == expected[c][1:]
                assert found["iou"][c] == pytest.approx(float(expected[c][0]))
            assert metric.compute()[k][lam]["all"] == (
                None if pq_of(expected) is None else pytest.approx(pq_of(expected))
            )


@given(videos)
@few
def test_perfect_is_one(video: Video):
    perfect = video.perfect()
    table = perfect.feed(VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS, crowd="segment"))
    for k, columns in table.compute().items():
        for summary in columns.values():
            assert summary["all"] == (1.0 if table.seen[k] and (perfect.gt_sem < 255).any() else None)


@given(videos)
@few
def test_renaming_predicted_ids_changes_nothing(video: Video):
    rename = np.array([0, 70001, 3, 123456789, 1])
    renamed = replace(video, pr_ins=rename[video.pr_ins])
    first = video.feed(VideoPanopticQuality(CLASSES, [1, 3], lambdas=LAMBDAS))
    second = renamed.feed(VideoPanopticQuality(CLASSES, [1, 3], lambdas=LAMBDAS))
    assert first.per_class() == second.per_class()


@given(videos)
@few
def test_shards_of_whole_sequences_merge_to_the_whole(video: Video):
    cut = int((video.seq == 0).sum())
    whole = video.feed(VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS))
    shard = video.feed(VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS), slice(0, cut))
    shard.merge(video.feed(VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS), slice(cut, None)))
    assert shard.seen == whole.seen
    for k in (1, 2):
        for name in ("tp", "fp", "fn"):
            assert (getattr(shard.counts[k], name) == getattr(whole.counts[k], name)).all()
        np.testing.assert_allclose(shard.counts[k].iou, whole.counts[k].iou)


def test_a_sequence_in_two_shards_is_refused():
    video = random_video(0)
    one, two = (video.feed(VideoPanopticQuality(CLASSES, [1])) for _ in range(2))
    with pytest.raises(InputError, match="whole sequences"):
        one.merge(two)


@given(videos)
@few
def test_voiding_more_never_raises_dvpq(video: Video):
    """Where the labels are right; voiding a stray pixel of a wrong segment may well help that segment."""
    labelled = replace(video, pr_sem=video.gt_sem, pr_ins=video.gt_ins)
    means = labelled.feed(VideoPanopticQuality(CLASSES, [1, 2], lambdas=LAMBDAS, crowd="segment")).compute()
    for columns in means.values():
        scores = [columns[lam]["all"] for lam in LAMBDAS if columns[lam]["all"] is not None]
        assert scores == sorted(scores, reverse=True)


def test_many_segments_grow_the_table():
    gt_ins = np.arange(1, 10001, dtype=np.int32).reshape(100, 100)
    sem = np.full((100, 100), 2, np.uint8)
    pairs = count_pairs(sem, gt_ins, sem, gt_ins[::-1])
    assert len(pairs.gt) == 10000 and (pairs.total == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pr_sem": np.zeros((2, 3), np.uint8)}, "one shape"),
        ({"pr_sem": np.zeros((1, 2), np.float32)}, "pr_sem: expected an integer array, got float32"),
        ({"pr_sem": np.full((1, 2), 300, np.int64)}, "pr_sem: expected values 0 to 255, got 300"),
        ({"gt_ins": np.full((1, 2), 2**40, np.int64)}, "gt_ins: expected values"),
        ({"lambdas": (0.1,)}, "no true or no predicted depth"),
    ],
)
def test_bad_maps_are_refused(change, message):
    good = dict(zip(("gt_sem", "gt_ins", "pr_sem", "pr_ins"), (*row(A, B), *row(A, B)), strict=True))
    with pytest.raises(InputError, match=message):
        count_pairs(**{**good, **change})


def test_unknown_classes_and_negative_ids_are_refused_by_name():
    with pytest.raises(InputError, match=r"the truth holds unknown classes \[9\]; expected 0 to 3"):
        count_pairs(*row((9, 0)), *row(A)).check(CLASSES)
    with pytest.raises(InputError, match="negative instance ids"):
        count_pairs(*row(A), *row((2, -1))).check(CLASSES)
    # In the truth -1 is a thing without an id: crowd.
    pairs = count_pairs(*row((2, -1)), *row(A))
    pairs.check(CLASSES)
    assert quality_counts(pairs, CLASSES)[0].fn[2] == 0


def test_classes_refuse_what_does_not_fit():
    assert Classes.of(CITYSCAPES).things == tuple(range(11, 19))
    assert Classes.of(CITYSCAPES, (11, 13)).is_thing.nonzero()[0].tolist() == [11, 13]
    for bad in ((0, ()), (255, ()), (4, (4,)), (4, (1,), ("a",))):
        with pytest.raises(ConfigError):
            Classes(*bad)


def test_a_lambda_that_was_not_counted_is_refused():
    pairs = count_pairs(*row(A), *row(A))
    with pytest.raises(ConfigError, match="lambda"):
        quality_counts(pairs, CLASSES, lambdas=(0.3,))
