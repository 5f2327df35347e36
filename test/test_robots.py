"""One model for several robots: statistics and contract of each, from training to acting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from lerobot_files import STATES, write_v3
from tiny_checkpoint import save_tiny_checkpoint

from vla.contract.embodiment import ContractError, load_contract
from vla.core.resources import contract_path
from vla.policies.augment import Augmentation
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.inference import ActionModel
from vla.policies.instructvla.presets import PRESETS
from vla.policies.registry import preset
from vla.policies.robots import read_robots
from vla.training.batches import StepDataset
from vla.training.config import RobotData, TrainConfig
from vla.training.config_check import check_train_config
from vla.training.data import clipped_shares, measure_statistics, prepare_robots
from vla.training.loop import train
from vla.training.sources import open_data
from vla_cli.parser import main

BRIDGE = load_contract(contract_path("widowx_bridge"))
FRACTAL = load_contract(contract_path("google_fractal"))
STILL = Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def one_camera(monkeypatch):
    alone = replace(preset("test"), vlm_cameras=("front",), expert_cameras=("front",))
    monkeypatch.setitem(PRESETS, "test", alone)


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """Two robots with the same numbers, of which the second has ten times as large a state."""
    mapping = tmp_path / "map.yaml"
    mapping.write_text("cameras: {front: camera}")
    first = write_v3(tmp_path / "first")
    second = write_v3(tmp_path / "second", scale=10.0, fps=3, quaternions=True)
    return TrainConfig(
        preset="test",
        lora=LoraConfig(("action",), rank=4, alpha=8.0),
        contract="widowx_bridge",
        robot=(
            RobotData(str(first), "lerobot", str(mapping)),
            RobotData(str(second), "lerobot", str(mapping), contract="google_fractal"),
        ),
        output=str(tmp_path / "run"),
        steps=2,
        batch_size=8,
        augmentation=STILL,
    )


def opened(config: TrainConfig):
    return open_data(config, BRIDGE)


@pytest.mark.slow
def test_each_robot_has_its_own_statistics(config):
    data = opened(config)
    folder = train(config, BRIDGE, data)
    first, second = read_robots(folder)
    assert (first.contract, second.contract) == (BRIDGE, FRACTAL)
    top = np.quantile(np.concatenate(STATES)[:, 0], 0.99)
    assert first.stats["state"].q99[0] == pytest.approx(top, rel=1e-4)
    assert second.stats["state"].q99[0] == pytest.approx(10 * top, rel=1e-4)
    # Normalised, both robots' frames lie in the same range.
    batches = StepDataset(data.robot, None, open_checkpoint(folder).tokenizer, [first, second],
                         open_checkpoint(folder).config, config)  # fmt: skip
    drawn = np.concatenate([batches[step]["robot"].acting.state.numpy() for step in range(8)])
    plain = np.concatenate([first.stats["state"].normalize(state) for state in STATES])
    # But for the turns: angles that wrap there, a quaternion here.
    apart = np.delete(np.abs(drawn[:, None] - plain[None]), [3, 4, 5, 6], axis=2)
    same = (apart.max(axis=2) < 1e-3).any(axis=1)
    assert same.all(), "one frame in two robots' units is one normalised frame"


@pytest.mark.slow
def test_a_robot_of_a_checkpoint_is_opened_like_a_checkpoint(config, capsys):
    folder = train(config, BRIDGE, opened(config))
    other = folder / "robots" / "google_fractal"
    first, second = open_checkpoint(folder), open_checkpoint(other)
    assert (first.contract.name, second.contract.name) == ("widowx_bridge", "google_fractal")
    assert first.checkpoint_id == second.checkpoint_id
    assert read_weights(first).keys() == read_weights(second).keys()
    image = {"front": np.zeros((224, 224, 3), np.uint8)}
    # What is the same state to the model is another in each robot's own units.
    state = STATES[1][3]
    theirs = second.stats["state"].denormalize(first.stats["state"].normalize(state))
    assert theirs[0] == pytest.approx(10 * state[0], rel=1e-4)
    model = ActionModel.from_pretrained(folder)
    latent = np.zeros(model.features.latent_shape, np.float32)
    chunk = model.action_chunk(image, state, latent, seed=1)
    again = ActionModel.from_pretrained(other).action_chunk(image, theirs, latent, seed=1)
    np.testing.assert_allclose(chunk, again, atol=1e-4)
    assert main(["info", "--checkpoint", str(folder)]) == 0
    assert "widowx_bridge, google_fractal" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"cannot read .*robots/moon/contract\.yaml"):
        open_checkpoint(folder / "robots" / "moon")


@pytest.mark.slow
def test_a_later_stage_keeps_the_statistics_of_both(config, tmp_path):
    folder = train(config, BRIDGE, opened(config))
    later = replace(
        config,
        stage="instruct",
        lora=LoraConfig(("language", "action"), rank=4, alpha=8.0, gate="layer", head_width=8),
        initialize_from=str(folder),
        # Half of the first robot's data: its own statistics would be others.
        robot=(replace(config.robot[0], mapping=str(tmp_path / "less.yaml")), config.robot[1]),
        output=str(tmp_path / "later"),
    )
    (tmp_path / "less.yaml").write_text("{cameras: {front: camera}, drop_first: 4}")
    data = opened(later)
    after = read_robots(train(later, BRIDGE, data))
    for before, kept in zip(read_robots(folder), after, strict=True):
        assert before.contract == kept.contract
        for kind in ("state", "action"):
            np.testing.assert_array_equal(before.stats[kind].q01, kept.stats[kind].q01)
    measured = measure_statistics(data.robot, BRIDGE)
    assert abs(measured["state"].q01[0] - after[0].stats["state"].q01[0]) > 1e-3
    # The other robot's run starts from its folder in the checkpoint.
    start = open_checkpoint(folder / "robots" / "google_fractal")
    alone = open_data(replace(later, robot=config.robot[1:]), FRACTAL)
    (robot,) = prepare_robots(tmp_path, alone, FRACTAL, start)
    np.testing.assert_array_equal(robot.stats["state"].q99, start.stats["state"].q99)


@pytest.mark.slow
def test_data_outside_of_kept_bounds_are_told_and_change_nothing(config, tmp_path, caplog):
    start = open_checkpoint(train(config, BRIDGE, opened(config)))
    mapping = config.robot[0].mapping
    far = RobotData(str(write_v3(tmp_path / "far", scale=5.0)), "lerobot", mapping)
    data = opened(replace(config, robot=(far,)))
    caplog.clear()
    (robot,) = prepare_robots(tmp_path / "later", data, BRIDGE, start)
    (record,) = (r for r in caplog.records if r.name == "vla.training.data")
    shares = clipped_shares(data.robot, BRIDGE, start.stats)
    assert shares["state/x"] > 0.5 and shares["state/roll"] == 0.0
    told = f"{shares['state/x']:.0%} of state/x"
    assert told in record.getMessage() and "state/roll" not in record.getMessage()
    assert f"bounds of {start.folder}, which are kept" in record.getMessage()
    for vector, stats in robot.stats.items():
        assert stats.kinds == start.stats[vector].kinds
        for entry in ("count", "mean", "std", "min", "max", "q01", "q99"):
            own, kept = getattr(stats, entry), getattr(start.stats[vector], entry)
            np.testing.assert_array_equal(own, kept)
    # A run that goes on has its statistics, and says nothing again.
    caplog.clear()
    prepare_robots(tmp_path / "later", data, BRIDGE, start)
    assert not caplog.records


def test_kept_statistics_of_another_robot_are_refused(config, tmp_path):
    data = opened(config)
    prepare_robots(tmp_path, data, BRIDGE, None)
    alone = open_data(replace(config, robot=config.robot[1:]), FRACTAL)
    with pytest.raises(CheckpointError, match=r"norm_stats\.json: 'state' is for .*'roll'.*'qx'"):
        prepare_robots(tmp_path, alone, FRACTAL, None)


@pytest.mark.slow
def test_a_changed_contract_is_refused(config, tmp_path):
    folder = train(config, BRIDGE, opened(config))
    start = open_checkpoint(folder)
    values = FRACTAL.to_dict() | {"rate": 1.5}
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values))
    robot = (config.robot[0], replace(config.robot[1], contract=str(changed)))
    with pytest.raises(ContractError, match=r"rate: ours 1\.5, that of .*checkpoint 3\.0"):
        prepare_robots(tmp_path, opened(replace(config, robot=robot)), BRIDGE, start)
    with pytest.raises(ContractError, match=r"rate: one data set 3\.0, another 1\.5"):
        prepare_robots(
            tmp_path, opened(replace(config, robot=(*config.robot, robot[1]))), BRIDGE, None
        )


def test_robots_that_do_not_go_together_are_named(config, tmp_path):
    def refuses(message: str, **change) -> None:
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(FRACTAL.to_dict() | change))
        robot = (config.robot[0], replace(config.robot[1], contract=str(path)))
        with pytest.raises(ContractError, match=message):
            opened(replace(config, robot=robot))

    camera = FRACTAL.to_dict()["cameras"][0]
    refuses(
        "'google_fractal' cannot be trained together .*: steps in a chunk: 8, not 16", horizon=8
    )
    refuses("cameras: front 96x224, not front 224x224", cameras=[camera | {"width": 96}])
    refuses("cameras: front 224x224, side 224x224", cameras=[camera, camera | {"name": "side"}])
    ten = load_contract(contract_path("sim_panda")).state_names
    refuses("values of state: 10, not 8", state_names=list(ten))
    refuses(r"rate: that of the run 5\.0, that of .*second 3\.0", name="widowx_bridge")
    with pytest.raises(CheckpointError, match=r"no frames of the run's own robot, 'widowx_bridge'"):
        measure_statistics(opened(replace(config, robot=config.robot[1:])).robot, BRIDGE)
    simulated = replace(config, robot=(RobotData("shards", contract="google_fractal"),))
    with pytest.raises(CheckpointError, match="simulated data is made for the run's own contract"):
        check_train_config(simulated)


def test_a_checkpoint_for_one_robot_has_no_others(tmp_path, monkeypatch):
    monkeypatch.undo()
    folder = save_tiny_checkpoint(tmp_path / "tiny")
    assert [robot.contract.name for robot in read_robots(folder)] == ["sim_panda"]
    assert not (Path(folder) / "robots").exists()
