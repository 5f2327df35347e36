"""Every reader of a file that people or tools write: damaged, it gives values or its own error."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from mutations import mutated

from vla.annotation.prompts import PromptError, read_prompt
from vla.annotation.records import RECORDS_FILE, Entry, Record, Records, read_records
from vla.annotation.replies import read_reply
from vla.annotation.schema import ReplyError
from vla.annotation.truth import read_scenes
from vla.bags.message_types import MessageTypeError, load_message_type
from vla.contract.normalization import (
    NormalizationError,
    measure,
    read_norm_stats,
    write_norm_stats,
)
from vla.control.robot_model import RobotModelError, model_from_urdf
from vla.core.files import read_text
from vla.core.resources import shared_file
from vla.datasets.conversations import LlavaConversations
from vla.datasets.frames import DatasetError, EpisodeWords, Shard, read_shard, write_shard
from vla.datasets.vla_it import read_vla_it
from vla.policies.config import CheckpointError
from vla.policies.released import read_statistics
from vla.training.config import read_train_config
from vla.training.finetune import read_finetune_config
from vla_cli.demo import load_demo_config
from vla_cli.errors import CommandError
from vla_nodes.launcher.document import LaunchError, load_document
from vla_nodes.preflight.run import given_parameters

PAIR = {"question": "where is it ?", "answer": "on the left"}
LABELS = {
    "a.parquet": {
        "0": {
            "features": {"move_primitive": ["move left", None]},
            "alt_instruction": {"Caption": "a can", "QA": [PAIR], "CR": [PAIR], "CC": [PAIR]},
        }
    }
}
TALKS = [
    {
        "id": "a",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image> what is this ?"},
            {"from": "gpt", "value": "a can"},
        ],
    }
]
NAMES = {"state": ("x", "y"), "action": ("x", "y")}
RECORD = Record(3, "pick", "d", (Entry("QA", "what ?", "a can"),), {"kind": "model"}, "m", {"a": 1})
REPLY = {
    "caption": "a red can on a white table",
    "question_answers": [{"question": f"what is {n} ?", "answer": f"it is {n}"} for n in range(4)],
    "command_rewrites": [{"question": f"take {n}", "answer": f"i take {n}"} for n in range(4)],
    "contexts": [{"question": f"i need {n}", "answer": f"here is {n}"} for n in range(3)],
}


def rows_of_talks(path):
    """Every row of a file of conversations."""
    data = LlavaConversations(path)
    return [data.row(index) for index in range(len(data))]


def statistics(contract) -> dict:
    dimensions = {"action": len(contract.action_names), "proprio": len(contract.state_names)}
    return {
        "bridge": {
            name: {"q01": [-1.0] * count, "q99": [1.0] * count, "mean": [0.0] * count}
            for name, count in dimensions.items()
        }
    }


def norm_stats(path: Path) -> bytes:
    values = np.random.default_rng(0).normal(size=(50, 2))
    write_norm_stats({name: measure(values, names) for name, names in NAMES.items()}, path)
    return path.read_bytes()


def shipped(name: str) -> bytes:
    return shared_file(name).read_bytes()


def readers(contract, folder: Path) -> dict:
    """By name: a file's whole content, how it is read, and the errors that may come of it."""
    (folder / "meta").mkdir()
    arm = contract.joint_names
    return {
        "stats.json": (
            norm_stats(folder / "n"),
            lambda path: read_norm_stats(path, NAMES),
            NormalizationError,
        ),
        "train.yaml": (
            shipped("config/training/nano_action.yaml"),
            read_train_config,
            CheckpointError,
        ),
        "finetune.yaml": (
            shipped("config/training/finetune.yaml"),
            read_finetune_config,
            CheckpointError,
        ),
        "demo.yaml": (shipped("config/demo.yaml"), load_demo_config, CommandError),
        "labels.json": (json.dumps(LABELS).encode(), read_vla_it, DatasetError),
        "talks.json": (json.dumps(TALKS).encode(), rows_of_talks, DatasetError),
        "talks.jsonl": (json.dumps(TALKS[0]).encode() + b"\n", rows_of_talks, DatasetError),
        "scenes.yaml": (b"0: {family: pick, seed: 7}\n1: {family: place, seed: 8}\n", read_scenes,
                        DatasetError),
        "prompt.md": (shipped("config/annotation/vla_it.md"), read_prompt, PromptError),
        f"meta/{RECORDS_FILE}": (
            json.dumps(asdict(RECORD)).encode() + b"\n",
            lambda path: read_records(path.parent.parent),
            DatasetError,
        ),
        "released.json": (
            json.dumps(statistics(contract)).encode(),
            lambda path: read_statistics(path, None, contract, True),
            CheckpointError,
        ),
        "reply.json": (
            f"```json\n{json.dumps(REPLY)}\n```".encode(),
            lambda path: read_reply(path.read_bytes().decode("latin1"), "pick it up"),
            ReplyError,
        ),
        "robot.urdf": (
            shipped("config/robots/fr3.urdf"),
            lambda path: model_from_urdf(
                read_text(path, RobotModelError), arm, contract.base_frame, contract.tool_frame
            ),
            RobotModelError,
        ),
        "controller.yaml": (
            shipped("config/controller.yaml"),
            lambda path: given_parameters(path, "controller"),
            ValueError,
        ),
        "sim.launch.xml": (shipped("launch/sim.launch.xml"), load_document, LaunchError),
    }  # fmt: skip


READERS = (
    "stats.json", "train.yaml", "finetune.yaml", "demo.yaml", "labels.json", "talks.json",
    "talks.jsonl", "scenes.yaml", "prompt.md", f"meta/{RECORDS_FILE}", "released.json",
    "reply.json", "robot.urdf", "controller.yaml", "sim.launch.xml",
)  # fmt: skip


@pytest.fixture
def fr3():
    from vla.contract.embodiment import load_contract
    from vla.core.resources import contract_path

    return load_contract(contract_path("fr3"))


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_gives_values_or_the_readers_own_error(tmp_path, fr3, name):
    whole, read, error = readers(fr3, tmp_path)[name]
    path, chance, refused = tmp_path / name, random.Random(name), 0
    path.write_bytes(whole)
    read(path)
    hostile = [b"", b"\xff\xfe", b"[" * 100_000, b"{" * 100_000, b"\x00" * 100, b"null", b"3"]
    for content in [*hostile, *(mutated(whole, chance) for _ in range(60))]:
        path.write_bytes(content)
        try:
            read(path)
        except error as problem:
            refused += 1
            assert type(problem) is error or error is ValueError
            # A reply is answered with all that is wrong in it, for its model to mend.
            assert len(str(problem)) < (2000 if name == "reply.json" else 500), str(problem)
    assert refused > 5


@pytest.mark.parametrize("name", [name for name in READERS if name != "reply.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, fr3, name):
    _, read, error = readers(fr3, tmp_path)[name]
    os.mkfifo(tmp_path / name)
    with pytest.raises(error, match="is a pipe"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".yaml")])
def test_aliases_without_end_are_refused_at_once(tmp_path, fr3, name):
    _, read, error = readers(fr3, tmp_path)[name]
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(error, match="stands for more than 100000 values"):
        read(tmp_path / name)


def test_a_reply_of_many_line_breaks_is_read_in_no_time():
    # One that goes on for ever keeps the test from ending.
    for text in ("```json" + "\n" * 100_000, "```\n" + " \n" * 90_000 + "x", "\n" * 199_000):
        with pytest.raises(ReplyError):
            read_reply(text, "pick it up")


def test_records_are_not_appended_to_a_pipe(tmp_path):
    (tmp_path / "meta").mkdir()
    os.mkfifo(tmp_path / "meta" / RECORDS_FILE)
    with pytest.raises(DatasetError, match="is a pipe"), Records(tmp_path):
        pass


def test_an_image_outside_of_its_folder_is_not_read(tmp_path):
    path = tmp_path / "talks.json"
    for image in ("/etc/passwd", "../a.png", 3, ["a", "../a"], {"a": "b"}):
        path.write_text(json.dumps([TALKS[0] | {"image": image}]))
        with pytest.raises(DatasetError, match=r"talks\.json, row 0"):
            rows_of_talks(path)


def test_a_message_type_is_no_path(tmp_path):
    (tmp_path / "x.msg").write_text("int32 x\n")
    for name in ("../msg/../../x", "a/msg/../x", "/msg/x", "a/b", "a" * 10**6):
        with pytest.raises(MessageTypeError, match="is not a message type") as caught:
            load_message_type(name, [tmp_path])
        assert len(str(caught.value)) < 300


def test_a_damaged_shard_is_refused_or_sound(tmp_path, contract):
    count, chance, refused = 3, random.Random(2), 0
    shard = Shard(
        tmp_path / "shard-00000",
        {c.name: np.zeros((count, c.height, c.width, 3), np.uint8) for c in contract.cameras},
        np.zeros((count, len(contract.state_names))),
        np.zeros((count, contract.horizon, len(contract.action_names))),
        np.zeros(count),
        np.zeros(count),
        ["", "", ""],
        [EpisodeWords("pick", "pick it", "ok", {"can": [0.4, 0.1]})],
    )
    write_shard(shard.folder, shard, contract)
    for index in range(80):
        name = ("frames.json", "state.npy", "action.npy", "episode.npy")[index % 4]
        path = shard.folder / name
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, chance))
        try:
            read_shard(shard.folder, contract)
        except ValueError as problem:
            refused += 1
            assert type(problem).__name__ in ("DatasetError", "ContractError")
            assert len(str(problem)) < 500, str(problem)
        path.write_bytes(whole)
    assert refused > 40
    (shard.folder / "state.npy").unlink()
    os.mkfifo(shard.folder / "state.npy")
    with pytest.raises(DatasetError, match="is a pipe"):
        read_shard(shard.folder, contract)


def test_an_override_is_read_as_carefully_as_a_file():
    from vla_cli.overrides import overridden

    for text in ("steps=[", "steps=2026-01-31", "steps=.nan", "steps=&a [*a]", "steps"):
        with pytest.raises(CheckpointError, match="--set"):
            overridden({}, [text], CheckpointError)
    merged = overridden({"a": {"b": 1}}, ["a={c: 2}"], CheckpointError)
    assert merged == {"a": {"b": 1, "c": 2}}
    assert yaml.safe_load("1e-3") == "1e-3"  # What from_dict takes for a number all the same.
