# SPDX-License-Identifier: Apache-2.0
"""Graphs in int8 or fp8, calibrated on images of the camera that they are for.

Three kinds: ``qdq``, an ONNX graph with explicit QuantizeLinear and DequantizeLinear (TensorRT, ONNX
Runtime), made by ONNX Runtime's quantiser; ``fp8``, the same in float8 E4M3 (TensorRT); and ``ranges``, of
which ``dvps_ros.runtime.ranges`` makes an OpenVINO graph. In all of them only convolutions have the lower
precision, without the last ones of the heads: logits, depths and votes are too fine for 256 values.
A calibration holds for one model and size, and for every machine.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig
from dvps_ros.errors import InputError
from dvps_ros.runtime import machine, ranges
from dvps_ros.runtime.backends import onnxruntime as reference
from dvps_ros.runtime.backends.protocol import QDQ, RANGES, Progress
from dvps_ros.runtime.precision import CONVOLUTIONS, load_graph
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.types import CameraModel, Frame

LEAST_FRAMES = 8
"""Fewer images do not show the range of the activations."""


def calibration_feeds(
    frames: Iterable[Frame], path: Path, *, limit: int, progress: Progress
) -> list[dict[str, np.ndarray]]:
    """Inputs of the graph for these frames, states included, which the float32 graph computes in their order.

    Args:
        frames: of one camera; resized to the graph as on the robot.
        path: the graph.
        limit: frames that are taken.

    Raises:
        InputError: too few frames, or a frame of another size than the first.
        EngineError: the graph cannot be run.
    """
    config = EngineConfig(backend="onnxruntime", precision="fp32", threads=machine.cpu_count())
    engine = reference.OnnxRuntime(reference.build(path, config, progress, path.parent), path, config)
    _, (_, height, width, _) = engine.inputs["image"]
    feeds: list[dict[str, np.ndarray]] = []
    results: dict[str, np.ndarray] = {}
    fit: Preprocess | None = None
    for frame in frames:
        if fit is None:
            fit = Preprocess(frame.camera, width, height)
        if frame.camera != fit.source:
            raise InputError(
                f"calibration: frame {len(feeds)} is of a camera of {_size(frame.camera)}, the first "
                f"of {_size(fit.source)}: give frames of one camera"
            )
        _, image = fit(frame.image)
        inputs = {"image": image[None].copy(), "intrinsics": fit.network_camera.vector[None].copy()}
        states = {n: np.zeros(s, t) for n, (t, s) in engine.inputs.items() if n not in inputs}
        if feeds:
            states = {n: results[f"next_{n}"] for n in states}
        feeds.append(inputs | states)
        results = {n: np.empty(s, t) for n, (t, s) in engine.outputs.items()}
        engine.run(inputs, results)
        progress(f"calibration frame {len(feeds)}")
        if len(feeds) == limit:
            break
    engine.close()
    if len(feeds) < LEAST_FRAMES:
        raise InputError(f"calibration: expected {LEAST_FRAMES} frames or more, got {len(feeds)}")
    return feeds


def _size(camera: CameraModel) -> str:
    return f"{camera.width}x{camera.height}"


def quantised_onnx(path: Path, feeds: list[dict[str, np.ndarray]], progress: Progress) -> bytes:
    """The graph with Q/DQ pairs: symmetric, per channel for weights, per tensor for activations.

    Raises:
        EngineError: ``onnx`` or ``onnxruntime`` is missing, or the graph cannot be read.
    """
    reference.version()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    model = load_graph(path)
    _float32_weights(model)
    progress("measuring the range of every activation")
    with tempfile.TemporaryDirectory(prefix="dvps-") as folder, _quiet():
        target = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(CONVOLUTIONS),
            nodes_to_exclude=_heads(model),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": sorted(CONVOLUTIONS),
            },
        )
        return target.read_bytes()


def quantised_fp8(path: Path, feeds: list[dict[str, np.ndarray]], progress: Progress) -> bytes:
    """The same Q/DQ pairs in float8 E4M3, scaled so that the largest value of a tensor is its largest, 448.

    Raises:
        EngineError: see :func:`quantised_onnx`.
    """
    content = quantised_onnx(path, feeds, progress)
    import ml_dtypes
    import onnx
    from onnx import TensorProto, numpy_helper

    float8 = ml_dtypes.float8_e4m3fn
    model, original = onnx.load_from_string(content), load_graph(path)
    _float32_weights(original)
    weights = {f"{t.name}_quantized": t for t in original.graph.initializer}
    tensors = {t.name: t for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for name in {n.input[1] for n in pairs}:
        scale = numpy_helper.to_array(tensors[name]) * np.float32(127 / 448)
        tensors[name].CopyFrom(numpy_helper.from_array(scale, name))

    def store(name: str, values: np.ndarray) -> None:
        dims = list(values.shape)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT8E4M3FN, dims=dims)
        tensor.raw_data = values.astype(float8).tobytes()
        tensors[name].CopyFrom(tensor)

    for name in {n.input[2] for n in pairs}:
        store(name, np.zeros(list(tensors[name].dims), np.float32))
    for node in pairs:
        if node.input[0] in weights:  # of the original weights, not of what int8 left of them
            weight = numpy_helper.to_array(weights[node.input[0]])
            scale = numpy_helper.to_array(tensors[node.input[1]])
            store(node.input[0], weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return model.SerializeToString()


def measured_ranges(path: Path, feeds: list[dict[str, np.ndarray]], progress: Progress) -> bytes:
    """The ranges of ``dvps_ros.runtime.ranges``, as JSON.

    Raises:
        EngineError: see :func:`dvps_ros.runtime.ranges.measure`.
    """
    return ranges.to_json(ranges.measure(path, feeds, progress))


QUANTISERS = {QDQ: quantised_onnx, "fp8": quantised_fp8, RANGES: measured_ranges}
"""Kind of calibration -> (graph file, feeds, progress) -> the bytes that are kept."""


def _float32_weights(model: Any) -> None:
    """Weights that lie as float16 behind a Cast become float32 constants: the quantiser looks for those."""
    from onnx import TensorProto, numpy_helper

    half = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in half:
            tensor = half[node.input[0]]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _heads(model: Any) -> list[str]:
    """Names of the convolutions that no other one reads from."""
    read: set[str] = set()
    heads = []
    for node in reversed(model.graph.node):
        feeds_one = any(name in read for name in node.output)
        if node.op_type in CONVOLUTIONS and not feeds_one:
            heads.append(node.name)
        if node.op_type in CONVOLUTIONS or feeds_one:
            read |= set(node.input)
    return heads


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences advice that the quantisers log about pre-processing."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
