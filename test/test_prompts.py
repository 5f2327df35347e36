"""The questions that an InstructVLA is asked, and how its own answers are read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_checkpoint import save_tiny_checkpoint

from vla.datasets.sample import Annotation, RobotSample
from vla.policies.base import Observation
from vla.policies.collation import PromptSampling
from vla.policies.config import CheckpointError, from_dict
from vla.policies.instructvla.config import InstructVLAConfig, PromptConfig
from vla.policies.instructvla.inference import Reasoner
from vla.policies.instructvla.prompts import action_prompt, sample_row, thinking_prompt
from vla.policies.registry import preset

ASKED = ("Could you hand me the Coke?", "Pick up the Coke.")


def test_small_models_get_plain_words():
    prompts = PromptConfig()
    act = action_prompt(" Pick the Red block. ", prompts)
    assert act == "what action should the robot take to pick the red block ?"
    think = thinking_prompt(" Pick the Red block. ", prompts)
    assert think == f"{act} first answer my question ."


@pytest.mark.parametrize("name", ["base", "base_generalist", "published"])
def test_weights_of_the_published_size_get_the_words_of_their_training(name):
    """Lower case in what they act on, a user's own words in what they answer first."""
    prompts = preset(name).prompts
    act = action_prompt("Put the Carrot on the plate. ", prompts)
    assert act == "What action should the robot take to put the carrot on the plate.?"
    think = "What action should the robot take to Could you hand me the Coke??"
    assert thinking_prompt(f" {ASKED[0]} ", prompts) == f"{think} First answer my question."


@pytest.mark.parametrize("kind", ["context", "rewrite"])
def test_training_asks_as_inference_does(kind):
    prompts, nothing = preset("base").prompts, np.zeros(1)
    annotation = Annotation("", (), command_rewrites=(ASKED,), contexts=(ASKED,))
    sample = RobotSample({}, nothing, nothing, "Lift It.", annotation=annotation)
    shares = {"motion": 0.0, "question": 0.0, "context": 0.0, "rewrite": 0.0, kind: 1.0}
    row = sample_row(sample, prompts, PromptSampling(**shares), 1, np.random.default_rng(0))
    assert row.turns == ((thinking_prompt(ASKED[0], prompts), ASKED[1]),)
    shares["unanswered"] = 1.0
    row = sample_row(sample, prompts, PromptSampling(**shares), 1, np.random.default_rng(0))
    assert row.turns == ((action_prompt(ASKED[0], prompts), ""),) and row.acts
    shares[kind] = 0.0
    row = sample_row(sample, prompts, PromptSampling(**shares), 1, np.random.default_rng(0))
    assert row.turns == ((action_prompt("Lift It.", prompts), ""),)


def test_unknown_ways_to_put_words_are_refused():
    with pytest.raises(CheckpointError, match="act_words"):
        from_dict(InstructVLAConfig, {"prompts": {"act_words": "upper"}}, "config.json")


@pytest.fixture(scope="module")
def as_published(tmp_path_factory) -> Reasoner:
    """A tiny policy that thinks as the published code does, in words as they are."""
    config = preset("test")
    chat = replace(config.backbone.chat, plain_words=False)
    published = preset("published").prompts
    config = replace(config, backbone=replace(config.backbone, chat=chat), prompts=published)
    return Reasoner.from_pretrained(
        save_tiny_checkpoint(tmp_path_factory.mktemp("p"), config=config)
    )


def test_an_answer_is_read_again_with_two_spaces(as_published, monkeypatch):
    generator = np.random.default_rng(0)
    images = {"front": generator.integers(0, 256, (96, 96, 3), np.uint8)}
    read, act = [], as_published.model.act

    def reading(pixels, ids, *rest):
        words = [token for token in ids[0, : -as_published.num_queries].tolist() if token >= 0]
        read.append(as_published._tokenizer.decode(words))
        return act(pixels, ids, *rest)

    monkeypatch.setattr(as_published.model, "act", reading)
    as_published.latent_action(images, ASKED[0], "Pick up the can. ")
    assert read[0].endswith("Pick up the can.  "), "the answer's own space, and one more"
    text, latent = as_published.think_and_act(Observation(images, np.zeros(10)), ASKED[0])
    assert read[1].endswith(f"{text} ")
    np.testing.assert_array_equal(latent, as_published.latent_action(images, ASKED[0], text))


def test_the_published_answer_ends_after_50_tokens(as_published, monkeypatch):
    limits, generate = [], as_published.model.generate

    def generating(prefill, stop, limit):
        limits.append(limit)
        return generate(prefill, stop, limit)

    monkeypatch.setattr(as_published.model, "generate", generating)
    as_published.think({}, ASKED[0])
    as_published.ask({}, ASKED[0])
    assert limits == [50, 60]
