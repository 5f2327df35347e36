"""Others who publish on the controller's topics, or beside the model: named, and not believed.

The foreigner is the test's own node, so that it is gone as soon as its publishers are.
"""

import json
import math

import pytest
from node_harness import Graph
from recorded_robot import Robot, started
from status_cycles import noticed_in_time
from test_model_nodes import Bench
from tiny_checkpoint import save_tiny_checkpoint
from vla_ros.msg import Episode, Instruction, PolicyStatus, Response
from vla_ros.srv import SaveRecent

from vla.bags.reader import read_metadata
from vla.control.session import State
from vla_nodes.core import qos
from vla_nodes.core.liveliness import with_liveliness

pytestmark = [pytest.mark.nodes, pytest.mark.faults]

OUTSIDER = "/test_observer"
FORGED = 42


class Foreigner:
    """Publishes forged messages of some topics fifty times a second."""

    def __init__(self, graph, **messages):
        """messages: by the last word of the topic."""
        self.graph, self.messages, self.sent = graph, messages, 0
        self.publishers = {
            name: graph.node.create_publisher(
                type(message), f"vla/{name}", qos.RESPONSE if name == "response" else qos.LATCHED
            )
            for name, message in messages.items()
        }
        self.timer = graph.node.create_timer(0.02, self.send)

    def send(self):
        for name, publisher in self.publishers.items():
            publisher.publish(self.messages[name])
        self.sent += 1

    def wait(self, count):
        """Until it has sent so many more."""
        last = self.sent + count
        self.graph.wait(lambda: self.sent >= last, f"{count} forged messages")

    def leave(self):
        self.graph.node.destroy_timer(self.timer)
        for publisher in self.publishers.values():
            self.graph.node.destroy_publisher(publisher)


def forged_status(state, number=FORGED, text="dance"):
    return PolicyStatus(
        state=int(state), instruction_id=number, instruction=text, execution_mode="forged"
    )


def forged_instruction(number=FORGED, text="dance"):
    return Instruction(instruction_id=number, instruction=text, mode="act")


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory):
    with Graph() as graph:
        yield Bench(graph, save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def bench(shared_bench):
    """The models work, and the arm moves, for `bench.number`."""
    shared_bench.restore()
    shared_bench.number = shared_bench.robot.instruct()
    shared_bench.robot.wait_state(State.EXECUTING)
    return shared_bench


@pytest.fixture
def come(bench):
    """Brings a foreigner, who leaves at the end."""
    here = []

    def come(**messages):
        here.append(Foreigner(bench.graph, **messages))
        return here[-1]

    yield come
    for foreigner in here:
        foreigner.leave()
    wait_calm(bench)


def told(bench, mark=0):
    """What the controller itself has said since."""
    return [s for s in bench.robot.statuses[mark:] if s.execution_mode != "forged"]


def wait_calm(bench):
    """Until nobody else is named any more."""
    mark = len(bench.robot.statuses)
    bench.wait(lambda: any(OUTSIDER not in s.message for s in told(bench, mark)), "calm")


def wait_named(bench, topics, mark):
    """Until status and diagnostics name node and topics; judges by repetitions of the status."""

    def named(status):
        return OUTSIDER in status.message and all(f"'/vla/{t}'" in status.message for t in topics)

    bench.wait(lambda: any(map(named, told(bench, mark))), f"status that names {topics}")
    noticed_in_time(told(bench, mark), named)
    bench.graph.wait_diagnostic("controller", named)


def wait_diagnosed(bench, topics):
    for node in ("reasoning", "action_expert"):
        bench.graph.wait_diagnostic(
            node,
            lambda s: OUTSIDER in s.message and all(f"'/vla/{t}'" in s.message for t in topics),
        )


def assert_goes_on(bench, foreigner):
    bench.clear()
    foreigner.wait(50)
    bench.wait(lambda: len(bench.chunks_for(bench.number)) > 2, "further chunks")
    assert not bench.chunks_for(FORGED) and not bench.latents_for(FORGED)
    bench.wait(lambda: told(bench)[-1].state == State.EXECUTING, "motion")
    assert told(bench)[-1].instruction_id == bench.number


@pytest.mark.parametrize(
    ("state", "number", "text"),
    [(State.EXECUTING, FORGED, "dance"), (State.STOPPED, 0, ""), (State.IDLE, 0, "")],
)
def test_who_forges_instruction_and_status_is_not_followed(bench, come, state, number, text):
    mark = len(bench.robot.statuses)
    foreigner = come(
        instruction=forged_instruction(number, text), status=forged_status(state, number, text)
    )
    wait_named(bench, ("instruction", "status"), mark)
    wait_diagnosed(bench, ("instruction", "status"))
    assert_goes_on(bench, foreigner)
    # Neither topic tells of the real stop, but the controller refuses the chunks.
    assert bench.robot.trigger("vla/stop").success
    bench.robot.assert_still()
    bench.clear()
    place = bench.robot.joints
    foreigner.wait(50)
    assert (bench.robot.joints == place).all()
    foreigner.leave()
    wait_calm(bench)
    number = bench.robot.instruct("open the drawer")
    bench.wait(lambda: bench.chunks_for(number), "chunks of the next instruction")


def test_a_real_stop_is_followed_while_somebody_forges_the_status(bench, come):
    mark = len(bench.robot.statuses)
    foreigner = come(status=forged_status(State.STOPPED, bench.number, "pick the red block"))
    wait_named(bench, ("status",), mark)
    wait_diagnosed(bench, ("status",))
    assert_goes_on(bench, foreigner)
    assert bench.robot.trigger("vla/stop").success
    foreigner.wait(25)
    bench.assert_silent()
    bench.number = bench.robot.instruct("open the drawer")
    assert_goes_on(bench, foreigner)


def test_a_forged_response_holds_nothing_and_is_not_shown(bench, come):
    mark = len(bench.robot.statuses)
    foreigner = come(
        response=Response(instruction_id=bench.number, text="I refuse", inference_time=math.nan)
    )
    wait_named(bench, ("response",), mark)
    assert_goes_on(bench, foreigner)
    assert not any("I refuse" in s.message for s in told(bench, mark))


class FakeController:
    """What the recorder hears of a controller, which repeats itself."""

    def __init__(self, graph):
        self.instruction = Instruction()
        latched = with_liveliness(qos.LATCHED)
        self.instructions = graph.node.create_publisher(Instruction, "vla/instruction", latched)
        self.statuses = graph.node.create_publisher(PolicyStatus, "vla/status", latched)
        graph.node.create_timer(0.1, self.tell)

    def tell(self):
        self.instructions.publish(self.instruction)
        number, text = self.instruction.instruction_id, self.instruction.instruction
        state = PolicyStatus.EXECUTING if number else PolicyStatus.IDLE
        self.statuses.publish(PolicyStatus(state=state, instruction_id=number, instruction=text))


@pytest.mark.parametrize("excluded", [False, True])
def test_the_recorder_takes_its_label_from_the_controller_alone(tmp_path, excluded):
    more = {"excluded_topics": ["vla/status"]} if excluded else {}
    with Graph() as graph:
        started(graph, tmp_path, auto_record=True, ring_buffer=60.0, ring_buffer_size=16.0, **more)
        robot, controller = Robot(graph), FakeController(graph)
        episodes = graph.collect(Episode, "vla/episode", qos.EVENT)
        graph.wait(
            lambda: robot.send() or graph.diagnostic("recorder")["silent_topics"] == "",
            "every topic heard",
        )

        def instruct(number, text):
            """The episode of the one before ends, and another one begins."""
            count = len(episodes) + (2 if episodes else 1)
            controller.instruction = forged_instruction(number, text)
            graph.wait(lambda: robot.send() or len(episodes) >= count, f"events of {text}")

        def send(count):
            last = foreigner.sent + count
            graph.wait(lambda: robot.send() or foreigner.sent >= last, "forged messages")

        def labels():
            return [(e.event, e.instruction) for e in episodes]

        instruct(7, "pour")
        foreigner = Foreigner(graph, instruction=forged_instruction())
        graph.wait_diagnostic(
            "recorder", lambda s: OUTSIDER in s.message and "'/vla/instruction'" in s.message
        )
        send(50)
        assert labels() == [(Episode.STARTED, "pour")]
        instruct(8, "stir")
        send(50)
        assert sorted(labels()) == [(0, "pour"), (0, "stir"), (1, "pour")]
        # Who forges the status, too, is not believed.
        foreigner.leave()
        foreigner = Foreigner(
            graph, instruction=forged_instruction(), status=forged_status(State.EXECUTING)
        )
        graph.wait_diagnostic("recorder", lambda s: "'/vla/status'" in s.message)
        send(50)
        assert len(episodes) == 3
        saved = graph.call(SaveRecent, "vla/save_recent", SaveRecent.Request())
        assert saved.success, saved.message
        custom = read_metadata(saved.uri).custom_data
        assert custom["instruction"] == "pour"
        assert [entry["instruction_id"] for entry in json.loads(custom["instructions"])] == [7, 8]
        foreigner.leave()
        controller.instruction = Instruction()
        graph.wait(lambda: robot.send() or len(episodes) >= 4, "the end of the last episode")
    kept = {
        read_metadata(bag).custom_data["instruction"]
        for bag in tmp_path.iterdir()
        if str(bag) != saved.uri
    }
    assert kept == {"pour", "stir"}
