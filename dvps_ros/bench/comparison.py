# SPDX-License-Identifier: Apache-2.0
"""Our pipeline beside the networks of :mod:`dvps_ros.bench.peers`, at equal input and threads."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numba

from dvps_ros.bench import peers
from dvps_ros.bench.moving import moving_frames
from dvps_ros.config import EngineConfig, PipelineConfig, ScaleConfig
from dvps_ros.runtime.pipeline import DvpsPipeline
from dvps_ros.types import CameraModel

OURS = "dvps_ros"
LEAST_ROUNDS = 3
MEMORY_CALLS = 2
CAMERA_HEIGHT_M = 1.65
METHOD = (
    "In one process and in turns. Ours is DvpsPipeline.process with every output: preprocessing, network, "
    "fusion, scale, tracking, maps, objects and cloud. Theirs is the two networks alone, one after the "
    "other, on an image that is already normalised: no preprocessing, no masks from queries, no fusion, "
    "tracking or cloud. Their weights are random: speed and memory only. Torch runs eager in fp32. A turn "
    "lasts at least 0.3 s and gives the median of its calls, the first of several left out. Memory is the "
    "peak resident memory of a process that does nothing else."
)


def versions() -> dict[str, str]:
    """Of the libraries that decide the figures."""
    return {name: version(name) for name in ("torch", "transformers", "openvino", "numpy", "numba")}


def own_config(model: str, size: str, precision: str, threads: int) -> PipelineConfig:
    """Our pipeline in the same runtime, precision and threads as theirs."""
    return PipelineConfig(
        engine=EngineConfig(model=model, size=size, backend="openvino", precision=precision, threads=threads),
        scale=ScaleConfig(camera_height_m=CAMERA_HEIGHT_M),
    )


def measure(
    segmenters: Sequence[peers.Peer],
    runtimes: Sequence[str],
    shape: tuple[int, int],
    config: PipelineConfig,
    *,
    rounds: int,
    limit_s: float,
    memory: bool,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Times in turns, then ratios and memory: what the report holds beside the facts.

    Args:
        shape: height and width of the input.
        tell: takes a line on each step.

    Raises:
        EngineError: a network cannot be converted, or its values in OpenVINO are not those in torch.
    """
    threads = config.engine.threads
    cv2.setNumThreads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    camera = CameraModel.from_fov(shape[1], shape[0], 80.0)
    networks = [*segmenters, peers.DEPTH]
    differences: dict[str, float] = {}
    parameters: dict[str, float] = {}
    paths: dict[str, Path] = {}
    calls: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dvps_peers_")))
        pipeline = stack.enter_context(DvpsPipeline.open(config, camera))
        frames = moving_frames(pipeline, config, camera)
        calls[OURS] = lambda: pipeline.process(next(frames))
        for peer in networks:
            tell(f"building {peer.name}")
            call, module = peers.open_torch(peer, shape, threads)
            parameters[peer.name] = sum(p.numel() for p in module.parameters()) / 1e6
            if "torch" in runtimes:
                calls[f"{peer.name}, torch"] = call
            if "openvino" in runtimes:
                paths[peer.name] = peers.export(peer, module, shape, folder)
                opened, close = peers.open_openvino(peer, paths[peer.name], shape, config.engine)
                stack.callback(close)
                differences[peer.name] = peers.check_answer(peer, call(), opened())
                calls[f"{peer.name}, openvino"] = opened
        tell(f"timing {len(calls)} in turns")
        times = in_turns(calls, rounds=rounds, limit_s=limit_s)
        pipelines = {
            f"{s.name} + {peers.DEPTH.name}, {runtime}": [
                f"{s.name}, {runtime}",
                f"{peers.DEPTH.name}, {runtime}",
            ]
            for runtime in runtimes
            for s in segmenters
        }
        measured = compare(times, OURS, pipelines)
        calls.clear()
        if memory:
            for s in segmenters:
                for runtime in runtimes:
                    name = f"{s.name} + {peers.DEPTH.name}, {runtime}"
                    tell(f"memory of {name}")
                    parts = [s, peers.DEPTH]
                    measured[name]["peak_rss_mib"] = (
                        alone(peers.torch_memory_mib, parts, shape, threads, MEMORY_CALLS)
                        if runtime == "torch"
                        else alone(
                            peers.openvino_memory_mib,
                            [(p, paths[p.name]) for p in parts],
                            shape,
                            config.engine,
                            MEMORY_CALLS,
                        )
                    )
            measured[OURS]["peak_rss_mib"] = alone(peers.own_memory_mib, config, shape, MEMORY_CALLS)
        return {
            "ours": pipeline.engine.description,
            "pipelines": measured,
            "networks_ms": {n: {"median": statistics.median(t), "rounds": t} for n, t in times.items()},
            "parameters_millions": parameters,
            "openvino_difference_from_torch": differences,
        }


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    limit_s: float,
    least_s: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds a call, one value for each round.

    They run in turns, so that other load hits all alike. A turn lasts at least ``least_s``: its value is the
    median of its calls without the first one, which finds the caches full of the others' data, where there
    are several.

    Args:
        limit_s: after LEAST_ROUNDS, no further round begins later than this.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    begin_s = clock()
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and clock() - begin_s > limit_s:
            break
        for name, call in calls.items():
            laps_ms: list[float] = []
            turn_s = before_s = clock()
            while before_s - turn_s < least_s:
                call()
                after_s = clock()
                laps_ms.append((after_s - before_s) * 1e3)
                before_s = after_s
            times_ms[name].append(statistics.median(laps_ms[1:] or laps_ms))
    return times_ms


def compare(
    times_ms: Mapping[str, Sequence[float]], ours: str, pipelines: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Time of a frame of each pipeline and how many times our throughput is its.

    Args:
        times_ms: of each part, one value a round, as many for each.
        pipelines: the parts that each runs one after the other.

    Returns:
        By name, ``ours`` first: median_ms, rate_hz, ``ratio`` (its median over our median) and the least and
        largest ratio of any round.
    """
    own_ms = statistics.median(times_ms[ours])
    measured = {}
    for name, parts in {ours: [ours], **pipelines}.items():
        frame_ms = [sum(values) for values in zip(*(times_ms[part] for part in parts), strict=True)]
        ratios = [theirs / own for theirs, own in zip(frame_ms, times_ms[ours], strict=True)]
        median_ms = statistics.median(frame_ms)
        measured[name] = {
            "median_ms": median_ms,
            "rate_hz": 1e3 / median_ms,
            "ratio": median_ms / own_ms,
            "ratio_least": min(ratios),
            "ratio_largest": max(ratios),
        }
    return measured


def alone(function: Callable[..., float], *arguments: Any) -> float:
    """The function's value from a fresh process of its own."""
    # Forked, it would hold this process's memory.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def tables(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    config, machine = report["config"], report["machine"]
    lines = [
        f"{machine['cpu']}, {config['threads']} threads, input {config['size']} (depth network "
        f"{config['depth_size']}), medians; theirs: networks alone, random weights.",
        "",
        "| pipeline | ms a frame | Hz | our throughput is times theirs (least - largest round) "
        "| peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, m in report["pipelines"].items():
        memory = f"{m['peak_rss_mib']:.0f}" if "peak_rss_mib" in m else "not measured"
        ratio = f"**{m['ratio']:.1f}** ({m['ratio_least']:.1f} - {m['ratio_largest']:.1f})"
        label, ratio = (f"{name}: {report['ours']}, everything", "1") if name == OURS else (name, ratio)
        lines.append(f"| {label} | {m['median_ms']:.1f} | {m['rate_hz']:.2f} | {ratio} | {memory} |")
    lines += ["", "| network alone | ms, median |", "|---|---|"]
    lines += [f"| {n} | {m['median']:.1f} |" for n, m in report["networks_ms"].items() if n != OURS]
    return "\n".join(lines)
