# SPDX-License-Identifier: Apache-2.0
"""A z-buffer rasteriser in numba: parts (mesh + rigid or scaled pose) to a visibility buffer.

Each triangle is set up in homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D
homogeneous coordinates", 1997): with the vertices P0, P1, P2 in the camera frame, the rows of
[P0 P1 P2]^-1 applied to the pixel's ray give b_i / z, where b_i are the barycentric coordinates of the point
that the pixel sees. The three are affine in the pixel, their sum is 1/z, and a pixel is inside where none is
negative. So interpolation is perspective-correct by construction, and a triangle that crosses the near plane
needs no clipping: pixels nearer than it are refused one by one.
"""

from __future__ import annotations

import numpy as np

from dvps_ros.jit import njit

NEAR_M = 0.1
"""Nothing nearer than this is drawn."""

SLACK_PX = 1e-7
"""Pixel centres this close to an edge count as inside, so that neighbours leave no crack."""


@njit(nogil=True)
def _span(e, y, x_low, x_high):
    """First and last column of row y in which the three edge functions e [3,3] are not negative."""
    left = float(x_low)
    right = float(x_high)
    for i in range(3):
        a = e[i, 0]
        c = e[i, 1] * y + e[i, 2]
        if a > 0.0:
            left = max(left, -c / a - SLACK_PX)
        elif a < 0.0:
            right = min(right, -c / a + SLACK_PX)
        elif c < 0.0:
            return 0, -1
    if right < left:
        return 0, -1
    return int(np.ceil(left)), int(np.floor(right))


@njit(nogil=True)
def rasterise(
    order,
    part_pose,
    part_range,
    part_cull,
    vertices,
    triangles,
    fx,
    fy,
    cx,
    cy,
    inverse_z,
    visible,
    edges,
    source,
):
    """Draw parts into ``inverse_z`` and ``visible``.

    Args:
        order: int64 [N]: the parts to draw, best nearest first.
        part_pose: float64 [P,3,4]: camera from part.
        part_range: int64 [P,4]: first and last+1 vertex, first and last+1 triangle.
        part_cull: uint8 [P]: 1 hides faces that look away (clockwise seen from outside).
        vertices: float32 [V,3]; triangles: int32 [T,3].
        inverse_z: float64 [H,W], zeroed by the caller: 1/z of the nearest surface.
        visible: int32 [H,W], filled with -1 by the caller: row of ``edges`` and ``source``.
        edges: float64 [M,3,3]: out, edge functions of drawn triangles (b_i/z = e_i . (u, v, 1)).
        source: int32 [M,2]: out, triangle and part of each row.

    Returns:
        Number of rows used. M must be at least the number of triangles in ``order``.
    """
    height, width = inverse_z.shape
    most = 0
    for n in range(order.shape[0]):
        most = max(most, part_range[order[n], 1] - part_range[order[n], 0])
    points = np.empty((most, 3), np.float64)
    screen = np.empty((most, 2), np.float64)
    used = 0
    nearest = 1.0 / NEAR_M
    for n in range(order.shape[0]):
        part = order[n]
        pose = part_pose[part]
        v0 = part_range[part, 0]
        for i in range(part_range[part, 1] - v0):
            x, y, z = vertices[v0 + i, 0], vertices[v0 + i, 1], vertices[v0 + i, 2]
            for r in range(3):
                points[i, r] = pose[r, 0] * x + pose[r, 1] * y + pose[r, 2] * z + pose[r, 3]
            if points[i, 2] > NEAR_M:
                screen[i, 0] = fx * points[i, 0] / points[i, 2] + cx
                screen[i, 1] = fy * points[i, 1] / points[i, 2] + cy
        for t in range(part_range[part, 2], part_range[part, 3]):
            i0, i1, i2 = triangles[t, 0] - v0, triangles[t, 1] - v0, triangles[t, 2] - v0
            z0, z1, z2 = points[i0, 2], points[i1, 2], points[i2, 2]
            if z0 <= NEAR_M and z1 <= NEAR_M and z2 <= NEAR_M:
                continue
            if z0 > NEAR_M and z1 > NEAR_M and z2 > NEAR_M:
                u_low = min(screen[i0, 0], screen[i1, 0], screen[i2, 0])
                u_high = max(screen[i0, 0], screen[i1, 0], screen[i2, 0])
                v_low = min(screen[i0, 1], screen[i1, 1], screen[i2, 1])
                v_high = max(screen[i0, 1], screen[i1, 1], screen[i2, 1])
            else:
                u_low, v_low, u_high, v_high = 1e30, 1e30, -1e30, -1e30
                for a in range(3):
                    p = points[triangles[t, a] - v0]
                    q = points[triangles[t, (a + 1) % 3] - v0]
                    if p[2] > NEAR_M:
                        u, v = fx * p[0] / p[2] + cx, fy * p[1] / p[2] + cy
                        u_low, u_high = min(u_low, u), max(u_high, u)
                        v_low, v_high = min(v_low, v), max(v_high, v)
                    if (p[2] > NEAR_M) != (q[2] > NEAR_M):
                        k = (NEAR_M - p[2]) / (q[2] - p[2])
                        u = fx * (p[0] + k * (q[0] - p[0])) / NEAR_M + cx
                        v = fy * (p[1] + k * (q[1] - p[1])) / NEAR_M + cy
                        u_low, u_high = min(u_low, u), max(u_high, u)
                        v_low, v_high = min(v_low, v), max(v_high, v)
            if u_high < 0.0 or v_high < 0.0 or u_low > width - 1 or v_low > height - 1:
                continue
            x_low = int(np.ceil(max(u_low - SLACK_PX, 0.0)))
            x_high = int(np.floor(min(u_high + SLACK_PX, width - 1.0)))
            y_low = int(np.ceil(max(v_low - SLACK_PX, 0.0)))
            y_high = int(np.floor(min(v_high + SLACK_PX, height - 1.0)))
            if x_low > x_high or y_low > y_high:
                continue
            p0, p1, p2 = points[i0], points[i1], points[i2]
            c0x, c0y, c0z = (
                p1[1] * p2[2] - p1[2] * p2[1],
                p1[2] * p2[0] - p1[0] * p2[2],
                p1[0] * p2[1] - p1[1] * p2[0],
            )
            det = p0[0] * c0x + p0[1] * c0y + p0[2] * c0z
            # The triangle seen edge-on has no area on the image; a positive determinant looks away.
            if abs(det) < 1e-14 or (part_cull[part] == 1 and det > 0.0):
                continue
            c1x, c1y, c1z = (
                p2[1] * p0[2] - p2[2] * p0[1],
                p2[2] * p0[0] - p2[0] * p0[2],
                p2[0] * p0[1] - p2[1] * p0[0],
            )
            c2x, c2y, c2z = (
                p0[1] * p1[2] - p0[2] * p1[1],
                p0[2] * p1[0] - p0[0] * p1[2],
                p0[0] * p1[1] - p0[1] * p1[0],
            )
            e = edges[used]
            e[0, 0], e[0, 1] = c0x / (det * fx), c0y / (det * fy)
            e[1, 0], e[1, 1] = c1x / (det * fx), c1y / (det * fy)
            e[2, 0], e[2, 1] = c2x / (det * fx), c2y / (det * fy)
            e[0, 2] = c0z / det - e[0, 0] * cx - e[0, 1] * cy
            e[1, 2] = c1z / det - e[1, 0] * cx - e[1, 1] * cy
            e[2, 2] = c2z / det - e[2, 0] * cx - e[2, 1] * cy
            qx = e[0, 0] + e[1, 0] + e[2, 0]
            qy = e[0, 1] + e[1, 1] + e[2, 1]
            qc = e[0, 2] + e[1, 2] + e[2, 2]
            drawn = False
            for y in range(y_low, y_high + 1):
                first, last = _span(e, y, x_low, x_high)
                row = qy * y + qc
                for x in range(first, last + 1):
                    q = qx * x + row
                    if q > inverse_z[y, x] and q <= nearest:
                        inverse_z[y, x] = q
                        visible[y, x] = used
                        drawn = True
            if drawn:
                source[used, 0] = t
                source[used, 1] = part
                used += 1
    return used


@njit(nogil=True)
def rasterise_shadow(order, part_pose, part_range, vertices, triangles, texel_m, height_map):
    """Height of the first surface that parallel light meets, on a square grid across the light.

    Args:
        order: int64 [N] parts; part_pose: float64 [P,3,4]: light from part; the light comes down along -z,
            the map is centred on x = y = 0.
        texel_m: size of a texel.
        height_map: float32 [S,S] (row = y, column = x): in and out, the greatest z; start with a low value.
    """
    size = height_map.shape[0]
    most = 0
    for n in range(order.shape[0]):
        most = max(most, part_range[order[n], 1] - part_range[order[n], 0])
    points = np.empty((most, 3), np.float64)
    e = np.empty((3, 3), np.float64)
    half = 0.5 * (size - 1)
    for n in range(order.shape[0]):
        part = order[n]
        pose = part_pose[part]
        v0 = part_range[part, 0]
        for i in range(part_range[part, 1] - v0):
            x, y, z = vertices[v0 + i, 0], vertices[v0 + i, 1], vertices[v0 + i, 2]
            points[i, 0] = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]) / texel_m + half
            points[i, 1] = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]) / texel_m + half
            points[i, 2] = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        for t in range(part_range[part, 2], part_range[part, 3]):
            p0 = points[triangles[t, 0] - v0]
            p1 = points[triangles[t, 1] - v0]
            p2 = points[triangles[t, 2] - v0]
            x_low = int(np.ceil(max(min(p0[0], p1[0], p2[0]), 0.0)))
            x_high = int(np.floor(min(max(p0[0], p1[0], p2[0]), size - 1.0)))
            y_low = int(np.ceil(max(min(p0[1], p1[1], p2[1]), 0.0)))
            y_high = int(np.floor(min(max(p0[1], p1[1], p2[1]), size - 1.0)))
            if x_low > x_high or y_low > y_high:
                continue
            area = (p1[0] - p0[0]) * (p2[1] - p0[1]) - (p2[0] - p0[0]) * (p1[1] - p0[1])
            if abs(area) < 1e-12:
                continue
            for i in range(3):
                a = p1 if i == 0 else (p2 if i == 1 else p0)
                b = p2 if i == 0 else (p0 if i == 1 else p1)
                e[i, 0] = (a[1] - b[1]) / area
                e[i, 1] = (b[0] - a[0]) / area
                e[i, 2] = (a[0] * b[1] - a[1] * b[0]) / area
            zx = e[0, 0] * p0[2] + e[1, 0] * p1[2] + e[2, 0] * p2[2]
            zy = e[0, 1] * p0[2] + e[1, 1] * p1[2] + e[2, 1] * p2[2]
            zc = e[0, 2] * p0[2] + e[1, 2] * p1[2] + e[2, 2] * p2[2]
            for y in range(y_low, y_high + 1):
                first, last = _span(e, y, x_low, x_high)
                for x in range(first, last + 1):
                    z = zx * x + zy * y + zc
                    if z > height_map[y, x]:
                        height_map[y, x] = z
