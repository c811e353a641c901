# SPDX-License-Identifier: Apache-2.0
"""Networks of the transformers library as model folders: the values are those of the library's own code."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("transformers", reason="needs the extra train: pip install 'dvps_ros[train]'")

from made_checkpoints import (
    MEAN,
    NETWORKS,
    STD,
    depth_anything,
    eomt,
    made,
    noise,
    save_depth,
    save_panoptic,
)
from PIL import Image

from dvps_ros.cli.import_ import command
from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.export.checkpoints import DepthOptions, ImportOptions, import_model, open_network
from dvps_ros.export.checkpoints.classes import ClassMap
from dvps_ros.export.checkpoints.depth import resize
from dvps_ros.export.checkpoints.source import Normalise, open_checkpoint, read_preprocessing
from dvps_ros.export.graph import DeployedGraph
from dvps_ros.export.model import world_frames
from dvps_ros.labels import CITYSCAPES
from dvps_ros.runtime import verify
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import load_manifest
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import CameraModel, Frame

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SIZE = (64, 96)
PANOPTIC = ImportOptions(panoptic=True)
"""The made folders do not say for which task they are."""
LOOSE = {"min_visible": 0.05}
"""Random masks hide each other more than trained ones."""
COCO = (
    "person", "car", "traffic light", "stop sign", "road", "sky-other-merged", "tree-merged",
    "pavement-merged", "building-other-merged", "wall-brick", "grass-merged", "cabinet-merged",
)  # fmt: skip
ADE = (
    "road, route",
    "sidewalk, pavement",
    "earth, ground",
    "minibike, motorbike",
    "van",
    "screen, CRT screen",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a made network -> its folder; do not write into it."""
    root = tmp_path_factory.mktemp("sources")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            if name == "depth":
                save_depth(path, depth_anything())
            else:
                save_panoptic(path, made(name))
        return path

    return folder


@pytest.fixture
def depth(folders: Callable[[str], Path]) -> str:
    return str(folders("depth"))


@pytest.fixture
def copy(folders: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """As ``folders``, to write into."""
    return lambda name: shutil.copytree(folders(name), tmp_path / f"copy_of_{name}")


def change(path: Path, **values: Any) -> None:
    """Entries of a JSON file; None removes one."""
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


# Values, against the library's own code


@pytest.mark.parametrize("name", NETWORKS)
def test_queries_are_those_of_the_networks_own_forward(
    folders: Callable[[str], Path], depth: str, name: str
) -> None:
    network = open_network(str(folders(name)), depth, options=PANOPTIC).network
    own = made(name)
    feeds = noise(own)
    if name == "oneformer":
        feeds["task_inputs"] = network.segmenter.task
    queries = network.segmenter(feeds["pixel_values"])
    want = own(**feeds)
    masks = torch.einsum("bqe,behw->bqhw", queries.mask_vectors, queries.pixel_vectors)
    torch.testing.assert_close(masks, want.masks_queries_logits, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(queries.class_logits, want.class_queries_logits, rtol=1e-4, atol=1e-3)
    assert queries.embedding.std(1).min() > 0  # identities differ
    assert queries.mask_vectors.shape[2], queries.embedding.shape[2] == network.segmenter.widths


def test_oneformer_is_asked_for_the_panoptic_task(folders: Callable[[str], Path], depth: str) -> None:
    network = open_network(str(folders("oneformer")), depth).network
    vocabulary = json.loads((folders("oneformer") / "vocab.json").read_text())
    words = ["<|startoftext|>", *"th", "e</w>", *"tas", "k</w>", "i", "s</w>", "p", "<|endoftext|>"]
    assert network.segmenter.task.tolist() == [[vocabulary[word] for word in words]]  # cut off at 12


def test_a_prediction_has_our_classes_and_masks_at_stride_4(
    folders: Callable[[str], Path], depth: str
) -> None:
    """EoMT at twice its own width, with positions interpolated; all probabilities are kept."""
    network = open_network(str(folders("eomt")), depth, options=PANOPTIC).network
    image = torch.rand(2, 3, 64, 128) * 255
    intrinsics = torch.tensor([[100.0, 100.0, 63.5, 31.5]] * 2)
    p = network(image, intrinsics)
    assert p.mask_logits.shape == (2, 8, 16, 32) and p.depth_m.shape == (2, 1, 16, 32)
    assert p.latent.shape == (2, 32, 32) and p.class_logits.shape == (2, 8, 20)
    torch.testing.assert_close(p.class_logits.exp().sum(2), torch.ones(2, 8), atol=1e-3, rtol=0)
    single = network(image[1:], intrinsics[1:])
    torch.testing.assert_close(single.mask_logits, p.mask_logits[1:], rtol=1e-4, atol=1e-4)
    assert network.state_shapes == {"rows": (64, 32)}


def test_pixels_are_normalised_as_the_folder_says(copy: Callable[[str], Path]) -> None:
    folder = copy("eomt")
    image = torch.rand(1, 3, 4, 5) * 255
    want = (image / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    def normalised(*stated: Any) -> torch.Tensor:
        return Normalise(read_preprocessing(open_checkpoint(str(folder)), *stated))(image)

    torch.testing.assert_close(normalised(None, None), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalised([0.0] * 3, [1.0] * 3), image / 255)
    change(folder / "preprocessor_config.json", do_normalize=False)
    torch.testing.assert_close(normalised(None, None), image / 255)
    change(folder / "preprocessor_config.json", do_rescale=False)
    torch.testing.assert_close(normalised(None, None), image)
    change(folder / "preprocessor_config.json", do_flip_channel_order=True)
    torch.testing.assert_close(normalised(None, None), image.flip(1))
    data = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": data}))
    torch.testing.assert_close(normalised(None, None), image.flip(1))


@pytest.mark.parametrize("filter", [2, 3])
@pytest.mark.parametrize("size", [(70, 112), (28, 42), (98, 70)])
def test_images_are_resized_as_pillow_does(filter: int, size: tuple[int, int]) -> None:
    image = world_frames(64, 96).images[0]
    want = np.asarray(Image.fromarray(image).resize(size[::-1], filter)).astype(np.float64)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    got = resize(pixels, size, filter)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - want).max() < 1.6  # it rounds to bytes twice


def test_the_depth_networks_input_has_the_size_of_its_own_processor(
    folders: Callable[[str], Path], depth: str
) -> None:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    own = json.loads((Path(depth) / "preprocessor_config.json").read_text())
    processor = DPTImageProcessorPil(**own)
    module = open_network(str(folders("eomt")), depth, options=PANOPTIC).network.depth
    for height, width in ((64, 96), (96, 64), (64, 64), (384, 768), (32, 256)):
        made_by_it = processor(np.zeros((height, width, 3), np.uint8), return_tensors="pt")["pixel_values"]
        assert module.input_size(height, width) == tuple(made_by_it.shape[2:])


def test_depth_is_that_of_the_network_behind_its_own_processor(
    folders: Callable[[str], Path], depth: str
) -> None:
    from transformers import DepthAnythingForDepthEstimation
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    image = world_frames(64, 96).images[0]
    processor = DPTImageProcessorPil(**json.loads((Path(depth) / "preprocessor_config.json").read_text()))
    own = DepthAnythingForDepthEstimation.from_pretrained(depth).eval()
    with torch.no_grad():
        answer = own(**processor(image, return_tensors="pt")).predicted_depth[:, None]
    want = torch.nn.functional.interpolate(answer, size=(16, 24), mode="bilinear")
    module = open_network(str(folders("eomt")), depth, options=PANOPTIC).network.depth
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    got = module(pixels, torch.tensor([[96.0, 96.0, 47.5, 31.5]]))
    assert want.std() > 3 and (got - want).abs().mean() < 0.02 * want.std()


def known_depth(copy: Callable[[str], Path], kind: str, options: DepthOptions) -> float:
    """Metres of a network whose last layer says 0.5 whatever it sees, at fx = 120 px of a 64x96 image."""
    source = copy("eomt")
    folder = source.parent / f"depth_{kind}"
    model = depth_anything(kind, 80)
    with torch.no_grad():
        model.head.conv3.weight.zero_()
        model.head.conv3.bias.fill_(0.0 if kind == "metric" else 0.25 / 80)
    save_depth(folder, model)
    network = open_network(str(source), str(folder), options=replace(PANOPTIC, depth=options)).network
    values = network.depth(torch.rand(1, 3, 64, 96) * 255, torch.tensor([[120.0, 130.0, 47.5, 31.5]]))
    assert values.shape == (1, 1, 16, 24) and values.std() < 1e-4
    return float(values.mean())


@pytest.mark.parametrize(
    ("kind", "options", "want"),
    [
        ("metric", DepthOptions(), 40.0),
        ("metric", DepthOptions(max_depth_m=20.0), 10.0),
        ("metric", DepthOptions(canonical_focal_px=240.0, size=(70, 112)), 40.0 * (120 * 112 / 96) / 240),
        ("relative", DepthOptions(relative_factor_m=5.0), 20.0),
    ],
)
def test_depth_is_in_metres_and_follows_the_options(
    copy: Callable[[str], Path], kind: str, options: DepthOptions, want: float
) -> None:
    assert known_depth(copy, kind, options) == pytest.approx(want, rel=1e-4)


# Classes


def test_classes_are_matched_by_name() -> None:
    found = {
        s: None if t is None else CITYSCAPES.names[t]
        for names in (COCO, ADE, CITYSCAPES.names)
        for s, t in zip(names, ClassMap.by_name(names, CITYSCAPES).targets, strict=True)
    }
    assert all(found[name] == name for name in CITYSCAPES.names)
    assert found["stop sign"] == "traffic sign" and found["sky-other-merged"] == "sky"
    assert found["tree-merged"] == "vegetation" and found["pavement-merged"] == "sidewalk"
    assert found["building-other-merged"] == "building" and found["wall-brick"] == "wall"
    assert found["grass-merged"] == found["earth, ground"] == "terrain"
    assert found["road, route"] == "road" and found["sidewalk, pavement"] == "sidewalk"
    assert found["minibike, motorbike"] == "motorcycle" and found["van"] == "car"
    assert found["cabinet-merged"] is found["screen, CRT screen"] is None


def test_probabilities_of_one_class_add_up_and_void_is_no_object() -> None:
    classes = ClassMap.by_name(ADE, CITYSCAPES, {"screen, CRT screen": "traffic sign", "van": "void"})
    assert "van                  ->  void" in classes.table()
    assert "never predicted: building, " in classes.table()
    probability = torch.tensor([0.1, 0.2, 0.3, 0.05, 0.15, 0.02, 0.18]) @ classes.matrix()
    want = {"road": 0.1, "sidewalk": 0.2, "terrain": 0.3, "motorcycle": 0.05, "traffic sign": 0.02}
    for name, value in want.items():
        assert float(probability[CITYSCAPES.id_of(name)]) == pytest.approx(value)
    assert float(probability[-1]) == pytest.approx(0.15 + 0.18) and float(probability.sum()) == pytest.approx(
        1
    )


# The model folder


@pytest.fixture(
    scope="module", params=["mask2former", "mask2former_r50", "oneformer", "eomt_masked", "eomt_dinov3"]
)
def imported(
    request: pytest.FixtureRequest, folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    found = open_network(str(folders(request.param)), str(folders("depth")), options=PANOPTIC, sizes=[SIZE])
    out = tmp_path_factory.mktemp("models") / request.param
    import_model(found, out, [SIZE], version="1", fusion=LOOSE)
    return found, out


def test_engines_agree_with_torch_on_the_golden_frames(imported: tuple[Any, Path]) -> None:
    """The network itself, not the rounded copy that the export proves, in all digits that users see."""
    found, out = imported
    golden = verify.load_golden(out / "64x96.golden.npz")
    graph = DeployedGraph(found.network, CITYSCAPES, **LOOSE)
    state = torch.zeros(graph.state[0].sizes(*SIZE))
    for image in golden.images:
        with torch.inference_mode():
            values = graph(torch.from_numpy(image)[None], torch.from_numpy(golden.intrinsics)[None], state)
        want = {n: v.numpy() for n, v in zip(graph.output_names, values, strict=True)}
        state = torch.from_numpy(want["next_state_rows"])
    assert len(np.unique(want["class_map"])) >= 3 and want["depth_m"].std() > 1
    for backend in ("onnxruntime", "openvino"):
        config = EngineConfig(model=str(out), size="64x96", backend=backend, precision="fp32", threads=1)
        with Engine.open(out, config, camera_size=None, cache_dir=out.parent / "cache") as engine:
            engine.reset()
            for image in golden.images:
                engine.run(image, golden.intrinsics, engine.output_names)
            rows = {d.output: d for d in verify.compare(want, engine.outputs(), "fp32")}
        assert rows[verify.PANOPTIC].value <= 0.001, verify.table(list(rows.values()))
        assert all(d.passed for d in rows.values()), verify.table(list(rows.values()))


def test_rows_are_found_again_by_their_masks(imported: tuple[Any, Path]) -> None:
    """The same picture twice: the mask that comes from before is that of the same query."""
    network = imported[0].network
    fusion = network.fusion(tuple(range(len(CITYSCAPES))), min_visible=0.02, min_score=0.3)
    image = torch.from_numpy(world_frames(*SIZE).images[0]).permute(2, 0, 1)[None].float()
    state, intrinsics = (
        torch.zeros(1, *network.state_shapes["rows"]),
        torch.tensor([[96.0, 96.0, 47.5, 31.5]]),
    )
    with torch.inference_mode():
        first = fusion(network(image, intrinsics, {"rows": state}))
        p = network(image, intrinsics, {"rows": first["next_state_rows"]})
        second = fusion(p)
    assert not first["overlap"].any()
    used = second["segments"][0, :, 1] > 0
    assert used.any() and torch.equal(first["segment_map"], second["segment_map"])
    for row in torch.nonzero(used)[:, 0]:
        query = (p.mask_vectors[0] - second["next_state_rows"][0, row]).abs().sum(1).argmin()
        mask = p.mask_logits[0, query] > 0
        segment = second["segment_map"][0] == row
        iou = float((mask & segment).sum() / (mask | segment).sum())
        assert float(second["overlap"][0, row, row]) == pytest.approx(iou, abs=0.02) and iou > 0


def test_the_pipeline_takes_the_folder(imported: tuple[Any, Path], tmp_path: Path) -> None:
    _, out = imported
    camera = CameraModel.from_fov(96, 64, 75.0)
    frames = world_frames(*SIZE)
    for backend in ("onnxruntime", "openvino"):
        engine = EngineConfig(model=str(out), backend=backend, precision="fp32", threads=1)
        with DvpsPipeline.open(PipelineConfig(engine=engine), camera, cache_dir=tmp_path) as pipeline:
            for i in range(3):
                result = pipeline.process(Frame(frames.images[0], 1 + i * 100_000_000, camera))
        assert result.panoptic is not None and result.panoptic.class_map.shape == SIZE
        assert np.nanstd(np.where(np.isfinite(result.panoptic.depth_m), result.panoptic.depth_m, np.nan)) > 1


def test_the_graph_has_plain_operators_only(imported: tuple[Any, Path]) -> None:
    import onnx

    model = onnx.load(imported[1] / "64x96.onnx", load_external_data=False)
    operators = {n.op_type for n in model.graph.node}
    refused = {"NonZero", "NonMaxSuppression", "Unique", "DeformConv", "Loop", "If", "BatchNormalization"}
    assert not operators & refused and {o.domain for o in model.opset_import} == {""}


def test_the_command_writes_a_folder_with_both_licences(
    folders: Callable[[str], Path], copy: Callable[[str], Path], tmp_path: Path
) -> None:
    source = copy("eomt")
    (source / "README.md").unlink()
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["bird", *CITYSCAPES.names[1:]]))
    out = tmp_path / "mine"
    arguments = [
        str(source), "--depth", str(folders("depth")), "--size", "64x96", "--out", str(out), "--panoptic",
        "--licence", "cc-by-nc-4.0", "--canonical-focal", "300", "--min-visible", "0.05", "--min-score",
        "0.3", "--names", str(names), "--map", "train=void",
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "bird           ->  void\n" in result.output and "train          ->  void\n" in result.output
    assert "car            ->  car\n" in result.output and "never predicted: road, train\n" in result.output
    manifest = load_manifest(out)
    assert manifest.licence == "panoptic network: cc-by-nc-4.0; depth network: apache-2.0"
    assert manifest.network == "eomt+depth_anything" and manifest.sky_class == 10
    assert manifest.training["panoptic"]["source"] == "copy_of_eomt"
    assert list(manifest.training["depth"]["sha256"]) == ["model.safetensors"]
    card = (out / "README.md").read_text()
    assert "| panoptic network | copy_of_eomt  | eomt | cc-by-nc-4.0 |" in card
    assert "up to 80 m" in card and "focal length / 300.0 px" in card and "(depth at 70x112)" in card
    assert str(tmp_path) not in card + (out / "manifest.json").read_text()


# What is refused


def refused(source: Path | str, depth_source: Path | str, match: str, /, **options: Any) -> str:
    sizes = options.pop("sizes", ())
    with pytest.raises((CheckpointError, ConfigError), match=match) as caught:
        open_network(str(source), str(depth_source), options=replace(PANOPTIC, **options), sizes=sizes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_keys_that_do_not_fit_are_listed(copy: Callable[[str], Path], depth: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy("eomt")
    weights = load_file(folder / "model.safetensors")
    weights["stranger.weight"] = weights.pop("query.weight").clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refused(folder, depth, "1 missing: query.weight; 1 unknown: stranger.weight")
    assert "--allow-missing" in message
    network = open_network(str(folder), depth, options=replace(PANOPTIC, allow_missing=True)).network
    assert network.segmenter.model.query.weight.shape == (8, 32)


def test_shapes_that_do_not_fit_are_listed(copy: Callable[[str], Path], depth: str) -> None:
    folder = copy("eomt")
    change(folder / "config.json", num_queries=9)
    refused(folder, depth, r"other shapes than config.json says: query.weight \(8x32 instead of 9x32\)")


def test_damaged_weights_are_a_sentence(copy: Callable[[str], Path], depth: str) -> None:
    folder = copy("eomt")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, depth, "weights cannot be loaded as EomtForUniversalSegmentation .*whole")


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_refused_and_not_run(copy: Callable[[str], Path], depth: str, tmp_path: Path) -> None:
    folder, sprung = copy("eomt"), tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    (folder / "model.pkl").write_bytes(pickle.dumps({"weights": Trap(sprung)}))
    refused(folder, depth, r"model.pkl may run code when loaded, and is refused")
    torch.save({"query.weight": Trap(sprung)}, folder / "pytorch_model.bin")
    refused(folder, depth, "weights_only: other pickled objects are refused")
    assert not sprung.exists()


def test_plain_tensors_in_a_torch_file_are_taken(copy: Callable[[str], Path], depth: str) -> None:
    from safetensors.torch import load_file

    folder = copy("eomt")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    network = open_network(str(folder), depth, options=PANOPTIC).network
    torch.testing.assert_close(network.segmenter.model.query.weight, made("eomt").query.weight)


def test_other_architectures_and_folders_are_refused(
    folders: Callable[[str], Path], depth: str, tmp_path: Path
) -> None:
    eomt_folder = folders("eomt")
    refused(depth, depth, r"of architecture depth_anything \(DepthAnything.*expected one with queries")
    refused(eomt_folder, eomt_folder, "of architecture eomt; expected a depth network")
    refused(tmp_path, depth, "no model of the transformers library: cannot read .*config.json")
    (tmp_path / "config.json").write_text('{"epochs": 3}')
    refused(tmp_path, depth, "has no model_type")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, depth, "it is no JSON")
    refused(tmp_path / "config.json", depth, "expected a folder with config.json and weights, got a file")
    refused("a/b/c", depth, "no such folder, and a hub name has the form owner/name")


def test_a_hub_that_cannot_be_reached_is_a_sentence(depth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused("nobody/no-such-network@main", depth, "cannot be fetched from the hub")
    assert "hf download nobody/no-such-network --local-dir FOLDER" in message


@pytest.mark.parametrize("sign", ["folder", "card", "windows"])
def test_semantic_checkpoints_are_refused(
    copy: Callable[[str], Path], depth: str, tmp_path: Path, sign: str
) -> None:
    folder = copy("eomt")
    if sign == "folder":
        folder = folder.rename(tmp_path / "cityscapes_semantic_large")
    elif sign == "card":
        text = "# A network\n\nA model trained on Cityscapes semantic segmentation (large-sized version)."
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{text} It does panoptic, too.\n")
    else:
        change(folder / "preprocessor_config.json", do_split_image=True)
    refused(folder, depth, "trained for semantic segmentation .*tells no two cars apart", panoptic=False)
    assert open_network(str(folder), depth, options=PANOPTIC).classes.unfilled == ()


def test_classes_without_a_match_are_refused(tmp_path: Path, depth: str) -> None:
    torch.manual_seed(0)
    folder = save_panoptic(tmp_path / "birds", eomt(("sparrow", "heron")))
    refused(
        folder, depth, "no class of the checkpoint has a name of label space cityscapes: .*sparrow, heron"
    )
    refused(folder, depth, "the checkpoint has no class 'car'", classes={"car": "car"})
    refused(folder, depth, "has no class 'bird'", classes={"heron": "bird"})
    found = open_network(str(folder), depth, options=replace(PANOPTIC, classes={"heron": "person"}))
    assert found.classes.targets == (None, CITYSCAPES.id_of("person"))
    refused(folder, depth, "expected the names of its 2 classes, got 3", names=["a", "b", "c"])
    change(folder / "config.json", id2label=None, label2id=None)
    refused(folder, depth, "expected id2label in config.json .*--names FILE")


def test_sizes_that_the_network_cannot_take_are_refused(tmp_path: Path, depth: str) -> None:
    torch.manual_seed(0)
    folder = save_panoptic(tmp_path / "odd", eomt(CITYSCAPES.names, patch=24))
    refused(folder, depth, "size 64x96: .*multiples of 96 .*nearest is 96x96", sizes=[(64, 96)])
    refused(
        folder, depth, "--depth-size 64x96: .*multiples of 14, such as 70x98",
        depth=DepthOptions(size=(64, 96)),
    )  # fmt: skip


def test_depth_that_is_not_metric_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    source = folders("eomt")
    relative = save_depth(tmp_path / "relative", depth_anything("relative", 1))
    refused(source, relative, "predicts relative depth .*--relative-depth FACTOR")
    both = DepthOptions(max_depth_m=80.0, relative_factor_m=5.0)
    refused(source, relative, "has no --max-depth", depth=both)
    refused(source, folders("depth"), "metric depth; leave --relative-depth out", depth=both)
    unbounded = save_depth(tmp_path / "unbounded", depth_anything("metric", 1))
    refused(source, unbounded, "expected its config.json to say max_depth in metres, got 1")


def test_a_licence_is_never_guessed(copy: Callable[[str], Path], depth: str) -> None:
    folder = copy("eomt")
    (folder / "README.md").write_text("---\nlicense: other\n---\n# A network\n")
    refused(folder, depth, "names no licence in its metadata; .*--licence NAME")
    refused(copy("mask2former"), folder_without_card(Path(depth), folder.parent), "--depth-licence NAME")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: their-own\n---\n")
    assert open_network(str(folder), depth, options=PANOPTIC).licences == ("their-own", "apache-2.0")


def folder_without_card(folder: Path, where: Path) -> Path:
    bare = shutil.copytree(folder, where / "bare")
    (bare / "README.md").unlink()
    return bare


def test_preprocessing_is_never_guessed(copy: Callable[[str], Path], depth: str) -> None:
    folder = copy("eomt")
    change(folder / "preprocessor_config.json", rescale_factor=None)
    refused(folder, depth, "has no rescale_factor; state them with --mean R,G,B")
    change(folder / "preprocessor_config.json", rescale_factor=1 / 255, image_std=[0.2, 0.0, 0.2])
    refused(folder, depth, "deviations and rescale_factor above 0")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, depth, "has no preprocessor_config.json, .*--mean R,G,B --std R,G,B")
    refused(folder, depth, "give both --mean and --std, or none", mean=MEAN)
    network = open_network(str(folder), depth, options=replace(PANOPTIC, mean=MEAN, std=STD)).network
    assert network.normalise.mean.flatten().tolist() == pytest.approx([255 * m for m in MEAN])


def test_oneformer_without_tokenizer_is_refused(copy: Callable[[str], Path], depth: str) -> None:
    folder = copy("oneformer")
    (folder / "vocab.json").unlink()
    refused(folder, depth, "asked for its task in words, .*fetch vocab.json and merges.txt")


def test_eomt_between_masked_and_not_is_refused(tmp_path: Path, depth: str) -> None:
    model = made("eomt")
    model.attn_mask_probs.fill_(0.5)
    refused(save_panoptic(tmp_path / "half", model), depth, "its training was not finished")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--size", "64x96"], "give --depth SOURCE, a metric depth network: .*promises metres"),
        (["--depth", "x"], "give at least one --size HxW"),
        (["--depth", "x", "--size", "60x96"], "multiples of 32"),
        (["--depth", "x", "--size", "64x96", "--depth-size", "70"], "--depth-size: expected HxW"),
    ],
)
def test_the_command_says_what_it_needs(arguments: list[str], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        CliRunner().invoke(
            command, [str(tmp_path), "--out", str(tmp_path / "out"), *arguments], catch_exceptions=False
        )
    assert CliRunner().invoke(command, ["x", "--out", "y", "--mean", "1,2"]).exit_code == 2
