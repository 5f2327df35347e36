"""VLA-IT annotations of simulated episodes, from the scene's truth (InstructVLA, section 3.3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla.datasets.frames import EpisodeWords
from vla.datasets.sample import Annotation, Pair
from vla.envs.tabletop import relations, sentences
from vla.envs.tabletop.questions import CONTENT_KINDS, drawer_state, listing, question_of
from vla.envs.tabletop.tasks import task_of_answer
from vla.envs.tabletop.wording import reword

# Of single things and of pairs: still true when something that they do not name was moved.
_PAIRWISE_KINDS = ("side", "depth", "comparison")
# Which wordings InstructVLA counts as the command in other words, and which as a new context.
REWRITES = ("paraphrase", "attribute")
CONTEXTS = ("negation", "implied")


def caption(
    words: EpisodeWords, drawer_opening: float | None, generator: np.random.Generator
) -> str:
    """What is there to see besides the robot, in one or two sentences.

    drawer_opening: in metres; None, or a drawer that is just ajar, leaves it out.
    """
    names = listing(relations.left_to_right(words.objects))
    starts = (
        f"there is {names} on the table , with a bowl and a plate",
        f"a table with {names} , a bowl and a plate",
        f"on the table i see {names} , also a bowl and a plate",
    )
    text = starts[int(generator.integers(len(starts)))]
    state = drawer_state(drawer_opening)
    return f"{text} . the drawer of the cabinet is {state} ." if state else f"{text} ."


def annotate(
    words: EpisodeWords,
    generator: np.random.Generator,
    drawer_opening: float | None = None,
    entries: int = 3,
    split: str = "train",
) -> Annotation:
    """A caption, questions about the scene, command rewrites and contexts, drawn at random.

    Everything stays true throughout the episode, whatever the robot has moved: questions about
    places leave out the target, those about the drawer the tasks that move it. drawer_opening: at
    the episode's start [m], None where it is not known. entries: at most so many of each. split: of
    the sentences, see vla.envs.tabletop.wording. Replies to rewrites and contexts name the next
    action; a task family that has no such sentences gets none.
    """
    task = task_of_answer(words.family, words.answer)
    moves_drawer = task.target == "drawer"
    opening = None if moves_drawer else drawer_opening
    still = {name: place for name, place in words.objects.items() if name != task.target}
    return Annotation(
        caption(words, opening, generator),
        _questions(words, replace(words, objects=still), opening, entries, generator),
        _instructions(words, REWRITES, entries, generator, split),
        _instructions(words, CONTEXTS, entries, generator, split),
    )


def _questions(
    words: EpisodeWords,
    still: EpisodeWords,
    opening: float | None,
    entries: int,
    generator: np.random.Generator,
) -> tuple[Pair, ...]:
    kinds = CONTENT_KINDS + _PAIRWISE_KINDS
    found: dict[str, str] = {}
    for index in generator.permutation(len(kinds)):
        about = still if kinds[index] in _PAIRWISE_KINDS else words
        if pair := question_of(kinds[index], about, opening, generator):
            found[pair[0]] = pair[1]
        if len(found) == entries:
            break
    return tuple(found.items())


def _instructions(
    words: EpisodeWords,
    wordings: tuple[str, ...],
    entries: int,
    generator: np.random.Generator,
    split: str,
) -> tuple[Pair, ...]:
    if words.family not in sentences.PARAPHRASE:
        return ()
    task = task_of_answer(words.family, words.answer)
    found = {}
    for entry in range(entries):
        wording = wordings[entry % len(wordings)]
        if text := reword(task, words.objects, wording, generator, split):
            found[text] = words.answer
    return tuple(found.items())
