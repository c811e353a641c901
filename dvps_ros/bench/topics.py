# SPDX-License-Identifier: Apache-2.0
"""What each output topic of the perception node costs, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dvps_ros.config import PipelineConfig
from dvps_ros.errors import InputError
from dvps_ros.ros.probes.costs import WARM_UP, topic_costs
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import Frame


def measure(config: PipelineConfig, frames: Sequence[Frame], spec: str) -> dict[str, Any]:
    """Costs of the outputs of all frames but the first :data:`WARM_UP`.

    Args:
        spec: the input that the frames are of, for the message.

    Returns:
        ``engine`` (its description), ``frames`` (how many were timed) and ``topics``.

    Raises:
        InputError: there are too few frames.
    """
    if len(frames) <= WARM_UP:
        raise InputError(f"{spec}: expected more than {WARM_UP} frames, got {len(frames)}")
    with DvpsPipeline.open(config, frames[0].camera) as pipeline:
        costs = topic_costs(map(pipeline.process, frames), pipeline.label_space)
        engine = pipeline.engine.description
    return {"engine": engine, "topics": costs}


def table(costs: Mapping[str, Mapping[str, float]]) -> str:
    """The costs as Markdown, with their sums."""
    sums = {name: sum(row[name] for row in costs.values()) for name in ("bytes", "build_ms", "serialise_ms")}
    lines = ["| topic | kB | build, ms | serialise, ms |", "|---|---|---|---|"]
    for topic, row in {**costs, "all": sums}.items():
        size, build_ms, serialise_ms = row["bytes"], row["build_ms"], row["serialise_ms"]
        lines.append(f"| {topic} | {size / 1e3:.1f} | {build_ms:.2f} | {serialise_ms:.2f} |")
    return "\n".join(lines)
