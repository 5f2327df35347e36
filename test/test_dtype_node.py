"""A model node as a process, which is told a number type."""

import pytest
from fake_robot import CONTRACT_PATH
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_harness import Graph
from tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.nodes

START_UP = 180.0


def test_a_type_is_checked_at_the_start_and_shown(tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path)
    with Graph() as graph:
        node = "reasoning"
        graph.start(
            node, contract=str(CONTRACT_PATH), checkpoint=str(checkpoint), threads=1, dtype="half"
        )
        says = "parameter 'dtype' cannot be 'half': it must be one of auto, float32, bfloat16"
        graph.wait_diagnostic(node, lambda status: says in status.message, START_UP)
        graph.set_parameters(node, dtype="bfloat16")
        # Its answer comes once torch and the model are loaded.
        request = ChangeState.Request(transition=Transition(label="configure"))
        assert graph.call(ChangeState, f"{node}/change_state", request, START_UP).success
        assert graph.diagnostic(node)["dtype"] == "bfloat16"
