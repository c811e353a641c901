# SPDX-License-Identifier: Apache-2.0
"""``dvps bench labels``: mean IoU of the deployed pipeline on photographs with coarse labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from dvps_ros.cli.options import engine_choice_options, json_option, pipeline_config, pipeline_options
from dvps_ros.labels import VOID

if TYPE_CHECKING:
    from dvps_ros.types import Sample


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

    from dvps_ros.cli.results import engine_facts, measurement, write_report
    from dvps_ros.data.readers import READERS, Reading
    from dvps_ros.errors import InputError
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.types import CameraModel, Frame

    report = measurement()
    config = pipeline_config(model, backend, camera_height_m, precision, network_size)
    scores = CoarseScores()
    pipeline: DvpsPipeline | None = None
    try:
        samples = READERS[dataset].samples(str(root), Reading(split=split))
        for index, sample in enumerate(tqdm(samples, unit="image")):
            height, width = sample.images.shape[1:3]
            camera = CameraModel.from_vector(width, height, sample.intrinsics[0])
            if pipeline is None:
                pipeline = DvpsPipeline.open(config, camera)
                report["model"], report["backend"] = engine_facts(pipeline.engine.description)
            pipeline.reset()
            result = pipeline.process(Frame(sample.images[0], (index + 1) * 10**9, camera))
            assert result.panoptic is not None, "all outputs are wanted"
            scores.update(sample, result.panoptic.class_map)
    finally:
        if pipeline is not None:
            pipeline.close()
    if not scores.names:
        raise InputError(f"{root}: no image of {dataset} in split {split}")
    iou = scores.iou()
    for name, value in iou.items():
        click.echo(f"{name:<32}{'-' if value is None else f'{value:.3f}':>8}")
    mean = float(np.mean([v for v in iou.values() if v is not None]))
    engine = f"{report['model']} on {report['backend']}"
    click.echo(f"{'mean':<32}{mean:>8.3f}   of {scores.images} images, {engine}")
    if json_path is not None:
        report |= {"dataset": dataset, "split": split, "images": scores.images, "iou": iou, "miou": mean}
        write_report(json_path, report)


class CoarseScores:
    """Pixels by the data set's class and the predicted one."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.images = 0
        self._counts = np.zeros((0, 0), np.int64)

    def update(self, sample: Sample, class_map: np.ndarray) -> None:
        """Add one image.

        Args:
            sample: with a coarse map; its first frame is scored.
            class_map: uint8 [H,W], predicted, in the project's classes.
        """
        from dvps_ros.labels import CITYSCAPES

        assert sample.coarse_map is not None
        groups = sample.coarse_groups
        self.names = tuple("/".join(CITYSCAPES.names[i] for i in members) for members in groups)
        coarse_of = np.full(256, len(groups), np.uint8)  # void, and classes that the data set does not have
        for group, members in enumerate(groups):
            coarse_of[list(members)] = group
        size = len(groups) + 1
        truth = sample.coarse_map[0]
        known = truth != VOID
        index = truth[known].astype(np.int64) * size + coarse_of[class_map[known]]
        counts = np.bincount(index, minlength=size * size).reshape(size, size)
        self._counts = counts if not self.images else self._counts + counts
        self.images += 1

    def iou(self) -> dict[str, float | None]:
        """Of each class; None where the truth has none of it."""
        hit = np.diag(self._counts)
        union = self._counts.sum(0) + self._counts.sum(1) - hit
        there = self._counts.sum(1) > 0
        values: dict[str, Any] = {}
        for i, name in enumerate(self.names):
            values[name] = float(hit[i] / union[i]) if there[i] else None
        return values
