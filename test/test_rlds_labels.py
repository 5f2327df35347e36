"""VLA-IT annotations find the episodes of a converted data set by file path and episode id."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from rlds_files import BRIDGE, bridge, read_by_tfds

from vla.datasets.dataset_check import check_lerobot
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot import writer
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.index import read_info
from vla.datasets.lerobot.labels import join_labels
from vla.datasets.lerobot.origins import read_origins
from vla.datasets.rlds.conversion import convert_rlds
from vla.datasets.rlds.source import open_source
from vla.training.config import RobotData
from vla.training.sources import open_robot

GENERATOR = np.random.default_rng(0)
CONTRACT, MAPPING = bridge()


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rlds") / "set"
    with pytest.MonkeyPatch.context() as patch:
        # So that the list of episodes is written in two parts.
        patch.setattr(writer, "LISTED_EPISODES", 2)
        convert_rlds(open_source(BRIDGE), folder, CONTRACT, MAPPING, "image", 1)
    return folder


def written(tmp_path: Path, converted: Path, spoil=lambda number, labels: labels) -> Path:
    """An annotation file as the authors write it: a label for each step of the original."""
    files: dict[str, dict] = {}
    for number, origin in read_origins(converted).items():
        labels = spoil(number, [f"move {number} {step}" for step in range(origin.steps)])
        if labels is not None:
            files.setdefault(origin.file_path, {})[origin.episode_id] = {
                "features": {"move_primitive": labels},
                "alt_instruction": {"Caption": f"scene {number}"},
            }
    path = tmp_path / "bridge_instruction.json"
    path.write_text(json.dumps(files))
    return path


def test_origins_are_those_of_the_records(converted):
    expected, origins = read_by_tfds("mini_bridge", "train"), read_origins(converted)
    keys = ("episode_metadata/file_path", "episode_metadata/episode_id", "lengths")
    known = set(zip(*(map(str, expected[key]) for key in keys), strict=True))
    found = {(o.file_path, o.episode_id, str(o.steps)) for o in origins.values()}
    assert len(found) == 3 and found < known
    assert {origin.first_step for origin in origins.values()} == {1}
    assert origins[0].record == "mini_bridge-train.tfrecord-00000-of-00003#0"
    # One id stands under two files, which an index could not tell apart.
    assert len({origin.episode_id for origin in origins.values()}) == 2


def test_each_frame_has_the_label_of_its_own_step(tmp_path, converted):
    """Though the first step was left out; training opens the set with its path alone."""
    path = written(tmp_path, converted)
    data = open_robot(
        RobotData(path=str(converted), kind="lerobot", annotations=str(path)), CONTRACT
    )
    ends, first = data.episode_ends, 0
    for number, end in enumerate(ends):
        for frame in range(first, end):
            sample = data.sample(frame, GENERATOR)
            assert sample.motion == f"move {number} {frame - first + 1}"
            assert sample.annotation.caption == f"scene {number}"
        first = end


def test_labels_of_the_kept_frames_alone_are_counted_by_these(tmp_path, converted):
    path = written(tmp_path, converted, lambda _, labels: labels[1:-1])
    data = LeRobotEpisodes(converted, None, CONTRACT, path)
    assert data.sample(0, GENERATOR).motion == "move 0 1"


def test_what_has_no_partner_is_counted_and_named(tmp_path, converted, caplog):
    def spoil(number: int, labels: list[str]) -> list[str] | None:
        return [None, labels, [*labels, *labels]][number]

    path, origins = written(tmp_path, converted, spoil), read_origins(converted)
    files = json.loads(path.read_text())
    files["/another/out.npy"] = {"7": {"features": {}}}
    path.write_text(json.dumps(files))
    with caplog.at_level(logging.WARNING):
        data = LeRobotEpisodes(converted, None, CONTRACT, path)
    unlabelled, odd = (
        f"{origins[number].file_path}, episode {origins[number].episode_id}" for number in (0, 2)
    )
    assert f"1 of 3 episodes have no annotations: {unlabelled}" in caplog.text
    assert "1 annotated episodes are not in the data set: /another/out.npy, episode 7" in (
        caplog.text
    )
    assert f"these labels are left out: {odd}" in caplog.text
    samples = [data.sample(end - 1, GENERATOR) for end in data.episode_ends]
    assert [sample.motion is None for sample in samples] == [True, False, True]
    assert [sample.annotation is None for sample in samples] == [True, False, False]
    findings = check_lerobot(converted, CONTRACT, annotations=path)
    texts = [finding.message for finding in findings if finding.area == "annotations"]
    assert texts[0] == "of 2 of 3 episodes" and len(texts) == 4


def test_annotations_of_another_data_set_are_refused(tmp_path, converted):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"/another/out.npy": {"7": {"features": {}}}}))
    info = read_info(converted)
    with pytest.raises(DatasetError, match=r"has none of the 3 .*: it names them /anoth"):
        join_labels(info, path)


def test_the_data_sets_own_annotations_are_found_by_index(tmp_path, converted):
    own = converted / "meta" / "annotations.json"
    labels = {"data/file.parquet": {"1": {"features": {"move_primitive": ["stop"]}}}}
    own.write_text(json.dumps(labels))
    try:
        data = LeRobotEpisodes(converted, None, CONTRACT)
    finally:
        own.unlink()
    motions = [data.sample(frame, GENERATOR).motion for frame in range(len(data))]
    begin = int(data.episode_ends[0])
    assert motions[begin] == "stop" and motions.count(None) == len(motions) - 1
