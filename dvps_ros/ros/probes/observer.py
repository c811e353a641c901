# SPDX-License-Identifier: Apache-2.0
"""A node in a process that is no node: it has an rclpy context of its own and is spun by its owner."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

Self = TypeVar("Self", bound="Observer")


class Observer:
    """Looks at a graph from outside; a context manager.

    Environment variables of the middleware must be set before it is entered.

    Args:
        name: of the node.
        domain: ROS domain id.
    """

    def __init__(self, name: str, *, domain: int) -> None:
        self._name, self._domain = name, domain

    def __enter__(self: Self) -> Self:
        self._context = rclpy.Context()
        self._context.init(domain_id=self._domain)
        self._node = rclpy.create_node(self._name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._connect(self._node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _connect(self, node: Node) -> None:
        """Advertise and subscribe."""
        raise NotImplementedError

    def spin(self, seconds: float) -> None:
        """Take in what comes during this time, at most one message."""
        self._executor.spin_once(timeout_sec=seconds)
