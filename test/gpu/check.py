# SPDX-License-Identifier: Apache-2.0
"""What only a machine with an NVIDIA GPU can prove and measure, with one command, in a source checkout:

    pip install numpy numba scipy opencv-python-headless pyyaml click tqdm psutil onnx onnxruntime \
        cuda-python tensorrt
    PYTHONPATH=. python test/gpu/check.py --out gpu.json

(``tensorrt-rtx``, ``onnxruntime-gpu`` or ``torch`` in place of ``tensorrt`` with ``--backend``; ``pycuda`` in
place of or beside ``cuda-python``.) Checks come before times; a failed one ends it with status 1. The last
lines are tables for docs/engines.md, with the project's targets for one H200. Sizes that are not shipped are
exported elsewhere (``dvps export lite --checkpoint FILE --size 1024x2048 --out big``) and given with
``--model big``.

Dry run without a GPU, for all but CUDA itself: ``--backend onnxruntime --frames 5``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.contract import REQUIRED_OUTPUTS
from dvps_ros.errors import DeviceError, DvpsError, EngineError
from dvps_ros.runtime import device_memory, machine, verify
from dvps_ros.runtime.backends import BACKENDS
from dvps_ros.runtime.builder import Builder, quiet
from dvps_ros.runtime.engine import Engine
from dvps_ros.runtime.manifest import find_model, load_manifest
from dvps_ros.runtime.pipeline import ALL_OUTPUTS, DvpsPipeline
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.runtime.preprocess import Preprocess
from dvps_ros.types import CameraModel, Frame, FrameResult


class Skip(Exception):
    """A check that cannot be done here, and why."""


class Bench:
    """What all checks share: one model size on one backend, plans in a folder of their own."""

    def __init__(self, arguments: argparse.Namespace, cache: Path) -> None:
        self.model = find_model(arguments.model)
        self.manifest = load_manifest(self.model)
        sizes = [g.size for g in self.manifest.graphs]
        aimed_at = next((s for s in sizes if s in TARGETS), sizes[0])
        size = aimed_at if arguments.size == "auto" else arguments.size
        self.graph = self.manifest.graph_of(size)
        self.backend = arguments.backend
        self.frames = arguments.frames
        self.cache = cache
        self.kind = BACKENDS[self.backend]
        config = EngineConfig(backend=self.backend, size=size, threads=machine.cpu_count())
        self.precisions = [p for p in self.kind.precisions(config) if p not in ("int8", "fp8")]
        wanted = arguments.precision
        self.precision = wanted or ("fp16" if "fp16" in self.precisions else self.precisions[0])
        self.base = dataclasses.replace(config, precision=self.precision)
        self.golden = verify.load_golden(self.model / self.graph.golden)

    def engine(self, **changes: Any) -> Engine:
        return Engine.open(self.model, dataclasses.replace(self.base, **changes), cache_dir=self.cache)

    def builder(self) -> Builder:
        return Builder(self.model, self.manifest, self.graph, PlanStore(self.cache / "engines"))

    def load(self, **options: Any) -> Any:
        """The bare backend of the kept plan."""
        plan = self.builder().kept(self.base)
        assert plan is not None, "no plan was kept"
        return self.kind.load(plan, self.builder().path, self.base, **options)

    def images(self, count: int) -> Iterator[np.ndarray]:
        """The golden picture, moving sideways."""
        return (np.roll(self.golden.images[1], 3 * i, 1) for i in range(count))

    def feeds(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": np.ascontiguousarray(image)[None], "intrinsics": self.golden.intrinsics[None]}


def empty(backend: Any) -> dict[str, np.ndarray]:
    return {n: np.empty(s, t) for n, (t, s) in backend.outputs.items()}


# Checks


def check_memory(bench: Bench) -> str:
    """Copies, zeros, events, graphs and too large a wish, through every library that is there."""
    done = []
    for kind in (device_memory.CudaPython, device_memory.PyCuda):
        try:
            device = kind()
        except ImportError:
            continue
        except EngineError as error:
            raise Skip(str(error)) from error
        with device.current():
            stream, event = device.new_stream(), device.new_event()
            there = device.pinned((1 << 20,), np.dtype(np.uint8))
            back = device.pinned((1 << 20,), np.dtype(np.uint8))
            there[:] = np.random.default_rng(0).integers(0, 256, there.size, dtype=np.uint8)
            address = device.allocate(there.nbytes)

            def round_trip(device=device, address=address, there=there, back=back, stream=stream) -> None:
                device.to_device(address, there, stream)
                device.to_host(back, address, stream)

            def settle(device=device, event=event, stream=stream) -> None:
                device.record(event, stream)
                device.synchronise(event)

            device.to_host(back, address, stream)
            settle()
            assert not back.any(), "new memory is not zero"
            round_trip()
            settle()
            assert (back == there).all(), "a copy there and back differs"
            graph = device.capture(stream, round_trip)
            there[:] = there[::-1].copy()
            device.launch(graph, stream)
            settle()
            assert (back == there).all(), "a captured graph did not copy again"
            device.zero(address, there.nbytes, stream)
            device.to_host(back, address, stream)
            settle()
            assert not back.any(), "zero() left something"
            try:
                device.allocate(1 << 50)
            except DeviceError:
                pass
            else:
                raise AssertionError("a PiB was given")
            round_trip()
            settle()
            assert (back == there).all(), "out of memory left the device unusable"
        device.close()
        done.append(device.library)
    if not done:
        raise Skip("neither cuda-python nor pycuda is installed")
    return ", ".join(done)


def check_precisions(bench: Bench) -> str:
    """Each precision builds, passes the golden frames, and is loaded, not built, the second time."""
    told = []
    for precision in bench.precisions:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            engine = bench.engine(precision=precision)
            seconds.append(time.perf_counter() - start)
            engine.close()
        plans = list((bench.cache / "engines").glob(f"*-{bench.backend}-{precision}-*.plan"))
        assert len(plans) == 1, f"{len(plans)} plans of {precision}"
        agreement = next(d for d in engine.differences if d.output == verify.PANOPTIC)
        told.append(
            f"{precision} {seconds[0]:.1f} s, again {seconds[1]:.1f} s, {1 - agreement.value:.3%} equal"
        )
    return "; ".join(told)


def check_memory_of_the_graph(bench: Bench) -> str:
    """Ten frames, a reset, ten more: as near to ONNX Runtime as the precision allows, at every frame."""
    reference = bench.engine(backend="onnxruntime", precision="fp32")
    worst = 0.0
    with bench.engine() as engine, reference:
        for _ in range(2):
            for image in bench.images(10):
                for each in (engine, reference):
                    each.run(image, bench.golden.intrinsics, each.output_names)
                rows = verify.compare(reference.outputs(), engine.outputs(), bench.precision)
                dense = [d for d in rows if d.output in ("depth_m", "class_logits") or "state" in d.output]
                assert all(d.passed for d in dense), verify.table(rows)
                worst = max(worst, *(d.value / d.limit for d in dense))
            engine.reset()
            reference.reset()
    return f"at most {worst:.0%} of the limit"


def check_graph_and_pipelining(bench: Bench) -> str:
    """With and without a CUDA graph, one by one and two under way: the same bits."""
    if not bench.backend.startswith("tensorrt"):
        raise Skip("only the tensorrt backends pipeline")
    expected = []
    plain = bench.load(capture=False)
    for image in bench.images(8):
        expected.append(empty(plain))
        plain.run(bench.feeds(image), expected[-1])
    plain.close()
    captured = bench.load()
    for image, want in zip(bench.images(8), expected, strict=True):
        got = empty(captured)
        captured.run(bench.feeds(image), got)
        _same(got, want)
    captured.reset()
    under_way = 0
    names = frozenset(captured.outputs)
    wanted = iter(expected)
    for image in bench.images(8):
        captured.submit(bench.feeds(image), names)
        under_way += 1
        if under_way == 2:
            got = empty(captured)
            captured.collect(got)
            _same(got, next(wanted))
            under_way -= 1
    got = empty(captured)
    captured.collect(got)
    _same(got, next(wanted))
    captured.close()
    return "8 frames"


def _same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for name, array in got.items():
        assert np.array_equal(array, want[name]), f"{name} differs"


def check_two_engines_in_two_threads(bench: Bench) -> str:
    """Two engines of one process at once compute what each computes alone."""
    engines = [bench.engine() for _ in range(2)]
    pictures = [list(bench.images(20)), [im[:, ::-1].copy() for im in bench.images(20)]]

    def drive(index: int, out: list[np.ndarray]) -> None:
        for image in pictures[index]:
            out.append(engines[index].run(image, bench.golden.intrinsics).depth_m.copy())

    alone: list[list[np.ndarray]] = [[], []]
    for i in range(2):
        drive(i, alone[i])
        engines[i].reset()
    together: list[list[np.ndarray]] = [[], []]
    threads = [threading.Thread(target=drive, args=(i, together[i])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(together[i]) == 20, "a thread ended early"
        assert all(np.array_equal(a, b) for a, b in zip(alone[i], together[i], strict=True)), "they mix"
        engines[i].close()
    return "2 x 20 frames"


def check_refusals(bench: Bench) -> str:
    """A truncated and a foreign plan end in one sentence, and the process goes on."""
    plan = bench.builder().kept(bench.base)
    assert plan is not None
    path = bench.builder().path
    for content in (plan[: len(plan) // 2], b"foreign" * 100):
        try:
            bench.kind.load(content, path, bench.base).close()
        except EngineError as error:
            assert "\n" not in str(error), "more than a sentence"
        else:
            raise AssertionError("a damaged plan was loaded")
    bench.engine().close()
    return "2 plans"


def check_out_of_memory(bench: Bench) -> str:
    """With the GPU's memory taken an engine is refused; with it given back, it opens and verifies."""
    try:
        hog = device_memory.open_device()
    except EngineError as error:
        raise Skip(str(error)) from error
    taken = 0
    with hog.current():
        size = 1 << 32
        while size >= 1 << 20:
            try:
                hog.allocate(size)
                taken += size
            except DeviceError:
                size //= 2
    refused = ""
    try:
        bench.engine().close()
    except DvpsError as error:
        refused = type(error).__name__
    hog.close()
    bench.engine().close()
    assert refused, "an engine opened without memory"
    return f"{taken >> 20} MiB taken, then {refused}"


def check_calibrated(bench: Bench, precision: str) -> str:
    """Calibrated on the golden pictures: builds, and its loss is told whether it passes or not."""
    if precision not in bench.kind.quantised or precision not in bench.kind.precisions(bench.base):
        raise Skip(f"no {precision} here")
    config = dataclasses.replace(bench.base, precision=precision)
    camera = CameraModel(bench.graph.width, bench.graph.height, *map(float, bench.golden.intrinsics))
    frames = [Frame(im, i + 1, camera) for i, im in enumerate(bench.images(16))]
    bench.builder().calibrate(config, frames, 16, "golden", quiet)
    try:
        engine = bench.engine(precision=precision)
    except verify.WrongValues as error:
        return f"REFUSED by the golden frames, which is a result: {str(error).splitlines()[0]}"
    engine.close()
    return verify.summary(engine.differences)


def check_resize_on_device(bench: Bench) -> str:
    """Camera images of twice the side give what the golden images give, whatever was before."""
    if bench.kind.put_before is None:
        raise Skip(f"{bench.backend} does not resize")
    size = (2 * bench.graph.width, 2 * bench.graph.height)
    config = dataclasses.replace(bench.base, resize_on_device=True)
    with Engine.open(bench.model, config, camera_size=size, cache_dir=bench.cache) as engine:
        for image in bench.golden.images:
            whole = np.repeat(np.repeat(image, 2, 0), 2, 1)
            engine.run(whole, bench.golden.intrinsics, engine.output_names)
        rows = verify.compare(bench.golden.outputs, engine.outputs(), bench.precision)
        assert all(d.passed for d in rows), verify.table(rows)
        engine.reset()
        for image in bench.images(6):  # both kinds in turns, so that each has its graph
            want = engine.run(image, bench.golden.intrinsics).depth_m.copy()
            engine.reset()
            got = engine.run(np.repeat(np.repeat(image, 2, 0), 2, 1), bench.golden.intrinsics).depth_m
            assert np.array_equal(got, want), "another depth than of the small image"
            engine.reset()
    return f"{1 - rows[0].value:.3%} equal"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "device memory": check_memory,
    "precisions, plans kept": check_precisions,
    "states": check_memory_of_the_graph,
    "graph and pipelining": check_graph_and_pipelining,
    "two engines at once": check_two_engines_in_two_threads,
    "refusals": check_refusals,
    "resize on the device": check_resize_on_device,
    "out of memory": check_out_of_memory,
    "int8": lambda bench: check_calibrated(bench, "int8"),
    "fp8": lambda bench: check_calibrated(bench, "fp8"),
}


# Times, milliseconds


def median_ms(work: Callable[[], Any], count: int) -> float:
    for _ in range(5):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def times(bench: Bench) -> dict[str, float]:
    found: dict[str, float] = {}
    backend = bench.load()
    feeds = bench.feeds(bench.golden.images[1])
    everything = empty(backend)
    required = {n: a for n, a in everything.items() if n in REQUIRED_OUTPUTS}
    found["engine_only_ms"] = median_ms(lambda: backend.run(feeds, {}), bench.frames)
    found["engine_ms"] = median_ms(lambda: backend.run(feeds, required), bench.frames)
    found["engine_all_outputs_ms"] = median_ms(lambda: backend.run(feeds, everything), bench.frames)
    if bench.backend.startswith("tensorrt"):
        found["bare_execution_ms"] = backend.compute_only_s(bench.frames) * 1e3
        found["host_overhead_ms"] = found["engine_ms"] - found["bare_execution_ms"]
        found["pipelined_ms"] = pipelined_ms(backend, feeds, list(required), bench.frames)
    backend.close()
    if bench.kind.put_before is not None:
        found |= resize_times(bench)
    return found | pipeline_times(bench)


def pipelined_ms(run: Any, feeds: dict[str, np.ndarray], wanted: list[str], frames: int) -> float:
    """Time a frame with two under way and the required maps copied back: more frames, one frame more latency.

    Args:
        run: a TensorRT engine, or a DeviceRun.
    """
    results = {n: np.empty(s, t) for n, (t, s) in run.outputs.items() if n in wanted}
    run.submit(feeds, frozenset(wanted))
    start = time.perf_counter()
    for _ in range(frames):
        run.submit(feeds, frozenset(wanted))
        run.collect(results)
    seconds = time.perf_counter() - start
    run.collect(results)
    return seconds / frames * 1e3


def resize_times(bench: Bench) -> dict[str, float]:
    """A camera of twice the side: its image resized by the engine, and by the processor before the engine."""
    camera = CameraModel.from_fov(2 * bench.graph.width, 2 * bench.graph.height, 80.0)
    fit = Preprocess(camera, bench.graph.width, bench.graph.height)
    image = np.repeat(np.repeat(bench.golden.images[1], 2, 0), 2, 1)
    config = dataclasses.replace(bench.base, resize_on_device=True)
    size = (camera.width, camera.height)
    with Engine.open(bench.model, config, camera_size=size, cache_dir=bench.cache) as engine:

        def there() -> None:
            engine.run(image, bench.golden.intrinsics, frozenset())

        def here() -> None:
            engine.run(fit(image)[1], bench.golden.intrinsics, frozenset())

        return {
            "resize_on_device_ms": median_ms(there, bench.frames),
            "resize_on_processor_ms": median_ms(here, bench.frames),
        }


def pipeline_times(bench: Bench) -> dict[str, float]:
    """Camera bytes in, maps and tracked objects out, in one process; and the same with the cloud."""
    camera = CameraModel.from_fov(bench.graph.width, bench.graph.height, 80.0)
    config = PipelineConfig(engine=dataclasses.replace(bench.base, model=str(bench.model)))
    stages: dict[str, list[float]] = {}
    with DvpsPipeline.open(config, camera, cache_dir=bench.cache) as pipeline:
        for turn, wanted in enumerate((frozenset({"panoptic"}), ALL_OUTPUTS)):
            for i, image in enumerate(bench.images(bench.frames + 5)):
                stamp_ns = (1 + i + turn * (bench.frames + 5)) * 50_000_000
                result: FrameResult = pipeline.process(Frame(image.copy(), stamp_ns, camera), wanted)
                total = sum(result.stages_ms.values())
                times_ms = {"with_cloud": total} if turn else {**result.stages_ms, "maps_out": total}
                if i >= 5:
                    for name, ms in times_ms.items():
                        stages.setdefault(name, []).append(ms)
    return {f"pipeline_{name}_ms": statistics.median(ms) for name, ms in stages.items()}


TARGETS = {
    "512x1024": {"engine_only_ms": 1.0, "pipeline_maps_out_ms": 1000 / 300, "host_overhead_ms": 1.5},
    "1024x2048": {"engine_only_ms": 1000 / 300, "host_overhead_ms": 1.5},
}
"""Most milliseconds on one H200 in fp16, by input size."""
MOST_OVER_BARE = 1.3
"""Engine only, times the bare execution of the same graph."""


def tables(engine: str, size: str, found: dict[str, float]) -> str:
    """In Markdown: the row of docs/engines.md, and each target with what was measured."""
    columns = (
        "engine_only_ms",
        "bare_execution_ms",
        "pipelined_ms",
        "pipeline_maps_out_ms",
        "host_overhead_ms",
    )
    cells = [f"{found[name]:.2f} ms" if name in found else "" for name in columns]
    lines = ["| " + " | ".join([engine, size, *cells]) + " |", ""]
    if size not in TARGETS:
        lines.append(f"no targets are set for {size}")
    lines += ["| target | at most | measured | met |", "|---|---|---|---|"]
    goals = dict(TARGETS.get(size, {}))
    if "bare_execution_ms" in found:
        goals |= {"engine_only_ms over bare_execution_ms": MOST_OVER_BARE}
        ratio = found["engine_only_ms"] / found["bare_execution_ms"]
        found = found | {"engine_only_ms over bare_execution_ms": ratio}
    for name, most in goals.items():
        value = found.get(name)
        shown = ("not measured", "") if value is None else (f"{value:.3f}", "yes" if value <= most else "NO")
        lines.append(f"| {name} | {most:.3f} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="tensorrt", choices=list(BACKENDS))
    parser.add_argument("--model", default="lite")
    parser.add_argument("--size", default="auto", help="HxW; auto: one that has targets, else the first")
    parser.add_argument("--precision", help="of the checks and times; by default fp16 where there is one")
    parser.add_argument("--frames", type=int, default=200, help="that are timed")
    parser.add_argument("--out", type=Path, help="JSON file of all that was found")
    arguments = parser.parse_args()
    logging.getLogger("dvps_ros").setLevel(logging.ERROR)
    report: dict[str, Any] = {"command": sys.argv, "checks": {}}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dvps-gpu-") as folder:
        try:
            bench = Bench(arguments, Path(folder))
            report["engine"] = f"{bench.backend} {bench.kind.version()} on {bench.kind.device()}"
        except DvpsError as error:
            print(f"FAIL   {error}")
            return 1
        print(f"{report['engine']}, {bench.manifest.name} {bench.graph.size} {bench.precision}")
        for name, check in CHECKS.items():
            try:
                verdict, text = "ok", check(bench)
            except Skip as reason:
                verdict, text = "skip", str(reason)
            except (AssertionError, DvpsError) as error:
                verdict, text = "FAIL", str(error)
                failed += 1
            report["checks"][name] = [verdict, text]
            print(f"{verdict:<7}{name}: {text}", flush=True)
        if not failed:
            report["times"] = times(bench)
            for name, ms in report["times"].items():
                print(f"{ms:>9.3f}  {name}")
            engine = f"{report['engine']} {bench.precision}"
            print(tables(engine, bench.graph.size, report["times"]))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
