"""The parts of a checkpoint in memory, as the nodes and evaluation use them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from vla.contract.normalization import NormStats
from vla.control.committed import CommittedActions
from vla.core.shown import brief
from vla.policies.adapters import (
    Adapter,
    adapted_id,
    open_adapter,
    require_base,
)
from vla.policies.base import Images, Observation
from vla.policies.checkpoint import Checkpoint, open_checkpoint
from vla.policies.compiled import require_mode
from vla.policies.config import CheckpointError
from vla.policies.inference_dtype import inference_dtype
from vla.policies.policy_part import Part, PolicyPart

Reasoning = TypeVar("Reasoning", bound="ReasoningPart")
Action = TypeVar("Action", bound="ActionPart")


def stats_of(checkpoint: Checkpoint) -> dict[str, NormStats]:
    """Normalisation of a checkpoint. Raises CheckpointError where it has not learned to act."""
    if not checkpoint.stats:
        raise CheckpointError(
            f"{checkpoint.folder} has no norm_stats.json: it has not learned to act; train it on "
            "robot data, or give another checkpoint"
        )
    return checkpoint.stats


@dataclass(frozen=True)
class ChatAnswer:
    """What a vision-language model says in a conversation."""

    text: str
    prompt_tokens: int  # those of images included
    answer_tokens: int
    is_whole: bool  # false where it was cut at the limit


@dataclass(frozen=True)
class ReasoningTurn:
    """One robot's arguments of ReasoningPart.act()."""

    part: ReasoningPart  # the robot's own branch
    observation: Observation
    instruction: str
    response: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ActionTurn:
    """One robot's arguments of ActionPart.action_chunk()."""

    part: ActionPart  # the robot's own branch
    images: Images
    state: np.ndarray
    latent: np.ndarray
    seed: int | None = None
    before: CommittedActions | None = None
    max_guidance: float | None = None


class ReasoningPart(PolicyPart, ABC):
    """The vision-language model of a policy, or the whole of a policy of one part."""

    chats = False  # whether chat() gives answers
    # Learned tokens behind the chunk that act() gave last, float32 [T, D]; None where it has none.
    learned_tokens: np.ndarray | None = None

    @classmethod
    def from_pretrained(
        cls: type[Reasoning],
        path: str | Path,
        device: str = "cpu",
        adapter: str | Path = "",
        dtype: str = "auto",
        compile: str = "none",
    ) -> Reasoning:
        """The first part of a checkpoint folder, with an adapter's folder unless that is "".

        dtype: see vla.policies.inference_dtype. compile: see vla.policies.compiled; warm_up() then
        does it. Raises CheckpointError, one sentence.
        """
        part = reasoning_part(open_checkpoint(path), device, adapter, dtype, compile)
        return _required(part, cls)

    @abstractmethod
    def act(
        self,
        observation: Observation,
        instruction: str,
        response: str | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """The action: a latent action float32 [Q, D], or a chunk float32 [H, A].

        A chunk is in the contract's units. response: the result of think(), None to act without.
        seed: of random draws, if any; None continues with the generator.
        """

    def act_together(self, turns: Sequence[ReasoningTurn]) -> list[np.ndarray]:
        """What act() gives each turn, in one pass where the policy can; one by one otherwise.

        The turns are of this part and its branches, each at most once.
        """
        return [
            turn.part.act(turn.observation, turn.instruction, turn.response, turn.seed)
            for turn in turns
        ]

    def ask(self, images: Images, question: str) -> str:
        """The answer to a question about the scene. Raises NotImplementedError without text."""
        raise NotImplementedError(f"a policy of type {type(self).__name__} gives no text")

    def chat(
        self, images: Sequence[np.ndarray], turns: Sequence[tuple[str, str]], limit: int
    ) -> ChatAnswer:
        """The greedy answer to the last question of a conversation.

        images: uint8 [H, W, 3] of any sizes, in the first question. turns: questions and answers,
        the last answer empty. limit: of the answer's tokens. Raises NotImplementedError.
        """
        raise NotImplementedError(f"a policy of type {type(self).__name__} does not chat")

    def think(self, images: Images, instruction: str) -> str:
        """What the robot says it will do. Raises NotImplementedError without text."""
        raise NotImplementedError(f"a policy of type {type(self).__name__} gives no text")

    def think_and_act(self, observation: Observation, instruction: str) -> tuple[str, np.ndarray]:
        """The text, and the action on it; faster where a part can reuse a cache."""
        text = self.think(observation.images, instruction)
        return text, self.act(observation, instruction, text)

    def head_input(self) -> np.ndarray | None:
        """What entered the action head for the chunk that act() gave last, float32 [T, D].

        Of a policy of one part; None where it doesn't show it.
        """
        return self.learned_tokens

    def observe(self, observation: Observation, instruction: str) -> None:
        """Takes an observation without acting, where the history would miss it."""

    def is_due(self, stamp: float) -> bool:
        """Whether observe() would read an observation of that time [s]."""
        return True

    def reset(self) -> None:
        """A new episode, or another instruction: forgets the history."""


class ActionPart(PolicyPart, ABC):
    """The action head of a policy of two parts."""

    # Whether another runtime is to compute chunks that continue another one, too. Their gradients
    # make an export that takes seconds to load.
    exports_guided = True

    @classmethod
    def from_pretrained(
        cls: type[Action],
        path: str | Path,
        device: str = "cpu",
        adapter: str | Path = "",
        dtype: str = "auto",
        compile: str = "none",
    ) -> Action:
        """The second part of a checkpoint folder; see ReasoningPart.from_pretrained."""
        return _required(open_action_part(path, device, adapter, dtype, compile), cls)

    @abstractmethod
    def action_chunk(
        self,
        images: Images,
        state: np.ndarray,
        latent: np.ndarray,
        seed: int | None = None,
        before: CommittedActions | None = None,
        max_guidance: float | None = None,
    ) -> np.ndarray:
        """Actions float32 [H, A] in the contract's units, from state [S] and latent action [Q, D].

        seed: of random draws; None continues with the generator. before: what the arm will do
        meanwhile, which the chunk continues (arXiv 2506.07339); max_guidance bounds the guidance,
        None for the part's own bound. Raises ValueError on other shapes.
        """

    def chunks_together(self, turns: Sequence[ActionTurn]) -> list[np.ndarray]:
        """What action_chunk() gives each turn, as ReasoningPart.act_together() does."""
        return [
            turn.part.action_chunk(
                turn.images, turn.state, turn.latent, turn.seed, turn.before, turn.max_guidance
            )
            for turn in turns
        ]


class NoActionPart(PolicyPart):
    """The second part of a policy of one part: no weights, and nothing to do.

    It takes adapters as the first part does, so that both nodes report the same checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint, torch.nn.Module())

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Notes the adapter. Raises CheckpointError where it is not for this checkpoint."""
        if adapter is not None:
            require_base(adapter, self._base)
        self.adapter = adapter
        self.checkpoint_id = adapted_id(self._base, adapter)


def open_action_part(
    path: str | Path,
    device: str = "cpu",
    adapter: str | Path = "",
    dtype: str = "auto",
    compile: str = "none",
) -> ActionPart | NoActionPart:
    """The part of a checkpoint folder for the node `action_expert`. Raises CheckpointError."""
    return action_part(open_checkpoint(path), device, adapter, dtype, compile)


def action_part(
    checkpoint: Checkpoint, device: str, adapter: str | Path, dtype: str, compile: str
) -> ActionPart | NoActionPart:
    """The second part of a checkpoint that is open; see ReasoningPart.from_pretrained."""
    if checkpoint.features.latent_shape is None:
        _where(device, dtype, compile)
        return _adapted(NoActionPart(checkpoint), adapter)
    part = checkpoint.type.open_action(checkpoint, *_where(device, dtype, compile))
    part.compile(compile)
    return _adapted(part, adapter)


def reasoning_part(
    checkpoint: Checkpoint, device: str, adapter: str | Path, dtype: str, compile: str
) -> ReasoningPart:
    """The first part of a checkpoint that is open; see ReasoningPart.from_pretrained."""
    part = checkpoint.type.open_reasoning(checkpoint, *_where(device, dtype, compile))
    part.compile(compile)
    return _adapted(part, adapter)


def _where(device: str, dtype: str, compile: str) -> tuple[str, torch.dtype]:
    """The device and the type of the weights, of settings that go together."""
    device = usable_device(device)
    require_mode(compile, device)
    return device, inference_dtype(dtype, device)


def _adapted(part: Part, adapter: str | Path) -> Part:
    """The part with an adapter folder in its weights, unless that is ""."""
    if str(adapter):
        part.set_adapter(open_adapter(adapter))
    return part


def _required(part: PolicyPart, kind: type[Part]) -> Part:
    if not isinstance(part, kind):
        raise CheckpointError(f"{part._base.folder} is of type {part._base.type.name}")
    return part


def usable_device(name: str) -> str:
    """The name of a device that torch can compute on. Raises CheckpointError for another."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(f"device '{name}' asked for, but no CUDA device is there; use 'cpu'")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(f"device {brief(name)} is not there; use 'cpu' or 'cuda'") from error
    return name
