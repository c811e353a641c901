# SPDX-License-Identifier: Apache-2.0
"""Bags whose recorder was killed: all that is whole in them, written to a new bag."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvps_ros.errors import InputError

WAL = "-wal"
"""Ends the name of the file in which SQLite keeps what it has not yet moved into the database."""
_RECORD_LIMIT = 1 << 30


@dataclass
class Recovered:
    """What a torn bag gave.

    Args:
        counts: messages of each topic.
        lost: why reading ended, where it did before the end; empty where the bag was whole.
        skipped: topics whose messages cannot be taken over -> why.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lost: str = ""
    skipped: dict[str, str] = field(default_factory=dict)


def pending_wal(database: Path) -> bool:
    """Whether a ``.db3`` lacks messages that lie in its write-ahead log: its recorder did not end."""
    wal = database.with_name(database.name + WAL)
    return wal.is_file() and wal.stat().st_size > 0


def recover(torn: Path, out: Path) -> Recovered:
    """Write a bag of all whole messages of a torn one, which stays as it is.

    Args:
        torn: a ``.mcap`` or ``.db3`` file, a bag folder, or what a killed recorder left (``.*.partial``).
        out: the folder to make.

    Raises:
        InputError: there is no such bag, nothing can be read of it, or a library is missing.
    """
    file = _file_of(torn)
    if out.exists():
        raise InputError(f"{out} exists already: choose another output")
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise InputError("recovering a bag needs rosbags: pip install 'dvps_ros[tools]'") from error
    found = Recovered()
    read = _read_mcap if file.suffix == ".mcap" else _read_database
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".recovered", dir=out.absolute().parent))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    try:
        connections: dict[str, Any] = {}
        with Writer(part / out.name, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            for topic, kind, definition, time_ns, data in read(file, found):
                if topic in found.skipped:
                    continue
                if topic not in connections:
                    store = get_typestore(Stores.EMPTY)
                    try:
                        store.register(get_types_from_msg(definition, kind))
                        connections[topic] = writer.add_connection(topic, kind, typestore=store)
                    except Exception as error:  # of a family of the library's own
                        found.skipped[topic] = f"its definition of {kind} cannot be read: {error}"
                        continue
                writer.write(connections[topic], time_ns, data)
                found.counts[topic] += 1
        if not found.counts:
            reasons = [found.lost] if found.lost else []
            reasons += [f"{topic}: {why}" for topic, why in found.skipped.items()]
            raise InputError(f"{file}: no whole message is left; {'; '.join(reasons) or 'it is empty'}")
        (part / out.name).rename(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _file_of(torn: Path) -> Path:
    if not torn.exists():
        raise InputError(f"there is no {torn}")
    files = [torn] if torn.is_file() else sorted(p for p in torn.rglob("*") if p.suffix in (".mcap", ".db3"))
    if len(files) != 1 or files[0].suffix not in (".mcap", ".db3"):
        listing = ", ".join(str(f) for f in files) or "none"
        raise InputError(f"{torn}: expected one .mcap or .db3 file, found {listing}; name the file")
    return files[0]


Entry = tuple[str, str, str, int, bytes]
"""Topic, type, definition, time of recording in nanoseconds, serialised message."""


def _read_mcap(file: Path, found: Recovered) -> Iterator[Entry]:
    try:
        from mcap.records import Channel, Footer, Message, Schema
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise InputError("recovering an MCAP needs mcap: pip install 'dvps_ros[tools]'") from error
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    ended = False
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream, validate_crcs=True, record_size_limit=_RECORD_LIMIT).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels[record.channel_id]
                    schema = schemas.get(channel.schema_id)
                    if schema is None or schema.encoding != "ros2msg" or channel.message_encoding != "cdr":
                        found.skipped[channel.topic] = (
                            f"its messages are {channel.message_encoding}, not those of ROS 2 (cdr)"
                        )
                        continue
                    definition = schema.data.decode()
                    yield channel.topic, schema.name, definition, record.log_time, record.data
                ended |= isinstance(record, Footer)
        except Exception as error:  # of mcap's own family, and whatever its decompressors raise
            place, size = stream.tell(), file.stat().st_size
            if place < size or str(error):
                found.lost = f"{file.name} is torn at byte {place} of {size}: {error or 'it ends'}"
            else:
                found.lost = (
                    f"{file.name} is torn: it ends without an index, after {size} bytes, all of them read"
                )
            return
    if not ended:
        found.lost = f"{file.name} has no end"


def _read_database(file: Path, found: Recovered) -> Iterator[Entry]:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    with tempfile.TemporaryDirectory(prefix="dvps-") as folder:
        copy = Path(folder) / file.name
        for suffix in ("", WAL, "-shm"):
            part = file.with_name(file.name + suffix)
            if part.is_file():
                shutil.copy(part, copy.with_name(copy.name + suffix))
        try:
            with closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                database.execute("PRAGMA journal_mode=DELETE")
            store = get_typestore(Stores.ROS2_HUMBLE)
            with AnyReader([copy], default_typestore=store) as reader:
                for connection, time_ns, raw in reader.messages():
                    definition, _ = reader.typestore.generate_msgdef(connection.msgtype, ros_version=2)
                    yield connection.topic, connection.msgtype, definition, time_ns, bytes(raw)
        except Exception as error:  # of sqlite3 and rosbags alike
            found.lost = f"{file.name}: {error}"
