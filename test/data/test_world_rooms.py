# SPDX-License-Identifier: Apache-2.0
"""The rooms that a block of the world is built in: its site, its lots, its markings."""

import numpy as np
import pytest

from dvps_ros.data.world import shade
from dvps_ros.data.world.barriers import FENCES, SOLIDS, barrier
from dvps_ros.data.world.blocks import grow_block
from dvps_ros.data.world.lots import LOTS, lot
from dvps_ros.data.world.markings import CROSSWALK_M, Line, Markings, branch_markings
from dvps_ros.data.world.mesh import box
from dvps_ros.data.world.plants import tree
from dvps_ros.data.world.site import BLOCK_M, draw_site
from dvps_ros.data.world.street import Street
from dvps_ros.data.world.styles import STYLES

MARKINGS = Markings(
    lines=(Line(-3.0, shade.SOLID), Line(0.0, shade.DASHED)),
    period_m=8.0,
    dash_m=3.0,
    lane_width_m=3.0,
    left_edge_m=3.5,
    right_edge_m=-3.6,
    wear=0.5,
    line_width_m=0.12,
)


def street_of(seed=1, style="city", forks=1.0):
    return Street(seed, style, np.random.default_rng([seed, 1]), forks=forks)


def site_with(wanted, style="city", forks=1.0):
    """The first site of some streets that is as wanted."""
    for seed in range(20):
        street = street_of(seed, style, forks)
        for number in range(12):
            site = draw_site(street, number)
            if wanted(site):
                return site
    raise AssertionError("no such site")


def test_markings_become_the_parameters_of_a_road():
    none = [0.0] * 8
    lines = [2, -3.0, shade.SOLID, 0.0, shade.DASHED, *none]
    assert MARKINGS.params() == [*lines, 8.0, 3.0, 0.0, 0.0, 3.0, 3.5, -3.6, 0.5, 0.12, 0.0]
    assert len(MARKINGS.params()) <= shade.MATERIAL_COLUMNS - shade.P


def test_a_crosswalk_has_a_place_and_a_width():
    plain = MARKINGS.params()
    crossed = Markings(**{**vars(MARKINGS), "crosswalk_s": 120.0}).params()
    changed = [k for k, (a, b) in enumerate(zip(plain, crossed, strict=True)) if a != b]
    assert [crossed[k] for k in changed] == [120.0, CROSSWALK_M]


def test_only_the_line_at_the_branch_is_broken():
    kinds = [line.kind for line in MARKINGS.broken_at(-3.0).lines]
    assert kinds == [shade.DASHED, shade.DASHED]
    assert MARKINGS.broken_at(1.0) == MARKINGS


def test_a_branch_has_lines_where_its_street_has():
    marked = branch_markings(MARKINGS, 3.0, marked=True, one_way=False)
    assert [line.d for line in marked.lines] == [2.75, -2.75, 0.0]
    assert (marked.right_edge_m, marked.left_edge_m) == (-3.0, 3.0)
    assert len(branch_markings(MARKINGS, 3.0, marked=True, one_way=True).lines) == 2
    assert branch_markings(MARKINGS, 3.0, marked=False, one_way=False).lines == ()


def test_every_style_has_lots_that_can_be_built():
    assert {kind for style in STYLES.values() for kind in style.lots} <= set(LOTS)


@pytest.mark.parametrize("kind", LOTS)
@pytest.mark.parametrize("side", [-1, 1])
def test_lots_stand_on_their_side_of_the_road(kind, side):
    site = draw_site(street_of(forks=0.0), 3)
    lot(site, kind, side, site.s0, site.s0 + BLOCK_M)
    route = site.street.route
    s = np.arange(site.s0 - 20.0, site.s0 + 60.0, 0.25)
    edge, other = (route.points(s, site.edge(k))[:, :2] for k in (side, -side))
    assert site.parts
    for part in site.parts:
        at = part.world_from_part[:2, 3]
        assert np.linalg.norm(edge - at, axis=1).min() < np.linalg.norm(other - at, axis=1).min()


@pytest.mark.parametrize("kind", [*SOLIDS, *FENCES])
def test_a_barrier_keeps_off_the_branch(kind):
    site = site_with(lambda q: q.branch and q.branch.fork.s < q.s0 and q.branch.nose > q.s0)
    branch = site.branch
    d = branch.side * float(branch.q(site.s0 + 20.0))
    free = site.free_of_branch(site.s0, site.s1, d)
    assert all(not site.on_branch(s, d, 0.0) for run in free for s in np.linspace(*run, 20))
    barrier(site, kind, d, site.s0, site.s1, 0.0)
    assert bool(site.parts) == bool(free)


def test_nothing_is_put_on_a_side_street_but_what_belongs_there():
    site = site_with(lambda q: q.side_streets, style="residential")
    side = site.side_streets[0]
    at = site.junction.middle, site.edge(side) + side * 10.0
    tree(site, *at, 5.0)
    site.put(box((1, 1, 1)), (0,), *at)
    assert site.parts == []
    site.put(box((1, 1, 1)), (0,), *at, on_road=True)
    assert len(site.parts) == 1


def test_a_block_is_the_same_whoever_grows_it():
    blocks = [grow_block(street_of(seed=7), 2) for _ in range(2)]
    np.testing.assert_array_equal(blocks[0].poses, blocks[1].poses)
    np.testing.assert_array_equal(blocks[0].arrays.materials, blocks[1].arrays.materials)
