"""`vla record`: start, stop, label and mark episodes of a running recorder, and look at them."""

from __future__ import annotations

import argparse

from vla_cli import recordings
from vla_cli.connection import add_robot_parser, connected, positive_seconds
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Record episodes with the running recorder, one rosbag2 folder for each, and look at them.

examples:
  vla record start --instruction "put the cup on the plate" --note "operator: Ada"
  vla record mark "grasp the cup"
  vla record stop --outcome success
  vla record discard                       stops, and deletes the episode
  vla record label failure                 the last episode, after all
  vla record save-recent --seconds 20      what has just happened (parameter ring_buffer)
  vla record list                          what has been recorded
  vla record show EPISODE                  what is in it, and a contact sheet
  vla record video EPISODE                 a video of it
  vla record open EPISODE --with rerun     or foxglove

exit status: 0 done, 1 refused by the recorder, 2 no recorder answers, or no such episode
"""
OUTCOMES = ("success", "failure", "none")
# Closing a long bag takes as long as the disk takes [s].
DISK_TIMEOUT = 120.0


def add_parser(subparsers) -> None:
    """Adds the subcommand and its own subcommands."""
    parser = add_command(
        subparsers,
        "record",
        "record episodes and look at them",
        DESCRIPTION,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    start = _add(actions, "start", "Start recording an episode.", _start)
    start.add_argument(
        "--instruction",
        default="",
        metavar="TEXT",
        help="what the operator demonstrates (default: the instruction in force)",
    )
    _add_note(start)

    stop = _add(actions, "stop", "End the episode and keep it.", _stop)
    stop.add_argument(
        "--outcome",
        choices=OUTCOMES,
        default="none",
        help="how it went (default: none, or what 'vla record label' said)",
    )
    _add_note(stop)

    _add(actions, "discard", "End the episode and delete it.", _discard)

    label = _add(actions, "label", "Say how an episode went, during it or afterwards.", _label)
    label.add_argument("outcome", choices=OUTCOMES, help="none takes a label away")
    label.add_argument(
        "--episode",
        default="",
        metavar="ID",
        help="name or folder of the episode (default: the running one, or else the last)",
    )
    _add_note(label)

    mark = _add(actions, "mark", "Mark that a sub-task begins now.", _mark)
    mark.add_argument("name", help="what is done from here on, in words")

    save = _add(actions, "save-recent", "Save what has just happened as an episode.", _save_recent)
    save.add_argument(
        "--seconds",
        type=positive_seconds,
        default=0.0,
        help="how far back to go (default: all that the ring buffer holds)",
    )
    save.add_argument(
        "--instruction",
        default="",
        metavar="TEXT",
        help="what was done (default: the instruction that was in force)",
    )
    save.add_argument("--outcome", choices=OUTCOMES, default="none", help="how it went")
    _add_note(save)
    recordings.add_actions(actions)


def _add(actions, name: str, description: str, call) -> argparse.ArgumentParser:
    def run(ros_client, client, arguments: argparse.Namespace) -> int:
        from vla_ros import srv

        answer = call(srv, client, arguments)
        if not answer.success:
            raise CommandError(answer.message, exit_status=1)
        return 0

    return add_robot_parser(actions, name, description, description, connected(run))


def _add_note(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--note", default="", metavar="TEXT", help="kept with the episode")


def _outcome(arguments: argparse.Namespace) -> str:
    return "" if arguments.outcome == "none" else arguments.outcome


def _start(srv, client, arguments: argparse.Namespace):
    request = srv.StartEpisode.Request(instruction=arguments.instruction, note=arguments.note)
    answer = client.call(srv.StartEpisode, "vla/start_episode", request)
    if answer.success:
        print(f"recording {answer.uri}")
    return answer


def _stop(srv, client, arguments: argparse.Namespace):
    request = srv.StopEpisode.Request(outcome=_outcome(arguments), note=arguments.note)
    answer = client.call(srv.StopEpisode, "vla/stop_episode", request, DISK_TIMEOUT)
    _print_bag(answer)
    return answer


def _discard(srv, client, arguments: argparse.Namespace):
    request = srv.StopEpisode.Request(outcome=srv.StopEpisode.Request.OUTCOME_DISCARD)
    answer = client.call(srv.StopEpisode, "vla/stop_episode", request, DISK_TIMEOUT)
    if answer.success:
        print("discarded")
    return answer


def _label(srv, client, arguments: argparse.Namespace):
    request = srv.LabelEpisode.Request(
        episode_id=arguments.episode, outcome=_outcome(arguments), note=arguments.note
    )
    answer = client.call(srv.LabelEpisode, "vla/label_episode", request)
    if answer.success:
        print(f"{answer.episode_id}: {arguments.outcome}")
    return answer


def _mark(srv, client, arguments: argparse.Namespace):
    request = srv.MarkSubtask.Request(name=arguments.name)
    answer = client.call(srv.MarkSubtask, "vla/mark_subtask", request)
    if answer.success:
        print(f"{answer.elapsed:.1f} s: {arguments.name}")
    return answer


def _save_recent(srv, client, arguments: argparse.Namespace):
    request = srv.SaveRecent.Request(
        duration=arguments.seconds,
        instruction=arguments.instruction,
        outcome=_outcome(arguments),
        note=arguments.note,
    )
    answer = client.call(srv.SaveRecent, "vla/save_recent", request, DISK_TIMEOUT)
    _print_bag(answer)
    return answer


def _print_bag(answer) -> None:
    if answer.success:
        print(f"{answer.uri}: {answer.message_count} messages in {answer.duration:.1f} s")
        if answer.message:
            print(answer.message)
