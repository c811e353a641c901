# SPDX-License-Identifier: Apache-2.0
"""Windows, losses and training of the steering head on tracks whose answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dvps_ros.data.cache import read_clip
from dvps_ros.data.world import World, WorldConfig
from dvps_ros.errors import CheckpointError, ConfigError, InputError
from dvps_ros.networks.steering import SteeringConfig, SteeringHead
from dvps_ros.training import drives, render
from dvps_ros.training import steering as st
from dvps_ros.training import steering_baselines as baselines
from dvps_ros.training.latents import Track
from dvps_ros.training.recipe import DataConfig
from dvps_ros.training.render import VALIDATION_SEED
from dvps_ros.types import Sample

HEAD = SteeringConfig(frames=4, tokens=6, channels=8, width=16, heads=2, dropout=0.0)
RECIPE = st.SteeringRecipe(head=HEAD, steps=150, batch=32, slots=2, learning_rate=1e-2, baseline_steps=0)


def track(name: str, seed: int, frames: int = 120) -> Track:
    """Curvature is 0.02 times one number of one token of the newest frame."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(frames, 6, 8)).astype(np.float16)
    angle = np.arctan(2.71 * 0.02 * latent[:, 4, 2].astype(np.float32))
    stamps = np.arange(frames, dtype=np.int64) * 100_000_000
    return Track(name, latent, stamps, angle.astype(np.float32), np.full(frames, 10.0, np.float32))


def test_windows_follow_their_track_and_stop_at_gaps():
    first, second = track("a", 0, 6), track("b", 1, 6)
    second.stamps_ns[3:] += 2_000_000_000
    second.steering_rad[1] = math.nan
    windows = st.Windows.of([first, second], HEAD, 2.71)
    assert len(windows) == 11  # an unknown angle is no window
    assert windows.index[5].tolist() == [5, 4, 3, 2]
    assert windows.index[6].tolist() == [6, -1, -1, -1]  # nothing of the track before
    assert windows.index[8].tolist() == [9, -1, -1, -1]  # nor of before the gap
    np.testing.assert_allclose(windows.age_s[5], [0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(
        windows.curvature[:6], 0.02 * first.latent[:, 4, 2].astype(np.float32), rtol=1e-5
    )
    assert windows.lookahead_m[0] == pytest.approx(10.0)
    latent, age_s = windows.inputs(np.array([5, 6]), np.array([[0, 2], [0, 2]]))
    np.testing.assert_array_equal(latent[0, 1].numpy(), first.latent[3])
    assert latent[1, 1].abs().max() == 0 and age_s[1].tolist() == [0, -1]


def test_loss_by_hand():
    """Errors 1 and 2 units; weights e^(0.5 x 0) and e^(0.5 x 2), the second counts four times as its driver
    looks twice as far."""
    truth, guess = torch.tensor([0.0, 0.04]), torch.tensor([0.02, 0.0])
    squared, surprise = st.steering_losses(
        guess, torch.tensor([0.02, 0.04]), truth, torch.tensor([10.0, 20.0]), 0.02, 0.5
    )
    w = 4 * math.e
    assert squared.item() == pytest.approx((1 + w * 4) / (1 + w), rel=1e-5)
    assert surprise.item() == pytest.approx((0.5 + 0 + 0.5 + math.log(2)) / 2, rel=1e-5)


def test_training_learns_what_there_is_to_learn(tmp_path, monkeypatch):
    tracks = [track("a", 0), track("b", 1), track("c", 2)], {st.WORLD: [track("d", 3)]}
    monkeypatch.setattr(st, "load_tracks", lambda recipe: tracks)
    recipe = replace(RECIPE, out=str(tmp_path))
    checkpoint = st.fit_steering(recipe)
    figures = json.loads((tmp_path / "figures.json").read_text())[st.WORLD]
    assert figures["head"]["mse_rad2"] < 0.2 * figures["zero"]["mse_rad2"]
    assert figures["head"]["correlation"] > 0.9
    assert figures["zero"]["mse_rad2"] == pytest.approx(
        float(np.mean(tracks[1][st.WORLD][0].steering_rad ** 2))
    )
    loaded = st.load_head(checkpoint)
    assert loaded.network.config == HEAD and loaded.meta["perception"]["name"] == "lite"
    latent, age_s = loaded.golden_window
    assert latent.shape == (1, 4, 6, 8) and (age_s >= 0).all()
    again = st.score(loaded.network, tracks[1][st.WORLD], 2.71, np.zeros(2), None)
    assert again["head"]["mse_rad2"] == pytest.approx(figures["head"]["mse_rad2"], rel=1e-4)


def test_calibration_makes_the_deviation_hold_for_what_was_not_learnt():
    torch.manual_seed(0)
    network = SteeringHead(HEAD).eval()  # random: its curvature errs, its deviation knows nothing of it
    known, new = (st.Windows.of([track(str(seed), seed, 400)], HEAD, 2.71) for seed in (0, 1))
    st.calibrate(network, known)
    curvature, deviation = st.predict(network, new)
    assert np.mean(np.abs(curvature - new.curvature) < deviation) == pytest.approx(0.68, abs=0.06)


def test_what_calibrates_is_not_learnt():
    many = [track(str(i), i, 20) for i in range(11)]
    learnt, kept = st.split_calibration(many)
    assert [t.name for t in kept] == ["0", "10"] and [t.name for t in learnt] == list("123456789")
    (learnt,), (kept,) = st.split_calibration([track("log", 0, 50)])
    assert learnt.stamps_ns[-1] < kept.stamps_ns[0] and len(kept.stamps_ns) == 5


def test_angles_ago_look_back_by_time():
    log = track("a", 0, 12)
    for ago_s, steps in ((1e-9, 1), (0.25, 3), (0.5, 5), (1.0, 10)):
        want = log.steering_rad[np.maximum(np.arange(12) - steps, 0)]
        np.testing.assert_array_equal(baselines.angles_ago(log, ago_s), want)


def seen(name: str, seed: int, frames: int = 100) -> Track:
    """A track whose images tell the angle: the brighter the right half beside the left one, the more left."""
    plain = track(name, seed, frames)
    images = np.full((frames, 64, 128, 3), 120, np.uint8)
    images[:, :, 64:] = np.clip(120 + 40 * plain.latent[:, 4, 2], 0, 255)[:, None, None, None]
    return replace(plain, thumbnails=baselines.thumbnails(images))


def test_thumbnails_are_means_of_areas():
    image = np.arange(64 * 128 * 3, dtype=np.float64).reshape(64, 128, 3).astype(np.uint8)
    small = baselines.thumbnails(image[None])[0]
    assert small.shape == (32, 64, 3)
    mean = image.reshape(32, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(small - mean).max() <= 0.5


def test_the_cnn_lstm_learns_from_pixels_of_the_newest_frame_and_is_scored_beside_the_head(
    tmp_path, monkeypatch
):
    tracks = [seen("a", 0), seen("b", 1), seen("c", 2)], {st.WORLD: [seen("d", 3)]}
    monkeypatch.setattr(st, "load_tracks", lambda recipe: tracks)
    recipe = replace(RECIPE, out=str(tmp_path), baseline_steps=200)
    st.fit_steering(recipe)
    figures = json.loads((tmp_path / "figures.json").read_text())[st.WORLD]
    assert figures["cnn-lstm"]["mse_rad2"] < 0.2 * figures["zero"]["mse_rad2"]
    assert figures["cnn-lstm"]["samples"] == figures["head"]["samples"] == 100
    st.validate_steering(recipe)  # the same baseline again
    again = json.loads((tmp_path / "figures.json").read_text())[st.WORLD]
    assert again["cnn-lstm"]["mse_rad2"] == pytest.approx(figures["cnn-lstm"]["mse_rad2"], rel=1e-5)
    with pytest.raises(InputError, match="a: expected thumbnails"):
        baselines.run_cnn_lstm(baselines.CnnLstm(0.02), None, [track("a", 0)])


def test_a_frame_that_is_not_there_counts_for_nothing_in_the_cnn_lstm():
    torch.manual_seed(0)
    network = baselines.CnnLstm(0.02).eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (1, 3, 32, 64, 3), dtype=np.uint8))
    other = images.clone()
    other[:, 1] = 7
    there = torch.tensor([[True, False, True]])
    with torch.inference_mode():
        assert torch.equal(network(images, there), network(other, there))
        assert not torch.equal(network(images, there | True), network(other, there | True))


def test_measured_angle_by_hand():
    truth, head = np.array([0.1, 0.2, 0.4]), np.array([0.0, 0.1, 0.5])
    last, terms = baselines.measured_terms(truth, head)
    np.testing.assert_allclose(last, [0.1, 0.1, 0.2])
    np.testing.assert_allclose(terms, [[-0.1, 0.0], [0.0, 0.1], [0.3, 0.4]], atol=1e-12)


def test_a_head_with_an_offset_becomes_right_with_the_wheel_measured():
    """The head's changes are right, its level is not: weights (0, 1); and 2 tracks do not touch."""
    rng = np.random.default_rng(0)
    pairs = [(t := rng.normal(size=30), t + offset) for offset in (0.3, -0.1)]
    weights = baselines.fit_measured(pairs)
    np.testing.assert_allclose(weights, [0.0, 1.0], atol=1e-9)
    last, terms = baselines.measured_terms(*pairs[0])
    np.testing.assert_allclose((last + terms @ weights)[1:], pairs[0][0][1:], atol=1e-9)


def test_refusals(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("network: steering\ndata:\n  drives: 0\n")
    with pytest.raises(ConfigError, match="nothing to learn from"):
        st.read_steering_recipe(recipe)
    recipe.write_text("network: steering\nwheels: 3\n")
    with pytest.raises(ConfigError, match="unknown keys wheels"):
        st.read_steering_recipe(recipe)
    assert st.read_steering_recipe(_empty(recipe), ["steps=7"]).steps == 7
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}, "dvps": {"network": "lite"}}, other)
    with pytest.raises(CheckpointError, match="expected a steering head, got 'lite'"):
        st.load_head(other)


def test_streets_without_lines_are_held_out_too(tmp_path, monkeypatch):
    monkeypatch.setattr(drives, "VALIDATION_DRIVES", 2)
    image = np.zeros((1, 8, 8, 3), np.uint8)
    monkeypatch.setattr(
        drives, "wandering_drive", lambda seed, size: Sample(image, np.ones((1, 4), np.float32), "made up")
    )
    drives.render_drives(tmp_path, 3, (8, 8))
    made = {p.name: sorted(int(f.stem) for f in p.iterdir()) for p in tmp_path.iterdir()}
    assert {name: len(seeds) for name, seeds in made.items()} == {"train": 3, "val": 2, "val_unmarked": 2}
    assert len({seed for seeds in made.values() for seed in seeds}) == 7  # no street is in two sets
    for name, seeds in made.items():
        for seed in seeds:
            scene = World(WorldConfig(seed=seed)).scene
            assert scene.speed >= drives.SLOWEST_MPS
            assert (seed >= VALIDATION_SEED) == name.startswith("val")
            assert name != "val_unmarked" or not scene.markings


def test_drives_of_another_size_and_damaged_ones_are_rendered_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(drives, "VALIDATION_DRIVES", 1)
    made = []

    def drive(seed, size):
        made.append(seed)
        return Sample(np.zeros((1, *size, 3), np.uint8), np.ones((1, 4), np.float32), "made up")

    monkeypatch.setattr(drives, "wandering_drive", drive)
    drives.render_drives(tmp_path, 2, (8, 16))
    assert len(made) == 4
    drives.render_drives(tmp_path, 2, (8, 16))
    assert len(made) == 4  # nothing anew
    drives.render_drives(tmp_path, 2, (16, 8))
    assert made[4:] == made[:4]
    first = sorted((tmp_path / "train").iterdir())[0]
    assert read_clip(first).images.shape == (1, 16, 8, 3)
    first.write_bytes(first.read_bytes()[:100])
    drives.render_drives(tmp_path, 2, (16, 8))
    assert made[8:] == [int(first.stem)] and read_clip(first).images.shape == (1, 16, 8, 3)


def test_clips_of_another_size_are_rendered_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "VALIDATION_CLIPS", 1)
    made = []

    def clip(seed, width, height):
        made.append(seed)
        return Sample(np.zeros((1, height, width, 3), np.uint8), np.ones((1, 4), np.float32), "made up")

    monkeypatch.setattr(render, "random_clip", clip)
    config = DataConfig(cache=str(tmp_path), clips=1, render_height=64, render_width=96)
    for _ in range(2):
        render.render_clips(config)
    assert made == [VALIDATION_SEED, 0]
    render.render_clips(replace(config, render_width=128))
    assert made[2:] == made[:2]
    assert read_clip(tmp_path / "train" / "0000000.npz").images.shape == (1, 64, 128, 3)


def test_missing_drives_are_told(tmp_path):
    recipe = replace(RECIPE, data=st.SteeringDataConfig(cache=str(tmp_path), drives=2))
    with pytest.raises(ConfigError, match="drives are missing in .*drives: run `dvps train CONFIG --render`"):
        st.load_tracks(recipe)


def _empty(path):
    path.write_text("network: steering\n")
    return path
