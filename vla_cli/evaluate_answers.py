"""`vla eval --answers`: scores of what a checkpoint says in words of its own."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.evaluate_questions import open_reasoner
from vla_cli.result_files import write_report

if TYPE_CHECKING:
    from vla.evaluation.answer_texts import GivenAnswer

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
    write_report(arguments.json, report)
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[str, list[GivenAnswer]]:
    """The checkpoint's id, and its answers about the data set."""
    from tqdm import tqdm

    from vla.evaluation.asked_annotations import asked_annotations

    reasoner = open_reasoner(arguments, "--answers")
    answers = asked_annotations(
        arguments.answers, reasoner.contract, reasoner.ask, arguments.caption_question
    )
    return reasoner.checkpoint_id, list(tqdm(answers, unit="answer"))
