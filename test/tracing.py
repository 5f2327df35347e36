"""How many graphs a compiler makes; the fixture `traced` begins to count."""

from torch._dynamo.utils import counters


def graphs() -> int:
    """How many graphs Dynamo has made since then."""
    return counters["stats"]["unique_graphs"]
