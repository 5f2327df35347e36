"""A RoboVLM in a running robot: chunks from the newest observation and the history before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vla.policies.adapters import Adapter
from vla.policies.base import Images, Observation
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.history import History
from vla.policies.parts import ReasoningPart, stack_if_any, stack_images, stats_of
from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.config import why_images
from vla.policies.robovlms.mixture import MixtureHead
from vla.policies.robovlms.padding import action_layout, padded_state
from vla.policies.robovlms.sequence import (
    FrameTokens,
    Rows,
    pad,
    prompt_ids,
    rows_of_frames,
)
from vla.policies.sequence import MAX_ANSWER_TOKENS, PromptRow, end_id, on_device, tidy
from vla.policies.sequence import prompt_ids as text_prompt_ids


class RoboVLMPart(ReasoningPart):
    """The whole policy. Each frame is encoded once; the history holds what became of it.

    policy_head keeps the learned tokens of a frame, [latent * D]; interleaved keeps its image
    tokens and state, and the language model runs over the window, whose earlier frames would
    otherwise have seen frames that have left it.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.device, self.dtype, self.config = device, dtype, checkpoint.config
        self._stats = stats_of(checkpoint)
        self._tokenizer = TextTokenizer(checkpoint.tokenizer)
        model = build_part(checkpoint, lambda: build_model(checkpoint.config, checkpoint.contract))
        load_weights(checkpoint, model, device=device, dtype=dtype)
        super().__init__(checkpoint, model.to(device).eval())
        self.model, self._generator = model, torch.Generator()
        self._layout = action_layout(self.config, self._stats["action"].kinds)
        self._used = torch.from_numpy(self._layout.used)[None].to(device)  # [1, M]
        structure = self.config.structure
        self._history: History = History(structure.window, structure.history_step)
        self._followed: tuple[str, bool] | None = None  # instruction, and whether there are images
        self._prompt: list[int] = []  # of these

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
    def ask(self, images: Images, question: str) -> str:
        """The answer to a question about the scene, of a model that conversations taught.

        It sees the reference camera's image, as in training. Raises NotImplementedError otherwise.
        """
        if not self.features.answers:
            return super().ask(images, question)
        backbone = replace(self.config.backbone, image_tokens=self.config.image_tokens)
        row = PromptRow(((question, ""),), images=1)
        ids, asked = text_prompt_ids(self._tokenizer, backbone, row, 0)
        cameras = self.config.cameras
        reference = self.contract.reference_camera
        camera = reference if reference in cameras else cameras[0]
        seen = stack_images(images, (camera,), self.contract, self.device).flatten(0, 1)
        rows = pad(
            [[FrameTokens(ids, [index < asked for index in range(len(ids))], [True] * len(ids))]]
        )
        answer = self.model.generate_text(
            self._on_device(rows),
            self.model.encode_images(seen),
            end_id(self._tokenizer, backbone.chat),
            MAX_ANSWER_TOKENS,
        )
        text = self._tokenizer.decode(answer)
        return tidy(text) if backbone.chat.plain_words else text.strip()

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
            rows = rows_of_frames([self._prompt], [1], self.config)
            actions = self.model.generate_actions(self._on_device(rows), *window[-1])
        elif isinstance(self.model.head, MixtureHead):
            rows = rows_of_frames([self._prompt], [1], self.config)
            prefix = self.model.read(self._on_device(rows), *window[-1])
            actions = self.model.head.sample(prefix, self._generator, self._used)
        else:
            features = self._features(window)  # [1, n, G]
            if self.features.token_shape is not None:
                tokens, width = self.features.token_shape
                newest = features[0, -1, : tokens * width].float().cpu()
                self.learned_tokens = newest.reshape(tokens, width).numpy()
            # Places that it points to are in float32.
            hidden = self.model.head.trunk(features.to(self.dtype))[:, -1]
            actions = self.model.head.output.sample(hidden, self._generator, self._used)
        chunk = actions[0].float().cpu().numpy()
        own = chunk if self.config.discrete else self._layout.gather(chunk)
        return self._stats["action"].denormalize(own).astype(np.float32)

    def _see(self, observation: Observation, instruction: str) -> list:
        """Reads an observation, and returns what is kept of its window, oldest first."""
        self._follow(instruction, bool(observation.images))
        images = stack_if_any(observation.images, self.config.cameras, self.contract, self.device)
        normalized = padded_state(self.config, self.normalized_state(observation.state))
        kept = (
            self.model.encode_images(images.flatten(0, 1)),
            torch.from_numpy(normalized).to(self.device, self.dtype),
        )
        if self.config.structure.kind == "policy_head":
            rows = rows_of_frames([self._prompt], [1], self.config)
            return self._history.add(
                observation.stamp, self.model.frame_features(self._on_device(rows), *kept)
            )
        return self._history.add(observation.stamp, kept)

    def _features(self, window: list) -> torch.Tensor:
        """Features [1, n, G] of what is kept of a window."""
        if self.config.structure.kind == "policy_head":
            return torch.stack(window, dim=1)
        rows = rows_of_frames([self._prompt], [len(window)], self.config)
        images, states = (torch.cat(parts) for parts in zip(*window, strict=True))
        return self.model.frame_features(self._on_device(rows), images, states)[None]

    def _follow(self, instruction: str, sees: bool) -> None:
        """Another instruction than before begins without a history, as does the end of vision.

        Raises ValueError where the policy can't do without images.
        """
        if (instruction, sees) == self._followed:
            return
        if not sees and (why := why_images(self.config)):
            raise ValueError(f"an observation without images: {why}")
        self.reset()
        self._prompt = prompt_ids(self._tokenizer, self.config, instruction, sees)
        self._followed = instruction, sees

    def _on_device(self, rows: Rows) -> Rows:
        return on_device(rows, self.device)
