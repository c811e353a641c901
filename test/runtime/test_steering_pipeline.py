# SPDX-License-Identifier: Apache-2.0
"""Window by time stamp, limits and refusals of the steering pipeline, with a head of known answers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from known_head import MANIFEST, WEIGHTS, KnownHead, known_tokens

from dvps_ros.config import SteeringConfig
from dvps_ros.errors import EngineError, InputError
from dvps_ros.runtime import steering as st
from dvps_ros.runtime.manifest import find_model, list_models, load_manifest, model_kind
from dvps_ros.runtime.window import NO_FRAME_S, TokenWindow, window_slots

MS = 1_000_000


def pipeline(**changes):
    config = replace(SteeringConfig(min_frames=1, wheelbase_m=2.0, max_rate_rad_s=100.0), **changes)
    return st.SteeringPipeline(KnownHead(), config)


def slots_by_search(stamps_ns, frames, period_s):
    """The definition, slot by slot."""
    age = [(stamps_ns[-1] - s) * 1e-9 for s in stamps_ns]
    index = [len(age) - 1]
    for k in range(1, frames):
        near = [i for i, a in enumerate(age) if -0.5 <= a / period_s - k < 0.5]
        index.append(min(near, key=lambda i: abs(age[i] / period_s - k), default=-1))
    return index, [NO_FRAME_S if i < 0 else age[i] for i in index]


@pytest.mark.parametrize("rate_hz", (4.0, 9.7, 10.0, 30.0, 61.0))
def test_slots_hold_the_nearest_frames(rate_hz):
    rng = np.random.default_rng(int(rate_hz))
    times = np.cumsum(rng.uniform(0.7, 1.3, 120) / rate_hz)
    stamps = np.round(times[rng.random(120) > 0.2] * 1e9).astype(np.int64)
    index, age_s = window_slots(stamps, 8, 0.1)
    want_index, want_age = slots_by_search(stamps, 8, 0.1)
    assert index.tolist() == want_index
    np.testing.assert_allclose(age_s, want_age, atol=1e-6)


def test_a_lost_frame_leaves_a_hole():
    index, age_s = window_slots(np.array([0, 100, 300]) * MS, 4, 0.1)
    assert index.tolist() == [2, -1, 1, 0]
    np.testing.assert_allclose(age_s, [0, NO_FRAME_S, 0.2, 0.3], atol=1e-6)


def test_the_window_hands_out_newest_first():
    window = TokenWindow(3, 0.1, (2, 3), gap_s=0.5)
    for i in range(5):
        assert window.add(i * 100 * MS, known_tokens(i)) is None
    latent, age_s = window.slots()
    assert latent.shape == (1, 3, 2, 3) and latent.dtype == np.float32
    assert latent[0, :, 0, 0].tolist() == [4, 3, 2]
    np.testing.assert_allclose(age_s, [[0, 0.1, 0.2]], atol=1e-6)


def test_gaps_and_jumps_empty_the_window():
    window = TokenWindow(4, 0.1, (2, 3), gap_s=0.5)
    window.add(1000 * MS, known_tokens(1))
    assert window.add(1500 * MS, known_tokens(2)) is None
    assert window.add(2100 * MS, known_tokens(3)) == "gap of 0.60 s"
    assert (window.slots()[1] >= 0).sum() == 1
    assert window.add(1900 * MS, known_tokens(4)) == "time jumped backwards"
    assert window.slots()[0][0, 0, 0, 0] == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 3), np.float32), r"expected \[2, 3\], got \[3, 3\]"),
        (np.full((2, 3), np.nan, np.float32), "finite"),
        (np.full((2, 3), np.inf, np.float32), "finite"),
    ],
)
def test_bad_tokens_leave_the_window_as_it_was(bad, message):
    window = TokenWindow(4, 0.1, (2, 3), gap_s=0.5)
    window.add(0, known_tokens(1))
    with pytest.raises(InputError, match=message):
        window.add(100 * MS, bad)
    with pytest.raises(InputError, match="that of the frame before"):
        window.add(0, known_tokens(2))
    assert window.add(200 * MS, known_tokens(3)) is None
    assert window.slots()[0][0, :, 0, 0].tolist() == [3, 0, 1, 0]


def test_clearing_keeps_the_newest_stamp():
    window = TokenWindow(4, 0.1, (2, 3), gap_s=0.5)
    window.add(1000 * MS, known_tokens(1))
    window.clear()
    with pytest.raises(InputError, match="that of the frame before"):
        window.add(1000 * MS, known_tokens(1))
    assert window.add(9000 * MS, known_tokens(2)) is None  # an empty window has no gaps
    window.clear()
    assert window.add(8000 * MS, known_tokens(3)) == "time jumped backwards"


def test_a_flood_of_frames_does_not_grow_the_window():
    window = TokenWindow(4, 0.1, (2, 3), gap_s=0.5)
    for i in range(4):
        window.add(i * 100 * MS, known_tokens(i))
    for i in range(3000):
        window.add(300 * MS + (i + 1) * 1000, known_tokens(9))  # 1 us apart
    assert len(window._kept) <= 4 * 32 + 2
    latent, age_s = window.slots()
    assert latent[0, :, 0, 0].tolist() == [9, 2, 1, 0]  # what was before is not pushed out
    np.testing.assert_allclose(age_s, [[0, 0.103, 0.203, 0.303]], atol=1e-6)
    for i in range(1, 5001):
        window.add(303 * MS + i * 100_000, known_tokens(10))  # 10 kHz
    assert 4 * 32 * 0.9 < len(window._kept) <= 4 * 32 + 2


def test_the_window_keeps_its_own_copy():
    window, frame = TokenWindow(4, 0.1, (2, 3), gap_s=0.5), known_tokens(1)
    window.add(0, frame)
    frame[:] = 9
    assert window.slots()[0][0, 0, 0, 0] == 1


def test_curvature_becomes_a_tyre_angle():
    result = pipeline().process(0, known_tokens(0.1, deviation=0.01), WEIGHTS)
    assert result.valid and result.curvature_per_m == pytest.approx(0.1)
    assert result.tyre_angle_rad == pytest.approx(math.atan(0.2))  # wheelbase 2 m
    assert result.confidence == pytest.approx(0.6827, abs=1e-3)  # within one deviation


def test_angle_and_rate_are_limited():
    steering = pipeline(max_angle_rad=0.2, max_rate_rad_s=0.5)
    first = steering.process(0, known_tokens(0.15), WEIGHTS)
    assert first.tyre_angle_rad == pytest.approx(0.2)
    assert first.curvature_per_m == pytest.approx(math.tan(0.2) / 2)
    for i, want in enumerate((0.15, 0.10, 0.05, 0.0, -0.05), start=1):
        result = steering.process(i * 100 * MS, known_tokens(-0.15), WEIGHTS)
        assert result.tyre_angle_rad == pytest.approx(want)
    # A gap empties the window; the wheels have had time for 0.3 rad in it, and for no more.
    after = steering.process(1100 * MS, known_tokens(0.15), WEIGHTS)
    assert after.reset == "gap of 0.60 s" and after.tyre_angle_rad == pytest.approx(0.2)
    after = steering.process(1701 * MS, known_tokens(-0.15), WEIGHTS)
    assert after.reset == "gap of 0.60 s" and after.tyre_angle_rad == pytest.approx(0.2 - 0.3005)
    # Where time jumps back nobody knows how much of it has passed.
    again = steering.process(1600 * MS, known_tokens(0.15), WEIGHTS)
    assert again.reset == "time jumped backwards" and again.tyre_angle_rad == pytest.approx(0.2)


def test_doubtful_frames_do_not_switch_the_rate_limit_off():
    """0.6 rad/s at 10 Hz with every other frame doubtful: 0.12 rad from one command to the next."""
    steering = pipeline(max_rate_rad_s=0.6, max_angle_rad=0.6)
    angles = [steering.process(0, known_tokens(math.tan(0.5) / 2), WEIGHTS).tyre_angle_rad]
    for i in range(1, 7):
        deviation = 1.0 if i % 2 else 0.001
        result = steering.process(i * 100 * MS, known_tokens(-math.tan(0.5) / 2, deviation), WEIGHTS)
        assert result.valid is (i % 2 == 0)
        angles += [result.tyre_angle_rad] * result.valid
    assert angles == pytest.approx([0.5, 0.38, 0.26, 0.14])


def test_a_command_that_was_withdrawn_does_not_move_the_next_one():
    steering = pipeline(max_rate_rad_s=0.5)
    assert steering.process(0, known_tokens(0.0), WEIGHTS).tyre_angle_rad == 0.0
    assert steering.process(100 * MS, known_tokens(0.1), WEIGHTS).tyre_angle_rad == pytest.approx(0.05)
    steering.withdraw()
    # 0.1 rad in 0.2 s from the command before it, to the other side.
    assert steering.process(200 * MS, known_tokens(-0.1), WEIGHTS).tyre_angle_rad == pytest.approx(-0.1)


def test_forgetting_the_window_keeps_command_and_stamp_and_a_restart_only_the_stamp():
    steering = pipeline(max_rate_rad_s=0.5)
    steering.process(1000 * MS, known_tokens(0.0), WEIGHTS)
    for begin_anew, want in ((steering.forget, 0.05), (steering.restart, math.atan(0.2))):
        begin_anew()
        with pytest.raises(InputError, match="that of the frame before"):
            steering.process(1000 * MS, known_tokens(0.1), WEIGHTS)
        result = steering.process(1100 * MS, known_tokens(0.1), WEIGHTS)
        assert result.reset == "" and result.tyre_angle_rad == pytest.approx(want)
        assert (steering.head.fed[1] >= 0).sum() == 1
        steering.restart()
        steering.process(999 * MS, known_tokens(0.0), WEIGHTS)
        steering.process(1000 * MS, known_tokens(0.0), WEIGHTS)


@pytest.mark.parametrize("side", (1, -1))
def test_a_head_that_wants_what_no_wheel_can_is_not_believed(side):
    """However sure it is: it says so of input that it was never trained on."""
    most = math.tan(0.6) / 2
    steering = pipeline(max_angle_rad=0.6)
    within = steering.process(0, known_tokens(side * 1.49 * most, deviation=1e-6), WEIGHTS)
    assert within.valid and within.tyre_angle_rad == pytest.approx(side * 0.6)
    beyond = steering.process(100 * MS, known_tokens(side * 1.51 * most, deviation=1e-6), WEIGHTS)
    assert not beyond.valid and math.isnan(beyond.tyre_angle_rad) and beyond.confidence == 0.0
    assert "more than 1.5 times the 0.342 1/m of the largest angle" in beyond.reason
    assert not steering.process(200 * MS, known_tokens(side * 1e30, deviation=1e-6), WEIGHTS).valid


def test_the_shipped_head_is_not_believed_on_tokens_out_of_all_proportion():
    steering = st.SteeringPipeline.open(SteeringConfig(min_frames=1))
    manifest = steering.head.manifest
    with np.load(find_model("steering") / manifest.golden) as golden:
        window = golden["latent"][0].astype(np.float32)
    for i, scale in enumerate((1, 1e3, 1e30)):
        for k, tokens in enumerate(reversed(window)):
            stamp_ns = (i * 100 + k) * 100 * MS
            result = steering.process(stamp_ns, scale * tokens, manifest.perception.weights_sha256)
        assert result.valid is (scale == 1), (scale, result)
    steering.close()


def test_confidence_is_that_of_the_limited_curvature():
    """By counting: how often the head's curvature plus its error is near what is published."""
    steering = pipeline(max_rate_rad_s=0.5)
    steering.process(0, known_tokens(0.0), WEIGHTS)
    result = steering.process(100 * MS, known_tokens(0.04, deviation=0.01), WEIGHTS)
    assert result.valid and result.curvature_per_m == pytest.approx(math.tan(0.05) / 2)
    drawn = 0.04 + 0.01 * np.random.default_rng(0).standard_normal(1_000_000)
    counted = (np.abs(drawn - result.curvature_per_m) < 0.01).mean()
    assert result.confidence == pytest.approx(counted, abs=2e-3) and counted < 0.4


def test_not_valid_until_there_are_frames_and_confidence():
    steering = pipeline(min_frames=2, min_confidence=0.5)
    first = steering.process(0, known_tokens(0.01), WEIGHTS)
    assert not first.valid and "holds 1 of at least 2 frames" in first.reason
    assert math.isnan(first.tyre_angle_rad) and math.isnan(first.curvature_per_m) and first.confidence == 0.0
    assert steering.process(100 * MS, known_tokens(0.01), WEIGHTS).valid
    unsure = steering.process(200 * MS, known_tokens(0.01, deviation=1.0), WEIGHTS)
    assert not unsure.valid and "confidence 0.01 is below 0.50" in unsure.reason and unsure.confidence == 0.0


def test_tokens_of_another_model_are_refused():
    steering = pipeline()
    with pytest.raises(
        InputError, match="expected those of lite with weights aaaaaaaaaaaa, got weights 'bbbbb"
    ):
        steering.process(0, known_tokens(0.0), "b" * 64)
    for beginning in ("", WEIGHTS[:1], WEIGHTS[:12]):
        with pytest.raises(InputError, match=rf"got weights '{beginning}' \({len(beginning)} of 64"):
            steering.process(0, known_tokens(0.0), beginning)
    assert steering.process(0, known_tokens(0.0), WEIGHTS).valid  # none of them came into the window
    with pytest.raises(EngineError, match="min_frames"):
        pipeline(min_frames=5)


def test_manifest_round_trip_and_refusals(tmp_path):
    path = st.write_steering_manifest(MANIFEST, tmp_path)
    assert st.load_steering_manifest(tmp_path) == MANIFEST
    assert model_kind(tmp_path) == "steering"
    assert "steering" in list_models("steering") and "steering" not in list_models()
    with pytest.raises(EngineError, match="expected a perception model, got one of kind 'steering'"):
        load_manifest(tmp_path)
    data = json.loads(path.read_text())
    for change, message in (
        ({"kind": "perception"}, "expected a steering head"),
        ({"contract": 2}, "contract version: expected 1"),
        ({"frames": 0}, "frames"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"latent_shape": [1]}, "latent_shape"),
        ({"perception": {"name": "x"}}, r"missing keys \['weights_sha256'\]"),
        ({"graph": "../x.onnx"}, "plain name"),
        ({"tolerance_per_m": "wide"}, "manifest.tolerance_per_m: expected"),
    ):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(EngineError, match=message):
            st.load_steering_manifest(tmp_path)
