# SPDX-License-Identifier: Apache-2.0
"""rosbag2 folders (MCAP), written and read without rosbag2."""

from __future__ import annotations

import fcntl
import glob
import importlib
import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dvps_ros.data.bags import open_bag
from dvps_ros.errors import ConfigError, DvpsError, InputError

log = logging.getLogger(__name__)

_PRIMITIVES = {"boolean": "bool", "octet": "byte", "float": "float32", "double": "float64"}
_FIELD = re.compile(r"(?:sequence<)?(?P<base>[\w/]+(?:<\d+>)?)(?:, (?P<most>\d+))?>?(?:\[(?P<count>\d+)\])?")


def message_class(name: str) -> type:
    """The Python class of a type name such as ``sensor_msgs/msg/Image``.

    Raises:
        ConfigError: the package is not installed, or has no such message.
    """
    package, _, message = name.partition("/msg/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), message)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"message type {name} is not installed here: {error}") from error
    return found


def definition(name: str) -> tuple[str, list[str]]:
    """The .msg text of an installed type, made from its Python class, and the types that its fields have."""
    lines, inner = [], []
    fields: dict[str, str] = message_class(name).get_fields_and_field_types()  # type: ignore[attr-defined]
    for field, kind in fields.items():
        match = _FIELD.fullmatch(kind)
        assert match, f"{name}.{field}: {kind}"
        base = re.sub(r"<(\d+)>", r"<=\1", _PRIMITIVES.get(match["base"], match["base"]))
        if "/" in base:
            inner.append(base.replace("/", "/msg/"))
        array = ""
        if kind.startswith("sequence<"):
            array = f"[<={match['most']}]" if match["most"] else "[]"
        elif match["count"]:
            array = f"[{match['count']}]"
        lines.append(f"{base}{array} {field}")
    return "\n".join(lines), inner


def typestore(names: Collection[str]) -> Any:
    """A rosbags type store with these installed types and all that they are made of."""
    store = get_typestore(Stores.EMPTY)
    todo: list[str] = list(names)
    types: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name not in types:
            text, inner = definition(name)
            types |= get_types_from_msg(text, name)
            todo += inner
    store.register(types)
    return store


def typestore_of_files(folder: Path) -> Any:
    """A rosbags type store with the standard messages and those of a folder's .msg files, without ROS.

    Args:
        folder: the ``msg`` folder of this package.

    Raises:
        ConfigError: it holds no message definition.
    """
    files = sorted(folder.glob("*.msg"))
    if not files:
        raise ConfigError(f"{folder} holds no .msg files: install the package again")
    store = get_typestore(Stores.ROS2_KILTED)
    for file in files:
        store.register(get_types_from_msg(file.read_text(), f"dvps_ros/msg/{file.stem}"))
    return store


class DiskFull(DvpsError):
    """Recording stopped before the disk was full."""


PARTIAL = ".partial"
"""Ends the names of unfinished bags."""


def unfinished(path: Path) -> list[Path]:
    """What earlier recordings to this place left when they were killed, oldest first."""
    found = path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}")
    # The random part has no dot: those of a bag that is called drive.2 are not drive's.
    own = re.compile(rf"\.{re.escape(path.name)}\.[^.]+{re.escape(PARTIAL)}")
    changes = [(p, _changed_ns(p)) for p in found if own.fullmatch(p.name) and not _is_owned(p)]
    return [p for p, changed_ns in sorted(changes, key=lambda pair: pair[1] or 0) if changed_ns is not None]


def _changed_ns(path: Path) -> int | None:
    """When it was last changed; None if it has been moved away meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _lock_of(partial: Path) -> Path:
    return partial / "lock"


def _is_owned(partial: Path) -> bool:
    """Whether a process still writes there."""
    try:
        with _lock_of(partial).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class BagWriter:
    """Writes a bag under a temporary name of its own and moves it to its place when it is whole.

    Nothing but what this object made is ever removed: what a killed process left is told in the log, and
    ``dvps bag recover`` makes a bag of it. Where two write to one place, the one that ends first gets it.

    Args:
        path: the folder to make; must not exist.
        min_free_mib: writing stops when less than this is left on the disk.
        store: the type definitions; None takes those of the installed message classes.

    Raises:
        ConfigError: the folder exists already, or cannot be made.
    """

    def __init__(self, path: str | Path, *, min_free_mib: int = 200, store: Any | None = None) -> None:
        self.path = Path(path).expanduser().resolve()
        self.counts: Counter[str] = Counter()
        self._min_free = min_free_mib << 20
        self.store = store
        if self.path.exists():
            raise ConfigError(f"{self.path} exists already: move it away, or choose another output")
        for left in unfinished(self.path):
            log.warning(
                "%s is what a recording left that was killed: dvps bag recover %s, then remove it", left, left
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as undo:
                # The bag's file carries the name of its folder, so the temporary part is a folder around it.
                folder = Path(tempfile.mkdtemp("", f".{self.path.name}.", self.path.parent))
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                self._lock = undo.enter_context(_lock_of(folder).open("w"))
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                # Only now, with its lock, may it look like a recording: others take unlocked ones for dead.
                self._temporary = folder.rename(f"{folder}{PARTIAL}")
                undo.callback(shutil.rmtree, self._temporary, ignore_errors=True)
                # 8 has quality of service as text, which readers since Humble understand; 9 has it as a list.
                bag = self._temporary / self.path.name
                self._writer = Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP)
                self._writer.open()
                undo.pop_all()
        except OSError as error:
            raise ConfigError(f"cannot write a bag at {self.path}: {error}") from error
        self._connections: dict[str, Any] = {}
        self._torn = False

    def add_topic(self, topic: str, kind: str, profile: Any | None = None) -> None:
        """Make room for a topic.

        Args:
            profile: the rclpy QoSProfile (or rosbags Qos) that players shall use.

        Raises:
            ConfigError: the type is not installed.
        """
        offered = [] if profile is None else [profile if isinstance(profile, Qos) else _qos(profile)]
        self._connections[topic] = self._writer.add_connection(
            topic, kind, typestore=self.store or typestore([kind]), offered_qos_profiles=offered
        )

    def write(self, topic: str, stamp_ns: int, data: bytes | memoryview) -> None:
        """Append a serialised message.

        Raises:
            DiskFull: there is no room left; close the bag.
        """
        free = shutil.disk_usage(self._temporary).free
        if free - len(data) < self._min_free:
            raise DiskFull(
                f"{self.path}: only {free >> 20} MiB are free where {self._min_free >> 20} MiB are to stay "
                f"free; recording stopped after {self.counts.total()} messages"
            )
        try:
            self._writer.write(self._connections[topic], stamp_ns, data)
        except OSError as error:
            self._torn = True
            raise DiskFull(f"{self.path}: cannot be written to any further: {error}") from error
        self.counts[topic] += 1

    def flush(self) -> None:
        """Hand over to the disk what waits in memory: what a kill then loses is younger than this.

        Raises:
            DiskFull: there is no room left; close the bag.
        """
        storage: Any = self._writer.storage
        try:
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        except OSError as error:
            self._torn = True
            raise DiskFull(f"{self.path}: cannot be written to any further: {error}") from error

    def discard(self) -> None:
        """End without a bag: what was written is removed."""
        self._writer.abort()
        self._lock.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def close(self) -> bool:
        """Finish the bag and move it to its place.

        Returns:
            False when there was no message: then there is no bag either.

        Raises:
            DiskFull: it cannot be finished; what was written stays under the temporary name.
        """
        try:
            if self._torn:  # in the middle of a record: no end can be put to that
                self._writer.abort()
                raise OSError("a message could only be written in part")
            self._writer.close()
            if not self.counts:
                shutil.rmtree(self._temporary)
                return False
            if self.path.exists():
                raise OSError("it exists by now: somebody else wrote there")
            (self._temporary / self.path.name).rename(self.path)
            shutil.rmtree(self._temporary)
        except OSError as error:
            raise DiskFull(
                f"cannot finish {self.path}: {error}; what was written is in {self._temporary}"
            ) from error
        finally:
            self._lock.close()
        return True


def _qos(profile: Any) -> Qos:
    unset = QosTime(0, 0)
    return Qos(
        QosHistory(int(profile.history)),
        profile.depth,
        QosReliability(int(profile.reliability)),
        QosDurability(int(profile.durability)),
        unset,
        unset,
        QosLiveliness.SYSTEM_DEFAULT,
        unset,
        False,
    )


def read_bag(path: str | Path, topics: Collection[str] = ()) -> Iterator[tuple[str, int, Any]]:
    """Messages of a bag in order of time: (topic, time of recording in nanoseconds, message).

    Messages are rosbags objects with the fields of the ROS messages, arrays as numpy arrays.

    Args:
        topics: only these; empty takes all.

    Raises:
        InputError: the bag cannot be read.
    """
    try:
        with closing(open_bag(Path(path))) as reader:
            chosen = [c for c in reader.connections if not topics or c.topic in topics]
            for connection, time_ns, raw in reader.messages(connections=chosen) if chosen else ():
                yield connection.topic, time_ns, reader.deserialize(raw, connection.msgtype)
    except (GeneratorExit, InputError):
        raise
    except Exception as error:
        raise InputError(f"cannot read bag {path}: {error}") from error


def bag_topics(path: str | Path) -> dict[str, str]:
    """Topic -> message type of a bag.

    Raises:
        InputError: the bag cannot be read.
    """
    try:
        with closing(open_bag(Path(path))) as reader:
            return {c.topic: c.msgtype for c in reader.connections}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read bag {path}: {error}") from error
