"""Text from elsewhere: what is refused at input, and how any text is shown or stored."""

from __future__ import annotations

import re

# Longest sentence of a log or a diagnostic, and longest value there, in characters.
LONGEST_LINE = 1000
LONGEST_VALUE = 500
LONGEST_NOTE = 10_000

# Invisible characters that change the visible ones: control characters, line and paragraph
# separators, bidirectional overrides, zero-width characters, tags, lone surrogates and
# noncharacters. Joiners, which emoji and some scripts need, and direction marks are text.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u180e\u200b\u2028-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f"
)
_REFUSED = re.compile(f"[{_UNSEEN}]")


class TextError(ValueError):
    """A text that is refused; says which, why, and what to do."""


def check_text(text: str, what: str, most: int, lines: bool = False) -> str:
    """A text that the user gave, without surrounding space.

    what: its name in errors, such as "instruction". most: characters. Tabs become spaces, and so do
    line breaks unless `lines` allows them. Raises TextError where it is longer, or holds an
    invisible character.
    """
    text = text.strip()
    if len(text) > most:
        raise TextError(f"the {what} has {len(text)} characters: use at most {most}")
    text = re.sub("\r\n?", "\n", text).replace("\t", " ")
    if not lines:
        text = text.replace("\n", " ")
    if found := unseen_character(text):
        raise TextError(f"the {what} has {found}: leave it out, or type the text again")
    return text


def unseen_character(text: str) -> str:
    """Names the first invisible character; "" without one."""
    found = _REFUSED.search(text)
    if found is None:
        return ""
    return f"a character that cannot be seen (U+{ord(found[0]):04X}, number {found.start() + 1})"


def escape_unseen(text: str) -> str:
    r"""The text with \uXXXX for invisible characters; line breaks and tabs stay."""
    return _REFUSED.sub(lambda found: _escape(found[0]), text)


def one_line(text: object, most: int = 160) -> str:
    """A text, such as a library's error, as one line of at most `most` characters.

    For errors, logs, diagnostics and metadata; for values see brief() of vla.core.shown. White
    space becomes one space, invisible characters are escaped, and a longer text loses its middle:
    the end often says what to do.
    """
    text = str(text)
    length = len(text)
    # Work on what is shown alone: a text may have megabytes.
    begin, end = (text[: 2 * most], text[-2 * most :]) if length > 4 * most else (text, text)
    begin, end = (escape_unseen(" ".join(part.split())) for part in (begin, end))
    if length <= 4 * most and len(begin) <= most:
        return begin
    kept = most // 3
    cut = f" …({max(length, len(begin))} characters)… " if kept > 40 else "…"
    return begin[: most - kept - len(cut)] + cut + end[max(0, len(end) - kept) :]


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
