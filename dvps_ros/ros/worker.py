# SPDX-License-Identifier: Apache-2.0
"""Work off the executor: a slot that keeps the newest item, and a thread that empties it.

A camera that is faster than the network must not build up a queue: what is processed is always the
newest frame, and every frame that was pushed out is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

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

    def close(self) -> None:
        """Make every :meth:`take` return None."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()


class Worker(Generic[T]):
    """A thread that hands the items of a slot to ``handle`` and outlives its exceptions.

    Args:
        handle: called with each item.
        on_error: called with an item and what ``handle`` raised on it; must not raise.
    """

    def __init__(
        self, slot: LatestSlot[T], handle: Callable[[T], None], on_error: Callable[[T, Exception], None]
    ) -> None:
        self._slot, self._handle, self._on_error = slot, handle, on_error
        self._thread = threading.Thread(target=self._run, name="dvps worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._slot.take()) is not None:
            try:
                self._handle(item)
            except Exception as error:  # one bad frame must not end the perception
                self._on_error(item, error)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Close the slot and wait for the item in work.

        Returns:
            True when the thread has ended.
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
