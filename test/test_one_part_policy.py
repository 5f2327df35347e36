"""A policy of somebody else's, of one part: loaded, run, and driving the simulated arm."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_policy import LinearConfig, LinearModel, LinearPart
from node_harness import ROOT, Graph
from std_srvs.srv import Trigger
from tiny_adapter import save_tiny_adapter
from vla_ros.msg import ActionChunk, PolicyStatus, Response
from vla_ros.srv import Ask, LoadAdapter, ResetScene, SetInstruction
from windowed_policy import WindowedConfig

from vla.contract.embodiment import EmbodimentContract, dimension_kinds, load_contract
from vla.contract.normalization import measure
from vla.control.session import HoldReason, State
from vla.datasets.sources import RobotData
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import evaluate
from vla.policies import checkpoint as checkpoint_module
from vla.policies.adapters import open_adapter
from vla.policies.checkpoint import open_checkpoint, save_checkpoint
from vla.policies.config import CheckpointError
from vla.policies.history import History
from vla.policies.parts import NoActionPart, open_action_part
from vla.policies.policy import Policy
from vla.policies.registry import policy_type
from vla.policies.robots import Robot
from vla.training.config import read_train_config
from vla.training.loop import train
from vla.training.sources import open_data
from vla_cli import main
from vla_nodes.core import qos

CONTRACT = load_contract(ROOT / "config" / "contracts" / "sim_panda.yaml")
RISE = 0.005  # m in each step
STATE = np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.08])


def save_rising_checkpoint(
    folder: Path, contract: EmbodimentContract, rise: float, config: LinearConfig | None = None
) -> Path:
    """A policy that moves the tool up by `rise` [m] in each step, whatever it sees."""
    kinds, half = dimension_kinds(contract), np.linspace(-0.02, 0.02, 101)[:, None]
    stats = {
        "state": measure(np.repeat(100 * half, 10, 1), contract.state_names, kinds["state"]),
        "action": measure(np.repeat(half, 7, 1), contract.action_names, kinds["action"]),
    }
    config = config or LinearConfig()
    model = LinearModel(config, contract)
    step = np.zeros((contract.horizon, len(contract.action_names)))
    step[:, 2], step[:, 6] = rise, 1.0
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.copy_(torch.from_numpy(stats["action"].normalize(step).ravel()))
    robots = [Robot(contract, stats)]
    save_checkpoint(folder, config, model.state_dict(), robots, None, torch.float32)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_rising_checkpoint(tmp_path_factory.mktemp("rising"), CONTRACT, RISE)


def test_a_checkpoint_names_its_type_and_acts(checkpoint):
    assert json.loads((checkpoint / "config.json").read_text()) == {
        "type": "linear",
        "use_bias": True,
    }
    policy = Policy.from_pretrained(checkpoint)
    assert policy.checkpoint_id == open_checkpoint(checkpoint).checkpoint_id
    policy.reset("go up", seed=0)
    actions = policy.chunk({}, STATE)
    assert actions.shape == (CONTRACT.horizon, 7)
    np.testing.assert_allclose(actions[:, 2], RISE, rtol=1e-3)
    np.testing.assert_allclose(actions[:, :2], 0.0, atol=1e-6)
    with pytest.raises(NotImplementedError, match="no text"):
        policy.answer({}, "what is on the table ?")
    # What the node action_expert has of it, so that both nodes name the same weights.
    second = open_action_part(checkpoint)
    assert isinstance(second, NoActionPart) and second.checkpoint_id == policy.checkpoint_id


@pytest.mark.slow
def test_a_policy_in_one_process_is_opened_once(monkeypatch):
    digests = []
    count = checkpoint_module.weights_digest
    monkeypatch.setattr(
        checkpoint_module, "weights_digest", lambda files: digests.append(1) or count(files)
    )
    policy = Policy.from_pretrained(ROOT / "checkpoints/nano")
    assert digests == [1] and policy.action.checkpoint_id == policy.checkpoint_id
    with pytest.raises(CheckpointError, match="is of type instructvla"):
        LinearPart.from_pretrained(ROOT / "checkpoints/nano")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A checkpoint with a window of past observations, and an adapter of it."""
    folder = tmp_path_factory.mktemp("windowed")
    checkpoint = save_rising_checkpoint(folder / "checkpoint", CONTRACT, RISE, WindowedConfig())
    return checkpoint, save_tiny_adapter(checkpoint, folder / "adapter")


def test_it_takes_an_adapter_and_gives_it_back(windowed):
    checkpoint, adapter = windowed
    base = Policy.from_pretrained(checkpoint)
    adapted = Policy.from_pretrained(checkpoint, adapter=adapter)
    assert adapted.checkpoint_id == f"{base.checkpoint_id}+{open_adapter(adapter).adapter_id}"
    for policy in (base, adapted):
        policy.reset("go up", seed=0)
    expected = base.chunk({}, STATE)
    assert np.abs(adapted.chunk({}, STATE) - expected).max() > 1e-4
    adapted.reasoning.set_adapter(None)
    assert adapted.reasoning.checkpoint_id == base.checkpoint_id
    adapted.reset("go up", seed=0)
    np.testing.assert_allclose(adapted.chunk({}, STATE), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["nobody", "../base", "vla.policies.base", 3, None, "instructvla "]
)
def test_a_type_that_is_not_known_is_refused(checkpoint, tmp_path, name):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"type": name}))
    with pytest.raises(CheckpointError, match="type"):
        open_checkpoint(tmp_path)


def test_a_checkpoint_without_a_type_is_an_instructvla():
    with pytest.raises(CheckpointError, match=r"known: .*instructvla"):
        policy_type("robovlm")
    assert policy_type("instructvla").name == "instructvla"


def test_the_history_holds_what_was_seen_at_its_slots():
    history = History(3, 0.2)
    assert history.add(0.0, "0.0") == ["0.0"]
    assert history.add(0.1, "0.1") == ["0.1"]  # what is older is newer than the slot, or too old
    for tenth in range(2, 5):
        latest = history.add(tenth / 10, f"{tenth / 10}")
    assert latest == ["0.0", "0.2", "0.4"]
    # Each slot has the newest that is not newer than it; one that has none ends the history.
    assert history.add(0.55, "0.55") == ["0.1", "0.3", "0.55"]
    assert history.add(0.8, "0.8") == ["0.4", "0.55", "0.8"]
    assert history.add(5.0, "5.0") == ["5.0"]
    assert history.add(5.0, "again") == ["again"]
    # Another episode, whose clock starts again.
    assert history.add(0.05, "0.05") == ["0.05"] and len(history) == 1
    assert History(1, 0.2).add(1.0, "only") == ["only"]


@pytest.mark.slow
def test_it_is_trained_and_evaluated_as_its_page_says(dataset, contract, tmp_path, plugins):
    page = (ROOT / "docs" / "adding_a_policy.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "imitate.py").write_text(blocks["python"])
    (tmp_path / "linear.yaml").write_text(blocks["yaml"])
    plugins("linear_policy", "imitate")
    config = replace(
        read_train_config(tmp_path / "linear.yaml"),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
    )
    losses = []
    folder = train(
        config,
        contract,
        open_data(config, contract),
        on_step=lambda step, figures: losses.append(figures["robot/imitation"]),
    )
    assert len(losses) == 60 and np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    assert not (folder / "tokenizer.json").exists()
    policy = Policy.from_pretrained(folder)
    results = evaluate(policy, make_suite("tabletop", time_limit=1.0), ["pick"], range(1))
    assert len(results) == 1 and results[0].seconds >= 1.0
    assert main(["info", "--checkpoint", str(folder), "--json"]) == 0


@pytest.mark.nodes
def test_it_drives_the_arm_and_its_death_holds_it(checkpoint, monkeypatch):
    monkeypatch.setenv("VLA_PLUGINS", "linear_policy")
    monkeypatch.syspath_prepend(str(ROOT / "test"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'test'}:{os.environ.get('PYTHONPATH', '')}")
    with Graph() as graph:
        reasoning = graph.start_with_policy(checkpoint)["reasoning"]
        statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
        graph.wait_diagnostic(
            "action_expert", lambda s: any("one part" in value.value for value in s.values)
        )
        assert graph.node.count_publishers("vla/action_chunk") == 1
        assert graph.node.count_publishers("vla/latent_action") == 0
        asked = graph.call(Ask, "vla/ask", Ask.Request(question="what is on the table ?"))
        assert not asked.success and "no text" in asked.message

        graph.call(ResetScene, "sim/reset_scene", ResetScene.Request(seed=1, family="pick"))
        ask = SetInstruction.Request(instruction="go up")
        answer = graph.call(SetInstruction, "vla/set_instruction", ask)
        assert answer.success, answer.message
        # Longer than the arm goes on without a latent action of a policy that has them.
        graph.wait(lambda: len(chunks) > 1, "chunks", 60.0)
        began = chunks[0].reference_pose.position.z
        graph.wait(lambda: chunks[-1].reference_pose.position.z > began + 0.03, "a rise", 60.0)
        since = _seconds(chunks[0])
        graph.wait(lambda: _seconds(chunks[-1]) > since + 6.0, "chunks of six seconds", 60.0)
        assert statuses[-1].state == State.EXECUTING, statuses[-1].message

        reasoning.kill()
        graph.wait(
            lambda: statuses[-1].hold_reason == HoldReason.STALE_CHUNK,
            "hold after the death of the policy",
            alive=False,
        )
        graph.processes.remove(reasoning)
        graph.start("reasoning", checkpoint=str(checkpoint), use_sim_time=True)
        graph.wait(lambda: statuses[-1].state == State.EXECUTING, "motion again", 90.0)
        graph.call(Trigger, "vla/stop", Trigger.Request())


@pytest.fixture(scope="module")
def windowed_graph(windowed):
    """A graph that the windowed policy drives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLA_PLUGINS", "windowed_policy")
        patch.setenv("PYTHONPATH", f"{ROOT / 'test'}:{os.environ.get('PYTHONPATH', '')}")
        with Graph() as graph:
            graph.start_with_policy(windowed[0])
            yield graph


@pytest.mark.nodes
def test_it_sees_its_window_and_takes_an_adapter_in_the_graph(windowed, windowed_graph):
    adapter, graph = windowed[1], windowed_graph
    statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
    chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
    graph.call(ResetScene, "sim/reset_scene", ResetScene.Request(seed=1, family="pick"))
    ask = SetInstruction.Request(instruction="go up", mode="act")
    assert graph.call(SetInstruction, "vla/set_instruction", ask).success
    # Nothing has been seen before the first chunk; the tool has risen before later ones.
    graph.wait(lambda: chunks, "a chunk", 60.0)
    assert chunks[0].actions[0] == pytest.approx(0.0, abs=1e-5)
    graph.wait(lambda: chunks[-1].actions[0] < -1e-4, "a rise within the window", 60.0)

    base = chunks[-1].checkpoint_id
    loaded = graph.call(LoadAdapter, "vla/load_adapter", LoadAdapter.Request(path=str(adapter)))
    assert loaded.success, loaded.message
    assert loaded.checkpoint_id == f"{base}+{open_adapter(adapter).adapter_id}"
    graph.wait(
        lambda: chunks[-1].checkpoint_id == loaded.checkpoint_id, "chunks of the adapter", 60.0
    )
    graph.wait(lambda: statuses[-1].state == State.EXECUTING, "motion by the adapter", 60.0)
    dropped = graph.call(LoadAdapter, "vla/load_adapter", LoadAdapter.Request())
    assert dropped.success and dropped.checkpoint_id == base, dropped.message
    graph.wait(lambda: chunks[-1].checkpoint_id == base, "chunks of the checkpoint", 60.0)
    graph.call(Trigger, "vla/stop", Trigger.Request())


@pytest.mark.nodes
def test_what_it_refuses_moves_nothing_and_the_next_instruction_does(windowed_graph, tmp_path):
    graph, result = windowed_graph, tmp_path / "result.json"
    statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
    chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
    responses = graph.collect(Response, "vla/response", qos.RESPONSE)

    def refused():
        return statuses and statuses[-1].hold_reason == HoldReason.REFUSED

    asked = "pick up the yellow can"
    told = subprocess.Popen(
        [sys.executable, "-m", "vla_cli", "instruct", asked, "--json", str(result)],
        cwd=ROOT, env=graph.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    graph.wait(lambda: told.poll() is not None, "the end of vla instruct", 90.0)
    printed = told.communicate()[0]
    assert told.returncode == 3 and "robot: I see no yellow can ." in printed, printed
    ended = json.loads(result.read_text())
    assert ended["outcome"] == "refused" and ended["response"] == "I see no yellow can ."
    graph.wait(refused, "a hold for the refusal", 30.0)
    assert statuses[-1].state == State.HOLDING and statuses[-1].instruction_id == 0
    assert "I see no yellow can ." in statuses[-1].message

    # Nobody waits for the end of this one.
    ask = SetInstruction.Request(instruction=asked)
    graph.wait(lambda: not chunks or chunks.clear(), "the last chunks", 30.0)
    again = graph.call(SetInstruction, "vla/set_instruction", ask)
    assert again.success, again.message
    said = [ended["instruction_id"], again.instruction_id]
    graph.wait(lambda: [r.instruction_id for r in responses if r.refused] == said, "both", 30.0)
    graph.wait(refused, "a hold for the refusal", 30.0)
    assert not chunks

    ask = SetInstruction.Request(instruction="go up")
    begun = graph.call(SetInstruction, "vla/set_instruction", ask)
    graph.wait(lambda: statuses[-1].state == State.EXECUTING, "motion", 60.0)
    assert {chunk.instruction_id for chunk in chunks} == {begun.instruction_id}
    answer = responses[-1]
    assert (answer.text, answer.refused) == ("going up .", False)  # without a mode, it thinks
    graph.call(Trigger, "vla/stop", Trigger.Request())


def _seconds(message):
    stamp = message.header.stamp
    seconds = stamp.sec + 1e-9 * stamp.nanosec
    assert math.isfinite(seconds)
    return seconds
