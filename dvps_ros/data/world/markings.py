# SPDX-License-Identifier: Apache-2.0
"""What is painted on a road, and the rails in it: a record, and its parameters for the shader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dvps_ros.data.world.shade import DASHED, DOUBLE, MOST_LINES, RAILS, SOLID
from dvps_ros.data.world.styles import CrossSection, Style

CROSSWALK_M = 3.0
"""Width of a crosswalk along the road."""


class Line(NamedTuple):
    """A line along the road."""

    d: float
    """Its middle, metres to the left of the road's middle line."""
    kind: int
    """``shade.SOLID``, ``DASHED``, ``DOUBLE`` or ``RAILS``."""


@dataclass(frozen=True)
class Markings:
    """The markings of one carriageway, and how worn it is; d is to the left of its middle line, metres."""

    lines: tuple[Line, ...]
    """At most ``MOST_LINES``."""
    period_m: float
    """From one dash to the next."""
    dash_m: float
    lane_width_m: float
    """Between the tracks that tyres darken."""
    left_edge_m: float
    """d up to which a crosswalk reaches."""
    right_edge_m: float
    wear: float
    """0 new .. 1 cracked, patched and rubbed off."""
    line_width_m: float
    crosswalk_s: float | None = None
    """s at which a crosswalk begins, if there is one; before it is a stop line on the right half."""

    def broken_at(self, d: float) -> Markings:
        """The same with a dashed line where one runs at d."""
        lines = (Line(x.d, DASHED) if abs(x.d - d) < 1e-6 else x for x in self.lines)
        return replace(self, lines=tuple(lines))

    def params(self) -> list[float]:
        """Parameters of a material of kind ``shade.ROAD``, in the order of its columns there."""
        unused = [0.0] * (2 * (MOST_LINES - len(self.lines)))
        crosses = self.crosswalk_s is not None
        stop_line_to_d = 0.0
        return [
            len(self.lines),
            *(value for line in self.lines for value in line),
            *unused,
            self.period_m,
            self.dash_m,
            self.crosswalk_s if self.crosswalk_s is not None else 0.0,
            CROSSWALK_M if crosses else 0.0,
            self.lane_width_m,
            self.left_edge_m,
            self.right_edge_m,
            self.wear,
            self.line_width_m,
            stop_line_to_d,
        ]


def draw_markings(
    style: Style, section: CrossSection, rng: np.random.Generator, *, marked: bool
) -> tuple[Markings, bool]:
    """Markings of a street, and whether a tram runs in it.

    Args:
        marked: its lanes have lines between them.
    """
    x = section
    lines: list[Line] = []
    if marked:
        dashed_centre = rng.random() < 0.6
        lines += [Line(-k * x.lane_width, DASHED) for k in range(1, x.lanes_right)]
        lines += [Line(x.median + k * x.lane_width, DASHED) for k in range(1, x.lanes_left)]
        if x.median > 0.5:
            lines += [Line(-0.1, SOLID), Line(x.median + 0.1, SOLID)]
        elif dashed_centre:
            lines.append(Line(0.0, DASHED))
        else:
            lines.append(Line(0.0, DOUBLE if rng.random() < 0.5 else SOLID))
    # An empty parking strip is marked off even where lanes are not: nobody could tell it from a lane.
    edges = marked and style.name in ("highway", "rural")
    if x.park_right or edges:
        lines.append(Line(x.lanes_right_d, SOLID))
    if x.park_left or edges:
        lines.append(Line(x.lanes_left_d, SOLID))
    tram = style.name in ("city", "avenue") and rng.random() < 0.28
    if tram:
        lines = [*lines[: MOST_LINES - 2], Line(x.lane_d(0), RAILS), Line(x.lane_d(-1), RAILS)]
    period_m = 12.0 if style.name == "highway" else rng.uniform(5.0, 9.0)
    markings = Markings(
        lines=tuple(lines[:MOST_LINES]),
        period_m=period_m,
        dash_m=period_m * rng.uniform(0.33, 0.5),
        lane_width_m=x.lane_width,
        left_edge_m=x.left_edge,
        right_edge_m=x.right_edge,
        wear=rng.uniform(0.1, 1.0),
        line_width_m=rng.uniform(0.10, 0.16),
    )
    return markings, tram


def branch_markings(street: Markings, half_m: float, *, marked: bool, one_way: bool) -> Markings:
    """Markings of a branch of this half width that leaves a street with these markings."""
    lines = [Line(half_m - 0.25, SOLID), Line(0.25 - half_m, SOLID)]
    if not one_way:
        lines.append(Line(0.0, DASHED))
    return replace(
        street,
        lines=tuple(lines if marked else ()),
        left_edge_m=half_m,
        right_edge_m=-half_m,
        crosswalk_s=None,
    )
