"""Several robots in one pass of a policy: each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_adapter import save_tiny_adapter
from tiny_robovlm import STEP, STRUCTURES, observation, tiny
from windowed_policy import WindowedPart

from vla.policies.history import History
from vla.policies.parts import ActionPart, ActionTurn, ReasoningPart, ReasoningTurn
from vla.policies.policy import Policy
from vla.serving.policy import RobotSession, ServedPolicy, group
from vla.serving.requests import ACT, INFER, OBSERVE, Request, RequestError

WORDS = ("pick the red block", "put the can in the bowl, then pick the block", "pick the can")


def request(scene: int, words: str, **more) -> Request:
    seen = observation(scene)
    return Request(INFER, seen.images, seen.state, words, seen.stamp, **more)


def test_latent_actions_and_chunks_are_those_of_each_robot_alone(checkpoint):
    reasoning, action = (kind.from_pretrained(checkpoint) for kind in (ReasoningPart, ActionPart))
    alone, together = ([(reasoning.branch(), action.branch()) for _ in WORDS] for _ in range(2))
    for step in range(2):
        # The first step sets the seeds; the second goes on with each robot's own draws.
        seeds = [7, 7, 9] if step == 0 else [None] * 3
        seen = [observation(10 * step + index) for index in range(3)]
        said = [None, None, "the red block"]
        given = list(zip(seen, WORDS, said, seeds, strict=True))
        latents = reasoning.act_together(
            [ReasoningTurn(own, *each) for (own, _), each in zip(together, given, strict=True)]
        )
        singles = [own.act(*each) for (own, _), each in zip(alone, given, strict=True)]
        np.testing.assert_allclose(latents, singles, atol=1e-5)
        chunks = action.chunks_together(
            [
                ActionTurn(own, each.images, each.state, latent, seed)
                for (_, own), each, latent, seed in zip(together, seen, latents, seeds, strict=True)
            ]
        )
        for (_, own), each, latent, seed, chunk in zip(
            alone, seen, singles, seeds, chunks, strict=True
        ):
            single = own.action_chunk(each.images, each.state, latent, seed)
            np.testing.assert_allclose(chunk, single, atol=1e-5)
    assert not np.allclose(chunks[0], chunks[1], atol=1e-4)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("policy_head", {"output": "flow"}),
        ("policy_head", {"trunk": "gpt", "output": "diffusion", "place": "before_last"}),
        ("interleaved", {"output": "regression", "use_state": True}),
        pytest.param("discrete", {}, marks=pytest.mark.slow),
    ],
)
def test_robots_with_histories_of_their_own(part_of, layout, changes):
    changes, structure = dict(changes), STRUCTURES[layout]
    if place := changes.pop("place", ""):
        structure = replace(structure, token_place=place)
    part = part_of(tiny(layout, structure=structure, **changes))
    alone, together = ([part.branch() for _ in WORDS] for _ in range(2))
    for step in range(3):
        robots = range(3) if step else (0, 2)  # one comes later, and has a shorter history
        turns = [
            (observation(10 * step + robot, STEP * step), WORDS[robot], None, robot)
            for robot in robots
        ]
        chunks = part.act_together(
            [
                ReasoningTurn(together[robot], *turn)
                for robot, turn in zip(robots, turns, strict=True)
            ]
        )
        for robot, turn, chunk in zip(robots, turns, chunks, strict=True):
            np.testing.assert_allclose(chunk, alone[robot].act(*turn), atol=1e-5)


def test_a_policy_without_batches_runs_one_by_one():
    class Remembering(WindowedPart):
        """Backs off by the rise, without a checkpoint."""

        def __init__(self):
            self._seen = History(3, 0.2)

        def start_memory(self):
            self._seen = History(3, 0.2)

        def act(self, observation, instruction, response=None, seed=None):
            return observation.state - self._seen.add(observation.stamp, observation.state)[0]

    part, *robots = (Remembering() for _ in range(3))
    for step in range(2):
        seen = [observation(2 * step + index, 0.2 * step) for index in range(2)]
        rises = part.act_together(
            [ReasoningTurn(own, each, "") for own, each in zip(robots, seen, strict=True)]
        )
    for index, rise in enumerate(rises):
        np.testing.assert_allclose(rise, seen[index].state - observation(index).state)


def test_each_adapter_has_its_own_answers(checkpoint, tmp_path):
    folders = {name: save_tiny_adapter(checkpoint, tmp_path / name, seed)
               for seed, name in enumerate(("red", "blue"))}  # fmt: skip
    served = ServedPolicy.from_pretrained(checkpoint, adapters=folders)
    session, chunks = RobotSession(served), {}
    for name in ("red", "", "blue", "red"):
        asked = request(1, WORDS[0], seed=3, adapter=name)
        session.prepare(asked)
        chunks[name] = served.run([session], [asked])[0]["actions"]
        policy = Policy.from_pretrained(checkpoint, adapter=folders.get(name, ""))
        policy.reset(WORDS[0], seed=3)
        expected = policy.chunk(asked.images, asked.state)
        np.testing.assert_allclose(chunks[name], expected, atol=1e-6)
        assert session.reasoning.checkpoint_id == policy.checkpoint_id
    assert not np.allclose(chunks["red"], chunks["blue"], atol=1e-4)
    with pytest.raises(RequestError, match="no adapter 'green'; there is: red, blue"):
        session.prepare(request(1, WORDS[0], adapter="green"))


def test_text_is_said_once_for_an_instruction(checkpoint):
    served = ServedPolicy.from_pretrained(checkpoint)
    session, texts = RobotSession(served), []
    session.reasoning.think = lambda images, words: texts.append(words) or f"I will {words}"
    for words in (WORDS[0], WORDS[0], WORDS[2]):
        asked = request(1, words, think=True)
        session.prepare(asked)
        assert served.run([session], [asked])[0]["text"] == f"I will {words}"
    assert texts == [WORDS[0], WORDS[2]]
    assert "text" not in served.run([session], [request(1, WORDS[2])])[0]


def test_what_can_run_together():
    plain = request(0, "go")
    assert group(plain, 1) == group(request(5, "stay"), 2)
    for other in (
        replace(plain, adapter="red"),
        replace(plain, kind=ACT),
        replace(plain, kind=OBSERVE),
        replace(plain, kind=ACT, think=True),
    ):
        assert group(other, 2) != group(plain, 1)
    assert group(replace(plain, kind=OBSERVE), 1) != group(replace(plain, kind=OBSERVE), 2)
