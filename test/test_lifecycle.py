"""Every managed node goes round its lifecycle several times and leaves nothing behind."""

import signal

import pytest
from node_harness import Graph
from rosgraph_msgs.msg import Clock

from vla_nodes import qos

pytestmark = pytest.mark.nodes

CYCLES = 4
# Executable, parameters, and a topic that speaks only while the node is active, if there is one
# that needs no input.
NODES = [
    ("perception", {}, None),
    ("sim", {}, ("clock", Clock, qos.CLOCK)),
]


@pytest.mark.parametrize(("executable", "parameters", "output"), NODES)
def test_cycles(executable, parameters, output):
    with Graph() as graph:
        node = graph.start(executable, autostart=False, **parameters)
        messages = []
        if output is not None:
            topic, kind, profile = output
            graph.node.create_subscription(kind, topic, messages.append, profile)
        graph.wait_state(executable, "unconfigured")
        topics = None
        for _ in range(CYCLES):
            assert graph.transition(executable, "configure")
            assert graph.state(executable) == "inactive"
            assert graph.transition(executable, "activate")
            assert graph.state(executable) == "active"
            if output is not None:
                messages.clear()
                graph.wait(lambda: len(messages) > 5, f"messages on {output[0]}")
            assert graph.transition(executable, "deactivate")
            assert graph.transition(executable, "cleanup")
            assert graph.state(executable) == "unconfigured"
            messages.clear()
            graph.wait_diagnostic(executable, lambda status: True)
            assert not messages, "an unconfigured node must be silent"
            remaining = sorted(
                graph.node.get_publisher_names_and_types_by_node(executable, "/")
                + graph.node.get_subscriber_names_and_types_by_node(executable, "/")
                + graph.node.get_service_names_and_types_by_node(executable, "/")
            )
            assert topics in (None, remaining), "something was left on the graph"
            topics = remaining
        assert not graph.transition(executable, "activate"), "not from unconfigured"
        assert node.running
        assert node.stop(signal.SIGTERM) == 0
        assert "Traceback" not in node.output


@pytest.mark.parametrize(("executable", "parameters", "output"), NODES)
def test_shutdown_from_active(executable, parameters, output):
    with Graph() as graph:
        node = graph.start(executable, **parameters)
        graph.wait_state(executable, "active")
        assert graph.transition(executable, "shutdown")
        assert graph.state(executable) == "finalized"
        assert node.stop(signal.SIGINT) == 0
