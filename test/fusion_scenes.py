# SPDX-License-Identifier: Apache-2.0
"""Dense predictions that fusion must get right, for tests of every place where it is done."""

from __future__ import annotations

import numpy as np

THINGS = (2, 4)


def heads(h: int = 12, w: int = 16, *, classes: int = 5, dims: int = 3) -> dict[str, np.ndarray]:
    """A scene of stuff class 0 at 10 m without objects."""
    logits = np.zeros((classes, h, w), np.float32)
    logits[0] = 4
    return {
        "class_logits": logits,
        "center_logits": np.full((1, h, w), -9, np.float32),
        "center_offset_px": np.zeros((2, h, w), np.float32),
        "log_depth": np.full((1, h, w), np.log(10), np.float32),
        "motion_px": np.zeros((2, h, w), np.float32),
        "moving_logits": np.full((1, h, w), -9, np.float32),
        "embedding": np.full((dims, h, w), dims**-0.5, np.float32),
    }


def put_object(
    scene: dict[str, np.ndarray],
    rows: slice,
    columns: slice,
    *,
    class_id: int = 2,
    logit: float = 3.0,
    depth: float = 5.0,
    motion: tuple[float, float] = (0, 0),
    axis: int = 0,
) -> tuple[int, int]:
    """A rectangle whose pixels all vote for its middle cell; returns that cell."""
    at = (rows, columns)
    i, j = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    scene["class_logits"][class_id][at] = 9
    scene["center_logits"][0, i, j] = logit
    y, x = np.mgrid[at].astype(np.float32)
    scene["center_offset_px"][(slice(None), *at)] = 4 * np.stack((j - x, i - y))
    scene["log_depth"][0][at] = np.log(depth)
    scene["motion_px"][(slice(None), *at)] = np.array(motion, np.float32)[:, None, None]
    scene["moving_logits"][0][at] = 9
    scene["embedding"][(slice(None), *at)] = np.eye(len(scene["embedding"]), dtype=np.float32)[axis][
        :, None, None
    ]
    return i, j


def two_objects(h: int = 12, w: int = 16, *, dims: int = 3) -> dict[str, np.ndarray]:
    scene = heads(h, w, dims=dims)
    put_object(scene, slice(2, 6), slice(1, 6), depth=5, motion=(8, -2), axis=1)
    put_object(scene, slice(7, 12), slice(9, 12), class_id=4, logit=5, depth=7, axis=2)
    return scene


def random_scene(seed: int, h: int = 24, w: int = 40, dims: int = 6) -> dict[str, np.ndarray]:
    """Smooth random heads with many centres, coarsely rounded so that ties and plateaus are common."""
    rng = np.random.default_rng(seed)

    def noise(channels: int, scale: float) -> np.ndarray:
        coarse = rng.normal(0, scale, (channels, h // 4, w // 4))
        return (np.round(coarse.repeat(4, 1).repeat(4, 2) * 4) / 4).astype(np.float32)

    embedding = noise(dims, 1) + 0.1
    return {
        "class_logits": noise(5, 2),
        "center_logits": noise(1, 3),
        "center_offset_px": noise(2, 10),
        "log_depth": noise(1, 0.5) + 2,
        "motion_px": noise(2, 4),
        "moving_logits": noise(1, 2),
        "embedding": embedding / np.linalg.norm(embedding, axis=0),
    }


SCENES = {
    "two objects": two_objects(24, 40, dims=6),
    "no object": heads(24, 40, dims=6),
    **{f"random {seed}": random_scene(seed) for seed in range(4)},
}
