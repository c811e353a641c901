# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dvps_ros.config import (
    EngineConfig,
    PipelineConfig,
    check_value,
    flatten,
    from_flat,
    from_mapping,
    from_yaml,
    mapping,
    option,
    options,
    to_dict,
)
from dvps_ros.errors import ConfigError


def test_dotted_keys_cover_all_groups() -> None:
    keys = {o.key for o in options(PipelineConfig)}
    assert {"engine.model", "tracker.memory_s", "scale.camera_height_m", "maps.max_depth_m"} <= keys


def test_every_option_has_a_description_and_a_default_in_range() -> None:
    for opt in options(PipelineConfig):
        assert opt.description.endswith("."), opt.key
        assert check_value(opt, opt.default) == opt.default


def test_nested_and_flat_agree_and_round_trip() -> None:
    nested = from_mapping(PipelineConfig, {"engine": {"model": "m"}, "scale": {"camera_height_m": 2}})
    assert nested == from_flat(PipelineConfig, {"engine.model": "m", "scale.camera_height_m": 2.0})
    assert nested.scale.camera_height_m == 2.0 and isinstance(nested.scale.camera_height_m, float)
    assert from_mapping(PipelineConfig, to_dict(nested)) == nested


@dataclass(frozen=True)
class Run:
    name: str = option("a", "Name.")
    model: dict = mapping("Size.")


def test_a_mapping_takes_the_keys_below_it_and_round_trips() -> None:
    assert Run() == from_flat(Run, {}) and Run().model == {}
    run = from_mapping(Run, {"name": "b", "model": {"width": 3, "depth": {"blocks": 2}}})
    assert run.model == {"width": 3, "depth.blocks": 2}
    assert from_mapping(Run, to_dict(run)) == run == from_flat(Run, flatten(to_dict(run)))
    with pytest.raises(ConfigError, match="unknown keys modle.width"):
        from_flat(Run, {"modle.width": 3})
    with pytest.raises(ConfigError, match="model: expected dict, got 3"):
        from_flat(Run, {"model": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine.modle": "x"}, "unknown keys engine.modle"),
        ({"engine.model": 3}, "expected str, got 3"),
        ({"engine.verify": 1}, "expected bool"),
        ({"engine.threads": True}, "expected int"),
        ({"engine.backend": "caffe"}, "expected one of auto"),
        ({"tracker.min_score": 1.5}, "expected 0.0 to 1.0, got 1.5"),
        ({"tracker.memory_s": float("nan")}, "got nan"),
    ],
)
def test_bad_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flat(PipelineConfig, values)


def test_yaml_files(tmp_path: Path) -> None:
    plain, ros, bad = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    plain.write_text("engine: {threads: 2}\n")
    ros.write_text("/**:\n  ros__parameters:\n    engine: {threads: 2}\n")
    bad.write_text("engine: {thread: 2}\n")
    assert from_yaml(PipelineConfig, plain) == from_yaml(PipelineConfig, ros)
    assert from_yaml(PipelineConfig, plain).engine == EngineConfig(threads=2)
    with pytest.raises(ConfigError, match="c.yaml.*engine.thread"):
        from_yaml(PipelineConfig, bad)
    with pytest.raises(ConfigError, match="cannot read"):
        from_yaml(PipelineConfig, tmp_path / "none.yaml")
