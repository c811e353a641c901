# SPDX-License-Identifier: Apache-2.0
"""``dvps bag``: what can be done with bags without ROS."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Work with rosbag2 folders without ROS."""


@command.command("recover")
@click.argument("torn", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Bag folder to make; by default TORN with _recovered behind its name.",
)
def recover_command(torn: Path, out: Path | None) -> None:
    """Make a bag of all that is whole in TORN: the file, bag folder or .partial folder of a killed recorder.

    TORN stays as it is.

    \b
    dvps bag recover .drive.k3x9.partial --out drive
    dvps bag recover drive/drive_0.db3
    """
    from dvps_ros.data.bag_recovery import recover

    name = torn.name.strip(".").removesuffix(".partial").removesuffix(torn.suffix if torn.is_file() else "")
    target = out or torn.parent / f"{name}_recovered"
    found = recover(torn, target)
    counts = ", ".join(f"{topic} {n}" for topic, n in sorted(found.counts.items()))
    click.echo(f"{target}: {counts}")
    for topic, why in sorted(found.skipped.items()):
        click.echo(f"left out: {topic}; {why}")
    if found.lost:
        click.echo(f"lost: what comes after; {found.lost}")
