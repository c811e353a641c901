# SPDX-License-Identifier: Apache-2.0
"""The same graphs under every instruction set that this processor can be limited to (oneDNN's switch).

OpenVINO computes int8 by other instructions on each: this file is to fail on every machine where it would
fail on one. Each runs in a process of its own, as the library asks for the limit once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvps_ros.runtime import machine

pytest.importorskip("openvino")
NEEDS = {
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx_vnni"},
    "AVX512_CORE": {"avx512f", "avx512bw", "avx512dq"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_AMX": {"amx_int8", "amx_bf16"},
}
"""Instruction set -> flags of /proc/cpuinfo."""
WITHOUT_VNNI = ("AVX2", "AVX512_CORE")
FLAGS = set(machine.cpu_info().get("flags", "").split())


def limited(isa: str, tmp_path: Path, script: str, *arguments: str) -> dict:
    """What a script prints, as JSON, where OpenVINO may use no more than these instructions."""
    if not NEEDS[isa] <= FLAGS:
        pytest.skip(f"this processor has no {isa}")
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SUMS = """
import json, sys
from pathlib import Path
import numpy as np, onnx, openvino
from onnx import TensorProto, helper, numpy_helper
from dvps_ros.runtime import ranges
folder, full = Path(sys.argv[1]), sys.argv[2] == "full"
groups = 32 if sys.argv[2] == "depthwise" else 1
if full:
    ranges._peaks = lambda w: np.abs(w).max((1, 2, 3), keepdims=True)
weights = np.ones((max(16, groups), 32 // groups, 3, 3), np.float32)
weights[1], weights[2].ravel()[: weights[2].size // 2] = -1, -1
head = np.eye(16, len(weights), dtype=np.float32)[:, :, None, None]
body = dict(pads=[1, 1, 1, 1], group=groups)
nodes = [
    helper.make_node("Conv", ["image", "network.body.weight"], ["wide"], "body", **body),
    helper.make_node("Conv", ["wide", "network.head.weight"], ["out"], "head"),
]
graph = helper.make_graph(
    nodes, "sums",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 32, 8, 8))],
    [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 16, 8, 8))],
    [numpy_helper.from_array(w, f"network.{n}.weight") for n, w in (("body", weights), ("head", head))],
)
opsets = [helper.make_opsetid("", 20)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "s.onnx")
ranges.write(folder / "s.onnx", {"network.body.weight": [0.0, 2.0]}, folder / "s.xml")
compiled = openvino.Core().compile_model(folder / "s.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
ops = compiled.get_runtime_model().get_ops()
facts = [op.get_rt_info() for op in ops if op.get_friendly_name() == "body"]
kinds = [str(info["runtimePrecision"].astype(str)) for info in facts]
out = compiled({"image": np.full((1, 32, 8, 8), 2, np.float32)})["out"]
print(json.dumps({"values": out[0, :3, 4, 4].tolist(), "kinds": kinds}))
"""


@pytest.mark.parametrize("isa", NEEDS)
def test_int8_sums_do_not_saturate(isa: str, tmp_path: Path) -> None:
    """Inputs and weights at their highest levels: 288 products of 2 are 576, as many of either sign 0."""
    got = limited(isa, tmp_path, SUMS, str(tmp_path), "paired")
    assert got["kinds"] == ["u8"]
    assert got["values"] == pytest.approx([576, -576, 0], rel=0.01, abs=1)


@pytest.mark.parametrize("isa", NEEDS)
def test_depthwise_sums_do_not_saturate(isa: str, tmp_path: Path) -> None:
    """9 products of 2 are 18, 5 less 4 of them 2. Channels have no neighbours here: levels go up to 127."""
    got = limited(isa, tmp_path, SUMS, str(tmp_path), "depthwise")
    assert got["kinds"] == ["u8"]
    assert got["values"] == pytest.approx([18, -18, 2], rel=0.01, abs=0.05)


@pytest.mark.parametrize("isa", WITHOUT_VNNI)
def test_sums_of_all_levels_would_saturate(isa: str, tmp_path: Path) -> None:
    """What the switch shows, and why levels are paired."""
    got = limited(isa, tmp_path, SUMS, str(tmp_path), "full")
    assert got["values"][0] == pytest.approx(576 * (2**15 - 1) / (255 * 254), rel=0.01)


SHIPPED = """
import json, sys
import numpy as np
from dvps_ros.config import EngineConfig
from dvps_ros.runtime import ranges, verify
from dvps_ros.runtime.engine import Engine, candidates
from dvps_ros.runtime.manifest import find_model, load_manifest
if sys.argv[1] == "full":
    ranges._peaks = lambda w: np.abs(w).max((1, 2, 3), keepdims=True)
result = {}
for model in ("lite", "lite_research"):
    for precision in sys.argv[2:]:
        config = EngineConfig(backend="openvino", precision=precision, size="256x832", threads=2)
        try:
            with Engine.open(model, config) as engine:
                result[f"{model} {precision}"] = max(d.value / d.limit for d in engine.differences)
        except verify.WrongValues as error:
            result[f"{model} {precision}"] = max(d.value / d.limit for d in error.differences)
auto = candidates(EngineConfig(backend="openvino"), load_manifest(find_model("lite")))
print(json.dumps(result | {"auto": [p for _, p in auto]}))
"""


@pytest.mark.parametrize("isa", NEEDS)
def test_shipped_models_pass_their_golden_frames(isa: str, tmp_path: Path) -> None:
    got = limited(isa, tmp_path, SHIPPED, "paired", "fp32", "int8")
    has_bf16 = isa in ("AVX512_CORE_BF16", "AVX512_CORE_AMX")
    assert got.pop("auto") == (["fp32", "bf16", "int8"] if has_bf16 else ["fp32", "int8"])
    assert len(got) == 4 and max(got.values()) < 0.85, got


@pytest.mark.parametrize("isa", WITHOUT_VNNI)
def test_golden_frames_refuse_sums_that_saturate(isa: str, tmp_path: Path) -> None:
    got = limited(isa, tmp_path, SHIPPED, "full", "int8")
    assert got["lite int8"] > 1.1 and got["lite_research int8"] > 1.1, got
