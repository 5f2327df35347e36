"""Checks parameter files of ROS nodes before any node starts."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import yaml

from vla.core.files import read_text
from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla.core.yaml_nodes import MOST_DEPTH, YAML_LOADER, too_deep

PARAMETERS = "ros__parameters"


def require_parameters(path: str | Path, error: type[Exception]) -> None:
    """Raises `error` unless nodes can take their parameters from a file.

    Nodes and their namespaces may nest, have wildcards, and occur twice; an empty file is valid,
    too. Values are not judged, which only their node can do.
    """
    require_parameters_text(read_text(path, error), shown_path(path), error)


def require_parameters_text(text: str, where: str, error: type[Exception]) -> None:
    """require_parameters() for a file's content. where: its name in errors."""

    def refuse(what: str, cause: Exception | None = None) -> NoReturn:
        raise error(
            f"cannot read the parameters in {where}: {what}; write them as "
            "NODE: {ros__parameters: {NAME: VALUE}}"
        ) from cause

    try:
        # Nothing is constructed: the nodes decide what names and values mean.
        levels: list[_Level] = []
        for event in yaml.parse(text, Loader=YAML_LOADER):
            if isinstance(event, yaml.AliasEvent):
                refuse(f"it has the alias {brief(event.anchor)}, which nodes do not know")
            if isinstance(event, yaml.CollectionEndEvent):
                levels.pop()
            elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
                flaw = _enter(event, levels)
                if flaw:
                    refuse(f"line {event.start_mark.line + 1}: {flaw}")
            if len(levels) > MOST_DEPTH:
                raise error(too_deep(where))
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        refuse(line + one_line(getattr(problem, "problem", None) or problem), problem)


class _Level:
    """An open list or mapping.

    parameters: it lies under ros__parameters. key: of a mapping, the name whose value is due.
    """

    def __init__(self, is_list: bool, parameters: bool) -> None:
        self.is_list, self.parameters = is_list, parameters
        self.key: str | None = None


def _enter(event: yaml.NodeEvent, levels: list[_Level]) -> str:
    """Takes a name, a value or the start of a mapping or list; returns what is wrong with it."""
    scalar = isinstance(event, yaml.ScalarEvent)
    mapping = isinstance(event, yaml.MappingStartEvent)
    if not levels:
        if scalar and not event.value:
            return ""
        if not mapping:
            return "it is no mapping of nodes"
        levels.append(_Level(False, False))
        return ""
    level = levels[-1]
    if not level.is_list and level.key is None:
        level.key = event.value if scalar else None
        return "" if scalar else "a list or mapping stands where a name belongs"
    name, level.key = level.key, None
    if not level.parameters:
        if not mapping:
            return f"{brief(name)} has no mapping of parameters"
        levels.append(_Level(False, name == PARAMETERS))
    elif scalar:
        # In quotes it is an empty text.
        if not event.value and not event.style:
            return f"{brief(name)} has no value" if name else "an entry of a list has no value"
    elif level.is_list:
        return "a list holds lists or mappings"
    else:
        levels.append(_Level(not mapping, True))
    return ""
