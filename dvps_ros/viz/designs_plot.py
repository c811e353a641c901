# SPDX-License-Identifier: Apache-2.0
"""Plots of ``dvps bench designs``: scores against milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvps_ros.viz.plot import panels, write_plot

PANELS = {"miou": "mIoU", "pq": "panoptic quality", "abs_rel": "relative depth error"}
COLOURS = {"fp32": "#5b6b7b", "bf16": "#2566b8", "fp16": "#2566b8", "int8": "#d35400"}


def write_designs_plot(path: Path, report: Mapping[str, Any], fronts: Mapping[str, Sequence[int]]) -> None:
    """A panel for each of :data:`PANELS`; the line joins the rows of the front, best is up and left.

    Args:
        report: as the command writes it; rows without scores or times are left out.
        fronts: of each score, indices of the rows on the Pareto front.

    Raises:
        InputError: the file cannot be written.
    """
    rows = report["rows"]
    figure, row_of_axes = panels(15, 4.8, len(PANELS))
    # What all rows share says nothing on each point.
    varying = [key for key in ("model", "size") if len({row[key] for row in rows}) > 1]
    for axes, (score, title) in zip(row_of_axes, PANELS.items(), strict=True):
        for precision in dict.fromkeys(row["precision"] for row in rows):
            points = [
                (row["ms"]["median"], row["quality"][score], " ".join(row[key] for key in varying))
                for row in rows
                if row["precision"] == precision
                and row["ms"]
                and row["quality"]
                and row["quality"][score] is not None
            ]
            if not points:
                continue
            color = COLOURS.get(precision, "#7d3c98")
            axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=color, label=precision)
            for x, y, text in points:
                axes.annotate(
                    text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=color
                )
        line = [(rows[i]["ms"]["median"], rows[i]["quality"][score]) for i in fronts[score]]
        axes.plot([p[0] for p in line], [p[1] for p in line], "-", color="#1f8a4c", lw=1.2, zorder=0)
        axes.margins(x=0.12, y=0.1)
        axes.set(xlabel="engine, ms", title=title)
        if line:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= t <= high]
            axes.set_xticks(ticks, [str(t) for t in ticks])
            axes.legend(frameon=False)
        if score == "abs_rel":
            axes.invert_yaxis()
        axes.grid(alpha=0.25)
    machine = report.get("time_made", {}).get("machine", {})
    figure.suptitle(
        f"{', '.join(dict.fromkeys(row['model'] for row in rows))}; synthetic worlds never trained on; "
        f"{machine.get('cpu', 'not timed')}, {machine.get('cores', '-')} cores",
        fontsize=10,
    )
    write_plot(path, figure)
