# SPDX-License-Identifier: Apache-2.0
"""A steering head whose answers are known, for the tests of pipeline and node."""

from __future__ import annotations

import numpy as np

from dvps_ros.runtime.steering import SteeringManifest, TokenSource

WEIGHTS = "a" * 64
MANIFEST = SteeringManifest(
    name="known",
    version="1",
    network="steering",
    perception=TokenSource("lite", WEIGHTS),
    frames=4,
    period_s=0.1,
    latent_shape=(2, 3),
    tolerance_per_m=0.01,
    graph="steering.onnx",
    graph_sha256="1" * 64,
    golden="steering.golden.npz",
    golden_sha256="2" * 64,
    licence="Apache-2.0",
    training={"steps": 1},
)


class KnownHead:
    """Curvature is the first number of the newest frame, deviation the second."""

    manifest = MANIFEST
    description = "known"
    closed = False

    def run(self, latent: np.ndarray, age_s: np.ndarray) -> tuple[float, float]:
        self.fed = latent.copy(), age_s.copy()
        return float(latent[0, 0, 0, 0]), float(latent[0, 0, 0, 1])

    def close(self) -> None:
        self.closed = True


def known_tokens(curvature: float, deviation: float = 0.001) -> np.ndarray:
    """float32 [2,3] that make the head answer this, 1/m."""
    frame = np.zeros((2, 3), np.float32)
    frame[0, :2] = curvature, deviation
    return frame
