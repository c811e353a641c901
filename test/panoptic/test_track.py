# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scene import BICYCLE, CAR, HEIGHT, PERSON, RIDER, TENTH, TRUCK, WIDTH, Box, frame, vector

from dvps_ros.config import TrackerConfig
from dvps_ros.contract import Column
from dvps_ros.errors import InputError
from dvps_ros.panoptic.track import Tracker, _intersections, _moments
from dvps_ros.types import TrackState


def tracker(**changes) -> Tracker:
    return Tracker(TrackerConfig(**changes), (WIDTH, HEIGHT))


def drive(t: Tracker, frames, start=0, step=TENTH):
    """Track ids of each frame's boxes, in order; 0 for none."""
    ids = []
    for i, boxes in enumerate(frames):
        tracks = t.update(start + i * step, *frame(*boxes))
        ids.append([int(tracks.row_track[row]) for row in range(len(boxes))])
    return ids, tracks


def states(tracks):
    return {t.track_id: t.state for t in tracks.live}


def test_kernels_equal_the_slow_loop():
    rng = np.random.default_rng(0)
    segment_map = rng.choice([0, 1, 2, 3, 255], (24, 32)).astype(np.uint8)
    area, center = _moments(segment_map, 5)
    for row in range(4):
        y, x = np.nonzero(segment_map == row)
        assert area[row] == len(x)
        np.testing.assert_allclose(center[row], [x.mean(), y.mean()])
    assert area[4] == 0 and (center[4] == 0).all()

    slot = np.full(256, -1, np.int16)
    slot[[0, 1, 3]] = [0, 1, 2]
    index_map = rng.integers(-1, 4, (24, 32)).astype(np.int16)
    shift = np.array([[0, 0], [3, -2], [-40, 1]])
    common = _intersections(segment_map, slot, shift, index_map, 4)
    for i, row in enumerate([0, 1, 3]):
        y, x = np.nonzero(segment_map == row)
        y, x = y + shift[i, 1], x + shift[i, 0]
        inside = (x >= 0) & (x < 32) & (y >= 0) & (y < 24)
        hits = index_map[y[inside], x[inside]]
        np.testing.assert_array_equal(common[i], [(hits == j).sum() for j in range(4)])


def test_standing_objects_keep_their_ids_whatever_their_row():
    a, b = Box(2, 2, 6, 5, 0), Box(20, 10, 5, 8, 1)
    ids, tracks = drive(tracker(), [[a, b], [b, a], [a, b]])
    assert ids == [[1, 2], [2, 1], [1, 2]]
    assert tracks.row_track[255] == 0 and tracks.row_track.dtype == np.uint16
    assert states(tracks) == {1: TrackState.CONFIRMED, 2: TrackState.CONFIRMED}


def test_confirmation_takes_three_sightings():
    t = tracker()
    seen = [states(t.update(i * TENTH, *frame(Box(2, 2, 6, 5, 0))))[1] for i in range(4)]
    assert seen == [TrackState.TENTATIVE] * 2 + [TrackState.CONFIRMED] * 2


def test_fast_objects_are_followed_by_their_motion():
    # 8 cells a frame, 5 wide: the masks of successive frames do not overlap at all.
    ids, _ = drive(tracker(), [[Box(8 * i, 4, 5, 5, 0, (8, 0))] for i in range(4)])
    assert ids == [[1]] * 4


def test_motion_settles_who_is_who_when_looks_do_not():
    # Two equal cars pass each other; in the third frame the second hides the first.
    frames = [[Box(4 + 4 * i, 4, 4, 8, 0, (4, 0)), Box(20 - 4 * i, 4, 4, 8, 0, (-4, 0))] for i in range(4)]
    assert drive(tracker(), frames)[0] == [[1, 2], [1, 2], [0, 2], [1, 2]]


def test_one_assignment_for_all_resists_the_greedy_swap():
    # IoU of the first with A 4/8, with B 2/10; of the second with A 3/9. The best pair alone would take
    # A from the second and leave it without.
    before = [Box(6, 4, 6, 4, 0), Box(12, 4, 6, 4, 0)]
    now = [Box(8, 4, 6, 4, 0), Box(3, 4, 6, 4, 0)]
    assert drive(tracker(), [before, now])[0] == [[1, 2], [2, 1]]


def test_one_sure_pair_wins_over_two_doubtful_ones():
    # The first is A (IoU 3/5); it must not become B (IoU 1/9) only to let the newcomer, at 4 m, have A.
    before = [Box(8, 4, 4, 4, 0), Box(12, 4, 6, 4, 0)]
    now = [Box(9, 4, 4, 4, 0), Box(3, 4, 6, 4, 1, depth_m=4.0)]
    ids, _ = drive(tracker(), [before, now])
    assert ids[1] == [1, 3]


def test_log_odds_by_hand():
    """One pair: every term of the formula, worked out beside it."""
    t = tracker()
    drive(t, [[Box(4, 4, 6, 6, 0, depth_m=10.0)]])
    segments, segment_map, embedding = frame(Box(6, 4, 6, 3, 0, depth_m=10.0 * np.e**0.5, class_id=PERSON))
    embedding[0] = 0.6 * vector(0) + 0.8 * vector(1)
    seen = t._measure(segments, segment_map, embedding)
    tracks = list(t._tracks.values())
    overlap = t._overlap(seen, segment_map, tracks)
    assert overlap[0, 0] == pytest.approx(12 / (18 + 36 - 12))
    # Centres 2 and 1.5 cells apart; the larger is 6 cells wide; a tenth of a second unseen.
    place = 1 + (2 * 2.5 / (6 * 1.1)) ** 2
    expected = 2.5 + 5 * 12 / 42 - 2 * np.log(place) - 3 * 0.5 - 1.5 * np.log(2) + 0.6 + 0
    found = t._log_odds(TENTH, 0.1, seen, tracks, overlap)
    assert found[0, 0] == pytest.approx(expected, abs=1e-5)


def test_the_limit_on_the_log_odds_decides():
    # Unmoved: 2.5 + 5 + 1 + 1 = 9.5 nats.
    frames = [[Box(4, 4, 6, 6, 0)]] * 2
    assert drive(tracker(min_log_odds=9.4), frames)[0] == [[1], [1]]
    assert drive(tracker(min_log_odds=9.6), frames)[0] == [[1], [2]]


@pytest.mark.parametrize(("depth_m", "who"), [(8.0, 1), (24.0, 2)])
def test_two_alike_in_the_picture_are_told_apart_by_their_distance(depth_m, who):
    # Half way between a near and a far car, equal to both in place, size and look.
    before = [Box(4, 4, 6, 5, 0, depth_m=8.0), Box(10, 4, 6, 5, 0, depth_m=24.0)]
    ids, _ = drive(tracker(), [before, [Box(7, 4, 6, 5, 0, depth_m=depth_m)]])
    assert ids == [[1, 2], [who]]


def test_depth_is_followed_while_unseen():
    # It comes nearer by 5 % a frame, is hidden for five frames, and comes back as near as that says; another
    # one, as far as it was when last seen, comes with it.
    t = tracker()
    drive(t, [[Box(10, 4, 6, 6, 0, depth_m=30 * 0.95**i)] for i in range(8)])
    drive(t, [[]] * 5, start=8 * TENTH)
    ids, _ = drive(
        t, [[Box(7, 4, 6, 6, 0, depth_m=30 * 0.95**7), Box(13, 4, 6, 6, 0, depth_m=30 * 0.95**13)]],
        start=13 * TENTH,
    )  # fmt: skip
    assert ids == [[2, 1]]


def test_a_weak_segment_takes_no_track_from_a_strong_one():
    # A splinter that overlaps as well as the object itself: known objects go to the strong first.
    t = tracker()
    drive(t, [[Box(4, 4, 8, 6, 0)]] * 3)
    ids, _ = drive(t, [[Box(4, 4, 7, 6, 0, score=0.2), Box(12, 4, 7, 6, 0)]], start=3 * TENTH)
    assert ids == [[0, 1]]


def test_occlusion_and_return():
    # A car passes behind a truck and is unseen for five frames.
    truck = Box(12, 2, 8, 10, 1, class_id=TRUCK)
    frames = []
    for i in range(16):
        frames.append([Box(2 * i, 5, 4, 4, 0, (2, 0)), truck])
    ids, tracks = drive(tracker(), frames)
    cars = [row[0] for row in ids]
    assert set(cars) == {0, 1} and cars[0] == cars[-1] == 1
    assert 0 in cars[5:10]
    assert {row[1] for row in ids} == {2}
    assert len(tracks.live) == 2


def test_a_lost_object_is_remembered_then_forgotten():
    t = tracker(memory_s=0.5)
    drive(t, [[Box(2, 2, 6, 5, 0)]] * 3)
    ids, tracks = drive(t, [[]] * 5, start=3 * TENTH)
    assert states(tracks) == {1: TrackState.LOST} and tracks.live[0].row == -1
    tracks = t.update(8 * TENTH, *frame())
    assert tracks.live == ()
    ids, _ = drive(t, [[Box(2, 2, 6, 5, 0)]], start=9 * TENTH)
    assert ids == [[2]]


def test_what_was_never_confirmed_is_not_reported_lost_but_keeps_its_id():
    t = tracker()
    drive(t, [[Box(2, 2, 6, 5, 0)]])
    assert t.update(TENTH, *frame()).live == ()
    assert drive(t, [[Box(2, 2, 6, 5, 0)]], start=2 * TENTH)[0] == [[1]]


def test_an_object_that_speeds_up_unseen_is_found_again():
    # 1 cell a frame before, 3 after; six frames unseen: 12 cells, as the mean of both says.
    t = tracker()
    drive(t, [[Box(i, 4, 4, 4, 0, (1, 0))] for i in range(4)])
    drive(t, [[]] * 5, start=4 * TENTH)
    assert drive(t, [[Box(15, 4, 4, 4, 0, (3, 0))]], start=9 * TENTH)[0] == [[1]]


def test_weak_overlap_of_something_smaller_and_nearer_is_another_object():
    t = tracker()
    # IoU 6/42, a third of the area, another look, nearer, another kind
    ids, _ = drive(t, [[Box(4, 4, 6, 6, 0)], [Box(8, 7, 3, 4, 1, depth_m=3.0, class_id=PERSON)]])
    assert ids == [[1], [2]]


def test_another_object_at_the_place_of_a_lost_one_is_new():
    t = tracker()
    drive(t, [[Box(4, 4, 6, 5, 0)]] * 3)
    drive(t, [[]] * 3, start=3 * TENTH)
    # IoU 3/33, another look, nearer, smaller, another kind
    ids, _ = drive(t, [[Box(9, 6, 2, 3, 3, depth_m=3.0, class_id=PERSON)]], start=6 * TENTH)
    assert ids == [[2]]


def test_a_twin_elsewhere_does_not_revive_a_lost_object():
    t = tracker()
    drive(t, [[Box(1, 1, 4, 4, 0)]] * 3)
    drive(t, [[]], start=3 * TENTH)
    ids, _ = drive(t, [[Box(26, 18, 4, 4, 0)]], start=4 * TENTH)
    assert ids == [[2]]


def test_a_mask_that_flickers_needs_no_look():
    t = tracker()
    drive(t, [[Box(4, 4, 6, 5, 0)]] * 3)
    drive(t, [[]], start=3 * TENTH)
    ids, _ = drive(t, [[Box(4, 4, 6, 5, 7)]], start=4 * TENTH)
    assert ids == [[1]]


def test_the_lost_object_is_looked_for_where_it_went():
    # Unseen from 0.3 to 0.6 s; it moved on at 2 cells a frame. Its look is useless.
    t = tracker()
    drive(t, [[Box(2 * i, 4, 6, 5, 0, (2, 0))] for i in range(3)])
    drive(t, [[]] * 3, start=3 * TENTH)
    ids, _ = drive(t, [[Box(12, 4, 6, 5, 7, (2, 0))]], start=6 * TENTH)
    assert ids == [[1]]


def test_entry_and_exit():
    frames = [[Box(26 + 2 * i, 4, 6, 5, 0, (2, 0))] for i in range(3)]
    frames += [[Box(-4 + 2 * i, 12, 6, 5, 1, (2, 0))] for i in range(4)]
    ids, tracks = drive(tracker(), frames)
    assert ids == [[1]] * 3 + [[2]] * 4


@pytest.mark.parametrize(("one", "other"), [(CAR, TRUCK), (PERSON, RIDER)])
def test_a_class_flip_breaks_nothing_and_is_outvoted(one, other):
    classes = [one, one, other, one, other, one]
    ids, tracks = drive(tracker(), [[Box(4, 4, 6, 5, 0, class_id=c)] for c in classes])
    assert ids == [[1]] * 6
    assert tracks.live[0].class_id == one


def test_a_cyclist_is_one_object_whatever_it_is_called():
    # Networks call it rider, bicycle, even car, from frame to frame.
    classes = (RIDER, CAR, BICYCLE, RIDER, CAR, RIDER)
    ids, tracks = drive(tracker(), [[Box(4, 4, 6, 5, 0, class_id=c)] for c in classes])
    assert ids == [[1]] * 6
    assert tracks.live[0].class_id == RIDER


def test_a_person_who_leaves_the_bicycle_keeps_its_id_by_its_kind():
    # One object became two of the same size at the same distance, left and right of its place.
    t = tracker()
    drive(t, [[Box(8, 4, 6, 6, 0, class_id=PERSON)]] * 3)
    now = [Box(6, 4, 6, 6, 0, class_id=BICYCLE), Box(10, 4, 6, 6, 0, class_id=PERSON)]
    assert drive(t, [now], start=3 * TENTH)[0] == [[2, 1]]


def test_weak_segments_start_nothing_but_continue():
    t = tracker(min_score=0.3)
    ids, tracks = drive(t, [[Box(4, 4, 6, 5, 0, score=0.2)]])
    assert ids == [[0]] and tracks.live == ()
    ids, _ = drive(t, [[Box(4, 4, 6, 5, 0, score=s)] for s in (0.5, 0.1, 0.1)], start=TENTH)
    assert ids == [[1]] * 3


def test_more_objects_than_slots_keep_what_is_seen():
    # Nine boxes for eight slots: every frame another one is missing. Neighbours stand at other distances.
    boxes = [Box(7 * (i % 5), 2 + 12 * (i // 5), 3, 6, i, depth_m=(5.0, 20.0)[i % 2]) for i in range(9)]
    t, seen = tracker(), {}
    for i in range(18):
        shown = [b for j, b in enumerate(boxes) if j != i % 9]
        tracks = t.update(i * TENTH, *frame(*shown))
        for row, b in enumerate(shown):
            seen.setdefault(b.who, set()).add(int(tracks.row_track[row]))
    assert all(len(ids) == 1 for ids in seen.values()) and len(set.union(*seen.values())) == 9


def test_empty_frames_and_unused_rows():
    t = tracker()
    tracks = t.update(0, *frame())
    assert tracks.live == () and not tracks.row_track.any()
    segments, segment_map, embedding = frame(Box(4, 4, 6, 5, 0))
    segments[3] = [CAR, 0.9, 5, 0, 0, 0, 0, 10, 0]  # in use, but every pixel of it is gone
    segment_map[0, 0] = 6  # a pixel of a row that is not in use
    tracks = t.update(TENTH, segments, segment_map, embedding)
    assert tracks.row_track.nonzero()[0].tolist() == [0]


def test_ids_wrap_and_skip_what_is_remembered():
    t = tracker()
    stays = Box(2, 2, 5, 5, 0)
    drive(t, [[stays]])
    t._last_id = 65534
    ids, _ = drive(t, [[stays, Box(20, 2, 5, 5, 1)], [stays, Box(20, 15, 5, 5, 2)]], start=TENTH)
    assert ids == [[1, 65535], [1, 2]]


def test_time_backwards_forgets_and_ids_go_on():
    t = tracker()
    drive(t, [[Box(2, 2, 6, 5, 0)]] * 3, start=100 * TENTH)
    ids, tracks = drive(t, [[Box(2, 2, 6, 5, 0)]])
    assert ids == [[2]] and len(tracks.live) == 1 and tracks.live[0].hits == 1


def test_a_long_gap_forgets():
    t = tracker()
    drive(t, [[Box(2, 2, 6, 5, 0)]] * 3)
    ids, _ = drive(t, [[Box(2, 2, 6, 5, 0)]], start=100 * TENTH)
    assert ids == [[2]]


def test_a_slow_stream_keeps_its_ids():
    ids, _ = drive(
        tracker(memory_s=0.1), [[Box(2 + 3 * i, 2, 6, 5, 0, (3, 0))] for i in range(4)], step=10 * TENTH
    )
    assert ids == [[1]] * 4


def test_a_repeated_stamp_is_harmless():
    ids, tracks = drive(tracker(), [[Box(2, 2, 6, 5, 0)]] * 3, step=0)
    assert ids == [[1]] * 3
    assert np.isfinite(tracks.live[0].velocity_px_s).all()


def test_a_repeated_stamp_with_a_lost_object_is_harmless():
    t = tracker()
    drive(t, [[Box(2, 2, 6, 5, 0)]] * 3 + [[]])
    ids, _ = drive(t, [[Box(2, 2, 6, 5, 0)]], start=3 * TENTH)
    assert ids == [[1]]


def test_absurd_motion_and_a_tiny_step_of_time_are_survived():
    t = tracker()
    for i, step in enumerate([0, 1e30, -1e30, 0]):
        tracks = t.update(i, *frame(Box(4, 4, 6, 5, 0, (step, 0))))
        t.update(i, *frame())
    assert tracks.row_track[0] > 0


def test_velocity_and_vector_are_running_means():
    t = tracker()
    drive(t, [[Box(2, 2, 6, 5, 0)]])
    _, tracks = drive(t, [[Box(4, 2, 6, 5, 1, (2, 0))]], start=TENTH)
    track = tracks.live[0]
    np.testing.assert_allclose(track.velocity_px_s, [0.5 * 8 / 0.1, 0])
    np.testing.assert_allclose(track.embedding[:2], np.array([0.9, 0.1]) / np.hypot(0.9, 0.1), rtol=1e-5)


def test_not_a_number_from_the_network_is_survived():
    t = tracker()
    drive(t, [[Box(4, 4, 6, 5, 0)]])
    segments, segment_map, embedding = frame(Box(4, 4, 6, 5, 0))
    segments[0, 5:] = np.nan
    embedding[0] = np.nan
    tracks = t.update(TENTH, segments, segment_map, embedding)
    assert tracks.row_track[0] == 1
    assert np.isfinite(tracks.live[0].embedding).all()


def test_the_same_input_gives_the_same_ids():
    rng = np.random.default_rng(1)
    frames = [
        [Box(int(x), int(y), 5, 5, int(w)) for x, y, w in zip(*rng.integers(0, 16, (3, 7)), strict=True)]
        for _ in range(20)
    ]
    assert drive(tracker(), frames)[0] == drive(tracker(), frames)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": np.zeros((8, 8), np.float32)}, r"segments: expected float32 \[\?x9\]"),
        ({"segment_map": np.zeros((24, 31), np.uint8)}, r"segment_map: expected uint8 \[24x32\]"),
        ({"embedding": np.zeros((7, 16), np.float32)}, r"embedding: expected float32 \[8x\?\]"),
    ],
)
def test_wrong_input_is_refused(change, message):
    arrays = dict(zip(("segments", "segment_map", "embedding"), frame(), strict=True)) | change
    with pytest.raises(InputError, match=message):
        tracker().update(0, **arrays)


def test_vectors_of_the_scene_are_orthonormal():
    assert vector(1) @ vector(1) == 1 and vector(1) @ vector(2) == 0


def test_an_overlap_that_the_network_gives_settles_who_is_who():
    """Two that swap places between two frames, alike in everything: only the network saw it."""
    boxes = [Box(4, 4, 6, 6, 0), Box(7, 4, 6, 6, 0)]
    for swapped in (False, True):
        t = tracker()
        first = t.update(0, *frame(*boxes))
        overlap = np.zeros((len(frame(*boxes)[0]),) * 2, np.float32)
        overlap[0, 1 if swapped else 0] = overlap[1, 0 if swapped else 1] = 0.9
        now = t.update(TENTH, *frame(*boxes), overlap)
        want = first.row_track[:2][::-1] if swapped else first.row_track[:2]
        assert now.row_track[:2].tolist() == want.tolist()


def test_with_a_given_overlap_velocities_come_from_centres():
    t = tracker()
    for k in range(4):
        segments, segment_map, embedding = frame(Box(4 + 2 * k, 4, 6, 6, 0))
        segments[:, [Column.MOTION_DX, Column.MOTION_DY]] = 0  # a network that sees no motion
        t.update(k * TENTH, segments, segment_map, embedding, np.eye(len(segments), dtype=np.float32))
    (track,) = t._tracks.values()
    speed = 2 * 4 / 0.1  # cells of 4 px in a tenth of a second
    assert track.velocity_px_s == pytest.approx([speed * (1 - 0.5**3), 0])


def test_an_overlap_of_another_size_is_refused():
    segments, segment_map, embedding = frame(Box(4, 4, 6, 6, 0))
    with pytest.raises(InputError, match="overlap: expected float32"):
        tracker().update(0, segments, segment_map, embedding, np.zeros((2, 2), np.float32))
