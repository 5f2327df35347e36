"""Long instructions, split into steps by a model that sees the scene, and followed one by one.

A second system beside a policy that understands plain commands alone, as InstructVLA's paper has
GPT-4o for comparison (appendix B.3). It is asked for the steps once, at the beginning, when nothing
hides the scene; and after each step, whether that is done. While it is asked, no instruction is in
force, so that the arm stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vla.annotation.asking import Query, ask_all
from vla.annotation.endpoint import EndpointConfig, user_message
from vla.annotation.prompts import Prompt, read_prompt
from vla.annotation.schema import object_schema, reply_by_schema, reply_error
from vla.control.session import LONGEST_INSTRUCTION, InstructionError, check_instruction
from vla.core.resources import given_or_shared
from vla.core.text import one_line

T = TypeVar("T")

SPLIT_PROMPT, DONE_PROMPT = "config/annotation/split.md", "config/annotation/done.md"
MOST_STEPS = 10
TRIES = 2  # of a step that ended without being done
SPLIT_SCHEMA = object_schema({"steps": {"type": "array", "items": {"type": "string"}}})
DONE_SCHEMA = object_schema({"reason": {"type": "string"}, "done": {"type": "boolean"}})
# Ends of an instruction after which the scene tells whether it is done.
_JUDGED = ("settled", "timeout")


class GuideError(RuntimeError):
    """The model gave no answer that could be used; one sentence."""


@dataclass(frozen=True)
class Guide:
    """The model that splits instructions, and how it is asked."""

    endpoint: EndpointConfig
    split: Prompt  # with {instruction} and {most}
    done: Prompt  # with {instruction}, a step, and {task}, the whole


@dataclass(frozen=True)
class Followed:
    """How a long instruction ended."""

    steps: tuple[str, ...]  # that it was split into
    done: int  # so many of them, from the first on
    outcome: str  # "done", "not_done", "nothing_to_do", or the end of the step that ended it
    message: str  # in one sentence


def make_guide(
    endpoint: EndpointConfig, split: str = SPLIT_PROMPT, done: str = DONE_PROMPT
) -> Guide:
    """A guide with the prompts of two files. Raises PromptError."""
    return Guide(
        endpoint,
        read_prompt(given_or_shared(split), ("instruction", "most")),
        read_prompt(given_or_shared(done), ("instruction", "task")),
    )


def split_instruction(guide: Guide, instruction: str, jpeg: bytes) -> tuple[str, ...]:
    """The steps of an instruction in the scene of a JPEG image; () where nothing is to be done.

    Raises GuideError.
    """
    values = {"instruction": one_line(instruction, LONGEST_INSTRUCTION), "most": str(MOST_STEPS)}
    return _asked(guide.endpoint, guide.split.filled(values), jpeg, SPLIT_SCHEMA, _read_steps)


def is_done(guide: Guide, task: str, step: str, jpeg: bytes) -> tuple[bool, str]:
    """Whether a step of a task is done in a JPEG image, and the reason. Raises GuideError."""
    values = {"instruction": step, "task": one_line(task, LONGEST_INSTRUCTION)}

    def read(text: str) -> tuple[bool, str]:
        value = reply_by_schema(text, DONE_SCHEMA)
        return value["done"], one_line(value["reason"], LONGEST_INSTRUCTION)

    return _asked(guide.endpoint, guide.done.filled(values), jpeg, DONE_SCHEMA, read)


def follow_in_steps(
    guide: Guide,
    instruction: str,
    look: Callable[[], bytes],
    run: Callable[[str], str],
    tell: Callable[[str], None],
) -> Followed:
    """Splits an instruction and follows the steps, each until the model says that it is done.

    look(): the scene now, as a JPEG image. run(step): follows one to its end, and returns the
    Outcome's name in lower case. tell(line): what goes on. A step that is not done after TRIES runs
    ends it, and so does one that was stopped, replaced or cancelled, or failed. Raises GuideError,
    before or between steps.
    """
    steps = split_instruction(guide, instruction, look())
    if not steps:
        return Followed((), 0, "nothing_to_do", "the model sees nothing to do here")
    for number, step in enumerate(steps, start=1):
        for attempt in range(1, TRIES + 1):
            again = f", run {attempt}" if attempt > 1 else ""
            tell(f"step {number} of {len(steps)}{again}: {step}")
            outcome = run(step)
            if outcome not in _JUDGED:
                return Followed(steps, number - 1, outcome, f"step {number} ended: {outcome}")
            done, reason = is_done(guide, instruction, step, look())
            tell(f"{'done' if done else 'not done'}: {reason}")
            if done:
                break
        else:
            message = f"step {number} is not done after {TRIES} runs: {reason}"
            return Followed(steps, number - 1, "not_done", message)
    return Followed(steps, len(steps), "done", f"all {len(steps)} steps are done")


def _read_steps(text: str) -> tuple[str, ...]:
    """The steps in a reply. Raises ReplyError."""
    steps: list[str] = reply_by_schema(text, SPLIT_SCHEMA)["steps"]
    problems, checked = [], []
    if len(steps) > MOST_STEPS:
        problems.append(f"there are {len(steps)} steps, at most {MOST_STEPS} may be")
    for number, step in enumerate(steps):
        try:
            checked.append(check_instruction(step)[0])
        except InstructionError as error:
            problems.append(f"steps[{number}]: {error}")
    if problems:
        raise reply_error(problems)
    return tuple(checked)


def _asked(
    config: EndpointConfig,
    texts: tuple[str, str],
    jpeg: bytes,
    schema: dict[str, Any],
    read: Callable[[str], T],
) -> T:
    """What was read of the reply about an image. texts: of the system and of the user."""
    messages = [{"role": "system", "content": texts[0]}, user_message(jpeg, texts[1])]
    answers: list[T] = []
    query = Query(0, lambda: messages, read, lambda value, usage: answers.append(value))
    outcome = ask_all([query], config, schema, concurrency=1)
    if not answers:
        raise GuideError(
            f"the model that guides the robot gave no answer: {outcome.failed[0]}; the arm holds, "
            "and no instruction is in force"
        )
    return answers[0]
