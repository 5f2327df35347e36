"""InstructVLA as a policy type: two parts, latent actions between them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.sample import RobotSample
from vla.policies.backbones.pretrained import backbone_config, start_backbone
from vla.policies.backbones.tiles import require_tiles
from vla.policies.base import PolicyFeatures, PolicyType, Roles
from vla.policies.checkpoint import Checkpoint
from vla.policies.collation import CollationOptions, PromptSampling
from vla.policies.config import AdapterConfig, CheckpointError, require_formats
from vla.policies.empty_weights import put, stored_tensors
from vla.policies.instructvla.adapter_layers import insert_adapter
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder, published_size, unread_weights
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.instructvla.presets import PRESETS
from vla.policies.instructvla.prompts import sample_row
from vla.policies.instructvla.start import start_from
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.instructvla.vision_source import VISION, read_vision
from vla.policies.loaded import Loaded
from vla.policies.lora import lora_layers
from vla.policies.roles import ACTION_EXPERT, BACKBONE, QUERIES


class InstructVLAType(PolicyType[InstructVLAConfig, InstructVLA]):
    """See docs/model.md."""

    config = InstructVLAConfig
    roles: ClassVar[Roles] = {
        BACKBONE: ("reasoning.backbone",),
        QUERIES: ("reasoning.query_embedding", "reasoning.query_output"),
        ACTION_EXPERT: ("expert",),
    }

    def presets(self) -> dict[str, InstructVLAConfig]:
        """From a model for the simulator to the published size."""
        return PRESETS

    def check_config(self, config: InstructVLAConfig, where: str) -> None:
        """Raises CheckpointError where a prompt has placeholders other than the instruction.

        Also for a refusal that every answer begins with, and tiles of a backbone without a rule for
        them.
        """
        require_formats(config.prompts.act, where)
        if not all(words.strip() for words in config.prompts.refusals):
            raise CheckpointError(f"{where}: prompts: refusals: an empty one fits every answer")
        require_tiles(config.backbone, where)

    def features(self, config: InstructVLAConfig, contract: EmbodimentContract) -> PolicyFeatures:
        """Text from the vision-language model's cameras, chunks from the action expert's."""
        return PolicyFeatures(
            cameras=tuple(dict.fromkeys((*config.vlm_cameras, *config.seen_by_expert))),
            uses_state=config.expert.use_state,
            reads_words=True,
            answers=True,
            thinks=True,
            latent_shape=(config.num_queries, config.backbone.width),
            horizon=contract.horizon,
            rate=1.0 / contract.time_step,
            refusals=config.prompts.refusals,
        )

    def build(self, config: InstructVLAConfig, contract: EmbodimentContract) -> InstructVLA:
        """Both halves."""
        sizes = len(contract.state_names), contract.horizon, len(contract.action_names)
        return InstructVLA(config, *sizes)

    def open_reasoning(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> Reasoner:
        """The vision-language half."""
        return Reasoner(checkpoint, device, dtype)

    def open_action(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> ActionModel:
        """The action expert."""
        return ActionModel(checkpoint, device, dtype)

    def ties_embeddings(self, config: InstructVLAConfig) -> bool:
        """Whether the language model's head is its input embedding."""
        return config.backbone.ties_embeddings

    def needs_images(self, config: InstructVLAConfig) -> str:
        """It needs none."""
        return ""

    def unread(self, config: InstructVLAConfig) -> tuple[str, ...]:
        """Weights of DINOv2 behind the action expert's feature block."""
        if config.expert.vision != "dinov2":
            return ()
        return tuple(f"expert.vision.{name}" for name in unread_weights(config.expert))

    def facts(self, config: InstructVLAConfig) -> dict[str, object]:
        """Preset and number of action queries."""
        return {"preset": config.preset, "action_queries": config.num_queries}

    def parameter_counts(self, model: InstructVLA) -> dict[str, int]:
        """Parameters by part, without parts that a model lacks."""
        reasoning, expert = model.reasoning, model.expert
        backbone = reasoning.backbone

        def count(*modules) -> int:
            # Tied weights count once.
            found = {id(p): p.numel() for m in modules if m is not None for p in m.parameters()}
            return sum(found.values())

        adapters = sum(
            layer.lora_a.numel() + layer.lora_b.numel() for layer in lora_layers(backbone).values()
        )
        vision = {name: count(module) for name, module in backbone.vision_parts.items()}
        kind = "DINOv2" if expert.config.vision == "dinov2" else "vision encoder"
        kind += " with FiLM" if expert.config.film else ""
        parts = {
            **vision,
            "language model": count(backbone.model) - sum(vision.values()) - adapters,
            "LoRA": adapters,
            "scale head": count(backbone.scale_head),
            "action queries": reasoning.query_embedding.numel() + reasoning.query_output.numel(),
            kind: count(expert.vision),
            "visual projector": count(getattr(expert, "vision_projector", None)),
            "latent projector": count(expert.latent_projector),
            "state encoder": count(expert.state_projector),
            "action encoder": count(expert.action_embedding, expert.action_projector),
            "action expert": count(expert.layers, expert.norm),
            "output MLP": count(expert.head),
        }
        return {name: value for name, value in parts.items() if value}

    def published_counts(self, model: InstructVLA, parts: dict[str, int]) -> dict[str, int]:
        """The paper's counts of a model with LoRA experts: sums that overlap.

        Stage 1 trains the action part and one adapter, stage 2 all adapters. The action queries,
        which both stages train too, are not in the published figures and not in these. Published
        are all blocks of DINOv2, whether or not anything reads them.
        """
        experts = len(model.config.lora.experts)
        if not experts:
            return {}
        adapter = parts["LoRA"] // experts
        action_half = sum(p.numel() for p in model.expert.parameters() if p.requires_grad)
        stages = {"LoRA (per expert)": adapter, "stage 1 trainable": action_half + adapter}
        if experts > 1:
            stages["stage 2 LoRA"] = parts["LoRA"]
        if isinstance(encoder := model.expert.vision, Dinov2Encoder):
            own = sum(p.numel() for p in encoder.parameters())
            published = published_size(encoder, model.config.expert)
            stages["DINOv2 with FiLM, as published"] = published
            stages["stage 1 trainable, as published"] = action_half + adapter - own + published
        return stages

    def collator(
        self, config: InstructVLAConfig, tokenizer: Tokenizer | None, options: CollationOptions
    ) -> InstructVLACollator:
        """Frames with action queries, and conversations."""
        return InstructVLACollator(config, tokenizer, options)

    def corpus(
        self, config: InstructVLAConfig, sample: RobotSample, generator: np.random.Generator
    ) -> list[str]:
        """Questions and answers of a frame, half of them thought about first."""
        row = sample_row(sample, config.prompts, PromptSampling(think=0.5), 1, generator)
        return [text for turn in row.turns for text in turn if text]

    def vocabulary(self, config: InstructVLAConfig) -> int:
        """Rows of the language model's embedding."""
        return config.backbone.vocabulary

    def with_backbone(self, config: InstructVLAConfig, kind: str, source: str) -> InstructVLAConfig:
        """The same action expert behind a released vision-language model."""
        own = config.backbone
        released = backbone_config(kind, source, own.paths, own.keep_layers)
        return replace(config, backbone=replace(released, max_tiles=own.max_tiles))

    def load_backbone(self, model: InstructVLA, source: str | None) -> Loaded:
        """Released weights or new ones, and action queries that suit them."""
        loaded = start_backbone(model.reasoning.backbone, source, "reasoning.backbone.model.")
        model.reasoning.start_queries()
        return loaded

    def checkpoint_activations(self, model: InstructVLA) -> None:
        """Those of the vision-language model."""
        model.reasoning.backbone.checkpoint_activations()

    def insert_adapter(self, model: InstructVLA, config: AdapterConfig) -> None:
        """Beside the language model's and the action expert's layers."""
        insert_adapter(model, config)

    def start_from(self, model: InstructVLA, source: Checkpoint) -> Loaded:
        """See vla.policies.instructvla.start."""
        return start_from(model, source)

    def vision_path(self, config: InstructVLAConfig) -> str:
        """The action expert's DINOv2, whose FiLM is beside it; "" for another encoder."""
        return VISION if config.expert.vision == "dinov2" else ""

    def load_vision(self, model: InstructVLA, source: str) -> Loaded:
        """See vla.policies.instructvla.vision_source."""
        given = read_vision(source, model.config.expert)
        targets = stored_tensors(model)
        for name, value in given.weights.items():
            put(targets[name], value)
        return given.loaded


POLICY = InstructVLAType()
