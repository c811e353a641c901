# SPDX-License-Identifier: Apache-2.0
"""Fusion of mask queries: by hand, against a slow reading of its definition, and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dvps_ros.config import EngineConfig
from dvps_ros.contract import NO_SEGMENT, OUTPUTS, Column
from dvps_ros.labels import VOID
from dvps_ros.networks.fusion.masks import MasksConfig, MasksFusion
from dvps_ros.networks.protocol import MasksPrediction
from dvps_ros.runtime.backends import BACKENDS, installed
from dvps_ros.runtime.builder import quiet

CLASSES, THINGS = 5, (3, 4)
H, W, E, SLOTS = 8, 16, 6, 12
CONFIG = MasksConfig(slots=SLOTS, min_score=0.5, min_visible=0.4)


def scene(seed: int, queries: int = 14, *, by_query: bool = True, scale: float = 3.0) -> MasksPrediction:
    """Random queries of smooth masks, some of them sure, two frames' worth of vectors."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    pixels = nn.functional.interpolate(random(1, E, 3, 5), (H, W), mode="bilinear", align_corners=False) * 2
    vectors = random(1, queries, E) * scale
    previous = torch.zeros(1, SLOTS, E)
    previous[:, :4] = vectors[:, :4] + 0.3 * random(1, 4, E)
    return MasksPrediction(
        class_logits=random(1, queries, CLASSES + 1) * 3,
        mask_logits=torch.einsum("bqe,behw->bqhw", vectors, pixels),
        depth_m=random(1, queries if by_query else 1, H, W).exp() * 8,
        embedding=random(1, queries, 4),
        latent=random(1, 2, 3),
        backup_depth_m=random(1, 1, H, W).exp() * 8 if by_query else None,
        motion_px=random(1, 2, H, W),
        moving_logits=random(1, 1, H, W),
        mask_vectors=vectors,
        pixel_vectors=pixels,
        previous_vectors=previous,
    )


def slow(p: MasksPrediction, config: MasksConfig) -> dict[str, np.ndarray]:
    """The definition, pixel by pixel."""
    prob = p.class_logits[0].softmax(1)[:, :-1].numpy()
    mask, depth = p.mask_logits[0].sigmoid().numpy(), p.depth_m[0].numpy()
    queries = len(prob)
    sure = [k for k in range(queries) if prob[k].max() > config.min_score]
    winner = np.full((H, W), -1)
    for y in range(H):
        for x in range(W):
            claims = [(prob[k].max() * mask[k, y, x], -k) for k in sure]
            if claims:
                winner[y, x] = -max(claims)[1]
    kept = []
    for k in sure:
        own = mask[k] >= 0.5
        seen = own & (winner == k)
        if seen.any() and seen.sum() >= np.float32(config.min_visible) * own.sum():
            kept.append(k)
    rows = sorted((k for k in kept if prob[k].argmax() in THINGS), key=lambda k: -prob[k].max())[
        : config.slots
    ]
    class_map, segment_map = np.full((H, W), VOID), np.full((H, W), NO_SEGMENT)
    depth_map = np.zeros((H, W), np.float32)
    for y in range(H):
        for x in range(W):
            k = winner[y, x]
            inside = k in kept and mask[k, y, x] >= 0.5
            if inside:
                class_map[y, x] = prob[k].argmax()
            if inside and k in rows:
                segment_map[y, x] = rows.index(k)
            whole = depth[0] if len(depth) == 1 else None
            backup = whole if p.backup_depth_m is None else p.backup_depth_m[0, 0].numpy()
            source = depth[k] if inside and whole is None else backup
            depth_map[y, x] = np.clip(source[y, x], 0.5, 200)
    segments = np.zeros((config.slots, 9), np.float32)
    for i, k in enumerate(rows):
        at = segment_map == i
        y, x = np.nonzero(at)
        motion = p.motion_px[0].numpy()[:, at].mean(1)
        moving = p.moving_logits[0, 0].sigmoid().numpy()[at].mean()
        center = 4 * x.mean() + 1.5, 4 * y.mean() + 1.5
        segments[i] = (
            prob[k].argmax(),
            prob[k].max(),
            at.sum(),
            *center,
            *motion,
            depth_map[at].mean(),
            moving,
        )
    overlap = np.zeros((config.slots, config.slots), np.float32)
    vectors = np.zeros((config.slots, E), np.float32)
    for i in range(config.slots):
        moved = np.einsum("e,ehw->hw", p.previous_vectors[0, i].numpy(), p.pixel_vectors[0].numpy()) > 0
        for j in range(len(rows)):
            now = segment_map == j
            overlap[i, j] = (moved & now).sum() / max((moved | now).sum(), 1)
    for i, k in enumerate(rows):
        vectors[i] = p.mask_vectors[0, k].numpy()
    return {
        "class_map": class_map, "segment_map": segment_map, "depth_m": depth_map, "segments": segments,
        "overlap": overlap, "next_state_rows": vectors,
    }  # fmt: skip


@pytest.mark.parametrize("by_query", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_reading(seed: int, by_query: bool) -> None:
    p = scene(seed, by_query=by_query)
    want = slow(p, CONFIG)
    got = MasksFusion(THINGS, CLASSES, CONFIG, propagates=True)(p)
    for name in ("class_map", "segment_map"):
        np.testing.assert_array_equal(got[name][0].numpy(), want[name], name)
    for name in ("depth_m", "segments", "overlap", "next_state_rows"):
        np.testing.assert_allclose(got[name][0].numpy(), want[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_random_scenes_hold_what_they_should() -> None:
    """Else the comparison would prove little."""
    results = [slow(scene(seed), CONFIG) for seed in range(12)]
    assert sum((r["segments"][:, Column.SCORE] > 0).sum() for r in results) >= 10
    assert sum((r["overlap"] > 0.3).sum() for r in results) > 3
    assert all(
        any((r[name] == value).any() for r in results)
        for name, value in (("class_map", VOID), ("class_map", 1))
    )


def test_two_objects_and_a_road_by_hand() -> None:
    """A road below, two cars of which the surer one hides a corner of the other, sky that nobody claims."""
    mask = torch.full((1, 4, H, W), -6.0)
    mask[0, 0, 4:] = 6.0
    mask[0, 0, 4:6, 2:12] = -6.0
    mask[0, 1, 2:6, 2:8] = 6.0
    mask[0, 2, 2:6, 7:12] = 6.0
    mask[0, 3, 0, 0] = 6.0  # not sure of its class
    logits = torch.zeros(1, 4, CLASSES + 1)
    logits[0, [0, 1, 2, 3], [0, 3, 4, CLASSES]] = torch.tensor([8.0, 7.0, 9.0, 9.0])
    depth = torch.tensor([10.0, 5.0, 4.0, 50.0]).view(1, 4, 1, 1).expand(1, 4, H, W)
    p = MasksPrediction(
        logits, mask, depth, torch.eye(4)[None] * 3, torch.zeros(1, 2, 3), torch.full((1, 1, H, W), 77.0)
    )
    fusion = MasksFusion(THINGS, CLASSES, MasksConfig(slots=3))
    out = {name: value[0].numpy() for name, value in fusion(p).items()}
    want = np.full((H, W), NO_SEGMENT)
    # At column 7 both masks are as sure; the class decides: the second car is row 0 and takes it.
    want[2:6, 2:7], want[2:6, 7:12] = 1, 0
    np.testing.assert_array_equal(out["segment_map"], want)
    assert (out["class_map"][want == 0] == 4).all() and (out["class_map"][want == 1] == 3).all()
    assert (out["class_map"][:2] == VOID).all() and (out["depth_m"][:2] == 77).all()
    assert (out["depth_m"][want == 0] == 4).all() and out["depth_m"][7, 0] == 10
    segments = out["segments"]
    assert segments[0, [Column.CLASS_ID, Column.AREA, Column.DEPTH_MEAN_M]].tolist() == [4, 20, 4]
    assert segments[0, [Column.CENTER_X, Column.CENTER_Y]].tolist() == [4 * 9 + 1.5, 4 * 3.5 + 1.5]
    assert segments[1, Column.AREA] == 20 and not segments[2].any() and segments[1, Column.MOVING] == 0.5
    np.testing.assert_allclose(out["embedding"], np.eye(4)[[2, 1]].tolist() + [[0] * 4], atol=1e-6)
    assert out["class_logits"].argmax(0)[4, 3] == 3 and out["class_logits"].argmax(0)[7, 0] == 0
    assert "overlap" not in out and fusion.outputs == tuple(n for n in OUTPUTS if n != "overlap")


def test_a_mask_that_is_mostly_hidden_is_dropped_and_its_pixels_are_void() -> None:
    mask = torch.full((1, 2, H, W), -6.0)
    mask[0, 0, :4, :10] = 6.0
    mask[0, 1, :4, 2:10] = 6.0
    logits = torch.zeros(1, 2, CLASSES + 1)
    logits[0, :, 3] = torch.tensor([8.0, 9.0])
    p = MasksPrediction(logits, mask, torch.ones(1, 1, H, W), torch.ones(1, 2, 2), torch.zeros(1, 1, 1))
    out = MasksFusion(THINGS, CLASSES)(p)
    assert (out["segments"][0, :, Column.SCORE] > 0).sum() == 1
    assert (out["class_map"][0, :4, :2] == VOID).all()


def test_more_things_than_slots_keep_the_surest() -> None:
    p = scene(1, queries=40, scale=1.0)
    everything = MasksFusion(THINGS, CLASSES, MasksConfig(slots=40, min_score=0.4, min_visible=0.0))(p)
    few = MasksFusion(THINGS, CLASSES, MasksConfig(slots=2, min_score=0.4, min_visible=0.0))(p)
    assert (everything["segments"][0, :, Column.SCORE] > 0).sum() > 2
    torch.testing.assert_close(few["segments"][0], everything["segments"][0, :2])


def test_nothing_sure_leaves_everything_void_and_depth_by_the_backup() -> None:
    p = scene(3)
    out = MasksFusion(THINGS, CLASSES, MasksConfig(slots=4, min_score=1.0), propagates=False)(p)
    assert (out["class_map"] == VOID).all() and (out["segment_map"] == NO_SEGMENT).all()
    assert (out["nearest"] == NO_SEGMENT).all() and not out["segments"].any()
    torch.testing.assert_close(out["depth_m"], p.backup_depth_m[:, 0].clamp(0.5, 200))


def test_batches_are_single_frames_side_by_side() -> None:
    a, b = scene(5), scene(6)
    both = MasksPrediction(
        *(
            torch.cat((getattr(a, n), getattr(b, n)))
            for n in ("class_logits", "mask_logits", "depth_m", "embedding")
        ),
        torch.zeros(2, 1, 1),
        *(
            torch.cat((getattr(a, n), getattr(b, n)))
            for n in ("backup_depth_m", "motion_px", "moving_logits")
        ),
        *(
            torch.cat((getattr(a, n), getattr(b, n)))
            for n in ("mask_vectors", "pixel_vectors", "previous_vectors")
        ),
    )
    fusion = MasksFusion(THINGS, CLASSES, CONFIG, propagates=True)
    for i, single in enumerate((a, b)):
        want, got = fusion(single), fusion(both)
        for name in ("segment_map", "segments", "overlap"):
            torch.testing.assert_close(got[name][i], want[name][0])


NAMES = tuple(
    n
    for n in MasksPrediction.__dataclass_fields__
    if n not in ("state", "layers", "latent", "depth_features")
)


class FusionAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = MasksFusion(THINGS, CLASSES, CONFIG, propagates=True)

    def forward(self, *heads: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(NAMES, heads, strict=True))
        out = self.fusion(MasksPrediction(**values, latent=torch.zeros(1, 1, 1)))
        return tuple(out[name] for name in COMPARED)


COMPARED = (
    "class_map",
    "segment_map",
    "nearest",
    "segments",
    "embedding",
    "depth_m",
    "overlap",
    "next_state_rows",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("backend", "precision"), [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
)
def test_every_engine_gives_the_same(tmp_path: Path, backend: str, precision: str) -> None:
    if backend not in installed() or precision not in BACKENDS[backend].precisions(EngineConfig()):
        pytest.skip(f"no {backend} {precision} here")
    path = tmp_path / "fusion.onnx"
    torch.onnx.export(
        FusionAlone(), tuple(getattr(scene(0), n) for n in NAMES), path,
        input_names=[f"head_{n}" for n in NAMES],
        output_names=[n.removeprefix("next_state_") for n in COMPARED],
        dynamo=True, opset_version=20, verbose=False, external_data=False,
    )  # fmt: skip
    loose = 1e-4 if precision == "fp32" else 0.03
    kind, config = BACKENDS[backend], EngineConfig(backend=backend, precision=precision, threads=1)
    engine = kind.load(kind.build(path, config, quiet, tmp_path), path, config)
    for seed in range(6):
        p = scene(seed)
        want = FusionAlone()(*(getattr(p, n) for n in NAMES))
        got = {n: np.empty(s, t) for n, (t, s) in engine.outputs.items()}
        engine.run({f"head_{n}": np.ascontiguousarray(getattr(p, n).numpy()) for n in NAMES}, got)
        for name, expected in zip((n.removeprefix("next_state_") for n in COMPARED), want, strict=True):
            if precision == "fp32" or name in ("class_map", "segment_map"):
                wrong = (
                    (got[name] != expected.numpy()).mean() if name.endswith("map") or name == "nearest" else 0
                )
                assert wrong <= (0 if precision == "fp32" else 0.02), (name, seed)
            if precision == "fp32" and expected.dtype == torch.float32:
                np.testing.assert_allclose(got[name], expected.numpy(), rtol=loose, atol=loose, err_msg=name)
    engine.close()
