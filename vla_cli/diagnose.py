"""`vla diagnose`: whether a checkpoint moves where it is told, or where its images say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla.core.shown import shown_path
from vla_cli.checkpoints import add_inference_options, checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, unwritable, write_result
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.evaluation.diagnosis import ConditionResult
    from vla.evaluation.direction_cases import DirectionCase
    from vla.evaluation.representations import Representations

DESCRIPTION = """\
Measure whether a checkpoint follows language (LA4VLA): it predicts chunks for instructions that
name one direction, such as "move the gripper left", with its own images and state, and with those
of another case. DATA is a LeRobot data set, a folder of bags or one of simulated shards, whose
instructions name directions; or any demonstrations with the segments of vla data segment.

Each condition has four figures with 95% intervals: the share of predictions on the side of the
direction (DAR, 0.5 by chance), their mean cosine with the demonstration (DCS, 0 by chance), and how
well instructions are told apart (SR, 1 where they change nothing, and SS, 0 or less).

examples:
  vla diagnose --checkpoint runs/la/checkpoint --data datasets/atomic --json output/diagnose.json
  vla diagnose --data datasets/table_top --segments output/segments --pictures output/pictures
  vla diagnose --data datasets/theirs --mapping theirs.yaml --cases 40 --steps 8
"""
DEFAULT_CHECKPOINT = "checkpoints/nano"
MOST_CASES = 10_000


def add_parser(subparsers) -> None:
    """Adds `vla diagnose`."""
    parser = add_command(
        subparsers, "diagnose", "measure whether a checkpoint follows language", DESCRIPTION,
        run_diagnose,
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--adapter", default="", help="folder of an adapter to load into it")
    parser.add_argument("--data", required=True, help="folder of the data set, or of bags")
    parser.add_argument(
        "--mapping", default="", help="YAML file for LeRobot sets of others (that of the segments)"
    )
    parser.add_argument(
        "--segments", default="", metavar="FOLDER", help="of the data, from vla data segment"
    )
    parser.add_argument("--cases", type=int, default=100, help="in each condition (100)")
    parser.add_argument(
        "--steps", type=int, help="of each chunk that are added up (all that it has)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    add_inference_options(parser)
    parser.add_argument("--json", metavar="FILE", help="write figures and cases")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="draw paths, and a t-SNE of what enters the action head, as SVG",
    )


def run_diagnose(arguments: argparse.Namespace) -> int:
    """Finds the cases, runs all conditions, prints the table, writes the files."""
    if not 2 <= arguments.cases <= MOST_CASES or arguments.cases % 2:
        raise CommandError(
            f"--cases takes an even number of 2 to {MOST_CASES}, since cases come in pairs, got "
            f"{arguments.cases}"
        )
    if not 0 <= arguments.seed <= 2**31:
        raise CommandError(f"--seed takes 0 to 2^31, got {arguments.seed}")
    require_writable(arguments.json)
    if arguments.pictures:
        require_writable(arguments.pictures / "paths_x.svg")

    from tqdm import tqdm

    from vla.datasets.sources import RobotData
    from vla.evaluation.diagnosis import CONDITIONS, run_conditions
    from vla.evaluation.diagnosis_report import diagnosis_report, diagnosis_table
    from vla.evaluation.direction_cases import find_cases, require_translations
    from vla.evaluation.representations import represent
    from vla.language_action.segments import read_segmentation
    from vla.policies.policy import Policy
    from vla.training.sources import kind_of, open_episodes

    folder = checkpoint_folder(arguments.checkpoint)
    policy = Policy.from_pretrained(
        folder, arguments.device, arguments.adapter, dtype=arguments.dtype
    )
    contract, seed = policy.contract, arguments.seed
    require_translations(contract)
    steps = contract.horizon if arguments.steps is None else arguments.steps
    if not 1 <= steps <= contract.horizon:
        raise CommandError(f"--steps takes 1 to {contract.horizon}, the chunk's, got {steps}")
    segmentation = read_segmentation(arguments.segments) if arguments.segments else None
    mapping = arguments.mapping or (segmentation.mapping if segmentation else "")
    entry = RobotData(arguments.data, kind_of(arguments.data), mapping)
    dataset = open_episodes(entry, contract)
    found = find_cases(dataset, arguments.data, arguments.cases, steps, seed, segmentation)
    if len(found.cases) < arguments.cases:
        print(
            f"{len(found.cases)} cases, not {arguments.cases}: the data has no more pairs of "
            "opposite directions",
            file=sys.stderr,
        )
    with tqdm(total=len(CONDITIONS) * len(found.cases), unit="case") as progress:
        results = run_conditions(policy, found.cases, steps, seed, lambda: progress.update())
    shown = represent(policy, found.cases, seed) if arguments.pictures else None
    named = {
        "checkpoint_id": policy.checkpoint_id,
        "data": arguments.data,
        "segments": arguments.segments,
        "asked": arguments.cases,
    }
    report = diagnosis_report(found, results, policy.features, named, steps, seed, shown)
    print(diagnosis_table(report))
    if arguments.json:
        write_result(arguments.json, report)
        print(f"written: {shown_path(arguments.json)}")
    if shown is not None:
        _draw(arguments.pictures, found.cases, results, shown)
        print(f"written: {shown_path(arguments.pictures)}")
    return 0


def _draw(
    folder: Path,
    cases: list[DirectionCase],
    results: list[ConditionResult],
    representations: Representations,
) -> None:
    """Writes a picture for each axis, and one of representations where there are some.

    Those of an earlier run that this one lacks are removed, since they would show another policy.
    """
    from vla.evaluation.diagnosis_pictures import path_picture, representation_picture
    from vla.language_action.direction_words import AXES

    present = {case.direction for case in cases}
    pictures = {
        f"paths_{axis}.svg": path_picture(axis, cases, results)
        for axis, directions in AXES.items()
        if present & set(directions)
    }
    if not representations.missing:
        pictures["representations.svg"] = representation_picture(representations)
    try:
        for name in {f"paths_{axis}.svg" for axis in AXES} | {"representations.svg"}:
            (folder / name).unlink(missing_ok=True)
        for name, picture in pictures.items():
            (folder / name).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
