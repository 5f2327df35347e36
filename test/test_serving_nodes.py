"""Model nodes whose policy runs on a server: the arm moves, holds while it is away, and goes on."""

from pathlib import Path

import pytest
from fake_robot import CONTRACT, CONTRACT_PATH, FakeRobot
from node_harness import Graph
from serving import gated_engine, save_linear_checkpoint
from vla_ros.msg import ActionChunk

from vla.control.session import State
from vla.serving.server import PolicyServer, ServerAccess
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes

START_UP = 90.0


def serve(folder: Path, port: int = 0) -> PolicyServer:
    server = PolicyServer(gated_engine(folder)[0], ServerAccess(port=port))
    server.start()
    return server


def test_a_served_policy_moves_the_arm_until_the_server_vanishes(tmp_path):
    folder = save_linear_checkpoint(tmp_path, CONTRACT)
    server = serve(folder)
    port = int(server.address.rpartition(":")[2])
    with Graph() as graph:
        nodes = {
            name: graph.start(
                name,
                contract=str(CONTRACT_PATH),
                server=server.address,
                observation_transport="jpeg",
                server_timeout=10.0,
                liveliness_lease=0.4,
            )
            for name in ("reasoning", "action_expert")
        }
        graph.start("controller", contract=str(CONTRACT_PATH), liveliness_lease=0.4)
        for name in (*nodes, "controller"):
            graph.wait_state(name, "active", START_UP)
        chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
        robot = FakeRobot(graph, models=False)
        robot.instruct()
        robot.wait_state(State.EXECUTING, START_UP)
        assert {chunk.checkpoint_id for chunk in chunks} == {
            server.engine.policy.reasoning.checkpoint_id
        }
        (publisher,) = graph.node.get_publishers_info_by_topic("vla/action_chunk")
        assert publisher.qos_profile.liveliness_lease_duration.nanoseconds == 400_000_000
        for node in nodes.values():
            # Of the model there is nothing here, nor of what would run it.
            assert "libtorch" not in Path(f"/proc/{node.process.pid}/maps").read_text()

        server.close()
        away = f"the server {server.address} is away"
        robot.wait_status(
            lambda status: status.state == State.HOLDING and away in status.message, away, START_UP
        )
        graph.wait_diagnostic("reasoning", lambda status: away in status.message)

        again = serve(folder, port)
        robot.wait_state(State.EXECUTING, START_UP)
        again.close()


def test_a_server_that_is_not_there_is_named():
    with Graph() as graph:
        graph.start("reasoning", contract=str(CONTRACT_PATH), server="ws://127.0.0.1:1")
        says = "the server ws://127.0.0.1:1 is away"
        graph.wait_diagnostic("reasoning", lambda status: says in status.message, START_UP)
