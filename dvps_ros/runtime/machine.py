# SPDX-License-Identifier: Apache-2.0
"""What the package needs to know about the machine, and what it keeps on it between starts."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path

from dvps_ros.errors import OutputError
from dvps_ros.files import write_bytes

log = logging.getLogger(__name__)


def cpu_count() -> int:
    """Processors that this process may run on (``taskset`` and a container's processor set included)."""
    return len(os.sched_getaffinity(0))


def cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, key to value; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}


def peak_rss_mib(pid: int | str = "self") -> float:
    """Peak resident memory of a process since it started, MiB.

    Not getrusage's: that of a child begins with what its parent held.

    Raises:
        OSError: there is no such process (any more).
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has ended")


def isa_limit() -> str:
    """The instruction set beyond which OpenVINO's kernels (oneDNN) may not go; empty: no limit."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()


def cpu_fingerprint() -> str:
    """Short hash of what decides which code runs fast here: processor, its instructions, their number."""
    info = cpu_info()
    keys = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    what = [info.get(k, "") for k in keys] + [platform.machine(), str(cpu_count()), isa_limit()]
    return hashlib.sha256("|".join(what).encode()).hexdigest()[:12]


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/dvps_ros``, by default ``~/.cache/dvps_ros``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dvps_ros"


def keep(path: Path, content: bytes) -> None:
    """Write a cache file whole or not at all; where that fails (full or read-only disk), only warn."""
    try:
        write_bytes(path, content)
    except OutputError as error:
        log.warning("cannot keep %s for the next start, which will be slower: %s", path, error)
