# SPDX-License-Identifier: Apache-2.0
"""Write a network as a model folder: graphs, weights, golden frames, manifest, model card."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dvps_ros.config import EngineConfig
from dvps_ros.errors import ConfigError, EngineError
from dvps_ros.export.graph import DeployedGraph
from dvps_ros.export.onnx import OPSET, WeightsWriter, save, trace
from dvps_ros.labels import LabelSpace
from dvps_ros.networks import SIZE_STEP, Network
from dvps_ros.runtime import machine, ranges, verify
from dvps_ros.runtime.backends import onnxruntime
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.calibration import calibration_feeds
from dvps_ros.runtime.manifest import (
    GraphFile,
    Manifest,
    WeightsFile,
    check_files,
    hash_file,
    load_manifest,
    write_manifest,
)
from dvps_ros.types import CameraModel, Frame

log = logging.getLogger(__name__)

WEIGHTS = "weights.bin"
MODEL_CARD = "README.md"
GOLDEN_SEED, GOLDEN_CONTRAST, GOLDEN_TEXTURE = 11, 1.2, 0.35
DENSE = ("class_logits", "depth_m")


@dataclass(frozen=True)
class GoldenFrames:
    """Two consecutive frames of one camera."""

    images: np.ndarray
    """uint8 [2,H,W,3] RGB."""
    intrinsics: np.ndarray
    """float32 [4]: fx, fy, cx, cy."""


def world_frames(height: int, width: int) -> GoldenFrames:
    """Two frames of the synthetic world, always the same, with the contrast and texture of photographs.

    Plain renderings drive activations through a third of their range: arithmetic that goes wrong at its end,
    as sums of products in 16 bits do, would pass.
    """
    from dvps_ros.data.world import World, WorldConfig

    camera = CameraModel.from_fov(width, height, 75.0)
    clip = World(WorldConfig(seed=GOLDEN_SEED)).clip(2, camera)
    texture = _pink_noise(height, width)[..., None]
    images = (clip.images.astype(np.float64) - 128) * GOLDEN_CONTRAST + 128
    images = images * (1 + GOLDEN_TEXTURE * texture)
    return GoldenFrames(images.clip(0, 255).round().astype(np.uint8), camera.vector)


def _pink_noise(height: int, width: int) -> np.ndarray:
    """float64 [H,W] of mean 0 and deviation 1; amplitudes fall with frequency as those of photographs do."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    white = np.random.default_rng(GOLDEN_SEED).normal(size=(height, width))
    noise = np.fft.ifft2(np.fft.fft2(white) / frequency).real
    return noise / noise.std()


def parse_size(text: str) -> tuple[int, int]:
    """``HxW`` as (height, width).

    Raises:
        ConfigError: not of this form, or not multiples of SIZE_STEP.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match or int(match[1]) % SIZE_STEP or int(match[2]) % SIZE_STEP:
        raise ConfigError(f"size: expected HxW in multiples of {SIZE_STEP} such as 384x768, got {text!r}")
    return int(match[1]), int(match[2])


def export_model(
    network: Network,
    labels: LabelSpace,
    out_dir: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    name: str,
    version: str,
    licence: str,
    training: Mapping[str, Any],
    fusion: Mapping[str, Any] | None = None,
    opset: int = OPSET,
    golden_frames: Callable[[int, int], GoldenFrames] = world_frames,
    calibration: Sequence[Frame] = (),
) -> Manifest:
    """Export, prove in ONNX Runtime against torch, then write the folder; on an error it is left as it was.

    An existing model card is kept.

    Args:
        sizes: (height, width) of each graph; the first is the default.
        training: provenance for the manifest, plain data.
        fusion: options of the network's fusion, such as ``min_score``.
        opset: version of the ONNX operators.
        golden_frames: (height, width) -> the frames that prove engines at that size.
        calibration: consecutive or spaced frames of one camera, by which int8 on processors will round.

    Raises:
        ConfigError: label space and network differ in their number of classes.
        InputError: calibration frames are too few, or of several cameras.
        EngineError: ONNX Runtime computes something else than torch.
    """
    if network.config.classes != len(labels):
        raise ConfigError(
            f"label space {labels.name} has {len(labels)} classes, the network {network.config.classes}"
        )
    graph = DeployedGraph(network, labels, **(fusion or {}))
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as folder:
        part = Path(folder)
        graphs, shapes, measured = [], {}, []
        with WeightsWriter(part / WEIGHTS) as weights:
            for height, width in sizes:
                log.info("exporting %dx%d", height, width)
                path = part / f"{height}x{width}.onnx"
                save(trace(graph, height, width, opset=opset), path, weights)
                weights.flush()
                golden = _prove(graph, path, golden_frames(height, width))
                shapes = {n: v.shape for n, v in golden.outputs.items()}
                golden_path = path.with_suffix(".golden.npz")
                _save_golden(golden, golden_path)
                graphs.append(
                    GraphFile(
                        path.name, height, width, hash_file(path), golden_path.name, hash_file(golden_path)
                    )
                )
                if calibration:
                    log.info("calibrating %dx%d", height, width)
                    feeds = calibration_feeds(calibration, path, limit=len(calibration), progress=quiet)
                    measured.append(ranges.measure(path, feeds, quiet))
        manifest = Manifest(
            name=name,
            version=version,
            network=network.name,
            label_space=labels,
            embedding_size=shapes["embedding"][2],
            latent_shape=shapes["latent"][1:],
            state=graph.state,
            sky_class=labels.sky_id,
            weights=WeightsFile(WEIGHTS, hash_file(part / WEIGHTS)),
            graphs=tuple(graphs),
            licence=licence,
            training=dict(training),
            segment_slots=graph.fusion.config.slots,
            ranges=ranges.union(measured),
        )
        write_manifest(manifest, part)
        publish(part, out_dir, model_card(manifest))
    return manifest


def publish(part: Path, out_dir: Path, card: str) -> None:
    """Move the finished files of ``part`` into the model folder; an existing model card is kept."""
    if not (out_dir / MODEL_CARD).exists():
        (part / MODEL_CARD).write_text(card)
    # The manifest comes last: until it is there, the hashes of the old one refuse the new files.
    for path in sorted(part.iterdir(), key=lambda p: p.suffix == ".json"):
        os.replace(path, out_dir / path.name)


def renew_golden(model_dir: Path) -> None:
    """Replace the golden frames of a model folder by today's, computed by its own graphs in ONNX Runtime.

    For folders whose golden frames another version of this package wrote. Unlike :func:`export_model` it
    proves nothing: the graphs are believed.

    Raises:
        EngineError: no model folder, or a graph that ONNX Runtime does not take.
    """
    manifest = load_manifest(model_dir)
    graphs = []
    for graph in manifest.graphs:
        check_files(model_dir, manifest, graph)
        frames = world_frames(graph.height, graph.width)
        outputs = _reference(model_dir / graph.file, frames)
        path = model_dir / graph.golden
        _save_golden(_golden(frames, outputs), path)
        graphs.append(replace(graph, golden_sha256=hash_file(path)))
    write_manifest(replace(manifest, graphs=tuple(graphs)), model_dir)


def _reference(path: Path, frames: GoldenFrames) -> list[dict[str, np.ndarray]]:
    """All outputs of each frame in ONNX Runtime."""
    config = EngineConfig(backend="onnxruntime", precision="fp32", threads=machine.cpu_count())
    with closing(
        onnxruntime.OnnxRuntime(onnxruntime.build(path, config, quiet, path.parent), path, config)
    ) as runtime:
        results = []
        for image in frames.images:
            got = {n: np.empty(shape, dtype) for n, (dtype, shape) in runtime.outputs.items()}
            runtime.run(
                {"image": np.ascontiguousarray(image[None]), "intrinsics": frames.intrinsics[None]}, got
            )
            results.append(got)
    return results


def _golden(frames: GoldenFrames, outputs: Sequence[dict[str, np.ndarray]]) -> verify.Golden:
    first, second = outputs
    images = (frames.images[0], frames.images[1])
    return verify.Golden(images, frames.intrinsics, second, {n: first[n] for n in verify.TABLES})


def _prove(graph: DeployedGraph, path: Path, frames: GoldenFrames) -> verify.Golden:
    """Run both frames in torch and in ONNX Runtime, whose outputs are the golden ones.

    Raises:
        EngineError: they differ by more than two fp32 engines may.
    """
    height, width = frames.images.shape[1:3]
    outputs = _reference(path, frames)
    state = [np.zeros(s.sizes(height, width), np.float32) for s in graph.state]
    for image, got in zip(frames.images, outputs, strict=True):
        inputs = (np.ascontiguousarray(image[None]), frames.intrinsics[None], *state)
        with torch.inference_mode():
            computed = graph(*(torch.from_numpy(v) for v in inputs))
        want = {n: v.numpy() for n, v in zip(graph.output_names, computed, strict=True)}
        differences = verify.compare(want, got, "fp32")
        if not all(d.passed for d in differences):
            raise EngineError(
                f"{path.name}: ONNX Runtime computes other values than torch; not exported\n"
                f"{verify.table(differences)}"
            )
        state = [got[f"next_{s.name}"] for s in graph.state]
    return _golden(frames, outputs)


def _save_golden(golden: verify.Golden, path: Path) -> None:
    # Eleven bits of the large maps prove an engine as well as 24, in half the space.
    arrays: dict[str, Any] = {
        f"out_{n}": v.astype(np.float16).astype(np.float32) if n in DENSE or n.startswith("next_") else v
        for n, v in golden.outputs.items()
    }
    arrays |= {f"first_{n}": v for n, v in golden.first.items()}
    arrays |= {f"image_{i}": image for i, image in enumerate(golden.images)}
    np.savez_compressed(path, intrinsics=golden.intrinsics, **arrays)


def model_card(manifest: Manifest) -> str:
    """The beginning of a model card, with what the export knows; figures and limits are for its author."""
    sizes = ", ".join(g.size for g in manifest.graphs)
    return f"""# {manifest.name}

Network `{manifest.network}`, label space `{manifest.label_space.name}` ({len(manifest.label_space)} classes),
input sizes {sizes}; graph contract version {manifest.contract} (docs/graph_contract.md).
Licence of the weights: {manifest.licence}.

{unwritten_sections(manifest.training)}"""


def unwritten_sections(training: Mapping[str, Any]) -> str:
    """The rest of a model card: the training's provenance, and what its author has to write."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in training.items())
    return f"""## Training

| | |
|---|---|
{rows}

## Data and its licences

To be written: every data set that was used, its licence, how much of it.

## Figures

To be written: what was measured, on which data, with which command.

## Limits

To be written: where it fails.
"""
