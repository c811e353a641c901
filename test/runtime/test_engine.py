# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_model import build, classifier, paint

from dvps_ros.config import EngineConfig
from dvps_ros.errors import DeviceError, EngineError, InputError, ModelFileError
from dvps_ros.runtime.backends import BACKENDS, installed, onnxruntime_gpu
from dvps_ros.runtime.engine import Engine, choose_graph, open_all
from dvps_ros.runtime.manifest import MANIFEST, hash_file, load_manifest
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.runtime.precision import load_graph

AUTOMATIC = [(name, p) for name, b in installed().items() for p in b.choices(EngineConfig())]
CHOICES = [*AUTOMATIC, *([("pytorch", "fp32")] if "pytorch" in installed() else [])]
INTRINSICS = np.array([128, 128, 63.5, 31.5], np.float32)


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def edit_manifest(folder, edit):
    data = json.loads((folder / MANIFEST).read_text())
    edit(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def trust(folder):
    """Make the manifest believe the files as they are, as if they had been exported so."""

    def edit(data):
        data["weights"]["sha256"] = hash_file(folder / data["weights"]["file"])
        for graph in data["graphs"]:
            graph["sha256"] = hash_file(folder / graph["file"])
            graph["golden_sha256"] = hash_file(folder / graph["golden"])

    edit_manifest(folder, edit)


def config(backend="onnxruntime", precision="fp32", **changes):
    return EngineConfig(backend=backend, precision=precision, threads=1, **changes)


@pytest.mark.parametrize("choice", CHOICES)
def test_values_by_hand(tiny_model, cache, choice):
    with Engine.open(tiny_model, config(*choice), cache_dir=cache) as engine:
        assert (engine.height, engine.width) == (64, 128)
        out = engine.run(paint(64, 128, car_x=32), INTRINSICS)
        car = np.s_[8:12, 8:16]
        assert (out.class_map[:8] == 10).all() and (out.class_map[car] == 13).all()
        assert (out.segment_map[car] == 2).all() and (out.segment_map != 255).sum() == 32
        assert (out.nearest == 2).all()  # the car is the only segment: nearest to every pixel
        # Stride-4 row 12 is at input row 49.5, 18 px below the horizon: 1.5 * 128 / 18.
        np.testing.assert_allclose(out.depth_m[12], 1.5 * 128 / 18, rtol=0.01)
        np.testing.assert_allclose(out.segments[2, :7], [13, 0.88, 32, 47.5, 39.5, 0, 0], rtol=0.01)
        np.testing.assert_array_equal(out.embedding[2], np.eye(8, dtype=np.float32)[2])
        # Second frame: the car was 8 px to the left before.
        out = engine.run(paint(64, 128, car_x=40), INTRINSICS)
        np.testing.assert_allclose(out.segments[2, 3:7], [55.5, 39.5, -8, 0], rtol=0.01, atol=0.01)
        assert out.segments[2, 8] == 1


@pytest.mark.parametrize("choice", CHOICES)
def test_reset_forgets_and_results_live_for_one_more_run(tiny_model, cache, choice):
    with Engine.open(tiny_model, config(*choice), cache_dir=cache) as engine:
        first = engine.run(paint(64, 128, car_x=32), INTRINSICS)
        copy = first.class_logits.copy()
        moved = engine.run(paint(64, 128, car_x=40), INTRINSICS)
        np.testing.assert_array_equal(first.class_logits, copy)
        assert moved.segments[2, 5] == -8
        engine.reset()
        again = engine.run(paint(64, 128, car_x=40), INTRINSICS)
        assert again.segments[2, 5] == 0


def test_bad_input_leaves_memory_alone(tiny_model, cache):
    with Engine.open(tiny_model, config(), cache_dir=cache) as engine:
        engine.run(paint(64, 128, car_x=32), INTRINSICS)
        with pytest.raises(InputError, match=r"expected uint8 \[64x128x3\], got uint8 \[96x96x3\]"):
            engine.run(paint(96, 96), INTRINSICS)
        with pytest.raises(InputError, match="expected finite numbers"):
            engine.run(paint(64, 128), np.array([128, np.nan, 63.5, 31.5], np.float32))
        assert engine.run(paint(64, 128, car_x=40), INTRINSICS).segments[2, 5] == -8


def test_size_that_the_camera_fills_best(tiny_model):
    manifest = load_manifest(tiny_model)
    assert choose_graph(manifest, "auto", (1242, 375)).size == "64x128"
    assert choose_graph(manifest, "auto", (640, 480)).size == "96x96"
    assert choose_graph(manifest, "auto", None).size == "64x128"
    assert choose_graph(manifest, "96x96", (1242, 375)).size == "96x96"
    with pytest.raises(EngineError, match="it ships 64x128, 96x96"):
        choose_graph(manifest, "1x1", None)
    twice = replace(manifest, graphs=(*manifest.graphs, replace(manifest.graphs[0], height=128, width=256)))
    assert choose_graph(twice, "auto", (2048, 1024)).size == "64x128"  # equal shapes: the first


@pytest.mark.parametrize("choice", CHOICES)
def test_refuses_wrong_weights(model, cache, choice, caplog):
    weights = np.fromfile(model / "weights.bin", np.float32)
    (weights * np.random.default_rng(0).uniform(0.8, 1.2, weights.size).astype(np.float32)).tofile(
        model / "weights.bin"
    )
    with pytest.raises(EngineError, match="weights.bin is truncated or of another export"):
        Engine.open(model, config(*choice), cache_dir=cache)
    with pytest.raises(ModelFileError):  # at once, not for each backend in turn
        Engine.open(model, EngineConfig(), cache_dir=cache)
    assert "is left out" not in caplog.text
    trust(model)
    with pytest.raises(EngineError, match=r"computes wrong values(.|\n)*class_logits .*FAILS"):
        Engine.open(model, config(*choice), cache_dir=cache)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("fault", ["swapped channels", "wrong normalisation"])
def test_refuses_an_engine_that_sees_other_colors(model, cache, choice, fault):
    weight, bias = classifier()
    weight = weight[:, ::-1] if fault == "swapped channels" else weight / 1.2
    (model / "weights.bin").write_bytes(b"".join(v.astype(np.float32).tobytes() for v in (weight, bias)))
    trust(model)
    with pytest.raises(EngineError, match=r"computes wrong values(.|\n)*FAILS"):
        Engine.open(model, config(*choice), cache_dir=cache)
    Engine.open(model, config(*choice, verify=False), cache_dir=cache).close()


def test_refuses_broken_graphs(model, cache):
    path = model / "64x128.onnx"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a graph at all"):
        path.write_bytes(content)
        with pytest.raises(EngineError, match="64x128.onnx is truncated or of another export"):
            Engine.open(model, config(), cache_dir=cache)
        trust(model)
        for choice in CHOICES:
            with pytest.raises(EngineError, match="cannot (load|read the graph) .*64x128.onnx"):
                Engine.open(model, config(*choice), cache_dir=cache)
    path.unlink()
    with pytest.raises(EngineError, match="cannot read model file .*64x128.onnx: No such file"):
        Engine.open(model, config(), cache_dir=cache)


@pytest.mark.parametrize("choice", CHOICES)
def test_refuses_a_graph_of_another_interface(model, cache, choice):
    (model / "64x128.onnx").write_bytes(build(96, 96, classifier()).SerializeToString())
    trust(model)
    with pytest.raises(EngineError, match=r"input image: the manifest promises uint8 \[1, 64, 128, 3\]"):
        Engine.open(model, config(*choice), cache_dir=cache)


def test_refuses_another_label_space_and_contract(model, cache):
    def drop_class(data):
        data["label_space"]["classes"].pop()

    edit_manifest(model, drop_class)
    with pytest.raises(EngineError, match=r"class_logits: the manifest promises float32 \[1, 18, 16, 32\]"):
        Engine.open(model, config(), cache_dir=cache)
    edit_manifest(model, lambda data: data.update(contract=2))
    with pytest.raises(EngineError, match="contract version: expected 1, got 2"):
        Engine.open(model, config(), cache_dir=cache)


def test_refuses_broken_golden_frames_and_segments_made_elsewhere(model, cache):
    golden = model / "64x128.golden.npz"
    golden.write_bytes(golden.read_bytes()[:1000])
    trust(model)
    with pytest.raises(EngineError, match="cannot read golden frames"):
        Engine.open(model, config(), cache_dir=cache)
    edit_manifest(model, lambda data: data.update(fusion="host"))
    with pytest.raises(EngineError, match="fusion: expected graph, got .host."):
        Engine.open(model, config(), cache_dir=cache)


def test_refuses_golden_frames_of_another_size_or_output(model, cache):
    shutil.copy(model / "96x96.golden.npz", model / "64x128.golden.npz")
    trust(model)
    with pytest.raises(EngineError, match=r"do not fit: network image: expected uint8 \[64x128x3\]"):
        Engine.open(model, config(), cache_dir=cache)
    with np.load(model / "96x96.golden.npz") as file:
        arrays = {k: file[k] for k in file.files if k != "out_latent"}
    np.savez(model / "64x128.golden.npz", **arrays)
    trust(model)
    with pytest.raises(EngineError, match=r"not in both graph and file: \['latent'\]"):
        Engine.open(model, config(), cache_dir=cache)


def test_auto_measures_once_and_remembers(tiny_model, cache, caplog):
    caplog.set_level(logging.INFO)
    auto = config("auto", "auto")
    Engine.open(tiny_model, auto, cache_dir=cache).close()
    assert "engines measured" in caplog.text
    (entry,) = json.loads((cache / "engine_choices.json").read_text()).values()
    assert sorted(entry["median_ms"]) == sorted(" ".join(c) for c in AUTOMATIC)
    caplog.clear()
    with Engine.open(tiny_model, auto, cache_dir=cache) as engine:
        assert entry["backend"] in engine.description and entry["precision"] in engine.description
    assert "engines measured" not in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{", '{"backend": '])
def test_auto_measures_again_when_its_memory_is_damaged(tiny_model, cache, caplog, content):
    caplog.set_level(logging.INFO)
    cache.mkdir()
    (cache / "engine_choices.json").write_text(content)
    Engine.open(tiny_model, config("auto", "auto"), cache_dir=cache).close()
    assert "measuring again" in caplog.text and "engines measured" in caplog.text
    assert len(json.loads((cache / "engine_choices.json").read_text())) == 1


def make_wrong(monkeypatch, name):
    class Wrong(BACKENDS[name].load):
        def run(self, feeds, results):
            super().run(feeds, results)
            results["class_logits"] *= 1.2

    monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], load=Wrong))


def test_auto_leaves_out_what_does_not_verify(tiny_model, cache, caplog, monkeypatch):
    for name in {name for name, _ in AUTOMATIC} - {"onnxruntime"}:
        make_wrong(monkeypatch, name)
    with Engine.open(tiny_model, config("auto", "auto"), cache_dir=cache) as engine:
        assert "onnxruntime" in engine.description
    assert "is left out" in caplog.text


def test_auto_measures_again_when_what_it_remembers_became_wrong(tiny_model, cache, caplog, monkeypatch):
    auto = config("auto", "auto")
    Engine.open(tiny_model, auto, cache_dir=cache).close()
    (entry,) = json.loads((cache / "engine_choices.json").read_text()).values()
    make_wrong(monkeypatch, entry["backend"])
    other = next(name for name in BACKENDS if name != entry["backend"])
    with Engine.open(tiny_model, auto, cache_dir=cache) as engine:
        assert other in engine.description
    assert "cannot be used, measuring again" in caplog.text
    (entry,) = json.loads((cache / "engine_choices.json").read_text()).values()
    assert entry["backend"] == other
    make_wrong(monkeypatch, other)
    with pytest.raises(EngineError, match="computes wrong values"):
        Engine.open(tiny_model, auto, cache_dir=cache)


def test_engines_of_all_sizes_are_built_or_it_is_an_error(tiny_model, cache, tmp_path):
    """For ``build_only``: an image without its engines must not count as prepared."""
    options = config(model=str(tiny_model))
    with open_all(options, cache_dir=cache) as engine:
        assert engine.kept and (engine.height, engine.width) == (96, 96)
    labels = [r.label for r in PlanStore(cache / "engines").records().values()]
    assert labels == ["tiny 64x128 onnxruntime fp32", "tiny 96x96 onnxruntime fp32"]
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="tiny 1 at 64x128 .* works but was not kept"):
        open_all(options, cache_dir=tmp_path / "file")


def test_a_read_only_cache_is_only_a_warning(tiny_model, tmp_path, caplog):
    (tmp_path / "file").write_text("")  # a file where the cache folder should be
    Engine.open(tiny_model, config("auto", "auto"), cache_dir=tmp_path / "file").close()
    assert "engine_choices.json for the next start" in caplog.text
    assert "cannot keep the engine" in caplog.text and "each start builds it again" in caplog.text


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + b"\0\1"])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_damaged_plan_is_built_again(tiny_model, cache, caplog, choice, damage):
    Engine.open(tiny_model, config(*choice), cache_dir=cache).close()
    (plan,) = cache.rglob("*.plan")
    whole = plan.read_bytes()
    plan.write_bytes(damage(whole))
    with Engine.open(tiny_model, config(*choice), cache_dir=cache) as engine:
        assert engine.run(paint(64, 128, car_x=32), INTRINSICS).segments[2, 2] == 32
    assert caplog.text.count("is damaged, building it again") == 1
    assert len(plan.read_bytes()) == len(whole)
    caplog.clear()
    Engine.open(tiny_model, config(*choice), cache_dir=cache).close()
    assert not caplog.text


@pytest.mark.parametrize("choice", CHOICES)
def test_a_plan_is_built_once_and_again_for_each_thing_that_changes_it(
    tiny_model, model, cache, monkeypatch, choice
):
    built = []
    kind = BACKENDS[choice[0]]

    def build(path, config, progress, folder):
        built.append(path)
        return kind.build(path, config, progress, folder)

    monkeypatch.setitem(BACKENDS, choice[0], replace(kind, build=build))
    for _ in range(2):
        Engine.open(tiny_model, config(*choice), cache_dir=cache).close()
    assert len(built) == 1
    changes = [{"version": lambda: "1.2.3"}, {"facts": lambda config: {"processor": "another one"}}]
    for n, change in enumerate(changes, 2):
        monkeypatch.setitem(BACKENDS, choice[0], replace(kind, build=build, **change))
        for _ in range(2):
            Engine.open(tiny_model, config(*choice), cache_dir=cache).close()
        assert len(built) == n
    monkeypatch.setitem(BACKENDS, choice[0], replace(kind, build=build))
    (model / "weights.bin").write_bytes((tiny_model / "weights.bin").read_bytes() + b" ")
    trust(model)
    Engine.open(model, config(*choice), cache_dir=cache).close()
    assert len(built) == 4


def test_the_golden_frames_result_lies_beside_the_plan(tiny_model, model, cache):
    Engine.open(tiny_model, config(), cache_dir=cache).close()
    (record,) = cache.rglob("*.json")
    verified = json.loads(record.read_text())["notes"]["verified"]
    assert verified["passed"] and {r["output"] for r in verified["rows"]} >= {"panoptic", "depth_m"}
    before = record.stat().st_mtime_ns
    with Engine.open(tiny_model, config(), cache_dir=cache) as engine:
        assert [d.output for d in engine.differences] == [r["output"] for r in verified["rows"]]
    assert record.stat().st_mtime_ns == before  # the same again is not written again
    weights = np.fromfile(model / "weights.bin", np.float32)
    (weights * 1.3).tofile(model / "weights.bin")
    trust(model)
    with pytest.raises(EngineError, match="computes wrong values"):
        Engine.open(model, config(), cache_dir=cache)
    notes = [json.loads(r.read_text())["notes"]["verified"]["passed"] for r in cache.rglob("*.json")]
    assert sorted(notes) == [False, True]


def test_progress_is_told_and_may_cancel(tiny_model, cache):
    told = []
    Engine.open(tiny_model, config(), cache_dir=cache, progress=told.append).close()
    label = "tiny 64x128 onnxruntime fp32"
    building = f"building {label}: optimising the graph"
    assert told == [f"loading {label}", building, f"keeping {label}", "verifying"]
    for stage in told[1:3]:
        shutil.rmtree(cache)

        def stop(what, stage=stage):
            if what == stage:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Engine.open(tiny_model, config(), cache_dir=cache, progress=stop)
        assert [p.suffix for p in (cache / "engines").iterdir()] == [".lock"]
        Engine.open(tiny_model, config(), cache_dir=cache).close()


class Fragile(BACKENDS["onnxruntime"].load):
    """Loses its device at a given run."""

    runs = 0
    lose_at = ()

    def run(self, feeds, results):
        Fragile.runs += 1
        if Fragile.runs in Fragile.lose_at:
            for array in results.values():
                array.fill(7)
            raise DeviceError("out of memory")
        super().run(feeds, results)


def test_a_lost_device_ends_in_a_new_engine_with_empty_memory(tiny_model, cache, monkeypatch):
    monkeypatch.setitem(BACKENDS, "onnxruntime", replace(BACKENDS["onnxruntime"], load=Fragile))
    monkeypatch.setattr(Fragile, "runs", 0)
    monkeypatch.setattr(Fragile, "lose_at", (4,))  # two golden frames, then ours
    with Engine.open(tiny_model, config(), cache_dir=cache) as engine:
        engine.run(paint(64, 128, car_x=32), INTRINSICS)
        with pytest.raises(EngineError, match="out of memory; the next frame begins with a new engine"):
            engine.run(paint(64, 128, car_x=40), INTRINSICS)
        engine.reset()
        out = engine.run(paint(64, 128, car_x=48), INTRINSICS)
        assert Fragile.runs == 7  # verified again
        assert out.segments[2, 3] == 63.5 and out.segments[2, 5] == 0  # where it is, and no past
        Fragile.lose_at = tuple(range(8, 100))
        with pytest.raises(EngineError, match="out of memory"):
            engine.run(paint(64, 128, car_x=48), INTRINSICS)
        runs = Fragile.runs
        with pytest.raises(EngineError, match=r"lost; next attempt in [12]\.\d s"):
            engine.run(paint(64, 128, car_x=48), INTRINSICS)
        assert Fragile.runs == runs  # not at each frame
        monkeypatch.setattr(engine, "_retry_at_s", 0.0)
        with pytest.raises(EngineError, match="out of memory"):
            engine.run(paint(64, 128, car_x=48), INTRINSICS)
        monkeypatch.setattr(engine, "_retry_at_s", 0.0)
        Fragile.lose_at = ()
        assert engine.run(paint(64, 128, car_x=32), INTRINSICS).segments[2, 3] == 47.5


def test_only_what_is_wanted_is_fetched(tiny_model, cache):
    with Engine.open(tiny_model, config(), cache_dir=cache) as engine:
        out = engine.run(paint(64, 128, car_x=32), INTRINSICS, frozenset({"latent"}))
        assert out.class_logits is None and out.nearest is None and out.confidence is None
        assert out.latent.shape == (2, 3) and out.segments[2, 2] == 32
        out = engine.run(paint(64, 128, car_x=40), INTRINSICS, frozenset({"class_logits"}))
        assert out.latent is None and out.class_logits[13, 8, 12] > 2000
        assert out.segments[2, 5] == -8  # the memory went on


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_missing_library_is_named(tiny_model, cache, monkeypatch, name):
    library = {"pytorch": "torch"}.get(name, name)
    library = "onnxruntime" if name.startswith("onnxruntime") else library
    monkeypatch.setitem(sys.modules, library, None)
    who = "onnxruntime" if name.startswith("onnxruntime") else name
    with pytest.raises(EngineError, match=f"backend {who}: pip install {library.replace('_', '-')}"):
        Engine.open(tiny_model, config(name), cache_dir=cache)
    with Engine.open(tiny_model, config("auto", "fp32"), cache_dir=cache) as engine:
        assert name not in engine.description
    for other in BACKENDS:
        monkeypatch.setitem(sys.modules, other, None)
    with pytest.raises(EngineError, match="no inference engine is installed"):
        Engine.open(tiny_model, config("auto", "auto"), cache_dir=cache)


@pytest.mark.parametrize("name", ["onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_the_onnxruntime_without_gpu_is_told_from_the_one_with(tiny_model, cache, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    provider = onnxruntime_gpu.PROVIDERS[name]
    if provider in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(EngineError, match=f"has no {provider}: pip install onnxruntime-gpu"):
        Engine.open(tiny_model, config(name), cache_dir=cache)
    with pytest.raises(EngineError, match=f"did not load {provider} and would use the processor"):
        onnxruntime_gpu._session(provider, whole_graph(tiny_model), tiny_model, {})


def whole_graph(tiny_model):
    return load_graph(tiny_model / "64x128.onnx").SerializeToString()


def test_states_bound_to_a_device_go_on_and_are_reset(tiny_model, cache):
    """The class that the GPU providers use, on ONNX Runtime's own processor memory."""
    path = tiny_model / "64x128.onnx"
    session = onnxruntime_gpu._session("CPUExecutionProvider", whole_graph(tiny_model), path, {})
    manifest = load_manifest(tiny_model)
    bound = Engine(manifest, manifest.graphs[0], onnxruntime_gpu.BoundSession(session, "cpu", "bound"))
    with bound, Engine.open(tiny_model, config(), cache_dir=cache) as reference:
        for x in (32, 40, 24, None, 16):
            if x is None:
                bound.reset()
                reference.reset()
                continue
            for engine in (bound, reference):
                engine.run(paint(64, 128, car_x=x), INTRINSICS, engine.output_names)
            for name, want in reference.outputs().items():
                np.testing.assert_allclose(bound.outputs()[name], want, rtol=1e-5, atol=1e-5)


def test_a_precision_that_is_not_there(tiny_model, cache):
    with pytest.raises(EngineError, match="no engine computes in bf16 here; take one of onnxruntime fp32"):
        Engine.open(tiny_model, config("onnxruntime", "bf16"), cache_dir=cache)
