"""The subcommands that talk to a running robot: instruct, ask, stop, resume, status."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from vla.control.session import InstructionError, check_instruction
from vla.core.text import escape_unseen
from vla_cli.connection import add_robot_parser, connected, positive_seconds
from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_result

INSTRUCT = """\
Tell the robot what to do and wait until the motion settles. Ctrl-C cancels, and the arm holds.

examples:
  vla instruct "pick the red block"
  vla instruct "put the can in the bowl" --mode think    answers in text first
  vla instruct "open the drawer" --timeout 30 --json result.json
  vla instruct "close the drawer" --no-wait              returns at once

exit status: 0 settled (or accepted, with --no-wait), 1 ended otherwise, 2 could not be sent
"""
ASK = """\
Ask about what the robot sees. Nothing moves; a running instruction continues.

examples:
  vla ask "what is on the table?"
  vla ask "is the drawer open?"
"""
STOP = """\
Make the arm hold at once. Only 'vla resume' or a new instruction ends it.
"""
RESUME = """\
Continue after 'vla stop', with the instruction that was in force.
"""
STATUS = """\
Show what the policy and the arm are doing, and why the arm holds if it does.

examples:
  vla status
  vla status --watch     every change, until Ctrl-C
"""


def add_parser(subparsers) -> None:
    """Adds the five subcommands."""
    instruct = add_robot_parser(
        subparsers, "instruct", "tell the robot what to do", INSTRUCT, run_instruct
    )
    instruct.add_argument("text", help="what to do, in natural language")
    instruct.add_argument(
        "--mode",
        choices=("act", "think"),
        default="act",
        help="act: move at once (default); think: answer in text first, then move",
    )
    instruct.add_argument(
        "--timeout",
        type=positive_seconds,
        default=0.0,
        metavar="SECONDS",
        help="longest time to try (default: the controller's)",
    )
    instruct.add_argument("--no-wait", action="store_true", help="return once it is accepted")
    instruct.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    ask = add_robot_parser(subparsers, "ask", "ask about what the robot sees", ASK, run_ask)
    ask.add_argument("text", help="the question, in natural language")
    ask.add_argument("--json", type=Path, metavar="FILE", help="write the answer to FILE")
    stop = connected(lambda _, client, __: _print_trigger(client.stop()))
    add_robot_parser(subparsers, "stop", "make the arm hold", STOP, stop)
    resume = connected(lambda _, client, __: _print_trigger(client.resume()))
    add_robot_parser(subparsers, "resume", "continue after a stop", RESUME, resume)
    shows = connected(_show_status)
    status = add_robot_parser(subparsers, "status", "show what the robot is doing", STATUS, shows)
    status.add_argument("--watch", action="store_true", help="show every change until Ctrl-C")


def _check(text: str) -> str:
    try:
        return check_instruction(text)[0]
    except InstructionError as error:
        raise CommandError(str(error)) from error


def _say(text: str) -> None:
    """Prints what the graph says, with control characters escaped."""
    print(escape_unseen(text), flush=True)


def _write_outcome(arguments: argparse.Namespace, outcome: str, **more: Any) -> None:
    if arguments.json is not None:
        known = {"instruction": arguments.text, "mode": arguments.mode, "outcome": outcome}
        write_result(arguments.json, known | more)


def run_instruct(arguments: argparse.Namespace) -> int:
    """Sends the instruction; 0 when it settled (or was accepted, with --no-wait)."""
    arguments.text = _check(arguments.text)
    require_writable(arguments.json)
    return connected(_send if arguments.no_wait else _follow)(arguments)


def _send(ros_client, client, arguments: argparse.Namespace) -> int:
    answer = client.set_instruction(arguments.text, arguments.mode)
    if not answer.success:
        raise CommandError(answer.message)
    print(f"accepted, id {answer.instruction_id}: 'vla status' shows how it goes")
    _write_outcome(arguments, "accepted", instruction_id=answer.instruction_id)
    return 0


def _follow(ros_client, client, arguments: argparse.Namespace) -> int:
    shown = {"line": "", "response": ""}

    def show(feedback) -> None:
        if feedback.response and feedback.response != shown["response"]:
            shown["response"] = feedback.response
            _say(f"robot: {feedback.response}")
        line = _state_line(ros_client.STATE_NAMES[feedback.state], feedback.message)
        # Messages hold ages, which change all the time: a new line only for a new kind of state.
        if line.split("(")[0] != shown["line"].split("(")[0]:
            shown["line"] = line
            _say(f"{feedback.elapsed:6.1f} s  {line}")

    result = client.execute(arguments.text, arguments.mode, arguments.timeout, show)
    outcome = ros_client.OUTCOME_NAMES[result.error_code]
    if result.response and result.response != shown["response"]:
        _say(f"robot: {result.response}")
    _say(f"{result.duration:6.1f} s  {outcome}: {result.message}")
    _write_outcome(
        arguments,
        outcome,
        message=result.message,
        response=result.response,
        seconds=result.duration,
        instruction_id=result.instruction_id,
    )
    return 0 if outcome == "settled" else 1


def run_ask(arguments: argparse.Namespace) -> int:
    """Prints the answer; 1 when the robot could not give one."""
    arguments.text = _check(arguments.text)
    require_writable(arguments.json)
    return connected(_ask)(arguments)


def _ask(ros_client, client, arguments: argparse.Namespace) -> int:
    answer = client.ask(arguments.text)
    if not answer.success:
        raise CommandError(answer.message, exit_status=1)
    _say(answer.answer)
    if arguments.json is not None:
        values = {"question": arguments.text, "answer": answer.answer}
        write_result(arguments.json, values | {"inference_seconds": answer.inference_time})
    return 0


def _print_trigger(answer) -> int:
    if not answer.success:
        raise CommandError(answer.message, exit_status=1)
    _say(answer.message)
    return 0


def _show_status(ros_client, client, arguments: argparse.Namespace) -> int:
    """Shows the status once, or every change."""
    shown = None

    def show(status) -> None:
        nonlocal shown
        key = (status.state, status.hold_reason, status.settled, status.instruction_id)
        if key != shown:
            shown = key
            _say(_status_line(ros_client, status))

    show(client.status())
    if arguments.watch:
        with contextlib.suppress(KeyboardInterrupt):
            client.watch_status(show)
    return 0


def _state_line(state: str, message: str) -> str:
    return f"{state}: {message}" if message else state


def _status_line(ros_client, status) -> str:
    line = ros_client.STATE_NAMES[status.state]
    if status.instruction:
        line += f" '{status.instruction}'"
    if status.settled:
        line += ", settled"
    line = _state_line(line, status.message)
    counts = f"chunks: {status.chunks_accepted} used, {status.chunks_rejected} refused"
    if status.chunk_age == status.chunk_age:
        counts += f", age {status.chunk_age:.2f} s"
    return f"{line} [{counts}; limited steps: {status.limited_steps}]"
