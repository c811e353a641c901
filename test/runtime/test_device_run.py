# SPDX-License-Identifier: Apache-2.0
"""The order of copies and computation on a device, on a device of host memory with real addresses.

Only memory, streams and events are stood in for; the graph is computed by ONNX Runtime on those addresses.
One kind of stand-in does everything at once, one nothing until an event must have happened, and one only the
copies to the host late: between them they show what is overwritten too early and what is not waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tiny_model import paint

from dvps_ros.config import EngineConfig
from dvps_ros.errors import DeviceError, EngineError
from dvps_ros.runtime.backends import onnxruntime
from dvps_ros.runtime.builder import quiet
from dvps_ros.runtime.device_run import DeviceRun

CONFIG = EngineConfig(backend="onnxruntime", precision="fp32", threads=1)
INTRINSICS = np.array([[128, 128, 63.5, 31.5]], np.float32)


class EagerDevice:
    """Queued work is done at once. Outside of ``current`` nothing is allowed."""

    name, compute_capability, library = "host", (0, 0), "numpy"

    def __init__(self, room: int = 1 << 30) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.graphs: dict[int, Callable[[], None]] = {}
        self.launched = self.handles = 0
        self.copied_back = 0
        self.room = room
        self.lost = self.inside = self.capturing = False
        self.captures = True

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        assert not self.inside
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def check(self) -> None:
        assert self.inside, "called without the device being current"
        if self.lost:
            raise DeviceError("the device was lost")

    def handle(self) -> int:
        self.check()
        self.handles += 1
        return self.handles

    new_stream = new_event = handle

    def allocate(self, size: int) -> int:
        self.check()
        self.room -= size
        if self.room < 0:
            raise DeviceError("out of memory")
        array = np.zeros(size, np.uint8)
        self.memory[array.ctypes.data] = array
        return array.ctypes.data

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.check()
        return np.full(shape, 77, dtype)

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self.check()
        if self.capturing:
            assert stream == self.capturing
            self.captured.append(work)
        else:
            self.put(stream, work)

    def put(self, stream: int, work: Callable[[], None]) -> None:
        work()

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self.copied_back += array.nbytes
        self.queue(stream, lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def zero(self, address: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memset(address, 0, size))

    def record(self, event: int, stream: int) -> None:
        self.check()

    def wait(self, stream: int, event: int) -> None:
        self.check()

    def synchronise(self, event: int) -> None:
        self.check()

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        self.check()
        if not self.captures:
            raise DeviceError("cannot be captured")
        self.capturing, self.captured = stream, []
        work()
        self.capturing = False
        graph = self.handle()
        self.graphs[graph] = list(self.captured)
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.launched += 1
        for work in self.graphs[graph]:
            self.queue(stream, work)


class LazyDevice(EagerDevice):
    """Each stream does only what a synchronised event needs; the rest stays queued."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[int, list] = {}
        self.recorded: dict[int, tuple[int, object]] = {}

    def put(self, stream: int, work: Callable[[], None]) -> None:
        self.queues.setdefault(stream, []).append(work)

    def record(self, event: int, stream: int) -> None:
        self.check()
        mark = object()
        self.recorded[event] = stream, mark
        self.put(stream, mark)

    def wait(self, stream: int, event: int) -> None:
        self.check()
        target = self.recorded[event]
        self.put(stream, lambda: self.drain(*target))

    def drain(self, stream: int, mark: object) -> None:
        queue = self.queues[stream]
        while mark in queue:
            work = queue.pop(0)
            if callable(work):
                work()

    def synchronise(self, event: int) -> None:
        self.check()
        self.drain(*self.recorded[event])


class LateCopies(LazyDevice):
    """Everything is done at once but copies to the host, which wait until they must."""

    OUT = 3  # the third handle that a DeviceRun asks for

    def put(self, stream: int, work: Callable[[], None]) -> None:
        if stream == self.OUT:
            super().put(stream, work)
        elif callable(work):
            work()

    def drain(self, stream: int, mark: object) -> None:
        if stream == self.OUT:
            super().drain(stream, mark)


class Rig:
    def __init__(self, tiny_model, device, **options) -> None:
        path = tiny_model / "64x128.onnx"
        plan = onnxruntime.build(path, CONFIG, quiet, path.parent)
        self.reference = onnxruntime.OnnxRuntime(plan, path, CONFIG)
        worker = onnxruntime.OnnxRuntime(plan, path, CONFIG)
        self.device = device
        self.computed = 0

        def array(address, spec):
            dtype, shape = spec
            count = int(np.prod(shape))
            raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
            return np.frombuffer(raw, dtype).reshape(shape)

        def enqueue(addresses, stream):
            addresses = dict(addresses)

            def compute():
                self.computed += 1
                specs = {**worker.inputs, **worker.outputs}
                arrays = {n: array(a, specs[n]) for n, a in addresses.items()}
                feeds = {n: arrays[n].copy() for n in worker.inputs}
                session = worker._session
                for name, value in zip(worker.outputs, session.run(list(worker.outputs), feeds), strict=True):
                    arrays[name][...] = value

            device.queue(stream, compute)

        self.run = DeviceRun(device, self.reference.inputs, self.reference.outputs, enqueue, **options)
        self.names = frozenset(self.reference.outputs)

    def results(self, names=None):
        names = self.names if names is None else names
        return {n: np.full(s, 99, t) for n, (t, s) in self.reference.outputs.items() if n in names}

    def expect(self, feeds):
        results = self.results()
        self.reference.run(feeds, results)
        return results


def feeds(car_x):
    return {"image": paint(64, 128, car_x=car_x)[None], "intrinsics": INTRINSICS}


def same(got, want):
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)


@pytest.fixture(params=[EagerDevice, LazyDevice, LateCopies])
def rig(request, tiny_model):
    return Rig(tiny_model, request.param())


def test_frames_one_by_one_equal_the_reference(rig):
    for x in (8, 16, 24, 40, 32):
        got = rig.results()
        rig.run.run(feeds(x), got)
        same(got, rig.expect(feeds(x)))
    assert rig.device.launched == 3  # each slot's first frame makes the library ready, then it is captured


def test_reset_empties_the_states_only(rig):
    for x in (8, 16, 24):
        rig.run.run(feeds(x), rig.results())
    rig.run.reset()
    for x in (40, 48):
        got = rig.results()
        rig.run.run(feeds(x), got)
        same(got, rig.expect(feeds(x)))


def test_two_frames_under_way_equal_one_by_one(rig):
    xs = [8, 16, 24, 40, 32, 16, 8]
    want = [rig.expect(feeds(x)) for x in xs]
    rig.run.submit(feeds(xs[0]), rig.names)
    for n in range(1, len(xs)):
        image = feeds(xs[n])
        rig.run.submit(image, rig.names)
        image["image"].fill(0)  # the caller's own again
        got = rig.results()
        rig.run.collect(got)
        same(got, want[n - 1])
    got = rig.results()
    rig.run.collect(got)
    same(got, want[-1])


def test_reset_while_a_frame_is_under_way_leaves_that_frame_alone(rig):
    first = rig.expect(feeds(8))
    rig.run.submit(feeds(8), rig.names)
    rig.run.reset()
    rig.run.submit(feeds(16), rig.names)
    for want in (first, None):
        got = rig.results()
        rig.run.collect(got)
        if want is None:
            rig.reference.reset()
            want = rig.expect(feeds(16))
        same(got, want)


def test_only_wanted_outputs_are_copied_back(rig):
    names = {"depth_m", "segments"}
    got = rig.results(names)
    rig.run.run(feeds(8), got)
    same(got, rig.expect(feeds(8)))
    assert rig.device.copied_back == sum(a.nbytes for a in got.values())
    got = rig.results(names)
    rig.run.run(feeds(16), got)
    same(got, rig.expect(feeds(16)))  # the states went on without being copied


def test_order_of_calls_is_checked(rig):
    with pytest.raises(EngineError, match="no frame is under way"):
        rig.run.collect({})
    for _ in range(2):
        rig.run.submit(feeds(8), ())
    with pytest.raises(EngineError, match="two frames are under way"):
        rig.run.submit(feeds(8), ())


def test_a_computation_that_cannot_be_captured_runs_without(tiny_model, caplog):
    device = EagerDevice()
    device.captures = False
    rig = Rig(tiny_model, device)
    for x in (8, 16, 24):
        got = rig.results()
        rig.run.run(feeds(x), got)
        same(got, rig.expect(feeds(x)))
    assert device.launched == 0 and caplog.text.count("no CUDA graph") == 1


def test_several_on_one_device_do_not_mix(tiny_model):
    device = EagerDevice()
    one, two = Rig(tiny_model, device), Rig(tiny_model, device)
    for x in (8, 16, 24):
        for rig, shift in ((one, 0), (two, 20)):
            got = rig.results()
            rig.run.run(feeds(x + shift), got)
            same(got, rig.expect(feeds(x + shift)))


def test_too_little_memory_and_a_lost_device_are_told(tiny_model):
    with pytest.raises(DeviceError, match="out of memory"):
        Rig(tiny_model, EagerDevice(room=100_000))
    rig = Rig(tiny_model, EagerDevice())
    rig.run.run(feeds(8), rig.results())
    rig.device.lost = True
    got = rig.results()
    with pytest.raises(DeviceError, match="lost"):
        rig.run.run(feeds(16), got)
    assert all((a == 99).all() for a in got.values())  # nothing that could be taken for a result


def test_an_added_input_may_stand_for_another(tiny_model):
    """A graph before the network makes ``image`` of ``camera``: both kinds in turns, two under way."""
    rig = Rig(tiny_model, LazyDevice())
    enqueue, seen = rig.run._enqueue, []

    def with_front(addresses, stream):
        seen.append("camera" in addresses)
        own = {n: a for n, a in addresses.items() if n != "camera"}
        if "camera" in addresses:
            source, target = addresses["camera"], addresses["image"]

            def halve():
                camera = np.frombuffer((ctypes.c_uint8 * (128 * 256 * 3)).from_address(source), np.uint8)
                image = np.frombuffer((ctypes.c_uint8 * (64 * 128 * 3)).from_address(target), np.uint8)
                image.reshape(64, 128, 3)[...] = camera.reshape(128, 256, 3)[::2, ::2]

            rig.device.queue(stream, halve)
        enqueue(own, stream)

    rig.run._enqueue = with_front
    rig.run.add_input("camera", (np.dtype(np.uint8), (1, 128, 256, 3)))

    def given(x, whole):
        if not whole:
            return feeds(x)
        return {"camera": paint(128, 256, car_x=2 * x)[None], "intrinsics": INTRINSICS}

    frames = [(8, True), (16, True), (24, False), (32, False), (40, True), (16, True), (8, False), (24, True)]
    want = [rig.expect(feeds(x)) for x, _ in frames]
    for (x, whole), expected in zip(frames, want, strict=True):
        got = rig.results()
        rig.run.run(given(x, whole), got)
        same(got, expected)
    assert rig.device.launched == 4  # two slots, two kinds: of eight frames four came before their graph
    assert set(seen) == {True, False}
    rig.run.submit(given(32, True), rig.names)
    rig.run.submit(given(40, False), rig.names)
    for x in (32, 40):
        got = rig.results()
        rig.run.collect(got)
        same(got, rig.expect(feeds(x)))


def test_the_computation_alone_is_launched_in_a_row(tiny_model):
    rig = Rig(tiny_model, EagerDevice())
    with pytest.raises(EngineError, match="after two frames have ended"):
        rig.run.compute_only_s(3)
    for x in (8, 16):
        rig.run.run(feeds(x), rig.results())
    computed, launched, copied = rig.computed, rig.device.launched, rig.device.copied_back
    assert 0 < rig.run.compute_only_s(5) < 1
    assert rig.device.launched == launched + 6 and rig.computed == computed + 6  # one warms up
    assert rig.device.copied_back == copied
