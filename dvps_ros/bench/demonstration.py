# SPDX-License-Identifier: Apache-2.0
"""The real ROS 2 graph on a scene whose truth is known, and a verdict on what it published."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dvps_ros.bench import clip_results, facts
from dvps_ros.data.scene_files import write_scene
from dvps_ros.data.sources import FrameSource, WorldSource
from dvps_ros.errors import DvpsError, InputError
from dvps_ros.geometry.camera import rectify_maps
from dvps_ros.installation import source_commit
from dvps_ros.labels import LabelSpace
from dvps_ros.metrics.quality import ClipQuality
from dvps_ros.ros.probes.processes import (
    IMAGE,
    INFO,
    NODE,
    START_LIMIT_S,
    Graph,
    GraphError,
    free_domain,
)
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.pipeline import STAGES
from dvps_ros.types import CameraModel, FrameResult
from dvps_ros.viz.report import write_html

SCENE = "demo"
"""What is played when nothing is given: rendered on the spot, the same bytes on every machine."""

RECORDER = "/dvps_recorder"
RECORDED = (
    f"{IMAGE},{INFO},/diagnostics,/tf_static,"
    f"{NODE}/output/(semantic|instance|depth|confidence|points|camera_info|instances|labels|scale|markers),"
    f"{NODE}/debug/.*_ms"
)
SENT = "sent.json"
"""What the player wrote: which image went out under which stamp, and when."""
SILENCE_LIMIT_S = 60.0
"""For one frame to come out after another."""
RECORDER_LIMIT_S = 10.0
"""For the recorder, after the last image, to write what has come out."""
SETTLE_S = 0.5
"""After the count of recorded frames, other topics of the last frame may still be under way."""

Limits = Mapping[str, tuple[str, float]]
SCENE_LIMITS: Limits = {
    "share of frames processed": (">=", 0.95),
    "panoptic quality": (">=", 0.285),
    "relative depth error": ("<=", 0.135),
    "sightings of objects found (any class)": (">=", 0.53),
    "ids kept": (">=", 0.87),
}
"""What the default scene must reach for exit code 0, a margin below what was measured (docs/demo.md)."""
INPUT_LIMITS: Limits = {"share of frames processed": (">=", 0.95)}
"""Of any other input only this is known beforehand: that results came out, of each image waited for."""
LIVE_LIMITS: Limits = {"share of frames processed": (">=", 0.01)}
"""At the rate of a camera, what a machine is too slow for is dropped, as it should be."""
TIME_JUMP_S = 3600.0
"""As fast as it goes, the times of the input say nothing about those of receipt: gaps in it are no faults."""


@dataclass(frozen=True)
class Ran:
    """What was seen of the graph while it ran."""

    received_ns: Mapping[int, int]
    """Stamp of a frame -> when its last output came here, nanoseconds of the wall clock."""
    peak_rss_mib: float
    """Of the perception node."""


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    measured: float | None
    relation: str
    limit: float

    @property
    def holds(self) -> bool:
        """A value that is missing or not a number does not hold."""
        if self.measured is None or not math.isfinite(self.measured):
            return False
        return self.measured >= self.limit if self.relation == ">=" else self.measured <= self.limit

    def __str__(self) -> str:
        value = "nothing" if self.measured is None else f"{self.measured:.3g}"
        return f"{self.name} is {value}, expected {self.relation} {self.limit:g}"


def verdict(report: Mapping[str, Any], limits: Limits) -> list[Check]:
    """Hold the figures of a report against limits."""
    quality = report["quality"] or {}
    objects = quality.get("objects", {})
    frames_in = report["frames_in"]
    measured = {
        "share of frames processed": report["frames_processed"] / frames_in if frames_in else None,
        "panoptic quality": quality.get("pq", {}).get("all"),
        "relative depth error": quality.get("depth", {}).get("abs_rel"),
        "sightings of objects found (any class)": objects.get("found"),
        "ids kept": objects.get("ids_kept"),
    }
    return [Check(name, measured[name], relation, limit) for name, (relation, limit) in limits.items()]


class VerdictFailed(DvpsError):
    """The graph ran, but a figure misses its threshold."""


def checked(report: Mapping[str, Any], spec: str, *, whole: bool = True) -> str:
    """What the verdict stands on, in a sentence.

    Args:
        whole: whether all frames were played.
    """
    if spec == SCENE:
        part = (
            ""
            if whole
            else f" The thresholds are for all of it, not for its first {report['frames_in']} frames."
        )
        return f"Checked against the truth of the rendered scene.{part}"
    if report["quality"]:
        return (
            "Only checked that the images were processed: thresholds exist for the built-in scene alone. "
            "The figures against this input's truth are for you to judge."
        )
    return (
        "Only checked that the images were processed: this input has no truth, so nothing is known about "
        "how right the results are. Look at the video."
    )


@dataclass(frozen=True)
class Wanted:
    """What is to be played, and with which engine; the words are those of ``dvps demo``."""

    spec: str
    """The input, as it was asked for."""
    rate_hz: float
    max_frames: int | None
    model: str
    backend: str
    camera_height_m: float
    fov_deg: float | None
    camera_file: Path | None


def demonstrate(source: FrameSource, wanted: Wanted, out: Path) -> tuple[dict[str, Any], list[Check], str]:
    """Run the graph and leave its results in ``out``: the report, the verdict, and what that stands on.

    Args:
        source: ``wanted.spec``, opened.
    """
    camera_height_m = wanted.camera_height_m
    played = wanted.spec
    if isinstance(source, WorldSource):
        played = str(out / "scene")
        camera_height_m = camera_height_m or source.camera_height_m
        source = render(source, out / "scene")
    player = {
        "source": played,
        "camera": str(wanted.camera_file or ""),
        "fov_deg": wanted.fov_deg or 0.0,
        "frames": wanted.max_frames or 0,
        "start_timeout_s": START_LIMIT_S,
        "processed_timeout_s": SILENCE_LIMIT_S,
        **rate_parameters(wanted.rate_hz),
    }
    node = {
        "engine.model": wanted.model,
        "engine.backend": wanted.backend,
        "scale.camera_height_m": camera_height_m,
        **({} if wanted.rate_hz else {"time_jump_s": TIME_JUMP_S}),
    }
    frames = (
        source.frames
        if wanted.max_frames is None or source.frames is None
        else min(source.frames, wanted.max_frames)
    )
    ran = run_graph(out, source.name, frames, player, node)
    label_space = load_manifest(find_model(wanted.model)).label_space
    report, page = evaluate(out, source, wanted.spec, label_space, ran)
    if wanted.spec == SCENE:
        checks = verdict(report, SCENE_LIMITS)
    else:
        checks = verdict(report, LIVE_LIMITS if wanted.rate_hz else INPUT_LIMITS)
    note = checked(report, wanted.spec, whole=wanted.max_frames is None)
    facts.write_report(out / "report.json", report)
    write_html(
        out / "report.html",
        report,
        title=f"dvps demo: {source.name}",
        files=clip_results.left_behind(out),
        verdict=checks,
        note=note,
        **page,
    )
    return report, checks, note


def rate_parameters(rate_hz: float) -> dict[str, Any]:
    """The player's parameters for a rate.

    At a rate the images carry the time at which they are sent, as a camera's do. As fast as it goes, that
    time would say nothing about the motion in the scene: then they keep the times of the input.
    """
    return {
        "rate_hz": float(rate_hz),
        "stamps": "source" if rate_hz == 0 else "now",
    }


def render(world: WorldSource, folder: Path) -> FrameSource:
    """The world with its truth as a scene in ``folder``, which the player can read too."""
    clips = tqdm(world.clips(), total=world.frames, desc="rendering the scene", unit="frame")
    return write_scene(folder, clips, world.camera, name=world.name, rate_hz=world.rate_hz)


BEFORE = ".before"
"""Folder in the results of a demo that runs: those of the one before."""


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[None]:
    """Makes room in ``out`` for the results of a demo; if it fails or is interrupted, those of the one before
    come back. Its logs stay in either case, and nothing that no demo left is touched.

    Raises:
        InputError: there is a bag that no demo has left.
    """
    before = out / BEFORE
    names = (*clip_results.FILES, SENT)
    if before.is_dir():  # that demo was killed
        _move(before, out, names)
        _remove(before)
    ours = (out / "logs").is_dir()
    if (out / "bag").exists() and not ours:
        raise InputError(f"{out} holds a bag that is not of an earlier demo: choose another --out")
    if ours:
        before.mkdir()
        _move(out, before, names)
        _remove(out / "logs")
    try:
        yield
    except BaseException:
        for name in names:
            _remove(out / name)
        _move(before, out, names)
        raise
    finally:
        _remove(before)


def _move(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            _remove(target / name)
            (source / name).rename(target / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_graph(
    out: Path, name: str, frames: int | None, player: Mapping[str, Any], node: Mapping[str, Any]
) -> Ran:
    """Start the nodes, watch them until everything is played, and end them.

    Raises:
        GraphError: a node failed, or nothing came out for too long.
    """
    domain = free_domain()
    with Graph(out / "logs", domain=domain) as graph:
        os.environ.update(graph.environment)  # this process looks on, over the same middleware
        from dvps_ros.ros.probes.monitor import Monitor

        perception = graph.start(
            "dvps",
            parameters=node,
            remap={"~/input/image": IMAGE, "~/input/camera_info": INFO},
        )
        graph.start(
            "recorder",
            # A cloud is larger than all else of a frame together: a few are enough to look at.
            parameters={"output": str(out / "bag"), "topics": RECORDED, "sparse": ".*/points"},
        )
        with Monitor(node=NODE, recorder=RECORDER, domain=domain) as monitor:
            # What is published before the recorder has found the topic would be missing from the bag.
            outputs = re.compile(RECORDED.replace(",", "|"))
            deadline = time.monotonic() + START_LIMIT_S
            while not monitor.recorder_listens(outputs):
                monitor.spin(0.1)
                graph.check()
                if time.monotonic() > deadline:
                    raise GraphError(
                        f"the recorder was not ready in {START_LIMIT_S:.0f} s: see {out / 'logs'}"
                    )
            playing = graph.start(
                "player",
                parameters={**player, "subscribers": 2, "report": str(out / SENT)},
                remap={
                    "image": IMAGE,
                    "camera_info": INFO,
                    "labels": f"{NODE}/output/labels",
                    "processed": f"{NODE}/output/scale",
                },
            )
            with tqdm(total=frames, desc=f"playing {name}", unit="frame") as bar:
                last, written = time.monotonic(), 0
                while playing.code is None or monitor.recorded < len(monitor.received_ns):
                    monitor.spin(0.1)
                    graph.check()
                    if len(monitor.received_ns) > bar.n or monitor.recorded > written:
                        bar.update(len(monitor.received_ns) - bar.n)
                        last, written = time.monotonic(), monitor.recorded
                    silence_s = time.monotonic() - last
                    if playing.code is not None and silence_s > RECORDER_LIMIT_S:
                        break  # what the recorder did not get counts as dropped
                    limit_s = SILENCE_LIMIT_S if bar.n else START_LIMIT_S
                    if silence_s > limit_s:
                        reason = monitor.trouble or f"see the logs in {out / 'logs'}"
                        raise GraphError(
                            f"nothing came out of the perception node for {limit_s:.0f} s: {reason}"
                        )
        time.sleep(SETTLE_S)
        graph.check()
        graph.stop("recorder")
        graph.stop("dvps")
        return Ran(monitor.received_ns, perception.peak_rss_mib)


def evaluate(
    out: Path, source: FrameSource, spec: str, label_space: LabelSpace, ran: Ran
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Turn the recording into results.

    Returns:
        What report.json holds, and the keyword arguments of :func:`~dvps_ros.viz.report.write_html` for it.

    Raises:
        InputError: the recording cannot be read, or holds no complete frame.
    """
    from dvps_ros.ros.recorded import read_engine, read_frames, read_times

    played = json.loads((out / SENT).read_text())
    sent = {row["stamp_ns"]: row for row in played["images"]}
    frames_in = len(sent) + played["unreadable"]
    quality = ClipQuality(label_space)
    latency_ms: list[float] = []
    clip = clip_results.ClipResults(
        out, label_space, rate_hz=source.rate_hz, frames=len(sent), video_name="demo.mp4"
    )
    frames = read_frames(out / "bag", image_topic=IMAGE, node=NODE)
    with clip, tqdm(frames, total=len(sent), desc="evaluating", unit="frame") as bar:
        for result in bar:
            row = sent[result.stamp_ns]
            if result.stamp_ns in ran.received_ns:
                latency_ms.append((ran.received_ns[result.stamp_ns] - row["sent_ns"]) * 1e-6)
            clip.add(rectified(result, source.camera))
            truth = None if source.camera.is_distorted else source.truth(row["source_ns"])
            if truth is not None and result.panoptic is not None:
                quality.update(truth, result.panoptic, row["source_ns"])
    if not clip.frames:
        raise InputError(f"{out / 'bag'} holds no complete frame: see the logs in {out / 'logs'}")
    times = sorted(ran.received_ns.values())
    seconds = (times[-1] - times[0]) * 1e-9 if times else 0.0
    model, backend = facts.engine_facts(read_engine(out / "bag", node=NODE))
    stages = read_times(out / "bag", node=NODE)
    report = {
        "frames_in": frames_in,
        "frames_processed": clip.frames,
        "frames_dropped": frames_in - clip.frames,
        "latency_ms": facts.spread(latency_ms),
        "stages_ms": facts.stage_table({name: stages[name] for name in STAGES if name in stages}),
        "rate_hz": (len(times) - 1) / seconds if seconds > 0 else None,
        "backend": backend,
        "model": model,
        "peak_rss_mib": ran.peak_rss_mib,
        "quality": quality.compute() if quality.frames else None,
        "inputs": clip_results.input_facts(source, spec) | {"unreadable": played["unreadable"]},
        "machine": facts.machine_facts(),
        "commit": source_commit(),
    }
    return report, {
        "pictures": clip.pictures,
        "latency_ms": latency_ms,
        "latency_meaning": "from the stamp of the image to the receipt of its last output in another process",
        "timelines": quality.timelines,
    }


def rectified(result: FrameResult, camera: CameraModel) -> FrameResult:
    """The result with the image that its maps are aligned with."""
    if not camera.is_distorted:
        return result
    image = cv2.remap(result.image, *rectify_maps(camera), cv2.INTER_LINEAR)
    return dataclasses.replace(result, image=image)
