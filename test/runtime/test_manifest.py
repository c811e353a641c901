# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest

from dvps_ros.errors import EngineError
from dvps_ros.labels import CITYSCAPES
from dvps_ros.runtime import manifest as m


def example(**changes) -> m.Manifest:
    values = dict(
        name="tiny",
        version="1",
        network="lite",
        label_space=CITYSCAPES,
        embedding_size=8,
        latent_shape=(4, 16),
        state=(m.StateTensor("state_feature", (1, 32, "H/8", "W/8")),),
        sky_class=10,
        weights=m.WeightsFile("weights.bin", "0" * 64),
        graphs=(m.GraphFile("64x128.onnx", 64, 128, "1" * 64, "64x128.golden.npz", "2" * 64),),
        licence="Apache-2.0",
        training={"commit": "abc"},
    )
    return m.Manifest(**{**values, **changes})


def test_round_trip(tmp_path):
    written = example(sky_class=None)
    m.write_manifest(written, tmp_path)
    assert m.load_manifest(tmp_path) == written
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_ranges_may_be_missing_as_in_older_models(tmp_path):
    written = example(ranges={"network.a.weight": [-0.5, 2.0]})
    data = json.loads(m.write_manifest(written, tmp_path).read_text())
    assert m.load_manifest(tmp_path) == written
    del data["ranges"]
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    assert m.load_manifest(tmp_path) == example()


def test_state_sizes():
    assert m.StateTensor("state_a", (1, 32, "H/8", "W/8", "H")).sizes(384, 768) == (1, 32, 48, 96, 384)
    for bad in ((0,), ("H/0",), ("D/2",), ("H/x",), (-1,), (1.5,), (True,)):
        with pytest.raises(ValueError, match="state shape"):
            m.StateTensor("state_a", bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": 2}, "contract version: expected 1, got 2"),
        ({"contract": None}, "contract version"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"stride": 8}, "stride: expected 4, got 8"),
        ({"stride": "4"}, "manifest.stride: expected int"),
        ({"stride": True}, "manifest.stride: expected int"),
        ({"sky_class": 19}, "sky_class"),
        ({"label_space": {"name": "x"}}, "label space"),
        ({"segment_columns": ["class_id"]}, "segment_columns"),
        ({"graphs": []}, "at least one graph"),
        ({"fusion": "maybe"}, "fusion"),
        ({"state": [{"name": "memory", "shape": [1]}]}, "expected state_"),
        ({"weights": {"file": "../w.bin", "sha256": ""}}, "plain name"),
        ({"weights": {"file": "w.bin"}}, r"missing keys \['sha256'\]"),
        ({"latent_shape": [1]}, "latent_shape"),
        ({"latent_shape": ["a", "b"]}, "manifest.json"),
        ({"ranges": [1]}, "manifest.ranges: expected dict"),
        ({"ranges": {"a": [2, 1]}}, r"ranges of a: expected \[least, greatest\], got \[2, 1\]"),
        ({"ranges": {"a": [0, math.nan]}}, "ranges of a: expected"),
        ({"ranges": {"a": [True, 1]}}, "ranges of a: expected"),
    ],
)
def test_refuses(tmp_path, change, message):
    data = json.loads(m.write_manifest(example(), tmp_path).read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(EngineError, match=message):
        m.load_manifest(tmp_path)


def test_refuses_missing_and_broken_files(tmp_path):
    with pytest.raises(EngineError, match="cannot read .*manifest.json"):
        m.load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"contract": 1')
    with pytest.raises(EngineError, match="no JSON"):
        m.load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EngineError, match="no UTF-8 text"):
        m.load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(EngineError, match="expected an object, got list"):
        m.load_manifest(tmp_path)


def test_sizes_must_differ_and_fit_the_stride():
    graph = m.GraphFile("a.onnx", 64, 128, "", "a.npz", "")
    with pytest.raises(ValueError, match="sizes that differ"):
        example(graphs=(graph, graph))
    with pytest.raises(ValueError, match="multiples of 4"):
        example(graphs=(m.GraphFile("a.onnx", 66, 128, "", "a.npz", ""),))


def test_graph_of_names_the_shipped_sizes():
    assert example().graph_of("64x128").width == 128
    with pytest.raises(EngineError, match="no graph of size 32x32; it ships 64x128"):
        example().graph_of("32x32")


def test_check_files(tmp_path):
    for name in ("64x128.onnx", "weights.bin", "64x128.golden.npz"):
        (tmp_path / name).write_text(f"content of {name}")
    digest = {p.name: m.hash_file(p) for p in tmp_path.iterdir()}
    graph = m.GraphFile(
        "64x128.onnx", 64, 128, digest["64x128.onnx"], "64x128.golden.npz", digest["64x128.golden.npz"]
    )
    manifest = example(weights=m.WeightsFile("weights.bin", digest["weights.bin"]), graphs=(graph,))
    m.check_files(tmp_path, manifest, graph)
    (tmp_path / "weights.bin").write_bytes(b"weight")
    with pytest.raises(EngineError, match="weights.bin is truncated or of another export"):
        m.check_files(tmp_path, manifest, graph)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EngineError, match="cannot read model file .*weights.bin"):
        m.check_files(tmp_path, manifest, graph)


def test_find_model(tmp_path, monkeypatch):
    prefix = tmp_path / "prefix"
    installed = prefix / "share" / "dvps_ros" / "models" / "unheard_of"
    installed.mkdir(parents=True)
    m.write_manifest(example(), installed)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    assert m.find_model("unheard_of") == installed
    assert m.find_model(installed) == installed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unheard_of").mkdir()  # a folder of that name without a manifest is not a model
    assert m.find_model("unheard_of") == installed
    with pytest.raises(EngineError, match=r"no model 'absent'.*prefix/share/dvps_ros/.*found: .*unheard_of"):
        m.find_model("absent")
