# SPDX-License-Identifier: Apache-2.0
"""Freed memory is kept: the second large message takes no fresh pages."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, sys
from dvps_ros.ros.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    bytearray(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytes(bytearray(b"x") * 20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_large_memory_is_used_again() -> None:
    fresh, kept = faults("leave"), faults("keep")
    assert kept < fresh / 3, (kept, fresh)
