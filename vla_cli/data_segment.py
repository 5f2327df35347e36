"""`vla data segment`: demonstrations cut into atomic actions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

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
from vla_cli.overrides import overridden
from vla_cli.segmented import open_named
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.datasets.sample import EpisodeDataset
    from vla.language_action.by_model import EpisodeToCut, Segmenter
    from vla.language_action.rules import RuleConfig
    from vla.language_action.segment_records import SegmentRecords

SEGMENT = """\
Cut the episodes of a data set into atomic actions (LA4VLA), each with an instruction that needs no
image: grasp, place, lift, lower, transport, move and others, with directions in the base frame.
SOURCE is a LeRobot data set, a folder of bags or one of simulated shards; it stays as it is. OUT
gets segments.json.

--rules needs no model: it cuts where the gripper moves, where the arm rests, and where what moves
most changes. Its numbers are in metres and seconds; --set changes one.

--model asks any OpenAI-compatible endpoint, with frames of all cameras, the instruction, and the
moments at which the arm rests or the gripper moves. Each finished episode is kept at once, and a
rerun does only what is missing.

examples:
  vla data segment datasets/mine output/segments --rules
  vla data segment output/bags output/segments --rules --contract fr3
  vla data segment datasets/LA-33K output/segments --rules --contract droid \\
      --mapping config/data/la33k.yaml
  vla data segment datasets/mine output/segments --rules --set shortest=0.6
  vla data segment datasets/mine output/segments --model Qwen/Qwen3-VL-8B-Instruct
  vla data segment datasets/mine output/segments --base-url https://api.openai.com/v1 \\
      --model gpt-4o --api-key-env OPENAI_API_KEY --price-in 2.5 --price-out 10 --estimate
"""
DEFAULT_PROMPT = "config/annotation/segmentation.md"


def add_parser(commands) -> None:
    """Adds the subcommand."""
    parser = add_command(
        commands, "segment", "cut demonstrations into atomic actions", SEGMENT, run_segment
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of the data set, or of bags")
    parser.add_argument("out", metavar="OUT", help="folder for segments.json")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rules", action="store_true", help="cut by rules")
    how.add_argument("--model", default="", help="name at the endpoint; cuts by it")
    parser.add_argument(
        "--contract", default="", help="embodiment contract (default: the data set's own)"
    )
    parser.add_argument("--mapping", default="", help="YAML file for LeRobot sets of others")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other numbers for the rules, or for the moments that a model is told",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace segments that are there already"
    )
    model = parser.add_argument_group("by a model")
    add_episode_options(model)
    add_model_options(model, DEFAULT_PROMPT, image_size=224, temperature=0.2)
    model.add_argument(
        "--frame-rate", type=float, default=2.0, help="frames of each view in a second (2)"
    )
    model.add_argument("--most-frames", type=int, default=24, help="of each view (24)")
    add_cost_options(parser.add_argument_group("cost of a model"))


def run_segment(arguments: argparse.Namespace) -> int:
    """Cuts, writes and prints; 1 when a model failed at episodes, 130 after an interrupt."""
    from vla.core.configuration import read_dataclass
    from vla.core.shown import shown_path
    from vla.language_action.rules import RuleConfig
    from vla.language_action.segments import SEGMENTS_FILE

    _check_options(arguments)
    path = Path(arguments.out) / SEGMENTS_FILE
    if not path.parent.is_dir() and (path.parent.exists() or path.parent.is_symlink()):
        raise CommandError(f"{shown_path(path.parent)} is no folder")
    if path.is_dir() or (path.exists() and not arguments.overwrite):
        _require_replaceable(arguments, path)
    given = overridden({}, arguments.set, CommandError)
    config = read_dataclass(RuleConfig, given, "--set", CommandError)
    segmenter = _segmenter(arguments, config) if arguments.model else None
    dataset = open_named(arguments.source, arguments.contract, arguments.mapping)
    if segmenter is not None:
        return _by_model(arguments, dataset, segmenter, path)

    from vla.language_action.clips import with_origin
    from vla.language_action.segmentation import report_text, segment_data_set
    from vla.language_action.segments import write_segmentation

    segmentation, report = segment_data_set(dataset, arguments.source, config)
    segmentation = with_origin(segmentation, dataset, arguments.contract, arguments.mapping)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(segmentation, path)
    print(f"{report_text(report)}\nwritten: {shown_path(path)}")
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    check_model_options(arguments)
    if not 0 < arguments.frame_rate <= 1000:
        raise CommandError("--frame-rate takes a number above 0, at most 1000")
    if arguments.most_frames < 2:
        raise CommandError("--most-frames takes a number from 2 on")
    if arguments.rules and arguments.episodes is not None:
        raise CommandError("--episodes is for a --model; rules cut all episodes")


def _require_replaceable(arguments: argparse.Namespace, path: Path) -> None:
    """Raises CommandError unless the segments are a model's, which are recorded, and not rated."""
    from vla.core.shown import shown_path
    from vla.language_action.segment_records import RECORDS_FILE
    from vla.language_action.segments import read_segmentation

    if path.is_dir() or not (arguments.model and (path.parent / RECORDS_FILE).exists()):
        raise CommandError(f"{shown_path(path)} is there already; --overwrite replaces a file")
    if read_segmentation(path).is_rated:
        raise CommandError(
            f"{shown_path(path)} has ratings, which go with exactly these segments; give another "
            "OUT, or drop them by --overwrite"
        )


def _segmenter(arguments: argparse.Namespace, config: RuleConfig) -> Segmenter:
    from vla.annotation.prompts import PromptError, read_prompt
    from vla.core.resources import given_or_shared
    from vla.language_action.by_model import PLACEHOLDERS, Segmenter

    try:
        prompt = read_prompt(given_or_shared(arguments.prompt), PLACEHOLDERS)
    except PromptError as error:
        raise CommandError(str(error)) from error
    return Segmenter(
        prompt,
        endpoint_config(arguments),
        arguments.image_size,
        arguments.frame_rate,
        arguments.most_frames,
        config,
    )


def _by_model(
    arguments: argparse.Namespace, dataset: EpisodeDataset, segmenter: Segmenter, path: Path
) -> int:
    """Asks about what is missing, and writes all that is there; returns the exit status."""
    from vla.core.shown import shown_path
    from vla.datasets.frames import DatasetError
    from vla.language_action.by_model import episodes_to_cut
    from vla.language_action.clips import with_origin
    from vla.language_action.segment_records import SegmentRecords, segmentation_of
    from vla.language_action.segmentation import is_still, report_of, report_text
    from vla.language_action.segments import write_segmentation

    episodes, refused = episodes_to_cut(dataset)
    if not episodes:
        reason = next(iter(refused.values()))
        raise DatasetError(f"{arguments.source}: none of {len(refused)} episodes fits: {reason}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with SegmentRecords(path.parent) as records:
        try:
            status = _ask(arguments, dataset, segmenter, records, episodes, refused)
        except KeyboardInterrupt:
            print("\ninterrupted; finished episodes are kept, run again to go on")
            status = 130
        made = segmentation_of(records.latest, episodes, arguments.source)
    made = with_origin(made, dataset, arguments.contract, arguments.mapping)
    if not made.episodes:
        print(f"no episode is cut yet; {shown_path(path)} is not written")
        return status
    write_segmentation(made, path)
    done = [episode for episode in episodes if episode.index in made.episodes]
    still = [e.index for e in done if is_still(e.trajectory, segmenter.rules)]
    print(report_text(report_of(made.episodes, refused, still)))
    print(f"written: {shown_path(path)}: {len(done)} of {len(episodes) + len(refused)} episodes")
    return status


def _ask(
    arguments: argparse.Namespace,
    dataset: EpisodeDataset,
    segmenter: Segmenter,
    records: SegmentRecords,
    episodes: list[EpisodeToCut],
    refused: dict[int, str],
) -> int:
    """Asks about the episodes that are missing; returns the exit status."""
    from vla.annotation.record_file import plan
    from vla.language_action.by_model import estimate_cost, segment_by_model

    wanted = chosen_numbers(arguments, [*(episode.index for episode in episodes), *refused])
    chosen = [episode for episode in episodes if episode.index in wanted]
    planned = plan(
        chosen, lambda e: e.digest, lambda _: segmenter.source(), records.latest, lambda _: ""
    )
    again = changed_episodes(arguments, planned)
    todo = planned.missing + [episode for episode in chosen if episode.index in again]
    print(f"{planned.finished} episodes are finished, {len(todo)} are to be cut")
    if not todo:
        return 0
    prices = (arguments.price_in, arguments.price_out)
    cost = estimate_cost(todo, dataset, segmenter, records, *prices)
    if not may_cost(arguments, cost):
        return 0
    outcome = with_progress(
        len(todo),
        lambda on_episode: segment_by_model(
            todo, dataset, segmenter, records, arguments.concurrency, on_episode
        ),
    )
    say_used(arguments, outcome)
    return say_failures({}, outcome.failed, outcome.stopped)
