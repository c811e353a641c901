# SPDX-License-Identifier: Apache-2.0
"""Memory, streams, events and graphs of one NVIDIA GPU, through cuda-python or pycuda, behind one Protocol.

Addresses and handles are whole numbers, so that TensorRT takes them as they are. All of a process share the
primary context of the GPU; nothing here makes a context of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from dvps_ros.errors import DeviceError, EngineError


class Device(Protocol):
    """One GPU. Every call but :meth:`current` must come from within ``with device.current():``.

    Raises:
        DeviceError: from any call, when memory ran out or the GPU was lost.
    """

    name: str
    compute_capability: tuple[int, int]
    library: str
    """Name and version of what is underneath."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU the calling thread's, for the length of the block."""
        ...

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of zeros on the GPU."""
        ...

    def release(self, address: int) -> None: ...

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of page-locked memory, which copies reach at full speed and asynchronously."""
        ...

    def new_stream(self) -> int: ...

    def new_event(self) -> int: ...

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy of a pinned array."""
        ...

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Queue a copy into a pinned array."""
        ...

    def zero(self, address: int, size: int, stream: int) -> None:
        """Queue zeros."""
        ...

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is queued in the stream is done."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """What is queued in the stream from here on begins after the event."""
        ...

    def synchronise(self, event: int) -> None:
        """Block the thread until the event."""
        ...

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """What ``work`` queues in the stream, as a graph; nothing is computed."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue a captured graph."""
        ...

    def close(self) -> None:
        """Give back all memory, streams, events and graphs that came from this object."""
        ...


def open_device() -> Device:
    """The process's first GPU, through the library that is installed (cuda-python before pycuda).

    Raises:
        EngineError: no GPU, or neither library; says what to do.
    """
    problems = []
    for kind in (CudaPython, PyCuda):
        try:
            return kind()
        except ImportError as error:
            problems.append(str(error))
    raise EngineError(
        f"no library for GPU memory: pip install cuda-python, or pycuda ({'; '.join(problems)})"
    )


NO_GPU = "no NVIDIA GPU here ({}): use a processor backend (openvino, onnxruntime), or check nvidia-smi"


class CudaPython:
    """A GPU through NVIDIA's ``cuda-python``; see :class:`Device`.

    Raises:
        ImportError: it is not installed.
        EngineError: there is no GPU.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError:
            from cuda import cudart as runtime  # before cuda-python 12.8
        self._cuda: Any = runtime
        self._index = index
        self._memory: set[int] = set()
        self._pinned: list[int] = []
        self._streams: list[int] = []
        self._events: list[int] = []
        self._graphs: list[int] = []
        try:
            self._do("cudaGetDeviceCount")
            attribute = runtime.cudaDeviceAttr
            major, minor = (
                self._do("cudaDeviceGetAttribute", a, index)
                for a in (
                    attribute.cudaDevAttrComputeCapabilityMajor,
                    attribute.cudaDevAttrComputeCapabilityMinor,
                )
            )
            name = self._do("cudaGetDeviceProperties", index).name
        except DeviceError as error:
            raise EngineError(NO_GPU.format(error)) from error
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.compute_capability = int(major), int(minor)
        self.library = "cuda-python"

    def _do(self, function: str, *arguments: Any) -> Any:
        error, *results = getattr(self._cuda, function)(*arguments)
        if int(error) != 0:
            text = self._cuda.cudaGetErrorString(error)[1]
            raise DeviceError(f"{function}: {text.decode() if isinstance(text, bytes) else text}")
        return results[0] if results else None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._do("cudaSetDevice", self._index)  # the runtime's context is the primary one, a thread's own
        yield

    def allocate(self, size: int) -> int:
        address = int(self._do("cudaMalloc", size))
        self._memory.add(address)
        self._do("cudaMemset", address, 0, size)
        return address

    def release(self, address: int) -> None:
        self._memory.discard(address)
        self._do("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        count = int(np.prod(shape))
        address = int(self._do("cudaHostAlloc", max(1, count * dtype.itemsize), 0))
        self._pinned.append(address)
        raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

    def new_stream(self) -> int:
        flag = self._cuda.cudaStreamNonBlocking
        self._streams.append(int(self._do("cudaStreamCreateWithFlags", flag)))
        return self._streams[-1]

    def new_event(self) -> int:
        flag = self._cuda.cudaEventDisableTiming
        self._events.append(int(self._do("cudaEventCreateWithFlags", flag)))
        return self._events[-1]

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def zero(self, address: int, size: int, stream: int) -> None:
        self._do("cudaMemsetAsync", address, 0, size, stream)

    def record(self, event: int, stream: int) -> None:
        self._do("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._do("cudaStreamWaitEvent", stream, event, 0)

    def synchronise(self, event: int) -> None:
        self._do("cudaEventSynchronize", event)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(stream)  # leave the stream usable; the first error counts
            raise
        graph = self._do("cudaStreamEndCapture", stream)
        try:
            self._graphs.append(int(self._do("cudaGraphInstantiate", graph, 0)))
        finally:
            self._do("cudaGraphDestroy", graph)
        return self._graphs[-1]

    def launch(self, graph: int, stream: int) -> None:
        self._do("cudaGraphLaunch", graph, stream)

    def close(self) -> None:
        for function, handles in (
            ("cudaGraphExecDestroy", self._graphs),
            ("cudaEventDestroy", self._events),
            ("cudaStreamDestroy", self._streams),
            ("cudaFreeHost", self._pinned),
            ("cudaFree", self._memory),
        ):
            for handle in handles:  # on a lost GPU every call fails, and there is nothing to free
                with contextlib.suppress(DeviceError):
                    self._do(function, handle)
            handles.clear()


class PyCuda:
    """A GPU through ``pycuda``, without its ``autoinit``; see :class:`Device`.

    Raises:
        ImportError: it is not installed.
        EngineError: there is no GPU.
    """

    def __init__(self, index: int = 0) -> None:
        import pycuda
        import pycuda.driver

        self._cuda: Any = pycuda.driver
        try:
            self._cuda.init()
            device = self._cuda.Device(index)
            self._context = device.retain_primary_context()
        except self._cuda.Error as error:
            raise EngineError(NO_GPU.format(error)) from error
        self.name = device.name()
        self.compute_capability = device.compute_capability()
        self.library = f"pycuda {pycuda.VERSION_TEXT}"
        self._held: dict[int, Any] = {}
        self._pinned: list[np.ndarray] = []
        self._graphs: list[int] = []
        self._driver = ctypes.CDLL("libcuda.so.1")  # pycuda binds no graphs

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._cuda.Error as error:
            raise DeviceError(str(error)) from error
        finally:
            self._cuda.Context.pop()

    def _hold(self, thing: Any, handle: int) -> int:
        self._held[handle] = thing
        return handle

    def allocate(self, size: int) -> int:
        memory = self._cuda.mem_alloc(size)
        self._cuda.memset_d8(memory, 0, size)
        return self._hold(memory, int(memory))

    def release(self, address: int) -> None:
        self._held.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self._pinned.append(self._cuda.pagelocked_empty(shape, dtype))
        return self._pinned[-1]

    def new_stream(self) -> int:
        stream = self._cuda.Stream()
        return self._hold(stream, stream.handle)

    def new_event(self) -> int:
        event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        return self._hold(event, id(event))  # only this class uses it

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self._cuda.memcpy_htod_async(address, array, self._held[stream])

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self._cuda.memcpy_dtoh_async(array, address, self._held[stream])

    def zero(self, address: int, size: int, stream: int) -> None:
        self._cuda.memset_d8_async(address, 0, size, self._held[stream])

    def record(self, event: int, stream: int) -> None:
        self._held[event].record(self._held[stream])

    def wait(self, stream: int, event: int) -> None:
        self._held[stream].wait_for_event(self._held[event])

    def synchronise(self, event: int) -> None:
        self._held[event].synchronize()

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        thread_local = 1
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), thread_local)
        try:
            work()
        except BaseException:
            self._driver.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
            raise
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        finally:
            self._call("cuGraphDestroy", graph)
        assert executable.value is not None
        self._graphs.append(executable.value)
        return executable.value

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code != 0:
            raise DeviceError(f"{function}: CUDA driver error {code}")

    def close(self) -> None:
        with contextlib.suppress(DeviceError), self.current():
            for graph in self._graphs:
                self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))
        self._graphs.clear()
        with contextlib.suppress(DeviceError), self.current():
            self._held.clear()
            self._pinned.clear()
        self._context.detach()
