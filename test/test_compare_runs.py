"""Runs of grids of policies: what they depend on, and what becomes of one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vla.evaluation.comparison_plan import folder_digest, keep_plan
from vla.evaluation.errors import GridError
from vla_cli.parser import main

ROOT = Path(__file__).parents[1]


# What a run depends on


def test_a_changed_run_is_refused_and_nothing_is_lost(tmp_path):
    parts = {"configuration": "a", "data": "b", "code": "c"}
    plan = {
        "trainings": {"x-1": parts},
        "cells": {"x-1-chunk": parts | {"execution": "chunk", "evaluation": "e"}},
        "data": {},
    }

    def changed(section: str, **entries):
        other = json.loads(json.dumps(plan))
        for values in other[section].values():
            values |= entries
        return other

    assert keep_plan(plan, tmp_path) == plan == keep_plan(plan, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    for section, entry in (
        ("trainings", "configuration"), ("trainings", "data"), ("trainings", "code"),
        ("cells", "evaluation"),
    ):  # fmt: skip
        says = rf"was begun with another {entry} of x-1.*nothing was changed"
        with pytest.raises(GridError, match=says):
            keep_plan(changed(section, **{entry: "new"}), tmp_path)
        assert (tmp_path / "plan.json").read_bytes() == before
    code = changed("trainings", code="new")
    assert keep_plan(code, tmp_path, any_code=True)["trainings"] == plan["trainings"]
    more = json.loads(json.dumps(plan))
    more["cells"]["y-1"] = more["cells"]["x-1-chunk"]
    del more["cells"]["x-1-chunk"]
    assert set(keep_plan(more, tmp_path)["cells"]) == {"x-1-chunk", "y-1"}, "cells come and go"
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(GridError, match="is no plan of a grid"):
        keep_plan(plan, tmp_path)


def test_data_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small").write_text("text")
        (tmp_path / name / "large").write_bytes(b"x" * 300_000)
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    for change in (
        lambda: (tmp_path / "b" / "large").write_bytes(b"x" * 299_999 + b"y"),
        lambda: (tmp_path / "b" / "small").write_text("texT"),
        lambda: (tmp_path / "b" / "new").write_text(""),
    ):
        before = folder_digest(tmp_path / "b")
        change()
        assert folder_digest(tmp_path / "b") not in (before, folder_digest(tmp_path / "a"))
    assert folder_digest(tmp_path / "a" / "small") != folder_digest(tmp_path / "a" / "large")


# A whole run


@pytest.fixture
def tiny(tmp_path, dataset, checkpoint) -> Path:
    """The shipped tiny grid, on the tests' data and backbone."""
    values = yaml.safe_load((ROOT / "config" / "compare" / "tiny.yaml").read_text())
    values["train"] = str(ROOT / values["train"])
    values["entries"]["robot"][0]["path"] = str(dataset)
    values["entries"] |= {"backbone_source": str(checkpoint)}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def kill_at(command: list[str], has_come: Callable[[], bool]) -> None:
    """Starts a command and ends it by SIGKILL as soon as something has come."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        while not has_come():
            assert process.poll() is None, process.stdout.read().decode()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_grid_that_was_killed_gives_the_same_report(tiny, tmp_path, capfd):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["compare", str(tiny), "--output", str(whole)]) == 0
    printed = capfd.readouterr().out
    assert "policy_head-1-first" in printed and "policy head over one-step" in printed
    undisturbed = json.loads((whole / "report.json").read_text())
    assert [cell["episodes"] for cell in undisturbed["cells"]] == [2, 2, 2]
    assert len(list((whole / "trainings").iterdir())) == 2

    command = [sys.executable, "-m", "vla_cli", "compare", str(tiny), "--output", str(killed)]
    kill_at(command, lambda: any(killed.glob("trainings/policy_head-*/*/training_state-*")))
    assert len(list(killed.glob("trainings/*/done.json"))) == 1
    (begun,) = killed.glob("cells/*/episodes.jsonl")
    first, _, rest = begun.read_text().partition("\n")
    begun.write_text(f"{first}\n{rest[:40]}")  # as a kill in its second episode would leave it
    assert main(["compare", str(tiny), "--output", str(killed)]) == 0
    printed = capfd.readouterr().out
    assert "episodes.jsonl: the last line was written by half, and is dropped" in printed
    assert "trained one_step-1" not in printed, "that was done before"
    assert json.loads((killed / "report.json").read_text()) == undisturbed
    for cell in undisturbed["cells"]:
        lines = [
            (out / "cells" / cell["name"] / "episodes.jsonl").read_text() for out in (whole, killed)
        ]
        assert lines[0] == lines[1]

    # Nothing is left to do; a changed grid is refused, and so is a damaged file.
    assert main(["compare", str(tiny), "--output", str(whole)]) == 0
    values = yaml.safe_load(tiny.read_text())
    tiny.write_text(yaml.safe_dump(values | {"frames": 36}))
    capfd.readouterr()
    assert main(["compare", str(tiny), "--output", str(whole)]) == 2
    said = capfd.readouterr().err
    assert "was begun with another configuration of one_step-1" in said and said.count("\n") == 1
    tiny.write_text(yaml.safe_dump(values))
    damaged = whole / "cells" / "one_step-1-chunk-short" / "episodes.jsonl"
    damaged.write_text("{\n" + damaged.read_text())
    assert main(["compare", str(tiny), "--output", str(whole)]) == 2
    assert "line 1 is damaged" in capfd.readouterr().err


@pytest.mark.slow
def test_it_stops_in_time_and_goes_on_in_two_processes(tiny, tmp_path, capfd):
    output = tmp_path / "out"
    start = ["compare", str(tiny), "--output", str(output)]
    assert main([*start, "--minutes", "0.0001"]) == 0
    assert "the same command goes on with" in capfd.readouterr().out
    assert not list(output.glob("cells/*/episodes.jsonl"))
    assert main([*start, "--dry-run"]) == 0
    printed = capfd.readouterr().out
    assert "3 cells in" in printed and "shares the training above" in printed
    assert "minutes in one process, measured over a few steps here" in printed
    assert main([*start, "--jobs", "2"]) == 0
    printed = capfd.readouterr().out
    assert "trained one_step-1" in printed and "evaluated policy_head-1-first-short" in printed
    assert "are left" not in printed
    (output / "report.json").unlink()
    assert main([*start, "--report"]) == 0 and (output / "report.json").exists()


@pytest.mark.slow
def test_what_fails_is_named_and_the_rest_goes_on(tiny, tmp_path, capfd):
    values = yaml.safe_load(tiny.read_text())
    gone = {"path": str(tmp_path / "gone"), "kind": "lerobot"}
    values["structures"]["one_step"]["robot"] = [gone]
    tiny.write_text(yaml.safe_dump(values))
    assert main(["compare", str(tiny), "--output", str(tmp_path / "out")]) == 2
    printed = capfd.readouterr()
    assert "vla: one_step-1: " in printed.err and "gone" in printed.err
    assert printed.err.count("vla: ") == 1 and "Traceback" not in printed.err
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [cell["episodes"] for cell in content["cells"]] == [0, 2, 2]
    (log,) = (tmp_path / "out").glob("trainings/one_step-1-*/log.txt")
    assert "Traceback" in log.read_text()
