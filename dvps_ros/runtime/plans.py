# SPDX-License-Identifier: Apache-2.0
"""What engines were compiled to, kept between starts: found by all that it was made of, or not at all.

One entry is two files: ``<label>-<key>.plan`` and beside it ``.json`` with what it was made of, its SHA-256
and what its golden frames gave. The key is a hash of what the plan was made of, so a plan of another graph,
library, device or option is never found; one whose bytes changed is refused by its SHA-256.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from dvps_ros.errors import EngineError, OutputError
from dvps_ros.files import PART, is_abandoned, write_bytes

log = logging.getLogger(__name__)

POLL_S = 0.1


@dataclass(frozen=True)
class Record:
    """What is known of one plan.

    Args:
        label: for people: model, size, backend, precision.
        made_of: all that the plan depends on, by name.
        sha256: of the plan's bytes.
        size: of the plan, bytes.
        built: UTC time, ISO 8601.
        build_s: seconds that it took.
        notes: what was learnt later, such as its golden frames' differences.
    """

    label: str
    made_of: dict[str, str]
    sha256: str
    size: int
    built: str
    build_s: float
    notes: dict[str, Any] = field(default_factory=dict)


def key_of(made_of: Mapping[str, str]) -> str:
    """Hash of everything that changes a plan."""
    return hashlib.sha256(json.dumps(dict(sorted(made_of.items()))).encode()).hexdigest()[:16]


class PlanStore:
    """A folder of plans. Safe for several processes.

    Args:
        folder: created when the first plan is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan_path(self, label: str, made_of: Mapping[str, str]) -> Path:
        return self.folder / f"{label.replace(' ', '-').replace('/', '_')}-{key_of(made_of)}.plan"

    def read(self, label: str, made_of: Mapping[str, str]) -> bytes | None:
        """The plan made of exactly this; None where there is none, or (told in the log) a damaged one."""
        path = self.plan_path(label, made_of)
        record = _read_record(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("cannot read the engine %s, building it again: %s", path, error)
            return None
        intact = record is not None and hashlib.sha256(content).hexdigest() == record.sha256
        if not intact or record is None or record.made_of != dict(made_of):
            log.warning("engine %s is damaged, building it again", path)
            return None
        return content

    def write(self, label: str, made_of: Mapping[str, str], plan: bytes, build_s: float) -> None:
        """Keep a plan, whole or not at all: what was there before stays until the new one is on the disk.

        Raises:
            EngineError: the disk is full, or the folder cannot be written.
        """
        path = self.plan_path(label, made_of)
        built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sha256 = hashlib.sha256(plan).hexdigest()
        record = Record(label, dict(made_of), sha256, len(plan), built, round(build_s, 2))
        try:
            # On the disk at once: a robot may lose power at any time.
            write_bytes(path, plan, sync=True)
            write_bytes(path.with_suffix(".json"), _to_json(record), sync=True)
        except OutputError as error:
            raise EngineError(
                f"cannot keep the engine {label} ({len(plan) >> 20} MiB): {error}; free space there, "
                "or set XDG_CACHE_HOME to a folder that can be written; until then each start builds it again"
            ) from error

    def note(self, label: str, made_of: Mapping[str, str], **notes: Any) -> None:
        """Keep what was learnt about a plan beside it; where the folder cannot be written, only tell."""
        path = self.plan_path(label, made_of)
        record = _read_record(path)
        if record is None or {**record.notes, **notes} == record.notes:
            return
        new = Record(**{**asdict(record), "notes": {**record.notes, **notes}})
        try:
            write_bytes(path.with_suffix(".json"), _to_json(new), sync=True)
        except OutputError as error:
            log.info("what was found about %s is not noted: %s", path, error)

    @contextlib.contextmanager
    def lock(self, label: str, made_of: Mapping[str, str], waiting: Callable[[str], None]) -> Iterator[bool]:
        """Only one process at a time gets in; the others call ``waiting`` (which may raise) until it is done.

        Gives whether another one was in before. The lock goes with its process, however that ends. Where the
        folder cannot be written nobody waits.
        """
        path = self.plan_path(label, made_of).with_suffix(".lock")
        waited = False
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = path.open("w")
            except OSError:
                yield False  # nothing can be shared through this folder
                return
            with file:
                while not _try_lock(file):
                    waited = True
                    waiting("another process builds this engine; waiting for it")
                    time.sleep(POLL_S)
                if _is_at(file, path):  # else it was removed in between, and locks nobody out
                    yield waited
                    return

    def record(self, label: str, made_of: Mapping[str, str]) -> Record | None:
        """What is known of the plan made of exactly this; None where there is none."""
        return _read_record(self.plan_path(label, made_of))

    def records(self) -> dict[Path, Record]:
        """Every plan with a readable record."""
        found = {path: _read_record(path) for path in sorted(self.folder.glob("*.plan"))}
        return {path: record for path, record in found.items() if record is not None}

    def remove(self, path: Path) -> int:
        """Delete one plan and what lies beside it; gives back the bytes freed."""
        freed = 0
        for file in (path.with_suffix(".json"), path, path.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                size = file.stat().st_size
                file.unlink()
                freed += size
        return freed

    def leftovers(self) -> list[Path]:
        """Plans without a readable record, and parts and locks of builds that were killed or could not keep
        their plan."""
        known = self.records()
        plans = [p for p in self.folder.glob("*.plan") if p not in known]
        parts = [p for p in self.folder.glob(f"*{PART}") if is_abandoned(p)]
        locks = [p for p in self.folder.glob("*.lock") if not p.with_suffix(".plan").exists() and _is_free(p)]
        return sorted([*plans, *parts, *locks])


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(lock: Path) -> bool:
    try:
        with lock.open() as file:
            return _try_lock(file)
    except OSError:
        return False


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _to_json(record: Record) -> bytes:
    return (json.dumps(asdict(record), indent=1) + "\n").encode()


def _read_record(plan: Path) -> Record | None:
    try:
        return Record(**json.loads(plan.with_suffix(".json").read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("record of the engine %s cannot be read: %s", plan, error)
        return None
