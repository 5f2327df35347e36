"""Bags in every storage and compression of rosbag2, by rosbags, and with more than ours hold."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
import zstandard
from damaged_bags import KINDS, STORE, TOPICS, messages
from foreign_bags import write_foreign_bag
from fuzz.bags import MESSAGES, PROFILES, write_bag
from mcap.writer import CompressionType
from node_harness import ROOT
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from vla.bags.conversion import convert_bags, find_bags
from vla.bags.decompression import CompressionError, copy_decompressed, decompress
from vla.bags.labels import label_episode
from vla.bags.message_types import MessageTypeError
from vla.bags.reader import (
    is_unfinished,
    read_decoded,
    read_messages,
    read_metadata,
    recover_bag,
    validate_bag,
)
from vla.bags.writer import BagError
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path

DATA = ROOT / "test/data"
CONTRACT = load_contract(contract_path("sim_panda"))
FORMATS = list(itertools.product(StoragePlugin, (CompressionMode.NONE, *CompressionMode)[1:4]))


def write(folder: Path, storage: StoragePlugin, mode: CompressionMode, part: slice) -> None:
    writer = Writer(folder, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    writer.set_custom_data("instruction", "pick up")
    with writer:
        connections = [
            writer.add_connection(name, kind, typestore=STORE)
            for name, kind in zip(TOPICS, KINDS, strict=True)
        ]
        for topic, time, data in messages()[part]:
            writer.write(connections[TOPICS.index(topic)], time, data)


def join(folder: Path, parts: list[Path]) -> None:
    """Makes one bag of several files of them, as rosbag2 splits one."""
    folder.mkdir()
    infos = []
    for part in parts:
        infos.append(yaml.safe_load((part / "metadata.yaml").read_text()))
        shutil.move(
            part / infos[-1]["rosbag2_bagfile_information"]["relative_file_paths"][0], folder
        )
    first, *others = [info["rosbag2_bagfile_information"] for info in infos]
    for other in others:
        first["relative_file_paths"] += other["relative_file_paths"]
        first["files"] += other["files"]
        first["message_count"] += other["message_count"]
        for mine, more in zip(
            first["topics_with_message_count"], other["topics_with_message_count"], strict=True
        ):
            mine["message_count"] += more["message_count"]
    (folder / "metadata.yaml").write_text(yaml.safe_dump(infos[0]))


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize(("storage", "mode"), FORMATS)
def test_every_storage_and_compression_is_read(tmp_path, storage, mode, files):
    bag = tmp_path / "bag_0"
    write(bag, storage, mode, slice(0, 90 if files == 1 else 50))
    if files == 2:
        write(tmp_path / "bag_1", storage, mode, slice(50, 90))
        join(tmp_path / "bag", [bag, tmp_path / "bag_1"])
        bag = tmp_path / "bag"
    open_files = len(os.listdir("/proc/self/fd"))
    found = [(m.topic, m.receive_time, m.data) for m in read_messages(bag)]
    assert found == messages()
    assert validate_bag(bag).counts == {"/bytes": 45, "/words": 45}
    assert next(v.data for _, v in read_decoded(bag, {"/words"})).startswith("word 1")
    assert not is_unfinished(read_metadata(bag))
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert label_episode(bag, "success").custom_data["outcome"] == "success"
    before = {path: path.read_bytes() for path in bag.iterdir()}
    if storage == StoragePlugin.MCAP and mode != CompressionMode.FILE:
        assert recover_bag(bag).message_count == 90
    else:
        with pytest.raises(BagError, match=r"recover|zstd -d"):
            recover_bag(bag)
    assert {path: path.read_bytes() for path in bag.iterdir()} == before
    # As a recorder that was killed before it wrote them leaves the folder.
    (bag / "metadata.yaml").unlink()
    assert read_metadata(bag).topics == {"/bytes": 45, "/words": 45}
    assert [(m.topic, m.receive_time, m.data) for m in read_messages(bag)] == messages()


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(("storage", "mode"), FORMATS)
def test_bags_made_of_links_are_read_and_never_changed(tmp_path, storage, mode, described):
    write(tmp_path / "whole", storage, mode, slice(0, 90))
    # As Hugging Face's cache keeps files: under a name without meaning, elsewhere.
    blobs, bag = tmp_path / "blobs", tmp_path / "snapshot" / "bag"
    blobs.mkdir()
    bag.mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "whole").iterdir())):
        path.rename(blobs / f"{number:064x}")
        if described or path.name != "metadata.yaml":
            (bag / path.name).symlink_to(f"../../blobs/{number:064x}")
    before = {path: path.read_bytes() for path in blobs.iterdir()}
    names = sorted(bag.iterdir())
    assert [(m.topic, m.receive_time, m.data) for m in read_messages(bag)] == messages()
    assert validate_bag(bag).counts == {"/bytes": 45, "/words": 45}
    assert bag in find_bags([tmp_path / "snapshot"])
    with pytest.raises(BagError, match=r"is a link, .*cp -rL"):
        recover_bag(bag)
    if described:
        with pytest.raises(BagError, match=r"metadata.yaml is a link, .*cp -rL"):
            label_episode(bag, "success")
    assert sorted(bag.iterdir()) == names
    assert all(path.is_symlink() for path in names)
    assert {path: path.read_bytes() for path in blobs.iterdir()} == before
    shutil.copytree(bag, tmp_path / "copy")
    assert label_episode(tmp_path / "copy", "success").custom_data["outcome"] == "success"


@pytest.mark.parametrize("storage", StoragePlugin)
def test_a_damaged_file_is_named_with_a_remedy(tmp_path, storage):
    for mode in (CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE):
        bag = tmp_path / mode.name
        write(bag, storage, mode, slice(0, 90))
        (file,) = read_metadata(bag).files
        content = bytearray(file.read_bytes())
        for place in range(len(content) // 4, 3 * len(content) // 4, 40):
            content[place] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(BagError, match=r"recover|zstd -dc|copy the bag again") as refusal:
            list(read_messages(bag))
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
        with contextlib.suppress(BagError):
            for message in read_messages(bag, allow_truncated=True):
                assert message.topic in TOPICS


def test_a_cut_compressed_file_gives_what_comes_before(tmp_path):
    bag = tmp_path / "bag"
    write(bag, StoragePlugin.MCAP, CompressionMode.FILE, slice(0, 90))
    (file,) = read_metadata(bag).files
    content = zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())
    # In blocks, as those of a large file are.
    worker = zstandard.ZstdCompressor().compressobj()
    parts = []
    for place in range(0, len(content), 1000):
        parts.append(worker.compress(content[place : place + 1000]))
        parts.append(worker.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    file.write_bytes(b"".join(parts[: len(parts) // 2]))
    with pytest.raises(BagError, match="zstd -dc"):
        list(read_messages(bag))
    found = [(m.topic, m.receive_time, m.data) for m in read_messages(bag, allow_truncated=True)]
    assert 10 < len(found) < 90 and found == messages()[: len(found)]


def test_what_decompresses_without_end_is_refused(tmp_path):
    bomb = zstandard.ZstdCompressor().compressobj()
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(64)) + bomb.flush()
    assert len(data) < 1 << 14
    with pytest.raises(CompressionError, match="more than"):
        decompress(data, "zstd", limit=1 << 20)
    with pytest.raises(CompressionError, match="more than"):
        decompress(zstandard.ZstdCompressor().compress(bytes(1 << 22)), "zstd", limit=1 << 20)
    (tmp_path / "bomb").write_bytes(data)
    with (
        (tmp_path / "bomb").open("rb") as source,
        (tmp_path / "target").open("wb") as target,
        pytest.raises(CompressionError, match="more than"),
    ):
        copy_decompressed(source, target, 1 << 20)
    assert (tmp_path / "target").stat().st_size <= 1 << 20


@pytest.mark.slow
def test_bags_of_others_make_a_data_set(tmp_path):
    bags = tmp_path / "bags"
    shutil.copytree(DATA / "binary-schema/bags", bags)
    shutil.copytree(DATA / "file-compressed-bag", bags, dirs_exist_ok=True)
    shutil.copytree(DATA / "killed-foreign-bag/bag", bags / "killed")
    shutil.copytree(DATA / "killed-foreign-bag/bag", bags / "killed_without_metadata")
    (bags / "killed_without_metadata/metadata.yaml").unlink()
    (bags / "unsound").mkdir()
    (bags / "unsound/metadata.yaml").write_bytes(b"\xff\xfe\x00")
    report = convert_bags(find_bags([bags]), tmp_path / "set", CONTRACT, "image", workers=1)
    assert {Path(kept.bag).name: kept.frames for kept in report.kept} == dict.fromkeys(
        ("a_good", "b_protobuf", "bag", "bag_message", "killed", "killed_without_metadata"), 15
    )
    (refusal,) = report.refused
    assert "unsound" in refusal.reason and "UTF-8" in refusal.reason


def test_only_what_is_decoded_needs_a_definition(tmp_path):
    bag = DATA / "binary-schema/bags/b_protobuf"
    decoded = Counter(message.topic for message, _ in read_decoded(bag, {"/joint_states"}))
    assert decoded == {"/joint_states": 160}
    with pytest.raises(MessageTypeError, match=r"'/log' are encoded as 'protobuf'"):
        list(read_decoded(bag, {"/log"}))


@pytest.mark.parametrize(
    "text",
    ["!!bool x", "!!int ''", "!!timestamp x", "1:1:1:1.0", "*a", "[" * 5000, "- 1e999", "\0", "{}"],
)
def test_unsound_profiles_of_a_topic_cost_nothing(text, tmp_path):
    for name, profiles in (("bad", text), ("good", PROFILES)):
        write_bag(tmp_path / name, CompressionType.NONE, unfinished=True, profiles=profiles)
    for name in ("bad", "good"):
        assert recover_bag(tmp_path / name).message_count == MESSAGES
    (tmp_path / "bad/metadata.yaml").unlink()
    assert read_metadata(tmp_path / "bad").message_count == MESSAGES


def test_a_bag_of_sqlite3_makes_the_frames_of_its_mcap(tmp_path):
    write_foreign_bag(tmp_path / "bags/mcap", CONTRACT)
    source = tmp_path / "bags/mcap"
    with Writer(
        tmp_path / "bags/sqlite3", version=8, storage_plugin=StoragePlugin.SQLITE3
    ) as writer:
        connections = {}
        for message in read_messages(source):
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic, message.type_name, msgdef="", rihs01="RIHS01_0", typestore=STORE
                )
            writer.write(connections[message.topic], message.receive_time, message.data)
    report = convert_bags(find_bags([tmp_path / "bags"]), tmp_path / "set", CONTRACT, "image",
                          workers=1)  # fmt: skip
    assert not report.refused
    first, second = report.kept
    assert first.frames == second.frames == 15
    assert first.instructions == second.instructions
