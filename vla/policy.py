"""The two halves of a checkpoint as plain functions on NumPy arrays.

The reasoning node, the action expert node, evaluation and the command line all go through here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.checkpoint import Checkpoint, load_weights, open_checkpoint
from vla.models.action_expert import ActionExpert
from vla.models.config import CheckpointError
from vla.models.sequence import action_prompt, answer_ids, prompt_ids
from vla.models.tokenizer import END
from vla.models.vision_language_action import ReasoningModel, sample_actions

MAX_ANSWER_TOKENS = 60

Images = dict[str, np.ndarray]


def _device(name: str) -> str:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(f"device '{name}' asked for, but no CUDA device is there; use 'cpu'")
    return name


def _stack(images: Images, cameras: tuple[str, ...], size: int, device: str) -> torch.Tensor:
    """uint8 [1, C, 3, S, S]; raises ValueError for a missing camera or another size."""
    views = []
    for name in cameras:
        if name not in images:
            raise ValueError(f"no image of camera '{name}'; got: {', '.join(sorted(images))}")
        if images[name].shape != (size, size, 3):
            raise ValueError(
                f"camera '{name}': expected [{size}, {size}, 3], got {images[name].shape}"
            )
        # A copy: images of a message or a dataset may be read-only, which torch warns about.
        views.append(torch.from_numpy(np.array(images[name])).permute(2, 0, 1))
    return torch.stack(views)[None].to(device)


class Reasoner:
    """The vision-language half: answers in text and gives latent actions."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu"):
        self.device = _device(device)
        self.checkpoint_id, self.contract = checkpoint.checkpoint_id, checkpoint.contract
        self._config, self._tokenizer = checkpoint.config, checkpoint.tokenizer
        self.num_queries = checkpoint.config.num_queries
        self.hidden_size = checkpoint.config.backbone.text_width
        self._model = ReasoningModel(checkpoint.config).eval()
        load_weights(checkpoint, self._model, "reasoning.", device)
        self._model.to(self.device)
        self._stop = {self._tokenizer.token_to_id(END)}

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu") -> Reasoner:
        """Loads a checkpoint folder. Raises CheckpointError, one sentence."""
        return cls(open_checkpoint(path), device)

    def _ids(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids], device=self.device)

    def _images(self, images: Images) -> torch.Tensor:
        return _stack(
            images, self._config.vlm_cameras, self._config.backbone.image_size, self.device
        )

    def _answer(self, images: Images, question: str) -> str:
        ids = self._ids(prompt_ids(self._tokenizer, question))
        cache, hidden = self._model.read(self._images(images), ids)
        tokens = self._model.generate(cache, hidden, self._stop, MAX_ANSWER_TOKENS)
        return _tidy(self._tokenizer.decode(tokens))

    def think(self, images: Images, instruction: str) -> str:
        """What the robot says that it will do. images: uint8 [S, S, 3] by camera name."""
        return self._answer(images, action_prompt(instruction, self._config.prompts, think=True))

    def ask(self, images: Images, question: str) -> str:
        """The answer to a question about the scene."""
        question = question.strip().lower()
        for mark in "?.,":
            question = question.replace(mark, f" {mark}")
        return self._answer(images, " ".join(question.split()))

    def latent_action(
        self, images: Images, instruction: str, response: str | None = None
    ) -> np.ndarray:
        """Latent action float32 [Q, D]; response: what think() answered, None to act without."""
        question = action_prompt(instruction, self._config.prompts, think=response is not None)
        ids = prompt_ids(self._tokenizer, question)
        if response:
            ids += answer_ids(self._tokenizer, _untidy(response))
        cache, _ = self._model.read(self._images(images), self._ids(ids))
        return self._model.latent_action(cache)[0].float().cpu().numpy()


class ActionModel:
    """The action expert: chunks of un-normalised actions from images, state and latent action."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu"):
        self.device = _device(device)
        self.checkpoint_id, self.contract = checkpoint.checkpoint_id, checkpoint.contract
        self._config, self._stats = checkpoint.config, checkpoint.stats
        self.horizon = checkpoint.contract.horizon
        self.latent_shape = (checkpoint.config.num_queries, checkpoint.config.backbone.text_width)
        self._expert = ActionExpert(
            checkpoint.config.expert,
            checkpoint.config.backbone.text_width,
            checkpoint.config.num_queries,
            len(checkpoint.config.expert_cameras),
            len(checkpoint.contract.state_names),
            checkpoint.contract.horizon,
            len(checkpoint.contract.action_names),
        ).eval()
        load_weights(checkpoint, self._expert, "expert.", device)
        self._expert.to(self.device)
        self._generator = torch.Generator()

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu") -> ActionModel:
        """Loads a checkpoint folder. Raises CheckpointError, one sentence."""
        return cls(open_checkpoint(path), device)

    def action_chunk(
        self, images: Images, state: np.ndarray, latent: np.ndarray, seed: int | None = None
    ) -> np.ndarray:
        """Actions float32 [H, D], in the contract's units.

        images: uint8 [S, S, 3] by camera name. state [S], not normalised. latent [Q, L]. seed: of
        the flow's noise; None goes on with the generator. Raises ValueError on other shapes.
        """
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (len(self.contract.state_names),) or not np.isfinite(state).all():
            raise ValueError(
                f"expected {len(self.contract.state_names)} finite state values, got {state}"
            )
        if latent.shape != self.latent_shape or not np.isfinite(latent).all():
            raise ValueError(
                f"expected a finite latent action {self.latent_shape}, got {latent.shape}"
            )
        if seed is not None:
            self._generator.manual_seed(seed)
        normalized = self._stats["state"].normalize(state)
        actions = sample_actions(
            self._expert,
            _stack(
                images, self._config.expert_cameras, self._config.expert.image_size, self.device
            ),
            torch.from_numpy(np.asarray(latent, dtype=np.float32))[None].to(self.device),
            torch.from_numpy(normalized)[None].to(self.device),
            self._config.flow.steps,
            self._generator,
        )
        return self._stats["action"].denormalize(actions[0].cpu().numpy()).astype(np.float32)


def _tidy(text: str) -> str:
    """Model text as a person writes it: "Pick up the red block."."""
    text = text.strip()
    for mark in ",.?":
        text = text.replace(f" {mark}", mark)
    return text[:1].upper() + text[1:]


def _untidy(text: str) -> str:
    """The model's own form of a tidied text."""
    for mark in ",.?":
        text = text.replace(mark, f" {mark}")
    return text.lower()
