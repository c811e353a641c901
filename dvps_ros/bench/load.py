# SPDX-License-Identifier: Apache-2.0
"""How busy the machine and one process are: processor, memory and, where there is one, GPU."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any


class Gpu:
    """The first NVIDIA GPU through NVML; :attr:`missing` says why there are no values."""

    def __init__(self) -> None:
        self.missing = ""
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except ImportError:
            self.missing = "pynvml is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # NVMLError, whose class is in the module that may be missing
            self.missing = f"no NVIDIA GPU: {error}"

    def sample(self) -> tuple[float, float] | None:
        """(utilisation %, memory in use %), None without a GPU."""
        if self.missing:
            return None
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        return float(busy), 100.0 * memory.used / memory.total


class LoadSampler:
    """Samples in a thread while its block runs; a context manager, used once.

    Args:
        pid: the process that is watched beside the whole machine.
    """

    def __init__(self, pid: int, gpu: Gpu, *, interval_s: float = 0.1) -> None:
        import psutil

        self.overall_cpu: list[float] = []
        """Of all processors, percent."""
        self.host_memory: list[float] = []
        """Memory in use on the machine, percent."""
        self.node_cpu: list[float] = []
        """Of the process, percent of one processor."""
        self.node_memory_mib: list[float] = []
        """Resident memory of the process."""
        self.gpu: list[tuple[float, float]] = []
        self._psutil, self._process, self._gpu = psutil, psutil.Process(pid), gpu
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> LoadSampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        psutil = self._psutil
        psutil.cpu_percent()  # the first call of both only starts their clocks
        self._process.cpu_percent()
        while not self._stop.wait(self._interval_s):
            try:
                values: tuple[Any, ...] = (self._process.cpu_percent(), self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return  # whoever started it finds out
            self.node_cpu.append(values[0])
            self.node_memory_mib.append(values[1] / 2**20)
            self.overall_cpu.append(psutil.cpu_percent())
            self.host_memory.append(psutil.virtual_memory().percent)
            gpu = self._gpu.sample()
            if gpu is not None:
                self.gpu.append(gpu)
