"""A RoboVLM in a running robot: chunks from the newest observation and the history before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch

from vla.policies.adapters import Adapter
from vla.policies.base import Images, Observation
from vla.policies.camera_images import stack_if_any, stack_images
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.config import CheckpointError
from vla.policies.history import History
from vla.policies.parts import (
    ReasoningPart,
    ReasoningTurn,
    stats_of,
)
from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.config import why_images
from vla.policies.robovlms.mixture import MixtureHead
from vla.policies.robovlms.model import PolicyHead
from vla.policies.robovlms.padding import action_layout, padded_state
from vla.policies.robovlms.sequence import (
    FrameTokens,
    Rows,
    pad,
    prompt_ids,
    rows_of_frames,
)
from vla.policies.robovlms.static_head import StaticHead
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
        self.model = model
        self._layout = action_layout(self.config, self._stats["action"].kinds)
        self._used = torch.from_numpy(self._layout.used)[None].to(device)  # [1, M]
        self._head: StaticHead | None = None
        self.compile("none")
        self.start_memory()

    def compile(self, mode: str) -> None:
        """Compiles the policy head; the backbone reads as many tokens as there are, as it is."""
        self._mode, self._head = mode, None
        head = None if self.config.discrete else self.model.head
        if isinstance(head, PolicyHead):
            self._head = StaticHead(head, self.config.structure.window, mode)
        elif mode != "none":
            what = "action tokens are" if self.config.discrete else "a mixture's actions are"
            raise CheckpointError(
                f"compile: {what} computed on a cache that grows with the prompt; use 'none'"
            )

    def warm_up(self) -> Iterator[str]:
        """Compiles the policy head."""
        if self._head is not None and self._mode != "none":
            yield from self._head.warm_up(self._used)

    def start_memory(self) -> None:
        """Makes history, instruction and random draws its own."""
        structure = self.config.structure
        self._generator = torch.Generator()
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
            self._windows([ReasoningTurn(self, observation, instruction)])

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
            on_device(rows, self.device),
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
        return self.act_together([ReasoningTurn(self, observation, instruction, None, seed)])[0]

    @torch.no_grad()
    def act_together(self, turns: Sequence[ReasoningTurn]) -> list[np.ndarray]:
        """Chunks float32 [H, A]; in one pass, where the structure takes prompts of any lengths."""
        for turn in turns:
            own = _branch(turn)
            if turn.seed is not None:
                own._generator.manual_seed(turn.seed)
            own._follow(turn.instruction, bool(turn.observation.images))
        if not (self.config.discrete or self.config.structure.token_place == "before_last"):
            return self._act(turns)
        chunks: dict[int, np.ndarray] = {}
        order = sorted(range(len(turns)), key=lambda index: len(_branch(turns[index])._prompt))
        for _, same in groupby(order, key=lambda index: len(_branch(turns[index])._prompt)):
            indices = list(same)
            made = self._act([turns[index] for index in indices])
            chunks.update(zip(indices, made, strict=True))
        return [chunks[index] for index in range(len(turns))]

    def _act(self, turns: Sequence[ReasoningTurn]) -> list[np.ndarray]:
        branches, windows = [_branch(turn) for turn in turns], self._windows(turns)
        used = self._used.expand(len(turns), -1)
        draws = [own._generator for own in branches]
        if self.config.discrete:
            actions = self.model.generate_actions(*self._newest(branches, windows))
        elif isinstance(self.model.head, MixtureHead):
            prefix = self.model.read(*self._newest(branches, windows))
            actions = self.model.head.sample(prefix, draws, used)
        else:
            features = self._features(branches, windows)
            newest = torch.stack([own[-1] for own in features])  # [B, G]
            if self.features.token_shape is not None:
                tokens, width = self.features.token_shape
                learned = newest[:, : tokens * width].float().cpu()
                for own, row in zip(branches, learned, strict=True):
                    own.learned_tokens = row.reshape(tokens, width).numpy()
            assert self._head is not None
            noise = self.model.head.output.draw(len(turns), draws)
            actions = self._head(features, noise, used)
        chunks = []
        for chunk in actions.float().cpu().numpy():
            if not self.config.discrete:
                chunk = self._layout.gather(chunk)
            chunks.append(self._stats["action"].denormalize(chunk).astype(np.float32))
        return chunks

    def _windows(self, turns: Sequence[ReasoningTurn]) -> list[list]:
        """Reads observations, and returns what is kept of each one's window, oldest first."""
        branches = [_branch(turn) for turn in turns]
        for own, turn in zip(branches, turns, strict=True):
            own._follow(turn.instruction, bool(turn.observation.images))
        images = [
            stack_if_any(
                turn.observation.images, self.config.cameras, self.contract, self.device
            ).flatten(0, 1)
            for turn in turns
        ]
        tokens = self.model.encode_images(torch.cat(images)).split([len(own) for own in images])
        states = [
            torch.from_numpy(
                padded_state(self.config, own.normalized_state(turn.observation.state))
            ).to(self.device, self.dtype)
            for own, turn in zip(branches, turns, strict=True)
        ]
        kept: list = list(zip(tokens, states, strict=True))
        if self.config.structure.kind == "policy_head":
            rows = self._rows(branches, [1] * len(turns))
            features = self.model.frame_features(rows, torch.cat(tokens), torch.cat(states))
            kept = list(features.split(1))
        return [
            own._history.add(turn.observation.stamp, entry)
            for own, turn, entry in zip(branches, turns, kept, strict=True)
        ]

    def _newest(
        self, branches: Sequence[RoboVLMPart], windows: Sequence[list]
    ) -> tuple[Rows, torch.Tensor, torch.Tensor]:
        """Rows of the newest frames alone, with their images and states."""
        images, states = (
            torch.cat(parts) for parts in zip(*(own[-1] for own in windows), strict=True)
        )
        return self._rows(branches, [1] * len(branches)), images, states

    def _features(
        self, branches: Sequence[RoboVLMPart], windows: Sequence[list]
    ) -> list[torch.Tensor]:
        """Features [n, G] of what is kept of each window."""
        if self.config.structure.kind == "policy_head":
            return [torch.cat(own) for own in windows]
        counts = [len(own) for own in windows]
        frames = [entry for own in windows for entry in own]
        images, states = (torch.cat(parts) for parts in zip(*frames, strict=True))
        features = self.model.frame_features(self._rows(branches, counts), images, states)
        return list(features.split(counts))

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

    def _rows(self, branches: Sequence[RoboVLMPart], counts: Sequence[int]) -> Rows:
        """Rows of windows of so many frames each, with each robot's prompt."""
        prompts = [own._prompt for own in branches]
        return on_device(rows_of_frames(prompts, counts, self.config), self.device)


def _branch(turn: ReasoningTurn) -> RoboVLMPart:
    assert isinstance(turn.part, RoboVLMPart)
    return turn.part
