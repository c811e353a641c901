# SPDX-License-Identifier: Apache-2.0
"""``dvps import``: networks of the transformers library become a model folder."""

from __future__ import annotations

from pathlib import Path

import click


def _three(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise click.BadParameter(f"expected R,G,B such as 0.485,0.456,0.406, got {text!r}")
    return numbers


def _pairs(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(text.rpartition("=")[::2] for text in texts)
    if "" in pairs:
        raise click.BadParameter("expected NAME=CLASS such as 'signboard, sign=traffic sign'")
    return pairs


@click.command()
@click.argument("panoptic")
@click.option("--depth", metavar="SOURCE", help="The depth network: a folder, or its name on the hub.")
@click.option(
    "--size", "sizes", multiple=True, metavar="HxW", help="Input size; may be repeated, best first."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model folder."
)
@click.option("--licence", help="Licence of the panoptic weights, if their card does not say it.")
@click.option("--depth-licence", help="Licence of the depth weights, if their card does not say it.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Label space to map to (YAML); by default the Cityscapes classes.",
)
@click.option(
    "--names",
    "names_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Names of the checkpoint's classes, one a line, if its config.json has none.",
)
@click.option(
    "--map",
    "classes",
    multiple=True,
    metavar="NAME=CLASS",
    callback=_pairs,
    help="Where a class of the checkpoint goes (or void), against its name; may be repeated.",
)
@click.option("--max-depth", type=click.FloatRange(1, 1000), help="Metres; in place of config.json's.")
@click.option(
    "--canonical-focal",
    type=click.FloatRange(1),
    metavar="PX",
    help="Focal length of the depth network's training camera, in pixels of its input; scales depth.",
)
@click.option(
    "--relative-depth",
    type=click.FloatRange(0, min_open=True),
    metavar="FACTOR",
    help="Take a relative depth network: z-depth is FACTOR / answer, metres.",
)
@click.option("--depth-size", metavar="HxW", help="Input of the depth network, instead of its own rule.")
@click.option("--mean", metavar="R,G,B", callback=_three, help="0..1; if the folder does not say it.")
@click.option("--std", metavar="R,G,B", callback=_three, help="0..1; if the folder does not say it.")
@click.option("--depth-mean", metavar="R,G,B", callback=_three, help="The same of the depth network.")
@click.option("--depth-std", metavar="R,G,B", callback=_three, help="The same of the depth network.")
@click.option(
    "--min-score", type=click.FloatRange(0.001, 1), help="Least probability of a segment's class [0.8]."
)
@click.option(
    "--min-visible",
    type=click.FloatRange(0, 1),
    help="Least share of a segment's mask that no other one hides [0.8].",
)
@click.option("--allow-missing", is_flag=True, help="Random values for weights that are missing.")
@click.option("--panoptic", "is_panoptic", is_flag=True, help="It is panoptic, whatever its name says.")
@click.option("--model-version", "version", default="0.1.0", show_default=True, help="Version of the model.")
def command(
    panoptic: str,
    depth: str | None,
    sizes: tuple[str, ...],
    out: Path,
    licence: str | None,
    depth_licence: str | None,
    labels: Path | None,
    names_file: Path | None,
    classes: dict[str, str],
    max_depth: float | None,
    canonical_focal: float | None,
    relative_depth: float | None,
    depth_size: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    depth_mean: tuple[float, ...] | None,
    depth_std: tuple[float, ...] | None,
    min_score: float | None,
    min_visible: float | None,
    allow_missing: bool,
    is_panoptic: bool,
    version: str,
) -> None:
    """Make a model folder of PANOPTIC, a panoptic network of the transformers library, and a depth network.

    \b
    dvps import facebook/mask2former-swin-small-cityscapes-panoptic \\
        --depth depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf \\
        --size 384x768 --out my_model

    Both are folders, or names on the hub. Mask2Former, OneFormer and EoMT are known, and Depth Anything V2.
    docs/import.md says which checkpoints fit, and how fast they are.
    """
    import re

    from dvps_ros.errors import ConfigError
    from dvps_ros.export import parse_size
    from dvps_ros.export.checkpoints import DepthOptions, ImportOptions, import_model, open_network
    from dvps_ros.labels import CITYSCAPES, LabelSpace

    if depth is None:
        raise ConfigError(
            "give --depth SOURCE, a metric depth network: the deployed graph promises metres for every pixel "
            "(docs/graph_contract.md), and a panoptic network has none"
        )
    if not sizes:
        raise ConfigError("give at least one --size HxW")
    wanted = [parse_size(size) for size in sizes]
    own_size = None
    if depth_size is not None:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", depth_size)
        if not match:
            raise ConfigError(f"--depth-size: expected HxW such as 252x504, got {depth_size!r}")
        own_size = int(match[1]), int(match[2])
    imported = open_network(
        panoptic,
        depth,
        CITYSCAPES if labels is None else LabelSpace.from_yaml(labels),
        ImportOptions(
            licence=licence,
            depth_licence=depth_licence,
            mean=mean,
            std=std,
            depth_mean=depth_mean,
            depth_std=depth_std,
            depth=DepthOptions(max_depth, relative_depth, canonical_focal, own_size),
            classes=classes,
            names=None if names_file is None else names_file.read_text().splitlines(),
            allow_missing=allow_missing,
            panoptic=is_panoptic,
        ),
        wanted,
    )
    click.echo(imported.classes.table())
    stated = {"min_score": min_score, "min_visible": min_visible}
    fusion = {name: value for name, value in stated.items() if value is not None}
    manifest = import_model(imported, out, wanted, version=version, fusion=fusion)
    click.echo(f"{out}: {manifest.name} {manifest.version}, {', '.join(g.size for g in manifest.graphs)}")
    click.echo(f"licence: {manifest.licence}")
