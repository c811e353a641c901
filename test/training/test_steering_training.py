# SPDX-License-Identifier: Apache-2.0
"""Windows, losses and training of the steering head on tracks whose answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dvps_ros.cli.train import command
from dvps_ros.data.cache import read_clip, write_clip
from dvps_ros.data.world import LOOK, World, WorldConfig
from dvps_ros.data.world.route import WHEELBASE_M
from dvps_ros.errors import CheckpointError, ConfigError, DvpsError, InputError
from dvps_ros.networks.steering import SteeringHead, SteeringHeadConfig
from dvps_ros.training import render
from dvps_ros.training.recipe import DataConfig
from dvps_ros.training.render import VALIDATION_SEED
from dvps_ros.training.steering import baselines, drives
from dvps_ros.training.steering import head as st
from dvps_ros.training.steering.latents import LatentMaker, TokenTrack
from dvps_ros.types import Sample

pytestmark = pytest.mark.usefixtures("one_torch_thread")

HEAD = SteeringHeadConfig(frames=4, tokens=6, channels=8, width=16, heads=2, dropout=0.0)
RECIPE = st.SteeringRecipe(head=HEAD, steps=150, batch=32, slots=2, learning_rate=1e-2, baseline_steps=0)


def track(name: str, seed: int, frames: int = 120) -> TokenTrack:
    """Curvature is 0.02 times one number of one token of the newest frame."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(frames, 6, 8)).astype(np.float16)
    angle = np.arctan(2.71 * 0.02 * latent[:, 4, 2].astype(np.float32))
    stamps = np.arange(frames, dtype=np.int64) * 100_000_000
    return TokenTrack(name, latent, stamps, angle.astype(np.float32), np.full(frames, 10.0, np.float32), 2.71)


def sets_of(drives: list[TokenTrack], test: TokenTrack) -> st.TrackSets:
    return st.TrackSets(*st.split_calibration(drives, []), {st.WORLD: [test]})


def test_windows_follow_their_track_and_stop_at_gaps():
    first, second = track("a", 0, 6), track("b", 1, 6)
    second.stamps_ns[3:] += 2_000_000_000
    second.steering_rad[1] = math.nan
    windows = st.Windows.of([first, second], HEAD)
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
    test = track("d", 3)
    sets = sets_of([track("a", 0), track("b", 1), track("c", 2)], test)
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
    recipe = replace(RECIPE, out=str(tmp_path))
    checkpoint = st.fit_steering(recipe)
    figures = json.loads((tmp_path / "figures.json").read_text())[st.WORLD]
    assert figures["head"]["mse_rad2"] < 0.2 * figures["zero"]["mse_rad2"]
    assert figures["head"]["correlation"] > 0.9
    assert figures["zero"]["mse_rad2"] == pytest.approx(float(np.mean(test.steering_rad**2)))
    loaded = st.load_head(checkpoint)
    assert loaded.network.config == HEAD and loaded.meta["perception"]["name"] == "lite"
    latent, age_s = loaded.golden_window
    assert latent.shape == (1, 4, 6, 8) and (age_s >= 0).all()
    again = st.score(loaded.network, [test], np.zeros(2), None)
    assert again["head"]["mse_rad2"] == pytest.approx(figures["head"]["mse_rad2"], rel=1e-4)
    onward = replace(recipe, out=str(tmp_path / "onward"), start_from=str(checkpoint), steps=1)
    st.fit_steering(onward)
    figures = json.loads((tmp_path / "onward" / "figures.json").read_text())[st.WORLD]
    assert figures["head"]["correlation"] > 0.8


def test_calibration_makes_the_deviation_hold_for_what_was_not_learnt():
    torch.manual_seed(0)
    network = SteeringHead(HEAD).eval()  # random: its curvature errs, its deviation knows nothing of it
    known, new = (st.Windows.of([track(str(seed), seed, 400)], HEAD) for seed in (0, 1))
    st.calibrate(network, known)
    curvature, deviation = st.predict(network, new)
    assert np.mean(np.abs(curvature - new.curvature) < deviation) == pytest.approx(0.68, abs=0.06)


@pytest.mark.parametrize("count", [10, 11, 200, 400])
def test_every_tenth_drive_calibrates_and_the_others_are_learnt(count):
    learnt, kept = st.split_calibration([track(str(i), i, 2) for i in range(count)], [])
    assert [t.name for t in kept] == [str(i) for i in range(0, count, 10)]
    assert [t.name for t in learnt] == [str(i) for i in range(count) if i % 10]


@pytest.mark.parametrize("count", [0, 3, 10, 11, 20])
def test_a_log_is_learnt_but_for_its_last_tenth_whatever_lies_beside_it(count):
    log = track("log", 0, 55)
    learnt, kept = st.split_calibration([track(str(i), i, 20) for i in range(count)], [log])
    (learnt,), (kept,) = ([t for t in tracks if t.name == "log"] for tracks in (learnt, kept))
    np.testing.assert_array_equal(learnt.stamps_ns, log.stamps_ns[:50])
    np.testing.assert_array_equal(kept.stamps_ns, log.stamps_ns[50:])
    np.testing.assert_array_equal(kept.latent, log.latent[50:])


def test_of_fewer_drives_than_ten_the_last_tenth_of_each_calibrates():
    learnt, kept = st.split_calibration([track(str(i), i, 20) for i in range(9)], [])
    assert [t.name for t in learnt] == [t.name for t in kept] == [str(i) for i in range(9)]
    assert {(len(a.latent), len(b.latent)) for a, b in zip(learnt, kept, strict=True)} == {(18, 2)}


def test_a_log_with_nothing_to_calibrate_by_is_refused():
    with pytest.raises(InputError, match="short: expected frames with a known angle to calibrate by, got no"):
        st.split_calibration([track(str(i), i, 2) for i in range(10)], [track("short", 0, 9)])
    unknown = track("blank", 0, 50)
    unknown.steering_rad[45:] = math.nan
    with pytest.raises(InputError, match="blank: .* calibrate by"):
        st.split_calibration([], [unknown])
    unknown.steering_rad[:] = math.nan
    with pytest.raises(InputError, match="blank: .* learn from"):
        st.split_calibration([], [unknown])


def test_each_track_has_the_curvature_of_its_own_vehicle():
    """The same angle: 0.1 m of wheelbase bend the path ten times as much as 1 m."""
    long, short = (replace(track(str(w), 0, 5), wheelbase_m=w) for w in (1.0, 0.1))
    windows = st.Windows.of([long, short], HEAD)
    np.testing.assert_allclose(windows.curvature[:5], np.tan(long.steering_rad), rtol=1e-5)
    np.testing.assert_allclose(windows.curvature[5:], 10 * windows.curvature[:5], rtol=1e-5)
    angles = np.concatenate((long.steering_rad, short.steering_rad))
    np.testing.assert_allclose(windows.angle_rad(windows.curvature), angles, rtol=1e-5)


def test_tokens_that_are_not_finite_are_refused_by_the_name_of_their_track():
    good, bad = track("good", 0, 6), track("bad", 1, 6)
    bad.latent[3, 2, 1] = np.inf
    bad.latent[5, 0, 0] = np.nan
    with pytest.raises(
        InputError, match="^bad: expected finite tokens, got others in 2 of 6 frames, first in fr.* 3"
    ):
        st.Windows.of([good, bad], HEAD)


@pytest.mark.parametrize("where", ["learnt", "kept_back"])
def test_bad_tokens_anywhere_keep_the_last_head(tmp_path, monkeypatch, where):
    sets = sets_of([track(str(i), i, 20) for i in range(10)], track("test", 20, 20))
    getattr(sets, where)[0].latent[4, 0, 0] = np.inf
    name = getattr(sets, where)[0].name
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
    (tmp_path / st.LAST).write_bytes(b"the last good head")
    with pytest.raises(InputError, match=f"^{name}: expected finite tokens"):
        st.fit_steering(replace(RECIPE, out=str(tmp_path), steps=2))
    assert (tmp_path / st.LAST).read_bytes() == b"the last good head"


def test_a_loss_that_is_not_finite_ends_the_training_by_its_name_and_keeps_the_last_head(
    tmp_path, monkeypatch
):
    sets = sets_of([track(str(i), i, 20) for i in range(10)], track("test", 20, 20))
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
    plain = st.steering_losses
    for bad, name in ((0, "squared"), (1, "surprise")):

        def losses(*args, bad=bad):
            terms = list(plain(*args))
            terms[bad] = terms[bad] * math.inf
            return tuple(terms)

        monkeypatch.setattr(st, "steering_losses", losses)
        (tmp_path / st.LAST).write_bytes(b"the last good head")
        with pytest.raises(DvpsError, match=f"loss term {name} became .* at step 0"):
            st.fit_steering(replace(RECIPE, out=str(tmp_path), steps=2))
        assert (tmp_path / st.LAST).read_bytes() == b"the last good head"


def test_a_calibration_that_is_not_finite_keeps_the_last_head(tmp_path, monkeypatch):
    sets = sets_of([track(str(i), i, 20) for i in range(10)], track("test", 20, 20))
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
    monkeypatch.setattr(st, "calibrate", lambda network, windows: network.doubt.fill_(math.nan))
    (tmp_path / st.LAST).write_bytes(b"the last good head")
    with pytest.raises(DvpsError, match="doubt is not finite after 2 steps"):
        st.fit_steering(replace(RECIPE, out=str(tmp_path), steps=2))
    assert (tmp_path / st.LAST).read_bytes() == b"the last good head"


def test_angles_ago_look_back_by_time():
    log = track("a", 0, 12)
    for ago_s, steps in ((1e-9, 1), (0.25, 3), (0.5, 5), (1.0, 10)):
        want = log.steering_rad[np.maximum(np.arange(12) - steps, 0)]
        np.testing.assert_array_equal(baselines.angles_ago(log, ago_s), want)


def seen(name: str, seed: int, frames: int = 100) -> TokenTrack:
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
    sets = sets_of([seen("a", 0), seen("b", 1), seen("c", 2)], seen("d", 3))
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
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

    def clip(seed, width, height, world):
        made.append(seed)
        source = f"made up{LOOK}{world.look}".removesuffix(LOOK)
        return Sample(np.zeros((1, height, width, 3), np.uint8), np.ones((1, 4), np.float32), source)

    monkeypatch.setattr(render, "random_clip", clip)
    config = DataConfig(cache=str(tmp_path), clips=1, render_height=64, render_width=96)
    for _ in range(2):
        render.render_clips(config)
    assert made == [VALIDATION_SEED, 0]
    render.render_clips(replace(config, render_width=128))
    assert made[2:] == made[:2]
    assert read_clip(tmp_path / "train" / "0000000.npz").images.shape == (1, 64, 128, 3)
    for _ in range(2):  # of another look: those for training only
        render.render_clips(replace(config, render_width=128, streets="rich", textures="stone"))
    assert made[4:] == [0]
    assert read_clip(tmp_path / "train" / "0000000.npz").source == "made up; rich streets, textures of stone"


class Eyes:
    """An engine whose every token is the brightness of its image; it counts what it looks at."""

    height, width = 8, 16
    manifest = SimpleNamespace(latent_shape=(2, 3))

    def __init__(self):
        self.looked = 0

    def run(self, image, intrinsics, wanted):
        self.looked += 1
        return SimpleNamespace(latent=np.full((2, 3), image.mean()))

    def close(self):
        pass


@pytest.fixture
def eyes(monkeypatch):
    eyes = Eyes()
    monkeypatch.setattr(LatentMaker, "engine", lambda self, size: eyes)
    return eyes


def driven(shade: int, angle: float = 0.1, frames: int = 3, focal: float = 10.0) -> Sample:
    images = (
        np.full((frames, 8, 16, 3), shade, np.uint8) + np.arange(frames, dtype=np.uint8)[:, None, None, None]
    )
    return Sample(
        images,
        np.tile(np.array([focal, focal, 8.0, 4.0], np.float32), (frames, 1)),
        "made up",
        steering_rad=np.full(frames, angle, np.float32),
        stamps_ns=np.arange(frames, dtype=np.int64) * 100_000_000,
    )


def test_tokens_are_kept_but_angles_are_those_of_the_clip(tmp_path, eyes):
    maker = LatentMaker("lite", tmp_path)
    first = maker.track("log", driven(50), 2.0)
    again = LatentMaker("lite", tmp_path).track("log", driven(50, angle=-0.3), 0.5)
    assert eyes.looked == 3  # the images are the same
    np.testing.assert_array_equal(first.latent[:, 1, 2], [50, 51, 52])
    np.testing.assert_array_equal(again.latent, first.latent)
    assert (again.steering_rad == np.float32(-0.3)).all() and again.wheelbase_m == 0.5
    assert np.isnan(again.speed_mps).all()


@pytest.mark.parametrize(
    "other", [driven(60), driven(50, frames=5), driven(50, focal=12.0)], ids=["images", "longer", "camera"]
)
def test_other_images_of_the_same_name_have_tokens_of_their_own(tmp_path, eyes, other):
    maker = LatentMaker("lite", tmp_path)
    maker.track("log", driven(50), 2.0)
    latent = maker.track("log", other, 2.0).latent
    assert eyes.looked == 3 + len(other.images)
    np.testing.assert_array_equal(latent[:, 0, 0], other.images[:, 0, 0, 0])
    maker.track("log", driven(50), 2.0)  # both stay
    assert eyes.looked == 3 + len(other.images)


def test_damaged_tokens_are_made_again(tmp_path, eyes):
    maker = LatentMaker("lite", tmp_path)
    maker.track("log", driven(50), 2.0)
    (file,) = tmp_path.rglob("log-*")
    for rest in (b"", file.read_bytes()[:-1], b"no array"):
        file.write_bytes(rest)
        np.testing.assert_array_equal(maker.track("log", driven(50), 2.0).latent[:, 0, 0], [50, 51, 52])
    assert eyes.looked == 12


def test_a_log_beside_drives_is_learnt_with_its_own_wheelbase(tmp_path, monkeypatch, eyes):
    for place, count in (("train", 10), ("val", 1), ("val_unmarked", 1)):
        for seed in range(count):
            write_clip(tmp_path / "drives" / place / f"{seed:07d}.npz", driven(10 * seed))
    log = tmp_path / "car"
    log.mkdir()
    (log / "steering.csv").write_text(
        "t_s,image,steering_rad\n" + "".join(f"{i / 10},{i}.png,0.2\n" for i in range(50))
    )
    for i in range(50):
        cv2.imwrite(str(log / f"{i}.png"), np.full((8, 16, 3), i, np.uint8))
    data = st.SteeringDataConfig(cache=str(tmp_path), drives=10, log=str(log), wheelbase_m=0.2)
    sets = st.load_tracks(replace(RECIPE, data=data))
    frames = {
        name: [(t.name, len(t.latent)) for t in getattr(sets, name)] for name in ("learnt", "kept_back")
    }
    assert frames["learnt"] == [(f"train-000000{i}", 3) for i in range(1, 10)] + [("car", 36)]
    assert frames["kept_back"] == [("train-0000000", 3), ("car", 4)]
    assert [len(t.latent) for t in sets.held_out["car"]] == [10]
    every = sets.learnt + sets.kept_back + [t for tracks in sets.held_out.values() for t in tracks]
    assert {t.wheelbase_m for t in every if t.name == "car"} == {0.2}
    assert {t.wheelbase_m for t in every if t.name != "car"} == {WHEELBASE_M}


def test_a_training_starts_anew_and_its_help_says_so(tmp_path, monkeypatch):
    sets = sets_of([track(str(i), i, 20) for i in range(3)], track("test", 20, 20))
    monkeypatch.setattr(st, "load_tracks", lambda recipe: sets)
    recipe = replace(RECIPE, out=str(tmp_path), steps=3)
    first, again = (st.load_head(st.fit_steering(recipe)) for _ in range(2))
    assert first.meta["step"] == again.meta["step"] == 3
    assert torch.equal(first.network.query, again.network.query)
    told = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "A steering head is trained in minutes: its call keeps what is rendered and starts" in told


def test_missing_drives_are_told(tmp_path):
    recipe = replace(RECIPE, data=st.SteeringDataConfig(cache=str(tmp_path), drives=2))
    with pytest.raises(ConfigError, match="drives are missing in .*drives: run `dvps train CONFIG --render`"):
        st.load_tracks(recipe)


def _empty(path):
    path.write_text("network: steering\n")
    return path
