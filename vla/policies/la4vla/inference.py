"""An LA4VLA in a running robot: chunks from one observation, with images or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from vla.policies.base import Observation
from vla.policies.camera_images import blank_images, stack_images
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.la4vla.build import build_model
from vla.policies.la4vla.model import LA4VLAInput
from vla.policies.la4vla.sequence import pad_right, prompt_ids
from vla.policies.la4vla.static_pass import StaticLA4VLA
from vla.policies.la4vla.vectors import bounded_stats, padded, used
from vla.policies.parts import ReasoningPart, stats_of
from vla.policies.plain_text import TextTokenizer


class LA4VLAPart(ReasoningPart):
    """The whole policy. An observation whose images are {} is acted on without vision."""

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.device, self.config = device, checkpoint.config
        self._stats = bounded_stats(self.config, stats_of(checkpoint))
        self._tokenizer = TextTokenizer(checkpoint.tokenizer)
        model = build_part(checkpoint, lambda: build_model(checkpoint.config, checkpoint.contract))
        load_weights(checkpoint, model, device=device, dtype=dtype)
        super().__init__(replace(checkpoint, stats=self._stats), model.to(device).eval())
        self.model = model
        self._static: StaticLA4VLA | None = None
        self.start_memory()

    def compile(self, mode: str) -> None:
        """Compiles chunks of scenes with images; others are computed by the plain passes."""
        if mode == "none":
            return
        seen = blank_images(self.config.cameras, self.contract)
        state = np.zeros(len(self.contract.state_names))
        shortest = self._input(Observation(seen, state), "")
        self._static = StaticLA4VLA(
            self.model, mode, shortest.ids[0].tolist(), shortest.images.shape
        )

    def warm_up(self) -> Iterator[str]:
        """Compiles prompts of all lengths."""
        if self._static is not None:
            yield from self._static.warm_up()

    def start_memory(self) -> None:
        """Makes the random draws and what was read last its own."""
        self._generator = torch.Generator()
        self._hidden: torch.Tensor | None = None

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
        count = len(self.contract.action_names)
        own = torch.from_numpy(used(count, self.config.max_action))[None].to(self.device)
        given = self._input(observation, instruction)
        noise = self.model.head.draw(1, self._generator).to(self.device)
        if self._static is not None and self._static.takes(given):
            actions, hidden = self._static(given, noise, own)
        else:
            hidden = self.model.encode(given)  # [1, T, C]
            actions = self.model.head.from_noise(self.model.read(given, hidden), noise, own)
        self._hidden = hidden[0]  # copied only for who asks, not in every chunk
        chunk = actions[0, :, :count].float().cpu().numpy()
        return self._stats["action"].denormalize(chunk).astype(np.float32)

    def head_input(self) -> np.ndarray | None:
        """Hidden states of the backbone at the words and images that were read last."""
        return None if self._hidden is None else self._hidden.float().cpu().numpy()

    def _input(self, observation: Observation, instruction: str) -> LA4VLAInput:
        config, images = self.config, observation.images
        size = config.backbone.image_size
        seen = torch.zeros(0, 3, size, size, dtype=torch.uint8)
        if images:
            seen = stack_images(images, config.cameras, self.contract, self.device).flatten(0, 1)
        prompt = prompt_ids(self._tokenizer, config, instruction, bool(images))
        state = self.normalized_state(observation.state)  # [1, S]
        return LA4VLAInput(
            seen,
            *pad_right([prompt]),
            torch.from_numpy(padded(state, config.max_state)),
            torch.from_numpy(used(state.shape[-1], config.max_state))[None],
        ).to(self.device)
