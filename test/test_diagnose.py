"""`vla diagnose`: policies of known behaviour, data of every kind, files, errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from following_policies import NAMES, save_following, write_directions
from foreign_datasets import DATA

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.evaluation.diagnosis import CONDITIONS
from vla.evaluation.language_following import DIRECTIONS
from vla.language_action.direction_words import named_directions
from vla.language_action.segments import read_segmentation, write_segmentation
from vla_cli.parser import main

FIGURES = ("direction_alignment", "direction_consistency", "separability", "silhouette")
FOREIGN = DATA / "lerobot-v21-to-v30"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_directions(tmp_path_factory.mktemp("data") / "all", NAMES * 4)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Many short episodes to the left and to the right."""
    return write_directions(tmp_path_factory.mktemp("data") / "sides", ["left", "right"] * 50, 4)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    kinds = ("language", "state", "vision", "nothing")
    return {kind: save_following(folder / kind, kind) for kind in kinds}


def diagnosed(tmp_path, *arguments) -> tuple[dict, dict]:
    """The report, and the values of the figures of each condition that was run."""
    file = tmp_path / "diagnose.json"
    assert main(["diagnose", "--json", str(file), *map(str, arguments)]) == 0
    report = json.loads(file.read_text())
    values = {
        entry["name"]: [entry["figures"][name]["value"] for name in FIGURES]
        for entry in report["conditions"]
        if entry["figures"]
    }
    return report, values


@pytest.mark.slow
def test_a_policy_that_returns_the_demonstration(tmp_path, data, policies, capsys):
    report, values = diagnosed(
        tmp_path, "--checkpoint", policies["language"], "--data", data, "--cases", 30
    )
    assert [entry["name"] for entry in report["conditions"]] == [c.name for c in CONDITIONS]
    assert (report["cases"], report["asked"], report["steps"]) == (24, 30, 16)
    for name in set(values) - {"blank_instruction", "flipped_instruction"}:
        alignment, consistency, separability, silhouette = values[name]
        assert alignment == 1 and consistency == pytest.approx(1)
        assert separability > 1000 and silhouette == pytest.approx(1)
    assert values["blank_instruction"][:2] == [0, 0], "it stays where it is"
    assert values["flipped_instruction"][:2] == pytest.approx([0, -1])
    shown, said = capsys.readouterr()
    assert "24 cases, not 30: the data has no more pairs of opposite directions\n" in said
    assert "paired" in shown and "1.00 (1.00 to 1.00)" in shown
    assert "the policy does not read: images" in shown


def test_a_policy_that_follows_its_state(tmp_path, data, policies):
    _, values = diagnosed(
        tmp_path, "--checkpoint", policies["state"], "--data", data, "--cases", 24
    )
    turned = {"conflicting_state", "conflicting_both", "removed_conflicting_state"}
    for name, (alignment, consistency, _, _) in values.items():
        wanted = (0, -1) if name in turned else (1, 1)
        assert (alignment, consistency) == pytest.approx(wanted), name


def test_a_policy_that_follows_its_images_is_refused_where_there_are_none(
    tmp_path, data, policies, capsys
):
    report, values = diagnosed(
        tmp_path, "--checkpoint", policies["vision"], "--data", data, "--cases", 24
    )
    refused = {entry["name"]: entry["refused"] for entry in report["conditions"]}
    assert {name for name in refused if refused[name]} == {"removed", "removed_conflicting_state"}
    assert refused["removed"] == "KeyError('front')"
    assert "removed: refused by the policy: KeyError('front')" in capsys.readouterr().out
    for name, (alignment, consistency, _, _) in values.items():
        across = name == "unaligned"  # along another axis
        turned = name in ("conflicting_vision", "conflicting_both")
        wanted = (0, 0) if across else (0, -1) if turned else (1, 1)
        assert (alignment, consistency) == pytest.approx(wanted), name


@pytest.mark.slow
def test_a_policy_that_reads_nothing_is_at_chance(tmp_path, sides, policies):
    report, values = diagnosed(
        tmp_path, "--checkpoint", policies["nothing"], "--data", sides, "--steps", 4
    )
    assert report["cases"] == 100
    figures = report["conditions"][0]["figures"]
    for name, chance in zip(FIGURES, (0.5, 0.0, 1.0, 0.0), strict=True):
        assert figures[name]["low"] <= chance <= figures[name]["high"], name
    assert abs(values["paired"][3]) < 0.05
    assert all(found == values["paired"] for found in values.values()), "the same seeds in all"


@pytest.mark.slow
def test_figures_can_be_computed_once_more_from_the_file(tmp_path, sides, policies):
    given = ["--checkpoint", policies["nothing"], "--data", sides, "--steps", 3, "--seed", 5]
    report, values = diagnosed(tmp_path, *given, "--cases", 30)
    again, _ = diagnosed(tmp_path, *given, "--cases", 30)
    assert again == report
    cases = report["case_list"]
    for name in values:
        moved = np.array([case["predicted"][name] for case in cases])
        units = np.array([DIRECTIONS[case["direction"]] for case in cases])
        shown = np.array([case["demonstrated"] for case in cases])
        cosines = (moved * shown).sum(1) / np.linalg.norm(moved, axis=1)
        cosines /= np.linalg.norm(shown, axis=1)
        aligned = (moved * units).sum(1) > 0
        assert values[name][:2] == pytest.approx([aligned.mean(), cosines.mean()])
    for number, case in enumerate(cases):
        assert {case["direction"], cases[case["opposite"]]["direction"]} == {"left", "right"}
        assert cases[case["opposite"]]["opposite"] == number


def test_pictures_show_every_case_in_every_condition(tmp_path, data, policies):
    folder = tmp_path / "pictures"
    report, values = diagnosed(
        tmp_path, "--checkpoint", policies["language"], "--data", data, "--cases", 18,
        "--pictures", folder,
    )  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "paths_x.svg", "paths_y.svg", "paths_z.svg", "representations.svg"
    ]  # fmt: skip
    svg = "{http://www.w3.org/2000/svg}"
    for axis in "xyz":
        picture = ElementTree.parse(folder / f"paths_{axis}.svg").getroot()
        assert len(list(picture.iter(f"{svg}polyline"))) == 6 * len(values)
    picture = ElementTree.parse(folder / "representations.svg").getroot()
    found = report["representations"]
    assert found["vision"] == "removed" and len(found["points"]) == 18 * 6
    assert len(list(picture.iter(f"{svg}circle"))) == 18 * 6 + 6, "and what the colours mean"


def test_a_policy_that_does_not_show_what_enters_its_head_has_no_such_picture(
    tmp_path, data, policies, capsys
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("representations.svg", *(f"paths_{axis}.svg" for axis in "xyz"), "mine.svg"):
        (folder / name).write_text("of an earlier run")
    report, _ = diagnosed(
        tmp_path, "--checkpoint", policies["vision"], "--data", data, "--cases", 2,
        "--pictures", folder,
    )  # fmt: skip
    mine, only = sorted(folder.iterdir())
    assert mine.name == "mine.svg" and only.name.startswith("paths_")
    assert report["representations"]["missing"] == "the policy doesn't show what enters its head"
    assert "no picture of representations" in capsys.readouterr().out


@pytest.mark.slow
def test_segments_of_the_expert_s_demonstrations(tmp_path, dataset, checkpoint):
    segments = tmp_path / "segments"
    assert main(["data", "segment", str(dataset), str(segments), "--rules", "--contract",
                 "sim_panda"]) == 0  # fmt: skip
    made = read_segmentation(segments)
    episodes = {
        number: tuple(
            replace(segment, instruction=f"move the gripper {named[0]}")
            for segment in own
            if (named := named_directions(segment.instruction))  # the longest comes first
        )
        for number, own in made.episodes.items()
    }
    write_segmentation(replace(made, episodes=episodes), segments / "segments.json")
    report, values = diagnosed(
        tmp_path, "--checkpoint", checkpoint, "--data", dataset, "--segments", segments,
        "--steps", 3, "--cases", 4, "--pictures", tmp_path,
    )  # fmt: skip
    assert report["cases"] == 4
    assert {"paired", "unaligned", "conflicting_vision", "conflicting_state"} <= set(values)
    assert report["representations"]["points"], "of its latent action"
    assert report["demonstrated"]["direction_alignment"]["value"] == 1
    assert all(case["scene"].startswith("episode ") for case in report["case_list"])


def test_a_data_set_of_somebody_else_s_tools(tmp_path, policies, capsys):
    """Converted by lerobot; every second episode is turned round, and the tasks say so."""
    folder = tmp_path / "theirs"
    shutil.copytree(FOREIGN / "set", folder)
    for path in sorted((folder / "data").rglob("*.parquet")):
        table = parquet.read_table(path)
        sign = np.where(np.array(table["task_index"]) == 0, 1.0, -1.0)
        actions = np.array(table["action"].to_pylist(), np.float32)
        actions[:, 0] *= sign
        column = pa.array(actions.tolist(), table.schema.field("action").type)
        table = table.set_column(table.schema.get_field_index("action"), "action", column)
        parquet.write_table(table, path)
    tasks = parquet.read_table(folder / "meta/tasks.parquet").to_pydict()
    words = {0: "move the gripper forward", 1: "move the gripper back"}
    name = next(column for column in tasks if column != "task_index")
    tasks[name] = [words[index] for index in tasks["task_index"]]
    schema = parquet.read_schema(folder / "meta/tasks.parquet")
    parquet.write_table(pa.table(tasks, schema), folder / "meta/tasks.parquet")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "cameras: {front: observation.images.front, wrist: observation.images.wrist}\n"
    )
    report, values = diagnosed(
        tmp_path, "--checkpoint", policies["language"], "--data", folder, "--mapping", mapping,
        "--cases", 8,
    )  # fmt: skip
    assert report["cases"] == 8 and values["paired"][0] == 1
    assert {case["instruction"] for case in report["case_list"]} == set(words.values())


# What is refused


def refused(capsys, *arguments) -> str:
    status = main(["diagnose", *map(str, arguments)])
    message = capsys.readouterr().err.strip()
    assert status == 2 and message.startswith("vla: ") and "\n" not in message, message
    return message


def test_data_without_directions_is_refused_and_the_file_stays(tmp_path, dataset, policies, capsys):
    file = tmp_path / "before.json"
    file.write_text("before")
    message = refused(
        capsys, "--checkpoint", policies["language"], "--data", dataset, "--json", file
    )
    assert "has no two instructions with opposite directions (none)" in message
    assert file.read_text() == "before" and [path.name for path in tmp_path.iterdir()] == [
        "before.json"
    ]


def test_a_chunk_that_is_longer_than_the_episodes_is_refused(sides, policies, capsys):
    message = refused(capsys, "--checkpoint", policies["language"], "--data", sides)
    assert "has 4 steps at most, and 16 of a chunk are compared; give --steps 4" in message


def test_data_of_another_robot_is_refused(tmp_path, data, capsys):
    bridge = load_contract(contract_path("widowx_bridge"))
    other = save_following(tmp_path / "bridge", "language", bridge)
    message = refused(capsys, "--checkpoint", other, "--data", data)
    assert "embodiment contracts differ" in message
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("cameras: {}\n")
    message = refused(capsys, "--checkpoint", other, "--data", data, "--mapping", mapping)
    assert "10" in message and "8" in message, "columns of the state"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cases", "0"], "--cases takes an even number of 2 to"),
        (["--cases", "7"], "since cases come in pairs, got 7"),
        (["--seed", "-1"], "--seed takes 0 to"),
        (["--steps", "17"], "--steps takes 1 to 16, the chunk's, got 17"),
        (["--segments", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere holds neither a LeRobot data set nor bags"),
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_what_cannot_be_is_refused(data, policies, capsys, arguments, says):
    given = ["--checkpoint", policies["language"], "--data", data, *arguments]
    assert says in refused(capsys, *given)
