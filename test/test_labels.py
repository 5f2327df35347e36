"""Labels of finished episodes: which episode is meant, and what its bag says afterwards."""

from __future__ import annotations

import pytest
import yaml
from rosbags.highlevel import AnyReader

from vla.bags.labels import episode_folders, find_episode, label_episode
from vla.bags.message_types import load_message_type
from vla.bags.reader import read_metadata, validate_bag
from vla.bags.writer import BagError, BagWriter

TYPE = load_message_type("std_msgs/msg/UInt8MultiArray", ())


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "bags"
    for name in ("episode_1", "episode_2"):
        with BagWriter(folder / name, {"note": "first", "outcome": ""}) as writer:
            topic = writer.add_topic("/bytes", TYPE)
            writer.write(topic, bytes([0, 1, 0, 0]) + bytes(12), 1)
    return folder


def test_label_changes_outcome_and_note_and_nothing_else(directory):
    before = yaml.safe_load((directory / "episode_1" / "metadata.yaml").read_text())
    label_episode(directory / "episode_1", "success", "second")
    metadata = label_episode(directory / "episode_1", "failure")
    assert metadata.custom_data["outcome"] == "failure"
    assert metadata.custom_data["note"] == "first\nsecond"
    after = yaml.safe_load((directory / "episode_1" / "metadata.yaml").read_text())
    for content in (before, after):
        custom = content["rosbag2_bagfile_information"].pop("custom_data")
        assert custom["complete"] == "true"
    assert after == before
    assert validate_bag(directory / "episode_1").message_count == 1
    with AnyReader([directory / "episode_1"]) as reader:
        assert reader.message_count == 1
    names = {path.name for path in (directory / "episode_1").iterdir()}
    assert names == {"episode_1.mcap", "metadata.yaml"}


def test_finds_an_episode_by_name_path_or_as_the_last(directory):
    assert find_episode(directory) == directory / "episode_2"
    assert find_episode(directory, "episode_1") == directory / "episode_1"
    assert find_episode(directory, str(directory / "episode_1")) == directory / "episode_1"
    assert [folder.name for folder in episode_folders(directory)] == ["episode_1", "episode_2"]


@pytest.mark.parametrize("name", ["../other", "/etc", "episode_1/..", "link", "a/episode_1"])
def test_refuses_what_lies_elsewhere(directory, tmp_path, name):
    with BagWriter(tmp_path / "other"):
        pass
    (directory / "link").symlink_to(tmp_path / "other")
    with pytest.raises(BagError, match=r"not in the recorder's folder.*episode_2, episode_1"):
        find_episode(directory, name)


def test_refuses_unknown_ids_and_outcomes_and_says_what_there_is(directory, tmp_path):
    with pytest.raises(BagError, match=r"no episode 'episode_9'.*episode_2, episode_1"):
        find_episode(directory, "episode_9")
    with pytest.raises(BagError, match="no episodes"):
        find_episode(tmp_path / "empty")
    with pytest.raises(BagError, match=r"'excellent'.*'success', 'failure', ''"):
        label_episode(directory / "episode_1", "excellent")


def test_refuses_a_bag_that_is_being_written(directory):
    writer = BagWriter(directory / "episode_3", {"note": ""})
    with pytest.raises(BagError, match="being written"):
        label_episode(directory / "episode_3", "success")
    writer.close()
    label_episode(directory / "episode_3", "success")
    assert read_metadata(directory / "episode_3").custom_data["outcome"] == "success"
