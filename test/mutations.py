"""Damage to files, as a disk, an editor or an attacker does it: the same again for a seed."""

from __future__ import annotations

import random

PIECES = (
    b"\xff", b"\x00", b"\x1b[2J", b"\n", b" ", b"-", b"[", b"]", b"{", b"}", b":", b": ", b",",
    b'"', b"&a ", b"*a", b"<<: ", b"!!set ", b"? ", b"nan", b".nan", b"NaN", b".inf", b"1e999",
    b"-1", b"0", b"9" * 30, b"9" * 5000, b"null", b"true", b"x" * 3000, b"[" * 3000, b"../../",
    b"/etc/passwd", b"{instruction:>999999999}", "\u202e".encode(), b"\xed\xa0\x80",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four places cut, replaced, doubled or filled with something else."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        length = chance.choice((0, 1, 1, 4, 20))
        middle = content[start : start + length]
        kind = chance.randrange(5)
        if kind == 0 and chance.random() < 0.2:
            content = content[:start]
        elif kind == 1:
            content = content[:start] + middle * 2 + content[start + length :]
        elif kind == 2 and middle:
            flipped = bytes([middle[0] ^ (1 << chance.randrange(8))]) + middle[1:]
            content = content[:start] + flipped + content[start + length :]
        else:
            content = content[:start] + chance.choice(PIECES) + content[start + length :]
    return content
