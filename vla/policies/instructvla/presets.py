"""Named sizes."""

from __future__ import annotations

from dataclasses import replace

from vla.policies.backbones.eagle import Eagle
from vla.policies.backbones.internvl import NANO, small_internvl
from vla.policies.backbones.sizes import text_sizes, vision_sizes
from vla.policies.config import BackboneConfig, ChatFormat, LoraConfig
from vla.policies.instructvla.config import ActionExpertConfig, InstructVLAConfig, PromptConfig


def _eagle(
    image_size: int,
    vision: tuple[int, int, int, int],
    text: tuple[int, int, int, int, int],
    vocabulary: int,
    chat: ChatFormat,
) -> BackboneConfig:
    """An Eagle composition of any size, 14 pixels per patch; arguments as above."""
    return BackboneConfig(
        kind="eagle",
        architecture={
            "vision_config": vision_sizes(image_size, 14, vision),
            "text_config": text_sizes(vocabulary, text)
            | {
                "max_position_embeddings": 32768,
                "rope_theta": 1000000.0,
                "tie_word_embeddings": True,
            },
        },
        width=text[0],
        vocabulary=vocabulary,
        image_size=image_size,
        image_tokens=(image_size // 14 // 2) ** 2,
        chat=chat,
    )


def _dinov2_expert(
    width: int,
    layers: int,
    mlp: int,
    head_widths: tuple[int, ...],
    vision: tuple[int, int, int, int],
) -> ActionExpertConfig:
    """An action expert behind DINOv2 at 224 px, whose last block but one gives the tokens.

    vision: width, layers, heads, MLP.
    """
    return ActionExpertConfig(
        image_size=224,
        vision="dinov2",
        patch=14,
        vision_width=vision[0],
        vision_layers=vision[1],
        vision_heads=vision[2],
        vision_mlp=vision[3],
        vision_feature_block=vision[1] - 2,
        keypoints=0,
        width=width,
        layers=layers,
        heads=width // 64,
        mlp=mlp,
        head_widths=head_widths,
        dropout=0.1,
        use_state=False,
    )


def with_state(config: InstructVLAConfig) -> InstructVLAConfig:
    """The variant whose action expert gets the robot's state as one more token."""
    return replace(config, expert=replace(config.expert, use_state=True))


def with_two_cameras(config: InstructVLAConfig) -> InstructVLAConfig:
    """The variant with a wrist camera, as for LIBERO, whose contract has chunks of 8 actions.

    The vision-language model sees both side by side in one image, the expert sees two.
    """
    cameras = ("front", "wrist")
    return replace(config, vlm_cameras=cameras, vlm_joined=True, expert_cameras=cameras)


def with_language_expert(config: InstructVLAConfig) -> InstructVLAConfig:
    """The form of stage 2: a language expert before the action expert, blended by a scale head."""
    lora = replace(config.lora, experts=("language", "action"), gate="two_pass")
    return replace(config, lora=lora)


def as_published(config: InstructVLAConfig) -> InstructVLAConfig:
    """The released weights' behaviour where the published code differs from the paper.

    Its vision tokens are the third block's, of images enlarged by 256 / 224; with its version of
    transformers, the attention mask adds one where it was meant to allow. It thinks in 50 tokens at
    most, and reads them again before it acts.
    """
    expert = replace(config.expert, vision_feature_block=2, vision_zoom=True, mask="bias")
    prompts = replace(config.prompts, think_tokens=50, reread=True)
    return replace(config, expert=expert, prompts=prompts)


# Nine questions for a caption, one of which is drawn each time (appendix E.1); in our own words.
CAPTIONS = (
    "Describe the scene without the robot.",
    "Which objects do you see? Leave the robot out.",
    "What is on the table? Do not mention the robot arm.",
    "Give a short account of the surroundings, but not of the robot.",
    "What does this place look like, apart from the robot?",
    "List what is here and where it stands. Ignore the robot.",
    "Tell me about everything in view except the robot.",
    "If the robot were not there, what would the picture show?",
    "Summarise the things around the robot, not the robot itself.",
)

# InstructVLA, section 3.1 and appendix E: Eagle2-2B, a 12-layer expert, DINOv2 ViT-L/14.
_BASE = InstructVLAConfig(
    preset="base",
    num_queries=64,
    expert_cameras=("front",),
    backbone=_eagle(448, (1152, 27, 16, 4304), (1536, 28, 12, 2, 8960), 151674, Eagle.chat),
    lora=LoraConfig(experts=("action",)),
    expert=_dinov2_expert(768, 12, 3072, (3072, 1536, 384), (1024, 24, 16, 4096)),
    # Act and think are what the released weights were trained with.
    prompts=PromptConfig(
        act="What action should the robot take to {instruction}?",
        think_suffix=" First answer my question.",
        motion_suffix=" Give both move primitive and action.",
        act_words="lower",
        think_words="given",
        captions=CAPTIONS,
    ),
)

# Everything of the paper's structure at a hundred million parameters, for measurements on a CPU.
_SMALL = replace(
    _BASE,
    preset="small",
    num_queries=32,
    backbone=_eagle(224, (384, 6, 6, 1536), (512, 12, 8, 2, 2048), 32000, ChatFormat()),
    lora=LoraConfig(experts=("action",), rank=32, alpha=64.0),
    expert=_dinov2_expert(384, 6, 1536, (1536, 768, 192), (384, 6, 6, 1536)),
    prompts=PromptConfig(),
)

_NAMED = (
    _BASE,
    replace(with_state(_BASE), preset="base_state"),
    replace(with_two_cameras(_BASE), preset="base_two_cameras"),
    replace(with_language_expert(_BASE), preset="base_generalist"),
    replace(as_published(_BASE), preset="published"),
    replace(as_published(with_two_cameras(_BASE)), preset="published_two_cameras"),
    _SMALL,
)

PRESETS = {
    **{config.preset: config for config in _NAMED},
    # The shipped policy: real time on two CPU cores.
    "nano": InstructVLAConfig(preset="nano", backbone=NANO),
    # Seconds to build and run: tests of nodes and tools.
    "test": InstructVLAConfig(
        preset="test",
        num_queries=4,
        backbone=small_internvl(96, 24, (32, 1, 2, 64), (32, 1, 2, 1, 64), 512),
        expert=ActionExpertConfig(
            vision_width=32,
            vision_layers=1,
            vision_heads=2,
            vision_mlp=96,
            width=32,
            layers=1,
            heads=2,
            mlp=64,
            head_widths=(256, 128),
        ),
    ),
}
