# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from dvps_ros.geometry.camera import Fit
from dvps_ros.labels import CITYSCAPES, VOID
from dvps_ros.runtime.maps import MapMaker
from dvps_ros.types import NetworkOutput

ROAD, SKY, POLE, WALL, FENCE, TERRAIN, PERSON, CAR, TRUCK = (
    CITYSCAPES.id_of(n) for n in ("road", "sky", "pole", "wall", "fence", "terrain", "person", "car", "truck")
)


def maker(fit, **changes):
    options = {"sky_class": SKY, "max_depth_m": 80.0, **changes}
    make = MapMaker(fit, CITYSCAPES, **options)

    def maps(output, row_track, scale):
        row_class = np.full(256, VOID, np.uint8)
        row_class[:64] = output.segments[:, 0]
        return make(output, row_class, row_track, scale)

    return maps


def network_output(class_map, segment_map=None, depth_m=10.0, *, classes=(), nearest=None, logits=None):
    """An output whose logits are one-hot of the class map; ``classes`` are those of the segment rows."""
    class_map = np.asarray(class_map, np.uint8)
    if segment_map is None:
        segment_map = np.full(class_map.shape, 255)
    segment_map = np.asarray(segment_map, np.uint8)
    segments = np.zeros((64, 9), np.float32)
    segments[: len(classes), 0] = classes
    segments[: len(classes), 1] = 0.9
    if logits is None:
        logits = np.where(np.arange(19)[:, None, None] == class_map, 5, 0)
    return NetworkOutput(
        class_map,
        segment_map,
        np.broadcast_to(np.float32(depth_m), class_map.shape).astype(np.float32),
        segments,
        np.zeros((64, 8), np.float32),
        confidence=np.full(class_map.shape, 200, np.uint8),
        class_logits=np.asarray(logits, np.float32),
        nearest=np.asarray(segment_map if nearest is None else nearest, np.uint8),
    )


def tracks(*ids):
    table = np.zeros(256, np.uint16)
    table[: len(ids)] = ids
    return table


def slow_maps(out, fit, row_track, scale, *, max_depth_m=80.0, min_confidence=0.0):
    """The definition in the module's docstring, pixel by pixel, in double precision."""
    shape = fit.camera_height, fit.camera_width
    maps = np.empty(shape, np.uint8), np.empty(shape, np.uint16), np.empty(shape), np.empty(shape)
    margin = np.full(shape, np.inf)  # how clear the arg-max is: ties may fall either way
    h, w = out.class_map.shape

    def neighbours(pixel, pad, inner, cells):
        cell = ((pixel + 0.5) * fit.scale + pad) / 4 - 0.5
        inside = [i for i in range(cells) if pad <= 4 * i + 1.5 <= pad + inner - 1]
        cell = min(max(cell, inside[0]), inside[-1])
        low = int(np.floor(cell))
        return [(low, 1 - (cell - low)), (low + 1, cell - low)]

    for v in range(shape[0]):
        for u in range(shape[1]):
            around = [
                ((y, x), wy * wx)
                for y, wy in neighbours(v, fit.pad_y, fit.inner_height, h)
                for x, wx in neighbours(u, fit.pad_x, fit.inner_width, w)
                if wy * wx > 1e-6
            ]
            closest = max(around, key=lambda n: n[1])[0]
            label = out.class_map[closest]
            if label != VOID and len({out.class_map[p] for p, _ in around}) > 1:
                logits = sum(k * out.class_logits[(slice(None), *p)].astype(float) for p, k in around)
                label = logits.argmax()
                margin[v, u] = logits[label] - np.partition(logits, -2)[-2]
            segment = 255
            if label in CITYSCAPES.thing_ids:
                votes = {}
                for p, weight in around:
                    if out.class_map[p] == label:
                        votes[out.segment_map[p]] = votes.get(out.segment_map[p], 0) + weight
                segment = max(votes, key=votes.get) if votes else out.nearest[closest]
                ordered = sorted(votes.values())
                if len(ordered) > 1:
                    margin[v, u] = min(margin[v, u], ordered[-1] - ordered[-2])
            known = [
                (p, weight)
                for p, weight in around
                if out.class_map[p] not in (SKY, VOID) and 0 < out.depth_m[p] < np.inf
            ]
            if segment != 255:
                group = [(p, weight) for p, weight in known if out.segment_map[p] == segment]
            else:
                group = [(p, k) for p, k in known if out.class_map[p] == label and out.segment_map[p] == 255]
            group = group or [max(known, key=lambda n: n[1], default=(None, 0))]
            z = np.nan
            if label == SKY:
                z = np.inf
            elif label != VOID and group[0][0] is not None:
                z = scale * sum(k for _, k in group) / sum(k / float(out.depth_m[p]) for p, k in group)
                z = z if z <= max_depth_m else np.nan
            confidence = sum(k * float(out.confidence[p]) for p, k in around)
            if segment != 255:
                label = int(out.segments[segment, 0])
            track = 0 if segment == 255 else row_track[segment]
            least = np.ceil(255 * min_confidence)
            margin[v, u] = min(margin[v, u], abs(confidence + 0.5 - least))
            if int(confidence + 0.5) < least:
                label, track, z = VOID, 0, np.nan
            for image, value in zip(maps, (label, track, z, confidence), strict=True):
                image[v, u] = value
    return (*maps, margin)


def random_output(rng, h, w):
    """Blobs of a few classes with segments that need not respect them, holes and bad depths."""
    coarse = rng.choice([ROAD, SKY, PERSON, CAR, TRUCK, VOID], (h // 2 + 1, w // 2 + 1))
    class_map = coarse.repeat(2, 0).repeat(2, 1)[:h, :w].astype(np.uint8)
    nearest = rng.integers(0, 4, (h // 3 + 1, w // 3 + 1)).repeat(3, 0).repeat(3, 1)[:h, :w].astype(np.uint8)
    thing = CITYSCAPES.is_thing[class_map]
    segment_map = np.where(thing & (rng.random((h, w)) < 0.9), nearest, 255).astype(np.uint8)
    logits = rng.normal(0, 1, (19, h, w))
    ys, xs = np.mgrid[:h, :w]
    known = class_map != VOID
    logits[class_map[known], ys[known], xs[known]] = 4 + rng.random(known.sum())
    depth = rng.uniform(2, 100, (h, w))
    depth[rng.random((h, w)) < 0.05] = rng.choice([0.0, -1.0, np.nan, np.inf])
    classes = (PERSON, CAR, TRUCK, CAR)
    out = network_output(class_map, segment_map, classes=classes, nearest=nearest, logits=logits)
    out.depth_m[:] = depth
    out.confidence[:] = rng.integers(0, 256, (h, w))
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("camera", "network"),
    [((83, 25), (64, 32)), ((40, 40), (64, 32)), ((17, 61), (64, 32)), ((219, 28), (512, 64))],
)
def test_equals_the_slow_definition(seed, camera, network):
    rng = np.random.default_rng(seed)
    fit = Fit.letterbox(*camera, *network)
    out = random_output(rng, network[1] // 4, network[0] // 4)
    options = {"max_depth_m": 80.0, "min_confidence": 0.0 if seed % 2 else 0.3}
    row_track, scale = tracks(7, 300, 0, 65535), 1.3
    result = maker(fit, **options)(out, row_track, scale)
    label, track, z, confidence, margin = slow_maps(out, fit, row_track, scale, **options)
    clear = margin > 1e-4
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(result.class_map[clear], label[clear])
    np.testing.assert_array_equal(result.track_map[clear], track[clear])
    np.testing.assert_allclose(result.depth_m[clear], z[clear], rtol=1e-4)
    np.testing.assert_allclose(result.confidence, confidence, atol=0.51)


def test_identity_of_constant_maps():
    fit = Fit.letterbox(64, 32, 64, 32)
    result = maker(fit)(network_output(np.full((8, 16), ROAD), depth_m=10.0), tracks(), 2.0)
    assert (result.class_map == ROAD).all() and (result.track_map == 0).all()
    np.testing.assert_allclose(result.depth_m, 20.0, rtol=1e-6)
    assert (result.confidence == 200).all()
    assert np.isposinf(maker(fit)(network_output(np.full((8, 16), SKY)), tracks(), 1.0).depth_m).all()
    void = maker(fit)(network_output(np.full((8, 16), VOID)), tracks(), 1.0)
    assert (void.class_map == VOID).all() and np.isnan(void.depth_m).all()


def test_border_between_classes_lies_half_way_and_no_point_floats():
    """Road at 20 m left, a car at 5 m right: the border of two cells is the border of pixels 31 and 32."""
    class_map = np.full((8, 16), ROAD)
    class_map[:, 8:] = CAR
    segment_map = np.where(class_map == CAR, 0, 255)
    out = network_output(class_map, segment_map, np.where(class_map == CAR, 5.0, 20.0), classes=(CAR,))
    result = maker(Fit.letterbox(64, 32, 64, 32))(out, tracks(9), 1.0)
    assert (result.class_map[:, :32] == ROAD).all() and (result.class_map[:, 32:] == CAR).all()
    assert (result.track_map[:, :32] == 0).all() and (result.track_map[:, 32:] == 9).all()
    np.testing.assert_allclose(result.depth_m[:, :32], 20.0, rtol=1e-6)
    np.testing.assert_allclose(result.depth_m[:, 32:], 5.0, rtol=1e-6)


def test_plane_keeps_its_depth():
    """1/z of a plane is linear in the pixel: rows between cells are exact."""
    rows = 4 * np.arange(8) + 1.5
    out = network_output(np.full((8, 16), ROAD), depth_m=(100 / (rows + 1))[:, None])
    result = maker(Fit.letterbox(64, 32, 64, 32), max_depth_m=1000.0)(out, tracks(), 1.0)
    v = np.arange(2, 29)
    np.testing.assert_allclose(result.depth_m[2:29, 7], 100 / (v + 1), rtol=1e-5)


def test_depth_beyond_the_limit_is_unknown_after_scaling():
    fit = Fit.letterbox(64, 32, 64, 32)
    out = network_output(np.full((8, 16), ROAD), depth_m=50.0)
    assert np.isfinite(maker(fit)(out, tracks(), 1.6).depth_m).all()
    assert np.isnan(maker(fit)(out, tracks(), 1.61).depth_m).all()


def test_padding_is_never_seen():
    """A wide camera in a square input: the rows of padding above and below hold another class."""
    fit = Fit.letterbox(64, 16, 64, 64)
    assert fit.pad_y == 24
    class_map = np.full((16, 16), SKY)
    class_map[6:10] = ROAD
    result = maker(fit)(network_output(class_map, depth_m=3.0), tracks(), 1.0)
    assert (result.class_map == ROAD).all()
    np.testing.assert_allclose(result.depth_m, 3.0)


def test_an_object_has_one_class():
    """Cells of a truck that the arg-max calls car take the class of their segment."""
    class_map = np.full((8, 16), TRUCK)
    class_map[:, 6:8] = CAR
    out = network_output(class_map, np.zeros((8, 16)), classes=(TRUCK,))
    result = maker(Fit.letterbox(64, 32, 64, 32))(out, tracks(4), 1.0)
    assert (result.class_map == TRUCK).all() and (result.track_map == 4).all()


def test_pixels_of_a_dropped_segment_stay_without_one():
    """A small far car lost its segment in the graph: it must not join the large one."""
    class_map = np.full((8, 16), ROAD)
    class_map[2:7, 0:6] = class_map[3:5, 12:14] = CAR
    segment_map = np.full((8, 16), 255)
    segment_map[2:7, 0:6] = 0
    out = network_output(class_map, segment_map, classes=(CAR,), nearest=np.zeros((8, 16)))
    result = maker(Fit.letterbox(64, 32, 64, 32))(out, tracks(9), 1.0)
    assert (result.class_map[12:20, 50:54] == CAR).all()
    assert (result.track_map[:, 32:] == 0).all() and (result.track_map[8:28, :22] == 9).all()


def test_class_between_cells_takes_the_nearest_segment():
    """Logits of a person rise between road cells only: no neighbour has the class, ``nearest`` decides."""
    logits = np.zeros((19, 8, 16))
    logits[ROAD, :, :8], logits[CAR, :, 8:] = 4, 4
    logits[PERSON, :, 7:9] = 3
    class_map = np.where(np.arange(16) < 8, ROAD, CAR) * np.ones((8, 1), int)
    segment_map = np.where(class_map == CAR, 0, 255)
    out = network_output(
        class_map, segment_map, classes=(CAR, PERSON), nearest=np.full((8, 16), 1), logits=logits
    )
    result = maker(Fit.letterbox(64, 32, 64, 32))(out, tracks(9, 5), 1.0)
    assert (result.class_map[:, 31:33] == PERSON).all() and (result.track_map[:, 31:33] == 5).all()
    assert (result.class_map[:, :29] == ROAD).all() and (result.track_map[:, 36:] == 9).all()


def test_a_speck_of_stuff_is_void_and_keeps_its_depth():
    """Two cells of terrain in 128 are below one in 50, three are not; poles and things may be small."""
    class_map = np.full((8, 16), ROAD)
    class_map[2, 2:4], class_map[2, 10], class_map[5, 5], class_map[5, 10] = TERRAIN, POLE, WALL, CAR
    class_map[7, 10:13] = FENCE
    out = network_output(class_map)
    fit = Fit.letterbox(64, 32, 64, 32)
    result = maker(fit, min_region=0.02)(out, tracks(), 1.0)
    kept = maker(fit)(out, tracks(), 1.0)
    assert (result.class_map[9:11, 9:15] == VOID).all() and (result.class_map[21:23, 21:23] == VOID).all()
    for name, place in ((POLE, (9, 41)), (CAR, (21, 41)), (FENCE, (29, 45))):
        assert kept.class_map[place] == result.class_map[place] == name
    assert ((result.class_map == kept.class_map) | (result.class_map == VOID)).all()
    np.testing.assert_array_equal(result.depth_m, kept.depth_m)
    assert (result.class_map == VOID).sum() == np.isin(kept.class_map, (TERRAIN, WALL)).sum() > 0


def test_padding_does_not_count_as_a_region():
    """Rows of padding full of wall do not make a speck of wall a region."""
    fit = Fit.letterbox(64, 16, 64, 64)
    class_map = np.full((16, 16), WALL)
    class_map[6:10] = ROAD
    class_map[7, 4] = WALL
    result = maker(fit, min_region=0.03)(network_output(class_map), tracks(), 1.0)
    assert set(np.unique(result.class_map)) == {ROAD, VOID}


def test_works_without_the_optional_outputs():
    class_map = np.full((8, 16), ROAD)
    class_map[:, 8:] = CAR
    full = network_output(class_map, np.where(class_map == CAR, 0, 255), classes=(CAR,))
    bare = NetworkOutput(full.class_map, full.segment_map, full.depth_m, full.segments, full.embedding)
    result = maker(Fit.letterbox(64, 32, 64, 32))(bare, tracks(9), 1.0)
    assert (result.class_map[:, :32] == ROAD).all() and (result.track_map[:, 32:] == 9).all()
    assert (result.confidence == 255).all()
