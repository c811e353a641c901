# SPDX-License-Identifier: Apache-2.0
"""Predictions in official formats: what the pipeline said comes back from the files, and scores as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.cli.eval import command as evaluate
from dvps_ros.cli.predict import command as predict
from dvps_ros.data.layout import read_depth
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.predictions import FARTHEST_M, PredictionWriter
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.types import PanopticDepth

ROAD, SKY, PERSON, CAR, TRUCK = (CITYSCAPES.id_of(n) for n in ("road", "sky", "person", "car", "truck"))


def maps(track_of_car: int = 4711, truck_track: int = 60_000) -> PanopticDepth:
    class_map = np.array([[ROAD, SKY, VOID, CAR], [CAR, PERSON, TRUCK, PERSON]], np.uint8)
    track_map = np.array([[0, 0, 0, track_of_car], [track_of_car, 9, truck_track, 0]], np.uint16)
    depth = np.array([[5, np.inf, np.nan, 12.5], [12.5, 7, 300, 3]], np.float32)
    return PanopticDepth(class_map, track_map, depth, np.zeros((2, 4), np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_written_comes_back(layout, tmp_path: Path) -> None:
    nothing = {"class_map": np.full((2, 4), VOID, np.uint8), "instance_map": np.zeros((2, 4), np.int32)}
    files = [
        layout.write(tmp_path / "gt", "val", sequence, frame, **nothing)
        for sequence, frame in (("000000", 0), ("000000", 1), ("000001", 0))
    ]
    writer = PredictionWriter(layout, tmp_path / "pred", "val")
    for f, m in zip(files, (maps(), maps(), maps(track_of_car=5)), strict=True):
        writer.add(f, m)
    found = layout.index(tmp_path / "pred", "val")
    assert [(f.sequence, f.frame) for f in found] == [(f.sequence, f.frame) for f in files]
    ids = []
    for f in found:
        class_map, instance_map = layout.read_labels(f)
        project = layout.to_project(class_map)
        counted = layout is not LAYOUTS["kitti-step"]  # whose trucks are stuff
        want = np.array([[ROAD, SKY, VOID, CAR], [CAR, PERSON, TRUCK, VOID]], np.uint8)
        if SKY not in layout.to_project(np.arange(len(layout.space), dtype=np.uint8)):
            want[want == SKY] = VOID  # SemanticKITTI has no sky
        np.testing.assert_array_equal(project, want)
        car, person, truck = instance_map[0, 3], instance_map[1, 1], instance_map[1, 2]
        assert car == instance_map[1, 0] > 0 and person > 0 and bool(truck > 0) is counted
        assert len({int(car), int(person), int(truck)}) == 3 and instance_map[1, 3] == 0
        ids.append(int(car))
        if layout.has_depth:
            depth = read_depth(f.depth)
            np.testing.assert_allclose(depth[[0, 0, 1, 1], [0, 3, 1, 3]], [5, 12.5, 7, 3])
            np.testing.assert_allclose(depth[[0, 0, 1], [1, 2, 2]], FARTHEST_M, atol=1 / 256)
    assert ids[0] == ids[1] == ids[2]  # constant over a sequence; each one counts anew


def test_more_objects_than_the_format_can_number_are_void_and_counted(tmp_path: Path) -> None:
    layout = LAYOUTS["cityscapes-dvps"]
    tracks = np.arange(1, 1003, dtype=np.uint16)[None]
    many = PanopticDepth(
        np.full((1, 1002), CAR, np.uint8),
        tracks,
        np.ones((1, 1002), np.float32),
        np.zeros((1, 1002), np.uint8),
    )
    blank = np.full((1, 1002), VOID, np.uint8)
    files = layout.write(tmp_path / "gt", "val", "000000", 0, class_map=blank, instance_map=blank * 0)
    writer = PredictionWriter(layout, tmp_path / "pred", "val")
    written = writer.add(files, many)
    class_map, instance_map = layout.read_labels(written)
    assert len(writer.lost) == 2 and (class_map == VOID).sum() == 2 and len(np.unique(instance_map)) == 1001


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_the_command_gives_what_eval_reads(dataset: str, tiny_model: Path, tmp_path: Path) -> None:
    """Pictures of the classes' own colours, which the tiny model reads: STQ of a car that moves is 1 but for
    the borders between two classes."""
    layout = LAYOUTS[dataset]
    to_layout = {
        int(p): i for i, p in reversed(list(enumerate(layout.to_project(np.arange(19, dtype=np.uint8)))))
    }
    for frame in range(5):
        project = np.full((64, 128), ROAD, np.uint8)
        project[24:40, 16 + 8 * frame : 48 + 8 * frame] = CAR
        theirs = np.where(project == CAR, to_layout[CAR], to_layout[ROAD]).astype(np.uint8)
        layout.write(
            tmp_path / "gt",
            "val",
            "000000",
            frame,
            class_map=theirs,
            instance_map=np.where(project == CAR, 1, 0).astype(np.int32),
            depth_m=np.full((64, 128), 5, np.float32) if layout.has_depth else None,
            image=CITYSCAPES.palette[project],
        )
    options = ["--dataset", dataset]
    done = CliRunner().invoke(
        predict,
        [*options, "--root", str(tmp_path / "gt"), "--out", str(tmp_path / "pred")]
        + ["--model", str(tiny_model), "--backend", "onnxruntime", "--precision", "fp32"],
    )
    assert done.exit_code == 0, done.output
    report = tmp_path / "scores.json"
    pair = ["--gt", str(tmp_path / "gt"), "--pred", str(tmp_path / "pred")]
    scored = CliRunner().invoke(evaluate, [*options, *pair, "--json", str(report)])
    assert scored.exit_code == 0, scored.output
    scores = json.loads(report.read_text())
    assert scores["STQ"]["AQ"] > 0.95 and scores["PQ"]["all"] > 0.95
