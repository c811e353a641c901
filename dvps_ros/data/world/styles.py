# SPDX-License-Identifier: Apache-2.0
"""Kinds of streets, and the cross-section that a world draws from its kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Style:
    """What kind of street it is. Widths in metres, speeds in m/s."""

    name: str
    lane_width: tuple[float, float]
    lanes_right: tuple[int, int]
    lanes_left: tuple[int, int]
    parking: float
    """Probability of a parking lane on each side."""
    walk: float
    """Probability of sidewalks."""
    curvature: float
    """Strongest, 1/m."""
    speed: tuple[float, float]
    lots: dict[str, float]
    """What stands beside the road, with weights."""
    traffic_m: float
    """Mean distance of vehicles in a lane."""
    people_m: float
    """Mean distance of pedestrians on a sidewalk."""
    lines: float
    """Probability of lane markings."""
    junctions: float
    """Probability of side streets in 40 m."""
    forks: float
    """Probability of a fork at each of its possible places."""


STYLES = {
    "residential": Style(
        "residential",
        (2.7, 3.3),
        (1, 1),
        (1, 1),
        0.8,
        0.95,
        1 / 55,
        (4.0, 9.0),
        {"houses": 5, "rows": 2, "garden": 2, "park": 1, "wall": 1},
        55.0,
        17.0,
        0.35,
        0.35,
        0.8,
    ),
    "city": Style(
        "city",
        (2.9, 3.5),
        (1, 2),
        (1, 2),
        0.7,
        1.0,
        1 / 120,
        (5.0, 12.0),
        {"rows": 6, "blocks": 3, "park": 1, "wall": 0.6, "parking": 0.7},
        32.0,
        7.5,
        0.9,
        0.3,
        0.8,
    ),
    "avenue": Style(
        "avenue",
        (3.2, 3.7),
        (2, 3),
        (2, 3),
        0.4,
        1.0,
        1 / 250,
        (8.0, 16.0),
        {"blocks": 4, "rows": 2, "park": 2, "parking": 1, "rail": 1.2, "fence": 1},
        34.0,
        12.0,
        1.0,
        0.12,
        0.7,
    ),
    "highway": Style(
        "highway",
        (3.5, 3.75),
        (2, 4),
        (2, 3),
        0.0,
        0.0,
        1 / 600,
        (18.0, 32.0),
        {"field": 4, "forest": 4, "barrier": 2, "rail": 0.7, "blocks": 0.6},
        45.0,
        1e9,
        1.0,
        0.0,
        0.7,
    ),
    "rural": Style(
        "rural",
        (2.9, 3.5),
        (1, 1),
        (1, 1),
        0.1,
        0.15,
        1 / 90,
        (8.0, 20.0),
        {"field": 5, "forest": 4, "houses": 1.5, "fence": 1.5, "rail": 0.6},
        80.0,
        60.0,
        0.8,
        0.06,
        0.7,
    ),
}


@dataclass(frozen=True)
class CrossSection:
    """Widths across the road, metres; the same over one world."""

    lane_width: float
    lanes_right: int
    lanes_left: int
    median: float
    """Between the directions; the right lanes begin at d = 0, the left ones at d = median."""
    park_right: float
    park_left: float
    shoulder: float
    kerb: float
    """Height of the kerb; 0 has none."""
    verge: float
    walk: float
    """Width of the sidewalk; 0 has none."""

    @property
    def right_edge(self) -> float:
        """d of the road's edge."""
        return -(self.lanes_right * self.lane_width + self.park_right + self.shoulder)

    @property
    def left_edge(self) -> float:
        """d of the road's edge."""
        return self.median + self.lanes_left * self.lane_width + self.park_left + self.shoulder

    @property
    def lanes_right_d(self) -> float:
        """d at which the right lanes end."""
        return -self.lanes_right * self.lane_width

    @property
    def lanes_left_d(self) -> float:
        """d at which the left lanes end."""
        return self.median + self.lanes_left * self.lane_width

    @property
    def lot(self) -> float:
        """Width of what lies between the road's edge and the lots."""
        return self.verge + self.walk

    def edge(self, side: int) -> float:
        """d of the road's edge on a side: 1 left, -1 right."""
        return self.right_edge if side < 0 else self.left_edge

    def lane_d(self, lane: int) -> float:
        """Middle of a lane: 0, 1, .. to the right, -1, -2, .. against us."""
        if lane >= 0:
            return -(lane + 0.5) * self.lane_width
        return self.median + (-lane - 0.5) * self.lane_width


def draw_section(style: Style, rng: np.random.Generator) -> CrossSection:
    """A cross-section as streets of this kind have them."""
    right = int(rng.integers(style.lanes_right[0], style.lanes_right[1] + 1))
    left = int(rng.integers(style.lanes_left[0], style.lanes_left[1] + 1))
    highway = style.name == "highway"
    walk = rng.random() < style.walk
    median = rng.uniform(1.6, 5.0) if highway or (style.name == "avenue" and rng.random() < 0.5) else 0.0
    return CrossSection(
        lane_width=rng.uniform(*style.lane_width),
        lanes_right=right,
        lanes_left=left,
        median=median,
        park_right=2.1 if rng.random() < style.parking else 0.0,
        park_left=2.1 if rng.random() < style.parking else 0.0,
        shoulder=2.4 if highway else (0.5 if not walk else 0.15),
        kerb=rng.uniform(0.06, 0.16) if walk else 0.0,
        verge=rng.uniform(0.8, 2.2) if walk and rng.random() < 0.35 else (1.2 if not walk else 0.0),
        walk=rng.uniform(1.6, 4.8) if walk else 0.0,
    )
