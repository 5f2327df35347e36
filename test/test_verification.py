"""Ratings of segments: tables of several annotators, agreement, what is kept, what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.datasets.frames import DatasetError
from vla.language_action.agreement import interval_alpha
from vla.language_action.segments import (
    Segment,
    Segmentation,
    read_segmentation,
    write_segmentation,
)
from vla.language_action.verification import COLUMNS, read_tables, verified
from vla_cli import main

PARTS = (
    Segment("move", 0.0, 1.0, "EMPTY", "move the gripper left"),
    Segment("grasp", 1.0, 2.0, "HOLDING", "close the gripper on it"),
    Segment("lift", 2.0, 3.0, "HOLDING", "lift the object up"),
)
CUT = Segmentation("theirs", "rules", {0: 3.0, 4: 3.0}, {0: PARTS, 4: PARTS[:2]}, digests={0: "x"})

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", data of section C: four
# observers, twelve units; 0 stands for no value.
TEXTBOOK = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
])  # fmt: skip


def units_of(table: np.ndarray) -> list[list[int]]:
    return [[int(value) for value in column if value] for column in table.T]


def test_alpha_is_that_of_the_textbook():
    assert interval_alpha(units_of(TEXTBOOK)) == pytest.approx(0.849, abs=5e-4)


def test_alpha_of_agreement_of_chance_and_of_nothing():
    assert interval_alpha([[0, 0], [3, 3], [1, 1, 1]]) == 1.0
    generator = np.random.default_rng(0)
    assert abs(interval_alpha(generator.integers(0, 4, (20000, 2)).tolist())) < 0.02
    assert interval_alpha([[3, 0], [0, 3]]) < 0
    assert interval_alpha([[3], [0], []]) is None and interval_alpha([[2, 2], [2, 2]]) is None


def test_what_is_rated_alone_does_not_count():
    units = units_of(TEXTBOOK)
    assert interval_alpha([*units, [4], [], [1]]) == interval_alpha(units)


def row(annotator: str, episode: int, segment: int, quality, confidence="") -> list:
    return [annotator, episode, segment, quality, confidence, CUT.digest]


@pytest.fixture
def folder(tmp_path):
    write_segmentation(CUT, tmp_path / "segments.json")
    return tmp_path


def table(folder: Path, name: str, *rows: list, delimiter: str = ",") -> str:
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return str(path)


def apply(capsys, folder: Path, *options: str) -> tuple[int, str]:
    status = main(["data", "verify", str(folder), "--apply", *options])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_an_average_of_two_is_kept(folder, capsys):
    anna = table(folder, "a", row("Anna", 0, 0, 3, 2), row("Anna", 0, 1, 1, 0),
                 row("Anna", 0, 2, 2), row("Anna", 4, 0, ""))  # fmt: skip
    ben = table(folder, "b", row("Ben", 0, 1, 2, 1), row("Ben", 0, 2, 2), row("Ben", 4, 1, 0),
                delimiter=";")  # fmt: skip
    carl = table(folder, "c", row("Carl", 0, 1, 3), delimiter="\t")
    found = folder / "found.json"
    status, printed = apply(capsys, folder, anna, ben, carl, "--json", str(found))
    assert status == 0, printed
    made = read_segmentation(folder)
    assert [s.quality for s in (*made.episodes[0], *made.episodes[4])] == [3, 2, 2, None, 0]
    assert [s.kept for s in made.episodes[0]] == [True, True, True]
    assert not any(s.kept for s in made.episodes[4])
    assert made.digest == CUT.digest and made.digests == CUT.digests
    values = json.loads(found.read_text())
    assert values["segments"] == 5 and values["rated"] == 4 and values["kept"] == 3
    assert values["annotators"] == {"Anna": 3, "Ben": 3, "Carl": 1}
    assert values["doubly_rated"] == 2 and values["primitives"]["grasp"] == [2, 1]
    assert values["alpha"] == interval_alpha([[3], [1, 2, 3], [2, 2], [0]])
    assert values["quality"] == pytest.approx(13 / 7) and values["confidence"] == 1.0
    assert "4 of 5 segments are rated, by Anna (3), Ben (3), Carl (1)" in printed
    assert "3 are kept, 75.0% of those that are rated" in printed
    assert f"alpha (interval) {values['alpha']:.3f}, of 2 segments" in printed


def test_a_later_verification_replaces_the_one_before(folder, capsys):
    assert apply(capsys, folder, table(folder, "a", row("Anna", 0, 0, 3)))[0] == 0
    assert apply(capsys, folder, table(folder, "b", row("Ben", 0, 1, 3)))[0] == 0
    assert [s.quality for s in read_segmentation(folder).episodes[0]] == [None, 3, None]


def test_one_table_may_hold_several_annotators(folder, capsys):
    both = table(folder, "both", row("Anna", 0, 0, 3), row("Ben", 0, 0, 1))
    status, printed = apply(capsys, folder, both)
    assert status == 0 and "of 1 segments that two or more have rated" in printed


def test_agreement_needs_two(folder, capsys):
    tables = [table(folder, f"of{number}", row(f"annotator {number}", 0, number, 3))
              for number in range(3)]  # fmt: skip
    status, printed = apply(capsys, folder, *tables)
    assert status == 0 and "since no segment has ratings of two annotators" in printed


def test_equal_ratings_tell_no_agreement(folder, capsys):
    tables = [table(folder, name, row(name, 0, 0, 2)) for name in ("anna", "ben")]
    assert "since all ratings are equal" in apply(capsys, folder, *tables)[1]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["Anna", 0, 0, 3, "", "s000"]], "line 2 rates other segments (their digest is 's000'"),
        ([row("Anna", 0, 0, 4)], "line 2: the quality '4' is none of 0 to 3"),
        ([row("Anna", 0, 0, -1)], "the quality '-1' is none of"),
        ([row("Anna", 0, 0, "good")], "the quality 'good' is none of"),
        ([row("Anna", 0, 0, 3, 3)], "the confidence '3' is none of 0 to 2"),
        (
            [row("Anna", 0, 0, 3), row("anna ", 0, 0, 2)],
            "'anna' rates segment 0 of episode 0 twice",
        ),
        ([row(" ", 0, 0, 3)], "names no annotator"),
        ([row("Anna", 0, 3, 3)], "there is no segment '3' of episode '0'"),
        ([row("Anna", 1, 0, 3)], "there is no segment '0' of episode '1'"),
        ([row("Anna", "x", "y", 3)], "there is no segment 'y' of episode 'x'"),
        ([row("Anna", 0, 0, "")], "rates no segment"),
        ([], "rates no segment"),
        ([row("Anna", 0, 0, 1), row("Ben", 0, 0, 2)], "no segment is left: none of the 1"),
    ],
)
def test_a_faulty_table_changes_nothing(folder, capsys, rows, says):
    before = (folder / "segments.json").read_bytes()
    status, printed = apply(capsys, folder, table(folder, "a", *rows))
    assert status == 2 and says in printed and printed.strip().count("\n") == 0, printed
    assert (folder / "segments.json").read_bytes() == before


def test_two_tables_of_one_name_are_refused(folder, capsys):
    tables = [
        table(folder, "a", row("Anna", 0, 0, 3)),
        table(folder, "b", row("Ben", 0, 0, 3), row("ANNA", 0, 1, 3)),
    ]
    status, printed = apply(capsys, folder, *tables)
    assert status == 2 and "a.csv and " in printed and "both have ratings of 'ANNA'" in printed
    status, printed = apply(capsys, folder, tables[0], tables[0])
    assert status == 2 and "both have ratings of 'Anna'" in printed


@pytest.mark.slow
def test_a_table_of_something_else_is_named(folder, capsys):
    (folder / "none.csv").write_text("a,b\n1,2\n")
    status, printed = apply(capsys, folder, str(folder / "none.csv"))
    assert status == 2 and "is no table of ratings: it has no column annotator, confiden" in printed


def test_the_digest_is_of_the_segments_alone(folder):
    rated, _ = verified(CUT, read_tables([table(folder, "a", row("A", 0, 0, 3))], CUT))
    assert rated.digest == CUT.digest
    other = replace(CUT, episodes={**CUT.episodes, 4: (replace(PARTS[0], end=0.9), PARTS[1])})
    assert other.digest != CUT.digest


def test_segments_that_are_not_there_cannot_be_verified(tmp_path, capsys):
    status, printed = apply(capsys, tmp_path, "x.csv")
    assert status == 2 and "segments.json" in printed and printed.count("\n") == 1


def test_a_file_that_cannot_be_replaced_stays(folder, monkeypatch):
    before = (folder / "segments.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DatasetError, match="No space left"):
        write_segmentation(replace(CUT, source="other"), folder / "segments.json")
    assert (folder / "segments.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["segments.json"]
