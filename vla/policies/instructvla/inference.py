"""The two parts of a checkpoint as plain functions on NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from vla.control.committed import CommittedActions, join
from vla.policies.backbones.tiles import tiled
from vla.policies.base import Images, Observation
from vla.policies.camera_images import blank_images, stack_if_any
from vla.policies.checkpoint import Checkpoint, build_part, load_weights
from vla.policies.heads.flow_matching import draw_noise
from vla.policies.images import joined_images, square_image, to_device
from vla.policies.instructvla.action_expert import ActionExpert
from vla.policies.instructvla.exported import FREE, GUIDED, chunks
from vla.policies.instructvla.prompts import action_prompt, thinking_prompt
from vla.policies.instructvla.reasoning import PrefillState, ReasoningModel
from vla.policies.instructvla.static_chunk import StaticChunk
from vla.policies.instructvla.static_reasoning import StaticPrefill, StaticReasoning
from vla.policies.lora import merge_for_inference
from vla.policies.parts import (
    ActionPart,
    ActionTurn,
    ChatAnswer,
    ReasoningPart,
    ReasoningTurn,
    stats_of,
)
from vla.policies.plain_text import TextTokenizer
from vla.policies.real_time_chunking import Inpainting, soft_mask
from vla.policies.runtimes import (
    Computation,
    openvino_computation,
    require_float32_on_cpu,
)
from vla.policies.sequence import MAX_ANSWER_TOKENS, PromptRow, end_id, prompt_ids, tidy

# Bound of the guidance's weight. With the paper's 5, if half of a chunk is committed, it follows
# the one before so closely that little of the new observation's correction is left.
MAX_GUIDANCE = 2.0


def _expert(checkpoint: Checkpoint) -> ActionExpert:
    config, contract = checkpoint.config, checkpoint.contract
    return ActionExpert(
        config.expert,
        config.backbone.width,
        config.num_queries,
        len(config.expert_cameras),
        len(contract.state_names),
        contract.horizon,
        len(contract.action_names),
    )


class Reasoner(ReasoningPart):
    """The vision-language part: answers in text and gives latent actions.

    Images are uint8 [H, W, 3] by camera name, or {} to do without vision.
    """

    chats = True

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.device = device
        self.config = checkpoint.config
        self._tokenizer = TextTokenizer(checkpoint.tokenizer)
        self.num_queries = checkpoint.config.num_queries
        self.hidden_size = checkpoint.config.backbone.width
        self.model = build_part(
            checkpoint, lambda: ReasoningModel(checkpoint.config), "reasoning."
        ).eval()
        load_weights(checkpoint, self.model, "reasoning.", device, dtype)
        self.model.to(self.device).requires_grad_(False)
        merge_for_inference(self.model.backbone, gated=self.model.backbone.scale_head is not None)
        super().__init__(checkpoint, self.model, "reasoning.")
        self._stop = {end_id(self._tokenizer, checkpoint.config.backbone.chat)}
        self._static: StaticReasoning | None = None

    def compile(self, mode: str) -> None:
        """Compiles what nodes ask for; other prompts and images are read by the plain passes."""
        if mode == "none":
            return
        seen = blank_images(self.config.vlm_cameras, self.contract)
        row = PromptRow(((action_prompt("", self.config.prompts), ""),), acts=True)
        images, tokens, _ = self._prompt(seen, row)
        longest = max(MAX_ANSWER_TOKENS, self.config.prompts.think_tokens)
        self._static = StaticReasoning(self.model, mode, len(tokens), images.shape, longest)

    def warm_up(self) -> Iterator[str]:
        """Compiles prompts of all lengths, texts and latent actions."""
        if self._static is not None:
            yield from self._static.warm_up()

    def _prompt(self, images: Images, row: PromptRow) -> tuple[torch.Tensor, list[int], int]:
        """A prompt: tiles [N, 3, S, S], token ids, and how many of these are the question."""
        stacked = stack_if_any(images, self.config.vlm_cameras, self.contract, self.device)
        if self.config.vlm_joined and len(stacked):
            stacked = joined_images(stacked)[:, None]
        tiles, counts = tiled(stacked.flatten(0, 1), self.config.backbone)
        pixels = torch.stack(tiles) if tiles else torch.zeros(0, 3, 1, 1, device=self.device)
        seen = replace(row, images=len(counts), tiles=counts)
        ids = prompt_ids(self._tokenizer, self.config.backbone, seen, self.num_queries)
        return pixels, *ids

    def _tensors(
        self, tokens: list[int], asked: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask and prefix (the question) [1, T] of a prompt's tokens."""
        ids = to_device(torch.tensor([tokens]), self.device)
        prefix = torch.arange(len(tokens), device=self.device)[None] < asked
        return ids, torch.ones_like(ids), prefix

    def _read(self, images: Images, question: str) -> PrefillState | StaticPrefill:
        pixels, tokens, asked = self._prompt(images, PromptRow(((question, ""),)))
        if self._static is not None and self._static.takes(pixels, tokens):
            return self._static.read(pixels, tokens)
        return self.model.read(pixels, *self._tensors(tokens, asked))

    def _say(
        self, prefill: PrefillState | StaticPrefill, limit: int, verbatim: bool = False
    ) -> str:
        if isinstance(prefill, StaticPrefill):
            tokens = prefill.passes.generate(prefill, self._stop, limit)
        else:
            tokens = self.model.generate(prefill, self._stop, limit)[0]
        return self._tokenizer.decode(tokens) if verbatim else self._text(tokens)

    def _text(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens)
        return tidy(text) if self.config.backbone.chat.plain_words else text.strip()

    def _think(self, images: Images, instruction: str) -> tuple[str, PrefillState | StaticPrefill]:
        prompts = self.config.prompts
        prefill = self._read(images, thinking_prompt(instruction, prompts))
        return self._say(prefill, prompts.think_tokens, prompts.reread), prefill

    def think(self, images: Images, instruction: str) -> str:
        """What the robot says it will do."""
        return self._think(images, instruction)[0]

    def ask(self, images: Images, question: str) -> str:
        """The answer to a question about the scene."""
        return self._say(self._read(images, question), MAX_ANSWER_TOKENS)

    def chat(
        self, images: Sequence[np.ndarray], turns: Sequence[tuple[str, str]], limit: int
    ) -> ChatAnswer:
        """See ReasoningPart. Each image is squeezed into the model's square."""
        backbone = self.config.backbone
        size = backbone.image_size
        squares = [torch.from_numpy(square_image(image, size).copy()) for image in images]
        pixels = torch.zeros(0, 3, size, size, dtype=torch.uint8)
        if squares:
            pixels = torch.stack(squares).permute(0, 3, 1, 2)
        row = PromptRow(tuple(turns), images=len(images))
        tokens, asked = prompt_ids(self._tokenizer, backbone, row, self.num_queries)
        prefill = self.model.read(pixels.to(self.device), *self._tensors(tokens, asked))
        answer = self.model.generate(prefill, self._stop, limit)[0]
        return ChatAnswer(self._text(answer), len(tokens), len(answer), len(answer) < limit)

    def act(
        self,
        observation: Observation,
        instruction: str,
        response: str | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """The latent action float32 [Q, D], without random draws."""
        return self.latent_action(observation.images, instruction, response)

    def think_and_act(self, observation: Observation, instruction: str) -> tuple[str, np.ndarray]:
        """The robot's text, and the latent action [Q, D] on it, with one cache where it may."""
        text, prefill = self._think(observation.images, instruction)
        if self.config.prompts.reread:
            return text, self.latent_action(observation.images, instruction, text)
        if isinstance(prefill, StaticPrefill):
            latent = prefill.passes.latent_action()
        else:
            latent = self.model.latent_action(prefill)
        return text, latent[0].float().cpu().numpy()

    def latent_action(
        self, images: Images, instruction: str, response: str | None = None
    ) -> np.ndarray:
        """Latent action float32 [Q, D]; response: the result of think(), None to act without."""
        pixels, tokens, asked = self._prompt(images, self._acting_row(instruction, response))
        if self._static is not None and self._static.takes(pixels, tokens):
            latent = self._static.act(pixels, tokens)
        else:
            latent = self.model.act(pixels, *self._tensors(tokens, asked))
        return latent[0].float().cpu().numpy()

    def act_together(self, turns: Sequence[ReasoningTurn]) -> list[np.ndarray]:
        """Latent actions float32 [Q, D], in one pass."""
        prompts = [
            self._prompt(turn.observation.images, self._acting_row(turn.instruction, turn.response))
            for turn in turns
        ]
        pixels = [images for images, _, _ in prompts]
        rows = zip(*(self._tensors(tokens, asked) for _, tokens, asked in prompts), strict=True)
        seen = [images for images in pixels if len(images)]
        latents = self.model.act(
            torch.cat(seen) if seen else pixels[0], *(_padded_left(row) for row in rows)
        )
        return list(latents.float().cpu().numpy())

    def _acting_row(self, instruction: str, response: str | None) -> PromptRow:
        prompts = self.config.prompts
        if response is None:
            return PromptRow(((action_prompt(instruction, prompts), ""),), acts=True)
        answer = f"{response} " if prompts.reread else response
        turn = (thinking_prompt(instruction, prompts), answer)
        return PromptRow((turn,), acts=True, verbatim=prompts.reread)


def _padded_left(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows [1, t] of any lengths as [B, T], with zeros before the shorter ones."""
    longest = max(row.shape[1] for row in rows)
    return torch.cat([F.pad(row, (longest - row.shape[1], 0)) for row in rows])


class ActionModel(ActionPart):
    """The action expert: chunks of un-normalised actions from images, state and latent action."""

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.device, self._dtype = device, dtype
        self._config, self._stats = checkpoint.config, stats_of(checkpoint)
        self.horizon = checkpoint.contract.horizon
        self._expert = build_part(checkpoint, lambda: _expert(checkpoint), "expert.").eval()
        load_weights(checkpoint, self._expert, "expert.", device, dtype)
        # Guidance needs gradients of actions, never of weights.
        self._expert.to(self.device).requires_grad_(False)
        super().__init__(checkpoint, self._expert, "expert.")
        self.start_memory()
        self.compile("none")

    def start_memory(self) -> None:
        """Makes the random draws its own."""
        self._generator = torch.Generator(self.device)

    def compile(self, mode: str) -> None:
        """Compiles chunks that are free, and those that continue another one."""
        self._chunk = StaticChunk(self._expert, self._config.flow.steps, mode)

    def warm_up(self) -> Iterator[str]:
        """Computes both kinds of chunks on a blank scene."""
        images = blank_images(self._config.expert_cameras, self.contract)
        state = np.zeros(len(self.contract.state_names))
        latent = np.zeros((self._config.num_queries, self._config.backbone.width), np.float32)
        self.action_chunk(images, state, latent, seed=0)
        yield "chunks"
        before = CommittedActions(np.zeros((self.horizon, len(self.contract.action_names))), 1)
        self.action_chunk(images, state, latent, 0, before)
        yield "chunks that continue another one"

    def action_chunk(
        self,
        images: Images,
        state: np.ndarray,
        latent: np.ndarray,
        seed: int | None = None,
        before: CommittedActions | None = None,
        max_guidance: float | None = None,
    ) -> np.ndarray:
        """Actions float32 [H, D], in the contract's units.

        images: uint8 [H, W, 3] by camera name, {} to act without vision. state [S], not normalised.
        latent [Q, L]. seed: of the flow's noise; None continues with the generator. before: what
        the chunk continues, see vla.policies.real_time_chunking; its committed steps are copied.
        Raises ValueError on other shapes.
        """
        bound = MAX_GUIDANCE if max_guidance is None else max_guidance
        inpainting = None if before is None else self._inpainting(before, bound)
        given = self._inputs(images, state, latent)
        if seed is not None:
            self._generator.manual_seed(seed)
        noise = draw_noise(self._chunk_shape, self._config.flow, self._generator)
        exported = self._exported.get(FREE if inpainting is None else GUIDED)
        # What is exported sees.
        if exported is not None and len(given[0]):
            tensors = [*given, noise]
            if inpainting is not None:
                tensors += [inpainting.actions, inpainting.weights, torch.tensor(float(bound))]
            actions = torch.from_numpy(exported(*(value.numpy() for value in tensors)))
        else:
            actions = self._chunk(*given, noise, inpainting)
        chunk = self._in_units(actions[0])
        return chunk if before is None else join(before, chunk).astype(np.float32)

    def chunks_together(self, turns: Sequence[ActionTurn]) -> list[np.ndarray]:
        """Chunks float32 [H, D]: in one pass those that continue no other; all must see, or none.

        Otherwise one by one.
        """
        if any(turn.before is not None or bool(turn.images) != bool(turns[0].images)
               for turn in turns):  # fmt: skip
            return super().chunks_together(turns)
        branches = [turn.part for turn in turns if isinstance(turn.part, ActionModel)]
        given = [
            part._inputs(turn.images, turn.state, turn.latent)
            for part, turn in zip(branches, turns, strict=True)
        ]
        for part, turn in zip(branches, turns, strict=True):
            if turn.seed is not None:
                part._generator.manual_seed(turn.seed)
        images, latents, states = (torch.cat(rows) for rows in zip(*given, strict=True))
        generators = [part._generator for part in branches]
        noise = draw_noise((len(turns), *self._chunk_shape[1:]), self._config.flow, generators)
        actions = self._chunk(images, latents, states, noise)
        return [self._in_units(row) for row in actions]

    def _inputs(
        self, images: Images, state: np.ndarray, latent: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images [1 or 0, C, 3, H, W], latent action [1, Q, L] and normalised state [1, S]."""
        normalized = self.normalized_state(state)
        shape = (self._config.num_queries, self._config.backbone.width)
        if latent.shape != shape or not np.isfinite(latent).all():
            raise ValueError(f"expected a finite latent action {shape}, got {latent.shape}")
        seen = images if self._config.seen_by_expert else {}
        return (
            stack_if_any(seen, self._config.expert_cameras, self.contract, self.device),
            to_device(torch.from_numpy(np.asarray(latent, dtype=np.float32)[None]), self.device),
            to_device(torch.from_numpy(normalized), self.device),
        )

    def _in_units(self, actions: torch.Tensor) -> np.ndarray:
        """A chunk [H, D] in the contract's units of normalised actions."""
        return self._stats["action"].denormalize(actions.cpu().numpy()).astype(np.float32)

    @property
    def _chunk_shape(self) -> tuple[int, int, int]:
        return 1, self.horizon, len(self.contract.action_names)

    def exported(self, make: bool, precision: str) -> dict[str, Computation]:
        """See PolicyPart; chunks without images stay eager."""
        require_float32_on_cpu(self.device, self._dtype)
        passes = chunks(self._expert, self._config, self.contract)
        where = self._base.folder, self.checkpoint_id, torch.get_num_threads()
        return {
            given.name: openvino_computation(given, *where, make, precision)
            for given in passes
            if self.exports_guided or given.name != GUIDED
        }

    def _inpainting(self, before: CommittedActions, max_guidance: float) -> Inpainting:
        covered, size = before.actions.shape
        if covered > self.horizon or size != len(self.contract.action_names):
            raise ValueError(
                f"the chunk before has {covered} steps of {size} values; this model has "
                f"{self.horizon} of {len(self.contract.action_names)}"
            )
        wanted = np.zeros((1, self.horizon, size), dtype=np.float32)
        wanted[0, :covered] = self._stats["action"].normalize(before.actions)
        weights = soft_mask(self.horizon, before.committed, covered)
        return Inpainting(
            to_device(torch.from_numpy(wanted), self.device),
            to_device(weights[None], self.device),
            max_guidance,
        )
