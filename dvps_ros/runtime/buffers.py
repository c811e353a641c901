# SPDX-License-Identifier: Apache-2.0
"""Result arrays whose memory is used again: the kernel's fresh pages cost as much as filling them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

KEPT = 2
"""Arrays of a name: a caller mostly still holds the last result while the next one is made."""


class Buffers:
    """Hands out arrays, and hands them out again once nobody holds them or a view of them any more."""

    def __init__(self) -> None:
        self._arrays: dict[str, list[np.ndarray]] = {}
        alone = [np.empty(0)]
        self._alone = sys.getrefcount(alone[0])  # 1 or 2: it depends on the version of Python

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array [shape] of any content that no one else holds."""
        arrays = self._arrays.setdefault(name, [])
        if arrays and (arrays[0].shape != shape or arrays[0].dtype != dtype):
            arrays.clear()
        for i in range(len(arrays)):
            if sys.getrefcount(arrays[i]) <= self._alone:
                return arrays[i]
        array = np.empty(shape, dtype)
        arrays.append(array)
        del arrays[:-KEPT]
        return array
