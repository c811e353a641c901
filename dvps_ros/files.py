# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dvps_ros.errors import OutputError

PART = ".part"
"""Ends the names of unfinished files; before it stands the number of the process that writes."""


@contextlib.contextmanager
def whole_file(path: Path, *, suffix: str = "", sync: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``, moved to ``path`` when the block ends well, removed when it does not.

    What stood at ``path`` stays until then. A device or pipe, as ``/dev/stdout``, is written to directly.

    Args:
        path: its folder is made if it is not there.
        suffix: ends the temporary name, for writers that choose the format by it.
        sync: the content is on the disk before the file gets its name, so that it outlives a power cut.

    Raises:
        OutputError: the file cannot be written (full disk, no permission).
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}{suffix}")
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        if path.exists() and not path.is_file():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if sync:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file, whole or not at all; as :func:`whole_file`."""
    with whole_file(path, sync=sync) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; as :func:`whole_file`."""
    write_bytes(path, text.encode())


def is_abandoned(part: Path) -> bool:
    """Whether the process that began the unfinished file ``part`` is gone."""
    pid = part.name.removesuffix(PART).rpartition(".")[2]
    return not (pid.isdigit() and Path(f"/proc/{pid}").exists())
