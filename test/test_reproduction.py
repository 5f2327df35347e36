"""The tables of papers: what they take, and how they are measured."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from tiny_checkpoint import save_tiny_checkpoint

from vla.contract.embodiment import load_contract
from vla.core.findings import OK, PROBLEM
from vla.core.resources import contract_path, given_or_shared
from vla.envs.registry import make_suite
from vla.evaluation.errors import ReproductionError
from vla.evaluation.reproduction import Step, check_table, read_paper, systems, table_text
from vla.training.config import read_train_config
from vla_cli.overrides import overridden
from vla_cli.parser import build_parser, main

ROOT = Path(__file__).resolve().parent.parent


def every_step():
    for system in systems():
        paper = read_paper(system)
        steps = [(f"{system} {number}", s) for number, t in paper.tables.items() for s in t.steps]
        steps += [(f"{system} {name}", s) for name, n in paper.needs.items() for s in n.made_by]
        for where, step in steps:
            for command in step.commands("output/reproduce/test"):
                yield where, command


COMMANDS = sorted(set(every_step()))


@pytest.mark.parametrize("command", [command for _, command in COMMANDS])
def test_every_command_is_one(command):
    assert "{" not in command
    program, *words = shlex.split(command)
    if program == "python":
        assert words[0].startswith("build/") or (ROOT / words[0]).is_file()
        return
    assert program == "vla"
    arguments = build_parser().parse_args(words)
    if words[0] == "train":
        for config in arguments.config:
            read_train_config(given_or_shared(config))
    if words[0] == "eval":
        settings = overridden({}, arguments.set, ValueError)
        suite = make_suite(arguments.benchmark, **settings)
        assert suite.chosen_families(arguments.family or ())
        contract = {"google_fractal": "google_fractal"}.get(Path(arguments.checkpoint).name)
        if contract is not None:
            assert suite.contract == load_contract(contract_path(contract))


def test_the_papers_tables_are_all_there():
    assert systems() == ["instructvla"]
    paper = read_paper("instructvla")
    assert list(paper.tables) == [*map(str, range(1, 15)), "libero"]
    used = {name for table in paper.tables.values() for name in table.needs}
    assert used == set(paper.needs), "nothing is described for no table"
    for table in paper.tables.values():
        assert table.steps or table.note, "a table without commands says why"


def test_hours_are_the_papers_or_unknown():
    paper = read_paper("instructvla")
    told = {s.cost for n in paper.needs.values() for s in n.made_by}
    stages = {f"{hours} h on 64 A100, as the paper says" for hours in (27, 12)}
    assert told == stages | {"hours unknown"}
    assert Step("vla info").cost == "hours unknown"


def test_what_a_table_takes_is_shown(capsys):
    assert main(["reproduce", "instructvla", "--table", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "table 2: SimplerEnv and SimplerEnv-Instruct",
        "needs checkpoint checkpoints/instructvla/expert, from huggingface.co/ShuaiYang03",
        "# instead of the released weights; then copy its checkpoint; 27 h on 64 A100",
        "# 1722 episodes, variant aggregation; hours unknown",
        "--json output/reproduce/instructvla/2/generalist_state_google_va.json",
        "PROBLEM checkpoints/instructvla/expert is missing",
        "make simpler_instruct",
    ):
        assert text in shown
    assert main(["reproduce", "instructvla"]) == 0
    assert "  14      speed of inference" in capsys.readouterr().out


def test_nothing_runs_before_everything_is_there(capsys):
    assert main(["reproduce", "instructvla", "--table", "7"]) == 2
    told = capsys.readouterr()
    assert "table 7 needs what is missing above" in told.err
    assert "runs/bridge_it_instruct/checkpoint is missing" in told.out


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A paper of one table, whose script writes what it was told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.py").write_text(
        "import sys\nopen(sys.argv[-1], 'w').write(sys.argv[1])\nsys.exit(sys.argv[1] == 'bad')\n"
    )
    values = {
        "paper": "Ours",
        "needs": {"mine": {"checkpoint": "mine"}, "set": {"data": "set", "source": "the shelf"}},
        "tables": {
            "1": {
                "title": "first",
                "needs": ["mine", "set"],
                "steps": [
                    {"command": "python note.py {each} --json {output}/{each}.txt"},
                    {"command": "vla serve-chat --checkpoint mine", "by_hand": "elsewhere"},
                ],
            }
        },
    }

    def write(each=("a", "b"), **changes) -> str:
        values["tables"]["1"]["steps"][0] |= {"each": list(each), **changes}
        (tmp_path / "ours.yaml").write_text(yaml.safe_dump(values))
        return "ours.yaml"

    return write


def test_commands_run_once_their_needs_are_there(paper, tmp_path, contract, capfd):
    file = paper()
    levels = [f.level for f in check_table(read_paper(file), read_paper(file).table("1"))]
    assert levels == [PROBLEM, PROBLEM]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{")
    found = check_table(read_paper(file), read_paper(file).table("1"))
    assert [f.level for f in found] == [PROBLEM, OK] and "make the checkpoint again" in found[
        0
    ].cure
    (tmp_path / "mine" / "config.json").unlink()
    save_tiny_checkpoint(tmp_path / "mine", contract)
    assert main(["reproduce", file, "--table", "1"]) == 0
    written = tmp_path / "output" / "reproduce" / "ours" / "1"
    assert {path.name: path.read_text() for path in written.iterdir()} == {
        "a.txt": "a",
        "b.txt": "b",
    }
    assert "by hand, elsewhere: vla serve-chat" in capfd.readouterr().out
    (written / "b.txt").unlink()
    (written / "a.txt").write_text("kept")
    assert main(["reproduce", file, "--table", "1"]) == 0
    assert (written / "a.txt").read_text() == "kept" and (written / "b.txt").exists()
    assert "a.txt is there" in capfd.readouterr().out


def test_a_command_that_fails_ends_the_run(paper, tmp_path, contract, capfd):
    file = paper(each=("bad", "never"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data").write_text("x")
    save_tiny_checkpoint(tmp_path / "mine", contract)
    assert main(["reproduce", file, "--table", "1"]) == 1
    assert "'python note.py bad --json" in capfd.readouterr().err
    assert not (tmp_path / "output" / "reproduce" / "ours" / "1" / "never.txt").exists()
    assert main(["reproduce", paper(command="rm -r {output}"), "--table", "1"]) == 2
    assert "'rm' is none of vla and python" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"paper": "x"}, "missing entries: tables"),
        ({"paper": "x", "tables": {"1": {}}}, "tables: 1: missing entries: title"),
        (
            {"paper": "x", "tables": {"1": {"title": "t", "needs": ["k"]}}},
            "table 1 needs 'k', which is not described",
        ),
        (
            {"paper": "x", "tables": {}, "needs": {"k": {"data": "a", "checkpoint": "b"}}},
            "a need is one of checkpoint, data and benchmark",
        ),
    ],
)
def test_files_that_describe_no_paper_are_refused(tmp_path, values, says):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ReproductionError, match=says):
        read_paper(str(path))


def test_unknown_papers_and_tables_are_named(capsys):
    assert main(["reproduce", "openvla"]) == 2
    assert "there is no paper 'openvla'; known: instructvla" in capsys.readouterr().err
    assert main(["reproduce", "instructvla", "--table", "15"]) == 2
    assert "there is no table '15'; known: 1, 2, 3" in capsys.readouterr().err
    paper = read_paper("instructvla")
    assert "there is nothing to run for it" in table_text("8", paper.table("8"), paper.needs, "out")
