# SPDX-License-Identifier: Apache-2.0
"""The rasteriser against a brute-force ray caster and against planes worked out by hand."""

import numpy as np
import pytest

from dvps_ros.data.world import shapes
from dvps_ros.data.world.mesh import ball, box, disc, tube
from dvps_ros.data.world.raster import NEAR_M, rasterise, rasterise_shadow

FX, FY, CX, CY, WIDTH, HEIGHT = 41.0, 39.0, 30.3, 19.6, 60, 40


def draw(vertices, triangles, *, cull=False, pose=None):
    """Depth float64 [H,W] (0 = nothing) and triangle index int32 [H,W] (-1 = nothing) of one part."""
    vertices, triangles = np.asarray(vertices, np.float32), np.asarray(triangles, np.int32)
    inverse_z, visible = np.zeros((HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), -1, np.int32)
    edges, source = np.empty((len(triangles) + 1, 3, 3)), np.empty((len(triangles) + 1, 2), np.int32)
    pose = np.eye(4)[None, :3] if pose is None else pose[None, :3]
    part_range = np.array([[0, len(vertices), 0, len(triangles)]], np.int64)
    rasterise(
        np.array([0]),
        pose,
        part_range,
        np.array([cull], np.uint8),
        vertices,
        triangles,
        FX,
        FY,
        CX,
        CY,
        inverse_z,
        visible,
        edges,
        source,
    )
    index = np.where(visible >= 0, source[visible, 0], -1)
    return np.where(visible >= 0, 1 / np.maximum(inverse_z, 1e-12), 0.0), index


def cast(vertices, triangles):
    """The same by intersecting every pixel's ray with every triangle, and the margin to the nearest edge."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    ray = np.stack([(u - CX) / FX, (v - CY) / FY, np.ones_like(u)], -1)
    depth, index = np.full((HEIGHT, WIDTH), np.inf), np.full((HEIGHT, WIDTH), -1)
    margin = np.full((HEIGHT, WIDTH), np.inf)
    for k, (a, b, c) in enumerate(np.asarray(vertices, np.float32).astype(float)[triangles]):
        normal = np.cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (normal @ a) / (ray @ normal)
        p = ray * t[..., None]
        w = np.stack(
            [
                np.cross(c - b, p - b) @ normal,
                np.cross(a - c, p - c) @ normal,
                np.cross(b - a, p - a) @ normal,
            ],
            -1,
        )
        w = w / (normal @ normal)
        margin = np.minimum(margin, np.abs(w).min(-1))
        hit = (w >= 0).all(-1) & (t >= NEAR_M) & (t < depth)
        depth[hit], index[hit] = t[hit], k
    return np.where(index >= 0, depth, 0.0), index, margin


@pytest.mark.parametrize("seed", range(12))
def test_random_triangles_agree_with_ray_casting(seed):
    rng = np.random.default_rng(seed)
    # Some vertices lie behind the camera: the triangles cross the near plane.
    vertices = rng.uniform([-4, -3, -1.5], [4, 3, 7], (36, 3))
    triangles = np.arange(36).reshape(-1, 3)
    depth, index = draw(vertices, triangles)
    want_depth, want_index, margin = cast(vertices, triangles)
    clear = margin > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(index[clear], want_index[clear])
    np.testing.assert_allclose(depth[clear], want_depth[clear], rtol=1e-6)
    assert (index >= 0).any()


def test_ground_plane_and_box_have_analytic_depth():
    height = 1.5
    plane = np.array([[-500, height, -10], [500, height, -10], [500, height, 900], [-500, height, 900]])
    depth, _ = draw(plane, [[0, 1, 2], [0, 2, 3]])
    v = np.arange(HEIGHT)
    below = v > CY
    z = np.zeros(HEIGHT)
    z[below] = height * FY / (v[below] - CY)
    seen = below & (z < 400)
    np.testing.assert_allclose(depth[seen], np.repeat(z[seen, None], WIDTH, 1), rtol=1e-6)
    assert (depth[~below] == 0).all()

    mesh = box((1.0, 2.0, 4.0), (0.0, 0.0, 7.0))
    depth, _ = draw(mesh.vertices, mesh.triangles, cull=True)
    u, w = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    front = (np.abs((u - CX) / FX * 5) < 0.5) & (np.abs((w - CY) / FY * 5) < 1.0)
    np.testing.assert_allclose(depth[front], 5.0, rtol=1e-6)
    assert (depth[~front] == 0).all()  # its sides hide behind the front face


def test_neighbouring_triangles_leave_no_crack():
    x, y = np.meshgrid(np.linspace(-9, 9, 31), np.linspace(-9, 9, 31))
    vertices = np.stack([x, y, 8 + 0.7 * x], -1).reshape(-1, 3)
    k = np.arange(31 * 31).reshape(31, 31)
    a, b, c, d = (q.reshape(-1) for q in (k[:-1, :-1], k[:-1, 1:], k[1:, 1:], k[1:, :-1]))
    depth, _ = draw(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    inner = depth[2:-2, WIDTH // 3 : -WIDTH // 3]
    assert (inner > 0).all()


def test_culling_hides_the_far_side_only():
    mesh = ball(detail=2)
    pose = np.eye(4)
    pose[2, 3] = 3.0
    with_cull, _ = draw(mesh.vertices, mesh.triangles, cull=True, pose=pose)
    without, _ = draw(mesh.vertices, mesh.triangles, cull=False, pose=pose)
    np.testing.assert_allclose(with_cull, without)
    flipped, _ = draw(mesh.vertices, mesh.triangles[:, ::-1], cull=True, pose=pose)
    assert flipped.max() > 3.0  # inside out: only the back is left


def test_shadow_map_holds_the_greatest_height():
    mesh = box((2.0, 4.0, 3.0), (1.0, 0.0, 1.5))
    shadow = np.full((41, 41), -1e9, np.float32)
    pose = np.eye(4)[None, :3]
    ranges = np.array([[0, 24, 0, 12]], np.int64)
    rasterise_shadow(np.array([0]), pose, ranges, mesh.vertices, mesh.triangles, 0.25, shadow)
    y, x = (np.mgrid[:41, :41] - 20) * 0.25
    inside = (np.abs(x - 1) < 1) & (np.abs(y) < 2)
    outside = (np.abs(x - 1) > 1.01) | (np.abs(y) > 2.01)
    np.testing.assert_allclose(shadow[inside], 3.0)
    assert (shadow[outside] == -1e9).all()


@pytest.mark.parametrize(
    "mesh",
    [box((1, 2, 3)), ball(detail=1), disc(0.4, width=0.2), tube([(0, 0, 0), (0, 0.1, 1)], [0.2, 0.1])]
    + [shapes.car(b)[0] for b in shapes.CARS]
    + [
        shapes.lorry("box")[0],
        shapes.bus("city")[0],
        shapes.tram("tram")[0],
        shapes.bicycle().whole,
        shapes.limb("torso"),
    ],
)
def test_solid_meshes_face_outwards(mesh):
    corner = mesh.vertices.astype(float)[mesh.triangles]
    volume = np.einsum("ij,ij->i", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])).sum() / 6
    assert volume > 0
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert ((face * mesh.normals[mesh.triangles].mean(1)).sum(1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)
