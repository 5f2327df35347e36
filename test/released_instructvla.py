"""A tiny InstructVLA of plain transformers modules, under the names of the released checkpoints.

It is what conversion is judged by: nothing of vla/policies runs here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vla.policies.config import LoraConfig
from vla.policies.instructvla.config import ActionExpertConfig, InstructVLAConfig
from vla.policies.instructvla.presets import PRESETS, as_published

QUERIES, WIDTH, SIDE = 3, 32, 28
HORIZON, ACTIONS = 16, 7
EXPERT, VISION, HEAD = 32, 24, (48, 24, 12)
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>")
SENTENCES = ("What action should the robot take to pick the can?", "You are a helpful assistant.")

SIGLIP = {
    "hidden_size": VISION,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": SIDE,
    "patch_size": 7,
}
QWEN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rope_theta": 1000000.0,
}


def tiny_preset(rows: int = 1) -> InstructVLAConfig:
    """The preset "published" with the sizes of this file. rows: of the vocabulary."""
    base = PRESETS["published"]
    backbone = replace(
        base.backbone,
        architecture={"vision_config": SIGLIP, "text_config": {**QWEN, "vocab_size": rows}},
        width=WIDTH,
        vocabulary=rows,
        image_size=SIDE,
        image_tokens=4,
    )
    expert = ActionExpertConfig(
        image_size=SIDE,
        vision="dinov2",
        patch=7,
        vision_width=VISION,
        vision_layers=4,
        vision_heads=2,
        vision_mlp=4 * VISION,
        keypoints=0,
        width=EXPERT,
        layers=2,
        heads=4,
        mlp=48,
        head_widths=HEAD,
        use_state=False,
    )
    lora = LoraConfig(experts=("action",), rank=4, alpha=8.0)
    config = replace(base, num_queries=QUERIES, backbone=backbone, expert=expert, lora=lora)
    return as_published(config)


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE with Eagle's special tokens at its end, without action queries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def mlp(*widths: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def shake(module: nn.Module) -> None:
    """Weights large enough for every one of them to matter."""
    for name, parameter in module.named_parameters():
        one = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
        parameter.copy_(torch.randn_like(parameter) * 0.15 + float(one))


class Language(nn.Module):
    """Eagle with LoRA adapters and, where there are two, their gate."""

    def __init__(self, rows: int, adapters: tuple[str, ...], rank: int = 4, tied: bool = False):
        super().__init__()
        self.adapters = adapters
        self.vision_model = SiglipVisionModel(SiglipVisionConfig(vision_use_head=False, **SIGLIP))
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(4 * VISION), *mlp(4 * VISION, WIDTH, WIDTH, activation=nn.GELU)
        )
        self.model = Qwen2ForCausalLM(
            Qwen2Config(vocab_size=rows, tie_word_embeddings=tied, **QWEN)
        ).eval()
        self.gate = mlp(WIDTH, 128, 128, 128, 2, activation=nn.ReLU)
        shake(self)
        self.lora: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.weights: torch.Tensor | None = None
        for name, layer in self.model.named_modules():
            if name.split(".")[-1] in ADAPTED and adapters:
                self.lora[name] = [
                    (
                        torch.randn(rank, layer.in_features) * 0.2,
                        torch.randn(layer.out_features, rank) * 0.2,
                    )
                    for _ in adapters
                ]
                layer.register_forward_hook(self._adapt(name))

    def _adapt(self, name: str):
        def hook(layer, arguments, output):
            if self.weights is None:
                return output
            for index, (lora_a, lora_b) in enumerate(self.lora[name]):
                scaled = arguments[0] * self.weights[..., index, None]
                output = output + 2.0 * scaled @ lora_a.T @ lora_b.T
            return output

        return hook

    @torch.no_grad()
    def image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        """4 tokens [4, D] of an image [3, S, S]: each 2 x 2 patches, row by row."""
        pixels = (image[None].float() / 255.0 - 0.5) / 0.5
        patches = self.vision_model(pixels).last_hidden_state.view(4, 4, VISION)
        merged = [
            torch.cat([patches[2 * y + dy, 2 * x + dx] for dy in range(2) for dx in range(2)])
            for y in range(2)
            for x in range(2)
        ]
        return self.mlp1(torch.stack(merged))

    @torch.no_grad()
    def hidden(self, ids: list[int], image: torch.Tensor, image_id: int) -> torch.Tensor:
        """Final hidden states [T, D] of one sequence."""
        tokens = torch.tensor(ids)
        embeddings = self.model.get_input_embeddings()(tokens)
        embeddings[tokens == image_id] = self.image_tokens(image)
        embeddings = embeddings[None]
        self.weights = None
        plain = self.model.model(inputs_embeds=embeddings).last_hidden_state
        if not self.adapters:
            return plain[0]
        if len(self.adapters) == 2:
            self.weights = self.gate(plain).softmax(dim=-1)
        else:
            self.weights = torch.ones(1, len(ids), 1)
        return self.model.model(inputs_embeds=embeddings).last_hidden_state[0]

    def groups(self) -> dict[str, dict[str, torch.Tensor]]:
        """Its tensors as a released checkpoint names them."""
        prefix = {0: "", 1: "base_model.model.", 2: "base_model.lora_model.model."}[
            len(self.adapters)
        ]
        language = {}
        for name, value in self.model.state_dict().items():
            path, _, leaf = name.rpartition(".")
            inside = f"{path}.base_layer.{leaf}" if path in self.lora else name
            language[prefix + inside] = value
        for path, pairs in self.lora.items():
            for adapter, (lora_a, lora_b) in zip(self.adapters, pairs, strict=True):
                language[f"{prefix}{path}.lora_A.{adapter}.weight"] = lora_a
                language[f"{prefix}{path}.lora_B.{adapter}.weight"] = lora_b
        if len(self.adapters) == 2:
            # Dropout between the layers, which mlp() above leaves out.
            for index, layer in enumerate(self.gate[::2]):
                for leaf, value in layer.state_dict().items():
                    name = f"base_model.internal_xlora_classifier.layers.{3 * index}.{leaf}"
                    language[name] = value
        vision = {f"vision_model.{n}": v for n, v in self.vision_model.state_dict().items()}
        vision["vision_model.head.probe"] = torch.zeros(1, 1, VISION)
        return {
            "vision_model": vision,
            "language_model": language,
            "mlp1": dict(self.mlp1.state_dict()),
        }


class Action(nn.Module):
    """The action model: a Llama, a DINOv2 with FiLM, projectors and a head."""

    def __init__(self, state_size: int | None = None, cameras: int = 1):
        super().__init__()
        self.cameras = cameras
        self.llama = LlamaModel(
            LlamaConfig(
                hidden_size=EXPERT,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                rope_theta=1000.0,
                rms_norm_eps=1e-6,
                vocab_size=2,
                attn_implementation="eager",
            )
        ).eval()
        self.dinov2 = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=VISION,
                num_hidden_layers=4,
                num_attention_heads=2,
                image_size=SIDE,
                patch_size=7,
            )
        ).eval()
        self.scale = nn.ModuleList(nn.Linear(WIDTH, VISION) for _ in range(4))
        self.shift = nn.ModuleList(nn.Linear(WIDTH, VISION) for _ in range(4))
        self.visual_projector = mlp(VISION, EXPERT, EXPERT)
        self.cog_projector = mlp(WIDTH, EXPERT, EXPERT)
        self.state_embed = mlp(state_size, EXPERT, EXPERT) if state_size else None
        self.linear_1 = nn.Linear(ACTIONS, EXPERT)
        self.linear_2 = nn.Linear(2 * EXPERT, EXPERT)
        self.linear_3 = nn.Linear(EXPERT, EXPERT)
        self.action_head = mlp(HORIZON * EXPERT, *HEAD, HORIZON * ACTIONS)
        shake(self)
        with torch.no_grad():
            # timm's class token of this model has no position of its own.
            self.dinov2.embeddings.position_embeddings[:, 0] = 0.0

    def vision(self, images: torch.Tensor, latent: torch.Tensor, block: int) -> torch.Tensor:
        """Patch tokens [N, 16, D] of standardised images [N, 3, S, S] after a block."""
        condition = latent.mean(dim=1).repeat_interleave(len(images) // len(latent), 0)
        x = self.dinov2.embeddings(images)
        for index, layer in enumerate(self.dinov2.encoder.layer[: block + 1]):
            x = x + layer.layer_scale1(layer.attention(layer.norm1(x))[0])
            gamma, beta = self.scale[index](condition), self.shift[index](condition)
            x = x * (1 + gamma[:, None]) + beta[:, None]
            x = x + layer.layer_scale2(layer.mlp(layer.norm2(x)))
        return x[:, 5:]

    def mask(self, kind: str, vision: int, context: int) -> torch.Tensor:
        """What is added to attention, [1, 1, T, T]."""
        total = context + HORIZON
        seen = torch.ones(total, total)
        if kind != "full":
            seen[:vision, vision:] = 0
            seen[vision:context, context:] = 0
        if kind == "separate":
            seen[vision:context, :vision] = 0
        if kind == "bias":
            return seen[None, None]
        return torch.where(seen > 0, 0.0, torch.finfo(torch.float32).min)[None, None]

    @torch.no_grad()
    def velocity(
        self,
        images: torch.Tensor,
        latent: torch.Tensor,
        state: torch.Tensor | None,
        x: torch.Tensor,
        times: torch.Tensor,
        kind: str,
        block: int = 2,
    ) -> torch.Tensor:
        """Velocity [B, H, A] at points x [B, H, A]; images standardised, [B * C, 3, S, S]."""
        batch = len(x)
        visual = self.vision(images, latent, block).unflatten(0, (batch, self.cameras))
        # Patch by patch, each with all cameras.
        visual = torch.stack(
            [visual[:, camera, patch] for patch in range(16) for camera in range(self.cameras)], 1
        )
        parts = [self.visual_projector(visual), self.cog_projector(latent)]
        if self.state_embed is not None:
            parts.append(self.state_embed(state)[:, None])
        half = EXPERT // 2
        rates = torch.tensor([math.exp(-math.log(100.0) * i / (half - 1)) for i in range(half)])
        time = torch.cat([(times[:, None] * rates).sin(), (times[:, None] * rates).cos()], dim=-1)
        time = time[:, None].expand(-1, HORIZON, -1)
        actions = self.linear_2(torch.cat([time, self.linear_1(x)], dim=-1))
        parts.append(self.linear_3(F.silu(actions)))
        tokens = torch.cat(parts, dim=1)
        mask = self.mask(kind, visual.shape[1], tokens.shape[1] - HORIZON)
        hidden = self.llama(
            inputs_embeds=tokens, attention_mask=mask.expand(batch, -1, -1, -1)
        ).last_hidden_state
        return self.action_head(hidden[:, -HORIZON:].flatten(1)).view(batch, HORIZON, ACTIONS)

    def group(self) -> dict[str, torch.Tensor]:
        """Its tensors as a released checkpoint names them."""
        named = {}
        for name, value in self.state_dict().items():
            part, _, rest = name.partition(".")
            if part == "llama" and rest != "embed_tokens.weight":
                named[f"VideoGPT.model.{rest}"] = value
            elif part.startswith("linear_"):
                named[f"action_embed.{name}"] = value
            elif part in ("visual_projector", "cog_projector", "state_embed", "action_head"):
                named[name] = value
        return named | {
            f"film_vision_model.vision_model.{name}": value for name, value in self._timm().items()
        }

    def _timm(self) -> dict[str, torch.Tensor]:
        own = self.dinov2.state_dict()
        named = {
            "cls_token": own["embeddings.cls_token"],
            "reg_token": own["embeddings.register_tokens"],
            "pos_embed": own["embeddings.position_embeddings"][:, 1:],
        }
        for leaf in ("weight", "bias"):
            named[f"patch_embed.proj.{leaf}"] = own[
                f"embeddings.patch_embeddings.projection.{leaf}"
            ]
            named[f"norm.{leaf}"] = own[f"layernorm.{leaf}"]
            for index in range(4):
                theirs, ours = f"blocks.{index}.block", f"encoder.layer.{index}"
                qkv = [own[f"{ours}.attention.{part}_proj.{leaf}"] for part in "qkv"]
                named[f"{theirs}.attn.qkv.{leaf}"] = torch.cat(qkv)
                named[f"{theirs}.attn.proj.{leaf}"] = own[f"{ours}.attention.o_proj.{leaf}"]
                for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    named[f"{theirs}.{part}.{leaf}"] = own[f"{ours}.{part}.{leaf}"]
                for side in "12":
                    named[f"{theirs}.ls{side}.gamma"] = own[f"{ours}.layer_scale{side}.lambda1"]
                for film in ("scale", "shift"):
                    value = getattr(self, film)[index].state_dict()[leaf]
                    named[f"blocks.{index}.{film}.{leaf}"] = value
        return named


def with_query_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as the authors extend it: action queries behind all its tokens."""
    extended = Tokenizer.from_str(tokenizer.to_str())
    extended.add_tokens([AddedToken(f"<new_token_{index}>") for index in range(QUERIES)])
    return extended
