"""`reasoning` and `action_expert` as processes with a tiny policy and a fake robot."""

import math
import signal
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from fake_robot import CONTRACT, CONTRACT_PATH
from model_bench import START_UP, Bench, is_active, start
from node_harness import Graph
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from tiny_checkpoint import save_tiny_checkpoint
from vla_ros.msg import LatentAction
from vla_ros.srv import Ask

from vla.control.chunk import ChunkTrajectory
from vla.control.session import HoldReason, State
from vla.core.rotations import difference
from vla.observations.messages import stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.chunk_message import chunk_from_message

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


def test_from_instruction_to_motion(bench):
    instruction_id = bench.robot.instruct()
    bench.wait(lambda: len(bench.latents_for(instruction_id)) > 2, "latents")
    bench.wait(lambda: len(bench.chunks_for(instruction_id)) > 2, "chunks")
    latent, chunk = bench.latents[-1], bench.chunks[-1]
    assert latent.instruction_id == chunk.instruction_id == instruction_id
    assert len(latent.data) == latent.num_queries * latent.hidden_size
    assert np.isfinite(latent.data).all() and np.isfinite(chunk.actions).all()
    assert latent.checkpoint_id == chunk.checkpoint_id != ""
    assert (chunk.horizon, chunk.action_dim) == (CONTRACT.horizon, 7)
    assert chunk.contract_id == CONTRACT.contract_id
    assert chunk.inference_time > 0.0 and latent.inference_time > 0.0
    assert stamp_to_nanoseconds(chunk.latent_stamp) <= stamp_to_nanoseconds(chunk.header.stamp)
    chunks = bench.chunks_for(instruction_id)
    stamps = [stamp_to_nanoseconds(message.header.stamp) for message in chunks]
    assert stamps == sorted(set(stamps)), "one chunk for each observation, in order"
    bench.robot.wait_state(State.EXECUTING)
    assert not bench.responses


def test_thinking_answers_first(bench):
    instruction_id = bench.robot.instruct("pick the red block", mode="think")
    bench.wait(lambda: bench.latents_for(instruction_id), "latents")
    bench.wait(lambda: bench.responses, "the text")
    response = bench.responses[0]
    assert response.instruction_id == instruction_id and response.prompt == "pick the red block"
    assert response.inference_time > 0.0
    # The text comes first: it is about an older observation than the first latent action.
    first = bench.latents_for(instruction_id)[0]
    assert stamp_to_nanoseconds(response.header.stamp) <= stamp_to_nanoseconds(first.header.stamp)
    bench.wait(lambda: len(bench.latents_for(instruction_id)) > 3, "more latents")
    assert len(bench.responses) == 1, "the text is computed once"


def test_text_and_latent_actions_are_refreshed_as_often_as_asked_for_while_running(bench):
    # Of the bench's latents the newest replaces what a busy machine has not read yet.
    every = bench.graph.collect(LatentAction, "vla/latent_action", QoSProfile(depth=100))
    try:
        set_parameters(bench.graph, "reasoning", language_every=3)
        instruction_id = bench.robot.instruct("pick the red block", mode="think")
        bench.wait(lambda: len(bench.responses) > 2, "the text anew")
        assert {response.instruction_id for response in bench.responses} == {instruction_id}

        def stamps(messages):
            return [stamp_to_nanoseconds(message.header.stamp) for message in messages]

        thought = stamps(bench.responses[:3])
        bench.wait(lambda: thought[-1] in stamps(every), "the latent action after it")
        latents = stamps(m for m in every if m.instruction_id == instruction_id)
        assert [latents.index(stamp) for stamp in thought] == [0, 3, 6]
        set_parameters(bench.graph, "reasoning", language_every=0)
        count = len(bench.responses)
        latents = len(bench.latents)
        bench.wait(lambda: len(bench.latents) > latents + 8, "latents")
        assert len(bench.responses) <= count + 1, "one may have been under way"
    finally:
        set_parameters(bench.graph, "reasoning", language_every=0)


def test_in_real_time_chunking_each_chunk_begins_with_what_the_arm_does_meanwhile(bench):
    """For the first of an instruction there is nothing to go on from."""
    try:
        set_parameters(bench.graph, "action_expert", real_time_chunking=True)
        for _ in range(2):
            instruction_id = bench.robot.instruct()
            bench.wait(lambda i=instruction_id: len(bench.chunks_for(i)) > 4, "chunks")
            first, *later = bench.chunks_for(instruction_id)
            assert first.committed_steps == 0
            assert all(chunk.committed_steps > 0 for chunk in later)
            for before, after in pairwise([first, *later]):
                assert_goes_on(before, after)
    finally:
        set_parameters(bench.graph, "action_expert", real_time_chunking=False)
    instruction_id = bench.robot.instruct()
    bench.wait(lambda: len(bench.chunks_for(instruction_id)) > 2, "chunks")
    assert all(chunk.committed_steps == 0 for chunk in bench.chunks_for(instruction_id))


def assert_goes_on(before, after):
    """The committed steps lead to where the chunk before leads at the same times.

    Or all of them so much later as an arm that stood still, as this one does, began that chunk.
    """
    old, new = (chunk_from_message(c, CONTRACT) for c in (before, after))
    due = new.stamp + new.time_step * np.arange(1, after.committed_steps + 1)
    here = [ChunkTrajectory(new).target(time) for time in due]

    def farthest(late: float) -> float:
        path = ChunkTrajectory(old, old.stamp + late)
        there = [path.target(time) for time in due]
        moved = [np.abs(a.position - b.position).max() for a, b in zip(here, there, strict=True)]
        turned = [
            np.abs(difference(a.quaternion, b.quaternion)).max() / 10
            for a, b in zip(here, there, strict=True)
        ]
        return max(moved + turned)

    assert farthest(0.0) < 1e-5 or min(map(farthest, np.arange(0.02, 1.0, 0.0005))) < 2e-4


def test_a_new_instruction_drops_what_was_computed_for_the_old_one(bench):
    for index in range(5):
        new = bench.robot.instruct(f"pick block {index}")
        for messages in (bench.latents, bench.chunks):
            bench.wait(lambda m=messages, i=new: m and m[-1].instruction_id == i, "results for it")
    for messages in (bench.latents, bench.chunks):
        ids = [message.instruction_id for message in messages]
        assert ids == sorted(ids), "nothing for an older instruction comes after a newer one's"


def test_nothing_is_computed_without_an_instruction(bench):
    bench.robot.instruct()
    bench.robot.wait_state(State.EXECUTING)
    bench.robot.trigger("vla/stop")
    bench.robot.instruct("what?", mode="ask")
    bench.wait(lambda: bench.responses, "the answer")
    bench.assert_silent()


OLD, LATE = Time(sec=1), Time(sec=2**31 - 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"contract_id": "0123456789ab"}, "same contract"),
        ({"camera_names": ["front", "left"]}, "cameras"),
        ({"state": [math.nan] * 10}, "state"),
        ({"images": []}, "cameras"),
    ],
)
def test_a_bad_observation_is_refused_with_a_reason(bench, changes, says):
    bench.robot.observation_changes = changes
    bench.robot.instruct()
    for name in ("reasoning", "action_expert"):
        status = bench.graph.wait_diagnostic(name, lambda s: says in s.message)
        assert status.level == b"\x02"
    bench.assert_silent()
    bench.restore()
    bench.robot.instruct()
    bench.robot.wait_state(State.EXECUTING)


def test_an_old_observation_is_not_used(bench):
    header = bench.robot.observation().header
    header.stamp = OLD
    bench.robot.observation_changes = {"header": header}
    bench.robot.instruct()
    before = int(bench.graph.diagnostic("reasoning").get("drops_stale_observation", 0))
    bench.graph.wait_diagnostic(
        "reasoning",
        lambda s: any(
            v.key == "drops_stale_observation" and int(v.value) > before + 2 for v in s.values
        ),
    )
    bench.assert_silent()


def test_an_observation_from_the_future_is_refused_with_a_reason(bench):
    header = bench.robot.observation().header
    header.stamp = LATE
    bench.robot.observation_changes = {"header": header}
    bench.robot.instruct()
    for name in ("reasoning", "action_expert"):
        bench.graph.wait_diagnostic(name, lambda s: "in the future" in s.message)
    bench.assert_silent()


def reasoning_off(bench):
    """Takes the real reasoning off its topic, so that the test can send latent actions."""
    assert bench.graph.transition("reasoning", "deactivate")
    assert bench.graph.transition("reasoning", "cleanup")
    bench.clear()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"checkpoint_id": "other"}, "checkpoint"),
        ({"num_queries": 3}, "latent action is 3 x"),
        ({"data": "nan"}, "NaN"),
        ({"header": "old"}, "max_latent_age"),
        ({"header": "late"}, "in the future"),
    ],
)
def test_a_bad_latent_action_is_refused_with_a_reason(bench, changes, says):
    bench.robot.instruct()
    bench.wait(lambda: bench.latents, "a sound latent action")
    good = bench.latents[-1]
    reasoning_off(bench)
    latents = bench.graph.node.create_publisher(LatentAction, "vla/latent_action", qos.RESULT)
    try:
        good.instruction_id = bench.robot.instruct("pick the blue block")
        for name, value in changes.items():
            if value == "nan":
                value = [math.nan] * len(good.data)
            if value in ("old", "late"):
                value = replace_stamp(good.header, OLD if value == "old" else LATE)
            setattr(good, name, value)

        def is_refused(status):
            latents.publish(good)
            return says in status.message

        bench.graph.wait_diagnostic("action_expert", is_refused)
        assert not bench.chunks_for(good.instruction_id)
    finally:
        bench.graph.node.destroy_publisher(latents)
        assert bench.graph.transition("reasoning", "configure")
        assert bench.graph.transition("reasoning", "activate")


def replace_stamp(header, stamp):
    header.stamp = stamp
    return header


def test_lifecycle_cycles_and_deactivated_nodes_are_silent(bench):
    bench.robot.instruct()
    bench.robot.wait_state(State.EXECUTING)
    for name in ("reasoning", "action_expert"):
        assert bench.graph.transition(name, "deactivate")
        bench.robot.wait_hold(HoldReason.STALE_CHUNK)
        assert bench.graph.transition(name, "cleanup")
        if name == "reasoning":
            client = bench.graph.node.create_client(Ask, "vla/ask")
            bench.wait(lambda c=client: not c.service_is_ready(), "the ask service to be gone")
        assert bench.graph.transition(name, "configure")
        assert bench.graph.transition(name, "activate")
        bench.robot.wait_state(State.EXECUTING, timeout=START_UP)


def test_the_arm_holds_when_a_model_node_dies_and_goes_on_when_it_returns(checkpoint):
    with Graph() as graph:
        bench = Bench(graph, checkpoint)
        robot = bench.robot
        robot.instruct()
        for name in ("reasoning", "action_expert"):
            robot.wait_state(State.EXECUTING, timeout=START_UP)
            robot.statuses.clear()
            died_at = time.time()
            bench.processes[name].kill()
            graph.wait(
                lambda: any(status.state == State.HOLDING for status in robot.statuses),
                "the hold",
                alive=False,
            )
            # By the controller's own clock: this process may be too busy to hear of it at once.
            hold = next(status for status in robot.statuses if status.state == State.HOLDING)
            assert stamp_to_nanoseconds(hold.header.stamp) * 1e-9 - died_at < 0.3
            assert name in hold.message and "gone" in hold.message
            graph.processes.remove(bench.processes[name])
            robot.assert_still()
            bench.processes[name] = start(graph, name, checkpoint)
        robot.wait_state(State.EXECUTING, timeout=START_UP)
        for name in ("reasoning", "action_expert"):
            number = signal.SIGINT if name == "reasoning" else signal.SIGTERM
            assert bench.processes[name].stop(number) == 0


@pytest.mark.parametrize("name", ["reasoning", "action_expert"])
def test_weights_that_are_not_finite_are_refused(name, tmp_path):
    broken = save_tiny_checkpoint(tmp_path, scale=math.nan)
    with Graph() as graph:
        process = graph.start(name, threads=1, checkpoint=str(broken))
        status = graph.wait_diagnostic(name, lambda s: "NaN" in s.message, 90.0)
        assert "model.safetensors" in status.message and process.running
        assert graph.state(name) == "unconfigured"


def set_parameters(graph, node, **values):
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    request = SetParameters.Request(parameters=parameters)
    answer = graph.call(SetParameters, f"{node}/set_parameters", request)
    assert all(result.successful for result in answer.results), answer


@pytest.mark.parametrize("name", ["reasoning", "action_expert"])
def test_a_checkpoint_that_does_not_fit_is_refused_and_a_good_one_taken(name, checkpoint, tmp_path):
    other = replace(CONTRACT, name="other", rate=20.0)
    other_path = tmp_path / "other.yaml"
    other_path.write_text(yaml.safe_dump(other.to_dict()))
    empty = tmp_path / "empty"
    empty.mkdir()
    with Graph() as graph:
        process = graph.start(name, threads=1)
        graph.wait_diagnostic(name, lambda s: "'checkpoint' is empty" in s.message)
        for parameters, says in (
            ({"checkpoint": "/nowhere"}, "no folder '/nowhere'"),
            ({"checkpoint": str(checkpoint), "device": "gpu9"}, "'device'"),
            ({"checkpoint": str(empty), "device": "cpu"}, "not a checkpoint folder"),
            ({"checkpoint": str(checkpoint), "contract": str(other_path)}, "rate"),
        ):
            set_parameters(graph, name, **parameters)
            assert not graph.transition(name, "configure")
            status = graph.wait_diagnostic(name, lambda s, says=says: says in s.message)
            assert status.level == b"\x02" and graph.state(name) == "unconfigured"
        set_parameters(graph, name, contract=str(CONTRACT_PATH))
        assert graph.transition(name, "configure") and graph.transition(name, "activate")
        graph.wait_diagnostic(name, is_active)
        assert process.stop(signal.SIGTERM) == 0
