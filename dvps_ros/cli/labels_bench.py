# SPDX-License-Identifier: Apache-2.0
"""``dvps bench labels``: mean IoU of the deployed pipeline on photographs with coarse labels."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import engine_choice_options, json_option, pipeline_config, pipeline_options


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
    from tqdm import tqdm

    from dvps_ros.bench.score import score_frames
    from dvps_ros.cli.results import engine_facts, measurement, write_report
    from dvps_ros.data.readers import READERS, Reading
    from dvps_ros.errors import InputError
    from dvps_ros.labels import CITYSCAPES
    from dvps_ros.metrics.quality import ClipQuality
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.types import CameraModel

    report = measurement()
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    quality = ClipQuality(CITYSCAPES)
    pipeline: DvpsPipeline | None = None
    try:
        samples = READERS[dataset].samples(str(root), Reading(split=split))
        for index, sample in enumerate(tqdm(samples, unit="image")):
            if pipeline is None:
                height, width = sample.images.shape[1:3]
                camera = CameraModel.from_vector(width, height, sample.intrinsics[0])
                pipeline = DvpsPipeline.open(config, camera)
                report["model"], report["backend"] = engine_facts(pipeline.engine.description)
            for _ in score_frames(pipeline, [sample], quality, sequence=index):
                pass
    finally:
        if pipeline is not None:
            pipeline.close()
    if not quality.frames:
        raise InputError(f"{root}: no image of {dataset} in split {split}")
    scores = quality.compute()
    for name, value in scores["iou"].items():
        click.echo(f"{name:<32}{'-' if value is None else f'{value:.3f}':>8}")
    engine = f"{report['model']} on {report['backend']}"
    click.echo(f"{'mean':<32}{scores['miou']:>8.3f}   of {scores['frames']} images, {engine}")
    if json_path is not None:
        report |= {"dataset": dataset, "split": split, "images": scores["frames"]}
        report |= {"iou": scores["iou"], "miou": scores["miou"]}
        write_report(json_path, report)
