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


def propagated(
    scene: dict[str, np.ndarray], previous: np.ndarray, config: PointsConfig
) -> dict[str, np.ndarray]:
    """What the graph gives of a scene and the previous frame's rows + 1 [h,w]."""
    torch = pytest.importorskip("torch")
    from dvps_ros.networks.fusion.points import PointsFusion
    from dvps_ros.networks.protocol import PointsPrediction

    tensors = {k: torch.from_numpy(v)[None] for k, v in scene.items()}
    prediction = PointsPrediction(
        **tensors, latent=torch.zeros(1, 2, 3), state={},
        previous_rows=torch.from_numpy(previous.astype(np.float32))[None],
    )  # fmt: skip
    out = PointsFusion(THINGS, config, propagates=True)(prediction)
    return {k: v[0].numpy() for k, v in out.items()}


def test_previous_rows_are_moved_by_hand() -> None:
    # Its segment (row 1, 4x5 cells) has the motion (8, -2) px: two cells to the right, half a cell up.
    previous = np.zeros((12, 16))
    previous[2:6, 3:8] = 3  # row 2 was where it has come from; half a cell rounds to none
    previous[8:12, 9:12] = 1  # row 0 lies under row 0, which stands still and is one cell higher
    out = propagated(two_objects(), previous, PointsConfig(slots=4))
    want = np.zeros((4, 4))
    # The ground beside it does not move: there, in two columns, the old place remains.
    want[2, 1] = 20 / (20 + 8)
    want[0, 0] = 12 / 15
    assert np.allclose(out["overlap"], want)
    rows = np.where(out["segment_map"] == NO_SEGMENT, 0, out["segment_map"] + 1.0)
    assert np.array_equal(out["next_state_row_map"], rows) and rows.max() == 2


@pytest.mark.parametrize("name", SCENES)
def test_overlap_equals_the_slow_reading(name: str) -> None:
    config, scene = PointsConfig(slots=12), SCENES[name]
    h, w = scene["motion_px"].shape[1:]
    previous = np.random.default_rng(1).integers(0, 5, (h // 4, w // 4)).repeat(4, 0).repeat(4, 1)
    out = propagated(scene, previous, config)
    moved = np.zeros((h, w), int)
    for i in range(h):
        for j in range(w):
            dx, dy = scene["motion_px"][:, i, j] / 4
            y, x = int(np.floor(i + dy + 0.5)), int(np.floor(j + dx + 0.5))
            moved[i, j] = previous[y, x] if 0 <= y < h and 0 <= x < w else 0
    want = np.zeros((12, 12))
    for a in range(12):
        for b in range(12):
            before, now = moved == a + 1, out["segment_map"] == b
            if now.any():
                want[a, b] = (before & now).sum() / (before | now).sum()
    assert np.allclose(out["overlap"], want)
    assert want.any() or name == "no object"


def test_without_a_previous_frame_nothing_overlaps() -> None:
    assert not propagated(two_objects(), np.zeros((12, 16)), PointsConfig())["overlap"].any()
