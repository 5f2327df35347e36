"""Every managed node goes round its lifecycle several times and leaves nothing behind."""

import signal

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_harness import Graph, use_test_interfaces
from rosgraph_msgs.msg import Clock

from vla_nodes.core import qos

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


MANAGED = ["perception", "reasoning", "action_expert", "controller", "recorder", "sim", "mover"]


def shut_down(graph, executable):
    """The answer to an outsider's `shutdown`."""
    request = ChangeState.Request(transition=Transition(label="shutdown"))
    return graph.call(ChangeState, f"{executable}/change_state", request).success


@pytest.mark.parametrize("executable", MANAGED)
def test_a_shutdown_by_an_outsider_ends_the_process_so_that_it_can_be_started_anew(executable):
    """A finalized node that lives on could neither work nor be replaced by its launcher."""
    use_test_interfaces()
    with Graph() as graph:
        node = graph.start(executable, autostart=False)
        graph.wait_state(executable, "unconfigured")
        graph.processes.remove(node)
        assert shut_down(graph, executable)
        graph.wait(lambda: not node.running, f"end of {executable}", 10.0)
        assert node.process.returncode == 0, node.output
        assert "Traceback" not in node.output


@pytest.mark.parametrize(("executable", "parameters", "output"), NODES)
def test_shutdown_from_active(executable, parameters, output):
    with Graph() as graph:
        node = graph.start(executable, **parameters)
        graph.wait_state(executable, "active")
        graph.processes.remove(node)
        assert shut_down(graph, executable)
        graph.wait(lambda: not node.running, f"end of {executable}", 10.0)
        assert node.process.returncode == 0, node.output
        assert "deactivated" in node.output and "Traceback" not in node.output
        graph.start(executable, **parameters)
        graph.wait_state(executable, "active")
