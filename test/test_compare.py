"""Grids of policies: what is a cell, what is kept of it, what a report says of it."""

from __future__ import annotations

import json
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
