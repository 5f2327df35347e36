"""Questions to `reasoning`, and instructions that it follows by what is seen after them."""

import json
import subprocess
import sys

import pytest
from model_bench import START_UP, Bench
from node_harness import ROBOTS, ROOT, Graph
from tiny_checkpoint import save_tiny_checkpoint
from vla_ros.msg import Instruction
from vla_ros.srv import Ask

from vla.control.session import State
from vla.observations.messages import stamp_to_nanoseconds
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def shared_bench(checkpoint):
    with Graph() as graph:
        yield Bench(graph, checkpoint)


@pytest.fixture
def bench(shared_bench):
    shared_bench.restore()
    shared_bench.clear()
    return shared_bench


def test_asking_by_instruction_answers_once_and_moves_nothing(bench):
    instruction_id = bench.robot.instruct("what is there?", mode="ask")
    bench.wait(lambda: bench.responses, "an answer")
    assert bench.responses[0].instruction_id == instruction_id
    bench.assert_silent()
    assert not bench.responses


def ask(bench, question):
    return bench.graph.call(Ask, "vla/ask", Ask.Request(question=question))


def test_the_ask_service_answers_while_an_instruction_runs(bench):
    bench.robot.instruct()
    bench.robot.wait_state(State.EXECUTING)
    answer = ask(bench, "what is on the table?")
    assert answer.success, answer.message
    assert answer.inference_time > 0.0 and stamp_to_nanoseconds(answer.observation_stamp) > 0
    bench.wait(lambda: bench.responses, "the published answer")
    assert bench.responses[0].instruction_id == 0
    assert bench.responses[0].text == answer.answer
    assert bench.robot.wait_state(State.EXECUTING).instruction == "pick the red block"


def test_of_many_questions_at_once_each_is_answered_or_refused_as_busy(bench):
    graph = bench.graph
    caller = graph.run_script(ROBOTS / "caller.py", ("Ask", "vla/ask", "60", "0", "30"))
    graph.wait(lambda: not caller.running, "the end of the caller", 90.0, alive=False)
    graph.processes.remove(caller)
    counts = json.loads(caller.output.splitlines()[-1])
    assert counts["answered"] == 60 and 0 < counts["taken"] < 60, counts
    assert any(text.startswith("busy: ") for text, _ in counts["said"]), counts


def test_the_command_line_asks(bench):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "vla"), "ask", "what is on the table?"],
        env=bench.graph.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    bench.wait(lambda: process.poll() is not None, "the command's end", START_UP)
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert out == bench.responses[-1].text + "\n"


def test_a_question_that_cannot_be_answered_says_why(bench):
    assert "empty" in ask(bench, " ").message
    assert "question has a character that cannot be seen" in ask(bench, "what?\x1b").message
    assert "at most 1000" in ask(bench, "what? " * 1_000_000).message
    bench.robot.cut.add("observations")
    bench.robot.instruct()
    bench.robot.wait_status(lambda s: "perception" in s.message, "missing observations")
    bench.graph.wait_diagnostic("reasoning", lambda s: "no observation" in s.message)
    answer = ask(bench, "what is there?")
    assert not answer.success and "perception" in answer.message


@pytest.mark.parametrize("mode", ["act", "think", "ask"])
def test_an_instruction_is_about_what_is_seen_after_it(bench, mode):
    """Somebody may have laid the table just before, and images of that time still come."""
    announced = bench.graph.collect(Instruction, "vla/instruction", qos.LATCHED)
    for _ in range(3):
        bench.clear()
        instruction_id = bench.robot.instruct("what is there?", mode=mode)
        results = bench.latents if mode == "act" else bench.responses
        (first,) = bench.wait(
            lambda: [m for m in results if m.instruction_id == instruction_id][:1],  # noqa: B023
            "a result",
        )
        (given,) = {
            stamp_to_nanoseconds(message.header.stamp)
            for message in announced
            if message.instruction_id == instruction_id
        }
        assert stamp_to_nanoseconds(first.header.stamp) >= given


def test_a_question_is_about_what_is_seen_after_it(bench):
    for _ in range(3):
        before = bench.graph.node.get_clock().now().nanoseconds
        answer = ask(bench, "what is there?")
        assert answer.success, answer.message
        assert stamp_to_nanoseconds(answer.observation_stamp) >= before


def test_a_question_is_answered_or_refused_where_nothing_is_seen_after_it(bench):
    """What was seen last may still be new enough to be asked about."""
    bench.robot.cut.add("observations")
    answer = ask(bench, "what is there?")
    assert answer.success or "seen lately" in answer.message
