# SPDX-License-Identifier: Apache-2.0
"""``dvps train``: train a network from a recipe, or go on with a training that was stopped."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.errors import ConfigError


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--render", is_flag=True, help="Only render the clips that the recipe asks for into its cache.")
@click.option(
    "--validate", is_flag=True, help="Only score the recipe's last checkpoint on the held-out sets."
)
@click.option(
    "--balance",
    type=click.IntRange(1),
    metavar="BATCHES",
    help="Only measure, over so many batches, how strongly each loss pulls at the weights that all share.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, e.g. schedule.minutes=5.",
)
def command(
    recipes: tuple[Path, ...], render: bool, validate: bool, balance: int | None, changes: tuple[str, ...]
) -> None:
    """Train a network from RECIPES (YAML): one, or the phases of a training in their order. The same call
    goes on where it was stopped. A steering head is trained in minutes: its call keeps what is rendered and
    starts the training anew.

    \b
    dvps train config/train/lite.yaml --render
    dvps train config/train/lite.yaml --set schedule.minutes=40
    dvps train config/train/deep_dps/cityscapes_1.yaml config/train/deep_dps/cityscapes_2.yaml

    Checkpoints, logs and pictures go to the recipe's `out` folder; `dvps export` makes a model of last.ckpt.
    """
    recipe = recipes[-1]
    if _network(recipe) == "steering":
        if len(recipes) > 1:
            raise ConfigError(f"the steering head is trained in one phase, got {len(recipes)} recipes")
        if balance is not None:
            raise ConfigError("--balance: the steering head has one loss; there is nothing to balance")
        _train_steering(recipe, render, validate, changes)
        return
    from dvps_ros.training.recipe import check_phases, label_space, read_recipe

    phases = [read_recipe(path, changes) for path in recipes]
    check_phases(phases)
    run = phases[-1]
    labels = label_space(run)
    if render:
        from dvps_ros.training.render import render_clips

        render_clips(run.data, progress=True)
        return
    from functools import partial

    from dvps_ros.training import fit as training
    from dvps_ros.training.sources import held_out_sets, training_parts

    if validate:
        training.validate(run, labels, held_out_sets(run))
        return
    build = partial(training_parts, run)
    if balance is not None:
        click.echo(f"{'term':18} {'value':>9} {'gradient':>9} {'weighted':>9}")
        for name, pull in training.balance(run, labels, build, balance).items():
            click.echo(f"{name:18} {pull.value:9.3f} {pull.gradient:9.3f} {pull.weighted:9.3f}")
        return
    checkpoint = training.fit_phases(phases, labels)
    click.echo(f"weights: {checkpoint}\nnext:    dvps export {run.network} --checkpoint {checkpoint}")


def _network(recipe: Path) -> str:
    """The network that a recipe says it is for; what else is wrong with the file its own reader tells."""
    from dvps_ros.files import read_data

    try:
        data = read_data(recipe)
    except ValueError:
        return ""
    return str(data.get("network", "")) if isinstance(data, dict) else ""


def _train_steering(recipe: Path, only_render: bool, only_validate: bool, changes: tuple[str, ...]) -> None:
    from dvps_ros.training.steering import head as steering

    run = steering.read_steering_recipe(recipe, changes)
    if only_validate:
        steering.validate_steering(run)
        return
    steering.render(run)
    if not only_render:
        checkpoint = steering.fit_steering(run)
        click.echo(f"weights: {checkpoint}\nnext:    dvps export steering --checkpoint {checkpoint}")
