"""`vla eval --questions` and `--answers`: what a checkpoint says, without an episode."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.checkpoints import checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.result_files import write_and_say

if TYPE_CHECKING:
    from vla.envs.base import Suite
    from vla.evaluation.answer_texts import Answer
    from vla.policies.parts import ReasoningPart

# As InstructVLA's authors ask for a caption.
CAPTION_QUESTION = "Describe what's on the table. Don't mention the robot arm."


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of --answers."""
    parser.add_argument(
        "--answers",
        metavar="SOURCE",
        help="score answers in words: a file of answers, or an annotated data set, which is asked",
    )
    parser.add_argument(
        "--similarity",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="with --answers: models of sentence similarity, folders or names at the hub",
    )
    parser.add_argument(
        "--caption-question",
        default=CAPTION_QUESTION,
        metavar="TEXT",
        help="with --answers: what asks for a description of the scene",
    )


def score_answers_of(arguments: argparse.Namespace) -> int:
    """Scores the answers of a file, or those that the checkpoint gives about a data set."""
    from vla.evaluation.answer_texts import read_answers
    from vla.evaluation.text_metrics import require_metrics, score_answers, score_table

    require_metrics()  # before anything is asked
    report: dict[str, object] = {"source": arguments.answers}
    if Path(arguments.answers).is_dir():
        report["checkpoint_id"], answers = _asked(arguments)
    else:
        answers = read_answers(arguments.answers)
    scores = score_answers(answers, arguments.similarity)
    print(score_table(scores))
    report |= {"scores": [asdict(entry) for entry in scores]}
    report |= {"answers": [asdict(entry) for entry in answers]}
    write_and_say(arguments.json, report)
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[str, list[Answer]]:
    """The checkpoint's id, and its answers about the data set."""
    from tqdm import tqdm

    from vla.evaluation.asked_annotations import asked_annotations

    reasoner = _reasoner(arguments, "--answers")
    answers = asked_annotations(
        arguments.answers, reasoner.contract, reasoner.ask, arguments.caption_question
    )
    return reasoner.checkpoint_id, list(tqdm(answers, unit="answer"))


def _reasoner(arguments: argparse.Namespace, option: str) -> ReasoningPart:
    """The checkpoint's first part alone: a vision-language model need not have learned to act."""
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


def ask_questions(arguments: argparse.Namespace, suite: Suite, seeds: range) -> int:
    """Asks about scenes of the seeds, prints the shares of right answers, writes the file."""
    from tqdm import tqdm

    from vla.evaluation.question_answering import (
        evaluate_questions,
        question_report,
        question_table,
        score,
    )

    reasoner = _reasoner(arguments, "--questions")
    questions = suite.for_contract(reasoner.contract).questions(arguments.questions, seeds[0])
    total = arguments.questions * len(suite.question_kinds)
    with tqdm(total=total, unit="question") as progress:
        asked = evaluate_questions(reasoner.ask, questions, lambda entry: progress.update())
    print(question_table(score(asked)))
    write_and_say(arguments.json, question_report(reasoner.checkpoint_id, asked))
    return 0
