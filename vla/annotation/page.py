"""Pages on which a person judges entries, without a network, and the tables that they save."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vla.core.files import read_text
from vla.core.resources import shared_file
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError

FOLDER = "config/annotation"
MOST_BYTES = 100_000_000


def filled_page(name: str, values: Mapping[str, Any]) -> str:
    """A page of config/annotation with these values in it, and the functions that pages share."""
    template, shared = (
        shared_file(f"{FOLDER}/{file}").read_text(encoding="utf-8") for file in (name, "page.js")
    )
    # Within a script element nothing but its end tag and comments has a meaning.
    text = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
    return template.replace("{shared}", shared).replace("{values}", text)


def read_page_table(path: str | Path, columns: Collection[str], what: str) -> list[dict[str, str]]:
    """The rows of a table that a page saved, perhaps after a spreadsheet had it.

    columns: which it must have. what: it is, for errors. Raises DatasetError.
    """
    text, path = read_text(path, DatasetError, MOST_BYTES), shown_path(path)
    header = text.partition("\n")[0]
    # Spreadsheets write what their country separates by.
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(
            f"{path}, line {reader.line_num}: {one_line(error)}; save it as CSV again"
        ) from error
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise DatasetError(f"{path} is no {what}: it has no column {', '.join(sorted(missing))}")
    return [{name: value or "" for name, value in row.items() if name} for row in rows]
