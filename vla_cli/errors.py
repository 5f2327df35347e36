"""How a subcommand fails."""

from __future__ import annotations


class CommandError(Exception):
    """A failure to show in one line, without a traceback; the text says what to do.

    exit_status: of the process; 1 when a task failed, 2 when the command could not be run.
    """

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status


def is_refusal(error: Exception) -> bool:
    """Whether the library refused its input, in one sentence for the user."""
    import gymnasium

    from vla.bags.message_types import MessageTypeError
    from vla.bags.writer import BagError
    from vla.contract.embodiment import ContractError
    from vla.datasets.frames import DatasetError
    from vla.envs.base import SuiteError
    from vla.evaluation.errors import AnswerError, EpisodeError, GridError, ReproductionError
    from vla.playback.footage import PlaybackError
    from vla.policies.config import CheckpointError

    own = (BagError, CheckpointError, ContractError, DatasetError, MessageTypeError, SuiteError)
    more = (AnswerError, EpisodeError, GridError, PlaybackError, ReproductionError)
    return isinstance(error, (*own, *more, gymnasium.error.Error))
