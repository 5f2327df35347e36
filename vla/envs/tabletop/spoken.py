"""Instructions as people say them: shortened words, courtesies, and what is beside the point.

What is wanted does not change by it, so the same is done to commands that can be followed and to
those that can't: only what is asked for tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from vla.datasets.sample import Pair, RobotSample
from vla.envs.tabletop.made_up import made_up_word

# Words that are spoken as one.
_SHORT = {
    "do not": "don't",
    "does not": "doesn't",
    "should not": "shouldn't",
    "can not": "can't",
    "cannot": "can't",
    "is not": "isn't",
    "i would": "i'd",
    "i am": "i'm",
    "i will": "i'll",
    "it is": "it's",
    "that is": "that's",
    "there is": "there's",
    "what is": "what's",
    "let us": "let's",
    "we are": "we're",
}
_SHORTENED = re.compile(rf"\b(?:{'|'.join(_SHORT)})\b")
_BEFORE = (
    "hey ,", "hello ,", "well ,", "ok ,", "so ,", "excuse me ,", "listen ,", "hey robot ,",
    "my friend ,", "if you have time ,", "if you do not mind ,", "when you are ready ,",
    "as soon as you can ,", "first of all ,", "be so kind :", "just", "quickly ,", "one thing :",
    "sorry to ask , but", "all i ask is this :", "here is your next task :", "your turn :",
)  # fmt: skip
_AFTER = (
    ", please", ", thank you", ", thanks a lot", ", would you", ", if you can", "right away",
    "as soon as possible", "before lunch", ", ok ?", "and be careful", ", my dear robot",
    ", and take your time", ", that would help", ", i beg you", ", do you hear me ?", "today",
    ", that is all", "while i wait", ", nothing more",
)  # fmt: skip
# Sentences that ask for nothing. {w} is a word that nobody knows.
_ASIDE = (
    "what a day .", "it is windy today .", "i slept badly .", "my boss is coming at noon .",
    "we had a long meeting .", "the train was late this morning .", "how are you ?",
    "nice to see you .", "you look great today .", "you did that well .",
    "i like working with you .",
    "this is my first day here .", "my name is {w} .", "{w} says hello .", "i come from {w} .",
    "have you heard of {w} ?", "{w} was here yesterday .", "i have to go to {w} soon .",
    "do you know {w} ?", "i am so happy .", "it is warm in here .", "we have visitors .",
    "this table is new .", "you are a good robot .", "let us begin .", "now it gets serious .",
    "i have {w} on my mind .", "sunday was {w} .", "my uncle has a {w} .", "that was fun .",
    "{w} !", "oh no .", "wonderful !", "i read about {w} {w} in the morning .",
    "the children are at school .", "i am in a hurry .", "my back hurts .", "we won .",
)  # fmt: skip


def _choose(generator: np.random.Generator, options):
    return options[int(generator.integers(len(options)))]


def as_spoken(instruction: str, generator: np.random.Generator) -> str:
    """The same instruction, lower case, with one or more of such changes, or with none of them."""
    text = instruction
    if generator.random() < 0.5:
        text = _SHORTENED.sub(lambda words: _SHORT[words[0]], text)
    draw = generator.random()
    if draw < 0.3:
        text = f"{_choose(generator, _BEFORE)} {text}"
    elif draw < 0.5:
        text = f"{text} {_choose(generator, _AFTER)}"
    elif draw < 0.8:
        text = f"{aside(generator)} {text}"
    elif draw < 0.9:
        text = f"{text} {'' if text.endswith('?') else '. '}{aside(generator)}"
    return text


def spoken_sample(sample: RobotSample, share: float, generator: np.random.Generator) -> RobotSample:
    """The sample with that share of its instructions as people say them, refused ones too.

    Questions about the scene stay as they are.
    """

    def say(text: str) -> str:
        return as_spoken(text, generator) if generator.random() < share else text

    def said(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        return tuple((say(text), answer) for text, answer in pairs)

    annotation = sample.annotation
    if annotation is not None:
        annotation = replace(
            annotation,
            command_rewrites=said(annotation.command_rewrites),
            contexts=said(annotation.contexts),
        )
    impossible = sample.impossible
    if impossible is not None:
        impossible = (say(impossible[0]), impossible[1])
    return replace(
        sample, instruction=say(sample.instruction), annotation=annotation, impossible=impossible
    )


def aside(generator: np.random.Generator) -> str:
    """One or two sentences that are beside the point."""
    count = 1 if generator.random() < 0.7 else 2
    said = " ".join(_choose(generator, _ASIDE) for _ in range(count))
    return re.sub(r"\{w\}", lambda _: made_up_word(generator), said)
