# SPDX-License-Identifier: Apache-2.0
"""``dvps eval``: score predictions against ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dvps_ros.errors import ConfigError

WINDOWS: dict[str, tuple[int, ...]] = {"semkitti-dvps": (1, 5, 10, 20)}
"""Window lengths k of a data set, where they are not 1 to 4."""


def _numbers(kind: type) -> Callable[..., Any]:
    def parse(_: click.Context, option: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return tuple(kind(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise click.BadParameter(
                f"expected numbers separated by commas, got {text!r}", param=option
            ) from None

    return parse


def _words(_: click.Context, __: click.Parameter, text: str | None) -> Any:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _cap(_: click.Context, option: click.Parameter, text: str) -> Any:
    if text in ("default", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"expected metres, default or none, got {text!r}", param=option) from None


@click.command()
@click.option(
    "--dataset",
    type=click.Choice(["cityscapes-dvps", "semkitti-dvps", "kitti-step", "steering-log"]),
    help="Layout of the folders --gt and --pred; steering-log: two CSV files.",
)
@click.option("--gt", type=click.Path(path_type=Path), help="Folder with the ground truth.")
@click.option("--pred", type=click.Path(path_type=Path), help="Folder with the predictions, named alike.")
@click.option("--split", default="val", show_default=True, help="Split to score.")
@click.option("--npz", type=click.Path(path_type=Path), help="One file with truth and prediction instead.")
@click.option("--classes", type=int, help="With --npz: number of classes  [default: Cityscapes' 19]")
@click.option("--things", callback=_numbers(int), help="With --npz: ids of the thing classes.")
@click.option("--metrics", callback=_words, help="Some of PQ, DPQ, VPQ, DVPQ, STQ, DSTQ, PAT, depth, ids.")
@click.option("--k", "windows", callback=_numbers(int), help="Window lengths in frames, e.g. 1,2,3,4.")
@click.option("--lambdas", callback=_numbers(float), help="Relative depth errors, e.g. 0.5,0.25,0.1.")
@click.option(
    "--crowd",
    type=click.Choice(["ignored", "segment"]),
    default="ignored",
    show_default=True,
    help="PQ, VPQ: what a true thing of instance 0 is.",
)
@click.option(
    "--depth-crowd",
    type=click.Choice(["ignored", "segment"]),
    default="segment",
    show_default=True,
    help="DPQ, DVPQ: the same.",
)
@click.option(
    "--stq-void",
    type=click.Choice(["kept", "masked"]),
    default="kept",
    show_default=True,
    help="STQ: true void counts in the size of predicted tracks, or leaves them.",
)
@click.option(
    "--sq-void",
    type=click.Choice(["class", "miss"]),
    default="class",
    show_default=True,
    help="STQ: predicted void is one more class of IoU 0, or only a miss of the true class.",
)
@click.option(
    "--pat-ids",
    type=click.Choice(["track", "class"]),
    default="track",
    show_default=True,
    help="PAT: predictions are track ids, or class and id together.",
)
@click.option(
    "--pat-void",
    type=click.Choice(["masked", "kept"]),
    default="masked",
    show_default=True,
    help="PAT: true void leaves the predicted masks, or counts in their size.",
)
@click.option(
    "--pat-pq",
    type=click.Choice(["standard", "nuscenes"]),
    default="standard",
    show_default=True,
    help="PAT: PQ as it is, or without the pixels of true void and over all classes.",
)
@click.option(
    "--min-area",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="PAT, ids: pixels below which a mask does not exist.",
)
@click.option(
    "--crops",
    callback=_words,
    default="none,garg,eigen,cityscapes",
    show_default=True,
    help="Depth: image parts that are scored.",
)
@click.option(
    "--scalings",
    callback=_words,
    default="none,median",
    show_default=True,
    help="Depth: scaling of the prediction.",
)
@click.option(
    "--depth-cap",
    callback=_cap,
    default="default",
    show_default=True,
    help="Depth: largest true depth in metres, or none; default is 80 on crops, none elsewhere.",
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all results here."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a page with tables and pictures here.")
@click.option("--jobs", type=click.IntRange(1), help="Processes to work in  [default: one a core]")
@click.option("--check", is_flag=True, help="Only name every broken, missing or inconsistent file.")
def command(
    dataset: str | None,
    gt: Path | None,
    pred: Path | None,
    split: str,
    npz: Path | None,
    classes: int | None,
    things: tuple[int, ...] | None,
    metrics: tuple[str, ...] | None,
    windows: tuple[int, ...] | None,
    lambdas: tuple[float, ...] | None,
    crowd: str,
    depth_crowd: str,
    stq_void: str,
    sq_void: str,
    pat_ids: str,
    pat_void: str,
    pat_pq: str,
    min_area: int,
    crops: tuple[str, ...],
    scalings: tuple[str, ...],
    depth_cap: float | str | None,
    json_path: Path | None,
    report: Path | None,
    jobs: int | None,
    check: bool,
) -> None:
    """Score predictions against ground truth.

    \b
    dvps eval --dataset cityscapes-dvps --gt DATA/cityscapes-dvps --pred out/pred --json scores.json
    dvps eval --dataset steering-log --gt steering.csv --pred predicted.csv
    dvps eval --npz clip.npz --classes 19 --things 11,12,13,14,15,16,17,18 --k 1,2,3,4 --lambdas 0.5,0.25,0.1

    docs/metrics.md defines every number and switch. The table shows percent, the JSON fractions.
    """
    from dvps_ros.data.layouts import LAYOUTS
    from dvps_ros.labels import CITYSCAPES
    from dvps_ros.metrics.counts import Classes
    from dvps_ros.metrics.evaluation import DEPTH_METRICS, METRICS, Evaluation, Rules

    names = {name.lower(): name for name in METRICS}
    wanted = None if metrics is None else tuple(names.get(m.lower(), m) for m in metrics)
    needs_depth = None if wanted is None else bool(set(wanted) & set(DEPTH_METRICS))
    if npz is not None:
        if dataset or gt or pred:
            raise ConfigError("give either --npz, or --dataset with --gt and --pred, not both")
        if check:
            raise ConfigError("--check looks at folders; what is wrong in an --npz is told when it is scored")
        if (classes is None) != (things is None):
            raise ConfigError('--classes and --things go together (--things "" when every class is stuff)')
        from dvps_ros.data.npz_pairs import NpzPairs

        scored = Classes.of(CITYSCAPES) if classes is None or things is None else Classes(classes, things)
        source: Any = NpzPairs(npz, depth=needs_depth)
    elif dataset == "steering-log":
        if not gt or not pred or report or check or wanted:
            raise ConfigError(
                "steering-log takes --gt, --pred and --json; dvps data check looks at its files"
            )
        from dvps_ros.bench.evaluate import score_steering

        return _tell(score_steering(gt, pred), json_path)
    elif dataset and gt and check:
        from dvps_ros.cli.data import tell_problems
        from dvps_ros.data.layout import find_problems

        return tell_problems(find_problems(LAYOUTS[dataset], gt, pred, split))
    elif dataset and gt and pred:
        if classes is not None or things is not None:
            raise ConfigError("--classes and --things go with --npz; a data set has its own")
        from dvps_ros.data.layout import FolderPairs

        layout = LAYOUTS[dataset]
        scored = layout.classes
        source = FolderPairs(layout, gt, pred, split, depth=needs_depth)
    else:
        raise ConfigError("give --dataset with --gt and --pred, or --npz; see dvps eval --help")

    if wanted is None:
        wanted = tuple(m for m in METRICS if source.has_depth or m not in DEPTH_METRICS)
        if not source.has_depth:
            click.echo(f"no depth on both sides: {', '.join(DEPTH_METRICS)} are left out")
    defaults = Rules()
    rules = Rules(
        windows=WINDOWS.get(dataset or "", defaults.windows) if windows is None else windows,
        lambdas=defaults.lambdas if lambdas is None else lambdas,
        crowd=crowd,  # type: ignore[arg-type]
        depth_crowd=depth_crowd,  # type: ignore[arg-type]
        stq_void=stq_void,  # type: ignore[arg-type]
        sq_void=sq_void,  # type: ignore[arg-type]
        pat_ids=pat_ids,  # type: ignore[arg-type]
        pat_void=pat_void,  # type: ignore[arg-type]
        pat_pq=pat_pq,  # type: ignore[arg-type]
        min_area_px=min_area,
        crops=crops,  # type: ignore[arg-type]
        scalings=scalings,  # type: ignore[arg-type]
        depth_cap_m=depth_cap,
    )
    # Where results go must be known to work before the work is done.
    for folder in (json_path and json_path.parent, report):
        if folder is not None:
            _make_folder(folder)
    evaluation = Evaluation(scored, wanted, rules)
    collector = None
    if report is not None:
        from dvps_ros.bench.evaluation_page import ReportCollector

        collector = ReportCollector(scored)
    from dvps_ros.bench.evaluate import count_frames

    for index, counts in enumerate(count_frames(source, evaluation, jobs)):
        evaluation.add(counts)
        if collector:
            collector.add(index, counts)
    result = evaluation.result()
    steering = getattr(source, "steering", None)
    if steering is not None:
        from dvps_ros.metrics.steering import SteeringErrors

        errors = SteeringErrors()
        errors.update(*steering)
        result["steering"] = errors.compute()
        if not result["steering"]["samples"]:
            result["undefined"].append("steering: the truth holds no angle")
    _tell(result, json_path)
    if collector and report is not None:
        space = LAYOUTS[dataset].space if dataset else CITYSCAPES if classes is None else None
        truth = f", judged by {gt} ({dataset}, {split})" if dataset else ""
        page = collector.write(report, result, source, space, f"Scores of {pred or npz}{truth}")
        click.echo(f"report: {page}")


def _tell(result: dict[str, Any], json_path: Path | None) -> None:
    from dvps_ros.bench.evaluate import table
    from dvps_ros.files import write_text

    click.echo(table(result))
    if json_path is not None:
        # Every null is meant: a NaN would be an error of this program.
        write_text(json_path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write into {path}: {error.strerror}") from error
