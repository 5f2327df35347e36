"""A policy in memory once, and what each robot has of it.

Robots share the weights. A robot's session has branches of the parts, which keep its history and
its random draws, and what it said and decided last. Adapters lie ready in memory; robots with the
same one share batches.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.shown import brief, listed
from vla.policies.adapters import Adapter, open_adapter, put_matrices
from vla.policies.base import Observation
from vla.policies.camera_images import blank_images
from vla.policies.checkpoint import open_checkpoint
from vla.policies.config import CheckpointError
from vla.policies.inference_dtype import inference_dtype
from vla.policies.parts import ActionPart, ActionTurn, ReasoningPart, ReasoningTurn, usable_device
from vla.serving.requests import ACT, ASK, CHUNK, INFER, Request, RequestError
from vla.serving.scheduling import SIZES

Answer = dict[str, Any]  # what is sent to a robot
BATCHED = (INFER, ACT, CHUNK)


class RobotSession:
    """What one robot has of the policy, from its connection to its end."""

    def __init__(self, policy: ServedPolicy):
        self._policy = policy
        self._start("")

    def _start(self, adapter: str) -> None:
        policy, loaded = self._policy, self._policy.adapters[adapter]
        self.adapter, self._followed = adapter, ""
        self.reasoning = policy.reasoning.branch(loaded)
        self.action = None if policy.action is None else policy.action.branch(loaded)
        self.said: str | None = None  # what it thought, for this instruction

    def prepare(self, request: Request) -> None:
        """Another adapter or episode begins, if the request says so. Raises RequestError."""
        if request.adapter not in self._policy.adapters:
            known = listed(name for name in self._policy.adapters if name) or "none"
            raise RequestError(f"there is no adapter {brief(request.adapter)}; there is: {known}")
        if request.adapter != self.adapter:
            self._start(request.adapter)
        if request.reset:
            self.reasoning.reset()
        if request.reset or request.prompt != self._followed:
            self.said = None
        if request.kind != ASK:
            self._followed = request.prompt


class ServedPolicy:
    """Both parts of a checkpoint, and its adapters by name; "" is the checkpoint as it is."""

    def __init__(
        self,
        reasoning: ReasoningPart,
        action: ActionPart | None,
        adapters: Mapping[str, Adapter] | None = None,
    ):
        """action: None for a policy of one part. Raises CheckpointError for an adapter of another.

        The parts must be without an adapter.
        """
        self.reasoning, self.action = reasoning, action
        self.contract, self.features = reasoning.contract, reasoning.features
        self.adapters: dict[str, Adapter | None] = {"": None, **(adapters or {})}
        names, loaded = list(self.adapters), list(self.adapters.values())
        parts = [reasoning] if action is None else [reasoning, action]
        ready = [part.matrices(loaded) for part in parts]
        self._matrices = dict(zip(names, zip(*ready, strict=True), strict=True))
        self._in_force = ""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "auto",
        adapters: Mapping[str, str | Path] | None = None,
    ) -> ServedPolicy:
        """Loads a checkpoint folder, and folders of adapters by name. Raises CheckpointError."""
        checkpoint, device = open_checkpoint(path), usable_device(device)
        where = device, inference_dtype(dtype, device)
        reasoning = checkpoint.type.open_reasoning(checkpoint, *where)
        action = None
        if checkpoint.features.latent_shape is not None:
            action = checkpoint.type.open_action(checkpoint, *where)
        opened = {name: open_adapter(folder) for name, folder in (adapters or {}).items()}
        if any(not name or len(name) > 100 for name in opened):
            raise CheckpointError("an adapter needs a name of 1 to 100 characters: NAME=FOLDER")
        return cls(reasoning, action, opened)

    def metadata(self) -> Answer:
        """What a robot is told when it connects."""
        return {
            "server": "vla_ros",
            "checkpoint_id": self.reasoning.checkpoint_id,
            "contract": self.contract.to_dict(),
            "features": asdict(self.features),
            "adapters": {name: own.adapter_id for name, own in self.adapters.items() if own},
        }

    def warm_up(self) -> None:
        """Runs every size of batch on nothing, so that the first robot is not late."""
        images = blank_images(self.features.cameras, self.contract)
        request = Request(INFER, images, np.zeros(len(self.contract.state_names)), "wait", 0.0)
        for size in SIZES:
            self.run([RobotSession(self) for _ in range(size)], [request] * size)

    def run(self, sessions: Sequence[RobotSession], requests: Sequence[Request]) -> list[Answer]:
        """The answers to requests of one group(), which prepare() has seen."""
        adapter = requests[0].adapter
        if adapter != self._in_force:
            for matrices in self._matrices[adapter]:
                put_matrices(matrices)
            self._in_force = adapter
        kind = requests[0].kind
        if kind == CHUNK:
            latents = [request.latent for request in requests]
            return _as_actions(self._chunks(sessions, requests, latents))
        if kind == INFER:
            return self._infer(sessions, requests)
        if kind == ACT:
            return self._act(sessions, requests)
        (session,), (request,) = sessions, requests
        if kind == ASK:
            return [{"text": session.reasoning.ask(request.images, request.prompt)}]
        session.reasoning.observe(_observation(request), request.prompt)
        return [{}]

    def _infer(self, sessions: Sequence[RobotSession], requests: Sequence[Request]) -> list[Answer]:
        for session, request in zip(sessions, requests, strict=True):
            if not request.think:
                session.said = None
            elif session.said is None:
                session.said = session.reasoning.think(request.images, request.prompt)
        said = [
            replace(request, think=False, text=session.said)
            for session, request in zip(sessions, requests, strict=True)
        ]
        acted = [answer["action"] for answer in self._act(sessions, said)]
        if self.action is not None:
            acted = self._chunks(sessions, requests, acted)
        answers = _as_actions(acted)
        for answer, session in zip(answers, sessions, strict=True):
            if session.said is not None:
                answer["text"] = session.said
                answer["refused"] = self.features.refuses(session.said)
        return answers

    def _act(self, sessions: Sequence[RobotSession], requests: Sequence[Request]) -> list[Answer]:
        if requests[0].think:
            (session,), (request,) = sessions, requests
            text, action = session.reasoning.think_and_act(_observation(request), request.prompt)
            return [_acted(session, action) | {"text": text}]
        actions = self.reasoning.act_together(
            [
                ReasoningTurn(
                    session.reasoning,
                    _observation(request),
                    request.prompt,
                    request.text,
                    request.seed,
                )
                for session, request in zip(sessions, requests, strict=True)
            ]
        )
        return [_acted(*pair) for pair in zip(sessions, actions, strict=True)]

    def _chunks(
        self, sessions: Sequence[RobotSession], requests: Sequence[Request], latents: Sequence
    ) -> list[np.ndarray]:
        assert self.action is not None
        return self.action.chunks_together(
            [
                ActionTurn(
                    session.action,
                    request.images,
                    request.state,
                    latent,
                    request.seed,
                    request.before,
                    request.max_guidance,
                )
                for session, request, latent in zip(sessions, requests, latents, strict=True)
                if session.action is not None
            ]
        )


def group(request: Request, number: int) -> Hashable:
    """Equal for requests that can run together. number: of the request, unlike all others'."""
    generates = request.kind == ACT and request.think
    alone = None if request.kind in BATCHED and not generates and request.before is None else number
    return request.kind, request.adapter, alone


def _observation(request: Request) -> Observation:
    return Observation(request.images, request.state, request.stamp)


def _acted(session: RobotSession, action: np.ndarray) -> Answer:
    """A latent action, or a chunk, with the learned tokens behind it where there are some."""
    tokens = session.reasoning.learned_tokens
    return {"action": action} if tokens is None else {"action": action, "tokens": tokens}


def _as_actions(chunks: Sequence[np.ndarray]) -> list[Answer]:
    return [{"actions": chunk} for chunk in chunks]
