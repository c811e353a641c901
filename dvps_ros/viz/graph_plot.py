# SPDX-License-Identifier: Apache-2.0
"""Plots of ``dvps bench graph``: losses of the search, latency of each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.viz.plot import panels, write_plot


def write_graph_plot(path: Path, report: Mapping[str, Any]) -> None:
    """Write a picture of three plots from the report (its JSON).

    Raises:
        InputError: the file cannot be written.
    """
    figure, (loss, spread, course) = panels(13, 4.2, 3)
    _losses(loss, report)
    for name, run in report["runs"].items():
        times_s = np.array(run["sent_s"], float)
        latency_ms = np.array([np.nan if v is None else v for v in run["latency_ms"]], float)
        ordered = np.sort(latency_ms[np.isfinite(latency_ms)])
        share = 100 * np.arange(1, ordered.size + 1) / max(1, ordered.size)
        (line,) = spread.step(ordered, share, where="post", label=name)
        course.plot(times_s, latency_ms, ".-", ms=3, lw=0.8, color=line.get_color())
        missed = times_s[~np.isfinite(latency_ms)]
        course.plot(missed, np.zeros(missed.size), "x", ms=4, color=line.get_color())
    spread.set(xlabel="camera stamp to last output, ms", ylabel="frames, %", title="Latency", xlim=(0, None))
    course.set(xlabel="time sent, s", ylabel="latency, ms", title="Frame by frame (x: missed)")
    if report["runs"]:
        spread.legend(frameon=False)
    for axes in (loss, spread, course):
        axes.grid(alpha=0.25)
    config = report["config"]
    figure.suptitle(
        f"{config['engine.model']} at {config['engine.size']}, camera {config['camera']}, "
        f"{len(report['topics'])} outputs, {report['machine']['cpu']}",
        fontsize=10,
    )
    write_plot(path, figure)


def _losses(axes: Any, report: Mapping[str, Any]) -> None:
    for sustained, color, name in ((True, "#1f8a4c", "sustained"), (False, "#c0392b", "too fast")):
        probes = [p for p in report["search"] if p["sustained"] is sustained]
        if probes:
            axes.plot(
                [p["rate_hz"] for p in probes],
                [100 * p["loss"] for p in probes],
                "o",
                color=color,
                label=name,
            )
    axes.axhline(5, color="#5b6b7b", lw=1, ls="--")
    if report["peak_rate_hz"] is not None:
        axes.axvline(
            report["peak_rate_hz"], color="#2566b8", lw=1.2, label=f"peak {report['peak_rate_hz']:.1f} Hz"
        )
    if report["search"]:
        axes.legend(frameon=False)
    axes.set(xlabel="rate asked, Hz", ylabel="frames missed, %", title="Search for the peak rate")
