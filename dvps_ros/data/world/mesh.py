# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes and the few shapes that everything in the world is made of.

Outward faces are counter-clockwise seen from outside. x forward, y left, z up, metres.
A triangle's ``slot`` (0..7) chooses one of the materials that the part which uses the mesh brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLOTS = 8


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices, normals float32 [V,3], uv float32 [V,2], triangles int32 [T,3], slots uint8 [T]."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray
    slots: np.ndarray
    two_sided: bool = False

    @property
    def sphere(self) -> tuple[np.ndarray, float]:
        """Centre [3] and radius of a sphere around all vertices."""
        low, high = self.vertices.min(0), self.vertices.max(0)
        centre = 0.5 * (low + high)
        return centre, float(np.sqrt(((self.vertices - centre) ** 2).sum(1).max()))

    def moved(
        self,
        offset: Sequence[float] = (0, 0, 0),
        turn: np.ndarray | None = None,
        scale: Sequence[float] | float = 1.0,
    ) -> Mesh:
        """Scaled along the axes, then turned by a rotation matrix, then moved."""
        s = np.broadcast_to(np.asarray(scale, np.float32), (3,))
        v, n = self.vertices * s, self.normals / s
        if turn is not None:
            v, n = v @ turn.T.astype(np.float32), n @ turn.T.astype(np.float32)
        n = n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        v = v + np.asarray(offset, np.float32)
        return Mesh(
            v.astype(np.float32), n.astype(np.float32), self.uv, self.triangles, self.slots, self.two_sided
        )

    def painted(self, slot: int) -> Mesh:
        """All triangles in this slot."""
        slots = np.full_like(self.slots, slot)
        return Mesh(self.vertices, self.normals, self.uv, self.triangles, slots, self.two_sided)


def merge(meshes: Sequence[Mesh], *, two_sided: bool = False) -> Mesh:
    """One mesh of all."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.triangles + s for m, s in zip(meshes, starts[:-1], strict=True)]).astype(np.int32),
        np.concatenate([m.slots for m in meshes]),
        two_sided,
    )


def turn_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(angle: float) -> np.ndarray:
    """Positive angles turn x down (to -z)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def turn_z(angle: float) -> np.ndarray:
    """Positive angles turn left."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def creased(vertices: np.ndarray, triangles: np.ndarray, slots: np.ndarray, crease_deg: float = 40.0) -> Mesh:
    """A mesh with normals that are smooth except across edges sharper than ``crease_deg``."""
    vertices = np.asarray(vertices, np.float32)
    triangles = np.asarray(triangles, np.int64)
    corner = vertices[triangles]
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.linalg.norm(face, axis=1)
    keep = area > 1e-9
    triangles, corner, face, slots = (
        triangles[keep],
        corner[keep],
        face[keep],
        np.asarray(slots, np.uint8)[keep],
    )
    unit = face / area[keep, None]
    # Corners that share a position, whatever their index, share smoothing.
    _, position = np.unique(np.round(vertices, 4), axis=0, return_inverse=True)
    position = position.reshape(-1)[triangles].reshape(-1)
    by_position = np.argsort(position, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(position[by_position]) > 0, True])
    normals = np.empty((len(triangles) * 3, 3), np.float32)
    limit = np.cos(np.radians(crease_deg))
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        corners = by_position[a:b]
        tri = corners // 3
        near = unit[tri] @ unit[tri].T > limit
        normals[corners] = near @ face[tri]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    count = len(triangles) * 3
    return Mesh(
        corner.reshape(-1, 3).astype(np.float32),
        normals,
        np.zeros((count, 2), np.float32),
        np.arange(count, dtype=np.int32).reshape(-1, 3),
        slots,
    )


_BOX_NORMALS = np.repeat(
    np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32), 4, axis=0
)
_BOX_CORNERS = 0.5 * np.array(
    [
        [1, -1, -1], [1, 1, -1], [1, 1, 1], [1, -1, 1],
        [-1, 1, -1], [-1, -1, -1], [-1, -1, 1], [-1, 1, 1],
        [1, 1, -1], [-1, 1, -1], [-1, 1, 1], [1, 1, 1],
        [-1, -1, -1], [1, -1, -1], [1, -1, 1], [-1, -1, 1],
        [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1],
        [-1, 1, -1], [1, 1, -1], [1, -1, -1], [-1, -1, -1],
    ],
    np.float32,
)  # fmt: skip
# Walls run u counter-clockwise round the box, so that a pattern goes on across an edge; v goes up.
_BOX_UV_AXES = np.array(
    [[[0, 0], [1, 0], [0, 1]], [[0, 0], [-1, 0], [0, 1]], [[-1, 0], [0, 0], [0, 1]], [[1, 0], [0, 0], [0, 1]],
     [[1, 0], [0, 1], [0, 0]], [[1, 0], [0, 1], [0, 0]]], np.float32,
)  # fmt: skip
_BOX_FACES = np.repeat(np.arange(6), 4)
_BOX_WIDTH_AXIS = np.repeat([1, 1, 0, 0], 4)
_BOX_TRIANGLES = (
    (np.arange(6)[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3).astype(np.int32)
)


def boxes(sizes: np.ndarray, centres: np.ndarray, slots: Sequence[int]) -> Mesh:
    """Axis-aligned boxes of sizes [N,3] around centres [N,3]. uv = metres along and up each face."""
    sizes = np.asarray(sizes, np.float32).reshape(-1, 3)
    n = len(sizes)
    v = _BOX_CORNERS * sizes[:, None]
    uv = np.einsum("nfc,fcu->nfu", v, _BOX_UV_AXES[_BOX_FACES])
    uv[:, :16, 0] += 0.5 * sizes[:, _BOX_WIDTH_AXIS]
    uv[:, :16, 1] += 0.5 * sizes[:, 2:]
    v = v + np.asarray(centres, np.float32).reshape(-1, 1, 3)
    triangles = _BOX_TRIANGLES + (24 * np.arange(n, dtype=np.int32))[:, None, None]
    return Mesh(
        v.reshape(-1, 3),
        np.tile(_BOX_NORMALS, (n, 1)),
        uv.reshape(-1, 2),
        triangles.reshape(-1, 3),
        np.repeat(np.asarray(slots, np.uint8), 12),
    )


def box(
    size: Sequence[float], centre: Sequence[float] = (0, 0, 0), slot: int = 0, top: int | None = None
) -> Mesh:
    """An axis-aligned box; ``top`` is another slot for its upper face. uv = metres along and up each face."""
    mesh = boxes(np.array([size]), np.array([centre]), [slot])
    if top is not None:
        mesh.slots[8:10] = top
    return mesh


def grid(
    points: np.ndarray,
    slots: np.ndarray | int = 0,
    *,
    uv: np.ndarray | None = None,
    crease_deg: float = 180.0,
) -> Mesh:
    """A sheet through points [N,M,3]: rows run on from N to N+1, outside is left of the columns' direction.

    Args:
        slots: one for all, or [N-1,M-1].
        uv: [N,M,2]; kept only when ``crease_deg`` is 180 (shared vertices).
    """
    n, m = points.shape[:2]
    index = np.arange(n * m).reshape(n, m)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    each = np.repeat(np.broadcast_to(np.asarray(slots, np.uint8), (n - 1, m - 1)).reshape(-1), 2)
    v = points.reshape(-1, 3).astype(np.float32)
    if crease_deg < 180.0:
        return creased(v, triangles, each, crease_deg)
    normals = _sheet_normals(points)
    flat = np.zeros((n * m, 2), np.float32) if uv is None else uv.reshape(-1, 2).astype(np.float32)
    return Mesh(v, normals.reshape(-1, 3), flat, triangles.astype(np.int32), each)


def _sheet_normals(points: np.ndarray) -> np.ndarray:
    """Normals float32 of sheets of points [...,N,M,3]: along x across, by central differences."""
    along, across = np.empty_like(points), np.empty_like(points)
    along[..., 1:-1, :, :] = points[..., 2:, :, :] - points[..., :-2, :, :]
    along[..., 0, :, :] = points[..., 1, :, :] - points[..., 0, :, :]
    along[..., -1, :, :] = points[..., -1, :, :] - points[..., -2, :, :]
    across[..., 1:-1, :] = points[..., 2:, :] - points[..., :-2, :]
    across[..., 0, :] = points[..., 1, :] - points[..., 0, :]
    across[..., -1, :] = points[..., -1, :] - points[..., -2, :]
    normals = np.cross(along, across)
    return (normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def ribbons(points: np.ndarray, uv: np.ndarray, slots: np.ndarray) -> Mesh:
    """Two-sided strips side by side with hard edges: points [S,N,2,3] (strip, along, right and left edge)."""
    count, n = points.shape[:2]
    index = np.arange(count * n * 2).reshape(count, n, 2)
    a, b, c, d = index[:, :-1, 0], index[:, 1:, 0], index[:, 1:, 1], index[:, :-1, 1]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return Mesh(
        points.reshape(-1, 3).astype(np.float32),
        _sheet_normals(points).reshape(-1, 3),
        uv.reshape(-1, 2).astype(np.float32),
        triangles.astype(np.int32),
        np.repeat(slots.astype(np.uint8), 2 * (n - 1)),
        two_sided=True,
    )


def facets(points: np.ndarray, slot: int = 0) -> Mesh:
    """Flat quads [N,4,3], corners counter-clockwise seen from outside; for what is built in numbers."""
    v = np.asarray(points, np.float32).reshape(-1, 4, 3)
    normals = np.cross(v[:, 2] - v[:, 0], v[:, 3] - v[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    n = len(v)
    triangles = (np.arange(n)[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return Mesh(
        v.reshape(-1, 3),
        np.repeat(normals, 4, axis=0),
        np.zeros((4 * n, 2), np.float32),
        triangles.astype(np.int32),
        np.full(2 * n, slot, np.uint8),
    )


def tube(
    points: Sequence[Sequence[float] | np.ndarray],
    radii: Sequence[float],
    sides: int = 8,
    slot: int = 0,
    flat: float = 1.0,
) -> Mesh:
    """A round tube along points, closed at both ends; ``flat`` squeezes its section along the second axis."""
    p = np.asarray(points, np.float64)
    along = np.gradient(p, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    main = along.mean(0)
    helper = (
        np.array([0.0, 1.0, 0.0]) if abs(main[1]) < 0.9 * np.linalg.norm(main) else np.array([1.0, 0.0, 0.0])
    )
    first = np.cross(helper, along)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    rings = p[:, None] + np.asarray(radii)[:, None, None] * (
        np.cos(angle)[None, :, None] * first[:, None] + flat * np.sin(angle)[None, :, None] * second[:, None]
    )
    ends = [np.repeat(rings[k].mean(0)[None], sides + 1, 0)[None] for k in (0, -1)]
    body = np.concatenate([ends[0], rings, ends[1]])
    return grid(body[:, ::-1], slot, crease_deg=50.0)


def ball(slot: int = 0, *, detail: int = 1) -> Mesh:
    """A unit sphere of 20 * 4^detail triangles."""
    g = (1 + 5**0.5) / 2
    v = np.array(
        [[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g],
         [0, -1, -g], [0, 1, -g], [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]]
    )  # fmt: skip
    t = np.array(
        [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2],
         [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11],
         [6, 2, 10], [8, 6, 7], [9, 8, 1]]
    )  # fmt: skip
    v /= np.linalg.norm(v[0])
    for _ in range(detail):
        edges = np.sort(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]), axis=1)
        unique, inverse = np.unique(edges, axis=0, return_inverse=True)
        middle = v[unique].mean(1)
        m = inverse.reshape(3, -1).T + len(v)
        v = np.concatenate([v, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
        t = np.concatenate(
            [
                np.stack([t[:, 0], m[:, 0], m[:, 2]], 1),
                np.stack([t[:, 1], m[:, 1], m[:, 0]], 1),
                np.stack([t[:, 2], m[:, 2], m[:, 1]], 1),
                m,
            ]
        )
    v = v.astype(np.float32)
    return Mesh(
        v, v.copy(), np.zeros((len(v), 2), np.float32), t.astype(np.int32), np.full(len(t), slot, np.uint8)
    )


def disc(radius: float, slot: int = 0, *, sides: int = 16, width: float = 0.0) -> Mesh:
    """A wheel-like solid disc across the y axis, ``width`` thick; uv runs over -1..1 on its faces."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    rim = np.stack([np.cos(angle), np.zeros(sides), np.sin(angle)], 1)
    meshes = []
    for side in (1.0, -1.0):
        v = np.concatenate([[[0, 0, 0]], rim]) * radius + [0, side * width / 2, 0]
        ring = np.arange(sides)
        t = np.stack([np.zeros(sides, int), 1 + ring, 1 + (ring + 1) % sides], 1)
        t = t if side < 0 else t[:, ::-1]
        uv = np.concatenate([[[0, 0]], rim[:, [0, 2]]]).astype(np.float32)
        normals = np.tile(np.array([[0, side, 0]], np.float32), (len(v), 1))
        meshes.append(
            Mesh(v.astype(np.float32), normals, uv, t.astype(np.int32), np.full(len(t), slot, np.uint8))
        )
    if width > 0:
        wall = np.stack(
            [np.concatenate([rim, rim[:1]]) * radius + [0, y, 0] for y in (-width / 2, width / 2)]
        )
        meshes.append(grid(wall, slot))
    return merge(meshes)
