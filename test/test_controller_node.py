"""The controller as a real process, with a fake robot and fake model nodes over DDS."""

import math
import signal
import time

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from fake_robot import (
    CONTRACT,
    CONTRACT_PATH,
    KINEMATICS,
    LIMITS,
    FakeRobot,
    outcome,
    start_goal,
)
from node_harness import ROOT, Graph
from vla_ros.action import ExecuteInstruction
from vla_ros.msg import PolicyStatus
from vla_ros.srv import LoadAdapter, SetInstruction

from vla.control.robots import panda
from vla.control.session import HoldReason, Outcome, State
from vla_nodes.controller.node import Controller

Result = ExecuteInstruction.Result

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def shared_robot():
    with Graph() as graph:
        graph.start("controller", contract=str(CONTRACT_PATH), fault_timeout=2.0)
        graph.wait_state("controller", "active")
        yield FakeRobot(graph)


@pytest.fixture
def robot(shared_robot):
    """The robot with no instruction in force, all streams on, at its start."""
    robot = shared_robot
    robot.restore()
    robot.trigger("vla/stop")
    robot.joints = np.array(panda.HOME, dtype=float)
    yield robot


@pytest.fixture
def moving(robot):
    robot.instruct()
    robot.wait_state(State.EXECUTING)
    robot.assert_moving()
    return robot


def test_follows_chunks_within_limits(moving):
    moving.commands.clear()
    moving.graph.wait(lambda: len(moving.commands) > 50, "commands")
    joints = np.array([command.points[0].positions for command in moving.commands])
    assert np.isfinite(joints).all()
    speed = np.abs(np.diff(joints, axis=0)).max(axis=0) * LIMITS.control_rate
    assert (speed <= panda.JOINT_MAX_VELOCITY * 1.001).all()
    assert list(moving.commands[0].joint_names) == list(CONTRACT.joint_names)
    assert moving.widths[-1] == 0.0
    status = moving.wait_state(State.EXECUTING)
    assert status.chunks_accepted > 0 and 0.0 < status.chunk_age < LIMITS.execution.max_chunk_age
    assert status.message == "" and status.instruction == "pick the red block"


def test_wild_chunks_stay_within_limits(robot):
    robot.instruct()
    robot.speed = 4.0
    robot.commands.clear()
    robot.graph.wait(lambda: len(robot.commands) > 50, "commands")
    joints = np.array([command.points[0].positions for command in robot.commands])
    speed = np.abs(np.diff(joints, axis=0)).max(axis=0) * LIMITS.control_rate
    assert (speed <= panda.JOINT_MAX_VELOCITY * 1.001).all()
    assert KINEMATICS.tool_pose(joints[-1])[0][0] <= LIMITS.safety.workspace_max[0] + 0.02
    assert robot.wait_state(State.EXECUTING).limited_steps > 0


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"actions": [math.nan] * 112}, HoldReason.NON_FINITE, "NaN"),
        ({"contract_id": "0123456789ab"}, HoldReason.CONTRACT_MISMATCH, "contract_id"),
        ({"actions": [0.0] * 10}, HoldReason.CONTRACT_MISMATCH, "number of values"),
        ({"time_step": 0.5}, HoldReason.CONTRACT_MISMATCH, "time_step"),
        ({"action_names": ["a"] * 7}, HoldReason.CONTRACT_MISMATCH, "action_names"),
    ],
)
def test_holds_on_an_unsound_chunk(moving, changes, reason, says):
    moving.chunk_changes = changes
    status = moving.wait_hold(reason)
    assert says in status.message and status.chunks_rejected > 0
    moving.assert_still()
    moving.restore()
    moving.wait_state(State.EXECUTING)


def test_huge_and_forged_strings_are_one_short_line_wherever_they_are_shown(moving):
    (process,) = moving.graph.processes
    process.forget_output()
    forged = "x\x1b[31m\n[ERROR] [controller]: forged " + "A" * 3_000_000
    moving.chunk_changes = {"representation": forged, "action_names": ["A" * 1000] * 200}
    status = moving.wait_hold(HoldReason.CONTRACT_MISMATCH)
    said = moving.graph.wait_diagnostic("controller", lambda s: "representation" in s.message)
    assert len(status.message) <= 1000 and len(said.message) <= 1000
    assert "\\x1b[31m" in status.message and "\n" not in status.message
    moving.graph.wait(lambda: "representation is 'x" in process.output, "a line of the log")
    lines = process.output.splitlines()
    assert max(map(len, lines)) < 1200
    assert not [line for line in lines if line.startswith("[ERROR] [controller]")]
    assert "\x1b[31m" not in process.output
    moving.restore()
    moving.wait_state(State.EXECUTING)


@pytest.mark.parametrize(
    ("stream", "reason", "says"),
    [
        ("joint_states", HoldReason.STALE_STATE, "joint states"),
        ("observations", HoldReason.STALE_CHUNK, "perception"),
        ("chunks", HoldReason.STALE_CHUNK, "action_expert"),
    ],
)
def test_holds_when_a_stream_stops_and_goes_on_when_it_returns(moving, stream, reason, says):
    moving.cut.add(stream)
    cut_at = time.monotonic()
    status = moving.wait_hold(reason, timeout=3.0)
    if stream != "chunks":
        assert time.monotonic() - cut_at < 0.4
    assert says in status.message
    moving.assert_still()
    moving.restore()
    moving.wait_state(State.EXECUTING)


def test_chunks_of_another_instruction_or_time_do_not_move_the_arm(robot):
    robot.chunk_changes = {"instruction_id": 7}
    robot.instruct()
    before = robot.wait_state(State.WAITING).chunks_rejected
    robot.wait_status(lambda status: status.chunks_rejected > before + 2, "refusals")
    robot.chunk_changes = {}
    robot.wait_state(State.EXECUTING)
    old = robot.chunk()
    old.header.stamp = Time(sec=old.header.stamp.sec - 60)
    robot.chunk_changes = {"header": old.header}
    robot.wait_hold(HoldReason.STALE_CHUNK)
    robot.assert_still()


def test_waiting_says_which_input_is_missing(robot):
    robot.cut = {"latents", "chunks"}
    robot.instruct()
    assert "reasoning" in robot.wait_state(State.WAITING).message
    robot.cut = {"chunks"}
    robot.wait_status(lambda status: "action_expert" in status.message, "the next missing input")


def test_bad_joint_states_make_the_arm_hold(moving):
    moving.joint_values = {"panda_joint3": math.nan}
    assert "panda_joint3" in moving.wait_hold(HoldReason.STALE_STATE).message
    status = moving.graph.wait_diagnostic("controller", lambda s: "panda_joint3" in s.message)
    assert status.level != b"\x00"
    moving.assert_still()
    moving.restore()
    moving.wait_state(State.EXECUTING)


def test_a_new_instruction_flushes_the_chunk(moving):
    old = moving.instruction_id
    moving.chunk_changes = {"instruction_id": old}
    new = moving.instruct("put the can in the bowl")
    assert new > old
    status = moving.wait_state(State.WAITING)
    assert status.instruction == "put the can in the bowl" and math.isnan(status.chunk_age)
    moving.assert_still()


def test_stop_holds_until_resume(moving):
    assert moving.trigger("vla/stop").success
    moving.wait_state(State.STOPPED)
    instruction_id = moving.status.instruction_id
    moving.graph.wait(lambda: moving.instruction_id == 0, "nothing to compute")
    held = moving.joints.copy()
    for _ in range(3):
        moving.wait_state(State.STOPPED)
    assert np.abs(moving.joints - held).max() == 0.0
    answer = moving.trigger("vla/resume")
    assert answer.success and "pick the red block" in answer.message
    assert moving.wait_state(State.EXECUTING).instruction_id == instruction_id
    answer = moving.trigger("vla/resume")
    assert not answer.success and "nothing is stopped" in answer.message


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("", "act", "empty"),
        ("  ", "", "empty"),
        ("go", "run", "unknown"),
        ("stop\x1b[2K", "act", "cannot be seen (U+001B, number 5)"),
        ("kcolb der \u202eeht pick", "think", "cannot be seen (U+202E, number 11)"),
        ("go" * 1_000_000, "act", "2000000 characters: use at most 1000"),
        ("go", "run" * 1_000_000, "unknown"),
    ],
)
def test_refuses_what_it_cannot_follow(moving, text, mode, says):
    request = SetInstruction.Request(instruction=text, mode=mode)
    answer = moving.graph.call(SetInstruction, "vla/set_instruction", request)
    assert not answer.success and says in answer.message and answer.instruction_id == 0
    assert len(answer.message) < 400
    assert moving.wait_state(State.EXECUTING).instruction == "pick the red block"


def test_asking_holds_the_arm(moving):
    moving.instruct("what is there?", mode="ask")
    assert moving.wait_state(State.IDLE).instruction == "what is there?"


def test_settling_ends_a_goal(robot):
    robot.speed = 0.0
    _, result = start_goal(robot)
    ended = outcome(robot, result)
    assert ended.error_code == Result.SETTLED and ended.instruction_id > 0
    assert ended.duration > LIMITS.settle_time
    assert robot.wait_state(State.IDLE).instruction_id == 0 and robot.instruction_id == 0


def test_settled_shows_in_the_status_of_an_instruction_nobody_waits_for(robot):
    robot.speed = 0.0
    robot.instruct()
    status = robot.wait_status(lambda status: status.settled, "settled")
    assert status.state == State.EXECUTING


def test_a_goal_times_out(robot):
    _, result = start_goal(robot, timeout=0.5)
    ended = outcome(robot, result)
    assert ended.error_code == Result.TIMEOUT and 0.5 <= ended.duration < 1.0


def test_stop_ends_a_goal(robot):
    _, result = start_goal(robot)
    robot.wait_state(State.EXECUTING)
    robot.trigger("vla/stop")
    assert outcome(robot, result).error_code == Result.STOPPED


def test_another_instruction_ends_a_goal(robot):
    _, result = start_goal(robot)
    robot.wait_state(State.EXECUTING)
    robot.instruct("open the drawer")
    ended = outcome(robot, result)
    assert ended.error_code == Result.REPLACED and "open the drawer" in ended.message
    assert robot.wait_state(State.EXECUTING).instruction == "open the drawer"


def test_a_goal_can_be_cancelled(robot):
    handle, result = start_goal(robot)
    robot.wait_state(State.EXECUTING)
    robot.graph.wait(handle.cancel_goal_async().done, "the cancellation")
    assert outcome(robot, result).error_code == Result.CANCELED
    robot.wait_state(State.IDLE)


def test_a_lasting_hold_ends_a_goal_as_a_fault(robot):
    robot.cut = {"chunks"}
    _, result = start_goal(robot)
    ended = outcome(robot, result)
    assert ended.error_code == Result.FAULT and "action_expert" in ended.message


@pytest.mark.parametrize(
    ("text", "mode", "timeout"),
    [
        ("", "act", 0.0),
        ("a\x07b", "act", 0.0),
        ("go", "ask", 0.0),
        ("go", "run", 0.0),
        ("go", "", math.nan),
    ],
)
def test_a_goal_that_cannot_be_followed_is_refused(robot, text, mode, timeout):
    handle, _ = start_goal(robot, text, mode, timeout)
    assert not handle.accepted


def test_the_numbers_are_those_of_the_messages():
    for state in State:
        assert getattr(PolicyStatus, state.name) == state
    for reason in HoldReason:
        assert getattr(PolicyStatus, f"HOLD_{reason.name}") == reason
    for end in Outcome:
        assert getattr(Result, end.name) == end


def test_lifecycle_cycles_and_deactivation_holds():
    with Graph() as graph:
        process = graph.start("controller", contract=str(CONTRACT_PATH))
        graph.wait_state("controller", "active")
        robot = FakeRobot(graph)
        for _ in range(2):
            _, result = start_goal(robot)
            robot.wait_state(State.EXECUTING)
            assert graph.transition("controller", "deactivate")
            assert outcome(robot, result).error_code == Result.FAULT
            graph.wait(
                lambda: robot.status.hold_reason == HoldReason.INACTIVE, "the inactive status"
            )
            assert robot.instruction_id == 0
            request = SetInstruction.Request(instruction="pick the red block")
            answer = graph.call(SetInstruction, "vla/set_instruction", request)
            assert not answer.success and "activate" in answer.message
            assert graph.transition("controller", "cleanup")
            assert graph.transition("controller", "configure")
            assert graph.transition("controller", "activate")
            robot.wait_state(State.IDLE)
        assert process.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"contract": "nowhere"}, "no contract 'nowhere'"),
        ({"contract": str(CONTRACT_PATH), "workspace_min": [1.0, 1.0, 1.0]}, "workspace_min"),
        ({"contract": str(CONTRACT_PATH), "control_rate": 0.0}, "control_rate"),
    ],
)
def test_bad_parameters_are_reported_and_the_node_stays(parameters, says):
    with Graph() as graph:
        graph.start("controller", parameters=parameters)
        graph.wait_diagnostic("controller", lambda status: says in status.message)
        assert graph.state("controller") == "unconfigured"


def test_shipped_parameters_are_the_defaults_that_evaluation_in_process_uses():
    shipped = yaml.safe_load((ROOT / "config" / "controller.yaml").read_text())
    parameters = shipped["/**/controller"]["ros__parameters"]
    defaults = {setting.name: setting.default for setting in Controller.SETTINGS}
    # The backends' own parameters have a dot in their names, and belong to robots.
    own = {name for name in defaults if "." not in name}
    assert set(parameters) == own - {"contract"}
    assert parameters == {name: defaults[name] for name in parameters}


def test_no_adapter_is_loaded_without_model_nodes(moving):
    request = LoadAdapter.Request(path="/nowhere")
    answer = moving.graph.call(LoadAdapter, "vla/load_adapter", request)
    assert not answer.success
    assert "reasoning and action_expert are not there: start the model nodes" in answer.message
    moving.assert_moving()
    assert moving.wait_state(State.EXECUTING).instruction == "pick the red block"


def test_a_second_controller_of_the_same_name_is_told_from_the_first_one(robot):
    def is_told(status):
        return "another controller of the name /controller runs, too" in status.message

    graph = robot.graph
    second = graph.start("controller", contract=str(CONTRACT_PATH))
    graph.wait_diagnostic("controller", is_told, 90.0)
    graph.processes.remove(second)
    assert second.stop(signal.SIGINT) == 0
    graph.wait_diagnostic("controller", lambda s: not is_told(s))
    # Alone, it does not take itself for another one.
    mark = len(robot.statuses)
    graph.wait(lambda: len(robot.statuses) > mark + 15, "fifteen statuses")
    assert not any(map(is_told, robot.statuses[mark:]))
