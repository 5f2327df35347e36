"""What benchmarks/inference.py measures: steps of our variant, and of the naive one.

Weights are random, and a text is as long as it is asked to be.
"""

from __future__ import annotations

import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path

import torch

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import build_model
from vla.policies.compiled import MODES as COMPILED
from vla.policies.heads.flow_matching import integrate
from vla.policies.instructvla.action_expert import ExpertContext
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.exported import (
    FREE,
    GUIDED,
    free_chunk,
    guided_chunk,
)
from vla.policies.instructvla.static_chunk import StaticChunk
from vla.policies.instructvla.static_reasoning import StaticReasoning
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import merge_for_inference
from vla.policies.real_time_chunking import Inpainting, soft_mask
from vla.policies.runtimes import Computation, openvino_computation
from vla.policies.sequence import IMAGE

LANGUAGE_EVERY, LATENT_EVERY = 20, 2
PROMPT_TOKENS = 40
FAST_MODES = ("act", "real time", "language", "latent caching", "think")
MODES = (*FAST_MODES, "naive act", "naive think")
# With OpenVINO for chunks: how other passes run (vla/policies/compiled.py), and its precision.
WITH_OPENVINO = {
    "openvino": ("none", "f32"),
    "both": ("inductor", "f32"),
    "both_bf16": ("inductor", "bf16"),
}
GRAPHS = (*COMPILED, *WITH_OPENVINO)


class Subject:
    """A model with random weights, and one scene."""

    def __init__(self, config: InstructVLAConfig, device: str, dtype: torch.dtype, tokens: int):
        torch.manual_seed(0)
        self.device, self.tokens, self.config = device, tokens, config
        contract = load_contract(contract_path("sim_panda"))
        with torch.device(device):
            self.model: InstructVLA = build_model(self.config, contract).to(dtype).eval()
        # As in use: real-time chunking asks for gradients, but not for those of the weights.
        self.model.requires_grad_(False)
        backbone, cameras = self.config.backbone, self.config.vlm_images
        gated = self.model.reasoning.backbone.scale_head is not None
        merge_for_inference(self.model.reasoning.backbone, gated)
        self.vlm_images = self._images(cameras, backbone.image_size)
        size = self.config.expert.image_size
        self.expert_images = self._images(len(self.config.expert_cameras), size)[None]
        self.state = torch.zeros(1, len(contract.state_names), device=device, dtype=dtype)
        words = torch.randint(5, min(300, backbone.vocabulary), (PROMPT_TOKENS,)).tolist()
        self.prompt = [IMAGE] * (cameras * backbone.image_tokens) + words
        vocabulary = backbone.vocabulary
        self.queries = [*range(vocabulary, vocabulary + self.config.num_queries)]
        self.text = torch.randint(5, 300, (tokens,)).tolist()
        self.latent: torch.Tensor | None = None

    def _images(self, count: int, size: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).to(self.device)

    def ids(self, tokens: list[int]) -> torch.Tensor:
        """Token ids [1, T] on the device."""
        return torch.tensor([tokens], device=self.device)

    def noise(self) -> torch.Tensor:
        """Noise [1, H, A] of a chunk."""
        expert = self.model.expert
        return torch.randn(1, expert.horizon, expert.action_size, device=self.device)


def exported_chunks(subject: Subject, guides: bool, precision: str) -> dict[str, Computation]:
    """Chunks by OpenVINO, by name."""
    expert, steps = subject.model.expert, subject.config.flow.steps
    noise = subject.noise()
    latent = torch.zeros(1, subject.config.num_queries, subject.config.backbone.width)
    example = subject.expert_images, latent, subject.state, noise
    guidance = noise, torch.zeros(noise.shape[:2]), torch.tensor(2.0)
    passes = [free_chunk(expert, steps, example)]
    if guides:
        passes.append(guided_chunk(expert, steps, example + guidance))
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder), "random", torch.get_num_threads()
        return {
            given.name: openvino_computation(given, *where, precision=precision) for given in passes
        }


class Fast:
    """One step each of our variant, in a mode of vla.policies.compiled or with OpenVINO."""

    def __init__(self, subject: Subject, mode: str, guides: bool):
        """guides: whether chunks are guided, too."""
        self.subject, self.model, self.guides = subject, subject.model, guides
        graph, precision = WITH_OPENVINO.get(mode, (mode, ""))
        self.chunks = StaticChunk(self.model.expert, subject.config.flow.steps, graph)
        self.exported = exported_chunks(subject, guides, precision) if precision else {}
        self.static: StaticReasoning | None = None
        if graph != "none":
            # The prompt is an instruction's words longer than the shortest.
            shortest = len(subject.prompt + subject.queries) - PROMPT_TOKENS // 2
            shape = subject.vlm_images.shape
            self.static = StaticReasoning(
                self.model.reasoning, graph, shortest, shape, subject.tokens
            )

    def warm_up(self) -> None:
        """Compiles and runs everything that is measured."""
        self.think()
        self.read_and_act(text=True)
        self.read_and_act()
        self.chunk()
        if self.guides:
            self.guided_chunk()

    def think(self) -> None:
        """Text and latent action on one cache."""
        subject = self.subject
        if self.static is not None:
            reading = self.static.read(subject.vlm_images, subject.prompt)
            self.static.generate(reading, set(), subject.tokens)
            subject.latent = self.static.latent_action()
            return
        ids, reasoning = subject.ids(subject.prompt), self.model.reasoning
        read = reasoning.read(subject.vlm_images, ids, torch.ones_like(ids))
        reasoning.generate(read, set(), subject.tokens)
        subject.latent = reasoning.latent_action(read)

    def read_and_act(self, text: bool = False) -> None:
        """Latent action of the prompt, with or without a text that is there already."""
        subject = self.subject
        tokens = subject.prompt + (subject.text if text else []) + subject.queries
        if self.static is not None:
            subject.latent = self.static.act(subject.vlm_images, tokens)
            return
        ids = subject.ids(tokens)
        subject.latent = self.model.reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    def chunk(self, inpainting: Inpainting | None = None) -> None:
        """A chunk from the latent action that is there."""
        subject = self.subject
        assert subject.latent is not None
        given = subject.expert_images, subject.latent, subject.state, subject.noise()
        if self.exported:
            name, tensors = FREE, list(given)
            if inpainting is not None:
                name = GUIDED
                tensors += [inpainting.actions, inpainting.weights, torch.tensor(2.0)]
            self.exported[name](*(value.numpy() for value in tensors))
        else:
            self.chunks(*given, inpainting)

    def guided_chunk(self) -> None:
        """A chunk that keeps the first quarter of another one, and is drawn to its next half."""
        noise, horizon = self.subject.noise(), self.model.expert.horizon
        weights = soft_mask(horizon, committed=horizon // 4, covered=3 * horizon // 4)
        weights = weights[None].to(self.subject.device)
        self.chunk(Inpainting(torch.zeros_like(noise), weights))

    def parts(self) -> dict[str, Callable[[], None]]:
        """What a step is made of, by name."""
        guided = {"guided chunk": self.guided_chunk} if self.guides else {}
        return {
            "latent action": self.read_and_act,
            "text and latent action": self.think,
            "chunk": self.chunk,
            **guided,
        }


class Naive:
    """One step each of the same model without what makes it fast."""

    def __init__(self, subject: Subject):
        self.subject, self.model = subject, subject.model

    def read(self) -> None:
        """Latent action of the prompt."""
        subject = self.subject
        ids = subject.ids(subject.prompt + subject.queries)
        subject.latent = self.model.reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    def think(self) -> None:
        """Text on a cache, then the latent action in a pass over the prompt, text and queries."""
        subject, reasoning = self.subject, self.model.reasoning
        ids = subject.ids(subject.prompt)
        reading = reasoning.read(subject.vlm_images, ids, torch.ones_like(ids))
        (text,) = reasoning.generate(reading, set(), subject.tokens)
        ids = subject.ids(subject.prompt + text + subject.queries)
        subject.latent = reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    @torch.no_grad()
    def chunk(self) -> None:
        """All tokens of the action expert in every integration step."""
        subject, expert = self.subject, self.model.expert
        assert subject.latent is not None
        # Keys and values that nothing would use are not made.
        with unittest.mock.patch.object(expert, "_run_context", return_value=None):
            context = expert.encode_context(subject.expert_images, subject.latent, subject.state)
        again = ExpertContext(context.tokens, None)
        steps = subject.config.flow.steps
        integrate(lambda x, times: expert.velocity(again, x, times), subject.noise(), steps)


def fast_modes(fast: Fast) -> dict[str, Callable[[int], None]]:
    """What is measured of our variant, by name: functions of the step's number."""

    def act(step: int) -> None:
        fast.read_and_act()
        fast.chunk()

    def real_time(step: int) -> None:
        fast.read_and_act()
        fast.guided_chunk()

    def language(step: int) -> None:
        fast.think() if step % LANGUAGE_EVERY == 0 else fast.read_and_act(text=True)
        fast.chunk()

    def latent_caching(step: int) -> None:
        if step % LATENT_EVERY == 0:
            fast.read_and_act()
        fast.chunk()

    def think(step: int) -> None:
        fast.think()
        fast.chunk()

    runs = (act, real_time, language, latent_caching, think)
    return dict(zip(FAST_MODES, runs, strict=True))


def naive_modes(naive: Naive) -> dict[str, Callable[[int], None]]:
    """The same of the naive variant."""
    first = {"naive act": naive.read, "naive think": naive.think}
    return {name: lambda step, run=run: (run(), naive.chunk()) for name, run in first.items()}
