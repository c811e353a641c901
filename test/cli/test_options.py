# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from dvps_ros.cli.options import ImageSize, SizeType


@click.command()
@click.option("--image-size", type=SizeType(16, 8192), default="96x128")
@click.option("--camera", type=SizeType(width_first=True), default="1242x375")
def sizes(image_size: ImageSize, camera: ImageSize) -> None:
    click.echo(f"{image_size} {camera}")


def test_sizes_are_height_and_width() -> None:
    assert CliRunner().invoke(sizes).output == "96x128 375x1242\n"
    given = CliRunner().invoke(sizes, ["--image-size", "512x1024", "--camera", "2048x1024"])
    assert given.output == "512x1024 1024x2048\n"
    assert SizeType().convert("384x768", None, None) == ImageSize(height=384, width=768)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--image-size", "512", "expected HxW such as 512x1024, got 512"),
        ("--image-size", "512x-4", "expected HxW"),
        ("--image-size", "8x1024", "expected 16 to 8192 pixels each way, got 8x1024"),
        ("--camera", "1242,375", "expected WIDTHxHEIGHT such as 1242x375"),
        ("--camera", "9x375", "expected 10 to 9999 pixels"),
    ],
)
def test_other_sizes_are_refused_by_the_name_of_their_option(option: str, value: str, message: str) -> None:
    result = CliRunner().invoke(sizes, [option, value])
    assert result.exit_code == 2
    assert f"'{option}': {message}" in result.output
