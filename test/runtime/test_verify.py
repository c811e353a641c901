# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from dvps_ros.contract import NO_SEGMENT
from dvps_ros.runtime.verify import FAR, MOTION, PANOPTIC, Golden, compare, compare_ids, table


def outputs(rows=((30.0, 20.0, 0.9), (60.0, 20.0, 0.8))):
    """Two segments side by side, 8x16 cells; ``rows`` are centre x, y and score."""
    segments = np.zeros((1, 64, 9), np.float32)
    segments[0, : len(rows), 0] = 13
    segments[0, : len(rows), 1] = [r[2] for r in rows]
    segments[0, : len(rows), 3:5] = [r[:2] for r in rows]
    embedding = np.zeros((1, 64, 4), np.float32)
    embedding[0, range(len(rows)), range(len(rows))] = 1
    segment_map = np.full((1, 8, 16), 255, np.uint8)
    segment_map[0, 2:6, 4:8], segment_map[0, 2:6, 12:16] = 0, 1
    return {
        "class_map": np.where(segment_map == 255, 0, 13).astype(np.uint8),
        "segment_map": segment_map,
        "nearest": segment_map.copy(),
        "depth_m": np.linspace(5, 50, 128, dtype=np.float32).reshape(1, 8, 16),
        "segments": segments,
        "embedding": embedding,
    }


def failed(golden, got, precision="fp32"):
    return {d.output for d in compare(golden, got, precision) if not d.passed}


def swapped(values):
    """The same two segments with their rows in the other order."""
    other = {k: v.copy() for k, v in values.items()}
    for name in ("segments", "embedding"):
        other[name][0, :2] = values[name][0, 1::-1]
    for name in ("segment_map", "nearest"):
        known = values[name] != 255
        other[name][known] = 1 - values[name][known]
    return other


def test_equal_outputs_differ_by_nothing():
    assert all(d.value == d.mean == d.max == 0 for d in compare(outputs(), outputs(), "fp32"))


def test_a_map_without_any_spread_may_differ_by_its_rounding():
    logits = np.full((1, 19, 8, 12), -3.4538777, np.float32)
    golden = outputs() | {"class_logits": logits.astype(np.float16).astype(np.float32)}
    assert not failed(golden, outputs() | {"class_logits": logits})
    assert failed(golden, outputs() | {"class_logits": 1.01 * logits}) == {"class_logits"}


def test_rows_in_another_order_are_the_same_segments():
    assert not failed(outputs(), swapped(outputs()))
    wrong = swapped(outputs())
    wrong["segment_map"] = outputs()["segment_map"]  # map and table no longer agree
    assert failed(outputs(), wrong) == {"segment_map", "panoptic"}


def test_memory_by_rows_follows_the_rows():
    golden = outputs() | {"next_state_rows": outputs()["embedding"]}
    got = swapped(outputs()) | {"next_state_rows": swapped(outputs())["embedding"]}
    assert not failed(golden, got)
    got["next_state_rows"] = golden["next_state_rows"]  # of the other object
    assert failed(golden, got) == {"next_state_rows"}
    maps = outputs()["segment_map"], swapped(outputs())["segment_map"]
    remembered, other = (np.where(m == NO_SEGMENT, 0, m + 1.0).astype(np.float32) for m in maps)
    golden, got = outputs() | {"next_state_row_map": remembered}, swapped(outputs())
    assert failed(golden, got | {"next_state_row_map": other}) == set()
    assert failed(golden, got | {"next_state_row_map": remembered}) == {"next_state_row_map"}


def test_no_segments_at_all():
    empty = outputs()
    for name, blank in (("segments", 0), ("embedding", 0), ("segment_map", 255), ("nearest", 255)):
        empty[name] = np.full_like(empty[name], blank)
    assert not failed(empty, empty)
    assert {"segments", "segment_map"} <= failed(outputs(), empty)
    assert {"segments", "segment_map"} <= failed(empty, outputs())


def test_limits_follow_the_precision():
    near = outputs()
    near["depth_m"] = near["depth_m"] + 0.01 * 11.3  # 1 % of its mean deviation
    assert failed(outputs(), near, "fp32") == {"depth_m"}
    assert not failed(outputs(), near, "bf16")
    (depth,) = (d for d in compare(outputs(), near, "fp32") if d.output == "depth_m")
    assert depth.value == pytest.approx(0.01, rel=0.05)
    assert depth.mean == pytest.approx(0.113, rel=1e-4) and depth.max == pytest.approx(0.113, rel=1e-3)


def test_depth_of_what_is_far_is_compared_by_its_ratio():
    near = outputs()
    far = near["depth_m"] > 20
    near["depth_m"] = np.where(far, near["depth_m"] * 1.1, near["depth_m"]).astype(np.float32)
    (row,) = (d for d in compare(outputs(), near, "int8") if d.output == FAR)
    assert row.value == pytest.approx(0.1, rel=1e-4) and not row.passed
    close = outputs()
    close["depth_m"] = np.where(far, close["depth_m"], close["depth_m"] * 1.1).astype(np.float32)
    (row,) = (d for d in compare(outputs(), close, "int8") if d.output == FAR)
    assert row.value < 1e-6


def test_motion_of_the_objects_is_a_row_of_its_own():
    golden, near = outputs(), outputs()
    for values, dx in ((golden, 4.0), (near, 3.0)):
        values["segments"][0, :2, 5] = dx  # of dx and dy the mean size is 2
    (row,) = (d for d in compare(golden, near, "int8") if d.output == MOTION)
    assert row.value == pytest.approx(0.25) and row.mean == pytest.approx(0.5)


def test_identities_are_those_that_the_tracker_gives():
    first, second = outputs(), outputs()
    golden = Golden((np.zeros((32, 64, 3), np.uint8),) * 2, np.ones(4, np.float32), second, first)
    assert compare_ids(golden, first, second, "fp32").value == 0
    assert compare_ids(golden, swapped(first), second, "fp32").value == 0  # other rows, the same objects
    fewer = outputs()
    fewer["segments"][0, 1] = fewer["embedding"][0, 1] = 0
    fewer["segment_map"][fewer["segment_map"] == 1] = 255
    lost = compare_ids(golden, fewer, second, "fp32")  # one of two has no past
    assert lost.value == 0.5 and lost.max == 1 and not lost.passed
    weak = outputs(((30.0, 20.0, 0.9), (60.0, 20.0, 0.4)))
    golden = Golden(golden.images, golden.intrinsics, weak, weak)
    assert compare_ids(golden, fewer, weak, "fp32").value == 0  # it was not sure in the first place


def test_a_few_pixels_of_another_class():
    near = outputs()
    near["class_map"][0, 0, :2] = 5  # 2 of 128 pixels: 1.6 %
    assert failed(outputs(), near, "fp32") == {"class_map", "panoptic"}
    assert not failed(outputs(), near, "bf16")
    assert failed(outputs(), near | {"class_map": 1 - near["class_map"]}, "bf16") == {"class_map", "panoptic"}


def test_panoptic_agreement_is_of_class_and_segment_together():
    near = swapped(outputs())
    near["class_map"][0, 0, :2] = 5  # two pixels of another class, one of them
    near["segment_map"][0, 0, 1:4] = 1  # and two more of another segment: four of 128
    (panoptic,) = (d for d in compare(outputs(), near, "int8") if d.output == PANOPTIC)
    assert panoptic.value == 4 / 128 and panoptic.passed


def test_not_a_number_never_passes():
    broken = outputs()
    broken["depth_m"][0, 0, 0] = np.nan
    assert failed(outputs(), broken, "bf16") == {"depth_m"}
    assert "depth_m" in table(compare(outputs(), broken, "bf16")) and "FAILS" in table(
        compare(outputs(), broken, "bf16")
    )
