"""Directions that an instruction names, and the same instruction for the opposite direction.

Only sentences that begin with a verb of motion count, so that "pick up the can" names none. Words
that say where a thing is don't count either: "the left button", "to the left of the can".
"""

from __future__ import annotations

import re

# Opposite directions along x, y and z of the base frame (REP 103: x forward, y left, z up).
AXES = {"x": ("forward", "backward"), "y": ("left", "right"), "z": ("up", "down")}

_MOTION_VERBS = (
    "move", "go", "carry", "transport", "translate", "push", "pull", "press", "slide", "shift",
    "drag", "bring",
)  # fmt: skip
# The direction that a word names, and the word for the opposite one.
_DIRECTED_VERBS = {"lift": ("up", "lower"), "raise": ("up", "lower"), "lower": ("down", "raise")}
_WORDS = {
    "forward": ("forward", "backward"),
    "forwards": ("forward", "backwards"),
    "backward": ("backward", "forward"),
    "backwards": ("backward", "forwards"),
    "back": ("backward", "forward"),
    "left": ("left", "right"),
    "leftward": ("left", "rightward"),
    "leftwards": ("left", "rightwards"),
    "right": ("right", "left"),
    "rightward": ("right", "leftward"),
    "rightwards": ("right", "leftwards"),
    "up": ("up", "down"),
    "upward": ("up", "downward"),
    "upwards": ("up", "downwards"),
    "down": ("down", "up"),
    "downward": ("down", "upward"),
    "downwards": ("down", "upwards"),
}
_DETERMINERS = ("the", "a", "an", "its", "your")
# After "to the left", these begin something else; any other word is what is on the left.
_FOLLOWING = (
    "and", "while", "toward", "towards", "until", "to", "by", "for", "in", "with", "without",
    "then", "slowly", "quickly", "slightly", "a",
)  # fmt: skip


def named_directions(instruction: str) -> list[str]:
    """The directions that an instruction names, each once, in its order; [] for none."""
    return list(dict.fromkeys(direction for _, direction, _ in _found(instruction)))


def opposite_instruction(instruction: str) -> str:
    """The instruction with each direction replaced by the opposite one."""
    parts, end = [], 0
    for word, _, opposite in _found(instruction):
        replaced = opposite.capitalize() if word[0][0].isupper() else opposite
        parts += [instruction[end : word.start()], replaced]
        end = word.end()
    return "".join([*parts, instruction[end:]])


def _found(instruction: str) -> list[tuple[re.Match[str], str, str]]:
    """Each word that names a direction, with the direction and the opposite word."""
    matches = list(re.finditer(r"[^\W\d_]+", instruction))
    words = [match[0].lower() for match in matches]
    first = 1 if words[:1] == ["please"] else 0
    verb = words[first] if len(words) > first else ""
    if verb not in _MOTION_VERBS and verb not in _DIRECTED_VERBS:
        return []
    found = []
    for number, (match, word) in enumerate(zip(matches, words, strict=True)):
        known = _WORDS.get(word)
        if number == first:
            known = _DIRECTED_VERBS.get(word)
        elif words[number - 1] in _DETERMINERS:
            following = words[number + 1] if number + 1 < len(words) else "and"
            if words[number - 2] != "to" or following not in _FOLLOWING:
                known = None
        if known is not None:
            found.append((match, *known))
    return found
