"""What the reference outputs of InstructVLA in test/data/instructvla.npz were computed from.

Weights, tokenizer and camera frames follow rules, so that the file holds only names, shapes and
outputs. Needs numpy and tokenizers alone: the authors' environment imports it, too.
"""

from __future__ import annotations

import zlib

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

QUERIES, WIDTH, VISION, EXPERT = 8, 32, 24, 32
SPECIAL = ("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>")
SIGLIP = {
    "hidden_size": VISION,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 448,
    "patch_size": 14,
}
QWEN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rope_theta": 1000000.0,
}
LLAMA = {"hidden_size": EXPERT, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"intermediate_size": 48, "num_key_value_heads": 4, "rope_theta": 1000.0}
DINOV2 = {"embed_dim": VISION, "depth": 5, "num_heads": 2, "patch_size": 14}


def reference_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor of that name: normal draws of PCG64, seeded by the CRC-32 of the name.

    Norms and FiLM stay near one; the deviation of a matrix is 1.5 / sqrt(its inputs).
    """
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        one = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma"))
        one |= name.endswith(("layernorm.weight", "layer_norm1.weight", "layer_norm2.weight"))
        return values * np.float32(0.1) + np.float32(one)
    if "embed" in name or "token" in name or "lm_head" in name:
        return values * np.float32(0.5)
    return values * np.float32(1.5 / np.sqrt(np.prod(shape[1:])))


def reference_frame(width: int, height: int) -> np.ndarray:
    """A camera frame uint8 [H, W, 3]: coarse and fine noise, sharp edges and single bright pixels.

    Each counts where two ways of resampling differ.
    """
    generator = np.random.Generator(np.random.PCG64(width * height))
    coarse = generator.integers(0, 256, (-(-height // 40), -(-width // 40), 3))
    frame = np.kron(coarse, np.ones((40, 40, 1), np.int64))[:height, :width]
    frame = frame + generator.integers(-20, 21, frame.shape)
    frame[height // 3 : height // 2, width // 4 : width // 2] = (
        255
        * (np.indices((height // 2 - height // 3, width // 2 - width // 4)).sum(0) % 2)[..., None]
    )
    frame[generator.random((height, width)) < 0.01] = 255
    return np.clip(frame, 0, 255).astype(np.uint8)


def reference_tokenizer() -> Tokenizer:
    """Bytes, two spaces as one token as in Qwen2's, and Eagle's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "ĠĠ"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return tokenizer


# What was computed: the variant, the camera frame's width and height, the words. A response is what
# the policy said before.
CASES = (
    {"name": "expert", "stage": "stage1", "state": False, "frame": (640, 480)}
    | {"instruction": "put the carrot on the plate."},
    {"name": "expert_upright", "stage": "stage1", "state": True, "frame": (480, 640)}
    | {"instruction": "pick the can"},
    {"name": "generalist", "stage": "stage2", "state": True, "frame": (640, 480)}
    | {"instruction": "pick the can"},
    {"name": "generalist_thinks", "stage": "stage2", "state": True, "frame": (1280, 720)}
    | {"instruction": "Could you hand me the Coke?", "response": "Pick up the Coke. "}
    | {"generated": [196, 183, 140, 140, 83, 105, 44, 78, 128, 230, 61, 97]},
)
STATISTICS = {
    "action": {"q01": [-0.5] * 6 + [0.0], "q99": [0.5] * 6 + [1.0], "mask": [True] * 6 + [False]},
    "proprio": {"q01": [-1.0] * 8, "q99": [2.0] * 8},
}
