"""RoboVLMs as a policy type: one part, which gives chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import shown_path
from vla.datasets.sample import RobotSample
from vla.policies.backbones.pretrained import backbone_config, start_backbone
from vla.policies.backbones.tiles import require_one_tile
from vla.policies.base import PolicyFeatures, PolicyType, Roles
from vla.policies.checkpoint import Checkpoint, load_weights
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError, require_formats
from vla.policies.loaded import Loaded
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import RoboVLMConfig, require_structure, why_images
from vla.policies.robovlms.inference import RoboVLMPart
from vla.policies.robovlms.model import PolicyHead, RoboVLM
from vla.policies.robovlms.padding import require_room
from vla.policies.robovlms.presets import PRESETS
from vla.policies.roles import BACKBONE, HEAD, RESAMPLER

# What vla info counts heads for: chunks of 10 steps of seven values, as published.
PUBLISHED_HORIZON = 10
PUBLISHED_ACTION = (*[False] * 6, True)
# Layers of the published heads.
PUBLISHED_LAYERS = {"fc": 1, "lstm": 4, "gpt": 8}


class RoboVLMType(PolicyType):
    """See docs/robovlms.md."""

    config = RoboVLMConfig
    roles: ClassVar[Roles] = {
        BACKBONE: ("backbone",),
        RESAMPLER: ("vision_resampler",),
        HEAD: ("head", "pointing", "state_token", "action_token", "row_embedding", "row_output"),
    }

    def presets(self) -> dict[str, RoboVLMConfig]:
        """The paper's KosMos-2, and small ones for the simulator in each structure."""
        return PRESETS

    def check_config(self, config: RoboVLMConfig, where: str) -> None:
        """Raises CheckpointError for choices that do not go together."""
        require_structure(config, where)
        require_formats(config.prompts.act, where)
        require_one_tile(config.backbone, where)

    def features(self, config: RoboVLMConfig, contract: EmbodimentContract) -> PolicyFeatures:
        """Chunks from a window of frames."""
        return PolicyFeatures(
            cameras=config.cameras,
            uses_state=config.use_state,
            reads_words=True,
            answers=config.answers,
            token_shape=(config.structure.latent, config.backbone.width)
            if config.learned
            else None,
            latent_shape=None,
            horizon=contract.horizon,
            rate=1.0 / contract.time_step,
            window=config.structure.window,
            history_step=config.structure.history_step,
        )

    def build(self, config: RoboVLMConfig, contract: EmbodimentContract) -> RoboVLM:
        """Backbone, learned tokens and head."""
        return build_model(config, contract)

    def open_reasoning(
        self, checkpoint: Checkpoint, device: str, dtype: torch.dtype
    ) -> RoboVLMPart:
        """All of it."""
        return RoboVLMPart(checkpoint, device, dtype)

    def pads(self, config: RoboVLMConfig) -> bool:
        """Where common sizes are given."""
        return config.sizes.padded

    def check_robot(self, config: RoboVLMConfig, contract: EmbodimentContract) -> None:
        """Raises CheckpointError where the common sizes are too small for it."""
        require_room(config, contract)

    def ties_embeddings(self, config: RoboVLMConfig) -> bool:
        """Whether the language model's head is its input embedding."""
        return config.backbone.ties_embeddings

    def needs_images(self, config: RoboVLMConfig) -> str:
        """See why_images."""
        return why_images(config)

    def facts(self, config: RoboVLMConfig) -> dict[str, object]:
        """Preset, structure, window and head."""
        structure = config.structure
        head = "action tokens" if config.discrete else f"{config.head.trunk}, {config.head.output}"
        return {
            "preset": config.preset,
            "structure": f"{structure.kind}, {structure.actions}",
            "window": structure.window,
            "head": head,
        }

    def parameter_counts(self, model: RoboVLM) -> dict[str, int]:
        """Parameters of the backbone, of the head, and of tokens that have weights of their own."""
        counts = super().parameter_counts(model)
        own = sum(p.numel() for p in model.parameters(recurse=False))
        return counts | ({"tokens": own} if own else {})

    def published_counts(self, model: RoboVLM, parts: dict[str, int]) -> dict[str, int]:
        """Parameters of each of the published heads on this backbone."""
        counts = {}
        for trunk, layers in PUBLISHED_LAYERS.items():
            head = replace(model.config.head, trunk=trunk, output="regression", layers=layers)
            with torch.device("meta"):
                built = PolicyHead(
                    replace(model.config, head=head), PUBLISHED_HORIZON, PUBLISHED_ACTION
                )
            counts[f"head {trunk}"] = sum(p.numel() for p in built.parameters())
        return counts

    def collator(
        self, config: RoboVLMConfig, tokenizer: Tokenizer | None, options: CollationOptions
    ) -> RoboVLMCollator:
        """Windows of frames, and conversations."""
        assert tokenizer is not None
        return RoboVLMCollator(config, tokenizer, options)

    def corpus(
        self, config: RoboVLMConfig, sample: RobotSample, generator: np.random.Generator
    ) -> list[str]:
        """The instruction as it is asked."""
        return [config.prompts.act.format(instruction=sample.instruction.lower())]

    def vocabulary(self, config: RoboVLMConfig) -> int:
        """Rows of the language model's embedding."""
        return config.backbone.vocabulary

    def with_backbone(self, config: RoboVLMConfig, kind: str, source: str) -> RoboVLMConfig:
        """The same structure and head on a released vision-language model."""
        own = config.backbone
        released = backbone_config(kind, source, own.paths, own.keep_layers)
        return replace(config, backbone=released)

    def load_backbone(self, model: RoboVLM, source: str | None) -> Loaded:
        """Released weights, or new ones."""
        return start_backbone(model.backbone, source, "backbone.model.")

    def start_from(self, model: RoboVLM, source: Checkpoint) -> Loaded:
        """Weights of a checkpoint of the same structure and head."""
        if not isinstance(source.config, RoboVLMConfig):
            raise CheckpointError(
                f"{shown_path(source.folder)} is of type {source.config.TYPE}; to take its "
                "backbone alone, give backbone: checkpoint and backbone_source"
            )
        return load_weights(source, model, complete=False)

    def checkpoint_activations(self, model: RoboVLM) -> None:
        """Those of the backbone."""
        model.backbone.checkpoint_activations()


POLICY = RoboVLMType()
