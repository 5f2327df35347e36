"""Files from elsewhere: each is read as plain values, or refused in one bounded sentence."""

import json
import math
import os
import random
import socket
import tracemalloc

import pytest
import yaml

from vla.core.files import (
    BLOCK,
    MOST_DEPTH,
    checked_number,
    checked_text,
    inside,
    read_json,
    read_json_lines,
    read_json_text,
    read_text,
    read_yaml,
    read_yaml_text,
)
from vla.core.shown import brief
from vla.core.text import one_line


class ReadError(ValueError):
    """A reader's own error class."""


def refusal(read, *arguments, **options) -> str:
    """The text of the error, once it is known to be one bounded line."""
    with pytest.raises(ReadError) as caught:
        read(*arguments, error=ReadError, **options)
    text = str(caught.value)
    assert len(text) < 500
    assert text.isprintable()
    return text


def bomb(levels: int = 40) -> str:
    """A few hundred bytes of YAML that stand for 9**levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


def test_plain_yaml_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffrate: 5.0\nnames: &n [a, ü]\nsame: *n\nnone:\n".encode())
    values = {"rate": 5.0, "names": ["a", "ü"], "same": ["a", "ü"], "none": None}
    assert read_yaml(path, ReadError) == values
    assert read_yaml_text("", "here", ReadError) is None
    assert read_yaml_text("x: &x {a: 1}\ny: {<<: *x, b: 2}", "here", ReadError)["y"] == {
        "a": 1,
        "b": 2,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "more than 100000 values"),
        ("<<: &a [1]\n" + bomb(60), "more than 100000 values"),
        ("[" * 100_000, f"more than {MOST_DEPTH} deep"),
        ("{a: " * 3000, f"more than {MOST_DEPTH} deep"),
        ("- " * 5000, f"more than {MOST_DEPTH} deep"),
        ("a: &a [*a]", "alias 'a'"),
        ("a: *" + "n" * 5000, "alias 'nnn"),
        ("rate: 1\nrate: 2", "'rate' twice"),
        ("1: a", "the key 1"),
        ("on: a", "the key True"),
        ("rate: .nan", "nan"),
        ("rate: -.inf", "-inf"),
        ("day: 2026-01-31", "quotes"),
        ("day: 2026-99-31", "month"),
        ("a: !!bool foo", "not valid YAML"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: !!binary aGVsbG8=", "tag"),
        ("a: " + ":".join("1" * 100_000), "characters"),
        ("a: !!int '" + ":".join("1" * 100_000) + "'", "characters"),
        ("a: " + "9" * 5000, "characters"),
        ("a: 0x" + "f" * 200, "too large"),
        ("a: b: c", "not valid YAML (line 1"),
        ("a: 1\n---\nb: 1", "another document"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("a: \x07", "control characters"),
        ("a: '\ud800'", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_plain_bounded_value_is_refused(text, said):
    assert said in refusal(read_yaml_text, text, "robot.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "deep"),
        ('{"a":' * 100_000, "deep"),
        ("[" * 900 + "]" * 900, "deep"),
        ("[NaN]", "nan"),
        ("[-Infinity]", "-inf"),
        ("[1e999]", "inf"),
        ("9" * 5000, "digits"),
        ("9" * 100, "too large"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('"\\ud800"', "not Unicode"),
        ("{", "line 1, column 2"),
        ("", "not valid JSON"),
    ],
)
def test_json_that_is_no_plain_bounded_value_is_refused(text, said):
    assert said in refusal(read_json_text, text, "step.json")


def test_nan_is_read_where_it_may_be():
    assert math.isnan(read_json_text("[NaN]", "here", ReadError, finite=False)[0])
    assert math.isinf(read_yaml_text("a: .inf", "here", ReadError, finite=False)["a"])


def test_only_a_regular_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert "is a pipe" in refusal(read_json, tmp_path / "pipe")
    assert "is a pipe" in refusal(read_yaml, tmp_path / "link")
    assert "is a folder" in refusal(read_text, tmp_path)
    assert "is a device" in refusal(read_text, "/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert "is a socket" in refusal(read_text, tmp_path / "s")
    assert "No such file" in refusal(read_text, tmp_path / "none")
    assert "check the path" in refusal(read_text, "a\0b")
    assert "too long" in refusal(read_text, "x" * 9000)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'"caf\xe9"')
    assert "not UTF-8 (byte 4)" in refusal(read_json, path)
    assert "not UTF-8 (byte 4)" in refusal(read_yaml, path)
    with path.open("wb") as stream:
        stream.truncate(10_000_000_000)
    assert "larger than 4 MB" in refusal(read_json, path)
    assert "larger than 4000 MB" in refusal(read_json, path, most_bytes=4_000_000_000)


def test_reading_a_small_file_takes_no_memory_for_the_largest(tmp_path):
    (tmp_path / "a.json").write_text('["café"]')
    assert read_json(tmp_path / "a.json", ReadError, most_bytes=2**62) == ["café"]


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"", "no text (byte 0 is zero)"),
        (b"[1, 2", "no text (byte 5 is zero)"),
        (b"\xef\xbb\xbf \n", "no text (byte 5 is zero)"),
        (b'{"a": "' + b"x" * 3_000_000, "no text (byte 3000007 is zero)"),
        (b"[" + b"\xff" * 2_000_000, "not UTF-8 (byte 1)"),
    ],
)
@pytest.mark.parametrize("read", [read_json, read_json_lines, read_yaml, read_text])
def test_of_what_is_no_text_only_the_begin_is_read(tmp_path, read, begin, said):
    path = tmp_path / "a.json"
    path.write_bytes(begin)
    os.truncate(path, 3_900_000_000)
    tracemalloc.start()
    assert said in refusal(read, path, most_bytes=2**32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_letters_across_the_blocks_that_are_read_stay_whole(tmp_path):
    path = tmp_path / "a.txt"
    for shift in range(4):
        text = "x" * (BLOCK - shift) + "\U0001f916é" + "ü" * BLOCK
        path.write_text(text, encoding="utf-8")
        assert read_text(path, ReadError) == text
        path.write_bytes(text.encode()[:-1])
        assert f"not UTF-8 (byte {len(text.encode()) - 2})" in refusal(read_text, path)


def test_the_bad_line_of_json_lines_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "\u2028"}\n\n[1]\n')
    assert read_json_lines(path, ReadError) == [{"a": "\u2028"}, [1]]
    path.write_text('{"a": 1}\n{"a": \n')
    assert "a.jsonl, line 2" in refusal(read_json_lines, path)


def test_brief_is_one_bounded_line_of_any_value():
    aliased = [1]
    for _ in range(100):
        aliased = [aliased, aliased, aliased]
    endless = []
    endless.append(endless)
    for value in (aliased, endless, "x" * 10**7, 10**10_000, {"a\n": "\x1b[2J" * 99}, b"\n" * 999):
        assert len(brief(value)) <= 80
        assert brief(value).isprintable()
    assert brief({"a": [1, (2.5, None)]}) == "{'a': [1, (2.5, None)]}"
    assert brief("line\nline") == r"'line\nline'"
    assert one_line("a\n\tb\x1b" + "c" * 9999, 20) == r"a b\x1b" + "c" * 6 + "…" + "c" * 6


def test_numbers_and_texts_are_checked_with_their_bounds():
    assert checked_number(3, "a: rate", ReadError, 1, 10) == 3.0
    assert isinstance(checked_number(3.0, "a: rate", ReadError, 1, 10, whole=True), int)
    for value in (math.nan, math.inf, 10**400, True, "3", None, [3], 0.5, 11):
        said = refusal(checked_number, value, "a: rate", lowest=1, highest=10)
        assert said.startswith("a: rate must be a number from 1 to 10, got ")
    assert "whole number" in refusal(checked_number, 2.5, "a: n", whole=True)
    assert "whole number" in refusal(checked_number, math.inf, "a: n", whole=True)
    assert checked_text("ü", "a: name", ReadError) == "ü"
    assert "at most 10" in refusal(checked_text, "x" * 11, "a: name", most=10)
    assert "must be text" in refusal(checked_text, ["x"], "a: name")


def test_a_named_file_stays_in_its_folder(tmp_path):
    assert inside(tmp_path, "a/b.parquet", "info.json", ReadError) == tmp_path / "a/b.parquet"
    for name in ("/etc/passwd", "../a", "a/../../b", "", ".", "a\0b", 3, "x" * 9999):
        refusal(inside, tmp_path, name, where="info.json")


def test_mutated_yaml_and_json_give_values_or_the_own_error():
    chance = random.Random(7)
    values = {"rate": 5.0, "names": ["a", "b"], "cameras": [{"name": "c", "max_age": 0.5}]}
    texts = (
        (read_yaml_text, yaml.safe_dump(values)),
        (read_yaml_text, bomb(6)),
        (read_json_text, json.dumps(values)),
    )
    pieces = ["&a ", "*a", "<<: ", "!!set ", "? ", "- ", "{", "]", "\x00", "\ud800", "1e999", "\n"]
    for _ in range(300):
        read, text = chance.choice(texts)
        for _ in range(chance.randint(1, 6)):
            start = chance.randrange(len(text) + 1)
            end = min(len(text), start + chance.choice((0, 0, 1, 5)))
            text = text[:start] + chance.choice(pieces) + text[end:]
        try:
            json.dumps(read(text, "here", ReadError), allow_nan=False)
        except ReadError as problem:
            assert len(str(problem)) < 500
            assert str(problem).isprintable()
