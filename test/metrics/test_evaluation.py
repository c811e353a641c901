# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from metrics_reference import pq_of, stq, tq, voided, vpq_counts
from metrics_videos import CLASSES, LAMBDAS, Video, random_video

from dvps_ros.bench.evaluate import count_frames
from dvps_ros.cli.eval import command
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.npz_pairs import LABELS, NpzPairs
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.metrics.evaluation import DEPTH_METRICS, METRICS, Evaluation, FramePair, Rules
from dvps_ros.metrics.steering import SteeringErrors

NPZ = ["--classes", "4", "--things", "2,3"]


def save(path: Path, video: Video, writer=np.savez, **change) -> Path:
    arrays = {name: getattr(video, name) for name in ("gt_depth", "pr_depth", "seq")}
    arrays |= dict(zip(("gt_sem", "gt_ins", "pr_sem", "pr_ins"), video.maps, strict=True)) | change
    writer(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def pair(video: Video, t: int) -> FramePair:
    maps = [m[t] for m in video.maps]
    return FramePair(str(video.seq[t]), str(t), *maps, video.gt_depth[t], video.pr_depth[t])


def evaluate(video: Video, *where: int, wanted=METRICS, rules: Rules | None = None) -> Evaluation:
    evaluation = Evaluation(CLASSES, wanted, rules)
    for t in where or range(len(video.seq)):
        evaluation.add(evaluation.count(pair(video, t)))
    return evaluation


def run(*arguments, ok: bool = True):
    """The JSON of ``dvps eval``, or its error."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if ok and result.exception:
        raise result.exception
    return result


def test_npz_gives_the_documented_json(tmp_path):
    video = random_video(11, frames=7)
    path = save(tmp_path / "v.npz", video)
    run("--npz", path, *NPZ, "--k", "1,2,3", "--lambdas", "0.5,0.25,0.1", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    table = vpq_counts(*video.maps, video.seq, 1, 4, CLASSES.things)
    assert found["PQ"]["all"] == pytest.approx(pq_of(table))
    assert found["PQ"]["things"] == pytest.approx(pq_of({c: table[c] for c in (2, 3)}))
    assert found["PQ"]["stuff"] == pytest.approx(pq_of({c: table[c] for c in (0, 1)}))
    assert found["per_class"]["PQ"]["tp"] == [table[c][1] for c in range(4)]
    assert found["per_class"]["PQ"]["iou"] == pytest.approx([float(table[c][0]) for c in range(4)])
    cells = []
    for k in (1, 2, 3):
        plain = vpq_counts(*video.maps, video.seq, k, 4, CLASSES.things)
        assert found["VPQ"][str(k)]["all"] == pytest.approx(pq_of(plain))
        for lam in LAMBDAS:
            pr_sem = voided(video.pr_sem, video.gt_depth, video.pr_depth, lam)
            counts = vpq_counts(
                video.gt_sem, video.gt_ins, pr_sem, video.pr_ins, video.seq, k, 4, CLASSES.things, "segment"
            )
            cell = found["DVPQ"][str(k)][f"{lam:g}"]
            assert cell["all"] == pytest.approx(pq_of(counts))
            assert found["per_class"]["DVPQ"][str(k)][f"{lam:g}"]["fn"] == [counts[c][3] for c in range(4)]
            cells.append(cell["all"])
    assert found["means"]["DVPQ"]["all"] == pytest.approx(np.mean(cells))
    assert found["means"]["DPQ"]["all"] == pytest.approx(np.mean(cells[:3]))
    assert found["DPQ"] == found["DVPQ"]["1"]
    assert found["STQ"] == pytest.approx(stq(*video.maps, video.seq, 4, CLASSES.things))
    assert found["PAT"]["TQ"] == pytest.approx(tq(*video.maps, video.seq, CLASSES.things))
    assert found["PAT"]["PQ"] == found["PQ"]["all"]
    valid = video.gt_depth > 0
    rel = [np.abs(p - g)[v] / g[v] for g, p, v in zip(video.gt_depth, video.pr_depth, valid, strict=True)]
    assert found["depth"]["none"]["none"]["abs_rel"] == pytest.approx(np.mean([r.mean() for r in rel]))
    assert set(found["depth"]) == {"none", "garg", "eigen", "cityscapes"}
    assert found["rules"]["windows"] == [1, 2, 3] and found["rules"]["depth_crowd"] == "segment"
    assert (found["frames"], found["sequences"]) == (7, 2)


def test_the_table_shows_percent(tmp_path):
    path = save(tmp_path / "v.npz", random_video(0).perfect())
    text = run("--npz", path, *NPZ, "--k", "1,9").stdout
    assert "PQ                100.00" in text
    assert "undefined: VPQ for k = 9, and means over it: the longest sequence has" in text


def test_processes_change_nothing(tmp_path):
    path = save(tmp_path / "v.npz", random_video(3), np.savez_compressed)
    for jobs in (1, 2):
        run("--npz", path, *NPZ, "--jobs", jobs, "--json", tmp_path / f"{jobs}.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_is_read_frame_by_frame(writer, tmp_path):
    video = random_video(4)
    fortran = np.asfortranarray(video.gt_ins)
    source = NpzPairs(save(tmp_path / "v.npz", video, writer, gt_ins=fortran, seq=np.array([5, 7, 5, 7, 5])))
    assert [source.sequence(i) for i in range(5)] == ["5", "5", "5", "7", "7"]
    for i, t in ((0, 0), (2, 4), (3, 1), (1, 2)):
        loaded = source.load(i)
        for name in ("gt_sem", "gt_ins", "pr_sem", "pr_ins", "gt_depth", "pr_depth"):
            assert (getattr(loaded, name) == getattr(video, name)[t]).all()


def test_npz_without_depth_or_seq_gives_the_label_metrics(tmp_path):
    path = save(tmp_path / "v.npz", random_video(4), gt_depth=None, pr_depth=None, seq=None)
    run("--npz", path, *NPZ, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sequences"] == 1 and "STQ" in found
    assert not set(DEPTH_METRICS) & set(found)


def test_steering_of_an_npz(tmp_path):
    angles = {
        "gt_steering": np.array([0, 0.1, np.nan, 0, 0]),
        "pr_steering": np.array([0.1, 0.1, 9, 0, -0.3]),
    }
    path = save(tmp_path / "v.npz", random_video(4), **angles)
    run("--npz", path, *NPZ, "--metrics", "pq", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["steering"]
    assert found == pytest.approx(
        {
            "mse_rad2": 0.025,
            "rmse_rad": 0.025**0.5,
            "mae_rad": 0.1,
            "bias_rad": -0.05,
            "max_rad": 0.3,
            "samples": 4,
        }
    )


def steering_csv(path: Path, angles: str, step_s: float = 0.1) -> Path:
    lines = [f"{i * step_s:.3f},{angle}" for i, angle in enumerate(angles.split(","))]
    path.write_text("\n".join(["t_s,steering_rad", *lines]) + "\n")
    return path


def test_steering_logs_are_scored_frame_by_frame(tmp_path):
    gt = steering_csv(tmp_path / "gt.csv", "0.1,nan,-0.2,0")
    pred = steering_csv(tmp_path / "pred.csv", "0.2,5,-0.4,0")
    arguments = ["--dataset", "steering-log", "--gt", gt]
    text = run(*arguments, "--pred", pred, "--json", tmp_path / "out.json").stdout
    found = json.loads((tmp_path / "out.json").read_text())["steering"]
    assert found["samples"] == 3 and found["mae_rad"] == pytest.approx(0.1)
    assert found["mse_rad2"] == pytest.approx(0.05 / 3) and found["bias_rad"] == pytest.approx(-0.1 / 3)
    assert "3 angles, mae 0.1000 rad" in text
    for angles, step_s, message in (
        ("0,0,0", 0.1, "gt.csv: 1 of 4 frames are not in .*pred.csv, the first is at 300000000 ns"),
        ("0,0,0,0", 0.2, "pred.csv: 2 of 4 frames are not in .*gt.csv, the first is at 400000000 ns"),
        ("0,0,nan,0", 0.1, "pred.csv: expected an angle for every frame .* 200000000 ns has none"),
    ):
        with pytest.raises(InputError, match=message):
            run(*arguments, "--pred", steering_csv(pred, angles, step_s))


def test_steering_refuses_and_merges():
    one, two = SteeringErrors(), SteeringErrors()
    assert one.compute()["mse_rad2"] is None
    one.update(np.zeros(2), np.ones(2))
    two.update(np.zeros(2), -np.ones(2) * 3)
    one.merge(two)
    assert (
        one.compute()["mse_rad2"] == 5 and one.compute()["bias_rad"] == -1 and one.compute()["max_rad"] == 3
    )
    with pytest.raises(InputError, match="one length"):
        one.update(np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        one.update(np.zeros(1), np.array([np.nan]))


def test_shards_merge_to_the_whole():
    for seed in range(5):
        video = random_video(seed, frames=8)
        cut = int((video.seq == 0).sum())
        if not 0 < cut < 8:
            continue
        shard = evaluate(video, *range(cut))
        shard.merge(evaluate(video, *range(cut, 8)))
        assert_close(shard.result(), evaluate(video).result())


def assert_close(found, expected, where="result"):
    """Equal structure and values, numbers to rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_close(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_close(a, b, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12), where
    else:
        assert found == expected, where


def test_every_metric_is_one_or_zero_error_on_the_truth():
    found = evaluate(random_video(8, frames=6).perfect()).result()
    assert found["PQ"]["all"] == found["DPQ"]["0.1"]["all"] == found["means"]["DVPQ"]["all"] == 1
    assert found["STQ"] == {"STQ": 1, "AQ": 1, "SQ": 1}
    assert found["DSTQ"]["DSTQ"] == 1 and found["PAT"] == {"PAT": 1, "PQ": 1, "TQ": 1}
    assert found["depth"]["none"]["none"]["rmse"] == 0
    assert found["undefined"] == []


def test_ids_numbered_per_class_are_warned_of():
    maps = (np.array([[2, 3]]), np.array([[1, 2]]), np.array([[2, 3]]), np.array([[1, 1]]))
    for ids, warned in (("track", True), ("class", False)):
        evaluation = Evaluation(CLASSES, ("PAT",), Rules(pat_ids=ids))
        evaluation.add(evaluation.count(FramePair("0", "0", *maps)))
        found = evaluation.result()
        assert bool(found["warnings"]) == warned and found["PAT"]["TQ"] == (0 if warned else 1)


def test_only_what_is_wanted_is_computed():
    found = evaluate(random_video(8), wanted=("DPQ",)).result()
    assert set(found) & set(METRICS) == {"DPQ"} and list(found["means"]) == ["DPQ"]


def test_json_holds_no_nan_even_when_nothing_is_defined():
    nothing = np.full((1, 2, 2), 255, np.uint8)
    zero = np.zeros((1, 2, 2), np.int32)
    video = Video(nothing, zero, nothing, zero, zero * 0.0, zero * 0.0, np.zeros(1))
    found = evaluate(video).result()
    json.dumps(found, allow_nan=False)
    assert found["PQ"]["all"] is None and found["STQ"]["STQ"] is None and found["PAT"]["PAT"] is None
    assert found["depth"]["garg"]["median"]["rmse"] is None and found["DSTQ"]["DQ"] is None
    assert len(found["undefined"]) >= 3


def test_a_size_that_changes_within_a_sequence_is_refused():
    evaluation = evaluate(random_video(0), 0)
    other = random_video(0, size=(8, 8))
    with pytest.raises(InputError, match="frame 1: expected 4x6 pixels as before in its sequence, got 8x8"):
        evaluation.add(evaluation.count(FramePair(evaluation._shape[0], "1", *(m[1] for m in other.maps),
                                                  other.gt_depth[1], other.pr_depth[1])))  # fmt: skip


def test_a_size_that_changes_within_a_folder_names_the_file(tmp_path):
    layout = LAYOUTS["kitti-step"]
    for tree in ("gt", "pred"):
        for t, size in enumerate(((2, 2), (2, 3))):
            layout.write(tmp_path / tree, "val", "0000", t, class_map=np.zeros(size, np.uint8),
                         instance_map=np.zeros(size, np.int32))  # fmt: skip
    with pytest.raises(
        InputError, match="gt/panoptic_maps/val/0000/000001.png: expected 2x2 pixels as before"
    ):
        run("--dataset", "kitti-step", "--gt", tmp_path / "gt", "--pred", tmp_path / "pred")


def test_what_is_left_out_without_depth_is_said(tmp_path):
    path = save(tmp_path / "v.npz", random_video(4), gt_depth=None, pr_depth=None)
    text = run("--npz", path, *NPZ).stdout
    assert "no depth on both sides: DPQ, DVPQ, DSTQ, depth are left out" in text


def test_missing_depth_names_metric_and_frame():
    video = random_video(0)
    with pytest.raises(InputError, match="frame 3: DPQ, DVPQ, DSTQ, depth need true and predicted depth"):
        Evaluation(CLASSES).count(FramePair("0", "3", *(m[0] for m in video.maps)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pr_ins": None}, "arrays pr_ins are missing"),
        ({"gt_depth": None}, "arrays gt_depth are missing"),
        ({"gt_sem": np.zeros((5, 4, 6))}, "gt_sem: expected an integer array, got float64"),
        (
            {"gt_depth": np.zeros((5, 4, 6), np.uint16)},
            "gt_depth: expected a floating .metres. array, got uint16",
        ),
        ({"pr_ins": np.zeros((5, 4, 7), int)}, "pr_ins: expected .T,H,W. as gt_sem"),
        ({"seq": np.zeros(3)}, "seq: expected .5., got .3."),
        (
            {"pr_sem": np.full((5, 4, 6), 9, np.uint8)},
            r"frame 0 of v.npz: the prediction holds unknown classes \[9\]",
        ),
        ({"gt_sem": np.array([[[None]]])}, "gt_sem: expected numbers, got Python objects"),
        ({"seq": np.array([None, 1, 2, 3, 4])}, "v.npz: seq: cannot be read: Object arrays"),
        ({"gt_steering": np.zeros(5)}, "v.npz: array pr_steering is missing"),
        ({"gt_steering": np.zeros(5), "pr_steering": np.full(5, "1")}, "pr_steering: expected numbers .rad."),
        ({"gt_steering": np.zeros(5), "pr_steering": np.full(5, np.nan)}, "v.npz: expected a finite pr_st"),
        ({"gt_steering": np.full(5, np.inf), "pr_steering": np.zeros(5)}, "v.npz: .* gt_steering finite or"),
    ],
)
def test_bad_npz_is_refused_by_name(change, message, tmp_path):
    path = save(tmp_path / "v.npz", random_video(0), **change)
    error = run("--npz", path, *NPZ, ok=False).exception
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=message):
        raise error


def test_a_truncated_npz_is_refused(tmp_path):
    path = save(tmp_path / "v.npz", random_video(0))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="v.npz: expected a numpy .npz file"):
        NpzPairs(path)


def test_an_npz_without_frames_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", **{name: np.zeros((0, 4, 6), int) for name in LABELS})
    with pytest.raises(InputError, match="v.npz: gt_sem: expected frames with pixels"):
        NpzPairs(tmp_path / "v.npz")


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_refused_by_array(writer, tmp_path):
    path = save(tmp_path / "v.npz", random_video(0), writer)
    content = bytearray(path.read_bytes())
    start = content.index(b"gt_sem.npy") + 40
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(InputError, match="v.npz: gt_sem: "):
        for index in range(5):
            NpzPairs(path).load(index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --dataset"),
        (["--npz", "x.npz", "--check"], "--check looks at folders"),
        (["--npz", "x.npz", "--gt", "y"], "not both"),
        (["--npz", "x.npz", "--classes", "4"], "go together"),
        (["--dataset", "kitti-step", "--gt", "a", "--pred", "b", "--things", "1"], "go with --npz"),
        (["--dataset", "steering-log", "--gt", "a", "--check"], "dvps data check"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "PQ,XQ"], "got XQ"),
        (["--lambdas", "0"], "positive"),
        (["--k", "0"], "window lengths"),
        (["--crops", "kitti"], "depth crop"),
        (["--things", "7"], "thing classes"),
        (["--k", ","], r"window lengths k: .* got \[\]"),
        (["--lambdas", ","], r"lambda: .* got \[\]"),
        (["--crops", ","], "one crop and one scaling"),
        (["--depth-cap", "inf"], "depth cap: .* got inf"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(arguments, message, tmp_path):
    path = save(tmp_path / "v.npz", random_video(0))
    with pytest.raises(ConfigError, match=message):
        run("--npz", path, *NPZ, *arguments)


@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_give_what_their_arrays_give(name, tmp_path):
    layout = LAYOUTS[name]
    rng = np.random.default_rng(2)
    thing, stuff = layout.things[0], 9
    video = random_video(6, frames=4, noise=0.1)
    classes = np.full(256, 255, np.uint8)
    classes[:4] = stuff, stuff + 1, thing, layout.things[1]
    for tree, sem, ins, depth in (
        ("gt", video.gt_sem, video.gt_ins, video.gt_depth),
        ("pred", video.pr_sem, video.pr_ins, video.pr_depth),
    ):
        for t in range(4):
            has_depth = {} if name == "kitti-step" else {"depth_m": depth[t]}
            image = rng.integers(0, 255, (*sem[t].shape, 3), np.uint8)
            sequence = f"{int(video.seq[t]):06d}"
            layout.write(tmp_path / tree, "val", sequence, t, class_map=classes[sem[t]], instance_map=ins[t],
                         image=image, **has_depth)  # fmt: skip
    run(
        "--dataset",
        name,
        "--gt",
        tmp_path / "gt",
        "--pred",
        tmp_path / "pred",
        "--json",
        tmp_path / "out.json",
    )
    found = json.loads((tmp_path / "out.json").read_text())
    gt_sem, gt_ins, pr_sem, pr_ins = classes[video.gt_sem], video.gt_ins, classes[video.pr_sem], video.pr_ins
    if name == "cityscapes-dvps":
        # No crowd there: things without an id are void.
        gt_sem = np.where(np.isin(gt_sem, layout.things) & (gt_ins == 0), 255, gt_sem)
        pr_sem = np.where(np.isin(pr_sem, layout.things) & (pr_ins == 0), 255, pr_sem)
    maps = gt_sem, gt_ins, pr_sem, pr_ins
    assert found["PQ"]["all"] == pytest.approx(pq_of(vpq_counts(*maps, video.seq, 1, 19, layout.things)))
    assert found["STQ"] == pytest.approx(stq(*maps, video.seq, 19, layout.things))
    assert ("DVPQ" in found) == (name != "kitti-step")
    if name != "kitti-step":
        # Depth passes through 16-bit files; predictions below the truth must not wrap around.
        gt_depth, pr_depth = (np.rint(d * 256) / 256 for d in (video.gt_depth, video.pr_depth))
        for lam in LAMBDAS:
            seen = voided(pr_sem, gt_depth, pr_depth, lam)
            table = vpq_counts(gt_sem, gt_ins, seen, pr_ins, video.seq, 1, 19, layout.things, "segment")
            assert found["DVPQ"]["1"][f"{lam:g}"]["all"] == pytest.approx(pq_of(table))
    assert list(found["VPQ"]) == (["1", "5", "10", "20"] if name == "semkitti-dvps" else ["1", "2", "3", "4"])


def test_check_names_every_problem_and_fails(tmp_path):
    layout = LAYOUTS["kitti-step"]
    for tree in ("gt", "pred"):
        for t in range(3):
            layout.write(tmp_path / tree, "val", "0000", t, class_map=np.zeros((2, 2), np.uint8),
                         instance_map=np.zeros((2, 2), np.int32))  # fmt: skip
    arguments = ["--dataset", "kitti-step", "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--check"]
    assert "3 frames are whole and consistent" in run(*arguments).stdout
    for t in (0, 2):
        (tmp_path / f"pred/panoptic_maps/val/0000/{t:06d}.png").write_bytes(b"")
    result = run(*arguments, ok=False)
    assert "000000.png: expected a whole PNG" in result.output and "000002.png" in result.output
    assert str(result.exception) == "2 problems in 3 frames"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    path = save(tmp_path / "v.npz", random_video(0))
    for option in ("--json", "--report"):
        with pytest.raises(ConfigError, match="cannot write into"):
            run("--npz", path, *NPZ, option, path / "below" / "a.json")
    refused = run("--npz", path, *NPZ, "--json", tmp_path, ok=False)
    assert "is a directory" in refused.output and "frames in" not in refused.output


def test_numbers_that_differ_in_a_late_digit_keep_their_own_rows():
    rules = Rules(windows=(1, 1_000_000), lambdas=(0.25, 0.2500001))
    found = evaluate(random_video(3), wanted=("DPQ", "DVPQ"), rules=rules).result()
    assert list(found["DPQ"]) == ["0.2500001", "0.25"] and list(found["DVPQ"]) == ["1", "1000000"]


@pytest.mark.parametrize("metric", ["VPQ", "DPQ", "DVPQ"])
def test_a_mean_over_classes_that_do_not_occur_is_explained(metric):
    """Truth and prediction hold stuff only."""
    video = random_video(3)
    pairs = [np.zeros_like(m) for m in video.maps]
    evaluation = Evaluation(CLASSES, (metric,), Rules(windows=(1, 2)))
    evaluation.add(evaluation.count(FramePair("0", "0", *(m[0] for m in pairs), *[video.gt_depth[0]] * 2)))
    found = evaluation.result()
    assert found["means"][metric]["things"] is None
    assert f"{metric} means over groups of classes of which none occurs" in found["undefined"]


class SignalSource:
    """Each frame's name says whether its process heeds Ctrl-C."""

    def __len__(self):
        return 4

    def load(self, index):
        return replace(pair(random_video(0), 0), name=str(signal.getsignal(signal.SIGINT) == signal.SIG_IGN))


def test_one_process_answers_for_ctrl_c():
    """A terminal sends it to all; each of the others would print its own traceback."""
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        counts = list(count_frames(SignalSource(), Evaluation(CLASSES, ("PQ",)), jobs=2))
        assert [c.name for c in counts] == ["False", "True", "True", "True"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


class DyingSource:
    """Ends the process that reads its second frame."""

    def __len__(self):
        return 4

    def load(self, index):
        if index:
            os._exit(9)
        return pair(random_video(0), 0)


def test_a_process_that_dies_is_an_error_not_a_hang():
    with pytest.raises(InputError, match="a process that scored frames died"):
        list(count_frames(DyingSource(), Evaluation(CLASSES, ("PQ",)), jobs=2))
