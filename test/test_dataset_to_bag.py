"""The way back: episodes of a data set as bags, which are read as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_files import GRASP, write_demonstration
from rosbags.highlevel import AnyReader

from vla.bags.conversion import convert_bags
from vla.bags.dataset_to_bag import export_episodes
from vla.bags.episodes import read_bag_episode
from vla.bags.reader import read_decoded, read_metadata, validate_bag
from vla.contract.dimensions import STATE_LAYOUTS
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla_cli.parser import main

CONTRACT = load_contract(contract_path("sim_panda"))
GENERATOR = np.random.default_rng(0)


def make(folder: Path, contract=CONTRACT) -> Path:
    said = ((0.95, "put it down", "act"),)
    bags = [
        write_demonstration(folder / "a", contract, custom={"episode_id": "a", "note": "slow"}),
        write_demonstration(folder / "b", contract, 2.0, instructions=said),
    ]
    convert_bags(bags, folder / "set", contract, "image", workers=1)
    return folder / "set"


@pytest.mark.slow
@pytest.mark.parametrize("layout", STATE_LAYOUTS)
@pytest.mark.parametrize("raw", [True, False])
def test_a_bag_has_the_episode_s_frames(tmp_path, raw, layout):
    contract = replace(CONTRACT, state_names=layout)
    dataset = make(tmp_path, contract)
    bags = list(export_episodes(dataset, tmp_path / "back", raw=raw))
    data = LeRobotEpisodes(dataset, None, contract)
    assert len(bags) == 2
    begin = 0
    for bag, end in zip(bags, data.episode_ends, strict=True):
        validate_bag(bag)
        episode, images = read_bag_episode(bag, contract)
        # How the last step ends is not known any more.
        rows = slice(begin, end - 1)
        np.testing.assert_allclose(episode.states, data.states()[rows], atol=2e-6)
        np.testing.assert_allclose(episode.actions, data.actions()[rows], atol=5e-6)
        for row, index in enumerate(range(begin, end - 1)):
            sample = data.sample(index, GENERATOR)
            assert episode.instructions[row] == sample.instruction
            for name, image in sample.images.items():
                assert np.abs(images[name][row].astype(int) - image).max() <= (0 if raw else 1)
        begin = end
    assert data.actions()[int(GRASP * 10) + 1, -1] == 0, "the fingers closed on the way"


@pytest.mark.slow
def test_rosbags_reads_it_and_the_metadata_tells_where_it_is_from(tmp_path):
    dataset = make(tmp_path)
    assert main(["data", "export", str(dataset), str(tmp_path / "back"), "--episodes", "0:1"]) == 0
    (bag,) = (tmp_path / "back").iterdir()
    custom = read_metadata(bag).custom_data
    assert custom["instruction"] == "pick up the cup" and custom["outcome"] == "success"
    assert custom["episode_id"] == "a" and custom["note"] == "slow"
    assert custom["contract_id"] == CONTRACT.contract_id and custom["complete"] == "true"
    with AnyReader([bag]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts == {
            "/camera/front/image_raw/compressed": 29,
            "/camera/wrist/image_raw/compressed": 29,
            "/joint_states": 29,
            "/end_effector_pose": 29,
            "/vla/instruction": 1,
        }
        decoded = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()]
    assert len(decoded) == 4 * 29 + 1
    ((_, spoken),) = read_decoded(bag, {"/vla/instruction"})
    assert spoken.instruction == "pick up the cup" and spoken.mode == "act"


@pytest.mark.slow
def test_what_cannot_be_exported_is_named(tmp_path, capsys):
    dataset = make(tmp_path)
    command = ["data", "export", str(dataset), str(tmp_path / "back")]
    assert main([*command, "--episodes", "2:5"]) == 2
    assert "has no such episodes; it has 2" in capsys.readouterr().err
    assert main([*command, "--episodes", "two"]) == 2
    assert "expected A:B" in capsys.readouterr().err
    assert main([*command, "--episodes", "1:"]) == 0 and main([*command, "--episodes", "1:"]) == 2
    assert "episode_000001 exists already" in capsys.readouterr().err
    (dataset / "meta/contract.yaml").unlink()
    with pytest.raises(DatasetError, match="was not written by 'vla data convert'"):
        next(export_episodes(dataset, tmp_path / "other"))
