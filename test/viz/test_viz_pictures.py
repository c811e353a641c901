# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import (
    CameraModel,
    FrameResult,
    Motion,
    PanopticDepth,
    ScaleEstimate,
    ScaleHealth,
    TrackedInstance,
    TrackState,
)
from dvps_ros.viz import birds_eye, depth_color, label_of, mosaic, overlay, panoptic_color, track_color
from dvps_ros.viz.palette import SKY_COLOR, UNKNOWN_COLOR

ROAD, SKY, CAR = 0, 10, 13


def instance(**changes) -> TrackedInstance:
    values = dict(
        track_id=12,
        class_id=CAR,
        score=0.9,
        state=TrackState.CONFIRMED,
        box_px=(40.0, 40.0, 20.0, 20.0),
        area_px=400,
        centroid_m=np.array([0.0, 0.0, 20.0]),
        extent_m=np.array([2.0, 1.5, 4.0]),
        velocity_mps=np.zeros(3),
        covariance=np.eye(6),
        age_s=1.0,
        unseen_s=0.0,
        motion=Motion.STATIC,
    )
    return TrackedInstance(**(values | changes))


def result(width=96, height=72, instances=(), panoptic=True) -> FrameResult:
    """Sky above, road below, a car in the middle."""
    camera = CameraModel(width, height, 80.0, 80.0, (width - 1) / 2, height / 2)
    class_map = np.full((height, width), SKY, np.uint8)
    class_map[height // 2 + 3 :] = ROAD
    depth = np.full((height, width), np.inf, np.float32)
    rows = np.arange(height // 2 + 3, height)
    depth[rows] = (1.5 * 80.0 / (rows - camera.cy)).astype(np.float32)[:, None]
    class_map[30:50, 40:60] = CAR
    track_map = np.where(class_map == CAR, 12, 0).astype(np.uint16)
    depth[30:50, 40:60] = 25.0
    maps = PanopticDepth(class_map, track_map, depth, np.full_like(class_map, 255))
    image = np.full((height, width, 3), 100, np.uint8)
    scale = ScaleEstimate(1.0, 0.0, ScaleHealth.OFF, np.full(4, np.nan), 0.0)
    return FrameResult(
        0, "camera", camera, image, maps if panoptic else None, tuple(instances), scale, None, None
    )


def test_panoptic_colors_by_hand():
    class_map = np.array([[ROAD, CAR, CAR, 255]], np.uint8)
    track_map = np.array([[0, 0, 7, 0]], np.uint16)
    colors = panoptic_color(class_map, track_map, CITYSCAPES)
    assert [tuple(c) for c in colors[0, [0, 1, 3]]] == [(128, 64, 128), (0, 0, 142), (0, 0, 0)]
    assert np.abs(colors[0, 2].astype(int) - track_color(7, CAR, CITYSCAPES)).max() <= 1


def test_track_colors_are_stable_and_far_apart():
    colors = np.array([track_color(i, CAR, CITYSCAPES) for i in range(1, 9)], float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1e3 * np.eye(8)
    assert apart.min() > 60
    assert track_color(65535, CAR, CITYSCAPES) == track_color(65535, CAR, CITYSCAPES)
    assert track_color(5, CAR, CITYSCAPES) != track_color(5, 11, CITYSCAPES)


def test_depth_colors():
    depth = np.array([[np.inf, np.nan, 0.0, 3.0, 1.0, 80.0, 500.0, 10.0, 20.0]], np.float32)
    colors = depth_color(depth)[0]
    assert tuple(colors[0]) == SKY_COLOR
    assert tuple(colors[1]) == tuple(colors[2]) == UNKNOWN_COLOR
    turbo = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    np.testing.assert_array_equal(colors[3], turbo[255])
    np.testing.assert_array_equal(colors[4], turbo[255])
    np.testing.assert_array_equal(colors[5], turbo[0])
    np.testing.assert_array_equal(colors[6], turbo[0])
    for i, z in ((7, 10.0), (8, 20.0)):
        share = (z**-0.5 - 80**-0.5) / (3**-0.5 - 80**-0.5)
        np.testing.assert_array_equal(colors[i], turbo[int(share * 255)])


def test_overlay_mixes_and_outlines():
    r = result()
    before = r.image.copy()
    picture = overlay(r.image, r.panoptic.class_map, r.panoptic.track_map, CITYSCAPES, alpha=0.5)
    np.testing.assert_array_equal(r.image, before)
    assert tuple(picture[70, 5]) == (114, 82, 114)  # half road, half grey 100
    color = panoptic_color(r.panoptic.class_map, r.panoptic.track_map, CITYSCAPES)[40, 50].astype(float)
    np.testing.assert_allclose(picture[40, 50], 0.5 * color + 50, atol=1)
    np.testing.assert_allclose(picture[30, 50], 0.4 * color + 153, atol=1)
    np.testing.assert_allclose(picture[40, 59], 0.4 * color + 153, atol=1)


def test_overlay_labels_what_is_seen():
    r = result(width=320, height=240)
    maps = r.panoptic
    plain = overlay(r.image, maps.class_map, maps.track_map, CITYSCAPES)
    seen = instance(box_px=(100.0, 100.0, 40.0, 30.0))
    labelled = overlay(r.image, maps.class_map, maps.track_map, CITYSCAPES, [seen])
    changed = np.argwhere((plain != labelled).any(2))
    assert len(changed) > 100 and changed[:, 0].max() <= 100  # on top of the box
    assert 60 < changed[:, 1].mean() < 180
    for unseen in (instance(area_px=0), instance(box_px=(100.0, 100.0, 4.0, 30.0))):
        np.testing.assert_array_equal(
            plain, overlay(r.image, maps.class_map, maps.track_map, CITYSCAPES, [unseen])
        )


def test_labels_do_not_cover_each_other():
    r = result(width=320, height=240)
    maps = r.panoptic

    def picture(instances):
        return overlay(r.image, maps.class_map, maps.track_map, CITYSCAPES, instances).astype(int)

    one = instance(box_px=(100.0, 100.0, 40.0, 30.0), area_px=900)
    two = instance(track_id=13, box_px=(104.0, 100.0, 40.0, 30.0), area_px=800)
    plate = (picture([one]) != picture([])).any(2)
    np.testing.assert_array_equal(picture([one, two])[plate], picture([one])[plate])
    assert (picture([one, two]) != picture([one])).any()


def test_label_text():
    assert label_of(instance(), CITYSCAPES) == "car 12 20.0 m"
    assert label_of(instance(centroid_m=np.full(3, np.nan)), CITYSCAPES) == "car 12"


def test_birds_eye_puts_the_car_where_it_is():
    r = result()
    picture = birds_eye(r.panoptic, r.camera, CITYSCAPES, width=200, height=530, reach_m=50.0)
    assert picture.shape == (530, 200, 3)
    # 10 px a metre; the camera is in row 500, column 100: the car stands in row 250.
    color = panoptic_color(r.panoptic.class_map, r.panoptic.track_map, CITYSCAPES)[40, 50]
    rows, columns = np.nonzero((picture == color).all(2))
    assert (rows.min(), rows.max()) == (250, 250)
    # x = (u - 47.5) / 80 * 25 for u = 40 .. 59, and the last pixel is 0.31 m wide.
    assert columns.min() == pytest.approx(100 - 23.4, abs=1) and columns.max() == pytest.approx(138, abs=2)
    assert (picture[450:, :] == (83, 41, 83)).all(2).any()  # road nearby


def test_birds_eye_knows_the_cameras_tilt():
    """A camera 1.65 m over a level road looks 20 degrees down at a wall that stands 12 m ahead: seen from
    above the wall is one line at 12 m, not smeared over the 1.5 m that its depth differs by."""
    r = result()
    tilt = np.radians(20)
    normal = np.array([0.0, np.cos(tilt), np.sin(tilt)])
    v, _ = np.mgrid[0 : r.camera.height, 0 : r.camera.width]
    ray_y = (v - r.camera.cy) / r.camera.fy
    # Ahead of a point of depth d is d (cos - ray_y sin).
    depth_m = (12.0 / (np.cos(tilt) - ray_y * np.sin(tilt))).astype(np.float32)
    assert np.ptp(depth_m) > 1.5
    wall = np.full_like(r.panoptic.class_map, 2)
    maps = PanopticDepth(wall, np.zeros_like(r.panoptic.track_map), depth_m, r.panoptic.confidence)
    color = (0.65 * CITYSCAPES.palette[2]).astype(np.uint8)

    def rows(road: np.ndarray | None) -> np.ndarray:
        picture = birds_eye(maps, r.camera, CITYSCAPES, road=road, width=200, height=530, reach_m=50.0)
        return np.nonzero((picture == color).all(2))[0]

    seen = rows(np.append(normal, -1.65))
    assert seen.size and np.abs(seen - 380).max() <= 1
    flat = rows(None)
    assert np.ptp(flat) > 5
    np.testing.assert_array_equal(flat, rows(np.full(4, np.nan)))


def test_birds_eye_draws_objects_and_their_way():
    r = result()
    options = {"width": 200, "height": 530}
    plain = birds_eye(r.panoptic, r.camera, CITYSCAPES, **options).astype(int)
    moving = instance(velocity_mps=np.array([0.0, 0.0, 8.0]), motion=Motion.MOVING)
    picture = birds_eye(r.panoptic, r.camera, CITYSCAPES, [moving], **options).astype(int)
    rows, columns = np.nonzero((plain != picture).any(2))
    assert rows.min() == pytest.approx(500 - 280, abs=3)  # the tip, 8 m further
    assert columns.min() == pytest.approx(90, abs=2)
    for far in (1e12, -1e12):
        birds_eye(r.panoptic, r.camera, CITYSCAPES, [instance(centroid_m=np.array([far, 0.0, far]))])
    unknown = instance(centroid_m=np.full(3, np.nan))
    np.testing.assert_array_equal(plain, birds_eye(r.panoptic, r.camera, CITYSCAPES, [unknown], **options))


def test_trees_over_the_street_do_not_hide_it():
    r = result()
    maps = r.panoptic
    maps.class_map[:20], maps.depth_m[:20] = 8, 3.0 * 80 / 16  # crown 3 m and more above the camera
    picture = birds_eye(maps, r.camera, CITYSCAPES)
    crown = (0.65 * CITYSCAPES.palette[8]).astype(np.uint8)
    assert not (picture == crown).all(2).any()


@pytest.mark.parametrize(("width", "height", "expected"), [(1242, 375, 3), (640, 480, 2), (101, 77, 2)])
def test_mosaic_has_even_sides_and_the_right_panels(width, height, expected):
    r = result(width, height, [instance()])
    picture = mosaic(r, CITYSCAPES)
    assert picture.dtype == np.uint8 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    panel_height = round(width // 2 * 2 * height / width / 2) * 2
    assert picture.shape[0] == expected * panel_height
    # The camera panel shows the camera, away from its caption.
    assert tuple(picture[panel_height - 5, 5]) == (100, 100, 100)


def test_mosaic_without_maps_is_refused():
    with pytest.raises(InputError, match="ask for 'panoptic'"):
        mosaic(result(panoptic=False), CITYSCAPES)


def test_wrong_maps_are_refused():
    with pytest.raises(InputError, match="class_map: expected uint8"):
        panoptic_color(np.zeros((2, 2), int), np.zeros((2, 2), np.uint16), CITYSCAPES)
    with pytest.raises(InputError, match="depth_m: expected float32"):
        depth_color(np.zeros((2, 2)))
