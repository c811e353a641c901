# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX builds real plans on a machine without a GPU; it does not run them there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.geometry.camera import Fit
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.builder import Builder, quiet
from dvps_ros.runtime.device_memory import open_device
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import list_models, load_manifest
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.runtime.resize import resize_graph

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install tensorrt-rtx")
KIND = BACKENDS["tensorrt_rtx"]
PERCEPTION = list(list_models())
MODELS = Path(__file__).parents[2] / "models"


def config(precision="fp16", target="sm_89"):
    return EngineConfig(backend="tensorrt_rtx", precision=precision, threads=1, target=target)


@pytest.fixture(scope="module")
def gpu():
    try:
        device = open_device()
    except EngineError:
        return False
    device.close()
    return True


@pytest.fixture
def builder(tiny_model, tmp_path):
    manifest = load_manifest(tiny_model)
    return Builder(tiny_model, manifest, manifest.graphs[0], PlanStore(tmp_path / "engines"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("model", PERCEPTION)
def test_every_shipped_network_parses_and_builds(model, precision, tmp_path):
    folder = list_models()[model]
    manifest = load_manifest(folder)
    plan = KIND.build(folder / manifest.graphs[0].file, config(precision), quiet, tmp_path)
    weights = (folder / manifest.weights.file).stat().st_size  # float16, most of them
    factor = 1.9 if precision == "fp32" else 0.9
    assert len(plan) > factor * weights


def test_the_shipped_steering_head_parses_and_builds(tmp_path):
    graph = MODELS / "steering" / "steering.onnx"
    plan = KIND.build(graph, config("fp32"), quiet, tmp_path)
    assert len(plan) > 0.9 * graph.stat().st_size  # its weights are in there


@pytest.mark.parametrize("sizes", [(2048, 1024, 1024, 512), (1280, 720, 768, 384), (333, 201, 96, 64)])
def test_the_resize_parses_and_builds(sizes, tmp_path):
    path = tmp_path / "resize.onnx"
    path.write_bytes(resize_graph(Fit.letterbox(*sizes)))
    assert len(KIND.build(path, config("fp32"), quiet, tmp_path)) > 1000


def test_a_plan_is_built_once_a_gpu_and_precision(builder):
    told = []
    plan = builder.build(config(), told.append)
    assert builder.kept(config()) == plan
    label = "building tiny 64x128 tensorrt_rtx fp16: "
    assert told[0] == label + "reading the graph" and told[-1] == "keeping tiny 64x128 tensorrt_rtx fp16"
    assert any(t.startswith(label + "Building engine ") for t in told)  # the library's own phases
    assert builder.kept(config("fp32")) is None and builder.kept(config(target="sm_86")) is None
    assert builder.build(config(target="sm_86"), quiet) != plan
    (path, *_) = builder.store.records()
    path.write_bytes(plan[:-1])
    assert [builder.kept(config()), builder.kept(config(target="sm_86"))].count(None) == 1


def test_cancelling_stops_the_library_and_leaves_nothing(builder):
    seen = []

    def stop(what):
        seen.append(what)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder.build(config(), stop)
    assert len(seen) == 5  # not told any more once it has raised
    assert [p.suffix for p in builder.store.folder.iterdir()] == [".lock"]
    assert builder.build(config(), quiet)


def test_other_threads_go_on_while_it_builds(tmp_path):
    folder = list_models()[PERCEPTION[0]]
    graph = load_manifest(folder).graphs[0]
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    KIND.build(folder / graph.file, config(), quiet, tmp_path)
    seconds = time.monotonic() - start
    done.set()
    thread.join()
    assert len(ticks) > 5 * seconds  # a node's timers would have fired


def test_two_processes_build_one_plan(tiny_model, tmp_path):
    arguments = ["engine", "build", "--model", tiny_model, "--backend", "tensorrt_rtx", "--precision", "fp16"]
    arguments += ["--target", "sm_89", "--size", "64x128"]
    command = [sys.executable, "-m", "dvps_ros.cli.main", *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [p.communicate(timeout=200)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert all("not verified here: it is for sm_89" in o for o in outputs)
    assert len(PlanStore(tmp_path / "dvps_ros" / "engines").records()) == 1
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert "was there" in again.stdout


@pytest.mark.parametrize(
    ("precision", "target", "sentence"),
    [
        ("bf16", "sm_75", "sm_75 computes in fp32, fp16, int8, not in bf16"),
        ("fp8", "sm_86", "sm_86 computes in .*, not in fp8"),
        ("fp16", "sm_90", r"serves sm_75, .*, not sm_90: use backend tensorrt"),
        ("fp16", "Orin", "engine.target: expected a GPU generation such as sm_89, got 'Orin'"),
    ],
)
def test_what_a_gpu_cannot_do_is_said_before_building(builder, precision, target, sentence):
    with pytest.raises(EngineError, match=sentence):
        KIND.build(builder.path, config(precision, target), quiet, builder.store.folder)


def test_without_a_gpu_one_sentence_says_so(tiny_model, tmp_path, gpu):
    if gpu:
        pytest.skip("there is a GPU")
    for backend in ("tensorrt_rtx",):
        with pytest.raises(EngineError, match="no NVIDIA GPU here .*openvino, onnxruntime.*nvidia-smi"):
            Engine.open(tiny_model, EngineConfig(backend=backend), cache_dir=tmp_path)
    with pytest.raises(EngineError, match="leave it empty where the engine runs"):
        Engine.open(tiny_model, config(), cache_dir=tmp_path)


def test_foreign_and_truncated_graphs_are_refused(tiny_model, tmp_path):
    path = tmp_path / "x.onnx"
    whole = (tiny_model / "64x128.onnx").read_bytes()
    shutil.copy(tiny_model / "weights.bin", tmp_path)
    for content in (whole[: len(whole) // 2], b"foreign"):
        path.write_bytes(content)
        with pytest.raises(EngineError, match="cannot read the graph .*x.onnx"):
            KIND.build(path, config("fp32"), quiet, tmp_path)


def test_an_operator_that_the_library_lacks_is_named(tmp_path):
    f32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Unique", ["image"], ["values"])],
        "foreign",
        [helper.make_tensor_value_info("image", f32, [8])],
        [helper.make_tensor_value_info("values", f32, ["n"])],
    )
    path: Path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(EngineError, match="cannot (parse|build) .*x.onnx.*Unique"):
        KIND.build(path, config("fp32"), quiet, tmp_path)
