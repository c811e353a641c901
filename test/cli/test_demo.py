# SPDX-License-Identifier: Apache-2.0
"""The demo's judgement, and report.json and report.html made of a recording, without running the graph."""

import html.parser
import json
import re
from pathlib import Path

import click
import made_clip as clip
import numpy as np
import pytest

from dvps_ros.bench import clip_results, demonstration, facts
from dvps_ros.bench.demonstration import Check, rate_parameters, verdict
from dvps_ros.cli import demo
from dvps_ros.errors import ConfigError, InputError
from dvps_ros.installation import source_commit
from dvps_ros.labels import CITYSCAPES
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.types import PanopticDepth
from dvps_ros.viz.report import write_html


def report_of(change=lambda maps: maps, processed: int = 4) -> tuple[dict, ClipQuality]:
    quality = ClipQuality(CITYSCAPES)
    for index in range(processed):
        sample = clip.truth(index)
        quality.update(sample, change(clip.perfect_maps(sample)), index * clip.STEP_NS)
    report = {
        "frames_in": 4,
        "frames_processed": processed,
        "frames_dropped": 4 - processed,
        "latency_ms": facts.spread([20.0, 30.0, 40.0, 50.0]),
        "stages_ms": facts.stage_table({"engine": [10.0, 12.0], "track": [1.0]}),
        "rate_hz": 10.0,
        "backend": "an engine",
        "model": "lite",
        "peak_rss_mib": 300.5,
        "quality": quality.compute(),
        "inputs": {"spec": "made", "name": "<made>"},
        "machine": facts.machine_facts(),
        "commit": source_commit(),
    }
    return report, quality


def failures(report: dict) -> set[str]:
    return {check.name for check in verdict(report, demonstration.SCENE_LIMITS) if not check.holds}


def test_perfect_predictions_hold() -> None:
    assert failures(report_of()[0]) == set()


def test_everything_road_fails_on_quality_and_objects() -> None:
    def road(maps: PanopticDepth) -> PanopticDepth:
        return PanopticDepth(
            np.full_like(maps.class_map, clip.SKY),
            np.zeros_like(maps.track_map),
            maps.depth_m,
            maps.confidence,
        )

    expected = {"panoptic quality", "sightings of objects found (any class)", "ids kept"}
    assert failures(report_of(road)[0]) == expected


def test_wrong_depth_fails() -> None:
    def far(maps: PanopticDepth) -> PanopticDepth:
        return PanopticDepth(maps.class_map, maps.track_map, maps.depth_m * np.float32(2), maps.confidence)

    assert failures(report_of(far)[0]) == {"relative depth error"}


def test_changing_ids_fail() -> None:
    ids = iter(range(100, 200))

    def renamed(maps: PanopticDepth) -> PanopticDepth:
        tracks = np.where(maps.track_map > 0, next(ids), 0).astype(np.uint16)
        return PanopticDepth(maps.class_map, tracks, maps.depth_m, maps.confidence)

    assert failures(report_of(renamed)[0]) == {"ids kept"}


def test_dropped_frames_fail() -> None:
    assert failures(report_of(processed=1)[0]) == {"share of frames processed"}


def test_unknown_or_no_number_never_holds() -> None:
    assert not Check("x", None, ">=", 0.0).holds
    assert not Check("x", float("nan"), "<=", 1.0).holds
    assert str(Check("x", None, ">=", 0.5)) == "x is nothing, expected >= 0.5"
    assert Check("x", 0.5, "<=", 0.5).holds


def test_without_truth_only_what_is_known_is_judged() -> None:
    report = report_of()[0] | {"quality": None}
    assert all(check.holds for check in verdict(report, demonstration.INPUT_LIMITS))
    for_each = report | {"frames_processed": 3}
    assert not all(check.holds for check in verdict(for_each, demonstration.INPUT_LIMITS))
    assert all(check.holds for check in verdict(for_each, demonstration.LIVE_LIMITS))
    assert not all(
        check.holds for check in verdict(report | {"frames_processed": 0}, demonstration.LIVE_LIMITS)
    )


def test_the_verdict_says_what_it_was_checked_against() -> None:
    report = report_of()[0]
    assert "truth of the rendered scene" in demonstration.checked(report, demonstration.SCENE)
    assert "thresholds exist for the built-in scene alone" in demonstration.checked(report, "drive_0005")
    assert "has no truth" in demonstration.checked(report | {"quality": None}, "drive.mp4")


def test_rates() -> None:
    assert rate_parameters(-1) == {"rate_hz": -1.0, "stamps": "now"}
    assert rate_parameters(0.0) == {"rate_hz": 0.0, "stamps": "source"}
    assert rate_parameters(5) == {"rate_hz": 5.0, "stamps": "now"}


def test_report_json_has_the_promised_keys_and_is_plain_json(tmp_path: Path) -> None:
    report, _ = report_of()
    report["latency_ms"]["max"] = float("inf")
    facts.write_report(tmp_path / "report.json", report)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    back = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert list(back) == list(facts.REPORT_KEYS)
    assert set(back["latency_ms"]) == {"p50", "p90", "p99", "max"} and back["latency_ms"]["max"] is None
    assert back["stages_ms"]["engine"] == {"p50": 11.0, "p99": 11.98}
    assert back["machine"]["cores"] >= 1


def test_report_html_is_self_contained(tmp_path: Path) -> None:
    report, quality = report_of()
    write_html(
        tmp_path / "report.html",
        report,
        title="demo <of> a & b",
        pictures=[(0, clip.truth(0).images[0]), (clip.STEP_NS, clip.truth(1).images[0])],
        latency_ms=[20.0, 30.0, 40.0, 50.0],
        latency_meaning="from here to there",
        timelines=quality.timelines,
        files=[("report.json", "figures")],
        verdict=verdict(report, demonstration.SCENE_LIMITS),
    )
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert all(s.startswith("data:image/") or s == "report.json" for s in sources) and len(sources) == 5
    assert "demo &lt;of&gt; a &amp; b" in page and "Passed" in page
    assert "under the right class" in page and "&lt;made&gt;" in page
    assert "100.0 %" in page and "car" in page

    class Checker(html.parser.HTMLParser):
        open_tags: list[str] = []

        def handle_starttag(self, tag: str, attrs) -> None:
            if tag not in ("meta", "img", "br"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open_tags == []


def test_report_html_without_truth_or_verdict(tmp_path: Path) -> None:
    report = report_of()[0] | {"quality": None, "commit": None, "stages_ms": {}}
    write_html(
        tmp_path / "r.html",
        report,
        title="t",
        pictures=[],
        latency_ms=[],
        latency_meaning="",
        timelines={},
        files=[],
    )
    assert "The values" not in (tmp_path / "r.html").read_text()


def test_console_summary_names_the_files(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    text = clip_results.console_summary(report_of()[0], tmp_path)
    assert "4 of 4 frames processed" in text and "panoptic quality 100.0%" in text
    assert f"{tmp_path}/report.json" in text and "demo.mp4" not in text


def test_results_without_a_single_depth_say_so(tmp_path: Path) -> None:
    report = report_of()[0]
    nothing = {"abs_rel": None, "rmse": None, "delta1": None, "pixels": 0}
    depth = nothing | {"coverage": 0.0, "flicker": None, "by_distance": {"0-10 m": nothing}}
    report = report | {"quality": report["quality"] | {"depth": depth}}
    text = clip_results.console_summary(report, tmp_path)
    assert "depth error of nothing, on 0.0% of the pixels with truth" in text
    write_html(
        tmp_path / "r.html",
        report,
        title="t",
        pictures=[],
        latency_ms=[],
        latency_meaning="",
        timelines={},
        files=[],
    )
    assert "relative depth error" not in (tmp_path / "r.html").read_text()


def test_a_run_that_ends_early_brings_back_the_results_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "bag").mkdir()
    with pytest.raises(InputError, match="not of an earlier demo"), demonstration.replacing(tmp_path):
        pass
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old.log").write_text("")
    (tmp_path / "report.json").write_text("old")

    def begin() -> None:
        assert not (tmp_path / "report.json").exists() and not (tmp_path / "bag").exists()
        (tmp_path / "bag").mkdir()
        (tmp_path / "bag" / "new.mcap").write_text("")
        (tmp_path / "sent.json").write_text("new")
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "new.log").write_text("")

    with pytest.raises(KeyboardInterrupt), demonstration.replacing(tmp_path):
        begin()
        raise KeyboardInterrupt
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert names == ["bag", "logs", "logs/new.log", "mine.txt", "report.json"]
    assert (tmp_path / "report.json").read_text() == "old"
    (tmp_path / ".before").mkdir()  # of a demo that was killed
    (tmp_path / ".before" / "cloud.ply").write_text("older")
    with demonstration.replacing(tmp_path):
        begin()
        (tmp_path / "report.json").write_text("new")
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert names == [
        "bag", "bag/new.mcap", "logs", "logs/new.log", "mine.txt", "report.json", "sent.json"
    ]  # fmt: skip
    assert (tmp_path / "report.json").read_text() == "new"


def test_a_camera_without_an_input_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    arguments = ["--fov", "70", "--out", str(tmp_path / "out"), "--model", str(tiny_model)]
    with pytest.raises(InputError, match="none is given; add --input"):
        demo.command.main(arguments, standalone_mode=False)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_said_before_anything_runs(tmp_path: Path) -> None:
    from dvps_ros.errors import EngineError

    with pytest.raises(EngineError, match="no model 'nowhere'"):
        demo.command.main(["--model", "nowhere", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert not (tmp_path / "out").exists()


def test_missing_modules_are_named() -> None:
    facts.require("json", "numpy")
    with pytest.raises(ConfigError, match=r"this needs no_such_module: .*dvps_ros\[demo\]"):
        facts.require("numpy", "no_such_module")


def test_an_input_that_cannot_be_opened_leaves_old_results(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "report.json").write_text("{}")
    arguments = ["--input", str(tmp_path / "none.mp4"), "--out", str(tmp_path), "--model", str(tiny_model)]
    with pytest.raises(InputError, match="there is no input"):
        demo.command.main(arguments, standalone_mode=False)
    assert (tmp_path / "report.json").exists()


def test_help_shows_real_invocations() -> None:
    text = demo.command.get_help(click.Context(demo.command))
    assert "dvps demo --input drive.mp4 --fov 70" in text.replace("\n", " ").replace("  ", " ")
