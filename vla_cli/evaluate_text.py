"""`vla eval --questions`: what a checkpoint says, without an episode."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vla_cli.checkpoints import checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.result_files import write_and_say

if TYPE_CHECKING:
    from vla.envs.base import Suite


def ask_questions(arguments: argparse.Namespace, suite: Suite, seeds: range) -> int:
    """Asks about scenes of the seeds, prints the shares of right answers, writes the file."""
    from tqdm import tqdm

    from vla.evaluation.question_answering import (
        evaluate_questions,
        question_report,
        question_table,
        score,
    )
    from vla.policies.parts import ReasoningPart

    folder = checkpoint_folder(arguments.checkpoint)
    # Only this part, since a vision-language model need not have learned to act.
    reasoner = ReasoningPart.from_pretrained(
        folder, arguments.device, arguments.adapter, arguments.dtype
    )
    if not reasoner.features.answers:
        raise CommandError("this policy gives no text: leave --questions out")
    questions = suite.for_contract(reasoner.contract).questions(arguments.questions, seeds[0])
    total = arguments.questions * len(suite.question_kinds)
    with tqdm(total=total, unit="question") as progress:
        asked = evaluate_questions(reasoner.ask, questions, lambda entry: progress.update())
    print(question_table(score(asked)))
    write_and_say(arguments.json, question_report(reasoner.checkpoint_id, asked))
    return 0
