"""The subcommands that talk to a running robot: instruct, ask, stop, resume, status."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.control.session import InstructionError, check_instruction
from vla.core.shown import brief, listed
from vla.core.text import escape_unseen
from vla_cli.connection import add_robot_parser, connected, positive_seconds
from vla_cli.errors import CommandError
from vla_cli.model_options import add_endpoint_options, api_key
from vla_cli.result_files import require_writable, write_result

if TYPE_CHECKING:
    from vla.annotation.steps import Guide

# By outcome; 1 for all others.
EXIT_STATUS = {"settled": 0, "done": 0, "refused": 3}
GUIDE_IMAGE = 512  # longest side of the images that the model gets [px]
INSTRUCT = """\
Tell the robot what to do and wait until the motion settles. Ctrl-C cancels, and the arm holds.

examples:
  vla instruct "pick the red block"
  vla instruct "put the can in the bowl" --mode act      moves at once, says nothing first
  vla instruct "open the drawer" --timeout 30 --json result.json
  vla instruct "close the drawer" --no-wait              returns at once
  vla instruct "tidy up, I want to have dinner here" --split-by gpt-4o \\
      --base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY

--split-by has a model behind an OpenAI-compatible endpoint look at the scene and split the
instruction into steps, which are followed one after the other; after each it says whether the step
is done. While it is asked, the arm holds.

A policy that has learned it says first what it will do, or that it can't: then nothing moves.

exit status: 0 settled (or accepted, with --no-wait; or all steps are done), 1 ended otherwise,
2 could not be sent, 3 the policy refused
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
        default="",
        help="think: say what it will do, then move; act: move at once (default: think with a "
        "policy that can say what it will do and has no adapter)",
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
    _add_guide_options(instruct.add_argument_group("in steps, by another model"))
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
    if arguments.split_by:
        return _run_in_steps(arguments)
    return connected(_send if arguments.no_wait else _follow)(arguments)


def _send(ros_client, client, arguments: argparse.Namespace) -> int:
    answer = client.set_instruction(arguments.text, arguments.mode)
    if not answer.success:
        raise CommandError(answer.message)
    print(f"accepted, id {answer.instruction_id}: 'vla status' shows how it goes")
    _write_outcome(arguments, "accepted", instruction_id=answer.instruction_id)
    return 0


def _follow(ros_client, client, arguments: argparse.Namespace) -> int:
    outcome, result = _followed(ros_client, client, arguments, arguments.text)
    _write_outcome(
        arguments,
        outcome,
        message=result.message,
        response=result.response,
        seconds=result.duration,
        instruction_id=result.instruction_id,
    )
    return EXIT_STATUS.get(outcome, 1)


def _followed(ros_client, client, arguments: argparse.Namespace, text: str) -> tuple[str, Any]:
    """Follows a text to its end and prints how it goes; the outcome's name, and the result."""
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

    result = client.execute(text, arguments.mode, arguments.timeout, show)
    outcome = ros_client.OUTCOME_NAMES[result.error_code]
    if result.response and result.response != shown["response"]:
        _say(f"robot: {result.response}")
    _say(f"{result.duration:6.1f} s  {outcome}: {result.message}")
    return outcome, result


def _add_guide_options(parser) -> None:
    parser.add_argument(
        "--split-by", default="", metavar="MODEL", help="name of a model at the endpoint"
    )
    add_endpoint_options(parser)
    parser.add_argument(
        "--camera", default="", help="whose image it gets (the first of an observation)"
    )


def _run_in_steps(arguments: argparse.Namespace) -> int:
    """Has a model split the instruction; 0 when all steps are done."""
    if arguments.no_wait:
        raise CommandError("--split-by follows the steps to their end: leave --no-wait out")
    from vla.annotation.endpoint import EndpointConfig
    from vla.annotation.steps import GuideError, make_guide

    endpoint = EndpointConfig(
        arguments.base_url,
        arguments.split_by,
        api_key(arguments),
        timeout=60.0,
        attempts=3,
        longest_pause=20.0,
        temperature=0.0,
    )
    guide = make_guide(endpoint)
    try:
        return connected(partial(_follow_in_steps, guide))(arguments)
    except GuideError as error:
        _write_outcome(arguments, "no_guidance", message=str(error))
        raise CommandError(str(error), exit_status=1) from error


def _follow_in_steps(guide: Guide, ros_client, client, arguments: argparse.Namespace) -> int:
    from vla.annotation.source import frame_of
    from vla.annotation.steps import follow_in_steps
    from vla.observations.messages import image_to_array

    def look() -> bytes:
        seen = client.observation()
        names = list(seen.camera_names)
        if arguments.camera not in ("", *names):
            raise CommandError(
                f"the robot has no camera {brief(arguments.camera)}; it has: {listed(names)}"
            )
        image = seen.images[names.index(arguments.camera) if arguments.camera else 0]
        return frame_of(image_to_array(image), 0, GUIDE_IMAGE).jpeg

    def run(step: str) -> str:
        return _followed(ros_client, client, arguments, step)[0]

    ended = follow_in_steps(guide, arguments.text, look, run, _say)
    _say(f"{ended.outcome}: {ended.message}")
    _write_outcome(
        arguments, ended.outcome, message=ended.message, steps=ended.steps, done=ended.done
    )
    return EXIT_STATUS.get(ended.outcome, 1)


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
