# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from dvps_ros.runtime.buffers import Buffers


def address(array):
    return array.ctypes.data


def test_memory_comes_back_only_when_nobody_holds_it():
    buffers = Buffers()
    first = buffers.take("a", (4, 5), np.uint8)
    second = buffers.take("a", (4, 5), np.uint8)
    assert address(first) != address(second)
    free = address(first)
    del first
    assert address(buffers.take("a", (4, 5), np.uint8)) == free


def test_a_view_holds_it():
    buffers = Buffers()
    for view in (
        lambda a: a[1:, 2],
        lambda a: a.view(np.uint8).reshape(-1),
        lambda a: memoryview(a),
        lambda a: [a],
        lambda a: np.frombuffer(a, np.uint8),
    ):
        array = buffers.take("a", (4, 5), np.uint16)
        held, where = view(array), address(array)
        del array
        assert address(buffers.take("a", (4, 5), np.uint16)) != where
        del held


def test_held_arrays_keep_their_content():
    buffers = Buffers()
    held = []
    for i in range(6):
        array = buffers.take("a", (3,), np.int64)
        array[:] = i
        held.append(array)
    del array
    assert [h.tolist() for h in held] == [[i] * 3 for i in range(6)]


def test_another_name_shape_or_type_is_another_array():
    buffers = Buffers()
    where = address(buffers.take("a", (4,), np.uint8))
    assert buffers.take("b", (4,), np.uint8) is not buffers.take("a", (4,), np.uint8)
    assert buffers.take("a", (2, 2), np.uint8).shape == (2, 2)
    assert buffers.take("a", (2, 2), np.uint16).dtype == np.uint16
    del where
