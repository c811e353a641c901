# SPDX-License-Identifier: Apache-2.0
"""Scores of a hand-made clip: perfect, worse in one known way each, and with sparse truth."""

import dataclasses
import json
from pathlib import Path

import made_clip as clip
import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.cli.bench import command as bench
from dvps_ros.data.layout import write_png
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.types import PanopticDepth, Sample


def score(change=lambda index, maps: maps, sparse: bool = False, frames: int = 4) -> dict:
    quality = ClipQuality(CITYSCAPES)
    for index in range(frames):
        sample = clip.truth(index)
        maps = change(index, clip.perfect_maps(sample))
        quality.update(sparse_truth(sample) if sparse else sample, maps, index * clip.STEP_NS)
    return quality.compute() | {"timelines": quality.timelines}


def sparse_truth(sample: Sample) -> Sample:
    """Every third pixel of every third row is known, as LiDAR would; ids only on the car."""
    known = np.zeros((1, clip.H, clip.W), bool)
    known[:, ::3, ::3] = True
    instance = np.where(known & (sample.instance_map > 0), sample.instance_map, -1).astype(np.int32)
    return dataclasses.replace(
        sample,
        class_map=None,
        instance_map=instance,
        depth_m=np.where(known, sample.depth_m, 0).astype(np.float32),
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_perfect(sparse: bool) -> None:
    result = score(sparse=sparse)
    assert result["depth"]["abs_rel"] == 0.0 and result["depth"]["coverage"] == 1.0
    objects = result["objects"]
    assert (objects["objects"], objects["found"], objects["ids_kept"], objects["id_switches"]) == (
        1,
        1.0,
        1.0,
        0,
    )
    assert result["timelines"] == {clip.CAR_ID: [(i * clip.STEP_NS, 7) for i in range(4)]}
    if sparse:
        assert "pq" not in result and objects["sightings"] == 4
    else:
        assert result["pq"] == {"all": 1.0, "things": 1.0, "stuff": 1.0}
        assert result["stq"]["STQ"] == 1.0 and result["dvpq"]["4"]["0.1"] == 1.0
        assert set(result["per_class"]) == {"road", "sky", "car"}


@pytest.mark.parametrize("sparse", [False, True])
def test_a_changed_id_is_seen(sparse: bool) -> None:
    def change(index: int, maps: PanopticDepth) -> PanopticDepth:
        tracks = np.where(maps.track_map == 7, 7 if index < 3 else 8, 0).astype(np.uint16)
        return dataclasses.replace(maps, track_map=tracks)

    objects = score(change, sparse)["objects"]
    assert (objects["found"], objects["ids_kept"], objects["id_switches"]) == (1.0, 0.75, 1)


@pytest.mark.parametrize("sparse", [False, True])
def test_near_objects_are_scored_by_themselves(sparse: bool) -> None:
    """The car stands within 30 m in frames 0 and 1, and is found; beyond in 2 and 3, and is not."""
    quality = ClipQuality(CITYSCAPES)
    for index in range(4):
        sample = clip.truth(index)
        car = sample.instance_map == clip.CAR_ID
        depth_m = np.where(car, 29.0 if index < 2 else 31.0, sample.depth_m).astype(np.float32)
        sample = dataclasses.replace(sample, depth_m=depth_m)
        maps = clip.perfect_maps(sample)
        if index >= 2:
            maps = dataclasses.replace(maps, track_map=np.zeros_like(maps.track_map))
        quality.update(sparse_truth(sample) if sparse else sample, maps, index * clip.STEP_NS)
    result = quality.compute()
    assert (result["objects"]["sightings"], result["objects"]["found"]) == (4, 0.5)
    near = result["objects_near"]
    assert (near["within_m"], near["sightings"], near["found"], near["ids_kept"]) == (30.0, 2, 1.0, 1.0)


def test_objects_are_counted_by_their_size() -> None:
    """Of the car's 320 pixels 63, 64, 256 and all are to be seen; the whole car is not found."""
    quality = ClipQuality(CITYSCAPES)
    for index, area in enumerate((63, 64, 256, 320)):
        sample = clip.truth(index)
        hidden = np.flatnonzero(sample.instance_map == clip.CAR_ID)[area:]
        sample.class_map.flat[hidden], sample.instance_map.flat[hidden] = clip.ROAD, 0
        maps = clip.perfect_maps(sample)
        if area == 320:
            maps = dataclasses.replace(maps, track_map=np.zeros_like(maps.track_map))
        quality.update(sample, maps, index * clip.STEP_NS)
    by_size = quality.compute()["objects_by_size"]
    assert {size: (row["sightings"], row["found"]) for size, row in by_size.items()} == {
        "0-8 px": (1, 1.0),
        "8-16 px": (1, 1.0),
        "16-32 px": (2, 0.5),
        "32-64 px": (0, None),
        "64 px and more": (0, None),
    }


def test_a_missing_object_is_seen() -> None:
    def change(index: int, maps: PanopticDepth) -> PanopticDepth:
        return dataclasses.replace(
            maps,
            class_map=np.where(maps.class_map == clip.CAR, clip.ROAD, maps.class_map).astype(np.uint8),
            track_map=np.zeros_like(maps.track_map),
        )

    result = score(change)
    assert result["pq"]["things"] == 0.0 and result["objects"]["found"] == 0.0
    assert result["objects"]["ids_kept"] is None
    assert result["per_class"]["car"] == {"pq": 0.0, "tp": 0, "fp": 0, "fn": 4}


@pytest.mark.parametrize("sparse", [False, True])
def test_depth_ten_percent_too_far(sparse: bool) -> None:
    result = score(lambda _, maps: dataclasses.replace(maps, depth_m=maps.depth_m * np.float32(1.1)), sparse)
    assert result["depth"]["abs_rel"] == pytest.approx(0.1, abs=1e-4)
    assert result["depth"]["by_distance"]["10-20 m"]["abs_rel"] == pytest.approx(0.1, abs=1e-4)
    assert result["depth"]["delta1"] == 1.0


def test_pixels_without_an_answer_lower_the_coverage_only() -> None:
    def change(index: int, maps: PanopticDepth) -> PanopticDepth:
        depth = maps.depth_m.copy()
        depth[:, ::2] = np.nan
        return dataclasses.replace(maps, depth_m=depth)

    depth = score(change)["depth"]
    assert depth["abs_rel"] == 0.0 and depth["coverage"] == 0.5


def test_coarse_scores_by_hand() -> None:
    """Two classes of the data set, a void prediction, and a void truth that counts for nothing."""
    road, car, truck, sky = (CITYSCAPES.id_of(n) for n in ("road", "car", "truck", "sky"))
    sample = Sample(
        np.zeros((1, 1, 8, 3), np.uint8),
        np.ones((1, 4), np.float32),
        "hand",
        coarse_map=np.array([[[0, 0, 0, 0, 1, 1, 255, 255]]], np.uint8),
        coarse_groups=((road,), (car, truck), (sky,)),
    )
    quality = ClipQuality(CITYSCAPES)

    def add(*classes: int) -> dict[str, float | None]:
        maps = np.array([classes], np.uint8)
        zeros = np.zeros_like(maps)
        quality.update(
            sample, PanopticDepth(maps, zeros.astype(np.uint16), zeros.astype(np.float32), zeros), 0
        )
        return quality.compute()["iou"]

    first = add(road, road, road, VOID, truck, road, road, sky)
    # Road: 3 hits, 4 true, 4 predicted on known pixels; vehicles: 1 hit of 2 true.
    assert first == {"road": 3 / 5, "car/truck": 1 / 2, "sky": None}
    assert quality.compute()["miou"] == (3 / 5 + 1 / 2) / 2
    assert add(road, road, road, road, car, truck, sky, sky)["road"] == (3 + 4) / (5 + 4)
    assert quality.frames == 2


def test_labels_are_scored_through_the_pipeline(tiny_model: Path, tmp_path: Path) -> None:
    """A picture of the classes' own colours, which the tiny model reads."""
    road, sky = CITYSCAPES.id_of("road"), CITYSCAPES.id_of("sky")
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:32], picture[32:] = CITYSCAPES.palette[sky], CITYSCAPES.palette[road]
    label = np.repeat([0, 3], 32).astype(np.uint8)[:, None].repeat(128, 1)
    for folder, array in (("test", picture), ("testannot", label)):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / "one.png", array)
    arguments = ["labels", "camvid", str(tmp_path), "--split", "test", "--model", str(tiny_model)]
    report = tmp_path / "scores.json"
    done = CliRunner().invoke(bench, [*arguments, "--backend", "onnxruntime", "--json", str(report)])
    assert done.exit_code == 0, done.output
    scores = json.loads(report.read_text())
    assert scores["miou"] == 1.0 and scores["images"] == 1 and scores["iou"]["pole"] is None
