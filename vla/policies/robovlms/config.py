"""RoboVLMs' configuration (arXiv 2412.14058): structure, head, losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

from transformers import CONFIG_MAPPING

from vla.core.shown import brief
from vla.policies.backbones import KINDS
from vla.policies.config import (
    MOST_LAYERS,
    MOST_WIDTH,
    ActionLossConfig,
    BackboneConfig,
    CheckpointError,
    FlowMatchingConfig,
    LoraConfig,
    bounded,
)

# Positions of language models whose configuration does not say how many they have.
MOST_POSITIONS = {"kosmos2": 2048, "paligemma": 8192}
STRUCTURES = ("one_step", "interleaved", "policy_head")
TOKEN_SOURCES = ("learned", "text", "vision", "all")
TOKEN_PLACES = ("after_text", "before_last")
TRUNKS = ("fc", "lstm", "gpt")
OUTPUTS = ("regression", "flow", "diffusion")


@dataclass
class StructureConfig:
    """How observations, text and action tokens are laid out (section III.C and Table I)."""

    # one_step: one frame. interleaved: all frames of the window in one causal sequence.
    # policy_head: each frame in a pass of its own; the head reads the window.
    kind: str = "policy_head"
    # continuous: a head reads learned tokens. discrete: the language model predicts action tokens,
    # with one_step only.
    actions: str = "continuous"
    window: int = bounded(8, 1, 128)  # slots of the history, the newest frame included
    history_step: float = bounded(0.3, 0.001, 3600)  # time between two slots [s]
    latent: int = bounded(1, 1, 64)  # learned tokens a frame; at the input they are one vector
    # What the head reads of a frame: the learned tokens, or the largest values of its text tokens,
    # image tokens ("vision"), or all of them, in `latent` groups of neighbours.
    token_source: str = "learned"
    # Where learned tokens stand. after_text: right behind P. before_last: before the last position
    # of the padded prompt, as published, so that what an image gives depends on the longest text
    # beside it.
    token_place: str = "after_text"
    # Whether tokens of one prompt see each other both ways in backbones that were trained so. Not
    # in the published code, which gives PaliGemma embeddings, and so a causal mask.
    both_ways: bool = True


@dataclass
class HeadConfig:
    """What turns the learned tokens of a window into chunks (section III.C)."""

    # fc: an MLP on each frame. lstm, gpt: over the window, causal.
    trunk: str = "lstm"
    # regression: MSE and BCE. flow: flow matching. diffusion: denoising diffusion.
    output: str = "regression"
    hidden: int = bounded(1024, 1, MOST_WIDTH)  # width of the trunk, for each learned token
    layers: int = bounded(4, 1, MOST_LAYERS)  # of an LSTM or a GPT
    heads: int = bounded(8, 1, 1024)  # attention heads of a GPT
    dropout: float = bounded(0.1, 0, 0.99)  # of a GPT
    widths: tuple[int, ...] = bounded((1024, 512, 256), 1, MOST_WIDTH)  # of regression's MLPs
    denoiser_width: int = bounded(256, 1, MOST_WIDTH)  # of flow and diffusion
    denoiser_layers: int = bounded(3, 1, MOST_LAYERS)
    denoiser_heads: int = bounded(8, 1, 1024)
    diffusion_steps: int = bounded(100, 2, 10_000)  # of the noise schedule


@dataclass
class ResamplerConfig:
    """A perceiver resampler behind the vision encoder."""

    tokens: int = bounded(0, 0, 4096)  # that an image becomes; 0 for none, as the backbone has it
    depth: int = bounded(6, 1, MOST_LAYERS)
    heads: int = bounded(8, 1, 1024)
    head_width: int = bounded(64, 1, MOST_WIDTH)


@dataclass
class ActionTokensConfig:
    """Actions as tokens (equation 8 and the published tokenizer)."""

    bins: int = bounded(256, 2, 4096)  # edges in -1 to 1; their midpoints are the values
    # appended: rows behind the vocabulary. reused: rows at its end, as published.
    rows: str = "appended"
    offset: int = bounded(10, 0, 100_000)  # rows between reused ones and the special tokens
    special: int = bounded(0, 0, 100_000)  # special tokens of the published tokenizer


@dataclass
class MixtureConfig:
    """An action expert on the backbone's keys and values, instead of a head (figure 2a)."""

    width: int = bounded(0, 0, MOST_WIDTH)  # of its hidden states; 0 for none
    mlp: int = bounded(1024, 1, MOST_WIDTH)


@dataclass
class PointingConfig:
    """Finding in each image where the gripper acts next; not in the paper."""

    width: int = bounded(0, 0, MOST_WIDTH)  # of the comparison with image tokens; 0 for none


@dataclass
class CommonSizesConfig:
    """Sizes that robots of unlike states and actions are padded to; 0 for those of one robot."""

    state: int = bounded(0, 0, 1000)  # values of a state
    motion: int = bounded(0, 0, 1000)  # of an action, but those that are open or closed
    binary: int = bounded(0, 0, 1000)  # of an action that are open or closed

    @property
    def padded(self) -> bool:
        """Whether any are given."""
        return bool(self.state or self.motion or self.binary)


@dataclass
class RoboVLMPrompts:
    """The words around an instruction."""

    act: str = "{instruction}"


@dataclass
class RoboVLMConfig:
    """Everything that shapes the weights, except the embodiment contract."""

    TYPE: ClassVar[str] = "robovlms"

    preset: str = "nano_policy_head"
    cameras: tuple[str, ...] = ("front", "wrist")  # in this order in the prompt
    use_state: bool = False  # proprioception, as a token before the learned ones
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    pointing: PointingConfig = field(default_factory=PointingConfig)
    sizes: CommonSizesConfig = field(default_factory=CommonSizesConfig)
    action_tokens: ActionTokensConfig = field(default_factory=ActionTokensConfig)
    loss: ActionLossConfig = field(default_factory=ActionLossConfig)
    flow: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    prompts: RoboVLMPrompts = field(default_factory=RoboVLMPrompts)
    answers: bool = False  # whether it has learned from conversations beside; set by training

    @property
    def discrete(self) -> bool:
        """Whether the language model predicts action tokens."""
        return self.structure.actions == "discrete"

    @property
    def appends_rows(self) -> bool:
        """Whether action tokens have rows of their own behind the vocabulary."""
        return self.discrete and self.action_tokens.rows == "appended"

    @property
    def learned(self) -> bool:
        """Whether learned tokens stand in the sequence."""
        own = self.discrete or self.mixture.width
        return not own and self.structure.token_source == "learned"

    @property
    def image_tokens(self) -> int:
        """What one image becomes in the sequence."""
        return self.resampler.tokens or self.backbone.image_tokens


def require_structure(config: RoboVLMConfig, where: str) -> None:
    """Raises CheckpointError for choices that are unknown or do not go together."""
    structure, head = config.structure, config.head
    for name, value, known in (
        ("structure.kind", structure.kind, STRUCTURES),
        ("structure.actions", structure.actions, ("continuous", "discrete")),
        ("structure.token_source", structure.token_source, TOKEN_SOURCES),
        ("structure.token_place", structure.token_place, TOKEN_PLACES),
        ("head.trunk", head.trunk, TRUNKS),
        ("head.output", head.output, OUTPUTS),
        ("action_tokens.rows", config.action_tokens.rows, ("appended", "reused")),
        ("loss.arm", config.loss.arm, ("mse", "huber")),
    ):
        if value not in known:
            raise CheckpointError(
                f"{where}: {name} is {brief(value)}; it must be one of: {', '.join(known)}"
            )
    if config.discrete and structure.kind != "one_step":
        raise CheckpointError(
            f"{where}: discrete actions go with structure.kind one_step only: a causal mask cannot "
            "hide the action tokens of earlier frames from later ones"
        )
    if structure.kind == "one_step" and structure.window != 1:
        raise CheckpointError(
            f"{where}: structure.kind one_step reads one frame: set structure.window to 1, or take "
            "interleaved or policy_head"
        )
    if structure.token_place == "before_last" and not config.learned:
        raise CheckpointError(
            f"{where}: structure.token_place before_last is about learned tokens, and there are "
            "none: set it to after_text"
        )
    if config.mixture.width and (
        structure.kind != "one_step" or config.discrete or head.output == "diffusion"
    ):
        raise CheckpointError(
            f"{where}: a mixture of experts goes with structure.kind one_step, continuous actions "
            "and head.output regression or flow; set mixture.width to 0, or change those"
        )
    if structure.kind != "policy_head" and head.trunk != "fc" and not config.discrete:
        raise CheckpointError(
            f"{where}: head.trunk {head.trunk} reads a window, which {structure.kind} gives to the "
            "language model: set head.trunk to fc, or structure.kind to policy_head"
        )
    if config.backbone.kind in KINDS and KINDS[config.backbone.kind].attends:
        _require_no_image_tokens(config, where)
    if config.pointing.width and (
        not config.learned
        or config.resampler.tokens
        or math.isqrt(config.image_tokens) ** 2 != config.image_tokens
    ):
        raise CheckpointError(
            f"{where}: pointing needs learned tokens and images that are a square of tokens: set "
            "pointing.width to 0, or structure.token_source to learned and resampler.tokens to 0"
        )
    if structure.kind == "interleaved":
        _require_positions(config, where)


def why_images(config: RoboVLMConfig) -> str:
    """Why it can neither act nor learn without images; empty where it can."""
    structure = config.structure
    if structure.token_place == "before_last":
        return (
            "structure.token_place before_last pads a prompt without images to the longest beside "
            "it, on which its actions then depend"
        )
    if structure.token_source == "vision" and not (config.discrete or config.mixture.width):
        return "structure.token_source vision gives the head image tokens alone"
    return ""


def _require_no_image_tokens(config: RoboVLMConfig, where: str) -> None:
    """Raises CheckpointError for what needs image tokens, of a backbone whose layers attend."""
    structure, name = config.structure, f"backbone '{config.backbone.kind}'"
    if structure.kind == "interleaved":
        raise CheckpointError(
            f"{where}: {name} attends to images instead of reading them, so frames can't be "
            "interleaved: set structure.kind to policy_head or one_step"
        )
    if config.mixture.width:
        raise CheckpointError(
            f"{where}: a mixture of experts reads the backbone's keys and values, where {name} has "
            "no images: set mixture.width to 0"
        )
    if config.resampler.tokens:
        raise CheckpointError(
            f"{where}: {name} has a resampler of its own and attends to what it gives: set "
            "resampler.tokens to 0"
        )
    if config.pointing.width:
        raise CheckpointError(
            f"{where}: pointing compares image tokens, which {name} does not have: set "
            "pointing.width to 0"
        )
    if structure.token_source in ("vision", "all"):
        raise CheckpointError(
            f"{where}: {name} has no image tokens to pool: set structure.token_source to learned "
            "or text"
        )


def _require_positions(config: RoboVLMConfig, where: str) -> None:
    """Raises CheckpointError where the images of a window alone exceed the model's positions."""
    most = positions_of(config.backbone)
    least = config.structure.window * (
        len(config.cameras) * config.image_tokens + config.structure.latent
    )
    if most and least >= most:
        raise CheckpointError(
            f"{where}: {config.structure.window} frames of {len(config.cameras)} views take more "
            f"than {least} tokens, but the backbone has {most} positions; use a smaller "
            "structure.window, or policy_head"
        )


def positions_of(backbone: BackboneConfig) -> int:
    """Positions of its language model; 0 where nothing says how many."""
    text = backbone.architecture.get("text_config") or {}
    most = text.get("max_position_embeddings", MOST_POSITIONS.get(backbone.kind))
    most = _usual_positions(text.get("model_type")) if most is None else most
    return most if isinstance(most, int) else 0


@cache
def _usual_positions(model_type: str | None) -> int | None:
    """Those of a language model whose configuration says nothing else."""
    if model_type is None or model_type not in CONFIG_MAPPING:
        return None
    return getattr(CONFIG_MAPPING[model_type](), "max_position_embeddings", None)
