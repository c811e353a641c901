# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from dvps_ros.errors import ConfigError, InputError
from dvps_ros.metrics import DepthByDistance, DepthErrors, DepthInliers, DepthProtocol, depth_aware_stq
from dvps_ros.metrics.depth import image_errors


def image(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def errors(gt, pr, **protocol):
    metric = DepthErrors([DepthProtocol(**protocol)])
    metric.update(gt, pr)
    (by_scaling,) = metric.compute().values()
    (result,) = by_scaling.values()
    return result


def test_errors_by_hand():
    """Truth 2, 4; prediction 3, 4; the zero has no truth."""
    found = errors(image(2, 4, 0), image(3, 4, 9))
    e = log(1.5)
    assert found == {
        "abs_rel": pytest.approx(0.25),
        "sq_rel": pytest.approx(0.25),
        "rmse": pytest.approx(sqrt(0.5)),
        "rmse_log": pytest.approx(e / sqrt(2)),
        "silog": pytest.approx(100 * e / 2),
        "delta1": 0.5,
        "delta2": 1.0,
        "delta3": 1.0,
        "images": 1,
        "images_without_truth": 0,
        "pixels": 2,
    }


def test_delta_is_strict():
    found = errors(image(4, 4, 4), image(5, 6.25, 7.8125))
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0, 1 / 3, 2 / 3)


def test_mean_is_over_images_not_pixels():
    metric = DepthErrors([DepthProtocol()])
    metric.update(image(2, 2, 2, 2), image(2, 2, 2, 2))
    metric.update(image(2, 0, 0, 0), image(4, 0, 0, 0))
    metric.update(image(0, 0, 0, 0), image(4, 0, 0, 0))
    found = metric.compute()["none"]["none"]
    assert (found["abs_rel"], found["images"], found["images_without_truth"]) == (0.5, 2, 1)


def test_median_scaling_happens_before_clamping():
    """Ratio 40/20 = 2 on the scored pixels; 50 * 2 is then clamped to 80."""
    gt = np.array([[20, 40, 60, 90.0]])
    pr = np.array([[10, 20, 50, 1.0]])
    found = errors(gt, pr, scaling="median", cap_m=80.0)
    assert found["pixels"] == 3
    assert found["abs_rel"] == pytest.approx((0 + 0 + 20 / 60) / 3)
    assert found["scale_mean"] == 2.0 and found["scale_std"] == 0.0


def test_the_cap_is_strict_and_only_on_crops_by_default():
    gt, pr = image(80, 79, 0.001, 1), image(80, 79, 1, 1)
    assert errors(gt, pr, cap_m=80.0)["pixels"] == 2
    assert errors(gt, pr)["pixels"] == 4
    assert [DepthProtocol(crop).cap_m for crop in ("none", "garg", "eigen", "cityscapes")] == [
        None,
        80,
        80,
        80,
    ]


def test_crops_follow_the_published_pixels():
    def pixels(crop: str, height: int, width: int) -> tuple[int, int, int, int]:
        rows, columns = DepthProtocol(crop).window(height, width)
        return rows.start, rows.stop, columns.start, columns.stop

    assert pixels("garg", 375, 1242) == (153, 371, 44, 1197)
    assert pixels("eigen", 375, 1242) == (124, 342, 44, 1197)
    assert pixels("cityscapes", 1024, 2048) == (256, 768, 192, 1856)
    assert pixels("none", 3, 5) == (0, 3, 0, 5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0])
def test_a_prediction_that_is_no_depth_stays_finite(wrong):
    found = errors(image(2, 2), image(2, wrong))
    assert found["abs_rel"] == 0.5 and found["delta3"] == 0.5
    assert found["rmse_log"] == pytest.approx(log(2 / 1e-3) / sqrt(2))
    capped = errors(image(2, 2), image(2, wrong), cap_m=80.0, scaling="median")
    assert all(np.isfinite(v) for v in capped.values())


def test_median_of_zero_cannot_scale():
    assert image_errors(image(2, 2), image(0, 0), [DepthProtocol(scaling="median")])[0].scale == 1.0


def test_no_image_is_none():
    found = DepthErrors([DepthProtocol(scaling="median")]).compute()["none"]["median"]
    assert found["abs_rel"] is None and found["scale_mean"] is None and found["images"] == 0


def test_shards_merge_to_the_whole():
    rng = np.random.default_rng(0)
    protocols = [DepthProtocol(), DepthProtocol("garg", "median"), DepthProtocol("cityscapes")]
    maps = rng.uniform(0.5, 90, (4, 2, 16, 16))
    whole, one, two = (DepthErrors(protocols) for _ in range(3))
    for i, (gt, pr) in enumerate(maps):
        whole.update(gt, pr)
        (one if i < 2 else two).update(gt, pr)
    one.merge(two)
    expected, found = whole.compute(), one.compute()
    for crop, by_scaling in expected.items():
        for scaling, values in by_scaling.items():
            assert found[crop][scaling] == pytest.approx(values)


def test_scale_spread():
    metric = DepthErrors([DepthProtocol(scaling="median")])
    metric.update(image(2), image(1))
    metric.update(image(4), image(1))
    found = metric.compute()["none"]["median"]
    assert (found["scale_mean"], found["scale_std"]) == (3.0, pytest.approx(1.0))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="one shape"):
        errors(image(1), image(1, 2))
    with pytest.raises(ConfigError, match="crop"):
        DepthProtocol("grag")
    with pytest.raises(ConfigError, match="scaling"):
        DepthProtocol(scaling="mean")
    with pytest.raises(ConfigError, match="cap"):
        DepthProtocol(cap_m=0.0)


def test_inliers_by_hand():
    """Ratios 1, 1.25 (kept: at most), 2, and no depth; one pixel without truth."""
    metric = DepthInliers((1.25, 1.1))
    metric.update(image(4, 4, 4, 4, 0), image(4, 5, 2, 0, 1))
    dq, shares = metric.compute()
    assert shares == {1.25: 0.5, 1.1: 0.25}
    assert dq == pytest.approx(sqrt(0.125))
    assert depth_aware_stq(0.5, dq) == pytest.approx((0.25 * sqrt(0.125)) ** (1 / 3))
    assert depth_aware_stq(None, dq) is None


def test_inliers_without_truth_are_none():
    assert DepthInliers().compute() == (None, {1.25: None, 1.1: None})
    with pytest.raises(ConfigError, match="ratios"):
        DepthInliers((0.9,))


def test_errors_by_distance():
    metric = DepthByDistance()
    metric.update(image(4, 4, 5, 100, 0), image(5, np.nan, 5, 90, 7))
    rows = metric.compute()
    assert rows[0] == {"from_m": 0, "to_m": 5, "pixels": 2, "abs_rel": (0.25 + 1) / 2, "bias_m": (1 - 4) / 2}
    assert rows[1] == {"from_m": 5, "to_m": 10, "pixels": 1, "abs_rel": 0, "bias_m": 0}
    assert rows[2]["abs_rel"] is None
    assert rows[-1] == {"from_m": 80, "to_m": None, "pixels": 1, "abs_rel": 0.1, "bias_m": -10}
