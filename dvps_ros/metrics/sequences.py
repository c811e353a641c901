# SPDX-License-Identifier: Apache-2.0
"""The walk over sequences that all video metrics share."""

from __future__ import annotations

from collections.abc import Hashable

from dvps_ros.errors import InputError


class SequenceWalk:
    """Knows which sequence is open; frames of a sequence must come together and in order.

    Merging works on whole sequences: two shards never hold parts of the same one.
    """

    def __init__(self) -> None:
        self.current: Hashable | None = None
        self.finished: set[Hashable] = set()

    def enter(self, sequence: Hashable) -> bool:
        """True when ``sequence`` begins with this frame.

        Raises:
            InputError: it was left before.
        """
        if sequence == self.current:
            return False
        if sequence in self.finished:
            raise InputError(
                f"sequence {sequence}: its frames must come together, but others came in between"
            )
        self.leave()
        self.current = sequence
        return True

    def leave(self) -> None:
        """No sequence is open any more."""
        if self.current is not None:
            self.finished.add(self.current)
        self.current = None

    def merge(self, other: SequenceWalk) -> None:
        """Take over the sequences of ``other``.

        Raises:
            InputError: a sequence is in both.
        """
        self.leave()
        theirs = other.finished | ({other.current} if other.current is not None else set())
        both = sorted(map(str, self.finished & theirs))
        if both:
            raise InputError(
                f"cannot merge: sequences {both} are in both shards; split the work by whole sequences"
            )
        self.finished |= theirs
