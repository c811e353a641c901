# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from metrics_videos import CLASSES, random_video

from dvps_ros.bench.evaluation_page import (
    MISSING,
    NEAR_FRAMES,
    WORST_FRAMES,
    WRONG_CLASS,
    WRONG_OBJECT,
    ReportCollector,
    depth_errors,
    label_errors,
)
from dvps_ros.cli.eval import command
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.metrics.evaluation import Evaluation, FramePair

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

GREY = np.full((1, 6, 3), 100, np.uint8)


def test_label_errors_by_hand():
    """Right, wrong class, wrong object, predicted void, true void, right object."""
    pair = FramePair(
        "s",
        "0",
        np.array([[0, 0, 2, 0, 255, 2]]),
        np.array([[0, 0, 1, 0, 0, 1]]),
        np.array([[0, 1, 2, 255, 0, 2]]),
        np.array([[0, 0, 8, 0, 0, 9]]),
    )
    # Id 9 alone has no IoU above 1/2 with the object of 2 pixels: three pixels make it so.
    wide = FramePair("s", "0", *(np.repeat(m, [1, 1, 1, 1, 1, 3], 1) for m in
                                 (pair.gt_sem, pair.gt_ins, pair.pr_sem, pair.pr_ins)))  # fmt: skip
    found = label_errors(wide, np.full((1, 8, 3), 100, np.uint8), CLASSES)[0].tolist()
    right, void = [50] * 3, [0] * 3
    assert found == [right, list(WRONG_CLASS), list(WRONG_OBJECT), list(MISSING), void, right, right, right]


def test_depth_error_map_is_black_without_truth_and_saturates():
    found = depth_errors(np.array([[0, 4, 4, 4.0]]), np.array([[1, 4, 6, np.nan]]))[0].tolist()
    assert found[0] == [0, 0, 0] and found[2] == found[3]
    # Turbo runs from blue to red.
    assert found[1][2] > found[1][0] and found[2][0] > found[2][2]


def test_the_worst_of_ten_frames_and_least_stable_objects_are_kept():
    collector = ReportCollector(CLASSES)
    evaluation = Evaluation(CLASSES, ("PQ",))
    frames = NEAR_FRAMES * (WORST_FRAMES + 2)
    truth = np.full((20, 20), 2), np.ones((20, 20), int)
    for t in range(frames):
        wrong = np.array(truth)
        # The later, the worse, but for every fifth of ten; and the id changes halfway.
        wrong[0, : t // NEAR_FRAMES + (t % NEAR_FRAMES == 4)] = 255
        wrong[1] = 5 if t < frames // 2 else 6
        collector.add(t, evaluation.count(FramePair("s", str(t), *truth, *wrong)))
    collector._close()
    expected = [NEAR_FRAMES * i + 4 for i in range(2, WORST_FRAMES + 2)]
    assert sorted(-i for _, i, _ in collector._worst) == expected
    ((rank, _, line),) = collector._unstable
    assert rank == (1, True, frames // 2) and line.name == "s: class 2 1"
    assert line.matches == [(t, 5 if t < frames // 2 else 6) for t in range(frames)]


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_the_page_holds_everything_itself(kind, tmp_path):
    video = random_video(1, frames=5, size=(120, 160), noise=0.02)
    if kind == "npz":
        names = ("gt_sem", "gt_ins", "pr_sem", "pr_ins", "gt_depth", "pr_depth", "seq")
        arrays = {name: getattr(video, name) for name in names}
        arrays["gt_ins"] = arrays["gt_ins"].astype(np.uint8)
        np.savez(tmp_path / "v.npz", **arrays)
        source = ["--npz", tmp_path / "v.npz", "--classes", 4, "--things", "2,3"]
    else:
        layout = LAYOUTS["kitti-step"]
        classes = np.full(256, 255, np.uint8)
        classes[:4] = 0, 1, *layout.things
        for tree, sem, ins in (("gt", video.gt_sem, video.gt_ins), ("pred", video.pr_sem, video.pr_ins)):
            for t in range(5):
                layout.write(tmp_path / tree, "val", "0000", t, class_map=classes[sem[t]],
                             instance_map=ins[t], image=np.zeros((120, 160, 3), np.uint8))  # fmt: skip
        source = ["--dataset", "kitti-step", "--gt", tmp_path / "gt", "--pred", tmp_path / "pred"]
    done = CliRunner().invoke(command, [str(a) for a in [*source, "--report", tmp_path / "report"]])
    if done.exception:
        raise done.exception
    assert [p.name for p in (tmp_path / "report").iterdir()] == ["index.html"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(uri.startswith("data:image/") for uri in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"(href|src)=\"https?:|<script|@import", page)
    for part in ("Panoptic quality", "Classes", "Worst frames", "Rules", "STQ", "truth", "prediction"):
        assert part in page
    assert ("Error over true distance" in page) == ("things | stuff" in page) == (kind == "npz")
    # The worst frame of each sequence (two in the npz): six panels, three without depth.
    assert page.count('<figure tabindex="0">') == (12 if kind == "npz" else 3)
