# SPDX-License-Identifier: Apache-2.0
"""The resize to a network's input as a graph of its own, run before the network where that computes.

The same rule as :class:`~dvps_ros.runtime.preprocess.Preprocess` on the processor, equal but for rounding
(one level of 255). A graph of its own, so that one engine of the network serves cameras of all sizes and is
proved by its own golden frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvps_ros.errors import EngineError
from dvps_ros.geometry.camera import Fit
from dvps_ros.runtime.backends.protocol import CAMERA, Backend
from dvps_ros.runtime.preprocess import fitted, halvings

LIMIT = 1
"""Levels of 255 by which a pixel may differ from the processor's: both round."""


def resize_graph(fit: Fit) -> bytes:
    """ONNX: ``camera`` uint8 [1,Hc,Wc,3] to ``image`` uint8 [1,H,W,3].

    Raises:
        EngineError: ``onnx`` is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise EngineError(f"engine.resize_on_device makes a graph: pip install onnx ({error})") from error
    nodes: list[Any] = []
    constants: list[Any] = []

    def add(operator: str, *inputs: str | np.ndarray, out: str = "", **attributes: Any) -> str:
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                constants.append(numpy_helper.from_array(value, f"constant_{len(constants)}"))
                value = constants[-1].name
            names.append(value)
        out = out or f"value_{len(nodes)}"
        nodes.append(helper.make_node(operator, names, [out], f"resize_{len(nodes)}", **attributes))
        return out

    def rounded(x: str) -> str:
        return add("Floor", add("Add", x, np.array(0.5, np.float32)))

    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    times, scale = halvings(fit)
    x = add("Transpose", add("Cast", CAMERA, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    for _ in range(times):
        x = rounded(add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    # Two rows and columns more at the end, cut off again: the operator's own size would be rounded down.
    x = add("Pad", x, ints(0, 0, 0, 0, 0, 0, 2, 2), mode="edge")
    scales = np.array([1, 1, scale, scale], np.float32)
    x = add("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    x = add("Slice", x, ints(0, 0), ints(fit.inner_height, fit.inner_width), ints(2, 3))
    x = rounded(x)
    for top, bottom, left, right in _mirrors(fit):
        mode = "reflect" if min(fit.inner_height, fit.inner_width) > 1 else "edge"
        x = add("Pad", x, ints(0, 0, top, left, 0, 0, bottom, right), mode=mode)
    add("Cast", add("Transpose", x, perm=[0, 2, 3, 1]), to=TensorProto.UINT8, out="image")
    shapes = {CAMERA: [1, fit.camera_height, fit.camera_width, 3], "image": [1, fit.height, fit.width, 3]}
    ends = [helper.make_tensor_value_info(n, TensorProto.UINT8, shape) for n, shape in shapes.items()]
    graph = helper.make_graph(nodes, "resize", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString(deterministic=True)


def _mirrors(fit: Fit) -> list[tuple[int, int, int, int]]:
    """The mirrored borders in steps of at most the image's own size less one, which the operator can do."""
    todo, (height, width) = list(fit.pads), (fit.inner_height, fit.inner_width)
    steps = []
    while any(todo):
        tall, wide = max(height - 1, 1), max(width - 1, 1)
        top, bottom, left, right = step = (
            min(todo[0], tall), min(todo[1], tall), min(todo[2], wide), min(todo[3], wide)
        )  # fmt: skip
        todo = [t - s for t, s in zip(todo, step, strict=True)]
        height, width = height + top + bottom, width + left + right
        steps.append(step)
    return steps


def check_resize(engine: Backend, fit: Fit) -> None:
    """Compare with the processor's resize on noise, the hardest picture.

    Raises:
        EngineError: they differ by more than rounding.
    """
    noise = np.random.default_rng(0).integers(0, 256, (fit.camera_height, fit.camera_width, 3), np.uint8)
    got = np.empty((1, fit.height, fit.width, 3), np.uint8)
    engine.run({CAMERA: noise[None]}, {"image": got})
    want = np.zeros_like(got[0])
    fitted(noise, fit, want)
    largest = int(np.abs(got[0].astype(int) - want).max())
    if largest > LIMIT:
        raise EngineError(
            f"{engine.description} resizes {fit.camera_width}x{fit.camera_height} wrongly: a pixel is off by "
            f"{largest} of 255; set engine.resize_on_device: false"
        )
