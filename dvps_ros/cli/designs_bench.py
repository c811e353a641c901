# SPDX-License-Identifier: Apache-2.0
"""``dvps bench designs``: quality against milliseconds of models, input sizes and precisions."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import ImageSize, image_size_option, measurement
from dvps_ros.config import EngineConfig, options
from dvps_ros.errors import InputError

_CHOICES = {o.key: o for o in options(EngineConfig)}


@click.command("designs")
@click.argument("models", nargs=-1)
@click.option("--size", "sizes", multiple=True, metavar="HxW", help="Only this size; may be repeated.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(_CHOICES["precision"].choices[1:]),
    default=("fp32", "bf16", "int8"),
    show_default=True,
    help="May be repeated; what cannot be used is told and left out.",
)
@click.option(
    "--backend", type=click.Choice(_CHOICES["backend"].choices[1:]), default="openvino", show_default=True
)
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: all cores.")
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Leave out engines that fail the golden frames, as a start does.",
)
@click.option("--quality/--no-quality", default=True, help="Score, or keep the scores that the file has.")
@click.option("--time/--no-time", "timed", default=True, help="Time, or keep the times that the file has.")
@click.option(
    "--worlds", type=click.IntRange(1), default=24, show_default=True, help="Two frames of each are scored."
)
@image_size_option("512x1024", "Of the camera and of the truth.")
@click.option("--rounds", type=click.IntRange(2), default=30, show_default=True, help="Runs timed of each.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("out/designs.json"),
    show_default=True,
    help="Results, read first where it exists; a plot goes beside it.",
)
def designs_command(
    models: tuple[str, ...],
    sizes: tuple[str, ...],
    precisions: tuple[str, ...],
    backend: str,
    threads: int,
    verify: bool,
    quality: bool,
    timed: bool,
    worlds: int,
    image_size: ImageSize,
    rounds: int,
    json_path: Path,
) -> None:
    """Score and time MODELS (names or folders) at each size and precision; print a table, draw a plot.

    Scored are pairs of frames of synthetic worlds, each with a camera of its own, at camera resolution,
    whatever the network's size: mean IoU, panoptic quality, relative depth error. Timed is the engine alone,
    on the golden frame, those of one size in turns. The two need not be taken together: scores are the same
    on every machine, times want a quiet one.

    \b
    dvps bench designs lite --no-time --json lite_sizes.json       # once
    dvps bench designs lite --no-quality --json lite_sizes.json    # on each machine
    dvps bench designs --json lite_sizes.json                      # table and plot again
    """
    from dvps_ros.bench import designs as bench
    from dvps_ros.bench.facts import require, write_report
    from dvps_ros.viz.designs_plot import write_designs_plot

    require("matplotlib")
    report = bench.read_report(json_path)
    if models:
        made = measurement("times will be too long" if timed else "")
        engine = EngineConfig(backend=backend, threads=threads, verify=verify)
        designs = list(bench.designs_of(models, sizes, precisions, engine))
        report["rows"] = rows = [d.row | bench.kept_parts(d.row, report["rows"]) for d in designs]
        if quality:
            clips = list(bench.held_out_clips(worlds, image_size))
            for row, design in zip(rows, designs, strict=True):
                row["quality"] = bench.score(design, clips, click.echo)
            seeds = [bench.DESIGNS_SEED, bench.DESIGNS_SEED + worlds - 1]
            report["quality_made"] = made | {"seeds": seeds, "image_size": str(image_size)}
            write_report(json_path, report)
        if timed:
            for row, times in zip(rows, bench.times(designs, rounds, click.echo), strict=True):
                row["ms"] = times
            report["time_made"] = made | {"rounds": rounds}
        report["rows"] = [r for r in rows if r["quality"] or r["ms"]]
        write_report(json_path, report)
    if not report["rows"]:
        raise InputError(f"{json_path} holds no results: name models to measure")
    picture = json_path.with_suffix(".png")
    write_designs_plot(
        picture, report, {score: bench.pareto_front(report["rows"], score) for score in bench.SCORES}
    )
    click.echo(f"{bench.table(report['rows'])}\n\nwritten to {json_path} and {picture}")
