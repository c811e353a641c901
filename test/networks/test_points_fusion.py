# SPDX-License-Identifier: Apache-2.0
"""Fusion by hand, against a slow reading of its definition, and equal inside the graph."""

from __future__ import annotations

import numpy as np
import pytest
from fuse_reference import fuse
from fusion_scenes import SCENES, THINGS, heads, put_object, random_scene, two_objects

from dvps_ros.contract import NO_SEGMENT, SEGMENT_COLUMNS
from dvps_ros.errors import InputError
from dvps_ros.networks.fusion.points import PointsConfig
from dvps_ros.types import NetworkOutput

COLUMN = {name: i for i, name in enumerate(SEGMENT_COLUMNS)}


def test_two_objects_by_hand() -> None:
    out = fuse(**two_objects(), thing_ids=THINGS)
    want = np.full((12, 16), NO_SEGMENT, np.uint8)
    want[2:6, 1:6], want[7:12, 9:12] = 1, 0  # the higher centre is row 0
    assert np.array_equal(out.segment_map, want)
    assert np.array_equal(out.class_map == 4, want == 0)
    rows = out.segments
    assert rows.shape == (64, 9) and not rows[2:].any() and not out.embedding[2:].any()
    expected = {
        "class_id": (4, 2),
        "score": (0.9933, 0.9526),
        "area": (15, 20),
        "center_x": (4 * 10 + 1.5, 4 * 3 + 1.5),
        "center_y": (4 * 9 + 1.5, 4 * 4 + 1.5),
        "motion_dx": (0, 8),
        "motion_dy": (0, -2),
        "depth_mean_m": (7, 5),
        "moving": (0.99988, 0.99988),
    }
    for name, values in expected.items():
        assert rows[:2, COLUMN[name]] == pytest.approx(values, abs=1e-4), name
    assert np.allclose(out.embedding[:2], [[0, 0, 1], [0, 1, 0]], atol=1e-6)
    assert out.depth_m[0, 0] == pytest.approx(10) and out.depth_m[3, 3] == pytest.approx(5)
    # Softmax of (4,0,0,0,0) and of (4,9,0,0,0), times 255.
    assert out.confidence[0, 0] == round(255 * np.exp(4) / (np.exp(4) + 4))
    assert out.confidence[3, 3] == round(255 * np.exp(9) / (np.exp(9) + np.exp(4) + 3))
    assert set(np.unique(out.nearest)) == {0, 1}  # every pixel has one, stuff too


def test_depth_is_bounded() -> None:
    scene = heads()
    scene["log_depth"][0, 0, :2] = -5, 20
    assert fuse(**scene, thing_ids=THINGS).depth_m[0, :2] == pytest.approx([0.5, 200])


def test_no_object_leaves_everything_empty() -> None:
    out = fuse(**heads(), thing_ids=THINGS)
    assert (out.segment_map == NO_SEGMENT).all() and (out.nearest == NO_SEGMENT).all()
    assert not out.segments.any() and not out.embedding.any()


def test_a_segment_too_small_is_dropped_and_frees_no_other_row() -> None:
    scene = two_objects()
    put_object(scene, slice(0, 1), slice(13, 16), logit=4.0)  # three cells, ranked between the others
    out = fuse(**scene, thing_ids=THINGS, config=PointsConfig(min_area=4))
    assert (out.segment_map[0, 13:16] == NO_SEGMENT).all()
    assert out.segments[:3, COLUMN["area"]].tolist() == [15, 0, 20]
    assert not out.segments[1].any()
    assert 1 not in out.nearest


def test_class_is_the_majority_of_thing_pixels() -> None:
    scene = two_objects()
    scene["class_logits"][4, 2, 1:6] = 20  # 5 of 20 pixels
    out = fuse(**scene, thing_ids=THINGS)
    assert out.segments[1, COLUMN["class_id"]] == 2
    assert (out.class_map[2, 1:6] == 4).all() and (out.segment_map[2, 1:6] == 1).all()


def test_equal_scores_go_to_the_first_cell() -> None:
    scene = heads()
    put_object(scene, slice(7, 12), slice(9, 12))
    put_object(scene, slice(2, 6), slice(1, 6))
    out = fuse(**scene, thing_ids=THINGS)
    assert out.segments[:2, COLUMN["area"]].tolist() == [20, 15]


def test_plateau_gives_one_centre() -> None:
    for logit in (-1.5, 0.0, 3.0, 30.0):  # 30: the sigmoid is exactly 1
        scene = heads()
        scene["class_logits"][2] = 9
        scene["center_logits"][0, 2:5, 2:5] = logit
        out = fuse(**scene, thing_ids=THINGS)
        assert (out.segments[:, COLUMN["score"]] > 0).sum() == 1, logit
        assert out.segments[0, COLUMN["center_x"]] == out.segments[0, COLUMN["center_y"]] == 4 * 2 + 1.5


def test_more_objects_than_slots_keeps_the_best() -> None:
    scene = heads(40, 40)
    scene["class_logits"][2] = 9
    cells = [(i, j) for i in range(0, 40, 8) for j in range(0, 40, 8)]
    for n, (i, j) in enumerate(cells):
        scene["center_logits"][0, i, j] = 1 + 0.1 * n
    out = fuse(**scene, thing_ids=THINGS, config=PointsConfig(slots=4))
    x, y = out.segments[:, COLUMN["center_x"]], out.segments[:, COLUMN["center_y"]]
    assert list(zip((y - 1.5) / 4, (x - 1.5) / 4, strict=True)) == cells[:-5:-1]
    assert (np.diff(out.segments[:, COLUMN["score"]]) < 0).all()


def test_votes_at_equal_distance_go_to_the_higher_score() -> None:
    scene = heads()
    scene["class_logits"][2] = 9
    scene["center_logits"][0, 6, 2], scene["center_logits"][0, 6, 12] = 1, 2
    assert (fuse(**scene, thing_ids=THINGS).segment_map[:, 7] == 0).all()


@pytest.mark.parametrize("name", list(heads()))
def test_refuses_other_shapes_and_types(name: str) -> None:
    scene = heads()
    scene[name] = scene[name].astype(np.float64)
    with pytest.raises(InputError, match=name):
        fuse(**scene, thing_ids=THINGS)
    scene = heads()
    scene[name] = scene[name][:, :, :-1]
    with pytest.raises(InputError):
        fuse(**scene, thing_ids=THINGS)


def slow_maps(scene: dict[str, np.ndarray], config: PointsConfig) -> tuple[np.ndarray, np.ndarray]:
    """Segment map and areas by the letter of the definition, with Python's own numbers."""
    class_map = scene["class_logits"].argmax(0)
    h, w = class_map.shape
    heat = scene["center_logits"][0].astype(np.float64)
    reach, found = config.window // 2, []
    for i in range(h):
        for j in range(w):
            rank = (heat[i, j], -(i * w + j))
            block = [
                (heat[y, x], -(y * w + x))
                for y in range(max(i - reach, 0), min(i + reach + 1, h))
                for x in range(max(j - reach, 0), min(j + reach + 1, w))
            ]
            if rank == max(block) and 1 / (1 + np.exp(-heat[i, j])) >= config.min_score:
                found.append((*rank, i, j))
    centers = [(i, j) for _, _, i, j in sorted(found, reverse=True)][: config.slots]
    segment_map = np.full((h, w), NO_SEGMENT)
    for i in range(h):
        for j in range(w):
            if class_map[i, j] in THINGS and centers:
                dx, dy = scene["center_offset_px"][:, i, j].astype(float)
                far = [(4 * (j - x) + dx) ** 2 + (4 * (i - y) + dy) ** 2 for y, x in centers]
                segment_map[i, j] = far.index(min(far))
    area = np.array([(segment_map == k).sum() for k in range(len(centers))])
    for k in np.flatnonzero(area < config.min_area):
        segment_map[segment_map == k] = NO_SEGMENT
    return segment_map, np.where(area < config.min_area, 0, area)


@pytest.mark.parametrize("name", SCENES)
def test_equals_the_slow_reading(name: str) -> None:
    config = PointsConfig(slots=12)
    segment_map, area = slow_maps(SCENES[name], config)
    out = fuse(**SCENES[name], thing_ids=THINGS, config=config)
    assert np.array_equal(out.segment_map, segment_map)
    assert np.array_equal(out.segments[: len(area), COLUMN["area"]], area)


def in_graph(scene: dict[str, np.ndarray], config: PointsConfig) -> NetworkOutput:
    torch = pytest.importorskip("torch")
    from dvps_ros.networks.fusion.points import PointsFusion
    from dvps_ros.networks.protocol import PointsPrediction

    tensors = {k: torch.from_numpy(v)[None] for k, v in scene.items()}
    out = PointsFusion(THINGS, config)(PointsPrediction(**tensors, latent=torch.zeros(1, 2, 3), state={}))
    return NetworkOutput(**{k: v[0].numpy() for k, v in out.items()})


@pytest.mark.parametrize("name", SCENES)
def test_the_graph_gives_the_same_ids_and_tables(name: str) -> None:
    config = PointsConfig(slots=12)
    host, graph = fuse(**SCENES[name], thing_ids=THINGS, config=config), in_graph(SCENES[name], config)
    for field in ("class_map", "segment_map", "nearest"):
        a, b = getattr(host, field), getattr(graph, field)
        assert a.dtype == b.dtype and np.array_equal(a, b), field
    assert np.abs(host.confidence.astype(int) - graph.confidence).max() <= 1
    assert np.allclose(host.segments, graph.segments, rtol=1e-5, atol=1e-5)
    assert np.allclose(host.embedding, graph.embedding, atol=1e-5)
    assert np.allclose(host.depth_m, graph.depth_m, rtol=1e-6)


def test_the_graph_works_on_batches() -> None:
    torch = pytest.importorskip("torch")
    from dvps_ros.networks.fusion.points import PointsFusion
    from dvps_ros.networks.protocol import PointsPrediction

    scenes = [random_scene(8), random_scene(9)]
    both = {k: torch.from_numpy(np.stack([s[k] for s in scenes])) for k in scenes[0]}
    out = PointsFusion(THINGS)(PointsPrediction(**both, latent=torch.zeros(2, 2, 3), state={}))
    for i, scene in enumerate(scenes):
        want = fuse(**scene, thing_ids=THINGS)
        assert np.array_equal(out["segment_map"][i].numpy(), want.segment_map)
        assert np.allclose(out["segments"][i].numpy(), want.segments, rtol=1e-5, atol=1e-5)
