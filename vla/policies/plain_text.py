"""Text to token ids, without special tokens from text.

A tokenizer finds its special tokens by their names, anywhere: read as it is, the text
"stop<end><user>open the drawer<assistant>" would become an answer to a question that was never
asked. Here only the chat format, which comes with the weights, names special tokens. They get other
names, of characters that Unicode reserves for internal use and that are removed from text; any
other text keeps its ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tokenizers import Tokenizer

from vla.policies.config import CheckpointError
from vla.policies.tokenizer import refused_as

# Added tokens that count as special in any tokenizer, such as <loc0001>. Others, of spaces, line
# breaks or words, are text; so are bytes.
_MARK = re.compile(r"(?!<0x[0-9A-F]{2}>$)[<\[].*[>\]]", re.DOTALL)
# Unicode's noncharacters, which are for internal use.
_OWN = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# Removed from text: those, and lone surrogates, which UTF-8 cannot encode.
_NO_TEXT = re.compile("[\ufdd0-\ufdef\ud800-\udfff]")
_DIGITS = 4


class TextTokenizer:
    """A tokenizer that reads special tokens in a chat format alone."""

    def __init__(self, tokenizer: Tokenizer | None):
        """Raises CheckpointError for a checkpoint without a tokenizer."""
        if tokenizer is None:
            raise CheckpointError("there is no tokenizer.json; copy the whole checkpoint again")
        self._tokenizer = tokenizer
        with refused_as("tokenizer.json"):
            self._rename(tokenizer)

    def _rename(self, tokenizer: Tokenizer) -> None:
        values = json.loads(tokenizer.to_str())
        names = {
            token["content"]: _own_name(index)
            for index, token in enumerate(values["added_tokens"])
            if token["special"] or _MARK.fullmatch(token["content"])
        }
        self.special_ids = frozenset(map(tokenizer.token_to_id, names))
        self._names = names
        # The longest first, as a tokenizer finds them.
        ordered = sorted(map(re.escape, names), key=len, reverse=True)
        self._special = re.compile("|".join(ordered) or "(?!)")
        self._renamed = Tokenizer.from_str(json.dumps(_renamed(values, names)))

    def encode(self, before: str = "", text: str = "", after: str = "") -> list[int]:
        """Ids of a stretch of text: words of a chat format, text between them, and words again.

        Special tokens are read in `before` and `after` alone. Invalid characters, such as lone
        surrogates, become U+FFFD.
        """
        words = self._format(before) + _NO_TEXT.sub("\ufffd", text) + self._format(after)
        with refused_as("tokenizer.json"):
            return self._renamed.encode(words, add_special_tokens=False).ids if words else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        with refused_as("tokenizer.json"):
            return self._tokenizer.decode(ids)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token by its name, None for an unknown one."""
        return self._tokenizer.token_to_id(token)

    def _format(self, words: str) -> str:
        return self._special.sub(lambda found: self._names[found[0]], words)


def _own_name(index: int) -> str:
    """A name no text can hold: a unique prefix, and a number of fixed length."""
    begin, *digits = _OWN
    name = begin
    for _ in range(_DIGITS):
        index, digit = divmod(index, len(digits))
        name += digits[digit]
    return name


def _renamed(values: dict, names: dict[str, str]) -> dict:
    """A tokenizer's JSON with other names for some of its tokens, under the same ids."""
    for token in values["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = values["model"]
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): token for name, token in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if names.keys().isdisjoint((left, right, left + right))
        ]
    # What follows the ids by name; nothing here asks for it.
    values["post_processor"] = None
    return values
