# SPDX-License-Identifier: Apache-2.0
"""The C library's memory: large messages come and go many times a second."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEPT = 256 << 20


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, up to 256 MiB, instead of giving it back to the kernel.

    Without it glibc takes fresh pages for each message of many megabytes, which costs more than to fill
    them.

    Returns:
        False where the C library is not glibc or refuses: all works, large messages cost more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), mallopt(_M_TRIM_THRESHOLD, _KEPT)
    return all(done)
