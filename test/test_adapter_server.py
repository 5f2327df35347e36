"""The controller loads adapters; the model nodes, and what goes wrong in them, are fakes."""

import time

import pytest
from fake_robot import CONTRACT_PATH, FakeRobot
from node_harness import Graph
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from vla_ros.msg import Heartbeat
from vla_ros.srv import LoadAdapter

from vla.control.session import HoldReason, State
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes

BASE, NEW = "0123456789ab", "0123456789ab+cdef01234567"


class Halves:
    """Both model nodes' services. Each answers with (success, checkpoint_id), or never for None."""

    def __init__(self, node):
        self.answers = {}
        self.asked = []
        group = ReentrantCallbackGroup()
        for half in ("reasoning", "action_expert"):
            for action in ("load", "revert"):
                name = f"{half}/{action}_adapter"

                async def answer(request, response, name=name):
                    self.asked.append((name, request.path))
                    if self.answers[name] is None:
                        await Future()
                    response.success, response.checkpoint_id = self.answers[name]
                    response.message = "done" if response.success else "the disk is broken"
                    return response

                node.create_service(LoadAdapter, name, answer, callback_group=group)

    def set_answers(self, reasoning, action_expert, reasoning_back=None, action_expert_back=None):
        self.asked.clear()
        self.answers = {
            "reasoning/load_adapter": reasoning,
            "action_expert/load_adapter": action_expert,
            "reasoning/revert_adapter": reasoning_back,
            "action_expert/revert_adapter": action_expert_back,
        }


@pytest.fixture(scope="module")
def robot():
    with Graph() as graph:
        graph.start("controller", contract=str(CONTRACT_PATH), load_timeout=0.5)
        graph.wait_state("controller", "active")
        robot = FakeRobot(graph)
        robot.halves = Halves(graph.node)
        yield robot


@pytest.fixture
def moving(robot):
    """Moving, with the base checkpoint in both halves."""
    robot.restore()
    robot.halves.set_answers((True, BASE), (True, BASE))
    answer = load(robot, "")
    assert answer.success and answer.checkpoint_id == BASE, answer.message
    robot.chunk_changes = {"checkpoint_id": BASE}
    robot.instruct()
    robot.wait_state(State.EXECUTING)
    return robot


def load(robot, path):
    return robot.graph.call(LoadAdapter, "vla/load_adapter", LoadAdapter.Request(path=path))


def test_one_half_goes_back_when_the_other_one_fails(moving):
    moving.halves.set_answers((True, NEW), (False, BASE), reasoning_back=(True, BASE))
    answer = load(moving, "/new")
    assert not answer.success and answer.checkpoint_id == BASE
    assert "action_expert: the disk is broken; what was loaded before stays" in answer.message
    assert sorted(moving.halves.asked) == [
        ("action_expert/load_adapter", "/new"),
        ("reasoning/load_adapter", "/new"),
        ("reasoning/revert_adapter", ""),
    ]
    moving.wait_state(State.EXECUTING)


def test_halves_that_loaded_different_files_go_back(moving):
    moving.halves.set_answers((True, NEW), (True, BASE + "+9"), (True, BASE), (True, BASE))
    answer = load(moving, "/new")
    assert not answer.success and answer.checkpoint_id == BASE
    assert f"reasoning has {NEW} and action_expert has {BASE}+9" in answer.message
    moving.wait_state(State.EXECUTING)


@pytest.mark.parametrize(
    ("expert", "reasoning_back", "says"),
    [
        ((False, BASE), (False, NEW), f"reasoning has {NEW} and action_expert has {BASE}"),
        ((False, BASE), None, "nobody knows which weights reasoning has"),
        (None, (True, BASE), "nobody knows which weights action_expert has"),
    ],
)
def test_the_arm_holds_until_both_halves_agree_again(moving, expert, reasoning_back, says):
    moving.halves.set_answers((True, NEW), expert, reasoning_back)
    answer = load(moving, "/new")
    assert not answer.success and says in answer.message and "vla adapter drop" in answer.message
    assert moving.wait_hold(HoldReason.LOADING).message == answer.message
    moving.assert_still()
    # Neither a stop nor another instruction ends it.
    moving.trigger("vla/stop")
    moving.wait_state(State.STOPPED)
    moving.trigger("vla/resume")
    moving.wait_hold(HoldReason.LOADING)
    moving.halves.set_answers((True, NEW), (True, NEW))
    assert load(moving, "/new").checkpoint_id == NEW
    # Chunks of the weights before are still refused.
    assert moving.wait_hold(HoldReason.CONTRACT_MISMATCH).chunks_rejected > 0
    moving.chunk_changes = {"checkpoint_id": NEW}
    moving.wait_state(State.EXECUTING)


def test_a_late_chunk_of_the_weights_before_is_passed_over(moving):
    late = moving.chunk(checkpoint_id=BASE)
    moving.halves.set_answers((True, NEW), (True, NEW))
    assert load(moving, "/new").checkpoint_id == NEW
    moving.chunk_changes = {"checkpoint_id": NEW}
    moving.wait_state(State.EXECUTING)
    before = moving.status.chunks_rejected
    late.instruction_id = moving.status.instruction_id
    moving.chunks.publish(late)
    status = moving.wait_status(lambda s: s.chunks_rejected > before, "the refusal")
    assert status.state == State.EXECUTING
    assert int(moving.graph.diagnostic("controller")["drops_other_checkpoint"]) >= 1


def test_a_half_that_was_started_anew_is_given_the_adapter_by_its_heartbeat_alone(moving):
    beats = moving.graph.publisher(Heartbeat, "vla/heartbeat", qos.HEARTBEAT)

    def beat(life):
        beats.publish(Heartbeat(node="/reasoning", life=life))

    beaten_at = 0.0

    def holds():
        # Once in two seconds, so that it stops each time: the first may come before it is heard.
        nonlocal beaten_at
        if time.monotonic() - beaten_at > 2.0:
            beaten_at = time.monotonic()
            beat(1)
        return moving.status.hold_reason == HoldReason.STALE_CHUNK

    moving.graph.wait(holds, "the hold")
    moving.halves.asked.clear()
    moving.graph.wait(lambda: beat(2) or moving.halves.asked, "the adapter's way into the new one")
    assert moving.halves.asked == [("reasoning/load_adapter", "")]
