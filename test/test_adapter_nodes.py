"""Adapters into and out of the running graph: real nodes, a tiny policy, a fake robot."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from node_harness import ROOT, Graph
from safetensors.torch import load_file, save_file
from test_model_nodes import START_UP, Bench, set_parameters, start
from tiny_adapter import save_tiny_adapter, with_description
from tiny_checkpoint import save_tiny_checkpoint
from vla_ros.srv import LoadAdapter, SetInstruction

from vla.control.session import HoldReason, State
from vla.policies.adapters import open_adapter
from vla.policies.checkpoint import open_checkpoint

pytestmark = pytest.mark.nodes


class Policy:
    """A checkpoint, two adapters for it, and what the weights are called with each of them."""

    def __init__(self, folder):
        self.checkpoint = save_tiny_checkpoint(folder / "checkpoint")
        self.first = save_tiny_adapter(self.checkpoint, folder / "first", seed=1)
        self.second = save_tiny_adapter(self.checkpoint, folder / "second", seed=2)
        self.base_id = open_checkpoint(self.checkpoint).checkpoint_id
        self.first_id, self.second_id = (
            f"{self.base_id}+{open_adapter(path).adapter_id}" for path in (self.first, self.second)
        )


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return Policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def shared_bench(policy):
    with Graph() as graph:
        yield Bench(graph, policy.checkpoint)


@pytest.fixture
def bench(shared_bench, policy):
    """Executing an instruction, without an adapter."""
    shared_bench.restore()
    dropped = load(shared_bench, "")
    assert dropped.success and dropped.checkpoint_id == policy.base_id, dropped.message
    shared_bench.robot.instruct()
    shared_bench.robot.wait_state(State.EXECUTING, START_UP)
    shared_bench.clear()
    return shared_bench


def load(bench, path, service="vla/load_adapter"):
    request = LoadAdapter.Request(path=str(path))
    return bench.graph.call(LoadAdapter, service, request)


class Call:
    """A request to load that is on its way."""

    def __init__(self, bench, path):
        self.bench = bench
        self.client = bench.graph.node.create_client(LoadAdapter, "vla/load_adapter")
        bench.wait(self.client.service_is_ready, "the service")
        self.future = self.client.call_async(LoadAdapter.Request(path=str(path)))

    def answer(self):
        self.bench.graph.wait(self.future.done, "the answer", alive=False)
        return self.future.result()


@contextmanager
def paused(process):
    """Stops a process, so that what it is asked for takes a while."""
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGCONT)


def wait_results(bench, instruction_id, checkpoint_id):
    """The arm moves, and latent actions and chunks come from these weights alone."""
    bench.robot.wait_state(State.EXECUTING)
    bench.clear()
    for results in (bench.latents_for, bench.chunks_for):
        bench.wait(lambda r=results: len(r(instruction_id)) > 2, "results")
        assert {message.checkpoint_id for message in results(instruction_id)} == {checkpoint_id}
    assert bench.robot.wait_state(State.EXECUTING).instruction_id == instruction_id


def test_loads_while_an_instruction_is_executed_and_drops_again(bench, policy):
    robot, instruction_id = bench.robot, bench.robot.status.instruction_id
    pids = [process.process.pid for process in bench.graph.processes]
    wait_results(bench, instruction_id, policy.base_id)
    with paused(bench.processes["reasoning"]):
        call = Call(bench, policy.first)
        assert "loading the adapter" in robot.wait_hold(HoldReason.LOADING).message
        robot.assert_still()
        assert not call.future.done()
    answer = call.answer()
    assert answer.success, answer.message
    assert answer.checkpoint_id == policy.first_id in answer.message
    wait_results(bench, instruction_id, policy.first_id)
    robot.assert_moving()
    for name in bench.processes:
        assert bench.graph.diagnostic(name)["checkpoint"] == policy.first_id
    assert load(bench, policy.second).checkpoint_id == policy.second_id
    wait_results(bench, instruction_id, policy.second_id)
    assert load(bench, "").checkpoint_id == policy.base_id
    wait_results(bench, instruction_id, policy.base_id)
    assert [process.process.pid for process in bench.graph.processes] == pids
    assert all(process.running for process in bench.graph.processes)


def test_what_is_said_during_loading_counts_afterwards(bench, policy):
    robot = bench.robot
    with paused(bench.processes["action_expert"]):
        call = Call(bench, policy.first)
        robot.wait_hold(HoldReason.LOADING)
        second = load(bench, policy.second)
        assert not second.success and "already" in second.message
        request = SetInstruction.Request(instruction="put the can in the bowl")
        assert bench.graph.call(SetInstruction, "vla/set_instruction", request).success
        assert robot.wait_hold(HoldReason.LOADING).instruction == "put the can in the bowl"
    assert call.answer().checkpoint_id == policy.first_id
    status = robot.wait_state(State.EXECUTING)
    assert status.instruction == "put the can in the bowl"
    with paused(bench.processes["action_expert"]):
        call = Call(bench, "")
        robot.wait_hold(HoldReason.LOADING)
        robot.trigger("vla/stop")
        robot.wait_state(State.STOPPED)
    assert call.answer().success
    robot.wait_state(State.STOPPED)
    assert robot.trigger("vla/resume").success
    wait_results(bench, status.instruction_id, policy.base_id)


def test_a_refused_adapter_changes_nothing(bench, policy, tmp_path):
    foreign = with_description(policy.first, tmp_path / "foreign", base="0123456789ab")
    half = with_description(policy.first, tmp_path / "half")
    weights = load_file(half / "adapter.safetensors")
    name = next(n for n in weights if n.startswith("expert.") and n.endswith("lora_a"))
    weights[name] = torch.zeros(weights[name].shape[0], weights[name].shape[1] + 1)
    save_file(weights, half / "adapter.safetensors")
    pipe = with_description(policy.first, tmp_path / "pipe")
    (pipe / "adapter.json").unlink()
    os.mkfifo(pipe / "adapter.json")
    assert load(bench, policy.second).success
    instruction_id = bench.robot.status.instruction_id
    for path, says in (
        (tmp_path / "nowhere", "reasoning and action_expert: "),
        (tmp_path / "nowhere", "is not an adapter"),
        (foreign, "changes the checkpoint 0123456789ab"),
        # Nobody writes into it: whoever opens it waits for good.
        (pipe, "adapter.json is a pipe"),
        # Reasoning took it, and went back.
        (half, "action_expert: "),
    ):
        answer = load(bench, path)
        assert not answer.success and says in answer.message
        assert answer.checkpoint_id == policy.second_id in answer.message
        wait_results(bench, instruction_id, policy.second_id)


def test_results_of_other_weights_do_not_move_the_arm(bench, policy):
    robot = bench.robot
    # One half alone has the adapter: the expert refuses the latent actions.
    assert load(bench, policy.first, "reasoning/load_adapter").checkpoint_id == policy.first_id
    bench.graph.wait_diagnostic("action_expert", lambda s: policy.first_id in s.message)
    robot.wait_hold(HoldReason.STALE_CHUNK)
    bench.clear()
    robot.assert_still(cycles=25)
    assert not bench.chunks
    # Both have it, but nobody asked the controller.
    assert load(bench, policy.first, "action_expert/load_adapter").success
    status = robot.wait_hold(HoldReason.CONTRACT_MISMATCH)
    assert policy.first_id in status.message and "load the adapter again" in status.message
    robot.assert_still()
    for name in bench.processes:
        assert load(bench, "", f"{name}/revert_adapter").checkpoint_id == policy.base_id
    robot.wait_state(State.EXECUTING)


def test_a_node_takes_it_when_inactive_or_with_its_checkpoint(bench, policy):
    graph, service = bench.graph, "reasoning/load_adapter"
    assert graph.transition("reasoning", "deactivate")
    answer = load(bench, policy.first, service)
    assert answer.success and answer.checkpoint_id == policy.first_id
    assert load(bench, "", "reasoning/revert_adapter").checkpoint_id == policy.base_id
    assert graph.transition("reasoning", "cleanup")
    answer = load(bench, policy.first, service)
    assert not answer.success and "configure the node first" in answer.message
    set_parameters(graph, "reasoning", adapter="/nowhere")
    assert not graph.transition("reasoning", "configure")
    graph.wait_diagnostic("reasoning", lambda s: "is not an adapter" in s.message)
    set_parameters(graph, "reasoning", adapter=str(policy.first))
    assert graph.transition("reasoning", "configure")
    # A node that was away for a moment only is not noticed by the controller, which had the adapter
    # dropped: results of other weights would make the arm hold.
    assert load(bench, "", service).checkpoint_id == policy.base_id
    assert graph.transition("reasoning", "activate")
    back = {"state": "active", "checkpoint": policy.base_id}.items()
    graph.wait_diagnostic("reasoning", lambda s: back <= {v.key: v.value for v in s.values}.items())
    wait_results(bench, bench.robot.status.instruction_id, policy.base_id)


def test_the_command_line_loads_and_drops(bench, policy, tmp_path):
    def vla(*arguments):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "vla"), "adapter", *arguments],
            env=bench.graph.environment,
            cwd=policy.first.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        bench.wait(lambda: process.poll() is not None, "the command's end", START_UP)
        return process.returncode, *process.communicate()

    status, out, _ = vla("load", policy.first.name)
    assert status == 0 and policy.first_id in out
    status, _, error = vla("load", "/nowhere")
    assert status == 1 and "is not an adapter" in error and policy.first_id in error
    status, out, _ = vla("drop")
    assert status == 0 and out.rstrip().endswith(f"{policy.base_id} now")


def test_a_node_that_dies_meanwhile_leaves_all_as_it_was_and_is_given_it_again(bench, policy):
    graph, robot = bench.graph, bench.robot
    assert load(bench, policy.first).success
    instruction_id = robot.status.instruction_id
    expert = bench.processes["action_expert"]
    expert.process.send_signal(signal.SIGSTOP)
    call = Call(bench, policy.second)
    robot.wait_hold(HoldReason.LOADING)
    expert.kill()
    answer = call.answer()
    graph.processes.remove(expert)
    assert not answer.success and "action_expert: it died" in answer.message
    assert answer.checkpoint_id == policy.first_id in answer.message
    status = robot.wait_state(State.WAITING)
    assert "action_expert" in status.message and "gone" in status.message
    assert graph.diagnostic("reasoning")["checkpoint"] == policy.first_id
    answer = load(bench, policy.second)
    assert not answer.success and "action_expert is not there" in answer.message
    bench.processes["action_expert"] = start(graph, "action_expert", policy.checkpoint)
    robot.wait_state(State.EXECUTING, START_UP)
    wait_results(bench, instruction_id, policy.first_id)
