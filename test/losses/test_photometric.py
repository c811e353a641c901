# SPDX-License-Identifier: Apache-2.0
"""Photometric loss: warps by hand and by a slow loop, masks, and the depth that it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dvps_ros.losses.photometric import C1, photometric, photometric_error, warp  # noqa: E402
from dvps_ros.losses.targets import View  # noqa: E402

K = torch.tensor([[20.0, 24.0, 7.0, 3.5]])


def texture(h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth random image [1,3,h,w], 0..255."""
    rough = torch.rand(1, 3, h // 3 + 2, w // 3 + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, (h, w), mode="bicubic").clamp(0, 1) * 255


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    pose = torch.eye(4)[None]
    pose[0, :3, 3] = torch.tensor([x, y, z])
    return pose


def plane(depth_m: float, h: int, w: int) -> torch.Tensor:
    return torch.full((1, 1, h, w), math.log(depth_m))


def all_seen(h: int, w: int) -> torch.Tensor:
    return torch.ones(1, h, w, dtype=torch.bool)


def test_a_sideways_step_shifts_a_plane_by_focal_length_times_step_over_depth():
    image = texture(8, 16)
    # 20 px * 1.5 m / 10 m = 3 px to the right, 24 px * -0.5 m / 12 m = 1 px up
    warped, visible = warp(plane(10.0, 8, 16), K, View(image, all_seen(8, 16), K, moved(x=1.5)))
    torch.testing.assert_close(warped[..., :13], image[..., 3:], atol=1e-2, rtol=0)
    assert visible[0, :, :13].all() and not visible[0, :, 13:].any()
    warped, visible = warp(plane(12.0, 8, 16), K, View(image, all_seen(8, 16), K, moved(y=-0.5)))
    torch.testing.assert_close(warped[..., 1:, :], image[..., :7, :], atol=1e-2, rtol=0)
    assert visible[0, 1:].all() and not visible[0, 0].any()


def test_the_other_frame_may_have_other_intrinsics():
    image = texture(8, 16)
    # Twice the focal length and a shifted centre: pixel (u, v) is seen at (2 (u - 7) + 5, 2 (v - 3.5) + 1).
    other = View(image, all_seen(8, 16), torch.tensor([[40.0, 48.0, 5.0, 1.0]]), moved())
    warped, visible = warp(plane(4.0, 8, 16), K, other)
    assert visible[0, 4, 8] and not visible[0, 0, 0] and not visible[0, 4, 15]
    torch.testing.assert_close(warped[0, :, 4, 8], image[0, :, 2, 7], atol=1e-2, rtol=0)


def slow_lookup(image, k, other_k, pose, depth, v, u):
    """Bilinear value at the place of one pixel, None outside; plain numbers."""
    fx, fy, cx, cy = k
    p = pose[:3, :3] @ (depth * np.array([(u - cx) / fx, (v - cy) / fy, 1.0])) + pose[:3, 3]
    if p[2] <= 0.1:
        return None
    fx, fy, cx, cy = other_k
    x, y = fx * p[0] / p[2] + cx, fy * p[1] / p[2] + cy
    h, w = image.shape[1:]
    if not (0 <= x <= w - 1 and 0 <= y <= h - 1):
        return None
    i, j = min(int(y), h - 2), min(int(x), w - 2)
    a, b = y - i, x - j
    rows = image[:, i : i + 2, j : j + 2]
    return (rows[:, 0, 0] * (1 - b) + rows[:, 0, 1] * b) * (1 - a) + (
        rows[:, 1, 0] * (1 - b) + rows[:, 1, 1] * b
    ) * a


def test_warp_equals_a_slow_loop_for_any_motion():
    rng = np.random.default_rng(4)
    depth = rng.uniform(0.3, 20, (6, 9))
    angle = 0.2
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    pose[:3, 3] = [0.4, -0.2, -0.6]
    k, other_k = np.array([8.0, 9.0, 4.2, 2.1]), np.array([7.0, 8.0, 4.0, 3.0])
    image = texture(6, 9, 3)
    view = View(image, all_seen(6, 9), torch.tensor(other_k[None]).float(), torch.tensor(pose[None]).float())
    warped, visible = warp(
        torch.tensor(np.log(depth))[None, None].float(), torch.tensor(k[None]).float(), view
    )
    seen = 0
    for v in range(6):
        for u in range(9):
            want = slow_lookup(image[0].numpy(), k, other_k, pose, depth[v, u], v, u)
            assert bool(visible[0, v, u]) == (want is not None), (v, u)
            if want is not None:
                seen += 1
                np.testing.assert_allclose(warped[0, :, v, u].numpy(), want, atol=0.05)
    assert 10 < seen < 54


def test_error_of_plain_images_by_hand():
    a, b = torch.full((1, 3, 4, 5), 51.0), torch.full((1, 3, 4, 5), 153.0)  # 0.2 and 0.6
    ssim = (2 * 0.2 * 0.6 + C1) / (0.04 + 0.36 + C1)
    want = 0.85 * (1 - ssim) / 2 + 0.15 * 0.4
    torch.testing.assert_close(photometric_error(a, b), torch.full((1, 4, 5), want), atol=1e-4, rtol=0)
    image = texture(6, 7)
    assert photometric_error(image, image).abs().max() < 1e-5
    # Opposite pictures are as unlike as can be: |a - b| = 1, SSIM about -1 for a chequerboard.
    board = (torch.arange(6)[:, None] + torch.arange(7)) % 2 * 255.0
    opposite = photometric_error(board.expand(1, 3, 6, 7), 255 - board.expand(1, 3, 6, 7))
    assert opposite.min() > 0.98


def loss(log_depth, image, view, *, seen=None, static=None):
    h, w = image.shape[2:]
    seen = all_seen(h, w) if seen is None else seen
    static = all_seen(h, w) if static is None else static
    return photometric(log_depth, image, seen, static, K.expand(len(image), 4), [view])


def scene():
    """An image and the same plane, 10 m away, seen 1 m further left: 2 px of parallax."""
    wide = texture(12, 26, 1)
    return wide[..., 2:24].contiguous(), View(wide[..., :22].contiguous(), all_seen(12, 22), K, moved(x=1.0))


def test_the_true_depth_costs_nothing_and_descent_finds_it():
    image, view = scene()
    assert loss(plane(10.0, 12, 22), image, view).mean() < 1e-4
    guess = torch.tensor(math.log(6.0), requires_grad=True)
    optimizer = torch.optim.Adam([guess], lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss(guess.expand(1, 1, 12, 22), image, view).mean().backward()
        optimizer.step()
    assert math.exp(guess.item()) == pytest.approx(10.0, rel=0.02)


def test_the_gradient_equals_finite_differences():
    image, view = scene()
    log_depth = (plane(8.3, 12, 22) + 0.05 * torch.rand(1, 1, 12, 22)).requires_grad_()
    term = loss(log_depth, image, view)
    (gradient,) = torch.autograd.grad(term.value.sum(), log_depth)
    step, checked = 2e-3, 0
    for v, u in ((5, 5), (3, 12), (8, 9), (6, 15)):
        nudge = torch.zeros_like(log_depth)
        nudge[0, 0, v, u] = step
        up, down = (loss(log_depth.detach() + s * nudge, image, view) for s in (1, -1))
        if not (torch.equal(up.weight, term.weight) and torch.equal(down.weight, term.weight)):
            continue
        slope = (up.value.sum() - down.value.sum()).item() / (2 * step)
        assert gradient[0, 0, v, u].item() == pytest.approx(slope, rel=0.1, abs=2e-3)
        checked += 1
    assert checked >= 2 and gradient.abs().sum() > 0


def test_what_does_not_change_between_the_images_counts_nowhere():
    image, view = scene()
    assert loss(plane(10.0, 12, 22), image, view._replace(image=image)).weight.sum() == 0
    grey = torch.full_like(image, 90.0)
    assert loss(plane(10.0, 12, 22), grey, view._replace(image=grey)).weight.sum() == 0


def test_the_best_of_several_views_counts():
    image, view = scene()
    covered = view._replace(image=view.image.clone())
    covered.image[..., 8:14] = 0  # something stands before it in one view
    seen, depth = all_seen(12, 22), plane(10.0, 12, 22)
    one = photometric(depth, image, seen, seen, K, [covered])
    both = photometric(depth, image, seen, seen, K, [covered, view])
    assert one.mean() > 0.05 and both.mean() < 1e-4 and both.weight.sum() > one.weight.sum() * 0.5


def test_missing_poses_padding_moving_objects_and_points_behind_are_masked():
    image, view = scene()
    depth = plane(9.0, 12, 22).requires_grad_()
    whole = loss(depth, image, view).weight[0] > 0
    assert whole[:, :19].float().mean() > 0.7 and not whole[:, 20:].any()  # 20, 21 look past the border
    unknown = loss(depth, image, view._replace(view_from_camera=torch.full((1, 4, 4), math.nan)))
    assert unknown.weight.sum() == 0 and torch.isfinite(unknown.value).all()
    unknown.mean().backward()
    assert (depth.grad == 0).all()
    behind = loss(depth, image, view._replace(view_from_camera=moved(z=-20.0)))
    assert behind.weight.sum() == 0 and torch.isfinite(behind.value).all()

    seen = all_seen(12, 22)
    seen[:, :, :4] = False  # padding in this frame: SSIM sees one pixel further
    assert not loss(depth, image, view, seen=seen).weight[..., :5].any()
    other_seen = all_seen(12, 22)
    other_seen[:, 8:] = False  # padding in the other one
    rows = loss(depth, image, view._replace(seen=other_seen)).weight[0].sum(1) > 0
    assert rows[:6].all() and not rows[7:].any()
    static = all_seen(12, 22)
    static[:, 2:5, 3:9] = False
    masked = loss(depth, image, view, static=static).weight[0] > 0
    assert torch.equal(masked, whole & static[0])


def test_samples_of_a_batch_do_not_touch_each_other():
    image, view = scene()
    unknown = torch.full((1, 4, 4), math.nan)
    batch = View(*(torch.cat((a, a)) for a in view[:3]), torch.cat((view.view_from_camera, unknown)))
    both = loss(
        torch.cat((plane(9.0, 12, 22),) * 2), torch.cat((image, image)), batch,
        seen=all_seen(12, 22).expand(2, -1, -1), static=all_seen(12, 22).expand(2, -1, -1),
    )  # fmt: skip
    alone = loss(plane(9.0, 12, 22), image, view)
    torch.testing.assert_close(both.value[:1], alone.value)
    assert both.weight[1].sum() == 0 and torch.equal(both.weight[:1], alone.weight)
