"""Bags whose metadata.yaml was made anew, as by `ros2 bag reindex`: the file still has the rest."""

from __future__ import annotations

import pytest
import yaml
from bag_files import write_demonstration
from foreign_bags import write_foreign_bag
from node_harness import ROOT

from vla.bags.conversion import contract_of_bags
from vla.bags.episodes import read_bag_episode
from vla.bags.metadata_copy import copied_custom_data
from vla.bags.reader import read_metadata, update_custom_data
from vla.contract.embodiment import ContractError, load_contract
from vla.datasets.frames import DatasetError

CONTRACT = load_contract(ROOT / "config/contracts/sim_panda.yaml")


def reindex(bag) -> None:
    """Leaves in metadata.yaml what can be found out from the messages."""
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"].pop("custom_data")
    path.write_text(yaml.safe_dump(content))


def test_what_metadata_has_lost_is_taken_from_the_file(tmp_path):
    bag = write_demonstration(tmp_path / "bag", CONTRACT, custom={"note": "mine"})
    whole = read_metadata(bag)
    reindex(bag)
    assert read_metadata(bag) == whole
    assert contract_of_bags([bag]) == CONTRACT
    assert set(read_bag_episode(bag, CONTRACT)[0].instructions) == {"pick up the cup"}
    changed = update_custom_data(bag, {"outcome": "failure"})
    assert changed.custom_data == whole.custom_data | {"outcome": "failure"}


def test_it_is_read_from_bags_of_other_writers(tmp_path):
    bag = write_foreign_bag(tmp_path / "bag", CONTRACT, custom={"instruction": "x", "other": "1"})
    reindex(bag)
    assert read_metadata(bag).custom_data == {"instruction": "x", "other": "1"}


def test_a_damaged_copy_or_none_is_no_error(tmp_path):
    bag = write_demonstration(tmp_path / "bag", CONTRACT, 0.3)
    reindex(bag)
    file = bag / "bag.mcap"
    content = file.read_bytes()
    # Where the copy, the summary and the footer are.
    for place in range(content.rindex(b"serialized_metadata"), len(content), 97):
        spoilt = bytearray(content)
        spoilt[place] ^= 0xFF
        file.write_bytes(bytes(spoilt))
        assert isinstance(copied_custom_data([file]), dict)
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        assert copied_custom_data([file]) == {}
    assert copied_custom_data([tmp_path / "none.mcap", tmp_path]) == {}


def test_a_contract_that_cannot_be_read_is_named(tmp_path):
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
    )
    for text in (bomb, "[" * 5000, "name: [", "\x00"):
        bag = write_demonstration(
            tmp_path / f"bag{len(text)}", CONTRACT, 0.3, custom={"contract": text}
        )
        with pytest.raises(ContractError, match="the contract in custom_data"):
            read_bag_episode(bag, CONTRACT)
        with pytest.raises(DatasetError, match="name one by --contract"):
            contract_of_bags([bag])
