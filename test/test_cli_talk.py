"""The talking half of the command line, as processes, against a real controller over DDS."""

import json
import signal
import subprocess
import sys

import pytest
from fake_robot import CONTRACT_PATH, FakeRobot
from node_harness import ROOT, Graph

from vla.control.session import State

pytestmark = pytest.mark.nodes

# A process that imports ROS may take long to start on a busy machine.
START_UP = 90.0


def start(graph, *arguments, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "vla"), *arguments],
        env=graph.environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(graph, process):
    """Exit status and both outputs; the fake robot goes on meanwhile."""
    graph.wait(lambda: process.poll() is not None, f"end of {process.args}", START_UP)
    out, error = process.communicate()
    return process.returncode, out, error


def vla(graph, *arguments):
    return finish(graph, start(graph, *arguments))


@pytest.fixture(scope="module")
def shared_robot():
    with Graph() as graph:
        graph.start("controller", contract=str(CONTRACT_PATH))
        graph.wait_state("controller", "active")
        yield FakeRobot(graph)


@pytest.fixture
def robot(shared_robot):
    shared_robot.restore()
    shared_robot.trigger("vla/stop")
    return shared_robot


def test_instruct_waits_until_the_motion_settles(robot, tmp_path):
    robot.speed = 0.0
    result = tmp_path / "new" / "result.json"
    status, out, _ = vla(robot.graph, "instruct", "pick the red block", "--json", str(result))
    assert status == 0 and "executing" in out and "settled" in out
    written = json.loads(result.read_text())
    assert written["outcome"] == "settled" and written["instruction"] == "pick the red block"
    assert written["seconds"] > 1.0 and written["instruction_id"] > 0


def test_instruct_fails_when_the_time_is_up(robot):
    status, out, _ = vla(robot.graph, "instruct", "pick the red block", "--timeout", "1")
    assert status == 1 and "timeout" in out


def test_interrupting_instruct_cancels(robot):
    process = start(robot.graph, "instruct", "pick the red block")
    robot.wait_state(State.EXECUTING, START_UP)
    process.send_signal(signal.SIGINT)
    status, out, _ = finish(robot.graph, process)
    assert status == 1 and "canceled" in out
    robot.wait_state(State.IDLE)


def test_instruct_without_waiting_then_status_stop_and_resume(robot):
    graph = robot.graph
    status, out, _ = vla(graph, "instruct", "pick the red block", "--no-wait")
    assert status == 0 and "accepted" in out
    robot.wait_state(State.EXECUTING)
    status, out, _ = vla(graph, "status")
    assert status == 0 and "executing 'pick the red block'" in out
    status, out, _ = vla(graph, "stop")
    assert status == 0 and "resume" in out
    robot.wait_state(State.STOPPED)
    status, out, _ = vla(graph, "resume")
    assert status == 0 and "going on" in out
    robot.wait_state(State.EXECUTING)
    status, _, error = vla(graph, "resume")
    assert status == 1 and error.count("\n") == 1 and "nothing is stopped" in error


def test_watching_the_status_shows_changes(robot, tmp_path):
    output = tmp_path / "output.txt"
    with output.open("w") as stream:
        process = start(robot.graph, "status", "--watch", stdout=stream)
    robot.graph.wait(lambda: "stopped" in output.read_text(), "the first status", START_UP)
    robot.instruct("open the drawer")
    robot.graph.wait(lambda: "executing 'open the drawer'" in output.read_text(), "the change")
    process.send_signal(signal.SIGINT)
    assert finish(robot.graph, process)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["instruct", ""], "empty"),
        (["ask", "  "], "empty"),
        (["ask", "what is there?", "--wait", "1"], "vla/ask"),
        (["stop", "--wait", "1", "--namespace", "elsewhere"], "elsewhere"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(robot, arguments, says):
    status, out, error = vla(robot.graph, *arguments)
    assert status == 2 and out == "" and error.count("\n") == 1 and says in error


@pytest.mark.parametrize("command", ["instruct", "ask", "stop", "resume", "status", "launch"])
def test_help_explains_each_command(command):
    answer = subprocess.run(
        [sys.executable, "-m", "vla_cli", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode == 0 and len(answer.stdout) > 200


def test_without_ros_the_command_says_how_to_get_it():
    script = (
        "import sys; sys.modules['rclpy'] = None\n"
        "from vla_cli import main; sys.exit(main(['status']))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert answer.returncode == 2 and "env.sh" in answer.stderr and "\n" not in answer.stderr[:-1]
