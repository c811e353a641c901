# SPDX-License-Identifier: Apache-2.0
"""Batches, recipes, schedule, checkpoints, and a whole short training with stop and resume."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")

from dvps_ros.config import EngineConfig, flatten, from_flat, to_dict  # noqa: E402
from dvps_ros.data.cache import write_clip  # noqa: E402
from dvps_ros.data.layouts import LAYOUTS  # noqa: E402
from dvps_ros.data.transforms import Box, crop_resize  # noqa: E402
from dvps_ros.errors import CheckpointError, ConfigError, DvpsError, EngineError, InputError  # noqa: E402
from dvps_ros.export.graph import DeployedGraph  # noqa: E402
from dvps_ros.export.model import export_model  # noqa: E402
from dvps_ros.export.published import published_weights  # noqa: E402
from dvps_ros.labels import CITYSCAPES, VOID  # noqa: E402
from dvps_ros.losses.photometric import warp  # noqa: E402
from dvps_ros.losses.targets import center_targets, frame_targets  # noqa: E402
from dvps_ros.networks import Lite, LiteConfig  # noqa: E402
from dvps_ros.networks.backbones import Backbone  # noqa: E402
from dvps_ros.networks.encoders import ThinEncoder  # noqa: E402
from dvps_ros.networks.lite import LiteObjective, LiteWeights  # noqa: E402
from dvps_ros.runtime.engine import Engine  # noqa: E402
from dvps_ros.training import batch as batches  # noqa: E402
from dvps_ros.training.checkpoint import load_checkpoint, load_mean_checkpoint, read_checkpoint  # noqa: E402
from dvps_ros.training.fit import balance, fit, fit_phases, validate, workers_that_fit  # noqa: E402
from dvps_ros.training.module import LitPerception, progress, rate_factor  # noqa: E402
from dvps_ros.training.recipe import (  # noqa: E402
    Recipe,
    ScheduleConfig,
    check_phases,
    label_space,
    loss_weights,
    network_config,
    read_recipe,
)
from dvps_ros.training.render import VALIDATION_SEED, random_clip  # noqa: E402
from dvps_ros.training.sources import (  # noqa: E402
    MixedClips,
    draw_stills,
    held_out_sets,
    spread,
    training_parts,
)
from dvps_ros.training.torch_engine import TorchEngine  # noqa: E402
from dvps_ros.training.transformers_start import start_from_transformers  # noqa: E402
from dvps_ros.training.validate import Validation  # noqa: E402
from dvps_ros.training.warm_start import start_from_model  # noqa: E402
from dvps_ros.types import Sample  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ROOT = Path(__file__).resolve().parents[2]


def street(seed: int = 0, frames: int = 2, height: int = 64, width: int = 128) -> Sample:
    """Sky above road with two cars as rectangles; all truth known."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((frames, height, width), np.uint8)
    classes[:, : height // 2] = 10
    ids = np.zeros((frames, height, width), np.int32)
    depth = np.full((frames, height, width), 20, np.float32)
    depth[:, : height // 2] = 0
    for k in range(2):
        x = int(rng.integers(0, width // 2 - 30)) + k * width // 2
        classes[:, 24:48, x : x + 28] = 13
        ids[:, 24:48, x : x + 28] = k + 1
        depth[:, 24:48, x : x + 28] = 8 + k
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 10, 13]] = [(90, 90, 90), (150, 190, 240), (200, 30, 30)]
    images = colours[classes] + rng.integers(0, 15, (*classes.shape, 3)).astype(np.uint8)
    flow = np.zeros((frames, height, width, 2), np.float32)
    flow[0] = np.nan
    return Sample(
        images=images,
        intrinsics=np.tile(np.array([100, 100, 63.5, 31.5], np.float32), (frames, 1)),
        source=f"street {seed}",
        class_map=classes,
        instance_map=ids,
        depth_m=depth,
        flow_px=flow,
        moving=np.zeros((frames, height, width), np.uint8),
    )


def collate(samples, labels):
    return batches.collate(samples, labels, LiteObjective.targets)


# -- batches -------------------------------------------------------------------------------------------


def test_center_targets_by_hand():
    ids = np.zeros((32, 48), np.int32)
    ids[8:20, 12:32] = 3  # pixels x 12..31, y 8..19: centre (21.5, 13.5), cell (5, 3)
    ids[0:4, 40:44] = 9  # one cell: too small
    ids[28:, :] = -1
    cells = ids[2::4, 2::4].copy()
    heat, valid, offset = center_targets(ids, cells)
    assert heat[3, 5] == 1 and (heat == 1).sum() == 1
    assert heat[3, 4] == pytest.approx(math.exp(-1 / (2 * 0.8**2)))
    assert valid[3, 5] and not valid[0, 10] and not valid[7, 0] and valid[6, 0]
    # cell (2, 3) is centred on pixel (13.5, 9.5)
    assert offset[:, 2, 3].tolist() == [21.5 - 13.5, 13.5 - 9.5]
    assert (offset[:, cells != 3] == 0).all()


def test_sparse_truth_survives_the_stride():
    sample = street(frames=1)
    depth = np.zeros((1, 64, 128), np.float32)
    depth[0, 3, 0] = 7.0  # not the pixel that a plain stride would take
    depth[0, 6, 6], depth[0, 4, 4] = 5.0, 9.0  # the one nearest to the middle of its cell wins
    targets = frame_targets(replace(sample, depth_m=depth), 0, CITYSCAPES)
    assert targets["depth_m"][0, 0] == 7 and targets["depth_m"][1, 1] == 5
    assert (targets["depth_m"] > 0).sum() == 2 and not targets["dense_depth"]


def test_missing_truth_is_masked():
    bare = Sample(np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 4), np.float32), "bare")
    t = frame_targets(bare, 0, CITYSCAPES)
    assert (t["class_map"] == 255).all() and (t["coarse_map"] == 255).all() and (t["depth_m"] == 0).all()
    assert not t["heat_valid"].any() and (t["instance"] == -1).all()
    assert np.isnan(t["motion_px"]).all() and (t["moving"] == 255).all()


def test_the_other_frame_comes_with_its_relative_pose_and_intrinsics_of_stride_4():
    a, b = np.eye(4), np.eye(4)
    a[:3, 3], b[:3, 3] = [1e6, 2, 3], [1e6 + 0.5, 2, 4]  # far from the origin: float32 poses would not do
    b[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    clip = replace(street(), world_from_camera=np.stack([a, b]))
    first, second = (frame_targets(clip, t, CITYSCAPES) for t in range(2))
    point = np.array([0.3, -0.2, 5.0, 1.0])  # of frame 1, seen by both
    assert np.allclose(second["other_view_from_camera"] @ point, np.linalg.inv(a) @ b @ point, atol=1e-4)
    assert np.allclose(
        first["other_view_from_camera"] @ second["other_view_from_camera"], np.eye(4), atol=1e-5
    )
    assert (first["other_image"] == second["image"]).all() and (second["other_image"] == first["image"]).all()
    # Pixel 63.5 is the middle of 128, so 15.5 is that of 32.
    assert second["intrinsics"].tolist() == [25, 25, 15.5, 7.5] == second["other_intrinsics"].tolist()
    for lonely in (street(), replace(clip.frames(0, 1))):
        assert np.isnan(frame_targets(lonely, 0, CITYSCAPES)["other_view_from_camera"]).all()
    batch = collate([clip, street(3, frames=1)], CITYSCAPES)
    assert torch.isfinite(batch[0].targets.other.view_from_camera[0]).all()
    assert torch.isnan(batch[0].targets.other.view_from_camera[1]).all()


def test_the_depth_of_the_world_explains_its_images_best():
    """Poses, intrinsics and depth fit together all the way from the renderer to the loss."""
    # A clip with enough motion and texture to tell ten percent of depth; one that stands still cannot.
    batch = collate([random_clip(VALIDATION_SEED + 57, 384, 192)], CITYSCAPES)
    for frame in batch:
        t = frame.targets
        known, errors = (t.depth_m > 0) & (t.depth_m < 40), []
        for factor in (0.8, 0.9, 1.0, 1.1, 1.25):
            log_depth = torch.where(known, t.depth_m * factor, 1.0).log()[:, None]
            warped, visible = warp(log_depth, t.intrinsics, t.other)
            chosen = visible & known & (t.moving == 0)
            errors.append((warped - t.image).abs().mean(1)[chosen].mean().item())
        assert chosen.float().mean() > 0.2 and np.argmin(errors) == 2
        assert errors[2] < 0.9 * min(errors[1], errors[3])


def test_cells_that_reach_beyond_the_image_are_not_seen():
    cropped = crop_resize(street(), Box(-6, 0, 134, 64), 128, 64)  # 6 of 134 columns: the first 5.7 pixels
    seen = frame_targets(cropped, 1, CITYSCAPES)["seen"]
    assert not seen[:, :2].any() and seen[:, 2:].all()
    assert frame_targets(street(), 0, CITYSCAPES)["seen"].all()


def test_segments_are_equal_where_class_and_instance_are():
    sample = street(frames=1)
    sample.instance_map[0, :8] = -1  # sky whose instance nobody knows
    sample.instance_map[0, 24:48, :64][sample.class_map[0, 24:48, :64] == 13] = 0  # a car without an id
    sample.class_map[0, 60:] = VOID
    segments = frame_targets(sample, 0, CITYSCAPES)["segments"]
    classes, ids = sample.class_map[0, 2::4, 2::4], sample.instance_map[0, 2::4, 2::4]
    assert (segments[:2] == -1).all() and (segments[15] == -1).all()
    assert (segments[(classes == 13) & (ids == 0)] == -1).all() and ((classes == 13) & (ids == 0)).any()
    car = segments[ids == 2]
    assert len(car) and (car == car[0]).all() and (car != segments[14, 0]).all()
    assert segments[3, 0] != segments[14, 0] and segments[14, 0] == segments[14, -1] == 0
    coarse = replace(
        sample,
        class_map=None,
        coarse_map=np.repeat([0, 1], 32)[None, :, None].repeat(128, 2).astype(np.uint8),
        coarse_groups=((10,), (0, 13)),
        instance_map=np.zeros((1, 64, 128), np.int32),
    )
    segments = frame_targets(coarse, 0, CITYSCAPES)["segments"]
    assert (segments[:8] == segments[0, 0]).all() and segments[0, 0] >= 0
    assert (segments[8:] == -1).all()  # road or car: may be a thing, which needs an id


def test_sky_is_known_from_classes_and_from_coarse_labels_that_mean_nothing_else():
    sample = street(frames=1)
    assert (frame_targets(sample, 0, CITYSCAPES)["sky"] == (sample.class_map[0, 2::4, 2::4] == 10)).all()
    coarse = np.zeros((1, 64, 128), np.uint8)
    coarse[:, 32:] = 1
    for groups, share in ((((10,), (0,)), 0.5), (((10, 2), (0,)), 0)):
        changed = replace(sample, class_map=None, coarse_map=coarse, coarse_groups=groups)
        assert frame_targets(changed, 0, CITYSCAPES)["sky"].mean() == share


def test_collate_puts_longer_clips_first_and_keeps_groups_apart():
    still = replace(
        street(1, frames=1),
        class_map=None,
        coarse_map=np.ones((1, 64, 128), np.uint8),
        coarse_groups=((0,), (8, 9)),
    )
    first, second = collate([still, street(2)], CITYSCAPES)
    assert first.sources == ("street 2", "street 1") and second.sources == ("street 2",)
    assert first.image.shape == (2, 3, 64, 128) and first.image.dtype == torch.uint8
    assert first.targets.groups[1].nonzero().tolist() == [[0, 0], [1, 8], [1, 9]]
    assert not first.targets.groups[0].any()
    with pytest.raises(InputError, match="one size"):
        collate([street(0), street(0, height=32)], CITYSCAPES)


# -- recipe and schedule ---------------------------------------------------------------------------------


def test_shipped_recipes_are_valid_and_name_their_data():
    lite = read_recipe(ROOT / "config/train/lite.yaml")
    research = read_recipe(ROOT / "config/train/lite_research.yaml")
    assert lite.data.synthetic > 0 and lite.data.camvid == lite.data.idd_lite == lite.data.kitti == 0
    assert research.data.camvid > 0 and lite.start_from == research.start_from == "imagenet"


def test_recipe_changes_and_refusals(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("schedule: {minutes: 3}\n")
    assert read_recipe(path, ["schedule.minutes=5", "out=x"]).schedule.minutes == 5.0
    assert read_recipe(ROOT / "config/train/lite.yaml", ["start_from="]).start_from == ""
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        read_recipe(path, ["nonsense"])
    with pytest.raises(ConfigError, match="at least one clip"):
        read_recipe(path, ["data.synthetic=0", "data.synthetic_stills=0"])
    with pytest.raises(ConfigError, match="expected KEY=VALUE with a value in YAML, got 'out=\\['"):
        read_recipe(path, ["out=["])
    for change in ("augment.height=100", "augment.width=100"):
        with pytest.raises(ConfigError, match="expected multiples of 32, got .*100"):
            read_recipe(path, [change])
    with pytest.raises(ConfigError, match="must not follow the clock"):
        read_recipe(path, ["deterministic=true"])
    path.write_text("scedule: {minutes: 3}\n")
    with pytest.raises(ConfigError, match="unknown keys scedule.minutes"):
        read_recipe(path)


def test_the_size_of_the_network_comes_from_the_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: {decoder_width: 48}\n")
    recipe = read_recipe(path, ["model.state_width=16"])
    assert recipe.model == {"decoder_width": 48, "state_width": 16}
    assert network_config(recipe, classes=19) == LiteConfig(decoder_width=48, state_width=16)
    assert network_config(Recipe(), classes=7) == LiteConfig(classes=7)
    for change, message in (
        ("model.widht=48", "model: unknown keys widht; known keys are classes, embedding, encoder"),
        ("model.decoder_width=5", "model: decoder_width: expected 8 to 256, got 5"),
        ("model.decoder_width=big", "model: decoder_width: expected int"),
        ("model.classes=3", "the label space decides"),
        ("network=giant", "network: expected one of lite, deep_dps, mono_dvps, got 'giant'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_recipe(path, [change])


def test_learning_rate_rises_then_falls_to_zero_by_time_or_steps():
    assert rate_factor(0.05, 0.1) == pytest.approx(0.5) and rate_factor(0.1, 0.1) == pytest.approx(1)
    assert rate_factor(0.55, 0.1) == pytest.approx(0.5) and rate_factor(1.0, 0.1) == pytest.approx(
        0, abs=1e-9
    )
    schedule = ScheduleConfig(minutes=10, steps=100)
    assert progress(20, 1.0, schedule) == 0.2 and progress(20, 5.0, schedule) == 0.5
    assert progress(20, 5.0, replace(schedule, minutes=0.0)) == 0.2


# -- sources ---------------------------------------------------------------------------------------------


def test_sources_need_data(tmp_path, monkeypatch):
    recipe = from_flat(Recipe, {"data.cache": str(tmp_path)})
    with pytest.raises(ConfigError, match="--render"):
        training_parts(recipe)
    monkeypatch.delenv("DVPS_DATA", raising=False)
    with pytest.raises(ConfigError, match="DVPS_DATA"):
        training_parts(replace(recipe, data=replace(recipe.data, synthetic=0, synthetic_stills=0, camvid=1)))


def test_pairs_and_stills():
    clip = street(frames=3)
    pair = clip.frames(1, 2)
    np.testing.assert_array_equal(pair.images, clip.images[1:])
    rng = np.random.default_rng(0)
    assert len(draw_stills([street(frames=1)], 0.0)(rng).images) == 1
    assert len(draw_stills([street(frames=1)], 1.0)(rng).images) == 2


def test_spread_reaches_from_the_first_to_near_the_last():
    assert spread(range(10), 3) == [0, 3, 6] and spread(range(10), 6) == [0, 1, 3, 5, 6, 8]
    assert spread([1], 3) == [1] and spread([], 3) == []
    assert spread(range(48), 24) == list(range(0, 48, 2)) and spread(range(101), 101) == list(range(101))


def test_held_out_sets_are_those_that_are_there(cache, tmp_path, monkeypatch, caplog):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("DVPS_DATA", str(data))
    recipe = recipe_for(tmp_path, tmp_path, validate_clips=1)
    with caplog.at_level("INFO"):
        assert held_out_sets(recipe) == []
    assert "no rendered clips" in caplog.text
    for part in ("camvid", "idd_lite", "kitti_0005"):
        assert f"no folder {data / part}" in caplog.text
    with pytest.raises(ConfigError, match="no held-out clips .*--render"):
        validate(recipe, CITYSCAPES, held_out_sets(recipe))
    for seed in range(3):
        write_clip(tmp_path / "val" / f"{seed}.npz", street(seed))
    assert [(name, sample.source) for name, sample in held_out_sets(recipe)] == [("world", "street 0")]


def test_one_clip_of_each_set_is_enough_to_validate(tmp_path, monkeypatch):
    class Drive:
        def __init__(self, path: Path) -> None:
            pass

        def __len__(self) -> int:
            return 154

        def clip(self, first: int, count: int) -> Sample:
            return replace(street(frames=count), source=f"frame {first}")

    (tmp_path / "kitti_0005").mkdir()
    monkeypatch.setenv("DVPS_DATA", str(tmp_path))
    monkeypatch.setattr("dvps_ros.training.sources.KittiRaw", Drive)
    sets = held_out_sets(recipe_for(tmp_path, tmp_path, validate_clips=1))
    assert [(name, sample.source) for name, sample in sets] == [("kitti", "frame 100")]


def test_crops_larger_than_those_of_deployment_keep_the_whole_batch(cache, tmp_path):
    sizes = {"augment.height": 512, "augment.width": 1024, "augment.large": 1.0}
    recipe = recipe_for(cache, tmp_path, **sizes)
    batches = iter(MixedClips(partial(training_parts, recipe), recipe, CITYSCAPES))
    assert [len(next(batches)[0].image) for _ in range(3)] == [2, 2, 2]


def test_intrinsics_that_cannot_be_name_their_sample():
    for bad in (math.nan, math.inf, 0.0, -1.0):
        wrong = street(7)
        wrong.intrinsics[1, 0] = bad
        with pytest.raises(InputError, match="^street 7: expected finite intrinsics with focal lengths"):
            collate([street(1), wrong], CITYSCAPES)


def test_validation_scores_what_an_export_would_run(tmp_path):
    """Of a network without batch normalisation to learn, road everywhere 10 m away."""
    torch.manual_seed(0)
    network = Lite(LiteConfig(**TINY))
    for head in (network.class_head, network.instance_head, network.depth_head):
        torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        network.class_head.bias[:4] = 5.0
        network.instance_head.bias[:4] = -9.0
        network.depth_head.bias.fill_(math.log(10 / 15 / (100 / 500)))
    sample = street(frames=2)
    validation = Validation(network, CITYSCAPES, tmp_path, "step0")
    validation.add("street", sample)
    scores, class_iou = validation.results()
    iou = class_iou["street"]
    road = (sample.class_map == 0).mean()
    assert iou["road"] == pytest.approx(road, abs=1e-3) and iou["car"] == 0 and iou["person"] is None
    assert scores["street/miou"] == pytest.approx(road / 3, abs=1e-4)
    assert scores["street/pq"] == 0  # road covers less than half of the image
    errors = [np.abs(10 - d[d > 0]) / d[d > 0] for d in sample.depth_m]
    assert scores["street/abs_rel"] == pytest.approx(np.mean([e.mean() for e in errors]), rel=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["street_000_step0.jpg"]


# -- the run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    for seed in range(4):
        write_clip(folder / "train" / f"{seed}.npz", street(seed))
    return folder


TINY = {"encoder": "thin_tiny", "decoder_width": 16, "context_width": 16, "state_width": 8}
"""A network small enough to train in a test."""


def recipe_for(cache: Path, out: Path, **changes) -> Recipe:
    values = {
        "data.cache": str(cache),
        "out": str(out),
        "data.workers": 0,
        "data.synthetic": 1,
        "data.synthetic_stills": 1,
        "augment.height": 64,
        "augment.width": 128,
        "augment.max_zoom": 1.1,
        "augment.large": 0.0,
        "schedule.steps": 4,
        "validate_every": 2,
        "precision": "fp32",
        **{f"model.{key}": value for key, value in TINY.items()},
    }
    return from_flat(Recipe, values | changes)


def run(recipe: Recipe) -> Path:
    return fit(recipe, CITYSCAPES, partial(training_parts, recipe), [("street", street(9))])


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:
    return run(recipe_for(cache, tmp_path_factory.mktemp("out")))


def test_the_pull_of_a_loss_is_its_gradient_by_what_all_losses_share(cache, tmp_path):
    recipe = recipe_for(cache, tmp_path)
    build = partial(training_parts, recipe)
    pulls = balance(recipe, CITYSCAPES, build, 1)
    assert pulls["semantic"].weighted == pytest.approx(LiteWeights().semantic * pulls["semantic"].gradient)
    assert "coarse" not in pulls  # the world has no coarse labels

    # The same by another way: a whole step of training with one loss alone.
    nothing = {f"loss.{name}": 0.0 for name in pulls}
    for name in ("semantic", "depth"):
        alone = from_flat(Recipe, flatten(to_dict(recipe)) | nothing | {f"loss.{name}": 3.0})
        pl.seed_everything(recipe.seed)
        module = LitPerception(alone, CITYSCAPES).train()
        batch = next(iter(MixedClips(build, recipe, CITYSCAPES)))
        module.weighting(module.objective(batch, 0.0).means()).backward()
        net = module.network
        shared = [p for part in (net.encoder, net.context) for p in part.parameters()]
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in shared))
        assert norm == pytest.approx(3 * pulls[name].gradient, rel=1e-4)


def test_a_run_leaves_checkpoint_log_and_pictures(trained):
    out = trained.parent
    raw = read_checkpoint(trained)
    assert raw["global_step"] == 4 and raw["dvps"]["step"] == 4 and raw["dvps"]["network"] == "lite"
    lines = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines[:2]] == [2, 4] and 0 <= lines[0]["street/miou"] <= 1
    assert len(list((out / "pictures").glob("*.jpg"))) >= 2
    assert list(out.glob("log/**/metrics.csv"))


def test_validation_sees_float32_whatever_the_precision_of_the_training():
    torch.manual_seed(0)
    engine = TorchEngine(DeployedGraph(Lite(LiteConfig(**TINY)), CITYSCAPES), CITYSCAPES, 64, 128)
    sample = street()
    plain = engine.run(sample.images[0], sample.intrinsics[0])
    engine.reset()
    with torch.autocast("cpu", torch.bfloat16):
        under = engine.run(sample.images[0], sample.intrinsics[0])
    for name in ("class_logits", "depth_m", "segments", "embedding"):
        assert getattr(under, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(under, name), getattr(plain, name))


def test_a_full_disk_leaves_the_old_checkpoint(cache, tmp_path):
    last = run(recipe_for(cache, tmp_path, **{"schedule.steps": 1}))
    before, limits = last.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(DvpsError, match="cannot write checkpoint .*last.ckpt: .* make room"):
            run(recipe_for(cache, tmp_path, **{"schedule.steps": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last.read_bytes() == before and load_checkpoint(last).meta["step"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_validation_alone_gives_the_scores_of_the_last_one(trained, cache):
    before = (trained.parent / "validation.jsonl").read_text().splitlines()
    validate(recipe_for(cache, trained.parent), CITYSCAPES, [("street", street(9))])
    after = [json.loads(line) for line in (trained.parent / "validation.jsonl").read_text().splitlines()]
    assert len(after) == len(before) + 1
    assert after[-1]["street/miou"] == pytest.approx(after[-2]["street/miou"], abs=1e-3)


def test_the_loaded_network_holds_the_averaged_weights(trained):
    loaded = load_checkpoint(trained)
    raw = read_checkpoint(trained)
    assert loaded.network.config == LiteConfig(**TINY)
    assert loaded.labels == CITYSCAPES and not loaded.network.training
    weights = loaded.network.state_dict()
    assert all(torch.equal(v, raw["state_dict"][f"objective.network.{k}"]) for k, v in weights.items())


def test_the_mean_of_checkpoints_is_the_mean_of_their_weights(trained, cache, tmp_path):
    other = run(recipe_for(cache, tmp_path, start_from=str(trained), **{"schedule.steps": 2}))
    mean = load_mean_checkpoint([trained, other])
    one, two = (load_checkpoint(path).network.state_dict() for path in (trained, other))
    weights = mean.network.state_dict()
    assert any(not torch.equal(one[k], two[k]) for k in one)
    for k, v in weights.items():
        expected = (one[k] + two[k]) / 2 if v.is_floating_point() else one[k]
        torch.testing.assert_close(v, expected)
    assert [m["step"] for m in mean.meta["mean_with"]] == [2]
    assert load_mean_checkpoint([trained]).meta == load_checkpoint(trained).meta
    narrow = run(recipe_for(cache, tmp_path / "narrow", **{"schedule.steps": 1, "model.decoder_width": 24}))
    with pytest.raises(CheckpointError, match="differs from .* in its network_config"):
        load_mean_checkpoint([trained, narrow])


def test_the_same_call_goes_on_where_it_stopped(cache, tmp_path):
    before = read_checkpoint(run(recipe_for(cache, tmp_path, **{"schedule.steps": 2})))
    assert before["global_step"] == 2 and before["dvps"]["minutes"] > 0
    # A step of no length: the weights stay, their average comes nearer, the optimiser counts on.
    still = {"schedule.steps": 3, "schedule.learning_rate": 0.0, "schedule.ema_decay": 0.75}
    after = read_checkpoint(run(recipe_for(cache, tmp_path, **still)))
    assert after["global_step"] == 3 and after["dvps"]["minutes"] > before["dvps"]["minutes"]
    names = [f"objective.network.{n}" for n, _ in Lite(LiteConfig(**TINY)).named_parameters()]
    current, average = before["current_model_state"], before["state_dict"]
    assert any(not torch.equal(current[n], average[n]) for n in names)
    for n in names:
        assert torch.equal(after["current_model_state"][n], current[n]), n
        torch.testing.assert_close(after["state_dict"][n], 0.75 * average[n] + 0.25 * current[n])
    old, new = (raw["optimizer_states"][0]["state"] for raw in (before, after))
    assert old.keys() == new.keys() and all(s["step"] == 2 for s in old.values())
    assert all(s["step"] == 3 for s in new.values())
    k = max(old, key=lambda key: old[key]["exp_avg_sq"].sum())
    kept = 0.999 * old[k]["exp_avg_sq"]
    assert (new[k]["exp_avg_sq"] >= kept * (1 - 1e-5)).all() and (kept > 0).any()


def test_the_steps_around_a_validation_count_as_time_and_the_validation_does_not(
    cache, tmp_path, monkeypatch
):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr("dvps_ros.training.module.time", clock)
    step, score = LitPerception.training_step, LitPerception.validation_step

    def slow_step(self, *args):
        clock.now += 6
        return step(self, *args)

    def slow_score(self, *args):
        clock.now += 1000
        return score(self, *args)

    monkeypatch.setattr(LitPerception, "training_step", slow_step)
    monkeypatch.setattr(LitPerception, "validation_step", slow_score)
    run(recipe_for(cache, tmp_path, **{"schedule.steps": 4}))
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [line["minutes"] for line in lines[:2]] == [0.2, 0.4]


@pytest.mark.parametrize("clip_norm", [0.0, 5.0])
def test_a_bad_gradient_stops_the_run_and_keeps_the_checkpoint(cache, tmp_path, monkeypatch, clip_norm):
    last = run(recipe_for(cache, tmp_path, **{"schedule.steps": 1}))
    before = last.read_bytes()

    def spoil(self) -> None:
        self.network.depth_head.bias.grad.fill_(math.nan)

    monkeypatch.setattr(LitPerception, "on_after_backward", spoil)
    with pytest.raises(DvpsError, match="gradient is not finite at step 1, in a batch of street .*'.*'"):
        run(recipe_for(cache, tmp_path, **{"schedule.steps": 3, "schedule.clip_norm": clip_norm}))
    assert last.read_bytes() == before


ROAD, *REST = CITYSCAPES.classes
OTHERS = {
    "network_config.decoder_width": {"network_config": to_dict(LiteConfig(**TINY | {"decoder_width": 24}))},
    "labels.name": {"labels": replace(CITYSCAPES, name="streets").to_dict()},
    "labels.classes.0": {
        "labels": replace(CITYSCAPES, classes=(replace(ROAD, name="lane"), *REST)).to_dict()
    },
    "network": {"network": None},
}


@pytest.mark.parametrize("key", OTHERS)
def test_checkpoints_of_another_kind_are_refused_wherever_they_come_in(trained, cache, tmp_path, key):
    raw = read_checkpoint(trained)
    meta = {k: v for k, v in (raw["dvps"] | OTHERS[key]).items() if v is not None}
    last = tmp_path / "last.ckpt"
    torch.save(raw | {"dvps": meta}, last)
    here, there = recipe_for(cache, tmp_path), recipe_for(cache, tmp_path / "new", start_from=str(last))
    build = partial(training_parts, here)
    for use in (
        lambda: run(here),
        lambda: run(there),
        lambda: validate(here, CITYSCAPES, [("street", street(9))]),
        lambda: balance(here, CITYSCAPES, build, 1),
    ):
        with pytest.raises(CheckpointError, match=f"differs from the recipe in its {key}: expected .* got"):
            use()
    if key == "network":
        with pytest.raises(CheckpointError, match="does not say its network"):
            load_checkpoint(last)


def test_a_deterministic_run_gives_the_same_weights_again(cache, tmp_path):
    runs = [
        read_checkpoint(run(recipe_for(cache, tmp_path / name, deterministic=True, **{"schedule.steps": 3})))
        for name in ("a", "b")
    ]
    assert all(torch.equal(v, runs[1]["state_dict"][k]) for k, v in runs[0]["state_dict"].items())
    torch.use_deterministic_algorithms(False)


def start_process(recipe: Recipe) -> subprocess.Popen[str]:
    """The training as a process group of its own, on the CPU."""
    values = json.dumps(flatten(to_dict(recipe)))
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("train_of_ranks.py")), values],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def end_of(process: subprocess.Popen[str], seconds: float) -> str:
    """Its output when it ends by itself without an error."""
    try:
        output, _ = process.communicate(timeout=seconds)
        assert process.returncode == 0, output
        return output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("free_batches", "devices", "fitting"),
    [(64, 1, 3), (14, 1, 3), (13.9, 1, 2), (6, 1, 1), (5.9, 1, 0), (0, 1, 0), (13.9, 2, 1)],
)
def test_no_more_workers_than_shared_memory_holds(
    cache, tmp_path, monkeypatch, caplog, free_batches, devices, fitting
):
    recipe = recipe_for(cache, tmp_path)
    clips = MixedClips(partial(training_parts, recipe), recipe, CITYSCAPES)
    size = sum(f.nbytes for f in next(iter(clips)))
    assert size > 1e5
    usage = SimpleNamespace(free=int(free_batches * size))
    monkeypatch.setattr("dvps_ros.training.fit.shutil.disk_usage", lambda path: usage)
    with caplog.at_level("WARNING"):
        assert workers_that_fit(clips, 3, devices) == fitting
    assert ("docker run --shm-size=2g" in caplog.text) == (fitting < 3)
    assert workers_that_fit(clips, 0) == 0


def test_two_ranks_learn_the_same_weights_from_different_clips(cache, tmp_path):
    # Without pairs nothing reaches the motion head.
    clips = {"data.workers": 1, "data.synthetic": 0, "data.synthetic_stills": 2}
    length = {"schedule.steps": 100, "schedule.minutes": 0.03, "validate_every": 2}
    recipe = recipe_for(cache, tmp_path, devices=2, **clips, **length)
    end_of(start_process(recipe), 300)
    one, two = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert one["step"] == two["step"] == read_checkpoint(tmp_path / "last.ckpt")["global_step"] >= 2
    assert one["minutes"] == two["minutes"] > 0.03
    assert all(torch.equal(v, two["weights"][k]) for k, v in one["weights"].items())
    assert not set(one["sums"]) & set(two["sums"])
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {*range(2, one["step"], 2), one["step"]}
    assert all(0 <= line["road/miou"] <= 1 for line in lines)


def test_a_signal_to_all_processes_leaves_a_checkpoint(cache, tmp_path):
    recipe = recipe_for(cache, tmp_path, **{"schedule.steps": 10_000, "data.workers": 1})
    process = start_process(recipe)
    until = time.monotonic() + 200
    while not (tmp_path / "validation.jsonl").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    end_of(process, 100)
    assert 2 <= read_checkpoint(tmp_path / "last.ckpt")["global_step"] < 10_000


def test_start_from_takes_the_weights_of_another_run(trained, cache, tmp_path):
    recipe = recipe_for(
        cache, tmp_path, **{"start_from": str(trained), "schedule.learning_rate": 0.0, "schedule.steps": 1}
    )
    name = "objective.network.class_head.weight"
    assert torch.equal(
        read_checkpoint(run(recipe))["state_dict"][name], read_checkpoint(trained)["state_dict"][name]
    )


def test_bad_checkpoints_are_refused_with_a_sentence(trained, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")
    short = tmp_path / "short.ckpt"
    short.write_bytes(trained.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load_checkpoint(short)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"model": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="was not written by `dvps train`"):
        load_checkpoint(foreign)
    raw = read_checkpoint(trained)
    torch.save(raw | {"dvps": raw["dvps"] | {"network": "giant"}}, foreign)
    with pytest.raises(CheckpointError, match="network 'giant'; this version knows lite"):
        load_checkpoint(foreign)
    config = raw["dvps"]["network_config"] | {"embedding": 7}
    torch.save(raw | {"dvps": raw["dvps"] | {"network_config": config}}, foreign)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_checkpoint(foreign)


def test_a_bad_truth_stops_the_run_and_keeps_the_checkpoint(cache, tmp_path):
    last = run(recipe_for(cache, tmp_path, **{"schedule.steps": 1}))
    module = LitPerception(recipe_for(cache, tmp_path), CITYSCAPES)
    with torch.no_grad():
        module.network.depth_head.bias.fill_(math.nan)
    torch.save(read_checkpoint(last) | {"current_model_state": module.state_dict()}, last)
    before = last.read_bytes()
    with pytest.raises(DvpsError, match=r"'depth' is not finite for street \d, street \d: lower"):
        run(recipe_for(cache, tmp_path, **{"schedule.steps": 5}))
    assert last.read_bytes() == before


# -- warm start --------------------------------------------------------------------------------------------


def outputs(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    images = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(5)) * 255
    intrinsics = torch.tensor([[100.0, 100.0, 63.5, 31.5]])
    with torch.no_grad():
        first = network.eval()(images[:1], intrinsics)
        second = network(images[1:], intrinsics, first.state)
    names = ("class_logits", "center_logits", "log_depth", "motion_px", "embedding", "latent")
    return {name: getattr(second, name) for name in names}


def test_a_published_model_starts_a_training_where_it_stands(trained, cache, tmp_path):
    old = load_checkpoint(trained)
    # Statistics far from 0 and 1, so that an error in the unfolding shows.
    for m in old.network.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for values, low, high in (
                (m.running_mean, -0.5, 0.5),
                (m.running_var, 0.5, 2),
                (m.weight, 0.5, 1),
            ):
                torch.nn.init.uniform_(values, low, high)
    export_model(
        old.network, CITYSCAPES, tmp_path / "m", [(64, 128)],
        name="m", version="1", licence="Apache-2.0", training={},
    )  # fmt: skip
    recipe = recipe_for(cache, tmp_path / "out", start_from=str(tmp_path / "m"))
    module = LitPerception(recipe, CITYSCAPES)
    batches = [collate([street(s), street(s + 10)], CITYSCAPES) for s in range(3)]
    start_from_model(module.network, tmp_path / "m", batches, module.objective.frames)
    before, after = outputs(old.network), outputs(module.network)
    for name, want in before.items():
        # Published weights are float16.
        assert torch.allclose(after[name], want, atol=2e-2 * float(want.abs().max())), name
    # In training, with the statistics of the same batches, nothing jumps either.
    module.network.train()
    trained_mode = module.objective.frames(batches[0])[1].log_depth
    module.network.eval()
    assert (trained_mode - module.objective.frames(batches[0])[1].log_depth).abs().mean() < 0.1
    last = run(replace(recipe, schedule=replace(recipe.schedule, learning_rate=0.0, steps=1)))
    name = "class_head.weight"
    assert torch.equal(
        read_checkpoint(last)["state_dict"][f"objective.network.{name}"],
        published_weights(tmp_path / "m")[name],
    )


def test_a_model_of_another_architecture_starts_nothing(trained, cache, tmp_path):
    export_model(
        load_checkpoint(trained).network, CITYSCAPES, tmp_path / "m", [(64, 128)],
        name="m", version="1", licence="Apache-2.0", training={},
    )  # fmt: skip
    module = LitPerception(recipe_for(cache, tmp_path), CITYSCAPES)
    other = Lite(LiteConfig(**TINY, embedding=7))
    with pytest.raises(CheckpointError, match="does not fit the network: .*identity_head"):
        start_from_model(other, tmp_path / "m", [], module)
    with pytest.raises(EngineError, match="manifest"):
        start_from_model(module.network, tmp_path, [], module)


def test_a_model_of_other_labels_or_changed_files_starts_nothing(trained, cache, tmp_path):
    streets = replace(CITYSCAPES, name="streets")
    export_model(
        load_checkpoint(trained).network, streets, tmp_path / "m", [(64, 128)],
        name="m", version="1", licence="Apache-2.0", training={},
    )  # fmt: skip
    recipe = recipe_for(cache, tmp_path / "out", start_from=str(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="of label space streets .19 classes.: expected cityscapes"):
        run(recipe)
    assert published_weights(tmp_path / "m")
    weights = tmp_path / "m" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(EngineError, match="weights.bin is truncated or of another export"):
        published_weights(tmp_path / "m")


# -- bases, phases, parts, label spaces --------------------------------------------------------------------


def test_a_recipe_takes_what_it_does_not_say_from_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("schedule: {steps: 7, learning_rate: 0.5}\nloss: {depth: 9.0}\n")
    (tmp_path / "deeper").mkdir()
    path = tmp_path / "deeper" / "r.yaml"
    path.write_text("base: ../base.yaml\nschedule: {steps: 3}\nloss: {sky: 1.0}\n")
    recipe = read_recipe(path, ["seed=4"])
    assert (recipe.schedule.steps, recipe.schedule.learning_rate, recipe.seed) == (3, 0.5, 4)
    assert recipe.loss == {"depth": 9.0, "sky": 1.0}
    (tmp_path / "base.yaml").write_text("base: deeper/r.yaml\n")
    with pytest.raises(ConfigError, match="is based on itself"):
        read_recipe(path)
    path.write_text("base: nowhere.yaml\n")
    with pytest.raises(ConfigError, match="cannot read configuration .*nowhere.yaml"):
        read_recipe(path)


def test_wrong_values_of_new_keys_are_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("{}")
    for changes, message in (
        (["loss.semantc=1"], "loss: unknown keys semantc; known keys are semantic"),
        (["loss.depth=-1"], "loss: depth: expected 0"),
        (["weighting=fair"], "weighting: expected one of fixed, dynamic_average, uncertainty"),
        (["data.mix.mars=1"], "data.mix: expected one of cityscapes-dvps, .*, got 'mars'"),
        (["data.mix.kitti-step=2"], "say where it lies: data.places.kitti-step=FOLDER"),
        (["data.mix.kitti-step=0", "data.places.kitti-step=x"], "data.mix.kitti-step: expected clips"),
        (["data.places.kitti-step=x"], "data.places: kitti-step is not in data.mix"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_recipe(path, changes)


def test_what_does_not_learn_keeps_weights_and_statistics(cache, tmp_path):
    recipe = recipe_for(cache, tmp_path, learns="depth, depth_head", **{"schedule.steps": 2})
    after = load_checkpoint(run(recipe)).network.state_dict()
    pl.seed_everything(recipe.seed)
    start = LitPerception(recipe, CITYSCAPES).network.state_dict()
    # The running average of what stands still differs by a rounding.
    changed = {k.partition(".")[0] for k in start if not torch.allclose(start[k], after[k], atol=1e-6)}
    assert changed == {"depth", "depth_head"}
    with pytest.raises(ConfigError, match="learns: the network has no part head; its parts are encoder"):
        LitPerception(recipe_for(cache, tmp_path, learns="head"), CITYSCAPES)


def test_rates_of_parts(cache, tmp_path):
    recipe = recipe_for(cache, tmp_path, **{"rates.encoder": 0.1, "rates.encoder.stem": 0.0})
    module = LitPerception(recipe, CITYSCAPES)
    names = {id(p): n for n, p in module.network.named_parameters()}
    factors = {
        names[id(p)]: g["factor"] for g in module.configure_optimizers().param_groups for p in g["params"]
    }
    assert factors["encoder.stem.0.weight"] == 0 and factors["encoder.stages.1.0.body.0.0.weight"] == 0.1
    assert factors["class_head.bias"] == 1 and len(factors) == len(names)
    for changes, message in (
        ({"rates.decoder": 0.1}, "rates: the network has no part 'decoder'"),
        ({"rates.encoder": "slow"}, "rates.encoder: expected a factor"),
    ):
        with pytest.raises(ConfigError, match=message):
            LitPerception(recipe_for(cache, tmp_path, **changes), CITYSCAPES)


def test_the_encoder_starts_from_its_published_weights(cache, tmp_path, monkeypatch):
    published = {k: v + 1 for k, v in ThinEncoder("thin_tiny").state_dict().items()}
    monkeypatch.setattr("dvps_ros.training.fit.imagenet_weights", {"thin_tiny": published}.get)
    recipe = recipe_for(cache, tmp_path, start_from="imagenet", **{"schedule.steps": 1, "rates.encoder": 0.0})
    weights = load_checkpoint(run(recipe)).network.state_dict()
    convolutions = [k for k, v in published.items() if v.ndim == 4]
    assert convolutions and all(torch.equal(weights[f"encoder.{k}"], published[k]) for k in convolutions)
    with pytest.raises(CheckpointError, match="no imagenet weights for network deep_dps"):
        run(deep_dps(cache, tmp_path / "2", start_from="imagenet"))


def test_poly_falls_to_zero():
    assert rate_factor(0.5, 0.0, "poly") == pytest.approx(0.5**0.9) and rate_factor(1.0, 0.0, "poly") == 0
    # It falls from the first step on, while it rises, too.
    assert rate_factor(0.1, 0.2, "poly") == pytest.approx(0.5 * 0.9**0.9)
    assert rate_factor(0.2, 0.2, "poly") == pytest.approx(0.8**0.9) and rate_factor(2.0, 0.2, "poly") == 0


def test_weights_of_layers_decay_and_nothing_else(tmp_path):
    recipe = deep_dps(Path("x"), tmp_path, **{"model.backbone": "swin_tiny", "schedule.weight_decay": 0.05})
    module = LitPerception(recipe, CITYSCAPES)
    names = {id(p): name for name, p in module.objective.named_parameters()}
    decay = {
        names[id(p)].removeprefix("network."): group["weight_decay"]
        for group in module.configure_optimizers().param_groups
        for p in group["params"]
    }
    assert len(decay) == len(names) and set(decay.values()) == {0.0, 0.05}
    for name in (
        "queries", "query_positions", "level_positions", "depth_level_positions", "slots", "slot_positions",
        "backup.start", "backup.position", "norm.weight", "classify.bias",
    ):  # fmt: skip
        assert decay[name] == 0.0, name
    assert decay["classify.weight"] == decay["semantic.vectors.weight"] == 0.05
    tables = [name for name in decay if name.endswith("relative_position_bias_table")]
    assert tables and not any(decay[name] for name in tables)


def test_phases_run_in_order_and_resume_in_the_right_one(cache, tmp_path):
    first = recipe_for(cache, tmp_path / "1", validate_every=100, **{"schedule.steps": 2})
    second = recipe_for(cache, tmp_path / "2", validate_every=100, **{"schedule.steps": 2})
    check_phases([first, second])
    last = fit_phases([first, second], CITYSCAPES)
    assert last == tmp_path / "2" / "last.ckpt"
    done = load_checkpoint(last)
    assert done.meta["step"] == 2 and done.meta["recipe"]["start_from"] == "last.ckpt"
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "1" / "last.ckpt", last)}
    assert fit_phases([first, second], CITYSCAPES) == last
    longer = replace(second, schedule=replace(second.schedule, steps=3))
    fit_phases([first, longer], CITYSCAPES)
    now = {p: p.stat().st_mtime_ns for p in written}
    assert now[tmp_path / "1" / "last.ckpt"] == written[tmp_path / "1" / "last.ckpt"]
    assert now[last] > written[last] and load_checkpoint(last).meta["step"] == 3


def test_a_phase_with_the_start_of_the_one_before_goes_on_from_its_weights(cache, tmp_path, trained):
    """As it has by ``base:``, or by ``--set``; another start of its own holds."""
    start = {"start_from": str(trained), "schedule.steps": 1, "validate_every": 100}
    first, second = (recipe_for(cache, tmp_path / n, **start) for n in "12")
    done = load_checkpoint(fit_phases([first, second], CITYSCAPES))
    assert done.meta["recipe"]["start_from"] == "last.ckpt"
    still = {"start_from": str(trained), "schedule.steps": 1, "schedule.learning_rate": 0.0}
    first = recipe_for(cache, tmp_path / "3", **{"schedule.steps": 1})
    last = fit_phases([first, recipe_for(cache, tmp_path / "4", **still)], CITYSCAPES)
    weights, before = (load_checkpoint(p).network.state_dict() for p in (last, trained))
    name = "class_head.weight"
    torch.testing.assert_close(weights[name], before[name])


def test_what_lies_in_the_place_of_a_phase_must_fit_it(cache, tmp_path):
    first, second = (recipe_for(cache, tmp_path / n, **{"schedule.steps": 1}) for n in "12")
    run(replace(first, model=first.model | {"decoder_width": 24}))
    with pytest.raises(CheckpointError, match="decoder_width"):
        fit_phases([first, second], CITYSCAPES)


def test_phases_that_do_not_fit_are_refused(cache, tmp_path):
    first = recipe_for(cache, tmp_path / "1")
    with pytest.raises(ConfigError, match="each needs an `out` of its own"):
        check_phases([first, first])
    other = recipe_for(cache, tmp_path / "2", **{"model.decoder_width": 24})
    with pytest.raises(ConfigError, match="2 cannot go on from .*1: model is"):
        check_phases([first, other])


def write_cityscapes(root: Path, split: str, frames: int) -> None:
    layout = LAYOUTS["cityscapes-dvps"]
    sample = street(3, frames=frames)
    for t in range(frames):
        layout.write(
            root, split, "000000", t, class_map=sample.class_map[t], instance_map=sample.instance_map[t],
            depth_m=sample.depth_m[t], image=sample.images[t],
        )  # fmt: skip


def test_clips_of_data_sets_are_mixed_in(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("DVPS_DATA", raising=False)
    for split in ("train", "val"):
        write_cityscapes(tmp_path / "cs", split, 4)
    recipe = recipe_for(
        cache, tmp_path / "out",
        **{
            "data.synthetic": 0, "data.synthetic_stills": 0, "data.mix.cityscapes-dvps": 2,
            "data.places.cityscapes-dvps": str(tmp_path / "cs"), "data.frames": 3,
        },
    )  # fmt: skip
    batch = next(iter(MixedClips(partial(training_parts, recipe), recipe, CITYSCAPES)))
    assert [len(frame.image) for frame in batch] == [2, 2, 2]  # clips of three frames
    assert (batch[0].targets.class_map == 13).any() and (batch[0].targets.depth_m > 0).any()
    sets = held_out_sets(replace(recipe, validate_clips=2))
    assert [name for name, _ in sets] == ["cityscapes-dvps"] * 2 and len(sets[0][1].images) == 3
    assert load_checkpoint(run(replace(recipe, schedule=replace(recipe.schedule, steps=1)))).meta["step"] == 1


def test_label_spaces(cache, tmp_path):
    assert label_space(recipe_for(cache, tmp_path)) is CITYSCAPES
    own = {"data.synthetic": 0, "data.synthetic_stills": 0, "data.places.semkitti-dvps": "x"}
    recipe = recipe_for(cache, tmp_path, labels="semkitti-dvps", **own, **{"data.mix.semkitti-dvps": 1})
    space = label_space(recipe)
    assert space.names[:2] == ("car", "bicycle") and space.thing_ids == tuple(range(8))
    with pytest.raises(ConfigError, match="which synthetic, synthetic_stills of data lacks"):
        label_space(recipe_for(cache, tmp_path, labels="semkitti-dvps"))
    (tmp_path / "other.yaml").write_text(
        "name: other\nclasses: [{name: road, color: [1, 2, 3], is_thing: false}]\n"
    )
    with pytest.raises(ConfigError, match="label space|must name the classes of cityscapes"):
        label_space(recipe_for(cache, tmp_path, labels=str(tmp_path / "other.yaml")))


# -- DeepDPS ------------------------------------------------------------------------------------------------

TINY_DEEP_DPS = {
    "network": "deep_dps",
    "model": {
        "backbone": "resnet_tiny", "pixel_decoder": "deformable", "width": 32, "queries": 12, "heads": 4,
        "hidden": 64, "rounds": 1, "pixel_layers": 1, "pixel_hidden": 64,
    },
    "loss.points": 200,
}  # fmt: skip


TINY_MONO_DVPS = {
    "backbone": "resnet_tiny", "context_width": 16, "semantic_width": 16, "instance_width": 16,
    "head_width": 16, "state_width": 16,
}  # fmt: skip


def deep_dps(cache: Path, out: Path, **changes) -> Recipe:
    values = flatten(to_dict(recipe_for(cache, out)))
    values = {k: v for k, v in values.items() if not k.startswith(("model.", "loss."))}
    return from_flat(Recipe, values | flatten(TINY_DEEP_DPS) | changes)


@pytest.mark.parametrize("data_set", ["cityscapes", "semkitti"])
def test_the_recipes_of_deep_dps(data_set):
    folder = ROOT / "config/train/deep_dps"
    first, second = (read_recipe(folder / f"{data_set}_{step}.yaml") for step in (1, 2))
    check_phases([first, second])
    assert list(second.data.mix) == [f"{data_set}-dvps"] == list(second.data.places)
    assert loss_weights(first).depth == 0 and loss_weights(second).depth == 2.5
    assert label_space(second).names[0] == {"cityscapes": "road", "semkitti": "car"}[data_set]


@pytest.mark.parametrize("name", ["cityscapes", "semkitti", "world"])
def test_the_recipes_of_mono_dvps(name):
    recipe = read_recipe(ROOT / f"config/train/mono_dvps/{name}.yaml")
    assert loss_weights(recipe).center == 200 and network_config(recipe, classes=19).classes == 19
    assert recipe.data.frames == 3 or recipe.data.synthetic


def test_mono_dvps_trains_validates_and_exports(cache, tmp_path):
    values = flatten(to_dict(recipe_for(cache, tmp_path / "1", **{"schedule.steps": 2, "validate_every": 2})))
    values = {k: v for k, v in values.items() if not k.startswith(("model.", "loss."))}
    values |= {f"model.{k}": v for k, v in TINY_MONO_DVPS.items()} | {"loss.pose_backbone": "resnet_tiny"}
    recipe = from_flat(Recipe, values | {"network": "mono_dvps"})
    loaded = load_checkpoint(run(recipe))
    assert "overlap" in DeployedGraph(loaded.network, CITYSCAPES).output_names
    assert "pose.encoder" not in "".join(loaded.network.state_dict())


def test_deep_dps_trains_validates_and_exports_in_two_steps(cache, tmp_path):
    steps = {"schedule.steps": 2, "validate_every": 2}
    first = deep_dps(cache, tmp_path / "1", **steps, **{"loss.depth": 0.0, "loss.backup": 0.0})
    second = deep_dps(cache, tmp_path / "2", **steps)
    check_phases([first, second])
    last = fit_phases([first, second], CITYSCAPES)
    loaded = load_checkpoint(last)
    assert loaded.meta["network"] == "deep_dps"
    manifest = export_model(
        loaded.network, CITYSCAPES, tmp_path / "m", [(64, 128)],
        name="m", version="1", licence="Apache-2.0", training={}, fusion={"min_score": 0.1},
    )  # fmt: skip
    assert [s.name for s in manifest.state] == ["state_rows"]
    with Engine.open(tmp_path / "m", EngineConfig(backend="openvino", precision="fp32")) as engine:
        assert "overlap" in engine.output_names and engine.differences
    with pytest.raises(CheckpointError, match="or from a checkpoint"):
        start_from_model(loaded.network, tmp_path / "m", [], lambda batch: None)


def save_mask2former(folder: Path, backbone: str = "resnet_tiny", **changes) -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    names = {0: "Road", 1: "car", 2: "lamp post", 3: "traffic-sign", 4: "car"}
    sizes = {
        "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "num_attention_heads": 4,
        "decoder_layers": 4, "id2label": names, "label2id": {n: i for i, n in names.items()},
    } | changes  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=Backbone(backbone).model.config, encoder_feedforward_dim=64, dim_feedforward=64,
        encoder_layers=1, num_queries=12, **sizes,
    )  # fmt: skip
    theirs = Mask2FormerForUniversalSegmentation(config)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("backbone", ["resnet_tiny", "swin_tiny"])
def test_a_mask2former_of_the_transformers_library_starts_a_training(tmp_path, caplog, backbone):
    theirs = save_mask2former(tmp_path / "hf", backbone).eval()
    recipe = deep_dps(Path("x"), tmp_path / "out", **{"model.backbone": backbone})
    network = LitPerception(recipe, CITYSCAPES).network.eval()
    before = network.classify.weight.detach().clone()
    with caplog.at_level("INFO"):
        start_from_transformers(network, tmp_path / "hf", CITYSCAPES)
    image = torch.rand(1, 3, 64, 128) * 255
    with torch.no_grad():
        ours = network(image, torch.tensor([[100.0, 100.0, 63.5, 31.5]]))
        want = theirs((image - network.mean) / network.std)
    torch.testing.assert_close(ours.mask_logits, want.masks_queries_logits, rtol=1e-3, atol=1e-4)
    rows = network.classify.weight
    # Of equal names the first counts.
    for name, row in (("road", 0), ("car", 1), ("traffic sign", 3)):
        torch.testing.assert_close(rows[CITYSCAPES.id_of(name)], theirs.class_predictor.weight[row])
    torch.testing.assert_close(rows[-1], theirs.class_predictor.weight[-1])
    assert torch.equal(rows[CITYSCAPES.id_of("sky")], before[CITYSCAPES.id_of("sky")])
    assert "of 19 classes 3 are known by name" in caplog.text
    assert "at random: backup, depth, depth_level_positions" in caplog.text


def test_a_training_starts_from_the_weights_of_a_mask2former(cache, tmp_path):
    theirs = save_mask2former(tmp_path / "hf")
    recipe = deep_dps(cache, tmp_path / "out", start_from=str(tmp_path / "hf"), **{"schedule.steps": 1})
    recipe = replace(recipe, schedule=replace(recipe.schedule, learning_rate=0.0))
    queries = theirs.state_dict()["model.transformer_module.queries_features.weight"]
    torch.testing.assert_close(load_checkpoint(run(recipe)).network.queries[0], queries, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 64, "feature_size": 64, "mask_feature_size": 64}, "other.* shape, .*model.backbone"),
        ({"decoder_layers": 3}, "missing, surplus or of another shape, layers.2"),
        ({"decoder_layers": 7}, "missing, surplus or of another shape, layers.3"),
        ({"pre_norm": True}, "its pre_norm is True, expected False"),
        ({"activation_function": "gelu"}, "its activation_function is 'gelu', expected 'relu'"),
        ({"num_attention_heads": 8}, "its num_attention_heads is 8, expected 4; set model.heads"),
    ],
)
def test_mask2formers_that_compute_something_else_start_nothing(tmp_path, changes, message):
    network = LitPerception(deep_dps(Path("x"), tmp_path), CITYSCAPES).network
    save_mask2former(tmp_path / "hf", **changes)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"does not fit the network: .*{message}"):
        start_from_transformers(network, tmp_path / "hf", CITYSCAPES)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({i if i < 4 else 7: "car" for i in range(5)}, "number its 5 classes from 0, got 0, 1, 2, 3, 7"),
        ({"0": "road", "2": "car"}, "the weights have other shapes than config.json says: class_predictor"),
        ({"a": "road"}, "its weights cannot be loaded"),
        (["road", "car"], "its weights cannot be loaded"),
    ],
    ids=["gap", "too few", "no number", "list"],
)
def test_classes_without_numbers_from_0_start_nothing(tmp_path, names, message):
    network = LitPerception(deep_dps(Path("x"), tmp_path), CITYSCAPES).network
    save_mask2former(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": names}))
    with pytest.raises(CheckpointError, match=message):
        start_from_transformers(network, tmp_path / "hf", CITYSCAPES)


def test_folders_that_start_nothing_say_why(tmp_path):
    network = LitPerception(deep_dps(Path("x"), tmp_path), CITYSCAPES).network
    folder = tmp_path / "hf"
    save_mask2former(folder)
    with pytest.raises(CheckpointError, match="expected mask2former, for network deep_dps"):
        start_from_transformers(Lite(LiteConfig(**TINY)), folder, CITYSCAPES)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="its weights cannot be loaded"):
        start_from_transformers(network, folder, CITYSCAPES)
    (folder / "model.safetensors").unlink()
    (folder / "weights.pkl").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="weights.pkl.* may run code when loaded, and is refused"):
        start_from_transformers(network, folder, CITYSCAPES)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read .*config.json"):
        start_from_transformers(network, folder, CITYSCAPES)
