"""Configuration of an InstructVLA model as plain dataclasses, and what they must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vla.policies.config import (
    MOST_LAYERS,
    MOST_WIDTH,
    BackboneConfig,
    FlowMatchingConfig,
    LoraConfig,
    bounded,
)
from vla.policies.sequence import MAX_ANSWER_TOKENS


@dataclass
class ActionExpertConfig:
    """Sizes of the action expert (InstructVLA, section 3.1 and appendix E)."""

    image_size: int = bounded(96, 1, 4096)
    # "dinov2", a DINOv2 vision transformer with registers; "conv", a small transformer behind
    # strided convolutions, which learns from little data; or "none", where the expert sees through
    # the latent action alone (the paper's ablation, figure 6c).
    vision: str = "conv"
    film: bool = True  # whether the latent action modulates the vision encoder
    patch: int = bounded(16, 1, 4096)  # pixels per visual token
    vision_width: int = bounded(192, 1, MOST_WIDTH)
    vision_layers: int = bounded(2, 0, MOST_LAYERS)
    vision_heads: int = bounded(6, 1, 1024)
    vision_mlp: int = bounded(576, 1, MOST_WIDTH)
    # With dinov2, the block whose output the tokens are; the published code takes 2 of 24.
    vision_feature_block: int = bounded(1, 0, MOST_LAYERS)
    # With dinov2, enlarge by 256 / 224 and crop, as the published code does.
    vision_zoom: bool = False
    # With conv, points in each image that the state token gets beside the state; 0 for none, as in
    # the paper.
    keypoints: int = bounded(32, 0, 4096)
    width: int = bounded(192, 1, MOST_WIDTH)
    layers: int = bounded(3, 1, MOST_LAYERS)
    heads: int = bounded(6, 1, 1024)
    mlp: int = bounded(512, 1, MOST_WIDTH)
    head_widths: tuple[int, ...] = bounded((512, 256, 192), 1, MOST_WIDTH)
    rope_theta: float = bounded(1000.0, 1, 1e9)
    dropout: float = bounded(0.0, 0, 0.99)  # of attention, in training
    use_state: bool = True
    # "causal" by blocks, as in the paper; "separate", where the latent block does not see vision;
    # "bias", where allowed pairs get a bonus of one and nothing is masked, as the published code
    # runs; or "full".
    mask: str = "causal"


@dataclass
class PromptConfig:
    """The words around an instruction; weights need those they were trained with."""

    # What becomes of an instruction in a question to act, and in one to answer first. "plain":
    # lower case, without a final period; "lower": lower case; "given": nothing.
    act_words: Literal["plain", "lower", "given"] = "plain"
    think_words: Literal["plain", "lower", "given"] = "plain"
    act: str = "what action should the robot take to {instruction} ?"  # asks for an action
    think_suffix: str = " first answer my question ."  # asks for an answer first
    motion_suffix: str = " say the motion , then act ."  # asks for the motion in words first
    # Questions that ask for a description of the scene.
    captions: tuple[str, ...] = ("describe the scene without the robot .",)
    # Most tokens of an answer before acting.
    think_tokens: int = bounded(MAX_ANSWER_TOKENS, 1, 4096)
    # How answers begin that say that an instruction can't be followed; none of a policy that never
    # learned to refuse.
    refusals: tuple[str, ...] = ()
    # Whether an answer is read again as it was generated, its last space included, with one more
    # before the action queries, as the published code does. Otherwise they follow on its cache.
    reread: bool = False


@dataclass
class InstructVLAConfig:
    """Everything that shapes the weights, except the embodiment contract."""

    TYPE: ClassVar[str] = "instructvla"

    preset: str = "nano"
    num_queries: int = bounded(8, 1, 4096)  # action queries, rows of the latent action
    vlm_cameras: tuple[str, ...] = ("front",)  # images for the vision-language model
    # Whether these are joined side by side into one, as the authors do for LIBERO.
    vlm_joined: bool = False
    expert_cameras: tuple[str, ...] = ("front", "wrist")  # images for the action expert
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)  # of the backbone's language model
    expert: ActionExpertConfig = field(default_factory=ActionExpertConfig)
    flow: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)

    @property
    def seen_by_expert(self) -> tuple[str, ...]:
        """Cameras whose images the action expert gets; () where it has no vision."""
        return self.expert_cameras if self.expert.vision != "none" else ()

    @property
    def vlm_images(self) -> int:
        """Images of an observation in the vision-language model's prompt."""
        return 1 if self.vlm_joined else len(self.vlm_cameras)
