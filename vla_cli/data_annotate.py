"""`vla data annotate` and `vla data review`: episodes in words, and their review."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.model_options import (
    add_cost_options,
    add_episode_options,
    add_model_options,
    changed_episodes,
    check_model_options,
    chosen_numbers,
    endpoint_config,
    may_cost,
    say_failures,
    say_used,
    with_progress,
)
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

With --blind the page hides the instruction of an episode until its entries have been judged without
it; each is then judged again, and --apply prints how many were right in either case.

examples:
  vla data review datasets/mine --out output/review
  vla data review datasets/mine --apply output/review/review.csv
"""
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
        "--blind",
        action="store_true",
        help="have each episode judged without its instruction first, then with it",
    )
    review.add_argument(
        "--unreviewed", action="store_true", help="only episodes of which no entry has a verdict"
    )


def _add_annotate(subparsers) -> None:
    parser = add_command(
        subparsers, "annotate", "describe episodes in words", ANNOTATE, run_annotate
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    parser.add_argument(
        "--contract", help="embodiment contract, file or name (default: the data set's own)"
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="how features become the contract's, for other data sets"
    )
    add_episode_options(parser)
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
    model.add_argument("--camera", default="", help="whose images (the reference camera)")
    model.add_argument("--questions", type=int, default=4, help="asked for (4)")
    model.add_argument("--rewrites", type=int, default=4, help="asked for (4)")
    model.add_argument("--contexts", type=int, default=3, help="asked for (3)")
    add_model_options(model, DEFAULT_PROMPT, image_size=512, temperature=0.4)
    add_cost_options(parser.add_argument_group("cost of a model"))


def run_annotate(arguments: argparse.Namespace) -> int:
    """Writes motions and annotations; 1 when episodes failed, 130 after an interrupt."""
    from vla.annotation.records import Records, write_annotations
    from vla.annotation.taxonomy import category_counts, category_table

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
    if records.latest:
        print(category_table(category_counts(records.latest.values())))
    described = sum(episode.index in records.latest for episode in source.episodes)
    print(
        f"written: {path}: language motion of {len(motions or {})}, annotations of {described} of "
        f"{len(source.episodes)} episodes"
    )
    return status


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.truth and arguments.model:
        raise CommandError("give either --truth or --model")
    if arguments.entries < 1:
        raise CommandError("--entries takes a number from 1 on")
    check_model_options(arguments)


def _source(arguments: argparse.Namespace):
    from vla.annotation.source import AnnotationSource
    from vla.core.resources import given_or_shared
    from vla.datasets.lerobot.dataset import read_mapping

    contract = named_contract(arguments.contract) if arguments.contract else None
    mapping = read_mapping(given_or_shared(arguments.mapping)) if arguments.mapping else None
    return AnnotationSource(arguments.dataset, contract, mapping, arguments.camera)


def _chosen(arguments: argparse.Namespace, source):
    """The episodes that --episodes names."""
    wanted = chosen_numbers(arguments, [episode.index for episode in source.episodes])
    return [episode for episode in source.episodes if episode.index in wanted]


def _annotate(arguments: argparse.Namespace, source, records) -> int:
    """By the truth or a model; returns the exit status."""
    from vla.annotation.record_file import plan
    from vla.annotation.run import why_not

    episodes = _chosen(arguments, source)
    annotator, scenes = (
        _truth_annotator(arguments) if arguments.truth else (_model_annotator(arguments), {})
    )

    def source_of(episode):
        return annotator.source(scenes[episode.index] if arguments.truth else source.camera)

    known = [e for e in episodes if not arguments.truth or e.index in scenes]
    planned = plan(known, source.digest, source_of, records.latest, why_not)
    if arguments.truth:
        planned.left_out |= {
            e.index: "nothing tells its scene: neither a note nor --scenes"
            for e in episodes
            if e.index not in scenes
        }
    reviewed = {index: record for index, record in records.latest.items() if record.reviewed}
    again = changed_episodes(arguments, planned, reviewed)
    todo = planned.missing + [episode for episode in episodes if episode.index in again]
    print(f"{planned.finished} episodes are finished, {len(todo)} are to be annotated")
    if not todo:
        return say_failures(planned.left_out, {}, "")
    if arguments.model and not may_cost(
        arguments, _estimate(arguments, source, annotator, records, todo)
    ):
        return 0

    def run(on_episode):
        if arguments.model:
            from vla.annotation.run import annotate_episodes

            return annotate_episodes(
                todo, source, annotator, records, arguments.concurrency, on_episode
            )
        from vla.annotation.truth import annotate_from_truth

        try:
            return annotate_from_truth(todo, source.digest, scenes, annotator, records, on_episode)
        finally:
            annotator.close()

    outcome = with_progress(len(todo), run)
    say_used(arguments, outcome)
    return say_failures(planned.left_out, outcome.failed, outcome.stopped)


def _truth_annotator(arguments: argparse.Namespace):
    from vla.annotation.truth import TruthAnnotator, read_scenes, scenes_of_conversion

    given = arguments.scenes
    scenes = read_scenes(given) if given else scenes_of_conversion(arguments.dataset)
    return TruthAnnotator(arguments.entries), scenes


def _model_annotator(arguments: argparse.Namespace):
    from vla.annotation.prompts import read_prompt
    from vla.annotation.replies import PairCounts
    from vla.annotation.run import Annotator
    from vla.core.resources import given_or_shared

    endpoint = endpoint_config(arguments)
    wanted = PairCounts(arguments.questions, arguments.rewrites, arguments.contexts)
    prompt = read_prompt(given_or_shared(arguments.prompt))
    return Annotator(prompt, endpoint, wanted, arguments.image_size)


def _estimate(arguments: argparse.Namespace, source, annotator, records, todo):
    from vla.annotation.estimate import annotation_tokens, estimate
    from vla.annotation.record_file import made_digest
    from vla.annotation.replies import REPLY_SCHEMA
    from vla.annotation.run import sample_request

    made = made_digest(annotator.source(source.camera))
    earlier = [record.usage for record in records.latest.values() if record.made == made]
    texts, sizes = sample_request(source, annotator, todo[0])
    tokens = annotation_tokens(annotator.wanted)
    prices = (arguments.price_in, arguments.price_out)
    return estimate(len(todo), texts, sizes, REPLY_SCHEMA, tokens, earlier, *prices)


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
            if applied.twice:
                print(
                    f"of {applied.twice} entries judged both ways, {applied.blind_score:.1%} were "
                    f"right without the instruction, {applied.score:.1%} with it; an edit counts "
                    "half"
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
        page, table = write_review(source, chosen, Path(arguments.out), arguments.blind)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f"written: {page} (open it in a browser) and {table}, {len(chosen)} episodes")
    return 0
