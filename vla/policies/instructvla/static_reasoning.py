"""The vision-language part with all shapes known beforehand: what can be compiled and recorded.

A prompt is padded on the left to one of a few lengths. It is read into a memory of a fixed size,
which each generated token, and then the action queries, extend. The state of a text is on the
device, and the host reads the tokens a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vla.policies.backbones.base import TokenCache
from vla.policies.backbones.static_cache import KeyValueMemory, StaticCache
from vla.policies.compiled import compiled
from vla.policies.config import CheckpointError
from vla.policies.images import to_device
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.sequence import IMAGE

# Lengths of prompts: these many tokens more than the shortest has.
ROOM = (32, 96, 224)
# Tokens that are generated before the host looks for the end of the text.
TOKENS_AT_ONCE = 8


@dataclass
class StaticPrefill:
    """What was read last; the next reading overwrites it."""

    passes: StaticReasoning
    length: int  # tokens of the padded prompt, and of the text so far


class StaticReasoning:
    """Passes of a ReasoningModel, one row at a time.

    It has one memory, so that a reading is over with the next one, or with act().
    """

    def __init__(
        self, model: ReasoningModel, mode: str, shortest: int, images: torch.Size, longest_text: int
    ):
        """mode: see vla.policies.compiled. shortest: tokens of the shortest prompt with queries.

        images: shape [N, 3, H, W] of a prompt's. longest_text: most tokens of an answer.
        Raises CheckpointError for a backbone that has no such passes.
        """
        backbone = model.backbone
        if not backbone.takes_any_mask:
            raise CheckpointError(
                f"compile: the passes of backbone '{model.config.backbone.kind}' depend on what "
                "they read; use 'none'"
            )
        self.model, self.images, self.queries = model, images, model.config.num_queries
        self.lengths = tuple(_rounded(shortest + room) for room in ROOM)
        self.longest_text = longest_text
        size = _rounded(self.lengths[-1] + longest_text + self.queries)
        self.adapted = KeyValueMemory(size)
        self.plain = KeyValueMemory(size) if backbone.lora.gate == "two_pass" else None
        device = self.device = model.query_embedding.device
        self.numbers = torch.arange(size, device=device)
        # Of the reading: places before the prompt, place and position of the next token, final
        # hidden state of the last one, and the tokens that were generated, at their places.
        self.padding = torch.zeros(1, dtype=torch.long, device=device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.hidden = model.query_embedding.detach().new_zeros(1, model.config.backbone.width)
        self.tokens = torch.zeros(size, dtype=torch.long, device=device)
        self._read = compiled(self.read_prompt, mode)
        self._step = compiled(self.next_token, mode)
        self._act = compiled(self.query, mode)

    def takes(self, images: torch.Tensor, tokens: Sequence[int]) -> bool:
        """Whether a prompt with images [N, 3, H, W] fits."""
        return images.shape == self.images and len(tokens) <= self.lengths[-1]

    @torch.no_grad()
    def warm_up(self) -> Iterator[str]:
        """Runs every pass, which compiles it, and says which one it ran."""
        images = torch.zeros(self.images, dtype=torch.uint8, device=self.device)
        for length in self.lengths:
            ids, padding = self._blank_prompt(length)
            if not self.adapted.keys:
                # Transformers changes its modules in their first pass, and the memory is set aside.
                self.read_prompt(images, ids, padding)
            self._read(images, ids, padding)
            yield f"prompts of {length} tokens"
        self._step()
        yield "tokens of a text"
        self._act()
        yield "a latent action on a text"

    def _blank_prompt(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.images[0] * self.model.config.backbone.image_tokens
        ids = torch.zeros(1, length, dtype=torch.long)
        ids[:, :count] = IMAGE
        return ids.to(self.device), torch.zeros(1, dtype=torch.long, device=self.device)

    def read(self, images: torch.Tensor, tokens: Sequence[int]) -> StaticPrefill:
        """Reads a prompt with its images [N, 3, H, W]."""
        self._prompt(images, tokens)
        return StaticPrefill(self, self._length(tokens))

    def act(self, images: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """Latent actions [1, Q, D] of a prompt that ends with all queries."""
        return self._prompt(images, tokens)

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
                self.position.sub_(count - ends[0])
                text += said[: ends[0]]
                break
            text += said
        prefill.length = start + len(text)
        return text

    @torch.no_grad()
    def latent_action(self) -> torch.Tensor:
        """Latent actions [1, Q, D]: all queries in one pass behind the text."""
        return self._act()

    def _length(self, tokens: Sequence[int]) -> int:
        return next(length for length in self.lengths if length >= len(tokens))

    @torch.no_grad()
    def _prompt(self, images: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        padding = self._length(tokens) - len(tokens)
        values = torch.tensor([padding, *[0] * padding, *tokens])
        values = to_device(values, self.device)
        return self._read(images, values[None, 1:], values[:1])

    # The passes: tensors in, tensors out.

    def read_prompt(
        self, images: torch.Tensor, ids: torch.Tensor, padding: torch.Tensor
    ) -> torch.Tensor:
        """Final hidden states [1, Q, D] of the last tokens of ids [1, T]; starts a reading.

        padding [1]: how many of the tokens are none.
        """
        length, backbone = ids.shape[1], self.model.backbone
        keys = self.numbers[:length]
        present = keys >= padding  # [T]
        # What is no token attends to itself: an attention to nothing is not a number.
        allowed = (keys <= keys[:, None]) & present | (keys == keys[:, None])
        positions = backbone.positions(ids == IMAGE, present[None].long())
        hidden = backbone.run(
            self.model.embed(ids),
            positions,
            allowed[None, None],
            self._cache(None),
            images=self.model.see(images, ids),
        )
        self.padding.copy_(padding)
        self.place.fill_(length)
        self.position.copy_(positions.amax(keepdim=True).view(1) + 1)
        self.hidden.copy_(hidden[:, -1])
        return hidden[:, -self.queries :]

    def next_token(self) -> None:
        """Adds the most likely token to the text."""
        token = self.model.logits(self.hidden).argmax(dim=-1)  # [1]
        self.tokens.index_copy_(0, self.place, token)
        # Neither a query nor what follows the end of a text is ever read.
        word = token.clamp(max=self.model.config.backbone.vocabulary - 1)
        hidden = self._extend(self.model.backbone.embed_text(word[:, None]))
        self.hidden.copy_(hidden[:, -1])
        self.place.add_(1)
        self.position.add_(1)

    def query(self) -> torch.Tensor:
        """Final hidden states [1, Q, D] of the action queries behind the text."""
        return self._extend(self.model.query_embedding[None].to(self.hidden.dtype))

    def _extend(self, embeddings: torch.Tensor) -> torch.Tensor:
        steps = self.numbers[: embeddings.shape[1]]
        places, positions = self.place + steps, (self.position + steps)[None]
        allowed = (self.numbers <= places[:, None]) & (self.numbers >= self.padding)  # [T, size]
        backbone = self.model.backbone
        return backbone.run(
            embeddings, backbone.text_positions(positions), allowed[None, None], self._cache(places)
        )

    def _cache(self, places: torch.Tensor | None) -> TokenCache:
        plain = None if self.plain is None else StaticCache(self.plain, places)
        return TokenCache(StaticCache(self.adapted, places), plain)


def _rounded(length: int) -> int:
    """Up to a multiple of 8, which suits kernels."""
    return -(-length // 8) * 8
