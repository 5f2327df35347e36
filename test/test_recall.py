"""The benchmark recall: only the lamp says which button, and only for a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.envs.base import Episode
from vla.envs.recall.suite import Recall
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.demonstrations import DemonstrationConfig, ShardFrames, demonstrate
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.recall import LIT_SECONDS
from vla.envs.tabletop.samples import SimulatedDemonstrations, simulated_views
from vla.envs.tabletop.tasks import RECALL, Task, parse_task, phrase, task_of_answer
from vla.evaluation.benchmark import evaluate, summarize
from vla.training.config import read_train_config
from vla.training.config_check import check_train_config
from vla.training.loop import model_config, open_start
from vla_cli.demo import load_demo_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def blind():
    suite = make_suite("recall")
    assert isinstance(suite, Recall)
    return replace(suite, contract=replace(suite.contract, cameras=()))


def other_button(simulator) -> str:
    return next(name for name in simulator.recall.buttons if name != simulator.task.target)


@pytest.mark.slow
def test_the_expert_waits_and_presses_the_right_button(blind):
    environment = blind.make(RECALL)
    sides = set()
    for episode in blind.episodes(RECALL, range(4)):
        rollout = run_episode(environment, ExpertPolicy(environment), episode)
        assert rollout.success and rollout.failure == ""
        assert rollout.seconds > LIT_SECONDS + 0.5
        sides.add(environment.simulator.recall.buttons[environment.task.target])
    assert len(sides) == 2, "it is not always on one side"


def test_the_wrong_button_ends_the_episode(blind):
    class Wrong(ExpertPolicy):
        def chunk(self, images, state, time):
            simulator = self.environment.simulator
            task = Task(RECALL, other_button(simulator))
            return plan_chunk(simulator, task, self.contract.horizon)

    environment = blind.make(RECALL)
    (episode,) = blind.episodes(RECALL, range(3, 4))
    rollout = run_episode(environment, Wrong(environment), episode)
    assert (rollout.success, rollout.failure) == (False, "wrong_object")
    assert rollout.seconds < 6.0, "at once, not when time is up"
    environment.simulator.recall.update(0.0, lambda body: 1)
    assert not environment.simulator.check(environment.task).success, "a second press is no remedy"


def test_a_policy_that_does_nothing_presses_nothing(blind):
    class Idle:
        contract, said, refused, window = blind.contract, None, False, 1

        def reset(self, instruction, seed=None, think=False):
            pass

        def chunk(self, images, state, time):
            return np.zeros((16, 7))

    results = evaluate(Idle(), replace(blind, time_limit=1.5), [RECALL], range(2))
    (summary,) = summarize(results)
    assert summary.success == 0.0 and summary.failures == {"nothing_pressed": 2}


def test_after_its_second_nothing_shows_which_button_it_was(simulator):
    task = simulator.reset(5, RECALL)
    right, wrong = task.target, other_button(simulator)
    lit = simulator.render("front").astype(int)
    simulator.recall.cue(wrong, simulator.time)
    simulator.recall.update(simulator.time, lambda body: 0)
    other = simulator.render("front").astype(int)
    changed = np.abs(lit - other).max(axis=2) > 40
    assert 12 < changed.sum() < 200, "only the lamp shows it"
    for target in (right, wrong):
        simulator.reset(5, RECALL)
        simulator.recall.cue(target, 0.0)
        simulator.step(0.9)
        assert simulator.recall.is_lit(simulator.time)
        simulator.step(0.2)
        assert not simulator.recall.is_lit(simulator.time)
        picture = simulator.render("front")
        if target == right:
            dark = picture
    np.testing.assert_array_equal(picture, dark)


def test_no_plan_that_was_made_while_the_lamp_was_lit_tells_the_button(simulator):
    """Else a policy could begin to move to it, and its own arm would be its memory."""
    simulator.reset(5, RECALL)
    for seconds, moves in ((0.0, False), (0.9, False), (0.3, True)):
        if seconds:
            simulator.step(seconds)
        chunk = plan_chunk(simulator, simulator.task, 16)
        assert (np.abs(chunk[:, :3]).max() > 0.01) == moves, seconds


def test_only_the_lamp_differs_between_the_buttons(simulator):
    targets = []
    for seed in range(12):
        simulator.reset(seed, RECALL)
        targets.append(simulator.task.target)
        left, right = (simulator.recall.position(f"{color} button") for color in ("red", "green"))
        assert left[1] > right[1] + 0.1, "y points left"
    assert {"red button", "green button"} == {*targets}


def test_instructions_do_not_name_the_color():
    generator = np.random.default_rng(0)
    task = parse_task("recall/red button")
    assert task == Task(RECALL, "red button") == task_of_answer(RECALL, task.answer())
    texts = {phrase(task, generator) for _ in range(100)}
    assert len(texts) > 20 and not any("red" in text.split() for text in texts)
    with pytest.raises(ValueError, match="cannot read task 'recall/red can'"):
        parse_task("recall/red can")


def test_other_scenes_have_neither_lamp_nor_buttons(simulator):
    simulator.reset(5, RECALL)
    assert simulator.objects() == [] and len(simulator.recall.buttons) == 2
    simulator.reset(5, "pick")
    assert simulator.recall.buttons == {}
    bodies = [simulator.model.body(i).name for i in range(simulator.model.nbody)]
    assert "plate" in bodies and not {"lamp", "left_button", "right_button"} & {*bodies}
    assert simulator.place_position("bowl")[2] == 0.0 == simulator.place_position("plate")[2]


@pytest.mark.slow
def test_demonstrations_are_samples_for_training(contract):
    suite = Recall(contract=contract)
    environment = suite.make(RECALL)
    frames, generator = ShardFrames(), np.random.default_rng(1)
    config = DemonstrationConfig(noise_share=0.0, detour_share=0.0)
    assert demonstrate(
        environment, Episode(RECALL, 7, {"family": RECALL}), frames, config, generator
    )
    shard = frames.to_shard()
    samples = SimulatedDemonstrations([shard], contract, simulated_views(contract))
    first = samples.sample(0, generator)
    assert "button" in first.instruction and first.answer.startswith("press the ")
    lit = shard.time < LIT_SECONDS
    assert 3 <= lit.sum() <= 4
    assert np.abs(shard.action[lit][:, :, :3]).max() < 1e-6 < np.abs(shard.action[~lit]).max()
    environment.close()


def test_the_configurations_can_be_read():
    config = load_demo_config(ROOT / "benchmarks" / "recall.yaml")
    assert {entry["family"] for entry in config["instructions"]} == {RECALL}
    assert config["required_successes"] == 0.85 * len(config["instructions"])
    trained = read_train_config(ROOT / "config" / "training" / "nano_recall.yaml")
    check_train_config(trained)
    structure = model_config(trained, open_start(trained)).structure
    window = structure.window * structure.history_step
    assert window > 2.0 * LIT_SECONDS, "it reaches back to the lamp when the arm is on its way"
