"""The node action_expert as a process: what computes its chunks, and with how many threads."""

import pytest
from fake_robot import CONTRACT_PATH
from node_harness import Graph
from tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.nodes

START_UP = 180.0


def test_runtime_and_threads_are_shown_once_the_node_is_active(tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path)
    with Graph() as graph:
        node = "action_expert"
        graph.start(
            node, contract=str(CONTRACT_PATH), checkpoint=str(checkpoint), runtime="openvino",
            dtype="bfloat16",
        )  # fmt: skip
        # Counted when the node starts to work.
        graph.wait_diagnostic(
            node, lambda status: any(v.key == "threads" for v in status.values), START_UP
        )
        shown = graph.diagnostic(node)
        # It goes on without what it can't have in this number type.
        assert shown["runtime"] == "eager" and int(shown["threads"]) >= 1
