"""Declared parameters of a node: default, description, bounds, and when they may change.

A node lists its parameters once, as `Setting`s. `Settings` declares them with full descriptors (so
`ros2 param describe` explains them) and checks the values of parameter files and command lines. A
value that is refused at start does not end the node: `Settings.refused` keeps the reason,
`configure` fails with it, and a corrected value followed by another configure works.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla.core.shown import brief


@dataclass(frozen=True)
class Setting:
    """One parameter."""

    name: str  # may hold dots
    default: Any  # its type is the parameter's; a list must not be empty
    description: str  # one sentence with the unit
    bounds: tuple[float, float] | None = None  # inclusive, for each element of a list too
    choices: tuple[str, ...] = ()  # the only strings allowed
    live: bool = False  # takes effect at once; others change only while the node is unconfigured
    read_only: bool = False  # never changes after start


class Settings:
    """The declared parameters of one node; `settings["name"]` is the current value."""

    def __init__(self, node: Node, declared: tuple[Setting, ...]):
        self._node = node
        self._declared = {setting.name: setting for setting in declared}
        self.locked = False
        self.refused: dict[str, str] = {}
        node.add_on_set_parameters_callback(self._check)
        for setting in declared:
            self._declare(setting)
        node.add_post_set_parameters_callback(self._forget_refusals)

    def __getitem__(self, name: str) -> Any:
        value = self._node.get_parameter(name).value
        return list(value) if isinstance(self._declared[name].default, list) else value

    def require_valid(self) -> None:
        """Raises ValueError with one sentence for each value that was refused at start."""
        if self.refused:
            raise ValueError("; ".join(self.refused.values()))

    def has(self, parameter: Parameter) -> bool:
        """Whether a declared parameter has this value, and was not given another at start."""
        if parameter.name in self.refused or not self._node.has_parameter(parameter.name):
            return False
        own = self._node.get_parameter(parameter.name)
        return own.type_ == parameter.type_ and _plain(own.value) == _plain(parameter.value)

    def _declare(self, setting: Setting) -> None:
        descriptor = _descriptor(setting)
        # rclpy offers no public way to see an override before its type is checked; a whole number
        # for a floating-point parameter is what people write and is not worth a refusal.
        override = self._node._parameter_overrides.get(setting.name)
        default = setting.default
        ignore_override = False
        if override is not None and isinstance(default, float) and type(override.value) is int:
            default, ignore_override = float(override.value), True
        try:
            self._node.declare_parameter(setting.name, default, descriptor, ignore_override)
        except (InvalidParameterTypeException, InvalidParameterValueException):
            value = override.value if override is not None else default
            self._node.declare_parameter(setting.name, setting.default, descriptor, True)
            self.refused[setting.name] = (
                f"parameter '{setting.name}' cannot be {brief(value)}: "
                f"it must be {_expectation(setting)}"
            )

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            setting = self._declared.get(parameter.name)
            if setting is None:
                continue
            declared = self._node.has_parameter(parameter.name)
            if self.locked and declared and not setting.live:
                reason = (
                    f"'{parameter.name}' is read by configure: deactivate and clean up the node, "
                    "set it, then configure again"
                )
                return SetParametersResult(successful=False, reason=reason)
            if not _allowed(setting, parameter.value):
                reason = f"'{parameter.name}' must be {_expectation(setting)}"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _forget_refusals(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            self.refused.pop(parameter.name, None)


def _plain(value: Any) -> Any:
    """A value, as a list where it is an array of any kind."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _allowed(setting: Setting, value: Any) -> bool:
    if setting.choices:
        return value in setting.choices
    values = value if isinstance(value, list | tuple) or hasattr(value, "tolist") else [value]
    if any(isinstance(entry, float) and not math.isfinite(entry) for entry in values):
        return False
    return setting.bounds is None or all(
        setting.bounds[0] <= entry <= setting.bounds[1] for entry in values
    )


def _expectation(setting: Setting) -> str:
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if isinstance(setting.default, list):
        words = f"a list of {len(setting.default)} values like {setting.default}"
    elif setting.choices:
        words = "one of " + ", ".join(setting.choices)
    else:
        words = kind[type(setting.default)]
    if setting.bounds is not None:
        words += ", at least {:g}, at most {:g}".format(*setting.bounds)
    return words


def _descriptor(setting: Setting) -> ParameterDescriptor:
    constraints = "" if not setting.choices else "one of: " + ", ".join(setting.choices)
    if not setting.live and not setting.read_only:
        constraints = "; ".join(filter(None, [constraints, "takes effect at the next configure"]))
    descriptor = ParameterDescriptor(
        description=setting.description,
        read_only=setting.read_only,
        additional_constraints=constraints,
    )
    if setting.bounds is not None and isinstance(setting.default, float):
        low, high = map(float, setting.bounds)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif setting.bounds is not None and type(setting.default) is int:
        low, high = map(int, setting.bounds)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
    return descriptor
