"""Training files that inherit, parts of data sets, and every recipe that ships."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lerobot_files import TASKS, write_v3
from tiny_robovlm import PLAIN

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.sources import RobotData
from vla.datasets.windows import window_indices
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import CheckpointError, with_entries
from vla.policies.policy import Policy
from vla.policies.registry import policy_type, preset
from vla.training.config import TrainConfig, read_train_config, train_config
from vla.training.config_check import check_train_config
from vla.training.loop import Trainer, in_steps, model_config, open_start, train
from vla.training.run import train_run
from vla.training.sources import open_data
from vla.training.subsets import _drawn, chosen
from vla_cli.parser import main

CONFIGS = Path(__file__).parents[1] / "config" / "training"
SHIPPED = sorted(CONFIGS.glob("*/*.yaml"))
RECIPES = sorted(CONFIGS.glob("recipes/*.yaml"))


def write(folder: Path, **files) -> None:
    for name, values in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values))


# Parents


def test_a_file_begins_with_the_entries_of_its_parents(tmp_path):
    write(
        tmp_path,
        a={"steps": 7, "model": {"head": {"layers": 2, "hidden": 8}}, "output": "runs/a",
           "robot": [{"path": "one"}, {"path": "two"}]},
        c={"parent": "deeper/b.yaml", "output": "runs/c", "robot": [{"path": "three"}]},
    )  # fmt: skip
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper", b={"parent": "../a.yaml", "model": {"head": {"layers": 3}}})
    config = read_train_config(tmp_path / "c.yaml")
    assert (config.steps, config.output) == (7, "runs/c")
    assert config.model == {"head": {"layers": 3, "hidden": 8}}, "mappings are merged"
    assert [entry.path for entry in config.robot] == ["three"], "lists are replaced"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a": {"parent": "b.yaml"}, "b": {"parent": "a.yaml"}}, r"b\.yaml: its parents lead back"),
        ({"a": {"parent": "a.yaml"}}, r"a\.yaml: its parents lead back to .*a\.yaml"),
        ({"a": {"parent": "no.yaml"}}, r"a\.yaml: there is no parent .*no\.yaml; correct `parent`"),
        ({"a": {"parent": 3}}, r"a\.yaml: parent must be text, got 3"),
        ({"a": {"parent": "b.yaml"}, "b": [1]}, r"b\.yaml, the parent of .*is no mapping"),
        ({"a": {"parent": "b.yaml"}, "b": {"setps": 1}}, "unknown entries: setps"),
    ],
)
def test_wrong_parents_are_named(tmp_path, files, says):
    write(tmp_path, **files)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_train_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_a_long_line_of_parents_is_refused(tmp_path):
    for number in range(30):
        write(tmp_path, **{f"f{number}": {"parent": f"f{number + 1}.yaml"}})
    with pytest.raises(CheckpointError, match=r"f0\.yaml has more than 16 parents"):
        read_train_config(tmp_path / "f0.yaml")


def test_a_dry_run_prints_what_follows(tmp_path, capsys):
    write(tmp_path, a={"parent": str(CONFIGS / "recipes" / "few_shot.yaml"), "steps": 3})
    assert main(["train", "--config", str(tmp_path / "a.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    config = train_config(yaml.safe_load(printed), "printed")
    assert config == read_train_config(tmp_path / "a.yaml") and config.steps == 3
    assert config.robot[0].per_task == 10 and config.learning_rate == 2e-4


@pytest.mark.parametrize(("cores", "share"), [(1, 10), (2, 5), (64, 3)])
def test_a_core_runs_one_process_at_most(tmp_path, monkeypatch, capsys, cores, share):
    start = {"parent": str(CONFIGS / "nano_full.yaml"), "initialize_from": "checkpoints/nano"}
    write(tmp_path, a=start)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    command = ["train", "--config", str(tmp_path / "a.yaml"), "--processes", "4", "--dry-run"]
    assert main(command) == 0
    assert f"\nconversation_batch_size: {share}\n" in capsys.readouterr().out


@pytest.mark.parametrize("dry", [True, False])
def test_a_model_that_cannot_be_is_refused_before_anything_is_made(tmp_path, capsys, dry):
    """Of several runs, that of a later one, too."""
    first = {"parent": str(CONFIGS / "nano_robovlm.yaml"), "output": str(tmp_path / "first")}
    write(tmp_path, a=first, b=first | {"model": {"structure": {"kind": "discrete", "window": 8}}})
    configs = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert main(["train", "--config", *configs, *["--dry-run"] * dry]) == 2
    printed = capsys.readouterr()
    assert not printed.out and f"{configs[1]}: model: structure.kind is" in printed.err
    assert not (tmp_path / "first").exists()


# Parts of a data set


@given(
    tasks=st.lists(st.sampled_from("abc"), min_size=1, max_size=80),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_a_smaller_share_lies_in_a_larger_one(tasks, shares):
    less, more = (set(_drawn(RobotData("x", share=share), tasks)) for share in sorted(shares))
    assert less <= more and len(less) == max(1, round(min(shares) * len(tasks)))
    few = _drawn(RobotData("x", per_task=3), tasks)
    assert few == _drawn(RobotData("x", per_task=3), tasks)
    counts = {task: sum(tasks[number] == task for number in few) for task in set(tasks)}
    assert counts == {task: min(3, tasks.count(task)) for task in set(tasks)}
    assert set(few) <= set(_drawn(RobotData("x", per_task=4), tasks))


def test_chosen_episodes_are_whole_and_keep_their_windows(dataset, contract):
    whole = open_data(TrainConfig(robot=(RobotData(str(dataset)),)), contract).robot.datasets[0]
    frames = whole.dataset
    ends, tasks = frames.episode_ends, frames.episode_tasks()
    part = chosen(RobotData(str(dataset), share=0.5), frames)
    lengths = np.diff(ends, prepend=0)
    assert len(part) == lengths[part.episodes].sum() and 0 < len(part) < len(frames)
    assert part.episode_tasks() == [tasks[number] for number in part.episodes]
    rows = np.concatenate([np.arange(ends[n] - lengths[n], ends[n]) for n in part.episodes])
    np.testing.assert_array_equal(part.states(), frames.states()[rows])
    np.testing.assert_array_equal(part.actions(), frames.actions()[rows])
    generator = np.random.default_rng(0)
    for index in (0, len(part) // 2, len(part) - 1):
        ours = part.sample(index, generator)
        np.testing.assert_array_equal(ours.state, frames.states()[rows[index]])
    every = window_indices(frames.timeline(), 3, 0.3)[rows]
    ours = window_indices(part.timeline(), 3, 0.3)
    np.testing.assert_array_equal(np.where(ours >= 0, rows[ours], -1), every)
    (family,) = {tasks[0]}
    target = chosen(RobotData(str(dataset), tasks=(family,)), frames)
    assert set(target.episode_tasks()) == {family}


@pytest.mark.slow
def test_a_list_is_written_and_read_again(dataset, contract, tmp_path):
    config = TrainConfig(
        stage="policy",
        preset="nano_one_step",
        robot=(RobotData(str(dataset), share=0.5),),
        output=str(tmp_path / "run"),
        steps=1,
        batch_size=1,
        augmentation=PLAIN,
    )
    data = open_data(config, contract)
    train(config, contract, data, until=0)
    path = tmp_path / "run" / "episodes-1.json"
    written = json.loads(path.read_text())
    again = RobotData(str(dataset), episode_list=str(path))
    (listed,) = open_data(replace(config, robot=(again,)), contract).robot.datasets
    assert listed.dataset.episodes.tolist() == written["episodes"]
    assert listed.dataset.digest == written["digest"]
    # Another part under the same run, a list of other data, and one that is no list.
    other = open_data(replace(config, robot=(RobotData(str(dataset), share=0.99),)), contract)
    other.robot.datasets[0].dataset.digest = "of others"
    with pytest.raises(DatasetError, match=r"the run began with other episodes than .*has now"):
        train(config, contract, other, until=0)
    path.write_text(json.dumps(written | {"digest": "0" * 12}))
    with pytest.raises(DatasetError, match=r"is a list of other data than .*its digest is 0000"):
        open_data(replace(config, robot=(again,)), contract)
    path.write_text(json.dumps(written | {"episodes": [99]}))
    with pytest.raises(DatasetError, match="99 is no episode of the data, which has"):
        open_data(replace(config, robot=(again,)), contract)


def test_tasks_of_other_data_are_its_instructions(tmp_path):
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    entry = RobotData(
        str(write_v3(tmp_path / "set")), "lerobot", str(tmp_path / "map.yaml"), per_task=1
    )
    bridge = load_contract(contract_path("widowx_bridge"))
    config = TrainConfig(contract="widowx_bridge", robot=(entry,))
    (part,) = open_data(config, bridge).robot.datasets
    assert sorted(part.dataset.episode_tasks()) == sorted(set(TASKS))
    with pytest.raises(DatasetError, match=r"has no task 'fly'; it has: open the drawer, pick"):
        open_data(replace(config, robot=(replace(entry, tasks=("fly",)),)), bridge)


# Lengths and histories


def test_epochs_become_steps(dataset, contract):
    config = TrainConfig(robot=(RobotData(str(dataset)),), batch_size=4, epochs=2.5)
    data = open_data(config, contract)
    frames = len(data.robot.datasets[0])
    counted = in_steps(replace(config, warmup_epochs=0.25), data, "cpu")
    assert counted.steps == round(2.5 * frames / 4)
    assert counted.warmup_steps == round(0.25 * frames / 4) and not counted.epochs
    assert in_steps(counted, data, "cpu") == counted
    with pytest.raises(CheckpointError, match=r"epochs .* count frames of robot data"):
        in_steps(config, replace(data, robot=None), "cpu")


# What ships


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipes_are_whole(path):
    config = read_train_config(path)
    model = preset(config.preset)
    if path.stem != "base":
        check_train_config(config)
        contract = load_contract(contract_path(config.contract))
        built = with_entries(model, config.model, "model")
        policy_type(built.TYPE).check_config(built, str(path))
        names = {camera.name for camera in contract.cameras}
        cameras = policy_type(built.TYPE).features(built, contract).cameras
        assert config.contract == "fr3" or set(cameras) <= names
    values = yaml.safe_load(path.read_text())
    assert set(values) <= {"parent"} | set(asdict(config))


@pytest.mark.parametrize(
    ("name", "backbone", "window", "views", "warmup", "rate", "epochs"),
    [
        ("calvin", "kosmos2", 16, 2, 0.25, 1e-4, 5),
        ("calvin_discrete", "paligemma", 1, 2, 0.25, 1e-4, 5),
        ("calvin_backbones", "kosmos2", 8, 1, 0.25, 2e-5, 5),
        ("calvin_one_step", "paligemma", 1, 2, 0.25, 2e-5, 5),
        ("calvin_mixture", "paligemma", 1, 2, 0.25, 2e-5, 5),
        ("simpler_post", "paligemma", 1, 1, 0.25, 5e-5, 5),
        ("simpler_finetune", "paligemma", 1, 1, 0.25, 5e-5, 5),
        ("real", "kosmos2", 8, 2, 0.25, 1e-4, 5),
        # Of so many steps, not epochs.
        ("simpler_cotrain", "paligemma", 1, 1, 0, 2e-5, 0),
        ("calvin_few_shot", "kosmos2", 16, 1, 0, 2e-5, 0),
    ],
)
def test_presets_have_the_paper_s_hyper_parameters(
    name, backbone, window, views, warmup, rate, epochs
):
    """Supplementary table 1, and of few-shot extended figure 5."""
    config = read_train_config(CONFIGS / "robovlms" / f"{name}.yaml")
    model = with_entries(preset(config.preset), config.model, "model")
    found = (
        config.backbone, model.structure.window, len(model.cameras),
        config.warmup_epochs, config.learning_rate, config.epochs,
    )  # fmt: skip
    assert found == (backbone, window, views, warmup, rate, epochs)
    assert config.schedule == "constant" and config.batch_size == 128
    if name in ("simpler_cotrain", "calvin_few_shot"):
        expected = (20000, 500) if name == "simpler_cotrain" else (5000, 0)
        assert (config.steps, config.warmup_steps) == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_train(path, dataset, checkpoint, contract, tmp_path, monkeypatch):
    """Two steps of each, on little data and small models; what it starts from likewise."""
    starts: dict[str, Path] = {}

    def small(path: Path) -> TrainConfig:
        config = read_train_config(path)
        robot = [
            replace(
                entry,
                path=str(dataset),
                options={"episodes": 4, "episodes_per_shard": 2},
                tasks=("pick",) if "pick" in entry.tasks else (),
            )
            for entry in config.robot
        ]
        head = {"hidden": 16, "layers": 1, "widths": [16]}
        return replace(
            config,
            model=config.model | {"structure": {"window": 2}, "head": head},
            backbone_source=str(checkpoint) if config.backbone else "",
            initialize_from=str(starts[config.initialize_from]) if config.initialize_from else "",
            robot=tuple(robot),
            conversations=(),
            output=str(tmp_path / path.stem),
            steps=2,
            batch_size=2,
            precision="no",
        )

    before = read_train_config(path).initialize_from
    if before:
        (first,) = [
            other for other in RECIPES if f"{read_train_config(other).output}/checkpoint" == before
        ]
        starts[before] = train_run(small(first), contract)
    folder = train_run(small(path), contract)
    policy = Policy.from_pretrained(folder)
    assert policy.features.window == 2
    shutil.rmtree(tmp_path / path.stem)


def test_without_pretraining_all_but_the_weights_is_the_same(
    dataset, checkpoint, contract, tmp_path
):
    config = TrainConfig(
        stage="policy",
        preset="nano_one_step",
        backbone="checkpoint",
        backbone_source=str(checkpoint),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
    )
    known = Trainer(config, contract, None).plain_model.state_dict()
    random = Trainer(replace(config, pretrained=False), contract, None).plain_model.state_dict()
    assert {k: v.shape for k, v in known.items()} == {k: v.shape for k, v in random.items()}
    changed = {name for name in known if not (known[name] == random[name]).all()}
    assert changed and all(name.startswith("backbone.") for name in changed)


@pytest.mark.slow
def test_post_training_goes_on_with_the_weights_of_co_training(dataset, contract, tmp_path):
    config = TrainConfig(
        stage="policy",
        preset="nano_one_step",
        model={"head": {"hidden": 16, "widths": [16]}},
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "first"),
        steps=2,
        batch_size=2,
        augmentation=PLAIN,
    )
    first = train(config, contract, open_data(config, contract))
    later = replace(config, initialize_from=str(first), output=str(tmp_path / "later"))
    model = Trainer(later, contract, open_start(later)).plain_model
    for name, value in read_weights(open_checkpoint(first)).items():
        assert (model.state_dict()[name] == value.float()).all(), name
    # What has no weights of its own may differ, such as the history's spacing; nothing else.
    slower = replace(later, model={"structure": {"history_step": 0.5}})
    assert model_config(later, open_start(later)).structure.history_step != 0.5
    assert Trainer(slower, contract, open_start(slower)).plain_model.config.structure == replace(
        model.config.structure, history_step=0.5
    )
    wider = replace(later, model={"head": {"hidden": 32}})
    with pytest.raises(CheckpointError, match=r"head\.trunk.* \[16, \d+\], .* need \[32, \d+\]"):
        Trainer(wider, contract, open_start(wider))
    with pytest.raises(CheckpointError, match="is of type instructvla; to take its backbone alone"):
        other = replace(later, initialize_from="checkpoints/nano")
        kind = policy_type("robovlms")
        kind.start_from(model, open_checkpoint(other.initialize_from))
