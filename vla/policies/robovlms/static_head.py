"""The policy head of a RoboVLM with all shapes known beforehand: a pass that can be compiled.

Its trunk is causal, so that a window is padded behind its frames to the whole of its slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vla.policies.compiled import compiled
from vla.policies.robovlms.model import PolicyHead


class StaticHead:
    """Chunks of windows of frames' features, however many of a window's slots are filled."""

    def __init__(self, head: PolicyHead, window: int, mode: str):
        """window: slots. mode: see vla.policies.compiled."""
        self._head, self._window = head, window
        self._run = compiled(self.chunks, mode)

    @torch.no_grad()
    def warm_up(self, used: torch.Tensor) -> Iterator[str]:
        """Runs the head once, which compiles it. used: bool [1, A]."""
        self([used.new_zeros(1, self._head.width)], self._head.output.draw(1), used)
        yield "the policy head"

    def __call__(
        self, windows: Sequence[torch.Tensor], noise: torch.Tensor | None, used: torch.Tensor
    ) -> torch.Tensor:
        """Chunks [B, H, A] of windows [n, F], newest frame last; the rest as of chunks()."""
        like = next(self._head.parameters())
        features = pad_sequence(list(windows), batch_first=True).to(like.dtype)
        features = F.pad(features, (0, 0, 0, self._window - features.shape[1]))
        last = torch.tensor([len(own) - 1 for own in windows], device=features.device)
        if noise is not None:
            noise = noise.to(features.device)
        return self._run(features, last, noise, used)

    def chunks(
        self,
        features: torch.Tensor,
        last: torch.Tensor,
        noise: torch.Tensor | None,
        used: torch.Tensor,
    ) -> torch.Tensor:
        """Chunks [B, H, A] of features [B, W, F], the newest at last [B].

        noise [B, H, A]: of outputs that start from some. used: bool [B, A].
        """
        hidden = self._head.trunk(features)
        newest = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        return self._head.output.from_noise(newest, noise, used)
