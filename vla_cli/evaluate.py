"""`vla eval`: closed-loop success of a checkpoint in the simulator, in process."""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction

from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla_cli.checkpoints import add_inference_options, checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.overrides import overridden
from vla_cli.result_files import require_writable, unwritable, write_result
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Measure a checkpoint on a benchmark, in process: success per task family with its 95% interval. On
the table top, it also measures how often an object other than the named one was taken, and with
--think how often the answer was right. --wording phrases the tasks in sentences that training never
uses: paraphrased, by an attribute that only the object has, by what it is not, or as a situation
that implies the task. --questions asks about scenes instead, and moves nothing.

--execution says how action chunks are followed. chunk: all steps that are left of one when it
arrives, then the next (chunk:3: three steps). first: one step, then the next chunk. ensemble: a
chunk for each step, and the weighted mean of what the last ones say about it (ensemble:uniform,
ensemble:exponential or ensemble:cosine; cosine), of the last seven with ensemble:cosine:7. Without
it, as the benchmark does: on the table top, three steps.

--noise adds Gaussian noise to the images that the policy sees, with a standard deviation in grey
levels of 0 to 255. Given several, all episodes are run with each. --blackout shows black images: a
policy that does as well then does not look.

examples:
  vla eval                                              all families, seeds 0 to 99, shipped policy
  vla eval --family pick --seeds 0:20 --json output/pick.json
  vla eval --checkpoint runs/nano/checkpoint --think --video output/eval.mp4
  vla eval --wording implied --think --seeds 0:50
  vla eval --execution ensemble:uniform --family place
  vla eval --noise 0 20 40 --seeds 0:50 --json output/noise.json
  vla eval --questions 50 --json output/questions.json
  vla eval --benchmark metaworld --tasks easy push --checkpoint runs/mine/checkpoint
"""
WORDINGS = ("direct", "paraphrase", "attribute", "negation", "implied")
DEFAULT_CHECKPOINT = "checkpoints/nano"
SETTINGS = ("wording", "steps_per_chunk", "delay_steps", "time_limit")


def add_parser(subparsers) -> None:
    """Adds `vla eval`."""
    parser = add_command(
        subparsers, "eval", "measure a checkpoint in the simulator", DESCRIPTION, run_evaluate
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--adapter", default="", help="folder of an adapter to load into it")
    parser.add_argument(
        "--benchmark",
        default="tabletop",
        metavar="NAME",
        help="what to measure it on (tabletop)",
    )
    parser.add_argument(
        "--family",
        "--tasks",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="task families, or groups of them (default: the benchmark's; pick, place, "
        "open_drawer and close_drawer of the table top)",
    )
    parser.add_argument(
        "--seeds", metavar="A:B", help="seeds A to B-1 (0:100; 0:10 of each of MetaWorld's tasks)"
    )
    parser.add_argument("--wording", choices=WORDINGS, help="of the instructions (direct)")
    parser.add_argument("--think", action="store_true", help="answer in text first, act on it")
    parser.add_argument(
        "--execution", default="", metavar="MODE", help="how chunks are followed, see above"
    )
    parser.add_argument("--steps-per-chunk", type=int, help="steps executed of a chunk (3)")
    parser.add_argument("--delay-steps", type=int, help="steps until a chunk arrives (2)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="simulated time per episode (20); 0 with --think judges the answers alone",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="further settings of the benchmark",
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=float,
        default=[0.0],
        metavar="SIGMA",
        help="standard deviations of noise on the images, in grey levels of 0 to 255 (0)",
    )
    parser.add_argument(
        "--blackout", action="store_true", help="show the policy black images instead"
    )
    parser.add_argument(
        "--questions", type=int, metavar="N", help="ask N questions of each kind, run no episodes"
    )
    add_inference_options(parser)
    parser.add_argument("--json", metavar="FILE", help="write per-seed results and the summary")
    parser.add_argument("--video", metavar="FILE", help="write a video of the first episodes")


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
    settings = _settings(arguments)
    seeds = None if arguments.seeds is None else seed_range(arguments.seeds)
    questions = arguments.questions
    if questions is not None and questions < 1:
        raise CommandError(f"--questions takes a number from 1 on, got {questions}")
    if questions is not None and (any(arguments.noise) or arguments.blackout):
        raise CommandError(
            "--noise and --blackout are for episodes, not for --questions: leave one out"
        )
    if any(arguments.noise) and arguments.blackout:
        raise CommandError("black images have no noise: leave --noise or --blackout out")

    from vla.envs.execution import parse_execution
    from vla.envs.registry import make_suite
    from vla.evaluation.image_noise import STRONGEST

    if not all(0 <= sigma <= STRONGEST for sigma in arguments.noise):
        raise CommandError(f"--noise takes 0 to {STRONGEST:g} grey levels, got {arguments.noise}")
    if arguments.execution:
        parse_execution(arguments.execution)
    suite = make_suite(arguments.benchmark, **settings)
    suite.require_installed()
    seeds = seeds or range(suite.usual_episodes)
    if questions is not None:
        return _ask_questions(arguments, suite, seeds)
    return _run_episodes(arguments, suite, seeds)


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    """The benchmark's settings that were given. Raises CommandError."""
    settings = overridden({}, arguments.set, CommandError)
    for name in SETTINGS:
        if (value := getattr(arguments, name)) is not None:
            settings[name] = value
    if arguments.execution and arguments.steps_per_chunk is not None:
        raise CommandError("give --execution or --steps-per-chunk, not both")
    if not 0 <= (arguments.time_limit or 0) <= 1e6:
        raise CommandError(f"--time-limit must be 0 to 1e6 seconds, got {arguments.time_limit:g}")
    steps, delay = arguments.steps_per_chunk, arguments.delay_steps
    if (steps is not None and steps < 1) or (delay or 0) < 0:
        raise CommandError("--steps-per-chunk takes 1 or more, --delay-steps 0 or more")
    return settings


def _run_episodes(arguments: argparse.Namespace, suite, seeds: range) -> int:
    from tqdm import tqdm

    from vla.evaluation.benchmark import (
        evaluate,
        group_line,
        group_means,
        report,
        summarize,
        table,
    )
    from vla.policies.policy import Policy

    families = suite.chosen_families(arguments.family or ())
    recorder = _VideoRecorder(arguments.video, suite.contract.rate) if arguments.video else None
    try:
        folder = checkpoint_folder(arguments.checkpoint)
        policy = Policy.from_pretrained(
            folder, arguments.device, arguments.adapter, dtype=arguments.dtype
        )
        if arguments.think and not policy.features.thinks:
            raise CommandError("this policy does not say what it will do: leave --think out")
        strengths, results = dict.fromkeys(arguments.noise), []
        total = sum(_count(suite, family, seeds) for family in families) * len(strengths)
        with tqdm(total=total, unit="episode") as progress:
            for noise in strengths:
                results += evaluate(
                    policy,
                    suite,
                    families,
                    seeds,
                    arguments.think,
                    lambda result: progress.update(),
                    recorder.add if recorder else None,
                    "rgb_array_list" if recorder else None,
                    arguments.execution,
                    noise=noise,
                    blackout=arguments.blackout,
                )
    finally:
        if recorder:
            recorder.close()
    summaries = summarize(results)
    print(table(summaries, suite.counted_figures))
    for means in group_means(summaries, suite.groups):
        print(group_line(means))
    written = report(
        policy.checkpoint_id,
        suite,
        arguments.think,
        results,
        arguments.execution,
        arguments.blackout,
    )
    _write(arguments.json, written)
    if errors := [result.error for result in results if result.error]:
        print(f"the first of {len(errors)} errors: {errors[0]}", file=sys.stderr)
    return 1 if errors else 0


def _count(suite, family: str, seeds: range) -> int:
    """How many of the seeds a family has episodes for."""
    most = suite.most_episodes(family)
    return len(seeds) if most is None else max(0, min(seeds.stop, most) - seeds.start)


def _ask_questions(arguments: argparse.Namespace, suite, seeds: range) -> int:
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
    _write(arguments.json, question_report(reasoner.checkpoint_id, asked))
    return 0


def _write(file: str | None, content: dict[str, object]) -> None:
    if file:
        write_result(file, content)
        print(f"written: {file}")


class _VideoRecorder:
    """Writes the first minute or so of episodes. Raises CommandError."""

    FRAMES = 900

    def __init__(self, path: str, rate: float):
        """rate: frames per second."""
        import av

        self._path = path
        try:
            self._container = av.open(path, "w")
            fraction = Fraction(rate).limit_denominator(1000)
            self._stream = self._container.add_stream("libx264", rate=fraction)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"cannot write a video to {shown_path(path)}: {one_line(error)}; name a file that "
                "ends in .mp4"
            ) from error
        self._stream.pix_fmt = "yuv420p"
        self._left = self.FRAMES

    def add(self, environment) -> None:
        """Adds the frames of an environment since the last call."""
        import av

        for picture in environment.render() if self._left else ():
            if self._left == self.FRAMES:
                # Of even sizes, which the pixel format needs.
                self._stream.height, self._stream.width = (n // 2 * 2 for n in picture.shape[:2])
            if self._left:
                self._left -= 1
                picture = picture[: self._stream.height, : self._stream.width]
                self._encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))

    def close(self) -> None:
        """Ends the file."""
        if self._left < self.FRAMES:
            self._encode(None)
        self._container.close()

    def _encode(self, frame) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, ValueError) as error:
            raise unwritable(self._path, error) from error
