"""Repair keeps all that is sound, whatever is damaged, and the original beside it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from damaged_bags import (
    WRITERS,
    flipped_bits_cost_one_chunk,
    messages,
    places,
    write_mcap,
    write_ours,
)
from node_harness import ROOT
from rosbags.highlevel import AnyReader

from vla.bags.reader import (
    is_unfinished,
    read_messages,
    read_metadata,
    recover_bag,
    unfinished_bags,
    validate_bag,
)
from vla.bags.writer import BagError

DATA = ROOT / "test/data"


def keys(folder: Path, allow_truncated: bool = False) -> Counter:
    found = read_messages(folder, allow_truncated=allow_truncated)
    return Counter((m.topic, m.receive_time, m.data) for m in found)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_flipped_bit_costs_one_chunk_at_most(tmp_path, name):
    outcomes = flipped_bits_cost_one_chunk(tmp_path / name, WRITERS[name], 40, 1)
    assert outcomes.total() == 40
    assert outcomes["repaired"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_what_stands_before_a_cut_is_kept(tmp_path, name):
    whole = tmp_path / "whole"
    WRITERS[name](whole)
    file = next(whole.glob("*.mcap"))
    content, known = file.read_bytes(), places(file)
    generator = np.random.default_rng(3)
    for number, cut in enumerate(generator.integers(known[0].end, len(content), 20)):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        cut_file = folder / file.name
        cut_file.write_bytes(content[:cut])
        expected = Counter(key for place in known if place.end <= cut for key in place.messages)
        tolerated = keys(folder, allow_truncated=True)
        assert not expected - tolerated, cut
        report = recover_bag(folder)
        assert keys(folder) == tolerated, cut
        assert validate_bag(folder).message_count == report.message_count
        kept = [cut_file, *report.originals]
        assert any(path.read_bytes().startswith(content[: cut - 60]) for path in kept)


def test_messages_of_the_chunk_that_is_cut_are_kept(tmp_path):
    for compression, expected in (("NONE", 88), ("ZSTD", 60), ("LZ4", 60)):
        folder = tmp_path / compression
        write_mcap(folder, compression)
        file = folder / f"{compression}.mcap"
        last = places(file)[-1]
        file.write_bytes(file.read_bytes()[: last.end - 100])
        assert expected <= recover_bag(folder).message_count < 90


def test_a_large_bag_with_one_wrong_bit_is_never_emptied(tmp_path):
    write_ours(tmp_path / "bag", closed=False)
    file = tmp_path / "bag" / "bag.mcap"
    damaged = bytearray(file.read_bytes())
    damaged[places(file)[0].start + 900] ^= 1
    file.write_bytes(damaged)
    report = recover_bag(tmp_path / "bag")
    assert report.message_count == 75
    assert "1 of 6 chunks" in report.lost and "15 messages: /bytes 8, /words 7" in report.lost
    assert report.originals[0].read_bytes() == damaged
    assert str(report.originals[0]) in report.kept_in_words()


def test_where_nothing_is_sound_nothing_is_changed(tmp_path):
    write_mcap(tmp_path / "bag")
    file = tmp_path / "bag" / "bag.mcap"
    damaged = bytearray(file.read_bytes())
    for place in places(file):
        damaged[place.end - 5] ^= 1
    file.write_bytes(damaged)
    before = contents(tmp_path / "bag")
    with pytest.raises(BagError, match=r"nothing of .* left as it is"):
        recover_bag(tmp_path / "bag")
    assert contents(tmp_path / "bag") == before


def refused(folder: Path, words: str) -> None:
    """Repair refuses a bag in one line, and changes nothing."""
    before = contents(folder)
    with pytest.raises(BagError, match=words) as refusal:
        recover_bag(folder)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    with pytest.raises(BagError):
        list(read_messages(folder, allow_truncated=True))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["../precious.mcap", "/etc/hostname", "a/../../precious.mcap", ""])
def test_files_outside_of_the_folder_are_refused(tmp_path, name):
    write_ours(tmp_path / "precious_bag", closed=False)
    precious = tmp_path / "precious.mcap"
    shutil.copy(tmp_path / "precious_bag" / "precious_bag.mcap", precious)
    before = precious.read_bytes()
    write_ours(tmp_path / "bag", closed=False)
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- bag.mcap", f"- '{name}'"))
    refused(tmp_path / "bag", "not in .*bag")
    assert precious.read_bytes() == before
    told = []
    assert tmp_path / "bag" not in unfinished_bags(tmp_path, lambda *entry: told.append(entry))
    assert [folder for folder, _ in told] == [tmp_path / "bag"]


def test_links_and_files_of_other_kinds_are_refused(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious" * 100)
    for name in ("link", "text", "pipe", "empty"):
        write_ours(tmp_path / name, closed=False)
        file = tmp_path / name / f"{name}.mcap"
        file.unlink()
        if name == "link":
            file.symlink_to(precious)
        elif name == "pipe":
            os.mkfifo(file)
        else:
            file.write_text("precious" * 100 if name == "text" else "")
    refused(tmp_path / "link", "no MCAP file|is a link")
    refused(tmp_path / "text", "no MCAP file")
    refused(tmp_path / "empty", "no MCAP file")
    refused(tmp_path / "pipe", "a pipe")
    assert precious.read_text() == "precious" * 100


@pytest.mark.parametrize("where", ["inside", "outside", "folder"])
@pytest.mark.parametrize("cut", [0, 200])
def test_nothing_is_repaired_through_a_link(tmp_path, where, cut):
    write_ours(tmp_path / "bag", closed=False)
    bag, file = tmp_path / "bag", tmp_path / "bag" / "bag.mcap"
    content = file.read_bytes()
    content = content[: len(content) - cut]
    target = (bag if where == "inside" else tmp_path) / "precious"
    if where == "folder":
        target.mkdir()
        (bag / "part").symlink_to(target)
        metadata = bag / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace("- bag.mcap", "- part/bag.mcap"))
        file.unlink()
        target = target / "bag.mcap"
    else:
        file.unlink()
        file.symlink_to(target)
    target.write_bytes(content)
    before = contents(bag)
    assert list(read_messages(bag, allow_truncated=True))
    with pytest.raises(BagError, match="is a link, and nothing is written through links"):
        recover_bag(bag)
    assert contents(bag) == before and target.read_bytes() == content
    # Of links by which the user names the whole folder, none lies in the bag.
    if where == "folder":
        return
    file.unlink()
    file.write_bytes(content)
    (tmp_path / "name").symlink_to(bag)
    assert recover_bag(tmp_path / "name").message_count > 0


def test_no_planted_link_is_followed_when_metadata_are_written(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    write_ours(tmp_path / "bag", closed=False)
    (tmp_path / "bag" / ".metadata.yaml.new").symlink_to(precious)
    (tmp_path / "bag" / ".bag.mcap.repaired").symlink_to(precious)
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-200])
    assert recover_bag(tmp_path / "bag").originals
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        b"",
        b"- 1\n",
        b"rosbag2_bagfile_information: 7\n",
        b"rosbag2_bagfile_information: {relative_file_paths: 3}\n",
        b"rosbag2_bagfile_information: " + b"[" * 5000,
    ],
)
def test_metadata_that_are_none_are_refused_in_one_line(tmp_path, text):
    write_ours(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").write_bytes(text)
    refused(tmp_path / "bag", "metadata.yaml")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("message_count: 90", "message_count: -1"),
        ("message_count: 90", "message_count: 1.0e+400"),
        ("message_count: 90", "message_count: many"),
        ("storage_identifier: mcap", "storage_identifier: [mcap]"),
        ("storage_identifier: mcap", "storage_identifier: my_plugin"),
        ("compression_mode: ''", "compression_mode: rar"),
        ("instruction: pick up", "instruction: [1, 2]"),
        ("name: /bytes", "name: 7"),
    ],
)
def test_absurd_metadata_are_refused_in_one_line(tmp_path, entry, value):
    write_ours(tmp_path / "bag")
    path = tmp_path / "bag" / "metadata.yaml"
    assert entry in path.read_text()
    path.write_text(path.read_text().replace(entry, value))
    refused(tmp_path / "bag", "metadata.yaml")


def test_a_killed_bag_of_another_recorder_is_used_and_completed(tmp_path):
    bag = tmp_path / "bag"
    shutil.copytree(DATA / "killed-foreign-bag/bag", bag)
    assert is_unfinished(read_metadata(bag))
    with pytest.raises(BagError, match=r"truncated.*recover_bag"):
        list(read_messages(bag))
    kept = keys(bag, allow_truncated=True)
    assert kept.total() == 385
    assert recover_bag(bag).message_count == 385
    assert keys(bag) == kept and not is_unfinished(read_metadata(bag))
    assert (bag / "bag.mcap.damaged").read_bytes() == (
        DATA / "killed-foreign-bag/bag/bag.mcap"
    ).read_bytes()
    with AnyReader([bag]) as reader:
        assert reader.message_count == len(list(reader.messages())) == 385


@pytest.mark.parametrize("cut", [0, 1500])
def test_a_bag_without_metadata_is_described_by_its_files(tmp_path, cut):
    bag = tmp_path / "bag"
    write_mcap(bag)
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: -cut or None])
    assert not (bag / "metadata.yaml").exists()
    metadata = read_metadata(bag)
    assert metadata.topics == {"/bytes": 45, "/words": 45}
    assert metadata.types["/words"] == "std_msgs/msg/String"
    assert is_unfinished(metadata) == bool(cut)
    assert recover_bag(bag).message_count == 90
    assert keys(bag) == Counter(messages())
    assert validate_bag(bag).message_count == 90


def test_a_split_bag_is_repaired_file_by_file(tmp_path):
    bag = tmp_path / "bag"
    bag.mkdir()
    for number in (9, 10):
        write_mcap(tmp_path / f"bag_{number}")
        shutil.move(tmp_path / f"bag_{number}" / f"bag_{number}.mcap", bag)
    damaged = bytearray((bag / "bag_10.mcap").read_bytes())
    place = places(bag / "bag_10.mcap")[1]
    damaged[place.end - 5] ^= 4
    (bag / "bag_10.mcap").write_bytes(damaged)
    whole = (bag / "bag_9.mcap").read_bytes()
    report = recover_bag(bag)
    assert report.message_count == 180 - len(place.messages)
    assert report.originals == [bag / "bag_10.mcap.damaged"]
    assert (bag / "bag_9.mcap").read_bytes() == whole
    metadata = read_metadata(bag)
    assert [file.name for file in metadata.files] == ["bag_9.mcap", "bag_10.mcap"]
    assert sum(metadata.topics.values()) == validate_bag(bag).message_count


def test_the_holes_of_a_sparse_file_are_passed_over(tmp_path):
    write_ours(tmp_path / "bag")
    sound = keys(tmp_path / "bag")
    os.truncate(next((tmp_path / "bag").glob("*.mcap")), 2**40)
    assert keys(tmp_path / "bag", allow_truncated=True) == sound
