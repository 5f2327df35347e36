"""`vla data rate`: two checkpoints' answers on a page, blind, and what the raters' tables say."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest
from browser import CHROMIUM, Browser

from vla.datasets.frames import DatasetError
from vla.evaluation.answer_ratings import COLUMNS, read_rating_tables, write_rating_page
from vla.evaluation.answer_texts import GivenAnswer
from vla.evaluation.errors import AnswerError
from vla_cli.parser import main

COUNT = 24
GOOD = [GivenAnswer(str(n), f"good {n}", f"truth {n}", "question", f"q {n}?") for n in range(COUNT)]
BAD = [GivenAnswer(str(n), f"bad {n}", f"truth {n}", "question", f"q {n}?") for n in range(COUNT)]


def values_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="values">(.*?)</script>', text, re.DOTALL)[1])


def table(path, values, rater, rate, digest="", numbers=range(COUNT)):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in (values["rows"][number] for number in numbers):
            first, second = (rate(answer) for answer in row["answers"])
            writer.writerow(
                {"rater": rater, "number": row["number"], "first": first, "second": second,
                 "digest": digest or values["digest"]}
            )  # fmt: skip
    return path


def honest(answer):
    return "right" if answer.startswith("good") else "wrong"


def strict(answer):
    return "partly" if answer.startswith("good") else "wrong"


@pytest.fixture
def page(tmp_path):
    return write_rating_page(("one", GOOD), ("other", BAD[:-1]), tmp_path / "out", seed=3)[0]


def test_the_page_hides_whose_answer_is_whose(page):
    values = values_of(page)
    text = page.read_text()
    assert "swapped" not in text and "other" not in values and len(values["rows"]) == COUNT - 1
    firsts = [row["answers"][0].split()[0] for row in values["rows"]]
    assert 4 < firsts.count("good") < COUNT - 4, "in an order that is drawn"
    numbers = [row["answers"][0].split()[1] for row in values["rows"]]
    assert numbers != sorted(numbers, key=int)
    assert all({a.split()[0] for a in row["answers"]} == {"good", "bad"} for row in values["rows"])


def test_tables_give_means_a_difference_and_agreement(page, tmp_path, capsys):
    values, out = values_of(page), str(page.parent)
    whole = range(COUNT - 1)
    anna = table(tmp_path / "anna.csv", values, "Anna", honest, numbers=whole)
    ben = table(tmp_path / "ben.csv", values, "Ben", strict, numbers=range(10))
    report = read_rating_tables(out, [anna])
    assert [entry.mean for entry in report.checkpoints] == [1.0, 0.0]
    assert (report.difference, report.rated, report.alpha) == (1.0, COUNT - 1, None)
    both = read_rating_tables(out, [anna, ben])
    assert both.raters == {"Anna": COUNT - 1, "Ben": 10} and both.doubly_rated == 10
    assert both.checkpoints[0].mean == pytest.approx((13 + 10 * 0.75) / 23)
    assert both.low < both.difference < both.high < 1.0
    assert both.alpha == pytest.approx(0.6455, abs=0.001)
    assert main(["data", "rate", out, "--apply", str(anna), str(ben)]) == 0
    shown = capsys.readouterr().out
    assert "23 of 23 pairs of answers are rated, by Anna (23), Ben (10)" in shown
    assert "one: 89.1% (" in shown and "Krippendorff's alpha" in shown


def test_reports_of_the_command_make_the_page(tmp_path, capsys):
    files = []
    for name, answers in (("a", GOOD), ("b", BAD)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"answers": [vars(entry) for entry in answers]}))
    command = ["data", "rate", str(tmp_path / "out"), "--page", *map(str, files)]
    assert main(command) == 0 and "rate.html" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/rate_key.json").read_text())["names"] == ["a", "b"]
    assert main(command) == 2
    assert "rate_key.json is there already; name another folder" in capsys.readouterr().err


def test_other_tables_and_answers_are_refused(page, tmp_path):
    values, out = values_of(page), page.parent
    with pytest.raises(AnswerError, match="asked nothing in common"):
        write_rating_page(("one", GOOD[:3]), ("other", BAD[5:]), tmp_path / "none")
    for name, says, options in (
        ("digest", "line 2 rates another page", {"digest": "0"}),
        ("rater", "names no rater", {"rater": ""}),
        ("word", "'fine' is none of right, partly, wrong", {"rate": lambda answer: "fine"}),
        ("none", "nothing is rated", {"numbers": ()}),
    ):
        given = {"rater": "Anna", "rate": honest, "numbers": (0, 1)} | options
        path = table(tmp_path / f"{name}.csv", values, **given)
        with pytest.raises(DatasetError, match=says):
            read_rating_tables(out, [path])
    anna = table(tmp_path / "anna.csv", values, "Anna", honest, numbers=(0,))
    with pytest.raises(DatasetError, match="'Anna' rates number 0 twice"):
        read_rating_tables(out, [anna, anna])
    with pytest.raises(AnswerError, match=r"cannot read .*rate_key\.json"):
        read_rating_tables(tmp_path, [anna])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_what_is_rated_in_a_browser_is_taken_over(tmp_path, capsys):
    odd = [replace(given, response=f"good <b>{given.key}</b>") for given in GOOD]
    page, key = write_rating_page(("one", odd), ("other", BAD), tmp_path / "out", seed=3)
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert browser.text("count") == f"0 of {COUNT} rated"
        assert browser.value("document.querySelectorAll('section b').length") == 0
        click = """document.querySelectorAll('.answer').forEach((line) => {
            const is_good = line.firstChild.textContent.startsWith('good');
            line.lastChild.children[is_good ? 0 : 2].click() })"""
        browser.value(click)
        assert browser.text("count") == f"{COUNT} of {COUNT} rated"
        browser.value("document.getElementById('rater').focus()")
        browser.type("anna")
        table_of_anna = browser.saved()
    with table_of_anna.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT and {row["rater"] for row in rows} == {"anna"}
    figures = tmp_path / "rated.json"
    folder = str(page.parent)
    assert (
        main(["data", "rate", folder, "--apply", str(table_of_anna), "--json", str(figures)]) == 0
    )
    assert "one" in capsys.readouterr().out
    means = json.loads(figures.read_text())
    assert "1.0" in json.dumps(means) and key.exists()
