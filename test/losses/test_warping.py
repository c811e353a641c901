# SPDX-License-Identifier: Apache-2.0
"""Look-ups by flow and by labels, flow's sign and its loss, disparities, views of clips: by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dvps_ros.geometry.disparity import depth_of_disparity, disparity_of_depth  # noqa: E402
from dvps_ros.losses.depth import edge_aware_smoothness, mean_normalised  # noqa: E402
from dvps_ros.losses.flow import flow_photometric, warp_by_flow  # noqa: E402
from dvps_ros.losses.photometric import of_rows, strided_view  # noqa: E402
from dvps_ros.losses.warping import labels_at, pixel_grid, seen_at, values_at  # noqa: E402


def texture(h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth random image [1,3,h,w], 0..255."""
    rough = torch.rand(1, 3, h // 3 + 2, w // 3 + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, (h, w), mode="bicubic").clamp(0, 1) * 255


def constant_flow(dx: float, dy: float, h: int, w: int) -> torch.Tensor:
    return torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, h, w).clone()


def all_seen(h: int, w: int) -> torch.Tensor:
    return torch.ones(1, h, w, dtype=torch.bool)


def test_a_pixel_is_found_at_itself_plus_flow():
    other = texture(8, 12)
    # (+3, -1): each pixel of this frame lies 3 to the right and 1 higher in the other.
    got = warp_by_flow(other, constant_flow(3, -1, 8, 12))
    torch.testing.assert_close(got[..., 1:, :9], other[..., :7, 3:], atol=1e-3, rtol=0)
    half = warp_by_flow(other, constant_flow(0.5, 0, 8, 12))
    torch.testing.assert_close(half[..., :11], (other[..., :11] + other[..., 1:]) / 2, atol=1e-3, rtol=0)


def test_seen_needs_all_pixels_around_the_place():
    seen = all_seen(4, 6)
    seen[0, 2, 4] = False
    places = torch.tensor([[3.0, 3.5, 5.0, 5.5, 0, -0.2, 4], [2.0, 2, 3, 3, 0, 0, 1.5]]).view(1, 2, 1, 7)
    assert seen_at(seen, places)[0, 0].tolist() == [True, False, True, False, True, False, False]


def test_labels_keep_every_bit_and_are_missing_outside():
    labels = torch.tensor([[[1 << 40, (1 << 40) + 1], [7, -1]]])
    places = torch.tensor([[0.4, 0.6, -0.4, -0.6, 1.4, 1.6], [0.0, 0, 1.4, 1, 1, 1]]).view(1, 2, 1, 6)
    got = labels_at(labels, places, missing=-9)[0, 0].tolist()
    assert got == [1 << 40, (1 << 40) + 1, 7, -9, -1, -9]


def test_values_have_gradients_by_place_and_image():
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    places = (pixel_grid(3, 3, image.detach())[None] + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(values_at, (image, places))


def overtaking() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A frame, the previous one and the flow to it: the ground stands still, a car of 8x8 pixels has come 3
    pixels to the right."""
    ground, car = texture(16, 32, 1), texture(8, 8, 2)
    previous, image, flow = ground.clone(), ground.clone(), constant_flow(0, 0, 16, 32)
    previous[..., 4:12, 10:18] = car
    image[..., 4:12, 13:21] = car
    flow[:, 0, 4:12, 13:21] = -3
    return image, previous, flow


def test_flow_to_the_previous_frame_of_an_overtaking_car_points_back():
    image, previous, flow = overtaking()
    seen = all_seen(16, 32)
    right = flow_photometric(flow, image, seen, previous, seen)
    assert right.value[0, 5:11, 14:20].max() < 1e-4
    other_sign = flow_photometric(-flow, image, seen, previous, seen)
    assert other_sign.value[0, 5:11, 14:20].mean() > 0.2
    still = flow_photometric(torch.zeros_like(flow), image, seen, previous, seen)
    assert still.value[0, 5:11, 14:20].mean() > 0.2
    assert still.value[0, :, 23:].max() < 1e-4


def test_flow_is_found_by_descent():
    wide = texture(12, 40, 3)
    image, previous, seen = wide[..., 4:28].contiguous(), wide[..., 2:26].contiguous(), all_seen(12, 24)
    # What is at u here was at u + 2 in the previous frame.
    guess = torch.zeros(1, 2, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([guess], 0.1)
    for _ in range(80):
        optimiser.zero_grad()
        flow_photometric(guess.expand(1, 2, 12, 24), image, seen, previous, seen).mean().backward()
        optimiser.step()
    assert guess.flatten().tolist() == pytest.approx([2, 0], abs=0.05)


def test_flow_counts_only_where_both_frames_are_seen():
    image, seen = texture(8, 12), all_seen(8, 12)
    hidden = all_seen(8, 12)
    hidden[:, :, :2] = False
    term = flow_photometric(constant_flow(2, 0, 8, 12), image, seen, image, seen)
    assert term.weight[0, 0].tolist() == [1] * 9 + [0] * 3  # columns 10, 11 leave, 9 is beside one that does
    here = flow_photometric(constant_flow(0, 0, 8, 12), image, hidden, image, seen)
    there = flow_photometric(constant_flow(0, 0, 8, 12), image, seen, image, hidden)
    assert here.weight[0, 0].tolist() == there.weight[0, 0].tolist() == [0] * 3 + [1] * 9


def test_disparity_is_linear_in_the_inverse_of_depth():
    disparity = np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(depth_of_disparity(disparity), [100, 1 / 5.005, 0.1])
    depth = torch.tensor([0.1, 1.0, 7.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(depth_of_disparity(disparity_of_depth(depth)), depth)
    assert disparity_of_depth(2.0, (1.0, 4.0)) == pytest.approx((0.5 - 0.25) / 0.75)


def test_smoothness_of_normalised_disparity_by_hand():
    disparity = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    image = torch.zeros(1, 3, 2, 2)
    image[..., 1] = 51.0  # a step of 0.2
    term = edge_aware_smoothness(mean_normalised(disparity), image, edge=1.0)
    # Steps of (3 - 1) / 2 in both rows, none from row to row; four pixels.
    assert term.mean().item() == pytest.approx(2 * math.exp(-0.2) / 4, rel=1e-5)
    again = edge_aware_smoothness(mean_normalised(7 * disparity), image, edge=1.0)
    assert again.mean().item() == pytest.approx(term.mean().item(), rel=1e-5)


def test_a_strided_view_keeps_its_rays():
    image = torch.arange(8 * 8 * 3).view(1, 3, 8, 8).to(torch.uint8)
    seen = torch.tensor([[[True, False], [True, True]]])
    view = strided_view(image, seen, torch.tensor([[40.0, 44, 3.5, 2.5]]), 2)
    assert view.image[0, 0, 0, 1].item() == (2 + 3 + 10 + 11) / 4
    assert view.seen[0].int().tolist() == [[1, 1, 0, 0]] * 2 + [[1, 1, 1, 1]] * 2
    # Pixel (1, 0) is centred on (2.5, 0.5) of the image.
    fx, fy, cx, cy = view.intrinsics[0].tolist()
    assert (1 - cx) / fx == pytest.approx((2.5 - 3.5) / 40) and (0 - cy) / fy == pytest.approx(
        (0.5 - 2.5) / 44
    )
    assert view.view_from_camera.isnan().all()


def test_views_of_shorter_clips_show_nothing_of_the_rest():
    view = strided_view(torch.ones(2, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 2, 2, dtype=torch.bool),
                        torch.ones(2, 4), 4)  # fmt: skip
    view = view._replace(view_from_camera=torch.eye(4).repeat(2, 1, 1))
    more, less = of_rows(view, 3), of_rows(view, 1)
    assert more.seen[:2].all() and not more.seen[2].any() and more.view_from_camera[2].isnan().all()
    assert all(len(part) == 3 for part in more) and all(len(part) == 1 for part in less)
