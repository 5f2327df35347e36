"""`vla eval`: closed-loop success of a checkpoint in the simulator, in process."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vla.core.shown import brief
from vla_cli.checkpoints import checkpoint_folder
from vla_cli.episode_video import VideoRecorder
from vla_cli.errors import CommandError
from vla_cli.evaluate_answers import add_answer_options, score_answers_of
from vla_cli.evaluate_questions import ask_questions, give_instructions
from vla_cli.evaluated_policy import (
    add_running_options,
    check_processes,
    prepare_jobs,
    ready_policy,
    require_thinks,
)
from vla_cli.overrides import overridden
from vla_cli.result_files import require_writable, write_report
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.envs.base import Suite
    from vla.evaluation.benchmark import EpisodeResult

DESCRIPTION = """\
Measure a checkpoint on a benchmark, in process: success per task family with its 95% interval. On
the table top, it also measures how often an object other than the named one was taken, and with
--think how often the answer was right. --wording phrases the tasks in sentences that training never
uses: paraphrased, by an attribute that only the object has, by what it is not, or as a situation
that implies the task. --questions asks about scenes instead, and moves nothing. --impossible gives
instructions that can and that can't be followed, judges the answers, and moves nothing either.

--execution says how action chunks are followed. chunk: all steps that are left of one when it
arrives, then the next (chunk:3: three steps). first: one step, then the next chunk. ensemble: a
chunk for each step, and the weighted mean of what the last ones say about it (ensemble:uniform,
ensemble:exponential or ensemble:cosine; cosine), of the last seven with ensemble:cosine:7. Without
it, as the benchmark does: on the table top, three steps.

--noise adds Gaussian noise to the images that the policy sees, with a standard deviation in grey
levels of 0 to 255. Given several, all episodes are run with each. --blackout shows black images: a
policy that does as well then does not look.

--jobs runs episodes side by side, in processes of one thread each; results and their order stay the
same. --runtime openvino has OpenVINO compute action chunks (pip install 'vla_ros[openvino]'), from
an export that is made once and kept beside the checkpoint. --compile inductor compiles the policy's
passes before the first episode, which takes minutes, and less where that was done before.

--answers compares answers in words with references, by BLEU, METEOR, CIDEr and the similarity of
sentences (pip install 'vla_ros[metrics]', and Java).

examples:
  vla eval                                              all families, seeds 0 to 99, shipped policy
  vla eval --family pick --seeds 0:20 --json output/pick.json
  vla eval --checkpoint runs/nano/checkpoint --think --video output/eval.mp4
  vla eval --wording implied --think --seeds 0:50
  vla eval --noise 0 20 40 --seeds 0:50 --json output/noise.json
  vla eval --jobs 2 --seeds 0:50 --runtime openvino
  vla eval --questions 50 --json output/questions.json
  vla eval --impossible 100 --json output/impossible.json
  vla eval --answers datasets/mine --json output/answers.json
  vla eval --benchmark instruct --seeds 0:1 --think --json output/instruct.json
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
    parser.add_argument(
        "--impossible",
        type=int,
        metavar="N",
        help="give N instructions of each kind, possible or not, and count those refused",
    )
    add_answer_options(parser)
    add_running_options(parser)
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
    if arguments.answers is not None:
        if arguments.questions is not None or arguments.impossible is not None:
            raise CommandError("--answers scores and runs nothing: leave the other one out")
        return score_answers_of(arguments)
    settings = _settings(arguments)
    seeds = None if arguments.seeds is None else seed_range(arguments.seeds)
    asking = _asking(arguments)
    check_processes(arguments)
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
    if asking == "--questions":
        return ask_questions(arguments, suite, seeds[0])
    if asking == "--impossible":
        return give_instructions(arguments, suite, seeds[0])
    return _run_episodes(arguments, suite, seeds)


def _asking(arguments: argparse.Namespace) -> str:
    """The option by which the policy is asked and moves nothing, or "". Raises CommandError."""
    given = {"--questions": arguments.questions, "--impossible": arguments.impossible}
    asking = [option for option, count in given.items() if count is not None]
    if not asking:
        return ""
    if len(asking) > 1:
        raise CommandError("--questions and --impossible are two measurements: leave one out")
    option = asking[0]
    if given[option] < 1:
        raise CommandError(f"{option} takes a number from 1 on, got {given[option]}")
    if any(arguments.noise) or arguments.blackout:
        raise CommandError(
            f"--noise and --blackout are for episodes, not for {option}: leave one out"
        )
    if arguments.jobs > 1:
        raise CommandError(f"--jobs is for episodes, not for {option}: leave one out")
    return option


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


@dataclass(frozen=True)
class _Wanted:
    """The episodes that are to be run."""

    suite: Suite
    families: Sequence[str]
    seeds: range
    strengths: Sequence[float]  # of noise


def _run_episodes(arguments: argparse.Namespace, suite: Suite, seeds: range) -> int:
    from tqdm import tqdm

    from vla.evaluation.benchmark import (
        group_line,
        group_means,
        pooled_summaries,
        report,
        summarize,
        table,
    )

    families = suite.chosen_families(arguments.family or ())
    wanted = _Wanted(suite, families, seeds, list(dict.fromkeys(arguments.noise)))
    total = sum(_count(suite, family, seeds) for family in families) * len(wanted.strengths)
    run = _side_by_side if arguments.jobs > 1 else _one_by_one
    with tqdm(total=total, unit="episode") as progress:
        checkpoint_id, results = run(arguments, wanted, lambda _: progress.update())
    summaries = summarize(results)
    shown = pooled_summaries(results, suite.pooled) or summaries
    print(table(shown, suite.counted_figures))
    for means in group_means(summaries, suite.groups):
        print(group_line(means))
    written = report(
        checkpoint_id,
        suite,
        arguments.think,
        results,
        arguments.execution,
        arguments.blackout,
    )
    write_report(arguments.json, written)
    if errors := [result.error for result in results if result.error]:
        print(f"the first of {len(errors)} errors: {errors[0]}", file=sys.stderr)
    return 1 if errors else 0


def _one_by_one(
    arguments: argparse.Namespace,
    wanted: _Wanted,
    on_result: Callable[[EpisodeResult], None],
) -> tuple[str, list[EpisodeResult]]:
    """The id of the checkpoint, and the episodes, run in this process."""
    from vla.evaluation.benchmark import evaluate

    recorder = None
    if arguments.video:
        recorder = VideoRecorder(arguments.video, wanted.suite.contract.rate)
    try:
        policy = ready_policy(arguments)
        results = []
        for noise in wanted.strengths:
            results += evaluate(
                policy,
                wanted.suite,
                wanted.families,
                wanted.seeds,
                arguments.think,
                on_result,
                recorder.add if recorder else None,
                "rgb_array_list" if recorder else None,
                arguments.execution,
                noise=noise,
                blackout=arguments.blackout,
            )
    finally:
        if recorder:
            recorder.close()
    return policy.checkpoint_id, results


def _side_by_side(
    arguments: argparse.Namespace,
    wanted: _Wanted,
    on_result: Callable[[EpisodeResult], None],
) -> tuple[str, list[EpisodeResult]]:
    """The same by several processes."""
    from vla.evaluation.side_by_side import EpisodePlan, evaluate_side_by_side
    from vla.policies.adapters import adapted_id, open_adapter, require_base
    from vla.policies.checkpoint import open_checkpoint
    from vla.policies.parts import usable_device

    folder = checkpoint_folder(arguments.checkpoint)
    checkpoint, device = open_checkpoint(folder), usable_device(arguments.device)
    require_thinks(arguments, checkpoint.features)
    adapter = open_adapter(arguments.adapter) if arguments.adapter else None
    if adapter is not None:
        require_base(adapter, checkpoint)
    prepare_jobs(arguments, folder)
    plan = EpisodePlan(
        str(folder),
        arguments.benchmark,
        json.dumps(_settings(arguments)),
        arguments.adapter,
        device,
        arguments.dtype,
        arguments.runtime,
        arguments.compile,
        arguments.think,
        arguments.execution,
        arguments.blackout,
    )
    results = evaluate_side_by_side(
        plan,
        wanted.suite.for_contract(checkpoint.contract),
        wanted.families,
        wanted.seeds,
        wanted.strengths,
        arguments.jobs,
        on_result,
    )
    return adapted_id(checkpoint, adapter), results


def _count(suite, family: str, seeds: range) -> int:
    """How many of the seeds a family has episodes for."""
    most = suite.most_episodes(family)
    return len(seeds) if most is None else max(0, min(seeds.stop, most) - seeds.start)
