# SPDX-License-Identifier: Apache-2.0
"""``dvps predict``: a data set through the pipeline, written in its official format."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import click

from dvps_ros.cli.options import engine_choice_options, pipeline_config, pipeline_options


@click.command()
@click.option(
    "--dataset",
    type=click.Choice(["cityscapes-dvps", "semkitti-dvps", "kitti-step"]),
    required=True,
    help="Layout of the images that are read and of the predictions that are written.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the data set.",
)
@click.option("--split", default="val", show_default=True, help="Its part: val, test, ...")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the predictions, for dvps eval --pred.",
)
@pipeline_options
@engine_choice_options
def command(
    dataset: str,
    root: Path,
    split: str,
    out: Path,
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    network_size: str,
) -> None:
    """Predict every image of a data set: classes, track ids and depth, sequence by sequence.

    \b
    dvps predict --dataset kitti-step --root DIR --split val --out out/pred
    dvps eval --dataset kitti-step --gt DIR --pred out/pred
    """
    import dataclasses

    from tqdm import tqdm

    from dvps_ros.data.layout import read_rgb
    from dvps_ros.data.layout_source import SEQUENCE_GAP_NS
    from dvps_ros.data.layouts import LAYOUTS
    from dvps_ros.data.predictions import FARTHEST_M, PredictionWriter
    from dvps_ros.errors import InputError
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.types import CameraModel, Frame

    layout = LAYOUTS[dataset]
    frames = [f for f in layout.frames(root, split) if f.image is not None]
    if not frames:
        raise InputError(f"{root}: found no images of {dataset} (split {split})")
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    # Files hold more than a robot wants to see: all depth that fits.
    maps = dataclasses.replace(config.maps, max_depth_m=FARTHEST_M)
    config = dataclasses.replace(config, maps=maps)
    writer = PredictionWriter(layout, out, split)
    pipeline: DvpsPipeline | None = None
    last_ns = 0
    try:
        with tqdm(total=len(frames), unit="frame") as bar:
            for _, group in groupby(frames, key=lambda f: f.sequence):
                start_ns = last_ns + SEQUENCE_GAP_NS
                if pipeline is not None:
                    pipeline.reset()
                for files in group:
                    assert files.image is not None
                    image = read_rgb(files.image)
                    height, width = image.shape[:2]
                    camera = CameraModel.from_vector(width, height, layout.intrinsics(files, height, width))
                    if pipeline is None:
                        pipeline = DvpsPipeline.open(config, camera)
                    last_ns = start_ns + round(files.frame * 1e9 / layout.rate_hz)
                    result = pipeline.process(Frame(image, last_ns, camera), frozenset({"panoptic"}))
                    assert result.panoptic is not None, "it is wanted"
                    writer.add(files, result.panoptic)
                    bar.update()
    finally:
        if pipeline is not None:
            pipeline.close()
    click.echo(f"{out}: {len(frames)} frames of {dataset}, split {split}")
    if writer.lost:
        click.echo(f"{len(writer.lost)} objects did not fit the format's numbers and were written as void")
    click.echo(f"next: dvps eval --dataset {dataset} --gt {root} --pred {out}")
