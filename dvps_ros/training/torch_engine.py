# SPDX-License-Identifier: Apache-2.0
"""A network that trains, in the place of an engine: what is validated is what robots run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dvps_ros.contract import OUTPUT_STRIDE, OUTPUTS
from dvps_ros.export.graph import DeployedGraph
from dvps_ros.labels import LabelSpace
from dvps_ros.types import CameraModel, NetworkOutput, check_array


class TorchEngine:
    """The deployed graph of a network at one size, computed by torch. See ``runtime.engine.Runner``.

    Args:
        graph: shared by engines of all sizes.
        labels: the classes.
        height, width: of the network's input.
    """

    camera_shape: tuple[int, int, int] | None = None
    description: str = "torch"

    def __init__(self, graph: DeployedGraph, labels: LabelSpace, height: int, width: int) -> None:
        self.height, self.width, self.stride = height, width, OUTPUT_STRIDE
        self.label_space = labels
        self._graph = graph
        self._device = next(graph.parameters()).device
        self._state: list[Tensor] = []
        self.reset()

    @property
    def sky_class(self) -> int | None:
        """Class whose depth is +inf."""
        return self.label_space.sky_id

    @torch.inference_mode()
    def run(
        self, image: np.ndarray, intrinsics: np.ndarray, wanted: frozenset[str] | None = None
    ) -> NetworkOutput:
        """One frame: uint8 [H,W,3] RGB and float32 [4], at the network's size. Gives all outputs."""
        check_array("network image", image, np.uint8, (self.height, self.width, 3))
        inputs = (torch.from_numpy(a)[None].to(self._device) for a in (image, intrinsics))
        with torch.autocast(self._device.type, enabled=False):
            results = self._graph(*inputs, *self._state)
        got: dict[str, Tensor] = dict(zip(self._graph.output_names, results, strict=True))
        self._state = [got[f"next_{s.name}"] for s in self._graph.state]
        return NetworkOutput(**{name: got[name][0].cpu().numpy() for name in OUTPUTS if name in got})

    def suits(self, camera: CameraModel, size: str) -> bool:
        return True

    def reset(self) -> None:
        """Forget the past."""
        self._state = [
            torch.zeros(s.sizes(self.height, self.width), device=self._device) for s in self._graph.state
        ]

    def close(self) -> None:
        pass
