# SPDX-License-Identifier: Apache-2.0
"""Write a steering head as a model folder: graph, golden window, manifest, model card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.export.model import publish, unwritten_sections
from dvps_ros.export.onnx import traced
from dvps_ros.networks.steering import SteeringHead
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.manifest import hash_file
from dvps_ros.runtime.steering import (
    FEED_NAMES,
    RESULT_NAMES,
    SteeringManifest,
    TokenSource,
    write_steering_manifest,
)

GRAPH = "steering.onnx"
GOLDEN = "steering.golden.npz"
LOOKAHEAD_M, OFF_M = 10.0, 0.5
TOLERANCE_PER_M = 2 * OFF_M / LOOKAHEAD_M**2
"""Curvature error that leads half a metre aside within ten metres."""


def export_steering(
    network: SteeringHead,
    out_dir: Path,
    *,
    golden_window: tuple[np.ndarray, np.ndarray],
    version: str,
    licence: str,
    perception: Mapping[str, str],
    training: Mapping[str, Any],
) -> SteeringManifest:
    """Export, prove in ONNX Runtime against torch, then write the folder; on an error it is left as it was.

    An existing model card is kept.

    Args:
        golden_window: float32 latent [1,F,T,C] and age_s [1,F] that prove an engine; stored as float16.
        perception: ``name`` and ``weights_sha256`` of the model whose tokens were learnt from.

    Raises:
        EngineError: ONNX Runtime computes something else than torch.
    """
    config = network.config
    feeds = dict(zip(FEED_NAMES, golden_window, strict=True))
    feeds["latent"] = feeds["latent"].astype(np.float16).astype(np.float32)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as folder:
        part = Path(folder)
        (part / GRAPH).write_bytes(_trace(network, feeds).SerializeToString(deterministic=True))
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(feeds[name]) for name in FEED_NAMES))
        want = {name: v.numpy() for name, v in zip(RESULT_NAMES, outputs, strict=True)}
        got = _run(part / GRAPH, feeds)
        for name in RESULT_NAMES:
            if not np.allclose(got[name], want[name], rtol=1e-3, atol=1e-3 * TOLERANCE_PER_M):
                raise EngineError(
                    f"{GRAPH}: ONNX Runtime computes other values than torch, {name} {got[name]} instead of "
                    f"{want[name]}; not exported"
                )
        golden: dict[str, Any] = feeds | got | {"latent": feeds["latent"].astype(np.float16)}
        np.savez_compressed(part / GOLDEN, **golden)
        manifest = SteeringManifest(
            name=out_dir.resolve().name,
            version=version,
            network="steering",
            perception=TokenSource(perception["name"], perception["weights_sha256"]),
            frames=config.frames,
            period_s=config.period_s,
            latent_shape=(config.tokens, config.channels),
            tolerance_per_m=TOLERANCE_PER_M,
            graph=GRAPH,
            graph_sha256=hash_file(part / GRAPH),
            golden=GOLDEN,
            golden_sha256=hash_file(part / GOLDEN),
            licence=licence,
            training=dict(training),
        )
        write_steering_manifest(manifest, part)
        publish(part, out_dir, steering_card(manifest))
    return manifest


def _trace(network: SteeringHead, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    inputs = tuple(torch.from_numpy(feeds[name]) for name in FEED_NAMES)
    model = traced(network.eval(), inputs, FEED_NAMES, RESULT_NAMES)
    onnx.checker.check_model(model)
    return model


def _run(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    kind, config = BACKENDS["onnxruntime"], EngineConfig(backend="onnxruntime", precision="fp32", threads=1)
    engine = kind.load(kind.build(path, config, quiet, path.parent), path, config)
    results = {name: np.zeros(1, np.float32) for name in RESULT_NAMES}
    try:
        engine.run(feeds, results)
    finally:
        engine.close()
    return results


def steering_card(manifest: SteeringManifest) -> str:
    """The beginning of a model card, with what the export knows; figures and limits are for its author."""
    source = manifest.perception
    return f"""# {manifest.name}

Steering head for the tokens of `{source.name}` (weights {source.weights_sha256[:12]}):
{manifest.frames} frames, {manifest.period_s} s apart, to a curvature and its deviation (docs/steering.md).
Licence of the weights: {manifest.licence}.

{unwritten_sections(manifest.training)}"""
