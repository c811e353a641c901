# SPDX-License-Identifier: Apache-2.0
"""The stamps of a camera's images: which of them continue the stream, and which cost only themselves."""

from __future__ import annotations

from typing import Any

from dvps_ros.errors import InputError

JUMP_S = 1.0
"""Longest step against the stream that is an image out of order or a slip, not a new beginning."""


def stamp_to_ns(stamp: Any) -> int:
    """Nanoseconds of a ``builtin_interfaces/Time``, of rclpy or of a bag.

    Raises:
        InputError: its nanoseconds are a second or more.
    """
    # ROS 1 bags, too, are read with these names.
    if not 0 <= stamp.nanosec < 1_000_000_000:
        raise InputError(
            f"stamp: expected less than 1000000000 nanoseconds, got {stamp.nanosec}; correct the sender"
        )
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class Timeline:
    """Decides for each image, in the order of receipt, at which time it belongs into the stream.

    - An image that is as old as the last one, or up to ``jump_s`` older, is left out: it is repeated, or came
      out of order.
    - A stamp further back, or further ahead than the step before it and the time between the receipts explain
      by ``jump_s``, is left out unless the next image follows it. One bad stamp costs one image, while a bag
      that begins again or a clock that is set costs one image and then the tracks.
    - A driver that never stamps (zeros) is taken at the times of receipt. A zero among stamps is left out.

    Args:
        jump_s: see above, seconds.

    Attributes:
        unstamped: whether the driver sends no stamps.
    """

    def __init__(self, jump_s: float = JUMP_S) -> None:
        self._jump_ns = round(jump_s * 1e9)
        self._last: tuple[int, int] | None = None
        """Stamp and receipt of the last image that was taken, nanoseconds."""
        self._step_ns = 0
        """Between the last two images that were taken, forwards."""
        self._suspect_ns: int | None = None
        self.unstamped = False

    def place(self, stamp_ns: int, received_ns: int) -> int:
        """The time of an image, nanoseconds.

        Args:
            stamp_ns: as the message has it; 0 says that there is none.
            received_ns: of its receipt, by the clock that the stamps follow (simulated, too; 0 while that has
                not begun); of its recording, in a bag.

        Raises:
            OutOfLine: it is to be left out; the message says why.
        """
        suspect_ns, self._suspect_ns = self._suspect_ns, None
        if self._last is None:
            self.unstamped = stamp_ns == 0
        elif self.unstamped and stamp_ns != 0:
            self.unstamped, self._last = False, None
        if self.unstamped:
            if received_ns == 0:
                raise OutOfLine(
                    "it has no stamp, and time stands still: use_sim_time is set but nobody publishes /clock",
                    "unstamped",
                )
            stamp_ns = received_ns
        if self._last is None:
            self._last = stamp_ns, received_ns
            return stamp_ns
        if stamp_ns == 0:
            raise OutOfLine("it has no stamp, as others have", "unstamped")
        step_ns = stamp_ns - self._last[0]
        if step_ns == 0:
            raise OutOfLine("its stamp is that of the last one", "stale")
        late_s = -step_ns * 1e-9
        if not self._continues(suspect_ns, stamp_ns):
            if -self._jump_ns <= step_ns < 0:
                raise OutOfLine(f"it is {late_s:.3f} s older than the last one, out of order", "out of order")
            ahead_ns = step_ns - max(received_ns - self._last[1], self._step_ns)
            if step_ns < 0 or ahead_ns > self._jump_ns:
                self._suspect_ns = stamp_ns
                where = f"{late_s:.3f} s before" if step_ns < 0 else f"{-late_s:.3f} s after"
                raise OutOfLine(f"its stamp is {where} that of the last one", "time jump")
        self._last = stamp_ns, received_ns
        self._step_ns = step_ns if step_ns > 0 else self._step_ns
        return stamp_ns

    def _continues(self, suspect_ns: int | None, stamp_ns: int) -> bool:
        """Whether a stamp follows the one that was left out before it, by no more than a step or its jump."""
        if suspect_ns is None or self._last is None:
            return False
        # At the second image no step is known yet: a slow stream's gap looks like a slip.
        first_ns = 0 if self._step_ns else 2 * (suspect_ns - self._last[0])
        most_ns = max(self._jump_ns, 2 * self._step_ns, first_ns)
        return 0 < stamp_ns - suspect_ns <= most_ns


class OutOfLine(InputError):
    """An image that does not continue the stream.

    Args:
        kind: a word or two, to count by.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
