# SPDX-License-Identifier: Apache-2.0
"""What the plots of all commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dvps_ros.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(width: float, height: float, count: int) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches, with so many axes side by side."""
    # The object interface: no window system, no global state of pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    row = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def write_plot(path: Path, figure: Figure) -> None:
    """Write a picture of the kind that the name's suffix says.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format=path.suffix.removeprefix("."))


def tab20(least_spread: float) -> list[tuple[float, float, float]]:
    """The colours of that map whose largest and smallest channel differ by more than this: no greys."""
    from matplotlib import colormaps

    colours = [colormaps["tab20"](i)[:3] for i in range(20)]
    return [c for c in colours if max(c) - min(c) > least_spread]
