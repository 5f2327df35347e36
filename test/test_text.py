"""Text from outside: what is refused, and how it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vla_ros.msg import Instruction

from vla.annotation.replies import caption_problems, pair_problems
from vla.control.session import InstructionError, InstructionSession, check_instruction
from vla.core.text import TextError, check_text, escape_unseen, one_line, unseen_character
from vla_nodes.recorder.episode import RunningEpisode

# One of each kind: C0, DEL, C1, separators, overrides, isolates, without width, tags, halves.
UNSEEN = (
    *("\x00", "\x07", "\x1b", "\x7f", "\x80", "\x9b", "\u2028", "\u2029", "\u202a", "\u202e"),
    *("\u2066", "\u2069", "\u200b", "\u2060", "\ufeff", "\U000e0041", "\ud800", "\udfff", "\ufdd0"),
)
TEXTS = (
    "pick up the red block",
    "nimm den grünen Würfel",
    "拿起红色方块",
    "赤いブロックを取って",
    "ارفع المكعب الأحمر",
    "הרם את הקובייה האדומה",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "ठीक है, उठाओ",
    "wave 👋🏽 to the 👩\u200d👩\u200d👧 and the 🏳️\u200d🌈",
    "\u200fהרם\u200e!",
)


@pytest.mark.parametrize("text", TEXTS)
def test_every_script_is_taken_as_it_is(text):
    assert check_text(text, "note", 100) == text == one_line(text) == escape_unseen(text)
    assert check_instruction(text) == (text, "")
    assert not unseen_character(text)


@pytest.mark.parametrize("character", UNSEEN)
def test_what_cannot_be_seen_is_refused_where_people_give_it_and_shown_elsewhere(character):
    text = f"pick {character}up"
    place = rf"U\+{ord(character):04X}, number 6"
    with pytest.raises(TextError, match=rf"^the note has a character .*{place}\): leave it out"):
        check_text(text, "note", 100)
    with pytest.raises(InstructionError, match=place):
        check_instruction(text)
    for shown in (escape_unseen(text), one_line(text)):
        assert character not in shown and shown.isprintable()
    assert any("U+" in problem for problem in caption_problems(f"a red{character} block lies here"))
    assert any("U+" in problem for problem in pair_problems(("what is there?", f"a{character}b")))


def test_layout_becomes_spaces_unless_lines_are_wanted():
    assert check_text(" a\tb\r\nc\rd\n", "note", 100) == "a b c d"
    assert check_text(" a\tb\r\nc\rd\n", "note", 100, lines=True) == "a b\nc\nd"
    assert check_instruction("pick\nup") == ("pick up", "")


def test_the_length_is_limited_before_anything_else():
    assert check_text("a" * 50, "note", 50) == "a" * 50
    with pytest.raises(TextError, match=r"^the note has 3000000 characters: use at most 50$"):
        check_text("\x00" * 3_000_000, "note", 50)
    with pytest.raises(InstructionError) as raised:
        check_instruction("pick", "m\n" * 1_000_000)
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_a_long_line_keeps_its_ends():
    text = "the topic has " + "A" * 3_000_000 + ": give all nodes the same contract"
    shown = one_line(text, 500)
    assert shown.startswith("the topic has AAA") and len(shown) <= 500
    assert shown.endswith("AAA: give all nodes the same contract")
    assert "(3000048 characters)" in shown
    assert one_line("a" + " " * 10_000 + "b", 200) == "a …(10002 characters)… b"
    assert one_line("a" + " " * 500 + "b", 200) == "a b"


@given(st.text(st.characters(), max_size=200), st.integers(1, 200))
def test_any_text_becomes_one_bounded_line(text, most):
    shown = one_line(text, most)
    assert len(shown) <= most and len(shown.splitlines()) <= 1
    assert not unseen_character(shown)
    shown.encode()


def test_a_response_from_the_graph_is_kept_short():
    session = InstructionSession()
    instruction = session.start("pick the can", "think", 0.0, 1)
    session.add_response(instruction.instruction_id, "\x1b[31m" + "A" * 3_000_000)
    assert session.response.startswith("\\x1b[31mAAA") and len(session.response) <= 4000


def test_what_the_graph_says_is_kept_short_and_escaped_in_a_bag():
    episode = RunningEpisode("episode_1", None, "", "", started=0)
    text = "pick\x1b[31m\nup \u202e" + "A" * 3_000_000
    episode.take_instruction(Instruction(instruction_id=1, instruction=text, mode=text))
    (entry,) = episode.instructions
    assert episode.instruction == entry["instruction"]
    assert entry["instruction"].startswith("pick\\x1b[31m up \\u202eAAA")
    assert len(entry["instruction"]) <= 1000 and len(entry["mode"]) <= 200
