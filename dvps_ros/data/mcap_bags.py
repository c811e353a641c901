# SPDX-License-Identifier: Apache-2.0
"""MCAP files that are no plain ROS 2 bags: of ROS 1, or with topics of other kinds beside the camera.

The same few methods as ``rosbags.highlevel.AnyReader``, of which :mod:`dvps_ros.data.bags` uses no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dvps_ros.errors import InputError

_READABLE = {("cdr", "ros2msg"), ("ros1", "ros1msg")}
"""Encodings of message and definition."""


class Connection(NamedTuple):
    """A channel of the file."""

    topic: str
    msgtype: str
    """As ROS 2 writes it; of a channel of another kind its encoding and schema."""
    msgcount: int


MAX_CHUNK = 1 << 30
"""Bytes of a chunk, unpacked; recorders make chunks of a few MiB."""


class McapBag:
    """An MCAP file whose channels of ROS messages can be read; the others are only named.

    Raises:
        InputError: it cannot be read, or the library is missing.
    """

    def __init__(self, path: Path) -> None:
        try:
            from mcap.reader import make_reader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise InputError("reading this MCAP needs mcap: pip install 'dvps_ros[tools]'") from error
        self.path = path
        self._file = path.open("rb")
        self.typestore = get_typestore(Stores.EMPTY)
        self._ros1: set[str] = set()
        try:
            self._reader = make_reader(self._file)
            summary = self._reader.get_summary()
            if summary is None or summary.statistics is None:
                raise InputError(f"cannot read bag {path}: it has no end; try dvps bag recover {path}")
            largest = max((c.uncompressed_size for c in summary.chunk_indexes), default=0)
            if largest > MAX_CHUNK:
                raise InputError(
                    f"cannot read bag {path}: a chunk of it unpacks to {largest} bytes, "
                    f"more than {MAX_CHUNK}; write it again with smaller chunks (mcap compress --chunk-size)"
                )
            counts = summary.statistics.channel_message_counts
            self._channels = {
                number: self._connection(
                    channel, summary.schemas.get(channel.schema_id), counts.get(number, 0)
                )
                for number, channel in summary.channels.items()
            }
            self.connections = list(self._channels.values())
            self.duration = summary.statistics.message_end_time - summary.statistics.message_start_time
        except InputError:
            self.close()
            raise
        except Exception as error:  # of a family of the library's own, and struct.error
            self.close()
            raise InputError(f"cannot read bag {path}: {error}") from error

    @property
    def topics(self) -> dict[str, Connection]:
        """One of each topic, with the messages of all its channels (one for each publisher)."""
        counts: Counter[str] = Counter()
        for connection in self.connections:
            counts[connection.topic] += connection.msgcount
        return {c.topic: c._replace(msgcount=counts[c.topic]) for c in self.connections}

    def _connection(self, channel: Any, schema: Any, count: int) -> Connection:
        from rosbags.typesys import get_types_from_msg

        encoding = "" if schema is None else schema.encoding
        if (channel.message_encoding, encoding) not in _READABLE:
            name = "" if schema is None else f" {schema.name}"
            return Connection(channel.topic, f"{channel.message_encoding}{name}", count)
        kind = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/", 1)
        new = get_types_from_msg(schema.data.decode(), kind)
        known = self.typestore.fielddefs
        self.typestore.register({name: fields for name, fields in new.items() if name not in known})
        if channel.message_encoding == "ros1":
            self._ros1.add(kind)
        return Connection(channel.topic, kind, count)

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Messages in order of the time of recording, nanoseconds, from ``start`` to before ``stop``."""
        topics = sorted({c.topic for c in connections})
        for _, channel, message in self._reader.iter_messages(topics, start, stop):
            yield self._channels[channel.id], message.log_time, message.data

    def deserialize(self, data: bytes, msgtype: str) -> Any:
        if msgtype in self._ros1:
            return self.typestore.deserialize_ros1(data, msgtype)
        return self.typestore.deserialize_cdr(data, msgtype)

    def close(self) -> None:
        self._file.close()
