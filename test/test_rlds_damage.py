"""Damaged, incomplete and unsuitable RLDS data sets are named, and what is good is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlds_files import BRIDGE, FRACTAL, ROOT, bridge, copy_of, fractal, write_records

from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.rlds import conversion
from vla.datasets.rlds.conversion import convert_rlds
from vla.datasets.rlds.crc32c import LANE, crc32c
from vla.datasets.rlds.examples import read_example
from vla.datasets.rlds.features import RldsFeature, numbers_of, read_features
from vla.datasets.rlds.mapping import read_rlds_mapping
from vla.datasets.rlds.source import open_source
from vla.datasets.rlds.tfrecords import DamagedRecord, read_records
from vla_cli.parser import main

NAME = "mini_fractal-train.tfrecord-00000-of-00001"


@given(st.binary(max_size=40), st.integers(0, 3 * LANE + 1))
def test_checksums_are_those_of_the_definition(data, more):
    data += bytes(range(256)) * (more // 256) + bytes(more % 256)
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


def test_the_checksum_of_the_standard():
    """RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283


def places(file: Path) -> list[int]:
    """Where each record begins."""
    begins = [0]
    for record in read_records(file):
        begins.append(begins[-1] + 16 + len(record))
    return begins[:-1]


def spoil(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("byte", "kept", "lost", "says"),
    [
        (100, 3, 1, "episode 1: its checksum is wrong: bytes were changed"),
        (1, 1, 3, "episode 1: its length is damaged, and what follows can't be found"),
        (None, 1, 3, "bytes before it does; fetch the file again"),
    ],
)
def test_a_damaged_episode_is_refused_and_the_others_are_kept(tmp_path, byte, kept, lost, says):
    file = copy_of(FRACTAL, tmp_path) / NAME
    second = places(file)[1]
    if byte is None:
        file.write_bytes(file.read_bytes()[: second + 200])
    else:
        spoil(file, second + byte)
    contract, mapping = fractal()
    report = convert_rlds(open_source(file.parent), tmp_path / "set", contract, mapping, "image", 1)
    assert (report.kept, report.lost) == (kept, lost)
    assert says in report.refused[0].reason and str(file) in report.refused[0].reason
    assert report.refused[0].record == f"{NAME}#1"
    if lost > 1:
        assert "the last 2 of 4 episodes are missing" in report.refused[1].reason
    written = json.loads((tmp_path / "set/meta/conversion.json").read_text())
    assert written["lost"] == lost
    assert len(LeRobotEpisodes(tmp_path / "set", None, contract).episode_ends) == kept


def test_an_image_that_cannot_be_read_costs_its_episode_alone(tmp_path):
    file = copy_of(FRACTAL, tmp_path) / NAME
    records = list(read_records(file))
    records[2] = records[2].replace(b"\xff\xd8\xff\xe0", b"\xff\xd8\x00\x00", 1)
    write_records(file, records)
    contract, mapping = fractal()
    report = convert_rlds(open_source(file.parent), tmp_path / "set", contract, mapping, "video", 1)
    assert (report.kept, report.lost) == (3, 1)
    assert f"{file}, episode 2, step 0: front cannot be read" in report.refused[0].reason


def test_nothing_is_left_where_no_episode_is_kept(tmp_path, capsys):
    file = copy_of(FRACTAL, tmp_path) / NAME
    spoil(file, 1)
    command = [
        "data",
        "convert",
        "rlds",
        str(file.parent),
        str(tmp_path / "set"),
        "--workers",
        "1",
    ]
    command += ["--contract", "google_fractal"]
    command += ["--mapping", str(ROOT / "config/data/fractal_rlds.yaml")]
    assert main(command) == 1
    assert "no episode was kept" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["mini_fractal"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    contract, mapping = bridge()
    with pytest.raises(KeyboardInterrupt):
        convert_rlds(
            open_source(BRIDGE), tmp_path / "set", contract, mapping, "image", 1, interrupt
        )
    assert not list(tmp_path.iterdir())


def test_only_the_files_of_the_chosen_episodes_are_needed(tmp_path):
    folder = copy_of(BRIDGE, tmp_path)
    (folder / "mini_bridge-train.tfrecord-00000-of-00003").unlink()
    with pytest.raises(
        DatasetError, match=r"lacks 1 of 3 files: .*-00000-of-00003; fetch them, or"
    ):
        open_source(folder)
    with pytest.raises(DatasetError, match="none of the 4 episodes of 'train' is chosen"):
        open_source(folder, chosen=slice(4, 9))
    source = open_source(folder, chosen=slice(2, 4))
    assert [(file.first, file.begin, file.end) for file in source.files] == [
        (1, 1, 2), (3, 0, 1)
    ]  # fmt: skip
    assert source.episodes == 2


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("dataset_info.json", lambda info: info | {"fileFormat": "riegeli"}, "only tfrecord"),
        ("dataset_info.json", lambda info: info | {"splits": []}, "has no split 'train'; it has:"),
        ("dataset_info.json", lambda info: info | {"splits": {"train": 3}}, "not a list"),
        (
            "dataset_info.json",
            lambda info: info | {"splits": [{"name": "train", "numShards": "1"}]},
            "does not say how many episodes each file has",
        ),
        (
            "dataset_info.json",
            lambda info: info | {"splits": [{"name": "train", "shardLengths": ["4", "-1"]}]},
            "shardLengths is '-1', not a whole number",
        ),
        (
            "dataset_info.json",
            lambda info: info | {"splits": [{"name": "train", "shardLengths": ["2", "2"]}]},
            "must have files NAME-train.tfrecord-00000-of-00002 of one name, it has none",
        ),
        ("features.json", lambda features: {"type": "x.FeaturesDict", "content": {}}, "no 'steps'"),
        ("features.json", lambda features: [], "must be a mapping"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path, file, change, says):
    folder = copy_of(FRACTAL, tmp_path)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(change(content)))
    with pytest.raises(DatasetError, match=says):
        open_source(folder)


def test_the_folder_above_a_version_may_be_named(tmp_path):
    folder = copy_of(FRACTAL, tmp_path)
    (tmp_path / "all").mkdir()
    folder = folder.rename(tmp_path / "all/0.1.0")
    assert open_source(tmp_path / "all").folder == folder
    copy_of(FRACTAL, tmp_path).rename(tmp_path / "all/0.2.0")
    with pytest.raises(DatasetError, match=r"several versions: 0\.1\.0, 0\.2\.0; name one"):
        open_source(tmp_path / "all")
    with pytest.raises(DatasetError, match=r"has no features\.json: it is no data set of tfds"):
        open_source(tmp_path)
    (folder / "features.json").unlink()
    with pytest.raises(DatasetError, match=r"has no features\.json, which tfds writes since"):
        open_source(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cameras": {"front": "observation/picture"}}, "has no feature observation/picture"),
        ({"cameras": {"front": "action/world_vector"}}, "is 'float32', not images"),
        ({"cameras": {"rear": "observation/image"}}, "cameras that the contract lacks: .*rear"),
        ({"state": "observation/natural_language_instruction"}, "is 'string', not numbers"),
        ({"instruction": "language_instruction"}, "its texts: observation/natural_language_instr"),
        ({"rate": 4.0}, "4 frames a second, contract 'google_fractal' has 3 Hz"),
        ({"action_scale": (1000.0,) * 3 + (1.0,) * 4}, "where metres are expected"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, changes, says):
    contract, mapping = fractal()
    with pytest.raises(DatasetError, match=says):
        convert_rlds(
            open_source(FRACTAL), tmp_path / "set", contract, replace(mapping, **changes), "image"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("cameras: {}", "rate must be the steps' rate in Hz"),
        ("{rate: 5, cameras: {}, images: false}", "a conversion takes images"),
        ("{rate: 5, cameras: {}, gripper_moves: true, binarize: true}", "takes the sign"),
        ("{rate: 5, cameras: {}, speed: 3}", "unknown entries: speed"),
    ],
)
def test_a_mapping_file_that_contradicts_itself_is_refused(tmp_path, entry, says):
    path = tmp_path / "mapping.yaml"
    path.write_text(entry)
    with pytest.raises(DatasetError, match=says):
        read_rlds_mapping(path)


def test_a_bug_costs_one_episode(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no")

    monkeypatch.setattr(conversion, "track_of", fail)
    contract, mapping = fractal()
    report = convert_rlds(open_source(FRACTAL), tmp_path / "set", contract, mapping, "image", 1)
    assert report.kept == 0 and report.lost == 4
    assert "cannot be converted (ZeroDivisionError: no; please report" in report.refused[0].reason


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_are_refused(data):
    try:
        read_example(data, {"a"})
    except DatasetError as error:
        assert "it is no tf.train.Example" in str(error)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.booleans())
def test_whole_numbers_are_read_packed_and_one_by_one(numbers, packed):
    def varint(value: int) -> bytes:
        value %= 2**64
        parts = []
        while value > 0x7F:
            parts.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*parts, value])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    joined = b"".join(varint(value) for value in numbers)
    values = field(1, joined) if packed else b"".join(b"\x08" + varint(v) for v in numbers)
    example = field(1, field(1, field(1, b"a") + field(2, field(3, values))))
    np.testing.assert_array_equal(read_example(example, {"a"})["a"], numbers)
    assert read_example(example, {"b"}) == {}


@pytest.mark.parametrize(
    ("feature", "values", "says"),
    [
        (RldsFeature("a", "float32", (3,)), np.ones(4, np.float32), "no multiple of 3"),
        (RldsFeature("a", "float32"), np.array([np.nan], np.float32), "NaN or infinity"),
        (RldsFeature("a", "float32"), [b"1"], "is stored as bytes"),
        (RldsFeature("a", "float32", (), "zlib"), np.ones(1), "is not stored as bytes"),
        (RldsFeature("a", "float32", (), "zlib"), [b"1234"], "can't be decompressed"),
        (RldsFeature("a", "float32", (2,), "bytes"), [b"1234"], "does not have 8 bytes"),
    ],
)
def test_numbers_that_are_not_as_described_are_refused(feature, values, says):
    with pytest.raises(DatasetError, match=says):
        numbers_of(feature, values)


def test_numbers_of_64_bits_keep_their_sign_or_have_none():
    stored = np.array([-1], np.int64)
    assert numbers_of(RldsFeature("a", "uint64"), stored)[0, 0] == 2.0**64
    assert numbers_of(RldsFeature("a", "int64"), stored)[0, 0] == -1.0


def test_what_cannot_be_read_does_not_matter_unless_it_is_named(tmp_path):
    """Features of other kinds, and a description whose parts are JSON in JSON."""
    tensor = {"pythonClassName": "a.Tensor", "tensor": {"dtype": "int8", "shape": {}}}
    odd = {"pythonClassName": "a.Video", "sequence": {}}
    ragged = {"pythonClassName": "a.Tensor", "tensor": {"dtype": "int8",
              "shape": {"dimensions": ["-1"]}}}  # fmt: skip
    inner = {"type": "a.FeaturesDict", "content": json.dumps({"b": tensor, "c": odd, "d": ragged})}
    steps = {
        "pythonClassName": "a.Dataset",
        "jsonFeature": {"json": json.dumps({"feature": inner})},
    }
    top = {"pythonClassName": "a.FeaturesDict", "featuresDict": {"features": {"steps": steps}}}
    (tmp_path / "features.json").write_text(json.dumps(top))
    features = read_features(tmp_path).steps
    assert {name: feature.kind for name, feature in features.items()} == {
        "b": "int8", "c": "other", "d": "other"
    }  # fmt: skip
    assert features["b"].key == "steps/b"


def test_a_damaged_record_says_where_the_file_ends(tmp_path):
    path = tmp_path / "x.tfrecord"
    write_records(path, [b"abc", b""])
    assert list(read_records(path)) == [b"abc", b""]
    path.write_bytes(path.read_bytes()[:-1])
    first, second = read_records(path)
    assert first == b"abc" and isinstance(second, DamagedRecord)
    assert "the file ends 1 bytes before it does" in second.reason


def test_a_gripper_that_goes_the_other_way_is_refused(tmp_path):
    """Commands by motion are compared with the fingers of the states, too."""
    contract, mapping = fractal()
    folder = copy_of(FRACTAL, tmp_path)
    # The fingers of the first episode close when they are told; often enough, that is telling.
    record = next(read_records(folder / NAME))
    write_records(folder / NAME, [record] * 12)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["12"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    turned = replace(mapping, gripper="open")
    with pytest.raises(DatasetError, match=r"opens where the fingers .*write 'gripper: closed'"):
        convert_rlds(open_source(folder), tmp_path / "set", contract, turned, "image", 1)
    report = convert_rlds(open_source(folder), tmp_path / "set", contract, mapping, "image", 1)
    assert report.kept == 12
