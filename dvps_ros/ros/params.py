# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from a configuration dataclass: one source for names, defaults, descriptions and ranges."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from dvps_ros.config import Option, check_value, from_flat, options
from dvps_ros.errors import ConfigError

T = TypeVar("T")

_OF_ROS = ("use_sim_time", "start_type_description_service")


def declare(node: Node, cls: type, *, locked: Callable[[], bool] = lambda: True) -> None:
    """Declare every option of ``cls`` as a parameter of ``node``.

    The node must have been made with ``automatically_declare_parameters_from_overrides=True``, so that
    a misspelled name is seen. A whole number is accepted where a float is expected.

    Args:
        locked: whether changes are refused at the moment; values are read when a node is configured.

    Raises:
        ConfigError: a parameter was given that does not exist, or one of an unsuitable value.
    """
    known = {o.key: o for o in options(cls)}
    given = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
    unknown = sorted(k for k in given if k not in (*known, *_OF_ROS) and not k.startswith("qos_overrides."))
    if unknown:
        raise ConfigError(f"unknown parameters {', '.join(unknown)}; known are {', '.join(known)}")
    for key, opt in known.items():
        value = opt.default
        if key in given:
            value = check_value(opt, given[key])
            node.undeclare_parameter(key)
        node.declare_parameter(key, value, _descriptor(opt), ignore_override=True)

    def check(changes: list[Parameter[Any]]) -> SetParametersResult:
        for change in changes:
            if change.name not in known:
                continue
            if locked():
                reason = (
                    f"{change.name}: cannot change while the node is configured; "
                    "deactivate and clean up the node, set it, configure and activate"
                )
                return SetParametersResult(successful=False, reason=reason)
            try:
                check_value(known[change.name], change.value)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def read(node: Node, cls: type[T]) -> T:
    """A typed snapshot of the declared parameters."""
    return from_flat(cls, {o.key: node.get_parameter(o.key).value for o in options(cls)})


def _descriptor(opt: Option) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=opt.description)
    if opt.choices:
        descriptor.additional_constraints = f"one of {', '.join(opt.choices)}"
    if opt.low is None and opt.high is None:
        return descriptor
    if opt.type is float:
        low = -sys.float_info.max if opt.low is None else float(opt.low)
        high = sys.float_info.max if opt.high is None else float(opt.high)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif opt.type is int:
        low_int = -(2**63) if opt.low is None else int(opt.low)
        high_int = 2**63 - 1 if opt.high is None else int(opt.high)
        descriptor.integer_range = [IntegerRange(from_value=low_int, to_value=high_int, step=1)]
    return descriptor
