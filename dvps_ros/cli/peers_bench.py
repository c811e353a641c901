# SPDX-License-Identifier: Apache-2.0
"""``dvps bench peers``: our pipeline beside Mask2Former + Depth Anything V2, at equal input and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dvps_ros.bench import peers
from dvps_ros.cli.options import ImageSize, SizeType, json_option, measurement

RUNTIMES = ("torch", "openvino")


@click.command("peers")
@click.option("--model", default="lite", show_default=True, help="Our model.")
@click.option(
    "--size", type=SizeType(), default="512x1024", show_default=True, help="Input of all networks HxW."
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Of every runtime; 0: all cores.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Of OpenVINO, ours and theirs.",
)
@click.option(
    "--segmenter",
    "names",
    type=click.Choice([p.name for p in peers.SEGMENTERS]),
    multiple=True,
    default=[p.name for p in peers.SEGMENTERS],
    show_default=True,
    help="May be given several times.",
)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(RUNTIMES),
    multiple=True,
    default=RUNTIMES,
    show_default=True,
    help="Of theirs; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns of each.")
@click.option(
    "--limit",
    "limit_s",
    type=click.FloatRange(min=0.0),
    default=45.0,
    show_default=True,
    help="After 3 rounds, begin no further one later than this, seconds.",
)
@click.option("--memory/--no-memory", default=True, help="Measure memory too, each in a process of its own.")
@json_option
def peers_command(
    model: str,
    size: ImageSize,
    threads: int,
    precision: str,
    names: Sequence[str],
    runtimes: Sequence[str],
    rounds: int,
    limit_s: float,
    memory: bool,
    json_path: Path | None,
) -> None:
    """Our whole pipeline beside Mask2Former + Depth Anything V2 small, the networks alone.

    They are built by transformers with random weights (speed and memory only; nothing is downloaded), and
    run in torch eager and in OpenVINO. Prints tables in Markdown.

    \b
    dvps bench peers --json peers.json
    dvps bench peers --segmenter "Mask2Former R50" --runtime openvino --rounds 3
    """
    from dvps_ros.bench import comparison as bench
    from dvps_ros.bench.facts import require, write_report
    from dvps_ros.runtime.machine import cpu_count

    require("torch", "transformers", "openvino", extra="peers")
    threads = threads or cpu_count()
    report = measurement("times will be too long") | {
        "versions": bench.versions(),
        "config": {
            "model": model,
            "size": str(size),
            "depth_size": "x".join(map(str, peers.DEPTH.size(*size))),
            "threads": threads,
            "openvino_precision": precision,
            "torch_precision": "fp32",
            "camera_height_m": bench.CAMERA_HEIGHT_M,
        },
        "method": bench.METHOD,
    }
    segmenters = [p for p in peers.SEGMENTERS if p.name in names]
    report |= bench.measure(
        segmenters,
        runtimes,
        size,
        bench.own_config(model, str(size), precision, threads),
        rounds=rounds,
        limit_s=limit_s,
        memory=memory,
        tell=click.echo,
    )
    click.echo("\n" + bench.tables(report))
    if json_path is not None:
        write_report(json_path, report)
        click.echo(f"\nwritten to {json_path}")
