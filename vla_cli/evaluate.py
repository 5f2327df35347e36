"""`vla eval`: closed-loop success of a checkpoint in the simulator, in process."""

from __future__ import annotations

import argparse

from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, unwritable, write_result

DESCRIPTION = """\
Measure a checkpoint in the simulator, in process: success per task family with its 95% interval,
how often another object than the named one was taken, and with --think how often the answer was
right. --wording gives the tasks in sentences that training never has: in other words, by what is
the object's alone, by what it is not, or as a situation from which the task follows.
--questions asks about scenes instead, and moves nothing.

examples:
  vla eval                                              all families, seeds 0 to 99, shipped policy
  vla eval --family pick --seeds 0:20 --json output/pick.json
  vla eval --checkpoint runs/nano/checkpoint --think --video output/eval.mp4
  vla eval --wording implied --think --seeds 0:50
  vla eval --questions 50 --json output/questions.json
"""
WORDINGS = ("direct", "paraphrase", "attribute", "negation", "implied")
DEFAULT_CHECKPOINT = "checkpoints/nano"


def add_parser(subparsers) -> None:
    """Adds `vla eval`."""
    parser = subparsers.add_parser(
        "eval",
        help="measure a checkpoint in the simulator",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--adapter", default="", help="folder of an adapter to load into it")
    parser.add_argument(
        "--family",
        action="append",
        help="task family; repeatable (default: pick, place, open_drawer, close_drawer)",
    )
    parser.add_argument("--seeds", default="0:100", metavar="A:B", help="seeds A to B-1 (0:100)")
    parser.add_argument(
        "--wording", choices=WORDINGS, default="direct", help="of the instructions (direct)"
    )
    parser.add_argument("--think", action="store_true", help="answer in text first, act on it")
    parser.add_argument("--steps-per-chunk", type=int, default=3, help="steps executed of a chunk")
    parser.add_argument("--delay-steps", type=int, default=2, help="steps until a chunk arrives")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="simulated time per episode (20); 0 with --think judges the answers alone",
    )
    parser.add_argument(
        "--questions", type=int, metavar="N", help="ask N questions of each kind, run no episodes"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", metavar="FILE", help="write per-seed results and the summary")
    parser.add_argument("--video", metavar="FILE", help="write a video of the first episodes")
    parser.set_defaults(run=run_evaluate)


def seed_range(text: str) -> range:
    """Seeds A to B-1 of "A:B", or the one named. Raises CommandError."""
    first, separator, last = text.partition(":")
    try:
        seeds = range(int(first), int(last)) if separator else range(int(text), int(text) + 1)
    except ValueError:
        seeds = range(0)
    if not 0 <= seeds.start < seeds.stop <= 2**32:
        raise CommandError(f"--seeds takes A:B with 0 <= A < B up to 2^32, got {brief(text)}")
    return seeds


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Runs the episodes or asks the questions, prints the table, writes the files."""
    require_writable(arguments.json, arguments.video)
    if arguments.questions is not None:
        return _ask_questions(arguments)
    from tqdm import tqdm

    from vla.core.resources import given_or_shared
    from vla.envs.tabletop.tasks import ALL_FAMILIES, FAMILIES
    from vla.evaluation.benchmark import (
        EvaluationError,
        EvaluationSettings,
        evaluate,
        report,
        summarize,
        table,
    )
    from vla.policies.adapters import adapted_id, open_adapter
    from vla.policies.checkpoint import open_checkpoint
    from vla.policies.config import CheckpointError

    families = arguments.family or list(FAMILIES)
    if unknown := [family for family in families if family not in ALL_FAMILIES]:
        raise CommandError(f"unknown family '{unknown[0]}'; known: {', '.join(ALL_FAMILIES)}")
    seeds = seed_range(arguments.seeds)
    if not 0 <= arguments.time_limit <= 1e6:
        raise CommandError(f"--time-limit must be 0 to 1e6 seconds, got {arguments.time_limit:g}")
    if arguments.steps_per_chunk < 1 or arguments.delay_steps < 0:
        raise CommandError("--steps-per-chunk takes 1 or more, --delay-steps 0 or more")
    folder = given_or_shared(arguments.checkpoint)
    settings = EvaluationSettings(
        think=arguments.think,
        steps_per_chunk=arguments.steps_per_chunk,
        delay_steps=arguments.delay_steps,
        time_limit=arguments.time_limit,
        wording=arguments.wording,
    )
    recorder = _VideoRecorder(arguments.video) if arguments.video else None
    try:
        adapter = open_adapter(arguments.adapter) if arguments.adapter else None
        checkpoint_id = adapted_id(open_checkpoint(folder), adapter)
        with tqdm(total=len(families) * len(seeds), unit="episode") as progress:
            results = evaluate(
                folder,
                families,
                seeds,
                settings,
                arguments.device,
                lambda result: progress.update(),
                recorder.add if recorder else None,
                arguments.adapter,
            )
    except (CheckpointError, EvaluationError) as error:
        raise CommandError(str(error)) from error
    finally:
        if recorder:
            recorder.close()
    print(table(summarize(results)))
    _write(arguments.json, report(checkpoint_id, settings, results))
    return 0


def _ask_questions(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from vla.core.resources import given_or_shared
    from vla.envs.tabletop.questions import QUESTION_KINDS
    from vla.evaluation.benchmark import EvaluationError
    from vla.evaluation.question_answering import (
        evaluate_questions,
        question_report,
        question_table,
        score,
    )
    from vla.policies.config import CheckpointError
    from vla.policies.instructvla.inference import Reasoner

    if arguments.questions < 1:
        raise CommandError(f"--questions takes a number from 1 on, got {arguments.questions}")
    first = seed_range(arguments.seeds)[0]
    try:
        folder = given_or_shared(arguments.checkpoint)
        reasoner = Reasoner.from_pretrained(folder, arguments.device, arguments.adapter)
        with tqdm(total=arguments.questions * len(QUESTION_KINDS), unit="question") as progress:
            asked = evaluate_questions(
                reasoner,
                reasoner.contract,
                arguments.questions,
                first,
                on_answer=lambda entry: progress.update(),
            )
    except (CheckpointError, EvaluationError) as error:
        raise CommandError(str(error)) from error
    print(question_table(score(asked)))
    _write(arguments.json, question_report(reasoner.checkpoint_id, asked))
    return 0


def _write(file: str | None, content: dict[str, object]) -> None:
    if file:
        write_result(file, content)
        print(f"written: {file}")


class _VideoRecorder:
    """Writes the overview of the first minute or so of episodes. Raises CommandError."""

    FRAMES = 900
    RATE = 10
    SIZE = 480

    def __init__(self, path: str):
        import av

        self._path = path
        try:
            self._container = av.open(path, "w")
            self._stream = self._container.add_stream("libx264", rate=self.RATE)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"cannot write a video to {shown_path(path)}: {one_line(error)}; name a file that "
                "ends in .mp4"
            ) from error
        self._stream.width = self._stream.height = self.SIZE
        self._stream.pix_fmt = "yuv420p"
        self._left = self.FRAMES

    def add(self, simulator) -> None:
        import av

        if self._left > 0:
            self._left -= 1
            picture = simulator.render("overview", self.SIZE, detailed=True)
            self._encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))

    def close(self) -> None:
        self._encode(None)
        self._container.close()

    def _encode(self, frame) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, ValueError) as error:
            raise unwritable(self._path, error) from error
