# SPDX-License-Identifier: Apache-2.0
"""Model folders as they come: links out of a cache, files that change under an engine, no files at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import paint

from dvps_ros.config import EngineConfig, SteeringConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.steering import SteeringEngine

INTRINSICS = np.array([128, 128, 63.5, 31.5], np.float32)
BACKENDS = ["onnxruntime", "openvino"]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def opened(model: Path, backend: str, cache: Path) -> Engine:
    config = EngineConfig(backend=backend, precision="fp32", size="64x128", threads=1)
    return Engine.open(model, config, cache_dir=cache)


def depth(engine: Engine) -> np.ndarray:
    engine.reset()
    return engine.run(paint(64, 128, car_x=32), INTRINSICS).class_logits.copy()


def linked(folder: Path, to: Path) -> Path:
    """As hubs keep a snapshot: every file a relative link to a blob of another name in another folder."""
    (to / "blobs").mkdir(parents=True)
    (to / "snapshot").mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, to / "blobs" / f"{i:064x}")
        (to / "snapshot" / file.name).symlink_to(f"../blobs/{i:064x}")
    return to / "snapshot"


@pytest.mark.parametrize("backend", BACKENDS)
def test_links_are_followed(model: Path, tmp_path: Path, backend: str) -> None:
    with opened(model, backend, tmp_path / "cache") as plain:
        want = depth(plain)
    snapshot = linked(model, tmp_path / "hub")
    with opened(snapshot, backend, tmp_path / "cache of its own") as engine:
        np.testing.assert_array_equal(depth(engine), want)


def test_a_steering_head_behind_links(tmp_path: Path) -> None:
    snapshot = linked(find_model("steering"), tmp_path / "hub")
    SteeringEngine.open(SteeringConfig(model=str(snapshot), backend="onnxruntime")).close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kept", [False, True], ids=["built", "from the cache"])
def test_files_that_change_under_a_running_engine_change_nothing(
    model: Path, tmp_path: Path, backend: str, kept: bool
) -> None:
    if kept:
        opened(model, backend, tmp_path / "cache").close()
    with opened(model, backend, tmp_path / "cache") as engine:
        want = depth(engine)
        weights = model / "weights.bin"
        with weights.open("r+b") as file:  # in place, as rsync --inplace and dd do
            file.write(bytes(weights.stat().st_size))
        np.testing.assert_array_equal(depth(engine), want)
        for file in model.iterdir():
            os.truncate(file, 0)
        np.testing.assert_array_equal(depth(engine), want)
    with pytest.raises(EngineError):
        opened(model, backend, tmp_path / "cache")


@pytest.mark.parametrize("name", ["weights.bin", "64x128.onnx", "64x128.golden.npz", "manifest.json"])
def test_pipes_and_devices_are_no_model_files(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(EngineError, match=f"{name}"):
        opened(model, "onnxruntime", tmp_path / "cache")
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")
    with pytest.raises(EngineError, match=f"{name}: it is no regular file|no manifest.json"):
        opened(model, "onnxruntime", tmp_path / "cache")


def test_no_temporary_folder_is_a_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match="set TMPDIR to one that can be written"):
        opened(model, "onnxruntime", tmp_path / "cache")


# Broken manifests: every one a sentence


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def places(data: object, path: tuple = ()) -> list[tuple]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_value_anywhere_is_taken_or_refused_with_a_sentence(
    tiny_model: Path, tmp_path: Path, data: st.DataObject
) -> None:
    manifest = json.loads((tiny_model / "manifest.json").read_text())
    path = data.draw(st.sampled_from(places(manifest)))
    junk = data.draw(JUNK)
    if path:
        owner = manifest
        for key in path[:-1]:
            owner = owner[key]
        owner[path[-1]] = junk
    else:
        manifest = junk
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    try:
        load_manifest(tmp_path)
    except EngineError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "no UTF-8 text"),
        (b'{"contract": 1, "a": ' + b"1" * 5000 + b"}", "no JSON"),
        (b" " * (5 << 20), "more than 4194304 bytes"),
        (b"", "no JSON"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(EngineError, match=words):
        load_manifest(tmp_path)


def test_golden_frames_are_not_unpacked_beyond_a_limit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvps_ros.files import read_arrays

    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(50 << 20, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(ValueError, match="its arrays have 524.* bytes, more than 1000000"):
        read_arrays(tmp_path / "bomb.npz", limit=1_000_000)
