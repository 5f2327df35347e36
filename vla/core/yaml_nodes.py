"""The size of a YAML text, counted before it is built: aliases, depth, tags and keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from vla.core.shown import brief

MOST_DEPTH = 64  # Lists and mappings in one another.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _PLAIN}


@dataclass
class _Node:
    """A list or mapping that is being read, and how many values it has expanded to so far."""

    anchor: str | None
    keys: set[str] | None = None
    entries: int = 0
    size: int = 1


@dataclass
class _Nodes:
    """The size of each anchored node, and the nodes that are still open."""

    sizes: dict[str, int] = field(default_factory=dict)
    open: list[_Node] = field(default_factory=list)

    def add(self, size: int) -> None:
        """Counts a node of that size into the one that holds it."""
        if self.open:
            self.open[-1].size += size
            self.open[-1].entries += 1


def require_bounded(text: str, where: str, error: type[Exception], most_nodes: int) -> None:
    """Raises `error` where a YAML text would expand to too many or too deep values."""
    nodes = _Nodes()
    for event in yaml.parse(text, Loader=YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in nodes.sizes:
                raise error(
                    f"{where} has the alias {brief(event.anchor)}, which stands for nothing, or "
                    "for what holds it; write out what is meant"
                )
            nodes.add(nodes.sizes[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            _require_scalar(event, nodes, where, error)
            nodes.add(1)
            if event.anchor:
                nodes.sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            _require_tag(event.tag, where, error)
            mapping = isinstance(event, yaml.MappingStartEvent)
            nodes.open.append(_Node(event.anchor, set() if mapping else None))
            if event.anchor:
                nodes.sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = nodes.open.pop()
            nodes.add(node.size)
            if node.anchor:
                nodes.sizes[node.anchor] = node.size
        if len(nodes.open) > MOST_DEPTH:
            raise error(too_deep(where))
        if nodes.open and nodes.open[-1].size > most_nodes:
            raise error(
                f"{where} stands for more than {most_nodes} values, with those that its aliases "
                "repeat; write out what is meant"
            )


def _require_scalar(
    event: yaml.ScalarEvent, nodes: _Nodes, where: str, error: type[Exception]
) -> None:
    _require_tag(event.tag, where, error)
    number = (event.tag or "").endswith((":int", ":float"))
    number |= not event.style and event.value[:1] in tuple("+-.0123456789")
    if number and len(event.value) > 300 and " " not in event.value:
        raise error(f"{where} holds a number of {len(event.value)} characters; correct it")
    node = nodes.open[-1] if nodes.open else None
    if node is not None and node.keys is not None and node.entries % 2 == 0:
        if event.value in node.keys:
            raise error(f"{where} has {brief(event.value)} twice; remove one")
        node.keys.add(event.value)


def _require_tag(tag: str | None, where: str, error: type[Exception]) -> None:
    if tag not in (None, "!") and tag not in _PLAIN_TAGS:
        raise error(f"{where} has the tag {brief(tag)}; write plain text, numbers and lists")


def too_deep(where: str) -> str:
    """The sentence for what is nested more than MOST_DEPTH deep."""
    return (
        f"{where} has lists or mappings more than {MOST_DEPTH} deep in one another; write it "
        "flatter"
    )
