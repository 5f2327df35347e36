"""The parts of a policy that a server holds, used as if they were here. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.contract.embodiment import contract_from_dict
from vla.control.committed import CommittedActions
from vla.core.shown import brief, listed
from vla.policies.base import Images, Observation, PolicyFeatures
from vla.policies.history import History
from vla.serving.link import LinkError, ServerLink
from vla.serving.requests import ACT, ASK, CHUNK, OBSERVE, encode_jpeg

RAW, JPEG = "raw", "jpeg"
TRANSPORTS = (RAW, JPEG)  # of images to the server


@dataclass(frozen=True)
class RemoteAdapter:
    """An adapter that the server holds."""

    name: str
    adapter_id: str


class RemotePart:
    """What both parts have in common."""

    def __init__(self, link: ServerLink, transport: str = RAW):
        """transport: of images, "raw" or "jpeg". Raises LinkError without a server of ours."""
        self._link, self._transport = link, transport
        self._told = link.metadata()
        try:
            self.contract = contract_from_dict(
                self._told["contract"], f"contract of {link.address}"
            )
            features: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in self._told["features"].items()
            }
            self.features = PolicyFeatures(**features)
            self._base_id, self._adapters = self._told["checkpoint_id"], self._told["adapters"]
        except (KeyError, TypeError, AttributeError) as error:
            raise LinkError(
                f"the server {link.address} does not say what it serves ({error}): is it of "
                "another version?"
            ) from None
        self.adapter: RemoteAdapter | None = None
        self._starts_over = True

    @property
    def checkpoint_id(self) -> str:
        """Of the server's weights, the adapter's included."""
        return self._base_id + (f"+{self.adapter.adapter_id}" if self.adapter else "")

    def open_adapter(self, name: str) -> RemoteAdapter:
        """The adapter that the server has by that name. Raises LinkError."""
        if name not in self._adapters:
            known = listed(self._adapters) or "none"
            raise LinkError(
                f"the server {self._link.address} has no adapter {brief(name)}; it has: {known}; "
                "an adapter of a served policy is given by its name"
            )
        return RemoteAdapter(name, self._adapters[name])

    def set_adapter(self, adapter: RemoteAdapter | None) -> None:
        """Asks for it from now on, None for the checkpoint as it is."""
        self.adapter, self._starts_over = adapter, True

    def warm_up(self) -> Iterator[str]:
        """Nothing: the server is warm before it answers."""
        yield from ()

    def close(self) -> None:
        """Ends the connection."""
        self._link.close()

    def _ask(self, kind: str, images: Images, state: np.ndarray, **more: Any) -> dict[str, Any]:
        """The server's answer. Raises LinkError."""
        sent = {name: images[name] for name in self.features.cameras if name in images}
        request = {
            "do": kind,
            "images": {name: encode_jpeg(image) for name, image in sent.items()}
            if self._transport == JPEG
            else sent,
            "state": np.asarray(state, np.float64),
            "reset": self._starts_over,
            "adapter": self.adapter.name if self.adapter else "",
        }
        answer = self._link.ask(
            request | {name: value for name, value in more.items() if value is not None}
        )
        self._starts_over = False
        if answer.get("checkpoint_id") != self.checkpoint_id:
            raise LinkError(
                f"the server {self._link.address} has another checkpoint now "
                f"({brief(answer.get('checkpoint_id'))} instead of {self.checkpoint_id}): "
                "configure the node again"
            )
        return answer

    def _array(self, answer: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = answer.get(name)
        if not isinstance(value, np.ndarray) or value.shape != shape:
            given = value.shape if isinstance(value, np.ndarray) else brief(value)
            raise LinkError(
                f"the server {self._link.address} answers {name} {given} instead of {shape}"
            )
        return value


class RemoteReasoning(RemotePart):
    """As vla.policies.parts.ReasoningPart."""

    learned_tokens: np.ndarray | None = None

    def __init__(self, link: ServerLink, transport: str = RAW):
        super().__init__(link, transport)
        # Of stamps alone, to know which observations the server's history would miss.
        self._stamps: History[None] = History(self.features.window, self.features.history_step)

    def act(
        self,
        observation: Observation,
        instruction: str,
        response: str | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """The latent action [Q, D], or the chunk [H, A]. Raises LinkError."""
        return self._acted(self._act(observation, instruction, text=response, seed=seed))

    def think_and_act(self, observation: Observation, instruction: str) -> tuple[str, np.ndarray]:
        """The text, and the action on it. Raises LinkError."""
        answer = self._act(observation, instruction, think=True)
        return str(answer.get("text")), self._acted(answer)

    def ask(self, images: Images, question: str) -> str:
        """The answer to a question about the scene. Raises LinkError."""
        state = np.zeros(len(self.contract.state_names))
        return str(self._ask(ASK, images, state, prompt=question).get("text"))

    def observe(self, observation: Observation, instruction: str) -> None:
        """Has the server see an observation that its history would miss. Raises LinkError."""
        if self.is_due(observation.stamp):
            self._act(observation, instruction, OBSERVE)

    def is_due(self, stamp: float) -> bool:
        """Whether observe() would send an observation of that time [s]."""
        return self.features.window > 1 and self._stamps.is_due(stamp)

    def reset(self) -> None:
        """The server forgets the history before the next request."""
        self._starts_over = True
        self._stamps.reset()

    def _act(
        self, observation: Observation, instruction: str, kind: str = ACT, **more: Any
    ) -> dict[str, Any]:
        answer = self._ask(
            kind,
            observation.images,
            observation.state,
            prompt=instruction,
            stamp=observation.stamp,
            **more,
        )
        self._stamps.add(observation.stamp, None)
        return answer

    def _acted(self, answer: dict[str, Any]) -> np.ndarray:
        shape = self.features.latent_shape or self._chunk_shape
        if self.features.token_shape is not None:
            self.learned_tokens = self._array(answer, "tokens", self.features.token_shape)
        return self._array(answer, "action", shape)

    @property
    def _chunk_shape(self) -> tuple[int, int]:
        return self.features.horizon, len(self.contract.action_names)


class RemoteAction(RemotePart):
    """As vla.policies.parts.ActionPart; of a policy of one part, it has nothing to do."""

    runtime, runtime_problem, exports_guided = "server", "", True

    def use_runtime(self, runtime: str) -> None:
        """Changes nothing: what computes chunks is the server's to choose."""

    def action_chunk(
        self,
        images: Images,
        state: np.ndarray,
        latent: np.ndarray,
        seed: int | None = None,
        before: CommittedActions | None = None,
        max_guidance: float | None = None,
    ) -> np.ndarray:
        """Actions float32 [H, A] in the contract's units. Raises LinkError."""
        answer = self._ask(
            CHUNK,
            images,
            state,
            latent=latent,
            seed=seed,
            before=None if before is None else before.actions,
            committed=None if before is None else before.committed,
            max_guidance=max_guidance,
        )
        return self._array(
            answer, "actions", (self.features.horizon, len(self.contract.action_names))
        )
