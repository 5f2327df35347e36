"""Prints which package imports which, as the mermaid diagram of docs/architecture.md.

    python tools/import_graph.py

An arrow points to what is imported. What can be reached by other arrows has none of its own, so
that the picture shows the order of the layers; the rules themselves are [tool.importlinter]'s.
"""

from __future__ import annotations

import grimp
from grimp import ImportGraph

ROOTS = ("vla", "vla_nodes", "vla_cli")


def packages(graph: ImportGraph) -> list[str]:
    """The packages below the roots; a root without any is one itself."""
    found = []
    for root in ROOTS:
        children = sorted(graph.find_children(root))
        found += [child for child in children if graph.find_children(child)] or [root]
    return found


def imports(graph: ImportGraph, names: list[str]) -> dict[str, set[str]]:
    """What each package imports of the others, directly."""
    return {
        name: {
            other
            for other in names
            if other != name
            and graph.direct_import_exists(importer=name, imported=other, as_packages=True)
        }
        for name in names
    }


def without_detours(imported: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no other path replaces."""

    def reached(start: str) -> set[str]:
        todo, seen = [start], set()
        while todo:
            for name in imported[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    return sorted(
        (name, other)
        for name, others in imported.items()
        for other in others
        if not any(other in reached(third) for third in others - {other})
    )


def diagram() -> str:
    """The diagram as text."""
    graph = grimp.build_graph(*ROOTS, exclude_type_checking_imports=True, cache_dir=None)
    names = packages(graph)
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"  {a} --> {b}" for a, b in without_detours(imports(graph, names))]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print(diagram())
