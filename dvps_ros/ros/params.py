# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from a configuration dataclass: one source for names, defaults, descriptions and ranges."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from dvps_ros.config import Option, check_value, from_flat, options
from dvps_ros.errors import ConfigError

T = TypeVar("T")

_OF_ROS = ("use_sim_time", "start_type_description_service")
_QOS = "qos_overrides."
_POLICIES: dict[str, tuple[str, ...]] = {
    "history": ("keep_last", "keep_all", "system_default"),
    "reliability": ("reliable", "best_effort", "system_default"),
    "durability": ("transient_local", "volatile", "system_default"),
    "depth": (),
}
"""Policy of a ``qos_overrides`` parameter -> its values; a depth is a number."""
_DEEPEST = 10_000
_NEAR, _NEAR_IN_GROUP = 0.8, 0.6
"""Likeness to a known name from which an unknown one is taken for a slip; in a group of the node, of its
last part."""


def declare(node: Node, cls: type, *, locked: Callable[[], bool] = lambda: True) -> None:
    """Declare every option of ``cls`` as a parameter of ``node``.

    The node must have been made with ``automatically_declare_parameters_from_overrides=True``, so that
    a misspelled name is seen. A whole number is accepted where a float is expected. Parameters of other
    nodes, as a file for the whole robot gives them (``/**``), are named in the log.

    Args:
        locked: whether changes are refused at the moment; values are read when a node is configured.

    Raises:
        ConfigError: a parameter whose name is nearly one of the node's, or one of an unsuitable value.
    """
    known = {o.key: o for o in options(cls)}
    given = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
    _check_of_ros(given)
    unknown = sorted(k for k in given if k not in (*known, *_OF_ROS) and not k.startswith(_QOS))
    slips = {k: meant for k in unknown if (meant := _meant(k, known))}
    if slips:
        told = ", ".join(f"{k} (did you mean {meant}?)" for k, meant in slips.items())
        plural = "s" if len(slips) > 1 else ""
        raise ConfigError(f"unknown parameter{plural}: {told}; known are {', '.join(known)}")
    if unknown:
        told = ", ".join(f"{name}{_same_leaf(name, known)}" for name in unknown)
        node.get_logger().warning(f"parameters that are not of this node are ignored: {told}")
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


def _same_leaf(name: str, known: Iterable[str]) -> str:
    """A question, where a name without a group is one of the node's without its group."""
    near = next((k for k in known if k.rpartition(".")[2] == name), "")
    return f" (did you mean {near}?)" if near else ""


def _meant(name: str, known: Iterable[str]) -> str:
    """The parameter that a misspelled name is nearest to; empty for a name of something else."""
    groups = {k.rpartition(".")[0] for k in known} - {""}
    if name in groups or name in ("qos_overrides",):
        return f"{name}.…"
    below = next((k for k in known if name.startswith(f"{k}.")), "")
    if below:
        return below
    group, _, leaf = name.rpartition(".")
    leaves = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == group]
    if group and (near := difflib.get_close_matches(leaf, leaves, 1, _NEAR_IN_GROUP)):
        return f"{group}.{near[0]}"
    near = difflib.get_close_matches(name, [*known, *_OF_ROS], 1, _NEAR)
    return near[0] if near else ""


def _check_of_ros(given: Mapping[str, Any]) -> None:
    """Refuse what ROS itself would take without a word, or end the process with.

    Raises:
        ConfigError: naming parameter and value.
    """
    for name in _OF_ROS:
        if name in given and not isinstance(given[name], bool):
            raise ConfigError(f"{name}: expected true or false, got {given[name]!r}")
    for name, value in given.items():
        if not name.startswith(_QOS):
            continue
        topic, _, rest = name.removeprefix(_QOS).rpartition(".")
        side = topic.rpartition(".")[2].partition("_")[0]
        if rest not in _POLICIES or side not in ("publisher", "subscription"):
            raise ConfigError(
                f"{name}: expected {_QOS}<topic>.<publisher or subscription>.<{' or '.join(_POLICIES)}>"
            )
        choices = _POLICIES[rest]
        if choices and value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        if not choices and not (type(value) is int and 0 < value <= _DEEPEST):
            raise ConfigError(f"{name}: expected a number of messages, 1 to {_DEEPEST}, got {value!r}")


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
