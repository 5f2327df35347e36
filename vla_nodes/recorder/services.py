"""The recorder's services: start, stop and label an episode, mark a sub-task, save the recent past.

Requests are checked and answered here; start_stop.py and recent.py carry them out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vla_ros.msg import Episode
from vla_ros.srv import LabelEpisode, MarkSubtask, SaveRecent, StartEpisode, StopEpisode

from vla.bags.episode_writer import RecordedEpisode
from vla.bags.labels import check_note, check_outcome, find_episode, label_episode
from vla.bags.writer import BagError
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import TextError, check_text, one_line
from vla_nodes.core.node import ManagedNode
from vla_nodes.recorder.disk import RefusedError
from vla_nodes.recorder.episode import (
    NANOSECONDS,
    RunningEpisode,
    drops_in_words,
    gaps_in_words,
)
from vla_nodes.recorder.recent import begin_recent, recent_messages, write_episode
from vla_nodes.recorder.start_stop import Recording


class RecorderServices:
    """Answers requests in the node's one thread, without waiting for the disk."""

    def __init__(self, node: ManagedNode, recording: Recording, poll: Callable[[], None]) -> None:
        """Creates the services on `node`; they refuse until it is active.

        poll: takes in every message that has arrived.
        """
        self._node = node
        self._recording = recording
        self._poll = poll
        self._saving = False
        for kind, name, callback in (
            (StartEpisode, "vla/start_episode", self._on_start),
            (StopEpisode, "vla/stop_episode", self._on_stop),
            (LabelEpisode, "vla/label_episode", self._on_label),
            (MarkSubtask, "vla/mark_subtask", self._on_mark),
            (SaveRecent, "vla/save_recent", self._on_save_recent),
        ):
            node.create_service(kind, name, callback)

    def _on_start(self, request, response):
        try:
            self._recording.require_active()
            note, instruction = check_note(request.note), _demonstrated(request.instruction)
            # Earlier messages are not part of the episode, but show which topics are fresh.
            self._poll()
            episode = self._recording.begin(note, instruction)
        except (RefusedError, BagError, OSError) as error:
            response.message = str(error)
            self._node.get_logger().warning(f"episode not started: {error}")
            return response
        response.success = True
        response.episode_id = episode.name
        response.uri = str(episode.writer.folder)
        return response

    async def _on_stop(self, request, response):
        discard = request.outcome == StopEpisode.Request.OUTCOME_DISCARD
        try:
            if not discard:
                check_outcome(request.outcome)
        except BagError as error:
            response.message = f"{error}, or 'discard'"
            return response
        try:
            note = check_note(request.note)
            if self._recording.episode is None:
                raise RefusedError("no episode is being recorded")
            # What was published before the request belongs to the episode.
            self._poll()
            if self._recording.episode is None:
                raise RefusedError("the episode has just ended by itself")
        except (BagError, RefusedError) as error:
            response.message = str(error)
            return response
        episode, self._recording.episode = self._recording.episode, None
        if discard:
            return await self._discard(episode, response)
        episode.outcome = request.outcome or episode.outcome
        episode.add_note(note)
        _describe(response, episode, await self._recording.finish(episode))
        return response

    async def _discard(self, episode: RunningEpisode, response):
        try:
            await self._recording.in_background(episode.writer.discard)
        except BagError as error:
            response.message = str(error)
            self._recording.announce(Episode.FAILED, episode, str(error))
            return response
        self._node.get_logger().info(f"{episode.name} discarded")
        self._recording.announce(Episode.DISCARDED, episode)
        response.success = True
        return response

    def _on_label(self, request, response):
        try:
            check_outcome(request.outcome)
            note = check_note(request.note)
            episode = self._recording.episode
            if episode is not None and request.episode_id in (
                "",
                episode.name,
                str(episode.writer.folder),
            ):
                episode.outcome = request.outcome
                episode.add_note(note)
                self._recording.renew_metadata(episode)
                self._recording.announce(Episode.LABELLED, episode, request.outcome)
                response.episode_id, response.uri = episode.name, str(episode.writer.folder)
            else:
                folder = find_episode(
                    self._recording.directory(), request.episode_id or self._recording.last
                )
                metadata = label_episode(folder, request.outcome, note)
                self._recording.publish_event(
                    event=Episode.LABELLED,
                    episode_id=folder.name,
                    uri=str(folder),
                    instruction=one_line(
                        metadata.custom_data.get("instruction", ""), LONGEST_INSTRUCTION
                    ),
                    message_count=metadata.message_count,
                    message=request.outcome,
                )
                response.episode_id, response.uri = folder.name, str(folder)
        except BagError as error:
            response.message = str(error)
            return response
        response.success = True
        return response

    def _on_mark(self, request, response):
        episode = self._recording.episode
        try:
            name = check_text(request.name, "name of a sub-task", LONGEST_INSTRUCTION)
        except TextError as error:
            response.message = str(error)
            return response
        if episode is None:
            response.message = "no episode is being recorded"
        elif not name:
            response.message = "a sub-task needs a name: say what is done from here on"
        else:
            now = time.time_ns()
            stamp = self._node.get_clock().now().nanoseconds
            episode.subtasks.append({"name": name, "receive_time": now, "stamp": stamp})
            self._recording.renew_metadata(episode)
            self._recording.announce(Episode.SUBTASK, episode, name)
            response.success = True
            response.elapsed = (now - episode.started) / NANOSECONDS
        return response

    async def _on_save_recent(self, request, response):
        try:
            self._recording.require_active()
            if self._saving:
                raise RefusedError("busy: what was recorded lately is being saved, try again later")
            check_outcome(request.outcome)
            note, instruction = check_note(request.note), _demonstrated(request.instruction)
            recent = recent_messages(self._recording, self._poll, request.duration)
            freshness = self._node.settings["freshness"]
            episode = begin_recent(
                self._recording, recent, request.outcome, note, instruction, freshness
            )
        except (RefusedError, BagError, OSError) as error:
            response.message = str(error)
            self._node.get_logger().warning(f"nothing saved: {error}")
            return response
        self._saving = True
        try:
            result = await write_episode(self._recording, recent, episode)
        finally:
            self._saving = False
        _describe(response, episode, result)
        response.episode_id = episode.name
        if recent.limited and response.success:
            limited = "the buffer is full and reaches less far back: raise 'ring_buffer_size'"
            response.message = "; ".join(filter(None, (limited, response.message)))
        return response


def _demonstrated(instruction: str) -> str:
    """What the operator demonstrates, or "". Raises RefusedError for invalid text."""
    try:
        return check_text(instruction, "instruction", LONGEST_INSTRUCTION)
    except TextError as error:
        raise RefusedError(str(error)) from error


def _describe(response, episode: RunningEpisode, result: RecordedEpisode) -> None:
    """Fills in the answer to a request that produced a bag."""
    response.success = not result.error
    words = (result.error, gaps_in_words(episode.gaps), drops_in_words(result.drops))
    response.message = "; ".join(filter(None, words))
    response.uri = str(result.folder)
    response.message_count = result.message_count
    response.duration = result.duration
