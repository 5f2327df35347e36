"""Where the rows of JSON lists and JSON Lines lie, against the json module."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.datasets import row_spans
from vla.datasets.frames import DatasetError
from vla.datasets.row_spans import line_spans, list_spans

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[], \n', max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\]', max_size=3), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("rows") / "rows.json"


def parts(path, spans: np.ndarray) -> list[bytes]:
    content = path.read_bytes()
    return [content[begin:end] for begin, end in spans.tolist()]


@pytest.mark.slow
@given(
    rows=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 1]), block=st.integers(1, 9)
)
@settings(max_examples=60)
def test_elements_of_a_list_are_found_wherever_blocks_end(path, rows, indent, block):
    path.write_text("\ufeff" * (block % 2) + json.dumps(rows, indent=indent) + "\n" * (block % 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_spans, "BLOCK", block)
        assert [json.loads(part) for part in parts(path, list_spans(path))] == rows


@given(rows=st.lists(VALUES, max_size=5), block=st.integers(1, 9), ends=st.booleans())
@settings(max_examples=40)
def test_lines_are_found_and_blank_ones_are_not(path, rows, block, ends):
    path.write_text("\n \n".join(map(json.dumps, rows)) + "\r\n\n" * ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_spans, "BLOCK", block)
        assert [json.loads(part) for part in parts(path, line_spans(path))] == rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        (" \n ", "it is empty"),
        ('{"a": [1]}', "expected a list"),
        ("[1, 2", "ends within its list"),
        ('[{"a": "b]"', "ends within its list"),
        ('["a]', "ends within its list"),
        ("[1]\n[2]", "something follows its list"),
        ("[1]]", "something follows its list"),
        ('[1]\n{"a": 2}', "name it .jsonl"),
    ],
)
@pytest.mark.parametrize("block", [2, 1000])
def test_what_is_no_list_is_refused(path, text, says, block, monkeypatch):
    monkeypatch.setattr(row_spans, "BLOCK", block)
    path.write_text(text)
    with pytest.raises(DatasetError, match=says):
        list_spans(path)
