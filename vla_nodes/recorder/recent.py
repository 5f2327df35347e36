"""The recent past, saved as an episode: the messages of the recorder's ring buffer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from vla.bags.episode_writer import RecordedEpisode, write_recent
from vla.bags.ring_buffer import Recent
from vla_nodes.recorder.disk import RefusedError
from vla_nodes.recorder.episode import RunningEpisode, instructions_in, shown_instruction
from vla_nodes.recorder.start_stop import Recording
from vla_nodes.recorder.topics import INSTRUCTION


def recent_messages(recording: Recording, poll: Callable[[], None], duration: float) -> Recent:
    """The newest messages of the ring buffer. Raises RefusedError where there are none.

    poll: takes in what has arrived. duration: how far back they reach [s], 0 for all.
    """
    ring = recording.intake.ring
    if ring is None:
        raise RefusedError(
            "the ring buffer is off: set the parameter 'ring_buffer' to the seconds to keep"
        )
    if not 0.0 <= duration < math.inf:
        raise RefusedError(f"cannot save {duration} s: give a number of seconds, or 0 for all")
    poll()
    recent = ring.last(time.time_ns(), duration or math.inf)
    if not recent.messages:
        raise RefusedError("the ring buffer holds nothing: is anything being published?")
    return recent


def begin_recent(
    recording: Recording, recent: Recent, outcome: str, note: str, given: str, freshness: float
) -> RunningEpisode:
    """Opens the bag for messages of the ring buffer, and fills in its metadata.

    given: the operator's instruction, or "" for the one in force. freshness: longer silence [s] of
    a topic of the contract is a gap. Raises RefusedError or BagError when it cannot be opened.
    """
    intake = recording.intake
    topic = intake.names.get(INSTRUCTION, "")
    # Others may have announced some, too.
    instructions = [
        said
        for said in instructions_in(recent, topic)
        if (said.instruction_id, said.instruction) in recording.followed
    ]
    in_force = next((shown_instruction(i) for i in instructions if i.instruction_id), "")
    started = recent.messages[0].receive_time
    episode = recording.open(note, given, in_force, started, recent.size)
    recording.last = episode.name
    episode.outcome = outcome
    for instruction in instructions:
        episode.take_instruction(instruction)
    episode.take_recent(recent, intake.required, intake.classes, freshness)
    episode.end(time.time_ns(), intake.required, freshness)
    return episode


async def write_episode(
    recording: Recording, recent: Recent, episode: RunningEpisode
) -> RecordedEpisode:
    """Writes the messages in the background, and announces the result."""
    metadata = episode.metadata(recording.intake.classes)
    result = await recording.in_background(
        lambda: write_recent(episode.writer, recent, metadata, episode.started)
    )
    recording.report(episode, result)
    return result
