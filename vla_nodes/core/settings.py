"""Declared parameters of a node: default, description, range, and when they may change.

A node lists its parameters once, as `Setting`s. `Settings` declares them with full descriptors (so
`ros2 param describe` explains them) and checks whatever a parameters file or a command line gives.
A value that is refused at start does not kill the node: it is remembered in `Settings.refused`,
`configure` fails with that sentence, and a corrected value followed by another configure works.
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
    minimum: float | None = None  # inclusive, for each element of a list too
    maximum: float | None = None
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


def _allowed(setting: Setting, value: Any) -> bool:
    if setting.choices:
        return value in setting.choices
    values = value if isinstance(value, list | tuple) or hasattr(value, "tolist") else [value]
    for entry in values:
        if isinstance(entry, float) and not math.isfinite(entry):
            return False
        if setting.minimum is not None and entry < setting.minimum:
            return False
        if setting.maximum is not None and entry > setting.maximum:
            return False
    return True


def _expectation(setting: Setting) -> str:
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if isinstance(setting.default, list):
        words = f"a list of {len(setting.default)} values like {setting.default}"
    elif setting.choices:
        words = "one of " + ", ".join(setting.choices)
    else:
        words = kind[type(setting.default)]
    if setting.minimum is not None:
        words += f", at least {setting.minimum:g}"
    if setting.maximum is not None:
        words += f", at most {setting.maximum:g}"
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
    bounded = setting.minimum is not None or setting.maximum is not None
    if bounded and isinstance(setting.default, float):
        low = -math.inf if setting.minimum is None else float(setting.minimum)
        high = math.inf if setting.maximum is None else float(setting.maximum)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif bounded and type(setting.default) is int:
        low = -(2**63) if setting.minimum is None else int(setting.minimum)
        high = 2**63 - 1 if setting.maximum is None else int(setting.maximum)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
    return descriptor
