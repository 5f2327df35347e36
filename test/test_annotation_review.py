"""Annotations from a scene's truth, and a person's review: page, table, taking it over."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lerobot_files import LENGTHS, drop_column, write_v2
from PIL import Image

from vla.annotation.records import ACCEPTED, REJECTED, Record, Records, entries_of, read_records
from vla.annotation.truth import SceneOrigin, TruthAnnotator, scene_of_note
from vla.bags.conversion_report import ConversionReport, EpisodeReport
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.lerobot.meta import EpisodeMeta
from vla.datasets.sample import Annotation
from vla.datasets.vla_it import read_vla_it
from vla.envs.tabletop import negations, sentences
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import ALL_FAMILIES
from vla_cli.parser import main

SEED = 31


def simulated(folder: Path, notes: list[str], instructions: list[str]) -> Path:
    """A data set whose report of its conversion has these notes."""
    write_v2(folder)
    path = folder / "meta" / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, instruction in zip(lines, instructions, strict=True):
        line["tasks"] = [instruction]
    path.write_text("\n".join(map(json.dumps, lines)))
    for path in folder.glob("data/*/*.parquet"):
        drop_column(path, "task_index")
    contract = load_contract(contract_path("sim_panda"))
    report = ConversionReport("sim_panda", contract.contract_id, 10.0, "video", "0")
    for index, note in enumerate(notes):
        custom = {"note": note, "outcome": "success"}
        report.kept.append(
            EpisodeReport(f"bag{index}", LENGTHS[index], 1.0, [instructions[index]], custom, [], 0,
                          0, {}, index)
        )  # fmt: skip
    (folder / "meta" / "conversion.json").write_text(report.json())
    return folder


@pytest.fixture(scope="module")
def simulator():
    made = TableTopSimulator()
    yield made
    made.close()


def annotations(folder: Path) -> dict[int, Annotation]:
    labels = read_vla_it(folder / "meta" / "annotations.json")
    return {int(episode): entry.annotation for (_, episode), entry in labels.items()}


def test_notes_tell_scenes():
    assert scene_of_note("store, seed 12") == SceneOrigin("store", 12)
    assert scene_of_note("demo 3: open_drawer, seed 0; good") == SceneOrigin("open_drawer", 0)
    assert scene_of_note("a seed 3") is None and scene_of_note("") is None


@pytest.mark.slow
def test_episodes_are_annotated_from_the_notes_of_their_bags(tmp_path, capsys, simulator):
    families = ("pick", "store", "open_drawer")
    tasks = [simulator.reset(SEED + n, family) for n, family in enumerate(families)]
    notes = [f"{family}, seed {SEED + n}" for n, family in enumerate(families)]
    folder = simulated(tmp_path / "set", notes, [task.instruction for task in tasks])
    assert main(["data", "annotate", str(folder), "--truth"]) == 0
    made = annotations(folder)
    for index, task in enumerate(tasks):
        simulator.reset(SEED + index, families[index])
        assert all(name in made[index].caption for name in simulator.objects())
        assert made[index].command_rewrites[0] == (task.instruction, task.answer())
        assert 3 <= len(made[index].command_rewrites) <= 6
        pairs = (*made[index].command_rewrites, *made[index].contexts)
        assert {answer for _, answer in pairs} == {task.answer()}
        assert len({question for question, _ in pairs}) == len(pairs)
        assert len(made[index].question_answers) >= 3
    assert "cabinet" in made[1].command_rewrites[0][1]
    capsys.readouterr()
    assert main(["data", "annotate", str(folder), "--truth"]) == 0
    assert "3 episodes are finished, 0 are to be" in capsys.readouterr().out
    assert main(["data", "annotate", str(folder), "--truth", "--entries", "3"]) == 2
    assert "another way (entries)" in capsys.readouterr().err


def test_a_family_without_sentences_is_phrased_plainly(simulator, monkeypatch):
    for bank in (sentences.PARAPHRASE, sentences.REFERRING, negations.CONTRAST,
                 negations.NOTHING_BUT):  # fmt: skip
        monkeypatch.delitem(bank, "store")
    annotator = TruthAnnotator()
    task = simulator.reset(SEED, "store")
    episode = EpisodeMeta(0, 9, task.instruction, Path("x"), 0, {}, (task.instruction,))
    made = annotator.annotation(episode, SceneOrigin("store", SEED))
    assert made.command_rewrites[0] == (task.instruction, task.answer()) and not made.contexts
    assert len(made.command_rewrites) == 6
    assert all("cabinet" in question for question, _ in made.command_rewrites)
    assert made.question_answers and made.caption
    assert made == annotator.annotation(episode, SceneOrigin("store", SEED))
    annotator.close()


@pytest.mark.slow
def test_every_family_has_annotations(simulator):
    annotator = TruthAnnotator(entries=4)
    for family in ALL_FAMILIES:
        for seed in range(4):
            text = simulator.reset(seed, family).instruction
            made = annotator.annotation(
                EpisodeMeta(seed, 9, text, Path("x"), 0, {}, (text,)), SceneOrigin(family, seed)
            )
            assert made.caption and made.question_answers and made.command_rewrites
    annotator.close()


def test_a_file_of_scenes_may_name_the_task(tmp_path, simulator, capsys):
    simulator.reset(SEED, "pick")
    target = simulator.objects()[-1]
    folder = simulated(tmp_path / "set", ["", "", ""], [f"get the {target}", "go", "go"])
    scenes = tmp_path / "scenes.yaml"
    scenes.write_text(f"0: {{family: pick, seed: {SEED}, task: pick/{target}}}\n")
    arguments = ["data", "annotate", str(folder), "--truth", "--scenes", str(scenes)]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "episode 2: nothing tells its scene" in said and "2 episodes were left out" in said
    made = annotations(folder)
    assert set(made) == {0}
    assert made[0].command_rewrites[0] == (f"get the {target}", f"pick up the {target} .")
    scenes.write_text("0: {family: pick}\n")
    assert main(arguments) == 2
    assert "episode 0 needs a family and a seed" in capsys.readouterr().err


def test_scenes_that_do_not_fit_are_named(tmp_path, simulator, capsys):
    simulator.reset(SEED, "pick")
    there = {name.split()[0] for name in simulator.objects()}
    missing = next(color for color in ("red", "green", "blue", "purple") if color not in there)
    notes = [f"pick, seed {SEED}", "juggle, seed 3", f"place, seed {SEED}"]
    folder = simulated(tmp_path / "set", notes, [f"pick the {missing} can", "juggle", "put it"])
    assert main(["data", "annotate", str(folder), "--truth"]) == 1
    said = capsys.readouterr().out
    assert f"has nothing {missing}, but the instruction is 'pick the {missing} can'" in said
    assert "'juggle, seed 3' cannot be laid out: known families: pick" in said
    assert set(annotations(folder)) == {2}


# Review

MADE = Annotation(
    "A can </script> & a <b>plate</b>.",
    (("How many cans?", 'One, "red".'), ("Where is it?", "On the left; there.")),
    (("Grab it.", "I will pick it up."),),
    (("I am thirsty, very.", "I will pick it up."),),
)


@pytest.fixture
def reviewed(tmp_path):
    """A data set with annotations of two episodes, and the folder of their review."""
    folder = write_v2(tmp_path / "set")
    from vla.annotation.source import AnnotationSource

    source = AnnotationSource(folder)
    with Records(folder) as records:
        for episode in source.episodes[:2]:
            records.add(
                Record(episode.index, episode.instruction, source.digest(episode),
                       entries_of(MADE), {"kind": "model", "model": "m"}, "x")
            )  # fmt: skip
    assert main(["data", "review", str(folder), "--out", str(tmp_path / "review")]) == 0
    return folder, tmp_path / "review"


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "review.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(folder: Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    path = folder / "filled.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.links, self.tags, self.review = [], [], ""
        self._in_review = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href") if name in values]
        self._in_review = values.get("id") == "values"

    def handle_data(self, data):
        if self._in_review:
            self.review += data

    def handle_endtag(self, tag):
        self._in_review = False


def test_the_page_holds_everything_and_needs_no_network(reviewed):
    _, folder = reviewed
    text = (folder / "review.html").read_text()
    page = Page(text)
    assert not page.links and "://" not in text and page.tags.count("script") == 2
    assert "default-src 'none'" in text
    review = json.loads(page.review)
    assert [episode["episode"] for episode in review["episodes"]] == [0, 1]
    for episode in review["episodes"]:
        assert len(episode["frames"]) == 3
        for frame in episode["frames"]:
            assert Image.open(io.BytesIO(base64.b64decode(frame))).format == "JPEG"
        caption = episode["entries"][0]
        assert caption["answer"] == MADE.caption
    rows = table(folder)
    assert len(rows) == 10 and [row["entry"] for row in rows[:5]] == [
        "Caption", "QA 1", "QA 2", "CR 1", "CC 1"
    ]  # fmt: skip
    shown = [row for episode in review["episodes"] for row in episode["entries"]]
    for row, entry in zip(rows, shown, strict=True):
        assert row.items() >= {name: str(value) for name, value in entry.items()}.items()


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript here")
def test_what_the_page_saves_can_be_taken_over(reviewed, tmp_path):
    folder, out = reviewed
    page = (out / "review.html").read_text()
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    review = Page(page).review
    code = f"""
      const found = {{ values: {{ textContent: {json.dumps(review)} }} }};
      const blank = () => ({{ append() {{}}, set onclick(f) {{ all.push(f); }} }});
      const all = [];
      globalThis.window = {{}};
      globalThis.document = {{
        getElementById: (id) => (found[id] ??= blank()),
        createElement: blank,
      }};
      {script}
      all[4]();  // Three buttons for each entry: the second one's "reject".
      process.stdout.write(csv());
    """
    (tmp_path / "page.js").write_text(code)
    saved = subprocess.run(
        ["node", str(tmp_path / "page.js")], capture_output=True, text=True, timeout=30
    )
    assert saved.returncode == 0, saved.stderr
    (tmp_path / "saved.csv").write_text(saved.stdout, newline="")
    assert main(["data", "review", str(folder), "--apply", str(tmp_path / "saved.csv")]) == 0
    assert annotations(folder)[0].question_answers == MADE.question_answers[1:]
    assert annotations(folder)[1] == MADE


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript here")
@pytest.mark.parametrize("revealed", [True, False])
def test_the_page_hides_an_instruction_until_it_was_judged_without(
    reviewed, tmp_path, capsys, revealed
):
    folder, _ = reviewed
    out = tmp_path / "blind"
    assert main(["data", "review", str(folder), "--out", str(out), "--blind"]) == 0
    page = (out / "review.html").read_text()
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    code = f"""
      const found = {{ values: {{ textContent: {json.dumps(Page(page).review)} }} }};
      const made = [], buttons = {{}};
      const blank = () => {{
        const one = {{ append() {{}} }};
        made.push(one);
        return one;
      }};
      globalThis.window = {{}};
      globalThis.document = {{
        getElementById: (id) => (found[id] ??= blank()), createElement: blank,
      }};
      {script}
      const named = (text) => made.filter((one) => one.textContent === text);
      const shown = () => made.some((one) => one.textContent?.includes(
        values.episodes[0].instruction));
      if (shown()) throw new Error("it is shown");
      named("accept")[0].onclick();
      named("reject")[1].onclick();
      named("reject")[2].onclick();
      if ({json.dumps(revealed)}) {{
        named("show the instruction and judge again")[0].onclick();
        if (!shown()) throw new Error("it is hidden");
        named("accept")[0].onclick();
        named("accept")[1].onclick();
        named("reject")[2].onclick();
      }}
      process.stdout.write(csv());
    """
    (tmp_path / "page.js").write_text(code)
    saved = subprocess.run(
        ["node", str(tmp_path / "page.js")], capture_output=True, text=True, timeout=30
    )
    assert saved.returncode == 0, saved.stderr
    (tmp_path / "saved.csv").write_text(saved.stdout, newline="")
    rows = list(csv.DictReader(io.StringIO(saved.stdout, newline="")))
    assert [row["blind"] for row in rows[:4]] == ["accept", "reject", "reject", ""]
    capsys.readouterr()
    assert main(["data", "review", str(folder), "--apply", str(tmp_path / "saved.csv")]) == 0
    said = capsys.readouterr().out
    if revealed:
        assert "2 entries accepted, 0 edited, 1 rejected, 7 without a verdict" in said
        assert "of 3 entries judged both ways, 33.3% were right without the instruction" in said
        assert "66.7% with it" in said
    else:
        assert "0 entries accepted, 0 edited, 0 rejected, 10 without" in said
        assert "judged both ways" not in said


def test_an_edit_counts_half_and_an_unknown_word_is_refused(reviewed, capsys):
    folder, out = reviewed
    rows = table(out)
    rows[0] |= {"blind": "edit", "verdict": "accept"}
    rows[1] |= {"blind": "Reject", "verdict": "edit", "answer": "Just one."}
    capsys.readouterr()
    assert main(["data", "review", str(folder), "--apply", write_table(out, rows)]) == 0
    said = capsys.readouterr().out
    assert "25.0% were right without the instruction, 75.0% with it" in said
    rows[2]["blind"] = "perhaps"
    assert main(["data", "review", str(folder), "--apply", write_table(out, rows)]) == 2
    assert "line 4: blind 'perhaps' is none of accept, edit, reject" in capsys.readouterr().err


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_review_is_taken_over(reviewed, capsys, delimiter):
    folder, out = reviewed
    rows = table(out)
    rows[0]["verdict"] = "accept"
    rows[1]["verdict"] = "Rejected"
    rows[2] |= {"verdict": "edit", "answer": "On the right."}
    rows[3]["question"] = "Lift it."  # A changed text needs no verdict.
    filled = write_table(out, rows, delimiter)
    for _ in range(2):  # Taking it over again changes nothing.
        assert main(["data", "review", str(folder), "--apply", filled]) == 0
        said = capsys.readouterr().out
        made, entries = annotations(folder), read_records(folder)[0].named_entries()
        assert made[0].caption == MADE.caption
        assert made[0].question_answers == (("Where is it?", "On the right."),)
        assert made[0].command_rewrites == (("Lift it.", "I will pick it up."),)
        assert made[0].contexts == MADE.contexts and made[1] == MADE
        assert [entry.verdict for entry in entries.values()] == [
            ACCEPTED, REJECTED, ACCEPTED, ACCEPTED, ""
        ]  # fmt: skip
        assert entries["QA 2"].original == ("Where is it?", "On the left; there.")
    assert "rejected" in said
    assert len((folder / "meta" / "annotation_records.jsonl").read_text().splitlines()) == 4


def test_the_first_time_a_review_counts_what_it_says(reviewed, capsys):
    folder, out = reviewed
    rows = table(out)
    rows[0]["verdict"], rows[1]["verdict"], rows[3]["question"] = "accept", "reject", "Lift it."
    assert main(["data", "review", str(folder), "--apply", write_table(out, rows)]) == 0
    said = capsys.readouterr().out
    assert "1 entries accepted, 1 edited, 1 rejected, 7 without a verdict" in said


def test_a_faulty_review_changes_nothing(reviewed, capsys):
    folder, out = reviewed
    before = read_records(folder)
    rows = table(out)
    rows[0]["verdict"] = "accept"
    rows[1]["verdict"] = "perhaps"
    rows[2]["answer"] = " "
    rows[3]["entry"] = "CR 9"
    rows[4]["digest"] = "0000000000"
    rows[5]["answer"] = "The robot moves a can."
    assert main(["data", "review", str(folder), "--apply", write_table(out, rows)]) == 2
    said = capsys.readouterr().err
    for problem in (
        "line 3: verdict 'perhaps' is none of accept, reject, edit",
        "line 4: answer is empty",
        "line 5: there is no 'CR 9' of episode '0'",
        "line 6: it was annotated again or edited since",
        "line 7: caption mentions the robot",
    ):
        assert problem in said
    assert read_records(folder) == before
    (out / "none.csv").write_text("a,b\n1,2\n")
    assert main(["data", "review", str(folder), "--apply", str(out / "none.csv")]) == 2
    assert "it has no column answer, digest, entry" in capsys.readouterr().err


def test_reviews_are_not_overwritten_and_can_be_of_some(reviewed, tmp_path, capsys):
    folder, out = reviewed
    again = ["data", "review", str(folder), "--out", str(out)]
    assert main(again) == 2
    assert "review.csv is there already" in capsys.readouterr().err
    rows = table(out)
    rows[0]["verdict"] = "accept"
    assert main(["data", "review", str(folder), "--apply", write_table(out, rows)]) == 0
    rest = tmp_path / "rest"
    assert main(["data", "review", str(folder), "--out", str(rest), "--unreviewed"]) == 0
    assert {row["episode"] for row in table(rest)} == {"1"}
    assert main([*again[:3], "--out", str(tmp_path / "x"), "--episodes", "2:3"]) == 2
    assert "nothing to review" in capsys.readouterr().err
    whole = tmp_path / "whole"
    assert main(["data", "review", str(folder), "--out", str(whole)]) == 0
    assert table(whole)[0]["verdict"] == "accept"


def test_what_was_not_annotated_cannot_be_reviewed(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    assert main(["data", "review", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "has no annotations yet" in capsys.readouterr().err
