"""Backbones in tiny configurations, and what transformers makes of the same weights."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from vla.policies.backbones import KINDS, Backbone, Images, build_backbone
from vla.policies.backbones.sizes import tiny_text
from vla.policies.config import BackboneConfig
from vla.policies.sequence import IMAGE
from vla.policies.tokenizer import train_tokenizer

# An id that stands for image tokens in the inputs of transformers; text keeps clear of it.
PLACEHOLDER = 1
# The row of <image> of a tiny Idefics, behind 318 of its Llama and <fake_token_around_image>.
IDEFICS_TAG = 319


def variant(kind: str, **architecture) -> BackboneConfig:
    tiny = KINDS[kind].tiny()
    return replace(tiny, architecture=tiny.architecture | architecture)


CONFIGS = {kind: KINDS[kind].tiny() for kind in sorted(KINDS)} | {
    "paligemma 1": variant("paligemma", text_config=tiny_text(model_type="gemma", head_dim=8)),
    "idefics3": variant("smolvlm", model_type="idefics3"),
}

# Those that transformers has.
RELEASED = [name for name, config in CONFIGS.items() if KINDS[config.kind].model_types]

# Of the images of released models.
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def save_released(folder, name: str, tokenizer: bool = True, vocabulary: int = 300) -> str:
    """A model with random weights, its tokenizer and its preprocessor's values."""
    config = CONFIGS[name]
    torch.manual_seed(4)
    build_backbone(config).model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "do_normalize": True})
    )
    if tokenizer:
        fast = train_tokenizer(["pick up the red block"], vocabulary)
        fast.add_special_tokens([KINDS[config.kind].chat.end])
        PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    return str(folder)


def scene(config: BackboneConfig, rows: int = 2, after: int = 6) -> tuple[torch.Tensor, ...]:
    """Ids [B, T] of text, image, text, image, text; its images [2 B, 3, S, S]; its prefix.

    The last three tokens are an answer.
    """
    generator = torch.Generator().manual_seed(2)
    size = config.image_size
    images = torch.randint(0, 256, (2 * rows, 3, size, size), generator=generator)
    text = torch.randint(5, config.vocabulary, (rows, 3 + after), generator=generator)
    image = torch.full((rows, config.image_tokens), IMAGE)
    ids = torch.cat([text[:, :2], image, text[:, 2:3], image, text[:, 3:]], dim=1)
    prefix = torch.ones_like(ids, dtype=torch.bool)
    prefix[:, -3:] = False
    return ids, images.to(torch.uint8), prefix


def see(backbone: Backbone, ids: torch.Tensor, images: torch.Tensor) -> Images:
    return Images(backbone.encode_images(images), ids == IMAGE)


def hidden_states(
    backbone: Backbone,
    ids: torch.Tensor,
    images: torch.Tensor,
    prefix: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    positions = backbone.positions(ids == IMAGE, mask)
    seen = see(backbone, ids, images)
    return backbone.run(
        backbone.embed_text(ids.clamp(min=0)), positions, mask, prefix=prefix, images=seen
    )


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def transformers_logits(model, config: BackboneConfig, ids, images, prefix) -> torch.Tensor:
    """What transformers gives for the same scene, by its own way from ids and pixels to scores."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (config.image_mean, config.image_std)
    )
    pixels = (images / 255.0 - mean) / std
    is_image = ids == IMAGE
    inputs = {
        "input_ids": ids.masked_fill(is_image, PLACEHOLDER),
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
    }
    if config.kind == "eagle":
        # Its composition is made without a tokenizer's ids.
        model.config.image_token_id = PLACEHOLDER
    elif config.kind == "kosmos2":
        inputs["input_ids"] = ids.masked_fill(is_image, 5)
        inputs["image_embeds_position_mask"] = is_image
    elif config.kind == "paligemma":
        inputs["token_type_ids"] = (~prefix).long()
    elif config.kind == "idefics":
        seen = is_image.cumsum(-1)[..., None] > torch.arange(2)
        inputs["input_ids"] = ids.masked_fill(is_image, IDEFICS_TAG)
        inputs["image_attention_mask"] = seen.long()
        inputs["pixel_values"] = pixels.unflatten(0, (len(ids), -1))
    elif config.kind == "smolvlm":
        inputs["pixel_values"] = pixels.unflatten(0, (len(ids), -1))
    elif config.kind in ("qwen2_5_vl", "qwen3_vl"):
        processor = Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, size={"shortest_edge": 16, "longest_edge": 10_000}
        )
        seen = processor(
            [image.permute(1, 2, 0).numpy() for image in images],
            do_resize=False,
            image_mean=config.image_mean,
            image_std=config.image_std,
            return_tensors="pt",
        )
        inputs |= dict(seen, mm_token_type_ids=is_image.int())
    return model(**inputs).logits
