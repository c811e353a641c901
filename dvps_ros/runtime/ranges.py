# SPDX-License-Identifier: Apache-2.0
"""int8 on processors: the ranges of a network's activations, and an OpenVINO graph that rounds by them.

Only convolutions are lowered: their inputs to 256 levels between the least and the greatest value that was
seen (the whole range, as centres of objects are rare peaks), their weights to 255 levels an output channel
(Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"). The last ones of the
heads are left: logits, depths and votes are too fine for 256 values; so are those of coordinates, which have
few channels. Ranges go by the names of the weights, so those of one input size serve another, and a model
can ship them.

Processors without VNNI add the products of two neighbouring input channels in 16 bits, where
255 x (127 + 127) does not fit. So the levels of such a pair add up to 128 at most, and every processor
computes the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import openvino as backend
from dvps_ros.runtime.backends.protocol import Progress

Ranges = dict[str, list[float]]
"""Name of a convolution's weights -> least and greatest value of its input."""

CONVOLUTIONS = ("Convolution", "GroupConvolution")
"""Operators of OpenVINO."""
LEAST_CHANNELS = 16
"""Of the input; fewer fill no vector of int8, and are coordinates."""
LEARNT, HALF = "network.", ".float16"
"""How the export's names of learnt weights begin, and may end."""


def measure(path: Path, feeds: Iterable[Mapping[str, np.ndarray]], progress: Progress) -> Ranges:
    """Ranges of a graph over these inputs, computed in float32.

    Raises:
        EngineError: OpenVINO is missing, there is nothing to lower, or a value is not finite.
    """
    model = _read(path)
    import openvino
    from openvino import opset13 as ops

    convolutions = _convolutions(model)
    results = [ops.result(c.input(0).get_source_output()) for c in convolutions.values()]
    probe = openvino.Model(results, model.get_parameters())
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(probe, "CPU", options).create_infer_request()
    low, high = np.full(len(convolutions), np.inf), np.full(len(convolutions), -np.inf)
    for i, feed in enumerate(feeds):
        progress(f"measuring the ranges of frame {i + 1}")
        request.infer({p.any_name: feed[p.any_name] for p in probe.inputs})
        # numpy's extrema are NaN where a value is; those of OpenVINO skip it on some processors.
        values = [request.get_output_tensor(k).data for k in range(len(results))]
        low = np.minimum(low, [v.min() for v in values])
        high = np.maximum(high, [v.max() for v in values])
    if (low > high).any():
        raise EngineError(f"calibration: there was no image to measure the ranges of {path.name} on")
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise EngineError(f"calibration: {path.name} computed values that are not finite from these images")
    return {n: [float(a), float(b)] for n, a, b in zip(convolutions, low, high, strict=True)}


def union(parts: Iterable[Ranges]) -> Ranges:
    """What holds for all of several measurements of one network."""
    joined: Ranges = {}
    for part in parts:
        for name, (low, high) in part.items():
            before = joined.get(name, [low, high])
            joined[name] = [min(low, before[0]), max(high, before[1])]
    return joined


def to_json(ranges: Ranges) -> bytes:
    return json.dumps(ranges, indent=0).encode()


def write(path: Path, ranges: Ranges, target: Path) -> None:
    """Write a graph that computes by these ranges, as OpenVINO's XML with its weights beside it.

    Raises:
        EngineError: OpenVINO is missing, or the ranges are of another network.
    """
    model = _read(path)
    import openvino

    convolutions = _convolutions(model)
    if convolutions.keys() != ranges.keys():
        other = sorted(convolutions.keys() ^ ranges.keys())
        raise EngineError(
            f"int8: the ranges are not of {path.name}: {len(other)} convolutions differ, such as {other[0]}; "
            "calibrate or export again"
        )
    _round(convolutions, ranges)
    openvino.save_model(model, target, compress_to_fp16=False)


def _round(convolutions: Mapping[str, Any], ranges: Ranges) -> None:
    """Put the rounding before inputs and weights of these convolutions."""
    from openvino import opset13 as ops

    rounded: dict[tuple[str, int, float, float], Any] = {}
    for name, convolution in convolutions.items():
        source = convolution.input(0).get_source_output()
        low, high = _with_zero(*ranges[name])
        key = source.get_node().get_friendly_name(), source.get_index(), low, high
        if key not in rounded:
            ends = [np.float32(v) for v in (low, high, low, high)]
            rounded[key] = ops.fake_quantize(source, *ends, levels=256)
        shape = tuple(convolution.input(1).get_shape())
        weights = _weights(convolution).get_data().astype(np.float32).reshape(shape)
        peak = _peaks(weights)
        fine = ops.fake_quantize(ops.constant(weights), -peak, peak, -peak, peak, levels=255)
        convolution.input(0).replace_source_output(rounded[key].output(0))
        convolution.input(1).replace_source_output(fine.output(0))


def _read(path: Path) -> Any:
    backend.version()
    import openvino

    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise EngineError(f"openvino cannot read {path}: {str(error).splitlines()[-1]}") from error


def _convolutions(model: Any) -> dict[str, Any]:
    """Name of the weights -> convolution that is lowered: all that another one reads from.

    Raises:
        EngineError: there is none.
    """
    read: set[str] = set()
    found = {}
    for op in reversed(model.get_ordered_ops()):
        name, convolves = op.get_friendly_name(), op.get_type_name() in CONVOLUTIONS
        if convolves and name in read and op.input(0).get_partial_shape()[1].get_length() >= LEAST_CHANNELS:
            weights = _weights(op).get_friendly_name()
            if weights.startswith(LEARNT):
                found[weights.removesuffix(HALF)] = op
        if convolves or name in read:
            read |= {i.get_source_output().get_node().get_friendly_name() for i in op.inputs()}
    if not found:
        raise EngineError("int8: the graph has no convolution of learnt weights; export the model again")
    return found


def _weights(convolution: Any) -> Any:
    """The constant that a convolution's weights are, or are cast or split into groups from."""
    node = convolution.input(1).get_source_output().get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input(0).get_source_output().get_node()
    return node


def _peaks(weights: np.ndarray) -> np.ndarray:
    """Weight of each output channel that has the highest level, 127.

    The largest sum of two neighbouring input channels' weights of one sign, which is never less than the
    largest weight.

    Args:
        weights: float32 [O,I,H,W], or of groups [G,O,I,H,W].

    Returns:
        float32 [O,1,1,1] or [G,O,1,1,1].
    """
    inputs = weights.ndim - 3
    pad = [(0, 0)] * weights.ndim
    pad[inputs] = (0, weights.shape[inputs] % 2)
    paired = np.pad(weights, pad).swapaxes(inputs, 0)
    sums = [np.maximum(part[0::2], 0) + np.maximum(part[1::2], 0) for part in (paired, -paired)]
    peak = np.maximum(*sums).swapaxes(inputs, 0).max((-3, -2, -1), keepdims=True)
    peak[peak == 0] = 1
    return peak


def _with_zero(low: float, high: float) -> tuple[float, float]:
    """The range, moved by less than a level so that 0 is one of its 256: padding stays 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 or 1.0
    zero = round(-low / step)
    return -zero * step, (255 - zero) * step
