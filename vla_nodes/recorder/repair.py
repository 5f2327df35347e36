"""How the recorder handles, at its start, bags that a crash left behind."""

from __future__ import annotations

from pathlib import Path

from vla.bags.reader import recover_bag, unfinished_bags
from vla.bags.writer import BagError
from vla.core.text import one_line
from vla_nodes.core.node import ManagedNode


def complete_bags(node: ManagedNode, directory: Path) -> None:
    """Completes the unfinished bags of a folder, and skips unsound folders.

    Logs what was found in each. May run in any thread.
    """

    def skip(folder: Path, reason: str) -> None:
        text = f"{folder.name} in the recorder's folder is skipped: {reason}"
        node.get_logger().warning(one_line(text, 400))

    for bag in unfinished_bags(directory, skip):
        try:
            report = recover_bag(bag)
        except (BagError, OSError) as error:
            skip(bag, str(error))
            continue
        except Exception as error:
            # A bug of this package must not cost the other bags.
            skip(bag, f"{type(error).__name__}: {error}; please report this")
            continue
        text = f"completed {bag}, which a crash had left: {report.message_count} messages"
        words = (text, report.lost, report.kept_in_words())
        node.get_logger().warning("; ".join(filter(None, words)))
