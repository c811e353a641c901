# SPDX-License-Identifier: Apache-2.0
"""``dvps export``: a checkpoint becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dvps_ros.cli.options import calibration_options, given_camera

if TYPE_CHECKING:
    from dvps_ros.types import Frame

FOR_MAPS = {
    "random_weights": "--random",
    "changes": "--set",
    "sizes": "--size",
    "min_score": "--min-score",
    "opset": "--opset",
    "calibration": "--calibration",
    "frames": "--frames",
    "fov_deg": "--fov",
    "camera_file": "--camera",
}
"""Options that a steering head has no use for, by the name of their parameter."""


@click.command()
@click.argument("network")
@click.option(
    "--checkpoint",
    "checkpoints",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Weights that `dvps train` wrote; of several the mean is taken (not for the steering head).",
)
@click.option(
    "--random", "random_weights", is_flag=True, help="Random weights instead: for speed tests only."
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --random: size of the network, as model of a recipe, e.g. encoder=mobilenet_v2.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="HxW",
    help="Input size; may be repeated, best first. Not for the steering head.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model folder."
)
@click.option("--model-version", "version", default="0.1.0", show_default=True, help="Version of the model.")
@click.option(
    "--min-score",
    type=click.FloatRange(0.001, 1),
    help="Least score of a segment; by default the network's own (lite: 0.1).",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    default=20,
    show_default=True,
    help="Version of the ONNX operators; lower for older runtimes.",
)
@calibration_options(
    "A video, bag, drive or folder of images: ships what int8 on processors needs.", frames=48
)
@click.option("--licence", default="Apache-2.0", show_default=True, help="Licence of the weights.")
@click.pass_context
def command(
    context: click.Context,
    network: str,
    checkpoints: tuple[Path, ...],
    random_weights: bool,
    changes: tuple[str, ...],
    sizes: tuple[str, ...],
    out: Path,
    version: str,
    min_score: float | None,
    opset: int,
    calibration: str | None,
    frames: int,
    fov_deg: float | None,
    camera_file: Path | None,
    licence: str,
) -> None:
    """Write NETWORK (such as "lite") as a model folder that the engines load.

    \b
    dvps export lite --checkpoint out/train/lite/last.ckpt --size 384x768 --size 512x1024 --out models/lite

    dvps export steering --checkpoint out/train/steering/last.ckpt --out models/steering

    The folder is named after the model: its last part becomes the name in the manifest. Every graph is
    proved in ONNX Runtime against torch before anything is written.
    """
    from dvps_ros.data.sources import open_source, spaced
    from dvps_ros.errors import ConfigError
    from dvps_ros.export import export_model, parse_size
    from dvps_ros.networks import NETWORKS

    if network == "steering":
        given = {n for n in FOR_MAPS if context.get_parameter_source(n) is not ParameterSource.DEFAULT}
        if given:
            names = ", ".join(FOR_MAPS[name] for name in sorted(given))
            raise ConfigError(f"{names}: not for the steering head; leave it out")
        _export_steering(checkpoints, out, version, licence)
        return
    if network not in NETWORKS:
        raise ConfigError(f"unknown network {network!r}; there is {', '.join(NETWORKS)}, steering")
    if not sizes:
        raise ConfigError("give at least one --size HxW")
    if bool(checkpoints) == random_weights:
        raise ConfigError("give either --checkpoint FILE or --random")
    if changes and checkpoints:
        raise ConfigError("--set: a checkpoint knows the size of its network; leave it out")
    wanted = [parse_size(size) for size in sizes]
    calibrating: list[Frame] = []
    if calibration is not None:
        source = open_source(calibration, camera=given_camera(camera_file), fov_deg=fov_deg)
        calibrating = list(spaced(source, frames))
    if not checkpoints:
        import torch

        from dvps_ros.config import from_flat
        from dvps_ros.labels import CITYSCAPES
        from dvps_ros.training.recipe import with_changes

        torch.manual_seed(0)
        design = NETWORKS[network]
        config: Any = from_flat(design.config, with_changes({}, changes))
        module, labels, training = design.network(config), CITYSCAPES, {"weights": "random"}
    else:
        from dvps_ros.training.checkpoint import load_mean_checkpoint

        loaded = load_mean_checkpoint(checkpoints)
        if loaded.meta["network"] != network:
            raise ConfigError(
                f"checkpoint {checkpoints[0]} is of network {loaded.meta['network']}, not {network}"
            )
        module, labels = loaded.network, loaded.labels  # type: ignore[assignment]
        training = {k: v for k, v in loaded.meta.items() if k not in ("labels", "network")}
    if calibration is not None:
        training = dict(training) | {"int8_calibration": f"{len(calibrating)} frames of {source.name}"}
    name = out.resolve().name
    manifest = export_model(
        module,
        labels,
        out,
        wanted,
        name=name,
        version=version,
        licence=licence,
        training=training,
        fusion={} if min_score is None else {"min_score": min_score},
        opset=opset,
        calibration=calibrating,
    )
    click.echo(f"{out}: {manifest.name} {manifest.version}, {', '.join(g.size for g in manifest.graphs)}")


def _export_steering(checkpoints: tuple[Path, ...], out: Path, version: str, licence: str) -> None:
    from dvps_ros.errors import ConfigError
    from dvps_ros.export import export_steering
    from dvps_ros.training.steering.head import load_head

    if len(checkpoints) != 1:
        raise ConfigError("a steering head is exported from one --checkpoint")
    loaded = load_head(checkpoints[0])
    manifest = export_steering(
        loaded.network,
        out,
        golden_window=loaded.golden_window,
        version=version,
        licence=licence,
        perception=loaded.meta["perception"],
        training={k: v for k, v in loaded.meta.items() if k not in ("network", "perception")},
    )
    click.echo(f"{out}: {manifest.name} {manifest.version}, for the tokens of {manifest.perception.name}")
