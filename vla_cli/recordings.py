"""`vla record list`, `show`, `video` and `open`: recorded episodes, without the robot."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla.core.text import one_line
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.playback.footage import EpisodeFacts

OUTPUT = Path("output")
EPISODE = "a bag's folder, the name of a bag in output/bags, or DATASET:NUMBER"
LIST = """\
List recorded episodes: their name, instruction, outcome, length, frames, size, and how many
sub-tasks were marked. Bags may be of any recorder. ROS is not needed.

examples:
  vla record list                          the bags in output/bags
  vla record list datasets/mine            the episodes of a LeRobot data set
"""
SHOW = """\
Say what is in an episode, and write a contact sheet: pictures of each camera at eight moments.
Of an unfinished or damaged bag, what is sound is shown.

examples:
  vla record show episode_20260301_101500_123
  vla record show datasets/mine:3 --sheet output/third.png
"""
VIDEO = """\
Write a video of an episode at its own speed, with the cameras side by side.

examples:
  vla record video episode_20260301_101500_123
  vla record video datasets/mine:3 output/third.mp4
"""
OPEN = """\
Open an episode in a viewer, where one is installed. For Rerun it is written as output/NAME.rrd;
Foxglove reads bags themselves, and gets a bag of an episode of a data set.

examples:
  vla record open episode_20260301_101500_123 --with rerun
  vla record open datasets/mine:3 --with foxglove
  vla record open datasets/mine:3 --with rerun --write-only      for a viewer on another machine
"""
FOXGLOVE = "foxglove-studio"
LONGEST_NAME = 1000  # Of an episode [characters].


def add_actions(actions) -> None:
    """Adds them to the actions of `vla record`."""
    listing = add_command(actions, "list", "List recorded episodes.", LIST, run_list)
    listing.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        type=Path,
        help="of bags, or a LeRobot data set (default: output/bags)",
    )
    show = add_command(actions, "show", "Say what is in an episode.", SHOW, run_show)
    show.add_argument("episode", metavar="EPISODE", help=EPISODE)
    show.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="the contact sheet, .png or .jpg (default: output/NAME.png)",
    )
    video = add_command(actions, "video", "Write a video of an episode.", VIDEO, run_video)
    video.add_argument("episode", metavar="EPISODE", help=EPISODE)
    video.add_argument(
        "out", nargs="?", metavar="OUT.mp4", type=Path, help="(default: output/NAME.mp4)"
    )
    viewer = add_command(actions, "open", "Open an episode in a viewer.", OPEN, run_open)
    viewer.add_argument("episode", metavar="EPISODE", help=EPISODE)
    viewer.add_argument("--with", dest="viewer", choices=("rerun", "foxglove"), required=True)
    viewer.add_argument(
        "--write-only", action="store_true", help="name the file, and open no window"
    )


def run_list(arguments: argparse.Namespace) -> int:
    """Prints the list."""
    from vla.playback.episodes import BAGS, list_episodes

    found = list_episodes(arguments.folder or BAGS)
    heads = ("episode", "instruction", "outcome", "length", "frames", "size", "marks")
    rows = [heads, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    right = heads.index("length")
    for row in rows:
        cells = [
            cell.ljust(width) if column < right else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for facts in found:
        if facts.flaw:
            print(f"{one_line(facts.name, LONGEST_NAME)}: {facts.flaw}")
    return 0


def _row(facts: EpisodeFacts) -> tuple[str, ...]:
    return (
        one_line(facts.name, LONGEST_NAME),
        one_line(facts.instruction or "-", 50),
        one_line(facts.outcome or "-", 12),
        f"{facts.seconds:.1f} s",
        str(facts.frames),
        "-" if facts.size is None else _size(facts.size),
        str(len(facts.marks)),
    )


def run_show(arguments: argparse.Namespace) -> int:
    """Prints what is in an episode, and writes its contact sheet."""
    from vla.playback.episodes import open_episode, plain_name
    from vla.playback.footage import PlaybackError
    from vla.playback.pictures import write_contact_sheet

    footage = open_episode(arguments.episode)
    facts = footage.facts
    lines = [
        ("episode", one_line(facts.name, LONGEST_NAME)),
        ("instruction", one_line(facts.instruction, 1000) or "none"),
        ("outcome", one_line(facts.outcome) or "none"),
        ("length", f"{facts.seconds:.1f} s"),
        ("frames", f"{facts.frames}, {facts.rate:.1f} a second" if facts.frames else "none"),
        ("size", "" if facts.size is None else _size(facts.size)),
        *((name, one_line(text, 1000)) for name, text in facts.notes.items()),
        ("flaw", facts.flaw),
    ]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        if text:
            print(f"{name.ljust(width)}  {text}")
    for mark in facts.marks:
        print(f"{'mark'.ljust(width)}  {mark.time:.1f} s  {mark.name}")
    print("\nwhat is in it:")
    for stream in facts.streams:
        print(f"  {stream.messages:>8}  {one_line(stream.name)}  ({one_line(stream.kind)})")
    sheet = arguments.sheet or OUTPUT / f"{plain_name(facts)}.png"
    try:
        flaws = write_contact_sheet(footage, sheet)
    except PlaybackError as error:
        # Without cameras there is no sheet, and all the rest is said.
        if facts.frames or arguments.sheet:
            raise
        print(f"\nno contact sheet: {error}")
        return 0
    print(f"\ncontact sheet: {sheet}")
    _tell(flaws)
    return 0


def run_video(arguments: argparse.Namespace) -> int:
    """Writes the video."""
    from vla.playback.episodes import open_episode, plain_name
    from vla.playback.pictures import write_episode_video

    footage = open_episode(arguments.episode)
    out = arguments.out or OUTPUT / f"{plain_name(footage.facts)}.mp4"
    flaws = write_episode_video(footage, out)
    print(out)
    _tell([footage.facts.flaw, *flaws])
    return 0


def run_open(arguments: argparse.Namespace) -> int:
    """Starts the viewer and waits for its end; its exit status."""
    from vla.playback.episodes import bag_files, open_episode, plain_name
    from vla.playback.rerun_file import write_rerun

    footage = open_episode(arguments.episode)
    name = plain_name(footage.facts)
    if arguments.viewer == "rerun":
        files = [OUTPUT / f"{name}.rrd"]
        _tell([footage.facts.flaw, *write_rerun(footage, files[0])])
        command = [sys.executable, "-m", "rerun"]
    else:
        files = bag_files(footage, OUTPUT / f"{name}_bag")
        _tell([footage.facts.flaw])
        command = [FOXGLOVE]
    print(*files, sep="\n")
    if arguments.write_only:
        return 0
    if shutil.which(command[0]) is None:
        raise CommandError(
            f"Foxglove is not installed (no {FOXGLOVE} on the path): download its package from "
            "https://foxglove.dev/download, then 'sudo apt install ./foxglove-*.deb'; or open the "
            "file named above at https://app.foxglove.dev"
        )
    return subprocess.run([*command, *map(str, files)]).returncode


def _tell(flaws: list[str]) -> None:
    for flaw in filter(None, flaws):
        print(f"note: {flaw}")


def _size(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
