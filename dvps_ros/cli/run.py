# SPDX-License-Identifier: Apache-2.0
"""``dvps run``: the node's pipeline on a recorded input, without ROS."""

from __future__ import annotations

import itertools
import logging
import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvps_ros.cli.options import (
    camera_options,
    engine_choice_options,
    given_camera,
    out_option,
    pipeline_config,
    pipeline_options,
)

if TYPE_CHECKING:
    from dvps_ros.types import PanopticDepth

log = logging.getLogger(__name__)


@click.command(
    epilog="Examples:  dvps run drive.mp4 --fov 70   |   dvps run bag.mcap --camera-height 1.65   |   "
    "dvps run 2011_09_26_drive_0005_sync --save-maps"
)
@click.argument("input_spec", metavar="INPUT")
@out_option("out/run", "Folder for the results.")
@pipeline_options
@engine_choice_options
@camera_options
@click.option(
    "--skip-frames",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Skip this many frames at the start.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option(
    "--save-maps",
    is_flag=True,
    help="Write each frame's maps to maps/<stamp in ns>.npz, exactly as computed.",
)
@click.option(
    "--memory/--no-memory",
    default=True,
    show_default=True,
    help="Whether the network remembers the frame before; without, one sees what its memory is worth.",
)
@click.option(
    "--independent", is_flag=True, help="The images have nothing to do with each other: nothing is tracked."
)
def command(
    input_spec: str,
    out: Path,
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    network_size: str,
    fov_deg: float | None,
    camera_file: Path | None,
    skip_frames: int,
    max_frames: int | None,
    save_maps: bool,
    memory: bool,
    independent: bool,
) -> None:
    """Process INPUT: a video file, a folder of images, a ROS 1 or ROS 2 bag, a KITTI raw drive, the root of a
    data set (docs/data.md) or world:SEED.

    Writes video.mp4, tracks.csv, cloud.ply, report.json and report.html, and with truth says how good it is.
    """
    from tqdm import tqdm

    from dvps_ros.bench import clip_results, facts
    from dvps_ros.data.sources import open_source
    from dvps_ros.errors import InputError
    from dvps_ros.installation import source_commit
    from dvps_ros.metrics.quality import ClipQuality
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.viz.report import write_html

    facts.require("jinja2", "matplotlib")
    source = open_source(input_spec, camera=given_camera(camera_file), fov_deg=fov_deg)
    if source.frames is not None and skip_frames >= source.frames:
        raise InputError(f"{source.name}: it has {source.frames} frames; skip fewer than {skip_frames}")
    end = None if max_frames is None else skip_frames + max_frames
    total = max_frames if source.frames is None else len(range(source.frames)[skip_frames:end])
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    out.mkdir(parents=True, exist_ok=True)
    pipeline = DvpsPipeline.open(config, source.camera)
    label_space = pipeline.label_space
    quality = ClipQuality(label_space)
    stages: defaultdict[str, list[float]] = defaultdict(list)
    latency_ms: list[float] = []
    failed = 0
    clip = clip_results.ClipResults(
        out, label_space, rate_hz=source.rate_hz, frames=total, video_name="video.mp4"
    )
    remove_maps(out / "maps")
    if save_maps:
        (out / "maps").mkdir(exist_ok=True)
    with clip, tqdm(total=total, desc=source.name, unit="frame") as bar:
        for frame in itertools.islice(source, skip_frames, end):
            if independent:
                pipeline.reset()
            elif not memory:
                pipeline.engine.reset()
            begin = time.perf_counter()
            try:
                result = pipeline.process(frame)
            except InputError as error:
                failed += 1
                log.warning("%s: frame at %.3f s: %s", source.name, frame.stamp_ns * 1e-9, error)
                continue
            latency_ms.append((time.perf_counter() - begin) * 1e3)
            for stage, milliseconds in result.stages_ms.items():
                stages[stage].append(milliseconds)
            clip.add(result)
            maps = result.panoptic
            assert maps is not None, "all outputs are wanted"
            if save_maps:
                write_maps(out / "maps" / f"{frame.stamp_ns}.npz", maps)
            try:
                truth = source.truth(frame.stamp_ns)
            except InputError as error:  # a damaged file costs its frame's truth
                truth = None
                log.warning(
                    "%s: no truth of the frame at %.3f s: %s", source.name, frame.stamp_ns * 1e-9, error
                )
            if truth is not None and not source.camera.is_distorted:
                quality.update(truth, maps, frame.stamp_ns)
            bar.update()
    if not latency_ms:
        raise InputError(f"{source.name}: none of its frames could be processed")
    model_name, backend_name = facts.engine_facts(pipeline.engine.description)
    report = {
        "frames_in": len(latency_ms) + failed + source.unreadable,
        "frames_processed": len(latency_ms),
        "frames_dropped": failed + source.unreadable,
        "latency_ms": facts.spread(latency_ms),
        "stages_ms": facts.stage_table(stages),
        "rate_hz": 1e3 * len(latency_ms) / sum(latency_ms),
        "backend": backend_name,
        "model": model_name,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "quality": quality.compute() if quality.frames else None,
        "inputs": clip_results.input_facts(source, input_spec),
        "machine": facts.machine_facts(),
        "commit": source_commit(),
    }
    facts.write_report(out / "report.json", report)
    write_html(
        out / "report.html",
        report,
        title=f"dvps run: {source.name}",
        pictures=clip.pictures,
        latency_ms=latency_ms,
        latency_meaning="from the decoded frame to all its results",
        timelines=quality.timelines,
        files=clip_results.left_behind(out),
    )
    click.echo(clip_results.console_summary(report, out))


def remove_maps(folder: Path) -> None:
    """Remove the maps that an earlier run left: those of other stamps would pass for this run's."""
    for path in folder.glob("*.npz"):
        if path.stem.isdecimal():
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_maps(path: Path, maps: PanopticDepth) -> None:
    """The maps of a frame as npz: class_map u8, track_map u16, depth_m f32, confidence u8, each [H,W]."""
    import numpy as np

    from dvps_ros.files import whole_file

    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            class_map=maps.class_map,
            track_map=maps.track_map,
            depth_m=maps.depth_m,
            confidence=maps.confidence,
        )
