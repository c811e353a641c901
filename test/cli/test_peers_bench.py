# SPDX-License-Identifier: Apache-2.0
"""The comparison with other networks: its maths by hand, and the whole of it on tiny networks."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dvps_ros.bench import peers
from dvps_ros.bench.comparison import OURS, compare, in_turns, measure, own_config, tables
from dvps_ros.cli.bench import command
from dvps_ros.errors import ConfigError, EngineError


def test_ratios_worked_by_hand() -> None:
    times_ms = {"us": [20.0, 10.0, 40.0], "a": [300.0, 300.0, 500.0], "b": [100.0, 200.0, 300.0]}
    measured = compare(times_ms, "us", {"a + b": ["a", "b"]})
    # Frames of a + b: 400, 500, 800 ms; against 20, 10, 40 ms: 20, 50 and 20 times as long.
    assert list(measured) == ["us", "a + b"]
    assert measured["us"]["median_ms"] == 20 and measured["us"]["rate_hz"] == 50
    assert measured["us"]["ratio"] == 1
    assert measured["a + b"] == {
        "median_ms": 500,
        "rate_hz": 2,
        "ratio": 25,
        "ratio_least": 20,
        "ratio_largest": 50,
    }


def test_rounds_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        compare({"us": [1.0, 2.0], "a": [3.0]}, "us", {"a": ["a"]})


class Clock:
    """Time that passes only while something is called."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.order: list[str] = []

    def call(self, name: str, *durations_s: float):
        lasting = iter(durations_s)

        def run() -> None:
            self.now_s += next(lasting)
            self.order.append(name)

        return run


def test_turns_are_taken_and_the_first_of_several_calls_is_left_out() -> None:
    clock = Clock()
    calls = {
        "quick": clock.call("q", 0.2, 0.05, 0.07, 0.2, 0.05, 0.07),
        "slow": clock.call("s", 2.0, 3.0),
    }
    times_ms = in_turns(calls, rounds=2, limit_s=100, least_s=0.3, clock=lambda: clock.now_s)
    # 0.2 + 0.05 + 0.07 s are the first 0.3 s; without the cold first call the median of 50 and 70 ms is 60.
    assert times_ms["quick"] == pytest.approx([60, 60]) and times_ms["slow"] == pytest.approx([2000, 3000])
    assert "".join(clock.order) == "qqqsqqqs"


def test_the_limit_ends_the_rounds_after_three() -> None:
    clock = Clock()
    calls = {"slow": clock.call("s", *[10.0] * 9)}
    times_ms = in_turns(calls, rounds=9, limit_s=1, clock=lambda: clock.now_s)
    assert len(times_ms["slow"]) == 3


def test_input_sizes() -> None:
    assert peers.DEPTH.size(512, 1024) == (518, 1036)
    assert peers.SEGMENTERS[0].size(512, 1024) == (512, 1024)
    assert peers.DEPTH.image(14, 28).shape == (1, 3, 14, 28)


def test_another_answer_is_refused() -> None:
    reference = {"predicted_depth": np.array([1.0, -1.0, 1.0, -1.0])}
    near = {"predicted_depth": np.array([1.1, -1.1, 1.1, -1.1])}
    assert peers.check_answer(peers.DEPTH, reference, near) == pytest.approx(0.1)
    for wrong in ([-1.0, 1.0, -1.0, 1.0], [np.nan, -1.0, 1.0, -1.0]):
        with pytest.raises(EngineError, match="Depth Anything V2 S: predicted_depth in OpenVINO differs"):
            peers.check_answer(peers.DEPTH, reference, {"predicted_depth": np.array(wrong)})


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "transformers" else find(n))
    result = CliRunner().invoke(command, ["peers"])
    assert isinstance(result.exception, ConfigError)
    assert "this needs transformers" in str(result.exception)
    assert "pip install 'dvps_ros[peers]'" in str(result.exception)


TINY_SEGMENTER = peers.Peer(
    "tiny Mask2Former",
    partial(
        peers.mask2former,
        "resnet",
        {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [1] * 4, "layer_type": "basic"},
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=32,
        num_queries=10,
    ),
    32,
    ("class_queries_logits", "masks_queries_logits"),
)
TINY_DEPTH = peers.Peer(
    "tiny Depth Anything",
    partial(
        peers.depth_anything,
        {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    ),
    14,
    ("predicted_depth",),
)


@pytest.mark.timeout(900)  # tracing and three processes that import torch
def test_the_whole_on_tiny_networks(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the extra peers: pip install 'dvps_ros[peers]'")
    monkeypatch.setattr(peers, "DEPTH", TINY_DEPTH)
    config = own_config(str(tiny_model), "64x128", "fp32", 1)
    got = measure(
        [TINY_SEGMENTER],
        ["torch", "openvino"],
        (64, 128),
        config,
        rounds=1,
        limit_s=0,
        memory=True,
        tell=print,
    )
    names = [f"tiny Mask2Former + tiny Depth Anything, {runtime}" for runtime in ("torch", "openvino")]
    assert list(got["pipelines"]) == [OURS, *names]
    own_ms = got["networks_ms"][OURS]["median"]
    for runtime, name in zip(("torch", "openvino"), names, strict=True):
        alone_ms = [
            got["networks_ms"][f"{p.name}, {runtime}"]["median"] for p in (TINY_SEGMENTER, TINY_DEPTH)
        ]
        assert got["pipelines"][name]["median_ms"] == pytest.approx(sum(alone_ms))
        assert got["pipelines"][name]["ratio"] == pytest.approx(sum(alone_ms) / own_ms)
    memory_mib = [p["peak_rss_mib"] for p in got["pipelines"].values()]
    assert all(40 < m < 4000 for m in memory_mib)
    assert memory_mib[1] > memory_mib[0], "torch alone is larger than our pipeline, which does not load it"
    assert all(d < 1e-3 for d in got["openvino_difference_from_torch"].values())
    facts = {
        "machine": {"cpu": "a processor"},
        "config": {"threads": 1, "size": "64x128", "depth_size": "70x140"},
    }
    text = tables(facts | got)
    assert text.startswith("a processor, 1 threads") and f"| {names[1]} |" in text
