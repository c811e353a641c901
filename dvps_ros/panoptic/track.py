# SPDX-License-Identifier: Apache-2.0
"""Stable identities for the segments of a stream, frame by frame, without looking ahead.

How likely a segment and a remembered object are the same is one number, the log-odds in nats:

    2.5 + 5 IoU - 2 ln(1 + (2 d / r)^2) - 3 |ln z'/z| - 1.5 |ln A'/A| + cos + 1 [same kind of class]

- IoU: of the masks in the previous frame; the segment moved there by the motion that the network saw, the
  object where it was seen, or, when it was not, where its velocity would have brought it. A network that
  propagates objects itself gives the IoU of those that were seen (``overlap``).
- d / r: from the expected place of its centre, in sizes of the larger of the two; r grows while unseen.
- z'/z: depth over the expected one, A'/A: area over the last one (each at most one and two e-folds).
- cos: of the identity vectors.

The weights are those of a logistic regression on segment pairs of known identity (docs/tracking.md). Segments
that could start an object choose first, then the weaker ones; each time one optimal assignment for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from dvps_ros.config import TrackerConfig
from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, SEGMENT_COLUMNS, Column
from dvps_ros.errors import InputError
from dvps_ros.jit import njit
from dvps_ros.labels import CITYSCAPES, MAX_INSTANCE, NO_INSTANCE, LabelSpace
from dvps_ros.types import TrackState, check_array

_CONFUSABLE = ({"car", "truck", "bus", "train"}, {"person", "rider"}, {"motorcycle", "bicycle"})
"""Classes that a network confuses on one and the same object; they must not cost it its identity."""
_PRIOR, _OVERLAP, _PLACE, _DEPTH, _AREA, _LOOK, _KIND = 2.5, 5.0, 2.0, 3.0, 1.5, 1.0, 1.0
"""Weights of the log-odds, nats: see above."""
_MOST_DEPTH, _MOST_AREA = 1.0, 2.0
"""Ratios of depth and of area beyond these, as natural logarithms, say no more."""
_REACH_PER_S, _REACH_SHARE = 1.0, 0.1
"""How r grows: by the object's size a second unseen, and by a share of the way it should have gone."""
_LEAST_SIZE_CELLS = 4.0
"""Smaller objects count as this large in that."""
_TRUSTED_OVERLAP = 0.3
"""A motion offset that led to such an overlap is the object's step; else its centre's own path is."""
_NEAREST_M = 0.1
"""Depth below this counts as this."""
_FASTEST_APPROACH = 1.0
"""Most that ln(depth) of an object changes in a second."""
_APPROACH_MEMORY = 0.7
"""Share of the old rate of ln(depth) in the running mean."""
_VECTOR_MEMORY = 0.9
"""Share of the old identity vector in the running mean."""
_VELOCITY_MEMORY = 0.5
"""Share of the old image velocity in the running mean."""
LONGEST_GAP_S = 2.0
"""Longer without a frame, and the last one says nothing about this one."""


@dataclass
class Track:
    """One object over time. Pixels are those of the network's input."""

    track_id: int
    first_ns: int
    last_ns: int
    """Stamps of the first and the last sight."""
    hits: int
    """Frames in which it was seen."""
    state: TrackState
    votes: np.ndarray
    """float64 [256]: sum of scores by class."""
    score: float
    moving: float
    """Probability that it moves over ground. This and what follows: when last seen."""
    row: int
    """Row in this frame's segment table; -1 when not seen in it."""
    area: int
    """Mask, stride-4 pixels."""
    center_px: np.ndarray
    """float64 [2]: of the mask."""
    velocity_px_s: np.ndarray
    """float64 [2]: in the image, running mean."""
    log_depth: float
    """ln of the segment's mean depth in metres, as the network gives it."""
    approach: float
    """Its change a second, running mean."""
    embedding: np.ndarray
    """float32 [D]: identity vector, running mean, unit length."""
    mask: tuple[np.ndarray, np.ndarray] | None = None
    """Rows and columns of its stride-4 pixels; kept only while it is lost."""

    @property
    def class_id(self) -> int:
        """Majority vote over its life."""
        return int(self.votes.argmax())

    def travel_px(self, stamp_ns: int) -> np.ndarray:
        """float64 [2]: how far it should have moved in the image since it was last seen."""
        return self.velocity_px_s * ((stamp_ns - self.last_ns) * 1e-9)

    def expected_log_depth(self, stamp_ns: int) -> float:
        """ln(metres) by now; what is unseen for long is not followed further."""
        return self.log_depth + self.approach * min((stamp_ns - self.last_ns) * 1e-9, 1.0)


@dataclass(frozen=True)
class Tracks:
    """The tracker's answer for one frame."""

    stamp_ns: int
    row_track: np.ndarray
    """uint16 [256]: track id of each row of the segment table; 0 for rows without (and for 255)."""
    live: tuple[Track, ...]
    """Objects seen in this frame, and remembered ones that were once confirmed; by id. The next update
    changes them in place."""


@dataclass(frozen=True)
class _Segments:
    """The rows of a frame's table that are in use (n of them) and have pixels."""

    rows: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    moving: np.ndarray
    area: np.ndarray
    center_px: np.ndarray
    motion_px: np.ndarray
    log_depth: np.ndarray
    embedding: np.ndarray


class Tracker:
    """Online association of segments.

    Args:
        config: thresholds and times.
        input_size: width, height of the network's input, px.
        stride: of the segment map.
        label_space: names the classes, to know which are easily confused.
    """

    def __init__(
        self,
        config: TrackerConfig,
        input_size: tuple[int, int],
        stride: int = OUTPUT_STRIDE,
        *,
        label_space: LabelSpace = CITYSCAPES,
    ) -> None:
        self._config = config
        self._stride = stride
        self._shape = (input_size[1] // stride, input_size[0] // stride)
        self._same_kind = _same_kind(label_space)
        self._last_id = NO_INSTANCE
        self.reset()

    def reset(self) -> None:
        """Forget all objects, as at a cut or a jump in time. Ids go on counting."""
        self._tracks: dict[int, Track] = {}
        self._stamp_ns: int | None = None
        self._previous_map = np.full(self._shape, NO_SEGMENT, np.uint8)

    def update(
        self,
        stamp_ns: int,
        segments: np.ndarray,
        segment_map: np.ndarray,
        embedding: np.ndarray,
        overlap: np.ndarray | None = None,
    ) -> Tracks:
        """Give each segment of a frame its identity.

        A stamp before the last one (a bag that starts again) or long after it forgets all objects first.

        Args:
            stamp_ns: of the frame.
            segments: float32 [K,9], the table of docs/graph_contract.md.
            segment_map: uint8 [h,w]: row of each pixel, 255 for none.
            embedding: float32 [K,D] identity vectors.
            overlap: float32 [K,K], IoU of the previous frame's rows, moved to this frame by the network, with
                this frame's rows. None estimates it from the motion columns; where it is given these are not
                read, and how an object moves in the image follows from its centres.

        Raises:
            InputError: an array has another dtype or shape.
        """
        check_array("segments", segments, np.float32, (None, len(SEGMENT_COLUMNS)))
        check_array("segment_map", segment_map, np.uint8, self._shape)
        check_array("embedding", embedding, np.float32, (len(segments), None))
        if overlap is not None:
            check_array("overlap", overlap, np.float32, (len(segments), len(segments)))
        if len(segments) > NO_SEGMENT:
            raise InputError(f"segments: expected at most {NO_SEGMENT} rows, got {len(segments)}")
        elapsed_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * 1e-9
        if not 0 <= elapsed_s <= max(LONGEST_GAP_S, self._config.memory_s):
            self.reset()
            elapsed_s = 0.0
        self._forget(stamp_ns)
        seen = self._measure(segments, segment_map, embedding)
        sees_motion = overlap is None

        tracks = list(self._tracks.values())
        partner = np.full(len(seen.rows), -1)
        common = np.zeros((len(seen.rows), len(tracks)))
        if tracks and len(seen.rows):
            common = self._overlap(seen, segment_map, tracks, overlap)
            log_odds = self._log_odds(stamp_ns, elapsed_s if sees_motion else 0.0, seen, tracks, common)
            strong = seen.score >= self._config.min_score
            for turn in (np.flatnonzero(strong), np.flatnonzero(~strong)):
                self._assign(partner, turn, log_odds)
        self._keep_masks([tracks[j] for j in np.setdiff1d(np.arange(len(tracks)), partner)])

        for track in tracks:
            track.row = -1
        row_track = np.zeros(256, np.uint16)
        for i, row in enumerate(seen.rows):
            if partner[i] >= 0:
                track = tracks[partner[i]]
                is_next = track.last_ns == self._stamp_ns
                by_motion = sees_motion and is_next and common[i, partner[i]] >= _TRUSTED_OVERLAP
                self._continue(track, stamp_ns, seen, i, elapsed_s, by_motion)
            elif seen.score[i] >= self._config.min_score:
                track = self._start(stamp_ns, seen, i, elapsed_s)
            else:
                continue
            row_track[row] = track.track_id
        for track in tracks:
            if track.row < 0:
                track.state = TrackState.LOST
        self._previous_map = segment_map.copy()
        self._stamp_ns = stamp_ns
        # One sight of something that never came back is no lost object.
        confirmed = self._config.confirm_hits
        live = [t for t in self._tracks.values() if t.row >= 0 or t.hits >= confirmed]
        return Tracks(stamp_ns, row_track, tuple(sorted(live, key=lambda t: t.track_id)))

    def _forget(self, stamp_ns: int) -> None:
        """Drop what was unseen too long."""
        for track in list(self._tracks.values()):
            if track.row < 0 and (stamp_ns - track.last_ns) * 1e-9 > self._config.memory_s:
                del self._tracks[track.track_id]

    def _measure(self, segments: np.ndarray, segment_map: np.ndarray, embedding: np.ndarray) -> _Segments:
        area, center = _moments(segment_map, len(segments))
        rows = np.flatnonzero((segments[:, Column.SCORE] > 0) & (area > 0))
        table = np.nan_to_num(segments[rows].astype(np.float64), posinf=0.0, neginf=0.0)
        return _Segments(
            rows,
            table[:, Column.CLASS_ID].astype(np.uint8),
            table[:, Column.SCORE],
            table[:, Column.MOVING],
            area[rows],
            (center[rows] + 0.5) * self._stride - 0.5,
            table[:, [Column.MOTION_DX, Column.MOTION_DY]],
            np.log(np.maximum(table[:, Column.DEPTH_MEAN_M], _NEAREST_M)),
            np.nan_to_num(embedding[rows]),
        )

    def _overlap(
        self, seen: _Segments, segment_map: np.ndarray, tracks: list[Track], given: np.ndarray | None = None
    ) -> np.ndarray:
        """Intersection over union, float64 [n, tracks], in the previous frame; for what was seen there as
        given."""
        assert self._stamp_ns is not None
        index_map = np.full(self._shape, -1, np.int16)
        lost = [j for j, t in enumerate(tracks) if t.row < 0]
        for j in sorted(lost, key=lambda j: tracks[j].last_ns):
            self._paint(index_map, tracks[j], tracks[j].travel_px(self._stamp_ns), j)
        index = np.full(256, -1, np.int16)
        for j, track in enumerate(tracks):
            if track.row >= 0:
                index[track.row] = j
        was_seen = index[self._previous_map]
        np.copyto(index_map, was_seen, where=was_seen >= 0)

        slot = np.full(256, -1, np.int16)
        slot[seen.rows] = np.arange(len(seen.rows))
        common = _intersections(segment_map, slot, self._cells(seen.motion_px), index_map, len(tracks))
        overlap = common / (seen.area[:, None] + np.array([t.area for t in tracks]) - common)
        if given is not None:
            rows = np.array([t.row for t in tracks])
            overlap[:, rows >= 0] = np.nan_to_num(given[np.ix_(rows[rows >= 0], seen.rows)].T)
        return overlap

    def _log_odds(
        self, stamp_ns: int, elapsed_s: float, seen: _Segments, tracks: list[Track], overlap: np.ndarray
    ) -> np.ndarray:
        """float64 [n, tracks], nats: see the head of this file."""
        # Under constant acceleration the mean of the first and the last velocity gives the way.
        velocity = np.array([t.velocity_px_s for t in tracks])[None]
        if elapsed_s > 0:
            velocity = (velocity - seen.motion_px[:, None] / elapsed_s) / 2
        unseen_s = np.array([(stamp_ns - t.last_ns) * 1e-9 for t in tracks])
        way = velocity * unseen_s[:, None]
        distance = np.linalg.norm(
            seen.center_px[:, None] - np.array([t.center_px for t in tracks]) - way, axis=2
        )
        area = np.array([t.area for t in tracks])
        size = np.sqrt(np.maximum(seen.area[:, None], area)).clip(_LEAST_SIZE_CELLS) * self._stride
        reach = size * (1 + _REACH_PER_S * unseen_s) + _REACH_SHARE * np.linalg.norm(way, axis=2)
        depth = np.abs(seen.log_depth[:, None] - [t.expected_log_depth(stamp_ns) for t in tracks])
        similarity = seen.embedding @ np.array([t.embedding for t in tracks]).T
        same_kind = self._same_kind[seen.class_id[:, None], [t.class_id for t in tracks]]
        return (
            _PRIOR
            + _OVERLAP * overlap
            - _PLACE * np.log1p((2 * distance / reach) ** 2)
            - _DEPTH * np.minimum(depth, _MOST_DEPTH)
            - _AREA * np.minimum(np.abs(np.log(seen.area[:, None] / area)), _MOST_AREA)
            + _LOOK * similarity
            + _KIND * same_kind
        )

    def _cells(self, shift_px: np.ndarray) -> np.ndarray:
        """Whole stride-4 pixels, int64; what leaves every picture stays far outside."""
        return np.rint(shift_px / self._stride).clip(-100_000, 100_000).astype(np.int64)

    def _paint(self, index_map: np.ndarray, track: Track, travel_px: np.ndarray, index: int) -> None:
        assert track.mask is not None
        shift = self._cells(travel_px)
        y, x = track.mask[0] + shift[1], track.mask[1] + shift[0]
        inside = (y >= 0) & (y < self._shape[0]) & (x >= 0) & (x < self._shape[1])
        index_map[y[inside], x[inside]] = index

    def _keep_masks(self, lost: list[Track]) -> None:
        for track in lost:
            if track.row >= 0:
                rows, columns = np.nonzero(self._previous_map == track.row)
                track.mask = rows, columns

    def _assign(self, partner: np.ndarray, segments: np.ndarray, log_odds: np.ndarray) -> None:
        """Give these segments the free tracks that make the sum of log-odds largest; in place."""
        free = np.setdiff1d(np.arange(log_odds.shape[1]), partner)
        # What is too unlikely brings nothing, so that one sure pair wins over two doubtful ones.
        gain = np.maximum(log_odds[np.ix_(segments, free)] - self._config.min_log_odds, 0.0)
        i, j = linear_sum_assignment(gain, maximize=True)
        good = gain[i, j] > 0
        partner[segments[i[good]]] = free[j[good]]

    def _start(self, stamp_ns: int, seen: _Segments, i: int, elapsed_s: float) -> Track:
        track = Track(
            track_id=self._free_id(),
            first_ns=stamp_ns,
            last_ns=stamp_ns,
            hits=0,
            state=TrackState.TENTATIVE,
            votes=np.zeros(256),
            score=0.0,
            moving=0.0,
            row=-1,
            area=0,
            center_px=seen.center_px[i],
            velocity_px_s=-seen.motion_px[i] / elapsed_s if elapsed_s > 0 else np.zeros(2),
            log_depth=float(seen.log_depth[i]),
            approach=0.0,
            embedding=seen.embedding[i],
        )
        self._tracks[track.track_id] = track
        self._see(track, stamp_ns, seen, i)
        return track

    def _continue(
        self, track: Track, stamp_ns: int, seen: _Segments, i: int, elapsed_s: float, by_motion: bool
    ) -> None:
        unseen_s = (stamp_ns - track.last_ns) * 1e-9
        if by_motion:
            step, duration_s = -seen.motion_px[i], elapsed_s
        else:
            step, duration_s = seen.center_px[i] - track.center_px, unseen_s
        if duration_s > 0:
            track.velocity_px_s = (
                _VELOCITY_MEMORY * track.velocity_px_s + (1 - _VELOCITY_MEMORY) * step / duration_s
            )
        if unseen_s > 0:
            rate = (float(seen.log_depth[i]) - track.log_depth) / unseen_s
            rate = min(max(rate, -_FASTEST_APPROACH), _FASTEST_APPROACH)
            track.approach = _APPROACH_MEMORY * track.approach + (1 - _APPROACH_MEMORY) * rate
        mean = _VECTOR_MEMORY * track.embedding + (1 - _VECTOR_MEMORY) * seen.embedding[i]
        track.embedding = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
        self._see(track, stamp_ns, seen, i)

    def _see(self, track: Track, stamp_ns: int, seen: _Segments, i: int) -> None:
        track.last_ns = stamp_ns
        track.hits += 1
        confirmed = track.hits >= self._config.confirm_hits
        track.state = TrackState.CONFIRMED if confirmed else TrackState.TENTATIVE
        track.votes[seen.class_id[i]] += seen.score[i]
        track.score, track.moving = float(seen.score[i]), float(seen.moving[i])
        track.row, track.area = int(seen.rows[i]), int(seen.area[i])
        track.center_px = seen.center_px[i]
        track.log_depth = float(seen.log_depth[i])
        track.mask = None

    def _free_id(self) -> int:
        """The next id in turn that no seen or remembered object has."""
        while True:
            self._last_id = self._last_id % MAX_INSTANCE + 1
            if self._last_id not in self._tracks:
                return self._last_id


def _same_kind(space: LabelSpace) -> np.ndarray:
    """bool [256,256]: whether two classes can be one object."""
    table = np.eye(256, dtype=bool)
    for names in _CONFUSABLE:
        ids = [c.id for c in space.classes if c.name in names]
        table[np.ix_(ids, ids)] = True
    return table


@njit(nogil=True)
def _moments(segment_map, count):
    """Area int64 [count] and mean x, y float64 [count,2] of each row's pixels."""
    area = np.zeros(count, np.int64)
    center = np.zeros((count, 2), np.float64)
    for y in range(segment_map.shape[0]):
        for x in range(segment_map.shape[1]):
            row = segment_map[y, x]
            if row < count:
                area[row] += 1
                center[row, 0] += x
                center[row, 1] += y
    for row in range(count):
        if area[row] > 0:
            center[row] /= area[row]
    return area, center


@njit(nogil=True)
def _intersections(segment_map, slot, shift, index_map, count):
    """Common pixels, int64 [n,count], of the segments, moved by shift (dx, dy), and the indexed masks."""
    common = np.zeros((shift.shape[0], count), np.int64)
    height, width = segment_map.shape
    for y in range(height):
        for x in range(width):
            i = slot[segment_map[y, x]]
            if i < 0:
                continue
            from_x, from_y = x + shift[i, 0], y + shift[i, 1]
            if 0 <= from_x < width and 0 <= from_y < height:
                j = index_map[from_y, from_x]
                if j >= 0:
                    common[i, j] += 1
    return common
