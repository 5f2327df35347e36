"""A RoboVLM in a running robot: chunks from the newest observation and the history before it."""

from __future__ import annotations

import numpy as np
import torch

from vla.policies.adapters import Adapter
from vla.policies.base import Observation
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.config import CheckpointError
from vla.policies.history import History
from vla.policies.parts import ReasoningPart, stack_images
from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.mixture import MixtureHead
from vla.policies.robovlms.sequence import Rows, on_device, prompt_ids, rows_of_frames


class RoboVLMPart(ReasoningPart):
    """The whole policy. Each frame is encoded once; the history holds what became of it.

    policy_head keeps the learned tokens of a frame, [latent * D]; interleaved keeps its image
    tokens and state, and the language model runs over the window, whose earlier frames would
    otherwise have seen frames that have left it.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu"):
        self.device, self.config, self._stats = device, checkpoint.config, checkpoint.stats
        if not self._stats:
            raise CheckpointError(
                f"{checkpoint.folder} has no norm_stats.json: it has not learned to act; train "
                "stage 'policy' from it, or give another checkpoint"
            )
        self._tokenizer = TextTokenizer(checkpoint.tokenizer)
        model = build_part(checkpoint, lambda: build_model(checkpoint.config, checkpoint.contract))
        load_weights(checkpoint, model, device=device)
        super().__init__(checkpoint, model.to(device).eval())
        self.model, self._generator = model, torch.Generator()
        structure = self.config.structure
        self._history: History = History(structure.window, structure.history_step)
        self._prompt: tuple[str, list[int]] = "", []

    def reset(self) -> None:
        """Forgets the frames so far."""
        self._history.reset()

    def set_adapter(self, adapter: Adapter | None) -> None:
        """As for every part; frames that other weights have read are forgotten."""
        super().set_adapter(adapter)
        self.reset()

    @torch.no_grad()
    def observe(self, observation: Observation, instruction: str) -> None:
        """Reads a frame that a slot of later windows would miss."""
        if self.is_due(observation.stamp):
            self._see(observation, instruction)

    def is_due(self, stamp: float) -> bool:
        """As the history says."""
        return self.config.structure.window > 1 and self._history.is_due(stamp)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        instruction: str,
        response: str | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """The chunk float32 [H, A], in the contract's units. Raises ValueError on other shapes."""
        if seed is not None:
            self._generator.manual_seed(seed)
        window = self._see(observation, instruction)
        if self.config.discrete:
            rows = rows_of_frames([self._prompt_ids(instruction)], [1], self.config)
            actions = self.model.generate_actions(self._on_device(rows), *window[-1])
        elif isinstance(self.model.head, MixtureHead):
            rows = rows_of_frames([self._prompt_ids(instruction)], [1], self.config)
            prefix = self.model.read(self._on_device(rows), *window[-1])
            actions = self.model.head.sample(prefix, self._generator)
        else:
            features = self._features(window, instruction)  # [1, n, G]
            hidden = self.model.head.trunk(features)[:, -1]
            actions = self.model.head.output.sample(hidden, self._generator)
        return (
            self._stats["action"].denormalize(actions[0].float().cpu().numpy()).astype(np.float32)
        )

    def _see(self, observation: Observation, instruction: str) -> list:
        """Reads an observation, and returns what is kept of its window, oldest first."""
        if self._prompt[0] != instruction:
            self.reset()
        images = stack_images([observation.images], self.config.cameras, self.contract, self.device)
        state = np.asarray(observation.state, dtype=np.float64)[None]
        wanted = (1, len(self.contract.state_names))
        if state.shape != wanted or not np.isfinite(state).all():
            raise ValueError(f"expected {wanted[1]} finite state values, got {state.tolist()}")
        limit = self.adapter.config.state_limit if self.adapter is not None else 1.0
        normalized = self._stats["state"].normalize(state, limit).astype(np.float32)
        kept = (
            self.model.encode_images(images.flatten(0, 1)),
            torch.from_numpy(normalized).to(self.device),
        )
        if self.config.structure.kind == "policy_head":
            rows = rows_of_frames([self._prompt_ids(instruction)], [1], self.config)
            return self._history.add(
                observation.stamp, self.model.frame_features(self._on_device(rows), *kept)
            )
        self._prompt_ids(instruction)
        return self._history.add(observation.stamp, kept)

    def _features(self, window: list, instruction: str) -> torch.Tensor:
        """Features [1, n, G] of what is kept of a window."""
        if self.config.structure.kind == "policy_head":
            return torch.stack(window, dim=1)
        rows = rows_of_frames([self._prompt_ids(instruction)], [len(window)], self.config)
        images, states = (torch.cat(parts) for parts in zip(*window, strict=True))
        return self.model.frame_features(self._on_device(rows), images, states)[None]

    def _prompt_ids(self, instruction: str) -> list[int]:
        if self._prompt[0] != instruction or not self._prompt[1]:
            self._prompt = instruction, prompt_ids(self._tokenizer, self.config, instruction)
        return self._prompt[1]

    def _on_device(self, rows: Rows) -> Rows:
        return on_device(rows, self.device)
