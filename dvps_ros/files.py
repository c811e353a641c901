# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there: written beside their place, then moved into it; read within a limit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

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


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file to read it, by way of links too, unless it is a pipe or device, which might never end.

    Raises:
        OSError: there is no such file, it cannot be read, or is none.
    """
    # Without O_NONBLOCK opening a pipe waits for somebody who writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(descriptor, "rb")


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """A file's content.

    Args:
        limit: bytes; a larger file is refused before it is read.

    Raises:
        OSError: see :func:`open_regular`; or it is too large.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def read_data(path: str | Path, *, limit: int = 4 << 20) -> Any:
    """What a JSON file (by its ending) or YAML file holds.

    Raises:
        ValueError: why it cannot be read, a clause that follows the file's name.
    """
    try:
        text = read_bytes(path, limit=limit).decode("utf-8-sig")
        # OpenCV wants its files to begin with this line, which is none of YAML's.
        text = text.removeprefix("%YAML:1.0")
        return json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"it is no {'JSON' if str(path).endswith('.json') else 'YAML'}: {error}") from error


def read_arrays(path: str | Path, *, limit: int = 1 << 30) -> dict[str, np.ndarray]:
    """The arrays of an ``npz`` file.

    Args:
        limit: bytes of all arrays together, unpacked; more are refused before anything is unpacked.

    Raises:
        ValueError: why it cannot be read, a clause that follows the file's name.
    """
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > limit:
                raise ValueError(f"its arrays have {size} bytes, more than {limit}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def is_abandoned(part: Path) -> bool:
    """Whether the process that began the unfinished file ``part`` is gone."""
    pid = part.name.removesuffix(PART).rpartition(".")[2]
    return not (pid.isdigit() and Path(f"/proc/{pid}").exists())
