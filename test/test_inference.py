"""Refreshing text and actions over the steps of an episode."""

import numpy as np
import pytest

from vla.policies.base import Observation, PolicyFeatures
from vla.policies.instructvla.inference import Reasoner
from vla.policies.reasoning_session import ReasoningSession, Refresh


class SeeingPart:
    """Writes down what it is shown; says the next of its texts when it is to think."""

    features = PolicyFeatures((), True, True, True, (1, 1), 1, 1.0, True, refusals=("i see no",))

    def __init__(self, texts=()):
        self.calls, self.texts = [], list(texts)

    def think_and_act(self, observation, instruction):
        text = self.texts.pop(0)
        self.calls.append((text, observation.stamp))
        return text, np.zeros(1)

    def act(self, observation, instruction, response=None):
        self.calls.append(("act", observation.stamp))
        return np.zeros(1)

    def observe(self, observation, instruction):
        self.calls.append(("observe", observation.stamp))

    def reset(self):
        pass


@pytest.fixture(scope="module")
def reasoner(checkpoint):
    return Reasoner.from_pretrained(checkpoint)


@pytest.fixture
def scenes():
    generator = np.random.default_rng(0)
    names = ("front", "wrist")
    return [
        Observation(
            {name: generator.integers(0, 256, (96, 96, 3), np.uint8) for name in names},
            np.zeros(10),
        )
        for _ in range(9)
    ]


@pytest.mark.parametrize(
    ("refresh", "think", "texts", "latents"),
    [
        (Refresh(), False, [], range(9)),
        (Refresh(action_every=2), False, [], [0, 2, 4, 6, 8]),
        (Refresh(), True, [0], range(9)),
        (Refresh(language_every=4), True, [0, 4, 8], range(9)),
        (Refresh(language_every=0, action_every=3), True, [0], [0, 3, 6]),
        # A new text brings its own latent action, from which the next ones are counted.
        (Refresh(language_every=5, action_every=3), True, [0, 5], [0, 3, 5, 8]),
    ],
)
def test_what_is_computed_when(reasoner, scenes, refresh, think, texts, latents):
    session = ReasoningSession(reasoner, refresh)
    steps = [session.step(seen, "pick the red block", think) for seen in scenes]
    assert [i for i, step in enumerate(steps) if step.new_text] == list(texts)
    assert [i for i, step in enumerate(steps) if step.new_action] == list(latents)
    for index, step in enumerate(steps):
        assert (step.text is None) == (not think)
        if not step.new_action:
            assert step.action is steps[index - 1].action
        elif not step.new_text:
            expected = reasoner.latent_action(scenes[index].images, "pick the red block", step.text)
            np.testing.assert_array_equal(step.action, expected)
        else:
            assert step.text == reasoner.think(scenes[index].images, "pick the red block")


def test_settings_may_change_between_steps(reasoner, scenes):
    session = ReasoningSession(reasoner, Refresh(action_every=100))
    session.step(scenes[0], "pick the red block")
    assert not session.step(scenes[1], "pick the red block").new_action
    session.refresh = Refresh(action_every=1)
    assert session.step(scenes[2], "pick the red block").new_action


@pytest.mark.parametrize("change", ["instruction", "mode", "episode"])
def test_another_instruction_mode_or_episode_drops_what_was_kept(reasoner, scenes, change):
    session = ReasoningSession(reasoner, Refresh(language_every=0, action_every=0))
    session.step(scenes[0], "pick the red block", think=True)
    assert not session.step(scenes[1], "pick the red block", think=True).new_action
    if change == "episode":
        session.reset()
    instruction = "open the drawer" if change == "instruction" else "pick the red block"
    step = session.step(scenes[2], instruction, think=change != "mode")
    assert step.new_action and step.new_text == (change != "mode")
    fresh = ReasoningSession(reasoner).step(scenes[2], instruction, think=change != "mode")
    assert step.text == fresh.text
    np.testing.assert_array_equal(step.action, fresh.action)


def test_what_is_seen_between_two_actions_belongs_to_the_history():
    part = SeeingPart()
    session = ReasoningSession(part, Refresh(action_every=3))
    session.look(Observation({}, np.zeros(1), 9.0), "pick")  # no step of it yet
    for stamp in range(5):
        session.step(Observation({}, np.zeros(1), float(stamp)), "pick")
    session.look(Observation({}, np.zeros(1), 5.0), "pick")
    assert part.calls == [("act", 0), *(("observe", t) for t in (1, 2)), ("act", 3)] + [
        ("observe", t) for t in (4, 5)
    ]


def test_what_is_refused_is_neither_done_nor_computed_again():
    part = SeeingPart(["I see no yellow can .", "picking ."])
    session = ReasoningSession(part, Refresh(language_every=2))
    steps = [session.step(Observation({}, np.zeros(1), float(t)), "pick", True) for t in range(5)]
    assert all(step.refused for step in steps) and len(part.calls) == 1
    assert [step.new_text for step in steps] == [True, False, False, False, False]
    assert not any(step.new_action for step in steps[1:])
    session.reset()  # asked again
    assert not session.step(Observation({}, np.zeros(1), 5.0), "pick", True).refused


def test_what_was_begun_is_not_refused_later():
    part = SeeingPart(["picking .", "i see no can .", "lifting ."])
    session = ReasoningSession(part, Refresh(language_every=2))
    steps = [session.step(Observation({}, np.zeros(1), float(t)), "pick", True) for t in range(5)]
    assert not any(step.refused for step in steps)
    assert [step.text for step in steps] == [*["picking ."] * 4, "lifting ."]
    assert part.calls[2:4] == [("i see no can .", 2.0), ("act", 2.0)]  # on the text before
