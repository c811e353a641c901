# SPDX-License-Identifier: Apache-2.0
"""Fusion, exported on its own, against its definition in every engine and precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fuse_reference import fuse
from fusion_scenes import SCENES, THINGS
from torch import Tensor, nn

from dvps_ros.config import EngineConfig
from dvps_ros.networks import PointsPrediction
from dvps_ros.networks.fusion.points import PointsConfig, PointsFusion
from dvps_ros.runtime.backends import BACKENDS, installed
from dvps_ros.runtime.builder import quiet

CONFIG = PointsConfig(slots=12)
OUTPUTS = ("class_map", "segment_map", "nearest", "segments", "embedding")


class FusionAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = PointsFusion(THINGS, CONFIG)

    def forward(self, *heads: Tensor) -> tuple[Tensor, ...]:
        out = self.fusion(PointsPrediction(*heads, latent=torch.zeros(1, 1, 1), state={}))
        return tuple(out[name] for name in OUTPUTS)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fusion") / "fusion.onnx"
    heads = next(iter(SCENES.values()))  # all are of one shape
    torch.onnx.export(
        FusionAlone(), tuple(torch.from_numpy(v)[None] for v in heads.values()), path,
        input_names=[f"head_{name}" for name in heads], output_names=list(OUTPUTS),
        dynamo=True, opset_version=20, verbose=False, external_data=False,
    )  # fmt: skip
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("backend", "precision"), [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
)
def test_every_engine_gives_the_ids_of_the_definition(graph: Path, backend: str, precision: str) -> None:
    if backend not in installed() or precision not in BACKENDS[backend].precisions(EngineConfig()):
        pytest.skip(f"no {backend} {precision} here")
    loose = 1e-5 if precision == "fp32" else 0.02
    kind, config = BACKENDS[backend], EngineConfig(backend=backend, precision=precision, threads=1)
    engine = kind.load(kind.build(graph, config, quiet, graph.parent), graph, config)
    for name, scene in SCENES.items():
        want = fuse(**scene, thing_ids=THINGS, config=CONFIG)
        got = {n: np.empty(s, t) for n, (t, s) in engine.outputs.items()}
        engine.run({f"head_{k}": np.ascontiguousarray(v[None]) for k, v in scene.items()}, got)
        for field in ("class_map", "segment_map", "nearest"):
            assert np.array_equal(got[field][0], getattr(want, field)), (name, field)
        table = got["segments"][0]
        # Class, area and centre are exact whatever the precision.
        assert np.array_equal(table[:, [0, 2, 3, 4]], want.segments[:, [0, 2, 3, 4]]), name
        assert np.allclose(table, want.segments, rtol=loose, atol=loose), name
        assert np.allclose(got["embedding"][0], want.embedding, atol=loose), name
    engine.close()


def test_bf16_keeps_everything_between_heads_and_ids_in_float32(graph: Path) -> None:
    """Ids come from comparisons, which bf16 would get wrong: read in the compiled graph what it chose."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    queue = [
        n
        for n in compiled.get_runtime_model().get_ordered_ops()
        if n.get_friendly_name().startswith(("segment_map", "nearest"))
    ]
    assert queue
    seen = {}
    while queue:
        node = queue.pop()
        name, info = node.get_friendly_name(), node.get_rt_info()
        kind = info["layerType"].astype(str)
        # Sums of up to 256 ones are exact in bf16; a Reorder brings them back.
        if name in seen or kind in ("MatMul", "FullyConnected"):
            continue
        seen[name] = kind
        assert kind == "Reorder" or "bf16" not in info["runtimePrecision"].astype(str).lower(), name
        queue += [i.get_source_output().get_node() for i in node.inputs()]
    assert "TopK" in seen.values()
