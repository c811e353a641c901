# SPDX-License-Identifier: Apache-2.0
"""What graphs on the processor have beside them: memory in two sets of arrays that swap, and a resize."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dvps_ros.runtime.backends.protocol import CAMERA, Backend, Feeds

STATE = "state_"


class HostStates:
    """``state_*`` inputs and ``next_state_*`` outputs of one graph.

    Args:
        outputs: type and shape of the graph's outputs by name.
    """

    def __init__(self, outputs: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
        self._specs = {
            n.removeprefix("next_"): spec for n, spec in outputs.items() if n.startswith(f"next_{STATE}")
        }
        self._last, self._now = ({n: np.zeros(s, t) for n, (t, s) in self._specs.items()} for _ in range(2))

    def feeds(self) -> dict[str, np.ndarray]:
        """Of this run: what the last one left."""
        return self._last

    def results(self) -> dict[str, np.ndarray]:
        """Where this run writes."""
        return {f"next_{n}": array for n, array in self._now.items()}

    def advance(self, results: Mapping[str, np.ndarray]) -> None:
        """The run is done: copy what the caller wants to see, and make its states those of the next one."""
        for name, array in self._now.items():
            if f"next_{name}" in results:
                results[f"next_{name}"][:] = array
        self._last, self._now = self._now, self._last

    def reset(self) -> None:
        for array in self._last.values():
            array.fill(0)


def resized(front: Backend | None, feeds: Feeds) -> Feeds:
    """The feeds with ``image``, which ``front`` makes where they hold ``camera`` in its place."""
    if front is None or CAMERA not in feeds:
        return feeds
    dtype, shape = front.outputs["image"]
    image = np.empty(shape, dtype)
    front.run({CAMERA: feeds[CAMERA]}, {"image": image})
    return {name: array for name, array in feeds.items() if name != CAMERA} | {"image": image}
