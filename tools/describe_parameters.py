#!/usr/bin/env python3
"""Keeps the tables of parameters in docs/nodes.md equal to what the nodes declare.

Run it in a shell with env.sh sourced, after a parameter has changed. Each table stands between
`<!-- parameters NODE -->` and `<!-- end -->`; everything else in the file is left alone.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

from vla_nodes.core.node import ManagedNode
from vla_nodes.core.settings import Setting

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "nodes.md"
MODULES = {
    "perception": "perception.node",
    "reasoning": "models.reasoning",
    "action_expert": "models.action_expert",
    "controller": "controller.node",
    "mover": "mover",
    "recorder": "recorder.node",
    "page": "page.node",
    "sim": "sim.node",
}
TABLE = re.compile(r"(<!-- parameters (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_of(node: str) -> tuple[Setting, ...]:
    """The parameters that a node declares, without those that every node has."""
    module = import_module(f"vla_nodes.{MODULES[node]}")
    for value in vars(module).values():
        own = isinstance(value, type) and value.__module__ == module.__name__
        if own and issubclass(value, ManagedNode):
            return value.SETTINGS
    raise LookupError(f"{module.__name__} has no managed node")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _range(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.bounds is None:
        return ""
    return "{:.12g} to {:.12g}".format(*setting.bounds)


def table(node: str) -> str:
    """A node's parameters as a Markdown table."""
    lines = ["| parameter | default | range | meaning |", "|---|---|---|---|"]
    for setting in settings_of(node):
        name = f"`{setting.name}`" + (" (live)" if setting.live else "")
        default = f"`{_value(setting.default)}`"
        lines.append(f"| {name} | {default} | {_range(setting)} | {setting.description} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """The document with every table filled in again."""
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


def main() -> int:
    """Rewrites the document where it is out of date."""
    before = DOCUMENT.read_text()
    after = filled(before)
    if after != before:
        DOCUMENT.write_text(after)
        print(f"{DOCUMENT.name} brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
