"""`vla data check` names every problem of a data set, as reading refuses it."""

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from foreign_datasets import BRIDGE, MAPPING, ODD_IMAGES, edit_info, scaled
from fuzz.mutation import mutate_bytes, mutate_tree
from lerobot_files import (
    actions_of,
    replace_column,
    write_v2,
    write_v3,
)

from vla.core.findings import PROBLEM
from vla.core.resources import contract_path
from vla.datasets.dataset_check import check_lerobot
from vla.datasets.frames import DatasetError
from vla.datasets.image_check import require_images
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla_cli.parser import main


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("images", [True, False])
def test_a_good_set_is_ready_and_a_bad_one_has_all_of_its_problems_told(
    tmp_path, capsys, write, images
):
    folder, mapping = write(tmp_path / "set", images), tmp_path / "map.yaml"
    mapping.write_text("cameras: {front: camera}")
    arguments = ["data", "check", str(folder), "--contract", "widowx_bridge", "--mapping"]
    assert main([*arguments, str(mapping)]) == 0
    assert "ready: 0 problems, 0 warnings" in capsys.readouterr().out
    edit_info(folder, total_tasks=7)
    paths = sorted(folder.glob("data/*/*.parquet"))
    values = actions_of(2)
    values[1, 1] = np.inf
    replace_column(paths[-1], "action", values.tolist())
    first = [actions_of(0)] if write is write_v2 else [actions_of(0), actions_of(1)]
    replace_column(paths[0], "action", scaled(np.vstack(first), slice(6, 7), 100.0).tolist())
    assert main([*arguments, str(mapping)]) == 1
    said = capsys.readouterr().out
    assert "episode 2: action holds NaN or infinity" in said
    assert "gripper_range: [0, 100]" in said and "says 7 tasks, the list has 2" in said
    assert "not ready: 2 problems, 1 warnings" in said


def test_a_folder_that_is_no_data_set_is_named(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "holds neither a LeRobot data set nor bags" in capsys.readouterr().out
    assert main(["data", "check"]) == 2
    (tmp_path / "talk.json").write_text(
        json.dumps([{"image": "a.png", "conversations": [{"from": "human", "value": "a?"},
                                                        {"from": "gpt", "value": "b"}]}])
    )  # fmt: skip
    assert main(["data", "check", str(tmp_path / "talk.json")]) == 1
    assert "1 of 1 can't be used" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes(ODD_IMAGES["16 bits a value"])
    assert main(["data", "check", str(tmp_path / "talk.json")]) == 1
    assert "16 bits a value, not 8-bit colour or grey" in capsys.readouterr().out


def mutated(random: Random, folder: Path) -> str:
    """Changes one file of a data set; returns how."""
    file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if file.suffix == ".json":
        file.write_text(json.dumps(mutate_tree(random, json.loads(file.read_text()))))
    elif file.suffix == ".jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps(line) for line in mutate_tree(random, lines)))
    elif file.suffix == ".parquet" and random.randrange(2):
        table = parquet.read_table(file)
        name = random.choice(table.column_names)
        rows = [random.randrange(len(table)) for _ in range(len(table))]
        index = table.schema.get_field_index(name)
        column = random.choice((table.column(name).take(rows), pa.nulls(len(table)),
                                [float("nan")] * len(table)))  # fmt: skip
        parquet.write_table(table.set_column(index, name, [column]), file)
        return f"{file.name}, column {name}"
    else:
        file.write_bytes(mutate_bytes(random, file.read_bytes()))
    return file.name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wrong_with_a_set_the_check_tells_what_reading_refuses(tmp_path, seed):
    random = Random(seed)
    whole = (write_v2, write_v3)[seed % 2](tmp_path / "whole", images=seed > 1)
    refused = 0
    for number in range(33):
        folder = tmp_path / "set"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        how = mutated(random, folder)
        findings = check_lerobot(folder, BRIDGE, MAPPING)
        told = [f for f in findings if f.level == PROBLEM]
        assert all(len(f.message) < 1000 and "\n" not in f.message for f in findings)
        try:
            data = LeRobotEpisodes(folder, MAPPING, BRIDGE)
            require_images(data.info, ["camera"])
        except DatasetError as error:
            refused += 1
            assert told, f"{number}, {how}: {error}"
        else:
            assert not told, f"{number}, {how}: {told}"
            assert np.isfinite(data.states()).all() and np.isfinite(data.actions()).all()
    assert refused > 10


def test_names_with_control_characters_are_shown_escaped(tmp_path, capsys):
    named = str(tmp_path / "a\nb\x1b[31m")
    assert main(["data", "check", named, "--contract", str(contract_path("sim_panda"))]) == 1
    assert main(["data", "convert", named, str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert shown.out.count(r"a b\x1b[31m") == 2
