"""Requests of ordinary rclpy programs, many at once: each is answered, and a stop comes first."""

import json
import signal
from functools import partial

import pytest
from fake_robot import CONTRACT_PATH, FakeRobot
from node_harness import ROBOTS, Graph
from rclpy.action import ActionClient
from std_srvs.srv import Trigger
from vla_ros.action import ExecuteInstruction
from vla_ros.srv import SetInstruction

from vla.control.session import Outcome, State
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes

SET = ("SetInstruction", "vla/set_instruction")
GOAL = ("ExecuteInstruction", "vla/execute_instruction")


@pytest.fixture(scope="module")
def robot():
    with Graph() as graph:
        graph.start("controller", contract=str(CONTRACT_PATH), fault_timeout=2.0)
        graph.wait_state("controller", "active")
        yield FakeRobot(graph)


def start_caller(graph, *arguments):
    return graph.run_script(ROBOTS / "caller.py", tuple(map(str, arguments)))


def finish(graph, caller):
    """What the caller has counted."""
    graph.wait(lambda: not caller.running, f"the end of {caller.name}", 60.0, alive=False)
    graph.processes.remove(caller)
    assert caller.process.returncode == 0, caller.output
    return json.loads(caller.output.splitlines()[-1])


def called(graph, kind, name, count, rate):
    return finish(graph, start_caller(graph, kind, name, count, rate))


def test_a_thousand_calls_at_a_hundred_a_second_are_answered_and_so_is_stop(robot):
    stops = start_caller(robot.graph, "Trigger", "vla/stop", 10, 2)
    counts = called(robot.graph, *SET, 1000, 100)
    assert counts["sent"] == counts["answered"] == 1000
    assert {text[:4] for text, _ in counts["said"]} <= {"acce", "a st"}, counts
    assert finish(robot.graph, stops)["taken"] == 10


@pytest.mark.parametrize(("kind", "count"), [(SET, 300), (GOAL, 60)])
def test_all_at_once_are_answered(robot, kind, count):
    # The last goal ends because the arm holds; those before it are replaced.
    robot.cut.add("chunks")
    counts = called(robot.graph, *kind, count, 0)
    robot.restore()
    assert counts["answered"] == counts["taken"] == count, counts


def test_a_caller_that_dies_takes_no_answer_from_others(robot):
    callers = [start_caller(robot.graph, *SET, 200, 50) for _ in range(4)]
    robot.graph.wait(lambda: all("ready" in caller.output for caller in callers), "the callers")
    first = robot.instruction_id
    robot.graph.wait(lambda: robot.instruction_id != first, "the first of the calls")
    victim = callers.pop()
    victim.stop(signal.SIGKILL)
    robot.graph.processes.remove(victim)
    counts = [finish(robot.graph, caller) for caller in callers]
    assert [count["answered"] for count in counts] == [200] * 3, counts
    assert robot.trigger("vla/stop").success


def test_many_requests_to_load_an_adapter_are_answered(robot):
    counts = called(robot.graph, "LoadAdapter", "vla/load_adapter", 50, 0)
    assert counts["answered"] == 50 and counts["taken"] == 0


def test_a_stop_overtakes_what_waits_and_refuses_it(robot):
    graph, node = robot.graph, robot.graph.node
    instructions = node.create_client(SetInstruction, SET[1], qos_profile=qos.SERVICE)
    goals = ActionClient(node, ExecuteInstruction, GOAL[1], **qos.ACTION)
    stop, resume = (node.create_client(Trigger, name) for name in ("vla/stop", "vla/resume"))
    for client in (instructions, stop, resume):
        graph.wait(client.service_is_ready, "the service")
    graph.wait(goals.server_is_ready, "the action")
    robot.instruct()
    # A server that does not know its client yet drops the answer.
    request = partial(SetInstruction.Request, mode="act")
    known = [
        instructions.call_async(request(instruction="known")),
        stop.call_async(Trigger.Request()),
        resume.call_async(Trigger.Request()),
    ]
    graph.wait(lambda: all(future.done() for future in known), "the first answers")
    (controller,) = graph.processes
    controller.process.send_signal(signal.SIGSTOP)
    try:
        waiting = [instructions.call_async(request(instruction=f"block {i}")) for i in range(30)]
        sent = [
            goals.send_goal_async(ExecuteInstruction.Goal(instruction=f"goal {i}", timeout=60.0))
            for i in range(10)
        ]
        resumed = resume.call_async(Trigger.Request())
        stopped = stop.call_async(Trigger.Request())
    finally:
        controller.process.send_signal(signal.SIGCONT)
    everything = [*waiting, *sent, resumed, stopped]
    graph.wait(lambda: all(future.done() for future in everything), "all answers")
    assert stopped.result().success
    assert robot.wait_state(State.STOPPED)
    answers = [future.result() for future in (*waiting, resumed)]
    # The controller may have taken a few before the stop was there.
    refused = {answer.message for answer in answers if not answer.success}
    assert refused <= {
        "a stop came before its turn: send it again",
        "nothing is stopped: send an instruction to move the arm",
    }
    assert "a stop came before its turn: send it again" in refused
    results = [f.result().get_result_async() for f in sent if f.result().accepted]
    graph.wait(lambda: all(future.done() for future in results), "the results")
    assert {future.result().result.error_code for future in results} <= {
        int(Outcome.STOPPED),
        int(Outcome.REPLACED),
    }
    assert robot.wait_state(State.STOPPED)
    goals.destroy()
    # What is sent afterwards is taken.
    robot.instruct()


def test_an_inactive_controller_refuses_all_at_once(robot):
    graph = robot.graph
    assert graph.transition("controller", "deactivate")
    try:
        for kind, count in ((SET, 200), (GOAL, 30), (("Trigger", "vla/resume"), 30)):
            counts = called(graph, *kind, count, 0)
            assert counts["answered"] == count and counts["taken"] == 0, counts
    finally:
        assert graph.transition("controller", "activate")
