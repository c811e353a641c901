# SPDX-License-Identifier: Apache-2.0
"""A steering head as a model folder: what the engine computes is what the network computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dvps_ros.config import SteeringConfig
from dvps_ros.errors import EngineError
from dvps_ros.export import export_steering
from dvps_ros.networks.steering import NO_FRAME_S, SteeringHead, SteeringHeadConfig
from dvps_ros.runtime.backends import installed
from dvps_ros.runtime.steering import ENGINES, SteeringEngine

SMALL = SteeringHeadConfig(frames=3, tokens=4, channels=6, width=16, heads=4)
AGE_S = np.array([[0.0, NO_FRAME_S, 0.2]], np.float32)


def window(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 3, 4, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SteeringHead, Path]:
    torch.manual_seed(0)
    head, out = SteeringHead(SMALL).eval(), tmp_path_factory.mktemp("models") / "small"
    head.standardise(1 + 2 * torch.randn(50, 4, 6))
    manifest = export_steering(
        head,
        out,
        golden_window=(window(1), AGE_S),
        version="1",
        licence="Apache-2.0",
        perception={"name": "lite", "weights_sha256": "a" * 64},
        training={"steps": 1},
    )
    assert manifest.name == "small" and manifest.latent_shape == (4, 6)
    return head, out


@pytest.mark.parametrize("backend", [name for name in ENGINES if name in installed()])
def test_engines_compute_what_the_network_does(exported, backend):
    head, out = exported
    engine = SteeringEngine.open(SteeringConfig(model=str(out), backend=backend))
    for seed in (2, 3):
        want = head(torch.from_numpy(window(seed)), torch.from_numpy(AGE_S))
        got = engine.run(window(seed), AGE_S)
        np.testing.assert_allclose(got, [v.item() for v in want], rtol=1e-3, atol=1e-6)
    engine.close()


def test_the_folder_is_whole_and_small(exported):
    names = {p.name for p in exported[1].iterdir()}
    assert names == {"README.md", "manifest.json", "steering.golden.npz", "steering.onnx"}


def test_wrong_values_and_files_are_refused(exported, tmp_path):
    for path in exported[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    golden = tmp_path / "steering.golden.npz"
    with np.load(golden) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["curvature"] = arrays["curvature"] + 0.01
    with golden.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(EngineError, match="truncated or of another export"):
        SteeringEngine.open(SteeringConfig(model=str(tmp_path)))
    from dvps_ros.runtime.manifest import hash_file

    manifest = tmp_path / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(data | {"golden_sha256": hash_file(golden)}))
    with pytest.raises(EngineError, match="computes wrong values: curvature"):
        SteeringEngine.open(SteeringConfig(model=str(tmp_path)))
    manifest.write_text(json.dumps(data | {"golden_sha256": hash_file(golden), "frames": 4}))
    with pytest.raises(EngineError, match="not of one export"):
        SteeringEngine.open(SteeringConfig(model=str(tmp_path)))
