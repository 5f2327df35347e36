"""The recorder's services as plain functions, for the command line and other programs.

Each takes a connected RobotClient and returns the service's response; `success` and `message` say
how it went. Raises UnreachableError when no recorder answers.
"""

from __future__ import annotations

from vla_ros.srv import LabelEpisode, MarkSubtask, SaveRecent, StartEpisode, StopEpisode

from vla_nodes.client.graph import RobotClient

# Closing a long bag takes as long as the disk takes.
DISK_TIMEOUT = 120.0


def start_episode(client: RobotClient, instruction: str = "", note: str = ""):
    """Starts recording. instruction: what the operator demonstrates; empty for the one in force."""
    request = StartEpisode.Request(instruction=instruction, note=note)
    return client.call(StartEpisode, "vla/start_episode", request)


def stop_episode(client: RobotClient, outcome: str = "", note: str = ""):
    """Ends the episode: "success", "failure", "" or, to delete it, "discard"."""
    request = StopEpisode.Request(outcome=outcome, note=note)
    return client.call(StopEpisode, "vla/stop_episode", request, DISK_TIMEOUT)


def label_episode(client: RobotClient, outcome: str, note: str = "", episode_id: str = ""):
    """Labels an episode; an empty id is the running one, or else the last."""
    request = LabelEpisode.Request(episode_id=episode_id, outcome=outcome, note=note)
    return client.call(LabelEpisode, "vla/label_episode", request)


def mark_subtask(client: RobotClient, name: str):
    """Marks in the running episode that a sub-task begins."""
    return client.call(MarkSubtask, "vla/mark_subtask", MarkSubtask.Request(name=name))


def save_recent(
    client: RobotClient,
    seconds: float = 0.0,
    instruction: str = "",
    outcome: str = "",
    note: str = "",
):
    """Saves the last `seconds` of the ring buffer as an episode; 0 for all of it."""
    request = SaveRecent.Request(
        duration=seconds, instruction=instruction, outcome=outcome, note=note
    )
    return client.call(SaveRecent, "vla/save_recent", request, DISK_TIMEOUT)
