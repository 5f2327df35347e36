"""Instructions as people say them: what is asked for stays what it was."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.sample import Annotation, RobotSample
from vla.datasets.sources import RobotData
from vla.envs.tabletop import spoken
from vla.envs.tabletop.demonstrations import DemonstrationConfig, make_demonstrations
from vla.envs.tabletop.impossible import NOT_UNDERSTOOD, impossible
from vla.envs.tabletop.made_up import made_up_word
from vla.envs.tabletop.scene_conversations import CommandOptions, SceneConversations
from vla.envs.tabletop.scenes import SceneConfig, make_scene_shard
from vla.envs.tabletop.sources import SIMULATED
from vla.envs.tabletop.spoken import as_spoken, spoken_sample

SENTENCE = "put the red can in the bowl"
SHORT = {short: words for words, short in spoken._SHORT.items()}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_words_of_the_instruction_stay_in_their_order():
    draws = generator()
    texts = [as_spoken(SENTENCE, draws) for _ in range(300)]
    assert all(SENTENCE in text and text == text.lower() for text in texts)
    assert len(set(texts)) > 120 and SENTENCE in texts
    assert any(text.startswith(SENTENCE) for text in texts)
    assert any(text.endswith(SENTENCE) for text in texts)
    assert not any("{" in text for text in texts)


def test_words_are_shortened_as_people_do_and_no_others():
    draws = generator()
    for text in ("i do not want the red can , what is under it ?", "the drawer is not open"):
        said = {as_spoken(text, draws) for _ in range(100)}
        shortened = [entry for entry in said if "'" in entry]
        assert shortened
        for entry in shortened:
            for short, words in SHORT.items():
                entry = re.sub(rf"\b{short}\b", words, entry)
            assert text in entry
    assert not any("'" in as_spoken("pick up the can that i like", draws) for _ in range(100))


def test_a_made_up_word_can_be_spoken_and_is_hardly_ever_the_same():
    draws = generator()
    words = [made_up_word(draws) for _ in range(500)]
    assert len(set(words)) > 495
    assert all(re.fullmatch(r"[a-z]{6,12}", word) and re.search("[aeiou]", word) for word in words)


def test_small_talk_alone_is_not_understood_and_never_in_the_other_split():
    draws, asides = generator(), [text for text in spoken._ASIDE if "{w}" not in text]
    for split, expected in (("train", True), ("test", False)):
        asked = [impossible(["red can"], draws, split, "empty") for _ in range(100)]
        assert all(entry.answer == NOT_UNDERSTOOD for entry in asked)
        texts = {entry.instruction for entry in asked}
        assert any(aside in text for text in texts for aside in asides) is expected


def test_a_sample_keeps_its_answers_and_questions():
    annotation = Annotation("a table", (("what is red ?", "a can ."),), (("grab it", "ok ."),),
                            (("i need it", "ok ."),))  # fmt: skip
    nothing, refused = np.zeros(1), ("sing", "i have not learned that .")
    sample = RobotSample({}, nothing, nothing, "lift it", None, annotation, "ok .", refused)
    draws = generator()
    said = [spoken_sample(sample, 0.5, draws) for _ in range(60)]
    assert spoken_sample(sample, 0.0, draws) == sample
    for one in said:
        assert one.annotation.question_answers == annotation.question_answers
        assert one.annotation.caption == "a table" and one.answer == "ok ."
        assert "lift it" in one.instruction and "sing" in one.impossible[0]
        assert one.impossible[1] == refused[1]
        ((rewrite, answer),) = one.annotation.command_rewrites
        assert "grab it" in rewrite and answer == "ok ."
        assert "i need it" in one.annotation.contexts[0][0]
    for text in ("lift it", "sing"):
        kept = sum(text in (one.instruction, one.impossible[0]) for one in said)
        assert 20 < kept < 55  # half of them, and of the others those that stay as they are


def test_sources_give_the_share_that_is_asked_for(tmp_path):
    contract = load_contract(contract_path("sim_panda"))
    config = DemonstrationConfig(episodes=2, episodes_per_shard=2, shares={"close_drawer": 1.0})
    make_demonstrations(tmp_path / "shards", contract, config, 1)
    make_scene_shard((0, str(tmp_path), contract, SceneConfig(scenes=4, scenes_per_shard=4)))

    def instructions(spoken: float) -> list[str]:
        options = {"episodes": 2, "spoken": spoken}
        entry = RobotData(str(tmp_path / "shards"), "simulated", annotations="truth",
                          options=options)  # fmt: skip
        data, draws = SIMULATED.open(entry, contract), generator()
        return [data.sample(0, draws, images=False).instruction for _ in range(60)]

    def commands(spoken: float) -> list[str]:
        options = CommandOptions(0.9, 0.0, 0.0, ("pick",), ("{instruction}",), spoken)
        talks, draws = (
            SceneConversations(tmp_path, contract, "front", options, turns=4),
            generator(),
        )
        return [turn[0] for _ in range(20) for turn in talks.sample(0, draws).turns]

    marks = [*spoken._BEFORE, *(text for text in spoken._ASIDE if "{w}" not in text)]

    def dressed(texts: list[str]) -> float:
        return np.mean([any(mark in text for mark in marks) for text in texts])

    assert dressed(instructions(0.0)) == dressed(commands(0.0)) == 0
    assert dressed(instructions(0.9)) > 0.3 and dressed(commands(0.9)) > 0.3
    with pytest.raises(Exception, match="spoken"):
        instructions(1.5)
