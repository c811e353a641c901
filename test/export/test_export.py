# SPDX-License-Identifier: Apache-2.0
"""Export end to end with random weights at toy size: what the files hold and what engines make of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import dvps_ros.export
from dvps_ros.cli.export import command
from dvps_ros.config import EngineConfig, to_dict
from dvps_ros.errors import ConfigError, EngineError, InputError
from dvps_ros.export import export_model, parse_size
from dvps_ros.export import model as export_module
from dvps_ros.export.graph import folded
from dvps_ros.export.model import GoldenFrames
from dvps_ros.labels import CITYSCAPES
from dvps_ros.networks import Lite, LiteConfig
from dvps_ros.runtime import calibration, ranges, verify
from dvps_ros.runtime.backends import installed
from dvps_ros.runtime.builder import Builder, quiet
from dvps_ros.runtime.engine import Engine, candidates
from dvps_ros.runtime.manifest import check_files, load_manifest
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.types import CameraModel, Frame

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SIZES = [(64, 96), (96, 64)]
TINY = LiteConfig(embedding=8, encoder="thin_tiny", decoder_width=16, context_width=16, state_width=8)


def toy_frames(height: int, width: int) -> GoldenFrames:
    """A smooth coloured texture that shifts by three pixels."""
    v, u = np.mgrid[:height, :width]
    waves = [127 + 60 * np.sin(u / (5 + c)) + 60 * np.cos((v + 2 * u) / (9 + 2 * c)) for c in range(3)]
    image = np.stack(waves, 2).astype(np.uint8)
    camera = CameraModel.from_fov(width, height, 75.0)
    return GoldenFrames(np.stack((image, np.roll(image, 3, 1))), camera.vector)


def lively_network() -> Lite:
    """Random weights with normalisation that is not the identity and heads that speak; no near ties."""
    torch.manual_seed(8)
    network = Lite(TINY)
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(std=0.2)
                m.running_mean.normal_(std=0.2)
                m.running_var.uniform_(0.5, 2.0)
        for head in (network.class_head, network.depth_head, network.instance_head, network.motion.head):
            head.weight.normal_(std=0.1)
        network.class_head.bias[4 * 11 :] = 1.0
        network.instance_head.bias[:4] = -1.0
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Lite:
    return lively_network()


@pytest.fixture(scope="module")
def model(network: Lite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    export(network, folder, SIZES)
    return folder


def export(network: Lite, folder: Path, sizes: list[tuple[int, int]], **changes) -> None:
    facts = dict(name="toy", version="1.2", licence="CC0", training={"steps": 0}, golden_frames=toy_frames)
    export_model(network, CITYSCAPES, folder, sizes, **(facts | changes))


def open_engine(model: Path, size: str, backend: str, precision: str = "fp32") -> Engine:
    config = EngineConfig(
        model=str(model), size=size, backend=backend, precision=precision, threads=1, verify=False
    )
    return Engine.open(model, config, camera_size=None, cache_dir=model.parent / "cache")


def test_manifest_says_what_is_there(model: Path) -> None:
    manifest = load_manifest(model)
    assert (manifest.name, manifest.version, manifest.licence) == ("toy", "1.2", "CC0")
    assert manifest.network == "lite" and manifest.training == {"steps": 0}
    assert manifest.label_space == CITYSCAPES and manifest.sky_class == 10
    assert manifest.embedding_size == 8 and manifest.latent_shape == (96, 16)
    assert [g.size for g in manifest.graphs] == ["64x96", "96x64"]
    assert manifest.state[0].name == "state_features" and manifest.state[0].shape == (1, 8, "H/8", "W/8")
    for graph in manifest.graphs:
        check_files(model, manifest, graph)
    assert "lite" in (model / "README.md").read_text()
    assert not [p for p in model.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("size", ["64x96", "96x64"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_accept_the_graph_and_agree(model: Path, backend: str, size: str) -> None:
    """Engine.open checks names, types and shapes of all inputs and outputs against the contract."""
    golden = verify.load_golden(model / f"{size}.golden.npz")
    assert (golden.outputs["segments"][0, :, 1] > 0).sum() >= 3
    with open_engine(model, size, backend) as engine:
        assert all(d.passed for d in verify.check(engine, golden, "fp32"))


def test_bf16_agrees_within_its_tolerance(model: Path) -> None:
    if "bf16" not in installed()["openvino"].precisions(EngineConfig()):
        pytest.skip("this processor has no bf16")
    golden = verify.load_golden(model / "64x96.golden.npz")
    with open_engine(model, "64x96", "openvino", "bf16") as engine:
        engine.reset()
        for image in golden.images:
            engine.run(image, golden.intrinsics, engine.output_names)
        differences = {d.output: d for d in verify.compare(golden.outputs, engine.outputs(), "bf16")}
    # Random logits are close to each other, so classes would be no measure.
    for name in ("depth_m", "class_logits", "latent", "next_state_features"):
        assert differences[name].value < 0.05, verify.table(list(differences.values()))


@pytest.fixture(scope="module")
def calibrated(model: Path) -> PlanStore:
    """The store after the graph was calibrated on a moving texture, for every backend that is there."""
    manifest, store = load_manifest(model), PlanStore(model.parent / "cache" / "engines")
    builder = Builder(model, manifest, manifest.graphs[0], store)
    camera = CameraModel.from_fov(96, 64, 75.0)
    image = toy_frames(64, 96).images[0]
    frames = [Frame(np.roll(image, 2 * i, 1), i + 1, camera) for i in range(12)]
    for backend in INT8:
        builder.calibrate(EngineConfig(backend=backend, precision="int8"), frames, 10, "texture", quiet)
    return store


INT8 = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("backend", INT8)
def test_int8_is_calibrated_once_and_near_the_reference(
    model: Path, calibrated: PlanStore, backend: str
) -> None:
    golden = verify.load_golden(model / "64x96.golden.npz")
    with open_engine(model, "64x96", backend, "int8") as engine:
        for image in golden.images:
            engine.run(image, golden.intrinsics, engine.output_names)
        differences = {d.output: d for d in verify.compare(golden.outputs, engine.outputs(), "int8")}
    table = verify.table(list(differences.values()))
    for name in ("depth_m", "class_logits", "latent"):  # of random logits the classes are no measure
        assert 1e-4 < differences[name].value < 0.15, table
    (record,) = (r for r in calibrated.records().values() if r.label.endswith(f"{backend} int8"))
    quantised = {r.sha256: r for r in calibrated.records().values() if "quantised" in r.made_of}
    assert quantised[record.made_of["calibrated"]].notes["frames"] == 10


def test_shipped_ranges_serve_every_size_until_the_camera_is_calibrated(
    network: Lite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    camera = CameraModel.from_fov(96, 64, 75.0)
    image = toy_frames(64, 96).images[0]
    frames = [Frame(np.roll(image, 2 * i, 1), i + 1, camera) for i in range(9)]
    folder = tmp_path / "toy"
    export(network, folder, SIZES, calibration=frames)
    manifest, store = load_manifest(folder), PlanStore(tmp_path / "cache" / "engines")
    feeds = [
        calibration.calibration_feeds(frames, folder / f"{s}.onnx", limit=9, progress=quiet)
        for s in ("64x96", "96x64")
    ]
    parts = [
        ranges.measure(folder / f"{s}.onnx", f, quiet) for s, f in zip(("64x96", "96x64"), feeds, strict=True)
    ]
    assert manifest.ranges == ranges.union(parts) and len(manifest.ranges) > 40
    for size in ("64x96", "96x64"):
        golden = verify.load_golden(folder / f"{size}.golden.npz")
        config = EngineConfig(
            model=str(folder), size=size, backend="openvino", precision="int8", threads=1, verify=False
        )
        with Engine.open(folder, config, cache_dir=tmp_path / "cache") as engine:
            for picture in golden.images:
                engine.run(picture, golden.intrinsics, engine.output_names)
            rows = {d.output: d.value for d in verify.compare(golden.outputs, engine.outputs(), "int8")}
        for name in ("depth_m", "class_logits", "latent"):
            assert 1e-4 < rows[name] < 0.15, rows
    assert ("openvino", "int8") in candidates(EngineConfig(), manifest)
    assert ("openvino", "int8") not in candidates(EngineConfig(precision="fp32"), manifest)
    # A calibration of one's own camera goes before, and has a plan of its own.
    builder = Builder(folder, manifest, manifest.graphs[0], store)
    config = EngineConfig(model=str(folder), size="64x96", backend="openvino", precision="int8", threads=1)
    shipped = builder.made_of(config)["calibrated"]
    assert builder.is_kept(config)
    dark = [Frame(f.image // 2, f.stamp_ns, camera) for f in frames]
    builder.calibrate(config, dark, 9, "dark", quiet)
    assert builder.made_of(config)["calibrated"] != shipped and not builder.is_kept(config)
    (kept,) = (p for p, r in store.records().items() if r.label.endswith("calibrated ranges"))
    kept.write_bytes(kept.read_bytes()[:-5])
    with pytest.raises(EngineError, match="toy 64x96 calibrated ranges is damaged: calibrate again"):
        builder.build(config, quiet)


def test_int8_graph_has_only_convolutions_in_int8_and_no_head(calibrated: PlanStore) -> None:
    path = next(p for p, r in calibrated.records().items() if r.label.endswith("calibrated qdq"))
    graph = onnx.load_from_string(path.read_bytes()).graph
    read_by_convolutions = {name for n in graph.node if n.op_type == "Conv" for name in n.input}
    quantised = [n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"]
    assert len(quantised) > 80 and set(quantised) <= read_by_convolutions
    produced = {n.output[0]: n.op_type for n in graph.node}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    plain = [n for n in convolutions if produced.get(n.input[0]) != "DequantizeLinear"]
    assert len(plain) == 5 and len(convolutions) > 40  # classes, instances, identities, motion, depth
    zeros = {name for n in graph.node if n.op_type == "QuantizeLinear" for name in n.input[2:]}
    points = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in zeros]
    assert points and not any(z.any() for z in points)  # symmetric, as TensorRT wants it


def test_fp8_graph_keeps_the_values_and_builds(model: Path, calibrated: PlanStore) -> None:
    """Its values in ONNX Runtime, as no processor computes it otherwise."""
    import onnxruntime

    golden = verify.load_golden(model / "64x96.golden.npz")
    camera = CameraModel.from_fov(96, 64, 75.0)
    frames = [Frame(np.roll(golden.images[0], 2 * i, 1), i + 1, camera) for i in range(12)]
    path = model / "64x96.onnx"
    feeds = calibration.calibration_feeds(frames, path, limit=10, progress=quiet)
    content = calibration.quantised_fp8(path, feeds, quiet)
    kinds = [t.data_type for t in onnx.load_from_string(content).graph.initializer]
    assert onnx.TensorProto.INT8 not in kinds and kinds.count(onnx.TensorProto.FLOAT8E4M3FN) > 50
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if "state" in i.name}
    for image in golden.images:
        inputs = {"image": image[None], "intrinsics": golden.intrinsics[None], **states}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        states = {name: outputs[f"next_{name}"] for name in states}
    values = {d.output: d.value for d in verify.compare(golden.outputs, outputs, "fp8")}
    for name in ("depth_m", "class_logits", "latent"):
        assert 1e-4 < values[name] < 0.2, values


def test_int8_without_calibration_or_with_bad_data_is_a_sentence(model: Path, tmp_path: Path) -> None:
    config = EngineConfig(model=str(model), size="64x96", backend="onnxruntime", precision="int8", threads=1)
    with pytest.raises(EngineError, match="not calibrated yet: dvps engine build .* --calibration VIDEO"):
        Engine.open(model, config, cache_dir=tmp_path)
    manifest = load_manifest(model)
    builder = Builder(model, manifest, manifest.graphs[0], PlanStore(tmp_path / "engines"))
    image = toy_frames(64, 96).images[0]
    frames = [Frame(image, i + 1, CameraModel.from_fov(96, 64, 75.0)) for i in range(9)]
    with pytest.raises(InputError, match="expected 8 frames or more, got 5"):
        builder.calibrate(config, frames[:5], 64, "few", quiet)
    small = Frame(image[:32, :48].copy(), 20, CameraModel.from_fov(48, 32, 75.0))
    with pytest.raises(InputError, match="frame 9 is of a camera of 48x32, the first of 96x64: give frames"):
        builder.calibrate(config, [*frames, small], 64, "mixed", quiet)
    assert not list((tmp_path / "engines").glob("*calibrated*plan"))


def test_graph_equals_the_network_in_torch(model: Path, network: Lite) -> None:
    """Not the folded, rounded copy but the network itself, through all of the export."""
    frames = toy_frames(64, 96)
    image = torch.from_numpy(frames.images).permute(0, 3, 1, 2).float()
    k = torch.from_numpy(frames.intrinsics)[None]
    with torch.inference_mode():
        first = network(image[:1], k)
        second = network(image[1:], k, first.state)
    out = verify.load_golden(model / "64x96.golden.npz").outputs
    for name, want in (
        ("class_logits", second.class_logits),
        ("depth_m", second.log_depth[:, 0].exp().clamp(0.5, 200)),
        ("next_state_features", second.state["features"]),
        ("latent", second.latent),
    ):
        assert np.abs(out[name] - want.numpy()).max() < 0.01 * want.abs().max(), name


def test_second_frame_depends_on_the_first(model: Path) -> None:
    images, k = toy_frames(64, 96).images, toy_frames(64, 96).intrinsics
    with open_engine(model, "64x96", "onnxruntime") as engine:
        alone = engine.run(images[1], k).segments.copy()
        engine.reset()
        again = engine.run(images[1], k).segments.copy()
        engine.reset()
        engine.run(images[0], k)
        after = engine.run(images[1], k).segments.copy()
    assert np.array_equal(alone, again)
    assert not alone[:, 5:7].any()  # no motion without a previous frame
    assert np.abs(after[after[:, 1] > 0, 5:7]).mean() > 0.1
    assert np.array_equal(alone[:, :5], after[:, :5])


def test_graph_holds_no_trace_of_the_machine_and_only_the_opset(model: Path) -> None:
    data = (model / "64x96.onnx").read_bytes()
    assert str(Path(dvps_ros.export.__file__).parents[2]).encode() not in data
    assert b"site-packages" not in data and b"File " not in data
    graph = onnx.load(model / "64x96.onnx", load_external_data=False)
    assert {(o.domain, o.version) for o in graph.opset_import} == {("", 20)}
    operators = {n.op_type for n in graph.graph.node}
    refused = {"BatchNormalization", "NonZero", "NonMaxSuppression", "Unique", "DeformConv", "Loop", "If"}
    assert not operators & refused


def test_another_opset_gives_the_same_values(model: Path, network: Lite, tmp_path: Path) -> None:
    export(network, tmp_path, SIZES[:1], opset=18)  # proved against torch inside
    graph = onnx.load(tmp_path / "64x96.onnx", load_external_data=False)
    assert {(o.domain, o.version) for o in graph.opset_import} == {("", 18)}
    ours, theirs = (verify.load_golden(f / "64x96.golden.npz").outputs for f in (model, tmp_path))
    assert all(d.passed for d in verify.compare(ours, theirs, "fp32"))


def test_the_command_exports_a_checkpoint_byte_for_byte_the_same(
    model: Path, network: Lite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One size alone: the graph does not depend on the others, and its weights are nearly all of theirs."""
    toy_export = functools.partial(export_model, golden_frames=toy_frames)
    monkeypatch.setattr(dvps_ros.export, "export_model", toy_export)
    checkpoint = tmp_path / "best.ckpt"
    meta = {
        "network": "lite",
        "network_config": to_dict(TINY),
        "labels": CITYSCAPES.to_dict(),
        "recipe": {"steps": 3},
        "commit": "abc",
    }
    weights = {f"objective.network.{k}": v for k, v in network.state_dict().items()}
    torch.save({"dvps": meta, "state_dict": weights}, checkpoint)
    out = tmp_path / "again"
    out.mkdir()
    (out / "README.md").write_text("mine")
    arguments = ["lite", "--checkpoint", str(checkpoint), "--size", "64x96", "--out", str(out)]
    result = CliRunner().invoke(command, [*arguments, "--model-version", "7"], catch_exceptions=False)
    assert result.exit_code == 0 and "64x96" in result.output
    manifest = load_manifest(out)
    assert (manifest.name, manifest.version) == ("again", "7")
    assert manifest.training["recipe"] == {"steps": 3} and manifest.training["commit"] == "abc"
    assert manifest.graphs == load_manifest(model).graphs[:1]  # by the hashes of graph and golden frames
    assert (out / "README.md").read_text() == "mine"
    one, two = ((f / "weights.bin").stat().st_size for f in (out, model))
    assert one <= two < 1.05 * one
    parameters = sum(p.numel() for p in network.parameters())
    assert one < 2.3 * parameters + 40_000  # stored as float16


def test_a_graph_that_computes_something_else_is_not_written(
    model: Path, network: Lite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("mine")
    wrong = onnx.load(model / "64x96.onnx")
    bias = next(t for t in wrong.graph.initializer if t.name.endswith("class_head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(bias), bias.name))
    monkeypatch.setattr(export_module, "trace", lambda graph, height, width, opset: wrong)
    with pytest.raises(EngineError, match="64x96.onnx: ONNX Runtime computes other values"):
        export(network, tmp_path, SIZES[:1])
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_refuses_a_label_space_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="19 classes, the network 7"):
        export(Lite(LiteConfig(classes=7, encoder="thin_tiny", decoder_width=8)), tmp_path, SIZES[:1])


def test_refuses_weights_beyond_float16() -> None:
    network = Lite(TINY)
    with torch.no_grad():
        network.class_head.weight[0] = 1e6
    with pytest.raises(ConfigError, match="class_head"):
        folded(network)


def test_folding_changes_nothing_but_rounding(network: Lite) -> None:
    image = torch.from_numpy(toy_frames(64, 96).images[:1]).permute(0, 3, 1, 2).float()
    k = torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    copy = folded(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in copy.modules())
    with torch.inference_mode():
        a, b = network(image, k), copy(image, k)
    assert (a.class_logits - b.class_logits).abs().max() < 0.005 * a.class_logits.abs().max()
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("text", ["384", "384x", "x768", "384x760", "0x32", "384x768x3", "384 x 768"])
def test_refuses_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(text))):
        parse_size(text)


def test_parses_sizes() -> None:
    assert parse_size("384x768") == (384, 768)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "--random"], "unknown network 'nope'"),
        (["lite"], "--checkpoint FILE or --random"),
        (["lite", "--random", "--checkpoint", "x.ckpt"], "--checkpoint FILE or --random"),
        (["lite", "--checkpoint", "x.ckpt", "--set", "encoder=wide"], "--set: a checkpoint knows the size"),
        (["lite", "--random", "--set", "encoder=thick"], "encoder: expected one of"),
        (["lite", "--random", "--set", "encoder"], "expected KEY=VALUE"),
        (["steering", "--checkpoint", "x.ckpt"], "^--size: not for the steering head"),
        (["steering", "--checkpoint", "x.ckpt", "--random"], "--random, --size|--size, --random"),
        (["steering", "--checkpoint", "x.ckpt", "--min-score", "0.1"], "--min-score, --size"),
        (["steering", "--checkpoint", "x.ckpt", "--opset", "20"], "--opset, --size"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(
            command, [*arguments, "--size", "64x96", "--out", str(tmp_path / "o")], catch_exceptions=False
        )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_rtx_builds_calibrated_graphs(model: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    config = EngineConfig(backend="tensorrt_rtx", precision=precision, target="sm_89", threads=1)
    manifest = load_manifest(model)
    builder = Builder(model, manifest, manifest.graphs[0], PlanStore(model.parent / "cache" / "engines"))
    camera = CameraModel.from_fov(96, 64, 75.0)
    image = toy_frames(64, 96).images[0]
    frames = [Frame(np.roll(image, 2 * i, 1), i + 1, camera) for i in range(8)]
    builder.calibrate(config, frames, 8, "texture", quiet)
    assert len(builder.build(config, quiet)) > 100_000


def test_tensorrt_rtx_builds_the_graph(model: Path) -> None:
    """Parsed and built for a named GPU, which needs none here; it is not run."""
    tensorrt = pytest.importorskip("tensorrt_rtx")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(model / "64x96.onnx")), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(tensorrt.ComputeCapability.SM89, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 0
