"""Parses the command line and runs one subcommand.

Each subcommand module has `add_parser(subparsers)`, which sets `run` to a function of the parsed
arguments that returns the exit status. Heavy imports (torch, ROS, MuJoCo) belong inside `run`, so
that `vla --help` stays quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vla.core.processes import wait_asleep
from vla.core.shown import shown_path
from vla.core.text import escape_unseen, one_line
from vla_cli import (
    adapter,
    compare,
    convert,
    data,
    demo,
    diagnose,
    evaluate,
    finetune,
    info,
    launch,
    preflight,
    record,
    reproduce,
    scenes,
    serve,
    serve_chat,
    talk,
    teach_demo,
    train,
)
from vla_cli.errors import CommandError, is_refusal

COMMAND_MODULES = (
    demo,
    teach_demo,
    launch,
    preflight,
    talk,
    record,
    scenes,
    data,
    train,
    finetune,
    adapter,
    evaluate,
    diagnose,
    compare,
    reproduce,
    serve,
    serve_chat,
    convert,
    info,
)

DESCRIPTION = """\
Vision-language-action policies on ROS 2 robots.

Start the simulated robot in one shell and talk to it from another:
  vla launch sim.launch.xml
  vla instruct "pick the red block"
  vla ask "what is on the table?"
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="vla",
        description=DESCRIPTION,
        epilog="'vla COMMAND --help' explains a command and gives examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default the process's own. Returns the exit status."""
    parsed = build_parser().parse_args(arguments)
    wait_asleep()
    try:
        return parsed.run(parsed) or 0
    except CommandError as error:
        print(f"vla: {escape_unseen(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader has gone, as with `| head`; so must what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"vla: {_failed(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not is_refusal(error):
            raise
        print(f"vla: {escape_unseen(str(error))}", file=sys.stderr)
        return 2


def _failed(error: OSError) -> str:
    """What the system refused, such as a full disk or a folder that may not be written."""
    named = error.filename
    reason = error.strerror or one_line(error)
    where = f"{shown_path(named)}: " if named and isinstance(named, str | Path) else ""
    return f"{where}{reason}; check the path, its rights and the disk's free space"
