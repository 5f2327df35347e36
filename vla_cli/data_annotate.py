"""`vla data annotate` and `vla data review`: episodes in words, and their review."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

ANNOTATE = """\
Describe the episodes of a LeRobot data set in words, for training, in meta/annotations.json.

Every frame gets its language motion, from the poses. With --truth (simulated episodes) or --model
each episode gets what InstructVLA's annotations have: a caption, questions, the command in other
words, and situations that imply it. --model asks any OpenAI-compatible endpoint, with three images
and the instruction; each finished episode is kept at once, and a rerun does only what is missing.

examples:
  vla data annotate datasets/mine                       language motion alone
  vla data annotate datasets/mine --truth
  vla data annotate datasets/mine --model Qwen/Qwen2.5-VL-7B-Instruct
  vla data annotate datasets/mine --base-url https://api.openai.com/v1 --model gpt-4o \\
      --api-key-env OPENAI_API_KEY --price-in 2.5 --price-out 10 --estimate
"""
REVIEW = """\
Write a page that shows annotations beside the frames, and a table (CSV) of them; accept, reject or
edit each entry in either, and take the table over. Training uses what was not rejected.

examples:
  vla data review datasets/mine --out output/review
  vla data review datasets/mine --apply output/review/review.csv
"""
LOCAL_SERVER = "http://localhost:8000/v1"
DEFAULT_PROMPT = "config/annotation/vla_it.md"


def add_parser(subparsers) -> None:
    """Adds both subcommands."""
    _add_annotate(subparsers)
    review = add_command(
        subparsers, "review", "accept, reject or edit annotations", REVIEW, run_review
    )
    review.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    what = review.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="FOLDER", help="write review.html and review.csv there")
    what.add_argument("--apply", metavar="FILE", help="take over a review.csv")
    review.add_argument("--camera", default="", help="whose images the page shows")
    review.add_argument("--episodes", metavar="A:B", help="episodes A to B-1 (default: all)")
    review.add_argument(
        "--unreviewed", action="store_true", help="only episodes of which no entry has a verdict"
    )


def _add_annotate(subparsers) -> None:
    parser = add_command(
        subparsers, "annotate", "describe episodes in words", ANNOTATE, run_annotate
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    parser.add_argument("--episodes", metavar="A:B", help="episodes A to B-1 (default: all)")
    parser.add_argument(
        "--contract", help="embodiment contract, file or name (default: the data set's own)"
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="how features become the contract's, for other data sets"
    )
    parser.add_argument(
        "--changed",
        choices=("stop", "keep", "redo"),
        default="stop",
        help="episodes that were annotated with other settings (stop, and say which)",
    )
    truth = parser.add_argument_group("from the truth of simulated scenes")
    truth.add_argument("--truth", action="store_true", help="annotate without a model")
    truth.add_argument(
        "--scenes",
        metavar="FILE",
        help="{episode: {family, seed, task}} as YAML (default: by the notes of the bags)",
    )
    truth.add_argument("--entries", type=int, default=6, help="at most so many of each kind (6)")
    model = parser.add_argument_group("by a model")
    model.add_argument("--model", default="", help="name at the endpoint; annotates by it")
    model.add_argument("--base-url", default=LOCAL_SERVER, help=f"endpoint ({LOCAL_SERVER})")
    model.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key (none is sent)"
    )
    model.add_argument(
        "--prompt", default=DEFAULT_PROMPT, metavar="FILE", help=f"({DEFAULT_PROMPT})"
    )
    model.add_argument("--camera", default="", help="whose images (the reference camera)")
    model.add_argument("--questions", type=int, default=4, help="asked for (4)")
    model.add_argument("--rewrites", type=int, default=4, help="asked for (4)")
    model.add_argument("--contexts", type=int, default=3, help="asked for (3)")
    model.add_argument("--image-size", type=int, default=512, help="longest side [px] (512)")
    model.add_argument("--temperature", type=float, default=0.4, help="of the model (0.4)")
    model.add_argument("--max-tokens", type=int, default=2000, help="of a reply (2000)")
    model.add_argument(
        "--response-format",
        choices=("json_schema", "json_object", "none"),
        default="json_schema",
        help="for servers that know no schema; replies are checked in any case (json_schema)",
    )
    model.add_argument("--concurrency", type=int, default=4, help="requests at once (4)")
    model.add_argument("--timeout", type=float, default=120.0, help="for a reply [s] (120)")
    model.add_argument("--attempts", type=int, default=5, help="for each episode (5)")
    model.add_argument(
        "--longest-pause", type=float, default=120.0, help="between attempts [s] (120)"
    )
    cost = parser.add_argument_group("cost of a model")
    cost.add_argument("--price-in", type=float, metavar="PRICE", help="a million input tokens")
    cost.add_argument("--price-out", type=float, metavar="PRICE", help="a million output tokens")
    cost.add_argument("--estimate", action="store_true", help="print the cost and stop")
    cost.add_argument(
        "--ask-above", type=float, default=1.0, metavar="COST", help="cost that needs a yes (1.0)"
    )
    cost.add_argument("--yes", action="store_true", help="continue at any cost")


def run_annotate(arguments: argparse.Namespace) -> int:
    """Writes motions and annotations; 1 when episodes failed, 130 after an interrupt."""
    from vla.annotation.records import Records, write_annotations

    _check_options(arguments)
    try:
        source = _source(arguments)
        with Records(arguments.dataset) as records:
            motions = source.motions()
            if motions is None:
                print("no language motion: the data set has no contract; name one by --contract")
            status = 0
            try:
                if arguments.truth or arguments.model:
                    status = _annotate(arguments, source, records)
            except KeyboardInterrupt:
                print("\ninterrupted; finished episodes are kept, run again to go on")
                status = 130
            finally:
                path = write_annotations(arguments.dataset, source.files(), records.latest, motions)
    except ValueError as error:
        raise CommandError(str(error)) from error
    described = sum(episode.index in records.latest for episode in source.episodes)
    print(
        f"written: {path}: language motion of {len(motions or {})}, annotations of {described} of "
        f"{len(source.episodes)} episodes"
    )
    return status


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.truth and arguments.model:
        raise CommandError("give either --truth or --model")
    if arguments.estimate and not arguments.model:
        raise CommandError("--estimate is for a --model; nothing else costs anything")
    least = {"entries": 1, "concurrency": 1, "attempts": 1, "image_size": 32, "max_tokens": 1}
    for name, value in least.items():
        if getattr(arguments, name) < value:
            raise CommandError(f"--{name.replace('_', '-')} takes a number from {value} on")
    if arguments.timeout <= 0 or arguments.longest_pause <= 0:
        raise CommandError("--timeout and --longest-pause take seconds above 0")
    if min(arguments.price_in or 0.0, arguments.price_out or 0.0) < 0:
        raise CommandError("--price-in and --price-out take prices from 0 on")


def _source(arguments: argparse.Namespace):
    from vla.annotation.source import AnnotationSource
    from vla.core.resources import given_or_shared
    from vla.datasets.lerobot.dataset import read_mapping

    contract = named_contract(arguments.contract) if arguments.contract else None
    mapping = read_mapping(given_or_shared(arguments.mapping)) if arguments.mapping else None
    return AnnotationSource(arguments.dataset, contract, mapping, arguments.camera)


def _chosen(arguments: argparse.Namespace, source):
    """The episodes that --episodes names."""
    if arguments.episodes is None:
        return source.episodes
    first, _, last = arguments.episodes.partition(":")
    try:
        wanted = range(int(first), int(last))
    except ValueError:
        wanted = range(0)
    chosen = [episode for episode in source.episodes if episode.index in wanted]
    if not chosen:
        raise CommandError(
            f"--episodes takes A:B with A < B, got '{arguments.episodes}'; there are "
            f"{len(source.episodes)} episodes"
        )
    return chosen


def _annotate(arguments: argparse.Namespace, source, records) -> int:
    """By the truth or a model; returns the exit status."""
    from tqdm import tqdm

    from vla.annotation.run import plan

    episodes = _chosen(arguments, source)
    annotator, scenes = (
        _truth_annotator(arguments) if arguments.truth else (_model_annotator(arguments), {})
    )

    def source_of(episode):
        return annotator.source(scenes[episode.index] if arguments.truth else source.camera)

    known = [e for e in episodes if not arguments.truth or e.index in scenes]
    planned = plan(known, source.digest, source_of, records.latest)
    if arguments.truth:
        planned.left_out |= {
            e.index: "nothing tells its scene: neither a note nor --scenes"
            for e in episodes
            if e.index not in scenes
        }
    todo = planned.missing + _changed(arguments, planned, records, episodes)
    print(f"{planned.finished} episodes are finished, {len(todo)} are to be annotated")
    if not todo:
        return _say_failures(planned.left_out, {}, "")
    if arguments.model and not _may_cost(arguments, source, annotator, records, todo):
        return 0
    with tqdm(total=len(todo), unit="episode") as progress:

        def on_episode(index: int, error: str) -> None:
            progress.update()
            if error:
                progress.write(f"episode {index}: {error}")

        if arguments.truth:
            from vla.annotation.truth import annotate_from_truth

            try:
                outcome = annotate_from_truth(
                    todo, source.digest, scenes, annotator, records, on_episode
                )
            finally:
                annotator.close()
        else:
            from vla.annotation.run import annotate_episodes

            outcome = annotate_episodes(
                todo, source, annotator, records, arguments.concurrency, on_episode
            )
    _say_used(arguments, outcome)
    return _say_failures(planned.left_out, outcome.failed, outcome.stopped)


def _truth_annotator(arguments: argparse.Namespace):
    from vla.annotation.truth import TruthAnnotator, read_scenes, scenes_of_conversion

    given = arguments.scenes
    scenes = read_scenes(given) if given else scenes_of_conversion(arguments.dataset)
    return TruthAnnotator(arguments.entries), scenes


def _model_annotator(arguments: argparse.Namespace):
    from vla.annotation.endpoint import EndpointConfig
    from vla.annotation.prompts import read_prompt
    from vla.annotation.replies import PairCounts
    from vla.annotation.run import Annotator
    from vla.core.resources import given_or_shared

    key = ""
    if arguments.api_key_env:
        key = os.environ.get(arguments.api_key_env, "")
        if not key:
            raise CommandError(f"the environment variable {arguments.api_key_env} is not set")
    endpoint = EndpointConfig(
        arguments.base_url,
        arguments.model,
        key,
        timeout=arguments.timeout,
        attempts=arguments.attempts,
        longest_pause=arguments.longest_pause,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        response_format=arguments.response_format,
    )
    wanted = PairCounts(arguments.questions, arguments.rewrites, arguments.contexts)
    prompt = read_prompt(given_or_shared(arguments.prompt))
    return Annotator(prompt, endpoint, wanted, arguments.image_size)


def _changed(arguments: argparse.Namespace, planned, records, episodes) -> list:
    """The episodes to be done again because they were annotated in another way."""
    if not planned.changed or arguments.changed == "keep":
        planned.finished += len(planned.changed)
        return []
    if arguments.changed == "redo":
        return [episode for episode in episodes if episode.index in planned.changed]
    reviewed = sum(records.latest[index].reviewed for index in planned.changed)
    names = sorted({name for names in planned.changed.values() for name in names})
    raise CommandError(
        f"{len(planned.changed)} episodes were annotated in another way ({', '.join(names)}), "
        f"{reviewed} of them have been reviewed: --changed redo annotates them again, --changed "
        "keep leaves them"
    )


def _may_cost(arguments: argparse.Namespace, source, annotator, records, todo) -> bool:
    """Prints the estimate; False when it was all that was asked for.

    Raises CommandError where the operator must agree and does not.
    """
    from vla.annotation.estimate import estimate, is_local
    from vla.annotation.records import made_digest
    from vla.annotation.run import sample_request

    made = made_digest(annotator.source(source.camera))
    earlier = [record for record in records.latest.values() if record.made == made]
    texts, sizes = sample_request(source, annotator, todo[0])
    prices = (arguments.price_in, arguments.price_out)
    result = estimate(len(todo), texts, sizes, annotator.wanted, earlier, *prices)
    print(result.text())
    if arguments.estimate:
        return False
    free = result.cost is None and is_local(arguments.base_url)
    if arguments.yes or free or (result.cost is not None and result.cost <= arguments.ask_above):
        return True
    if sys.stdin.isatty():
        if input("go on? [y/N] ").strip().lower() in ("y", "yes"):
            return True
        raise CommandError("not annotated", exit_status=1)
    why = (
        "the cost is not known: give --price-in and --price-out"
        if result.cost is None
        else f"this costs more than --ask-above {arguments.ask_above:g}"
    )
    raise CommandError(f"{why}; --yes continues anyway")


def _say_used(arguments: argparse.Namespace, outcome) -> None:
    from vla.annotation.estimate import cost_of

    if not outcome.input_tokens:
        return
    tokens = (outcome.input_tokens, outcome.output_tokens)
    cost = cost_of(*tokens, arguments.price_in, arguments.price_out)
    price = "" if cost is None else f": {cost:.2f} at these prices"
    print(f"{tokens[0]:,} input and {tokens[1]:,} output tokens{price}")


def _say_failures(left_out: dict[int, str], failed: dict[int, str], stopped: str) -> int:
    """Lists what was not annotated, and why; returns the exit status."""
    for words, episodes in (("were left out", left_out), ("failed", failed)):
        if episodes:
            print(f"{len(episodes)} episodes {words}:")
        for index, reason in sorted(episodes.items()):
            print(f"  episode {index}: {reason}")
    if stopped:
        print(f"stopped early: {stopped}")
    return 1 if failed or left_out else 0


def run_review(arguments: argparse.Namespace) -> int:
    """Writes the page and the table, or takes a table over."""
    from vla.annotation.records import Records, read_records, write_annotations
    from vla.annotation.review import apply_review, write_review
    from vla.annotation.source import AnnotationSource

    try:
        there = read_records(arguments.dataset)
        source = AnnotationSource(arguments.dataset, camera=arguments.camera)
        if arguments.apply:
            with Records(arguments.dataset) as records:
                applied = apply_review(arguments.apply, records)
                path = write_annotations(arguments.dataset, source.files(), records.latest)
            print(
                f"{applied.accepted} entries accepted, {applied.edited} edited, {applied.rejected} "
                f"rejected, {applied.unmarked} without a verdict; written: {path}"
            )
            return 0
        indices = {episode.index for episode in _chosen(arguments, source)}
        chosen = [
            record
            for index, record in there.items()
            if index in indices and not (arguments.unreviewed and record.reviewed)
        ]
        if not chosen:
            raise CommandError("there is nothing to review")
        page, table = write_review(source, chosen, Path(arguments.out))
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f"written: {page} (open it in a browser) and {table}, {len(chosen)} episodes")
    return 0
