"""The command `vla launch`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vla_nodes.launcher.arguments import declared_arguments, format_arguments, parse_arguments
from vla_nodes.launcher.document import LaunchError
from vla_nodes.launcher.expansion import Expansion, expand
from vla_nodes.launcher.output import Output, log_folder
from vla_nodes.launcher.packages import PackageError, package_launch_file
from vla_nodes.launcher.runner import Runner

_DESCRIPTION = """\
Run a ROS 2 launch file in XML, as `ros2 launch` does, without needing it.

Every node is a process; its lines appear behind [executable-number]. A node that dies is
reported and, as the file says, started again or all others are stopped. Ctrl-C stops all."""

_EXAMPLES = """\
examples:
  vla launch vla_ros sim.launch.xml                    the simulator and all nodes
  vla launch vla_ros bringup.launch.xml --show-args    what can be set, and the defaults
  vla launch vla_ros bringup.launch.xml record:=true namespace:=left
  vla launch path/to/my.launch.xml name:=value         a file that is in no package
  vla launch sim.launch.xml                            a file of vla_ros, for short
  vla launch vla_ros sim.launch.xml --print            what would be run, without running it"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vla launch",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FILE | PACKAGE FILE", help="a launch file")
    parser.add_argument("words", nargs="*", metavar="NAME:=VALUE", help="launch arguments")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "-s", "--show-args", action="store_true", help="list the launch arguments and end"
    )
    choice.add_argument(
        "-p", "--print", action="store_true", help="print the commands of the processes and end"
    )
    parser.add_argument(
        "-a",
        "--show-all-subprocesses-output",
        action="store_true",
        help="show also what the file sends to the log only",
    )
    parser.add_argument("--launch-prefix", metavar="WORDS", help="put this before every command")
    parser.add_argument(
        "--launch-prefix-filter", metavar="REGEX", help="only for executables that match"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vla launch` and return its exit status.

    0 after a clean end or a clean Ctrl-C, 1 when the launch file or an argument is wrong, 2 for
    a wrong option, otherwise the exit status of the first node that failed.
    """
    options = _parser().parse_intermixed_args(argv)
    try:
        path, words = _find_file(options.source, options.words)
        if options.show_args:
            print(format_arguments(declared_arguments(path, os.environ)))
            return 0
        arguments = parse_arguments(words)
        if options.launch_prefix:
            arguments["launch-prefix"] = options.launch_prefix
        if options.launch_prefix_filter:
            arguments["launch-prefix-filter"] = options.launch_prefix_filter
        if options.show_all_subprocesses_output:
            os.environ["OVERRIDE_LAUNCH_PROCESS_OUTPUT"] = "both"
        with tempfile.TemporaryDirectory(prefix="launch_params_") as scratch:
            expansion = expand(path, arguments, os.environ, Path(scratch))
            return _print(expansion) if options.print else _run(expansion)
    except (LaunchError, PackageError) as error:
        print(f"vla launch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Before the first process started: there is nothing to bring down.
        return 130


def _find_file(source: str, words: list[str]) -> tuple[Path, list[str]]:
    if Path(source).is_file():
        return Path(source), words
    named_as_file = source.endswith((".xml", ".launch"))
    if words and ":=" not in words[0] and not named_as_file:
        return package_launch_file(source, words[0], os.environ), words[1:]
    if os.sep in source:
        raise LaunchError(f"there is no launch file '{source}'")
    if named_as_file:
        return package_launch_file("vla_ros", source, os.environ), words
    raise LaunchError(
        f"'{source}' is not a file; for a package give also the file: "
        f"vla launch {source} NAME.launch.xml"
    )


def _print(expansion: Expansion) -> int:
    for warning in expansion.warnings:
        print(f"vla launch: {warning}", file=sys.stderr)
    for process in expansion.processes:
        print(f"[{process.label}] {shlex.join(process.command)}")
    return 0


def _run(expansion: Expansion) -> int:
    output = Output(log_folder(os.environ))
    output.report("INFO", "launch", f"all log files are in {output.folder}")
    for warning in expansion.warnings:
        output.report("WARNING", "launch", warning)
    for message in expansion.messages:
        output.report("INFO", "launch.user", message)
    try:
        return Runner(expansion.processes, output).run()
    finally:
        output.close()
