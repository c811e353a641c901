# SPDX-License-Identifier: Apache-2.0
"""Clips through the robot's pipeline, scored: the one way in which training and benchmarks judge a
network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import CameraModel, Frame, FrameResult, Sample

RATE_HZ = 10.0
"""Of the frames of a clip without stamps."""


def score_frames(
    pipeline: DvpsPipeline[Any], frames: Iterable[Sample], quality: ClipQuality, *, sequence: Hashable
) -> Iterator[tuple[Sample, FrameResult]]:
    """Run a sequence from its first frame on, and add it to the scores.

    Args:
        frames: one frame a clip, each with its truth.
        sequence: what tells this sequence from the others of the data set.

    Yields:
        Each frame's truth and its result.
    """
    pipeline.reset()
    for index, truth in enumerate(frames):
        height, width = truth.images.shape[1:3]
        stamp_ns = round((index + 1) * 1e9 / RATE_HZ) if truth.stamps_ns is None else int(truth.stamps_ns[0])
        camera = CameraModel.from_vector(width, height, truth.intrinsics[0])
        result = pipeline.process(Frame(truth.images[0], stamp_ns, camera), frozenset({"panoptic"}))
        assert result.panoptic is not None, "it is wanted"
        quality.update(truth, result.panoptic, stamp_ns, sequence=sequence)
        yield truth, result


def headline(scores: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of what :meth:`ClipQuality.compute` gives that the truth allows, by short names, flat.

    ``miou``, ``pq``, ``pq_things``, ``stq``, ``dpq`` (DVPQ of single frames, mean over the limits), ``dvpq``
    (mean over windows and limits), ``abs_rel``, ``found``, ``ids_kept``.
    """
    get: dict[str, Callable[[], Any]] = {
        "miou": lambda: scores["miou"],
        "pq": lambda: scores["pq"]["all"],
        "pq_things": lambda: scores["pq"]["things"],
        "stq": lambda: scores["stq"]["STQ"],
        "dpq": lambda: mean_dvpq({"1": scores["dvpq"]["1"]}),
        "dvpq": lambda: mean_dvpq(scores["dvpq"]),
        "abs_rel": lambda: scores["depth"]["abs_rel"],
        "found": lambda: scores["objects"]["found"],
        "ids_kept": lambda: scores["objects"]["ids_kept"],
    }
    values = {}
    for name, value in get.items():
        try:
            number = value()
        except KeyError:  # the truth says nothing about it
            continue
        if number is not None:
            values[name] = float(number)
    return values


def mean_dvpq(table: dict[str, dict[str, float | None]]) -> float | None:
    """The mean over all windows and depth limits; None where one is missing."""
    values = [value for row in table.values() for value in row.values()]
    if not values or any(value is None for value in values):
        return None
    return sum(v for v in values if v is not None) / len(values)
