"""Impossible instructions: true of their scene, learned as configured, refused and counted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Annotation, RobotSample
from vla.envs.base import GivenInstruction, SuiteError
from vla.envs.registry import make_suite
from vla.envs.tabletop import impossible_sentences as sentences
from vla.envs.tabletop.impossible import IMPOSSIBLE_KINDS, REFUSALS, impossible
from vla.envs.tabletop.scene_conversations import CommandOptions, SceneConversations
from vla.envs.tabletop.scenes import SceneConfig, make_scene_shard
from vla.envs.tabletop.tasks import FAMILIES, Task, sample_task
from vla.envs.tabletop.wording import WORDINGS
from vla.evaluation.refusals import evaluate_refusals, refusal_table, score_refusals
from vla.policies.collation import PromptSampling
from vla.policies.config import CheckpointError
from vla.policies.instructvla.config import PromptConfig
from vla.policies.instructvla.prompts import sample_row, thinking_prompt
from vla.policies.registry import policy_type, preset
from vla.training.config import read_train_config
from vla_cli.parser import main

SCENE = ["red block", "green can", "red can"]
FORM = "do : {instruction}"


def drawn(kind, split="train", objects=SCENE, count=200):
    generator = np.random.default_rng(0)
    return [impossible(objects, generator, split, kind) for _ in range(count)]


def test_what_is_asked_for_is_not_there():
    for split in ("train", "test"):
        for asked in drawn("absent", split):
            assert asked.answer.removesuffix(" .").split(" no ")[-1] not in SCENE
            words = asked.answer.split()
            if words[2] == "nothing":  # red and green are there
                assert words[3] in ("blue", "yellow", "purple")
            assert not any(name in asked.instruction for name in SCENE)
    only_blocks = {asked.answer for asked in drawn("absent", objects=["red block", "blue block"])}
    assert "i see no can ." in only_blocks and "i see no block ." not in only_blocks
    # Half of what is missing has a color that is there.
    colors = [asked.answer.split()[3] in ("red", "green") for asked in drawn("absent")]
    assert 0.35 < np.mean(colors) < 0.6


@pytest.mark.parametrize("kind", IMPOSSIBLE_KINDS)
def test_answers_begin_as_refusals_and_test_sentences_are_new(kind):
    asked = drawn(kind)
    assert all(entry.answer.startswith(REFUSALS) for entry in asked)
    assert all(entry.kind == kind and entry.instruction for entry in asked)
    if kind not in ("absent", "nonsense"):  # plain wordings are in both splits, letters random
        trained = {entry.instruction for entry in asked}
        assert not trained & {entry.instruction for entry in drawn(kind, "test")}
    again = np.random.default_rng(1), np.random.default_rng(1)
    assert impossible(SCENE, again[0], kind=kind) == impossible(SCENE, again[1], kind=kind)


def test_the_splits_share_no_word_list():
    for bank in (
        sentences.THINGS,
        sentences.GOALS,
        sentences.TAKE_THING,
        sentences.UNLEARNED,
        sentences.EMPTY,
        sentences.LANGUAGES,
        sentences.SYLLABLES,
        sentences.NONSENSE,
    ):
        assert not set(bank["train"]) & set(bank["test"])


def test_nothing_that_can_be_done_is_answered_like_a_refusal():
    generator = np.random.default_rng(0)
    for family in FAMILIES:
        assert not sample_task(family, SCENE, generator).answer().startswith(REFUSALS)
    with pytest.raises(ValueError, match=r"'rude'; known: absent"):
        impossible(SCENE, generator, kind="rude")


def test_a_checkpoint_says_how_its_refusals_begin():
    prompts = replace(preset("test").prompts, refusals=("I see no", "not learned"))
    config, kind = replace(preset("test"), prompts=prompts), policy_type("instructvla")
    features = kind.features(config, load_contract(contract_path("sim_panda")))
    assert features.refuses(" i see no can .") and not features.refuses("you see no can .")
    assert not features.refuses(None)
    silent = kind.features(preset("test"), load_contract(contract_path("sim_panda")))
    assert not silent.refuses("I see no can .")
    empty = replace(config, prompts=replace(prompts, refusals=("no", " ")))
    with pytest.raises(CheckpointError, match=r"c.json: prompts: refusals: an empty one"):
        kind.check_config(empty, "c.json")


def frame(impossible):
    nothing = np.zeros(1)
    annotation = Annotation("", (), (("grab it", "ok ."),), (("i need it", "ok ."),))
    return RobotSample({}, nothing, nothing, "lift it", None, annotation, "ok .", impossible)


def test_a_share_of_frames_refuses_first_and_acts_on_its_own_instruction():
    prompts, pair = PromptConfig(), ("play chess", "i have not learned that .")
    shares = {"motion": 0.0, "question": 0.0, "context": 0.3, "rewrite": 0.2, "think": 0.5}

    def rows(share, pair):
        sampling = PromptSampling(**shares, impossible=share)
        generator = np.random.default_rng(0)
        return [sample_row(frame(pair), prompts, sampling, 1, generator) for _ in range(400)]

    found, plain = rows(0.25, pair), rows(0.0, pair)
    refusing = [row for row in found if row.turns[0][1] == pair[1]]
    assert 70 < len(refusing) < 130
    act = ("what action should the robot take to lift it ?", "")
    assert refusing[0].turns == ((thinking_prompt("play chess", prompts), pair[1]), act)
    assert all(row.acts for row in found)
    # Without a share, and for frames that have none, nothing is as it was not before.
    assert plain == rows(0.0, None) == rows(0.25, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, contract):
    folder = tmp_path_factory.mktemp("scenes")
    make_scene_shard((0, str(folder), contract, SceneConfig(scenes=6, scenes_per_shard=6)))
    return folder


def test_conversations_have_impossible_commands_in_the_shares_that_are_asked_for(folder, contract):
    options = CommandOptions(0.9, 0.5, 1.0, ("pick",), (FORM,))
    talks = SceneConversations(folder, contract, "front", options, turns=1)
    refused = picked = reworded = 0
    for number in range(120):
        index = number % len(talks)
        ((question, answer),) = talks.sample(index, np.random.default_rng(number)).turns
        if not question.startswith("do : "):
            continue
        objects = talks._entries[index][2].objects
        if answer.startswith(REFUSALS):
            refused += 1
            assert answer.split(" no ")[-1].removesuffix(" .") not in objects
        else:
            picked += 1
            name = answer.removeprefix("pick up the ").removesuffix(" .")
            assert name in objects and answer == Task("pick", name).answer()
            reworded += name not in question
    assert abs(refused - picked) < 40 and refused + picked > 90 and reworded > 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (CommandOptions(families=("pick", "dance")), "unknown family 'dance'"),
        (CommandOptions(forms=("do it",)), "with {instruction}"),
        (CommandOptions(forms=()), "at least one"),
    ],
)
def test_options_that_cannot_be_are_named(folder, contract, options, says):
    with pytest.raises(DatasetError, match=says):
        SceneConversations(folder, contract, "front", options)


def test_the_shipped_configuration_names_the_refusals():
    config = read_train_config("config/training/nano_full.yaml")
    assert tuple(config.model["prompts"]["refusals"]) == REFUSALS
    commands = config.conversations[0].options["commands"]
    prompts = PromptConfig()
    assert commands["forms"] == [prompts.act + prompts.think_suffix]
    assert config.prompts.impossible > 0


@pytest.fixture(scope="module")
def instructions():
    return list(make_suite("tabletop").instructions(2, 500))


def test_instructions_are_of_each_kind_and_true_of_their_scenes(instructions):
    counts = {kind: [r.possible for r in instructions if r.kind == kind] for kind in
              (*WORDINGS, *IMPOSSIBLE_KINDS)}  # fmt: skip
    assert counts == {kind: [kind in WORDINGS] * 2 for kind in counts}
    assert all(r.possible != r.truth.startswith(REFUSALS) for r in instructions)
    assert all(r.images["front"].shape == (96, 96, 3) for r in instructions)
    with pytest.raises(SuiteError, match="1000000"):
        list(make_suite("tabletop").instructions(2, 999_990))


def test_refusals_are_counted_by_kind_and_in_total():
    kinds = ["direct", "goal", "direct", "goal", "empty"]
    instructions = [
        GivenInstruction(kind, n, {}, str(n), "no .", kind == "direct")
        for n, kind in enumerate(kinds)
    ]
    answers = {"0": "yes .", "1": "No", "2": "no .", "3": "sure", "4": "no way ."}
    answered = evaluate_refusals(
        lambda images, text: answers[text], lambda text: text.lower().startswith("no"), instructions
    )
    scores = {s.kind: (s.asked, s.refused, s.right) for s in score_refusals(answered)}
    assert scores == {
        "direct": (2, 1, 1), "possible": (2, 1, 1),
        "goal": (2, 1, 1), "empty": (1, 1, 0), "impossible": (3, 2, 1),
    }  # fmt: skip
    lines = refusal_table(score_refusals(answered)).splitlines()
    assert len(lines) == 6 and "67%" in lines[-1] and "21% to 94%" in lines[-1]


@pytest.mark.slow
def test_eval_counts_what_a_checkpoint_refuses(checkpoint, tmp_path, capsys):
    result = tmp_path / "impossible.json"
    words = ["eval", "--checkpoint", str(checkpoint), "--impossible", "1", "--json", str(result)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "impossible        7       0%" in printed and "has not learned to refuse" in printed
    written = json.loads(result.read_text())
    assert len(written["instructions"]) == len(WORDINGS) + len(IMPOSSIBLE_KINDS)
    for other in (["--questions", "1"], ["--jobs", "2"], ["--noise", "5"]):
        assert main([*words, *other]) == 2
    assert main(["eval", "--impossible", "0"]) == 2
