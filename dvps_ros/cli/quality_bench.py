# SPDX-License-Identifier: Apache-2.0
"""``dvps bench quality``: how good the deployed pipeline is on synthetic drives that no training saw."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from dvps_ros.cli.held_out import QUALITY_SEED, held_out_drive
from dvps_ros.cli.options import (
    ImageSize,
    engine_choice_options,
    image_size_option,
    json_option,
    pipeline_config,
    pipeline_options,
)


@click.command("quality")
@pipeline_options
@engine_choice_options
@click.option("--worlds", type=click.IntRange(1), default=8, show_default=True, help="Drives scored.")
@click.option(
    "--frames", type=click.IntRange(4), default=40, show_default=True, help="Frames of each, at 10 Hz."
)
@image_size_option("384x768", "Camera images, HEIGHTxWIDTH.")
@json_option
def quality_command(
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    network_size: str,
    worlds: int,
    frames: int,
    image_size: ImageSize,
    json_path: Path | None,
) -> None:
    """Panoptic, tracking and depth quality of the whole pipeline on unseen worlds through unseen cameras.

    Every drive has a street, weather, traffic and camera (45 to 105 degrees wide, its own height and tilt) of
    its own; all are scored together, as one data set of so many sequences.

    \b
    dvps bench quality                                  # lite
    dvps bench quality --model lite_research --json quality.json
    """
    from tqdm import tqdm

    from dvps_ros.bench.score import score_frames
    from dvps_ros.cli.results import engine_facts, measurement, write_report
    from dvps_ros.labels import CITYSCAPES
    from dvps_ros.metrics.quality import ClipQuality
    from dvps_ros.runtime.pipeline import DvpsPipeline

    report = measurement()
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    quality = ClipQuality(CITYSCAPES)
    with tqdm(total=worlds * frames, unit="frame") as bar:
        for seed in range(QUALITY_SEED, QUALITY_SEED + worlds):
            camera, drive = held_out_drive(seed, *image_size)
            with DvpsPipeline.open(config, camera) as pipeline:
                report["model"], report["backend"] = engine_facts(pipeline.engine.description)
                for _ in score_frames(pipeline, itertools.islice(drive, frames), quality, sequence=seed):
                    bar.update()
    scores = quality.compute()
    click.echo(_table(scores, worlds, frames))
    if json_path is not None:
        report |= {
            "seeds": [QUALITY_SEED, QUALITY_SEED + worlds - 1],
            "frames_each": frames,
            "image_size": str(image_size),
            "quality": scores,
        }
        write_report(json_path, report)


def _table(scores: dict[str, Any], worlds: int, frames: int) -> str:
    """The scores as lines of text, percent."""
    from dvps_ros.bench.score import mean_dvpq

    lines = [f"{worlds} drives of {frames} frames; percent"]
    pq, stq, objects, depth = (scores[key] for key in ("pq", "stq", "objects", "depth"))
    lines.append(
        f"PQ      all {_percent(pq['all'])}  things {_percent(pq['things'])}  stuff {_percent(pq['stuff'])}"
    )
    limits = list(next(iter(scores["dvpq"].values())))
    lines.append("DVPQ    lambda " + "  ".join(f"{limit:>5}" for limit in limits))
    for k, row in scores["dvpq"].items():
        lines.append(f"   k={k}         " + "  ".join(f"{_percent(row[limit]):>5}" for limit in limits))
    lines.append(f"   mean {_percent(mean_dvpq(scores['dvpq']))}")
    lines.append("STQ     " + "  ".join(f"{key} {_percent(stq[key])}" for key in ("STQ", "AQ", "SQ")))
    lines.append(
        f"objects {objects['objects']}, found {_percent(objects['found'])} of their sightings "
        f"(under the right class {_percent(objects['found_in_class'])}), "
        f"ids kept {_percent(objects['ids_kept'])}, switches {objects['id_switches']}"
    )
    sizes = scores["objects_by_size"].items()
    found = ", ".join(f"{size} {_percent(row['found'])}" for size, row in sizes)
    lines.append(f"found by visible area, as a square: {found}")
    lines.append(f"depth   abs_rel {depth['abs_rel']:.3f}  delta1 {_percent(depth['delta1'])}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
