# SPDX-License-Identifier: Apache-2.0
"""What a file of figures holds: how it came about, the machine, and times in short."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.errors import ConfigError
from dvps_ros.files import write_text
from dvps_ros.installation import source_commit
from dvps_ros.runtime.machine import cpu_count, cpu_info

REPORT_KEYS = (
    "frames_in frames_processed frames_dropped latency_ms stages_ms rate_hz backend model peak_rss_mib "
    "quality inputs machine commit"
).split()
BUSY_LOAD = 0.5
"""Load average above which other work spoils what is timed."""


def spread(milliseconds: Iterable[float]) -> dict[str, float | None]:
    """p50, p90, p99 and max, rounded to a microsecond; None without values."""
    values = np.fromiter(milliseconds, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return dict.fromkeys(("p50", "p90", "p99", "max"))
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        "p50": round(float(p50), 3),
        "p90": round(float(p90), 3),
        "p99": round(float(p99), 3),
        "max": round(float(values.max()), 3),
    }


def stage_table(stages: Mapping[str, Iterable[float]]) -> dict[str, dict[str, float | None]]:
    """{stage: {p50, p99}} of the milliseconds of each stage."""
    spreads = {name: spread(values) for name, values in stages.items()}
    return {name: {key: values[key] for key in ("p50", "p99")} for name, values in spreads.items()}


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory and versions: what a measured number depends on."""
    import psutil

    info = cpu_info()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def measurement() -> dict[str, Any]:
    """How a file of figures comes about: command, commit, and the machine with its load. Call it first."""
    return {
        "command": ["dvps", *sys.argv[1:]],
        "commit": source_commit(),
        "machine": {**machine_facts(), "load": os.getloadavg()[0]},
    }


def is_busy(measurement: Mapping[str, Any]) -> bool:
    """Whether other work on the machine spoils what is timed."""
    return measurement["machine"]["load"] > BUSY_LOAD


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write report.json: plain JSON, numbers that are not numbers become null.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(_plain(report), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require(*modules: str, extra: str = "demo") -> None:
    """Refuse to begin without these optional modules, which the package's extra ``extra`` brings.

    Raises:
        ConfigError: naming those that are missing, and how to install them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this needs {', '.join(missing)}: install the extra, pip install 'dvps_ros[{extra}]'"
        )


def engine_facts(description: str) -> tuple[str, str]:
    """(model, backend) of an engine's description, ``lite 1.0 at 384x768 on OpenVINO ...``."""
    model, _, backend = description.partition(" on ")
    return model, backend
