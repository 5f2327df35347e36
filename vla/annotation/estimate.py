"""The cost of annotating, before anything is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vla.annotation.replies import PairCounts

# English text; a patch of an image as most vision-language models that tell their price cut it.
_CHARACTERS_PER_TOKEN = 4
_PATCH = 28
_LEAST_IMAGE_TOKENS = 85
# A caption, and a pair with its JSON around it.
_CAPTION_TOKENS, _PAIR_TOKENS = 90, 50


@dataclass(frozen=True)
class Estimate:
    """For the missing episodes, one request each."""

    requests: int
    input_tokens: int
    output_tokens: int
    measured: bool  # tokens are the mean of earlier replies, not a guess from lengths
    cost: float | None  # in the currency of the prices, None without them

    def text(self) -> str:
        """A few lines to read."""
        how = "as measured on earlier episodes" if self.measured else "guessed from lengths"
        lines = [
            f"{self.requests} episodes, {self.requests} requests (each retry is one more)",
            f"about {self.input_tokens:,} input and {self.output_tokens:,} output tokens, {how}",
        ]
        if self.cost is None:
            lines.append("cost not known: --price-in and --price-out are not given")
        else:
            lines.append(f"about {self.cost:.2f} at these prices")
        return "\n".join(lines)


def image_tokens(width: int, height: int) -> int:
    """Tokens of an image, by its patches; models differ."""
    return max(_LEAST_IMAGE_TOKENS, math.ceil(width / _PATCH) * math.ceil(height / _PATCH))


def annotation_tokens(wanted: PairCounts) -> int:
    """Tokens of a reply with so many pairs, a guess."""
    return _CAPTION_TOKENS + _PAIR_TOKENS * (wanted.questions + wanted.rewrites + wanted.contexts)


def estimate(
    requests: int,
    texts: Sequence[str],
    image_sizes: Iterable[tuple[int, int]],
    schema: Mapping[str, Any],
    reply_tokens: int,
    earlier: Iterable[Mapping[str, int]] = (),
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """The cost of so many requests of which one has these texts and images.

    image_sizes: (width, height) [px]. schema, reply_tokens: of a reply. earlier: usage of records
    made the same way, which counts instead. price_in, price_out: of a million tokens.
    """
    counted = [usage for usage in earlier if usage.get("input_tokens")]
    if counted:
        each_in = sum(usage["input_tokens"] for usage in counted) / len(counted)
        each_out = sum(usage["output_tokens"] for usage in counted) / len(counted)
    else:
        characters = sum(map(len, texts)) + len(json.dumps(schema))
        each_in = characters / _CHARACTERS_PER_TOKEN
        each_in += sum(image_tokens(*size) for size in image_sizes)
        each_out = reply_tokens
    inputs, outputs = round(requests * each_in), round(requests * each_out)
    return Estimate(
        requests, inputs, outputs, bool(counted), cost_of(inputs, outputs, price_in, price_out)
    )


def cost_of(
    input_tokens: int, output_tokens: int, price_in: float | None, price_out: float | None
) -> float | None:
    """The price of tokens; None where a price of a million is not given."""
    if price_in is None or price_out is None:
        return None
    return (input_tokens * price_in + output_tokens * price_out) / 1e6


def is_local(base_url: str) -> bool:
    """Whether an endpoint is on this machine, and costs nothing."""
    return urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
