"""From a launch file and its arguments to its processes.

Everything is resolved before anything runs, so that a mistake in the last line of the last included
file is reported before the first node starts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_nodes.launcher.document import DEEPEST_INCLUDE, Element, LaunchError, load_document
from vla_nodes.launcher.process import (
    ProcessDescription,
    describe_process,
    join_namespace,
    located,
)
from vla_nodes.launcher.substitution import (
    Scope,
    as_boolean,
    as_condition,
    substitute,
)
from vla_nodes.launcher.values import literal_boolean, read_yaml

# Launch arguments that every file has.
OF_LAUNCH = {"launch-prefix", "launch-prefix-filter", "sigterm_timeout", "sigkill_timeout"}


@dataclass
class LaunchContext:
    """The state that actions change, in the order of the file."""

    scope: Scope
    scratch: Path
    parameters: list[Any] = field(default_factory=list)
    remaps: list[tuple[str, str]] = field(default_factory=list)
    start_environment: dict[str, str] = field(default_factory=dict)
    depth: int = 0


@dataclass
class Expansion:
    """The result of expanding a launch file."""

    processes: list[ProcessDescription] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)


def expand(
    path: Path,
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    scratch: Path,
) -> Expansion:
    """Resolves a launch file into processes. Raises LaunchError with file, line and element.

    arguments: launch arguments by name. environment: of the caller. scratch: an existing folder for
    parameter files that nodes read at every start.
    """
    path = path.resolve()
    scope = Scope(dict(arguments), dict(environment), path)
    context = LaunchContext(scope, scratch, start_environment=dict(environment))
    expansion = Expansion()
    root = load_document(path)
    _require_arguments(root, root, set(arguments))
    _visit_file(root, context, expansion)
    known = expansion.declared | scope.used_configurations | OF_LAUNCH
    for name in arguments:
        if name not in known:
            expansion.warnings.append(
                f"launch argument '{name}' is not used; known are: "
                f"{', '.join(sorted(expansion.declared)) or 'none'}"
            )
    return expansion


def _visit_file(root: Element, context: LaunchContext, expansion: Expansion) -> None:
    # As in ros2 launch, $(dirname) stays that of the included file after the <include>.
    context.scope.file = root.file
    context.depth += 1
    if context.depth > DEEPEST_INCLUDE:
        raise root.error(f"files include each other more than {DEEPEST_INCLUDE} deep")
    if "deprecated" in root.attributes:
        expansion.warnings.append(f"{root.file} is deprecated: {root.attributes['deprecated']}")
    for child in root.children:
        _visit(child, context, expansion)
    context.depth -= 1


def _visit(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    with located(element):
        if _condition(element, context.scope):
            _ACTIONS[element.tag](element, context, expansion)


def _condition(element: Element, scope: Scope) -> bool:
    if "if" in element.attributes:
        return as_condition(substitute(element.attributes["if"], scope))
    if "unless" in element.attributes:
        return not as_condition(substitute(element.attributes["unless"], scope))
    return True


def _attribute(element: Element, name: str, context: LaunchContext) -> str:
    return substitute(element.attributes[name], context.scope)


def _declare(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    name = element.attributes["name"]
    expansion.declared.add(name)
    configurations = context.scope.configurations
    if name not in configurations:
        if "default" not in element.attributes:
            raise _missing(element, element)
        configurations[name] = _attribute(element, "default", context)
    choices = [choice.attributes["value"] for choice in element.named("choice")]
    if choices and configurations[name] not in choices:
        about = f" ({element.get('description')})" if element.get("description") else ""
        raise element.error(
            f"launch argument '{name}' is '{configurations[name]}'; "
            f"it must be one of: {', '.join(choice or 'nothing' for choice in choices)}{about}"
        )


def _missing(argument: Element, reported_at: Element) -> LaunchError:
    name, description = argument.attributes["name"], argument.get("description")
    about = f" ({description})" if description else ""
    add = f'<arg name="{name}" value="..."/>' if reported_at.tag == "include" else f"{name}:=VALUE"
    return reported_at.error(
        f"launch argument '{name}'{about} has no default and was not given; add {add}"
    )


def _require_arguments(root: Element, reported_at: Element, given: set[str]) -> None:
    """Refuse an included file whose unconditional arguments without default are not passed."""
    for element in root.children:
        if element.tag == "group" and not {"if", "unless"} & element.attributes.keys():
            _require_arguments(element, reported_at, given)
        required = element.tag == "arg" and not {"default", "if", "unless"} & set(
            element.attributes
        )
        if required and element.attributes["name"] not in given:
            raise _missing(element, element if reported_at.tag == "launch" else reported_at)


def _let(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    name = _attribute(element, "name", context)
    context.scope.configurations[name] = _attribute(element, "value", context)


def _include(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    path = Path(_attribute(element, "file", context))
    if not path.is_file():
        raise element.error(f"there is no launch file '{path}'")
    root = load_document(path.resolve())
    passed = [
        (_attribute(argument, "name", context), argument) for argument in element.named("arg")
    ]
    _require_arguments(root, element, {name for name, _ in passed})
    for name, argument in passed:
        with located(argument):
            value = _attribute(argument, "value", context)
        context.scope.configurations[name] = value
    _visit_file(root, context, expansion)


def _group(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    scoped = literal_boolean(element.get("scoped") or "true")
    forwarding = literal_boolean(element.get("forwarding") or "true")
    kept = {
        _attribute(keep, "name", context): _attribute(keep, "value", context)
        for keep in element.named("keep")
    }
    scope = context.scope
    names = ("configurations", "environment")
    outer = [copy.copy(getattr(scope, name)) for name in names]
    outer_rules = (list(context.parameters), list(context.remaps))
    if scoped and not forwarding:
        scope.configurations = {}
        scope.environment = dict(context.start_environment)
        context.parameters, context.remaps = [], []
    scope.configurations.update(kept)
    for child in element.children:
        if child.tag != "keep":
            _visit(child, context, expansion)
    if scoped:
        scope.configurations, scope.environment = outer
        context.parameters, context.remaps = outer_rules


def _process(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    description = describe_process(
        element,
        scope=context.scope,
        scratch=context.scratch,
        parameters=context.parameters,
        remaps=context.remaps,
        number=len(expansion.processes) + 1,
        warn=expansion.warnings.append,
    )
    expansion.processes.append(description)


def _push_namespace(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    # Kept among the configurations, as launch does, so that a group restores it.
    configurations = context.scope.configurations
    pushed = _attribute(element, "namespace", context)
    configurations["ros_namespace"] = join_namespace(configurations.get("ros_namespace"), pushed)


def _set_environment(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    name = _attribute(element, "name", context)
    context.scope.environment[name] = _attribute(element, "value", context)


def _unset_environment(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    context.scope.environment.pop(_attribute(element, "name", context), None)


def _append_environment(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    name, value = _attribute(element, "name", context), _attribute(element, "value", context)
    parts = [value]
    if name in context.scope.environment:
        parts.insert(0, context.scope.environment[name])
    if "prepend" in element.attributes and as_boolean(_attribute(element, "prepend", context)):
        parts.reverse()
    separator = _attribute(element, "separator", context) if element.get("separator") else ":"
    context.scope.environment[name] = separator.join(parts)


def _reset_environment(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    context.scope.environment = dict(context.start_environment)


def _set_parameter(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    name = _attribute(element, "name", context)
    context.parameters.append((name, read_yaml(_attribute(element, "value", context))))


def _set_parameters_file(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    path = Path(_attribute(element, "filename", context))
    if not path.exists():
        raise element.error(f"there is no parameter file '{path}'")
    context.parameters.append(path.resolve())


def _set_remap(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    rule = (_attribute(element, "from", context), _attribute(element, "to", context))
    context.remaps.append(rule)


def _log(element: Element, context: LaunchContext, expansion: Expansion) -> None:
    expansion.messages.append(_attribute(element, "message", context))


_ACTIONS: dict[str, Callable[[Element, LaunchContext, Expansion], None]] = {
    "arg": _declare,
    "let": _let,
    "include": _include,
    "group": _group,
    "node": _process,
    "executable": _process,
    "push_ros_namespace": _push_namespace,
    "push-ros-namespace": _push_namespace,
    "set_env": _set_environment,
    "unset_env": _unset_environment,
    "append_env": _append_environment,
    "reset_env": _reset_environment,
    "set_parameter": _set_parameter,
    "set_parameters_from_file": _set_parameters_file,
    "set_remap": _set_remap,
    "log": _log,
}
