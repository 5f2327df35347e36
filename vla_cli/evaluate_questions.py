"""What `vla eval` asks a policy without moving anything: questions, and instructions to answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vla_cli.checkpoints import checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.result_files import write_report

if TYPE_CHECKING:
    from vla.envs.base import Suite
    from vla.policies.parts import ReasoningPart


def ask_questions(arguments: argparse.Namespace, suite: Suite, first_seed: int) -> int:
    """Asks so many questions of each kind, prints the table, writes the file."""
    from tqdm import tqdm

    from vla.evaluation.question_answering import (
        evaluate_questions,
        question_report,
        question_table,
        score,
    )

    reasoner = open_reasoner(arguments, "--questions")
    questions = suite.for_contract(reasoner.contract).questions(arguments.questions, first_seed)
    total = arguments.questions * len(suite.question_kinds)
    with tqdm(total=total, unit="question") as progress:
        asked = evaluate_questions(reasoner.ask, questions, lambda entry: progress.update())
    print(question_table(score(asked)))
    write_report(arguments.json, question_report(reasoner.checkpoint_id, asked))
    return 0


def give_instructions(arguments: argparse.Namespace, suite: Suite, first_seed: int) -> int:
    """Gives so many instructions of each kind, prints what was refused, writes the file."""
    from tqdm import tqdm

    from vla.evaluation.refusals import (
        evaluate_refusals,
        refusal_report,
        refusal_table,
        score_refusals,
    )

    reasoner = open_reasoner(arguments, "--impossible")
    features = reasoner.features
    if not features.thinks:
        raise CommandError("this policy does not say what it will do: leave --impossible out")
    instructions = suite.for_contract(reasoner.contract).instructions(
        arguments.impossible, first_seed
    )
    with tqdm(unit="instruction") as progress:
        answered = evaluate_refusals(
            reasoner.think, features.refuses, instructions, lambda entry: progress.update()
        )
    print(refusal_table(score_refusals(answered)))
    if not features.refusals:
        print("this policy has not learned to refuse: its answers count for nothing else")
    write_report(arguments.json, refusal_report(reasoner.checkpoint_id, answered))
    return 0


def open_reasoner(arguments: argparse.Namespace, option: str) -> ReasoningPart:
    """The checkpoint's first part only: a vision-language model need not have learned to act.

    Raises CommandError, which names the option, for a policy that gives no text.
    """
    from vla.policies.parts import ReasoningPart

    reasoner = ReasoningPart.from_pretrained(
        checkpoint_folder(arguments.checkpoint),
        arguments.device,
        arguments.adapter,
        arguments.dtype,
    )
    if not reasoner.features.answers:
        raise CommandError(f"this policy gives no text: leave {option} out")
    return reasoner
