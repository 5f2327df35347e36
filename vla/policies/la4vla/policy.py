"""LA4VLA as a policy type: one part, which gives chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, get_args, get_type_hints

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
from vla.policies.la4vla.build import build_model
from vla.policies.la4vla.collation import LA4VLACollator
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig, require_choices
from vla.policies.la4vla.head import CrossAttentionHead
from vla.policies.la4vla.inference import LA4VLAPart
from vla.policies.la4vla.model import LA4VLA
from vla.policies.la4vla.presets import PRESETS
from vla.policies.la4vla.sequence import NEEDS_IMAGES, words_of
from vla.policies.la4vla.vectors import require_room
from vla.policies.loaded import Loaded
from vla.policies.roles import BACKBONE, HEAD

# What vla info counts heads for, as published.
PUBLISHED_HORIZON = 50


class LA4VLAType(PolicyType):
    """See docs/la4vla.md."""

    config = LA4VLAConfig
    roles: ClassVar[Roles] = {BACKBONE: ("backbone",), HEAD: ("head",)}

    def presets(self) -> dict[str, LA4VLAConfig]:
        """The paper's InternVL3-1B, and a small one for the simulator."""
        return PRESETS

    def check_config(self, config: LA4VLAConfig, where: str) -> None:
        """Raises CheckpointError for entries that do not go together."""
        require_choices(config, where)
        require_formats(config.prompts.act, where)
        require_one_tile(config.backbone, where)

    def features(self, config: LA4VLAConfig, contract: EmbodimentContract) -> PolicyFeatures:
        """Chunks from one frame."""
        return PolicyFeatures(
            cameras=config.cameras,
            uses_state=True,
            reads_words=True,
            answers=False,
            latent_shape=None,
            horizon=contract.horizon,
            rate=1.0 / contract.time_step,
        )

    def build(self, config: LA4VLAConfig, contract: EmbodimentContract) -> LA4VLA:
        """Backbone and head."""
        return build_model(config, contract)

    def open_reasoning(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> LA4VLAPart:
        """All of it."""
        return LA4VLAPart(checkpoint, device, dtype)

    def needs_images(self, config: LA4VLAConfig) -> str:
        """Why it can neither act nor learn without images; empty where it can."""
        return NEEDS_IMAGES if config.mask == "attention_only" else ""

    def pads(self, config: LA4VLAConfig) -> bool:
        """Always."""
        return True

    def check_robot(self, config: LA4VLAConfig, contract: EmbodimentContract) -> None:
        """Raises CheckpointError where states or actions are longer than the model's."""
        require_room(config, contract)

    def ties_embeddings(self, config: LA4VLAConfig) -> bool:
        """Whether the language model's head is its input embedding."""
        return config.backbone.ties_embeddings

    def facts(self, config: LA4VLAConfig) -> dict[str, object]:
        """Preset, layers that are kept, and the head's output."""
        kept = config.backbone.keep_layers
        return {
            "preset": config.preset,
            "language model": f"first {kept} layers" if kept else "all layers",
            "head": config.head.pool,
        }

    def published_counts(self, model: LA4VLA, parts: dict[str, int]) -> dict[str, int]:
        """Parameters of the head with each output, for chunks of the published 50 steps."""
        counts = {}
        for pool in get_args(get_type_hints(CrossAttentionConfig)["pool"]):
            config = replace(model.config, head=replace(model.config.head, pool=pool))
            with torch.device("meta"):
                head = CrossAttentionHead(config, PUBLISHED_HORIZON)
            counts[f"head {pool}"] = sum(p.numel() for p in head.parameters())
        return counts

    def collator(
        self, config: LA4VLAConfig, tokenizer: Tokenizer | None, options: CollationOptions
    ) -> LA4VLACollator:
        """Frames with images, and frames without."""
        assert tokenizer is not None
        return LA4VLACollator(config, tokenizer, options)

    def corpus(
        self, config: LA4VLAConfig, sample: RobotSample, generator: np.random.Generator
    ) -> list[str]:
        """The instruction as it is read."""
        return [words_of(config, sample.instruction)]

    def vocabulary(self, config: LA4VLAConfig) -> int:
        """Rows of the language model's embedding."""
        return config.backbone.vocabulary

    def with_backbone(self, config: LA4VLAConfig, kind: str, source: str) -> LA4VLAConfig:
        """The same head on a released vision-language model."""
        own = config.backbone
        return replace(config, backbone=backbone_config(kind, source, own.paths, own.keep_layers))

    def load_backbone(self, model: LA4VLA, source: str | None) -> Loaded:
        """Released weights, or new ones."""
        return start_backbone(model.backbone, source, "backbone.model.")

    def start_from(self, model: LA4VLA, source: Checkpoint) -> Loaded:
        """Weights of a checkpoint of the same sizes, of whatever horizon where steps are apart."""
        if not isinstance(source.config, LA4VLAConfig):
            raise CheckpointError(
                f"{shown_path(source.folder)} is of type {source.config.TYPE}; to take its "
                "backbone alone, give backbone: checkpoint and backbone_source"
            )
        return load_weights(source, model, complete=False)

    def checkpoint_activations(self, model: LA4VLA) -> None:
        """Those of the backbone."""
        model.backbone.checkpoint_activations()


POLICY = LA4VLAType()
