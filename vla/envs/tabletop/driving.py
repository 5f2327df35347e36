"""A checkpoint as what drives the simulated arm: chunks from what its cameras see."""

from __future__ import annotations

import numpy as np

from vla.envs.tabletop.demonstrations import observation_of
from vla.envs.tabletop.rollout import ChunkPolicy
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task
from vla.policies.instructvla.inference import ActionModel, Reasoner


def learned_policy(
    reasoner: Reasoner,
    action_model: ActionModel,
    response: str | None,
    latent_every: int,
    seed: int,
) -> ChunkPolicy:
    """A checkpoint's two halves as one chunk policy for one episode."""
    state: dict = {"calls": 0, "latent": None}

    def policy(simulator: TableTopSimulator, task: Task) -> np.ndarray:
        images, proprioception = observation_of(simulator, action_model.contract)
        if state["calls"] % latent_every == 0:
            state["latent"] = reasoner.latent_action(images, task.instruction, response)
        first = seed if state["calls"] == 0 else None
        state["calls"] += 1
        return action_model.action_chunk(images, proprioception, state["latent"], first)

    return policy
