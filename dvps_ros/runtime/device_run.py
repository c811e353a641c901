# SPDX-License-Identifier: Apache-2.0
"""One graph's frames on one GPU: bytes in once, states kept there, only wanted outputs back.

Two frames may be under way: while one computes, the next is copied in and the last one copied out, each on a
stream of its own. A frame uses one of two slots of buffers. Slot 0 reads the states that slot 1 wrote and the
other way round, so states are never copied.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from dvps_ros.errors import DeviceError, EngineError
from dvps_ros.runtime.device_memory import Device

log = logging.getLogger(__name__)

Spec = tuple[np.dtype, tuple[int, ...]]
Enqueue = Callable[[Mapping[str, int], int], None]
"""(address of each input and output, stream): queues the graph's computation in the stream."""
STATE, NEXT = "state_", "next_"


@dataclass
class _Slot:
    """One frame's buffers."""

    addresses: dict[str, int]
    """Of every input and output on the device."""
    feeds: dict[str, np.ndarray]
    """Pinned: what is copied in."""
    results: dict[str, np.ndarray]
    """Pinned: what was copied out."""
    copied_in: int
    computed: int
    copied_out: int
    """Events."""
    graphs: dict[frozenset[str], int] = field(default_factory=dict)
    """The captured computation, by what was copied in."""
    given: frozenset[str] = frozenset()
    fetched: Collection[str] = ()


class DeviceRun:
    """Order of copies and computation. All calls from one thread at a time, any thread.

    Args:
        inputs: type and shape by name.
        outputs: the same; for each input ``state_x`` there is an output ``next_state_x``.
        capture: replay the computation as a CUDA graph, which costs the processor one call a frame.

    Raises:
        DeviceError: the device has not the memory.
    """

    def __init__(
        self,
        device: Device,
        inputs: Mapping[str, Spec],
        outputs: Mapping[str, Spec],
        enqueue: Enqueue,
        *,
        capture: bool = True,
    ) -> None:
        self._device, self._enqueue, self._capture = device, enqueue, capture
        self._feeds = {n: spec for n, spec in inputs.items() if not n.startswith(STATE)}
        self._outputs = dict(outputs)
        self._states = {n: _size(spec) for n, spec in inputs.items() if n.startswith(STATE)}
        self._under_way: deque[_Slot] = deque()
        self._optional: set[str] = set()
        with device.current():
            self._in, self._compute, self._out = (device.new_stream() for _ in range(3))
            memory = [{n: device.allocate(size) for n, size in self._states.items()} for _ in range(2)]
            self._slots = [self._new_slot(memory[i], memory[1 - i]) for i in range(2)]

    def _new_slot(self, states: dict[str, int], next_states: dict[str, int]) -> _Slot:
        device = self._device
        addresses = {n: device.allocate(_size(spec)) for n, spec in self._feeds.items()} | states
        for name, spec in self._outputs.items():
            state = name.removeprefix(NEXT)
            addresses[name] = next_states[state] if state in next_states else device.allocate(_size(spec))
        return _Slot(
            addresses,
            {n: device.pinned(shape, dtype) for n, (dtype, shape) in self._feeds.items()},
            {n: device.pinned(shape, dtype) for n, (dtype, shape) in self._outputs.items()},
            device.new_event(),
            device.new_event(),
            device.new_event(),
        )

    def add_input(self, name: str, spec: Spec) -> None:
        """One more input, which frames may leave out; the computation gets its address only when it is given.

        Raises:
            DeviceError: the device has not the memory.
        """
        dtype, shape = spec
        with self._device.current():
            for slot in self._slots:
                slot.addresses[name] = self._device.allocate(_size(spec))
                slot.feeds[name] = self._device.pinned(shape, dtype)
        self._optional.add(name)

    def submit(self, feeds: Mapping[str, np.ndarray], wanted: Collection[str]) -> None:
        """Queue one frame; the arrays may change afterwards.

        Args:
            feeds: the inputs that are no states. One that an added input stands for may be left out.
            wanted: outputs that are copied back.

        Raises:
            EngineError: two frames are under way already.
            DeviceError: the device failed.
        """
        if len(self._under_way) == len(self._slots):
            raise EngineError("two frames are under way: collect one first")
        device, slot = self._device, self._slots[0]
        slot.given = frozenset(feeds)
        for name, array in feeds.items():
            slot.feeds[name][...] = array
        with device.current():
            for name in feeds:
                device.to_device(slot.addresses[name], slot.feeds[name], self._in)
            device.record(slot.copied_in, self._in)
            device.wait(self._compute, slot.copied_in)
            if slot.given in slot.graphs:
                device.launch(slot.graphs[slot.given], self._compute)
            else:
                self._enqueue(self._addresses(slot), self._compute)
            device.record(slot.computed, self._compute)
            device.wait(self._out, slot.computed)
            for name in wanted:
                device.to_host(slot.results[name], slot.addresses[name], self._out)
            device.record(slot.copied_out, self._out)
        slot.fetched = tuple(wanted)
        self._under_way.append(slot)
        self._slots.reverse()

    def collect(self, results: Mapping[str, np.ndarray]) -> None:
        """Wait for the oldest frame under way and write the outputs that were wanted of it.

        Raises:
            EngineError: none is under way.
            DeviceError: the device failed.
        """
        if not self._under_way:
            raise EngineError("no frame is under way: submit one first")
        slot = self._under_way.popleft()
        with self._device.current():
            self._device.synchronise(slot.copied_out)
            if self._capture and slot.given not in slot.graphs and not self._under_way:
                self._capture_graph(slot)  # its first run, just now, made what the library makes lazily
        for name in slot.fetched:
            results[name][...] = slot.results[name]

    def _addresses(self, slot: _Slot) -> dict[str, int]:
        left_out = self._optional - slot.given
        return {name: address for name, address in slot.addresses.items() if name not in left_out}

    def _capture_graph(self, slot: _Slot) -> None:
        addresses, stream = self._addresses(slot), self._compute
        try:
            slot.graphs[slot.given] = self._device.capture(stream, lambda: self._enqueue(addresses, stream))
        except DeviceError as error:
            log.warning("no CUDA graph, every frame costs more processor time: %s", error)
            self._capture = False

    def run(self, feeds: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """One frame, begun and ended."""
        self.submit(feeds, results.keys())
        self.collect(results)

    def compute_only_s(self, count: int) -> float:
        """Seconds a frame of the computation alone, as ``trtexec`` times it: no copies, one wait at the end.

        The states are overwritten.

        Raises:
            EngineError: frames are under way, or none has run yet.
            DeviceError: the device failed.
        """
        slot = self._slots[0]
        if self._under_way or not slot.given:
            raise EngineError("the computation alone is timed after two frames have ended")
        with self._device.current():
            start = 0.0
            for i in range(count + 1):
                if slot.given in slot.graphs:
                    self._device.launch(slot.graphs[slot.given], self._compute)
                else:
                    self._enqueue(self._addresses(slot), self._compute)
                if i in (0, count):  # the first one warms up
                    self._device.record(slot.computed, self._compute)
                    self._device.synchronise(slot.computed)
                    start = start or time.perf_counter()
            return (time.perf_counter() - start) / count

    def reset(self) -> None:
        """All zeros where the next frame reads its states."""
        with self._device.current():
            for slot in self._under_way:  # its states may still be on their way to the host
                self._device.wait(self._compute, slot.copied_out)
            for name, size in self._states.items():
                self._device.zero(self._slots[0].addresses[name], size, self._compute)


def _size(spec: Spec) -> int:
    dtype, shape = spec
    return int(np.prod(shape)) * dtype.itemsize
