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
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._in_work = 0
        self._closed = False

    def put(self, item: T) -> bool:
        """Store the newest item.

        Returns:
            True when an older item was pushed out.
        """
        with self._changed:
            displaced = self._item is not None
            self._item = item
            self._changed.notify_all()
        return displaced

    def take(self) -> T | None:
        """Wait for an item, which is then in work until :meth:`done`; None when the slot was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            if self._closed:
                return None
            item, self._item = self._item, None
            self._in_work += 1
            return item

    def done(self) -> None:
        """An item that was taken is done with."""
        with self._changed:
            self._in_work -= 1
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until no item is in work; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_work == 0, timeout_s)

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

    An item is handled in two halves. By default everything that belongs to the resource happens in this one
    thread. With ``overlap`` the second half of an item runs in a second thread, beside the first half of the
    next one: second halves follow each other in the order of the items, and no third item is begun before the
    first of two is done. Once :meth:`stop` was called, none of the callbacks is called any more, except for
    the items in work; what goes wrong then is logged.

    Args:
        open_resource: opens what ``handle`` needs; may take long.
        handle: called with the resource and each item, does the first half and returns the second, if there
            is one. Exceptions of neither end the thread.
        on_ready: called with the open resource.
        on_failure: called with what ended the thread: an exception of ``open_resource`` or of a callback.
        on_error: called with an item and what either half raised on it; the other items go on.
        overlap: whether two items may be in work at once.
    """

    def __init__(
        self,
        slot: LatestSlot[T],
        open_resource: Callable[[], R],
        handle: Callable[[R, T], Callable[[], None] | None],
        *,
        on_ready: Callable[[R], None],
        on_failure: Callable[[Exception], None],
        on_error: Callable[[T, Exception], None],
        overlap: bool = False,
    ) -> None:
        self._slot, self._open, self._handle, self._overlap = slot, open_resource, handle, overlap
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
        with ThreadPoolExecutor(1, "dvps worker's second half") as second:
            before: Future[None] | None = None
            while (item := self._slot.take()) is not None:
                finish = self._begin(resource, item)
                if before is not None:
                    before.result()
                if self._overlap:
                    before = second.submit(self._finish, item, finish)
                else:
                    self._finish(item, finish)

    def _begin(self, resource: R, item: T) -> Callable[[], None] | None:
        try:
            return self._handle(resource, item)
        except Exception as error:  # one bad frame must not end the perception
            self._on_error(item, error)
            return None

    def _finish(self, item: T, finish: Callable[[], None] | None) -> None:
        try:
            if finish is not None:
                finish()
        except Exception as error:
            self._on_error(item, error)
        finally:
            self._slot.done()

    def stop(self, timeout_s: float | None = 5.0) -> bool:
        """Close the slot and wait for the thread, which may have an item in work or the resource half open.

        Args:
            timeout_s: None waits as long as it takes.

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
