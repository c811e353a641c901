# SPDX-License-Identifier: Apache-2.0
"""Peak rate, latency, jitter and load of the ROS 2 graph; ros2_benchmark's method."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dvps_ros.bench.load import Gpu, LoadSampler
from dvps_ros.data.sources import FrameSource, open_source
from dvps_ros.errors import InputError
from dvps_ros.ros.probes.figures import Figures, Probe, peak_rate, performance, statistics_of
from dvps_ros.ros.probes.processes import (
    IMAGE,
    INFO,
    NODE,
    START_LIMIT_S,
    Child,
    Graph,
    GraphError,
    free_domain,
)
from dvps_ros.types import CameraModel, Frame

if TYPE_CHECKING:  # it needs rclpy, and the variables of the middleware set before
    from dvps_ros.ros.probes.playback import Playback

WORLD_FOV_DEG = 82.0
WIDTH_HZ, STEP_HZ = 2.0, 1.0
"""Where the binary search ends, and the steps upwards after it."""
LEAST_FRAMES = 20
"""Of a probe: one frame lost is 5 %."""
WARM_UP_S = 2.0
FIRST_FRAMES_LIMIT_S = 30.0
BASELINE_S = 1.0
PEAK = "peak"
_PARAMETERS = frozenset(
    {
        "engine.model",
        "engine.backend",
        "engine.precision",
        "engine.size",
        "scale.camera_height_m",
        "frames_in_flight",
    }
)
"""Of the configuration, what the node is given."""
METHOD = (
    "The method of NVIDIA's ros2_benchmark without its packages: images are serialised beforehand and played "
    "from memory; binary search, then steps upwards, for the highest rate with less than 5 % loss; then runs "
    "at that and at fixed rates. The perception node is a process of its own; player and listener share "
    "another. A frame is received with the last of its subscribed outputs; latency is from its camera stamp, "
    "taken when it is sent, to then. Overall figures include player and listener."
)


def read_frames(
    spec: str, size: tuple[int, int], camera: CameraModel | None, fov_deg: float | None, count: int
) -> tuple[list[Frame], FrameSource]:
    """The first frames of an input, in memory.

    Args:
        size: height and width of the camera of a synthetic world.

    Raises:
        InputError: it cannot be read, or none of its frames can.
    """
    if camera is None and (spec == "demo" or spec.startswith("world:")):
        camera = CameraModel.from_fov(size[1], size[0], fov_deg or WORLD_FOV_DEG)
    source = open_source(spec, camera=camera, fov_deg=fov_deg)
    frames = list(tqdm(itertools.islice(source, count), total=count, desc=f"reading {spec}", unit="frame"))
    if not frames:
        raise InputError(f"{spec}: none of its frames can be read")
    return frames, source


def read_report(path: Path) -> dict[str, Any]:
    """What an earlier run wrote.

    Raises:
        InputError: it is not such a file.
    """
    try:
        report = json.loads(path.read_text())
        if not {"runs", "search", "config", "machine"} <= set(report):
            raise ValueError("it lacks runs, search, config or machine")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected what dvps bench graph wrote: {error}") from error
    return report


def measure(
    frames: Sequence[Frame],
    topics: str,
    config: Mapping[str, Any],
    logs: Path,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Start the node, search, run and end it: what the report holds beside the facts.

    Args:
        tell: takes a line on each step.

    Raises:
        GraphError: the node failed, was not ready in time, or an output never came.
        ConfigError: an unknown output.
    """
    domain = free_domain()
    with Graph(logs, domain=domain) as graph:
        os.environ.update(graph.environment)  # this process plays and listens over the same middleware
        from dvps_ros.ros.probes.playback import Playback, frame_outputs

        chosen = list(frame_outputs()) if topics == "all" else topics.split(",")
        place: dict[str, Any] = {"node": NODE, "image": IMAGE, "camera_info": INFO, "domain": domain}
        with Playback(frames, chosen, **place) as playback:
            node = graph.start(
                "dvps",
                parameters={k: v for k, v in config.items() if k in _PARAMETERS},
                remap={"~/input/image": IMAGE, "~/input/camera_info": INFO},
            )
            bench = _Bench(graph, node, playback, Gpu(), tell)
            bench.wait_until_ready(config["search_hz"][0] if config["search_hz"] else 5.0)
            peak_hz: float | None = None
            probes: list[Probe] = []
            if config["search_hz"]:
                lower_hz, upper_hz = config["search_hz"]
                peak_hz, probes = bench.search(lower_hz, upper_hz, config["duration_s"] / 2)
            wanted = {f"{rate:.1f}fps": rate for rate in config["rates_hz"]}
            if peak_hz is not None:
                wanted = {PEAK: peak_hz, **wanted}
            baseline = bench.baseline()
            runs = {name: bench.run(rate, config["duration_s"]) for name, rate in wanted.items()}
            graph.check()
        graph.stop("dvps")
    return {
        "topics": chosen,
        "gpu_missing": bench.gpu.missing or None,
        "node_peak_rss_mib": node.peak_rss_mib,
        "baseline": baseline,
        "peak_rate_hz": peak_hz,
        "search": [{**vars(p), "loss": p.loss, "sustained": p.sustained} for p in probes],
        "runs": runs,
    }


class _Bench:
    """Runs of one graph."""

    def __init__(
        self, graph: Graph, node: Child, playback: Playback, gpu: Gpu, tell: Callable[[str], object]
    ) -> None:
        self.gpu = gpu
        self._tell = tell
        self._graph, self._node, self._playback = graph, node, playback

    def wait_until_ready(self, rate_hz: float) -> None:
        """Raises: GraphError."""
        self._tell("waiting for the engine")
        deadline = time.monotonic() + START_LIMIT_S
        while not self._playback.ready:
            self._playback.announce(0.2)
            self._graph.check()
            if time.monotonic() > deadline:
                raise GraphError(f"the node was not ready in {START_LIMIT_S:.0f} s: see {self._node.log}")
        # The first frames of a machine wait for what numba compiles for them, longer than the playback waits.
        received: dict[int, int] = {}
        deadline = time.monotonic() + FIRST_FRAMES_LIMIT_S
        while not received and time.monotonic() < deadline:
            _, received = self._playback.run(rate_hz, max(3, math.ceil(WARM_UP_S * rate_hz)))
            self._graph.check()
        if not received:
            absent = ", ".join(self._playback.never_came()) or "some of each frame"
            raise GraphError(
                f"no frame came back with all of its outputs; never came: {absent} (see {self._node.log})"
            )

    def search(self, lower_hz: float, upper_hz: float, duration_s: float) -> tuple[float | None, list[Probe]]:
        def probe(rate_hz: float) -> Probe:
            count = max(LEAST_FRAMES, math.ceil(duration_s * rate_hz))
            sent, received = self._playback.run(rate_hz, count)
            self._graph.check()
            result = Probe.of(rate_hz, performance(sent, received))
            self._tell(
                f"  {rate_hz:6.1f} Hz: {result.missed} of {result.sent} missed, sent at "
                f"{result.played_hz:.1f} Hz: {'sustained' if result.sustained else 'too fast'}"
            )
            return result

        self._tell("searching the peak rate")
        return peak_rate(probe, lower_hz=lower_hz, upper_hz=upper_hz, width_hz=WIDTH_HZ, step_hz=STEP_HZ)

    def baseline(self) -> Figures:
        """The machine with the node open and no images."""
        with LoadSampler(self._node.process.pid, self.gpu) as load:
            time.sleep(BASELINE_S)
        return {
            name.replace("Mean", "Baseline", 1): value
            for name, value in load_figures(load).items()
            if name.startswith("Mean ")
        }

    def run(self, rate_hz: float, duration_s: float) -> dict[str, Any]:
        self._tell(f"running at {rate_hz:.1f} Hz for {duration_s:g} s")
        with LoadSampler(self._node.process.pid, self.gpu) as load:
            sent, received = self._playback.run(rate_hz, math.ceil(duration_s * rate_hz))
        self._graph.check()
        return {
            "rate_hz": rate_hz,
            "figures": performance(sent, received) | load_figures(load),
            "sent_s": [(s - sent[0]) * 1e-9 for s in sent],
            "latency_ms": [(received[s] - s) * 1e-6 if s in received else None for s in sent],
        }


def load_figures(load: LoadSampler) -> Figures:
    """Use of processor, memory and GPU by ros2_benchmark's names; of the node alone by our own."""
    busy, memory = zip(*load.gpu, strict=True) if load.gpu else ((), ())
    figures: Figures = {}
    for name, values in (
        ("Overall CPU Utilization (%)", load.overall_cpu),
        ("Host Memory Utilization (%)", load.host_memory),
        ("Device Utilization (%)", busy),
        ("Device Memory Utilization (%)", memory),
        ("Node CPU Utilization (% of one processor)", load.node_cpu),
        ("Node Memory (MiB)", load.node_memory_mib),
    ):
        figures |= statistics_of(name, values, ("Max.", "Min.", "Mean"))
    figures["Std Dev Overall CPU Utilization (%)"] = (
        float(np.std(load.overall_cpu)) if load.overall_cpu else None
    )
    return figures


COLUMNS = {
    "Mean Playback Frame Rate (fps)": "sent, Hz",
    "Mean Frame Rate (fps)": "received, Hz",
    "# of Frames Sent": "frames sent",
    "# of Missed Frames": "missed",
    "Median End-to-End Latency (ms)": "latency median, ms",
    "Mean End-to-End Latency (ms)": "mean",
    "99th Percentile End-to-End Latency (ms)": "p99",
    "Max. End-to-End Latency (ms)": "max",
    "Mean Frame-to-Frame Jitter (ms)": "jitter mean, ms",
    "Max. Frame-to-Frame Jitter (ms)": "max",
    "Mean Overall CPU Utilization (%)": "processors, %",
    "Mean Node CPU Utilization (% of one processor)": "node, % of one",
    "Max. Node Memory (MiB)": "node memory, MiB",
    "Mean Device Utilization (%)": "GPU, %",
}
"""Of the table, from ros2_benchmark's names."""


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    config, machine = report["config"], report["machine"]
    peak_hz = report["peak_rate_hz"]
    if peak_hz is not None:
        at_top = peak_hz + STEP_HZ > config["search_hz"][1]
        peak = f"peak {peak_hz:.1f} Hz" + (" (the highest that was tried)" if at_top else "")
    elif config["search_hz"]:
        peak = f"not even {config['search_hz'][0]:g} Hz sustained"
    else:
        peak = "peak not searched"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; {config['engine.model']} at {config['engine.size']}, "
        f"camera {config['camera']}, {len(report['topics'])} outputs subscribed, "
        f"{config.get('frames_in_flight', 1)} in flight: {peak}, less than 5 % lost.",
        "",
        "| run | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, run in report["runs"].items():
        cells = [_cell(run["figures"][column]) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"
