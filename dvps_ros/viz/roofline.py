# SPDX-License-Identifier: Apache-2.0
"""A picture of an engine's profile: the longest layers, and where the engine stands under its roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dvps_ros.viz.plot import panels, write_plot

LONGEST = 25


def draw_profile(
    path: Path,
    title: str,
    layers: Sequence[tuple[str, float]],
    dots: Sequence[tuple[float, float, float]],
    whole: tuple[float, float],
    peak_flop_s: float,
    peak_bytes_s: float,
) -> None:
    """Write a PNG.

    Args:
        layers: (name, milliseconds), the longest first.
        dots: (operations a byte, operations a second, share of the time) of layers with operations.
        whole: (operations a byte, operations a second) of the engine.

    Raises:
        InputError: the file cannot be written.
    """
    figure, (bars, roof) = panels(14, 7, 2)
    figure.suptitle(title)
    shown = list(layers[:LONGEST])[::-1]
    bars.barh([name[-48:] for name, _ in shown], [ms for _, ms in shown], color="#4878a8")
    bars.set_xlabel("milliseconds")
    bars.set_title(f"longest layers ({len(shown)} of {len(layers)})")
    bars.tick_params(axis="y", labelsize=7)
    ridge = peak_flop_s / peak_bytes_s
    low = min([ridge / 30, *(x / 2 for x, *_ in (*dots, whole))])
    high = max([ridge * 30, *(x * 2 for x, *_ in (*dots, whole))])
    roof.loglog([low, ridge, high], [low * peak_bytes_s, peak_flop_s, peak_flop_s], "k-")
    if dots:
        intensity, achieved, share = zip(*dots, strict=True)
        sizes = [20 + 2000 * s for s in share]
        roof.scatter(intensity, achieved, sizes, color="#4878a8", alpha=0.4, label="layers, by their time")
    roof.plot(*whole, "o", color="#c44e52", label=f"the engine: {whole[1] / peak_flop_s:.0%} of peak")
    roof.legend(loc="lower right")
    roof.set_xlabel("operations a byte")
    roof.set_ylabel("operations a second")
    roof.set_title(f"roofline: {peak_flop_s / 1e9:.0f} GFLOP/s, {peak_bytes_s / 1e9:.1f} GB/s")
    roof.grid(True, which="both", alpha=0.2)
    write_plot(path, figure)
