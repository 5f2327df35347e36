"""Grids of policies: what is a cell, what is kept of it, what a report says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.evaluation.benchmark import EpisodeResult
from vla.evaluation.comparison_plan import folder_digest, keep_plan
from vla.evaluation.comparison_report import report, table
from vla.evaluation.episode_files import (
    EpisodeLine,
    append_line,
    drop_rest,
    line_of,
    read_lines,
)
from vla.evaluation.errors import GridError
from vla.evaluation.grid import Claim, Evaluation, Grid, cells_of, chosen, read_grid
from vla.policies.checkpoint import build_model
from vla.policies.config import CheckpointError
from vla.training.loop import model_config
from vla_cli.parser import main

ROOT = Path(__file__).parents[1]
GRIDS = sorted((ROOT / "config" / "compare").glob("*.yaml"))
TRAIN = {
    "stage": "policy",
    "preset": "nano_policy_head",
    "robot": [{"path": "somewhere"}],
    "batch_size": 4,
    "steps": 10,
}


@pytest.fixture
def train_file(tmp_path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(TRAIN))
    return path


def grid_of(train_file: Path, **changes) -> Grid:
    values = {
        "train": str(train_file),
        "structures": {
            "one_step": {"preset": "nano_one_step", "batch_size": 8},
            "policy_head": {"model": {"structure": {"window": 4}}},
        },
        "executions": ("chunk", "first"),
        "seeds": (1, 2),
        "frames": 1600,
    }
    return Grid(**values | changes)


# Grids


def test_cells_that_differ_in_execution_share_one_training(train_file):
    cells = cells_of(grid_of(train_file), "grid")
    names = [cell.name for cell in cells[:3]]
    assert names == ["one_step-1-chunk", "one_step-2-chunk", "one_step-1-first"]
    assert len(cells) == 8
    by_name = {cell.name: cell.training for cell in cells}
    assert by_name["one_step-1-chunk"] is by_name["one_step-1-first"]
    assert len({id(training) for training in by_name.values()}) == 4
    assert by_name["policy_head-2-first"].parts[0].seed == 2


def test_all_see_equally_many_frames_and_a_window_counts_as_its_length(train_file):
    cells = cells_of(grid_of(train_file), "grid")
    steps = {cell.name: cell.training.parts[0].steps for cell in cells if cell.training.seed == 1}
    assert steps["one_step-1-chunk"] == 1600 / 8
    assert steps["policy_head-1-chunk"] == 1600 / (4 * 4)
    assert {cell.training.frames for cell in cells} == {1600}
    plain = cells_of(grid_of(train_file, frames=0), "grid")
    assert {cell.training.frames for cell in plain} == {10 * 8, 10 * 4 * 4}


def test_a_recipe_of_parts_divides_the_frames(train_file):
    recipes = {"post": [{"share": 3}, {"learning_rate": 1e-5}], "plain": [{}]}
    cells = cells_of(grid_of(train_file, recipes=recipes, seeds=(1,)), "grid")
    training = next(c.training for c in cells if c.name == "policy_head-post-1-chunk")
    assert [part.steps for part in training.parts] == [75, 25]
    assert training.parts[1].learning_rate == 1e-5 and training.frames == 1600


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": ""}, "`train` must name the training file"),
        (
            {"structures": {"two_step": {"preset": "nano_two_step"}}},
            r"cell two_step-1: .*unknown preset 'nano_two_step'",
        ),
        (
            {"heads": {"tree": {"model": {"head": {"trunk": "tree"}}}}},
            r"cell one_step-tree-1: .*head\.trunk is 'tree'; it must be one of: fc, lstm, gpt",
        ),
        (
            {"structures": {"x": {"model": {"structure": {"kind": "ring"}}}}},
            r"cell x-1: .*structure\.kind is 'ring'; it must be one of: one_step",
        ),
        ({"structures": {"a/b": {}}}, "structure 'a/b' must be a name"),
        ({"executions": ("sometimes",)}, "--execution takes chunk, .* got 'sometimes'"),
        ({"executions": ("chunk:15",)}, "asks for 15 steps of each chunk, .* has 14 left"),
        ({"evaluations": {"": Evaluation("chains", episodes=1001)}}, "there are chains 0 to 999"),
        (
            {"evaluations": {"": Evaluation("calvin", first_seed=990)}},
            "benchmark 'calvin' has 10 episodes of chains from seed 990 on, not 50; ask for fewer",
        ),
        ({"evaluations": {"": Evaluation("moon")}}, "unknown benchmark 'moon'"),
        ({"evaluations": {"": Evaluation(families=("fly",))}}, "unknown family 'fly'"),
        ({"leave_out": ({"shape": "one_step"},)}, "leave_out 1: unknown axis 'shape'"),
        (
            {"claims": (Claim("c", {"structure": "none"}, {"structure": "one_step"}),)},
            "claim 1: unknown structure 'none'; the grid has: one_step, policy_head",
        ),
        (
            {"claims": (Claim("c", {"structure": "policy_head"}, {"structure": "one_step"}),)},
            "claim 1: 2 kinds of cells have .*'policy_head'",
        ),
        ({"recipes": {"odd": [{"share": -1}]}}, "share must be a positive number, got -1"),
        ({"leave_out": ({"execution": "chunk"}, {"execution": "first"})}, "has 0 cells"),
    ],
)
def test_wrong_grids_are_named(train_file, changes, says):
    with pytest.raises((GridError, CheckpointError), match=says) as caught:
        cells_of(grid_of(train_file, **changes), "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


def test_wrong_grid_files_are_named(tmp_path):
    path = tmp_path / "grid.yaml"
    for text, says in (
        ("- 1", "is no grid"),
        ("seedz: [1]", "unknown entries: seedz; known: seeds"),
        ("seeds: [x]", "seeds 1 must be a whole number"),
        ("claims: [{name: a, first: {}}]", "claims 1: missing entries: second"),
    ):
        path.write_text(text)
        with pytest.raises((GridError, CheckpointError), match=says):
            read_grid(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_shipped_grids_are_whole(path):
    grid = read_grid(path)
    cells = cells_of(grid, path.name)
    assert (grid.claims or path.stem == "pilot") and grid.output.endswith(path.stem)
    frames = [cell.training.frames for cell in cells]
    assert max(frames) <= 1.001 * min(frames), "equal frames, but for the last batch"
    contract = load_contract(contract_path("sim_panda"))
    for part in {cell.training.name: cell.training.parts[0] for cell in cells}.values():
        with torch.device("meta"):
            build_model(model_config(part, None), contract)
    for claim in grid.claims:
        first, second = (chosen(cells, kind, path.name) for kind in (claim.first, claim.second))
        assert [c.training.seed for c in first] == [c.training.seed for c in second]


# Episodes on disk


def episode(seed: int, **changes) -> EpisodeLine:
    values = {
        "suite": "chains", "task": "chain", "group": "", "seed": seed, "training_seed": 1,
        "checkpoint_id": "abc", "execution": "chunk", "success": True, "seconds": 1.5,
        "length": 2.0, "failure": "", "digest": f"d{seed}",
    }  # fmt: skip
    return EpisodeLine(**values | changes)


@given(st.integers(0, 3), st.integers(0, 400))
def test_a_file_that_is_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, count, left):
    path = tmp_path_factory.mktemp("cell") / "episodes.jsonl"
    lines = [episode(number) for number in range(count)]
    for line in lines:
        append_line(path, line)
    content = path.read_bytes()[:left] if count else b""
    path.write_bytes(content)
    whole = content.count(b"\n")
    found, cut = read_lines(path)
    assert found == lines[:whole] and cut == (not content.endswith(b"\n") and content != b"")
    drop_rest(path)
    append_line(path, episode(9))
    assert read_lines(path) == ([*lines[:whole], episode(9)], False)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda lines: [lines[0], "{]", lines[1]], r"line 2 is damaged; remove that line"),
        (lambda lines: [lines[0], "3", lines[1]], r"line 2 is damaged; remove that line"),
        (lambda lines: [lines[0], "", lines[1]], r"line 2 is damaged"),
        (lambda lines: [json.dumps({"task": "x"}), lines[1]], r"line 1 is damaged"),
        (lambda lines: [lines[0].replace("true", '"yes"'), lines[1]], r"line 1 is damaged"),
        (lambda lines: [*lines, lines[0]], r"line 3: the episode 'chain' 0 is there twice"),
        (lambda lines: ["\x00", *lines], "is no text"),
    ],
)
def test_a_damaged_results_file_is_named_and_stays(tmp_path, damage, says):
    path = tmp_path / "episodes.jsonl"
    lines = [json.dumps(asdict(episode(number))) for number in range(2)]
    path.write_text("\n".join(damage(lines)) + "\n")
    before = path.read_bytes()
    with pytest.raises(GridError, match=says) as caught:
        read_lines(path)
    assert "episodes.jsonl" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert read_lines(tmp_path / "none.jsonl") == ([], False)


def test_a_line_holds_what_was_measured():
    result = EpisodeResult(
        "chain", 7, "open it", "", False, 3.25, {"length": 2.0}, "first", "dropped", "0a"
    )
    line = line_of(result, "chains", "split=unseen", 3, "id")
    assert line == EpisodeLine(
        "chains", "chain", "split=unseen", 7, 3, "id", "first", False, 3.25, 2.0, "dropped", "0a"
    )


# Reports


def lines_of(cells, success, length=None):
    """Episodes of each cell: success(cell, seed) and length(cell, seed)."""
    return {
        cell.name: [
            episode(
                seed,
                training_seed=cell.training.seed,
                checkpoint_id=cell.training.name,
                success=bool(success(cell, seed)),
                length=None if length is None else float(length(cell, seed)),
                failure="" if success(cell, seed) else "missed",
            )
            for seed in range(40)
        ]
        for cell in cells
    }


def test_a_report_is_what_its_episodes_say(train_file):
    claims = (
        Claim("head over one step", {"structure": "policy_head", "execution": "chunk"},
              {"structure": "one_step", "execution": "chunk"}, paper=0.4, source="Table I"),
        Claim("first over chunk", {"structure": "policy_head", "execution": "first"},
              {"structure": "policy_head", "execution": "chunk"}),
        Claim("alike", {"structure": "one_step", "execution": "first"},
              {"structure": "one_step", "execution": "chunk"}, equal_within=0.3),
    )  # fmt: skip
    grid = grid_of(train_file, claims=claims, seeds=(1, 2, 3))
    cells = cells_of(grid, "grid")
    generator = np.random.default_rng(0)
    draws = {cell.name: generator.random(40) for cell in cells}
    chance = {("one_step", "chunk"): 0.3, ("one_step", "first"): 0.3,
              ("policy_head", "chunk"): 0.9, ("policy_head", "first"): 0.5}  # fmt: skip

    def success(cell, seed):
        kind = cell.kind["structure"], cell.kind["execution"]
        return draws[cell.name][seed] < chance[kind]

    lines = lines_of(cells, success)
    content = report(grid, cells, lines, "grid")
    better, worse, alike = content["claims"]
    assert (better["verdict"], worse["verdict"]) == ("confirmed", "refuted")
    assert alike["verdict"] == "confirmed" and alike["margin"] == 0.3
    means = {
        structure: np.mean(
            [
                line.success
                for cell in cells
                if cell.kind == {"structure": structure, "head": "", "recipe": "",
                                 "execution": "chunk", "evaluation": ""}
                for line in lines[cell.name]
            ]
        )
        for structure in ("policy_head", "one_step")
    }  # fmt: skip
    assert better["difference"] == pytest.approx(means["policy_head"] - means["one_step"])
    assert better["low"] < better["difference"] < better["high"] and better["detectable"] > 0
    assert better["p_holm"] >= better["p_value"] and (better["seeds"], better["episodes"]) == (
        3,
        40,
    )
    first = content["cells"][0]
    assert (
        first["episodes"] == 40 and first["success_low"] < first["success"] < first["success_high"]
    )
    assert first["failures"] == {"missed": 40 - sum(line.success for line in lines[first["name"]])}
    assert json.loads(json.dumps(content)) == content
    text = table(content)
    assert "head over one step (success): confirmed" in text
    assert "the paper has +0.4 (Table I)" in text


def test_a_floor_decides_nothing_and_says_so(train_file):
    kinds = {"structure": "policy_head"}, {"structure": "one_step"}
    grid = grid_of(
        train_file, claims=(Claim("c", *kinds), Claim("l", *kinds, "length")), executions=("chunk",)
    )
    cells = cells_of(grid, "grid")
    # One policy succeeds at one scene always, the other never: a clear difference, at the floor.
    lines = lines_of(
        cells,
        lambda cell, seed: seed == 0 and cell.kind["structure"] == "policy_head",
        lambda cell, seed: 0.2 * (cell.kind["structure"] == "policy_head"),
    )
    for claim in report(grid, cells, lines, "grid")["claims"]:
        assert claim["verdict"] == "undecided" and claim["reason"].startswith("floor")


def test_parts_of_a_grid_are_reported_and_compared_on_what_both_have(train_file):
    kinds = {"structure": "policy_head"}, {"structure": "one_step"}
    grid = grid_of(train_file, claims=(Claim("c", *kinds),), executions=("chunk",))
    cells = cells_of(grid, "grid")
    lines = lines_of(cells, lambda cell, seed: cell.kind["structure"] == "policy_head")
    lines["policy_head-2-chunk"] = []
    lines["one_step-1-chunk"] = lines["one_step-1-chunk"][10:]
    (claim,) = report(grid, cells, lines, "grid")["claims"]
    assert (claim["seeds"], claim["episodes"], claim["difference"]) == (1, 30, 1.0)
    assert claim["verdict"] == "undecided" and claim["reason"].startswith("one training seed")
    (claim,) = report(grid, cells, {}, "grid")["claims"]
    assert claim["reason"] == "there are no episodes of both yet" and "difference" not in claim
    with pytest.raises(GridError, match="'chains' has no chains; take metric success"):
        length = replace(grid, claims=(Claim("c", *kinds, "length"),))
        report(length, cells, lines, "grid")


def test_cells_that_saw_other_scenes_are_not_compared(train_file):
    grid = grid_of(train_file)
    cells = cells_of(grid, "grid")
    lines = lines_of(cells, lambda cell, seed: True)
    lines["policy_head-1-first"][3] = replace(lines["policy_head-1-first"][3], digest="other")
    says = r"chain 3 begins with another observation in cell policy_head-1-first \(other\) than in"
    with pytest.raises(GridError, match=says):
        report(grid, cells, lines, "grid")


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
