# SPDX-License-Identifier: Apache-2.0
"""Faults put into single layers of the shipped int8 graphs: the golden frames must refuse each of them.

Every seventh convolution by default; ``DVPS_ALL_LAYERS=1`` takes all of them, in six minutes a graph.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from dvps_ros.runtime import ranges, verify
from dvps_ros.runtime.manifest import find_model, load_manifest

openvino = pytest.importorskip("openvino")
STEP = 1 if os.environ.get("DVPS_ALL_LAYERS") else 7
GRAPHS = [("lite", "256x832"), ("lite_research", "256x832")]
if STEP == 1:
    GRAPHS += [(model, size) for model in ("lite", "lite_research") for size in ("384x768", "512x1024")]


def layers(model: str, size: str) -> list[str]:
    return list(ranges._convolutions(read(model, size)))


def read(model: str, size: str):
    folder = find_model(model)
    return openvino.Core().read_model(folder / load_manifest(folder).graph_of(size).file)


def verified(model: str, size: str, layer: str = "", factor: float = 1.0) -> list[verify.Difference]:
    """The golden frames through the int8 graph, weights of one layer multiplied by a factor."""
    from openvino import opset13 as ops

    folder = find_model(model)
    manifest = load_manifest(folder)
    golden = verify.load_golden(folder / manifest.graph_of(size).golden)
    graph = read(model, size)
    convolutions = ranges._convolutions(graph)
    if layer:
        weights = ranges._weights(convolutions[layer])
        changed = ops.constant(weights.get_data().astype(np.float32) * np.float32(factor))
        convolutions[layer].input(1).replace_source_output(changed.output(0))
    ranges._round(convolutions, manifest.ranges)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    shape = golden.images[0].shape[:2]
    states = {s.name: np.zeros(s.sizes(*shape), np.float32) for s in manifest.state}
    frames = []
    for image in golden.images:
        results = compiled({"image": image[None], "intrinsics": golden.intrinsics[None], **states})
        frames.append({o.any_name: np.array(results[o]) for o in compiled.outputs})
        states = {name: frames[-1][f"next_{name}"] for name in states}
    rows = verify.compare(golden.outputs, frames[1], "int8")
    return [*rows, verify.compare_ids(golden, frames[0], frames[1], "int8")]


@pytest.mark.parametrize(("model", "size"), GRAPHS)
def test_the_graph_as_shipped_passes_with_room(model: str, size: str) -> None:
    rows = verified(model, size)
    assert max(d.value / d.limit for d in rows) < 0.8, verify.table(rows)


@pytest.mark.parametrize(("model", "size"), GRAPHS)
@pytest.mark.parametrize("factor", [0.0, 2.0], ids=["zeroed", "doubled"])
def test_a_wrong_layer_is_refused(model: str, size: str, factor: float) -> None:
    names = layers(model, size)
    assert len(names) > 40
    passed = [n for n in names[::STEP] if all(d.passed for d in verified(model, size, n, factor))]
    assert passed == []
