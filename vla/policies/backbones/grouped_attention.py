"""Attention of several query heads to one key head, without copies of keys and values.

Where a mask is given, transformers repeats keys and values for each query head. A compiled pass
would copy all of its memory so in every layer; here these heads are more queries to the same keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "vla_grouped"


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """[B, T, heads, d] of query [B, heads, T, d], key and value [B, key heads, N, d].

    attention_mask: [B, 1, T, N], added to scores; without one, transformers' own attention runs.
    """
    groups: int = getattr(module, "num_key_value_groups", 1)
    if groups == 1 or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **keywords
        )
    batch, heads, count, width = query.shape
    # The heads of a key head are neighbours.
    queries = query.reshape(batch, heads // groups, groups * count, width)
    mask = attention_mask if count == 1 else attention_mask.repeat(1, 1, groups, 1)
    found = F.scaled_dot_product_attention(queries, key, value, mask, dropout, scale=scaling)
    return found.reshape(batch, heads, count, -1).transpose(1, 2).contiguous(), None


def group_queries(language_model: nn.Module) -> None:
    """Has a decoder of transformers attend so from now on, in place."""
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    config: Any = language_model.config
    config._attn_implementation = GROUPED
