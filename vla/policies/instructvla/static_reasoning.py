"""The vision-language part with all shapes known beforehand: what can be compiled and recorded.

A prompt is padded at its end to one of a few lengths: no token attends to what follows it. Where a
text is to be generated, the prompt is read into a memory of a fixed size, which each token, and
then the action queries, extend. The state of a text is on the device, and the host reads the tokens
a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vla.policies.backbones.base import TokenCache
from vla.policies.backbones.grouped_attention import group_queries
from vla.policies.backbones.static_cache import KeyValueMemory, StaticCache
from vla.policies.compiled import compiled
from vla.policies.config import CheckpointError
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.padded_prompts import padded_prompt, prompt_lengths, rounded
from vla.policies.sequence import IMAGE

# Tokens that are generated before the host looks for the end of the text.
TOKENS_AT_ONCE = 8


@dataclass
class StaticPrefill:
    """What was read last; the next reading overwrites it."""

    passes: StaticReasoning
    length: int  # tokens of the padded prompt, and of the text so far


class StaticReasoning:
    """Passes of a ReasoningModel, one row at a time.

    It has one memory, so that a text is over when the next prompt is read.
    """

    def __init__(
        self, model: ReasoningModel, mode: str, shortest: int, images: torch.Size, longest_text: int
    ):
        """mode: see vla.policies.compiled. shortest: tokens of the shortest prompt with queries.

        images: shape [N, 3, H, W] of a prompt's. longest_text: most tokens of an answer.
        Raises CheckpointError for a backbone that has no such passes.
        """
        backbone = model.backbone
        if not backbone.takes_masks_as_given:
            raise CheckpointError(
                f"compile: the passes of backbone '{model.config.backbone.kind}' depend on what "
                "they read; use 'none'"
            )
        group_queries(backbone.language_model)
        self.model, self.images, self.queries = model, images, model.config.num_queries
        self.lengths = prompt_lengths(shortest)
        self.longest_text = longest_text
        size = rounded(self.lengths[-1] + longest_text + self.queries)
        self.adapted = KeyValueMemory(size)
        self.plain = KeyValueMemory(size) if backbone.lora.gate == "two_pass" else None
        device = self.device = model.query_embedding.device
        self.numbers = torch.arange(size, device=device)
        # Of a text: the next token's place, which is its position, the last one's final hidden
        # state, and the tokens that were generated, at their places.
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.hidden = model.query_embedding.detach().new_zeros(1, model.config.backbone.width)
        self.tokens = torch.zeros(size, dtype=torch.long, device=device)
        self._act = compiled(self.act_on_prompt, mode)
        self._read = compiled(self.read_prompt, mode)
        self._step = compiled(self.next_token, mode)
        self._query = compiled(self.query, mode)

    def takes(self, images: torch.Tensor, tokens: Sequence[int]) -> bool:
        """Whether a prompt with images [N, 3, H, W] fits."""
        return images.shape == self.images and len(tokens) <= self.lengths[-1]

    @torch.no_grad()
    def warm_up(self) -> Iterator[str]:
        """Runs every pass, which compiles it, and says which one it ran."""
        images = torch.zeros(self.images, dtype=torch.uint8, device=self.device)
        places = self.images[0] * self.model.config.backbone.image_tokens
        for length in self.lengths:
            prompt = self._padded([IMAGE] * places + [0] * (length - places))
            self._act(images, *prompt)
            yield f"latent actions of prompts of {length} tokens"
            self._read(images, *prompt)
            yield f"prompts of {length} tokens that are answered"
        self._step()
        yield "tokens of a text"
        self._query()
        yield "latent actions on a text"

    @torch.no_grad()
    def read(self, images: torch.Tensor, tokens: Sequence[int]) -> StaticPrefill:
        """Reads a prompt with its images [N, 3, H, W], so that it can be answered."""
        self._read(images.contiguous(), *self._padded(tokens))
        return StaticPrefill(self, len(tokens))

    @torch.no_grad()
    def act(self, images: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """Latent actions [1, Q, D] of a prompt that ends with all queries."""
        return self._act(images.contiguous(), *self._padded(tokens))

    @torch.no_grad()
    def generate(self, prefill: StaticPrefill, stop_ids: set[int], limit: int) -> list[int]:
        """As ReasoningModel.generate, of one row; the text is cut at `longest_text`."""
        limit = min(limit, self.longest_text)
        text: list[int] = []
        start, vocabulary = prefill.length, self.model.config.backbone.vocabulary
        while len(text) < limit:
            count = min(TOKENS_AT_ONCE, limit - len(text))
            for _ in range(count):
                self._step()
            first = start + len(text)
            said = self.tokens[first : first + count].tolist()
            ends = [i for i, token in enumerate(said) if token in stop_ids or token >= vocabulary]
            if ends:
                # The next tokens go where those behind the end went.
                self.place.sub_(count - ends[0])
                text += said[: ends[0]]
                break
            text += said
        prefill.length = start + len(text)
        return text

    @torch.no_grad()
    def latent_action(self) -> torch.Tensor:
        """Latent actions [1, Q, D]: all queries in one pass behind the text."""
        return self._query()

    def _padded(self, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return padded_prompt(tokens, self.lengths, self.device)

    # The passes: tensors in, tensors out.

    def act_on_prompt(
        self, images: torch.Tensor, ids: torch.Tensor, count: torch.Tensor
    ) -> torch.Tensor:
        """Final hidden states [1, Q, D] of the last of ids [1, T] that are tokens, `count` [1]."""
        hidden = self._run_prompt(images, ids, None)
        return hidden.index_select(1, count - self.queries + self.numbers[: self.queries])

    def read_prompt(self, images: torch.Tensor, ids: torch.Tensor, count: torch.Tensor) -> None:
        """Starts a text behind the first `count` [1] of ids [1, T]."""
        hidden = self._run_prompt(images, ids, self._cache(None))
        self.hidden.copy_(hidden.index_select(1, count - 1)[:, 0])
        self.place.copy_(count)

    def next_token(self) -> None:
        """Adds the most likely token to the text."""
        token = self.model.logits(self.hidden).argmax(dim=-1)  # [1]
        self.tokens.index_copy_(0, self.place, token)
        # Neither a query nor what follows the end of a text is ever read.
        word = token.clamp(max=self.model.config.backbone.vocabulary - 1)
        hidden = self._extend(self.model.backbone.embed_text(word[:, None]))
        self.hidden.copy_(hidden[:, -1])
        self.place.add_(1)

    def query(self) -> torch.Tensor:
        """Final hidden states [1, Q, D] of the action queries behind the text."""
        return self._extend(self.model.query_embedding[None].to(self.hidden.dtype))

    def _run_prompt(
        self, images: torch.Tensor, ids: torch.Tensor, cache: TokenCache | None
    ) -> torch.Tensor:
        positions, seen = self.numbers[None, : ids.shape[1]], self.model.see(images, ids)
        embeddings = self.model.embed(ids)
        return self.model.backbone.run(embeddings, positions, None, cache, images=seen)

    def _extend(self, embeddings: torch.Tensor) -> torch.Tensor:
        places = self.place + self.numbers[: embeddings.shape[1]]
        hides = self.numbers > places[:, None]  # [T, size]
        mask = torch.zeros_like(hides, dtype=self.hidden.dtype).masked_fill(hides, float("-inf"))
        cache = self._cache(places)
        return self.model.backbone.run(embeddings, places[None], mask[None, None], cache)

    def _cache(self, places: torch.Tensor | None) -> TokenCache:
        plain = None if self.plain is None else StaticCache(self.plain, places)
        return TokenCache(StaticCache(self.adapted, places), plain)
