"""The layout of the released checkpoints of InstructVLA at full size, on the meta device."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2ForCausalLM

from vla.policies.registry import preset


def released_shapes(adapters: tuple[str, ...], state: int) -> dict[str, dict]:
    """The tensors of a released checkpoint; state: how many values it takes, 0 for none."""
    config = preset("base")
    text, rows = config.backbone.architecture["text_config"], 151674 + 64
    with torch.device("meta"):
        qwen = Qwen2ForCausalLM(Qwen2Config(**{**text, "vocab_size": rows})).state_dict()
        llama = LlamaModel(
            LlamaConfig(
                hidden_size=768,
                num_hidden_layers=12,
                num_attention_heads=12,
                intermediate_size=3072,
                vocab_size=2,
            )
        ).state_dict()
    prefix = {1: "base_model.model.", 2: "base_model.lora_model.model."}[len(adapters)]
    language = {}
    for name, value in qwen.items():
        path, _, leaf = name.rpartition(".")
        last = path.split(".")[-1]
        if last in ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"):
            language[f"{prefix}{path}.base_layer.{leaf}"] = value
            for adapter in adapters if leaf == "weight" else ():
                out, size = value.shape
                language[f"{prefix}{path}.lora_A.{adapter}.weight"] = meta(128, size)
                language[f"{prefix}{path}.lora_B.{adapter}.weight"] = meta(out, 128)
        else:
            language[prefix + name] = value
    if len(adapters) == 2:
        gate = "base_model.internal_xlora_classifier.layers."
        language |= layer(f"{gate}0", 128, 1536) | layer(f"{gate}3", 128, 128)
        language |= layer(f"{gate}6", 128, 128) | layer(f"{gate}9", 2, 128)
    action = {f"VideoGPT.model.{n}": v for n, v in llama.items() if n != "embed_tokens.weight"}
    for name, size in (("visual_projector", 1024), ("cog_projector", 1536)):
        action |= layer(f"{name}.0", 768, size) | layer(f"{name}.2", 768, 768)
    if state:
        action |= layer("state_embed.0", 768, state) | layer("state_embed.2", 768, 768)
    action |= layer("action_embed.linear_1", 768, 7) | layer("action_embed.linear_2", 768, 1536)
    action |= layer("action_embed.linear_3", 768, 768)
    widths = (12288, 3072, 1536, 384, 112)
    for index in range(4):
        action |= layer(f"action_head.{2 * index}", widths[index + 1], widths[index])
    vit = "film_vision_model.vision_model"
    action |= {f"{vit}.cls_token": meta(1, 1, 1024), f"{vit}.reg_token": meta(1, 4, 1024)}
    action |= {f"{vit}.pos_embed": meta(1, 256, 1024)} | layer(f"{vit}.norm", 1024)
    action |= {f"{vit}.patch_embed.proj.weight": meta(1024, 3, 14, 14)}
    action |= {f"{vit}.patch_embed.proj.bias": meta(1024)}
    for index in range(24):
        block = f"{vit}.blocks.{index}"
        action |= layer(f"{block}.scale", 1024, 1536) | layer(f"{block}.shift", 1024, 1536)
        block += ".block"
        action |= layer(f"{block}.norm1", 1024) | layer(f"{block}.norm2", 1024)
        action |= layer(f"{block}.attn.qkv", 3072, 1024) | layer(f"{block}.attn.proj", 1024, 1024)
        action |= layer(f"{block}.mlp.fc1", 4096, 1024) | layer(f"{block}.mlp.fc2", 1024, 4096)
        action |= {f"{block}.ls1.gamma": meta(1024), f"{block}.ls2.gamma": meta(1024)}
    vision = layer("vision_model.post_layernorm", 1152)
    vision |= {"vision_model.embeddings.patch_embedding.weight": meta(1152, 3, 14, 14)}
    vision |= {"vision_model.embeddings.patch_embedding.bias": meta(1152)}
    vision |= {"vision_model.embeddings.position_embedding.weight": meta(1024, 1152)}
    for index in range(27):
        block = f"vision_model.encoder.layers.{index}"
        vision |= layer(f"{block}.layer_norm1", 1152) | layer(f"{block}.layer_norm2", 1152)
        vision |= layer(f"{block}.mlp.fc1", 4304, 1152) | layer(f"{block}.mlp.fc2", 1152, 4304)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            vision |= layer(f"{block}.self_attn.{part}", 1152, 1152)
    connector = layer("0", 4608) | layer("1", 1536, 4608) | layer("3", 1536, 1536)
    return {
        "vision_model": vision,
        "language_model": language,
        "mlp1": connector,
        "action_model": action,
    }


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def layer(name: str, *shape: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": meta(*shape), f"{name}.bias": meta(shape[0])}
