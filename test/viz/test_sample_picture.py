# SPDX-License-Identifier: Apache-2.0
"""The picture of a clip: which panels it has, and that sparse truth is drawn where it is."""

from __future__ import annotations

import numpy as np

from dvps_ros.labels import CITYSCAPES
from dvps_ros.types import Sample
from dvps_ros.viz.sample import PANEL_WIDTH_PX, sample_picture

H, W = 20, 40
SCALE = PANEL_WIDTH_PX // W


def clip(**truth) -> Sample:
    return Sample(
        images=np.full((2, H, W, 3), 120, np.uint8),
        intrinsics=np.ones((2, 4), np.float32),
        source="made",
        **truth,
    )


def panel(picture: np.ndarray, number: int, frame: int = 1) -> np.ndarray:
    """One panel at the size of the sample: the middle pixel of each cell."""
    rows = picture[frame * H * SCALE : (frame + 1) * H * SCALE, number * PANEL_WIDTH_PX :][:, :PANEL_WIDTH_PX]
    return rows[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def test_a_clip_without_truth_is_its_images():
    picture = sample_picture(clip())
    assert picture.shape == (2 * H * SCALE, PANEL_WIDTH_PX, 3)
    assert (panel(picture, 0)[10:] == 120).all()


def test_sparse_depth_is_drawn_as_dots_that_do_not_wrap_around():
    depth = np.zeros((2, H, W), np.float32)
    depth[1, 12, 20] = depth[1, 19, 39] = 10
    drawn = (panel(sample_picture(clip(depth_m=depth)), 1) != 40).any(-1)
    drawn[:3] = False  # the caption
    expected = np.zeros((H, W), bool)
    expected[10:15, 18:23] = expected[17:, 37:] = True
    np.testing.assert_array_equal(drawn, expected)


def test_coarse_classes_have_the_colour_of_their_first_member():
    names = ("road", "sky")
    groups = tuple((CITYSCAPES.id_of(name), CITYSCAPES.id_of("car")) for name in names)
    coarse = np.zeros((2, H, W), np.uint8)
    coarse[:, :, 20:] = 1
    found = panel(sample_picture(clip(coarse_map=coarse, coarse_groups=groups)), 1)
    for column, name in ((10, "road"), (30, "sky")):
        color = np.array(CITYSCAPES.classes[CITYSCAPES.id_of(name)].color)
        np.testing.assert_allclose(found[15, column], 0.65 * color + 0.35 * 120, atol=2)


def test_unknown_flow_is_the_dark_image_and_known_flow_is_not():
    flow = np.full((2, H, W, 2), np.nan, np.float32)
    flow[1, :, 20:] = 3, 0
    picture = sample_picture(clip(flow_px=flow))
    assert (panel(picture, 1, frame=0)[5:] == 40).all()
    known = panel(picture, 1)[5:]
    assert (known[:, :20] == 40).all()
    # To the right is red.
    assert (known[:, 20:, 0].astype(int) > known[:, 20:, 2] + 50).all()
