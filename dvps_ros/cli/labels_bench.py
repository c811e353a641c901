# SPDX-License-Identifier: Apache-2.0
"""``dvps bench labels``: mean IoU of the deployed pipeline on photographs with coarse labels."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import (
    engine_choice_options,
    json_option,
    measurement,
    pipeline_config,
    pipeline_options,
)


@click.command("labels")
@click.argument("dataset", type=click.Choice(["camvid", "idd-lite"]))
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", default="val", show_default=True, help="Part of the data set: val, test, ...")
@pipeline_options
@engine_choice_options
@json_option
def labels_command(
    dataset: str,
    root: Path,
    split: str,
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    network_size: str,
    json_path: Path | None,
) -> None:
    """Classes of single photographs as the robot computes them, from the resize to the voided specks.

    Every image is the first of its drive: the network remembers nothing. Classes are merged as the data set
    merges them; a pixel that is void where the data set has a class is a miss.

    \b
    dvps bench labels camvid $DVPS_DATA/camvid --split val --model lite_research --precision fp32
    """
    from dvps_ros.bench.facts import write_report
    from dvps_ros.bench.photographs import score_photographs, table

    made = measurement()
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    report = made | score_photographs(config, dataset, root, split)
    click.echo(table(report))
    if json_path is not None:
        write_report(json_path, report)
