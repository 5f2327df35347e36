"""What reads a window of features: an MLP, an LSTM or a GPT (RoboVLMs, section III.C).

Modules and weights are named as in the published checkpoints. All of them are causal: what stands
behind a frame, padding included, changes nothing for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model


class FcTrunk(nn.Module):
    """An MLP on each frame by itself."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, hidden)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, W, F] to [B, W, G]."""
        return self.mlp(features)


class LstmTrunk(nn.Module):
    """An LSTM over the window, which starts from an empty state."""

    def __init__(self, width: int, hidden: int, layers: int):
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, layers, batch_first=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, W, F] to [B, W, G]."""
        return self.rnn(features)[0]


class GptTrunk(nn.Module):
    """A GPT-2 over the window, with learned positions."""

    def __init__(
        self, width: int, hidden: int, layers: int, heads: int, window: int, dropout: float
    ):
        super().__init__()
        self.fc = nn.Linear(width, hidden) if width != hidden else nn.Identity()
        trunk: Any = GPT2Model(
            GPT2Config(
                vocab_size=1,
                n_positions=window,
                n_embd=hidden,
                n_layer=layers,
                n_head=heads,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        trunk.wte = nn.Identity()  # It reads features, no tokens.
        self.gpt = trunk

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, W, F] to [B, W, G]."""
        return self.gpt(inputs_embeds=self.fc(features)).last_hidden_state
