# SPDX-License-Identifier: Apache-2.0
"""Work off the executor: a slot that keeps the newest item, and a thread that empties it.

A camera that is faster than the network must not build up a queue: what is processed is always the
newest frame, and every frame that was pushed out is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Generic, Protocol, TypeVar

from dvps_ros.errors import DvpsError

log = logging.getLogger(__name__)

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """Room for one item; a new one pushes out the one that waits. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Store the newest item.

        Returns:
            True when an older item was pushed out.
        """
        with self._changed:
            displaced = self._item is not None
            self._item = item
            self._changed.notify()
        return displaced

    def take(self) -> T | None:
        """Wait for an item; None when the slot was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            if self._closed:
                return None
            item, self._item = self._item, None
            return item

    def clear(self) -> bool:
        """Forget the item that waits; True when there was one."""
        with self._changed:
            waiting, self._item = self._item is not None, None
        return waiting

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Make every :meth:`take` return None."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()


class Closable(Protocol):
    """What a worker works with."""

    def close(self) -> None: ...


R = TypeVar("R", bound=Closable)


class Worker(Generic[R, T]):
    """A thread that opens a resource, handles the items of a slot with it, and closes it.

    Everything that belongs to the resource happens in this one thread. Once :meth:`stop` was called, none
    of the callbacks is called any more, except for the item in work; what goes wrong then is logged.

    Args:
        open_resource: opens what ``handle`` needs; may take long.
        handle: called with the resource and each item; its exceptions do not end the thread.
        on_ready: called with the open resource.
        on_failure: called with what ended the thread: an exception of ``open_resource`` or of a callback.
        on_error: called with an item and what ``handle`` raised on it.
    """

    def __init__(
        self,
        slot: LatestSlot[T],
        open_resource: Callable[[], R],
        handle: Callable[[R, T], None],
        *,
        on_ready: Callable[[R], None],
        on_failure: Callable[[Exception], None],
        on_error: Callable[[T, Exception], None],
    ) -> None:
        self._slot, self._open, self._handle = slot, open_resource, handle
        self._on_ready, self._on_failure, self._on_error = on_ready, on_failure, on_error
        self._thread = threading.Thread(target=self._run, name="dvps worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(self._open()) as resource:
                self._work(resource)
        except Exception as error:
            if not self._slot.closed:
                self._on_failure(error)
            elif not isinstance(error, DvpsError):  # with which opening is told to stop
                log.error("%s failed while it was stopped", self._thread.name, exc_info=error)

    def _work(self, resource: R) -> None:
        if not self._slot.closed:
            self._on_ready(resource)
        while (item := self._slot.take()) is not None:
            try:
                self._handle(resource, item)
            except Exception as error:  # one bad frame must not end the perception
                self._on_error(item, error)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Close the slot and wait for the thread, which may have an item in work or the resource half open.

        Returns:
            True when the thread has ended; else it goes on alone and closes the resource when it can.
        """
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class Throttle:
    """Says of each key whether it may be logged: the first time, then once a period."""

    def __init__(self, *, period_s: float) -> None:
        self._period_s = period_s
        self._next: dict[str, float] = {}

    def ready(self, key: str) -> bool:
        now = time.monotonic()
        if now < self._next.get(key, -float("inf")):
            return False
        self._next[key] = now + self._period_s
        return True
